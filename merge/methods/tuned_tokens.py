"""Tuned tokens: the weights stay the sum, and every concept's token is changed so that the others disturb it less."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.check import check_merge
from blocklora_jax.errors import UserError
from merge.compose import compose
from merge.methods.method import Merged, NoSettings

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.prompts.random_prompts import PromptWords


@dataclass(frozen=True, kw_only=True)
class TunedTokensSettings(NoSettings):
    """Settings of the tuning of tokens."""

    allow_overlap: bool = False
    """Sum adapters that own the same weights (equal slots) instead of refusing them."""
    token_steps: int = 120
    """Steps of Adam for each token."""

    @property
    def shares_weights(self) -> bool:
        """Whether the user allows it."""
        return self.allow_overlap


class TunedTokens(NamedTuple):
    """Adapters with tuned tokens, and what it changed.

    before, after: for each adapter, how far the merged layers are from what they do with this adapter alone: the size
        of the difference over the size of the adapter's own output. NaN for adapters without tokens, which stay as they
        are.
    """

    adapters: list[Adapter]
    before: list[float]
    after: list[float]


def tune_tokens(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None = None,
    *,
    steps: int = 120,
    words: PromptWords | None = None,
    allow_overlap: bool = False,
    check_base: bool = True,
) -> TunedTokens:
    """The adapters with tokens that are tuned to be merged together. All weights stay as they are.

    In a sum, every adapter answers a little to the tokens of the others. The token t' of concept k is chosen so that
    the layers that read text do with it, in the merged model, what they do with k's adapter alone and its old token:

        t' = argmin  mean |x(t') (W + sum_j dW_j) - x(t) (W + dW_k)|^2 / |x(t) dW_k|^2  +  3 (1 - s)^2

    x are text features of prompts that call the concept, and s is the share of its own output x(t) dW_k that is in the
    merged output. Each layer counts in units of the base's output. The token is trained by Adam through the text
    encoders. No picture is drawn or needed, and tokens are tuned apart from each other. Blocks stay blocks: a merge of
    the results can be undone bit for bit. A token that does not become better stays as it is.

    Layers that read pictures are not looked at. For SDXL the pooled text is kept too, as much as one layer.

    Args:
        sd: the base model.
        adapters: all adapters that will be merged together.
        weights: those of the merge; None: 1 for each.
        steps: steps of Adam for each token.
        words: the words of the prompts. Default: a list that fits the model.
        allow_overlap: for adapters that own the same weights.
        check_base: refuse a base model that the adapters were not trained on.

    Raises: UserError like `compose`, if no adapter has a token, and for adapters that change a text encoder.

    >>> from blocklora_jax.pipeline import StableDiffusion
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> sd = StableDiffusion.from_pretrained("pocket")
    >>> pair = [random_adapter(n, sd.params, slots=(i,), layers="cross_kv") for i, n in enumerate(("ada", "bob"))]
    >>> tuned = tune_tokens(sd, pair, steps=4)
    >>> [after <= before for before, after in zip(tuned.before, tuned.after)]
    [True, True]
    """
    merged = _merged_params(sd, adapters, weights, allow_overlap, check_base)
    # Imported here, because it needs Flax, which merging alone does not need.
    from blocklora_jax.probing.token_tuning import tune
    from blocklora_jax.probing.tuned_token import TuningConfig

    strengths = [1.0] * len(adapters) if weights is None else list(weights)
    results = tune(sd, merged, adapters, strengths, words, TuningConfig(steps=steps))
    progress = tqdm(results, desc="tokens", total=len(adapters), unit="token", dynamic_ncols=True, disable=None)
    found, before, after = [], [], []
    for adapter, tuned in zip(adapters, progress, strict=True):
        found.append(_with_tokens(adapter, tuned.tokens, adapters) if tuned.after < tuned.before else adapter)
        before.append(tuned.before)
        after.append(min(tuned.before, tuned.after))
    return TunedTokens(found, before, after)


def merge_by_tuned_tokens(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: TunedTokensSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """The sum with tuned tokens, with the common signature. The merged adapters have these tokens."""
    tuned = tune_tokens(
        sd, adapters, weights, steps=settings.token_steps, allow_overlap=settings.allow_overlap, check_base=check_base
    )
    overlap = settings.allow_overlap
    return Merged(compose(sd.params, tuned.adapters, weights, allow_overlap=overlap, check_base=False), tuned.adapters)


def _merged_params(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    allow_overlap: bool,
    check_base: bool,
) -> Mapping[str, Any]:
    """The parameters of the sum. Raises: UserError, see `tune_tokens`."""
    check_merge(sd.params, adapters, weights, allow_overlap=allow_overlap, check_base=check_base)
    if not any(adapter.tokens for adapter in adapters):
        raise UserError(
            "none of the adapters has a token of its own, so there is nothing to tune: merge them as they are"
        )
    from blocklora_jax.probing.text_layers import changed_text_encoders

    if named := changed_text_encoders(adapters):
        more = f" and {len(named) - 5} others" if len(named) > 5 else ""
        raise UserError(
            f"{', '.join(named[:5])}{more} change{'s' * (len(named) == 1)} a text encoder, and tokens are tuned only "
            "for the base's text encoders: leave them out, or merge without tuning"
        )
    return compose(sd.params, adapters, weights, allow_overlap=allow_overlap, check_base=False)


def _with_tokens(adapter: Adapter, tokens: Mapping[str, np.ndarray], together: Sequence[Adapter]) -> Adapter:
    """tokens: rows of all of the adapter's tokens by text encoder, in the order of `token_counts`."""
    fields = {"text_encoder": adapter.tokens, "text_encoder_2": adapter.tokens_2}
    changed: dict[str, dict[str, np.ndarray]] = {part: {} for part in fields}
    for part, rows in tokens.items():
        own = sorted(fields[part].items())
        edges = np.cumsum([len(vectors) for _, vectors in own])[:-1]
        changed[part] = {name: part_rows for (name, _), part_rows in zip(own, np.split(rows, edges), strict=True)}
    others = [other.name for other in together if other is not adapter]
    training = {"tuned_with": others, "of": json.loads(adapter.info.training)}
    return replace(
        adapter, tokens=changed["text_encoder"], tokens_2=changed["text_encoder_2"],
        info=replace(adapter.info, training=json.dumps(training)),
    )  # fmt: skip
