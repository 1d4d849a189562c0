"""`model_index.json`: which pipeline a Diffusers folder is, and of which classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocklora_jax.errors import UserError

# Text to image and image to image are made of the same parts.
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
# The schedule's own reader judges the scheduler. The rest takes no part in making a picture from text.
_UNUSED = {"scheduler", "safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"}


def check_model_index(index: Mapping[str, Any], source: str) -> None:
    """Check that a pipeline is a Stable Diffusion 1.x made of classes known here.

    Args:
        index: the parsed file.
        source: where it came from, for the message.

    Raises:
        UserError: naming every part that is not supported, and what is.
    """
    pipeline = index.get("_class_name")
    if pipeline not in _PIPELINES:
        raise UserError(f"{source} is a {pipeline}; supported: {' and '.join(_PIPELINES)} (Stable Diffusion 1.x)")
    problems = []
    for part, classes in _CLASSES.items():
        entry = index.get(part)
        name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if name not in classes:
            problems.append(f"{part} is {name} (supported: {' or '.join(classes)})")
    unknown = [part for part in index if not part.startswith("_") and part not in {*_CLASSES, *_UNUSED}]
    problems += [f"{part} is no part of Stable Diffusion 1.x" for part in unknown if index[part] != [None, None]]
    if problems:
        raise UserError(f"{source} is not supported: {'; '.join(problems)}")


def make_model_index(scheduler_class: str) -> dict[str, Any]:
    """The index of a text-to-image pipeline without safety checker, for diffusers' `from_pretrained`."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
