"""Stage 4: the judge, which measures pictures: metric learning over individuals and variants, and caption classes.

A picture's `subject` embedding is drawn to a description of the individuals that it shows, made from their parameters
by a small network that is thrown away afterwards, and pushed from the descriptions of others: an individual that no
picture shows is as good a negative as one that is in the batch. `scene` and `style` are taught in the same way, from all variants there are.
Another head that is thrown away names each trait of what is there, which teaches the trunk sooner what there is to see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.config import VAEConfig
from blocklora_jax.pocket.judge import Judge, JudgeConfig, JudgeNetwork, to_unit
from train.base.autoencoder import warmup_then_cosine
from train.base.lineup import (
    SCENE_VARIANTS,
    STYLE_VARIANTS,
    TRAIT_VALUES,
    Labels,
    draw_lineup,
    label_pictures,
    variant_traits,
)
from train.base.softness import augment, soften
from train.engine.loop import LoopConfig, run_loop

PICTURES_EACH = 4
DESCRIPTIONS = 1024  # Individuals that a step tells its pictures' from: some fifty of each class.
# What each loss counts in the first and in the second half; a judge that goes on begins with the second. Scenes and styles fill the picture and are learnt at once; at
# equal weights their gradients drown those of the subjects, which take long to begin.
WEIGHTS = {
    "subject": (2.0, 2.0),
    "classes": (2.0, 2.0),
    "scene": (0.5, 0.5),
    "style": (0.5, 0.5),
    "scene_variant": (0.25, 1.5),
    "style_variant": (0.25, 1.5),
    "traits": (0.3, 0.1),
}
SCALE = 16.0  # Of cosines in the softmax (arXiv 1811.12649).
SOFTENED = 6  # Every so many-th picture also comes as the autoencoder gives it back: generated ones look like that.
_SCENES, _STYLES = variant_traits(SCENE_VARIANTS), variant_traits(STYLE_VARIANTS)
_OWNERS = np.array([name for name, _, _ in TRAIT_VALUES])
_IS_NAME = np.array([not trait for _, trait, _ in TRAIT_VALUES])
# fp32 [v, v]: does the first value name the class, scene or style of which the second is a trait?
_NAMES = ((_OWNERS[:, None] == _OWNERS[None]) & _IS_NAME[:, None]).astype(np.float32)


class Describer(nn.Module):
    """A unit vector [p, d] of each individual, from the numbers of its traits [p, t] (-1: none)."""

    size: int
    width: int = 256

    @nn.compact
    def __call__(self, traits: Int[Array, "p t"]) -> Float[Array, "p d"]:
        """The traits' vectors added up, then two layers: whether a hat's colour counts depends on there being a hat."""
        vectors = nn.Embed(len(TRAIT_VALUES), self.width)(jnp.maximum(traits, 0))
        x = nn.LayerNorm()((vectors * (traits >= 0)[..., None]).sum(1))
        x = x + nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(x)))
        return to_unit(nn.Dense(self.size)(x))


class Batch(NamedTuple):
    """pictures: uint8 [b, s, s, 3]. traits: int32 [p, t] of the individuals to tell apart; target: fp32 [b, p], which of
    them a picture shows, rows add up to one. values: fp32 [b, v], which of all trait values its subjects, scene and style have. classes, scene, style, scene_variant, style_variant: as in `Labels`.
    """

    pictures: np.ndarray
    traits: np.ndarray
    target: np.ndarray
    values: np.ndarray
    classes: np.ndarray
    scene: np.ndarray
    style: np.ndarray
    scene_variant: np.ndarray
    style_variant: np.ndarray


def train_judge(
    vae: tuple[VAEConfig, dict],
    run_dir: Path,
    loop: LoopConfig,
    batch: int,
    learning_rate: float,
    seed: int,
    individuals: int,
    start: Judge | None = None,
) -> Judge:
    """The trained judge. vae: the autoencoder whose softness it is to see through. start: a judge to go on from."""
    count = PICTURES_EACH * individuals
    pictures = draw_lineup(run_dir, seed, individuals, count)
    softened = soften(*vae, pictures[::SOFTENED], run_dir / "softened.npy")
    labels = label_pictures(seed, individuals, count)
    config = JudgeConfig(image_size=pictures.shape[1])
    key = jax.random.key(seed)
    params = _initial(config, key, pictures.shape[1:], labels.traits.shape[1])
    if start:
        params["judge"] = jax.tree.map(jnp.asarray, start.params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(warmup_then_cosine(learning_rate, loop.steps), weight_decay=1e-4)
    )

    @jax.jit
    def step_fn(state, batch: Batch):
        step, params, opt_state = state
        images = augment(jnp.asarray(batch.pictures, jnp.float32) / 127.5 - 1.0, jax.random.fold_in(key, step))
        (loss, metrics), grads = jax.value_and_grad(_loss, has_aux=True)(
            params, config, images, batch, (start is not None) | (2 * step >= loop.steps)
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (step + 1, optax.apply_updates(params, updates), opt_state), {"loss": loss, **metrics}

    batch_at = lambda step: make_batch(pictures, softened, labels, seed, step, batch)
    state = (jnp.zeros((), jnp.int32), params, optimizer.init(params))
    trained = run_loop(loop, run_dir, state, step_fn, batch_at, label="judge")[1]
    made: dict[str, Any] = {
        "seed": seed,
        "individuals": individuals,
        "pictures": count,
        "steps": loop.steps,
        "batch": batch,
    }
    if start:
        made["before"] = dict(start.training)
    return Judge(config=config, params=jax.device_get(trained["judge"]), training=made)


_TRAIT_HEAD = nn.Dense(len(TRAIT_VALUES))


def _initial(config: JudgeConfig, key: Array, shape: tuple[int, ...], traits: int) -> dict[str, Any]:
    keys = jax.random.split(key, 5)
    describer = Describer(config.subject_size)
    return {
        "judge": JudgeNetwork(config).init(keys[0], jnp.zeros((1, *shape)))["params"],
        "describer": describer.init(keys[1], jnp.zeros((1, traits), jnp.int32))["params"],
        "scenes": Describer(config.scene_size).init(keys[2], jnp.asarray(_SCENES))["params"],
        "styles": Describer(config.style_size).init(keys[3], jnp.asarray(_STYLES))["params"],
        "traits": _TRAIT_HEAD.init(keys[4], jnp.zeros((1, 2 * config.widths[-1])))["params"],
    }


def _loss(
    params: dict[str, Any], config: JudgeConfig, images: Array, batch: Batch, second_half: Array
) -> tuple[Array, dict]:
    (embedded, logits), seen = JudgeNetwork(config).apply({"params": params["judge"]}, images, mutable="intermediates")
    values = apply_model(_TRAIT_HEAD, params["traits"], seen["intermediates"]["pooled"][0])
    described = apply_model(Describer(config.subject_size), params["describer"], batch.traits)
    alike = SCALE * embedded.subject @ described.T
    scenes = apply_model(Describer(config.scene_size), params["scenes"], jnp.asarray(_SCENES))
    styles = apply_model(Describer(config.style_size), params["styles"], jnp.asarray(_STYLES))
    present = jnp.asarray(batch.values) @ _NAMES
    integer_loss = optax.softmax_cross_entropy_with_integer_labels
    losses = {
        "subject": optax.softmax_cross_entropy(alike, batch.target),
        "scene_variant": integer_loss(SCALE * embedded.scene @ scenes.T, batch.scene_variant),
        "style_variant": integer_loss(SCALE * embedded.style @ styles.T, batch.style_variant),
        "classes": optax.sigmoid_binary_cross_entropy(logits.classes, batch.classes).sum(-1),
        "scene": integer_loss(logits.scene, batch.scene),
        "style": integer_loss(logits.style, batch.style),
        # Of classes, scenes and styles that are not there, there is nothing to say.
        "traits": (optax.sigmoid_binary_cross_entropy(values, batch.values) * present).sum(-1),
    }
    means = {name: loss.mean() for name, loss in losses.items()}
    found = jnp.take_along_axis(jnp.asarray(batch.target), alike.argmax(1)[:, None], axis=1) > 0
    total = jnp.zeros(())
    for name, (early, late) in WEIGHTS.items():
        total += jnp.where(second_half, late, early) * means[name]
    return total, {"top1": found.mean(), **means}


def make_batch(pictures: np.ndarray, softened: np.ndarray, labels: Labels, seed: int, step: int, batch: int) -> Batch:
    """The batch of one step, a function of (seed, step)."""
    rng = np.random.default_rng([seed, 3, step])
    chosen = np.sort(rng.choice(len(pictures), batch, replace=batch > len(pictures)))
    images = np.stack([_pick(pictures, softened, int(i), rng) for i in chosen])
    shown = labels.subjects[chosen]
    present = np.unique(shown[shown >= 0])
    others = np.setdiff1d(rng.choice(len(labels.traits), min(DESCRIPTIONS, len(labels.traits)), replace=False), present)
    people = np.concatenate([present, others])[: min(DESCRIPTIONS, len(labels.traits))]
    target = (people[None, None] == shown[:, :, None]).any(1).astype(np.float32)
    values = np.zeros((batch, len(TRAIT_VALUES) + 1), np.float32)
    subjects = np.where(shown[..., None] >= 0, labels.traits[shown], -1).reshape(batch, -1)
    numbers = (subjects, _SCENES[labels.scene_variant[chosen]], _STYLES[labels.style_variant[chosen]])
    # Fillers are -1: they land in a last column, which is cut off.
    np.put_along_axis(values, np.concatenate(numbers, axis=1), 1, axis=1)
    rest = (array[chosen] for array in labels[2:])
    return Batch(images, labels.traits[people], target / target.sum(1, keepdims=True), values[:, :-1], *rest)


def _pick(pictures: np.ndarray, softened: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
    # The softened ones are a few, so they are mostly taken where there is one.
    return softened[i // SOFTENED] if i % SOFTENED == 0 and rng.random() < 0.75 else pictures[i]
