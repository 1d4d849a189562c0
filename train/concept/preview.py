"""The preview grids of a run: pictures that the model makes with the adapter as it is by then."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.compile_notice import compiling_is_announced
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import ConceptConfig
from train.concept.prompts import preview_prompts, prompt_words


def make_preview(config: ConceptConfig, sd: StableDiffusion) -> Callable[[int, Adapter], Image.Image]:
    """`preview(step, adapter)` writes and gives `previews/<step>.png`: pictures of the model merged with this adapter.

    They have the size of the training pictures. They are made one at a time: this takes little memory, shows progress,
    and uses one compiled program for all previews.
    """
    words = prompt_words(config.model, config.erasure)
    prompts = config.run.preview_prompts or preview_prompts(config.called, words)
    # A prompt that is too long must be reported now, not after the training.
    sd.tokenizer.encode(prompts, config.called.token_vectors)
    size = config.data.resolution or sd.image_size
    noise = draw_latents(sd.models, jax.random.key(config.run.seed), len(prompts), size, size)

    def preview(step: int, adapter: Adapter) -> Image.Image:
        model = sd.with_adapters([adapter], check_base=False)
        bar = tqdm(prompts, desc=f"preview of step {step}", unit="picture", leave=False, dynamic_ncols=True)
        with compiling_is_announced("the preview"), bar as shown:
            images = np.concatenate(
                [model.generate([prompt], latents=noise[i : i + 1], steps=20) for i, prompt in enumerate(shown)]
            )
        grid = picture_grid(images, captions=prompts, columns=4, scale=max(1, 256 // images.shape[1]))
        write_atomic(config.out / "previews" / f"{step:06d}.png", png_bytes(grid))
        return grid

    return preview
