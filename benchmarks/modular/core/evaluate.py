"""One method's adapters, alone and merged: pictures, scores, and merge time. They are kept as JSON and safetensors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save

from benchmarks.modular.core.grid_search import grid_search
from benchmarks.modular.core.measures import Measurer, Scores, Subject, Tasks
from benchmarks.modular.core.methods import Method, trainable
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.pocket import prompts as pocket_prompts
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.pipeline import MergedModel, StableDiffusion

Result = dict[str, Any]
CONDITIONS = "conditions.json"


def keep_to(
    folder: Path,
    sd: StableDiffusion,
    options: Any,
    concepts: Sequence[Subject],
    seed: int,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Write the conditions of the results beside them, so that results of other conditions are not mixed with them.

    folder: where the results are kept. options: has the steps, batch, prompts and sampler_steps. others: more
    conditions, as JSON.
    Raises: UserError if they differ.
    """
    own = {name: getattr(options, name) for name in ("steps", "batch", "prompts", "sampler_steps")} | dict(others or {})
    own |= {"seed": seed, "base": params_digest(sd.params), "concepts": [concept.name for concept in concepts]}
    path = folder / CONDITIONS
    if not path.is_file():
        if any(folder.glob("*.json")):
            raise UserError(
                f"{folder} holds results, but no {CONDITIONS} that says how they were made: use another --out"
            )
        write_json(path, own)
    kept = json.loads(path.read_text())
    for name, value in own.items():
        if kept.get(name) != value:
            raise UserError(
                f"{folder} holds results with {name} {_brief(kept.get(name))}, and now it is {_brief(value)}:"
                " use another --out"
            )


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} from {value[0]} to {value[-1]}"
    return str(value)


@dataclass(frozen=True, eq=False)
class Bench:
    """Draws and scores one seed's concepts.

    folder: where the results are kept. prompts: pictures of each concept. pairs: pictures of two concepts. tasks: gives
    the prompts.
    """

    concepts: Sequence[Subject]
    artist: Artist
    measures: Measurer
    folder: Path
    prompts: int = 8
    pairs: int = 12
    tasks: Tasks = pocket_prompts

    def cached(self, name: str, make: Callable[[], tuple[Result, Mapping[str, np.ndarray]]]) -> Result:
        """Read a result from its file. If there is none, make it and write it there, with its pictures beside it."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            result, pictures = make()
            tensors = {key: np.ascontiguousarray(images) for key, images in pictures.items()}
            write_atomic(path.with_suffix(".safetensors"), save(tensors))
            write_json(path, result)
        return json.loads(path.read_text())

    def pictures(self, name: str) -> dict[str, np.ndarray]:
        """The pictures of a result, by concept or task."""
        return load_file(self.folder / f"{name}.safetensors")

    def base(self) -> tuple[Result, dict[str, np.ndarray]]:
        """The lower bound (the base draws the class) and the upper bound (other drawings of the concept itself)."""
        rows, drawn = {"base": {}, "drawings": {}}, {}
        for concept in self.concepts:
            plain = [p.plain for p in self.tasks.concept_prompts(concept, self.prompts)]
            drawn[concept.name] = self.artist.draw(plain, concept.name, self.artist.sd)
            rows["base"][concept.name] = self.score(concept, drawn[concept.name], plain, ())
            rows["drawings"][concept.name] = _as_json(self.measures.ceiling(concept, self.prompts))
        drawn["plain"] = self.artist.draw(self.tasks.plain_prompts(self.concepts), "plain", self.artist.sd)
        return rows, drawn

    def drawn_pairs(self) -> tuple[Result, dict[str, np.ndarray]]:
        """The upper bound for two concepts in one picture, where it is known."""
        pairs = self.tasks.pair_prompts(self.concepts, self.pairs)
        drawn = self.measures.drawn_pairs(pairs) if pairs else None
        return ({}, {}) if drawn is None else ({"both": self._both(pairs, drawn)}, {"pairs": drawn})

    def alone(self, adapters: Sequence[Adapter]) -> tuple[Result, dict[str, np.ndarray]]:
        """Every concept with its own adapter only."""
        rows, drawn = {}, {}
        for concept, adapter in zip(self.concepts, adapters, strict=True):
            drawn[concept.name], rows[concept.name] = self._concept(
                concept, self.artist.sd.with_adapters([adapter]), ()
            )
        sizes = [trainable(adapter) for adapter in adapters]
        return {"concepts": rows, "parameters": float(np.mean(sizes))}, drawn

    def merged(
        self, method: Method, adapters: Sequence[Adapter], settings: Mapping[str, float]
    ) -> tuple[Result, dict[str, np.ndarray]]:
        """The first concepts, as many as there are adapters, merged by a method with its settings."""
        concepts, sd = self.concepts[: len(adapters)], self.artist.sd
        began = time.perf_counter()
        model = method.merge(sd, adapters, **settings)
        jax.block_until_ready(model.params)
        seconds, rows, drawn = time.perf_counter() - began, {}, {}
        for concept in concepts:
            drawn[concept.name], rows[concept.name] = self._concept(concept, model, concepts)
        result: Result = {"concepts": rows, "seconds": seconds, "settings": dict(settings)}
        plain = self.tasks.plain_prompts(self.concepts)
        drawn["plain"] = self.artist.draw(plain, "plain", model)
        base = self.artist.draw(plain, "plain", sd)
        result["drift"] = (np.abs(drawn["plain"].astype(np.float32) - base).mean((1, 2, 3)) / 255).tolist()
        if len(concepts) == len(self.concepts):
            result |= self._together(model, drawn)
        return result, drawn

    def search(self, method: Method, adapters: Sequence[Adapter]) -> tuple[Result, dict[str, np.ndarray]]:
        """Find the settings of a method at which its merge has the highest identity.

        The search draws every second prompt, with noise of its own. It uses the concepts that are measured, which
        favours the methods that have something to choose.
        """
        concepts = self.concepts[: len(adapters)]
        asked = [(c, prompt) for c in concepts for prompt in self.tasks.concept_prompts(c, self.prompts)[::2]]

        def identity(settings: dict[str, float]) -> float:
            model = method.merge(self.artist.sd, adapters, **settings)
            images = self.artist.draw([prompt.text for _, prompt in asked], "strength", model)
            scores = [
                self.measures.score(concept, image[None], [prompt.plain], ()).identity[0]
                for (concept, prompt), image in zip(asked, images, strict=True)
            ]
            return float(np.mean(scores))

        best, tried = grid_search(method.grid, identity, {"density": 1.0})
        return {"settings": best, "tried": tried}, {}

    def score(self, concept: Subject, pictures: np.ndarray, plain: Sequence[str], merged: Sequence[Subject]) -> Result:
        """Scores as JSON."""
        return _as_json(self.measures.score(concept, pictures, plain, merged))

    def _concept(self, concept: Subject, model: MergedModel, merged: Sequence[Subject]) -> tuple[np.ndarray, Result]:
        prompts = self.tasks.concept_prompts(concept, self.prompts)
        images = self.artist.draw([p.text for p in prompts], concept.name, model)
        return images, self.score(concept, images, [p.plain for p in prompts], merged)

    def _together(self, model: MergedModel, drawn: dict[str, np.ndarray]) -> Result:
        """Two concepts in one picture, and individuals in a style that is a concept.

        Both are drawn by the prompt alone, and with a region for each concept. Pairs are then refined too.
        """
        pairs = self.tasks.pair_prompts(self.concepts, self.pairs)
        stylised = self.tasks.stylised_prompts(self.concepts, self.pairs)
        found: Result = {}
        if pairs:
            for task, apart in (("pairs", False), ("apart", True)):
                drawn[task] = self.artist.draw([p.text for p in pairs], "pairs", model, apart)
            drawn["refined"] = self.artist.refine(drawn["apart"], [p.text for p in pairs], model)
            found |= {"both": self._both(pairs, drawn["pairs"])}
            found |= {task: self._both(pairs, drawn[task]) for task in ("apart", "refined")}
        if stylised:
            for task, apart in (("stylised", False), ("stylised_apart", True)):
                drawn[task] = self.artist.draw([p.text for p in stylised], "stylised", model, apart)
                found[task] = [self._stylised(p, drawn[task][[i]]) for i, p in enumerate(stylised)]
        return found

    def _both(self, pairs: Sequence[Any], pictures: np.ndarray) -> list[bool]:
        """Whether each picture shows both of its pair."""
        return [bool(self.measures.both_there(p, pictures[[i]])[0]) for i, p in enumerate(pairs)]

    def _stylised(self, pair: Any, picture: np.ndarray) -> dict[str, float]:
        """Identity of the individual and of the style."""
        scores = [self.measures.score(c, picture, ["a picture"], ()) for c in (pair.first, pair.second)]
        return {"individual": float(scores[0].identity[0]), "style": float(scores[1].identity[0])}


def _as_json(scores: Scores) -> Result:
    return {name: [float(v) for v in values] for name, values in scores._asdict().items()}
