"""Draws requested pictures. Those whose prompts need equally many chunks of tokens are drawn as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from blocklora_jax.diffusion.denoiser import Params
from blocklora_jax.diffusion.generate import generate
from blocklora_jax.diffusion.models import Models, with_clip_skip
from blocklora_jax.diffusion.originals import Original
from blocklora_jax.diffusion.regions import Region, region_ids
from blocklora_jax.diffusion.samplers.table import with_spacing
from blocklora_jax.diffusion.sampling import Sampling
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.stages import Stage
from blocklora_jax.prompts.chunks import count_chunks, encode_prompts
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair


class Request(NamedTuple):
    """One picture.

    prompt, negative: what it should show and not show; None: text states of zeros. regions: see `diffusion.regions`.
    latents: the first noise [h, w, c]. key: for the noise in the steps; None for samplers that add none. size_ids: [6],
    only for SDXL. picture, mask: see `originals.Original`; None: it begins as noise.
    """

    prompt: str
    negative: str | None
    regions: Sequence[Region]
    latents: Any
    key: Any
    size_ids: Any
    picture: Any = None
    mask: Any = None


class Words(NamedTuple):
    """What is needed to read prompts. tokens: concept token -> number of its vectors."""

    tokenizer: Tokenizer | TokenizerPair
    tokens: Mapping[str, int]


def draw_requests(
    models: Models,
    params: Params,
    schedule: Schedule,
    words: Words,
    requests: Sequence[Request],
    sampling: Sampling,
    stages: Sequence[Stage] = (),
) -> UInt8[np.ndarray, "b height width 3"]:
    """The requested pictures, uint8 RGB, in their order.

    A picture does not depend on the length of the other pictures' prompts: those of another length are drawn apart.

    stages: see `generate`.

    Raises: UserError, see `generate`, and for settings that the sampler or the model does not have.
    """
    schedule = with_spacing(schedule, sampling.sampler, sampling.spacing)
    models = with_clip_skip(models, sampling.clip_skip) if sampling.clip_skip else models
    chunks = [_chunks(words, request) for request in requests]
    pictures: dict[int, Any] = {}
    for count in sorted(set(chunks)):
        rows = [row for row, needed in enumerate(chunks) if needed == count]
        batch = _draw(models, params, schedule, words, [requests[row] for row in rows], sampling, count, stages)
        pictures |= dict(zip(rows, np.asarray(batch), strict=True))
    return np.stack([pictures[row] for row in range(len(requests))])


def _chunks(words: Words, request: Request) -> int:
    """The number of chunks that the longest text of a picture needs."""
    texts = [request.prompt, request.negative or "", *(region.prompt for region in request.regions)]
    return max(count_chunks(words.tokenizer, texts, words.tokens))


def _draw(
    models: Models,
    params: Params,
    schedule: Schedule,
    words: Words,
    requests: Sequence[Request],
    sampling: Sampling,
    chunks: int,
    stages: Sequence[Stage],
) -> Any:
    columns = (list(column) for column in zip(*requests, strict=True))
    prompts, negatives, regions, latents, keys, size_ids, pictures, masks = columns
    mask = None if masks[0] is None else np.stack(masks)
    original = None if pictures[0] is None else Original(np.stack(pictures), mask)
    return generate(
        models,
        params,
        schedule,
        sampling.sampler,
        encode_prompts(words.tokenizer, prompts, words.tokens, chunks),
        None if negatives[0] is None else encode_prompts(words.tokenizer, negatives, words.tokens, chunks),
        jnp.stack(latents),
        sampling.guidance_scale,
        sampling.steps,
        None if size_ids[0] is None else np.stack(size_ids),
        region_ids(words.tokenizer, prompts, regions, words.tokens, chunks) if any(regions) else None,
        guidance_rescale=sampling.guidance_rescale,
        noise_keys=None if keys[0] is None else jnp.stack(keys),
        original=original,
        strength=sampling.strength,
        stages=stages,
    )
