"""The scores of pictures of real concepts, by CLIP, DINOv2 and, for people, a face encoder.

Definitions. A cosine to the references is the mean over the concept's own pictures.
    text         cosine of CLIP ViT-B/32's picture and text embeddings, the text with the class noun for the concept
    image        mean over the references of max(cosine, 0) of ViT-B/32's picture embeddings: image alignment
    identity     people: cosine of the face encoder's embeddings, of the face that is most like the references' (of each
                 the largest face); 0 where no face is found. Others, and people without a face encoder: DINOv2's cosine
    right        people: whether identity is at least `same_person`, so that the mean is the rate at which the person is
                 detected. Others: whether identity is more than to any other concept of the kind (not a number without
                 one)
    leakage      greatest such identity of another concept of the kind in the same merge (not a number without one)
    clip_score   max(2.5 cosine, 0) of ViT-B/32 to "A photo depicts" and the text: text alignment
    text_large, image_large   as text and image, of ViT-L/14
    dino         DINOv2's cosine, for all kinds
The upper bound is each reference picture against the other references.

Source: image (w = 1) and clip_score (w = 2.5, that prefix, ViT-B/32) as in the evaluation scripts that Mix-of-Show
published; the rate of detection is Orthogonal Adaptation's identity alignment (its face encoder and threshold are not
published: ours are OpenCV's); dino is DreamBooth's subject fidelity with DINOv2 for DINO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.modular.worlds.encoders import ClipEncoder, ImageEncoder
from benchmarks.modular.worlds.faces import SAME_PERSON, FaceEncoder, is_installed
from benchmarks.modular.worlds.folder import RealConcept
from benchmarks.modular.worlds.sentences import Pair
from blocklora_jax.errors import UserError

PREFIX, CLIP_SCORE = "A photo depicts ", 2.5


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The models that measure: hub ids, or folders in transformers' format."""

    clip: str = "openai/clip-vit-base-patch32"
    clip_large: str = "openai/clip-vit-large-patch14"
    dino: str = "facebook/dinov2-base"
    faces: Literal["auto", "opencv", "none"] = "auto"
    """How people are recognised: by faces (auto: if the extra "faces" is installed), else by DINOv2."""
    face_detector: str = "opencv/face_detection_yunet"
    face_encoder: str = "opencv/face_recognition_sface"
    same_person: float = SAME_PERSON
    """The least cosine at which a face counts as the person's."""

    @property
    def sees_faces(self) -> bool:
        """Whether people are recognised by their faces."""
        return self.faces == "opencv" or (self.faces == "auto" and is_installed())

    @property
    def told(self) -> str:
        """Who tells people apart, for the report."""
        if self.sees_faces:
            people = f"faces by {self.face_encoder}, one person from a cosine of {self.same_person:g} on"
            return f"people: {people}; others: {self.dino}"
        return f"no face encoder: {self.dino} stands in for people too, so `recognised` is no rate of detected faces"


class RealScores(NamedTuple):
    """Per picture, fp32 [n]; see the module."""

    text: np.ndarray
    image: np.ndarray
    identity: np.ndarray
    right: np.ndarray
    leakage: np.ndarray
    clip_score: np.ndarray
    text_large: np.ndarray
    image_large: np.ndarray
    dino: np.ndarray


class Looks(NamedTuple):
    """Embeddings of n pictures: [n, d] each, and of the faces in each [k, d]."""

    clip: np.ndarray
    large: np.ndarray
    dino: np.ndarray
    faces: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class RealMeasures:
    """The measures of pictures of `concepts`."""

    concepts: Sequence[RealConcept]
    encoders: Encoders = field(default_factory=Encoders)

    @cached_property
    def clip(self) -> ClipEncoder:
        """ViT-B/32."""
        return ClipEncoder(self.encoders.clip)

    @cached_property
    def large(self) -> ClipEncoder:
        """ViT-L/14."""
        return ClipEncoder(self.encoders.clip_large)

    @cached_property
    def dino(self) -> ImageEncoder:
        """DINOv2."""
        return ImageEncoder(self.encoders.dino)

    @cached_property
    def face(self) -> FaceEncoder:
        """Who knows people."""
        return FaceEncoder(self.encoders.face_detector, self.encoders.face_encoder)

    @cached_property
    def _own(self) -> dict[str, Looks]:
        return {c.name: self._references(c) for c in self.concepts}

    def look(self, pictures: Sequence[Image.Image], by_face: bool) -> Looks:
        """All embeddings of RGB pictures."""
        found = [self.face.faces(picture) for picture in pictures] if by_face else []
        return Looks(self.clip.images(pictures), self.large.images(pictures), self.dino.images(pictures), found)

    def score(
        self, concept: RealConcept, pictures: np.ndarray, plain: Sequence[str], merged: Sequence[RealConcept]
    ) -> RealScores:
        """Scores of a concept's pictures, uint8 [n, h, w, 3], with `merged` in the model. plain: tokenless prompts."""
        looks = self.look([Image.fromarray(p) for p in pictures], self._by_face(concept))
        return self._score(concept, looks, self._own[concept.name], list(plain), merged)

    def ceiling(self, concept: RealConcept, count: int) -> RealScores:
        """The scores of the concept's own pictures, each against the others; not a number where there is only one."""
        own, rows = self._own[concept.name], []
        for i, caption in enumerate(concept.plain_captions):
            one = Looks(own.clip[[i]], own.large[[i]], own.dino[[i]], own.faces[i : i + 1])
            clip, large, dino = (np.delete(x, i, 0) for x in own[:3])
            rest = Looks(clip, large, dino, own.faces[:i] + own.faces[i + 1 :])
            rows.append(self._score(concept, one, rest, [caption], ()))
        return RealScores(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    def drawn_pairs(self, pairs: Sequence[Pair]) -> None:
        """There are no real pictures of pairs."""

    def both_there(self, pair: Pair, pictures: np.ndarray) -> np.ndarray:
        """Whether each picture shows both of a pair: bool [n].

        A person is there if a face is more like theirs than anybody's, and enough; another if the left or the right
        part of the picture is more like it, to DINOv2, than like any other person or object.
        """
        return self._is_there(pair.first, pictures) & self._is_there(pair.second, pictures)

    def _is_there(self, concept: RealConcept, pictures: np.ndarray) -> np.ndarray:
        if self._by_face(concept):
            people = [c for c in self.concepts if c.kind == "person"]
            found = [self.face.faces(Image.fromarray(p)) for p in pictures]
            return np.array([self._has_face(concept, people, f) for f in found])
        known = [c for c in self.concepts if c.kind in ("person", "object")]
        edge = pictures.shape[2] * 5 // 8
        halves = pictures[:, :, :edge], pictures[:, :, -edge:]
        looks = [self.dino.images([Image.fromarray(p) for p in half]) for half in halves]
        best = [
            np.stack([_mean_cosine(x, self._own[c.name].dino) for c in known]).argmax(0) == known.index(concept)
            for x in looks
        ]
        return best[0] | best[1]

    def _has_face(self, concept: RealConcept, people: Sequence[RealConcept], found: np.ndarray) -> bool:
        if not len(found):
            return False
        table = np.stack([_mean_cosine(found, _largest(self._own[c.name])) for c in people])
        own = table[people.index(concept)]
        return bool(np.any((own >= self.encoders.same_person) & (own == table.max(0))))

    def _by_face(self, concept: RealConcept) -> bool:
        return concept.kind == "person" and self.encoders.sees_faces

    def _references(self, concept: RealConcept) -> Looks:
        looks = self.look(concept.pictures, self._by_face(concept))
        if self._by_face(concept) and not any(len(found) for found in looks.faces):
            raise UserError(
                f"{concept.folder}: no face is found in its pictures: write `kind: object` into its concept.yaml,"
                " or give --encoders.faces none"
            )
        return looks

    def _score(
        self, concept: RealConcept, looks: Looks, own: Looks, plain: list[str], merged: Sequence[RealConcept]
    ) -> RealScores:
        identity, same_kind = self._identity(concept, looks, own), [c for c in self.concepts if c.kind == concept.kind]
        others = {c.name: self._identity(c, looks, self._own[c.name]) for c in same_kind if c.name != concept.name}
        rivals = _greatest(list(others.values()), len(identity))
        if self._by_face(concept):
            right = (identity >= self.encoders.same_person).astype(np.float32)
        else:
            right = np.where(np.isnan(rivals), np.nan, identity > rivals).astype(np.float32)
        texts, large_texts = self.clip.texts(plain), self.large.texts(plain)
        depicted = self.clip.texts([PREFIX + words for words in plain])
        return RealScores(
            text=np.sum(looks.clip * texts, axis=1),
            image=_mean_cosine(looks.clip, own.clip, floor=0.0),
            identity=identity,
            right=right,
            leakage=_greatest([others[c.name] for c in merged if c.name in others], len(identity)),
            clip_score=CLIP_SCORE * np.maximum(np.sum(looks.clip * depicted, axis=1), 0),
            text_large=np.sum(looks.large * large_texts, axis=1),
            image_large=_mean_cosine(looks.large, own.large, floor=0.0),
            dino=_mean_cosine(looks.dino, own.dino),
        )

    def _identity(self, concept: RealConcept, looks: Looks, own: Looks) -> np.ndarray:
        """Cosine [n] to a concept's references."""
        if not self._by_face(concept):
            return _mean_cosine(looks.dino, own.dino)
        known = _largest(own)
        return np.array([_mean_cosine(f, known).max() if len(f) else 0.0 for f in looks.faces], np.float32)


def _largest(looks: Looks) -> np.ndarray:
    """The largest face [m, d] of each picture that has one."""
    return np.stack([found[0] for found in looks.faces if len(found)] or [np.full(128, np.nan, np.float32)])


def _mean_cosine(x: np.ndarray, references: np.ndarray, floor: float = -1.0) -> np.ndarray:
    """Mean over the references [m, d] of max(cosine, floor), of unit vectors x [n, d]: fp32 [n]."""
    if not len(references):
        return np.full(len(x), np.nan, np.float32)
    return np.maximum(x @ references.T, floor).mean(1)


def _greatest(rows: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The greatest of each column, fp32 [count]; not a number where there is no row."""
    return np.max(rows, axis=0) if len(rows) else np.full(count, np.nan, np.float32)
