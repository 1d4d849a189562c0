"""The joint fit: changes adapters that share weights so that their sum keeps every concept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import tyro

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.check import check_merge
from blocklora_jax.io.tree_paths import flatten_params
from merge.compose import compose
from merge.methods.finished_groups import FinishedGroups
from merge.methods.joint_equations import Keep, fit_groups, layers_of, pair_of, refuse_layers
from merge.methods.method import Merged, NoSettings

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.input_statistics import InputGroup
    from blocklora_jax.prompts.random_prompts import PromptWords


@dataclass(frozen=True, kw_only=True)
class JointFitSettings(NoSettings):
    """Settings of the joint fit."""

    erase_weight: Annotated[float, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the error on ordinary prompts, relative to that on one concept's own prompts."""
    keep_strength: bool = False
    """Keep the whole strength of every concept. Without it, the fit of many makes each a little weaker."""
    attention: bool = False
    """Weight text positions by the U-Net's attention to them. A slightly better fit, but slower: the U-Net must run."""


def fit_jointly(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    *,
    erase_weight: float = 1.0,
    keep_strength: bool = False,
    words: PromptWords | None = None,
    attention: bool = False,
    check_base: bool = True,
    memory: float | None = None,
    keep: Keep = lambda pairs: pairs,
    unfinished: Path | None = None,
) -> list[Adapter]:
    """The adapters, changed so that they disturb each other least, without pictures or training. See `fit_to_inputs`.

    Merge all of them together by `compose(params, …, allow_overlap=True)`, because each relies on the others.

    Args:
        sd: the base model.
        adapters: the adapters to fit.
        erase_weight: weight of ordinary prompts, relative to one concept's own prompts.
        keep_strength: keep the whole output of every concept along the wanted one, see `fit_to_inputs`.
        words: the words of the prompts. Default: a list that fits the model.
        attention: weight text positions by the U-Net's attention to them. A slightly better fit, but slower, because
            the U-Net must run.
        check_base: refuse a base model that the adapters were not trained on.
        memory: GiB that may be used beside the weights, see `probing.memory.default_memory`. With less, fewer prompts
            and layers are observed at once, which takes longer and gives the same within rounding.
        keep: the results of each layer are passed through it. `adapters.on_disk.arrays_on_disk` keeps them on the disk.
        unfinished: a folder for the layers that are fitted, so that the same call goes on after an interruption. It is
            not removed, see `remove_finished`. Only a fit that measures its layers in several groups, for lack
            of memory, goes on in the middle.

    Raises: UserError like `compose`, for convolutions wider than 1x1, and if `unfinished` cannot be written.

    >>> from blocklora_jax.pipeline import StableDiffusion
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> sd = StableDiffusion.from_pretrained("pocket")
    >>> whole = {"slots": (), "layers": "cross_kv", "partition": None}
    >>> adapters = [random_adapter(name, sd.params, **whole) for name in ("ada", "bob")]
    >>> model = sd.with_adapters(fit_jointly(sd, adapters), allow_overlap=True)
    >>> [adapter.name for adapter in model.adapters]
    ['ada', 'bob']
    """
    check_merge(sd.params, adapters, None, allow_overlap=True, check_base=check_base)
    groups = measured_groups(sd, adapters, words, attention=attention, memory=memory)
    settings = {"base": sd.digest, "lambda": erase_weight, "attention": attention, "words": words}
    settings |= {"keep_strength": True} if keep_strength else {}
    finished = None if unfinished is None else FinishedGroups(unfinished, adapters, settings)
    return fit_groups(
        adapters, groups, erase_weight=erase_weight, keep_strength=keep_strength, keep=keep, finished=finished
    )


def measured_groups(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    words: PromptWords | None = None,
    *,
    attention: bool = False,
    memory: float | None = None,
) -> Iterator[InputGroup]:
    """The layers' inputs on each concept's prompts and on ordinary prompts (see `input_groups`).

    Raises: UserError for convolutions wider than 1x1.
    """
    refuse_layers(_wide_layers(sd.params, adapters))
    # Imported here, because it needs Flax, which merging alone does not need.
    from blocklora_jax.probing.input_statistics import input_groups

    # On the device, because NumPy parameters would be copied there at every call. The autoencoder is not used.
    used = {component: jax.device_put(tree) for component, tree in sd.params.items() if component != "vae"}
    yield from input_groups(replace(sd, params=used), adapters, words, attention=attention, memory=memory)


def _wide_layers(params: Mapping[str, Any], adapters: Sequence[Adapter]) -> list[str]:
    """The adapted layers that are convolutions wider than 1x1."""
    kernels = flatten_params(params)
    pairs = {layer: pair for layer in layers_of(adapters) for a in adapters if (pair := pair_of(a, layer)) is not None}
    return [layer for layer, pair in pairs.items() if kernels[f"{layer}/kernel"].shape[-2] != len(pair.lora_A)]


def merge_by_joint_fit(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: JointFitSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """The joint fit and then the sum, with the common signature. The merged adapters are the results of the fit."""
    check_merge(sd.params, adapters, weights, allow_overlap=True, check_base=check_base)
    fitted = fit_jointly(
        sd, adapters, check_base=False,
        erase_weight=settings.erase_weight, keep_strength=settings.keep_strength, attention=settings.attention,
    )  # fmt: skip
    return Merged(compose(sd.params, fitted, weights, allow_overlap=True, check_base=False), fitted)
