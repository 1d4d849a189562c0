"""The record of one family of models: all in which it differs from the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Clue(NamedTuple):
    """A pattern found only in LoRAs of the families whose records hold it. Hashable, so that families share one.

    Attributes:
        kind: where to look: in "component/path" of a layer, in a name as the file spells it, or in its header.
        rank: clues of one kind are heard in this order, the strongest first.
        pattern: matched at the start of layers and names, and anywhere in the header.
    """

    kind: Literal["layer", "name", "header"]
    rank: int
    pattern: re.Pattern[str]


class PublishedConfig(NamedTuple):
    """Published configs and a tokenizer, for single files, which hold neither.

    Attributes:
        name: what users call it: "sd15".
        repository: its hub id.
        prediction: what its models predict, where a family has several configs.
        when: which models it is for, for the message that asks which of several.
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
            `models.config`. From these follow the text's widths, and whether projections are convolutions.
        configs: published configs; the first is the one of `sizes`.
        pipelines: diffusers' classes; the first makes pictures from text.
        tag: the tag of Hugging Face's hub for models of the family.
        architecture, velocity_architecture: what single files say in "modelspec.architecture"; the second, if it is
            given, where the model predicts velocity.
        marks_velocity: single files say by an empty tensor that the model predicts velocity.
        kohya_prefixes: by component, what names of layers begin with in kohya's layout.
        kohya_ldm_names: in kohya's layout U-Net layers have the names of LDM's code, not those of diffusers.
        ldm_prefixes: by component, what keys begin with in original single files.
        ldm_root: what some key begins with only in single files of this family.
        open_clip: text encoders that single files hold under OpenCLIP's names.
        clues: by which a LoRA's family is recognised, beside the widths and the projections.
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
        """Whether it reads a prompt with two text encoders."""
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
