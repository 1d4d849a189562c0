"""A run is resumed only with the base, the pictures, the captions and the negative tokens that it began with."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from concept_builders import make_config, write_pictures
from PIL import Image

import train.concept.batch_training
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params
from train.app.unfinished import read_run
from train.concept.input_record import KEY, check_same_inputs, input_record
from train.concept.run import train_on_base


@pytest.fixture
def config(tiny_folder, tmp_path):
    """Of a run that reads files of every sort."""
    pictures = write_pictures(tmp_path / "pictures", 2)
    (pictures / "0.txt").write_text("a photo of <ada> man")
    Image.new("L", (20, 16), 255).save(pictures / "1.mask.png")
    (pictures / "notes.md").write_text("mine")
    random_adapter("bob", tiny_params(), slots=(0,)).save(tmp_path / "bob" / "adapter.safetensors")
    return make_config(
        images=pictures, model=str(tiny_folder), out=tmp_path / "run", negative_tokens=(str(tmp_path / "bob"),),
        other_images=write_pictures(tmp_path / "others", 1), class_images=write_pictures(tmp_path / "class", 1),
    )  # fmt: skip


def begin(config, sd):
    """Write what a run writes before its first step; the settings of the run that goes on."""
    config.out.mkdir()
    record = config.to_json() | {KEY: input_record(config, sd)}
    (config.out / "config.json").write_text(json.dumps(record, default=str))
    return config.with_settings(resume=True)


def check(config, sd) -> None:
    check_same_inputs([config], [input_record(config, sd)])


def write_caption(folder):
    (folder / "pictures" / "0.txt").write_text("a drawing of <ada> man")


def write_metadata(folder):
    (folder / "pictures" / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "<ada> man"}\n')


CHANGES = {
    "another picture": ("--images", lambda folder: shutil.copy(folder / "pictures/0.png", folder / "pictures/1.png")),
    "one more": ("--images", lambda folder: shutil.copy(folder / "pictures/0.png", folder / "pictures/2.png")),
    "one less": ("--images", lambda folder: (folder / "pictures/0.png").unlink()),
    "another name": ("--images", lambda folder: (folder / "pictures/0.png").rename(folder / "pictures/9.png")),
    "no mask": ("--images", lambda folder: (folder / "pictures/1.mask.png").unlink()),
    "a caption": ("--images", write_caption),
    "captions of a dataset": ("--images", write_metadata),
    "other pictures": ("--other-images", lambda folder: write_pictures(folder / "others", 2)),
    "pictures of the class": ("--class-images", lambda folder: write_pictures(folder / "class", 2)),
    "tokens": (
        "--negative-tokens",
        lambda folder: random_adapter("cy", tiny_params(), slots=(0,)).save(folder / "bob" / "adapter.safetensors"),
    ),
}


@pytest.mark.parametrize(("flag", "change"), CHANGES.values(), ids=CHANGES)
def test_a_run_is_not_resumed_with_other_files(flag, change, config, tiny_sd, tmp_path):
    resumed = begin(config, tiny_sd)
    check(resumed, tiny_sd)
    change(tmp_path)
    with pytest.raises(UserError, match=rf"cannot resume \S+run: the \D+ in {flag} \S+ are not those that") as told:
        check(resumed, tiny_sd)
    assert "\n" not in str(told.value)


def test_a_run_is_not_resumed_on_another_base(config, tiny_sd):
    resumed = begin(config, tiny_sd)
    checkpoint = dataclasses.replace(tiny_sd.checkpoint, params=tiny_params(levels=1))
    with pytest.raises(UserError, match=r"the weights of --model \S+ are not those that the run began with: put"):
        check(resumed, dataclasses.replace(tiny_sd, checkpoint=checkpoint))


def test_files_that_training_does_not_read_may_change(config, tiny_sd, tmp_path, recwarn):
    resumed = begin(config, tiny_sd)
    (tmp_path / "pictures" / "notes.md").write_text("other")
    (tmp_path / "pictures" / "lone.txt").write_text("a caption without a picture")
    (tmp_path / "others" / "0.txt").write_text("captions of other pictures are not read")
    check(resumed, tiny_sd)
    assert not recwarn.list


def test_pictures_of_the_class_that_the_base_makes_may_be_missing(config, tiny_sd, tmp_path):
    made = tmp_path / "made"
    resumed = begin(config.with_settings(class_images=made), tiny_sd)
    assert not made.exists()
    write_pictures(made, 1)
    (made / "0.png").rename(made / "class_0000.png")
    check(resumed, tiny_sd)
    write_pictures(made, 1)
    with pytest.raises(UserError, match="the pictures in --class-images"):
        check(resumed, tiny_sd)


def test_runs_of_older_versions_go_on_and_then_have_a_record(config, tiny_sd, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.concept.batch_training, "run_loop", interrupt)
    config = config.with_settings(class_images=None, erase="none", negative_tokens=None)
    resumed, path = begin(config, tiny_sd), config.out / "config.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in before.items() if key != KEY}))
    with pytest.raises(KeyboardInterrupt):
        train_on_base(resumed, lambda: tiny_sd)
    assert json.loads(path.read_text())[KEY] == before[KEY]
    assert read_run(config.out).images == config.images
    write_caption(tmp_path)
    with pytest.raises(UserError, match="the pictures, captions or masks in --images"):
        train_on_base(resumed, lambda: tiny_sd)
