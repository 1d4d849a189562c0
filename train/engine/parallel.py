"""The one place where the training step is mapped over devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from blocklora_jax.errors import UserError
from train.engine.platform import remat_options

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def map_step(step: Step, devices: Sequence[jax.Device], mapper: str = "shard_map", concepts: int = 1) -> Step:
    """`step(state, batch, params)` of one concept on one device, mapped over concepts and devices, and compiled.

    Args:
        step: per-device code that averages over the axis named "data".
        devices: with "shard_map" they form a grid of `concepts` x data; with "pmap" the data is split over all of them.
        mapper: "shard_map", or "pmap" to use the older function of JAX.
        concepts: number of devices over which the concepts are spread.

    Returns:
        The same function, but the leaves of `state` and `batch` have a leading axis of concepts. Those of `batch` have
        a second axis of rows, which is split over the devices. `params` are shared by all.

    Raises:
        UserError: an unknown mapper.
    """
    per_device = jax.vmap(step, in_axes=(0, 0, None))
    if mapper == "shard_map":
        return _shard_map(per_device, make_mesh(devices, concepts))
    if mapper == "pmap" and jax.process_count() > 1:
        raise UserError("--mapper pmap trains on one host only: leave it out on a pod")
    if mapper == "pmap":
        return _pmap(per_device, devices)
    raise UserError(f"unknown mapper {mapper!r}: choose shard_map or pmap")


def make_mesh(devices: Sequence[jax.Device], concepts: int = 1) -> Mesh:
    """A mesh [concept, data] of all `devices`."""
    shape = (concepts, len(devices) // concepts)
    return jax.make_mesh(shape, ("concept", "data"), (AxisType.Auto, AxisType.Auto), devices=list(devices))


def place_state(state: Any, devices: Sequence[jax.Device], concepts: int = 1) -> Any:
    """`state`, placed on the devices as `map_step` returns it.

    Otherwise the types of the first and second step would differ, and the step would be compiled twice.
    """
    sharding = NamedSharding(make_mesh(devices, concepts), PartitionSpec("concept"))
    # device_put would reach only the devices of this host.
    return jax.jit(lambda x: x, out_shardings=sharding)(state)


def take_concepts(
    state: Any, chosen: Sequence[int], devices: Sequence[jax.Device], concepts: int, whole: bool = False
) -> Any:
    """`state` of the chosen concepts, placed as by `place_state`. whole: all of it on every device instead."""
    sharding = NamedSharding(make_mesh(devices, concepts), PartitionSpec() if whole else PartitionSpec("concept"))
    numbers = np.asarray(chosen)
    return jax.jit(lambda state: jax.tree.map(lambda x: x[numbers], state), out_shardings=sharding)(state)


def copy_to_devices(params: Any, devices: Sequence[jax.Device], concepts: int = 1) -> Any:
    """`params`, equal on every host, copied to every device. Otherwise each call of the step would copy them again."""
    if len(devices) == 1:
        return params
    sharding = NamedSharding(make_mesh(devices, concepts), PartitionSpec())
    # device_put keeps the copy that a device already has, but reaches only the devices of this host.
    if jax.process_count() == 1:
        return jax.device_put(params, sharding)
    return jax.jit(lambda x: x, out_shardings=sharding)(params)


def place_batch(batch: Any, devices: Sequence[jax.Device], concepts: int = 1) -> Any:
    """A NumPy `batch`, equal on every host, as arrays whose rows are on the devices to which `map_step` splits them.

    Raises: UserError for rows that the devices cannot share evenly; see `train.concept.padding`.
    """
    for rows in {leaf.shape[1] for leaf in jax.tree.leaves(batch)}:
        check_rows(rows, len(devices) // concepts, "a batch")
    sharding = NamedSharding(make_mesh(devices, concepts), PartitionSpec("concept", "data"))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), batch)


def gather(tree: Any) -> Any:
    """`tree` copied whole to every host, because its values can be read only then. Every host of a pod must call it."""
    if jax.process_count() == 1:
        return tree
    replicated = jax.tree.map(lambda x: NamedSharding(x.sharding.mesh, PartitionSpec()), tree)
    return jax.jit(lambda x: x, out_shardings=replicated)(tree)


def check_rows(rows: int, devices: int, name: str) -> None:
    """Raises UserError if `rows` cannot be split evenly over the devices."""
    if rows % devices:
        raise UserError(f"{name} of {rows} rows cannot be split over {devices} devices: use a multiple of {devices}")


def _shard_map(per_device: Step, mesh: Mesh) -> Step:
    of_concept, of_rows = PartitionSpec("concept"), PartitionSpec("concept", "data")
    # check_vma=False: no automatic psum. The step averages its gradients itself, so that pmap can map the same code.
    mapped = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(of_concept, of_rows, PartitionSpec()),
        out_specs=(of_concept, of_concept),
        check_vma=False,
    )
    state, rows, params = (NamedSharding(mesh, spec) for spec in (of_concept, of_rows, PartitionSpec()))
    return jax.jit(
        mapped, in_shardings=(state, rows, params), out_shardings=(state, state), donate_argnums=0,
        compiler_options=remat_options(mesh.devices.flat[0].platform),
    )  # fmt: skip


def _pmap(per_device: Step, devices: Sequence[jax.Device]) -> Step:
    mapped = jax.pmap(per_device, axis_name="data", in_axes=(None, 0, None), out_axes=None, devices=list(devices))

    def split(x: Any) -> Any:
        concepts, rows = x.shape[:2]
        return x.reshape(concepts, len(devices), rows // len(devices), *x.shape[2:]).swapaxes(0, 1)

    return lambda state, batch, params: mapped(state, jax.tree.map(split, batch), params)
