"""Adapters whose slots are one block of a basis for all layers: what a merge keeps, and how it is undone."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from merge_builders import same_bits

import merge
from blocklora_jax import Adapter
from blocklora_jax.adapters.basis import basis_digest
from blocklora_jax.adapters.file import read_header
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import apply_masks, block_masks
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checkpoints.manifest import write_manifest
from blocklora_jax.composing.grid import grid_step
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.testing.tiny_model import TEXT_WIDTH, tiny_params
from merge.manifest import MergeRecord, outline, read_record

PARAMS = tiny_params(levels=1)
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((TEXT_WIDTH, TEXT_WIDTH)))[0].astype(np.float32)
CUT = Partition(num_blocks=4, basis=basis_digest(BASIS), assignment="text")


def make(name: str, slots: tuple[int, ...], partition: Partition = CUT) -> Adapter:
    """An adapter as training leaves it, with entries of about one."""
    info = AdapterInfo(
        name=name, class_noun="man", trigger=f"<{name}> man", rank=3, alpha=3.0, base_name="tiny",
        base_digest=params_digest(PARAMS), partition=partition, slots=slots,
    )  # fmt: skip
    rng, shapes = np.random.default_rng(sum(name.encode())), select_kernels(PARAMS, "cross_kv")
    masks = block_masks(info, shapes, BASIS)
    lora = {
        part: {
            path: masks[part][path]._replace(
                lora_A=rng.standard_normal((masks[part][path].lora_A.shape[1], 3), np.float32),
                lora_B=rng.standard_normal((3, m), np.float32),
            )
            for path, (_, m) in layers.items()
        }
        for part, layers in shapes.items()
    }
    tokens = {f"<{name}>": rng.standard_normal((2, TEXT_WIDTH)).astype(np.float32)}
    return Adapter(lora=jax.tree.map(np.asarray, apply_masks(lora, masks)), tokens=tokens, info=info)


ADA, REX, BO = make("ada", (1,)), make("rex", (0, 3)), make("bo", (2,))


def test_on_its_own_directions_a_concept_equals_its_merge_alone_up_to_rounding():
    merged = flatten_params(merge.compose(PARAMS, [ADA, REX]))
    others = flatten_params(merge.compose(PARAMS, [REX]))
    base = flatten_params(PARAMS)
    for adapter, alone in ((ADA, flatten_params(merge.compose(PARAMS, [ADA]))), (REX, others)):
        for layer in adapter.lora["unet"]:
            path = f"unet/{layer}/kernel"
            own = BASIS[:, CUT.directions("", TEXT_WIDTH, adapter.info.slots)].astype(np.float64)
            difference = own.T @ (np.asarray(merged[path], np.float64) - np.asarray(alone[path], np.float64))
            change = np.abs(np.asarray(merged[path]) - np.asarray(base[path])).max()
            # The part of the other concept's change that an own direction reads, as a share of the largest entry of all
            # changes. It is a sum of 32 fp32 products, each rounded to 6e-8.
            assert np.abs(difference).max() <= 32 * 6e-8 * change
            assert change > 1


def test_what_remains_of_others_on_own_directions_is_the_basis_rounding_and_the_grid():
    """The bound that `compose` states, against fp64."""
    merged, base = flatten_params(merge.compose(PARAMS, [ADA, REX, BO])), flatten_params(PARAMS)
    alone = flatten_params(merge.compose(PARAMS, [ADA]))
    own = BASIS[:, CUT.directions("", TEXT_WIDTH, ADA.info.slots)].astype(np.float64)
    for layer in ADA.lora["unet"]:
        path = f"unet/{layer}/kernel"
        found = np.abs(own.T @ (np.asarray(merged[path], np.float64) - np.asarray(alone[path], np.float64)))
        changes = [np.float64(pair.lora_A) @ pair.lora_B for pair in (x.lora["unet"][layer] for x in (REX, BO))]
        basis = np.sum([np.abs(own.T @ change) for change in changes], axis=0)
        step = grid_step(np.asarray(base[path]))
        # Half a step for each of two others, and for the two merged weights a quarter each; a vector of 32 entries of
        # that size has the length sqrt(32) times it. The factors' last digits add 3 products of 2^-25 of about 10.
        bound = np.sqrt(TEXT_WIDTH) * (3 * step / 2 + 2 * 3 * 10 * 2**-25)
        assert (found <= basis + bound).all()
        # fp32 directions are orthonormal to about 1e-7, a sum of 32 products of entries of about one.
        assert basis.max() <= 1e-5
        assert found.max() <= 1e-5 * np.abs(changes[0]).max()


def test_the_order_does_not_matter_bit_for_bit():
    one, other = (flatten_params(merge.compose(PARAMS, order)) for order in ([ADA, REX, BO], [BO, ADA, REX]))
    assert all(np.array_equal(one[path], other[path]) for path in one if "token_embedding" not in path)


def test_files_and_manifests_keep_the_assignment(tmp_path):
    ADA.save(tmp_path / "adapter.safetensors")
    assert read_header(tmp_path / "adapter.safetensors")["partition"]["assignment"] == "text"
    found = Adapter.load(tmp_path / "adapter.safetensors")
    assert found.info == ADA.info
    jax.tree.map(np.testing.assert_array_equal, found.lora, ADA.lora)
    record = MergeRecord(
        base_name="tiny", base_digest=ADA.info.base_digest, dtype="float32",
        adapters=(outline(ADA), outline(REX)), weights=(1.0, 0.5),
    )  # fmt: skip
    write_manifest(tmp_path, record.to_json())
    assert [adapter.info.partition for adapter in read_record(tmp_path).adapters] == [CUT, CUT]
    assert read_record(tmp_path).to_json() == record.to_json()


def test_removing_and_replacing_are_refused_where_others_stay_and_say_what_to_do():
    """Without the adapter's values, and in half precision."""
    known = [outline(ADA), outline(REX)]
    half = jax.tree.map(lambda x: x.astype(np.float16), PARAMS)
    for base, adapters, words in (
        (PARAMS, known, "'ada' shares weights with 'rex'.*--adapter.* merge the others again"),
        (half, [ADA, REX], "'ada' shares weights with .*float16 is too coarse.* merge the others again"),
    ):
        merged = merge.compose(base, [ADA, REX], check_base=False)
        for change in (
            lambda m=merged, b=base, a=adapters: merge.remove(m, b, a, "ada"),
            lambda m=merged, b=base, a=adapters: merge.replace(m, b, a, "ada", make("zoe", (1,)), check_base=False),
        ):
            with pytest.raises(UserError, match=words):
                change()


def test_with_its_values_a_concept_is_removed_and_replaced_bit_for_bit_where_others_stay():
    merged, zoe = merge.compose(PARAMS, [ADA, REX, BO], [1, 0.7, -0.3]), make("zoe", (1,))
    removed = merge.remove(merged, PARAMS, [ADA, outline(REX), outline(BO)], "ada", weights=[1, 0.7, -0.3])
    replaced = merge.replace(merged, PARAMS, [ADA, REX, BO], "ada", zoe, 0.5, weights=[1, 0.7, -0.3])
    for found, expected in (
        (removed, merge.compose(PARAMS, [REX, BO], [0.7, -0.3])),
        (replaced, merge.compose(PARAMS, [zoe, REX, BO], [0.5, 0.7, -0.3])),
    ):
        assert all(jax.tree.leaves(jax.tree.map(same_bits, found, expected)))


def test_the_only_concept_can_be_removed_bit_for_bit():
    removed = flatten_params(merge.remove(merge.compose(PARAMS, [ADA]), PARAMS, [ADA], "ada"))
    for path, leaf in flatten_params(PARAMS).items():
        np.testing.assert_array_equal(removed[path], leaf)


def test_other_assignments_and_the_same_slot_are_refused():
    elsewhere = replace(CUT, assignment="layer")
    with pytest.raises(UserError, match="their partitions differ"):
        merge.compose(PARAMS, [ADA, make("bo", (2,), elsewhere)])
    with pytest.raises(UserError, match="both own slot 1"):
        merge.compose(PARAMS, [ADA, make("bo", (1, 2))])
