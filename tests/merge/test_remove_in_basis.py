"""Removing and replacing concepts that change the same weights in a basis: bit for bit the merge of the others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_builders import UNET, flatten, make_adapter, make_params, same_bits

import merge
from blocklora_jax import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.manifest import MergeManifest, has_values, pairs_digest, without_values

IN_BASIS = Partition(num_blocks=6, basis="0123456789abcdef", assignment="text")
NAMES = ("ada", "bob", "cyd", "dan", "eve")
FIRST, SECOND = ({"unet": {layer: UNET[layer]}} for layer in [*UNET][:2])
properties = settings(max_examples=4, deadline=None, derandomize=True)


@cache
def adapters() -> tuple[Adapter, ...]:
    """Five on slots of their own, with tokens, in three layers."""
    return tuple(make_adapter(name, (i,), IN_BASIS, rank=1 + i, layers={"unet": UNET}) for i, name in enumerate(NAMES))


def outlines_but(name: str, given: tuple[Adapter, ...] | None = None) -> list[Adapter]:
    """What a folder and one file tell."""
    return [a if a.name == name else without_values(a) for a in given or adapters()]


def assert_same(actual, expected) -> None:
    one, other = flatten(actual), flatten(expected)
    assert one.keys() == other.keys()
    assert [path for path in one if not same_bits(one[path], other[path])] == []


@properties
@given(st.lists(st.floats(-0.5, 0.5, width=32), min_size=5, max_size=5))
def test_each_of_five_is_removed_bit_for_bit(weights):
    base = make_params()
    merged = merge.compose(base, adapters(), weights)
    for i, name in enumerate(NAMES):
        removed = merge.remove(merged, base, outlines_but(name), name, weights=weights)
        rest = [j for j in range(5) if j != i]
        assert_same(removed, merge.compose(base, [adapters()[j] for j in rest], [weights[j] for j in rest]))


@properties
@given(st.lists(st.floats(-0.5, 0.5, width=32), min_size=5, max_size=5), st.floats(-0.5, 0.5, width=32))
def test_each_of_five_is_replaced_bit_for_bit(weights, weight):
    base, new = make_params(), make_adapter("zoe", (5,), IN_BASIS, rank=2, vectors=3, layers={"unet": UNET})
    merged = merge.compose(base, adapters(), weights)
    for i, name in enumerate(NAMES):
        replaced = merge.replace(merged, base, outlines_but(name), name, new, weight, weights=weights)
        after = [*adapters()[:i], new, *adapters()[i + 1 :]]
        assert_same(replaced, merge.compose(base, after, [*weights[:i], weight, *weights[i + 1 :]]))


def test_all_are_removed_one_after_another_down_to_the_base():
    base, left = make_params(), list(adapters())
    params = merge.compose(base, left)
    while left:
        params = merge.remove(params, base, left, left[0].name)
        left = left[1:]
        assert_same(params, merge.compose(base, left))
    assert_same(params, base)


def test_arrays_on_a_device_stay_there():
    base = jax.tree.map(jnp.asarray, make_params())
    ada, bob, zoe = (make_adapter(name, (i,), IN_BASIS, layers=FIRST) for i, name in enumerate(("ada", "bob", "zoe")))
    merged = merge.compose(base, [ada, bob], [0.4, 1])
    removed = merge.remove(merged, base, [ada, without_values(bob)], "ada", weights=[0.4, 1])
    assert_same(removed, merge.compose(base, [bob]))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(removed))
    replaced = merge.replace(merged, base, [ada, bob], "ada", zoe, -0.5, weights=[0.4, 1])
    assert_same(replaced, merge.compose(base, [zoe, bob], [-0.5, 1]))


def test_layers_that_only_some_have_are_exchanged_too():
    base = make_params()
    first, second, both = (
        make_adapter(name, (i,), IN_BASIS, layers=layers)
        for i, (name, layers) in enumerate((("ada", FIRST), ("bob", SECOND), ("cyd", {"unet": UNET})))
    )
    merged = merge.compose(base, [first, both])
    # A layer that the concept had and its replacement has not, and the other way round; alone and with another there.
    assert_same(merge.replace(merged, base, [first, both], "ada", second), merge.compose(base, [second, both]))
    alone = merge.compose(base, [first, second])
    outlines = [without_values(first), without_values(second)]
    assert_same(merge.remove(alone, base, outlines, "ada"), merge.compose(base, [second]))
    assert_same(merge.replace(alone, base, [first, second], "bob", both), merge.compose(base, [first, both]))


def test_a_concept_that_changes_nothing_is_removed_bit_for_bit():
    base, ada = make_params(), adapters()[0]
    pairs = {layer: LoRAPair(pair.lora_A, 0 * pair.lora_B) for layer, pair in ada.lora["unet"].items()}
    for empty in (pairs, {layer: LoRAPair(0 * pair.lora_A, pair.lora_B) for layer, pair in pairs.items()}):
        members = [replace(ada, lora={"unet": empty}), *adapters()[1:3]]
        assert has_values(members[0])
        assert_same(merge.remove(merge.compose(base, members), base, members, "ada"), merge.compose(base, members[1:]))


def test_kernels_of_zeros_are_undone_too():
    base = jax.tree.map(np.zeros_like, make_params())
    weights = [0.01, -0.02, 0.03]
    merged = merge.compose(base, adapters()[:3], weights)
    removed = merge.remove(merged, base, adapters()[:3], "bob", weights=weights)
    assert_same(removed, merge.compose(base, adapters()[:3:2], weights[::2]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused_in_one_line(dtype):
    base = make_params(dtype=jnp.dtype(dtype))  # pyright: ignore[reportArgumentType]
    merged = merge.compose(base, adapters()[:2])
    for params, original in ((merged, base), (merged, make_params()), (make_params(), base)):
        params = params if params is merged else merge.compose(params, adapters()[:2])
        with pytest.raises(UserError, match=f"{dtype} is too coarse .*: merge the others again, or save .* float32"):
            merge.remove(params, original, adapters()[:2], "ada")
    # Alone, nothing has to be told apart.
    alone = merge.compose(base, adapters()[:1])
    assert_same(merge.remove(alone, base, [without_values(adapters()[0])], "ada"), base)


def test_what_cannot_be_told_apart_is_refused():
    base = make_params()
    pair = adapters()[:2]
    merged = merge.compose(base, pair)
    with pytest.raises(UserError, match="'ada' shares weights with 'bob' in a basis: the file of 'ada' is needed"):
        merge.remove(merged, base, outlines_but("bob", pair), "ada")
    off = jax.tree.map(np.copy, merged)
    kernel: Any = flatten(off)[f"unet/{next(iter(UNET))}/kernel"]
    kernel[2, 3] += 1e-6
    with pytest.raises(UserError, match="cannot be separated exactly: .*merge the others again"):
        merge.remove(off, base, pair, "ada")
    large = merge.compose(base, pair, [50, 1])
    with pytest.raises(UserError, match="more than 7 times as large as the base's weights"):
        merge.remove(large, base, pair, "ada", weights=[50, 1])
    rival = make_adapter("eve", (0,), IN_BASIS, layers={"unet": UNET})
    summed = merge.compose(base, [*pair, rival], allow_overlap=True)
    with pytest.raises(UserError, match="'bob' shares weights with 'ada', 'eve', so its part cannot be separated"):
        merge.remove(summed, base, [*pair, rival], "bob")


def test_a_manifest_knows_adapters_in_a_basis_by_their_numbers():
    ada, plain = adapters()[0], make_adapter("bob", (1,))
    assert pairs_digest(plain) == ""
    assert len(pairs_digest(ada)) == 64
    other = replace(ada, lora={"unet": {k: p._replace(lora_B=2 * p.lora_B) for k, p in ada.lora["unet"].items()}})
    assert pairs_digest(other) != pairs_digest(ada)
    values = MergeManifest(
        base_name="", base_digest="", dtype="float32", adapters=(ada, plain), weights=(1.0, 1.0),
        digests=(pairs_digest(ada), pairs_digest(plain)),
    ).to_json()["concepts"]  # fmt: skip
    assert [concept.get("pairs_digest") for concept in values] == [pairs_digest(ada), None]


@pytest.fixture(scope="module")
def files(tiny_sd, tmp_path_factory):
    """Adapter files of the tiny model, by name, on slots 0 to 3; "later" is ada, trained again."""
    folder = tmp_path_factory.mktemp("adapters")
    for slot, name in enumerate(("ada", "bob", "cyd", "dan")):
        adapter = random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv", partition=IN_BASIS)
        adapter.save(folder / f"{name}.safetensors")
    ada = Adapter.load(folder / "ada.safetensors")
    later = {k: p._replace(lora_B=1.01 * p.lora_B) for k, p in ada.lora["unet"].items()}
    replace(ada, lora={"unet": later}).save(folder / "later.safetensors")
    return {path.stem: str(path) for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_folders_are_those_of_merging_the_others_byte_for_byte(files, tiny_folder, tmp_path):
    def save(names: str, folder: str, *weights: str, dtype: str = "float32") -> Path:
        out = tmp_path / folder
        options = ["--model", str(tiny_folder), "--dtype", dtype, "--save", str(out)]
        main([*(files[name] for name in names.split()), "--weights", *weights, *options])
        return out

    merged = save("ada bob cyd", "all", "1", "0.8", "0.5")
    before, out = contents(merged), ["--out", str(tmp_path / "removed")]
    assert json.loads(before["blocklora.json"])["merge"]["concepts"][0]["pairs_digest"]
    for arguments, words in (
        (["remove", str(merged), "bob"], "the file of 'bob' is needed too.*--adapter FILE"),
        (["remove", str(merged), "bob", "--adapter", files["ada"]], "is not the adapter 'bob' that was merged"),
        (["remove", str(merged), "ada", "--adapter", files["later"]], "is not the adapter 'ada' that was merged"),
        (["replace", str(merged), "ada", files["dan"]], "the file of 'ada' is needed too"),
    ):
        with pytest.raises(UserError, match=words):
            main([*arguments, *out])
    main(["remove", str(merged), "bob", "--adapter", files["bob"], *out])
    assert contents(tmp_path / "removed") == contents(save("ada cyd", "two", "1", "0.5"))
    replaced = ["replace", str(merged), "ada", files["dan"], "--adapter", files["ada"], "--weight", "0.7"]
    main([*replaced, "--out", str(merged)])
    assert contents(merged) == contents(save("dan bob cyd", "other", "0.7", "0.8", "0.5"))
    half = save("ada bob", "half", "1", "1", dtype="float16")
    with pytest.raises(UserError, match="float16 is too coarse to separate its part: merge the others again"):
        main(["remove", str(half), "bob", "--adapter", files["bob"], *out, "--overwrite"])


def test_the_file_is_known_again_after_block_weights_and_with_texts_of_a_library(files, tiny_folder, tmp_path):
    loras, library = tmp_path / "loras", tmp_path / "loras" / "library.yaml"
    loras.mkdir()
    for name in ("ada", "bob"):
        shutil.copy(files[name], loras)
    main(["library", "scan", str(loras)])
    texts = (
        library.read_text().replace("\n  name: ada", "\n  name: adalovelace").replace("trigger: <ada> m", "trigger: m")
    )
    library.write_text(texts)

    def save(place: Path | str, folder: str) -> Path:
        options = ["--model", str(tiny_folder), "--block-weights", "to_k=0.3,up_blocks=0"]
        main([str(place), *options, "--save", str(tmp_path / folder)])
        return tmp_path / folder

    merged = save(loras, "all")
    assert json.loads((merged / "blocklora.json").read_text())["merge"]["concepts"][0]["block_weights"]
    out = ["--out", str(tmp_path / "removed")]
    with pytest.raises(UserError, match="is not the adapter 'adalovelace' that was merged"):
        main(["remove", str(merged), "adalovelace", "--adapter", files["later"], *out])
    main(["remove", str(merged), "adalovelace", "--adapter", files["ada"], *out])
    assert contents(tmp_path / "removed") == contents(save(files["bob"], "bob"))
