"""What is said of a basis file that `--basis` names and that is not there."""

from __future__ import annotations

from blocklora_jax.errors import UserError
from blocklora_jax.pocket.basis_file import local_basis, way_to_a_basis
from train.concept.settings.adapter import AdapterSettings

WITHOUT = "To train without one: --config one_block"


def require_basis_file(settings: AdapterSettings, model: str) -> None:
    """Raises UserError if the file that `--basis` names is not there."""
    path = settings.basis
    if path not in (None, "pocket") and not local_basis(path).is_file():
        raise UserError(f"--basis: there is no file {path}. {way_to_a_basis(model, path, settings.blocks)}")
