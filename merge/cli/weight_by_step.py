"""`--weight-by-step NAME=SHARE:FACTOR,…`: factors of concepts' weights that change while a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.diffusion.stages import Stage
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from merge.compose import compose

# By name: (share of the steps, factor from there on), in increasing order of the shares.
Factors = dict[str, list[tuple[float, float]]]


def read_factors(texts: Sequence[str], names: Sequence[str]) -> Factors:
    """The factors that the user gave, by the names of adapters.

    Raises: UserError for a text of another form, a name that no adapter has, and shares that do not increase.

    >>> read_factors(["ada=0:0,0.3:1"], ["ada", "bob"])
    {'ada': [(0.0, 0.0), (0.3, 1.0)]}
    """
    factors: Factors = {}
    for text in texts:
        name, equals, rest = text.rpartition("=")
        if not equals or name in factors:
            raise UserError(f"--weight-by-step {text!r} must be NAME=SHARE:FACTOR,…, once for each concept")
        if name not in names:
            raise UserError(f"--weight-by-step {text!r}: no adapter is named {name!r}; there are {', '.join(names)}")
        pairs = [_pair(part, text) for part in rest.split(",")]
        if [share for share, _ in pairs] != sorted({share for share, _ in pairs}):
            raise UserError(f"--weight-by-step {text!r}: each share of the steps must be larger than the one before it")
        factors[name] = pairs
    return factors


def stages_of(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    factors: Factors,
    *,
    allow_overlap: bool,
    check_base: bool,
) -> list[Stage]:
    """The U-Net's parameters from each share of the steps on, at which any factor changes."""
    shares = sorted({share for adapter in adapters for share, _ in factors.get(adapter.name, ())})
    stages = []
    for share in shares:
        now = [weight * _factor(factors.get(a.name, ()), share) for a, weight in zip(adapters, weights, strict=True)]
        params = compose(sd.params, adapters, now, allow_overlap=allow_overlap, check_base=check_base)
        stages.append(Stage(share, params["unet"]))
    return stages


def _factor(pairs: Sequence[tuple[float, float]], share: float) -> float:
    """The factor at this share of the steps: 1 before the first one."""
    return next((factor for begin, factor in reversed(pairs) if begin <= share), 1.0)


def _pair(part: str, text: str) -> tuple[float, float]:
    share, colon, factor = part.partition(":")
    try:
        numbers = float(share), float(factor)
    except ValueError as error:
        raise UserError(f"--weight-by-step {text!r}: {part!r} must be SHARE:FACTOR, such as 0.3:1") from error
    if not 0 <= numbers[0] <= 1:
        raise UserError(f"--weight-by-step {text!r}: the share {share} must lie in 0..1")
    check_number("weight", numbers[1], shown=f"--weight-by-step {text!r}: the factor")
    return numbers
