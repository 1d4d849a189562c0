"""Drawing what the measures look at: the same noise for every method."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.diffusion.regions import side_by_side
from blocklora_jax.pipeline import StableDiffusion

CHUNK = 8


@dataclass(frozen=True, eq=False)
class Artist:
    """Draws prompts under merged parameters.

    known: adapters whose tokens are in every model that draws, so that its programs are compiled once for all merges.
    seed: of the noise. steps: of the sampler. size: of the pictures, in pixels; the model's own if not given.
    """

    sd: StableDiffusion
    known: Sequence[Adapter]
    seed: int = 0
    steps: int = 20
    size: int | None = None

    def complete(self, params: Mapping[str, Any], merged: Sequence[Adapter]) -> tuple[Mapping[str, Any], list[Adapter]]:
        """`params` with the tokens of the other known adapters appended, and all whose tokens are in it, in order."""
        present = {adapter.name for adapter in merged}
        rest = [replace(adapter, lora={}) for adapter in self.known if adapter.name not in present]
        if not rest:
            return params, list(merged)
        return merge.compose(params, rest, allow_overlap=True, check_base=False), [*merged, *rest]

    def draw(
        self,
        prompts: Sequence[str],
        name: str,
        params: Mapping[str, Any] | None,
        merged: Sequence[Adapter] = (),
        apart: bool = False,
    ) -> np.ndarray:
        """Pictures uint8 [n, h, w, 3]; picture i depends on the prompt, (seed, name, i) and the parameters.

        apart: where a prompt calls several concepts, each has its part of the picture (see `side_by_side`).
        """
        completed, order = self.complete(self.sd.params if params is None else params, merged)
        noise = self._noise(name, len(prompts))
        padded = list(prompts) + [prompts[-1]] * (-len(prompts) % CHUNK)
        noise = jnp.concatenate([noise, noise[-1:].repeat(len(padded) - len(prompts), 0)])
        chunks = [
            self.sd.generate(
                padded[i : i + CHUNK],
                params=completed,
                adapters=order,
                latents=noise[i : i + CHUNK],
                steps=self.steps,
                regions=[side_by_side(words, order) for words in padded[i : i + CHUNK]] if apart else None,
            )
            for i in range(0, len(padded), CHUNK)
        ]
        return np.concatenate(chunks)[: len(prompts)]

    def _noise(self, name: str, count: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))
        size = self.size or self.sd.image_size
        return draw_latents(self.sd.models, key, count, size, size)
