"""Blocks along the directions of a basis: from ordinary text to adapters that are merged without overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import jax
import numpy as np
import pytest
import yaml
from concept_builders import as_flags, make_config, settings, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import merge
import train.concepts
from blocklora_jax import Adapter
from blocklora_jax.adapters.basis import basis_digest, load_basis, save_basis
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import apply_masks, block_masks
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.prompts.random_prompts import PromptWords, make_random_prompts
from blocklora_jax.prompts.shares import RandomPromptShares
from merge.cli.describe import describe, overlap_report
from train.concept.common_settings import check_equal
from train.concept.own_directions import read_text_basis
from train.text_basis import principal_directions, text_moments

WORDS = PromptWords(
    styles=("a photo of", "a drawing of"), subjects=("dog", "owl"), scenes=("in the snow", "on the beach")
)
PROMPTS = 20  # one chunk and a part of another
LAYER = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"


def read_basis(path: str, sd: StableDiffusion, digest: str) -> np.ndarray:
    basis = read_text_basis(path, sd, digest)
    assert basis is not None
    return basis.directions


def random_basis(width: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0].astype(np.float32)


@pytest.fixture(scope="module")
def moments(tiny_sd):
    return text_moments(tiny_sd, WORDS, PROMPTS)


@pytest.fixture(scope="module")
def basis_file(tiny_sd, moments, tmp_path_factory):
    path = tmp_path_factory.mktemp("basis") / "basis.safetensors"
    save_basis(path, principal_directions(moments)[1], params_digest(tiny_sd.params))
    return path


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**40))
def test_every_slot_gets_strong_and_weak_directions(blocks, more, seed):
    partition, n = Partition(num_blocks=blocks, seed=seed, basis="b"), blocks + more
    owned = [partition.directions(LAYER, n, (slot,)) for slot in range(blocks)]
    assert sorted(np.concatenate(owned)) == list(range(n))
    # Each slot gets one of the K strongest directions, one of the next K, …
    assert all(np.array_equal(each // blocks, np.arange(len(each))) for each in owned)
    together = partition.directions(LAYER, n, tuple(range(blocks // 2 + 1)))
    assert together.tolist() == sorted(np.concatenate(owned[: blocks // 2 + 1]))


def test_a_basis_too_small_or_of_outputs_is_refused():
    with pytest.raises(UserError, match="a basis of 3 directions has too few for 4 blocks"):
        Partition(num_blocks=4, basis="b").directions(LAYER, 3, (0,))
    with pytest.raises(UserError, match="axis must be 'in', not 'grid'"):
        Partition(axis="grid", basis="b")


@pytest.mark.parametrize(("width", "blocks"), [(8, 4), (10, 4), (4, 4)])
def test_pairs_lie_in_the_owned_directions_whatever_was_trained(width, blocks):
    basis, rng = random_basis(width), np.random.default_rng(1)
    downs = []
    for slot in range(blocks):
        partition = Partition(num_blocks=blocks, basis="b")
        info = AdapterInfo(
            name="a", class_noun="man", trigger="", rank=3, alpha=3.0, partition=partition, slots=(slot,)
        )
        masks = block_masks(info, {"unet": {"to_k": (width, 5)}}, basis)
        rows = masks["unet"]["to_k"].lora_A.shape[1]
        trained = LoRAPair(rng.standard_normal((rows, 3), np.float32), rng.standard_normal((3, 5), np.float32))
        pair = apply_masks({"unet": {"to_k": trained}}, masks)["unet"]["to_k"]
        owned = partition.directions("unet/to_k", width, (slot,))
        expected = basis[:, owned] @ trained.lora_A[: len(owned)]
        np.testing.assert_allclose(pair.lora_A, expected, atol=1e-6)  # sums of a few fp32 products of size 1
        np.testing.assert_array_equal(pair.lora_B, trained.lora_B)
        downs.append(np.asarray(pair.lora_A))
    # dW_i dW_j^T = 0 in the notation of the method: no adapter reads what another reads.
    assert max(np.abs(a.T @ b).max() for a, b in combinations(downs, 2)) <= 1e-5


@pytest.mark.parametrize("model", ["tiny_sd", "tiny_xl"])
def test_moments_are_those_of_all_prompts_at_once(model, request):
    sd = request.getfixturevalue(model)
    moments = text_moments(sd, WORDS, PROMPTS)
    shares = RandomPromptShares(negative=0.0, own_class=0.0)
    ids = make_random_prompts(sd.tokenizer, WORDS, shares, "dog", ("<x>", 0), 0, count=PROMPTS).ids
    x = np.asarray(encode_text(sd.models, sd.params, ids).states, np.float64).reshape(-1, len(moments))
    # The text encoders compute in fp32, whose rounding depends on the batch.
    np.testing.assert_allclose(moments, x.T @ x, rtol=1e-4, atol=1e-5 * np.abs(moments).max())
    energies, basis = principal_directions(moments)
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-9)
    np.testing.assert_allclose(basis @ np.diag(energies) @ basis.T, moments, atol=1e-9 * energies[0])
    assert (np.diff(energies) <= 0).all()


def test_a_file_gives_the_basis_of_its_base(tiny_sd, basis_file, moments):
    loaded = read_basis(str(basis_file), tiny_sd, params_digest(tiny_sd.params))
    np.testing.assert_array_equal(loaded, principal_directions(moments)[1].astype(np.float32))
    assert read_text_basis(None, tiny_sd, "") is None
    assert basis_digest(loaded) != basis_digest(loaded[:, ::-1])


def test_a_basis_can_be_on_the_hub(hub, tiny_sd, basis_file):
    hub.put("someone/basis", {"b.safetensors": basis_file.read_bytes(), "README.md": b""})
    digest = params_digest(tiny_sd.params)
    here = read_basis(str(basis_file), tiny_sd, digest)
    for name in ("hub:someone/basis", "hub:someone/basis/b.safetensors"):
        np.testing.assert_array_equal(read_basis(name, tiny_sd, digest), here)
    with pytest.raises(UserError, match="--basis hub:someone/basis/b.safetensors is for another base"):
        read_basis("hub:someone/basis", tiny_sd, "0" * 64)
    with pytest.raises(UserError, match="there is no repository 'someone/other'"):
        read_basis("hub:someone/other", tiny_sd, digest)


def test_the_packaged_basis_is_that_of_the_pocket_model():
    sd = StableDiffusion.from_pretrained("pocket")
    basis = read_basis("pocket", sd, params_digest(sd.params))
    assert basis.shape == (512, 512)


def test_files_that_cannot_be_used_are_refused(tiny_sd, basis_file, tmp_path):
    other, cut, skewed, small = (tmp_path / f"{name}.safetensors" for name in ("other", "cut", "skewed", "small"))
    save_file({"x": np.zeros(3, np.float32)}, other)
    cut.write_bytes(basis_file.read_bytes()[:-9])
    save_basis(skewed, 1.01 * random_basis(4), "base")
    save_basis(small, random_basis(4), "base")
    for path, base, words in (
        (tmp_path / "none", "base", "there is no file .*train.basis makes one"),
        (other, "base", "is not a basis file"),
        (cut, "base", "is not a complete safetensors file"),
        (skewed, "base", "are not orthonormal"),
        (small, "another", "is for another base model"),
    ):
        with pytest.raises(UserError, match=words):
            load_basis(path, base)
    with pytest.raises(UserError, match="has 4 features, but the model's text has 32"):
        read_basis(str(small), tiny_sd, "base")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": 0, "slot": None}, "--blocks 2 or more"),
        ({"axis": "out"}, "--axis in"),
        ({"layers": "attention"}, "--layers cross_kv"),
        ({"registry": "shared"}, "no --registry"),
    ],
)
def test_the_error_names_the_settings_that_a_basis_needs(changes, words):
    with pytest.raises(UserError, match=f"--basis cuts blocks along the text features: it needs {words}"):
        make_config(**{"basis": "pocket", "layers": "cross_kv", **changes})


def test_concepts_of_one_program_must_have_equal_numbers_of_slots():
    one, other = (
        make_config(basis="any", layers="cross_kv", token=f"<{n}>", slot=s) for n, s in (("a", (0,)), ("b", (1, 2)))
    )
    with pytest.raises(UserError, match="equal numbers of slots, not {'<a>': 1, '<b>': 2}: train them sep"):
        check_equal([one, other])
    assert check_equal([one, other.with_settings(slot=(1,))]) is one


@pytest.fixture(scope="module")
def trained(tiny_folder, basis_file, tmp_path_factory):
    """Two concepts that were trained together in blocks of one basis."""
    folder = tmp_path_factory.mktemp("concepts")
    write_pictures(folder / "a")
    entries = {name: {"images": "a", "class_noun": "man", "slot": slot} for slot, name in enumerate(("ada", "bo"), 1)}
    (folder / "concepts.yaml").write_text(yaml.safe_dump(entries))
    own = ("images", "token", "class_noun", "out", "slot")
    values = settings(model=tiny_folder, cpu=True, layers="cross_kv", basis=basis_file)
    flags = as_flags({k: v for k, v in values.items() if k not in own})
    train.concepts.main(["--concepts", str(folder / "concepts.yaml"), "--out", str(folder / "run"), *flags])
    return [Adapter.load(folder / "run" / name / "adapter.safetensors") for name in entries]


def test_trained_pairs_stay_in_their_directions(trained, basis_file, tiny_sd):
    basis = load_basis(basis_file, params_digest(tiny_sd.params))
    for adapter in trained:
        assert adapter.info.partition.basis == basis_digest(basis)
        assert f"in the basis {basis_digest(basis)}" in describe(adapter)
        for path, pair in adapter.lora["unet"].items():
            owned = adapter.info.partition.directions(f"unet/{path}", len(basis), adapter.info.slots)
            read = basis.T @ pair.lora_A
            # A basis in fp32 is orthonormal to 1e-6.
            assert np.abs(np.delete(read, owned, axis=0)).max() <= 1e-5 * np.abs(read).max()
            assert np.abs(pair.lora_B).max() > 0


def test_adapters_of_different_slots_merge_in_any_order_without_allow_overlap(trained, tiny_sd):
    merged = flatten_params(merge.compose(tiny_sd.params, trained))
    turned = flatten_params(merge.compose(tiny_sd.params, trained[::-1]))
    base, changed = flatten_params(tiny_sd.params), 0
    for adapter_path in trained[0].lora["unet"]:
        path = f"unet/{adapter_path}/kernel"
        change = sum(
            a.info.scale * (a.lora["unet"][adapter_path].lora_A @ a.lora["unet"][adapter_path].lora_B) for a in trained
        )
        np.testing.assert_allclose(merged[path], np.asarray(base[path]) + change, atol=1e-6)
        np.testing.assert_array_equal(merged[path], turned[path])
        changed += np.abs(change).max() > 0
    assert changed == len(trained[0].lora["unet"])
    assert overlap_report(trained) == []


def test_the_same_slot_and_another_basis_collide(trained, tiny_sd):
    one, other = trained
    same_slot = replace(other, info=replace(other.info, slots=one.info.slots))
    with pytest.raises(UserError, match="both own slot 1"):
        merge.compose(tiny_sd.params, [one, same_slot])
    for basis in ("", "0123456789abcdef"):
        partition = replace(other.info.partition, basis=basis)
        elsewhere = replace(other, info=replace(other.info, partition=partition))
        with pytest.raises(UserError, match="their partitions differ"):
            merge.compose(tiny_sd.params, [one, elsewhere])


def test_a_jitted_merge_sums_them_too(trained, tiny_sd):
    path = f"unet/{next(iter(trained[0].lora['unet']))}/kernel"
    jitted = jax.jit(lambda params, adapters: merge.compose(params, adapters))(tiny_sd.params, trained)
    plain = merge.compose(tiny_sd.params, trained)
    np.testing.assert_allclose(flatten_params(jitted)[path], flatten_params(plain)[path], atol=1e-6)
