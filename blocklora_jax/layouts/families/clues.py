"""Clues that several families share. See `Clue`."""

from __future__ import annotations

import re

from blocklora_jax.layouts.families.family import Clue

# 1.x and 2.x have four down blocks, the first three with attention. SDXL has three, the first without attention. The up
# blocks are the same in reverse order.
OUTER_ATTENTION = Clue(
    "layer", 1, re.compile(r"unet/(down_blocks_0|up_blocks_[23])/attentions_|unet/(down|up)_blocks_3/")
)
THIRD_SAMPLER = Clue("layer", 2, re.compile(r"unet/(down_blocks_2/downsamplers|up_blocks_2/upsamplers)_"))
ONE_TEXT_ENCODER = Clue("name", 1, re.compile(r"lora_te_"))
