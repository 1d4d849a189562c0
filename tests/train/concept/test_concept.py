"""`python -m train.concept` from end to end on the tiny model, within this process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from concept_builders import as_flags, settings, write_pictures
from PIL import Image

import merge
import train.concept.prepare
import train.concept.run
from blocklora_jax import Adapter
from blocklora_jax.adapters.file import read_header
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.runner import run
from blocklora_jax.registry.claims import Entry, Registry
from blocklora_jax.registry.store import create_registry
from train.concept.__main__ import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def teach(tiny_folder, pictures, monkeypatch, capsys):
    """`teach(out, *flags, **settings)` runs the command line; returns its exit code and what it wrote to stderr."""

    def teach(out: Path, *flags: str, **changes) -> tuple[int, str]:
        values = settings(**{"out": out, "images": pictures, "model": tiny_folder, "cpu": True, **changes})
        monkeypatch.setattr(sys, "argv", ["train.concept", *as_flags(values), *flags])
        code = 0
        try:
            run(main)
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return teach


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "whole"


@pytest.fixture
def whole(teach, finished):
    """The folder of a finished run."""
    if not finished.exists():
        code, errors = teach(finished, preview_every=3)
        assert code == 0, errors
        assert "<ada>: 3 pictures\n" in errors
    return finished


def test_a_run_writes_adapter_settings_metrics_previews_and_checkpoints(whole):
    assert {path.name for path in whole.iterdir()} == {
        "adapter.safetensors",
        "config.json",
        "contact_sheet.png",
        "report.html",
        "metrics.jsonl",
        "previews",
        "checkpoints",
    }
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    fields = {"step", "loss", "diffusion_loss", "erase_loss", "gradient_norm", "steps_per_second"}
    assert all(set(line) == fields and np.isfinite(list(line.values())).all() for line in lines)
    assert sorted(path.name for path in (whole / "previews").iterdir()) == ["000003.png", "000004.png"]
    with Image.open(whole / "previews" / "000004.png") as grid:
        assert grid.width >= 256
    with Image.open(whole / "contact_sheet.png") as sheet:
        assert sheet.width > 3 * 240
    assert json.loads((whole / "config.json").read_text())["token"] == "<ada>"


def test_the_adapters_header_has_what_a_merge_needs(whole, tiny_sd, tiny_folder):
    header = read_header(whole / "adapter.safetensors")
    expected = {
        "name": "ada", "class_noun": "man", "trigger": "<ada> man", "kind": "object", "rank": 2, "alpha": 2.0,
        "slots": [1],
        "partition": {"num_blocks": 4, "axis": "in", "seed": 0}, "tokens": {"<ada>": 2}, "base_name": tiny_folder.name,
        "base_digest": params_digest(tiny_sd.params),
    }  # fmt: skip
    assert {name: header[name] for name in expected} == expected
    assert header["training"]["steps"] == 4
    assert set(header["shapes"]) == {"unet"}


def test_the_adapter_was_changed_by_training_and_can_be_merged(whole, tiny_sd):
    adapter = Adapter.load(whole / "adapter.safetensors")
    assert all(np.any(pair.lora_B) for pair in adapter.lora["unet"].values())
    assert adapter.tokens["<ada>"].shape == (2, 32)
    params = merge.compose(tiny_sd.params, [adapter])
    images = tiny_sd.generate(["a photo of <ada> man"], params=params, adapters=[adapter], steps=2)
    assert images.shape == (1, 16, 16, 3)


def test_an_interrupted_run_resumes_bit_for_bit(whole, teach, tmp_path, monkeypatch):
    make_batches = train.concept.prepare.make_batches

    def stopping(*data_and_settings):
        batch_at = make_batches(*data_and_settings)

        def stop_at_third(step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return batch_at(step)

        return stop_at_third

    out = tmp_path / "parts"
    monkeypatch.setattr(train.concept.prepare, "make_batches", stopping)
    code, _ = teach(out, preview_every=3)
    assert code == 143
    assert not (out / "adapter.safetensors").exists()
    monkeypatch.setattr(train.concept.prepare, "make_batches", make_batches)
    code, errors = teach(out, preview_every=3, resume=True)
    assert code == 0, errors
    one, other = (Adapter.load(folder / "adapter.safetensors") for folder in (whole, out))
    jax.tree.map(np.testing.assert_array_equal, one.lora, other.lora)
    jax.tree.map(np.testing.assert_array_equal, dict(one.tokens), dict(other.tokens))
    # The bytes of the files are equal too, because they do not say where or how the run was made.
    assert (whole / "adapter.safetensors").read_bytes() == (out / "adapter.safetensors").read_bytes()
    assert (whole / "previews/000004.png").read_bytes() == (out / "previews/000004.png").read_bytes()


def test_a_finished_run_is_not_overwritten(whole, teach):
    before = (whole / "adapter.safetensors").read_bytes()
    code, errors = teach(whole)
    assert (code, errors.count("\n")) == (2, 1)
    assert "already holds a run: continue it with --resume" in errors
    assert (whole / "adapter.safetensors").read_bytes() == before


def test_a_run_is_resumed_only_with_its_own_settings(whole, teach):
    code, errors = teach(whole, resume=True, seed=5, rank=3)
    assert (code, errors.count("\n")) == (2, 1)
    assert "rank was 2, now 3; seed was 0, now 5" in errors


def test_a_registry_gives_the_slot_and_a_moved_claim_is_noticed(whole, teach, tiny_sd, tmp_path):
    registry = Registry(partition=Partition(num_blocks=4), base_name="tiny", base_digest=params_digest(tiny_sd.params))
    for slot, name in enumerate(("right", "moved"), start=1):
        claim = Entry(name="ada", token="<ada>", slots=(slot,))
        create_registry(tmp_path / f"{name}.json", registry.claim(claim))
    changes = {"slot": None, "preview_every": 3, "resume": True}
    code, errors = teach(whole, registry=tmp_path / "right.json", **changes)
    assert code == 0, errors
    code, errors = teach(whole, registry=tmp_path / "moved.json", **changes)
    assert (code, errors.count("\n")) == (2, 1)
    assert "slot was [1], now [2]" in errors


def test_sdxl_is_taught_with_both_text_encoders(tiny_xl, teach, tmp_path):
    changes = {"layers": "cross_kv+text_encoder", "steps": 2, "save_every": 9, "previews": False}
    changes["model"] = tiny_xl.checkpoint.name
    code, errors = teach(tmp_path / "run", **changes)
    assert code == 0, errors
    adapter = Adapter.load(tmp_path / "run" / "adapter.safetensors")
    assert set(adapter.lora) == {"unet", "text_encoder", "text_encoder_2"}
    assert all(any(np.any(pair.lora_B) for pair in layers.values()) for layers in adapter.lora.values())
    assert (adapter.tokens["<ada>"].shape, adapter.tokens_2["<ada>"].shape) == ((2, 32), (2, 24))
    assert adapter.info.base_family == "sdxl"
    params = merge.compose(tiny_xl.params, [adapter])
    images = tiny_xl.generate(["<ada> man"], params=params, adapters=[adapter], steps=1, sampler="ddim")
    assert images.shape == (1, 16, 16, 3)


def nothing(folder: Path) -> None:
    """No damage."""


BAD_INPUT = {
    "no such pictures": (nothing, {"images": Path("nowhere")}, "there is no folder of pictures nowhere"),
    "no pictures in it": (lambda f: [p.unlink() for p in f.iterdir()], {}, "has no pictures"),
    "corrupt pictures": (
        lambda f: [p.write_bytes(b"x") for p in f.iterdir()],
        {},
        "no picture can be read (0.png: dam",
    ),
    "corrupt mask": (lambda f: (f / "1.mask.png").write_bytes(b"x"), {}, "cannot read 1.mask.png"),
    "caption without token": (lambda f: (f / "1.txt").write_text("a man"), {}, "lacks the token <ada>"),
    "caption too long": (lambda f: (f / "1.txt").write_text("<ada> " + "dog " * 30), {}, "too long by"),
    "black mask": (lambda f: Image.new("L", (20, 16)).save(f / "0.mask.png"), {}, "black all over"),
    "token without brackets": (nothing, {"token": "ada"}, "--token 'ada' must look like"),
    "reserved token": (nothing, {"token": "<negative>", "preview_prompts": ("a man",)}, "choose another name"),
    "no such model": (nothing, {"model": "nowhere/model"}, "nowhere/model"),
    "folder without a model": (nothing, {"model": Path(__file__).parent}, "model_index.json"),
    "unknown layers": (nothing, {"layers": "brain"}, "unknown layer set 'brain'"),
    "slot past the blocks": (nothing, {"slot": (4,)}, "from 0 to 3"),
    "more blocks than features": (nothing, {"blocks": 64}, "fewer than num_blocks=64"),
    "odd resolution": (nothing, {"resolution": 15}, "multiple of 2"),
    "preview too long": (nothing, {"preview_prompts": ("dog " * 30,)}, "too long by"),
    "rank 0": (nothing, {"rank": 0}, "--rank must be at least 1"),
    "share above 1": (nothing, {"random_shares.negative": 2}, "negative=2.0 must lie in 0..1"),
    "nothing to resume": (nothing, {"resume": True}, "no run to resume"),
    "two platforms": (nothing, {"tpu": True}, "choose one of --tpu, --gpu and --cpu"),
    "missing registry": (nothing, {"registry": "nothing.json"}, "there is no registry nothing.json"),
    "missing config file": (nothing, {"config": "nothing.yaml"}, "cannot read nothing.yaml"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing(case, teach, tmp_path):
    damage, changes, message = BAD_INPUT[case]
    folder = write_pictures(tmp_path / "pictures")
    damage(folder)
    code, errors = teach(tmp_path / "run", **{"images": folder, **changes})
    assert code == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_unwritable_run_folder_is_one_line(teach, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, errors = teach(tmp_path / "file" / "run")
    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot write" in errors


def test_a_diverging_run_is_an_error(teach, tmp_path, monkeypatch):
    make_batches = train.concept.prepare.make_batches

    def spoilt(*data_and_settings):
        batch_at = make_batches(*data_and_settings)
        return lambda step: batch_at(step)._replace(latents=batch_at(step).latents * np.float32("nan"))

    monkeypatch.setattr(train.concept.prepare, "make_batches", spoilt)
    code, errors = teach(tmp_path / "run")
    assert code == 2
    assert "became NaN or infinite by step" in errors.splitlines()[-1]


@pytest.mark.parametrize("flag", ["tpu", "gpu"])
def test_a_missing_platform_is_one_line(flag, tmp_path):
    import subprocess

    # In a separate process, because the platform is chosen before JAX starts.
    values = settings(out=tmp_path / "run", images=tmp_path, **{flag: True})
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "train.concept", *as_flags(values)]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"error: JAX finds no {flag.upper()} here" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_text_encoders_stay_on_the_host_if_all_text_is_encoded_before(teach, tmp_path, monkeypatch):
    changes = {"token_vectors": 0, "steps": 2, "preview_every": 2, "preview_prompts": ("a photo of a man",)}
    loaded = []
    load = train.concept.run.load_base
    monkeypatch.setattr(train.concept.run, "load_base", lambda *args: loaded.append(load(*args)) or loaded[-1])
    assert teach(tmp_path / "host", **changes)[0] == 0
    monkeypatch.setattr("train.concept.config.ConceptConfig.parts_on_host", ("vae",))
    assert teach(tmp_path / "device", **changes)[0] == 0
    kinds = [{part: type(jax.tree.leaves(tree)[0]) for part, tree in sd.params.items()} for sd in loaded]
    assert kinds[0]["text_encoder"] is kinds[0]["vae"] is np.ndarray
    assert issubclass(kinds[0]["unet"], jax.Array) and issubclass(kinds[1]["text_encoder"], jax.Array)
    for name in ("adapter.safetensors", "previews/000002.png"):
        assert (tmp_path / "host" / name).read_bytes() == (tmp_path / "device" / name).read_bytes()
