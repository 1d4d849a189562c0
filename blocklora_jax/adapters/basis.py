"""A basis of the text features in whose directions blocks are cut; those who want to merge share its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic

_KEY, _TENSOR = "blocklora_basis", "directions"
# |Q^T Q - 1|; fp32 leaves about 1e-6.
_ORTHONORMAL = 1e-4

# Columns are directions of unit length, those in which ordinary text speaks most first.
Basis = Float[np.ndarray, "d d"]


def basis_digest(basis: Basis) -> str:
    """What adapters remember of a basis: 16 hexadecimal digits of the SHA-256 of its fp32 numbers."""
    return hashlib.sha256(np.ascontiguousarray(basis, "<f4").tobytes()).hexdigest()[:16]


def save_basis(path: str | Path, basis: Basis, base_digest: str) -> None:
    """Write a basis in fp32. base_digest: of the model whose text it is of (see `checkpoints.digest`)."""
    header = json.dumps({"base_digest": base_digest})
    write_atomic(path, save({_TENSOR: np.ascontiguousarray(basis, np.float32)}, metadata={_KEY: header}))


def load_basis(path: str | Path, base_digest: str) -> Basis:
    """The basis of a file, fp32.

    Raises: UserError for a file that is missing, incomplete, no basis, or of another base than `base_digest`.
    """
    if not Path(path).is_file():
        raise UserError(f"--basis: there is no file {path}; python -m train.basis makes one")
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(_KEY)
            basis = np.asarray(file.get_tensor(_TENSOR), np.float32) if header else None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); copy or download it again") from error
    if header is None or basis is None:
        raise UserError(f"{path} is no basis: python -m train.basis makes one")
    if json.loads(header)["base_digest"] != base_digest:
        raise UserError(
            f"--basis {path} is of another base model: python -m train.basis --model MODEL makes one of yours"
        )
    if basis.ndim != 2 or basis.shape[0] != basis.shape[1]:
        raise UserError(f"{path} holds {list(basis.shape)}, no square basis")
    if np.abs(basis.T @ basis - np.eye(len(basis))).max() > _ORTHONORMAL:
        raise UserError(f"the directions in {path} are not orthonormal: make it again, with python -m train.basis")
    return basis
