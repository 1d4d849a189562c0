"""Runs a Flax model with an adapter without changing its parameters. This is the only interceptor of Flax methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blocklora_jax.adapters.erasure import output_energy
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.low_rank import LoRAPair

_COLLECTION, _NAME = "observed", "record"
# Records of at most so many numbers are read whole, see `_after`.
_FEW = 4096


def apply_adapted(
    module: nn.Module,
    params: Mapping[str, Any],
    layers: Mapping[str, LoRAPair],
    scale: float | Array,
    *args: Any,
    random_rows: int = 0,
    **kwargs: Any,
) -> tuple[Any, Float[Array, "layers rows"]]:
    """`module.apply` where every layer W named in `layers` computes W x + scale B A x.

    Args:
        module, params: a model and its base parameters.
        layers: pairs by layer path, already masked. Empty for the base model.
        scale: alpha / rank.
        random_rows: number of rows at the end of the batch that are random prompts for ROE. Each adapted layer's energy
            on these rows is recorded.

    Returns:
        The module's output, and fp32 energies [layers, random_rows] (see `erasure.output_energy`), sorted by path.

    Raises:
        UserError: the module has no layer at a path of `layers`, or did not run it.
    """

    def hook(path: str, x: Array, base: Array, layer: nn.Module) -> tuple[Array, Array | None]:
        change = _low_rank(x, layers[path], scale, base.dtype, layer)
        if not random_rows:
            return base + change, None
        return base + change, output_energy(change[-random_rows:], _without_bias(base, layer)[-random_rows:])

    output, records = _apply_hooked(module, params, layers.keys(), hook, *args, **kwargs)
    energies = jax.tree.leaves(records)
    return output, jnp.stack(energies) if energies else jnp.zeros((0, random_rows))


def apply_observed(
    module: nn.Module,
    params: Mapping[str, Any],
    layers: Mapping[str, LoRAPair],
    scale: float | Array,
    paths: Collection[str],
    observe: Callable[[str, Array, Array], Any],
    *args: Any,
    **kwargs: Any,
) -> tuple[Any, dict[str, Any]]:
    """Like `apply_adapted`, but calls `observe` for some layers. They need not be the adapted layers.

    Args:
        module, params, layers, scale: as for `apply_adapted`.
        paths: the layers to observe.
        observe: `observe(path, x, y)` gives a pytree of arrays. x are the layer's inputs [b, …, n]; y = W x are the
            outputs of the base weights [b, …, m], without bias.

    Returns:
        The module's output, and the results of `observe` by path.
    """
    watched = set(paths)

    def hook(path: str, x: Array, base: Array, layer: nn.Module) -> tuple[Array, Any]:
        y = base + _low_rank(x, layers[path], scale, base.dtype, layer) if path in layers else base
        if path not in watched:
            return y, None
        record = observe(path, x, _without_bias(base, layer))
        return _after(y, record), record

    output, records = _apply_hooked(module, params, watched | layers.keys(), hook, *args, **kwargs)
    return output, {path.removesuffix("/" + _NAME): record[0] for path, record in flatten_params(records).items()}


def measure_energies(
    params: Mapping[str, Any],
    layers: Mapping[str, LoRAPair],
    scale: float | Array,
    x: Float[Array, "rows t n"],
) -> Float[Array, "layers rows"]:
    """The energies that `apply_adapted` records, for linear layers without bias that all read `x`. Runs no model."""
    energies, kernels = [], flatten_params(params)
    for path, pair in sorted(layers.items()):
        a, b, base = (jnp.asarray(factor, x.dtype) for factor in (*pair, kernels[f"{path}/kernel"]))
        energies.append(output_energy((x @ a) @ b * jnp.asarray(scale, x.dtype), x @ base))
    return jnp.stack(energies) if energies else jnp.zeros((0, len(x)))


def _apply_hooked(
    module: nn.Module,
    params: Mapping[str, Any],
    paths: Collection[str],
    hook: Callable[[str, Array, Array, nn.Module], tuple[Array, Any]],
    *args: Any,
    **kwargs: Any,
) -> tuple[Any, Mapping[str, Any]]:
    """The module's output and records. `hook(path, x, y, layer) -> (new y, record)` follows each layer in `paths`."""
    hit: set[str] = set()

    def intercept(next_fun, call_args, call_kwargs, context):
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or path not in paths:
            return next_fun(*call_args, **call_kwargs)
        hit.add(path)
        output, record = hook(path, call_args[0], next_fun(*call_args, **call_kwargs), context.module)
        if record is not None:
            context.module.sow(_COLLECTION, _NAME, record)
        return output

    # intercept_methods is not part of jit's cache key, so it is entered here, inside the function that is traced.
    with nn.intercept_methods(intercept):
        output, recorded = module.apply({"params": params}, *args, mutable=[_COLLECTION], **kwargs)
    if missed := sorted(set(paths) - hit):
        raise UserError(
            f"the adapter's layers {', '.join(missed[:3])}{' …' if len(missed) > 3 else ''} are not in this "
            f"{type(module).__name__}: is the adapter for another base model?"
        )
    return output, cast(Mapping[str, Any], recorded.get(_COLLECTION, {}))


def _after(y: Array, record: Any) -> Array:
    """`y`, but computed after `record`.

    Otherwise XLA computes all records at the end, and holds the inputs of all layers until then.
    `jax.lax.optimization_barrier` does not order them on CPUs: XLA removes it there before it orders the program.
    """
    for leaf in jax.tree.leaves(record):
        # A matrix is one product. Of a few numbers each may be computed by itself, so all of them are waited for.
        read = jnp.sum(leaf) if leaf.size <= _FEW else jnp.ravel(leaf)[0]
        # Zero, which the compiler does not know.
        y = y + jnp.where(jnp.isfinite(read), 0 * read, 0).astype(y.dtype)
    return y


def _low_rank(x: Array, pair: LoRAPair, scale: float | Array, dtype: jnp.dtype, module: nn.Module) -> Array:
    a, b = (jnp.asarray(factor, dtype) for factor in pair)
    x = x.astype(dtype)
    if isinstance(module, nn.Conv) and math.prod(_window(module)) > 1:
        x = _convolve(x, a, module)
    else:
        x = (x.reshape(-1, x.shape[-1]) @ a).reshape(*x.shape[:-1], -1)
    return (x.reshape(-1, x.shape[-1]) @ b).reshape(*x.shape[:-1], -1) * jnp.asarray(scale, dtype)


def _convolve(x: Array, a: Array, module: nn.Conv) -> Array:
    """Convolves x [b, h, w, n] with a [height * width * n, r], with the layer's window, strides and padding."""
    down = nn.Conv(
        a.shape[-1], module.kernel_size, module.strides, module.padding, use_bias=False, dtype=x.dtype, parent=None
    )
    kernel = a.reshape(*_window(module), x.shape[-1], a.shape[-1])
    return cast(Array, down.apply({"params": {"kernel": kernel}}, x))


def _window(module: nn.Conv) -> tuple[int, ...]:
    size = module.kernel_size
    return (size,) if isinstance(size, int) else tuple(size)


def _without_bias(y: Array, module: nn.Module) -> Array:
    bias = module.variables["params"].get("bias")
    return y if bias is None else y - bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
