"""Drawing what the measures look at: the same noise for every method."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.pipeline import MergedModel, StableDiffusion

CHUNK = 8


@dataclass(frozen=True, eq=False)
class Artist:
    """Draws prompts with merged models.

    known: adapters whose tokens are in every model that draws, so that its programs are compiled once for all merges.
    seed: of the noise. steps: of the sampler. size: of the pictures, in pixels; the model's own if not given.
    """

    sd: StableDiffusion
    known: Sequence[Adapter]
    seed: int = 0
    steps: int = 20
    size: int | None = None

    def complete(self, model: StableDiffusion | MergedModel) -> MergedModel:
        """`model` with the tokens of the other known adapters appended to its own."""
        present = {adapter.name for adapter in model.adapters}
        rest = [replace(adapter, lora={}) for adapter in self.known if adapter.name not in present]
        params = merge.compose(model.params, rest, allow_overlap=True, check_base=False) if rest else model.params
        return self.sd.with_params(params, [*model.adapters, *rest])

    def draw(
        self,
        prompts: Sequence[str],
        name: str,
        model: StableDiffusion | MergedModel,
        apart: bool = False,
    ) -> np.ndarray:
        """Pictures uint8 [n, h, w, 3]; picture i depends on the prompt, (seed, name, i) and the model's parameters.

        apart: where a prompt calls several concepts, each has its part of the picture (see `side_by_side`).
        """
        completed = self.complete(model)
        noise = self._noise(name, len(prompts))
        padded = list(prompts) + [prompts[-1]] * (-len(prompts) % CHUNK)
        noise = jnp.concatenate([noise, noise[-1:].repeat(len(padded) - len(prompts), 0)])
        chunks = [
            completed.generate(
                padded[i : i + CHUNK],
                latents=noise[i : i + CHUNK],
                steps=self.steps,
                regions=[completed.side_by_side(words) for words in padded[i : i + CHUNK]] if apart else None,
            )
            for i in range(0, len(padded), CHUNK)
        ]
        return np.concatenate(chunks)[: len(prompts)]

    def refine(self, pictures: np.ndarray, prompts: Sequence[str], model: StableDiffusion | MergedModel) -> np.ndarray:
        """`pictures` of `prompts`, with each of several people and objects drawn again (see `MergedModel.refine`)."""
        completed, refined = self.complete(model), []
        for first in range(0, len(prompts), CHUNK):
            rows = [min(row, len(prompts) - 1) for row in range(first, first + CHUNK)]
            words = [prompts[row] for row in rows]
            refined.append(completed.refine(pictures[rows], words, seed=self.seed, indices=rows, steps=self.steps))
        return np.concatenate(refined)[: len(prompts)]

    def _noise(self, name: str, count: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))
        size = self.size or self.sd.image_size
        return draw_latents(self.sd.models, key, count, size, size)
