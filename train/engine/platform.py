"""Choosing the hardware before JAX looks for it, and helpers for hosts of a pod."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from blocklora_jax.errors import UserError
from blocklora_jax.models.device import is_ampere
from train.engine.joining import JoiningSettings, join_others

_ALONE = JoiningSettings(distributed="off")
_LONGEST = 4096  # bytes of an error that is passed on


def select_platform(tpu: bool = False, gpu: bool = False, cpu: bool = False, joining: JoiningSettings = _ALONE) -> str:
    """Make JAX use the given platform, or the best one that is available; returns "tpu", "gpu" or "cpu".

    joining: whether and how the process joins others first; alone by default.

    Raises: UserError if the platform is not available, or the others cannot be joined.
    """
    wanted = "tpu" if tpu else "cuda" if gpu else "cpu" if cpu else None
    if wanted:
        jax.config.update("jax_platforms", wanted)
    join_others(joining, tpu=tpu, cpu=cpu)
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # AssertionError: no plug-in for the platform is installed.
        asked = {"tpu": "TPU", "cuda": "GPU", "cpu": "CPU"}.get(wanted or "", "device")
        extra = {"tpu": "tpu", "cuda": "cuda"}.get(wanted or "")
        hint = f"; on a machine with one: pip install 'blocklora_jax[{extra}]'" if extra else ""
        raise UserError(f"JAX finds no {asked} here{hint}; leave out the flag to use what there is") from error
    if wanted and backend != {"cuda": "gpu"}.get(wanted, wanted):
        raise UserError(f"JAX already runs on {backend} in this process: choose the platform before any computation")
    return backend


def is_first_host() -> bool:
    """Whether this process writes files and prints. It is the first host of a pod, or the only process."""
    return jax.process_index() == 0


def compute_dtype(precision: str, platform: str) -> jnp.dtype:
    """The type in which the models compute: for "auto" bfloat16 where it is fast, float32 elsewhere.

    It is fast on TPUs, and on NVIDIA GPUs from Ampere on. platform: of the default device.
    """
    is_fast = platform == "tpu" or (platform == "gpu" and is_ampere(jax.devices()[0]))
    bf16 = precision == "bfloat16" or (precision == "auto" and is_fast)
    return jnp.dtype(jnp.bfloat16 if bf16 else jnp.float32)


def weights_dtype(setting: str, computed: jnp.dtype, platform: str) -> jnp.dtype | None:
    """The type of the base's kernels on the device; None for float32, as they are read.

    setting: of `--base-dtype`. "auto": that of the computation; on GPUs that compute in float32 it is float16, which is
    what most published weights have. computed: see `compute_dtype`.
    """
    if setting == "auto":
        setting = "float16" if platform == "gpu" and computed == jnp.float32 else str(computed)
    return None if setting == "float32" else jnp.dtype(setting)


def remat_options(platform: str) -> dict[str, str | bool]:
    """Options of XLA for a program that computes results again in its backward pass, by `jax.checkpoint`.

    `jax.checkpoint` puts a barrier before what is computed again, so that it is not computed before it is needed. The
    compiler for GPUs keeps barriers until the program is in order. The one for CPUs removes them earlier, and then
    computes most of it at once. A full-size step with `--remat` took more memory that way than one without.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else {}


def all_hosts(holds: bool) -> bool:
    """Whether `holds` is true on every host of a pod. Every host waits for all others."""
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.int32(holds)).min())


def first_host_does(action: Callable[[], None]) -> None:
    """Call `action` on the first host of a pod. All hosts wait for it; its UserError is raised on all of them."""
    problem = ""
    if is_first_host():
        try:
            action()
        except UserError as error:
            problem = str(error) or "refused"
    if jax.process_count() > 1:
        text = np.zeros(_LONGEST, np.uint8)
        encoded = np.frombuffer(problem.encode(errors="replace")[:_LONGEST], np.uint8)
        text[: len(encoded)] = encoded
        problem = multihost_utils.broadcast_one_to_all(text).tobytes().rstrip(b"\0").decode(errors="replace")
    if problem:
        raise UserError(problem)
