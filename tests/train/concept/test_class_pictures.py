"""Prior preservation: pictures of the class, which the base makes if there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from concept_builders import batches_of, make_config, write_pictures
from PIL import Image

from blocklora_jax.errors import UserError
from train.concept.class_pictures import RECORD, class_captions, make_class_pictures
from train.concept.data import encode_images, load_concept_data
from train.concept.groups import check_concepts
from train.concept.images import crop_square, read_pictures

PRESERVING = {"erase": "preserve", "random_batch": 5, "batch": 2}


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", 3)


def make(folder: Path, sd, count: int = 3, seed: int = 0, size: int = 0, **changes) -> dict[str, bytes]:
    """The pictures in a folder after those of the class were made there."""
    make_class_pictures(folder, count, make_config(**changes).called, sd, size or sd.image_size, seed)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


def test_the_base_makes_the_pictures_that_are_missing(tiny_sd, tmp_path):
    made = make(tmp_path / "a" / "class", tiny_sd)
    assert sorted(made) == ["class_0000.png", "class_0001.png", "class_0002.png"]
    assert len(set(made.values())) == 3
    with Image.open(tmp_path / "a" / "class" / "class_0000.png") as image:
        assert image.size == (tiny_sd.image_size, tiny_sd.image_size)
    # As after an interruption: what is there stays, and the rest is made as it would have been.
    (tmp_path / "a" / "class" / "class_0001.png").unlink()
    assert make(tmp_path / "a" / "class", tiny_sd) == made
    assert make(tmp_path / "b", tiny_sd, seed=1) != made


def test_to_pictures_that_are_there_none_are_added(tiny_sd, tmp_path):
    before = set(write_pictures(tmp_path, 1).iterdir())
    make(tmp_path, tiny_sd)
    assert set(tmp_path.iterdir()) == before


def test_pictures_of_one_class_are_not_taken_for_another(tiny_sd, tmp_path):
    made = make(tmp_path, tiny_sd, count=1)
    for changes, words in (
        ({"class_noun": "cat"}, "class noun 'man', not 'cat': give another folder"),
        ({"size": 32}, "size 16, not 32: give another folder"),
    ):
        with pytest.raises(UserError, match=f"--class-images .* holds pictures of the {words}"):
            make(tmp_path, tiny_sd, count=2, **changes)
    record = tmp_path / RECORD
    text = record.read_text()
    record.write_text(text.replace(tiny_sd.digest[:16], "0" * 16))
    with pytest.raises(UserError, match="holds pictures of the base '0000000000000000', not '"):
        make(tmp_path, tiny_sd)
    record.write_text("[]")
    with pytest.raises(UserError, match=f"{RECORD} does not say what its pictures show: give another folder"):
        make(tmp_path, tiny_sd)
    record.write_text(text)
    # Of another seed they are as good. The rest is made with the first seed.
    assert make(tmp_path, tiny_sd, count=1, seed=1) == made
    # Folders of older versions have no record.
    record.unlink()
    assert make(tmp_path, tiny_sd, count=1, class_noun="cat") == made
    assert not record.exists()


def test_a_picture_with_a_name_like_ours_is_the_users(tiny_sd, tmp_path):
    (write_pictures(tmp_path, 1) / "0.png").rename(tmp_path / "class_photo.png")
    assert list(make(tmp_path, tiny_sd)) == ["class_photo.png"]
    assert not (tmp_path / RECORD).exists()


def test_concepts_of_different_classes_need_different_folders(tmp_path):
    first = make_config(class_images=tmp_path / "class", out=tmp_path / "ada", **PRESERVING)
    same = first.with_settings(token="<bob>", slot=(2,), out=tmp_path / "bob")
    other = same.with_settings(class_noun="cat")
    check_concepts([first, same], tmp_path / "groups", 16)
    check_concepts([config.with_settings(resume=True) for config in (first, other)], tmp_path / "groups", 16)
    with pytest.raises(UserError, match="--class-images .* is given for 'man' and for 'cat': give each class a folder"):
        check_concepts([first, other], tmp_path / "groups", 16)


def test_a_folder_that_cannot_be_made_is_named(tiny_sd, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "class"):
        with pytest.raises(UserError, match=r"cannot use --class-images \S+file"):
            make(folder, tiny_sd)


def test_captions_of_the_class_have_no_token():
    assert class_captions(make_config().called, 3) == ("a photo of a man", "a picture of a man", "a photo of a man")


def test_the_class_is_preserved_on_its_pictures_under_its_captions(tiny_sd, pictures, tmp_path):
    folder = write_pictures(tmp_path / "class", 4, (30, 16))
    config = make_config(images=pictures, class_images=folder, **PRESERVING)
    data = load_concept_data(config, tiny_sd)
    assert data.notes == "3 pictures; 4 pictures of the class"
    expected = encode_images(tiny_sd, [crop_square(picture, tiny_sd.image_size) for picture in read_pictures(folder)])
    np.testing.assert_array_equal(data.random_latents, expected)
    ids = tiny_sd.tokenizer.encode(class_captions(config.called, 4))
    batch_at, seen = batches_of(config, data), set()
    for step in range(8):
        batch = batch_at(step)
        chosen = [int(np.flatnonzero((expected == row).all((1, 2, 3)))[0]) for row in batch.random_latents]
        np.testing.assert_array_equal(batch.random_ids, ids[chosen])
        # Their noise is not that of the concept's rows.
        assert batch.random_row.tolist() == [2, 3, 4, 5, 6]
        assert not batch.random_is_noise.any()
        seen |= set(chosen)
    assert seen == {0, 1, 2, 3}


def test_with_several_shapes_there_are_pictures_of_the_class_in_each(tiny_sd, pictures, tmp_path):
    folder = write_pictures(tmp_path / "class", 2, (16, 16))
    Image.open(pictures / "1.png").resize((20, 60)).save(pictures / "1.png")
    config = make_config(images=pictures, class_images=folder, aspect_buckets=True, **PRESERVING)
    data = load_concept_data(config, tiny_sd)
    assert "3 pictures in 2 shapes" in data.notes
    assert data.notes.endswith("; 2 pictures of the class")
    batch_at = batches_of(config, data)
    shapes = {(batch.latents.shape[1:], batch.random_latents.shape[1:]) for batch in map(batch_at, range(6))}
    assert len(shapes) == 2
    assert all(own == random for own, random in shapes)


def test_without_preservation_they_join_the_random_latents(tiny_sd, pictures, tmp_path):
    config = make_config(images=pictures, class_images=tmp_path / "class", class_count=2)
    data = load_concept_data(config, tiny_sd)
    assert data.notes == "3 pictures; 2 pictures of the class"
    np.testing.assert_array_equal(data.random_latents[:3], data.latents)
    made = encode_images(tiny_sd, read_pictures(tmp_path / "class"))
    np.testing.assert_array_equal(data.random_latents[3:], made)
    assert len(data.prompts.ids) == 1024


def test_faults_in_pictures_are_found_before_any_are_made(tiny_sd, pictures, tmp_path):
    (pictures / "0.txt").write_text("a man")
    with pytest.raises(UserError, match="lacks the token"):
        load_concept_data(make_config(images=pictures, class_images=tmp_path / "class"), tiny_sd)
    assert not (tmp_path / "class").exists()


def test_the_folder_of_the_concept_is_refused(pictures):
    with pytest.raises(UserError, match="--class-images .* is the folder of --images: give another"):
        make_config(images=pictures, class_images=pictures / ".." / pictures.name)
    config = make_config(images=pictures)
    assert not {"class_images", "class_count"} & config.to_json().keys()
