"""A basis of the text features in whose directions blocks are cut; those who want to merge share its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import KIND_KEY
from blocklora_jax.io.tensor_file import open_tensors, save_tensors

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
    save_tensors(path, {_TENSOR: np.asarray(basis, np.float32)}, {_KEY: header, KIND_KEY: "basis"})


def load_basis(path: str | Path, base_digest: str) -> Basis:
    """The basis of a file, fp32.

    Raises: UserError for a file that is missing, incomplete, no basis, or of another base than `base_digest`.
    """
    if not Path(path).is_file():
        raise UserError(f"--basis: there is no file {path}; python -m train.basis makes one")
    with open_tensors(path, "basis") as file:
        header = _header(file.metadata.get(_KEY), str(path))
        if file.keys != [_TENSOR] or "base_digest" not in header:
            raise UserError(f"{path} is no basis: python -m train.basis makes one")
        basis = np.asarray(file.read_all()[_TENSOR], np.float32)
    if header["base_digest"] != base_digest:
        raise UserError(
            f"--basis {path} is of another base model: python -m train.basis --model MODEL makes one of yours"
        )
    if basis.ndim != 2 or basis.shape[0] != basis.shape[1] or not len(basis):
        raise UserError(f"{path} holds {list(basis.shape)}, no square basis")
    # Written so that NaN fails too.
    if not np.abs(basis.T @ basis - np.eye(len(basis))).max() <= _ORTHONORMAL:
        raise UserError(f"the directions in {path} are not orthonormal: make it again, with python -m train.basis")
    return basis


def _header(text: str | None, source: str) -> dict[str, Any]:
    value = parse_json(text, f"the header of {source}") if text else {}
    return value if isinstance(value, dict) else {}
