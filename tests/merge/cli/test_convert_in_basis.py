"""`python -m merge convert` into slots of a text basis: the default."""

from __future__ import annotations

import pytest
from token_side_builders import BLOCKS, make_basis, write_basis

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import basis_digest, codewords_digest
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.command_line.runner import run
from blocklora_jax.registry.store import read_registry
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main

QUICK = ["--rank", "3", "--prompts", "16", "--random-prompts", "16", "--token-steps", "1"]
WORDS = ["--random-styles", "a photo of", "--random-subjects", "dog", "owl", "--random-scenes", "in the snow"]


@pytest.fixture(scope="module")
def basis(tiny_sd):
    return make_basis(tiny_sd)


@pytest.fixture
def options(tiny_sd, tiny_folder, basis, tmp_path):
    """Options for a quick conversion in a basis."""
    path = write_basis(tmp_path / "basis.safetensors", tiny_sd, basis)
    return [*QUICK, *WORDS, "--model", str(tiny_folder), "--basis", str(path)]


def make_lora_file(path, sd, name, layers="cross_kv"):
    random_adapter(name, sd.params, slots=(), partition=None, layers=layers, size=0.2).save(path)


def loras(tiny_sd, folder, names):
    folder.mkdir()
    for name in names:
        make_lora_file(folder / f"{name}.safetensors", tiny_sd, name)
    return folder


def fails(capsys, *args):
    with pytest.raises(SystemExit) as exit_:
        run(lambda: main([*map(str, args)]))
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1), error
    return error


def test_a_lora_gets_a_slot_and_a_token(tiny_sd, basis, options, tmp_path, capsys):
    file = loras(tiny_sd, tmp_path / "loras", ["gil"]) / "gil.safetensors"
    out = tmp_path / "out.safetensors"
    main(["convert", str(file), "--slot", "3", "--blocks", str(BLOCKS), "--out", str(out), *options])
    assert "'gil' owns slot 3, called by '<gil> man'" in capsys.readouterr().out
    found = Adapter.load(out)
    digest = basis_digest(basis.directions)
    assert found.info.partition == Partition(num_blocks=BLOCKS, basis=digest, assignment="text")
    assert list(found.tokens) == ["<gil>"] and set(found.lora) == {"unet"}
    merge.compose(tiny_sd.params, [found])


def test_a_folder_gets_a_registry_in_the_basis_and_goes_on(tiny_sd, basis, options, tmp_path, capsys):
    folder, out = loras(tiny_sd, tmp_path / "loras", ["ada", "gil"]), tmp_path / "out"
    args = ["convert", str(folder), "--out", str(out), *options]
    main(args)
    registry = read_registry(out)
    assert registry.partition.assignment == "text" and registry.codewords == codewords_digest(basis.codewords[BLOCKS])
    adapters = [Adapter.load(path) for path in sorted(out.glob("*.safetensors"))]
    assert [adapter.info.slots for adapter in adapters] == [registry.find(f"<{a.name}>").slots for a in adapters]
    merge.compose(tiny_sd.params, adapters)
    before = {path: path.read_bytes() for path in out.glob("*.safetensors")}
    (out / "gil.safetensors").unlink()
    main(args)
    assert "1 of 2 are converted already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.glob("*.safetensors")} == before


def test_a_wrong_or_missing_basis_is_named(tiny_sd, tiny_folder, basis, options, tmp_path, capsys):
    folder = loras(tiny_sd, tmp_path / "loras", ["gil"])
    file, out = folder / "gil.safetensors", tmp_path / "out.safetensors"
    common = ["convert", file, "--out", out, "--slot", "0", *WORDS]
    error = fails(capsys, *common, "--model", tiny_folder)
    assert "needs a basis of its own text features" in error and "--basis None" in error
    assert "no codewords for 7 blocks" in fails(capsys, *common, *options, "--blocks", "7")
    book = tmp_path / "registry.json"
    turned = write_basis(tmp_path / "turned", tiny_sd, basis._replace(directions=basis.directions[:, ::-1]))
    main(["registry", "new", str(book), "--model", str(tiny_folder), "--blocks", str(BLOCKS), "--basis", str(turned)])
    main(["registry", "add", str(book), "gil", "--slot", "0"])
    capsys.readouterr()
    assert "use the file that the registry was made with" in fails(capsys, *common, *options, "--registry", book)
    without = [word if word != options[-1] else "None" for word in options]
    assert "give its file with --basis" in fails(capsys, *common, *without, "--registry", book)
    assert not out.exists()


def test_layers_that_read_pictures_are_said_to_be_left_out(tiny_sd, options, tmp_path, capsys):
    file = tmp_path / "gil.safetensors"
    make_lora_file(file, tiny_sd, "gil", layers="attention")
    out = tmp_path / "out.safetensors"
    main(["convert", str(file), "--slot", "0", "--blocks", str(BLOCKS), "--out", str(out), *options])
    assert "layers of gil read pictures, and are left out" in capsys.readouterr().out
    assert all("attn2/to_" in path for path in Adapter.load(out).lora["unet"])
