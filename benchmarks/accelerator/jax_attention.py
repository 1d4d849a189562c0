"""The forms of attention against each other, at the sizes of the published models."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.rows import Rows, one_line
from benchmarks.accelerator.timing import median_seconds
from blocklora_jax.errors import UserError
from blocklora_jax.models.attend import attend, check_form

# Of sd15 at 512 px and sdxl at 1024 px: queries, keys, heads, numbers of a head.
SHAPES = {
    "full": {
        "sd15 64x64": (4096, 4096, 8, 40), "sd15 64x64 text": (4096, 77, 8, 40), "sd15 32x32": (1024, 1024, 8, 80),
        "sdxl 64x64": (4096, 4096, 10, 64), "sdxl 64x64 text": (4096, 77, 10, 64), "sdxl 32x32": (1024, 1024, 20, 64),
    },
    "tiny": {"tiny": (32, 32, 2, 8)},
}  # fmt: skip
Shape = tuple[int, int, int, int]
FORMS, BATCH, CALLS = ("cudnn", "flash", "chunked", "plain"), 4, 10


def prepare(size: str) -> Callable[[], Rows]:
    """Compile all forms for all shapes, side by side."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    forms = [form for form in FORMS if _is_here(form)]
    with ThreadPoolExecutor(4) as pool:
        made = [
            (name, form, shape, pool.submit(_compiled, form, shape, dtype))
            for name, shape in SHAPES[size].items()
            for form in forms
        ]

    def measure() -> Rows:
        for name, form, shape, programs in made:
            row = {"measured": "attention", "shape": name, "batch": BATCH, "form": form}
            try:
                yield row | _measured(programs.result(), shape, dtype)
            except Exception as error:
                yield row | {"error": one_line(error)}

    return measure


def _is_here(form: Any) -> bool:
    try:
        check_form(form)
    except UserError:
        return False
    return True


def _compiled(form: Any, shape: Shape, dtype: Any) -> dict[str, Any]:
    """The forward pass, and the gradient of all inputs."""
    queries, keys, heads, width = shape
    inputs = [jax.ShapeDtypeStruct((BATCH, length, heads * width), dtype) for length in (queries, keys, keys)]
    forward = partial(attend, num_heads=heads, form=form)
    # The sum of squares, so that the gradient is not constant.
    backward = jax.grad(lambda *x: jnp.square(forward(*x).astype(jnp.float32)).sum(), argnums=(0, 1, 2))
    functions = {"forward": forward, "with backward": backward}
    return {name: jax.jit(function).lower(*inputs).compile() for name, function in functions.items()}


def _measured(programs: dict[str, Any], shape: Shape, dtype: Any) -> dict[str, Any]:
    queries, keys, heads, width = shape
    inputs = [
        jax.random.normal(jax.random.key(i), (BATCH, length, heads * width), dtype)
        for i, length in enumerate((queries, keys, keys))
    ]
    out: Any = None
    seconds = {}
    for name, program in programs.items():

        def call(program: Any = program) -> None:
            nonlocal out
            out = program(*inputs)

        seconds[name] = median_seconds(call, lambda: jax.block_until_ready(out), CALLS, 0.2)
    return {"seconds": seconds, "dtype": jnp.dtype(dtype).name, "device": jax.devices()[0].device_kind}
