"""Params that are spread over devices stay there, and merge to the same bits."""

from __future__ import annotations

from forced_devices import run_on_devices

SCRIPT = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from merge_builders import make_adapter, make_params, same_bits
import merge
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError

def spread(x, mesh):
    axes = [i for i in range(x.ndim) if x.shape[i] % 8 == 0][-1:]
    spec = PartitionSpec(*[None] * axes[0], "x") if axes else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, spec))

assert jax.device_count() == 8
params, adapters = make_params(), [make_adapter("ada", (0,)), make_adapter("bob", (1, 3))]
expected = merge.compose(jax.tree.map(jnp.asarray, params), adapters)
cut = Partition(num_blocks=6, basis="0123456789abcdef", assignment="text")
in_basis = [make_adapter("ada", (0,), cut), make_adapter("bob", (1,), cut)]
sums = merge.compose(jax.tree.map(jnp.asarray, params), in_basis)
for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    sharded = jax.tree.map(lambda x: spread(x, mesh), params)
    merged = merge.compose(sharded, adapters)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, merged, expected)))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: x.sharding == y.sharding, merged, sharded)))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(merged))
    summed = merge.compose(sharded, in_basis)
    assert all(jax.tree.leaves(jax.tree.map(same_bits, summed, sums)))
    left = merge.remove(summed, sharded, in_basis, "ada")
    assert all(jax.tree.leaves(jax.tree.map(same_bits, left, merge.compose(sharded, in_basis[1:]))))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: x.sharding == y.sharding, left, sharded)))
    with jax.set_mesh(mesh):
        compiled = jax.jit(merge.compose)(sharded, adapters)
    # fp32 with values of about 10; products that are split over devices are rounded differently.
    close = jax.tree.map(lambda x, y: bool(jnp.abs(x - y).max() < 1e-5), jax.device_get(compiled), expected)
    assert all(jax.tree.leaves(close))
# Overflow of half precision is noticed on whatever devices the params are.
half = jax.tree.map(lambda x: spread(x, mesh), make_params(dtype=jnp.bfloat16))
try:
    merge.compose(half, adapters, [3e38, 1])
except UserError as error:
    assert "beyond the range of bfloat16" in str(error)
    print("ok")
"""


def test_sharding_is_kept_on_automatic_and_explicit_meshes():
    assert run_on_devices(8, SCRIPT, flags=()) == "ok\n"
