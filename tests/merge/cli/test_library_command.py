"""Commands on a folder of LoRAs: scan, check, fit, export, convert. Everything wrong is named at once."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.library.make import Specimen, make_folder
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.runner import run
from blocklora_jax.library.library import open_library
from blocklora_jax.library.yaml_file import FILE, read_entries
from blocklora_jax.probing import input_statistics
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.registry.store import read_registry
from merge.cli import check, sources
from merge.cli.convolutions import with_convolutions, without_convolutions
from merge.cli.main import main
from merge.concatenate import concatenate
from merge.export.lora_file import read_export_header

WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "man"), scenes=("on the beach",))
SORTS = [Specimen("LoRA", dialect, "cross-attention", 2) for dialect in ("kohya", "diffusers", "ComfyUI")]


@pytest.fixture
def folder(tmp_path, two_level_sd, monkeypatch):
    """Three LoRAs that can be used, in subfolders, and five files that cannot."""
    # The tiny model reads 24 tokens. Prompts of the usual words are longer.
    monkeypatch.setattr("blocklora_jax.pocket.prompt_words.words_for", lambda name: WORDS)
    monkeypatch.setattr(input_statistics, "words_for", lambda name: WORDS)
    make_folder(tmp_path / "loras", 3, two_level_sd.params, SORTS)
    return tmp_path / "loras"


def call(capsys, *args: object) -> tuple[int, str, str]:
    """The exit code, the output, and what was written to stderr."""
    code = 0
    try:
        run(lambda: main([str(arg) for arg in args]))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_scan_prints_what_is_worth_knowing(folder, capsys):
    code, out, _ = call(capsys, "library", "scan", folder)
    assert code == 0
    assert re.match(rf"wrote {folder / FILE}: 8 files, 3 of them usable", out)
    assert len(re.findall(r"^problem: ", out, re.M)) == 5
    code, out, _ = call(capsys, "library", "list", folder)
    assert code == 1
    assert re.search(r"^lora_000 .*LoRA, kohya layout +2 .*person +sks000 woman$", out, re.M)
    code, out, _ = call(capsys, "library")
    assert (code, out.splitlines()[0][:20]) == (0, "A library is a folde")
    assert (
        "unknown command library 'scam': choose scan, list; did you mean 'scan'?" in call(capsys, "library", "scam")[2]
    )


def test_all_unusable_files_are_named_in_one_error_and_left_out_if_asked(folder, tmp_path, capsys):
    out = tmp_path / "all.safetensors"
    code, _, error = call(capsys, "export", folder, "--allow-overlap", "--family", "sd1", "--out", out)
    assert (code, error.count("\n")) == (2, 1)
    assert "5 of 8 files cannot be used" in error
    for name in ("cut_short", "embedding", "flux", "old.pt", "page"):
        assert name in error
    assert "--skip-unusable goes on without them" in error
    code, _, error = call(
        capsys, "export", folder, "--allow-overlap", "--family", "sd1", "--skip-unusable", "--out", out
    )
    assert code == 0
    assert error.count("left out: ") == 5
    assert sorted(read_export_header(out)["adapters"]) == ["lora_000", "lora_001", "lora_002"]


def test_weights_and_names_of_the_library_are_used_and_left_out_files_are_not(folder, tmp_path, capsys):
    call(capsys, "library", "scan", folder)
    text = (folder / FILE).read_text().replace("name: lora_000\n  trigger", "name: ann\n  trigger", 1)
    text = re.sub(r"(file: mans/.*?weight: )1.0", r"\g<1>0.5", text, count=1, flags=re.S)
    text = re.sub(r"(file: dogs/.*?use: )true", r"\1false", text, count=1, flags=re.S)
    (folder / FILE).write_text(text)
    for place in (folder, folder / FILE):
        out = tmp_path / f"{place.stem}.safetensors"
        common = ("--allow-overlap", "--family", "sd1", "--skip-unusable")
        assert call(capsys, "export", place, *common, "--out", out)[0] == 0
        header = read_export_header(out)
        assert sorted(zip(header["adapters"], header["weights"], strict=True)) == [("ann", 1.0), ("lora_001", 0.5)]


def test_all_missing_triggers_are_named_in_one_error_before_the_model_is_read(folder, tmp_path, capsys):
    call(capsys, "library", "scan", folder)
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(re.sub(r"^  trigger: .*", "  trigger: ''", text, flags=re.M))
    for verb in ("fit", "convert"):
        code, _, error = call(
            capsys, verb, folder, "--skip-unusable", "--model", tmp_path / "no", "--out", tmp_path / "x"
        )
        assert code == 2
        assert "3 concepts have a trigger that is empty" in error
        assert all(f"'lora_00{i}'" in error for i in range(3))
        assert "library.yaml" in error


def test_a_folder_is_fitted_and_its_result_is_a_folder_that_can_be_exported(folder, two_level_folder, tmp_path, capsys):
    out = tmp_path / "fitted"
    code, text, _ = call(capsys, "fit", folder, "--skip-unusable", "--model", two_level_folder, "--out", out)
    assert (code, text.count("wrote ")) == (0, 3)
    assert [entry.name for entry in open_library(out)[1]] == ["lora_000", "lora_001", "lora_002"]
    single = tmp_path / "all.safetensors"
    assert call(capsys, "export", out, "--max-rank", "2", "--allow-overlap", "--out", single)[0] == 0
    assert len(read_export_header(single)["adapters"]) == 3
    error = call(capsys, "fit", folder, "--skip-unusable", "--model", two_level_folder, "--out", folder / "fitted")[2]
    assert "lies inside the input" in error


def test_many_adapters_are_ranked_and_drawn_as_a_map(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "MANY", 2)
    out = tmp_path / "map.png"
    code, text, error = call(capsys, "check", folder, "--skip-unusable", "--model", "nowhere", "--out", out)
    assert (code, error.count("left out: ")) == (0, 5)
    assert re.search(r"^adapter +disturbs +disturbed +cosine +most like$", text, re.M)
    assert len(re.findall(r"^lora_00\d +[\d.]+ +[\d.]+ +-?[\d.]+  lora_00\d$", text, re.M)) == 3
    assert text.splitlines()[-1] == "3 of 8 adapters read; no problems"
    with Image.open(out) as picture:
        assert picture.height > 3 * 14
    code, text, _ = call(capsys, "check", folder, "--out", out)
    assert (code, text.count("problem: ")) == (1, 5)


def test_nearly_equal_adapters_are_advised_to_be_left_out(folder, two_level_sd, tmp_path, capsys):
    adapter = Adapter.load(next(folder.glob("womans/*.safetensors")))
    for index, factor in enumerate((1.0, 1.01)):
        lora = {
            c: {p: pair._replace(lora_A=factor * pair.lora_A) for p, pair in g.items()} for c, g in adapter.lora.items()
        }
        info = replace(adapter.info, name=f"v{index}", origin="")
        replace(adapter, lora=lora, info=info).save(tmp_path / "two" / f"{index}.safetensors")
    code, text, _ = call(capsys, "check", tmp_path / "two", "--alike", "True", "--out", tmp_path / "m.png")
    assert code == 0
    assert "nearly the same (cosine 0.9 or more): keep v1, leave out v0" in text


def test_a_folder_is_converted_into_slots_of_its_own_and_goes_on_where_it_stopped(
    folder, two_level_folder, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "converted"
    few = (
        "--basis",
        "None",
        "--rank",
        "2",
        "--prompts",
        "2",
        "--random-prompts",
        "2",
        "--steps",
        "1",
        "--blocks",
        "4",
        "--skip-unusable",
    )
    args = ("convert", folder, *few, "--model", two_level_folder, "--out", out)
    assert call(capsys, *args)[0] == 0
    registry = read_registry(out)
    assert sorted(entry.slots for entry in registry.entries) == [(0,), (1,), (2,)]
    adapters = [Adapter.load(path) for path in sorted(out.glob("*.safetensors"))]
    assert all(a.info.slots == registry.find(f"<{a.name}>").slots for a in adapters)
    concatenate(adapters)  # raises unless they merge losslessly
    one = out / "lora_001.safetensors"
    before = {path: path.read_bytes() for path in out.glob("*.safetensors")}
    one.unlink()
    code, text, _ = call(capsys, *args)
    assert code == 0
    assert "2 of 3 are converted already" in text
    assert {path: path.read_bytes() for path in out.glob("*.safetensors")} == before
    assert "was converted with other settings" in call(capsys, *args, "--seed", "5")[2]
    assert "--slot is for one file" in call(capsys, *args, "--slot", "1")[2]
    too_many = call(capsys, *args[:-1], tmp_path / "other", "--blocks", "64")[2]
    assert "the narrowest of their layers has 32 features" in too_many


def test_large_libraries_are_kept_on_disk_with_the_same_numbers(folder, monkeypatch):
    found = sources.find_sources([folder], skip_unusable=True)
    plain = sources.load_sources(found)[1]
    monkeypatch.setattr(sources, "_IN_MEMORY", 0)
    mapped = sources.load_sources(found)[1]
    for one, other in zip(plain, mapped, strict=True):
        assert one.info == other.info
        for component, layers in one.lora.items():
            for path, pair in layers.items():
                np.testing.assert_array_equal(pair.lora_A, other.lora[component][path].lora_A)
                assert not other.lora[component][path].lora_A.flags.writeable


def test_convolutions_are_taken_out_and_put_back(two_level_sd, tmp_path):
    make_folder(tmp_path, 1, two_level_sd.params, [Specimen("LoCon", "kohya", "everything", 2)], broken=False)
    adapter = Adapter.load(next(tmp_path.rglob("*.safetensors")))
    [linear], [wide] = without_convolutions([adapter])
    assert all("/conv" in path for path in wide["unet"])
    assert not wide["unet"].keys() & linear.lora["unet"].keys()
    back = with_convolutions(linear, wide, linear.info.scale)
    assert back.shapes() == adapter.shapes()
    for path, pair in adapter.lora["unet"].items():
        np.testing.assert_array_equal(back.lora["unet"][path].lora_A, pair.lora_A, err_msg=path)
        np.testing.assert_array_equal(back.lora["unet"][path].lora_B, pair.lora_B, err_msg=path)


def test_bases_are_not_mixed_silently(folder, tmp_path, capsys):
    call(capsys, "library", "scan", folder)
    entries = read_entries(folder / FILE)
    text = (folder / FILE).read_text()
    bases = iter(("sd1", "sdxl", "sdxl"))
    for entry in entries:
        if not entry.found.problems:
            part = re.search(rf"- file: {entry.file}.*?stamp: \S+\n", text, re.S)[0]
            plain = re.sub(r"    base: .*\n", "", part)
            text = text.replace(part, plain.replace("  found:\n", f"  found:\n    base: {next(bases)}\n"))
    (folder / FILE).write_text(text)
    out = tmp_path / "a.safetensors"
    error = call(capsys, "export", folder, "--skip-unusable", "--allow-overlap", "--out", out)[2]
    assert "are for different families of base models (1 for sd1, 2 for sdxl): choose one with --family" in error
    assert call(capsys, "fit", folder, "--skip-unusable", "--family", "sd1", "--out", out)[2].endswith(
        "name two or more adapter files: a single adapter needs no fit\n"
    )


def test_an_adapter_whose_changes_are_infinite_is_a_problem_and_the_others_are_compared(folder, tmp_path, capsys):
    adapter = Adapter.load(next(folder.glob("womans/*.safetensors")))
    for index, factor in enumerate((1.0, 1.0, 1e25)):
        lora = {
            c: {p: pair._replace(lora_A=factor * pair.lora_A, lora_B=factor * pair.lora_B) for p, pair in g.items()}
            for c, g in adapter.lora.items()
        }
        info = replace(adapter.info, name=f"v{index}", origin="")
        replace(adapter, lora=lora, info=info).save(tmp_path / "three" / f"{index}.safetensors")
    code, text, _ = call(capsys, "check", tmp_path / "three", "--alike", "True", "--out", tmp_path / "m.png")
    assert code == 1
    assert "problem: v2 has changes that are too large" in text
    assert "2 of 3 adapters read; 1 problem\n" in text
