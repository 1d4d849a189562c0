"""The queue of one job: order, progress, stopping, errors."""

from __future__ import annotations

import threading

import pytest

from blocklora_jax.command_line.program import called_as
from blocklora_jax.errors import UserError
from train.app.jobs import JobQueue, Progress


def fail(error: BaseException):
    raise error


def test_jobs_run_one_at_a_time_in_their_order():
    queue, running, seen = JobQueue(), threading.Semaphore(1), []

    def work(name):
        def run(job):
            assert running.acquire(blocking=False), "two jobs at once"
            seen.append(name)
            running.release()

        return run

    jobs = [queue.add(name, work(name)) for name in "abcd"]
    for job in jobs:
        assert job.wait(10)
    assert seen == list("abcd")
    assert {job.state for job in jobs} == {"done"}


def test_a_job_reports_progress_and_stops_where_it_reports():
    queue, begun, go_on = JobQueue(), threading.Event(), threading.Event()

    def work(job):
        job.say("picture 1 of 2", 0.0)
        begun.set()
        go_on.wait(10)
        job.say("picture 2 of 2", 0.5)
        raise AssertionError("it went on")

    job, later = queue.add("drawing", work), queue.add("later", lambda job: "later")
    assert begun.wait(10)
    assert job.progress == Progress("picture 1 of 2", 0.0)
    assert [each.title for each in queue.jobs()] == ["drawing", "later"]
    assert queue.stop() == "drawing"
    go_on.set()
    assert later.outcome() == "later"
    assert job.state == "stopped"
    with pytest.raises(UserError, match="drawing: stopped"):
        job.outcome()


def test_a_job_that_is_stopped_while_it_waits_never_begins():
    queue, go_on = JobQueue(), threading.Event()
    queue.add("first", lambda job: go_on.wait(10))
    second = queue.add("second", lambda job: fail(AssertionError("it began")))
    second.stop.set()
    go_on.set()
    assert second.wait(10)
    assert second.state == "stopped"


def test_errors_are_the_line_of_the_command_line():
    with called_as("app"):
        queue = JobQueue()
    job = queue.add("exporting", lambda job: fail(UserError("see python -m merge\n info")))
    with pytest.raises(UserError, match=r"^see blocklora info$"):
        job.outcome()
    broken = queue.add("drawing", lambda job: fail(RuntimeError("RESOURCE_EXHAUSTED: Out of memory")))
    with pytest.raises(UserError, match="^not enough memory"):
        broken.outcome()
    missing = queue.add("reading", lambda job: fail(FileNotFoundError(2, "No such file or directory", "a.png")))
    with pytest.raises(UserError, match=r"^a\.png: No such file or directory$"):
        missing.outcome()


def test_the_queue_is_bounded():
    queue, go_on = JobQueue(), threading.Event()
    try:
        with pytest.raises(UserError, match="jobs are waiting already"):
            for _ in range(20):
                queue.add("waiting", lambda job: go_on.wait(10))
    finally:
        go_on.set()
