"""Worker processes under supervision. A worker that hangs or dies is replaced, and its case counts as failed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from benchmarks.fuzz.trial import Case, Result, Verdict

ROOT = Path(__file__).parents[2]
_START = 300.0  # seconds for a worker to start on a busy machine


class Worker:
    """One process of `benchmarks.fuzz.worker`. It is started for the first case."""

    def __init__(self, module: str, inputs: Path, scratch: Path, seed: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.fuzz.worker", module, str(inputs), str(scratch), str(seed)]
        self.scratch, self._process, self._rest = scratch, None, b""

    def run(self, index: int, seconds: float) -> dict[str, Any] | str:
        """The result of a case, or a text: why there is none. Raises RuntimeError if the worker does not start."""
        process = self._process or self._start()
        assert process.stdin
        process.stdin.write(f"{index}\n".encode())
        process.stdin.flush()
        line = self._line(seconds)
        if line is not None:
            return dict(zip(Result._fields, json.loads(line), strict=True))
        gone = process.poll()
        self.stop()
        return f"killed by signal {-gone}" if gone is not None and gone < 0 else f"exit code {gone}" if gone else "hang"

    def stop(self) -> None:
        """End the process and all processes that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process, self._rest = None, b""

    def _start(self) -> subprocess.Popen:
        self.scratch.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(self.scratch.parent),
            cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        if self._line(_START) != b"ready":
            self.stop()
            raise RuntimeError("a worker does not start: see above")
        return self._process

    def _line(self, seconds: float) -> bytes | None:
        assert self._process and self._process.stdout
        deadline, descriptor = time.monotonic() + seconds, self._process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            more = os.read(descriptor, 1 << 16)
            if not more:
                self._process.wait(10)
                return None
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return line


def run_cases(
    kind: Any,
    module: str,
    inputs: Path,
    scratch: Path,
    seed: int,
    indices: Sequence[int],
    cases: Sequence[Case],
    jobs: int,
    tell: Callable[[Result, Path], None],
) -> list[Result]:
    """Run the cases `indices` in `jobs` workers; `tell(result, scratch)` is called before its files are deleted."""
    queue: SimpleQueue[int] = SimpleQueue()
    for index in indices:
        queue.put(index)

    def work(number: int) -> list[Result]:
        worker, results = Worker(module, inputs, scratch / f"{kind.NAME}-{number}" / "case", seed), []
        try:
            while True:
                index = queue.get_nowait()
                results.append(_result(worker.run(index, kind.SECONDS), index, cases[index].title, kind.SECONDS))
                tell(results[-1], worker.scratch)
        except Empty:
            return results
        finally:
            worker.stop()

    with ThreadPoolExecutor(jobs) as threads:
        all_results = [result for results in threads.map(work, range(jobs)) for result in results]
    return sorted(all_results)


def _result(answer: dict[str, Any] | str, index: int, title: str, seconds: float) -> Result:
    if isinstance(answer, str):
        is_hang = answer == "hang"
        detail = f"no end after {seconds:g} s" if is_hang else answer
        return Result(index, title, Verdict.HANG if is_hang else Verdict.MEMORY, detail, seconds)
    return Result(**{**answer, "verdict": Verdict(answer["verdict"])})


def _environment(folder: Path) -> dict[str, str]:
    """One thread for each worker, no network, quick compilation, and all caches and temporary files below `folder`."""
    own = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_TRACEBACK_FILTERING": "off",
        "TQDM_DISABLE": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    homes = {name: str(folder / name.lower()) for name in ("TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    for home in homes.values():
        Path(home).mkdir(parents=True, exist_ok=True)
    return {**os.environ, **own, **homes}
