"""The memory that training and sampling need at full size: `python -m benchmarks.memory`.

Programs are compiled from shapes alone: no weights are made. Arguments are what a program is given (weights, the
adapter, the optimizer's state, the batch), temporaries are what it needs beside them. The figures are those of the
default device's compiler. On a CPU, XLA is told to order the program by memory, as it does on GPUs and TPUs; by default
it orders it for many threads, which takes several times as much.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
from jax.stages import Lowered

from benchmarks.memory.full_size import SIZES, full_size
from benchmarks.memory.programs import sampling, training_step
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from train.concept.config import ConceptConfig
from train.engine.platform import compute_dtype

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compile at full size, and print arguments and temporaries."""

    models: tuple[str, ...] = tuple(SIZES)
    """Among sd15, sd21, sdxl."""
    tasks: tuple[Literal["training", "sampling"], ...] = ("training", "sampling")
    batches: tuple[int, ...] = (1, 4)
    size: int | None = None
    """Height and width of pictures, in pixels; the model's own if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "cudnn", "flash", "chunked", "plain"] = "auto"
    remat: tuple[bool, ...] = (False, True)
    """Of training: whether layers are recomputed in the backward pass."""
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
    found = lower().compile().memory_analysis()
    if found is None:
        raise UserError(f"the compiler for {jax.default_backend()} does not tell what memory a program needs")
    row = {
        "task": task, **named, "arguments": round(found.argument_size_in_bytes / MIB),
        "temporaries": round(found.temp_size_in_bytes / MIB), "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def measure_all(options: Options, name: str, batch: int) -> Iterator[dict[str, object]]:
    """Every task on one model."""
    dtype = compute_dtype(options.precision, jax.default_backend())
    make = partial(full_size, name, size=options.size, dtype=dtype, attention=options.attention)
    named = {"model": name, "size": options.size or SIZES[name], "batch": batch}
    if "training" in options.tasks:
        step = partial(training_step, batch=batch, config=concept())
        for remat in options.remat:
            yield measure("training", lambda r=remat: step(make(remat=r)), remat=remat, **named)
    if "sampling" in options.tasks:
        yield measure("sampling", lambda: sampling(make(), batch), **named)


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    rows = [row for name in options.models for batch in options.batches for row in measure_all(options, name, batch)]
    device = jax.devices()[0].device_kind
    report = {"device": device, "precision": options.precision, "attention": options.attention, "rows": rows}
    if options.out:
        write_json(options.out, report)
    print(json.dumps(report))


if __name__ == "__main__":
    run(main)
