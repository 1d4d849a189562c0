"""What files and cards are made of: an adapter, or its contents before it is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from blocklora_jax.adapters.info import AdapterInfo


@runtime_checkable  # for type checking in tests
class AdapterLike(Protocol):
    """The fields of an `Adapter`. `AdapterContents` has them too."""

    @property
    def lora(self) -> Any:
        """Pairs by component and layer path."""
        ...

    @property
    def tokens(self) -> Mapping[str, Any]:
        """{"<name>": vectors [v, d]}."""
        ...

    @property
    def tokens_2(self) -> Mapping[str, Any]:
        """The same for the second text encoder."""
        ...

    @property
    def vectors(self) -> Mapping[str, Any]:
        """Changes of norms and biases by path."""
        ...

    @property
    def info(self) -> AdapterInfo:
        """The description."""
        ...
