"""Time and memory of every merge method at full size: `python -m benchmarks.methods [--quick]`.

A random Stable Diffusion 1.5 is written to a temporary folder (2 GB), and random LoRAs without blocks are merged into
it, each method in a process of its own. Memory is the peak of the process, and before the merge, when it holds the
model in fp32 and the LoRAs. Prints a table and one line of JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.random_folder import write_model

Params = Mapping[str, Any]

# They measure inputs of the layers on prompts. Of layers that read pictures, this takes the U-Net many times.
MEASURED = ("joint_fit", "gradient_fusion", "ssr", "tuned_tokens")
METHODS = ("sum", "average", "svd", "magnitude", "dare", "ties", "dare_ties", "knots", *MEASURED)
# All others are the defaults. Without a rank, the reduction would be the sum.
NEEDED: dict[str, dict[str, Any]] = {
    "sum": {"allow_overlap": True}, "svd": {"max_rank": 64}, "tuned_tokens": {"allow_overlap": True},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Merge LoRAs by every method."""

    methods: tuple[str, ...] = METHODS
    """Names as `python -m merge --method` has them."""
    adapters: int = 15
    """How many LoRAs are merged."""
    rank: int = 16
    layers: Literal["cross_kv", "attention"] = "cross_kv"
    """The LoRAs' layers: those that read text, or all of the attention."""
    model: Literal["sd15", "sd21", "sdxl"] = "sd15"
    quick: bool = False
    """Three LoRAs in a small model, to see that it runs."""

    def __post_init__(self) -> None:
        check_options(self, {"adapters": Bound(2, 512)})
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise UserError(f"--methods {unknown[0]!r} is not known: choose among {', '.join(METHODS)}")


def merge_once(folder: str, method: str, options: Options) -> dict[str, float]:
    """Merge by one method in this process. Seconds, and MiB held before and at most."""
    from blocklora_jax.pipeline import StableDiffusion
    from merge.methods.table import METHODS as TABLE

    sd = StableDiffusion.from_pretrained(folder, on_host=("vae",))
    adapters = make_loras(sd.params, options)
    merging = TABLE[method]
    settings = merging.settings(**NEEDED.get(method, {}))
    before, began, cpu = _peak(), time.perf_counter(), time.process_time()
    merging.merge(sd, adapters, None, settings)
    row = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return row | {"mib_before": before, "mib": _peak()}


def make_loras(params: Params, options: Options) -> list[Adapter]:
    """Random LoRAs without blocks, with a token each."""
    like = random_adapter(
        "c000", params, slots=(), layers=options.layers, partition=None, rank=options.rank, vectors=1, size=0.02
    )
    made = []
    for i in range(options.adapters):
        name, rng = f"c{i:03d}", np.random.default_rng(i)
        draw = lambda values, rng=rng: 0.02 * rng.standard_normal(values.shape, np.float32)
        info = replace(like.info, name=name, trigger=f"<{name}> man")
        tokens, tokens_2 = (
            {f"<{name}>": draw(vectors) for vectors in own.values()} for own in (like.tokens, like.tokens_2)
        )
        made.append(Adapter(lora=jax.tree.map(draw, like.lora), tokens=tokens, tokens_2=tokens_2, info=info))
    return made


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """The command line. `--one FOLDER METHOD OPTIONS`, which this program calls itself, merges once."""
    if sys.argv[1:2] == ["--one"]:
        folder, method, given = sys.argv[2:]
        print(json.dumps(merge_once(folder, method, Options(**json.loads(given)))))
        return
    options = read_options(Options, description=__doc__)
    if options.quick:
        options = replace(options, adapters=3, rank=2)
    rows = {}
    with tempfile.TemporaryDirectory(prefix="methods-") as folder:
        write_model(Path(folder) / "model", options.model, small=options.quick)
        given = json.dumps({"adapters": options.adapters, "rank": options.rank, "layers": options.layers})
        print(f"{'method':<18}{'seconds':>9}{'CPU s':>9}{'MiB before':>12}{'MiB at most':>13}")
        for method in options.methods:
            command = [sys.executable, "-m", "benchmarks.methods", "--one", f"{folder}/model", method, given]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise UserError(f"{method} failed, see above")
            row = rows[method] = json.loads(done.stdout.splitlines()[-1])
            times = f"{row['seconds']:>9.1f}{row['cpu_seconds']:>9.1f}"
            print(f"{method:<18}{times}{row['mib_before']:>12}{row['mib']:>13}", flush=True)
    print(json.dumps({"adapters": options.adapters, "rank": options.rank, "layers": options.layers, "rows": rows}))


if __name__ == "__main__":
    run(main)
