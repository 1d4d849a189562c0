"""The bounds of all numbers that users can set on a command line, in a YAML file or in a call."""

from __future__ import annotations

from typing import Any, NamedTuple

from blocklora_jax.errors import UserError


class Bound(NamedTuple):
    """The bounds of a number: `least` to `most`, both included.

    above: whether the number must be larger than `least`. whole: whether it must be a whole number.
    """

    least: float
    most: float
    above: bool = False
    whole: bool = True

    def demand(self, value: Any) -> str:
        """The rule that `value` breaks, such as "must be at least 1"; "" if it breaks none."""
        if isinstance(value, bool) or not _is_number(value):
            return "must be a whole number" if self.whole else "must be a number"
        # Written so that NaN fails too. Numbers are compared, not converted, because 10**400 cannot be converted.
        within = value <= self.most and (value > self.least if self.above else value >= self.least)
        if within and self.whole and not hasattr(value, "__index__"):
            return "must be a whole number"
        if within:
            return ""
        if value != value and self.least < 0:
            return "must be a finite number"
        if self.above and self.most <= 1:
            return f"must be above {self.least:g} and at most {self.most:g}"
        if self.most <= 1:
            return f"must lie in {self.least:g}..{self.most:g}"
        if value > self.most:
            return f"must be at most {_plain(self.most)}"
        return f"must be {'above' if self.above else 'at least'} {_plain(self.least)}"


def _real(least: float, most: float, above: bool = False) -> Bound:
    return Bound(least, most, above, whole=False)


_STEPS, _SIZE, _COUNT, _SEED = Bound(1, 10**7), Bound(1, 4096), Bound(1, 2**16), Bound(0, 2**32 - 1)
_RATE = _real(0, 1e3)
# The bounds are far beyond useful values, and small enough that nothing overflows or fills the memory.
_ROWS: tuple[tuple[str, Bound], ...] = (
    ("rank", Bound(1, 4096)),
    ("max_rank concepts slots count counts at_once repeats rounds draws adapters", _COUNT),
    ("batch accumulate clip_batch vae_batch unet_batch judge_batch", _COUNT),
    ("random_batch blocks num_blocks full_size", Bound(0, 2**16)),
    ("process_count", _COUNT),
    ("per_slot", Bound(1, 10_000)),
    ("process_id", Bound(0, 2**16 - 1)),
    ("columns zoom", Bound(1, 100)),
    ("slot", Bound(0, 2**16 - 1)),
    ("token_vectors", Bound(0, 75)),
    ("vectors", Bound(1, 75)),
    ("limit", _real(0, 1e3, above=True)),
    ("memory step_seconds", _real(0, 1e5, above=True)),
    ("steps clip_steps vae_steps unet_steps sampler_steps log_every save_every", _STEPS),
    ("judge_steps warmup_steps preview_every token_steps others", Bound(0, 10**7)),
    ("pictures prompts random_prompts chunk class_count", Bound(1, 10**7)),
    # At least two, because the judge learns to tell individuals apart.
    ("judge_individuals", Bound(2, 10**7)),
    ("resolution size side", _SIZE),
    ("unet_channels vae_channels", _SIZE),
    ("minutes", _real(0, 1e5, above=True)),
    ("lease", _real(1, 1e6)),
    ("pixels", _real(0, 2**16)),
    ("height width", Bound(1, 8192)),
    # JAX uses 32 bits: it would silently change a larger seed.
    ("seed seeds mask_seed", _SEED),
    ("index", Bound(0, 2**31 - 1)),
    ("partition_seed", Bound(0, 2**63 - 1)),
    ("weight weights strip_weights", _real(-1e6, 1e6)),
    ("prompt_weight", _real(-10, 10)),
    ("clip_skip", Bound(0, 100)),
    ("guidance_scale", _real(-1e3, 1e3)),
    ("alpha", _real(0, 1e6, above=True)),
    ("clip_norm snr_gamma", _real(0, 1e9, above=True)),
    ("erase_weight token_side strength_weight", _real(0, 1e9)),
    # A ratio of energies beyond e^30 cannot be measured in fp32.
    ("token_side_margin", _real(-30, 30)),
    ("token_norm_limit", _real(0, 1e3, above=True)),
    ("ridge token_spread noise_offset weight_decay", _RATE),
    ("negative_spread", _real(1, 1e3)),
    ("learning_rate text_learning_rate token_learning_rate", _RATE),
    ("clip_learning_rate vae_learning_rate unet_learning_rate judge_learning_rate rates", _RATE),
    # An average with the decay 1 would never change.
    ("ema", _real(0, 0.999999)),
    ("pure_noise caption_dropout several own_class negative second scene empty guidance_rescale refine", _real(0, 1)),
    ("crop", _real(0.1, 1)),
    ("density strength", _real(0, 1, above=True)),
    ("same_person", _real(-1, 1)),
)
BOUNDS: dict[str, Bound] = {name: bound for names, bound in _ROWS for name in names.split()}
BOUNDS["ranks"] = BOUNDS["rank"]


def check_number(name: str, value: Any, *, shown: str = "", bound: Bound | None = None) -> None:
    """Raises UserError if `value` is out of the bounds of the number `name`.

    shown: the name for the error, such as "--rank"; default: `name`. bound: used instead of the one in `BOUNDS`.
    """
    if demand := (bound or BOUNDS[name]).demand(value):
        raise UserError(f"{shown or name} {demand}, not {_short(value)}")


def _is_number(value: Any) -> bool:
    try:
        return bool(value == value + 0) or value != value
    except (TypeError, ValueError, OverflowError):
        return False


def _plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def _short(value: Any) -> str:
    """`value` as text of a readable length: numbers from files can have thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
