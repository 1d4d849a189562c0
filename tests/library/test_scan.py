"""A scan lists every file once, keeps what a person edited, and reads only what changed."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

import blocklora_jax.library.scan as scan_module
from blocklora_jax.errors import UserError
from blocklora_jax.library.entry import Entry, Found, new_entry
from blocklora_jax.library.library import name_reasons, open_library, usable
from blocklora_jax.library.scan import MISSING, duplicates, scan_library
from blocklora_jax.library.yaml_file import FILE, edited_text, new_text, parse_entries
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def write(path, value: float = 1.0, rank: int = 4, **metadata: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{LAYER}.lora_down.weight": np.full((rank, 768), value, np.float32),
        f"{LAYER}.lora_up.weight": np.ones((320, rank), np.float32),
    }
    save_file(tensors, path, metadata=metadata or None)


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(("ann", "people/Ann", "dogs/rex")):
        write(tmp_path / f"{name}.safetensors", index, **{"modelspec.trigger_phrase": f"tok{index} woman"})
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02")
    (tmp_path / ".hidden.safetensors").write_bytes(b"")
    return tmp_path


def test_every_file_is_listed_with_what_is_known_of_it(folder):
    entries = {entry.file: entry for entry in scan_library(folder)}
    assert entries.keys() == {"ann.safetensors", "people/Ann.safetensors", "dogs/rex.safetensors", "old.ckpt"}
    ann, path = entries["ann.safetensors"], folder / "ann.safetensors"
    assert (ann.name, ann.trigger, ann.class_noun, ann.kind) == ("ann", "tok0 woman", "woman", "person")
    assert entries["people/Ann.safetensors"].name == "ann-2"
    found = ann.found
    assert (found.base, found.format, found.rank, found.layers) == ("sd1", "LoRA, kohya layout", 4, 1)
    assert (found.size, found.digest) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert usable(list(entries.values()))[1].keys() == {"old.ckpt"}
    assert "pickle" in entries["old.ckpt"].found.problems[0]


def test_a_second_scan_opens_nothing_and_changes_nothing(folder, monkeypatch):
    scan_library(folder)
    before = (folder / FILE).stat().st_mtime_ns
    monkeypatch.setattr(scan_module, "scan_file", lambda path: pytest.fail(f"opened {path}"))
    monkeypatch.setattr(scan_module, "digest_of", lambda path: pytest.fail(f"read {path}"))
    scan_library(folder)
    assert (folder / FILE).stat().st_mtime_ns == before


def test_edits_comments_and_the_order_survive_a_scan(folder):
    scan_library(folder)
    text = (folder / FILE).read_text()
    text = text.replace("trigger: tok0 woman\n  class", "trigger: my ann   # as I call her\n  class", 1)
    text = text.replace("use: true", "use: false  # too strong", 1) + "# the end\n"
    (folder / FILE).write_text(text)
    assert scan_library(folder)[0].trigger == "my ann"
    assert (folder / FILE).read_text() == text
    # The files change: what was found is written anew, the guesses follow, the edits stay.
    write(folder / "ann.safetensors", rank=8, **{"modelspec.trigger_phrase": "new man"})
    write(folder / "zoe.safetensors", 7)
    first, *rest = scan_library(folder)
    assert (first.trigger, first.use, first.class_noun, first.found.rank) == ("my ann", False, "man", 8)
    changed = (folder / FILE).read_text()
    assert "trigger: my ann   # as I call her\n" in changed
    assert "use: false  # too strong\n" in changed
    assert changed.endswith("# the end\n")
    assert [entry.file for entry in parse_entries(changed, "")][-1] == "zoe.safetensors"
    assert len(rest) == 4


def test_a_moved_file_keeps_its_entry_and_a_lost_one_is_a_problem(folder):
    scan_library(folder)
    text = (folder / FILE).read_text().replace("weight: 1.0", "weight: 0.7", 1)
    (folder / FILE).write_text(text)
    os.rename(folder / "ann.safetensors", folder / "dogs/ann3.safetensors")
    (folder / "people/Ann.safetensors").unlink()
    entries = {entry.file: entry for entry in scan_library(folder)}
    assert (entries["dogs/ann3.safetensors"].name, entries["dogs/ann3.safetensors"].weight) == ("ann", 0.7)
    assert entries["people/Ann.safetensors"].found.problems == (MISSING,)
    assert len(entries) == 4
    assert {entry.file: entry for entry in scan_library(folder)} == entries


def test_equal_files_are_found(folder):
    write(folder / "copy.safetensors", 0, **{"modelspec.trigger_phrase": "tok0 woman"})
    [group] = duplicates(scan_library(folder))
    assert [entry.file for entry in group] == ["ann.safetensors", "copy.safetensors"]


def test_an_interrupted_scan_keeps_the_digests_that_it_has(folder, monkeypatch):
    real, calls = scan_module.digest_of, []

    def digest(path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(scan_module, "digest_of", digest)
    monkeypatch.setattr(scan_module, "_THREADS", 1)
    monkeypatch.setattr(scan_module, "_SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        scan_library(folder)
    assert sum(bool(entry.found.digest) for entry in parse_entries((folder / FILE).read_text(), "")) == 2
    monkeypatch.setattr(scan_module, "digest_of", real)
    assert all(entry.found.digest for entry in scan_library(folder))


def test_a_file_of_ours_says_everything_itself(tmp_path):
    random_adapter("ada", tiny_params(), slots=(0,), layers="cross_kv").save(tmp_path / "x.safetensors")
    [entry] = scan_library(tmp_path)
    assert (entry.name, entry.trigger, entry.found.format) == ("ada", "<ada> man", "blocklora adapter, with blocks")


def test_a_folder_is_opened_without_a_scan_and_left_as_it_is(folder):
    place, entries = open_library(folder)
    assert (place, len(entries)) == (folder, 4)
    assert not (folder / FILE).exists()
    with pytest.raises(UserError, match="there is no library"):
        open_library(folder / "no.yaml")
    with pytest.raises(UserError, match="there are no LoRA files"):
        (folder / "empty").mkdir()
        open_library(folder / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("  kind: person\n", "  kind: hero\n"),
            "line 9: kind is 'hero'; it must be one of person, object, scene, style",
        ),
        (("weight: 1.0", "weight: heavy"), "line 9: weight: input should be a valid number"),
        (("use: true", "uses: true"), "line 9: uses: extra inputs are not permitted"),
        (("blocklora_library: 1", "blocklora_library: 2"), "is a library of version 2; this program reads 1"),
        (("blocklora_library: 1", ""), "is not a library"),
        (("loras:", "loras: 1\nothers:"), "must be a list"),
        (("name: ann", "name: ann\n  name: b"), "a key occurs twice: 'name'"),
        (("name: ann", "name: &a ann\n  trigger: *a"), "is not valid YAML"),
        (("name: ann", "name: [ann"), "is not valid YAML"),
        (("name: ann", "name: 2024-13-40"), "line 9: month must be in 1..12: write texts in quotation marks"),
        (("name: ann", "name: !ann x"), "line 9: could not determine a constructor for the tag"),
        (("name: ann", "[ann]: x"), "a key is a list or a mapping"),
        (("people/Ann.safetensors", "ann.safetensors"), "the file ann.safetensors is listed twice"),
    ],
)
def test_a_wrong_library_is_one_error_that_names_the_place(folder, change, message):
    scan_library(folder, digests=False)
    path = folder / FILE
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(UserError, match=message):
        scan_library(folder)


def test_text_with_marks_of_yaml_is_read_as_it_was_written():
    texts = ("a: b # c", "- x", "'q'", '"', "yes", "1", "ünï 🐶", "&a *b", "{x}", "[y", "%", "@", "|", " ")
    entries = [
        new_entry(f"{i}: #.safetensors", Found(name=f"n{i}", trigger=text, words=(text, "w"), problems=(text,)))
        for i, text in enumerate(texts)
    ]
    text = new_text(entries)
    assert parse_entries(text, "") == entries
    assert edited_text(text, entries, "") == text


def test_missing_fields_are_guessed_and_an_empty_one_is_empty():
    text = "blocklora_library: 1\nloras:\n- file: a\n  trigger:\n  found: {name: x, trigger: t, kind: style}\n"
    assert parse_entries(text, "") == [
        Entry(file="a", name="x", kind="style", found=Found(name="x", trigger="t", kind="style"))
    ]


def test_reasons_are_grouped():
    assert name_reasons({"a": "no", "b": "why", "c": "no"}) == "no: a, c; why: b"


def test_damaged_files_are_listed_and_the_others_too(folder):
    odd = {f"{LAYER}.hada_w1_a": 1, f"{LAYER}.hada_w1_b": 1, f"{LAYER}.lokr_w1": 1, f"{LAYER}.lokr_w2": 0}
    save_file({key: np.ones((2,) * axes, np.float32) for key, axes in odd.items()}, folder / "odd.safetensors")
    frequencies = json.dumps({"10_a": {"b": 10**400, "c": 1}})
    write(folder / "huge.safetensors", ss_tag_frequency=frequencies)
    save_file({f"{'x' * 9000}.lora_down.weight": np.ones((1, 1), np.float32)}, folder / "too_long.safetensors")
    save_file({f"{'x' * 900}.lora_down.weight": np.ones((1, 1), np.float32)}, folder / "long.safetensors")
    (folder / "long.json").write_text(json.dumps({"a": 1})[:-1] + ', "' + "k" * 9000 + '": 1, "' + "k" * 9000 + '": 1}')
    entries = {entry.file: entry for entry in scan_library(folder)}
    assert entries["huge.safetensors"].found.words == ("c",)
    assert entries["odd.safetensors"].found.format == "LoHa, kohya layout"
    assert "kkk" in entries["long.safetensors"].found.notes[0]
    assert "a name of 9017 characters" in entries["too_long.safetensors"].found.problems[0]
    # The list can be read again.
    assert scan_library(folder) == list(entries.values())


def test_a_name_that_is_no_text_is_a_problem_and_stops_nothing(folder):
    os.rename(os.fsencode(folder / "dogs"), os.fsencode(folder) + b"/d\xffgs")
    entries = scan_library(folder)
    [wrong] = [entry for entry in entries if "rename it" in "".join(entry.found.problems)]
    assert "gs/rex.safetensors" in wrong.file
    assert scan_library(folder) == entries


def test_a_file_listed_without_its_digest_does_not_take_over_the_entry_of_a_missing_one(folder):
    scan_library(folder)
    os.rename(folder / "ann.safetensors", folder / "bea.safetensors")
    scan_library(folder, digests=False)
    text = (folder / FILE).read_text().replace("weight: 1.0", "weight: 0.7")
    (folder / FILE).write_text(text.replace("weight: 0.7", "weight: 0.5", 1))
    entries = scan_library(folder)
    assert len({entry.file for entry in entries}) == len(entries) == 5
    # Each file keeps the weight that stands beside it.
    assert {entry.file: entry.weight for entry in parse_entries((folder / FILE).read_text(), "")} == {
        entry.file: 0.5 if entry.file == "ann.safetensors" else 0.7 for entry in entries
    }
