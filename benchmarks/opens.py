"""Whether PyTorch's diffusers, in this or another version, opens our files and gets the same weights.

The files hold small random models of Stable Diffusion 1.x, 2.x and SDXL, as folders and as single files, and merged
adapters as LoRAs in every layout with their tokens. Another Python opens them and returns its weights. Prints a table
and one line of JSON. Exits with 1 if a weight differs by more than 1e-6, or if a merged model equals the base.

    python -m benchmarks.opens [--python path/to/python]

The other Python needs torch, diffusers, transformers, peft and safetensors; it does not need this project.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
# The small models are those of the tests.
sys.path.insert(0, str(ROOT / "tests"))

import merge  # noqa: E402
from blocklora_jax.adapters.concept_tokens import token_counts  # noqa: E402
from blocklora_jax.checkpoints.checkpoint import Checkpoint  # noqa: E402
from blocklora_jax.checkpoints.diffusers import save_folder  # noqa: E402
from blocklora_jax.checkpoints.single_file import save_single_file  # noqa: E402
from blocklora_jax.command_line.runner import run  # noqa: E402
from blocklora_jax.layouts.torch_names import to_torch  # noqa: E402
from blocklora_jax.testing.random_adapter import random_adapter  # noqa: E402
from blocklora_jax.testing.small_families import FAMILIES, make_family  # noqa: E402

TOLERANCE = 1e-6


def make_jobs(family: str, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """A list of files to open, the parameters of the base, and the merged ones."""
    checkpoint = make_family(family, folder)
    adapters = [
        random_adapter(name, checkpoint.params, slots=(slot,), layers="full+text_encoder", vectors=2)
        for slot, name in enumerate(("ada", "bob"))
    ]
    params, tokens = merge.compose(checkpoint.params, adapters), token_counts(adapters)
    merged: Checkpoint = dataclasses.replace(checkpoint, params=params)
    save_folder(folder / "base", checkpoint)
    save_folder(folder / "merged", merged, tokens=tokens)
    save_single_file(folder / "base.safetensors", checkpoint)
    save_single_file(folder / "merged.safetensors", merged, tokens=tokens)
    jobs = [
        job(family, folder, "base folder", "base"),
        job(family, folder, "merged folder", "merged"),
        job(family, folder, "base file", "base", single_file="base"),
        job(family, folder, "merged file", "base", single_file="merged", tokens=files(folder, "merged", tokens)),
    ]
    for layout in ("diffusers", "kohya"):
        merge.export(adapters, folder / f"{layout}.safetensors", layout)
        token_files = files(folder, layout, tokens)
        jobs.append(job(family, folder, f"LoRA, {layout}", "base", lora=layout, tokens=token_files))
    token_files = {token: str(folder / "kohya.embeddings" / f"{token.strip('<>')}.safetensors") for token in tokens}
    jobs.append(job(family, folder, "A1111 embeddings", "base", lora="kohya", tokens=token_files))
    return jobs, dict(checkpoint.params), dict(params)


def files(folder: Path, stem: str, tokens: dict[str, int]) -> dict[str, str]:
    """The files of tokens beside the file `stem`, by token."""
    return {token: str(folder / f"{stem}.{token.strip('<>')}.safetensors") for token in tokens}


def job(family: str, folder: Path, name: str, config: str, **options: Any) -> dict[str, Any]:
    """One file or folder to open, for `benchmarks.opens_child`."""
    parts = ["unet", "text_encoder", *(["text_encoder_2"] if family == "sdxl" else [])]
    paths = {
        key: str(folder / f"{options[key]}.safetensors") if options.get(key) else "" for key in ("single_file", "lora")
    }
    return {
        "name": name,
        "pipeline": "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline",
        "folder": str(folder / config),
        "parts": parts if paths["lora"] else [*parts, "vae"],
        "tokens": options.get("tokens", {}),
        "out": str(folder / f"{name.replace(' ', '_').replace(',', '')}.out"),
        **paths,
    }


def errors(job: dict[str, Any], base: dict[str, Any], merged: dict[str, Any]) -> dict[str, float]:
    """The largest difference to our weights; for merged models also the largest change, which must not be zero."""
    theirs = load_file(job["out"])
    if job["name"].startswith("base "):
        return {"error": largest_difference(job, theirs, base), "change": 0.0}
    parts = {**job, "parts": ["unet"]}
    return {"error": largest_difference(job, theirs, merged), "change": largest_difference(parts, theirs, base)}


def largest_difference(job: dict[str, Any], theirs: dict[str, np.ndarray], params: dict[str, Any]) -> float:
    """The largest difference over all weights of the job's parts; infinity if there are other tensors."""
    worst = 0.0
    for part in job["parts"]:
        for key, array in to_torch(part, params[part]).items():
            got = theirs.get(f"{part}/{key}")
            if got is None or got.shape != array.shape:
                return float("inf")
            # Comparisons with NaN are false, so it must be handled separately.
            worst = max(worst, float(np.nan_to_num(np.abs(got - array).max(), nan=np.inf)))
    return worst


def open_family(family: str, python: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of the table for one family, and the versions of the packages that opened it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs, base, merged = make_jobs(family, folder)
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [python, str(Path(__file__).with_name("opens_child.py")), str(folder / "jobs.json")]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        except OSError as error:
            raise SystemExit(f"--python {python} cannot be run: {error.strerror}") from error
        if done.returncode:
            raise SystemExit(f"{python} failed on {family}:\n{done.stderr[-3000:]}")
        rows = [{"family": family, "what": job["name"], **errors(job, base, merged)} for job in jobs]
        return rows, json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python that opens the files; default: this one")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    args = parser.parse_args()
    rows, versions = [], {}
    for family in args.families:
        family_rows, versions = open_family(family, args.python)
        rows += family_rows
    for row in rows:
        print(f"{row['family']:6} {row['what']:20} error {row['error']:8.2e}, change {row['change']:8.2e}")
    print(json.dumps({"versions": versions, "tolerance": TOLERANCE, "rows": rows}))
    missing = [row for row in rows if not row["what"].startswith("base ") and row["change"] < 0.1]
    return int(bool(missing) or any(not row["error"] <= TOLERANCE for row in rows))


if __name__ == "__main__":
    run(lambda: sys.exit(main()))
