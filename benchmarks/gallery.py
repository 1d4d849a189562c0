"""The README's picture: what two concepts look like in their references, before, alone, and merged.

`python -m benchmarks.gallery runs/ada/adapter.safetensors runs/rex/adapter.safetensors --out docs/pictures/spine.png`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

import merge
from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.files import write_atomic
from blocklora_jax.grid import picture_grid, png_bytes
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.references import reference_folder

SCENES = ("on a beach", "in the snow", "in a city", "in a forest")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw the gallery of two packaged concepts."""

    files: Positional[tuple[Path, Path]]
    """Adapters of two packaged concepts, such as ada and rex."""
    out: Path = Path("docs/pictures/spine.png")
    seed: int = 0


def main() -> None:
    """The command line."""
    options = tyro.cli(Options, description=__doc__)
    sd = StableDiffusion.from_pretrained("pocket")
    adapters = [Adapter.load(path) for path in options.files]
    one, two = (adapter.info for adapter in adapters)
    merged = merge.compose(sd.params, adapters)
    rows: list[tuple[str, np.ndarray]] = []
    for adapter in adapters:
        info = adapter.info
        alone = merge.compose(sd.params, [adapter])
        plain = [f"a photo of a {info.class_noun} {scene}" for scene in SCENES]
        called = [f"a photo of {info.trigger} {scene}" for scene in SCENES]
        rows += [
            (f"{info.name}: references", _references(info.name)),
            (f"base: a {info.class_noun} …", sd.generate(plain, seed=options.seed)),
            (f"alone: {info.trigger} …", sd.generate(called, params=alone, adapters=[adapter], seed=options.seed)),
            (f"merged: {info.trigger} …", sd.generate(called, params=merged, adapters=adapters, seed=options.seed)),
        ]
    both = [f"a photo of {one.trigger} and {two.trigger} {scene}" for scene in SCENES]
    rows.append(("merged: both …", sd.generate(both, params=merged, adapters=adapters, seed=options.seed)))
    images = np.concatenate([images for _, images in rows])
    captions = [f"{title} {scene}" for title, _ in rows for scene in SCENES]
    captions = [c if "references" not in c else c.split(":")[0] + ", a reference" for c in captions]
    write_atomic(options.out, png_bytes(picture_grid(images, captions, columns=len(SCENES), scale=3)))
    print(f"wrote {options.out}")


def _references(name: str) -> np.ndarray:
    paths = sorted(reference_folder(name).glob("*.png"))[: len(SCENES)]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


if __name__ == "__main__":
    main()
