"""Decides how the pictures of several levels are laid out on one sheet, each with its name."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlmgym.ladder import picture_size

BOX_PX = 400
GAP_PX = 20
LABEL_PX = 44
FONT_PX = 18


def contact_sheet(images: Mapping[str, NDArray[np.uint8]]) -> Image.Image:
    """A sheet of labelled pictures in reading order, about as many columns as rows.

    images: uint8 [H, W, 3] by name. Each is scaled to fit a box of BOX_PX; the label has its true size.
    """
    num_cols = ceil(sqrt(len(images)))
    num_rows = ceil(len(images) / num_cols)
    stride_x, stride_y = BOX_PX + GAP_PX, BOX_PX + LABEL_PX + GAP_PX
    sheet = Image.new("RGB", (GAP_PX + num_cols * stride_x, GAP_PX + num_rows * stride_y), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for number, (name, image) in enumerate(images.items()):
        row, col = divmod(number, num_cols)
        left, top = GAP_PX + col * stride_x, GAP_PX + row * stride_y
        picture = fit(image, BOX_PX)
        pen.text((left, top), f"{name}   {picture_size(image.shape)}", fill="black", font=font)
        sheet.paste(picture, (left, top + LABEL_PX - GAP_PX // 2))
        pen.rectangle(
            (
                left - 1,
                top + LABEL_PX - GAP_PX // 2 - 1,
                left + picture.width,
                top + LABEL_PX - GAP_PX // 2 + picture.height,
            ),
            outline="grey",
        )
    return sheet


def fit(image: NDArray[np.uint8], box_px: int) -> Image.Image:
    """The picture, as large as a square of `box_px` lets it be: scaled down smoothly, or up by a whole factor.

    image: uint8 [H, W, 3].
    """
    picture, longest = Image.fromarray(image), max(image.shape[:2])
    if longest <= box_px:
        factor = box_px // longest
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    size = (max(1, picture.width * box_px // longest), max(1, picture.height * box_px // longest))
    return picture.resize(size, Image.Resampling.LANCZOS)
