"""Prompts that call a concept by a LoRA's words, and by a token in a slot, with their text features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import TextBasis
from blocklora_jax.adapters.codewords import draw_codewords, of_slots
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.token_side import owned_mask
from blocklora_jax.diffusion.text import Ids, ids_of
from blocklora_jax.diffusion.text_chunks import encode_in_chunks
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import random_ids, trigger_prompts
from blocklora_jax.probing.probe import with_tokens
from blocklora_jax.probing.scaled_token import Token
from blocklora_jax.probing.text_conversion_config import TextConversionConfig
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.prompts.padding import crop_padding
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.prompts.shares import RandomPromptShares

# The most positions of a trigger that a token replaces.
MOST_VECTORS = 16
# Shares of random prompts that have no token, and that all have one.
_ORDINARY = RandomPromptShares(negative=0.0)
_WITH_TOKENS = RandomPromptShares(own_class=0.0, negative=1.0, empty=0.0)


class Moments(NamedTuple):
    """Mean products of text features, fp64. z = [x, x - x'] joins those with the LoRA's words and what they lose.

    own: x'_s^T x'_s along the slot's directions. cross: x'_s^T z. wanted: z^T z. ordinary: x_o^T x_o of ordinary
    prompts. erased: the same and, as often as other concepts are expected, that of prompts with tokens of other slots.
    """

    own: Float[np.ndarray, "s s"]
    cross: Float[np.ndarray, "s z"]
    wanted: Float[np.ndarray, "z z"]
    ordinary: Float[np.ndarray, "n n"]
    erased: Float[np.ndarray, "n n"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SlotPrompts:
    """Prompts of one concept.

    ids: with the token. before: text features with the LoRA's words, fp32. counted: positions from the token on.
    directions: those of the slot, as columns. owned: their mask. ordinary, erased: see `Moments`. start: the token made
    of the slots' codewords.
    """

    sd: StableDiffusion
    name: str
    ids: Ids
    before: Float[np.ndarray, "p t n"]
    counted: Bool[np.ndarray, "p t"]
    directions: Float[np.ndarray, "n s"]
    owned: Bool[np.ndarray, " n"]
    ordinary: Float[np.ndarray, "n n"]
    erased: Float[np.ndarray, "n n"]
    start: dict[str, Float[np.ndarray, "v d"]]

    @classmethod
    def make(
        cls,
        sd: StableDiffusion,
        adapter: Adapter,
        info: AdapterInfo,
        basis: TextBasis,
        words: PromptWords,
        config: TextConversionConfig,
    ) -> SlotPrompts:
        """The prompts of `adapter`. info: of the result, with the new trigger and its slots."""
        asked = ConversionConfig(prompts=config.prompts, chunk=config.chunk, seed=config.seed)
        renamed = Adapter(lora={}, tokens={}, info=info)
        token, vectors = concept_token(info.name), trigger_length(sd.tokenizer, adapter)
        before = sd.tokenizer.encode(trigger_prompts(adapter, words, asked), token_counts([adapter]))
        ids = sd.tokenizer.encode(trigger_prompts(renamed, words, asked), {token: vectors})
        rows = np.array([len(token_table(sd.params, part)) for part in sd.models.text_encoders])
        # In every text encoder [p, e, t], or in the only one [p, t].
        is_new = ids >= (rows[:, None] if ids.ndim == 3 else rows[0])
        _check_aligned(adapter, before, ids, is_new)
        crop = crop_padding(ids).shape[-1]
        own_text = replace(adapter, lora=_of_text_encoders(adapter.lora), vectors=_of_text_encoders(adapter.vectors))
        merged = sd.with_adapters([own_text], check_base=False).params
        partition = info.partition or Partition()
        owned = partition.directions("", len(basis.directions), info.slots)
        codewords = basis.codewords_for(partition.num_blocks)
        start = {part: of_slots(table, info.slots, vectors) for part, table in codewords.items()}
        owner = Adapter(lora={}, tokens={token: start["text_encoder"]}, info=info)
        ordinary, others = _random_moments(sd, owner, basis, words, config)
        return cls(
            sd=sd,
            name=info.name,
            ids=ids[..., :crop],
            before=np.concatenate(list(_states(sd, merged, before[..., :crop], config.chunk))),
            counted=_from_first(ids_of(ids, "text_encoder")[:, :crop] >= rows[0]),
            directions=basis.directions[:, owned],
            owned=owned_mask(owned, len(basis.directions)),
            ordinary=ordinary,
            erased=ordinary + config.others * others,
            start=start,
        )

    def moments(self, token: Token, chunk: int) -> Moments:
        """The moments over the counted positions, with the token."""
        params = with_tokens(self.sd.params, {part: [rows] for part, rows in token.items()})
        own, cross, wanted, start = 0.0, 0.0, 0.0, 0
        for states in _states(self.sd, params, self.ids, chunk):
            rows = slice(start, start := start + len(states))
            counted = self.counted[rows]
            now, before = (x[counted].astype(np.float64) for x in (states, self.before[rows]))
            along, z = now @ self.directions, np.concatenate([before, before - now], axis=1)
            own, cross, wanted = own + along.T @ along, cross + along.T @ z, wanted + z.T @ z
        count = self.counted.sum()
        return Moments(
            np.asarray(own / count), np.asarray(cross / count), np.asarray(wanted / count), self.ordinary, self.erased
        )


def trigger_length(tokenizer: Any, adapter: Adapter) -> int:
    """How many positions the trigger has before the class noun.

    Raises: UserError if they are too many for a token, or none.
    """
    head, _ = _parts(adapter.info)
    row = ids_of(tokenizer.encode([head, ""], token_counts([adapter])), "text_encoder")
    length = int(np.argmax(row[0] == row[1, 1])) - 1
    if not 1 <= length <= MOST_VECTORS:
        raise UserError(
            f"the trigger of {adapter.name!r} has {length} positions before its class noun, and a token can stand for 1"
            f" to {MOST_VECTORS}: give other words with --trigger"
        )
    return length


def swapped_trigger(info: AdapterInfo) -> str:
    """The trigger with the concept's token in place of the words before the class noun.

    >>> swapped_trigger(AdapterInfo(name="bo", class_noun="dog", trigger="sks dog", rank=1, alpha=1.0))
    '<bo> dog'
    """
    return f"{concept_token(info.name)} {_parts(info)[1]}".strip()


def _parts(info: AdapterInfo) -> tuple[str, str]:
    """The trigger before the class noun, and the class noun if it ends with it."""
    trigger, noun = info.trigger.strip(), info.class_noun.strip()
    if noun and trigger.lower().endswith(f" {noun.lower()}"):
        return trigger[: -len(noun)].strip(), noun
    return trigger, ""


def _check_aligned(adapter: Adapter, before: Ids, ids: Ids, is_new: np.ndarray) -> None:
    if before.shape != ids.shape or not (is_new | (before == ids)).all():
        raise UserError(
            f"the trigger {adapter.info.trigger.strip()!r} of {adapter.name!r} is read differently within a prompt:"
            " give other words with --trigger"
        )


def _from_first(marked: Bool[np.ndarray, "p t"]) -> Bool[np.ndarray, "p t"]:
    """The positions of each row from the first marked one on."""
    return np.cumsum(marked, axis=1) > 0


def _of_text_encoders(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in tree.items() if path.startswith("text_encoder")}


def _states(sd: StableDiffusion, params: Mapping[str, Any], ids: Ids, chunk: int) -> Iterator[np.ndarray]:
    """Text features fp32 [c, t, n] of `chunk` prompts at a time."""
    return (np.asarray(text.states) for text in encode_in_chunks(sd.models, params, ids, chunk))


def _random_moments(
    sd: StableDiffusion, owner: Adapter, basis: TextBasis, words: PromptWords, config: TextConversionConfig
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """x^T x of ordinary prompts, and of prompts with tokens of other slots, from the token on.

    The tokens are codewords with noise.
    """
    asked, count = ConversionConfig(chunk=config.chunk, seed=config.seed), config.random_prompts
    ids, params = random_ids(sd, owner, words, asked, count, shares=_ORDINARY)
    ordinary = _moment(_states(sd, params, ids, config.chunk))
    partition, negatives = owner.info.partition or Partition(), None
    # Who owns all slots has no others to be silent for: the negative tokens are drawn around class nouns.
    if len(owner.info.slots) < partition.num_blocks:
        spread = {
            part: config.token_spread * float(np.asarray(token_table(sd.params, part)).std())
            for part in sd.models.text_encoders
        }
        codewords, vectors = basis.codewords_for(partition.num_blocks), len(next(iter(owner.tokens.values())))
        negatives = draw_codewords(codewords, owner.info.slots, count, vectors, spread, config.seed)
    ids, params = random_ids(sd, owner, words, asked, count, negatives, _WITH_TOKENS)
    counted = _from_first(np.asarray(ids_of(ids, "text_encoder")) >= len(token_table(sd.params, "text_encoder")))
    states = (x[mask] for x, mask in zip(
        _states(sd, params, ids, config.chunk), np.split(counted, range(config.chunk, count, config.chunk)), strict=True
    ))  # fmt: skip
    return ordinary, _moment(states)


def _moment(states: Iterable[Float[np.ndarray, "*r n"]]) -> Float[np.ndarray, "n n"]:
    """The mean of x^T x over all rows."""
    total, count = 0.0, 0
    for part in states:
        x = part.reshape(-1, part.shape[-1]).astype(np.float64)
        total, count = total + x.T @ x, count + len(x)
    return np.asarray(total / count)
