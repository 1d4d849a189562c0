"""A process that runs cases of one kind, one after the other. It reads their numbers from its standard input.

    python -m benchmarks.fuzz.worker MODULE INPUTS SCRATCH SEED

Lines in: numbers of cases. Lines out: "ready", then a result as JSON for each.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np

from benchmarks.fuzz.capture import run_trial
from benchmarks.fuzz.judge import judge
from benchmarks.fuzz.trial import Case, Result

# The memory that a process may use, in bytes. The system refuses more, and a case that needs more has failed.
_ROOM = 6 << 30


def run_case(kind: str, case: Case, seed: int, index: int, scratch: Path, most_memory: int) -> Result:
    """Make the case in `scratch` and run it there. It is the same for equal (kind, seed, index)."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    rng = np.random.default_rng((seed, zlib.crc32(kind.encode()), index))
    trial = case.make(rng, scratch)
    ended = run_trial(trial)
    verdict, detail = judge(trial, ended, most_memory)
    return Result(index, case.title, verdict, detail, ended.seconds, ended.growth >> 20)


def main() -> None:
    """Run cases until the input ends."""
    module, inputs, scratch, seed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    # The library must not read from the standard input of this process or write to its standard output.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    # Python prints a warning only once by default. Here every case must print it.
    warnings.filterwarnings("always", category=UserWarning)
    kind = importlib.import_module(module)
    cases = kind.list_cases(inputs, seed)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_ROOM, hard))
    print("ready", file=answers, flush=True)
    for line in orders:
        index = int(line)
        result = run_case(kind.NAME, cases[index], seed, index, scratch, kind.MOST_MEMORY)
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
