"""A basis of the text features. Blocks can be sets of its directions; adapters to be merged must share its file.

The file may also hold what training needs to keep a token within its slot's directions: the energy of ordinary text
along each direction, and codewords, which are start tokens optimised for each slot. As safetensors:

    directions                  fp32 [d, d]: orthonormal columns, the strongest of ordinary text first
    energies                    fp32 [d]: mean of (u_d . x)^2 over the positions of ordinary text
    codewords/<K>/<encoder>     fp16 [K, v, d']: token embeddings of each of K slots; once for each text encoder
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.checks.finite import narrow
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import KIND_KEY
from blocklora_jax.io.tensor_file import open_tensors, save_tensors

_KEY, _TENSOR, _ENERGIES, _CODEWORDS = "blocklora_basis", "directions", "energies", "codewords/"
# The largest allowed |Q^T Q - 1|. Rounding to fp32 causes about 1e-6.
_ORTHONORMAL = 1e-4
_CODEWORDS_KEY = re.compile(_CODEWORDS + r"([1-9][0-9]{0,4})/(text_encoder(?:_2)?)")

# Columns are directions of unit length. Those along which ordinary text has most energy come first.
Basis = Float[np.ndarray, "d d"]
# By text encoder, [K, v, d]: v embeddings for each of K slots.
Codewords = Mapping[str, Float[np.ndarray, "_ _ _"]]


class TextBasis(NamedTuple):
    """The contents of a basis file, fp32.

    energies: None for older files, which have none. codewords: by the number of blocks K.
    """

    directions: Basis
    energies: Float[np.ndarray, " d"] | None = None
    codewords: Mapping[int, Codewords] = {}

    def codewords_for(self, num_blocks: int) -> Codewords:
        """The codewords for K = `num_blocks`. Raises: UserError if the file has none."""
        if num_blocks not in self.codewords:
            known = ", ".join(str(count) for count in sorted(self.codewords)) or "none"
            raise UserError(
                f"the basis has no codewords for {num_blocks} blocks (it has them for: {known}): give --blocks one of"
                f" these, or add them: python -m train.basis --extend FILE --blocks {num_blocks} --out NEW_FILE"
            )
        return self.codewords[num_blocks]


def basis_digest(basis: Basis) -> str:
    """The identity of a basis in adapters: 16 hexadecimal digits of the SHA-256 of its fp32 numbers."""
    return hashlib.sha256(np.ascontiguousarray(basis, "<f4").tobytes()).hexdigest()[:16]


def codewords_digest(codewords: Codewords) -> str:
    """The identity of the codewords for one K, with which an adapter was trained: 16 hexadecimal digits.

    It is not part of `basis_digest`, because adapters of one basis can be merged whatever their tokens started from.
    """
    digest = hashlib.sha256()
    for part in sorted(codewords):
        digest.update(f"{part} {list(codewords[part].shape)}".encode())
        digest.update(np.ascontiguousarray(codewords[part], "<f2").tobytes())
    return digest.hexdigest()[:16]


def save_basis(path: str | Path, basis: Basis | TextBasis, base_digest: str) -> None:
    """Write a basis in fp32, and codewords in fp16.

    base_digest: the digest of the model whose text the basis was computed from (see `checkpoints.digest`).
    """
    whole = basis if isinstance(basis, TextBasis) else TextBasis(basis)
    tensors = {_TENSOR: np.asarray(whole.directions, np.float32)}
    if whole.energies is not None:
        tensors[_ENERGIES] = np.asarray(whole.energies, np.float32)
    for count, codewords in whole.codewords.items():
        for part, tokens in codewords.items():
            key = f"{_CODEWORDS}{count}/{part}"
            tensors[key] = narrow(key, np.asarray(tokens), np.dtype(np.float16))
    save_tensors(path, tensors, {_KEY: json.dumps({"base_digest": base_digest}), KIND_KEY: "basis"})


def load_basis(path: str | Path, base_digest: str) -> Basis:
    """The directions in a file, fp32. Raises: UserError like `load_text_basis`."""
    return load_text_basis(path, base_digest).directions


def load_text_basis(path: str | Path, base_digest: str, other_base: str | None = None) -> TextBasis:
    """Everything in a basis file, fp32.

    other_base: what to say if the file is for another base model.

    Raises: UserError for a file that is missing, incomplete, not a basis, or for another base model than `base_digest`.
    """
    if not Path(path).is_file():
        raise UserError(f"--basis: there is no file {path}; python -m train.basis makes one")
    with open_tensors(path, "basis") as file:
        header = _header(file.metadata.get(_KEY), str(path))
        others = [key for key in file.keys if key not in (_TENSOR, _ENERGIES) and not _CODEWORDS_KEY.fullmatch(key)]
        if _TENSOR not in file.keys or others or "base_digest" not in header:
            raise UserError(f"{path} is not a basis file: python -m train.basis makes one")
        tensors = {key: np.asarray(tensor, np.float32) for key, tensor in file.tensors()}
    basis = tensors[_TENSOR]
    if header["base_digest"] != base_digest:
        raise UserError(
            other_base
            or f"--basis {path} is for another base model: python -m train.basis --model MODEL makes one for yours"
        )
    if basis.ndim != 2 or basis.shape[0] != basis.shape[1] or not len(basis):
        raise UserError(f"the basis in {path} has the shape {list(basis.shape)}; it must be square")
    # Written so that NaN fails too.
    if not np.abs(basis.T @ basis - np.eye(len(basis))).max() <= _ORTHONORMAL:
        raise UserError(f"the directions in {path} are not orthonormal: make the file again with python -m train.basis")
    return TextBasis(basis, _energies(tensors.get(_ENERGIES), basis, path), _codewords(tensors, path))


def _energies(energies: np.ndarray | None, basis: Basis, path: str | Path) -> np.ndarray | None:
    usable = energies is None or (
        energies.shape == (len(basis),) and np.isfinite(energies).all() and energies.max() > 0
    )
    if not usable or (energies is not None and energies.min() < 0):
        raise UserError(
            f"the energies in {path} do not fit its directions: make the file again with python -m train.basis"
        )
    return energies


def _codewords(tensors: Mapping[str, np.ndarray], path: str | Path) -> Mapping[int, Codewords]:
    codewords: dict[int, dict[str, np.ndarray]] = {}
    for key, tokens in tensors.items():
        if not (match := _CODEWORDS_KEY.fullmatch(key)):
            continue
        if tokens.ndim != 3 or len(tokens) != int(match[1]) or not tokens.size or not np.isfinite(tokens).all():
            raise UserError(
                f"{key} in {path} has a wrong shape ({list(tokens.shape)}) or values that are not finite: make the file"
                " again with python -m train.basis"
            )
        codewords.setdefault(int(match[1]), {})[match[2]] = tokens
    return codewords


def _header(text: str | None, source: str) -> dict[str, Any]:
    value = parse_json(text, f"the header of {source}") if text else {}
    return value if isinstance(value, dict) else {}
