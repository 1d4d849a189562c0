"""Commands that read adapters from a stand-in of the hub, and push to it. There is no network in tests."""

from __future__ import annotations

import shlex
import sys

import numpy as np
import pytest
from merge_builders import make_adapter, same_bits
from safetensors.numpy import save_file

from blocklora_jax import Adapter, UserError
from blocklora_jax.adapters.file import read_adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.sharing.command import push_result
from blocklora_jax.adapters.sharing.options import PushFlags
from blocklora_jax.command_line.runner import run
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from train.blocklora import main as blocklora

FILE = "adapter.safetensors"
SHAPES = (2, 640), (640, 2)


@pytest.fixture
def shared(hub, tiny_sd, tmp_path):
    """`someone/ada` and `someone/bob` on the hub, adapters of the tiny model; gives their files."""
    files = {}
    for slot, name in enumerate(("ada", "bob")):
        random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv").save(tmp_path / name / FILE)
        files[name] = tmp_path / name / FILE
        hub.put(f"someone/{name}", {FILE: files[name].read_bytes(), "README.md": b""})
    return files


def fails(capsys, *args: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(args))
    captured = capsys.readouterr()
    assert stop.value.code == code, captured
    return captured.err + captured.out


def bits(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_a_merge_of_addresses_is_that_of_their_files(shared, tiny_folder, tmp_path):
    common = ("--model", str(tiny_folder), "--save")
    main(["hub:someone/ada", f"hub:someone/bob/{FILE}", *common, str(tmp_path / "hub")])
    main([str(shared["ada"].parent), str(shared["bob"]), *common, str(tmp_path / "here")])
    assert bits(tmp_path / "hub") == bits(tmp_path / "here")
    main(["replace", str(tmp_path / "hub"), "ada", "hub:someone/ada", "--out", str(tmp_path / "again")])
    assert bits(tmp_path / "again") == bits(tmp_path / "hub")


def test_pictures_are_drawn_with_files_of_this_machine(shared, tiny_folder, tmp_path, monkeypatch):
    import merge.cli.pictures

    drawn = []
    monkeypatch.setattr(merge.cli.pictures, "write_pictures", lambda *args: drawn.append(args[-1]))
    main(["hub:someone/ada", "--prompt", "<ada> man", "--model", str(tiny_folder), "--out", str(tmp_path / "x.png")])
    (path,) = drawn[0].files
    assert path.read_bytes() == shared["ada"].read_bytes(), "the PNG tells the digest of this file"


def test_every_verb_that_takes_adapters_takes_addresses(shared, tmp_path, capsys):
    main(["info", "hub:someone/ada", str(shared["bob"].parent)])
    shown = capsys.readouterr().out
    assert f"file:     hub:someone/ada/{FILE}, 0.0" in shown
    assert "concept:  bob" in shown
    main(["export", "hub:someone/ada", "hub:someone/bob", "--out", str(tmp_path / "both.safetensors")])
    main(["export", *map(str, shared.values()), "--out", str(tmp_path / "here" / "both.safetensors")])
    assert (tmp_path / "both.safetensors").read_bytes() == (tmp_path / "here" / "both.safetensors").read_bytes()
    main(["check", "hub:someone/ada", "hub:someone/bob", "--no-crosstalk"])
    assert "2 of 2 adapters read; no problems" in capsys.readouterr().out
    problem = fails(capsys, "check", "hub:someone/ada", "hub:someone/eve", "--no-crosstalk", code=1)
    assert "problem: there is no repository 'someone/eve' on the Hugging Face hub" in problem
    assert "has blocks" in fails(capsys, "convert", "hub:someone/ada", "--out", "x.safetensors", "--slot", "1")


def test_an_address_is_not_taken_for_a_command(capsys):
    assert "'hub:ada' must be like hub:owner/name" in fails(capsys, "hub:ada", "--save", "x")


def test_a_run_is_pushed_with_its_last_preview(hub, tmp_path, monkeypatch, capsys):
    from PIL import Image

    from blocklora_jax.io.picture_grid import png_bytes

    adapter = make_adapter("ada", (1,), Partition(num_blocks=4))
    adapter.save(tmp_path / "run" / FILE)
    (tmp_path / "run" / "previews").mkdir()
    for step, colour in ((4, "red"), (8, "blue")):
        picture = png_bytes(Image.new("RGB", (4, 4), colour))
        (tmp_path / "run" / "previews" / f"00000{step}.png").write_bytes(picture)
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    monkeypatch.setattr(sys, "argv", ["blocklora", "push", str(tmp_path / "run"), "someone/ada", "--license", "mit"])
    with pytest.warns(UserWarning, match="the card names no base model: 'small' is not known"):
        blocklora()
    captured = capsys.readouterr()
    assert f"pushed 'ada' to {hub.url}/someone/ada; load it as hub:someone/ada\n" in captured.out
    held = hub.repositories["models", "someone/ada"].files
    assert held["pictures/0.png"] == picture
    assert b"license: mit" in held["README.md"]
    pairs = Adapter.load("someone/ada").lora["unet"], read_adapter(tmp_path / "run" / FILE).lora["unet"]
    assert all(same_bits(pairs[0][layer].lora_A, pairs[1][layer].lora_A) for layer in pairs[1])
    error = fails(capsys, "push", str(shared_other(tmp_path)), "someone/ada")
    assert "holds another adapter, 'ada'" in error
    assert "--replace" in error


def shared_other(tmp_path):
    make_adapter("bob", (2,), Partition(num_blocks=4)).save(tmp_path / "bob.safetensors")
    return tmp_path / "bob.safetensors"


@pytest.mark.filterwarnings("ignore:the card names no base model")
def test_an_export_of_one_adapter_can_be_pushed(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    path, out = tmp_path / "ada.safetensors", tmp_path / "out" / "lora.safetensors"
    make_adapter("ada", (1,), Partition(num_blocks=4)).save(path)
    export = ("export", str(path), "--out", str(out), "--push", "someone/ada")
    for more in (("--weights", "0.5"), ("--max-rank", "1")):
        assert "--push pushes the adapter as it is: leave out --weights" in fails(capsys, *export, *more)
    several = ("export", str(path), str(shared_other(tmp_path)), *export[2:])
    assert "--push is for one adapter, and these are 2" in fails(capsys, *several)
    assert not out.exists()
    main([*export, "--layout", "kohya"])
    held = hub.repositories["models", "someone/ada"].files
    assert held["adapter.safetensors"] == path.read_bytes()
    assert held["pytorch_lora_weights.safetensors"] == out.read_bytes()


@pytest.mark.filterwarnings("ignore:the card names no base model")
def test_the_family_of_an_export_goes_with_its_push_and_is_checked_before(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    path, out = tmp_path / "my lora.safetensors", tmp_path / "out" / "lora.safetensors"
    # A layer that Stable Diffusion 1.x, 2.x and XL all have, with other names in the layout kohya.
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lora_{x}.weight": np.ones(s, np.float32) for x, s in zip("AB", SHAPES, strict=True)}, path)
    export = ("export", str(path), "--out", str(out), "--push", "someone/ada")
    assert "whether they are for sd1 or sd2 or sdxl" in fails(capsys, *export)
    assert not out.exists()
    main([*export, "--family", "sdxl"])
    lora = "pytorch_lora_weights.safetensors"
    first = hub.repositories["models", "someone/ada"].files[lora]
    hub.is_down = True
    flags = PushFlags(push="someone/bob", license="mit")
    with pytest.raises(UserError, match="--license mit --family sdxl` tries again") as error:
        push_result(flags, Adapter.load(path), path, family="sdxl")
    hub.is_down = False
    main(shlex.split(str(error.value).split("`")[-2])[3:])
    assert hub.repositories["models", "someone/bob"].files[lora] == first


def test_a_conversion_that_cannot_be_pushed_does_not_begin(hub, tmp_path, capsys):
    make_adapter("ada", partition=None).save(tmp_path / "ada.safetensors")
    out = tmp_path / "out.safetensors"
    args = ("convert", str(tmp_path / "ada.safetensors"), "--slot", "1", "--out", str(out))
    assert "needs a token that may write" in fails(capsys, *args, "--push", "someone/ada")
    assert "--private is for a repository on the hub: give --push" in fails(capsys, *args, "--private")
    assert not out.exists()
