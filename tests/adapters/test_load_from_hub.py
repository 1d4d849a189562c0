"""`Adapter.load` from folders, and from a stand-in of the hub. There is no network in tests."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from merge_builders import make_adapter, same_bits

from blocklora_jax import Adapter, UserError

FILE = "adapter.safetensors"


def content(tmp_path: Path, name: str = "ada", **settings) -> bytes:
    make_adapter(name, **settings).save(tmp_path / "made.safetensors")
    return (tmp_path / "made.safetensors").read_bytes()


def downloads(hub) -> list[str]:
    return [
        request.rpartition("/")[2] for request in hub.requests if request.startswith("GET") and "resolve" in request
    ]


def test_an_adapter_of_the_hub_has_the_bits_of_its_file(hub, tmp_path):
    hub.put("someone/ada", {"README.md": b"", FILE: content(tmp_path), "old.bin": b"", "run.py": b""})
    loaded, made = Adapter.load("someone/ada"), make_adapter("ada")
    assert loaded.info == made.info
    assert jax.tree.all(jax.tree.map(same_bits, loaded.lora, made.lora))
    assert downloads(hub) == [FILE]


def test_files_revisions_and_subfolders_can_be_named(hub, tmp_path):
    files = {name: content(tmp_path, name) for name in ("ada", "bob", "rex")}
    repository = hub.put("someone/many", {FILE: files["ada"], "b/one.safetensors": files["bob"], "x.safetensors": b""})
    repository.tags["v1"] = repository.commits[0].sha
    repository.add({FILE: files["rex"]}, "only rex")
    assert Adapter.load("hub:someone/many").name == "rex"
    assert Adapter.load("someone/many", revision="v1").name == "ada"
    assert Adapter.load("hub:someone/many@v1").name == "ada"
    assert Adapter.load("someone/many", revision="v1", subfolder="b").name == "bob"
    assert Adapter.load("someone/many", revision="v1", filename="b/one.safetensors").name == "bob"
    assert Adapter.load(Path("hub:someone/many@v1/b/one.safetensors")).name == "bob"
    with pytest.raises(UserError, match="there is no 'someone/many' at revision 'v2' on the Hugging Face hub"):
        Adapter.load("someone/many", revision="v2")
    with pytest.raises(UserError, match="someone/many has no file two.safetensors; it has adapter.safetensors"):
        Adapter.load("hub:someone/many/two.safetensors")
    with pytest.raises(UserError, match="name two revisions"):
        Adapter.load("hub:someone/many@v1", revision="v2")


def test_the_cache_is_used_without_network(hub, tmp_path, monkeypatch):
    hub.put("someone/ada", {FILE: content(tmp_path), "README.md": b""})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hub:someone/ada is not in the .* cache and cannot be fetched .no network, or"):
        Adapter.load("hub:someone/ada")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    first = Adapter.load("hub:someone/ada")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Adapter.load("someone/ada").info == Adapter.load(f"hub:someone/ada/{FILE}").info == first.info
    with pytest.raises(
        UserError, match="'someone/bob' is not a file or folder here, and hub:someone/bob is not in the"
    ):
        Adapter.load("someone/bob")


def test_a_hub_that_is_out_of_order_is_like_no_network(hub, tmp_path):
    hub.put("someone/ada", {FILE: content(tmp_path)})
    Adapter.load("someone/ada")
    hub.is_down = True
    assert Adapter.load("someone/ada").name == "ada"
    with pytest.raises(UserError, match="cannot fetch .someone/bob. from the Hugging Face hub: .*503"):
        Adapter.load("hub:someone/bob")


def test_private_repositories_need_a_token(hub, tmp_path, monkeypatch):
    hub.put("someone/ada", {FILE: content(tmp_path)}, private=True)
    message = "there is no repository 'someone/ada' on the .* hub, or it is private: then log in with `hf auth login`"
    with pytest.raises(UserError, match=message):
        Adapter.load("hub:someone/ada")
    with pytest.raises(UserError, match=message):
        Adapter.load("hub:someone/ada", token="hf_other")
    with pytest.raises(UserError, match="it does not accept the token: log in"):
        Adapter.load("hub:someone/ada", token="nonsense")
    assert Adapter.load("hub:someone/ada", token="hf_someone").name == "ada"
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    assert Adapter.load("someone/ada").name == "ada"


def test_what_is_here_wins_and_neither_is_named_in_both_readings(hub, tmp_path, monkeypatch):
    hub.put("runs/ada", {FILE: content(tmp_path, "hubs")})
    monkeypatch.chdir(tmp_path)
    assert Adapter.load("runs/ada").name == "hubs"
    make_adapter("ours").save(tmp_path / "runs" / "ada" / FILE)
    assert Adapter.load("runs/ada").name == Adapter.load(Path("runs/ada")).name == "ours"
    assert Adapter.load("hub:runs/ada").name == "hubs"
    message = "'runs/bob' is not a file or folder here, and there is no repository 'runs/bob' on the Hugging Face hub"
    with pytest.raises(UserError, match=message):
        Adapter.load("runs/bob")
    asked = len(hub.requests)
    with pytest.raises(UserError, match="there is no file or folder runs/bob; .* is written as hub:runs/bob"):
        Adapter.load(Path("runs/bob"))
    with pytest.raises(UserError, match="there is no adapter file runs/bob.safetensors"):
        Adapter.load("runs/bob.safetensors")
    assert len(hub.requests) == asked, "a mistyped path is not sent to the hub"
    with pytest.raises(UserError, match="only for repositories of the hub"):
        Adapter.load("runs/ada", revision="v1")


def test_a_repository_without_one_adapter_says_what_is_in_it(hub, tmp_path):
    hub.put("a/none", {"README.md": b""})
    hub.put("a/pickle", {"pytorch_lora_weights.bin": pickle.dumps({})})
    hub.put("a/two", {"x.safetensors": b"", "y.safetensors": b"", "x.ada.safetensors": b""})
    hub.put("a/deep", {"v1/x.safetensors": b""})
    hub.put("a/model", {"model_index.json": b"", "unet/diffusion_pytorch_model.safetensors": b""})
    for name, message in {
        "none": "there is no adapter file in hub:a/none",
        "pickle": "only pytorch_lora_weights.bin. Such files can run code and are not read",
        "two": r"several adapters \(x.safetensors, y.safetensors\): name one of them, as in hub:a/two/x.safetensors",
        "deep": r"only in folders \(v1/x.safetensors\): name one, as in hub:a/deep/v1/x.safetensors",
        "model": "hub:a/model is a whole model, not an adapter: name it as the base, with --model",
    }.items():
        with pytest.raises(UserError, match=message):
            Adapter.load(f"hub:a/{name}")
    assert downloads(hub) == []


def test_a_hostile_file_is_named_by_its_address(hub):
    hub.put("a/pickle", {FILE: pickle.dumps(os.getcwd)})
    with pytest.raises(UserError, match="^hub:a/pickle/adapter.safetensors is .*pickle"):
        Adapter.load("hub:a/pickle")
    hub.put("a/pickle", {"x.pkl": pickle.dumps(os.getcwd)})
    with pytest.raises(
        UserError, match="x.pkl is not fetched: of other people.s files only .safetensors, .json, .md, .png"
    ):
        Adapter.load("hub:a/pickle/x.pkl")


def test_files_larger_than_any_adapter_and_unsafe_names_are_not_fetched(hub, monkeypatch):
    import blocklora_jax.hub.files as files

    hub.put("a/big", {FILE: b"123456"})
    monkeypatch.setattr(files, "LARGEST", 5)
    with pytest.raises(UserError, match="more than any adapter: it was not fetched"):
        Adapter.load("hub:a/big")
    for name in ("..\\x.safetensors", "con.safetensors", ".x.safetensors"):
        hub.put("a/named", {name: b""})
        with pytest.raises(UserError, match="cannot be the name of a file"):
            Adapter.load("hub:a/named")
    assert downloads(hub) == []


def test_the_scale_of_peft_comes_with_its_adapter(hub, tmp_path):
    import json

    from safetensors.numpy import save

    name = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    ones = {
        f"{name}.lora_A.weight": np.ones((2, 768), np.float32),
        f"{name}.lora_B.weight": np.ones((320, 2), np.float32),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    hub.put(
        "someone/style", {"adapter_model.safetensors": save(ones), "adapter_config.json": json.dumps(config).encode()}
    )
    adapter = Adapter.load("someone/style")
    assert adapter.name == "style", "named after the repository, as the file has a name that all such files have"
    (pair,) = adapter.lora["unet"].values()
    assert float(pair.lora_A[0, 0]) == 3.0  # alpha / rank, exactly
