"""How much our models differ from PyTorch's at full size: whole random models in fp32, from one folder on disk.

The program writes a random Diffusers folder. diffusers and our library open it, each in its own process, and
compute the same text states, U-Net prediction, latents and pictures from the same inputs. Memory never holds two copies
of a model: SDXL takes about 15 GiB, Stable Diffusion 1.5 and 2.1 about 6. A run takes some minutes on two cores.

    python -m benchmarks.parity --model sdxl [--side 64] [--steps 2] [--disk-dtype float16] [--small]

Prints a table and one line of JSON. Exits with 1 if a model differs by more than 1e-4 of max |reference|, or a picture
by more than 2 of 255.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.command_line.options import check_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.testing.random_folder import write_model

TOLERANCE, PICTURE_TOLERANCE = 1e-4, 2
SIDES = ("torch", "jax")


def measure(folder: Path, work: Path, latents: int, steps: int) -> dict[str, Any]:
    """The arrays and measurements of both sides, which run one after the other, each in its own process."""
    sides: dict[str, Any] = {}
    for side in SIDES:
        out = work / f"{side}.npz"
        command = ["-m", "benchmarks.parity_sides", side, str(folder), str(out), str(latents), str(steps)]
        subprocess.run([sys.executable, *command], check=True)
        sides[side] = {"arrays": dict(np.load(out)), **json.loads(out.with_suffix(".json").read_text())}
    return sides


def compare(sides: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each case: the largest difference divided by the largest reference value; for pictures, of 255."""
    rows = []
    theirs, ours = (sides[side]["arrays"] for side in SIDES)
    for name in sides["torch"]["seconds"]:
        keys = sorted(key for key in theirs if key.startswith(f"{name}/"))
        is_picture = name == "generate"
        differences = [np.abs(ours[key].astype(np.float64) - theirs[key]).max() for key in keys]
        scales = [1.0 if is_picture else np.abs(theirs[key]).max() for key in keys]
        rows.append(
            {
                "case": name,
                "shape": [list(theirs[key].shape) for key in keys],
                "error": float(max(d / s for d, s in zip(differences, scales, strict=True))),
                "spread": float(min(theirs[key].std() for key in keys)),
                "tolerance": PICTURE_TOLERANCE if is_picture else TOLERANCE,
                "torch_seconds": sides["torch"]["seconds"][name][0],
                "jax_first_seconds": sides["jax"]["seconds"][name][0],
                "jax_seconds": sides["jax"]["seconds"][name][1],
            }
        )
    return rows


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15", "sd21", "sdxl"])
    parser.add_argument("--side", type=int, default=64, help="latents along one side: pixels / 8")
    parser.add_argument("--steps", type=int, default=2, help="sampling steps of the whole pictures")
    parser.add_argument(
        "--disk-dtype", default="float16", choices=["float16", "float32"], help="type of the weights in the folder"
    )
    parser.add_argument(
        "--small", action="store_true", help="use a small model with the same structure, to try the program"
    )
    args = parser.parse_args()
    check_options(args)
    with tempfile.TemporaryDirectory(prefix=f"{args.model}-") as work:
        folder = Path(work) / "model"
        count = write_model(folder, args.model, args.disk_dtype, args.small)
        print(f"wrote {count:,} parameters to {folder}", file=sys.stderr, flush=True)
        sides = measure(folder, Path(work), args.side, args.steps)
    rows = compare(sides)
    print(f"{'case':11} {'error':>9} {'torch s':>8} {'jax s':>8} {'first s':>8}")
    for row in rows:
        print(
            f"{row['case']:11} {row['error']:9.2e} {row['torch_seconds']:8.2f} {row['jax_seconds']:8.2f}"
            f" {row['jax_first_seconds']:8.2f}"
        )
    memory = {side: {name: round(sides[side][name], 2) for name in ("load_seconds", "peak_gib")} for side in SIDES}
    settings = {name: getattr(args, name) for name in ("model", "side", "steps", "disk_dtype", "small")}
    print(f"peak GiB: torch {memory['torch']['peak_gib']}, jax {memory['jax']['peak_gib']}")
    print(json.dumps({**settings, "parameters": count, **memory, "rows": rows}))
    return int(any(not row["error"] <= row["tolerance"] or row["spread"] == 0 for row in rows))


if __name__ == "__main__":
    run(lambda: sys.exit(main()))
