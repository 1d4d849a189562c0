"""Teach a model one concept: `python -m train.concept --images DIR --token '<ada>' --class-noun woman --out runs/ada`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from blocklora_jax.adapters.lora import Adapter, AdapterInfo, LoRATree, apply_masks, block_masks, init_lora
from blocklora_jax.adapters.partition import Partition, slot_from_name
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command import run
from blocklora_jax.diffusion.models import token_table, with_token_rows
from blocklora_jax.diffusion.text import encode_text, ids_of
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic, write_json
from blocklora_jax.grid import picture_grid, png_bytes
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.random_prompts import last_token_ids
from blocklora_jax.registry.store import read_registry
from merge.compose import compose
from train.config import ConceptConfig, parse_args
from train.data import ConceptData, load_concept_data, make_batches
from train.loop import LoopConfig, run_loop
from train.parallel import check_rows, map_step, place_batch, place_state
from train.platform import compute_dtype, is_first_host, select_platform
from train.registered import check_base, use_claim
from train.state import Trainable, TrainState, init_state, make_optimizer, stack
from train.step import make_step
from train.text import foreign_embeddings, own_foreign_ids, tower_key, with_table
from train.words import preview_prompts

# What a resumed run may do otherwise than before and still compute the same, up to rounding.
MAY_CHANGE = frozenset(
    "out resume registry save_dtype log_every save_every preview_every preview_prompts tensorboard tpu gpu cpu mapper remat".split()
)


def train_concept(config: ConceptConfig, platform: str) -> Path:
    """Train one concept; returns the path of its adapter file.

    Raises: UserError for anything wrong with the configuration, the pictures, or a run that diverges.
    """
    registry = read_registry(config.registry) if config.registry else None
    config = use_claim(config, registry)
    check_run_dir(config)
    # On a pod nobody writes into the folder before everybody has looked.
    multihost_utils.sync_global_devices("run folder checked")
    sd = StableDiffusion.from_pretrained(
        config.model, variant=config.variant, dtype=compute_dtype(config.precision, platform), remat=config.remat
    )
    check_base(registry, params_digest(sd.params), config.model)
    devices = jax.devices()
    for rows, name in ((config.batch, "--batch"), (config.random_rows, "--random-batch")):
        check_rows(rows, len(devices), name)
    data = load_concept_data(config, sd)
    info, masks, trainable = init_concept(config, sd)
    data = cache_states(config, sd, data, trainable)
    optimizer = make_optimizer(config)
    step = map_step(make_step(sd.models, sd.schedule, config, masks, optimizer), devices, config.mapper)
    state = place_state(stack([init_state(trainable, optimizer, jax.random.key(config.seed))]), devices)
    batch_at = make_batches(config, data)
    # pmap splits the rows itself.
    place = partial(place_batch, devices=devices) if config.mapper == "shard_map" else lambda batch: batch

    def to_adapter(state: TrainState) -> Adapter:
        trained = jax.tree.map(lambda x: x[0], jax.device_get(state.trainable))
        tokens, tokens_2 = (
            {} if vectors is None or not len(vectors) else {config.token: np.asarray(vectors)}
            for vectors in (trained.tokens, trained.tokens_2)
        )
        lora = jax.tree.map(np.asarray, apply_masks(trained.lora, masks))
        return Adapter(lora=lora, tokens=tokens, tokens_2=tokens_2, info=info)

    preview = make_preview(config, sd, to_adapter)
    loop = LoopConfig(
        steps=config.steps, log_every=config.log_every, save_every=config.save_every, preview_every=config.preview_every,
        resume=config.resume, tensorboard=config.tensorboard,
    )  # fmt: skip
    # Last of all: a run that could not begin leaves no folder that a second try would find taken.
    if is_first_host():
        write_json(config.out / "config.json", config.to_json())
    state = run_loop(
        loop,
        config.out,
        state,
        lambda state, batch: _first(step(state, batch, sd.params)),
        lambda index: place(jax.tree.map(lambda x: x[None], batch_at(index))),
        preview,
        label=config.name,
    )
    path = config.out / "adapter.safetensors"
    if is_first_host():
        to_adapter(state).save(path, config.save_dtype)
    preview(config.steps, state)
    return path


def check_run_dir(config: ConceptConfig) -> None:
    """Raises UserError if --out holds a run and --resume is not given, or the run to resume has other settings."""
    path = config.out / "config.json"
    if path.exists() and not config.resume:
        raise UserError(f"{config.out} already holds a run: continue it with --resume, or choose another --out")
    if not config.resume:
        return
    try:
        before = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no run to resume in {config.out}: leave out --resume") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): restore it, or choose another --out") from error
    now = json.loads(json.dumps(config.to_json()))
    changed = [
        f"{k} was {before.get(k)!r}, now {v!r}" for k, v in now.items() if k not in MAY_CHANGE and before.get(k) != v
    ]
    if changed:
        raise UserError(f"cannot resume {config.out} with other settings: {'; '.join(changed)}")


def init_concept(config: ConceptConfig, sd: StableDiffusion) -> tuple[AdapterInfo, LoRATree, Trainable]:
    """The adapter's description, its masks, and its parameters before training."""
    partition = (
        Partition(num_blocks=config.blocks, axis=config.axis, seed=config.partition_seed) if config.blocks else None
    )
    slots = ()
    if partition:
        slots = partition.check_slots(config.slot or (slot_from_name(config.name, config.blocks),))
    info = AdapterInfo(
        name=config.name,
        class_noun=config.class_noun,
        trigger=config.trigger,
        kind=config.kind,
        rank=config.rank,
        alpha=float(config.rank if config.alpha is None else config.alpha),
        base_name=sd.checkpoint.name,
        base_digest=params_digest(sd.params),
        base_family=sd.checkpoint.family,
        partition=partition,
        slots=slots,
        training=json.dumps(config.to_json()),
    )
    shapes = select_kernels(sd.params, config.layers)
    masks = block_masks(info, shapes)
    lora_key, token_key = jax.random.split(jax.random.key(config.seed))
    lora = init_lora(lora_key, shapes, masks, config.rank)
    return info, masks, Trainable(lora, *(init_tokens(config, sd, token_key, part) for part in sd.models.text_encoders))


def init_tokens(config: ConceptConfig, sd: StableDiffusion, key: jax.Array, component: str) -> jax.Array:
    """The concept's embeddings [v, d] for a text encoder, started where foreign ones are drawn: apart from the class noun.

    Started *at* the noun, erasure silences the adapter for its own concept too.
    """
    noun, row = jnp.asarray(last_token_ids(sd.tokenizer, [config.class_noun])), jnp.zeros(1, jnp.int32)
    table, key = token_table(sd.params, component), tower_key(key, component)
    return foreign_embeddings(table, noun, row, config.token_vectors, config.token_spread, key)[0]


def cache_states(config: ConceptConfig, sd: StableDiffusion, data: ConceptData, trainable: Trainable) -> ConceptData:
    """`data` with its text encoded once, if neither tokens nor a text encoder train."""
    tokens_train = config.token_vectors and config.token_learning_rate > 0
    if tokens_train or sd.models.text_encoders.keys() & trainable.lora.keys():
        return data
    # Each prompt of the pool meets a stranger of its own, as each random row does where ids are encoded in the step.
    prompts, vectors = data.prompts, config.token_vectors
    rows, key = jnp.arange(len(prompts.ids)), jax.random.key(config.seed + 1)
    params, random_ids = dict(sd.params), []
    for part in sd.models.text_encoders:
        table, part_key = token_table(sd.params, part), tower_key(key, part)
        foreign = foreign_embeddings(table, jnp.asarray(prompts.nouns), rows, vectors, config.token_spread, part_key)
        longer = [table, trainable.tokens_of(part), foreign.reshape(-1, table.shape[1])]
        params = with_table(params, jnp.concatenate(longer), part)
        random_ids.append(own_foreign_ids(jnp.asarray(ids_of(prompts.ids, part)), len(table) + vectors, vectors))
    encode = _text_encoder(sd, params)
    stacked = np.stack(random_ids, axis=1).reshape(prompts.ids.shape)
    return data._replace(text=encode(data.ids), random_text=encode(stacked))


def _text_encoder(sd: StableDiffusion, params: dict) -> Callable[[np.ndarray], TextOutput]:
    models = with_token_rows(sd.models, params)
    towers = {part: params[part] for part in models.text_encoders}
    encode = jax.jit(lambda towers, ids: encode_text(models, towers, ids))

    def in_chunks(ids: np.ndarray, size: int = 16) -> TextOutput:
        padded = np.pad(ids, ((0, -len(ids) % size), *((0, 0) for _ in ids.shape[1:])))
        chunks = [encode(towers, padded[i : i + size]) for i in range(0, len(padded), size)]
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(c, np.float32) for c in x])[: len(ids)], *chunks)

    return in_chunks


def make_preview(
    config: ConceptConfig, sd: StableDiffusion, to_adapter: Callable[[TrainState], Adapter]
) -> Callable[[int, TrainState], None]:
    """`preview(step, state)` writes `previews/<step>.png`: the concept as a merge of this one adapter shows it."""
    prompts = preview_prompts(config)
    # One that is too long is to be told now, not after the training.
    sd.tokenizer.encode(prompts, {config.token: config.token_vectors} if config.token_vectors else {})

    def preview(step: int, state: TrainState) -> None:
        if not is_first_host():
            return
        adapter = to_adapter(state)
        params = compose(sd.params, [adapter], check_base=False)
        images = sd.generate(prompts, params=params, adapters=[adapter], seed=config.seed, steps=20)
        grid = picture_grid(images, captions=prompts, columns=4, scale=max(1, 256 // images.shape[1]))
        write_atomic(config.out / "previews" / f"{step:06d}.png", png_bytes(grid))

    return preview


def _first(result: tuple[Any, dict]) -> tuple[Any, dict]:
    state, metrics = result
    return state, {name: value[0] for name, value in metrics.items()}


def main() -> None:
    """The command line."""
    config = parse_args()
    platform = select_platform(config.tpu, config.gpu, config.cpu)
    path = train_concept(dataclasses.replace(config), platform)
    if is_first_host():
        size, previews = path.stat().st_size / 1e6, config.out / "previews"
        print(f"{path} ({size:.2f} MB), previews in {previews}; call the concept with {config.trigger!r}")


if __name__ == "__main__":
    run(main)
