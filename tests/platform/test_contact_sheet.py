import numpy as np
import pytest

from vlmgym.contact_sheet import BOX_PX, GAP_PX, LABEL_PX, contact_sheet, fit


def picture(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (48, 64, (64 * 5, 48 * 5)),  # 320 // 64 = 5
        (320, 100, (100, 320)),
        (728, 728, (320, 320)),
        (400, 800, (320, 160)),
        (5000, 10, (1, 320)),
    ],
)
def test_a_picture_fits_its_box(height: int, width: int, size: tuple[int, int]) -> None:
    assert fit(picture(height, width, 9), 320).size == size


def test_enlarging_repeats_pixels() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(np.asarray(fit(image, 5)), image.repeat(2, axis=0).repeat(2, axis=1))


def test_a_sheet_shows_every_level_in_reading_order() -> None:
    sheet = contact_sheet({name: picture(BOX_PX, BOX_PX, value) for name, value in (("a", 10), ("b", 20), ("c", 30))})
    stride = BOX_PX + GAP_PX
    assert sheet.size == (GAP_PX + 2 * stride, GAP_PX + 2 * (stride + LABEL_PX))
    pixels = np.asarray(sheet)[..., 0]
    middle = GAP_PX + LABEL_PX + BOX_PX // 2
    assert pixels[middle, stride // 2] == 10
    assert pixels[middle, stride + stride // 2] == 20
    assert pixels[middle + stride + LABEL_PX, stride // 2] == 30
    assert pixels[middle + stride + LABEL_PX, stride + stride // 2] == 255
    label = pixels[GAP_PX : GAP_PX + 20, GAP_PX : GAP_PX + 200]
    assert label.min() < 100
