"""The record of one family of models. It holds everything in which the family differs from the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Clue(NamedTuple):
    """A pattern that occurs only in LoRAs of the families whose records hold it. Several families can share a clue.

    Attributes:
        kind: where to look: in the "component/path" of layers, in the names as the file spells them, or in its header.
        rank: clues of one kind are used in this order, the strongest first.
        pattern: matched at the start of layers and names, and anywhere in the header.
    """

    kind: Literal["layer", "name", "header"]
    rank: int
    pattern: re.Pattern[str]


class PublishedConfig(NamedTuple):
    """A repository with configs and a tokenizer. Single files need it, because they hold neither.

    Attributes:
        name: what users call it: "sd15".
        repository: its hub id.
        prediction: what its models predict, if the family has several configs.
        when: which models it is for. Shown in the message that asks the user to choose one of several.
    """

    name: str
    repository: str
    prediction: str = ""
    when: str = ""


@dataclass(frozen=True)
class Family:
    """One kind of Stable Diffusion.

    Attributes:
        name: what adapters and options call it: "sd1".
        title: what messages call it: "Stable Diffusion 1.x".
        sizes: by component, the fields of the published model's config that differ from the defaults of
            `models.config`. They determine the widths of the text and whether projections are convolutions.
        configs: published configs; the first is the one that `sizes` describes.
        pipelines: names of diffusers' classes; the first makes pictures from text.
        tag: the tag for models of the family on Hugging Face's hub.
        architecture: the value of "modelspec.architecture" in single files.
        velocity_architecture: the same for models that predict velocity, if it differs.
        marks_velocity: whether an empty tensor in a single file says that the model predicts velocity.
        kohya_prefixes: by component, the beginning of layer names in kohya's layout.
        kohya_ldm_names: whether U-Net layers in kohya's layout have the names of LDM's code, not those of diffusers.
        ldm_prefixes: by component, the beginning of keys in original single files.
        ldm_root: a beginning of keys that occurs only in single files of this family.
        open_clip: text encoders that single files hold under OpenCLIP's names.
        clues: they show a LoRA's family, besides the widths and the projections.
    """

    name: str
    title: str
    sizes: Mapping[str, Mapping[str, Any]]
    configs: tuple[PublishedConfig, ...]
    pipelines: tuple[str, ...]
    tag: str
    architecture: str
    kohya_prefixes: Mapping[str, str]
    ldm_prefixes: Mapping[str, str]
    ldm_root: str
    open_clip: frozenset[str] = frozenset()
    clues: tuple[Clue, ...] = ()
    velocity_architecture: str = ""
    marks_velocity: bool = False
    kohya_ldm_names: bool = False

    @property
    def has_second_text_encoder(self) -> bool:
        """Whether the models read a prompt with two text encoders."""
        return "text_encoder_2" in self.sizes

    @property
    def has_convolution_projections(self) -> bool:
        """Whether `proj_in` and `proj_out` of the U-Net's attentions are 1x1 convolutions; else they are linear."""
        return not self.sizes["unet"].get("use_linear_projection", False)

    @property
    def cross_width(self) -> int:
        """Width of the text states that the published U-Net reads."""
        return self.sizes["unet"]["cross_attention_dim"]

    @property
    def text_width(self) -> int:
        """Width of the published first text encoder."""
        return self.sizes["text_encoder"]["hidden_size"]
