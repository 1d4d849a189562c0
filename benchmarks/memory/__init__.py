"""Memory at full size, from shapes alone: `python -m benchmarks.memory`."""

from __future__ import annotations

import os

# By default XLA orders programs for a CPU by concurrency, which holds several times as much at once as the order by
# memory that it uses for GPUs and TPUs. It also removes the barriers of `jax.checkpoint` earlier than for GPUs (see
# `train.engine.platform.remat_options`). It reads the flags before its first use.
_LIKE_GPUS = "--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_disable_hlo_passes=cse_barrier_expander"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_LIKE_GPUS}"
