"""Preparation of a concept for training: its data, its masks, and its parameters before the first step."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import TextBasis, basis_digest, codewords_digest
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.lora import apply_masks, block_masks, init_lora
from blocklora_jax.adapters.orthogonal import count_sets, init_orthogonal
from blocklora_jax.adapters.partition import Partition, slot_from_name
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.diffusion.text import ids_of
from blocklora_jax.diffusion.text_chunks import encode_in_chunks, join_chunks
from blocklora_jax.layouts.low_rank import KernelShapes, LoRATree
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.prompts.random_prompts import last_token_ids
from train.concept.batch import Batch
from train.concept.codeword_start import codeword_start
from train.concept.config import PRIVATE_SETTINGS, ConceptConfig
from train.concept.data import ConceptData, load_concept_data, make_batches
from train.concept.negative_tokens import negative_embeddings, tower_key
from train.concept.own_directions import OwnDirections, own_directions, own_slots
from train.concept.settings.tokens import TokenSettings
from train.concept.state import Trainable
from train.concept.text import ids_by_row, with_table


class Concept(NamedTuple):
    """A concept that is ready to be trained. `batch_at(step)` gives its rows as NumPy arrays.

    notes: how many pictures are used and which are not, in one line. contact_sheet: the content of its PNG file.
    """

    config: ConceptConfig
    info: AdapterInfo
    masks: LoRATree
    trainable: Trainable
    batch_at: Callable[[int], Batch]
    notes: str = ""
    contact_sheet: bytes = b""

    def to_adapter(self, trained: Trainable) -> Adapter:
        """The adapter of this concept with the parameters `trained`."""
        tokens, tokens_2 = (
            {} if vectors is None or not len(vectors) else {self.config.token: np.asarray(vectors)}
            for vectors in (trained.tokens, trained.tokens_2)
        )
        lora = jax.tree.map(np.asarray, apply_masks(trained.lora, self.masks))
        return Adapter(lora=lora, tokens=tokens, tokens_2=tokens_2, info=self.info)


def prepare_concept(config: ConceptConfig, sd: StableDiffusion, basis: TextBasis | None) -> Concept:
    """Read the pictures and draw the first parameters. basis: the one that `config` names, see `basis_of`.

    Raises: UserError for pictures or settings that cannot be used.
    """
    data = load_concept_data(config, sd, own_directions(config, sd, basis))
    info, masks, trainable = init_concept(config, sd, basis)
    data = cache_states(config, sd, data, trainable)
    rows = config.optimizer.rows, config.random_rows
    batch_at = make_batches(data, *rows, config.erasure, config.run.seed)
    return Concept(config, info, masks, trainable, batch_at, data.notes, data.contact_sheet)


def public_settings(config: ConceptConfig) -> dict[str, Any]:
    """The settings that an adapter file holds: those that determine its numbers, not where or how it was trained."""
    return {name: value for name, value in config.to_json().items() if name not in PRIVATE_SETTINGS}


def init_concept(
    config: ConceptConfig, sd: StableDiffusion, text_basis: TextBasis | None
) -> tuple[AdapterInfo, LoRATree, Trainable]:
    """The adapter's description, its masks, and its parameters before training.

    text_basis: the one that `config` names, see `basis_of`.
    """
    shapes = select_kernels(sd.params, config.adapter.layers)
    config = _draw_row_slot(config, shapes)
    adapter, partition = config.adapter, None
    assert (text_basis is None) == (adapter.basis is None), "of another configuration"
    own, basis = own_directions(config, sd, text_basis), text_basis and text_basis.directions
    if adapter.blocks:
        cut_in = "" if basis is None else basis_digest(basis)
        partition = Partition(
            num_blocks=adapter.blocks, axis=adapter.axis, seed=adapter.partition_seed, basis=cut_in,
            assignment=adapter.assignment,
        )  # fmt: skip
    slots = partition.check_slots(own_slots(config)) if partition else ()
    info = AdapterInfo(
        name=config.name,
        class_noun=config.class_noun,
        trigger=config.trigger,
        kind=config.data.kind,
        rank=adapter.rank,
        alpha=float(adapter.rank if adapter.alpha is None else adapter.alpha),
        base_name=sd.checkpoint.public_name,
        base_digest=sd.digest,
        base_family=sd.checkpoint.family,
        partition=partition,
        slots=slots,
        training=json.dumps(public_settings(config) | _codewords_used(own)),
    )
    masks = block_masks(info, shapes, basis)
    # The name is part of the key: most users train with the same seed, and concepts with equal starts would respond to
    # each other's tokens.
    lora_key, token_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.run.seed), zlib.crc32(config.name.encode()))
    )
    if adapter.down == "orthogonal" and adapter.slot:
        lora = init_orthogonal(adapter.partition_seed, shapes, adapter.slot[0], adapter.rank)
    else:
        lora = init_lora(lora_key, shapes, masks, adapter.rank)
    if own is not None and config.token_side.token_start == "codeword":
        tokens = codeword_start(own, config.tokens.token_vectors, sd, token_key)
    else:
        parts = sd.models.text_encoders
        tokens = [init_tokens(config.tokens, config.class_noun, sd, token_key, part) for part in parts]
    return info, masks, Trainable(lora, *tokens)


def _codewords_used(own: OwnDirections | None) -> dict[str, str]:
    """The digest of the codewords that an adapter was trained with, as a setting; empty if it uses none."""
    return {} if own is None or own.codewords is None else {"codewords": codewords_digest(own.codewords)}


def _draw_row_slot(config: ConceptConfig, shapes: KernelShapes) -> ConceptConfig:
    """`config` with a slot for its frozen down projection. If none is given, the name gives it. The file records it."""
    if config.adapter.down == "trained" or config.adapter.slot is not None:
        return config
    return config.with_settings(slot=(slot_from_name(config.name, count_sets(shapes, config.adapter.rank)),))


def init_tokens(
    settings: TokenSettings, class_noun: str, sd: StableDiffusion, key: jax.Array, component: str
) -> jax.Array:
    """The concept's embeddings [v, d] for a text encoder before training.

    They start at a distance from the class noun, as negative tokens do. If they started at the noun itself, erasure
    would suppress the adapter for its own concept too.
    """
    noun, table = last_token_ids(sd.tokenizer, [class_noun]), token_table(sd.params, component)
    start = settings.token_spread, settings.token_spread
    return negative_embeddings(table, noun, settings.token_vectors, start, tower_key(key, component))[0]


def cache_states(config: ConceptConfig, sd: StableDiffusion, data: ConceptData, trainable: Trainable) -> ConceptData:
    """`data` with encoded text, if training does not change it.

    Random prompts are encoded unless a text encoder trains; captions only if no token trains either.
    """
    if sd.models.text_encoders.keys() & trainable.lora.keys():
        return data
    prompts, vectors, params, random_ids = data.prompts, config.tokens.token_vectors, dict(sd.params), []
    for part in sd.models.text_encoders:
        table = token_table(sd.params, part)
        longer = [table, trainable.tokens_of(part), data.negative_tokens[part].reshape(-1, table.shape[1])]
        params = with_table(params, jnp.concatenate(longer), part)
        random_ids.append(ids_by_row(jnp.asarray(ids_of(prompts.ids, part)), len(table) + vectors, vectors))
    encode = lambda ids: join_chunks(encode_in_chunks(sd.models, params, ids))
    stacked = np.stack(random_ids, axis=1).reshape(prompts.ids.shape)
    return data._replace(
        text=None if config.trains_tokens else encode(data.ids),
        random_text=encode(stacked) if config.random_rows else None,
    )
