"""Captions from metadata.jsonl."""

from __future__ import annotations

import json
import warnings

import pytest
from concept_builders import make_config, write_pictures

from blocklora_jax.errors import UserError
from train.concept.data import load_concept_data
from train.concept.images import read_pictures
from train.concept.metadata_captions import read_metadata
from train.concept.picture_captions import picture_captions
from train.concept.picture_files import find_pictures


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pictures", 3)


def write(folder, *lines) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(texts), encoding="utf-8-sig")


def entry(name: str, text: str | None = "a photo of <ada> man") -> dict:
    return {"file_name": name, "text": text}


def captions(folder, prefix: str | None = None, **changes) -> list[str]:
    found = picture_captions(find_pictures(folder), make_config(images=folder, **changes).called, prefix)
    return [str(caption) for caption in found]


def test_lines_give_captions_by_file_name_whatever_their_order(folder):
    write(
        folder,
        entry("2.PNG", "<ada> man\u200b at\n night"),
        "",
        {**entry("./0.png"), "width": 20},
        entry("1.png", None),
    )
    template = "a picture of <ada> man"
    assert captions(folder) == ["a photo of <ada> man", template, "<ada> man at night"]
    assert [picture.caption for picture in read_pictures(folder)] == [
        "a photo of <ada> man",
        None,
        "<ada> man at night",
    ]


def test_they_reach_the_training_data(tiny_sd, folder):
    write(folder, entry("1.png", "a drawing of <ada> man"))
    data = load_concept_data(make_config(images=folder), tiny_sd)
    expected = tiny_sd.tokenizer.encode(["a drawing of <ada> man"], {"<ada>": 2})
    assert data.ids[1].tolist() == expected[0].tolist()


def test_without_the_file_nothing_is_read(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_metadata(folder, [folder / "0.png"]) == {}


def test_lines_of_other_files_are_named_in_one_warning(folder):
    write(folder, entry("0.png"), *(entry(f"train/{i}.png") for i in range(7)))
    with pytest.warns(UserWarning, match=r"metadata\.jsonl: ignored: train/0\.png, .* and 2 more \(no picture of that"):
        assert captions(folder)[0] == "a photo of <ada> man"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("{", entry("0.png")), r"cannot read \S+metadata\.jsonl, line 1"),
        ((entry("0.png"), ["0.png"]), r"metadata\.jsonl, line 2 must be like \{\"file_name\": \"a\.png\", \"text\""),
        (({"text": "x"},), "line 1 must be like"),
        (({"file_name": "0.png", "text": 7},), r"line 1: the text of 0\.png must be a text"),
        ((entry("0.png"), entry("0.PNG")), r"line 2: 0\.PNG has a line already: keep one"),
        (
            (entry("0.png", "a man"),),
            r"metadata\.jsonl, 0\.png: the caption 'a man' lacks the token <ada>: .*--cap",
        ),
    ],
)
def test_faulty_lines_are_named(folder, lines, message):
    write(folder, *lines)
    with pytest.raises(UserError, match=message) as error:
        captions(folder)
    assert "\n" not in str(error.value)


def test_a_picture_with_captions_in_both_places_is_named(folder):
    write(folder, entry("0.png"), entry("1.png"))
    (folder / "1.txt").write_text("<ada> man")
    with pytest.raises(UserError, match=r"1\.png has captions in 1\.txt and in metadata\.jsonl: keep one"):
        captions(folder)


def test_a_prefix_stands_before_written_captions_only(folder):
    write(folder, entry("0.png", "red hair, smiling"), entry("1.png", ""))
    expected = ["a photo of <ada> man, red hair, smiling", "a photo of <ada> man,", "a photo of <ada> man"]
    assert captions(folder, "a photo of {trigger},") == expected
    assert captions(folder, "a photo of <ada> man,") == expected
    with pytest.raises(UserError, match=r"the caption 'a photo of red hair, smiling' lacks the token"):
        captions(folder, "a photo of")


def test_without_vectors_the_prefix_has_the_noun_alone(folder):
    write(folder, entry("0.png", "red hair"), entry("1.png", "<ada> man, smiling"))
    for prefix in ("a {trigger},", "a <ada> man,"):
        assert captions(folder, prefix, token_vectors=0)[:2] == ["a man, red hair", "a man, man, smiling"]
