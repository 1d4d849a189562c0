"""Shares of many concepts: each concept is trained once, and the adapters are those of one machine, bit for bit."""

from __future__ import annotations

import shutil

import pytest
import yaml
from concept_builders import as_flags, settings, write_pictures

import train.concepts
from blocklora_jax.errors import UserError
from blocklora_jax.storage.folder import LocalFolder
from blocklora_jax.storage.lease import take_lease
from train.concept.groups import SHARED
from train.shares.finished import damaged_adapters

OWN = ("images", "token", "class_noun", "out", "slot")
NAMES = ("ada", "bo", "cy", "dee", "eve")


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concepts")
    write_pictures(folder / "a", 3)
    entries = {name: {"images": "a", "class_noun": "man", "seed": i} for i, name in enumerate(NAMES)}
    (folder / "concepts.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return folder / "concepts.yaml"


@pytest.fixture(scope="module")
def run(listing, tiny_folder):
    """Trains in a folder, in groups of two."""
    values = settings(model=tiny_folder, cpu=True, blocks=8, previews=False)
    common = as_flags({k: v for k, v in values.items() if k not in OWN})

    def train_in(out, *flags):
        train.concepts.main(
            ["--concepts", str(listing), "--out", str(out), *("--at-once", "2") * ("--at-once" not in flags),
             *common, *flags]
        )  # fmt: skip

    return train_in


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of one machine."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return adapters(out)


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    """The folder in which share 1 of 2 was trained, with what it left: it helps, so nothing."""
    out = tmp_path_factory.mktemp("shared")
    run(out, "--shard", "1/2")
    return out


def adapters(out) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("*/adapter.safetensors")}


def test_a_share_trains_its_groups_and_those_that_nobody_trains(shared, whole):
    assert whole.keys() == set(NAMES)
    assert adapters(shared) == whole
    assert sorted(path.parent.name for path in shared.glob("groups/*/finished.json")) == ["000", "001", "002"]


def test_a_group_that_another_machine_holds_is_left_to_it(run, tmp_path, capsys):
    held = take_lease(LocalFolder(tmp_path / "groups" / SHARED), "001", 300.0)
    assert held is not None
    run(tmp_path, "--shard", "1/2")
    assert adapters(tmp_path).keys() == {"ada", "bo", "eve"}
    assert "share 1/2: 2 groups trained, 0 were finished, 1 are held by others, 0 failed" in capsys.readouterr().err
    held.release()
    run(tmp_path, "--shard", "0/1")
    assert adapters(tmp_path).keys() == set(NAMES)


def test_finished_groups_are_not_trained_again_and_no_model_is_loaded(run, shared, monkeypatch, capsys):
    monkeypatch.setattr("train.shares.run.load_for", lambda *_: pytest.fail("the model was loaded"))
    run(shared, "--shard", "0/2")
    assert "share 0/2: 0 groups trained, 3 were finished" in capsys.readouterr().err


def test_a_damaged_adapter_is_made_again_from_the_checkpoint(run, shared, whole, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(shared, out)
    (out / "cy" / "adapter.safetensors").write_bytes(whole["cy"][:-1])
    run(out, "--shard", "0/2")
    assert adapters(out) == whole
    assert "group 001 is finished, but " in (errors := capsys.readouterr().err)
    assert "1 groups trained, 2 were finished" in errors


@pytest.mark.parametrize("damage", ["cut short", "missing", "another"])
def test_a_finished_group_knows_its_adapters(shared, whole, damage, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(shared, out)
    paths = [out / name / "adapter.safetensors" for name in ("cy", "dee")]
    assert damaged_adapters(LocalFolder(out / "groups"), "001", paths) == []
    paths[0].unlink()
    if damage == "cut short":
        paths[0].write_bytes(whole["cy"][:-1])
    if damage == "another":
        paths[0].write_bytes(whole["dee"])
    assert damaged_adapters(LocalFolder(out / "groups"), "001", paths) == paths[:1]


def test_all_shares_must_deal_out_the_same(run, shared):
    with pytest.raises(UserError, match="begun with other concepts or another --at-once"):
        run(shared, "--shard", "0/2", "--at-once", "3")


def test_a_folder_of_shares_is_not_trained_as_a_whole(run, shared):
    with pytest.raises(UserError, match="is trained in shares: go on with --shard"):
        run(shared, "--resume")


def test_a_group_that_fails_does_not_stop_the_others_and_is_not_repeated_by_helpers(run, listing, tmp_path, capsys):
    entries = yaml.safe_load(listing.read_text())
    empty = listing.parent / "empty"
    empty.mkdir(exist_ok=True)
    entries["cy"]["images"] = "empty"
    broken = listing.with_name("broken.yaml")
    broken.write_text(yaml.safe_dump(entries, sort_keys=False))
    with pytest.raises(UserError, match=r"2 groups trained, .* 1 failed; group 001: .*empty"):
        run(tmp_path, "--shard", "1/3", "--concepts", str(broken))
    assert adapters(tmp_path).keys() == {"ada", "bo", "eve"}
    run(tmp_path, "--shard", "0/3", "--concepts", str(broken))
    assert "0 groups trained, 2 were finished, 0 are held by others, 1 failed" in capsys.readouterr().err


def test_a_share_is_trained_by_one_process(run, tmp_path):
    with pytest.raises(UserError, match="--shard gives each process a share of its own"):
        run(tmp_path, "--shard", "0/2", "--distributed", "slurm")


@pytest.mark.parametrize("place", ["flag", "entry"])
def test_a_push_is_refused_because_no_share_would_do_it(run, listing, place, tmp_path):
    flags, entries = ["--push", "someone/ada"], yaml.safe_load(listing.read_text())
    if place == "entry":
        entries["ada"]["push"] = "someone/ada"
        (listing.parent / "pushed.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
        flags = ["--concepts", str(listing.parent / "pushed.yaml")]
    with pytest.raises(UserError, match=r"--shard does not push: .* `python -m merge push \S+ada/adapter\.safetensors"):
        run(tmp_path / "run", "--shard", "0/2", *flags)
    assert not (tmp_path / "run").exists()
