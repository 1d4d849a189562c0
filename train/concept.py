"""Teach a model one concept: `python -m train.concept --images DIR --token '<ada>' --class-noun woman --out runs/ada`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.adapters.lora import Adapter, AdapterInfo, LoRATree, apply_masks, block_masks, init_lora
from blocklora_jax.adapters.partition import Partition, slot_from_name
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command import run
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic, write_json
from blocklora_jax.grid import picture_grid, png_bytes
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.random_prompts import last_token_ids
from merge.compose import compose
from train.config import ConceptConfig, parse_args
from train.data import ConceptData, load_concept_data, make_batches
from train.loop import LoopConfig, run_loop
from train.parallel import check_rows, map_step
from train.platform import compute_dtype, select_platform
from train.state import Trainable, TrainState, init_state, make_optimizer, stack
from train.step import foreign_embeddings, make_step, with_table
from train.words import preview_prompts


def train_concept(config: ConceptConfig, platform: str) -> Path:
    """Train one concept; returns the path of its adapter file.

    Raises: UserError for anything wrong with the configuration, the pictures, or a run that diverges.
    """
    prepare_run_dir(config)
    sd = StableDiffusion.from_pretrained(
        config.model, variant=config.variant, dtype=compute_dtype(config.precision, platform), remat=config.remat
    )
    devices = jax.devices()
    for rows, name in ((config.batch, "--batch"), (config.random_rows, "--random-batch")):
        check_rows(rows, len(devices), name)
    data = load_concept_data(config, sd)
    info, masks, trainable = init_concept(config, sd)
    data = cache_states(config, sd, data, trainable)
    optimizer = make_optimizer(config)
    step = map_step(make_step(sd.models, sd.schedule, config, masks, optimizer), devices, config.mapper)
    state = stack([init_state(trainable, optimizer, jax.random.key(config.seed))])
    batch_at = make_batches(config, data)

    def to_adapter(state: TrainState) -> Adapter:
        trained = jax.device_get(jax.tree.map(lambda x: x[0], state.trainable))
        tokens = {config.token: np.asarray(trained.tokens)} if config.token_vectors else {}
        lora = jax.tree.map(np.asarray, apply_masks(trained.lora, masks))
        return Adapter(lora=lora, tokens=tokens, info=info)

    preview = make_preview(config, sd, to_adapter)
    loop = LoopConfig(
        steps=config.steps, log_every=config.log_every, save_every=config.save_every, preview_every=config.preview_every,
        resume=config.resume, tensorboard=config.tensorboard,
    )  # fmt: skip
    state = run_loop(
        loop,
        config.out,
        state,
        lambda state, batch: _first(step(state, batch, sd.params)),
        lambda index: jax.tree.map(lambda x: x[None], batch_at(index)),
        preview,
        label=config.name,
    )
    path = config.out / "adapter.safetensors"
    to_adapter(state).save(path, config.save_dtype)
    preview(config.steps, state)
    return path


def prepare_run_dir(config: ConceptConfig) -> None:
    """Write `config.json`. Raises UserError if the folder holds a run and --resume is not given."""
    path = config.out / "config.json"
    if path.exists() and not config.resume:
        raise UserError(f"{config.out} already holds a run: continue it with --resume, or choose another --out")
    if config.resume and not path.exists():
        raise UserError(f"there is no run to resume in {config.out}: leave out --resume")
    write_json(path, config.to_json())


def init_concept(config: ConceptConfig, sd: StableDiffusion) -> tuple[AdapterInfo, LoRATree, Trainable]:
    """The adapter's description, its masks, and its parameters before training."""
    partition = Partition(num_blocks=config.blocks, axis=config.axis, seed=config.partition_seed) if config.blocks else None
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
        partition=partition,
        slots=slots,
        training=json.dumps(config.to_json()),
    )
    shapes = select_kernels(sd.params, config.layers)
    masks = block_masks(info, shapes)
    lora_key, token_key = jax.random.split(jax.random.key(config.seed))
    lora = init_lora(lora_key, shapes, masks, config.rank)
    return info, masks, Trainable(lora, init_tokens(config, sd, token_key))


def init_tokens(config: ConceptConfig, sd: StableDiffusion, key: jax.Array) -> jax.Array:
    """The concept's embeddings [v, d], started where foreign ones are drawn: apart from the class noun.

    Started *at* the noun, erasure silences the adapter for its own concept too.
    """
    table = sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    noun = jnp.asarray(last_token_ids(sd.tokenizer, [config.class_noun]))
    return foreign_embeddings(table, noun, jnp.zeros(1, jnp.int32), config.token_vectors, config.token_spread, key)[0]


def cache_states(config: ConceptConfig, sd: StableDiffusion, data: ConceptData, trainable: Trainable) -> ConceptData:
    """`data` with text states computed once, if neither tokens nor the text encoder train."""
    tokens_train = config.token_vectors and config.token_learning_rate > 0
    if tokens_train or "text_encoder" in trainable.lora:
        return data
    table = sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    foreign = foreign_embeddings(
        table,
        jnp.asarray(data.prompts.nouns[:1]),
        jnp.zeros(1, jnp.int32),
        config.token_vectors,
        config.token_spread,
        jax.random.key(config.seed + 1),
    )[0]
    params = with_table(sd.params, jnp.concatenate([table, trainable.tokens, foreign]))
    encode = _text_encoder(sd, params)
    return data._replace(states=encode(data.ids), random_states=encode(data.prompts.ids))


def _text_encoder(sd: StableDiffusion, params: dict) -> Callable[[np.ndarray], np.ndarray]:
    from blocklora_jax.diffusion.generate import with_token_rows

    model = with_token_rows(sd.models, params).text_encoder
    encode = jax.jit(lambda params, ids: model.apply({"params": params}, ids))

    def in_chunks(ids: np.ndarray, size: int = 16) -> np.ndarray:
        padded = np.pad(ids, ((0, -len(ids) % size), (0, 0)))
        chunks = [encode(params["text_encoder"], padded[i : i + size]) for i in range(0, len(padded), size)]
        return np.concatenate([np.asarray(chunk, np.float32) for chunk in chunks])[: len(ids)]

    return in_chunks


def make_preview(
    config: ConceptConfig, sd: StableDiffusion, to_adapter: Callable[[TrainState], Adapter]
) -> Callable[[int, TrainState], None]:
    """`preview(step, state)` writes `previews/<step>.png`: the concept as a merge of this one adapter shows it."""
    prompts = preview_prompts(config)

    def preview(step: int, state: TrainState) -> None:
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
    size = path.stat().st_size / 1e6
    print(f"{path} ({size:.2f} MB), previews in {config.out / 'previews'}; call the concept with {config.trigger!r}")


if __name__ == "__main__":
    run(main)
