"""Ordinary LoRAs merged as they are, against the same re-fitted into blocks and merged, on the pocket model.

Concepts of the little world are taught as ordinary LoRAs: no blocks, no erasure. Then all are merged twice: summed, and
each re-fitted into a slot of its own first. Pictures of each concept from the same noise say how much of it is left:

    lost = |merged - alone| / |base - alone|        root mean squares over pixels

where `alone` is the LoRA by itself and `base` the model without it, asked for the class noun. 0: the concept is as it was;
1: as far from it as if nothing had been taught. Prints a table and one line of JSON, and draws the pictures.

    python -m benchmarks.refit [--quick] [--concepts 15] [--steps 500] [--out runs/refit]

Fifteen concepts of 500 steps take about an hour on two cores; finished trainings under --out are used again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import merge
from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.files import write_atomic
from blocklora_jax.grid import picture_grid, png_bytes
from blocklora_jax.metrics.crosstalk import ALL, measure_crosstalk
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.concepts import Concept, draw_concept
from blocklora_jax.pocket.references import write_concept
from blocklora_jax.prompt_words import words_for
from blocklora_jax.refit import RefitConfig, refit
from train.concept import train_concept
from train.config import ConceptConfig

KINDS = ("person", "person", "animal", "object")
SCENES = ("on a beach", "in the snow", "in a city", "in a forest")


def draw_concepts(count: int, seed: int) -> list[Concept]:
    """People twice as often as animals and objects."""
    rng = np.random.default_rng(seed)
    return [draw_concept(KINDS[i % len(KINDS)], f"c{i:02d}", rng) for i in range(count)]


def teach(concept: Concept, out: Path, steps: int, layers: str, rank: int) -> Adapter:
    """The concept as an ordinary LoRA; read from `out` if it has been taught before with these settings."""
    path = out / "adapter.safetensors"
    if not path.is_file():
        pictures = out / "pictures"
        write_concept(concept, pictures)
        config = ConceptConfig(
            images=pictures, token=concept.token, class_noun=concept.class_noun, out=out / "run", layers=layers, rank=rank,
            blocks=0, erase="none", steps=steps, preview_every=0, save_every=steps, resume=(out / "run/config.json").exists(),
        )  # fmt: skip
        train_concept(config, "cpu").rename(path)
    return Adapter.load(path)


def draw_pictures(
    sd: StableDiffusion, adapter: Adapter, call: str, merged: Sequence[Adapter], params: Mapping[str, Any] | None
) -> np.ndarray:
    """Pictures of a concept in four scenes, 0..255."""
    prompts = [f"a photo of {call} {scene}" for scene in SCENES]
    return sd.generate(prompts, params=params, adapters=merged, seed=1, steps=20)


def measure(sd: StableDiffusion, loras: list[Adapter], blocks: int, config: RefitConfig) -> tuple[dict, np.ndarray]:
    """How much of each concept is lost, and all pictures."""
    partition, words = Partition(num_blocks=blocks), words_for("pocket")
    fitted, errors = [], []
    for slot, lora in enumerate(loras):
        adapter, fits = refit(sd, lora, partition, (slot,), words, config)
        fitted.append(adapter)
        errors.append({kind: fit._asdict() for kind, fit in fits.items()})
    summed = merge.compose(sd.params, loras, allow_overlap=True)
    lossless = merge.compose(sd.params, fitted)
    rows, pictures = {"summed": [], "refitted alone": [], "refitted and merged": []}, []
    for lora, own in zip(loras, fitted, strict=True):
        trigger, noun = lora.info.trigger, f"a {lora.info.class_noun}"
        base = draw_pictures(sd, lora, noun, (), None)
        alone = draw_pictures(sd, lora, trigger, [lora], merge.compose(sd.params, [lora]))
        shown = {
            "summed": draw_pictures(sd, lora, trigger, loras, summed),
            "refitted alone": draw_pictures(sd, lora, trigger, [own], merge.compose(sd.params, [own])),
            "refitted and merged": draw_pictures(sd, lora, trigger, fitted, lossless),
        }
        for name, images in shown.items():
            rows[name].append(_rms(images, alone) / _rms(base, alone))
        pictures += [base[:1], alone[:1], *(images[:1] for images in shown.values())]
    others = {}
    for name, adapters in (("summed", loras), ("refitted and merged", fitted)):
        found = measure_crosstalk(sd, adapters)
        others[name] = (found[ALL] if ALL in found else next(iter(found.values()))).others.tolist()
    return {"lost": rows, "crosstalk_of_others": others, "fits": errors}, np.concatenate(pictures)


def _rms(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)))


def _interval(values: Sequence[float], seed: int = 0) -> str:
    """Mean and its 95 % bootstrap interval over concepts."""
    rng = np.random.default_rng(seed)
    means = [np.mean(rng.choice(values, len(values))) for _ in range(2000)]
    return f"{np.mean(values):.2f} [{np.quantile(means, 0.025):.2f}, {np.quantile(means, 0.975):.2f}]"


def main() -> None:
    """Teach, merge both ways, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="three concepts, sixty steps: a smoke test, no measurement"
    )
    parser.add_argument("--concepts", type=int, default=15)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--layers", default="cross_kv")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRAs and of their re-fits")
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--erase-weight", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/refit"))
    options = parser.parse_args()
    count, steps = (3, 60) if options.quick else (options.concepts, options.steps)
    sd = StableDiffusion.from_pretrained("pocket")
    loras = []
    for concept in draw_concepts(count, options.seed):
        place = options.out / f"{options.layers}-r{options.rank}-{steps}-seed{options.seed}" / concept.name
        loras.append(teach(concept, place, steps, options.layers, options.rank))
    config = RefitConfig(rank=options.rank, erase_weight=options.erase_weight, seed=options.seed)
    results, pictures = measure(sd, loras, max(options.blocks, count), config)
    columns = ["base", "LoRA alone", *results["lost"]]
    captions = [f"{lora.name}: {column}" for lora in loras for column in columns]
    write_atomic(options.out / "refit.png", png_bytes(picture_grid(pictures, captions, columns=len(columns), scale=3)))
    print(f"{count} LoRAs ({options.layers}, rank {options.rank}, {steps} steps), K = {max(options.blocks, count)}")
    print(f"{'':<22}{'lost, mean [95 %]':>22}{'crosstalk of all others':>26}")
    for name, lost in results["lost"].items():
        others = results["crosstalk_of_others"].get(name)
        print(f"{name:<22}{_interval(lost):>22}{_interval(others) if others else '':>26}")
    print(f"pictures in {options.out / 'refit.png'}")
    print(json.dumps({**vars(options), "out": str(options.out), "concepts": count, "steps": steps, **results}))


if __name__ == "__main__":
    main()
