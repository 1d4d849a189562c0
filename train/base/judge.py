"""Stage 4: the judge, the network that measures pictures. It learns embeddings, and the classes that captions name.

A small network computes a vector, the description of an individual, from the individual's parameters. The `subject`
embedding of a picture is pulled to the descriptions of the individuals that it shows and pushed away from those of
others. An individual without a picture in the batch is a negative too. `scene` and `style` are trained in the same way,
against all variants. One more head predicts every trait of what the picture shows, so that the shared layers learn
sooner to see traits. The describing networks and this head are not kept.
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
    SOFTENED_FILE,
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
DESCRIPTIONS = 1024  # Number of individuals that a step compares its pictures with: about fifty of each class.
# Weights of the losses in the first and in the second half of the steps. A judge that continues from another one starts
# with the second half. Scenes and styles fill the picture and are learnt quickly. With equal weights their gradients
# would dominate those of the subjects, which are learnt slowly at first.
WEIGHTS = {
    "subject": (2.0, 2.0),
    "classes": (2.0, 2.0),
    "scene": (0.5, 0.5),
    "style": (0.5, 0.5),
    "scene_variant": (0.25, 1.5),
    "style_variant": (0.25, 1.5),
    "traits": (0.3, 0.1),
}
SCALE = 16.0  # Factor of the cosines in the softmax (arXiv 1811.12649).
# Every sixth picture is also shown as the autoencoder reconstructs it, because generated pictures look like that.
SOFTENED = 6
_SCENES, _STYLES = variant_traits(SCENE_VARIANTS), variant_traits(STYLE_VARIANTS)
_OWNERS = np.array([name for name, _, _ in TRAIT_VALUES])
_IS_NAME = np.array([not trait for _, trait, _ in TRAIT_VALUES])
# fp32 [v, v]: does the first value name the class, scene or style of which the second is a trait?
_NAMES = ((_OWNERS[:, None] == _OWNERS[None]) & _IS_NAME[:, None]).astype(np.float32)


class Describer(nn.Module):
    """A unit vector [p, d] for each individual, from the numbers of its traits [p, t] (-1: none)."""

    size: int
    width: int = 256

    @nn.compact
    def __call__(self, traits: Int[Array, "p t"]) -> Float[Array, "p d"]:
        """The traits' vectors are summed. Two layers follow, so that a hat's colour counts only if there is a hat."""
        vectors = nn.Embed(len(TRAIT_VALUES), self.width)(jnp.maximum(traits, 0))
        x = nn.LayerNorm()((vectors * (traits >= 0)[..., None]).sum(1))
        x = x + nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(x)))
        return to_unit(nn.Dense(self.size)(x))


class Batch(NamedTuple):
    """What one step reads.

    pictures: uint8 [b, s, s, 3]. traits: int32 [p, t] of the individuals to tell apart. target: fp32 [b, p], which of
    these individuals a picture shows; each row adds up to one. values: fp32 [b, v], which of all trait values the
    subjects, the scene and the style of a picture have. classes, scene, style, scene_variant, style_variant: as in
    `Labels`.
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
    """The trained judge.

    vae: the autoencoder; the judge also learns from pictures that it reconstructs. start: a judge to continue from.
    """
    count = PICTURES_EACH * individuals
    pictures = draw_lineup(run_dir, seed, individuals, count)
    softened = soften(*vae, pictures[::SOFTENED], run_dir / SOFTENED_FILE)
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
    similarities = SCALE * embedded.subject @ described.T
    scenes = apply_model(Describer(config.scene_size), params["scenes"], jnp.asarray(_SCENES))
    styles = apply_model(Describer(config.style_size), params["styles"], jnp.asarray(_STYLES))
    present = jnp.asarray(batch.values) @ _NAMES
    integer_loss = optax.softmax_cross_entropy_with_integer_labels
    losses = {
        "subject": optax.softmax_cross_entropy(similarities, batch.target),
        "scene_variant": integer_loss(SCALE * embedded.scene @ scenes.T, batch.scene_variant),
        "style_variant": integer_loss(SCALE * embedded.style @ styles.T, batch.style_variant),
        "classes": optax.sigmoid_binary_cross_entropy(logits.classes, batch.classes).sum(-1),
        "scene": integer_loss(logits.scene, batch.scene),
        "style": integer_loss(logits.style, batch.style),
        # Only the traits of classes, scenes and styles that the picture shows count.
        "traits": (optax.sigmoid_binary_cross_entropy(values, batch.values) * present).sum(-1),
    }
    means = {name: loss.mean() for name, loss in losses.items()}
    hits = jnp.take_along_axis(jnp.asarray(batch.target), similarities.argmax(1)[:, None], axis=1) > 0
    total = jnp.zeros(())
    for name, (early, late) in WEIGHTS.items():
        total += jnp.where(second_half, late, early) * means[name]
    return total, {"top1": hits.mean(), **means}


def make_batch(pictures: np.ndarray, softened: np.ndarray, labels: Labels, seed: int, step: int, batch: int) -> Batch:
    """The batch of one step, a function of (seed, step)."""
    rng = np.random.default_rng([seed, 3, step])
    chosen = np.sort(rng.choice(len(pictures), batch, replace=batch > len(pictures)))
    images = np.stack([_pick(pictures, softened, int(i), rng) for i in chosen])
    shown = labels.subjects[chosen]
    present = np.unique(shown[shown >= 0])
    absent = np.setdiff1d(rng.choice(len(labels.traits), min(DESCRIPTIONS, len(labels.traits)), replace=False), present)
    compared = np.concatenate([present, absent])[: min(DESCRIPTIONS, len(labels.traits))]
    target = (compared[None, None] == shown[:, :, None]).any(1).astype(np.float32)
    values = np.zeros((batch, len(TRAIT_VALUES) + 1), np.float32)
    subjects = np.where(shown[..., None] >= 0, labels.traits[shown], -1).reshape(batch, -1)
    numbers = (subjects, _SCENES[labels.scene_variant[chosen]], _STYLES[labels.style_variant[chosen]])
    # Padding is -1, so it sets the last column, which is cut off.
    np.put_along_axis(values, np.concatenate(numbers, axis=1), 1, axis=1)
    rest = (array[chosen] for array in labels[2:])
    return Batch(images, labels.traits[compared], target / target.sum(1, keepdims=True), values[:, :-1], *rest)


def _pick(pictures: np.ndarray, softened: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
    # There are few softened pictures, so one is used in most cases where it exists.
    return softened[i // SOFTENED] if i % SOFTENED == 0 and rng.random() < 0.75 else pictures[i]
