"""Reads the adapter files of a command, with the base model where a file needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.io.printing import one_line

# The rank of changes that are no product of small factors, for commands that need low rank.
DEFAULT_RANK = 64


@dataclass(kw_only=True)
class AdapterReader:
    """Reads adapter files. Files of other programs whose changes depend on the base model are computed against it.

    model: the base model, read once, when the first file needs it; None: none is at hand. model_config, variant: of it.
    params: its parameters, if they are in memory already. verify: whether digests must match. max_rank: see
        `Adapter.load`.
    """

    model: str | None = None
    model_config: str | None = None
    variant: str | None = None
    verify: bool = True
    max_rank: int | None = None
    params: Mapping[str, Any] | None = None

    def __call__(self, path: Path) -> Adapter:
        """The adapter at `path`. Prints a line to stderr if its rank was reduced. Raises UserError."""
        base = self.params or (None if self.model is None else lambda: self._read_params)
        adapter = Adapter.load(path, self.verify, base=base, max_rank=self.max_rank)
        if line := reduction(adapter):
            print(line, file=sys.stderr)
        return adapter

    @cached_property
    def _read_params(self) -> Mapping[str, Any]:
        # Imported here, because most files do not need it.
        from blocklora_jax.checkpoints.load import load_checkpoint

        assert self.model is not None
        checkpoint = load_checkpoint(self.model, config=self.model_config, variant=self.variant, verify=self.verify)
        return checkpoint.params


def reduction(adapter: Adapter) -> str:
    """A line that says how far an adapter's rank was reduced while it was read; "" if it was not."""
    source = source_of(adapter)
    kinds, error = source.get("kinds"), source.get("relative_error")
    # A file of ours can state anything.
    if not isinstance(kinds, list) or not isinstance(error, float):
        return ""
    return one_line(
        f"{adapter.name}: {source.get('reduced_layers')} layers ({', '.join(map(str, kinds))}) are reduced to rank"
        f" {source.get('max_rank')}; {error:.2%} of their change is left out (--max-rank)"
    )


def source_of(adapter: Adapter) -> dict[str, Any]:
    """What `read_external_lora` recorded of a file that is more than an ordinary LoRA; {} for others."""
    training = json.loads(adapter.info.training or "{}")
    while isinstance(training, dict) and isinstance(training.get("of"), dict):
        training = training["of"]
    source = training.get("source") if isinstance(training, dict) else None
    return source if isinstance(source, dict) else {}
