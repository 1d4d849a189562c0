"""The file that `--basis` names, here or on the hub, and what to say if a model has none yet."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.adapters.find import find_adapter
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import is_hub_address
from blocklora_jax.pocket.references import basis_file
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
    if path not in (None, "pocket") and not local_basis(path).is_file():
        raise UserError(f"--basis: there is no file {path}. {_way_out(model, path, settings.blocks)}")


def local_basis(name: str) -> Path:
    """The file on this machine that `--basis` names: "pocket", a file, or one on the hub, which is downloaded.

    Raises: UserError if the one on the hub cannot be found.
    """
    return find_adapter(Path(name)) if is_hub_address(name) else basis_file(name)


def _way_out(model: str, path: str, blocks: int) -> str:
    return (
        f"Make it once: python -m train.basis --model {model} --blocks {blocks} --out {path} (adapters can be merged if"
        " they were trained with the same basis file)"
    )
