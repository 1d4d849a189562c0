"""A study for measuring: a model, a listing of concepts, and the command that trains a share of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blocklora_jax.io.atomic import write_json
from blocklora_jax.testing.tiny_model import SIZE, save_tiny

# The tiny model has no basis, and knows few words.
_TINY_FLAGS = (
    "--basis None --assignment layer --token-side 0 --token-start noun --negatives-from nouns --rank 2 --batch 2"
    " --warmup-steps 1 --random-subjects dog owl"
).split()
_TINY_WORDS = ["--random-styles", "a photo of", "--random-scenes", "in the snow"]
_COMMON = "--cpu --no-previews --log-every 1".split()


@dataclass(frozen=True)
class Study:
    """Concepts to be trained on the tiny random model.

    listing: the file of concepts. flags: the settings that all share. folder: for runs.
    """

    listing: Path
    flags: tuple[str, ...]
    folder: Path

    def command(self, out: Path, *more: str) -> list[str]:
        """The command that trains the concepts in `out`."""
        named = ["--concepts", str(self.listing), "--out", str(out)]
        return [sys.executable, "-m", "train.concepts", *named, *self.flags, *more]

    def start(self, out: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
        """Start the command. Its output goes to `log`."""
        environment = {
            **os.environ,
            # Processes that compile nothing are measured and killed while they train.
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "HF_HUB_OFFLINE": "1",
        }
        with log.open("ab") as file:
            return subprocess.Popen(self.command(out, *more), env=environment, stdout=file, stderr=file)


def make_study(folder: Path, concepts: int, steps: int, save_every: int = 2) -> Study:
    """A study of `concepts` concepts with pictures of noise, `steps` steps each."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    (folder / "pictures").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "pictures" / "0.png")
    model = save_tiny(folder / "model", levels=1)
    entries = {
        f"c{i:03d}": {"images": "pictures", "class_noun": "man", "seed": i, "slot": i % 16} for i in range(concepts)
    }
    # JSON is YAML.
    write_json(folder / "concepts.yaml", entries)
    flags = ["--model", str(model), "--blocks", "16", "--steps", str(steps), "--save-every", str(save_every)]
    return Study(folder / "concepts.yaml", (*flags, *_TINY_FLAGS, *_TINY_WORDS, *_COMMON), folder)


def read_adapters(out: Path) -> dict[str, bytes]:
    """The finished adapter files of a run, by concept."""
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("*/adapter.safetensors"))}
