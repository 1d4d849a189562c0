"""Names adapters whose files state no name: after the file, or after the folder if the file's name is a common one."""

from __future__ import annotations

import re
from pathlib import Path

# Names that diffusers, PEFT and training scripts give to all their files.
_COMMON_FILES = frozenset(
    "adapter adapter_model diffusion_pytorch_model final last lora lora_weights model pytorch_lora_weights"
    " pytorch_model weights".split()
)
# Names of folders that trainers and the Hugging Face cache make.
_COMMON_FOLDERS = re.compile(
    r"checkpoint[-_]?\d*|epoch[-_]?\d+|step[-_]?\d+|snapshots|[0-9a-f]{40}"
    r"|unet|text_encoder(_2)?|loras?|outputs?|models?"
)
_CACHED = re.compile(r"models--(?:.+--)?(.+)")
_LONGEST = 100


def lora_name(path: str | Path) -> str:
    """A name for the LoRA at `path`, of printable characters.

    >>> lora_name("loras/watercolour.safetensors")
    'watercolour'
    >>> lora_name("runs/ann/checkpoint-500/pytorch_lora_weights.safetensors")
    'ann'
    """
    path = Path(path).absolute()
    names = [path.stem]
    if path.stem.lower() in _COMMON_FILES:
        folders = [parent.name for parent in path.parents if parent.name]
        names = [name for name in folders[:4] if not _COMMON_FOLDERS.fullmatch(name.lower())] + names
    cached = _CACHED.fullmatch(names[0])
    name = cached[1] if cached else names[0]
    return "".join(c for c in name if c.isprintable()).strip()[:_LONGEST] or "lora"
