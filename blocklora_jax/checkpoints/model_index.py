"""`model_index.json`: the pipeline of a Diffusers folder, and the classes of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.families.table import FAMILIES, family_of_build

# {class: whether it has two text encoders}. Pipelines for text to image and image to image have the same parts.
_PIPELINES = {name: family.has_second_text_encoder for family in FAMILIES.values() for name in family.pipelines}
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": _TOKENIZERS,
}
_XL_CLASSES = {**_CLASSES, "text_encoder_2": ("CLIPTextModelWithProjection",), "tokenizer_2": _TOKENIZERS}
# The scheduler is checked where its config is read. The other parts are not used to make a picture from text.
_UNUSED = {"scheduler", "safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"}
_XL_UNUSED = _UNUSED | {"force_zeros_for_empty_prompt", "add_watermarker", "requires_aesthetics_score"}
_SUPPORTED = (
    "supported are Stable Diffusion 1.x and 2.x (StableDiffusionPipeline) and SDXL base (StableDiffusionXLPipeline)"
)


def check_model_index(index: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """The components of a pipeline, if it is Stable Diffusion 1.x, 2.x or SDXL base and has only supported classes.

    Args:
        index: the parsed file.
        source: where the file came from, for the message.

    Raises:
        UserError: names every part that is not supported, and what is supported.
    """
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in _PIPELINES:
        raise UserError(
            f"{source} is a {str(pipeline)[:80]}; {_SUPPORTED}, not inpainting, control, refiner or other models"
        )
    if index.get("requires_aesthetics_score"):
        raise UserError(f"{source} is SDXL's refiner (requires_aesthetics_score); {_SUPPORTED}")
    is_xl = _PIPELINES[pipeline]
    classes_of, unused = (_XL_CLASSES, _XL_UNUSED) if is_xl else (_CLASSES, _UNUSED)
    problems = []
    for part, classes in classes_of.items():
        entry = index.get(part)
        name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if not isinstance(name, str) or name not in classes:
            problems.append(f"{part} is {name} (supported: {' or '.join(classes)})")
    unknown = [part for part in index if not part.startswith("_") and part not in {*classes_of, *unused}]
    problems += [f"{part} is not a part of {pipeline}" for part in unknown if index[part] not in ([None, None], None)]
    if problems:
        raise UserError(f"{source} is not supported: {'; '.join(problems)}; {_SUPPORTED}")
    return tuple(part for part in classes_of if not part.startswith("tokenizer"))


def model_family(configs: Mapping[str, Any]) -> str:
    """The name of a model's family."""
    unet = configs["unet"]
    return family_of_build("text_encoder_2" in configs, not unet.use_linear_projection, unet.cross_attention_dim)


def make_model_index(
    scheduler_class: str, is_xl: bool = False, force_zeros_for_empty_prompt: bool = True
) -> dict[str, Any]:
    """The index of a text-to-image pipeline without safety checker, for diffusers' `from_pretrained`."""
    index = {
        "_class_name": "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if not is_xl:
        return index | {"requires_safety_checker": False, "safety_checker": [None, None]}
    return index | {
        "force_zeros_for_empty_prompt": force_zeros_for_empty_prompt,
        "image_encoder": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
