"""Triggers, kinds and bases come from headers and from texts beside the file, the surest first."""

from __future__ import annotations

import json

import pytest

from blocklora_jax.library.guesses import Dataset, guess_kind, guess_words, read_dataset
from blocklora_jax.library.sidecars import read_sidecars

CIVITAI = {"trainedWords": ["ohwx woman, smile"], "baseModel": "SD 1.5", "model": {"tags": ["Character", "woman"]}}


@pytest.mark.parametrize(
    ("ending", "text", "words", "tags", "base"),
    [
        (".civitai.info", json.dumps(CIVITAI), ("ohwx woman", "smile"), ("character", "woman"), "SD 1.5"),
        (".metadata.json", json.dumps({"civitai": CIVITAI}), ("ohwx woman", "smile"), ("character", "woman"), "SD 1.5"),
        (".json", json.dumps({"activation text": "zwx, <lora:zwx:1>", "sd version": "SD1"}), ("zwx",), (), "SD1"),
        (".txt", "\ufeffTrigger words: zwx dog\r\nmore\n", ("zwx dog",), (), ""),
        (".txt", "https://example.org/model\n", (), (), ""),
        (".txt", "a long story " * 30, (), (), ""),
        (".txt", "\x1b[31mzwx\x1b[0m", ("zwx",), (), ""),
        (".json", "[]", (), (), ""),
    ],
)
def test_texts_beside_a_file_are_read(tmp_path, ending, text, words, tags, base):
    path = tmp_path / "ann.safetensors"
    path.with_name(f"ann{ending}").write_bytes(text.encode())
    sidecar, notes = read_sidecars(path)
    assert (sidecar.words, sidecar.tags, sidecar.base, notes) == (words, tags, base, [])


def test_a_text_that_cannot_be_read_is_noted_and_the_others_are_read(tmp_path):
    (tmp_path / "ann.json").write_text("{")
    (tmp_path / "ann.txt").write_text("zwx dog")
    sidecar, notes = read_sidecars(tmp_path / "ann.safetensors")
    assert sidecar.words == ("zwx dog",)
    assert len(notes) == 1
    assert "ann.json" in notes[0]


def test_the_words_of_the_pictures_folder_come_before_frequent_tags_and_common_tags_never():
    header = {"ss_tag_frequency": json.dumps({"10_ohwx woman": {"1girl": 20, "ohwx": 20, "smile": 3}})}
    dataset = read_dataset(header)
    assert dataset.everywhere == ("ohwx",)
    assert guess_words([], dataset) == ["ohwx woman", "ohwx"]
    assert guess_words(["stated"], dataset)[0] == "stated"
    assert guess_words(["1girl"], Dataset()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"1_a": [1]}', '{"1_a": {"b": "c"}}'])
def test_a_damaged_header_tells_nothing(text):
    assert read_dataset({"ss_tag_frequency": text}).tags == ()


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["character woman", "a style"], "person"),
        (["", "ghibli_style_v2"], "style"),
        (["zwx dog"], "object"),
        (["my village"], "scene"),
        (["carton", "womanly"], ""),
    ],
)
def test_the_first_text_with_a_known_word_says_the_kind(texts, kind):
    assert guess_kind(texts) == kind
