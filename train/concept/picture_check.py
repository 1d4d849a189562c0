"""What a concept would be trained on, to be looked at before a training: crops, masks, captions, skipped pictures."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import Image

from blocklora_jax.io.open_picture import UnreadableError
from blocklora_jax.io.printing import one_line, printable
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import ConceptConfig
from train.concept.contact_sheet import MASKED, REDNESS, ContactSheet
from train.concept.data import captioned_pictures, picture_note
from train.concept.encoded_pictures import PlacedPicture, place_pictures
from train.concept.images import Picture, mask_array

_LONGEST_SIDE = 256  # pixels of a shown crop


class PictureCheck(NamedTuple):
    """What would be trained on.

    note: how many pictures are used, and which not and why, in one line. sheet: the contact sheet. crops: the training
    pictures with their captions. rows: for each file its name, what happens to it, and its caption. ignored: what else
    lies beside the pictures and is not read.
    """

    note: str
    sheet: Image.Image
    crops: list[tuple[Image.Image, str]]
    rows: list[tuple[str, str, str]]
    ignored: list[str]


def check_pictures(config: ConceptConfig, sd: StableDiffusion) -> PictureCheck:
    """Read and crop the pictures of `config` as training does, but encode nothing.

    Raises: UserError for pictures, masks or captions that cannot be used, as training does.
    """
    settings, size = config.data, config.data.resolution or sd.image_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        files, written = captioned_pictures(config, sd)
    captions = [str(caption) for caption in written]
    skipped: list[UnreadableError] = []
    sheet, crops, rows, shapes = ContactSheet(), [], [], {}
    for placed in place_pictures(sd, files, size, settings, config.run.seed, skipped):
        caption = captions[placed.number]
        for view in placed.views(settings.flip):
            mask_array(view, placed.grid)
            crops.append((_shown(view), caption))
        sheet.add(placed.picture, placed.crops, caption)
        shapes[placed.shape] = shapes.get(placed.shape, 0) + 1
        rows.append((printable(placed.picture.path.name), _outcome(placed), caption))
    rows += [(printable(each.path.name), f"skipped: {each.reason}", "") for each in skipped]
    note = picture_note("pictures", len(rows) - len(skipped), skipped, shapes)
    ignored = [_without_folder(str(warning.message)) for warning in caught]
    return PictureCheck(note, Image.open(io.BytesIO(sheet.png())), crops, rows, ignored)


def _outcome(placed: PlacedPicture) -> str:
    """What happens to a picture, in words."""
    width, height = placed.picture.image.size
    words = [f"trained as {placed.shape[0]} x {placed.shape[1]}, from {width} x {height}"]
    words += [f"{len(placed.places)} crops"] if len(placed.places) > 1 else []
    words += ["with a mask"] if placed.picture.mask else []
    return ", ".join(words)


def _shown(view: Picture) -> Image.Image:
    """A training picture, enlarged. What its mask leaves out is red."""
    image = view.image.copy()
    if view.mask:
        image.paste(Image.new("RGB", image.size, MASKED), mask=view.mask.point(REDNESS))
    scale = max(1, _LONGEST_SIDE // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)


def _without_folder(message: str) -> str:
    """A warning about a folder, without the name of the folder: the pictures may lie in a temporary one."""
    line = one_line(message.partition(": ")[2] or message)
    return f"{line[:1].upper()}{line[1:]}."
