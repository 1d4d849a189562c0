"""A folder of made-up LoRA files, from scan to export, in one command each: `python -m benchmarks.library [--quick]`.

The files are LoRAs of the smallest random Stable Diffusion 1.x, of every kind and dialect that this version reads, with
their triggers in headers and in texts beside them, and a few files that cannot be used. Every step is a process of its
own. Prints seconds and the largest memory of each, and fails if a step fails, or if not every usable file arrives in
the export. If diffusers is installed, it opens the export, and its weights are compared with ours.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.library.full_size import make_full_size
from benchmarks.library.make import NOUNS, make_folder, readable
from benchmarks.library.step import Step, run_step
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from blocklora_jax.testing.tiny_model import save_tiny


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a folder of LoRA files, and take it from scan to export."""

    count: int = 200
    """Number of files that can be read."""
    out: Path | None = None
    """Keep everything in this folder. Default: a temporary folder."""
    convert: bool = True
    """Also convert the first 12 LoRAs of cross-attention into blocks: the narrow layers of the model have no room for
    more."""
    full_size: int = 0
    """Instead, make so many LoRAs of the size of Stable Diffusion 1.5 and time scan, check and export, which need no
    model."""
    quick: bool = False
    """24 LoRAs of cross-attention layers, in less than a minute."""

    def __post_init__(self) -> None:
        check_options(self)


def steps(options: Options, folder: Path, few: Path, model: Path, results: Path) -> Iterator[Step]:
    """The commands, one after the other."""
    common = ["--model", str(model)]
    yield run_step("scan", ["merge", "library", "scan", str(folder)])
    yield run_step("scan again", ["merge", "library", "scan", str(folder)])
    skip = "--skip-unusable"
    yield run_step("check", ["merge", "check", str(folder), *common, skip, "--out", str(results / "map.png")])
    yield run_step("fit", ["merge", "fit", str(folder), *common, skip, "--out", str(results / "fitted")])
    yield run_step(
        "export",
        ["merge", "export", str(results / "fitted"), "--allow-overlap", "--out", str(results / "all.safetensors"),
         "--max-rank", "32", "--layout", "kohya"],
    )  # fmt: skip
    if find_spec("diffusers") and find_spec("torch"):
        yield run_step("open", ["benchmarks.library.open", str(model), str(results / "all.safetensors")])
    if options.convert and not options.quick:
        yield run_step(
            "convert",
            ["merge", "convert", str(few), *common, "--basis", "None", "--rank", "4",
             "--out", str(results / "converted")],
        )  # fmt: skip


def full_size_steps(folder: Path, results: Path) -> Iterator[Step]:
    """The commands that need no model."""
    yield run_step("scan", ["merge", "library", "scan", str(folder)])
    yield run_step("check", ["merge", "check", str(folder), "--alike", "True", "--out", str(results / "map.png")])
    out = ["--out", str(results / "all.safetensors"), "--max-rank", "32"]
    yield run_step("export", ["merge", "export", str(folder), "--allow-overlap", *out])


def run_steps(taken: Iterator[Step], results: Path) -> None:
    """Run the steps and print a line for each. Raises UserError if one fails."""
    print(f"{'step':<12}{'seconds':>9}{'CPU':>8}{'MiB':>8}{'of them anonymous':>19}")
    for step in taken:
        line = f"{step.name:<12}{step.seconds:>9.1f}{step.cpu:>8.1f}{step.peak:>8.0f}{step.anonymous:>19.0f}"
        print(line, flush=True)
        (results / f"{step.name.replace(' ', '_')}.txt").write_text(step.output)
        if step.code:
            raise UserError(f"{step.name} failed with exit code {step.code}: {step.output[-2000:]}")


def measure_full_size(count: int, place: Path) -> int:
    """Make files of full size, run the steps that need no model, and print the table; gives the exit code."""
    folder, results = place / "loras", place / "results"
    results.mkdir(parents=True, exist_ok=True)
    make_full_size(folder, count)
    run_steps(full_size_steps(folder, results), results)
    return _check_all_arrived(results, count)


def measure(options: Options, place: Path) -> int:
    """Make the files, run all steps, and print the table; gives the exit code."""
    if options.full_size:
        return measure_full_size(options.full_size, place)
    from blocklora_jax.checkpoints.diffusers import load_folder

    folder, results = place / "loras", place / "results"
    model = save_tiny(place / "model", words=_words())
    results.mkdir(parents=True, exist_ok=True)
    params = load_folder(str(model)).params
    sorts, unread = readable(params, options.quick)
    count = 24 if options.quick else options.count
    few = place / "few"
    make_folder(few, 12, params, [sort for sort in sorts if sort.layers == "cross-attention"], broken=False)
    broken = make_folder(folder, count, params, sorts)
    kinds = Counter(sorts[index % len(sorts)].kind for index in range(count))
    print(f"{count} files ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}), {broken} that cannot be used")
    for name, reason in unread.items():
        print(f"not made, because this version does not read it: {name}: {reason[:100]}")
    run_steps(steps(options, folder, few, model, results), results)
    return _check_all_arrived(results, count)


def _words() -> list[str]:
    """The words of prompts. With each of them as one token, prompts fit into the few positions of the tiny model."""
    texts = [*PHOTO_WORDS.styles, *PHOTO_WORDS.subjects, *PHOTO_WORDS.scenes, *NOUNS, "a photo of and in on an"]
    words = (word for text in texts for word in re.findall("[a-z]+", text.lower()))
    return list(dict.fromkeys(words))


def _check_all_arrived(results: Path, count: int) -> int:
    from merge.export.lora_file import read_export_header

    names = read_export_header(results / "all.safetensors")["adapters"]
    if len(names) == count:
        print(f"all {count} files are in the export")
        return 0
    print(f"error: {len(names)} of {count} files are in the export", file=sys.stderr)
    return 1


def main() -> None:
    """Run the benchmark."""
    options = read_options(Options, prog="python -m benchmarks.library")
    if options.out is not None:
        code = measure(options, options.out)
    else:
        with tempfile.TemporaryDirectory() as place:
            code = measure(options, Path(place))
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    run(main)
