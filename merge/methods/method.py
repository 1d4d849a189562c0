"""What every method of merging has: one signature, settings of its own, and a value that it gives."""

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
    """A merged model's weights, and the adapters that are in them, in the order in which their tokens joined."""

    params: Params
    adapters: Sequence[Adapter]


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """The settings of a method that has none; the base of those of the others. Every field becomes a flag."""

    def __post_init__(self) -> None:
        check_options(self)


@runtime_checkable
class MergeFunction(Protocol):
    """How every method is called.

    Args:
        sd: the base. The merge is made where its params are: NumPy arrays are merged without compiling anything.
        adapters, weights: one weight for each adapter; 1 for all if None.
        settings: an instance of the method's own class of settings.
        check_base: refuse a base that the adapters were not trained on.

    Raises: UserError as `compose` does.
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
    """A method of merging: its function, the class of its settings, and a line of help."""

    merge: MergeFunction
    settings: type[NoSettings]
    help: str


def from_params(function: Callable[..., Params]) -> MergeFunction:
    """`function(params, adapters, weights, *, check_base, …settings)` with the signature of every method."""

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
