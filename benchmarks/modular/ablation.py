"""What each choice is worth: `python -m benchmarks.modular.ablation`.

Every variant of the training teaches the same concepts (not those of the bench), which are measured alone and merged.
Results are kept under --out and used again; --only names a few. Prints a table and writes ablation.md and ablation.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.modular.__main__ import say
from benchmarks.modular.concepts import HELD_OUT_SEED, draw_concepts
from benchmarks.modular.evaluate import Bench
from benchmarks.modular.measure import Measures
from benchmarks.modular.methods import METHODS, check_known
from benchmarks.modular.pictures import Artist
from benchmarks.modular.report import mean_over, retention, write_rows
from benchmarks.modular.teach import teach
from blocklora_jax.command import run
from blocklora_jax.metrics.crosstalk import ALL, measure_crosstalk
from blocklora_jax.pipeline import StableDiffusion

# What each differs in from the defaults of train.concept.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "neither blocks nor erasure, rank 5": {"rank": 5, "blocks": 0, "erase": "none"},
    "neither, rank 16": {"blocks": 0, "erase": "none"},
    "blocks only": {"erase": "none"},
    "erasure only, rank 5": {"rank": 5, "blocks": 0},
    "erasure only, rank 16": {"blocks": 0},
    "erasure only, rank 5, lambda 10": {"rank": 5, "blocks": 0, "lambda": 10.0},
    "erasure only, rank 5, lambda 100": {"rank": 5, "blocks": 0, "lambda": 100.0},
    "erasure only, rank 5, lambda 30, spread 2": {"rank": 5, "blocks": 0, "lambda": 30.0, "token_spread": 2.0},
    "axis out": {"axis": "out"},
    "axis out, lambda 10": {"axis": "out", "lambda": 10.0},
    "axis grid": {"axis": "grid"},
    "K = 4, a slot each": {"blocks": 4},
    "K = 64, 4 slots each": {"blocks": 64, "slots_each": 4},
    "rank 4": {"rank": 4},
    "rank 32": {"rank": 32},
    "lambda 0.1": {"lambda": 0.1},
    "lambda 10": {"lambda": 10.0},
    "lambda 100": {"lambda": 100.0},
    "form epsilon": {"erase": "epsilon"},
    "strangers that resemble nobody": {"strangers": []},
    "strangers that resemble nobody, where tokens start": {"strangers": [], "foreign_spread": 1.0},
    "erasure only, rank 5, lambda 10, strangers that resemble nobody": {
        "rank": 5,
        "blocks": 0,
        "lambda": 10.0,
        "strangers": [],
    },
    "erasure only, rank 5, lambda 10, tokens as they are drawn": {
        "rank": 5,
        "blocks": 0,
        "lambda": 10.0,
        "strangers": [],
        "token_learning_rate": 0.0,
    },
    "6 random rows": {"random_batch": 6},
    "no own class among random prompts": {"random_shares": {"own_class": 0.0}},
    "no foreign tokens": {"random_shares": {"foreign": 0.0}},
    "no empty prompt": {"random_shares": {"empty": 0.0}},
    "tokens start at the noun": {"token_spread": 0.05},
    "no tokens": {"token_vectors": 0},
    "1 token vector": {"token_vectors": 1},
    "4 token vectors": {"token_vectors": 4},
    "tokens alone": {"learning_rate": 0.0, "erase": "none"},
    "layers: attention": {"layers": "attention"},
    "layers: cross_kv+text_encoder": {"layers": "cross_kv+text_encoder"},
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach and measure the variants."""

    out: Path = Path("runs/ablation")
    only: tuple[str, ...] = tuple(VARIANTS)
    concepts: int = 4
    steps: int = 300
    batch: int = 6
    seed: int = HELD_OUT_SEED
    prompts: int = 8
    sampler_steps: int = 15

    def __post_init__(self) -> None:
        check_known("--only", self.only, VARIANTS)


def measure(options: Options, sd: StableDiffusion, name: str) -> dict[str, Any]:
    """Alone, merged, and crosstalk of one variant."""
    say(name)
    concepts = draw_concepts(options.concepts, options.seed)
    settings, folder = dict(VARIANTS[name]), options.out / name.replace(" ", "-").replace(":", "")
    each = settings.pop("slots_each", 1)
    settings = {"steps": options.steps, "batch": options.batch, "seed": options.seed, **settings}
    adapters = teach(concepts, settings, folder, options.concepts, 16, each)
    artist = Artist(sd, adapters, options.seed, options.sampler_steps)
    bench = Bench(concepts, artist, Measures(sd, concepts, options.seed), folder / "results", options.prompts)
    method = METHODS["sum" if settings.get("blocks") == 0 else "blocklora"]
    alone = bench.cached("alone", lambda: bench.alone(adapters))
    merged = bench.cached("merged", lambda: bench.merged(method, adapters, 1.0))
    kinds = measure_crosstalk(sd, adapters)
    others = {kind.split("/")[-1]: float(found.others.mean()) for kind, found in kinds.items() if kind != ALL}
    return {"variant": name, "alone": alone, "merged": merged, "crosstalk": others}


def cells_of(found: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    alone, merged = [found["alone"]], [found["merged"]]
    scores = [mean_over(alone, "identity"), mean_over(merged, "identity"), retention(merged, alone, "identity")]
    scores += [mean_over(merged, score) for score in ("right", "image", "text")]
    crosstalk = ", ".join(f"{kind} {value:.2f}" for kind, value in found["crosstalk"].items())
    numbers = [f"{score[0]:.3f}" for score in scores] + [f"{np.mean(merged[0]['drift']):.3f}", crosstalk]
    return [found["variant"], *numbers, f"{found['alone']['parameters']:,.0f}"]


def main() -> None:
    """The command line."""
    options, sd = tyro.cli(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    found = (measure(options, sd, name) for name in options.only)
    columns = (
        "variant",
        "identity alone",
        "merged",
        "kept",
        "recognised",
        "image",
        "text",
        "drift",
        "crosstalk",
        "trained",
    )
    write_rows(found, cells_of, columns, options.out / "ablation")


if __name__ == "__main__":
    run(main)
