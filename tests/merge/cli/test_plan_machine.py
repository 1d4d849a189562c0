"""`merge plan --machine`: hours, memory and storage."""

from __future__ import annotations

import pytest

from blocklora_jax.errors import UserError
from merge.cli.main import main
from merge.cli.plan_machine import Job, describe_machine


def plan(**changes) -> str:
    job = Job(**{"model": "sd15", "concepts": 300, "steps": 500, "batch": 1, "step_seconds": None} | changes)
    return "\n".join(describe_machine(job, "h100-8", 1_000_000))


def test_the_time_is_that_of_all_steps_over_all_devices():
    # 300 concepts x 500 steps x 0.0061 s / 8 devices = 114 s
    assert "time: 2 minutes" in plan()
    assert "measured on an H100 without erasure" in plan()
    # x 2 pictures x 0.5 s
    assert "time: 5.2 hours" in plan(batch=2, step_seconds=0.5)
    assert "as given by --step-seconds" in plan(step_seconds=0.5)
    assert "ESTIMATED" in plan(model="sdxl")


def test_storage_counts_checkpoints():
    assert "0.30 GB of adapters, 2.10 GB with the checkpoints" in plan()


def test_what_does_not_fit_is_said():
    lines = describe_machine(Job("sdxl", 3, 500, 2, None), "v5e-8", 1)
    assert lines[-1] == "v5e-8: sdxl, --batch 2 needs 21.8 of 16 GiB: try --remat"


@pytest.mark.parametrize("machine", ["toaster-3", "v5e-0", "v5e-", ""])
def test_an_unknown_machine_is_refused(machine):
    with pytest.raises(UserError, match="must be KIND or KIND-N"):
        describe_machine(Job("sd15", 3, 500, 1, None), machine, 1)


def test_the_command_prints_it(capsys):
    main(["plan", "--concepts", "30", "--model", "sd15", "--machine", "v5e-8"])
    assert "On v5e-8 (8 x 16 GiB), 500 steps of --batch 1:" in capsys.readouterr().out
    with pytest.raises(UserError, match="--machine knows sd15, sd21, sdxl"):
        main(["plan", "--concepts", "3", "--model", "pocket", "--machine", "v5e-8"])
