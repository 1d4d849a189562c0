"""The worlds of the bench: the pocket world, or a real model with a folder of real concepts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.modular.core.measures import World
from benchmarks.modular.core.methods import RECIPES
from benchmarks.modular.pocket import prompts
from benchmarks.modular.pocket.concepts import draw_concepts, references, write_references
from benchmarks.modular.pocket.measures import Measures
from benchmarks.modular.pocket.words import TRAINING_WORDS
from benchmarks.modular.worlds.encoder_measures import Encoders, RealMeasures
from benchmarks.modular.worlds.folder import concept_entries, fair_recipes, first_concepts, read_folder
from benchmarks.modular.worlds.sentences import SENTENCES, Sentences
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.references import BASIS

POCKET = World(
    concepts=draw_concepts,
    write=write_references,
    recipes=RECIPES,
    tasks=prompts,
    measures=Measures,
    reference=lambda concept: references(concept)[0],
    groups={"individuals": ("person", "animal", "object"), "scenes and styles": ("scene", "style")},
    settings=TRAINING_WORDS,
    basis=BASIS,
)


def real_world(
    sd: StableDiffusion,
    folder: Path,
    settings: Mapping[str, Any],
    blocks: int,
    encoders: Encoders,
    sentences: Path | None = None,
    size: int | None = None,
) -> World:
    """Real concepts, the same for every seed.

    folder: of folders of pictures. settings: of `train.concept`, for all. blocks: slots. sentences: the prompts, if not
    the packaged ones. size: pixels of thumbnails, the model's own if not given.

    Raises: UserError for what is missing or malformed.
    """
    known, side = read_folder(folder, settings), size or sd.image_size
    return World(
        concepts=lambda count, seed: first_concepts(known, count),
        write=concept_entries,
        recipes=fair_recipes(sd, settings, blocks),
        tasks=Sentences.read(sentences or SENTENCES),
        measures=lambda sd, concepts, seed: RealMeasures(concepts, encoders),
        reference=lambda concept: concept.thumbnail(side),
        groups={kind: (kind,) for kind in dict.fromkeys(concept.kind for concept in known)},
        ceiling="*its own pictures*",
    )
