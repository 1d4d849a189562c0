"""Removing or replacing a concept gives, bit for bit, what merging the other concepts gives."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_builders import flatten, make_adapter, make_params, same_bits

import merge
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.manifest import write_manifest
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.manifest import MergeManifest, read_merge_manifest, without_values
from merge.remove import check_untouched

DTYPES = ("float32", "float16", "bfloat16")
properties = settings(max_examples=12, deadline=None, derandomize=True)


def assert_same(actual, expected) -> None:
    one, other = flatten(actual), flatten(expected)
    assert one.keys() == other.keys()
    assert [path for path in one if not same_bits(one[path], other[path])] == []


@st.composite
def merges(draw):
    """Adapters on separate slots of one partition, in any order, with weights; or a single unblocked adapter."""
    axis = draw(st.sampled_from(["in", "out", "grid"]))
    partition = Partition(num_blocks=5, axis=axis, seed=draw(st.integers(0, 3)))
    slots = draw(st.permutations(range(5)))
    groups = [(slots[0], slots[1]), (slots[2],), (slots[3],), (slots[4],)]
    adapters = [
        make_adapter(name, group, partition, rank=1 + i % 2, vectors=draw(st.integers(0, 3)))
        for i, (name, group) in enumerate(zip("pqrs", groups, strict=True))
    ]
    weights = draw(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4))
    return adapters, weights, draw(st.integers(0, 2)), draw(st.sampled_from(DTYPES))


@properties
@given(merges())
def test_removing_equals_merging_the_others(case):
    adapters, weights, index, dtype = case
    base = make_params(dtype=jnp.dtype(dtype))
    adapters, weights, name = adapters[:3], weights[:3], adapters[index].name
    merged = merge.compose(base, adapters, weights)
    removed = merge.remove(merged, base, [without_values(a) for a in adapters], name)
    rest = [i for i in range(3) if i != index]
    assert_same(removed, merge.compose(base, [adapters[i] for i in rest], [weights[i] for i in rest]))
    one_path, three_path = flatten(base), flatten(merged)
    assert any(not same_bits(three_path[p], x) for p, x in flatten(removed).items())
    assert flatten(removed)["vae/decoder/conv_in/bias"] is one_path["vae/decoder/conv_in/bias"]


@properties
@given(merges())
def test_replacing_equals_merging_the_other_instead(case):
    adapters, weights, index, dtype = case
    base = make_params(dtype=jnp.dtype(dtype))
    new, new_weight = adapters[3], weights[3]
    merged = merge.compose(base, adapters[:3], weights[:3])
    after, after_weights = list(adapters[:3]), list(weights[:3])
    after[index], after_weights[index] = new, new_weight
    replaced = merge.replace(merged, base, adapters[:3], adapters[index].name, new, new_weight)
    assert_same(replaced, merge.compose(base, after, after_weights))


def test_arrays_on_a_device_stay_there():
    base = jax.tree.map(jnp.asarray, make_params(dtype=jnp.bfloat16))
    adapters = [make_adapter(name, (slot,)) for slot, name in enumerate(("ada", "bob", "cyd"))]
    merged = merge.compose(base, adapters[:2])
    removed, alone = merge.remove(merged, base, adapters[:2], "ada"), merge.compose(base, adapters[1:2])
    assert_same(removed, alone)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(removed))
    replaced = merge.replace(merged, base, adapters[:2], "bob", adapters[2])
    assert_same(
        merge.remove(replaced, base, [adapters[0], adapters[2]], "cyd"), merge.remove(merged, base, adapters[:2], "bob")
    )


def test_a_concept_may_be_replaced_on_its_own_blocks_and_by_more_layers():
    base, partition = make_params(), Partition(num_blocks=4)
    small = {"unet": {"mid_block/attentions_0/proj_in": (16, 19)}}
    adapters = [make_adapter("ada", (0,), partition, layers=small), make_adapter("bob", (1,), partition)]
    new = make_adapter("eve", (0,), partition, vectors=1)
    merged = merge.compose(base, adapters)
    assert_same(merge.replace(merged, base, adapters, "ada", new), merge.compose(base, [new, adapters[1]]))


def test_an_unblocked_adapter_alone_is_removed_too():
    base, adapter = make_params(), make_adapter("ada", partition=None)
    assert_same(merge.remove(merge.compose(base, [adapter]), base, [adapter], "ada"), base)


def test_an_impossible_removal_is_refused():
    base = make_params()
    adapters = [make_adapter("ada", (0,)), make_adapter("bob", (1,)), make_adapter("cyd", (1,))]
    merged = merge.compose(base, adapters, allow_overlap=True)
    with pytest.raises(UserError, match="'bob' shares weights with 'cyd'.*merge the others again"):
        merge.remove(merged, base, adapters, "bob")
    assert_same(merge.remove(merged, base, adapters, "ada"), merge.compose(base, adapters[1:], allow_overlap=True))
    with pytest.raises(UserError, match="0 of the merged concepts are named 'eve'"):
        merge.remove(merged, base, adapters, "eve")
    with pytest.raises(UserError, match=r"1 tensors do not fit \(text_encoder/.*token_embedding"):
        merge.remove(merged, base, adapters[:1], "ada")
    one = merge.compose(base, adapters[:2])
    with pytest.raises(UserError, match="'eve' and 'bob' both own slot 1"):
        merge.replace(one, base, adapters[:2], "ada", make_adapter("eve", (1,)))
    with pytest.raises(UserError, match="both define the token <bob>"):
        merge.replace(
            one, base, adapters[:2], "ada", dataclasses.replace(make_adapter("eve", (2,)), tokens=adapters[1].tokens)
        )


def test_another_base_is_noticed_outside_of_the_blocks():
    base, adapters = make_params(), [make_adapter("ada", (0,)), make_adapter("bob", (1,))]
    for dtype in DTYPES:
        merged = merge.compose(base, adapters)
        saved = jax.tree.map(lambda x, d=dtype: x.astype(jnp.dtype(d)).astype(np.float32), merged)
        check_untouched(saved, base, adapters, dtype)
        with pytest.raises(UserError, match="differ from the base outside"):
            check_untouched(saved, make_params(seed=1), adapters, dtype)
        layers = {"unet": {"mid_block/attentions_0/proj_in": (16, 19)}}
        with pytest.raises(UserError, match="1 tensors differ"):
            other = make_adapter("cyd", (2,), layers=layers, vectors=0)
            check_untouched(merge.compose(saved, [other]), base, adapters, dtype)
    half = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), base)
    with pytest.raises(UserError, match="another precision"):
        check_untouched(merge.compose(base, adapters), half, adapters, "float32")


def test_the_manifest_keeps_everything_but_the_tensors(tmp_path):
    adapters = (make_adapter("ada", (0, 2), vectors=3), make_adapter("bob", partition=None, vectors=0))
    record = MergeManifest(
        base_name="small", base_digest="a" * 64, dtype="float16",
        adapters=tuple(map(without_values, adapters)), weights=(1.0, -0.5),
    )  # fmt: skip
    write_manifest(tmp_path, record.to_json())
    again = read_merge_manifest(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "blocklora.json").write_text(json.dumps(record.to_json()))  # as version 0.1.0 wrote it
    assert read_merge_manifest(tmp_path / "old").to_json() == record.to_json()
    assert again.to_json() == record.to_json()
    for one, other in zip(again.adapters, adapters, strict=True):
        assert one.info == other.info
        assert one.shapes() == other.shapes()
        assert merge.token_counts([one]) == merge.token_counts([other])
    (tmp_path / "blocklora.json").write_text('{"blocklora_merge": 1}')
    with pytest.raises(UserError, match="lacks or misspells a field"):
        read_merge_manifest(tmp_path)
    (tmp_path / "blocklora.json").write_text('{"blocklora_merge": 2}')
    with pytest.raises(UserError, match="version 2"):
        read_merge_manifest(tmp_path)
    (tmp_path / "blocklora.json").write_text("[")
    with pytest.raises(UserError, match="cannot read"):
        read_merge_manifest(tmp_path)


@pytest.fixture(scope="module")
def files(tiny_sd, tmp_path_factory):
    """Adapter files of the tiny model, by name, on slots 0 to 3."""
    folder = tmp_path_factory.mktemp("adapters")
    for slot, name in enumerate(("ada", "bob", "cyd", "dan")):
        adapter = random_adapter(
            name, tiny_sd.params, slots=(slot,), layers="cross_kv+text_encoder", vectors=1 + slot % 2
        )
        adapter.save(folder / f"{name}.safetensors")
    return {path.stem: str(path) for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_folders_are_those_of_merging_the_others_byte_for_byte(dtype, files, tiny_folder, tmp_path):
    def save(names: str, folder: str, *weights: str) -> Path:
        out = tmp_path / folder
        options = ["--model", str(tiny_folder), "--dtype", dtype, "--save", str(out)]
        main([*(files[name] for name in names.split()), "--weights", *weights, *options])
        return out

    all_three = save("ada bob cyd", "all", "1", "0.8", "0.5")
    main(["remove", str(all_three), "bob", "--out", str(tmp_path / "removed")])
    assert contents(tmp_path / "removed") == contents(save("ada cyd", "two", "1", "0.5"))
    main(["replace", str(all_three), "ada", files["dan"], "--weight", "0.7", "--out", str(all_three)])
    assert contents(all_three) == contents(save("dan bob cyd", "other", "0.7", "0.8", "0.5"))
    (tiny := tmp_path / "all").joinpath("blocklora.json").unlink()
    with pytest.raises(UserError, match=re.escape(f"{tiny} is not a merged model")):
        main(["remove", str(tiny), "bob", "--out", str(tmp_path / "x")])


def test_bad_input_is_one_line(files, tiny_folder, tmp_path, capsys):
    merged, out = str(tmp_path / "merged"), ["--out", str(tmp_path / "out")]
    main([files["ada"], files["bob"], "--model", str(tiny_folder), "--save", merged])
    capsys.readouterr()
    cases = [
        (["remove", str(tiny_folder), "ada", *out], "is not a merged model"),
        (["remove", merged, "eve", *out], "there is no concept 'eve' in it; it has ada, bob"),
        (["remove", merged, "ada", "--base", merged, *out], "is not the base model"),
        (["replace", merged, "ada", files["bob"], *out], "'bob' and 'bob' both own slot 1"),
        (["replace", merged, "ada", "missing.safetensors", *out], "there is no adapter file"),
    ]
    for args, text in cases:
        with pytest.raises(SystemExit) as exit_:
            run(lambda args=args: main(args))
        error = capsys.readouterr().err
        assert (exit_.value.code, error.count("\n")) == (2, 1)
        assert text in error
    assert not (tmp_path / "out").exists()
