"""Reads the adapters of other programs, of all kinds in `algorithms.table`, as adapters without blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.algorithms.dora import MAGNITUDES
from blocklora_jax.external_lora.algorithms.layer import Algorithm
from blocklora_jax.external_lora.algorithms.lora import LORA
from blocklora_jax.external_lora.base_weights import BaseModel, BaseWeights
from blocklora_jax.external_lora.bundled_tokens import BundledTokens, bundled_tokens
from blocklora_jax.external_lora.float8 import is_scale, unscaled
from blocklora_jax.external_lora.grouping import Groups, algorithms_of, group_parts
from blocklora_jax.external_lora.kinds import SUPPORTED, unsupported_kind
from blocklora_jax.external_lora.layer_changes import Changes, Reader, Unusable
from blocklora_jax.external_lora.names import lora_name
from blocklora_jax.external_lora.needs import needed_by, peft_type_of, start_in
from blocklora_jax.external_lora.peft_config import PeftConfigs
from blocklora_jax.external_lora.starts import initial_file
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.printing import plain_text
from blocklora_jax.io.tensor_file import open_tensors
from blocklora_jax.layouts.families.recognise import possible_families
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.layouts.low_rank import LoRATree

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ExternalLoRA(NamedTuple):
    """A LoRA of another program, with scales multiplied into its pairs. The other fields are as in `Adapter`."""

    lora: LoRATree
    name: str
    trigger: str
    base_name: str
    base_digest: str
    base_family: str
    origin: str
    training: str = "{}"
    vectors: Mapping[str, np.ndarray] = {}
    tokens: Mapping[str, np.ndarray] = {}
    tokens_2: Mapping[str, np.ndarray] = {}


def read_external_lora(
    path: str | Path, verify: bool = True, *, base: BaseModel | None = None, max_rank: int | None = None
) -> ExternalLoRA:
    """The adapter in a file of another program. Scales are multiplied into its pairs.

    Its layers may differ in rank. Without an alpha the scale is 1, as in all programs that write or read such files.
    LoCon with a core (`lora_mid`) becomes an ordinary pair, exactly. A change that is not a product of two small
    factors becomes a pair of which one side is the identity, unless `max_rank` is given.

    Args:
        path: the file.
        verify: whether a digest in its header must match.
        base: the model that it was trained on: nested parameters by component, or a function that gives them, which is
            called only if the changes depend on the base.
        max_rank: reduce layers that are not ordinary pairs to this rank by SVD. `training` records the error.

    Raises:
        UserError: the file is of another kind (named in the message), depends on a base that is not given, has layers
            that no Stable Diffusion 1.x, 2.x or XL has, or has tensors that are missing, misshapen or not finite.

    Source: kohya sd-scripts `networks/lora.py`; LyCORIS; diffusers 0.42 `loaders/lora_pipeline.py`; peft `tuners`.
    """
    tensors, metadata = _read(path, verify)
    tokens = bundled_tokens(tensors, path)
    groups = group_parts(path, tensors)
    kinds = algorithms_of(groups)
    parts = {part for group in (groups.layers, groups.norms) for each in group.values() for part in each}
    configs = PeftConfigs.read(path, metadata, tensors, parts, peft_type_of(kinds), has_base=base is not None)
    initial = _initial(path, configs, verify)
    title = needed_by(kinds, groups.layers, "" if initial else start_in(configs))
    if title and base is None:
        raise UserError(
            f"{path} is {title}, and its change depends on the base model: name the model that it was trained on"
            " (--model, in Python base=…)"
        )
    weights = BaseWeights(base) if base is not None and _reads_base(title, kinds) else None
    changes = _changes(path, groups, kinds, Reader(configs, weights, max_rank, initial))
    family = possible_families(changes.shapes, groups.heads, metadata)
    external = _described(path, changes, tokens, metadata, family.pop() if len(family) == 1 else "", groups.heads)
    return external._replace(training=_record(groups, kinds, changes, configs, max_rank))


def _initial(path: str | Path, configs: PeftConfigs, verify: bool) -> LoRATree | None:
    """The pairs before training, if the start changed the base and they were saved beside the file."""
    starts = (config.get("init_lora_weights") for config in configs.by_component.values())
    file = next(filter(None, (initial_file(path, start) for start in starts)), None)
    return None if file is None else read_external_lora(file, verify).lora


def _reads_base(title: str, kinds: Mapping[Any, Algorithm | None]) -> bool:
    """Whether the base is used: where changes depend on it, and where it bounds their sizes."""
    return bool(title) or any(kind is not LORA for kind in kinds.values())


def _read(path: str | Path, verify: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with open_tensors(path, "LoRA file", verify) as file:
        # The kind is checked first, because other kinds of files have tensors of other types.
        if kind := unsupported_kind(file.keys):
            raise UserError(f"{path} is {kind}; {SUPPORTED} are read")
        # kohya's trainer writes an alpha as an integer if it was given as one, and LyCORIS writes a flag.
        whole = file.tensors(whole=lambda key: key.endswith((".alpha", ".on_input")) or is_scale(key), float8=True)
        return unscaled(dict(whole), path), file.metadata


def _changes(
    path: str | Path, groups: Groups[np.ndarray], kinds: Mapping[Any, Algorithm | None], reader: Reader
) -> Changes:
    """The changes of all layers. Raises UserError naming those that cannot be used."""
    changes, problems = Changes(), []
    for group, add in ((groups.layers, reader.add_layer), (groups.norms, reader.add_norm)):
        for (component, layer), parts in sorted(group.items(), key=lambda item: item[0]):
            kind = (kinds[component, layer],) if group is groups.layers else ()
            try:
                add(changes, component, layer, parts, *kind)
            except Unusable as problem:
                problems.append(f"{component}/{layer} {problem}")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"{path} is not a usable LoRA: {'; '.join(problems[:4])}{more}. Download it again, or ask its author"
        )
    return changes


def _described(
    path: str | Path,
    changes: Changes,
    tokens: BundledTokens,
    metadata: Mapping[str, str],
    family: str,
    heads: set[str],
) -> ExternalLoRA:
    ours = _our_header(metadata)
    trigger = plain_text(ours.get("trigger") or metadata.get("modelspec.trigger_phrase"))
    return ExternalLoRA(
        lora=changes.lora,
        name=lora_name(path),
        trigger=trigger if all(token in trigger for token in tokens.tokens) else " ".join(tokens.tokens),
        base_name=plain_text(
            ours.get("base_name") or metadata.get("ss_sd_model_name") or metadata.get("ss_base_model_version")
        ),
        base_digest=digest if isinstance(digest := ours.get("base_digest"), str) and _DIGEST.fullmatch(digest) else "",
        base_family=ours["base_family"] if ours.get("base_family") in FAMILIES else family,
        origin="kohya" if any_kohya_table().keys() & heads else "diffusers",
        vectors=changes.vectors,
        tokens=tokens.tokens,
        tokens_2=tokens.tokens_2,
    )


def _record(
    groups: Groups[np.ndarray],
    kinds: Mapping[Any, Algorithm | None],
    changes: Changes,
    configs: PeftConfigs,
    max_rank: int | None,
) -> str:
    """What the file was, as JSON; "{}" for an ordinary LoRA."""
    names = {kind.name for kind in kinds.values() if kind} | ({"vectors"} if changes.vectors else set())
    names |= {"DoRA"} if any(set(MAGNITUDES) & parts.keys() for parts in groups.layers.values()) else set()
    names |= {start} if (start := start_in(configs)) else set()
    if names <= {LORA.name}:
        return "{}"
    error = {"max_rank": max_rank, "reduced_layers": changes.reduced, "relative_error": changes.relative_error}
    return json.dumps({"source": {"kinds": sorted(names), **(error if changes.reduced else {})}})


def _our_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The header that `merge.export` wrote, or {} if there is none."""
    try:
        header = parse_json(metadata.get("blocklora", "{}"), "the header")
    except UserError:
        return {}
    return header if isinstance(header, dict) else {}
