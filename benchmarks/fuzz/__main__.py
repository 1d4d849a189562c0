"""Whether damaged files and wrong commands are refused in one line, and none is read wrongly without an error.

Makes thousands of damaged adapters, LoRAs, Diffusers folders, manifests, registries, checkpoints, pictures and command
lines. A separate process reads each of them under supervision. Prints a table. Exits with 1 if any of these counts is
not 0: loaded changed, tracebacks, hangs, memory, unreadable output (more than one line, control characters), good ones
refused.

    python -m benchmarks.fuzz [--quick] [--only KIND] [--case KIND:INDEX] [--out FOLDER]

The column "apart" counts two sorts of results that are allowed. One is damage that cannot be detected: flipped bits
that give finite numbers in files without a digest (LoRAs, models and pictures of other programs, and registries that
people edit). The other is checkpoints that are restored exactly from an older state because the newest is damaged. A
usage box is what the command line's parser prints for a wrong flag.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fuzz.pool import run_cases
from benchmarks.fuzz.report import failures, groups, keep, printable, table
from benchmarks.fuzz.trial import BAD, Result

KINDS = {
    name: f"benchmarks.fuzz.{name}"
    for name in ("adapters", "folders", "manifests", "checkpoints", "pictures", "misuses")
}
_SHOWN = 60  # number of sorts of failures that are printed for a kind


def run_kind(module: str, folder: Path, args: argparse.Namespace, only: int | None = None) -> list[Result]:
    """Make the inputs of a kind below `folder`, and run its cases. only: the number of the only case to run."""
    kind: Any = importlib.import_module(module)
    inputs = folder / "inputs" / kind.NAME
    inputs.mkdir(parents=True, exist_ok=True)
    kind.prepare(inputs, args.seed)
    cases = kind.list_cases(inputs, args.seed)
    if only is not None and not 0 <= only < len(cases):
        raise SystemExit(f"error: there are cases 0 to {len(cases) - 1} of {kind.NAME}")
    indices = [only] if only is not None else sample(len(cases), kind.QUICK if args.quick else len(cases))

    def tell(result: Result, scratch: Path) -> None:
        if args.out and (result.verdict in BAD or only is not None):
            keep(result, scratch, args.out / f"{kind.NAME}-{result.index}")

    return run_cases(kind, module, inputs, folder, args.seed, indices, cases, args.jobs, tell)


def sample(count: int, wanted: int) -> list[int]:
    """`wanted` numbers below `count`, evenly spread, always the same."""
    return sorted({index * count // wanted for index in range(wanted)}) if wanted < count else list(range(count))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args, results = _parse(argv), {}
    chosen, index = (args.case.split(":") + [""])[:2] if args.case else (args.only, "")
    if chosen not in (None, *KINDS) or (args.case and not index.isdecimal()):
        raise SystemExit(f"error: --case is KIND:INDEX, with a kind of {', '.join(KINDS)}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for kind in [chosen] if chosen else KINDS:
            begun = time.monotonic()
            results[kind] = run_kind(KINDS[kind], Path(name), args, int(index) if index else None)
            print(f"{kind}: {len(results[kind])} cases, {time.monotonic() - begun:.0f} s", flush=True)
            for line in _told(results[kind], bool(args.case)):
                print("  " + printable(line))
    print(f"\nseed {args.seed}, {time.monotonic() - start:.0f} s\n\n{table(results)}")
    return int(any(failures(found) for found in results.values()))


def _told(results: Sequence[Result], all_of_them: bool) -> list[str]:
    if all_of_them:
        return [f"{r.index} {r.verdict}: {r.title}: {r.detail} ({r.seconds:.2f} s, {r.growth} MB)" for r in results]
    lines = groups(results)
    return lines[:_SHOWN] + ([f"and {len(lines) - _SHOWN} more sorts"] if len(lines) > _SHOWN else [])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run a fixed sample of each kind, in three minutes")
    parser.add_argument("--only", choices=KINDS, help="run only this kind")
    parser.add_argument("--case", metavar="KIND:INDEX", help="run one case, named as in the list of failures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    parser.add_argument(
        "--out", type=lambda text: Path(text).absolute(), help="keep the inputs of failures in this folder"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
