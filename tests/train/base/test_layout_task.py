"""The U-Net's second task: labels that agree with the drawing, a closed form of the loss, and learning it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.pocket.judge import CLASS_NAMES
from blocklora_jax.pocket.world import draw
from blocklora_jax.pocket.world.specs import PictureSpec, draw_individual
from blocklora_jax.testing.tiny_model import SCHEDULE, TEXT_WIDTH, tiny_configs, tiny_params
from train.base import layout
from train.base.denoiser import Examples, train_denoiser
from train.base.pictures import PictureSet
from train.engine.loop import LoopConfig


def _subjects(*rows):
    return jnp.array([[CLASS_NAMES.index(name) for name in row] + [-1] * (3 - len(row)) for row in rows])


@pytest.mark.parametrize("names", [("dog",), ("dog", "woman"), ("man", "dog"), ("cat", "robot", "girl")])
@pytest.mark.parametrize("side", [4, 8])
def test_the_class_map_covers_the_cells_in_which_a_subject_is_drawn(names, side):
    """Another individual in one place changes the picture in the cells of that place, and hardly elsewhere."""
    rng = np.random.default_rng(0)
    here = np.asarray(layout.class_map(_subjects(names), side, side))[0]
    for place, name in enumerate(names):
        inside, cells = 0.0, 64 // side
        for seed in range(12):
            individuals = [draw_individual(other, rng) for other in names]
            changed = [*individuals[:place], draw_individual(name, rng), *individuals[place + 1 :]]
            pictures = [draw(PictureSpec(tuple(members), "plain", seed=seed)) for members in (individuals, changed)]
            difference = np.abs(np.subtract(*(picture.astype(float) for picture in pictures))).sum(-1)
            by_cell = difference.reshape(side, cells, side, cells).sum((1, 3))
            inside += by_cell[here == CLASS_NAMES.index(name)].sum() / by_cell.sum() / 12
        # With three subjects, coarse cells lie in two places.
        assert inside > (0.85 if side == 8 or len(names) < 3 else 0.6), (name, inside)


def test_subjects_are_in_the_captions_order():
    chosen = PictureSet(3, 40, 0.75)
    specs = list(chosen.specs())
    rows = layout.subjects_of(specs)
    assert rows.shape == (40, 3) and rows.dtype == np.int8
    for spec, row in zip(specs, rows, strict=True):
        assert [CLASS_NAMES[k] for k in row if k >= 0] == [subject.class_name for subject in spec.subjects]


def test_loss_is_cross_entropy_over_cells_with_a_subject():
    subjects, classes = _subjects(("dog", "cat"), ("man",)), len(CLASS_NAMES)
    labels = np.asarray(layout.class_map(subjects, 8, 8))
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 5)).astype(np.float32)
    maps, every = {"a": jnp.asarray(features)}, jnp.array([True, True])
    heads = layout.silent_heads(maps)
    np.testing.assert_allclose(layout.layout_loss(heads, maps, subjects, every), np.log(classes), rtol=1e-5)
    heads = {"a": jnp.asarray(np.random.default_rng(1).normal(size=(5, classes)), jnp.float32)}
    unit = features - features.mean(-1, keepdims=True)
    unit /= np.sqrt((unit**2).mean(-1, keepdims=True) + 1e-4)
    scores = unit @ np.asarray(heads["a"])
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    for counted in ([True, True], [True, False]):
        picked = [log_p[i, y, x, labels[i, y, x]] for i, y, x in np.argwhere(labels >= 0) if counted[i]]
        loss = layout.layout_loss(heads, maps, subjects, jnp.array(counted))
        np.testing.assert_allclose(loss, -np.mean(picked), rtol=1e-4)
    # If no picture counts, the loss is 0, and nothing is divided by zero.
    assert layout.layout_loss(heads, maps, subjects, jnp.array([False, False])) == 0


def test_features_come_from_every_transformer_and_do_not_change_the_output():
    config = tiny_configs(20)["unet"]
    model = UNet2DConditionModel(config)
    inputs = jnp.ones((2, 8, 8, config.in_channels)), jnp.zeros(2, jnp.int32), jnp.ones((2, 6, TEXT_WIDTH))
    params = jax.tree.map(jnp.asarray, tiny_params(20)["unet"])
    both = jax.jit(lambda *x: (layout.apply_with_features(model, *x), apply_model(model, *x)))
    (answer, features), plain = both(params, *inputs)
    np.testing.assert_array_equal(answer, plain)
    paths = {path.rsplit("/transformer_blocks_0", 1)[0] for path in _paths(params) if "transformer_blocks_0" in path}
    assert set(features) == paths and len(paths) > 2
    assert all(leaf.ndim == 4 and len(leaf) == 2 for leaf in features.values())


def test_the_unet_learns_both_tasks_and_is_returned_without_the_second(tmp_path):
    """Each half of a picture has one colour, which stands for one of four nouns."""
    configs = tiny_configs(20)
    text = CLIPTextModel(configs["text_encoder"])
    words = np.arange(4)
    first, second = (grid.ravel() for grid in np.meshgrid(words, words))
    ids = np.zeros((16, 24), np.int32)
    ids[:, 1], ids[:, 2] = 3 + first, 3 + second
    text_params = text.init(jax.random.key(1), jnp.asarray(ids))["params"]
    colours = np.random.default_rng(0).normal(size=(4, configs["unet"].in_channels))
    latents = np.repeat(np.stack([colours[first], colours[second]], 1)[:, None], 8, axis=1).repeat(4, axis=2)
    subjects = np.stack([first, second, np.full(16, -1)], 1).astype(np.int8)
    data = Examples(latents.astype(np.float16), ids, np.zeros(24, np.int32), subjects)
    previews = []
    trained = train_denoiser(
        configs["unet"],
        (configs["text_encoder"], text_params),
        SCHEDULE,
        data,
        tmp_path,
        LoopConfig(steps=240, save_every=0, preview_every=160),
        16,
        5e-3,
        0,
        lambda step, params: previews.append((step, set(params))),
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Guessing among four nouns would give log 4.
    assert np.mean([line["layout"] for line in lines[-5:]]) < 0.8 * np.log(4)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert previews == [(160, set(trained))] and "conv_in" in trained


def _paths(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
