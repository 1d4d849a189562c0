"""The content of the file that `--basis` names, and whether it fits the model."""

from __future__ import annotations

from blocklora_jax.adapters.basis import Codewords, TextBasis, load_text_basis
from blocklora_jax.adapters.find import named_as
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.basis_file import local_basis, no_packaged_basis


def read_text_basis(path: str, sd: StableDiffusion, base_digest: str, without: str) -> TextBasis:
    """The content of the basis file that `--basis` names.

    without: how to do without a basis, for error messages.

    Raises: UserError for a file that cannot be used, or whose number of features is not that of the model's text.
    """
    other = no_packaged_basis(sd.checkpoint.public_name, without) if path == "pocket" else None
    file = local_basis(path)
    with named_as(path, file):
        basis = load_text_basis(file, base_digest, other)
    width = sd.models.unet.config.cross_attention_dim
    if len(basis.directions) != width:
        raise UserError(f"--basis {path} has {len(basis.directions)} features, but the model's text has {width}")
    return basis


def check_codewords(codewords: Codewords, sd: StableDiffusion, path: str) -> None:
    """Raises UserError unless there are codewords for each of the model's text encoders, as wide as its tokens."""
    model_widths = {part: token_table(sd.params, part).shape[1] for part in sd.models.text_encoders}
    widths = {part: tokens.shape[2] for part, tokens in codewords.items()}
    if widths != model_widths:
        raise UserError(
            f"--basis {path} has codewords of widths {widths}, but the model's tokens have {model_widths}:"
            " make the file again, with python -m train.basis"
        )


def check_energies(basis: TextBasis, path: str) -> None:
    """Raises UserError for an old basis file that does not say how strong ordinary text is along its directions."""
    if basis.energies is None:
        raise UserError(
            f"the basis {path} does not say how strong ordinary text is along its directions:"
            f" python -m train.basis --extend {path} --out NEW_FILE adds this"
        )
