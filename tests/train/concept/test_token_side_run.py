"""Training with the token side from end to end: resumed, in groups, with several slots, with SDXL; and its files."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from concept_builders import make_config, write_pictures
from token_side_builders import BLOCKS, make_basis, token_side_config, write_basis

import train.concept.prepare
from blocklora_jax import Adapter
from blocklora_jax.adapters.basis import basis_digest, codewords_digest
from blocklora_jax.adapters.codewords import of_slots
from blocklora_jax.adapters.file import read_header
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from train.concept.batch_training import train_together
from train.concept.common_settings import check_equal
from train.concept.own_directions import basis_of
from train.concept.prepare import init_concept, prepare_concept
from train.concept.run_folder import changed_settings
from train.concept.settings.flat import LATER, LATER_GROUPS, NAMES
from train.concept.settings.old_names import to_file_keys

# The keys of config.json.
FILE_KEYS = list(to_file_keys(dict.fromkeys(NAMES)))
# Those that came with the token side.
TOKEN_SIDE = next(group.values for group in LATER_GROUPS if "token_side" in group.values)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def basis(tiny_sd):
    return make_basis(tiny_sd)


@pytest.fixture(scope="module")
def basis_file(tiny_sd, basis, tmp_path_factory):
    return write_basis(tmp_path_factory.mktemp("basis") / "basis.safetensors", tiny_sd, basis)


@pytest.fixture(scope="module")
def whole(tiny_sd, basis_file, pictures, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_in(out, tiny_sd, token_side_config(basis_file, images=pictures, out=out))
    return out


def train_in(run_dir, sd, *configs):
    configs = [config.with_settings(previews=False) for config in configs]
    return train_together(configs, sd, basis_of(configs[0], sd), run_dir)


def assert_equal_files(one, other) -> None:
    x, y = Adapter.load(one / "adapter.safetensors"), Adapter.load(other / "adapter.safetensors")
    jax.tree.map(np.testing.assert_array_equal, (x.lora, x.tokens), (y.lora, y.tokens))


def test_an_interrupted_run_resumes_bit_for_bit(whole, tiny_sd, basis_file, pictures, tmp_path, monkeypatch):
    make_batches = train.concept.prepare.make_batches

    def stopping(*data_and_settings):
        batch_at = make_batches(*data_and_settings)

        def stop_at_fourth(step):
            if step == 3:
                raise KeyboardInterrupt
            return batch_at(step)

        return stop_at_fourth

    out = tmp_path / "parts"
    config = token_side_config(basis_file, images=pictures, out=out)
    with monkeypatch.context() as patched:
        patched.setattr(train.concept.prepare, "make_batches", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_in(out, tiny_sd, config)
    assert not (out / "adapter.safetensors").exists()
    train_in(out, tiny_sd, config.with_settings(resume=True))
    assert_equal_files(out, whole)


def test_the_metrics_include_the_ratio_of_own_to_others(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(line["token_ratio"] > 0 and np.isfinite(line["token_loss"]) for line in lines)


def test_concepts_that_train_together_are_those_trained_alone(whole, tiny_sd, basis_file, pictures, tmp_path):
    configs = [
        token_side_config(basis_file, images=pictures, out=tmp_path / "ada"),
        token_side_config(
            basis_file, images=pictures, out=tmp_path / "rex", token="<rex>", class_noun="dog", slot=(3,), seed=2
        ),
    ]  # fmt: skip
    paths = train_in(tmp_path / "groups", tiny_sd, *configs)
    alone = tmp_path / "alone"
    train_in(alone, tiny_sd, configs[1].with_settings(out=alone))
    for path, other in zip(paths, (whole, alone), strict=True):
        actual, expected = Adapter.load(path), Adapter.load(other / "adapter.safetensors")
        trees = zip(
            jax.tree.leaves((actual.lora, actual.tokens)),
            jax.tree.leaves((expected.lora, expected.tokens)),
            strict=True,
        )
        for x, y in trees:
            np.testing.assert_allclose(
                x, y, rtol=0, atol=1e-4 * np.abs(y).max()
            )  # of the largest; sums in another order


def test_the_file_says_how_it_is_cut_and_which_codewords_it_began_with(whole, basis):
    header, adapter = read_header(whole / "adapter.safetensors"), Adapter.load(whole / "adapter.safetensors")
    digest = basis_digest(basis.directions)
    assert header["partition"] == {"num_blocks": 4, "axis": "in", "seed": 0, "basis": digest, "assignment": "text"}
    assert adapter.info.partition == Partition(num_blocks=4, basis=digest, assignment="text")
    training = header["training"]
    assert training["codewords"] == codewords_digest(basis.codewords[BLOCKS])
    expected = {"token_side": 0.5, "token_side_margin": 3.0, "token_norm_limit": 1.5, "token_start": "codeword"}
    assert {name: training[name] for name in expected} == expected
    # In every layer the slot has the same directions.
    for pair in adapter.lora["unet"].values():
        amplitudes = np.abs(basis.directions.T @ pair.lora_A).max(1)
        assert np.abs(amplitudes[adapter.info.partition.directions("", 32, (1,))]).max() > 0.01
        others = np.setdiff1d(np.arange(32), adapter.info.partition.directions("", 32, (1,)))
        assert amplitudes[others].max() < 1e-5  # rounding of fp32 products


def test_settings_that_are_not_used_leave_no_trace_in_files():
    usual = make_config().to_json()
    assert list(usual) == [key for key in FILE_KEYS if key not in LATER]
    # A limit has no effect while the token side is off.
    assert make_config(token_norm_limit=2.0).to_json() == usual
    on = token_side_config("basis")
    assert list(on.to_json()) == [key for key in FILE_KEYS if key not in LATER or key in TOKEN_SIDE]
    assert changed_settings(json.loads(json.dumps(usual)), make_config()) == []
    assert "token_side was 0.0, now 0.5" in changed_settings(usual, on)
    assert "token_side was 0.5, now 0.0" in changed_settings(on.to_json(), make_config())
    with pytest.raises(UserError, match=r"share these settings: .*token_side \(0.0 for <ada>, 0.5 for <bo>\)"):
        check_equal([make_config(), on.with_settings(token="<bo>")])


def test_a_token_starts_near_its_slots_codewords_and_not_equal_to_others(tiny_sd, basis, basis_file, pictures):
    starts = []
    for token in ("<ada>", "<bo>"):
        config = token_side_config(basis_file, images=pictures, token=token, slot=(3, 1))
        starts.append(np.asarray(init_concept(config, tiny_sd, basis)[2].tokens))
    words = basis.codewords[BLOCKS]["text_encoder"]
    deviation = float(np.asarray(token_table(tiny_sd.params)).std())
    for start in starts:
        # Noise moves each of 64 numbers by about a tenth of a deviation. None moves by five times that.
        assert np.abs(start - words[[1, 3]].mean(0)).max() < 5 * 0.1 * deviation
    assert np.abs(starts[0] - starts[1]).max() > 0.01 * deviation


def test_several_slots_give_the_mean_of_their_codewords():
    table = np.arange(4 * 2.0).reshape(4, 2, 1)
    assert of_slots(table, (2,), 2).ravel().tolist() == [4, 5]
    assert of_slots(table, (1, 3), 2).ravel().tolist() == [4, 5]
    assert of_slots(table, (0, 3), 3).ravel().tolist() == [3, 4, 3]
    assert of_slots(table, (1, 2, 3), 1).ravel().tolist() == [4]


def test_negative_tokens_are_the_other_slots_codewords(tiny_sd, basis, basis_file, pictures):
    config = token_side_config(basis_file, images=pictures, negative_spread=1.0, layers="cross_kv", slot=(0, 2))
    # With a spread of 1 no noise is added.
    negative_tokens = train.concept.prepare.load_concept_data(
        config, tiny_sd, train.concept.prepare.own_directions(config, tiny_sd, basis)
    ).negative_tokens["text_encoder"]
    words = basis.codewords[BLOCKS]["text_encoder"]
    near = np.abs(negative_tokens[:, None] - words[None]).max((2, 3)).argmin(1)
    assert set(near) == {1, 3}
    np.testing.assert_array_equal(negative_tokens, words[near])


def test_sdxl_trains_both_encoders_tokens(tiny_xl, pictures, tmp_path):
    slot = (0, 3)  # tests/train/concept/test_token_side_step.py has SDXL with one
    path = write_basis(tmp_path / "basis", tiny_xl)
    config = token_side_config(path, images=pictures, out=tmp_path / "run", steps=2, slot=slot, model="xl")
    before = prepare_concept(config, tiny_xl, basis_of(config, tiny_xl)).trainable
    adapter = Adapter.load(train_in(config.out, tiny_xl, config)[0])
    assert adapter.info.slots == slot
    for start, actual in ((before.tokens, adapter.tokens), (before.tokens_2, adapter.tokens_2)):
        assert np.abs(np.asarray(start) - actual["<ada>"]).max() > 1e-4
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["token_ratio"]) for line in lines)


def without(basis, **changes):
    return basis._replace(**changes)


BAD = {
    "no energies": (
        {"energies": None},
        {},
        r"does not say how strong .* python -m train.basis --extend .*basis --out NEW_FILE",
    ),
    "no codewords": (
        {"codewords": {}},
        {},
        "the basis has no codewords for 4 blocks .* --extend FILE --blocks 4 --out NEW_FILE",
    ),
    "other encoders": (
        {"codewords": {4: {"text_encoder": np.ones((4, 2, 9), np.float32)}}},
        {},
        r"has codewords of widths \{'text_encoder': 9\}, but the model's tokens have \{'text_encoder': 32\}",
    ),
    "every slot": ({}, {"slot": (0, 1, 2, 3)}, "the concept owns all 4 slots"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_basis_that_lacks_something_is_refused_before_anything_is_written(case, tiny_sd, basis, pictures, tmp_path):
    damage, changes, message = BAD[case]
    path = write_basis(tmp_path / "basis", tiny_sd, without(basis, **damage))
    config = token_side_config(path, images=pictures, out=tmp_path / "run", **changes)
    with pytest.raises(UserError, match=message):
        train_in(config.out, tiny_sd, config)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assignment": "layer"}, "--token-side needs slots that own directions of a basis: give --assignment text"),
        ({"token_vectors": 0}, "--token-side needs a token: give --token-vectors 1 or more"),
        ({"partition_seed": 3}, "--assignment text .* needs --basis and --partition-seed 0"),
        ({"blocks": 0}, "--basis cuts blocks along the text features: it needs --blocks 2 or more"),
        ({"token_side_margin": 99.0}, "--token-side-margin must be at most 30"),
        ({"token_side": 0.0, "assignment": "layer"}, "--token-start codeword needs slots"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        token_side_config("basis", **changes)
