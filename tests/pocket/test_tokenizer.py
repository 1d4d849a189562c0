import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from blocklora_jax.errors import UserError
from blocklora_jax.pocket.tokenizer import build_merges, byte_alphabet, write_tokenizer

WORDS = ["a", "woman", "man", "photo", "of", "on", "snow", "snowman", "beach", "aaa", "banana", "café", "man", ",", "7"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, WORDS, max_length=24)
    return CLIPTokenizer.from_pretrained(folder)


def test_every_word_is_one_token(tokenizer):
    for word in WORDS:
        assert tokenizer.tokenize(word) == ["".join(byte_alphabet()[b] for b in word.encode()) + "</w>"]


def test_special_tokens_are_last_in_the_vocabulary(tokenizer, tmp_path):
    count = write_tokenizer(tmp_path, WORDS)
    assert len(tokenizer) == count
    ids = tokenizer("a photo", padding="max_length", truncation=True).input_ids
    assert len(ids) == 24
    assert ids[0] == count - 2
    assert ids[3:] == [count - 1] * 21


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20).filter(lambda text: "<|" not in text))
def test_any_other_text_encodes_without_unknown_pieces(tokenizer, text):
    # The end token doubles as the unknown token, so it may only stand at the end.
    assert tokenizer.eos_token_id not in tokenizer(text).input_ids[:-1]


def test_capitals_and_possessives_follow_the_rules_of_clip(tokenizer):
    assert tokenizer.tokenize("A Woman's snowman") == ["a</w>", "woman</w>", "'", "s</w>", "snowman</w>"]


def test_other_words_come_in_pieces_and_decode_back(tokenizer):
    assert len(tokenizer.tokenize("zebra")) > 1
    assert tokenizer.decode(tokenizer("zebra 12", add_special_tokens=False).input_ids) == "zebra 1 2"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("abn", min_size=1, max_size=6), min_size=1, max_size=12, unique=True))
def test_words_stay_whole_whatever_words_follow(words):
    merged = {left + right for left, right in build_merges(words)}
    assert all(word + "</w>" in merged for word in words if len(word) > 1)


def test_the_same_words_give_the_same_files(tmp_path):
    for name in ("one", "two"):
        write_tokenizer(tmp_path / name, WORDS)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    vocabulary = json.loads((tmp_path / "one" / "vocab.json").read_text("utf-8"))
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


@pytest.mark.parametrize("word", ["two words", "Man", "x1", "semi-dark", "", " "])
def test_a_word_that_would_be_split_is_refused(tmp_path, word):
    with pytest.raises(UserError, match="one token"):
        write_tokenizer(tmp_path, [word])
