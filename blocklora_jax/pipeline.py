"""Stable Diffusion as one object that loads, takes concepts, makes pictures, and is saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checkpoints.load import load_checkpoint
from blocklora_jax.checkpoints.place import place_params
from blocklora_jax.checkpoints.single_file import save_single_file
from blocklora_jax.checks.renamed import takes_pair
from blocklora_jax.composing.compose import compose
from blocklora_jax.composing.token_rows import check_token_rows, refuse_spare_rows
from blocklora_jax.diffusion.generate import draw_keys
from blocklora_jax.diffusion.inputs import check_indices, check_prompts, each_negative, each_size, first_latents
from blocklora_jax.diffusion.models import Models, make_models
from blocklora_jax.diffusion.originals import check_original, check_same_size
from blocklora_jax.diffusion.regions import Region, side_by_side
from blocklora_jax.diffusion.requests import Request, Words, draw_requests
from blocklora_jax.diffusion.samplers.table import adds_noise
from blocklora_jax.diffusion.sampling import Sampling
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.stages import Stage
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair


class Pipeline:
    """The methods of all models, with or without concepts: make pictures, and save to a folder or file."""

    base: StableDiffusion
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


@dataclass(frozen=True, kw_only=True, repr=False)
class StableDiffusion(Pipeline):
    """A Stable Diffusion 1.x, 2.x or SDXL model: Flax modules, parameters, tokenizer and noise schedule.

    params: {"unet": …, "text_encoder": …, "vae": …}, for SDXL "text_encoder_2" too: nested dicts of fp32 arrays under
    the names of Flax Stable Diffusion.

    >>> sd = StableDiffusion.from_pretrained("pocket")
    >>> sd.generate(["a photo of a dog on a beach"], steps=2).shape
    (1, 64, 64, 3)
    """

    checkpoint: Checkpoint
    models: Models
    schedule: Schedule
    tokenizer: Tokenizer | TokenizerPair
    params: Mapping[str, Any]
    weights_dtype: Any = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        config: str | Path | None = None,
        variant: str | None = None,
        revision: str | None = None,
        dtype: Any = jnp.float32,
        remat: bool = False,
        attention: AttentionForm = "auto",
        weights_dtype: Any = None,
        on_host: Collection[str] = (),
        verify: bool = True,
    ) -> StableDiffusion:
        """Load "pocket", a Diffusers folder, a hub id, or a single original `.safetensors` file.

        config: for a single file: a folder or hub id with its configs and tokenizer (see `checkpoints.single_file`).
        variant, revision: for folders and hub ids (see `checkpoints.diffusers.load_folder`).
        dtype: type of the computation (float32 or bfloat16).
        weights_dtype: type in which kernels are kept on the device; fp32 if not given. Norms, biases and token tables
            are always fp32. Such a model draws and trains; it is not saved, and `with_adapters` needs check_base=False.
        on_host: components, such as "vae", that stay in the host's memory and go to the device only while they run.
        remat: recompute the U-Net's layers in the backward pass, so that training needs less memory.
        attention: form of the attention, see `models.attend`. auto: what the default device is best at.
        verify: whether to check the digests of files that we wrote; False for files that were edited on purpose.

        Raises: UserError, see `checkpoints.load.load_checkpoint`.
        """
        checkpoint = load_checkpoint(name, config=config, variant=variant, revision=revision, verify=verify)
        return cls(
            checkpoint=checkpoint,
            models=make_models(checkpoint.configs, dtype, remat, attention),
            schedule=Schedule.from_json(dict(checkpoint.scheduler), f"{name}/scheduler"),
            tokenizer=checkpoint.make_tokenizer(),
            params=place_params(checkpoint.params, weights_dtype, on_host),
            weights_dtype=weights_dtype,
        )

    @cached_property
    def digest(self) -> str:
        """The digest of the weights as the file has them, see `checkpoints.digest`."""
        return params_digest(self.checkpoint.params)

    @property
    def has_zeros_for_no_prompt(self) -> bool:
        """Whether text states of zeros stand for negative prompts that are not given, as in SDXL."""
        return self.models.text_encoder_2 is not None and bool(self.checkpoint.force_zeros_for_empty_prompt)

    generate = takes_pair(Pipeline.generate)
    save = takes_pair(Pipeline.save)

    @property
    def base(self) -> StableDiffusion:  # pyright: ignore[reportIncompatibleVariableOverride]
        """This model itself."""
        return self

    @property
    def adapters(self) -> tuple[Adapter, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Empty: a base model has no concepts."""
        return ()

    def with_adapters(
        self,
        adapters: Sequence[Adapter],
        weights: Sequence[float] | None = None,
        *,
        allow_overlap: bool = False,
        check_base: bool = True,
    ) -> MergedModel:
        """This model with concepts in it, as a new object. This one is not changed.

        weights: the factor of each concept, 1 for all by default. allow_overlap, check_base: see `compose`.

        Raises: UserError naming every reason why the adapters cannot be merged.
        """
        params = compose(self.params, adapters, weights, allow_overlap=allow_overlap, check_base=check_base)
        return self.with_params(params, adapters, weights)

    def with_params(
        self, params: Mapping[str, Any], adapters: Sequence[Adapter], weights: Sequence[float] | None = None
    ) -> MergedModel:
        """This model with `params`, which some merge method made from it and `adapters`.

        weights: only shown to people; 1 for all by default.

        Raises: UserError if `params` does not have the concepts' tokens in this order.
        """
        factors = (1.0,) * len(adapters) if weights is None else tuple(weights)
        return MergedModel(base=self, params=params, adapters=tuple(adapters), weights=factors)

    def __repr__(self) -> str:
        size = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.params))
        return f"StableDiffusion({self.checkpoint.name!r}, {self.checkpoint.family}, {size / 1e6:.1f} M parameters)"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MergedModel(Pipeline):
    """A model with concepts in it, made by `StableDiffusion.with_adapters`.

    base: the model without concepts.
    params: the merged parameters.
    adapters: the concepts in them, in the order in which their tokens were appended.
    weights: the factor of each concept.

    Raises: UserError if `params` does not have the concepts' tokens in this order.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> sd = StableDiffusion.from_pretrained("pocket")
    >>> ada = random_adapter("ada", sd.params, slots=(0,), layers="cross_kv")
    >>> sd.with_adapters([ada], weights=[0.8])
    MergedModel('pocket' with ada (0.8))
    """

    base: StableDiffusion
    params: Mapping[str, Any]
    adapters: tuple[Adapter, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.adapters):
            raise UserError(f"{len(self.weights)} weights for {len(self.adapters)} adapters: give one for each")
        first_rows = {name: tower.config.vocab_size for name, tower in self.base.models.text_encoders.items()}
        check_token_rows(self.params, self.adapters, first_rows)

    def side_by_side(self, prompt: str) -> list[Region]:
        """One region of the picture for each concept that the prompt calls; see `diffusion.regions.side_by_side`."""
        return side_by_side(prompt, self.adapters)

    def __repr__(self) -> str:
        concepts = [f"{a.name} ({w:g})" for a, w in zip(self.adapters, self.weights, strict=True)]
        shown = ", ".join(concepts[:8]) + (f", … {len(concepts)} in all" if len(concepts) > 8 else "")
        return f"MergedModel({self.base.checkpoint.name!r} with {shown or 'no concepts'})"
