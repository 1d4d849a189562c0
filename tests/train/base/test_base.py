"""A run that continues from the packaged model: what it changes, what it keeps, and which pictures it lists."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.errors import UserError
from train.base.config import BaseConfig, timed_config
from train.base.package import PREVIEW_PROMPTS
from train.base.pictures import PictureSet, draw_pictures, read_picture_sets
from train.base.run import run_stages, train_base
from train.base.used import keep_to_start


def test_a_run_continues_from_the_packaged_model(tmp_path, monkeypatch):
    # Of the preview: sixteen pictures in 25 guided steps would take most of the time.
    monkeypatch.setattr("train.base.package.PREVIEW_PROMPTS", PREVIEW_PROMPTS[:2])
    monkeypatch.setattr("train.base.package.PREVIEW_STEPS", 2)
    packaged = find_source("pocket", None).fetch([])
    config = BaseConfig(
        out=tmp_path, start="pocket", seed=5, pictures=12, several=1.0, unet_steps=1, unet_batch=4, judge_steps=0
    )
    model = train_base(config)
    own = PictureSet(5, 12, 1.0)
    assert read_picture_sets(model) == [*read_picture_sets(packaged), own]
    assert all(" and " in words for words in draw_pictures(tmp_path, own).captions)
    # With other pictures than those in the folder, the labels and latents would be wrong.
    with pytest.raises(
        UserError, match=r"holds the pictures of --seed 5 --pictures 12 --several 1.0: use the same settings"
    ):
        train_base(replace(config, several=0.5, resume=True))
    weights = lambda folder, part: load_file(next((folder / part).glob("*.safetensors")))
    for part in ("vae", "text_encoder", "judge"):
        before, after = weights(packaged, part), weights(model, part)
        assert all(np.array_equal(before[name], after[name]) for name in before), part
    with Image.open(tmp_path / "previews" / "000001.png") as grid:
        assert grid.width >= 2 * 3 * 64
    first, once = weights(packaged, "unet"), weights(model, "unet")
    assert first.keys() == once.keys() and any(not np.array_equal(first[name], once[name]) for name in first)


def test_a_share_must_lie_between_0_and_1():
    with pytest.raises(UserError, match=r"--several must be a share from 0 to 1, not 35"):
        BaseConfig(several=35)


@pytest.mark.parametrize("text", ["{", '[{"seed": 1}]', "7"])
def test_a_model_with_a_malformed_list_of_pictures_is_refused(text, tmp_path):
    assert read_picture_sets(tmp_path) == []
    (tmp_path / "pictures.json").write_text(text)
    with pytest.raises(UserError, match=r"pictures\.json is no list of seed, pictures, several"):
        read_picture_sets(tmp_path)


def test_a_wrong_model_is_refused_before_anything_is_drawn(tmp_path):
    model, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(find_source("pocket", None).fetch([]), model)
    (model / "pictures.json").write_text("{")
    with pytest.raises(UserError, match=r"pictures\.json is no list"):
        train_base(BaseConfig(out=out, start=str(model)))
    assert not out.exists()


def test_a_report_cannot_start_from_a_model():
    with pytest.raises(UserError, match=r"--report measures the model that --model names"):
        BaseConfig(report=True, start="pocket")


NEW, STARTED, TIMED = ("clip", "unet"), ("unet", "judge"), ("clip", "clock")


@pytest.mark.parametrize(
    ("stages", "changes", "words"),
    [
        (NEW, {"start": "pocket"}, "already holds a run: continue it with --resume"),
        (STARTED, {"start": "pocket"}, "already holds a run: continue it with --resume"),
        (NEW, {"start": "pocket", "only_judge": True}, "already holds a run"),
        (NEW, {"start": "pocket", "only_judge": True, "resume": True}, "holds a run without --start: choose another"),
        (NEW, {"start": "pocket", "resume": True}, "holds a run without --start: choose another --out"),
        (STARTED, {"resume": True}, "holds a run with --start: choose another --out"),
        (NEW, {"minutes": 1}, "already holds a run"),
        (NEW, {"minutes": 1, "resume": True}, "holds a run without --minutes: choose another --out"),
        (TIMED, {"resume": True}, "holds a run with --minutes: choose another --out"),
        (("model",), {"start": "pocket", "resume": True}, "is a model: choose another --out"),
    ],
)
def test_a_refused_run_changes_nothing_of_another(stages, changes, words, tmp_path):
    for path in (
        "tokenizer/vocab.json", "image_encoder/config.json", "judge/weights/config.json",
        *(f"{stage}/checkpoints/3/_CHECKPOINT_METADATA" for stage in stages if stage in ("clip", "unet", "judge")),
        *(["clock.json"] if "clock" in stages else []), *(["model_index.json"] if "model" in stages else []),
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    make = timed_config if "minutes" in changes else BaseConfig
    with pytest.raises(UserError, match=words):
        run_stages(make(out=tmp_path, pictures=2, **changes))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_is_not_continued_from_another_model(tmp_path):
    mine, other, out = (tmp_path / name for name in ("mine", "other", "run"))
    for folder, weights in ((mine, "1"), (other, "2")):
        (folder / "vae").mkdir(parents=True)
        (folder / "vae/diffusion_pytorch_model.safetensors").write_text(weights)
    keep_to_start(mine, out)
    keep_to_start(mine, out)
    before = (out / "start.json").read_bytes()
    with pytest.raises(UserError, match="began with other weights than those of .*other: start from the same"):
        keep_to_start(other, out)
    assert (out / "start.json").read_bytes() == before
