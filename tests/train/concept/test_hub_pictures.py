"""Pictures of a dataset on the hub, from the hub's cache: there is no network in tests."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from concept_builders import make_config, write_pictures
from huggingface_hub import constants

from blocklora_jax.errors import UserError
from train.concept.data import find_images, load_concept_data
from train.concept.hub_pictures import fetch_pictures

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """The files of the dataset someone/dog as a download leaves them in the cache."""
    repository = tmp_path / "cache" / "datasets--someone--dog"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / COMMIT


def test_pictures_of_a_dataset_are_trained(tiny_sd, snapshot):
    write_pictures(snapshot, 3)
    (snapshot / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a drawing of <ada> man"}')
    data = load_concept_data(make_config(images=Path("hub:someone/dog")), tiny_sd)
    assert data.notes == "3 pictures"
    assert data.ids[1].tolist() == tiny_sd.tokenizer.encode(["a drawing of <ada> man"], {"<ada>": 2})[0].tolist()


def test_a_folder_of_a_dataset_can_be_named(snapshot):
    write_pictures(snapshot / "data" / "train", 1)
    assert find_images(Path("hub:someone/dog/data/train")) == snapshot / "data" / "train"
    for name in ("hub:someone/dog", "hub:someone/dog/data", "hub:someone/dog/test"):
        with pytest.raises(UserError, match=r"dataset someone/dog has no picture files: name the folder .* Parquet"):
            fetch_pictures(name)


def test_only_files_that_are_read_are_fetched(snapshot, monkeypatch):
    asked = {}
    write_pictures(snapshot / "train", 1)

    def record(name, **options):
        asked.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    fetch_pictures("hub:someone/dog/train")
    assert (asked["name"], asked["repo_type"], asked["ignore_patterns"]) == ("someone/dog", "dataset", ["train/*/*"])
    wanted = {"train/*.jpg", "train/*.JPG", "train/*.heic", "train/*.txt", "train/metadata.jsonl"}
    assert wanted < set(asked["allow_patterns"])
    assert not any(pattern.endswith((".py", ".parquet", "*")) for pattern in asked["allow_patterns"])


def test_a_dataset_that_cannot_be_fetched_is_named(snapshot):
    with pytest.raises(UserError, match="cannot fetch the dataset someone/cat from the .* hub: no network, or"):
        fetch_pictures("hub:someone/cat")


def test_a_private_dataset_and_a_revision_are_fetched_with_a_token(hub, tmp_path, monkeypatch):
    picture = (write_pictures(tmp_path, 1) / "0.png").read_bytes()
    files = {
        "train/0.png": picture,
        "train/0.txt": b"a dog",
        "train/x.py": b"",
        "train/deep/1.png": picture,
        "a.bin": b"",
    }
    repository = hub.put("someone/dog", files, kind="datasets", private=True)
    repository.tags["v1"] = repository.commits[0].sha
    repository.add({}, "emptied")
    with pytest.raises(UserError, match="no such public dataset; for a private one log in with `hf auth login`"):
        fetch_pictures("hub:someone/dog@v1/train")
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    assert {path.name for path in fetch_pictures("hub:someone/dog@v1/train").iterdir()} == {"0.png", "0.txt"}
    with pytest.raises(UserError, match="there is no dataset someone/dog at revision 'v2'"):
        fetch_pictures("hub:someone/dog@v2/train")


@pytest.mark.parametrize("name", ["hub:", "hub:dog", "hub:someone/dog/../../secrets", "hub:a b/c", "hub:/someone/dog"])
def test_malformed_names_are_refused(name):
    with pytest.raises(UserError, match=r"must be like hub:owner/dataset, or hub:owner/dataset/folder"):
        fetch_pictures(name)
