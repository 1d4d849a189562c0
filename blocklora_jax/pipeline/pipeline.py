"""What every model does, with or without concepts: make pictures, and save itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.checkpoints.single_file import save_single_file
from blocklora_jax.composing.token_rows import refuse_spare_rows
from blocklora_jax.diffusion.generate import draw_keys
from blocklora_jax.diffusion.inputs import check_indices, check_prompts, each_negative, each_size, first_latents
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.originals import check_original, check_same_size
from blocklora_jax.diffusion.regions import Region
from blocklora_jax.diffusion.requests import Request, Words, draw_requests
from blocklora_jax.diffusion.samplers.table import adds_noise
from blocklora_jax.diffusion.sampling import Sampling
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.stages import Stage
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair


class BaseModel(Protocol):
    """What a pipeline reads of the model without concepts, which is a `StableDiffusion`."""

    @property
    def models(self) -> Models: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def tokenizer(self) -> Tokenizer | TokenizerPair: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def checkpoint(self) -> Checkpoint: ...
    @property
    def weights_dtype(self) -> Any: ...
    @property
    def has_zeros_for_no_prompt(self) -> bool: ...


class Pipeline:
    """The methods of all models, with or without concepts: make pictures, and save to a folder or file."""

    base: BaseModel
    params: Mapping[str, Any]
    adapters: tuple[Adapter, ...]

    @property
    def image_size(self) -> int:
        """The model's own height and width, in pixels."""
        models = self.base.models
        size = models.unet.config.sample_size or 64
        return (size if isinstance(size, int) else size[0]) * models.vae.config.downscale

    def generate(
        self,
        prompts: Sequence[str],
        *,
        negative_prompts: Sequence[str] | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        steps: int = 30,
        guidance_scale: float = 5.0,
        guidance_rescale: float = 0.0,
        sampler: str = "dpmpp_2m",
        spacing: str | None = None,
        clip_skip: int = 0,
        height: int | None = None,
        width: int | None = None,
        latents: Any = None,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        regions: Sequence[Sequence[Region]] | None = None,
        image: Any = None,
        mask: Any = None,
        strength: float = 0.8,
        stages: Sequence[Stage] = (),
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Pictures of `prompts`, uint8 RGB [b, h, w, 3].

        Args:
            prompts: concepts are called by their tokens, as in "a photo of <ada> woman". Prompts can be of any length.
                `(word)`, `(word:1.3)` and `[word]` give words more or less weight; a backslash makes a bracket plain.
            negative_prompts: one for each prompt, or one for all. None: the empty prompt (for SDXL text states of
                zeros, if the model's config says so).
            seed: picture i depends only on (seed, i), not on the batch size.
            indices: i of each picture; default: 0, 1, 2, …
            steps: number of sampling steps.
            guidance_scale: 1 switches guidance off.
            guidance_rescale: 0..1; above 0, guidance keeps the picture's contrast. Models trained with zero terminal
                SNR need about 0.7.
            sampler: a name in `diffusion.samplers.table.SAMPLERS`: "dpmpp_2m", "dpmpp_2m_sde", "euler", "euler_a",
                "unipc", "heun", "ddim", "ddpm", or "lcm" for LCM models.
            spacing: where the steps lie: "karras", "exponential", "leading", "trailing" or "linspace". None: as the
                model's config says.
            clip_skip: number of last layers of the text encoder that are left out; A1111 counts one more.
            height, width: in pixels; default: the model's own size.
            latents: unit normal noise [b, h/8, w/8, 4] to use instead of noise from the seed.
            original_size, crops_coords_top_left, target_size: (height, width) and (top, left) in pixels. They tell SDXL
                how the picture was made; by default it is neither enlarged nor cropped. Other models ignore them.
            regions: for each prompt, parts of its picture that have their own prompts (see `diffusion.regions`). Where
                regions overlap, their outputs are averaged. `MergedModel.side_by_side(prompt)` gives one region for
                each concept.
            image: begin with this picture instead of noise: uint8 RGB, [h, w, 3] for all prompts or [b, h, w, 3]. It
                sets height and width.
            mask: draw only a part of `image` anew: uint8 [h, w] or [b, h, w], 255 there and 0 elsewhere.
            strength: how far the result may go from `image`: the share of the steps that is taken.
            stages: from some steps on, other parameters of the U-Net, such as those of a merge with other weights.

        Raises: UserError for a size that the model cannot make, a number out of bounds, and
            pictures that have NaN or infinity.
        """
        check_prompts(prompts, negative_prompts, regions)
        base, count = self.base, len(prompts)
        places = check_indices(indices, count)
        pictures, masks = check_original(base.models.vae, image, mask, count)
        if pictures is not None:
            height, width = pictures.shape[1:3]
        height, width = (self.image_size if side is None else side for side in (height, width))
        latents = first_latents(base.models, places, seed, height, width, latents)
        if pictures is not None:
            check_same_size(base.models.vae, pictures, latents)
        requests = map(
            Request,
            prompts,
            each_negative(negative_prompts, count, base.has_zeros_for_no_prompt),
            [()] * count if regions is None else regions,
            latents,
            draw_keys(jax.random.key(seed), places) if adds_noise(sampler) else [None] * count,
            each_size(base.models, latents, original_size, crops_coords_top_left, target_size),
            [None] * count if pictures is None else pictures,
            [None] * count if masks is None else masks,
        )
        sampling = Sampling(
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            clip_skip=clip_skip,
            strength=strength,
        )
        words = Words(base.tokenizer, token_counts(self.adapters))
        return draw_requests(base.models, dict(self.params), base.schedule, words, list(requests), sampling, stages)

    def save(
        self,
        path: str | Path,
        *,
        dtype: str = "float32",
        merge: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write a Diffusers folder that PyTorch opens, or a single original file if `path` ends in `.safetensors`.

        Gives the paths written. A single file has the concepts' tokens in files beside it. The folder or file that the
        base model was read from is never written to.

        dtype: "float32", "float16" or "bfloat16".
        merge: the record of the merge for a folder's manifest, see `merge.manifest`.
        overwrite: also replace files that this method did not write.

        Raises: UserError if the model cannot be written there.
        """
        if self.base.weights_dtype is not None:
            raise UserError(
                f"cannot save to {path}: the weights were rounded to {jnp.dtype(self.base.weights_dtype)} when loaded;"
                " load the model without weights_dtype, and save with dtype="
            )
        rows = {name: len(token_table(self.base.params, name)) for name in self.base.models.text_encoders}
        refuse_spare_rows(self.params, self.adapters, rows)
        checkpoint = replace(self.base.checkpoint, params=self.params)
        tokens = token_counts(self.adapters)
        if Path(path).suffix == ".safetensors":
            return save_single_file(path, checkpoint, tokens=tokens, dtype=dtype, overwrite=overwrite)
        save_folder(path, checkpoint, tokens=tokens, dtype=dtype, merge=merge, overwrite=overwrite)
        return [Path(path)]
