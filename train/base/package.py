"""The finished pocket model: a Diffusers folder, preview grids, and a README that says how it was made."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.checkpoints.diffusers import Checkpoint, save_folder
from blocklora_jax.diffusion.generate import draw_latents, generate
from blocklora_jax.diffusion.models import make_models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.pocket import architecture
from train.base.pictures import PICTURE_SETS, PictureSet
from train.engine.log import last_metrics

PREVIEW_PROMPTS = (
    "a photo of a man on a beach",
    "a photo of a woman in a city",
    "a photo of a girl in the snow",
    "a photo of a dog in a forest",
    "a photo of a cat in a room",
    "a photo of a bear in the snow",
    "a photo of a robot in a desert",
    "a photo of a car in a city",
    "a sketch of a boat on a beach",
    "a watercolour of a house in a forest",
    "a blueprint of a robot in a city",
    "a neon sign of a man at night",
    "a sepia photo of a teapot in a room",
    "a photo of a man and a dog on a beach",
    "a photo of a woman and a cat in a room",
    "a photo of a mug in a desert",
)
PREVIEW_STEPS = 25
README = """# The pocket model

A tiny Stable Diffusion (64 x 64 pixels, fp16). It knows only the pictures that the program in
`blocklora_jax/pocket/world` draws. Every picture it learnt from was drawn by this project. Weights and pictures are
under Apache-2.0, like the code.

`unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler` are a Diffusers folder that PyTorch opens too.
`image_encoder` is the CLIP image encoder that was trained with the text encoder. It is used for measuring. `judge`, if
it is there, is a small convolutional network that measures such pictures (`blocklora_jax.pocket.judge.load_judge`). It
gives unit vectors for the individual and for the variant of a scene or style, and probabilities for classes, scene and
style. `python -m train.base --report` tells how well.

Made at commit {commit} with jax {jax} by

    python -m train.base {flags}

Last line of each stage's metrics:

```json
{metrics}
```
"""


@dataclass(frozen=True)
class Packager:
    """Writes the current model of a run.

    out: the run folder, with `tokenizer`, `image_encoder` and, once the judge is trained, `judge/weights`. configs: by
    component. text_params, vae_params: the parameters with which the U-Net was trained. settings: for the README.
    learnt_from: the pictures of this run and of the runs that it continues.
    """

    out: Path
    configs: Mapping[str, Any]
    text_params: Mapping[str, Any]
    vae_params: Mapping[str, Any]
    settings: Mapping[str, Any]
    learnt_from: Sequence[PictureSet]

    def write(self, step: int, unet_params: Mapping[str, Any], preview: bool = True) -> Path:
        """Write the folder of the model, and if wanted a preview grid for `step`; returns the folder."""
        params = {"unet": unet_params, "vae": self.vae_params, "text_encoder": self.text_params}
        checkpoint = Checkpoint(
            name="pocket",
            configs=self.configs,
            params=params,
            scheduler=architecture.SCHEDULER,
            tokenizer=self.out / "tokenizer",
        )
        if preview:
            write_atomic(self.out / "previews" / f"{step:06d}.png", self.preview(checkpoint))
        folder = self.out / "model"
        save_folder(folder, checkpoint, dtype="float16")
        # Those of an earlier call are still there.
        shutil.copytree(self.out / "image_encoder", folder / "image_encoder", dirs_exist_ok=True)
        if (self.out / "judge" / "weights").is_dir():
            shutil.copytree(self.out / "judge" / "weights", folder / "judge", dirs_exist_ok=True)
        write_json(folder / PICTURE_SETS, [chosen._asdict() for chosen in self.learnt_from])
        write_atomic(folder / "README.md", self.readme().encode())
        return folder

    def preview(self, checkpoint: Checkpoint) -> bytes:
        """A PNG of the pictures that the model makes from `PREVIEW_PROMPTS`."""
        configs = checkpoint.configs
        models = make_models(configs)
        schedule = Schedule.from_json(dict(checkpoint.scheduler), "pocket scheduler")
        tokenizer, count, size = checkpoint.make_tokenizer(), len(PREVIEW_PROMPTS), architecture.IMAGE_SIZE
        ids, empty = tokenizer.encode(PREVIEW_PROMPTS), tokenizer.encode([""] * count)
        noise = draw_latents(models, jax.random.key(0), count, size, size)
        params = jax.tree.map(jnp.asarray, dict(checkpoint.params))
        images = np.asarray(generate(models, params, schedule, "ddim", ids, empty, noise, 4.0, PREVIEW_STEPS))
        return png_bytes(picture_grid(images, captions=PREVIEW_PROMPTS, columns=4, scale=3))

    def readme(self) -> str:
        """The README of the weights: what they are, and how to make them again."""
        given = {name: value for name, value in self.settings.items() if value is not None}
        flags = " ".join(f"--{name.replace('_', '-')} {_shown(value)}" for name, value in given.items())
        stages = [stage for stage in ("clip", "vae", "unet", "judge") if (self.out / stage / "metrics.jsonl").exists()]
        last = {stage: last_metrics(self.out / stage) for stage in stages}
        return README.format(flags=flags, metrics=json.dumps(last, indent=2), commit=_commit(), jax=jax.__version__)


def _shown(value: object) -> str:
    """A setting as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _commit() -> str:
    """The commit of the git checkout, or "unknown" outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
