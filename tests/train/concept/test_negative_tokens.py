"""Negative tokens lie around the nouns, or resemble trained tokens from adapters, folders or files of tokens."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from concept_builders import make_config

import train.negative_tokens
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.diffusion.models import token_table
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from train.concept import known_tokens
from train.concept.known_tokens import load_offsets
from train.concept.negative_tokens import APART, RESEMBLING, draw_negative_tokens, negative_embeddings


def test_negative_tokens_are_as_far_from_their_nouns_as_tokens_of_concepts():
    rng = np.random.default_rng(3)
    table, nouns = jnp.asarray(rng.normal(0, 0.1, (50, 512)), jnp.float32), np.arange(40, dtype=np.int32)
    found = negative_embeddings(table, nouns, 2, (1.0, 3.0), jax.random.key(0))
    far = np.sqrt(np.square(found - table[:40, None]).mean((1, 2))) / float(table.std())
    # The deviation of 1024 numbers is known to a few percent. Forty rows come near both ends of the range.
    assert 0.94 < far.min() < 1.3 and 2.7 < far.max() < 3.2
    same = negative_embeddings(table, nouns[:1], 2, (1.0, 1.0), jax.random.key(0))
    assert float(jnp.square(same - table[:1, None]).mean() ** 0.5 / table.std()) == pytest.approx(1, rel=0.06)


def tokens_only(sd, noun: str, offset: np.ndarray, name: str = "bo") -> Adapter:
    """An adapter whose token is `offset` [v, d] away from the class noun's embedding."""
    noun_row = np.asarray(token_table(sd.params))[sd.tokenizer.encode([noun])[0, 1]]
    info = AdapterInfo(
        name=name, class_noun=noun, trigger=f"<{name}> {noun}", rank=2, alpha=2.0, base_digest=params_digest(sd.params)
    )
    return Adapter(lora={}, tokens={f"<{name}>": (noun_row + offset).astype(np.float32)}, info=info)


@pytest.fixture
def offsets(tiny_sd):
    width = token_table(tiny_sd.params).shape[1]
    return np.random.default_rng(1).normal(0.5, 1.0, (3, 2, width)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, tiny_sd, offsets):
    for i, (offset, noun) in enumerate(zip(offsets, ("man", "dog", "man"), strict=True)):
        tokens_only(tiny_sd, noun, offset).save(tmp_path / "others" / str(i) / "adapter.safetensors")
    return tmp_path / "others"


def test_offsets_are_what_training_added_to_the_noun(tiny_sd, folder, offsets):
    found = load_offsets((str(folder),), tiny_sd)
    np.testing.assert_allclose(found["text_encoder"], offsets, atol=1e-5)
    one = load_offsets((str(folder / "1" / "adapter.safetensors"),), tiny_sd)
    np.testing.assert_allclose(one["text_encoder"], offsets[1:2], atol=1e-5)


def test_a_file_of_tokens_holds_the_same(tiny_sd, folder, offsets, tmp_path, monkeypatch):
    out = tmp_path / "negative_tokens.safetensors"
    monkeypatch.setattr(known_tokens.StableDiffusion, "from_pretrained", lambda name: tiny_sd)
    monkeypatch.setattr("sys.argv", ["negative_tokens", str(folder), "--out", str(out)])
    train.negative_tokens.main()
    found = load_offsets((str(out),), tiny_sd)
    np.testing.assert_allclose(found["text_encoder"], offsets, atol=2e-3)  # fp16


def test_most_negative_tokens_have_the_mean_and_the_covariance_of_known_tokens(tiny_sd, folder, offsets):
    nouns = np.zeros(4000, np.int32)
    config = make_config(negative_tokens=(str(folder),), token_spread=0.01, negative_spread=1.0)
    drawn = (
        draw_negative_tokens(config.tokens, tiny_sd, nouns, config.run.seed)["text_encoder"]
        - np.asarray(token_table(tiny_sd.params))[0]
    )
    # Rows that do not resemble them lie within .01 deviations of the noun.
    alike = drawn[np.abs(drawn).max((1, 2)) > 0.3].reshape(-1, offsets[0].size)
    assert len(alike) / len(drawn) == pytest.approx(RESEMBLING, abs=0.04)
    flat = offsets.reshape(3, -1)
    # Four standard deviations of 2,800 draws.
    np.testing.assert_allclose(alike.mean(0), flat.mean(0), atol=4 * flat.std(0, ddof=1).max() / 2800**0.5)
    apart = APART**2 * float(np.var(token_table(tiny_sd.params))) * np.eye(flat.shape[1])
    expected = np.cov(flat.T) + apart
    # Five standard deviations of an entry, because the largest of some thousand counts. Each is sqrt(2 / 2,800) of the
    # largest variance.
    assert np.abs(np.cov(alike.T) - expected).max() < 0.15 * np.abs(expected).max()


def test_without_files_no_trained_tokens_are_known(tiny_sd):
    assert load_offsets(None, tiny_sd) == {}
    assert load_offsets((), tiny_sd) == {}


def test_files_without_usable_tokens_are_refused(tiny_sd, folder, tmp_path, offsets):
    def message(path) -> str:
        with pytest.raises(UserError) as caught:
            load_offsets((str(path),), tiny_sd)
        return str(caught.value)

    assert "no file or folder" in message(tmp_path / "missing.safetensors")
    (tmp_path / "empty").mkdir()
    assert "without any adapter.safetensors" in message(tmp_path / "empty")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert "not a complete safetensors file" in message(tmp_path / "torn.safetensors")
    other = tokens_only(tiny_sd, "man", offsets[0])
    replace(other, info=replace(other.info, base_digest="0" * 64)).save(tmp_path / "other.safetensors")
    assert "another base" in message(tmp_path / "other.safetensors")
    replace(other, tokens={}).save(tmp_path / "none.safetensors")
    assert "no token" in message(tmp_path / "none.safetensors")


def test_the_pocket_model_comes_with_trained_tokens():
    pocket = StableDiffusion.from_pretrained("pocket")
    found = load_offsets(None, pocket)["text_encoder"]
    # Tokens start at a distance of one deviation from their nouns. Trained tokens are farther away.
    distance = np.sqrt(np.square(found).mean((1, 2))) / float(np.std(token_table(pocket.params)))
    assert len(found) == 16 and distance.min() > 1.2
    assert load_offsets((), pocket) == {}
