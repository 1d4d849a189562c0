"""The scores of pictures, by the pocket model's own CLIP and by the judge.

Definitions. The references' centroid is the unit mean of their unit embeddings.
    text      cosine of CLIP's picture and text embeddings, the text without tokens
    image     mean cosine of CLIP's embedding to the references'
    identity  cosine of the judge's embedding (of the subject, scene or style, by the concept's kind) to the centroid
    right     whether identity is higher than the cosine to any other concept's centroid of that kind, and to the
              centroid of any of 19 distractors of the class
    leakage   greatest such cosine to another concept of the same merge
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.modular.pocket.concepts import draw_distractors, references
from benchmarks.modular.pocket.prompts import Pair
from blocklora_jax.checkpoints.image_encoder import load_image_encoder
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_vision import CLIPVisionModel
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.concepts import Concept, concept_pictures
from blocklora_jax.pocket.judge import load_judge
from blocklora_jax.pocket.world import draw
from blocklora_jax.pocket.world.specs import Individual, PictureSpec
from train.base.clip import pool_text

DISTRACTORS = 19


class Scores(NamedTuple):
    """Per picture, fp32 [n]; see the module."""

    text: np.ndarray
    image: np.ndarray
    identity: np.ndarray
    right: np.ndarray
    leakage: np.ndarray


@dataclass(frozen=True, eq=False)
class Measures:
    """The measures of pictures of `concepts`. seed: of the distractors."""

    sd: StableDiffusion
    concepts: Sequence[Concept]
    seed: int = 0

    @cached_property
    def judge(self):
        """The networks that know individuals, scenes and styles."""
        return load_judge()

    @cached_property
    def _clip(self):
        config, params, projection = load_image_encoder(self.sd.checkpoint.tokenizer.parent / "image_encoder")
        model = CLIPVisionModel(config)
        return jax.jit(lambda x: model.apply({"params": params}, x)), jnp.asarray(projection)

    @cached_property
    def _own(self) -> dict[str, np.ndarray]:
        return {c.name: self.centroid(references(c), c.kind) for c in self.concepts}

    @cached_property
    def _distractors(self) -> dict[str, np.ndarray]:
        return {
            c.name: np.stack(
                [self.centroid(references(d), c.kind) for d in draw_distractors(c, DISTRACTORS, self.seed)]
            )
            for c in self.concepts
        }

    @cached_property
    def _reference_images(self) -> dict[str, np.ndarray]:
        return {c.name: self.clip_images(references(c)) for c in self.concepts}

    def embed(self, pictures: np.ndarray, kind: str) -> np.ndarray:
        """The judge's unit embeddings [n, d] of a concept's kind."""
        embeddings = self.judge.embed(pictures)
        return {"scene": embeddings.scene, "style": embeddings.style}.get(kind, embeddings.subject)

    def centroid(self, pictures: np.ndarray, kind: str) -> np.ndarray:
        """The unit mean [d] of the embeddings."""
        mean = self.embed(pictures, kind).mean(0)
        return mean / np.linalg.norm(mean)

    def clip_images(self, pictures: np.ndarray) -> np.ndarray:
        """CLIP's unit embeddings [n, p] of pictures."""
        encode, _ = self._clip
        return _unit(np.asarray(encode(jnp.asarray(pictures, jnp.float32) / 127.5 - 1)))

    def clip_texts(self, prompts: Sequence[str]) -> np.ndarray:
        """CLIP's unit embeddings [n, p] of prompts."""
        text, ids = self.sd.models.text_encoder, self.sd.tokenizer.encode(list(prompts))
        states = apply_model(text, self.sd.params["text_encoder"], jnp.asarray(ids))
        return _unit(np.asarray(pool_text(states, jnp.asarray(ids), text.config.vocab_size - 1) @ self._clip[1]))

    def score(self, concept: Concept, pictures: np.ndarray, plain: Sequence[str], merged: Sequence[Concept]) -> Scores:
        """The scores of pictures of a concept, while `merged` are in the model. plain: the prompts without tokens."""
        images, found = self.clip_images(pictures), self.embed(pictures, concept.kind)
        identity = found @ self._own[concept.name]
        rivals = np.concatenate([self.rivals(concept), self._distractors[concept.name]])
        present = [self._own[c.name] for c in merged if c.name != concept.name and _sort(c) == _sort(concept)]
        return Scores(
            text=np.sum(images * self.clip_texts(plain), axis=1),
            image=(images @ self._reference_images[concept.name].T).mean(1),
            identity=identity,
            right=(identity > (found @ rivals.T).max(1)).astype(np.float32),
            leakage=(found @ np.stack(present).T).max(1) if present else np.full(len(found), np.nan, np.float32),
        )

    def ceiling(self, concept: Concept, count: int) -> Scores:
        """The scores of other drawings of a concept."""
        real, words = concept_pictures(concept, count, seed=1)
        return self.score(concept, real, [w.replace(f"{concept.token} ", "") for w in words], ())

    def rivals(self, concept: Concept) -> np.ndarray:
        """Centroids [k, d] of all other concepts of that sort, merged or not."""
        size = len(self._own[concept.name])
        same = [self._own[c.name] for c in self.concepts if c.name != concept.name and _sort(c) == _sort(concept)]
        return np.stack(same) if same else np.zeros((0, size), np.float32)

    def drawn_pairs(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Drawings of what `pair_prompts` ask for."""
        drawn = []
        for index, pair in enumerate(pairs):
            subjects = [concept.thing for concept in (pair.first, pair.second) if isinstance(concept.thing, Individual)]
            drawn.append(draw(PictureSpec(tuple(subjects), pair.place, seed=index)))
        return np.stack(drawn)

    def both_there(self, pair: Pair, pictures: np.ndarray) -> np.ndarray:
        """Whether the halves of a picture show the pair's two individuals better than any other concept: bool [n]."""
        halves = [self.embed(crop_half(pictures, side), "person") for side in (0, 1)]
        known = [c for c in self.concepts if _sort(c) == "subject"]
        table = np.stack([self._own[c.name] for c in known])
        best = np.stack([(half @ table.T).argmax(1) for half in halves])
        a, b = (known.index(concept) for concept in (pair.first, pair.second))
        return ((best[0] == a) & (best[1] == b)) | ((best[0] == b) & (best[1] == a))


def crop_half(pictures: np.ndarray, side: int) -> np.ndarray:
    """The lower left (0) or right (1) square of pictures, where one of two subjects is, at the pictures' own size."""
    size = pictures.shape[1]
    edge = size * 5 // 8
    left = (size - edge) * side
    boxes = pictures[:, size - edge :, left : left + edge]
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in boxes])


def _sort(concept: Concept) -> str:
    """Which embedding tells the concept from others."""
    return concept.kind if concept.kind in ("scene", "style") else "subject"


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
