"""Weights for parts of an adapter: for the U-Net's blocks as A1111's users count them, or for layers by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair

# BASE: the text encoders. IN, M, OUT: the U-Net's input blocks, middle block and output blocks in LDM's numbering.
_ALL = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
_NAMED: dict[int, str] = {
    12: "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    20: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08",
    26: " ".join(_ALL),
}
# The lists of numbers that sd-webui-lora-block-weight comes with.
PRESETS: dict[str, str] = {
    "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    "ALL0.5": "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5",
}
_PLACE = re.compile(r"unet/(down|up)_blocks_(\d+)/(attentions|resnets|downsamplers|upsamplers)_(\d+)/")
_RANGE = re.compile(r"((?:BASE|IN\d\d|M00|OUT\d\d))-((?:BASE|IN\d\d|M00|OUT\d\d))")
# (component/layer) -> factor
BlockWeights = Callable[[str], float]


def block_of(layer: str) -> str:
    """The block of a layer ("unet/…/to_k"): BASE, IN00 to IN11, M00, OUT00 to OUT11; "" for a layer of no block.

    >>> block_of("unet/down_blocks_1/attentions_0/proj_in"), block_of("text_encoder_2/text_projection")
    ('IN04', 'BASE')
    """
    if not layer.startswith("unet/"):
        return "BASE"
    if layer.startswith("unet/mid_block/"):
        return "M00"
    if layer.startswith("unet/conv_in"):
        return "IN00"
    if not (match := _PLACE.match(layer)):
        return ""
    way, block, kind, index = match[1], int(match[2]), match[3], int(match[4])
    if way == "down":
        return f"IN{3 * block + (3 if kind == 'downsamplers' else index + 1):02}"
    return f"OUT{3 * block + (2 if kind == 'upsamplers' else index):02}"


@lru_cache(maxsize=256)
def read_block_weights(text: str) -> BlockWeights:
    """The factor of each layer that `text` gives.

    text: one of
        - 12, 17, 20 or 26 numbers, in the order of sd-webui-lora-block-weight: 17 and 26 for Stable Diffusion 1.x and
          2.x, 12 and 20 for SDXL. Blocks that the list does not have get 0, as there.
        - the name of a list in `PRESETS`, such as "MIDD".
        - `NAME=NUMBER` pairs, such as "BASE=0.5,IN04-OUT05=0.8,attn1=0". NAME is a block, a range of blocks, or a
          regular expression that is searched in the layer's name ("unet/mid_block/attentions_0/…/attn1/to_q"). Where
          several fit, the last one holds; other layers have the factor 1.

    Raises: UserError for any other text.

    >>> weights = read_block_weights("IN04-OUT05=0.5,to_q=0")
    >>> [weights(f"unet/mid_block/attentions_0/transformer_blocks_0/attn1/{name}") for name in ("to_k", "to_q")]
    [0.5, 0.0]
    """
    text = PRESETS.get(text.strip(), text)
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        return _by_name([_pair(part, text) for part in parts])
    if len(parts) not in _NAMED:
        raise UserError(
            f"block weights {text[:60]!r} are {len(parts)} numbers: give 12 or 20 (SDXL), 17 or 26 (1.x, 2.x), one of "
            f"{', '.join(PRESETS)}, or NAME=NUMBER pairs"
        )
    numbers = dict.fromkeys(_ALL, 0.0) | dict(
        zip(_NAMED[len(parts)].split(), (_number(part, text) for part in parts), strict=True)
    )
    return lambda layer: numbers.get(block_of(layer), 1.0)


def weigh_blocks(adapter: Adapter, weights: BlockWeights) -> Adapter:
    """`adapter`, in which the change of every layer is multiplied by its factor. Factors of 1 change no bit."""
    lora = {
        component: {path: _scaled(pair, weights(f"{component}/{path}")) for path, pair in layers.items()}
        for component, layers in adapter.lora.items()
    }
    # A norm or bias belongs to the block of its layer: "unet/…/norm1/scale".
    vectors = {
        path: vector if (factor := weights(path.rpartition("/")[0])) == 1 else np.asarray(vector) * np.float32(factor)
        for path, vector in adapter.vectors.items()
    }
    return replace(adapter, lora=lora, vectors=vectors)


def weigh_all(adapters: Sequence[Adapter], texts: Sequence[str]) -> list[Adapter]:
    """The adapters with block weights. texts: one for all, one for each, or none; see `read_block_weights`.

    Raises: UserError for another number of texts.
    """
    weights = weights_of_each(texts, len(adapters))
    return [weigh_blocks(*each) for each in zip(adapters, weights, strict=True)] if texts else list(adapters)


def weights_of_each(texts: Sequence[str], count: int) -> list[BlockWeights]:
    """The block weights of each of `count` adapters, all 1 without texts. Raises: UserError like `weigh_all`."""
    if len(texts) not in (0, 1, count):
        raise UserError(f"{len(texts)} block weights for {count} adapters: give one for all, or one for each")
    weights = [read_block_weights(text) for text in texts] or [lambda layer: 1.0]
    return weights if len(weights) == count else weights[:1] * count


def factors_of(adapter: Adapter, weights: BlockWeights) -> dict[str, float]:
    """The factors of the adapter's layers ("unet/…/to_k") that are not 1."""
    layers = [f"{component}/{path}" for component, paths in adapter.lora.items() for path in paths]
    return {layer: factor for layer in layers if (factor := weights(layer)) != 1}


def _scaled(pair: LoRAPair, factor: float) -> LoRAPair:
    return pair if factor == 1 else LoRAPair(np.asarray(pair.lora_A) * np.float32(factor), pair.lora_B)


def _by_name(pairs: Sequence[tuple[Callable[[str], bool], float]]) -> BlockWeights:
    def weight(layer: str) -> float:
        return next((number for fits, number in reversed(pairs) if fits(layer)), 1.0)

    return weight


def _pair(part: str, text: str) -> tuple[Callable[[str], bool], float]:
    name, _, number = (piece.strip() for piece in part.rpartition("="))
    return _named(name, text), _number(number, text)


def _named(name: str, text: str) -> Callable[[str], bool]:
    if match := _RANGE.fullmatch(name):
        if not {match[1], match[2]} <= set(_ALL):
            raise UserError(
                f"block weights {text[:60]!r}: there is no block in {name!r}: BASE, IN00-IN11, M00, OUT00-OUT11"
            )
        first, last = sorted(map(_ALL.index, match.groups()))
        return lambda layer: block_of(layer) in _ALL[first : last + 1]
    if name in _ALL:
        return lambda layer: block_of(layer) == name
    if not name or len(name) > 200:
        raise UserError(f"block weights {text[:60]!r}: {name[:40]!r} is no block and no part of a layer's name")
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise UserError(f"block weights {text[:60]!r}: {name!r} is no regular expression: {error}") from error
    return lambda layer: pattern.search(layer) is not None


def _number(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError as error:
        hint = " (random numbers, R and U, are not supported)" if part in ("R", "U") else ""
        raise UserError(f"block weights {text[:60]!r}: {part[:20]!r} is not a number{hint}") from error
    check_number("weight", number, shown="a block weight")
    return number
