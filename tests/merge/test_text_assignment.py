"""Adapters whose slots are the same block of a basis in all layers: what a merge keeps, and what cannot be undone."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

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


def test_removing_and_replacing_are_refused_with_advice_if_other_concepts_stay():
    merged = merge.compose(PARAMS, [ADA, REX])
    for change in (
        lambda: merge.remove(merged, PARAMS, [ADA, REX], "ada"),
        lambda: merge.replace(merged, PARAMS, [ADA, REX], "ada", BO),
    ):
        with pytest.raises(UserError, match="'ada' shares weights with 'rex'.* merge the others again"):
            change()


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
