"""Memory at full size, from shapes alone: `python -m benchmarks.memory`."""

from __future__ import annotations

import os

# By default XLA orders programs for a CPU by concurrency, which holds several times as much at once as the order by
# memory that it uses for GPUs and TPUs. It reads this before its first use.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_concurrency_optimized_scheduler=false"
