"""The basis file of a training: it is read once, and a resumed run needs the one that it began with."""

from __future__ import annotations

import json

import pytest
from concept_builders import write_pictures
from token_side_builders import BLOCKS, make_basis, random_codewords, token_side_config, write_basis

import blocklora_jax.probing.basis_file
import train.concept.batch_training
from blocklora_jax.adapters.basis import basis_digest
from blocklora_jax.errors import UserError
from train.concept.basis_record import KEY, check_same_basis
from train.concept.run import train_concept


@pytest.fixture
def config(tiny_sd, tiny_folder, tmp_path, monkeypatch):
    """A training that is interrupted before its first step."""

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.concept.batch_training, "run_loop", interrupt)
    path = write_basis(tmp_path / "basis.safetensors", tiny_sd)
    return token_side_config(
        path, images=write_pictures(tmp_path / "pictures"), model=str(tiny_folder), out=tmp_path / "run"
    )


def test_a_basis_is_read_once_and_must_not_change_before_a_run_is_resumed(config, tiny_sd, monkeypatch):
    load, reads = blocklora_jax.probing.basis_file.load_text_basis, []
    monkeypatch.setattr(
        blocklora_jax.probing.basis_file, "load_text_basis", lambda *args: reads.append(args) or load(*args)
    )
    with pytest.raises(KeyboardInterrupt):
        train_concept(config, "cpu")
    assert len(reads) == 1
    basis = make_basis(tiny_sd)
    assert basis.energies is not None
    digests = json.loads((config.out / "config.json").read_text())[KEY]
    assert digests.keys() == {"directions", "energies", "codewords"}
    assert digests["directions"] == basis_digest(basis.directions)
    resumed = config.with_settings(resume=True)
    # Codewords for another number of blocks are of no use to this run.
    write_basis(
        config.adapter.basis, tiny_sd, basis._replace(codewords={**basis.codewords, 8: random_codewords(tiny_sd, 8)})
    )
    with pytest.raises(KeyboardInterrupt):
        train_concept(resumed, "cpu")
    changes = {
        "directions": {"directions": basis.directions[:, ::-1]},
        "energies": {"energies": 2 * basis.energies},
        "codewords": {"codewords": {BLOCKS: random_codewords(tiny_sd, seed=1)}},
    }
    for part, change in changes.items():
        write_basis(config.adapter.basis, tiny_sd, basis._replace(**change))
        with pytest.raises(UserError, match=rf"cannot resume .*run: the {part} in --basis .* are not those") as told:
            train_concept(resumed, "cpu")
        assert "\n" not in str(told.value)


def test_parts_of_a_basis_that_a_run_does_not_use_may_change(config, tiny_sd):
    usual = config.with_settings(token_side=0.0, token_start="noun", negatives_from="nouns")
    with pytest.raises(KeyboardInterrupt):
        train_concept(usual, "cpu")
    basis = make_basis(tiny_sd)
    resumed = usual.with_settings(resume=True)
    check_same_basis([resumed], basis._replace(energies=None, codewords={}))
    with pytest.raises(UserError, match="the directions in --basis .* put the old file back"):
        check_same_basis([resumed], basis._replace(directions=-basis.directions))


@pytest.mark.parametrize("text", ["{}", '{"basis_digests": 5}', "[]"])
def test_a_run_without_digests_is_not_refused(text, config, tiny_sd):
    config.out.mkdir()
    (config.out / "config.json").write_text(text)
    check_same_basis([config.with_settings(resume=True)], make_basis(tiny_sd))
