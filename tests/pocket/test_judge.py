"""The judge: what it gives, what it refuses, and that the packaged judge measures well."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from blocklora_jax.errors import UserError
from blocklora_jax.pocket import judge as judges
from blocklora_jax.pocket.concepts import Concept, concept_pictures
from blocklora_jax.pocket.judge import FOLDER, load_judge, merge_patches, save_judge
from blocklora_jax.pocket.world import draw
from blocklora_jax.pocket.world.specs import PictureSpec, draw_individual


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def pictures():
    """Four pictures of each of two women, and one of a dog and a car in a snowy sketch."""
    rng = np.random.default_rng(0)
    people = [draw_individual("woman", rng) for _ in range(2)]
    pair = (draw_individual("dog", rng), draw_individual("car", rng))
    scenes = ("beach", "city", "forest", "room")
    specs = [PictureSpec((woman,), scene, "photo", i) for woman in people for i, scene in enumerate(scenes)]
    return np.stack([draw(spec) for spec in [*specs, PictureSpec(pair, "snow", "photo", 9)]])


def test_embeddings_are_unit_vectors_and_labels_are_probabilities(judge, pictures):
    embeddings, labels = judge.embed(pictures), judge.classify(pictures)
    for rows in embeddings:
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert embeddings.subject.shape == (9, 128)
    assert [rows.shape for rows in labels] == [(9, 18), (9, 11), (9, 9)]
    for rows in (labels.scene, labels.style):
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    assert ((labels.classes >= 0) & (labels.classes <= 1)).all()


def test_the_measures_of_a_picture_do_not_depend_on_its_batch(judge, pictures):
    many = np.concatenate([pictures] * 8)[:70]
    # More pictures than a batch of 64. All batches use the same program, so the numbers are the same.
    np.testing.assert_array_equal(
        judge.embed(many).subject[63:70], judge.embed(pictures).subject[np.arange(63, 70) % 9]
    )
    assert judge.embed(pictures[:0]).subject.shape == (0, 128)


def test_packaged_judge_tells_two_women_apart_in_every_scene(judge, pictures):
    subjects = judge.embed(pictures[:8]).subject
    cosines = subjects @ subjects.T
    same = np.arange(8)[:, None] // 4 == np.arange(8)[None] // 4
    off = ~np.eye(8, dtype=bool)
    assert cosines[same & off].min() > cosines[~same].max()


def test_packaged_judge_reads_class_scene_and_style(judge, pictures):
    labels = judge.classify(pictures)
    names = [judges.CLASS_NAMES[i] for i in labels.classes[:8].argmax(1)]
    assert names == ["woman"] * 8
    assert {judges.CLASS_NAMES[i] for i in np.flatnonzero(labels.classes[8] > 0.5)} == {"dog", "car"}
    assert [judges.SCENE_NAMES[i] for i in labels.scene.argmax(1)] == ["beach", "city", "forest", "room"] * 2 + ["snow"]
    assert {judges.STYLE_NAMES[i] for i in labels.style.argmax(1)} == {"photo"}


@pytest.mark.parametrize(
    ("kind", "name", "traits"),
    [
        ("scene", "garden",
         ({"flower": "purple", "fence": "sky", "sky": "dusk"}, {"flower": "yellow", "fence": "white", "sky": "day"})),
        ("style", "poster", ({"palette": "sunset"}, {"palette": "ocean"})),
    ],
)  # fmt: skip
def test_packaged_judge_tells_variants_of_a_garden_and_of_a_poster(judge, kind, name, traits):
    ours, other = (Concept(name=f"v{i}", kind=kind, thing=(name, tuple(t.items()))) for i, t in enumerate(traits))
    pictures_of = lambda concept, seed: getattr(judge.embed(concept_pictures(concept, 6, seed)[0]), kind)
    ours_known, other_known = (pictures_of(concept, 0).mean(0) for concept in (ours, other))
    assert (pictures_of(ours, 1) @ ours_known > pictures_of(ours, 1) @ other_known).all()
    assert (pictures_of(other, 1) @ other_known > pictures_of(other, 1) @ ours_known).all()


def test_patches_merge_to_the_four_pixels_they_cover():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    merged = np.asarray(merge_patches(jnp.asarray(x)))
    assert merged.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(merged[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])


def test_saved_judge_opens_again_and_measures_the_same(judge, pictures, tmp_path):
    save_judge(tmp_path, judge)
    again = load_judge(tmp_path)
    # The packaged weights are fp16, so saving them as fp16 loses nothing.
    np.testing.assert_array_equal(again.embed(pictures).subject, judge.embed(pictures).subject)
    assert (again.config, again.training) == (judge.config, judge.training)


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8)]
)
def test_pictures_of_another_shape_are_refused(judge, bad):
    with pytest.raises(UserError, match=r"uint8 \[n, 64, 64, 3\]"):
        judge.embed(bad)


def test_a_judge_with_other_classes_or_other_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="no judge in .*--only-judge"):
        load_judge(tmp_path / "none")
    shutil.copytree(FOLDER, tmp_path / "judge")
    config = json.loads((FOLDER / "config.json").read_text())
    path = tmp_path / "judge" / "config.json"
    for change, message in (
        ({"classes": config["classes"][1:]}, "other classes"),
        ({"nonsense": 1}, "nonsense"),
        ({"subject_size": 64}, "embed_subject/kernel is .*128.*should be .*64"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            load_judge(path.parent)
    path.write_text(json.dumps(config))
    tensors = load_file(path.parent / "model.safetensors")
    save_file({**tensors, "more": np.zeros(1, np.float16)}, path.parent / "model.safetensors")
    with pytest.raises(UserError, match="more is .*should be None"):
        load_judge(path.parent)
