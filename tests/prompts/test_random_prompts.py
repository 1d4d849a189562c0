"""Random prompts: their parts, how often each appears, and the ids of negative tokens."""

from __future__ import annotations

import numpy as np
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.prompts.random_prompts import (
    NEGATIVE,
    PromptWords,
    last_token_ids,
    make_random_prompts,
    random_prompt,
)
from blocklora_jax.prompts.shares import RandomPromptShares
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.testing.tiny_model import WORDS

WORDS_OF_PROMPTS = PromptWords(styles=("a photo of", "a drawing of"), subjects=("dog", "owl"), scenes=("in the snow",))
SHARES = RandomPromptShares(own_class=0.4, negative=0.5, second=0.2, scene=0.8, empty=0.1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, WORDS, max_length=24)
    return Tokenizer(folder)


def make(tokenizer, shares=SHARES, vectors: int = 2, seed: int = 0, token: str = "<ada>", count: int = 1024):
    return make_random_prompts(tokenizer, WORDS_OF_PROMPTS, shares, "man", (token, vectors), seed, count)


def word_id(tokenizer, word: str) -> int:
    return int(tokenizer.encode([word])[0, 1])


def test_shares_are_those_asked_for(tokenizer):
    texts = make(tokenizer, count=4000).texts
    named = [text for text in texts if text]
    # Four standard deviations of a share of 4000 draws are 0.032 at most.
    assert abs(1 - len(named) / len(texts) - SHARES.empty) < 0.032
    for words, share in ((NEGATIVE, SHARES.negative), (" and ", SHARES.second), ("in the snow", SHARES.scene)):
        assert abs(np.mean([words in text for text in named]) - share) < 0.032
    # "man" appears only in prompts for which the own class was drawn.
    assert abs(np.mean(["man" in text for text in named]) - SHARES.own_class) < 0.032


def test_the_pool_is_a_function_of_the_seed(tokenizer):
    one, again, other = make(tokenizer), make(tokenizer), make(tokenizer, seed=1)
    np.testing.assert_array_equal(one.ids, again.ids)
    np.testing.assert_array_equal(one.nouns, again.nouns)
    assert one.texts == again.texts
    assert one.texts != other.texts


@pytest.mark.parametrize("vectors", [1, 3])
def test_negative_ids_follow_the_concepts_own(tokenizer, vectors):
    pool = make(tokenizer, vectors=vectors)
    first = tokenizer.table_rows + vectors
    has_negative = [NEGATIVE in text for text in pool.texts]
    np.testing.assert_array_equal((pool.ids >= first).any(1), has_negative)
    assert any(has_negative)
    assert not all(has_negative)
    for ids, negative in zip(pool.ids, has_negative, strict=True):
        assert ids[ids >= tokenizer.table_rows].tolist() == ([*range(first, first + vectors)] if negative else [])


def test_nouns_are_the_subjects_that_negative_tokens_stand_before(tokenizer):
    pool = make(tokenizer, RandomPromptShares(negative=1.0, empty=0.0))
    for ids, noun in zip(pool.ids, pool.nouns, strict=True):
        last = np.flatnonzero(ids >= tokenizer.table_rows)[-1]
        assert ids[last + 1] == noun
    assert {int(noun) for noun in pool.nouns} == {word_id(tokenizer, word) for word in ("man", "dog", "owl")}


def test_a_concept_without_tokens_gets_no_negative_tokens(tokenizer):
    pool = make(tokenizer, RandomPromptShares(negative=1.0, empty=0.0), vectors=0)
    assert not any("<" in text for text in pool.texts)
    assert pool.ids.max() < tokenizer.table_rows


def test_articles_fit_their_nouns(tokenizer):
    texts = make(tokenizer, RandomPromptShares(negative=0.0, second=1.0)).texts
    assert any("an owl" in text for text in texts)
    assert not any("a owl" in text or "an dog" in text for text in texts)


def test_the_placeholder_of_negative_tokens_cannot_be_the_concepts_own(tokenizer):
    with pytest.raises(UserError, match="<negative>.*another"):
        make(tokenizer, token=NEGATIVE)


def test_shares_of_one_and_zero_are_exact():
    everything = RandomPromptShares(own_class=1.0, negative=1.0, second=0.0, scene=1.0, empty=0.0)
    text, subject = random_prompt(np.random.default_rng(0), WORDS_OF_PROMPTS, everything, "man")
    assert text in {f"{style} {NEGATIVE} man in the snow" for style in WORDS_OF_PROMPTS.styles}
    assert subject == "man"


def test_last_tokens_are_head_nouns(tokenizer):
    ids = last_token_ids(tokenizer, ["dog", "photo of a man", "dog"])
    assert ids.tolist() == [word_id(tokenizer, word) for word in ("dog", "man", "dog")]
    assert ids.dtype == np.int32


def test_the_last_token_of_a_row_without_padding(tokenizer):
    assert last_token_ids(tokenizer, [" ".join(["dog"] * 21 + ["man"])])[0] == word_id(tokenizer, "man")


def test_last_tokens_where_padding_is_not_the_end_token(tmp_path):
    # As in Stable Diffusion 2: padded with "!".
    import json

    write_tokenizer(tmp_path, WORDS, max_length=8)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.encode(["dog"])[0, -1] != tokenizer.encode(["dog"])[0, 2]
    assert last_token_ids(tokenizer, ["a dog"])[0] == word_id(tokenizer, "dog")


@pytest.mark.parametrize(("name", "value"), [("negative", 1.5), ("empty", -0.1)])
def test_a_share_outside_0_to_1_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name}={value} must lie in 0..1"):
        RandomPromptShares(**{name: value})


def test_empty_word_lists_are_named():
    with pytest.raises(UserError, match="styles, scenes"):
        PromptWords(styles=(), subjects=("dog",), scenes=())
