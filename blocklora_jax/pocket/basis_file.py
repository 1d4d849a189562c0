"""The file that `--basis` names, here or on the hub, and what to say if a model has none."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.adapters.find import find_adapter
from blocklora_jax.hub.address import is_hub_address
from blocklora_jax.pocket.references import basis_file


def way_to_a_basis(model: str, path: str = "basis.safetensors", blocks: int = 64) -> str:
    """How a basis of a model is made, for error messages."""
    return (
        f"Make it once: python -m train.basis --model {model} --blocks {blocks} --out {path} (adapters can be merged if"
        " they were made with the same basis file)"
    )


def no_packaged_basis(model: str, without: str) -> str:
    """The message for a model other than the pocket model, if `--basis` is "pocket". without: how to do without one."""
    return (
        f"--model {model} needs a basis of its own text features; the packaged one is of the pocket model."
        f" {way_to_a_basis(model)}; then give --basis basis.safetensors. {without}"
    )


def local_basis(name: str) -> Path:
    """The file on this machine that `--basis` names: "pocket", a file, or one on the hub, which is downloaded.

    Raises: UserError if the one on the hub cannot be found.
    """
    return find_adapter(Path(name)) if is_hub_address(name) else basis_file(name)
