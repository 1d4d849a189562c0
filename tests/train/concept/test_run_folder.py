"""The run folder: existing files are never replaced, and two training runs never share a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from concept_builders import make_config, write_pictures

from blocklora_jax.errors import UserError
from blocklora_jax.io.locks import hold
from train.concept.groups import train_concepts
from train.concept.run import train_concept
from train.concept.run_folder import check_run_dir, hold_run_folders, keep_off_inputs, with_resuming

ROOT = Path(__file__).parents[3]


def begun(out: Path, **changes) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(make_config(out=out).to_json() | changes))
    return out


NO_SETTINGS = {
    "a list": "[]", "a number": "5", "null": "null", "a text": '"x"', "cut": '{"rank": ',
    "empty": "", "deep": "[" * 100_000,
    "binary": b"\xff\xfe\x00", "another file's": '{"a": 1}', "infinite": '{"rank": 1e999}',
}  # fmt: skip


@pytest.mark.parametrize("text", NO_SETTINGS.values(), ids=NO_SETTINGS)
def test_a_malformed_settings_file_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"config\.json (is not JSON|holds no settings)|with other settings") as error:
        check_run_dir(make_config(out=tmp_path, resume=True))
    assert "\n" not in str(error.value)


def test_a_folder_in_place_of_the_settings_is_one_line(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*config\.json: Is a directory"):
        check_run_dir(make_config(out=tmp_path, resume=True))


def test_a_newer_versions_settings_are_refused_if_they_are_in_use(tmp_path):
    resumed = make_config(out=begun(tmp_path, novelty=None, other_novelty=False), resume=True)
    check_run_dir(resumed)
    begun(tmp_path, novelty="x" * 999)
    with pytest.raises(UserError, match="'novelty' was 'x+…, which this version does not know"):
        check_run_dir(resumed)
    begun(tmp_path, token="<bob>", rank={"a": [1]})
    with pytest.raises(UserError, match=r"token was '<bob>', now '<ada>'; rank was \{'a': \[1\]\}, now 2"):
        check_run_dir(resumed)


@pytest.mark.parametrize("name", ["adapter.safetensors", "checkpoints", "previews", "metrics.jsonl"])
def test_somebody_elses_files_are_never_replaced(tmp_path, name):
    (tmp_path / "notes.txt").write_text("mine")
    check_run_dir(make_config(out=tmp_path))
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"holds {name}, but no run that was begun here"):
        check_run_dir(make_config(out=tmp_path))


def test_nothing_is_added_to_the_group_of_another_run(tmp_path):
    (tmp_path / "groups" / "000" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="groups/000 holds checkpoints, but no run"):
        train_concepts([make_config(out=tmp_path / "ada")], tmp_path / "groups", 16, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["groups"]


def test_a_concept_not_yet_begun_is_checked_when_others_are_resumed(tmp_path):
    one = make_config(out=begun(tmp_path / "ada"), resume=True)
    other = make_config(out=tmp_path / "bob", token="<bob>", slot=(2,), resume=True)
    other.out.mkdir()
    (other.out / "adapter.safetensors").write_text("mine")
    with pytest.raises(UserError, match="bob holds adapter.safetensors"):
        train_concepts([one, other], tmp_path / "groups", 16, "cpu")


def test_two_concepts_do_not_share_a_folder(tmp_path):
    folders = [tmp_path / "ada", tmp_path / "x" / ".." / "ada"]
    with pytest.raises(UserError, match="two trainings would write into"), hold_run_folders(folders, lambda: None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_held_while_checking_and_training_but_not_after(tmp_path):
    def is_held() -> bool:
        try:
            with hold(tmp_path / "run", "training in"):
                return False
        except UserError:
            return True

    seen = []
    with hold_run_folders([tmp_path / "run"], lambda: seen.append(is_held())):
        seen.append(is_held())
    assert [*seen, is_held()] == [True, True, False]


HOLDER = """
import sys, time
from pathlib import Path
from blocklora_jax.io.locks import hold
with hold(Path(sys.argv[1]), "training in"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_two_trainings_at_once_do_not_share_a_folder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    busy = r"another process is training in .*: wait for it, or choose another --out"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(UserError, match=busy):
            train_concept(make_config(out=tmp_path / "run"), "cpu")
        with pytest.raises(UserError, match=busy):
            train_concepts([make_config(out=tmp_path / "run")], tmp_path / "all" / "groups", 16, "cpu")
        first.kill()
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_out_that_is_a_file_is_refused_before_anything_is_computed(tmp_path, place, monkeypatch):
    def load(*args):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("train.concept.run.load_base", load)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"^nothing was written: cannot write --out \S+: \S+file is a file$"):
        train_concept(make_config(out=tmp_path / place, images=write_pictures(tmp_path / "pictures")), "cpu")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_is_not_written_into_what_it_reads(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    for out in (pictures, pictures / "run"):
        with pytest.raises(
            UserError, match=r"^nothing was written: --out \S+ lies inside the input \S+pictures: choose"
        ):
            train_concept(make_config(out=out, images=pictures), "cpu")
    inner = write_pictures(tmp_path / "run" / "previews" / "mine")
    with pytest.raises(UserError, match="contains the input"):
        train_concept(make_config(out=tmp_path / "run", images=inner), "cpu")
    keep_off_inputs([make_config(out=tmp_path / "run", images=write_pictures(tmp_path / "run" / "pictures"))])


def test_auto_begins_a_run_and_continues_it(tmp_path):
    configs = [make_config(out=tmp_path / name, token=f"<{name}>") for name in ("ada", "bob")]
    assert [each.run.resume for each in with_resuming(configs, "auto")] == [False, False]
    begun(tmp_path / "bob")
    # A training of several concepts may have been interrupted before it began all of them.
    assert [each.run.resume for each in with_resuming(configs, "auto")] == [True, True]
    assert with_resuming(configs, None) == configs
    assert [each.run.resume for each in with_resuming(configs, True)] == [True, True]


@pytest.mark.parametrize(
    "train",
    [
        lambda config: train_concept(config, "cpu", resume="auto"),
        lambda config: train_concepts([config], config.out.parent / "groups", platform="cpu", resume="auto"),
    ],
)
def test_both_ways_to_train_continue_what_has_begun(tmp_path, train):
    # The settings differ from those of the run, which only a run that is continued compares.
    begun(tmp_path / "ada", token="<bob>")
    with pytest.raises(UserError, match="cannot resume .* with other settings: .*token was '<bob>'"):
        train(make_config(out=tmp_path / "ada", images=write_pictures(tmp_path / "pictures")))
