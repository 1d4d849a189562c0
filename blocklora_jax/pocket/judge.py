"""The judge: a small network that measures pictures of the pocket world, drawn or generated.

It gives unit vectors for the individual, the variant of the scene and the variant of the style in a picture; their
cosines compare two pictures. It also gives probabilities of classes, scenes and styles. `train.base.judge` trains it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.checkpoints.weights import cast_tensors
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.tensor_file import open_tensors, save_tensors
from blocklora_jax.io.tree_paths import flatten_params, unflatten_params
from blocklora_jax.models.apply import apply_model
from blocklora_jax.pocket.world.specs import CLASSES, PLAIN, SCENES, STYLES

FOLDER = Path(__file__).parent / "weights" / "judge"
CLASS_NAMES = tuple(CLASSES)
SCENE_NAMES = (*SCENES, PLAIN)
STYLE_NAMES = STYLES
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The sizes of the network, and the names for its probabilities.

    widths: channels at a half, a quarter, … of the picture's side. depths: convolutions at each of these sizes.
    """

    image_size: int = 64
    widths: tuple[int, ...] = (32, 64, 96, 112)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    subject_size: int = 128
    scene_size: int = 32
    style_size: int = 32
    classes: tuple[str, ...] = CLASS_NAMES
    scenes: tuple[str, ...] = SCENE_NAMES
    styles: tuple[str, ...] = STYLE_NAMES


class Embeddings(NamedTuple):
    """Unit vectors.

    subject: [n, 128], distinguishes individuals. scene, style: [n, d], distinguish variants of a scene and of a style.
    """

    subject: Any
    scene: Any
    style: Any


class Labels(NamedTuple):
    """Probabilities for each picture.

    classes: that each class is in the picture, in the order of `CLASS_NAMES`.
    scene, style: in the order of `SCENE_NAMES` (plain is the last) and `STYLE_NAMES`. Each adds up to one.
    """

    classes: Any
    scene: Any
    style: Any


class JudgeNetwork(nn.Module):
    """Residual convolutions with two-by-two patch merging. All heads read the mean and the maximum of the last map."""

    config: JudgeConfig

    @nn.compact
    def __call__(self, pictures: Float[Array, "b s s 3"]) -> tuple[Embeddings, Labels]:
        """Unit embeddings and logits of pictures in -1..1."""
        config, x = self.config, pictures
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            x = nn.Dense(width, name=f"merge_{stage}")(merge_patches(x))
            for i in range(depth):
                normed = nn.GroupNorm(8, name=f"norm_{stage}_{i}")(x)
                x = x + nn.Conv(width, (3, 3), use_bias=False, name=f"conv_{stage}_{i}")(nn.silu(normed))
        x = nn.silu(nn.GroupNorm(8, name="norm_out")(x))
        pooled = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
        self.sow("intermediates", "pooled", pooled)  # for heads that only training has
        sizes = {"subject": config.subject_size, "scene": config.scene_size, "style": config.style_size}
        names = {"classes": config.classes, "scenes": config.scenes, "styles": config.styles}
        embeddings = [to_unit(nn.Dense(size, name=f"embed_{name}")(pooled)) for name, size in sizes.items()]
        logits = [nn.Dense(len(known), name=f"name_{name}")(pooled) for name, known in names.items()]
        return Embeddings(*embeddings), Labels(*logits)


def merge_patches(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c4"]:
    """Merges every two-by-two patch into one position with four times the channels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def to_unit(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Rows scaled to length one."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


@functools.partial(jax.jit, static_argnums=0)
def _measure(config: JudgeConfig, params: Mapping[str, Any], pictures: Array) -> tuple[Embeddings, Labels]:
    embeddings, logits = apply_model(JudgeNetwork(config), params, pictures.astype(jnp.float32) / 127.5 - 1.0)
    labels = Labels(jax.nn.sigmoid(logits.classes), jax.nn.softmax(logits.scene), jax.nn.softmax(logits.style))
    return embeddings, labels


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A trained judge.

    params: parameters of `JudgeNetwork`, fp32. training: how it was trained (`seed` and `individuals` of its pictures,
    …), as plain JSON values.

    >>> judge = load_judge()
    >>> judge.embed(np.zeros((2, 64, 64, 3), np.uint8)).subject.shape
    (2, 128)
    """

    config: JudgeConfig
    params: Mapping[str, Any] = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict)

    def embed(self, pictures: np.ndarray) -> Embeddings:
        """Unit vectors, fp32 NumPy, for pictures uint8 [n, 64, 64, 3]. Raises: UserError for another shape."""
        return self._run(pictures)[0]

    def classify(self, pictures: np.ndarray) -> Labels:
        """Probabilities, fp32 NumPy, for pictures uint8 [n, 64, 64, 3]. Raises: UserError for another shape."""
        return self._run(pictures)[1]

    def _run(self, pictures: np.ndarray) -> tuple[Embeddings, Labels]:
        side = self.config.image_size
        if pictures.ndim != 4 or pictures.shape[1:] != (side, side, 3) or pictures.dtype != np.uint8:
            raise UserError(
                f"the judge measures pictures uint8 [n, {side}, {side}, 3], not {pictures.dtype} {list(pictures.shape)}"
            )
        # All batches have one size (the last is padded), so that one compilation is enough for any number of pictures.
        chunks = []
        for start in range(0, max(1, len(pictures)), _BATCH):
            chunk = pictures[start : start + _BATCH]
            padded = np.zeros((_BATCH, *pictures.shape[1:]), np.uint8)
            padded[: len(chunk)] = chunk
            chunks.append(jax.device_get(_measure(self.config, self.params, padded)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(pictures)], *chunks)


def load_judge(folder: Path = FOLDER) -> Judge:
    """The packaged judge, or the one in `folder`.

    Raises: UserError if there is none, if its files do not fit each other, or if it was trained on a world with other
        names.
    """
    try:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError
        raw: dict[str, Any] = read_json(folder / "config.json")
        training = raw.pop("training", {})
        # JSON has lists where the configuration has tuples.
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
        config = JudgeConfig(**fields)
    except FileNotFoundError as error:
        advice = "python -m train.base --start pocket --only-judge trains one"
        raise UserError(f"there is no judge in {folder}: {advice}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} is not the config of a judge ({error}): restore it") from error
    for name in ("classes", "scenes", "styles"):
        if getattr(config, name) != getattr(JudgeConfig(), name):
            raise UserError(f"the judge in {folder} knows other {name} than the pocket world has now: train it again")
    with open_tensors(folder / "model.safetensors", "judge") as file:
        tensors = cast_tensors(file.read_all(), "float32")
    expected = {key: leaf.shape for key, leaf in flatten_params(_abstract_params(config)).items()}
    stored = {key: tensor.shape for key, tensor in tensors.items()}
    if wrong := sorted(key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key)):
        problems = "; ".join(f"{key} is {stored.get(key)}, should be {expected.get(key)}" for key in wrong)
        raise UserError(f"{folder / 'model.safetensors'} does not fit the config.json beside it: {problems}")
    return Judge(config=config, params=unflatten_params(tensors), training=training)


def _abstract_params(config: JudgeConfig) -> dict[str, Any]:
    pictures = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    return jax.eval_shape(JudgeNetwork(config).init, jax.random.key(0), pictures)["params"]


def save_judge(folder: Path, judge: Judge) -> None:
    """Write `config.json` and `model.safetensors`, in fp16 with Flax paths as keys."""
    tensors = {key: np.asarray(value) for key, value in flatten_params(judge.params).items()}
    save_tensors(folder / "model.safetensors", cast_tensors(tensors, "float16"), {})
    write_json(folder / "config.json", {**dataclasses.asdict(judge.config), "training": dict(judge.training)})
