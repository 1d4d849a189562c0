"""How a notebook shows the results of probing."""

from __future__ import annotations

import numpy as np
import pytest

from blocklora_jax.probing.conversion import Fit
from blocklora_jax.probing.crosstalk import Crosstalk
from blocklora_jax.probing.input_statistics import Inputs
from blocklora_jax.probing.probe import Probe
from blocklora_jax.probing.text_attention import TextAttention

LAYERS = [f"unet/mid_block/{i}/to_k" for i in range(200)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda sd: Fit(0.12345, 0.5, 2.0), "error 0.123"),
        (lambda sd: Crosstalk(np.ones((40, 40)), np.full(40, 0.25)), "40 concepts"),
        (lambda sd: Crosstalk(np.ones((0, 0)), np.ones(0)), "0 concepts"),
        (lambda sd: Inputs({layer: [np.eye(9)] * 3 for layer in LAYERS}, {}), "3 adapters, 200 layers"),
        (lambda sd: Probe(sd, frozenset(LAYERS), lambda layer, x, y, context: x), "200 layers"),
        (TextAttention, "2 steps"),
    ],
)
def test_a_result_of_probing_is_shown_in_a_line_without_arrays(tiny_sd, make, words):
    shown = repr(make(tiny_sd))
    assert words in shown
    assert shown.count("\n") <= 1 and len(shown) <= 160 and "array" not in shown
