"""Recognises the model in a single file by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.families.table import FAMILIES

SUPPORTED = "single files of Stable Diffusion 1.x, 2.x and SDXL base are read"
# The parts that make pictures. Files may also hold averaged weights, training state, and buffers of the schedule.
_PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
# Tensors within these parts that are not used: buffers, and weights that Stable Diffusion does not need.
_UNUSED = re.compile(
    r".*\.(position_ids|logit_scale|attn_mask)|cond_stage_model\.(transformer\.|model\.)?text_projection(\.weight)?"
    r"|first_stage_model\.(loss|model_ema)\..*|cond_stage_model\.(transformer\.)?(vision_model|visual_projection)\..*"
)
# In old files of 1.x, such as NovelAI's, saved before transformers 4.18, a level of the names is missing.
_SHORT = re.compile(r"(cond_stage_model\.transformer\.)(embeddings|encoder|final_layer_norm)\.")
# (pattern, kind) of other files. The first pattern that occurs in any key gives the kind.
_OTHER_KINDS = (
    (r"edm_mean$", "Playground v2.5"),
    (r"^edm_vpred\.", "an SDXL with EDM's preconditioning (edm_vpred)"),
    (r"(^|\.)double_blocks\.", "a Flux model"),
    (r"(^|\.)joint_blocks\.|^text_encoders\.", "Stable Diffusion 3"),
    (r"conditioner\.embedders\.0\.model\.", "SDXL's refiner"),
    (r"^control_model\.", "a ControlNet"),
    (r"\.lora_(up|down|A|B)\.|\.(hada|lokr)_", "an adapter, not a model: give it as an adapter"),
    (
        r"^(down_blocks|up_blocks|mid_block|encoder\.down_blocks|text_model)\.",
        "one part of a Diffusers folder: give the folder",
    ),
)
_INPUTS = {
    9: "an inpainting model",
    8: "an image-editing model (InstructPix2Pix)",
    7: "an upscaler",
    5: "a depth model",
}
_PICKLES = {".ckpt", ".pt", ".pth", ".bin"}


def is_single_file(name: object) -> bool:
    """Whether a model's name means a single file, not a folder or a hub id."""
    path = Path(str(name)).expanduser()
    return path.is_file() or (path.suffix in {".safetensors", *_PICKLES} and not path.is_dir())


def check_suffix(path: Path) -> None:
    """Raise UserError for a pickle, or if the file does not exist."""
    if path.suffix in _PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code: only .safetensors are read. If you trust it, convert it with"
            " PyTorch: safetensors.torch.save_file(torch.load(path, weights_only=True)['state_dict'], new_path)"
        )
    if not path.is_file():
        raise UserError(f"there is no file {path}")


def is_wanted(key: str) -> bool:
    """Whether a tensor is used to make pictures."""
    return key.startswith(_PARTS) and not _UNUSED.fullmatch(key)


def usual_key(key: str) -> str:
    """The key as most files spell it."""
    return _SHORT.sub(r"\1text_model.\2.", key)


def recognise_family(path: Path, keys: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of a model's family, a key of `FAMILIES`.

    Args:
        path: the file, for messages.
        keys: all its keys.
        shapes: shapes of the tensors that are wanted, by `usual_key`.

    Raises: UserError naming the kind of the file if it is of another kind, or what it lacks.
    """
    for pattern, kind in _OTHER_KINDS:
        # SDXL base has the refiner's text encoder too, as its second one.
        if any(re.search(pattern, key) for key in keys) and not (
            kind.endswith("refiner") and any(key.startswith("conditioner.embedders.1.model.") for key in keys)
        ):
            raise UserError(f"{path} is {kind}; {SUPPORTED}")
    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is None:
        raise UserError(
            f"{path} has no U-Net (model.diffusion_model.input_blocks…): not a Stable Diffusion model; {SUPPORTED}"
        )
    # Latents have four channels in published models. If the U-Net reads more, the model is of another kind.
    latents = shapes.get("first_stage_model.decoder.conv_in.weight", (0, 4))[1:2]
    if len(first) == 4 and first[1:2] != latents and first[1] in _INPUTS:
        raise UserError(f"{path} is {_INPUTS[first[1]]}: its U-Net reads {first[1]} channels; {SUPPORTED}")
    # The later families first, because their files may hold keys of the earlier ones too.
    roots = [(record.ldm_root, name) for name, record in reversed(FAMILIES.items())]
    family = next((family for root, family in roots if any(key.startswith(root) for key in shapes)), None)
    if family is None or not any(key.startswith("first_stage_model.") for key in shapes):
        lacking = "text encoder" if family is None else "autoencoder"
        raise UserError(f"{path} holds a U-Net without its {lacking}: give the whole model; {SUPPORTED}")
    return family
