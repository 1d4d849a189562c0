"""A base model, and a model with concepts in it, as objects that make pictures and are saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checkpoints.load import load_checkpoint
from blocklora_jax.checkpoints.place import place_params
from blocklora_jax.checks.renamed import takes_pair
from blocklora_jax.composing.compose import compose
from blocklora_jax.composing.token_rows import check_token_rows
from blocklora_jax.diffusion.inputs import check_indices, check_prompts
from blocklora_jax.diffusion.models import Models, make_models
from blocklora_jax.diffusion.originals import check_original
from blocklora_jax.diffusion.refine import in_chunks, plan_close_ups, refine
from blocklora_jax.diffusion.regions import Region, side_by_side
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.pipeline.pipeline import Pipeline
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair


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

    def refine(
        self,
        pictures: Any,
        prompts: Sequence[str],
        *,
        regions: Sequence[Sequence[Region]] | None = None,
        strength: float = 0.65,
        negative_prompts: Sequence[str] | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        **settings: Any,
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """The pictures with each of several people and objects drawn again by itself: uint8 RGB [b, h, w, 3].

        Each is found in its region, cut out, enlarged, drawn from there with a prompt that calls no other, and put
        back. Pictures without such regions are returned as they are.

        regions: those that the pictures were drawn with; `side_by_side` of each prompt if not given. strength: how far
        each person or object may change, as in `generate`. settings: other settings of `generate`, such as steps.

        Raises: UserError as `generate` does.

        >>> from blocklora_jax.testing.random_adapter import random_adapter
        >>> sd = StableDiffusion.from_pretrained("pocket")
        >>> concepts = [random_adapter(name, sd.params, slots=(i,)) for i, name in enumerate(("ada", "bob"))]
        >>> model, prompts = sd.with_adapters(concepts), ["a photo of <ada> man and <bob> man"]
        >>> pictures = model.generate(prompts, regions=[model.side_by_side(prompts[0])], steps=2)
        >>> model.refine(pictures, prompts, steps=2).shape
        (1, 64, 64, 3)
        """
        regions = [self.side_by_side(prompt) for prompt in prompts] if regions is None else regions
        check_prompts(prompts, negative_prompts, regions)
        given, _ = check_original(self.base.models.vae, pictures, None, len(prompts))
        if given is None:
            raise UserError("there are no pictures to refine: give those that `generate` made")
        places = check_indices(indices, len(prompts))
        negatives = (
            None if negative_prompts is None else list(negative_prompts) * (len(prompts) // len(negative_prompts))
        )

        def draw(words: Sequence[str], *, rows: Sequence[int], noise: int = 0, **own: Any) -> np.ndarray:
            of_rows = None if negatives is None else [negatives[row] for row in rows]
            numbers = [places[row] for row in rows]
            # Other seeds that are near, and no larger than a seed can be.
            own |= {"seed": seed ^ noise, "indices": numbers, "negative_prompts": of_rows}
            return self.generate(words, **{**settings, **own})

        close_ups = plan_close_ups(prompts, regions, self.adapters)
        return refine(in_chunks(draw, len(prompts)), given, close_ups, strength)

    def __repr__(self) -> str:
        concepts = [f"{a.name} ({w:g})" for a, w in zip(self.adapters, self.weights, strict=True)]
        shown = ", ".join(concepts[:8]) + (f", … {len(concepts)} in all" if len(concepts) > 8 else "")
        return f"MergedModel({self.base.checkpoint.name!r} with {shown or 'no concepts'})"
