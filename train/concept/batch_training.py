"""Trains any number of concepts in one program. Each gets the same result as if it were trained alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from blocklora_jax.adapters.basis import TextBasis
from blocklora_jax.command_line.compile_notice import compiling_is_announced
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.pipeline import StableDiffusion
from train.concept.basis_record import basis_record, check_same_basis
from train.concept.common_settings import check_equal, check_one_shape
from train.concept.compiled_step import compile_step
from train.concept.config import ConceptConfig
from train.concept.followers import check_extras, make_followers
from train.concept.group_record import OF_ONE, write_group_record
from train.concept.input_record import KEY as INPUTS
from train.concept.input_record import check_same_inputs, input_record
from train.concept.own_directions import step_params
from train.concept.prepare import Concept, prepare_concept, public_settings
from train.concept.preview import make_preview
from train.concept.report.write import write_report
from train.concept.spread import Spread, spread_over
from train.concept.state import Trainable, TrainState, init_state
from train.engine.followers.follower import Follower, closed_at_end
from train.engine.loop import LoopConfig, run_loop
from train.engine.parallel import gather
from train.engine.platform import all_hosts, first_host_does, is_first_host

StepOfAll = Callable[[TrainState, Any], tuple[TrainState, dict]]


def train_together(
    configs: Sequence[ConceptConfig], sd: StableDiffusion, basis: TextBasis | None, run_dir: Path
) -> list[Path]:
    """Train all concepts at the same time, on all devices; returns the paths of their adapter files.

    Adapters, config.json, contact sheets and previews go to each concept's `out`, metrics and checkpoints to `run_dir`.
    basis: the one that all of `configs` name, see `basis_of`.

    Raises: UserError for settings that must be equal and are not, pictures that cannot be used, or a run that diverges.
    """
    config = check_equal(configs)
    check_one_shape(configs)
    check_extras(config.run)
    spread = _spread(configs)
    records: list[dict[str, Any]] = []
    first_host_does(lambda: records.extend(_check_same_files(configs, sd, basis)))
    concepts = [prepare_concept(each, sd, basis) for each in configs]
    step_all, states = _make_step(concepts, sd, basis, spread)
    preview = _Preview(concepts, sd)
    # As late as possible: if the run cannot begin, it must not leave a folder that a second try would refuse.
    if is_first_host():
        _write_beginnings(concepts, records)
        if run_dir != config.out:
            write_group_record(configs, run_dir)
    label = config.name if len(configs) == 1 else f"{len(configs)} concepts"
    if is_first_host():
        preview.followers += make_followers(config.run, run_dir, label, public_settings(config))
    with closed_at_end(preview.followers):
        state = run_loop(
            LoopConfig(
                steps=config.steps, log_every=config.run.log_every, save_every=config.run.save_every,
                preview_every=config.run.preview_every, resume=config.run.resume,
            ),
            run_dir,
            spread.place_states(states),
            step_all,
            lambda index: spread.place_batches([concept.batch_at(index) for concept in concepts]),
            preview.show,
            label=label,
            to_save=spread.without_copies,
            from_saved=spread.with_copies,
            followers=preview.followers,
        )  # fmt: skip
        paths = save_adapters(concepts, state)
        preview.show(config.steps, state)
    for concept in concepts if is_first_host() and config.run.report else ():
        write_report(concept.config.out, run_dir)
    # Only the first host draws the preview. Without this, the other hosts would reach their end and not wait for it.
    all_hosts(True)
    return paths


class _Preview:
    """Draws the concepts of a run, and tells its followers. followers: filled when the run begins."""

    def __init__(self, concepts: Sequence[Concept], sd: StableDiffusion) -> None:
        self._concepts = concepts
        self._draw = [make_preview(concept.config, sd) for concept in concepts]
        self.followers: list[Follower] = []

    def show(self, step: int, state: TrainState) -> None:
        """Draw all concepts, if the run has previews."""
        if not self._concepts[0].config.run.previews:
            return
        parts = trained_parts(state, len(self._concepts))
        for concept, trained, draw in zip(self._concepts, parts, self._draw, strict=True):
            if is_first_host():
                grid = draw(step, concept.to_adapter(trained))
                for follower in self.followers:
                    follower.preview(step, concept.config.name, grid)


def _spread(configs: Sequence[ConceptConfig]) -> Spread:
    """How the concepts are spread over all devices; the first host says if that needs padding."""
    config, accumulate = configs[0], configs[0].optimizer.accumulate
    rows = config.optimizer.batch, config.random_rows // accumulate
    spread = spread_over(jax.devices(), len(configs), rows, config.run.mapper, accumulate)
    if is_first_host() and (note := spread.padding_note(config.optimizer.batch)):
        print(note, file=sys.stderr, flush=True)
    return spread


def _make_step(
    concepts: Sequence[Concept], sd: StableDiffusion, basis: TextBasis | None, spread: Spread
) -> tuple[StepOfAll, list[TrainState]]:
    """The step of all concepts, and their first states."""
    config, names = concepts[0].config, [concept.config.name for concept in concepts]
    optimizer, step = compile_step(config, sd.models, sd.schedule, spread)
    params = spread.place_params(step_params(config, sd, basis))
    shapes: set[tuple[int, ...]] = set()

    def step_all(state: TrainState, batch: Any) -> tuple[TrainState, dict]:
        # The loop announces that the first step is compiled. Every further shape is compiled too.
        is_new, _ = bool(shapes) and batch.latents.shape not in shapes, shapes.add(batch.latents.shape)
        with compiling_is_announced("the training step for another shape") if is_new else nullcontext():
            state, metrics = step(state, batch, params)
        return state, summarise(gather(metrics), names)

    return step_all, [init_state(c.trainable, c.masks, optimizer, jax.random.key(c.config.run.seed)) for c in concepts]


def _check_same_files(
    configs: Sequence[ConceptConfig], sd: StableDiffusion, basis: TextBasis | None
) -> list[dict[str, Any]]:
    """What config.json records of the files that each concept reads.

    Raises: UserError if a run is resumed with other files.
    """
    check_same_basis(configs, basis)
    inputs = [input_record(config, sd) for config in configs]
    check_same_inputs(configs, inputs)
    return [basis_record(c, basis) | {INPUTS: digests} for c, digests in zip(configs, inputs, strict=True)]


def _write_beginnings(concepts: Sequence[Concept], records: Sequence[dict[str, Any]]) -> None:
    """Write what is known of the concepts before the first step. records: of the files that they read."""
    for concept, record in zip(concepts, records, strict=True):
        write_json(concept.config.out / "config.json", concept.config.to_json() | record)
    for concept in concepts:
        write_atomic(concept.config.out / "contact_sheet.png", concept.contact_sheet)
        print(f"{concept.config.token}: {concept.notes}", file=sys.stderr, flush=True)


def summarise(metrics: dict[str, jax.Array], names: Sequence[str]) -> dict[str, jax.Array]:
    """Means over the concepts of metrics, and the diffusion loss of each concept if there are several.

    metrics: [k], or longer with copies of the last concept at the end.
    """
    means = {name: value[: len(names)].mean() for name, value in metrics.items()}
    if len(names) == 1:
        return means
    return means | {f"{OF_ONE}{name}": metrics["diffusion_loss"][i] for i, name in enumerate(names)}


def trained_parts(state: TrainState, count: int) -> list[Trainable]:
    """The parameters of each concept that are saved, as NumPy arrays; to be called on every host of a pod."""
    trained = jax.device_get(gather(state.saved))
    return [jax.tree.map(lambda x, i=i: x[i], trained) for i in range(count)]


def save_adapters(concepts: Sequence[Concept], state: TrainState) -> list[Path]:
    """Write `adapter.safetensors` of each concept; returns the paths."""
    paths = [concept.config.out / "adapter.safetensors" for concept in concepts]
    for concept, trained, path in zip(concepts, trained_parts(state, len(concepts)), paths, strict=True):
        if is_first_host():
            concept.to_adapter(trained).save(path, concept.config.run.save_dtype)
    return paths
