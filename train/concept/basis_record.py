"""Records the basis of a run in config.json. A resumed run is refused if the basis file has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from blocklora_jax.adapters.basis import TextBasis, basis_digest, codewords_digest
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from train.concept.config import ConceptConfig

# The key in config.json, beside those of the settings.
KEY = "basis_digests"


def basis_record(config: ConceptConfig, basis: TextBasis | None) -> dict[str, dict[str, str]]:
    """{`KEY`: the digest of each part of the basis that `config` uses, by name}; empty without a basis."""
    if basis is None:
        return {}
    digests = {"directions": basis_digest(basis.directions)}
    if config.token_side.is_on and basis.energies is not None:
        digests["energies"] = hashlib.sha256(np.ascontiguousarray(basis.energies, "<f4").tobytes()).hexdigest()[:16]
    if config.token_side.needs_codewords:
        digests["codewords"] = codewords_digest(basis.codewords_for(config.adapter.blocks))
    return {KEY: digests}


def check_same_basis(configs: Sequence[ConceptConfig], basis: TextBasis | None) -> None:
    """Check the basis of runs that are resumed. New runs, and old runs without digests, are not checked.

    basis: the one that is now at the path of `--basis`.

    Raises: UserError if a resumed run began with another basis.
    """
    for config in configs:
        before, now = recorded(config, KEY), basis_record(config, basis).get(KEY, {})
        if changed := [name for name, digest in now.items() if before.get(name, digest) != digest]:
            raise UserError(
                f"cannot resume {config.out}: the {changed[0]} in --basis {config.adapter.basis} are not those that the"
                f" run began with ({before[changed[0]]}, now {now[changed[0]]}): put the old file back, or begin again"
                " with another --out"
            )


def recorded(config: ConceptConfig, key: str) -> dict[str, Any]:
    """The digests that a run which is resumed has under `key` in its config.json; empty if there are none."""
    path = config.out / "config.json"
    settings = read_json(path) if config.run.resume and path.exists() else {}
    digests = settings.get(key) if isinstance(settings, dict) else None
    return digests if isinstance(digests, dict) else {}
