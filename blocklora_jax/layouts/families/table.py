"""All families of models by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from blocklora_jax.layouts.families.family import Family
from blocklora_jax.layouts.families.sd1 import SD1
from blocklora_jax.layouts.families.sd2 import SD2
from blocklora_jax.layouts.families.sdxl import SDXL

FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, SD2, SDXL)}
# The family of files and calls that do not name one.
DEFAULT_FAMILY = SD1.name

# Type checkers need literals spelled out, which would name every family a second time.
if TYPE_CHECKING:
    FamilyName = str
    FamilyOrUnknown = str
else:
    FamilyName = Literal[tuple(FAMILIES)]
    # "" where it is not known.
    FamilyOrUnknown = Literal[(*FAMILIES, "")]


def family_of_build(second_text_encoder: bool, convolution_projections: bool, cross_width: int) -> str:
    """The name of the family that agrees best with how a model is built.

    The number of text encoders counts most, then the projections, then the width of the text that the U-Net reads.
    The width counts least because small models have other widths.
    """

    def agreement(family: Family) -> tuple[bool, bool, bool]:
        return (
            family.has_second_text_encoder == second_text_encoder,
            family.has_convolution_projections == convolution_projections,
            family.cross_width == cross_width,
        )

    return max(FAMILIES.values(), key=agreement).name
