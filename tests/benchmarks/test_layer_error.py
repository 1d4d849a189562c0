"""The error of a merge in the layers' outputs, against cases that are known in closed form."""

import numpy as np
import pytest

from benchmarks.modular.layer_error import mean_error


def test_the_error_is_what_the_others_add_relative_to_the_own_output():
    rng = np.random.default_rng(0)
    # The first concept's inputs use the first four directions, the second's the last four.
    apart = [np.pad(rng.normal(size=(9, 4)), ((0, 0), (0, 4))), np.pad(rng.normal(size=(9, 4)), ((0, 0), (4, 0)))]
    own = [np.pad(rng.normal(size=(4, 5)), ((0, 4), (0, 0))), np.pad(rng.normal(size=(4, 5)), ((4, 0), (0, 0)))]
    same = [rng.normal(size=(9, 8))] * 2
    base = rng.normal(size=(8, 5))
    outputs = [np.linalg.norm(same[0] @ change) for change in own]
    expected = (outputs[1] / outputs[0] + outputs[0] / outputs[1]) / 2
    assert mean_error(apart, apart, base, own, own[0] + own[1]) == pytest.approx(0, abs=1e-12)
    assert mean_error(same, same, base, own, own[0] + own[1]) == pytest.approx(expected)


def test_the_error_of_no_change_is_one():
    rows, own = [np.eye(3)], [np.ones((3, 2))]
    assert mean_error(rows, rows, np.ones((3, 2)), own, np.zeros((3, 2))) == pytest.approx(1)


def test_a_token_that_moves_changes_what_the_base_puts_out_too():
    rng = np.random.default_rng(0)
    before, now, base = [rng.normal(size=(9, 4))], [rng.normal(size=(9, 4))], rng.normal(size=(4, 5))
    own = [rng.normal(size=(4, 5))]
    expected = np.linalg.norm(now[0] @ (base + own[0]) - before[0] @ (base + own[0])) / np.linalg.norm(
        before[0] @ own[0]
    )
    assert mean_error(before, now, base, own, own[0]) == pytest.approx(expected)
