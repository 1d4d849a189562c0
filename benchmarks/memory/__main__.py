"""The memory that training, sampling and probing need at full size: `python -m benchmarks.memory`.

Programs are compiled from shapes alone: no weights are made. Arguments are what a program is given (weights, the
adapter, the optimizer's state, the batch), results are what it gives (those of training take the place of arguments),
temporaries are what it needs beside them. The figures are those of the default device's compiler. On a CPU, XLA is told
to order the program by memory and to keep the barriers of `jax.checkpoint`, as it does for GPUs. By default it orders
it for many threads, which takes several times as much, and computes layers again too early. Attention is in the form
for CPUs, whose chunks are smaller than those of GPUs without cuDNN's kernel.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
from jax.stages import Lowered

from benchmarks.memory.full_size import SIZES, full_size
from benchmarks.memory.probing import check_step, convert_step, fit_step, tuning
from benchmarks.memory.programs import sampling, training_step
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from train.concept.config import ConceptConfig
from train.engine.platform import compute_dtype

MIB = 2**20
# MiB that the programs of --quick may need, a tenth more than they did when this was written.
QUICK = {"training": 1213, "fit": 2450, "check": 1040}
PROBES = {"fit": fit_step, "convert": convert_step, "check": check_step, "tune": tuning}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compile at full size, and print arguments and temporaries."""

    models: tuple[str, ...] = tuple(SIZES)
    """Among sd15, sd21, sdxl."""
    tasks: tuple[Literal["training", "sampling", "fit", "convert", "check", "tune"], ...] = (
        "training", "sampling", "fit", "convert", "check", "tune"
    )  # fmt: skip
    """The last four are those of `python -m merge`. They choose their batch themselves. fit, convert and check have
    LoRAs in every attention, feed-forward and projection layer and in all text encoders."""
    batches: tuple[int, ...] = (1, 4)
    size: int | None = None
    """Height and width of pictures, in pixels; the model's own if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "cudnn", "flash", "chunked", "plain"] = "auto"
    remat: tuple[bool, ...] = (False, True)
    """Of training: whether layers are recomputed in the backward pass."""
    memory: float | None = None
    """GiB that fit, convert and check may use; see `python -m merge fit --help`."""
    quick: bool = False
    """Compile only three programs, and fail with exit code 1 if one needs more memory than it should."""
    out: Path | None = None
    """A JSON file for the results."""

    def __post_init__(self) -> None:
        check_options(self)
        if unknown := [name for name in self.models if name not in SIZES]:
            raise UserError(f"--models {unknown[0]!r} is not known: choose among {', '.join(SIZES)}")


def concept() -> ConceptConfig:
    """The defaults of `train.concept`."""
    return ConceptConfig.from_settings(images=Path("unread"), token="<a>", class_noun="man", out=Path("unused"))


def measure(task: str, lower: Callable[[], Lowered], **named: object) -> dict[str, object]:
    """Compile a program and give its memory in MiB."""
    began = time.perf_counter()
    # Compiling for speed takes longer, and needs the same memory.
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    found = lower().compile(compiler_options=options).memory_analysis()
    if found is None:
        raise UserError(f"the compiler for {jax.default_backend()} does not tell what memory a program needs")
    row = {
        "task": task, **named, "arguments": round(found.argument_size_in_bytes / MIB),
        "results": round(found.output_size_in_bytes / MIB), "temporaries": round(found.temp_size_in_bytes / MIB),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def measure_all(options: Options, name: str) -> Iterator[dict[str, object]]:
    """Every task on one model."""
    dtype = compute_dtype(options.precision, jax.default_backend())
    make = partial(full_size, name, size=options.size, dtype=dtype, attention=options.attention)
    named = {"model": name, "size": options.size or SIZES[name]}
    for batch in options.batches:
        for remat in options.remat if "training" in options.tasks else ():
            lower = partial(training_step, make(remat=remat), batch, concept())
            yield measure("training", lower, remat=remat, batch=batch, **named)
        if "sampling" in options.tasks:
            yield measure("sampling", partial(sampling, make(), batch), batch=batch, **named)
    for task in (task for task in PROBES if task in options.tasks):
        yield measure(task, partial(PROBES[task], make(), options.memory), **named)


def check_quickly() -> int:
    """Measures steps of training, of a joint fit and of crosstalk. Gives the exit code: 1 if one needs too much."""
    options = Options(models=("sd15",), tasks=("training", "fit", "check"), batches=(1,), remat=(False,))
    rows = list(measure_all(options, "sd15"))
    return int(any(exceeds(row, QUICK[str(row["task"])]) for row in rows))


def exceeds(row: dict[str, object], bound: int) -> bool:
    """Whether a program needs more than `bound` MiB beside its arguments; says so."""
    # The results of training take the place of arguments.
    parts = ("temporaries",) if row["task"] == "training" else ("results", "temporaries")
    needed = sum(int(str(row[part])) for part in parts)
    if needed > bound:
        print(f"error: {row['task']} needs {needed} MiB beside its arguments; it may need {bound}", file=sys.stderr)
    return needed > bound


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    if options.quick:
        raise SystemExit(check_quickly())
    rows = [row for name in options.models for row in measure_all(options, name)]
    device = jax.devices()[0].device_kind
    report = {"device": device, "precision": options.precision, "attention": options.attention, "rows": rows}
    if options.out:
        write_json(options.out, report)
    print(json.dumps(report))


if __name__ == "__main__":
    run(main)
