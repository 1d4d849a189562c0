"""Opens an exported LoRA with diffusers, and compares the weights with ours: `python -m benchmarks.library.open`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checkpoints.diffusers import load_folder
from blocklora_jax.layouts.torch_names import to_torch

# fp32 sums of rank 32 on both sides.
_TOLERANCE = 1e-5


def main() -> None:
    """Arguments: the model's folder and the LoRA file. Exits with 1 if any weight differs."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    model, file = map(Path, sys.argv[1:])
    pipe = StableDiffusionPipeline.from_pretrained(str(model), safety_checker=None, local_files_only=True)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    pipe.fuse_lora(components=["unet", "text_encoder"])
    pipe.unload_lora_weights()
    base = load_folder(str(model)).params
    ours = merge.compose(base, [Adapter.load(file)], check_base=False)
    largest = changed = 0.0
    for part in ("unet", "text_encoder"):
        theirs = getattr(pipe, part).state_dict()
        before = to_torch(part, base[part])
        for key, weight in to_torch(part, ours[part]).items():
            other = theirs.get(key, theirs.get(key.removeprefix("text_model."))).numpy()
            largest = max(largest, float(np.abs(weight - other).max() / np.abs(weight).max()))
            changed += bool((weight != before[key]).any())
    print(f"{changed:.0f} weights changed; diffusers' differ from ours by {largest:.1e} of the largest entry at most")
    raise SystemExit(0 if largest < _TOLERANCE and changed else 1)


if __name__ == "__main__":
    main()
