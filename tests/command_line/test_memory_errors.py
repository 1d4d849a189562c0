"""Running out of memory is reported in one line, whichever library raises it. Other errors are not taken for it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.command_line.memory_errors import explain_memory


def caught(action) -> BaseException:
    with pytest.raises(BaseException) as raised:
        action()
    return raised.value


@pytest.mark.parametrize(
    ("action", "size"),
    [
        (lambda: np.zeros(10**15), "7.11 PiB"),
        (lambda: np.zeros(10**19), ""),
        (lambda: np.zeros((2**40, 2**40)), ""),
        (lambda: bytearray(10**16), ""),
        (lambda: jnp.zeros(10**14).block_until_ready(), "400000000000000 bytes"),
    ],
)
def test_running_out_of_memory_is_one_line(action, size):
    line = explain_memory(caught(action))
    assert line is not None
    assert line.startswith(f"not enough memory ({size}" if size else "not enough memory:")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.5GiB.", "1.5GiB"),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1288490188 bytes.", "1288490188 bytes"),
        ("RESOURCE_EXHAUSTED: Attempting to allocate 2.00G. That was not possible. There are 1.87G free.", "2.00G"),
        ("INTERNAL: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", ""),
        ("std::bad_alloc", ""),
    ],
)
def test_out_of_memory_errors_of_a_device_are_recognised(text, size):
    line = explain_memory(RuntimeError(text)) or ""
    assert line.startswith(f"not enough memory ({size} were requested" if size else "not enough memory: ")


def test_out_of_memory_errors_of_the_system_are_recognised():
    assert explain_memory(OSError(12, "Cannot allocate memory")) is not None
    assert explain_memory(OSError(28, "No space left on device")) is None


@pytest.mark.parametrize(
    "error", [ValueError("invalid literal"), KeyError("memory"), RuntimeError("boom"), OSError("odd")]
)
def test_other_errors_are_not_taken_for_out_of_memory(error):
    assert explain_memory(error) is None
