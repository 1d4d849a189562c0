"""A registry whose slots are blocks of a basis: it is started, claimed from, shown, checked, and trained with."""

from __future__ import annotations

import json

import pytest
from token_side_builders import BLOCKS, make_basis, random_codewords, token_side_config, write_basis

from blocklora_jax.adapters.basis import basis_digest, codewords_digest
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.registry.claims import Registry
from blocklora_jax.registry.store import read_registry
from merge.cli.registry import main
from train.concept.claims import check_basis, use_claim
from train.concept.own_directions import basis_of


def registry(*args: object) -> None:
    main([*map(str, args)])


@pytest.fixture(scope="module")
def basis(tiny_sd):
    return make_basis(tiny_sd)


@pytest.fixture
def files(tiny_sd, tiny_folder, basis, tmp_path):
    """A registry with one claim, and its basis."""
    path, where = write_basis(tmp_path / "basis.safetensors", tiny_sd, basis), tmp_path / "registry.json"
    registry("new", where, "--model", tiny_folder, "--blocks", BLOCKS, "--basis", path)
    registry("add", where, "ada", "--slot", 2)
    return where, path


def test_the_registry_names_basis_and_codewords_and_says_how_to_train(files, basis, capsys):
    where, _ = files
    book = read_registry(where)
    digest = basis_digest(basis.directions)
    assert book.partition == Partition(num_blocks=BLOCKS, basis=digest, assignment="text")
    assert book.codewords == codewords_digest(basis.codewords[BLOCKS])
    assert Registry.from_json(json.loads(json.dumps(book.to_json())), "x") == book
    registry("add", where, "rex")
    assert f"--basis FILE --assignment text, where FILE is basis {digest}" in capsys.readouterr().out
    registry("list", where)
    assert f"4 blocks in the basis {digest}, one for all layers" in capsys.readouterr().out


def test_the_basis_can_be_on_the_hub(files, hub, tiny_folder, tmp_path):
    where, path = files
    hub.put("someone/basis", {"b.safetensors": path.read_bytes()})
    other = tmp_path / "other.json"
    registry("new", other, "--model", tiny_folder, "--blocks", BLOCKS, "--basis", "hub:someone/basis/b.safetensors")
    assert read_registry(other).partition == read_registry(where).partition
    assert read_registry(other).codewords == read_registry(where).codewords


def test_concepts_train_on_their_claim(files, tiny_sd):
    where, path = files
    config = token_side_config(path, slot=None, registry=str(where))
    claimed = use_claim(config, read_registry(where))
    assert claimed.adapter.slot == (2,)
    check_basis(read_registry(where), claimed, basis_of(claimed, tiny_sd))
    other_cut = token_side_config(
        path, slot=None, token_side=0.0, token_start="noun", negatives_from="nouns", assignment="layer"
    )
    with pytest.raises(UserError, match="train with --blocks 4 .* --basis FILE --assignment text"):
        use_claim(other_cut, read_registry(where))


def test_another_basis_and_other_codewords_are_refused(files, tiny_sd, basis, tmp_path):
    where, _ = files
    book = read_registry(where)
    turned = write_basis(tmp_path / "turned", tiny_sd, basis._replace(directions=basis.directions[:, ::-1]))
    with pytest.raises(UserError, match=r"is for the basis \w{16}, but --basis .*turned is \w{16}: use the file"):
        check_basis(book, config := token_side_config(turned), basis_of(config, tiny_sd))
    words = {BLOCKS: random_codewords(tiny_sd, seed=1)}
    reworded = write_basis(tmp_path / "reworded", tiny_sd, basis._replace(codewords=words))
    with pytest.raises(UserError, match=r"is for the codewords \w{16}, but those in --basis .*reworded are \w{16}"):
        check_basis(book, config := token_side_config(reworded), basis_of(config, tiny_sd))
    # If training uses no codewords, those in the file may differ.
    config = token_side_config(reworded, token_start="noun", negatives_from="nouns")
    check_basis(book, config, basis_of(config, tiny_sd))


def test_codewords_of_a_registry_are_a_digest_or_left_out(files):
    value = json.loads(json.dumps(read_registry(files[0]).to_json()))
    for wrong in ("abc", 7, None):
        with pytest.raises(UserError, match="codewords .* must be 16 hexadecimal digits, or empty"):
            Registry.from_json(value | {"codewords": wrong}, "x")
    del value["codewords"]
    assert "codewords" not in Registry.from_json(value, "x").to_json()


def test_numbers_of_slots_that_no_training_can_use_are_refused(tiny_sd, tiny_folder, basis, tmp_path):
    path, where = write_basis(tmp_path / "basis.safetensors", tiny_sd, basis), tmp_path / "registry.json"
    directions = len(basis.directions)
    for blocks, message in (
        (3, f"the basis has no codewords for 3 blocks .*for: {BLOCKS}.*give --blocks one of these, or add them"),
        (directions + 1, f"a basis of {directions} directions has too few for {directions + 1} blocks: choose fewer"),
    ):
        with pytest.raises(UserError, match=message):
            registry("new", where, "--model", tiny_folder, "--blocks", blocks, "--basis", path)
        assert not where.exists()


def test_a_basis_needs_its_model(tmp_path):
    with pytest.raises(UserError, match="--basis belongs to a base model: name that with --model"):
        registry("new", tmp_path / "r.json", "--basis", "pocket")
