"""The interface of merge methods: a common signature, a class of settings for each method, and a common result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.options import check_options

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion

Params = Mapping[str, Any]


class Merged(NamedTuple):
    """A merged model's parameters, and the adapters in them, in the order in which their tokens were appended."""

    params: Params
    adapters: Sequence[Adapter]


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """The settings of methods without settings, and the base class of all others. Every field becomes a flag."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def shares_weights(self) -> bool:
        """Whether adapters that own the same weights may be merged."""
        return True


@runtime_checkable
class MergeFunction(Protocol):
    """The common signature of merge methods.

    Args:
        sd: the base model. `compose` merges NumPy params without compiling anything. TIES and DARE always use JAX.
        adapters: the adapters to merge.
        weights: one for each adapter; None: 1 for all.
        settings: an instance of the method's class of settings.
        check_base: refuse a base model that the adapters were not trained on.

    Raises: UserError like `compose`.
    """

    def __call__(
        self,
        sd: StableDiffusion,
        adapters: Sequence[Adapter],
        weights: Sequence[Any] | None,
        settings: Any,
        *,
        check_base: bool = True,
    ) -> Merged:
        """The merged model."""
        ...


@dataclass(frozen=True)
class Method:
    """A merge method: its function, the class of its settings, and a line of help.

    sums: whether the merged weights are the sum of all changes, from which a concept can be removed again.
    """

    merge: MergeFunction
    settings: type[NoSettings]
    help: str
    sums: bool = False


def from_params(function: Callable[..., Params]) -> MergeFunction:
    """`function(params, adapters, weights, *, check_base, …settings)`, with the common signature."""

    def merge(
        sd: StableDiffusion,
        adapters: Sequence[Adapter],
        weights: Sequence[Any] | None,
        settings: NoSettings,
        *,
        check_base: bool = True,
    ) -> Merged:
        return Merged(function(sd.params, adapters, weights, check_base=check_base, **asdict(settings)), adapters)

    return merge
