import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from blocklora_jax.errors import UserError
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair
from blocklora_jax.testing.tiny_model import pad_with_exclamation_marks

WORDS = ["a", "photo", "of", "man", "dog", "on", "beach", "and", "s"]
TOKENS = {"<p1>": 2, "<d1>": 1, "<cat-toy>": 3}
PROMPTS = [
    "",
    "a photo of a man",
    "a photo of <p1> man and <d1> dog on a beach",
    "<p1>'s dog",
    "a<p1>man,<d1>.",
    "<p1><d1>  <cat-toy>\n!",
    "an unknown wörd 12",
    "<p2> is no token",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, WORDS, max_length=24)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(folder)


def test_without_concept_tokens_ids_are_those_of_transformers(folder, tokenizer):
    reference = CLIPTokenizer.from_pretrained(folder)
    plain = [prompt for prompt in PROMPTS if "<" not in prompt]
    expected = reference(plain, padding="max_length", truncation=True).input_ids
    assert tokenizer.encode(plain).tolist() == expected


def test_concept_tokens_are_numbered_from_the_table_rows_on(folder):
    tokenizer = Tokenizer(folder, table_rows=1000)
    ids = tokenizer.encode(["<d1> <p1>"], {"<p1>": 2, "<d1>": 1})[0]
    assert ids[1:4].tolist() == [1002, 1000, 1001]
    assert ids.shape == (24,)
    assert ids.dtype == "int32"


def test_no_prompts_give_no_rows(tokenizer):
    assert tokenizer.encode([]).shape == (0, 24)


def test_a_concept_token_is_found_in_any_case(tokenizer):
    one, other = tokenizer.encode(["<p1> man", "<P1> MAN"], TOKENS).tolist()
    assert one == other


def test_only_ascii_letters_have_two_cases_in_a_concept_token(tokenizer):
    # "ſ" and the Kelvin sign are letters that some programs take for s and k.
    for prompt in ("<roſe> man", "<\u212ait> man"):
        ids = tokenizer.encode([prompt], {"<rose>": 1, "<kit>": 1})
        assert ids.max() < tokenizer.table_rows


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["<p1>", "<d1>", "man", "'s", " ", ",", "é", "<", "7", "A"]), max_size=7))
def test_text_beside_a_concept_token_encodes_as_in_a_tokenizer_that_has_it(folder, tokenizer, parts):
    prompt = "".join(parts)
    reference = CLIPTokenizer.from_pretrained(folder)
    reference.add_tokens(["<p1>", "<d1>"])
    expected = reference(prompt, padding="max_length").input_ids
    assert tokenizer.encode([prompt], {"<p1>": 1, "<d1>": 1})[0].tolist() == expected


@pytest.mark.parametrize("rows_beyond", [0, 3])
def test_the_saved_tokenizer_gives_the_same_ids_in_transformers(folder, tmp_path, rows_beyond):
    rows = len(Tokenizer(folder).files) + rows_beyond
    tokenizer = Tokenizer(folder, table_rows=rows)
    tokenizer.save(tmp_path, TOKENS)
    saved = CLIPTokenizer.from_pretrained(tmp_path)
    for prompt in PROMPTS:
        spelled = prompt.replace("<p1>", "<p1> <p1>_1").replace("<cat-toy>", "<cat-toy> <cat-toy>_1 <cat-toy>_2")
        expected = saved(spelled, padding="max_length").input_ids
        assert tokenizer.encode([prompt], TOKENS)[0].tolist() == expected
    assert saved.convert_tokens_to_ids("<p1>") == rows


def test_the_saved_tokenizer_knows_its_tokens_when_read_again(folder, tokenizer, tmp_path):
    tokenizer.save(tmp_path, TOKENS)
    again = Tokenizer(tmp_path)
    assert again.encode(PROMPTS).tolist() == tokenizer.encode(PROMPTS, TOKENS).tolist()
    more = again.encode(["<p1> <n>"], {"<n>": 1})[0].tolist()
    first = len(tokenizer.files)
    assert more[1:4] == [first, first + 1, first + 6]


def test_a_folder_saved_by_transformers_reads_the_same(folder, tokenizer, tmp_path):
    # Version 5 leaves tokenizer.json only, version 4 vocab.json and merges.txt.
    other = CLIPTokenizer.from_pretrained(folder)
    other.add_tokens(["<p1>", "<p1>_1"])
    other.save_pretrained(tmp_path)
    prompts = ["a photo of <p1> man", "a dog"]
    expected = tokenizer.encode(prompts, {"<p1>": 2})
    assert Tokenizer(tmp_path).encode(prompts).tolist() == expected.tolist()


def test_saving_is_the_same_whatever_form_was_read(folder, tokenizer, tmp_path):
    CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "by_transformers")
    tokenizer.save(tmp_path / "one", TOKENS)
    Tokenizer(tmp_path / "by_transformers").save(tmp_path / "two", TOKENS)
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_long_prompt_is_refused_and_the_lost_words_are_named(tokenizer):
    fits = " ".join(["man"] * 20) + " <p1>"
    assert tokenizer.encode([fits], TOKENS)[0, -1] == tokenizer.encode([""])[0, -1]
    with pytest.raises(UserError, match=r"too long by 3 tokens .* '<p1> beach dog' would be lost"):
        tokenizer.encode(["man " * 21 + "<p1> beach dog"], TOKENS)
    with pytest.raises(UserError, match=r"too long by 1 tokens .* '<cat-toy>' would be lost"):
        tokenizer.encode(["man " * 20 + "<cat-toy>"], TOKENS)


@pytest.mark.parametrize("name", ["p1", "<P1>", "<p 1>", "<>", "<p1>_1", "<p1", "<é>"])
def test_a_name_of_another_form_is_refused(tokenizer, name):
    with pytest.raises(UserError, match="must look like"):
        tokenizer.encode(["a"], {name: 1})


def test_a_warning_names_a_bracketed_name_that_is_no_token(tokenizer):
    with pytest.warns(UserWarning, match="'<p2>' in 'a <P2> and a <d1>' is read as ordinary letters; .*'<p1>', '<d1>'"):
        tokenizer.encode(["a <P2> and a <d1>"], {"<p1>": 1, "<d1>": 2})


def test_tokens_of_a_merged_folder_are_known_without_being_told(tokenizer, tmp_path):
    tokenizer.save(tmp_path, {"<p1>": 1, "<d1>": 2})
    with pytest.warns(UserWarning, match="'<p2>' in .* known tokens: '<d1>', '<p1>'$") as caught:
        Tokenizer(tmp_path).encode(["a <p1> and a <d1> and a <p2>"])
    assert len(caught) == 1


def test_known_tokens_and_other_brackets_give_no_warning(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.encode(["a <P1> < a <d1>, i <3 <|endoftext|>"], {"<p1>": 1, "<d1>": 2})


def test_a_name_that_the_vocabulary_has_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path, {"<p1>": 2})
    with pytest.raises(UserError, match="already has '<p1>'"):
        Tokenizer(tmp_path).encode(["a"], {"<p1>": 1})


def test_a_token_without_vectors_and_one_vector_by_name_are_refused(tokenizer):
    with pytest.raises(UserError, match="at least one"):
        tokenizer.encode(["a"], {"<p1>": 0})
    with pytest.raises(UserError, match="not '<p1>_1'"):
        tokenizer.encode(["<p1>_1 man"], TOKENS)


def test_a_tokenizer_that_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="do not belong to the same model"):
        Tokenizer(folder, table_rows=10)
    with pytest.raises(UserError, match="16 positions"):
        Tokenizer(folder, positions=16)
    with pytest.raises(UserError, match="no CLIP tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(UserError, match=r"vocab\.json"):
        Tokenizer(tmp_path)


def test_ids_with_gaps_are_refused(folder, tmp_path):
    Tokenizer(folder).save(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<p1>": 100000}))
    with pytest.raises(UserError, match="each once"):
        Tokenizer(tmp_path)


def test_the_models_length_is_used_where_the_tokenizer_states_none(folder, tmp_path):
    Tokenizer(folder).save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 10**30}))
    assert Tokenizer(tmp_path, positions=20).encode(["a"]).shape == (1, 20)
    with pytest.raises(UserError, match="model_max_length"):
        Tokenizer(tmp_path)


def test_a_pair_encodes_for_two_text_encoders_that_pad_differently(folder, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(folder, second)
    pad_with_exclamation_marks(second)
    pair = TokenizerPair(Tokenizer(folder), Tokenizer(second))
    ids = pair.encode(["a <p1> man", ""], TOKENS)
    assert ids.shape == (2, 2, 24)
    pad, end = (json.loads((folder / "vocab.json").read_text())[token] for token in ("!", "<|endoftext|>"))
    # Start, two words, two vectors, end, then the padding, which differs between the two.
    np.testing.assert_array_equal(ids[0, 0, :6], ids[0, 1, :6])
    assert (ids[0, :, 5] == end).all()
    assert (ids[0, 0, 6:] == end).all()
    assert (ids[0, 1, 6:] == pad).all()
    reference = CLIPTokenizer.from_pretrained(second)
    plain = ["a man! on beach", ""]
    assert pair.encode(plain)[:, 1].tolist() == reference(plain, padding="max_length", truncation=True).input_ids
    with pytest.raises(UserError, match="differ in more than padding"):
        write_tokenizer(tmp_path / "other", ["cat"], max_length=24)
        TokenizerPair(Tokenizer(folder), Tokenizer(tmp_path / "other"))
