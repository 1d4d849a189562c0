"""Shuffled tags and dropped captions are drawn for each row, as a function of (seed, step)."""

from __future__ import annotations

from collections import Counter

import jax
import numpy as np
import pytest
from concept_builders import batches_of, make_config, write_pictures

from blocklora_jax.errors import UserError
from train.concept.caption_choices import shuffle_tags
from train.concept.data import load_concept_data
from train.concept.picture_captions import Caption
from train.concept.prepare import cache_states, init_concept

TAGS = "w, x, y, z"  # short, because the tiny model reads 24 tokens


@pytest.fixture
def folder(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 2)
    for name in ("0.txt", "1.txt"):
        (folder / name).write_text(TAGS)
    return folder


def with_tags(folder, **changes):
    """Settings of a run on captions with tags."""
    return make_config(images=folder, caption_prefix="of {trigger},", **changes)


def drawn(config, sd, steps: int = 40) -> list[tuple[int, ...]]:
    """The ids of all captions of some steps."""
    batch_at = batches_of(config, load_concept_data(config, sd))
    return [tuple(ids.tolist()) for step in range(steps) for ids in batch_at(step).ids]


def encoded(sd, *texts: str) -> list[tuple[int, ...]]:
    return [tuple(ids.tolist()) for ids in sd.tokenizer.encode(texts, {"<ada>": 2})]


def test_tags_are_shuffled_and_the_prefix_and_the_concept_stay_in_place():
    concept, orders = make_config().called, set()
    for seed in range(60):
        caption = Caption("red, blue, <ada> man, green,", "a photo, ")
        found = str(shuffle_tags(caption, concept, np.random.default_rng(seed)))
        start, one, two, named, three = found.split(", ")
        assert (start, named) == ("a photo", "<ada> man")
        orders.add((one, two, three))
    assert len(orders) == 6
    assert all(sorted(order) == ["blue", "green", "red"] for order in orders)
    one_tag = Caption("<ada> man, red")
    assert shuffle_tags(one_tag, concept, np.random.default_rng(0)) == one_tag


def test_rows_get_the_tags_in_many_orders(tiny_sd, folder):
    seen = set(drawn(with_tags(folder, shuffle_tags=True), tiny_sd))
    [plain] = encoded(tiny_sd, f"of <ada> man, {TAGS}")
    # 16 orders for each of two pictures, of which 24 can differ.
    assert 12 < len(seen) <= 24
    assert {tuple(sorted(ids)) for ids in seen} == {tuple(sorted(plain))}


@pytest.mark.parametrize("dropout", [0.25, 1.0])
def test_captions_are_dropped_in_the_share_asked_for_and_the_trigger_stays(tiny_sd, folder, dropout):
    config = with_tags(folder, caption_dropout=dropout)
    counts = Counter(drawn(config, tiny_sd, steps=200))
    plain, *short = encoded(tiny_sd, f"of <ada> man, {TAGS}", "a photo of <ada> man", "a picture of <ada> man")
    assert set(counts) <= {plain, *short}
    # Four standard deviations of 400 draws.
    assert abs(sum(counts[ids] for ids in short) / 400 - dropout) <= 4 * (dropout * (1 - dropout) / 400) ** 0.5


def test_all_other_draws_stay_as_they_are(tiny_sd, folder):
    config = with_tags(folder)
    changed = with_tags(folder, shuffle_tags=True, caption_dropout=0.5)
    plain, other = (batches_of(each, load_concept_data(each, tiny_sd)) for each in (config, changed))
    for step in range(4):
        one, two = plain(step)._replace(ids=None), other(step)._replace(ids=None)
        jax.tree.map(np.testing.assert_array_equal, one, two)
    # The captions too are a function of the step.
    again = batches_of(changed, load_concept_data(changed, tiny_sd))
    for step in (3, 1):
        np.testing.assert_array_equal(again(step).ids, other(step).ids)


def test_encoded_captions_are_drawn_like_ids(tiny_sd, folder):
    changes = {"shuffle_tags": True, "caption_dropout": 0.3, "flip": True}
    config = with_tags(folder, token_learning_rate=0.0, **changes)
    data = load_concept_data(config, tiny_sd)
    _, _, trainable = init_concept(config, tiny_sd, None)
    cached = cache_states(config, tiny_sd, data, trainable)
    by_id = {ids.tobytes(): states for ids, states in zip(data.ids, cached.text.states, strict=True)}
    for step in range(3):
        ids, text = batches_of(config, data)(step).ids, batches_of(config, cached)(step).text
        np.testing.assert_array_equal(text.states, [by_id[row.tobytes()] for row in ids])


def test_the_class_captions_of_preservation_follow(tiny_sd, folder):
    changes = {"erase": "preserve", "batch": 4, "random_batch": 4}
    config = with_tags(folder, shuffle_tags=True, caption_dropout=0.5, **changes)
    data = load_concept_data(config, tiny_sd)
    texts = dict(zip((ids.tobytes() for ids in data.prompts.ids), data.prompts.texts, strict=True))
    for step in range(5):
        batch = batches_of(config, data)(step)
        for ids, class_ids in zip(batch.ids, batch.random_ids, strict=True):
            text = texts[class_ids.tobytes()].replace("a man", "<ada> man")
            assert [tuple(ids.tolist())] == encoded(tiny_sd, text)


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(UserError, match=r"--caption-dropout must lie in 0\.\.1, not 2"):
        make_config(caption_dropout=2.0)
    with pytest.raises(UserError, match="--caption-prefix .* has invisible characters"):
        make_config(caption_prefix="a\u200bb")
    assert "caption_prefix" not in make_config().to_json()
