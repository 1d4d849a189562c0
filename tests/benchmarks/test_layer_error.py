"""The error of a merge in the layers' outputs, against cases that are known in closed form."""

import numpy as np
import pytest

from benchmarks.modular.layer_error import errors


def test_the_error_is_what_the_others_add_relative_to_the_own_output():
    rng = np.random.default_rng(0)
    # The first concept's inputs use the first four directions, the second's the last four.
    apart = [np.pad(rng.normal(size=(9, 4)), ((0, 0), (0, 4))), np.pad(rng.normal(size=(9, 4)), ((0, 0), (4, 0)))]
    own = [np.pad(rng.normal(size=(4, 5)), ((0, 4), (0, 0))), np.pad(rng.normal(size=(4, 5)), ((4, 0), (0, 0)))]
    same = [rng.normal(size=(9, 8))] * 2
    found = errors({"apart": apart, "same": same}, own, own[0] + own[1])
    outputs = [np.linalg.norm(same[0] @ change) for change in own]
    assert found["apart"] == pytest.approx(0, abs=1e-12)
    assert found["same"] == pytest.approx((outputs[1] / outputs[0] + outputs[0] / outputs[1]) / 2)


def test_the_error_of_no_change_is_one():
    rows, own = [np.eye(3)], [np.ones((3, 2))]
    assert errors({"own": rows}, own, np.zeros((3, 2))) == {"own": pytest.approx(1)}
