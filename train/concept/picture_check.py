"""What a concept would be trained on, to be looked at before a training."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import ConceptConfig
from train.concept.data import find_images
from train.concept.encoded_pictures import encode_pictures
from train.concept.images import name_skipped
from train.concept.picture_captions import picture_captions
from train.concept.picture_files import find_pictures


class PictureCheck(NamedTuple):
    """note: how many pictures are used, and which are not and why, in one line. sheet: the contact sheet."""

    note: str
    sheet: Image.Image


def check_pictures(config: ConceptConfig, sd: StableDiffusion) -> PictureCheck:
    """Read and crop the pictures of `config` as training does, and give its contact sheet.

    Raises: UserError for pictures, masks or captions that cannot be used, as training does.
    """
    size = config.data.resolution or sd.image_size
    files = find_pictures(find_images(config.images))
    captions = [str(caption) for caption in picture_captions(files, config.called, config.data.caption_prefix)]
    sd.tokenizer.encode(captions, config.called.token_vectors)
    encoded = encode_pictures(sd, files, captions, size, config.data, config.run.seed)
    skipped = f", {len(encoded.skipped)} skipped ({name_skipped(encoded.skipped)})" if encoded.skipped else ""
    return PictureCheck(f"{len(encoded.kept)} pictures{skipped}", Image.open(io.BytesIO(encoded.contact_sheet)))
