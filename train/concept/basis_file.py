"""Models that have no basis file yet: what to say, before a base is loaded."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.errors import UserError
from train.concept.settings.adapter import AdapterSettings


def no_packaged_basis(model: str) -> str:
    """The message for a model other than the pocket model, if `--basis` is "pocket"."""
    return (
        f"--model {model} needs a basis of its own text features; the packaged one is of the pocket model."
        f" {_way_out(model, 'basis.safetensors', 64)}; then give --basis basis.safetensors. To train without one:"
        " --config one_block"
    )


def require_basis_file(settings: AdapterSettings, model: str) -> None:
    """Raises UserError if the file that `--basis` names is not there."""
    path = settings.basis
    if path not in (None, "pocket") and not Path(path).is_file():
        raise UserError(f"--basis: there is no file {path}. {_way_out(model, path, settings.blocks)}")


def _way_out(model: str, path: str, blocks: int) -> str:
    return (
        f"Make it once: python -m train.basis --model {model} --blocks {blocks} --out {path} (adapters can be merged if"
        " they were trained with the same basis file)"
    )
