"""Groups of concepts record whom they train: a checkpoint never becomes the weights of another concept."""

from __future__ import annotations

import json

import pytest
from concept_builders import make_config, write_pictures

import train.concept.batch_training
from blocklora_jax.errors import UserError
from train.concept.group_record import FILE, check_same_groups
from train.concept.groups import train_concepts

SLOTS = {"ada": (0,), "bo": (1,), "cy": (2,), "dee": (3,)}


@pytest.fixture
def teach(tiny_folder, tmp_path, monkeypatch):
    """Trains concepts of these names in `tmp_path`, without any step: the first state is that of the checkpoint."""

    def end_at_once(config, run_dir, state, *args, **options):
        (run_dir / "checkpoints" / "2" / "default").mkdir(parents=True, exist_ok=True)
        return state

    monkeypatch.setattr(train.concept.batch_training, "run_loop", end_at_once)
    pictures = write_pictures(tmp_path / "pictures", 1)
    common = {
        "model": str(tiny_folder), "images": pictures, "previews": False, "report": False, "preview_prompts": (),
        "erase": "none",
    }  # fmt: skip

    def teach(names, at_once, own=None, **changes):
        """own: settings of some of the concepts, by name."""
        configs = [
            make_config(
                token=f"<{name}>", out=tmp_path / name, slot=SLOTS[name], **common | changes | (own or {}).get(name, {})
            )
            for name in names
        ]
        return train_concepts(configs, tmp_path / "groups", at_once, "cpu")

    return teach


def files_of(out) -> dict:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def concepts(group) -> list:
    return [tuple(each.values()) for each in json.loads((group / FILE).read_text())["concepts"]]


def test_a_group_is_not_continued_as_another_concept(teach, tmp_path):
    teach(["bo"], 1)
    assert concepts(tmp_path / "groups" / "000") == [("<bo>", "bo")]
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=r"groups/000 with other concepts: number 1 was <bo> in bo/, now <ada>") as told:
        teach(["ada", "bo"], 1, resume=True)
    assert "\n" not in str(told.value)
    assert files_of(tmp_path) == before
    # Those at the end of the list have a group of their own.
    teach(["bo", "cy"], 1, resume=True)
    assert all(path.read_bytes() == data for path, data in before.items() if path.name != "config.json")
    assert concepts(tmp_path / "groups" / "001") == [("<cy>", "cy")]


def test_a_group_keeps_its_concepts_and_their_order(teach, tmp_path):
    teach(["ada", "bo"], 2)
    before = files_of(tmp_path)
    for names, at_once, words in (
        (["ada", "dee"], 2, r"number 2 was <bo> in bo/, now <dee> in dee/: give the concepts that the run began with"),
        (["bo", "ada"], 2, "number 1 was <ada> in ada/, now <bo> in bo/; number 2 was <bo>"),
        (["ada", "bo", "cy"], 16, "number 3 was none, now <cy> in cy/"),
        (["ada", "bo"], 1, "number 2 was <bo> in bo/, now none: .* with the same --at-once"),
    ):
        with pytest.raises(UserError, match=words):
            teach(names, at_once, resume=True)
    assert files_of(tmp_path) == before


def checkpoint_of_an_older_version(group, *names) -> None:
    (group / "checkpoints" / "2" / "default").mkdir(parents=True)
    line = {"step": 2, "diffusion_loss": 1.0} | {f"diffusion_loss/{name}": 1.0 for name in names}
    (group / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_groups_of_older_versions_are_known_by_their_metrics(tmp_path):
    checkpoint_of_an_older_version(tmp_path, "ada", "bo")
    ada, bo, dee = (make_config(token=f"<{name}>", out=tmp_path / name) for name in ("ada", "bo", "dee"))
    check_same_groups({tmp_path: [ada, bo]})
    with pytest.raises(UserError, match="with other concepts: it began with ada, bo: give the concepts"):
        check_same_groups({tmp_path: [ada, dee]})
    checkpoint_of_an_older_version(tmp_path / "one")
    check_same_groups({tmp_path / "one": [dee]})


def test_before_the_first_checkpoint_a_group_may_change(tmp_path):
    (tmp_path / FILE).write_text('{"concepts": [{"token": "<ada>", "folder": "ada"}]}')
    dee = make_config(token="<dee>", out=tmp_path / "dee")
    check_same_groups({tmp_path: [dee]})
    (tmp_path / "checkpoints" / "2" / "default").mkdir(parents=True)
    with pytest.raises(UserError, match="number 1 was <ada> in ada/, now <dee>"):
        check_same_groups({tmp_path: [dee]})
    (tmp_path / FILE).write_text('{"concepts": 5}')
    with pytest.raises(UserError, match=r"group\.json is not the record of a group"):
        check_same_groups({tmp_path: [dee]})


def test_what_is_wrong_with_a_later_group_is_found_before_the_first_trains(teach, tmp_path):
    (tmp_path / "empty").mkdir()
    own = {"cy": {"images": tmp_path / "empty"}}
    with pytest.raises(UserError, match="empty has no pictures"):
        teach(["ada", "bo", "cy"], 2, own)
    own = {"cy": {"images": write_pictures(tmp_path / "captioned", 1)}}
    (tmp_path / "captioned" / "0.txt").write_text("a photo of <cy> man" + " dog" * 100)
    with pytest.raises(UserError, match="prompt too long"):
        teach(["ada", "bo", "cy"], 2, own)
    # Text has 32 features, and the third slot needs rows 24 to 35.
    with pytest.raises(UserError, match=r"--slot 2 must lie in 0\.\.1 with --down orthogonal"):
        teach(["ada", "bo", "cy"], 2, down="orthogonal", blocks=0, rank=12)
    assert not any((tmp_path / name).exists() for name in ("ada", "bo", "cy", "groups"))
