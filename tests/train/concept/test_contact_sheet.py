"""The contact sheet shows what is trained: crops, masks and captions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from concept_builders import make_config, write_pictures
from PIL import Image

from train.concept import contact_sheet
from train.concept.contact_sheet import ContactSheet
from train.concept.data import load_concept_data
from train.concept.images import Picture, Square

GREY, FRAME = (100, 100, 100), (0, 160, 0)
# Where the first picture stands on the sheet: behind a margin.
LEFT = TOP = 4


def opened(sheet: ContactSheet | bytes) -> Image.Image:
    return Image.open(io.BytesIO(sheet if isinstance(sheet, bytes) else sheet.png())).convert("RGB")


def tile(picture: Picture, *crops: Square) -> np.ndarray:
    """A picture as it stands on the sheet, [240, 240, 3]."""
    sheet = ContactSheet()
    sheet.add(picture, crops, "a photo of <ada> man")
    return np.asarray(opened(sheet))[TOP : TOP + 240, LEFT : LEFT + 240].astype(int)


def grey(size: tuple[int, int], mask: Image.Image | None = None) -> Picture:
    return Picture(Path("a.png"), Image.new("RGB", size, GREY), mask)


def test_what_no_crop_covers_is_pale_and_crops_have_frames():
    # 480 x 240 is drawn at half its size, in rows 60 to 180. The crop covers columns 60 to 180 of it.
    shown = tile(grey((480, 240)), Square(120, 0, 240))
    np.testing.assert_array_equal(shown[120, 120], GREY)
    assert shown[120, 30, 0] > 180 and shown[120, 210, 0] > 180
    np.testing.assert_array_equal(shown[[60, 120, 120, 179], [120, 60, 179, 120]], [FRAME] * 4)
    np.testing.assert_array_equal(shown[[30, 210], [120, 120]], 255)


def test_all_crops_of_a_picture_are_drawn():
    shown = tile(grey((240, 240)), Square(0, 0, 80), Square(100, 100, 140))
    np.testing.assert_array_equal(shown[[79, 100, 239], [40, 170, 170]], [FRAME] * 3)
    np.testing.assert_array_equal(shown[[40, 170], [40, 170]], [GREY] * 2)


def test_what_the_mask_leaves_out_is_red():
    mask = Image.new("L", (24, 24), 0)
    mask.paste(255, (0, 0, 12, 24))
    shown = tile(grey((24, 24), mask), Square(0, 0, 24))
    np.testing.assert_array_equal(shown[120, 60], GREY)
    red, green, _ = shown[120, 180]
    assert red > green + 80


def test_of_many_pictures_the_first_are_shown_and_the_rest_is_counted(monkeypatch):
    monkeypatch.setattr(contact_sheet, "_MOST", 2)
    sheets = [ContactSheet(), ContactSheet()]
    for sheet, count in zip(sheets, (2, 5), strict=True):
        for _ in range(count):
            sheet.add(grey((8, 8)), [Square(0, 0, 8)], "x")
    two, three = (opened(sheet).width for sheet in sheets)
    # Four cells a row; the last one says how many more there are.
    assert two == three == 4 * 244 + 4
    pixels = np.asarray(opened(sheets[1]))
    np.testing.assert_array_equal(pixels[TOP : TOP + 240, LEFT + 2 * 244 :], 255)
    assert (pixels[TOP + 240 :, LEFT + 2 * 244 :] < 100).any()
    assert sheets[0].png() == sheets[0].png()


def test_a_sheet_has_a_cell_for_each_picture_that_was_read(tiny_sd, tmp_path):
    folder = write_pictures(tmp_path, 6)
    (folder / "1.png").write_bytes(b"x")
    (folder / "5.txt").write_text("a drawing of <ada> man")
    data = load_concept_data(make_config(images=folder, crop=0.5), tiny_sd)
    sheet = opened(data.contact_sheet)
    captions = np.asarray(sheet)[LEFT + 244 + 240 : sheet.height, :]
    assert 2 * 240 < sheet.height < 2 * 320
    # The fifth picture stands alone in the second row, with its caption under it.
    assert (captions[:, :244] < 100).any()
    np.testing.assert_array_equal(captions[:, 250:], 255)
