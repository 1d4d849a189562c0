"""Prompts of any length as chunks of token ids with weights."""

from __future__ import annotations

import numpy as np
import pytest

from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.prompts.chunks import PromptIds, count_chunks, encode_prompts
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair
from blocklora_jax.testing.tiny_model import pad_with_exclamation_marks

TOKENS = {"<ada>": 3}
ROOM = 8


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, ["a", "dog", "man", "on"], max_length=ROOM + 2)
    return Tokenizer(path)


def ids_of_words(tokenizer, words: str) -> list[int]:
    """The ids between the start and the end token; each word here is one token."""
    return tokenizer.encode([words], TOKENS)[0, 1 : 1 + len(words.split())].tolist()


def test_a_prompt_that_fits_and_has_no_weights_gives_the_ids_of_the_tokenizer(tokenizer):
    prompts = ["a dog on a man", "", "a <ada>"]
    np.testing.assert_array_equal(encode_prompts(tokenizer, prompts, TOKENS), tokenizer.encode(prompts, TOKENS))


def test_a_long_prompt_is_cut_into_chunks_with_start_and_end_tokens(tokenizer):
    words = ["dog", "man", "on", "a"] * 5
    prompt = encode_prompts(tokenizer, [" ".join(words), "a dog"])
    assert isinstance(prompt, PromptIds) and prompt.weights is None
    start, end = tokenizer.encode([""])[0, :2]
    assert prompt.ids.shape == (3, 2, ROOM + 2)
    for i in range(3):
        own = ids_of_words(tokenizer, " ".join(words[i * ROOM : (i + 1) * ROOM]))
        assert prompt.ids[i, 0].tolist() == [start, *own, end] + [end] * (ROOM - len(own))
    np.testing.assert_array_equal(prompt.ids[1:, 1], tokenizer.encode(["", ""]))
    np.testing.assert_array_equal(prompt.empty, tokenizer.encode([""]))


def test_the_vectors_of_a_concept_stay_in_one_chunk(tokenizer):
    prompt = encode_prompts(tokenizer, ["a a a a a a <ada> dog"], TOKENS)
    vectors = tokenizer.token_ids(TOKENS)["<ada>"]
    assert not np.isin(prompt.ids[0], vectors).any()
    assert prompt.ids[1, 0, 1:4].tolist() == vectors


def test_weights_belong_to_the_tokens_of_their_words_and_all_vectors_of_a_concept(tokenizer):
    prompt = encode_prompts(tokenizer, ["a (dog:1.5) [man]", "(<ada>:0.5) on"], TOKENS)
    assert prompt.ids.shape == (1, 2, ROOM + 2)
    np.testing.assert_allclose(prompt.weights[0, 0, :5], [1, 1, 1.5, 1 / 1.1, 1], rtol=1e-7)  # single precision
    np.testing.assert_array_equal(prompt.weights[0, 1], [1, 0.5, 0.5, 0.5, *[1] * (ROOM - 2)])
    np.testing.assert_array_equal(prompt.ids[0], tokenizer.encode(["a dog man", "<ada> on"], TOKENS))


def test_chunks_are_counted_and_can_be_asked_for(tokenizer):
    assert count_chunks(tokenizer, ["", "dog " * ROOM, "dog " * (ROOM + 1)]) == [1, 1, 2]
    assert encode_prompts(tokenizer, ["a dog"], chunks=3).ids.shape == (3, 1, ROOM + 2)


def test_a_pair_of_tokenizers_pads_each_chunk_in_two_ways(tokenizer, tmp_path):
    write_tokenizer(tmp_path, ["a", "dog", "man", "on"], max_length=ROOM + 2)
    pad_with_exclamation_marks(tmp_path)
    pair = TokenizerPair(tokenizer, Tokenizer(tmp_path))
    prompt = encode_prompts(pair, ["(dog) " * (ROOM + 1)])
    assert prompt.ids.shape == (2, 1, 2, ROOM + 2)
    assert prompt.weights.shape == prompt.ids.shape
    np.testing.assert_array_equal(prompt.ids[1], pair.encode(["dog"]))
    np.testing.assert_array_equal(prompt.empty, pair.encode([""]))


def test_each_of_two_tokenizers_weighs_its_own_tokens(tokenizer, tmp_path, monkeypatch):
    write_tokenizer(tmp_path, ["a", "dog", "man", "on"], max_length=ROOM + 2)
    pair = TokenizerPair(tokenizer, Tokenizer(tmp_path))
    read = pair.second.pieces
    # CLIP's first tokenizer reads "!!" as one token, and the second as two.
    monkeypatch.setattr(pair.second, "pieces", lambda text, tokens: read(text.replace("man", "man man"), tokens))
    prompt = encode_prompts(pair, ["man (dog:1.5) on"])
    places = [np.flatnonzero(prompt.weights[0, 0, tower] != 1).tolist() for tower in (0, 1)]
    assert places == [[2], [3]]
    assert [prompt.ids[0, 0, tower, place].tolist() for tower, place in enumerate(places)] == 2 * [
        ids_of_words(tokenizer, "dog")
    ]
