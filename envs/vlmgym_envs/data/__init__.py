"""The embedded picture set: a sheet with a row per class, first its training pictures, then its test pictures.

README.md says where it comes from and its licence, make_pictures.py draws it.
"""

from pathlib import Path

SHEET = Path(__file__).with_name("pictures.jpg")
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_PICTURES = {"train": 36, "test": 12}
"""Of each class; 36 are enough for every cell of a board with 6 x 6 cells to show another one."""
SIDE_PX = 32
