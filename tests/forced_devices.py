"""Runs code in another process, where JAX sees a number of CPU devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
# For XLA, here and in conftest.py. Each of hundreds of programs runs a few times only: quick compilation saves most of
# the time.
QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Half the time to compile. jaxlib 0.11 does not know this flag, and ends the process.
    QUICK = (*QUICK, "--xla_cpu_use_fusion_emitters=false")


def run_on_devices(count: int, code: str, flags: Sequence[str] = QUICK, folders: Sequence[Path] = ()) -> str:
    """What `code` prints in a process with `count` devices. It can import this project and the modules of `tests`.

    flags: of XLA. folders: of other modules that it can import.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join([f"--xla_force_host_platform_device_count={count}", *flags]),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, [TESTS.parent, TESTS, *folders])),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def call_on_devices(count: int, file: str, function: str, *arguments: Any, flags: Sequence[str] = QUICK) -> Any:
    """The result of `function` of the Python `file`, called with `arguments` in a process with `count` devices.

    Arguments and result are JSON values. flags: of XLA.
    """
    module, values = Path(file).stem, json.dumps(arguments)
    code = f"import json, {module} as module; print(json.dumps(module.{function}(*json.loads({values!r}))))"
    return json.loads(run_on_devices(count, code, flags, [Path(file).parent]).splitlines()[-1])
