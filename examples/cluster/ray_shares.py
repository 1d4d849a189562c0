"""Train many concepts on a Ray cluster, one share on each worker.

ray job submit --working-dir . -- python examples/cluster/ray_shares.py --shares 8 -- \
    --concepts concepts.yaml --out /shared/run --model /shared/sd15 --config sd15 \
    --basis /shared/basis.safetensors

Everything after `--` is for `python -m train.concepts`. `--out` is a folder that all workers see. A worker that dies is
started again by Ray, and goes on with what it began; another may have taken it over before. Without a cluster, Ray
starts on this machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import ray


def train_share(index: int, count: int, flags: list[str]) -> str:
    """Train share `index` of `count`; returns the report line. Runs in a worker, and JAX in a process of its own."""
    command = [sys.executable, "-m", "train.concepts", "--shard", f"{index}/{count}", "--wait", *flags]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"share {index}/{count}: {done.stderr[-2000:]}")
    return [line for line in done.stderr.splitlines() if line.startswith("share ")][-1]


def main() -> None:
    """The command line."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, required=True, help="number of shares, and of workers")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each worker")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs of each worker")
    options = parser.parse_args(sys.argv[1:split])
    flags = sys.argv[split + 1 :]
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(train_share).options(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=5)
    shares = [task.remote(index, options.shares, flags) for index in range(options.shares)]
    print("\n".join(ray.get(shares)))


if __name__ == "__main__":
    main()
