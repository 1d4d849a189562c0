"""Opens each file with diffusers and writes the weights that it gets. `benchmarks.opens` runs it with another Python.

It does not import this project.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file


def open_pipeline(job: dict) -> Any:
    """The pipeline of a job, with its LoRA fused and its tokens added."""
    kind = getattr(diffusers, job["pipeline"])
    if job["single_file"]:
        pipeline = kind.from_single_file(job["single_file"], config=job["folder"], local_files_only=True)
    else:
        pipeline = kind.from_pretrained(job["folder"], local_files_only=True)
    if job["lora"]:
        # Folder and name, because without a network diffusers 0.35 accepts no other form, even for a local file.
        folder, name = os.path.split(job["lora"])
        pipeline.load_lora_weights(folder, weight_name=name)
        pipeline.fuse_lora(components=job["parts"])
        pipeline.unload_lora_weights()
    for token, file in job["tokens"].items():
        vectors = load_file(file)
        if "clip_g" not in vectors:
            pipeline.load_textual_inversion(file, **({"token": token} if "emb_params" in vectors else {}))
            continue
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            tower, tokenizer = getattr(pipeline, "text_encoder" + suffix), getattr(pipeline, "tokenizer" + suffix)
            pipeline.load_textual_inversion(vectors[key], token, text_encoder=tower, tokenizer=tokenizer)
    return pipeline


def main() -> None:
    """Open every job in the list that the command line names."""
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    for job in jobs:
        pipeline, tensors = open_pipeline(job), {}
        for part in job["parts"]:
            for key, value in getattr(pipeline, part).state_dict().items():
                plain = not part.startswith("text") or key.startswith("text_")
                tensors[f"{part}/{key if plain else 'text_model.' + key}"] = value.detach().float().clone().contiguous()
        save_file(tensors, job["out"])
    versions = {
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
