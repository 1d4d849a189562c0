"""LoRA files of the size that people have: all attention layers of the U-Net of Stable Diffusion 1.5, random, fp16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.compose import STAGES, TEXT_WIDTH

_NAMES = ("to_q", "to_k", "to_v", "to_out_0")


def layers() -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the adapted layers, by kohya's names."""
    shapes = {}
    for stage, transformers, channels in STAGES:
        for index in range(transformers):
            root = f"lora_unet_{stage}_attentions_{index}_transformer_blocks_0"
            for attention in ("attn1", "attn2"):
                for name in _NAMES:
                    reads_text = attention == "attn2" and name in ("to_k", "to_v")
                    shapes[f"{root}_{attention}_{name}"] = (TEXT_WIDTH if reads_text else channels, channels)
    return shapes


def make_full_size(folder: Path, count: int, rank: int = 16) -> None:
    """Write `count` LoRAs in kohya's layout, 6.4 MB each at rank 16."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng, tensors = np.random.default_rng(number), {}
        for name, (inputs, outputs) in layers().items():
            down, up = rng.standard_normal((rank, inputs), np.float32), rng.standard_normal((outputs, rank), np.float32)
            tensors[f"{name}.lora_down.weight"] = (down / 20).astype(np.float16)
            tensors[f"{name}.lora_up.weight"] = (up / 20).astype(np.float16)
            tensors[f"{name}.alpha"] = np.array(rank / 2, np.float16)
        metadata = {"modelspec.trigger_phrase": f"tok{number} woman"}
        save_file(tensors, folder / f"lora_{number:03}.safetensors", metadata=metadata)
