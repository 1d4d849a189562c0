"""What training many concepts on a machine takes: hours, memory and storage, from measured times of a step."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from blocklora_jax.errors import UserError

# Devices: memory in GiB, and the peak of dense products in bfloat16, in TFLOP/s, as their makers state it.
DEVICES = {
    "h100": (80, 989), "h200": (141, 989), "a100": (40, 312), "l4": (24, 121), "v4": (32, 275), "v5e": (16, 197),
    "v5p": (95, 459), "v6e": (32, 918),
}  # fmt: skip
_MEASURED_ON = "h100"
_FREE = 0.1  # of a device's memory
_ALIKE = 1.3  # Machines that share work are rarely done at the same time: a guess.


class Cost(NamedTuple):
    """What training needs of a device.

    seconds: a step of one concept with one picture, on the H100, with seven others in the program. weights, picture:
    GiB of the weights in 16 bits, and of one picture beside them. is_measured: whether the time was measured.
    """

    seconds: float
    weights: float
    picture: float
    is_measured: bool


# The time of sd15 is that of docs/results/accelerator.md, without erasure. The others are estimated by the operations
# of a U-Net's forward pass: 0.80 TFLOP at 512 pixels, 2.0 at 768, 6.0 for SDXL at 1024. Memory: docs/results/memory.md.
COSTS = {
    "sd15": Cost(0.0488 / 8, 1.9, 1.1, True),
    "sd21": Cost(0.0488 / 8 * 2.5, 2.3, 2.4, False),
    "sdxl": Cost(0.0488 / 8 * 7.5, 6.4, 7.7, False),
}


class Job(NamedTuple):
    """What is to be trained. step_seconds: measured by the user: of one concept and picture on one of the devices."""

    model: str
    concepts: int
    steps: int
    batch: int
    step_seconds: float | None


def parse_machine(text: str) -> tuple[str, int]:
    """The kind of device and their number. Raises: UserError for an unknown one.

    >>> parse_machine("v5e-8"), parse_machine("l4")
    (('v5e', 8), ('l4', 1))
    """
    match = re.fullmatch(r"([a-z0-9]+?)(?:-([1-9]\d{0,4}))?", text)
    if match is None or match[1] not in DEVICES:
        raise UserError(f"--machine {text!r:.40} must be KIND or KIND-N, N devices of one of {', '.join(DEVICES)}")
    return match[1], int(match[2] or 1)


def describe_machine(job: Job, machine: str, adapter_bytes: int) -> list[str]:
    """The plan as lines of text. Raises: UserError for an unknown machine, or a model whose time is not known."""
    kind, devices = parse_machine(machine)
    if job.model not in COSTS:
        raise UserError(f"--machine knows {', '.join(COSTS)}: the time of --model {job.model} was not measured")
    cost, (memory, peak) = COSTS[job.model], DEVICES[kind]
    seconds = job.step_seconds or cost.seconds * DEVICES[_MEASURED_ON][1] / peak
    at_once = int((memory * (1 - _FREE) - cost.weights) / (cost.picture * job.batch))
    if at_once < 1:
        needed = cost.weights + cost.picture * job.batch
        return ["", f"{machine}: {job.model}, --batch {job.batch} needs {needed:.1f} of {memory} GiB: try --remat"]
    hours = job.concepts * job.steps * job.batch * seconds / devices / 3600
    groups = math.ceil(job.concepts / at_once)
    return [
        "",
        f"On {machine} ({devices} x {memory} GiB), {job.steps} steps of --batch {job.batch}:",
        f"  time: {_hours(hours)} if all devices are always busy, {_hours(hours * _ALIKE)} with a margin of a third,",
        f"    and for each machine a few minutes of loading and compiling; {seconds * 1e3:.1f} ms a picture and step,",
        f"    {_source(job, kind, cost)}",
        f"  memory of a device: {cost.weights} GiB of weights and {cost.picture} for each picture, so --at-once up to"
        f" {at_once}; {groups} groups on devices that train alone (--shard I/{min(groups, devices)})",
        f"  storage: {_storage(job.concepts, adapter_bytes)}",
    ]


def _source(job: Job, kind: str, cost: Cost) -> str:
    if job.step_seconds:
        return "as given by --step-seconds"
    if kind == _MEASURED_ON and cost.is_measured:
        return "measured on an H100 without erasure, which the defaults have: give yours with --step-seconds"
    return "ESTIMATED from an H100 by the devices' peaks: measure 20 steps, and give --step-seconds"


def _storage(concepts: int, adapter_bytes: int) -> str:
    # A checkpoint holds the parameters and two moments of the optimizer; two are kept.
    each = adapter_bytes * (1 + 2 * 3)
    return (
        f"{concepts * adapter_bytes / 1e9:.2f} GB of adapters, {concepts * each / 1e9:.2f} GB with the checkpoints, "
        "which may be removed afterwards"
    )


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
