"""What each choice of the training contributes: `python -m benchmarks.modular.ablation`.

Every variant of the training learns the same concepts, which are not those of the bench. They are measured alone and
merged. Results are kept under --out and used again; --only selects variants. Prints a table and writes ablation.md and
ablation.json. "Difference" is the merged identity minus that of the first variant, with its standard error over the
same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.__main__ import say
from benchmarks.modular.core.evaluate import Bench, keep_to
from benchmarks.modular.core.methods import FEATURE_BLOCKS, METHODS, RANK, RECIPES, check_known
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.core.report import mean_over, retention, write_rows
from benchmarks.modular.core.teach import teach
from benchmarks.modular.pocket.concepts import HELD_OUT_SEED, draw_concepts
from benchmarks.modular.pocket.measures import Measures
from benchmarks.modular.pocket.words import TRAINING_WORDS
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.concepts import Concept
from blocklora_jax.probing.crosstalk import ALL, measure_crosstalk

# The settings of configs/one_block.yaml: as many trained numbers as rank 16 in one of sixteen blocks has.
ONE_BLOCK = RECIPES["wide"]

# What each differs in from configs/feature_blocks.yaml: sixteen column blocks, a slot each, rank 16, lambda 1.
VARIANTS: dict[str, dict[str, Any]] = {
    "one block, erased": ONE_BLOCK,
    "neither": ONE_BLOCK | {"erase": "none"},
    "16 blocks": {"erase": "none"},
    "16 blocks, erased": {},
    "16 blocks, lambda 0.1": {"lambda": 0.1},
    "16 blocks, lambda 10": {"lambda": 10.0},
    "one block, lambda 1": ONE_BLOCK | {"lambda": 1.0},
    "one block, lambda 3": RECIPES["wide_3"],
    "one block, lambda 30": ONE_BLOCK | {"lambda": 30.0},
    "16 blocks, basis of text": RECIPES["quiet"],
    "16 blocks, axis out": {"axis": "out"},
    "16 blocks, axis grid": {"axis": "grid"},
    "4 blocks": {"blocks": 4},
    "64 blocks, 4 each": {"blocks": 64, "slots_each": 4},
    "16 blocks, rank 4": {"rank": 4},
    "16 blocks, rank 32": {"rank": 32},
    "one block, rank 16": ONE_BLOCK | {"rank": RANK},
    "one block, form epsilon": ONE_BLOCK | {"erase": "epsilon"},
    "one block, form epsilon, lambda 100": ONE_BLOCK | {"erase": "epsilon", "lambda": 100.0},
    "one block, no own class": ONE_BLOCK | {"random_shares": {"own_class": 0.0}},
    "one block, no negative tokens": ONE_BLOCK | {"random_shares": {"negative": 0.0}},
    "one block, no empty prompt": ONE_BLOCK | {"random_shares": {"empty": 0.0}},
    "one block, random negative tokens": ONE_BLOCK | {"negative_tokens": []},
    "one block, 6 random rows": ONE_BLOCK | {"random_batch": 6},
    "one block, no tokens": ONE_BLOCK | {"token_vectors": 0},
    "one block, tokens as they are drawn": ONE_BLOCK | {"token_learning_rate": 0.0},
    "one block, tokens start at the noun": ONE_BLOCK | {"token_spread": 0.05},
    "one block, 1 token vector": ONE_BLOCK | {"token_vectors": 1},
    "one block, 4 token vectors": ONE_BLOCK | {"token_vectors": 4},
    "tokens alone": RECIPES["tokens"],
    "one block, layers attention": ONE_BLOCK | {"layers": "attention"},
    "one block, layers attention, noised pictures only": ONE_BLOCK | {"layers": "attention", "pure_noise": 0.0},
    "one block, layers cross_kv+text_encoder": ONE_BLOCK | {"layers": "cross_kv+text_encoder"},
}


@dataclass(frozen=True)
class Unnamed(Concept):
    """A concept without a token."""

    @property
    def token(self) -> str:
        """Nothing: the class noun alone calls it."""
        return ""


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
        check_options(self)
        check_known("--only", self.only, VARIANTS)


def measure(options: Options, sd: StableDiffusion, name: str) -> dict[str, Any]:
    """Alone, merged, and crosstalk of one variant."""
    say(name)
    concepts: Sequence[Concept] = draw_concepts(options.concepts, options.seed)
    settings, folder = FEATURE_BLOCKS | VARIANTS[name], options.out / name.replace(" ", "-").replace(",", "")
    each = settings.pop("slots_each", 1)
    settings = {"steps": options.steps, "batch": options.batch, "seed": options.seed, **TRAINING_WORDS, **settings}
    keep_to(folder / "results", sd, options, concepts, options.seed, TRAINING_WORDS)
    adapters = teach(concepts, sd, settings, folder, options.concepts, 16, each)
    if settings.get("token_vectors") == 0:
        concepts = [Unnamed(**vars(c)) for c in concepts]
    artist = Artist(sd, adapters, options.seed, options.sampler_steps)
    bench = Bench(concepts, artist, Measures(sd, concepts, options.seed), folder / "results", options.prompts)
    method = METHODS["sum" if settings.get("blocks") == 0 else "blocklora"]
    alone = bench.cached("alone", lambda: bench.alone(adapters))
    merged = bench.cached("merged", lambda: bench.merged(method, adapters, {}))
    kinds = measure_crosstalk(sd, adapters)
    others = {kind.split("/")[-1]: float(found.others.mean()) for kind, found in kinds.items() if kind != ALL}
    return {"variant": name, "alone": alone, "merged": merged, "crosstalk": others}


def measure_all(options: Options, sd: StableDiffusion) -> Iterator[dict[str, Any]]:
    """Every variant, and how far it is from the first: mean and standard error over pairs of pictures."""
    first = None
    for name in options.only:
        found = measure(options, sd, name)
        identity = np.concatenate([scores["identity"] for scores in found["merged"]["concepts"].values()])
        first = identity if first is None else first
        error = (identity - first).std(ddof=1) / np.sqrt(identity.size)
        yield found | {"difference": [float((identity - first).mean()), float(error)]}


def cells_of(found: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    alone, merged = [found["alone"]], [found["merged"]]
    scores = [mean_over(alone, "identity"), mean_over(merged, "identity"), retention(merged, alone, "identity")]
    scores += [mean_over(merged, score) for score in ("right", "image", "text")]
    crosstalk = ", ".join(f"{kind} {value:.2f}" for kind, value in found["crosstalk"].items())
    numbers = [f"{score[0]:.3f}" for score in scores]
    numbers += ["{:+.3f} ± {:.3f}".format(*found["difference"]), f"{np.mean(merged[0]['drift']):.3f}", crosstalk]
    return [found["variant"], *numbers, f"{found['alone']['parameters']:,.0f}"]


def main() -> None:
    """The command line."""
    options, sd = read_options(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    columns = (
        "variant",
        "identity alone",
        "merged",
        "kept",
        "recognised",
        "image",
        "text",
        "difference",
        "drift",
        "crosstalk",
        "trained",
    )
    write_rows(measure_all(options, sd), cells_of, columns, options.out / "ablation")


if __name__ == "__main__":
    run(main)
