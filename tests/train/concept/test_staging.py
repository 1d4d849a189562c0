"""Runs whose pictures, model and run folder are in an object store: files as on a disk, and resumed exactly."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest
import yaml
from concept_builders import as_flags, settings, write_pictures

import train.concept.run
import train.concepts
from blocklora_jax.errors import UserError
from blocklora_jax.storage.copies import SETTING
from blocklora_jax.storage.lease import take_lease
from blocklora_jax.storage.objects import ObjectFolder, list_files
from blocklora_jax.testing.random_adapter import random_adapter
from train.concept.config import ConceptConfig
from train.concept.staging import staged_output


@pytest.fixture
def store(tmp_path, monkeypatch, tiny_folder):
    """A store in memory with a model and pictures."""
    monkeypatch.setenv(SETTING, str(tmp_path / "staging"))
    url = f"memory://bucket/{uuid.uuid4().hex}"
    folder = ObjectFolder(url)
    write_pictures(tmp_path / "pictures")
    for root, name in ((tmp_path / "pictures", "pictures"), (Path(tiny_folder), "model")):
        for path in root.rglob("*"):
            if path.is_file():
                folder.write(f"{name}/{path.relative_to(root).as_posix()}", path.read_bytes())
    return folder


def train_one(store: ObjectFolder, **changes) -> None:
    values = {"cpu": True, "previews": False, "images": Path(f"{store.url}/pictures"), "model": f"{store.url}/model"}
    config = ConceptConfig.from_settings(**settings(**values | {"out": Path(f"{store.url}/run")} | changes))
    train.concept.run.train_and_report(config)


def test_a_run_in_a_store_gives_the_files_of_a_run_on_a_disk(store, tiny_folder, tmp_path, capsys):
    train_one(store)
    assert f"{store.url}/run/adapter.safetensors (" in capsys.readouterr().out
    disk = {"images": tmp_path / "pictures", "model": str(tiny_folder), "out": tmp_path / "disk"}
    train_one(store, **disk)
    adapter = (tmp_path / "disk" / "adapter.safetensors").read_bytes()
    assert store.read("run/adapter.safetensors") == adapter
    recorded = json.loads(store.read("run/config.json"))
    assert (recorded["images"], recorded["model"]) == (f"{store.url}/pictures", f"{store.url}/model")
    names = {name for name in list_files(ObjectFolder(f"{store.url}/run")) if not name.startswith(".writer")}
    assert {name.split("/")[0] for name in names} == {
        "adapter.safetensors", "checkpoints", "config.json", "contact_sheet.png", "metrics.jsonl", "report.html",
    }  # fmt: skip
    # Resumed on a machine that has nothing of it, from an earlier checkpoint.
    for name in [*names]:
        if name == "adapter.safetensors" or name.startswith("checkpoints/4/"):
            store.remove(f"run/{name}")
    shutil.rmtree(tmp_path / "staging")
    train_one(store, resume=True)
    assert store.read("run/adapter.safetensors") == adapter


def test_a_run_that_exists_is_refused_with_its_address(store):
    store.write("run/config.json", b"{}")
    with pytest.raises(UserError, match=f"{store.url}/run already holds a run: continue it with --resume"):
        train_one(store)


def test_only_one_process_writes_a_run_folder(store):
    lease = take_lease(ObjectFolder(f"{store.url}/run"), ".writer", 300.0)
    with pytest.raises(UserError, match="another process writes"):
        train_one(store)
    lease.release()


def test_what_a_stopped_run_had_saved_is_uploaded(store):
    with pytest.raises(KeyboardInterrupt), staged_output(Path(f"{store.url}/stopped")) as out:
        (out / "checkpoints" / "2").mkdir(parents=True)
        (out / "checkpoints" / "2" / "state").write_text("saved")
        raise KeyboardInterrupt
    assert store.read("stopped/checkpoints/2/state") == b"saved"


def test_shares_in_a_store_give_the_adapters_of_one_machine(store, tiny_folder, tmp_path, capsys):
    entries = {n: {"images": f"{store.url}/pictures", "class_noun": "man", "seed": i} for i, n in enumerate("abc")}
    (tmp_path / "concepts.yaml").write_text(yaml.safe_dump(entries))
    own = ("images", "token", "class_noun", "out", "slot")
    values = settings(model=f"{store.url}/model", cpu=True, previews=False)
    flags = as_flags({k: v for k, v in values.items() if k not in own})
    common = ["--concepts", str(tmp_path / "concepts.yaml"), *flags, "--at-once", "1"]
    train.concepts.main([*common, "--out", f"{store.url}/shared", "--shard", "1/2"])
    # Of the other machine, which has nothing on its disk, one adapter is lost, and one group was begun.
    shutil.rmtree(tmp_path / "staging")
    store.remove("shared/b/adapter.safetensors")
    capsys.readouterr()
    train.concepts.main([*common, "--out", f"{store.url}/shared", "--shard", "0/2"])
    assert "1 groups trained, 2 were finished" in capsys.readouterr().err
    train.concepts.main([*common, "--out", str(tmp_path / "alone")])
    for name in entries:
        alone = (tmp_path / "alone" / name / "adapter.safetensors").read_bytes()
        assert store.read(f"shared/{name}/adapter.safetensors") == alone


def test_a_list_and_negative_tokens_in_a_store_give_the_adapters_of_a_disk(store, tiny_sd, tmp_path, capsys):
    other = random_adapter("other", tiny_sd.params, slots=(0,), layers="cross_kv")
    other.save(tmp_path / "other.safetensors")
    store.write("other.safetensors", (tmp_path / "other.safetensors").read_bytes())
    # A folder beside the list.
    listing = yaml.safe_dump({"ada": {"images": "pictures", "class_noun": "man"}}).encode()
    store.write("list.yaml", listing)
    (tmp_path / "list.yaml").write_bytes(listing)
    own = ("images", "token", "class_noun", "out", "slot", "model")
    flags = as_flags({k: v for k, v in settings(cpu=True, previews=False).items() if k not in own})
    for root, model, out in ((store, f"{store}/model", f"{store}/many"), (tmp_path, tiny_sd.checkpoint.source, None)):
        train.concepts.main([
            "--concepts", f"{root}/list.yaml", "--negative-tokens", f"{root}/other.safetensors", "--model", str(model),
            "--out", out or str(tmp_path / "many"), *flags,
        ])  # fmt: skip
    adapter = (tmp_path / "many" / "ada" / "adapter.safetensors").read_bytes()
    assert store.read("many/ada/adapter.safetensors") == adapter
    assert f"{store}/many/ada/adapter.safetensors (<ada> man)" in capsys.readouterr().out
    recorded = json.loads(store.read("many/ada/config.json"))
    assert recorded.pop("out")
    assert recorded["images"] == f"{store}/pictures"
    assert f"{store}/other.safetensors" in json.dumps(recorded)
    assert str(tmp_path) not in json.dumps(recorded)


def test_what_is_wrong_with_a_list_in_a_store_names_its_address(store):
    store.write("list.yaml", b"ada: 3")
    for name, message in (("list.yaml", "must be a mapping of settings"), ("none.yaml", "there is no file or folder")):
        with pytest.raises(UserError, match=message) as error:
            train.concepts.main(["--concepts", f"{store}/{name}", "--out", f"{store}/many"])
        assert f"{store}/{name}" in str(error.value)
