"""The U-Net's second task: to predict for every cell of its feature maps which class is drawn there.

The drawing program knows where each subject is, so pictures need not be labelled. Without this task, cells on the right
of a picture attend to the first noun of the caption instead of the second for a very long time. With it, they attend to
the correct noun after a few hundred steps. One linear layer per feature map makes the prediction. These layers are not
kept, so the model's architecture does not change.
Source: TokenCompose (arXiv 2312.03626) supervises attention maps; here features are classified instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.models.attention import Transformer2DModel
from blocklora_jax.pocket.judge import CLASS_NAMES
from blocklora_jax.pocket.world import subject_boxes
from blocklora_jax.pocket.world.specs import PictureSpec

MOST_SUBJECTS = 3

Features = Mapping[str, Float[Array, "b h w c"]]


def subjects_of(specs: Iterable[PictureSpec]) -> Int[np.ndarray, "n 3"]:
    """int8: the class of each subject from left to right, as an index into `CLASS_NAMES`; -1 where there is none."""
    rows = [[CLASS_NAMES.index(subject.class_name) for subject in spec.subjects] for spec in specs]
    return np.array([row + [-1] * (MOST_SUBJECTS - len(row)) for row in rows], np.int8)


def apply_with_features(unet: nn.Module, params: Any, *inputs: Any) -> tuple[jax.Array, Features]:
    """The output of the U-Net, and the output of each of its transformers, by the transformer's path."""
    is_kept = lambda module, method: isinstance(module, Transformer2DModel) and method == "__call__"
    answer, kept = unet.apply({"params": params}, *inputs, capture_intermediates=is_kept, mutable=["intermediates"])
    leaves = jax.tree_util.tree_leaves_with_path(kept["intermediates"])
    return answer, {leaf_path(path[:-2]): leaf for path, leaf in leaves}


def silent_heads(features: Mapping[str, Any]) -> dict[str, Float[Array, "c k"]]:
    """The linear layers before training, by path; all zero. features: arrays, or their shapes."""
    return {path: jnp.zeros((leaf.shape[-1], len(CLASS_NAMES))) for path, leaf in features.items()}


def layout_loss(
    heads: Mapping[str, Float[Array, "c k"]],
    features: Features,
    subjects: Int[Array, "b 3"],
    counts: Bool[Array, " b"],
) -> Float[Array, ""]:
    """Cross entropy of the class at a cell: the mean over cells with a subject, then over feature maps.

    counts: the pictures that count.
    """
    losses = []
    for path, feature in features.items():
        wanted = class_map(subjects, feature.shape[1], feature.shape[2])
        scores = jax.nn.standardize(feature, epsilon=1e-4) @ heads[path]
        shown = (wanted >= 0) & counts[:, None, None]
        errors = optax.losses.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(wanted, 0))
        losses.append((errors * shown).sum() / jnp.maximum(shown.sum(), 1))
    return jnp.stack(losses).mean()


def class_map(subjects: Int[Array, "b 3"], height: int, width: int) -> Int[Array, "b {height} {width}"]:
    """The class of the subject whose place covers the centre of the cell, -1 where there is no such subject."""
    inside = jnp.asarray(_inside(height, width))[(subjects >= 0).sum(axis=1)]
    classes = jnp.where(inside, subjects.astype(jnp.int32)[:, :, None, None], -1)
    return classes.max(axis=1)


def _inside(height: int, width: int) -> np.ndarray:
    """bool [subjects in the picture, place, h, w]: is the centre of the cell in the place?"""
    inside = np.zeros((MOST_SUBJECTS + 1, MOST_SUBJECTS, height, width), bool)
    y, x = ((np.arange(n) + 0.5) / n for n in (height, width))
    for count in range(1, MOST_SUBJECTS + 1):
        for place, (left, top, right, bottom) in enumerate(subject_boxes(count)):
            inside[count, place] = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))
    return inside
