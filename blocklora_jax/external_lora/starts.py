"""The starts of PEFT's LoRAs that also change the base model (`init_lora_weights`).

PiSSA and OLoRA move a part of the base's weight W into the pair before training: W becomes W - s B0 A0. That part
depends on W alone, so that the whole change, s B A - s B0 A0, is known where the base is at hand. It is also known for
other such starts if the pair before training was saved too, as PEFT's guides do (`pissa_init`).

Source: PiSSA (arXiv 2404.02948); OLoRA (arXiv 2406.01775); peft `tuners/lora/layer.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.external_lora.changes import Factors

# Values of init_lora_weights that do not change the base model.
_PLAIN = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_CHANGED_BASES = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ", "lora_ga": "LoRA-GA"}
# "pissa_niter_4" and the others begin with random numbers or with data.
_COMPUTABLE = frozenset({"pissa", "olora"})


def start_of(start: Any) -> str:
    """The name of a start that can be computed from the base, "pissa" or "olora"; "" for others."""
    return start.lower() if isinstance(start, str) and start.lower() in _COMPUTABLE else ""


def initial_file(path: str | Path, start: Any) -> Path | None:
    """The file of the adapter before training: in the folder `pissa_init`, …, beside the file or beside its folder."""
    words = [word for word in _CHANGED_BASES if isinstance(start, str) and start.lower().startswith(word)]
    folders = Path(path).absolute().parents[:2]
    files = (folder / f"{word}_init" / "adapter_model.safetensors" for folder in folders for word in words)
    return next((file for file in files if file.is_file() and file != Path(path).absolute()), None)


def start_problem(start: Any, has_base: bool, path: str | Path) -> str | None:
    """Why this value of init_lora_weights is refused; None if it is not.

    has_base: whether the base is at hand. path: the adapter's file.
    """
    if start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in _PLAIN):
        return None
    if (has_base and start_of(start)) or initial_file(path, start):
        return None
    text = repr(start)
    shown = f"init_lora_weights = {text if len(text) <= 60 else f'{text[:60]}…'}"
    kind = next(
        (name for word, name in _CHANGED_BASES.items() if isinstance(start, str) and start.lower().startswith(word)),
        None,
    )
    if kind is None:
        return f"{shown}, which this version does not know"
    way_out = "Name the model that it was trained on (--model, in Python base=…), or convert" if start_of(start) else (
        "Convert"
    )  # fmt: skip
    return (
        f"{shown}: {kind} changes the base model too, and that change is not in the file. {way_out} it to an ordinary"
        " LoRA first, with PEFT: save_pretrained(folder, path_initial_model_for_weight_conversion=…)"
    )


def start_factors(start: str, weight: Float[np.ndarray, "m n"], rank: int, scale: float) -> Factors:
    """s B0 A0: the part that the start took from the weight. start: "pissa" or "olora". scale: s, which only OLoRA's
    part has in it.
    """
    exact = np.asarray(weight, np.float64)
    if start == "olora":
        q, r = np.linalg.qr(exact)
        up, down = q[:, :rank] * scale, r[:rank]
    else:
        u, singular, v = np.linalg.svd(exact, full_matrices=False)
        up, down = u[:, :rank] * singular[:rank], v[:rank]
    return Factors(up.astype(np.float32), down.astype(np.float32))
