"""Checks before adapters are merged. One error names everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import tokens_of
from blocklora_jax.adapters.finite import nonfinite_problems
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.composing.overlap import colliding_layers
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.token_tables import TOKEN_TABLES


def check_merge(
    params: Mapping[str, Any],
    adapters: Sequence[Adapter],
    weights: Sequence | None,
    *,
    allow_overlap: bool,
    check_base: bool,
) -> list:
    """Checks that `adapters` can be merged into `params`. Gives the weights (1 for each adapter by default).

    Raises UserError naming everything that is wrong.
    """
    problems = [
        *adapter_problems(adapters, weights, allow_overlap),
        *params_problems(params, adapters, check_base=check_base),
    ]
    raise_problems(problems)
    return [1.0] * len(adapters) if weights is None else list(weights)


def params_problems(params: Mapping[str, Any], adapters: Sequence[Adapter], *, check_base: bool) -> list[str]:
    """The problems with merging `adapters` into `params`."""
    leaves = flatten_params(params)
    problems = _shape_problems({path: tuple(np.shape(leaf)) for path, leaf in leaves.items()}, adapters)
    # Inside jit there are no values to compare.
    if check_base and not any(isinstance(leaf, Tracer) for leaf in leaves.values()):
        problems += _digest_problems(params, adapters)
    return problems


def check_adapters(adapters: Sequence[Adapter], weights: Sequence | None, *, allow_overlap: bool) -> list:
    """Checks that `adapters` can be merged with each other, independent of the model. Gives the weights.

    Raises UserError naming everything that is wrong.
    """
    raise_problems([*adapter_problems(adapters, weights, allow_overlap), *misfit_problems(adapters)])
    return [1.0] * len(adapters) if weights is None else list(weights)


def raise_problems(problems: Iterable[str]) -> None:
    """Raise one UserError for all `problems`, if there are any."""
    problems = list(problems)
    if problems:
        raise UserError(f"cannot merge: {'; '.join(problems)}")


def adapter_problems(adapters: Sequence[Adapter], weights: Sequence | None, allow_overlap: bool) -> list[str]:
    """The problems with merging `adapters` with each other."""
    problems = [
        *_weight_problems(len(adapters), weights), *nonfinite_problems(adapters), *_base_problems(adapters),
        *_token_problems(adapters),
    ]  # fmt: skip
    return problems if allow_overlap else problems + overlap_problems(adapters)


def _weight_problems(count: int, weights: Sequence | None) -> list[str]:
    if weights is None:
        return []
    if len(weights) != count:
        return [f"{len(weights)} weights for {count} adapters: give one weight for each adapter, or none"]
    return [f"weight {w} is not a finite number" for w in weights if not isinstance(w, Tracer) and not _is_finite(w)]


def _is_finite(weight: Any) -> bool:
    """Whether a weight is finite in float32, in which sums are formed."""
    try:
        return not np.ndim(weight) and abs(float(weight)) <= float(np.finfo(np.float32).max)
    except (TypeError, ValueError, OverflowError):
        return False


def _base_problems(adapters: Sequence[Adapter]) -> list[str]:
    # The family of an external LoRA is a guess. For external LoRAs the shapes are compared instead.
    families = sorted({adapter.info.base_family for adapter in adapters if not adapter.info.origin})
    if len(families) > 1:
        return [f"the adapters are for different families of models: {' and '.join(families)}"]
    bases: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.info.base_digest:
            bases.setdefault(_base(adapter), []).append(repr(adapter.name))
    if len({a.info.base_digest for a in adapters} - {""}) < 2:
        return []
    trained = ", ".join(f"{' and '.join(names)} on {base}" for base, names in bases.items())
    return [f"the adapters were trained on different models: {trained}"]


def _base(adapter: Adapter) -> str:
    return f"{adapter.info.base_name or 'an unnamed model'} ({adapter.info.base_digest[:12]})"


def _digest_problems(params: Mapping[str, Any], adapters: Sequence[Adapter]) -> list[str]:
    trained = [adapter for adapter in adapters if adapter.info.base_digest]
    if not trained or len({a.info.base_digest for a in trained}) > 1:
        return []
    digest = params_digest(params)
    if digest == trained[0].info.base_digest:
        return []
    mismatch = (
        f"the params ({digest[:12]}) are not the model that {trained[0].name!r} was trained on, {_base(trained[0])}"
    )
    advice = "compose from the base params (these may be another model, or already merged)"
    return [f"{mismatch}: {advice}, or pass check_base=False if they are only a copy in another precision"]


def _shape_problems(shapes: Mapping[str, tuple[int, ...]], adapters: Sequence[Adapter]) -> list[str]:
    problems = []
    for adapter in adapters:
        missing, misfits = [], []
        for component, layers in adapter.shapes().items():
            for layer, (n, m) in layers.items():
                name, shape = f"{component}/{layer}", shapes.get(f"{component}/{layer}/kernel")
                if shape is None:
                    missing.append(name)
                elif len(shape) not in (2, 4) or (prod(shape[:-1]), shape[-1]) != (n, m):
                    misfits.append(f"{name} is {list(shape)} in the params and {[n, m]} in the adapter")
        for path, vector in adapter.vectors.items():
            if path not in shapes:
                missing.append(path)
            elif shapes[path] != tuple(vector.shape):
                misfits.append(f"{path} is {list(shapes[path])} in the params and {list(vector.shape)} in the adapter")
        problems += [f"the params do not have layers of {adapter.name!r}: {_some(missing)}"] if missing else []
        problems += [f"layers of {adapter.name!r} have other shapes: {_some(misfits)}"] if misfits else []
        for component, path in TOKEN_TABLES.items():
            problems += _table_problems(component, path, shapes.get(path), adapter)
    return problems


def misfit_problems(adapters: Sequence[Adapter]) -> list[str]:
    """The problems of layers that have different shapes in two adapters.

    If there are params, `params_problems` shows which adapter is wrong.
    """
    layers = [
        {f"{c}/{layer}": shape for c, group in a.shapes().items() for layer, shape in group.items()} for a in adapters
    ]
    problems = []
    for (one, shapes), (other, other_shapes) in combinations(zip(adapters, layers, strict=True), 2):
        if shapes == other_shapes:
            continue
        misfits = sorted(name for name in shapes.keys() & other_shapes.keys() if shapes[name] != other_shapes[name])
        if misfits:
            problems.append(
                f"{one.name!r} and {other.name!r} differ in the shapes of {_some(misfits)}: they are for different base"
                " models"
            )
    # As for overlaps: of a hundred adapters there may be thousands of pairs.
    return problems if len(problems) <= 3 else [*problems[:3], f"so do {len(problems) - 3} other pairs"]


def _table_problems(component: str, path: str, table: tuple[int, ...] | None, adapter: Adapter) -> list[str]:
    tokens = tokens_of(adapter, component)
    if table is None:
        problem = f"the params do not have {path}, to which the tokens of {adapter.name!r} are appended"
        return [problem] if tokens else []
    problems = [
        f"token {token} of {adapter.name!r} has the shape {list(vectors.shape)};"
        f" the {component.replace('_', ' ')}'s tokens are {table[-1]} wide"
        for token, vectors in tokens.items()
        if vectors.ndim != 2 or vectors.shape[1] != table[-1]
    ]
    counts = [{token: len(vectors) for token, vectors in group.items()} for group in (adapter.tokens, tokens)]
    if counts[0] != counts[1]:
        problems.append(f"{adapter.name!r} has {counts[1]} vectors for {component}, but {counts[0]} for text_encoder")
    return problems


def _token_problems(adapters: Sequence[Adapter]) -> list[str]:
    return [
        f"{one.name!r} and {other.name!r} both define the token {token}: train one with another --token"
        for one, other in combinations(adapters, 2)
        for token in sorted(one.tokens.keys() & other.tokens.keys())
    ]


def overlap_problems(adapters: Sequence[Adapter]) -> list[str]:
    """The problems of pairs of adapters that own the same weights, or the same directions of a basis."""
    pairs = [(one, other) for one, other in combinations(adapters, 2) if colliding_layers(one, other)]
    if not pairs:
        return []
    # Only three pairs are described: fifteen adapters without blocks have 105 pairs.
    problems = [_collision(one, other, adapters) for one, other in pairs[:3]]
    if len(pairs) > len(problems):
        problems.append(f"so do {len(pairs) - len(problems)} other pairs")
    if all(_fitted(one, other) for one, other in pairs):
        return [
            "the adapters were fitted jointly and share weights: sum them with allow_overlap=True (--allow-overlap)"
        ]
    problems[-1] += (
        "; or fit them jointly (merge.fit_jointly, python -m merge fit) and sum them with allow_overlap=True "
        "(--allow-overlap)"
    )
    return problems


def _fitted(one: Adapter, other: Adapter) -> bool:
    """Whether one joint fit (`fit_jointly`) made both adapters."""
    pairs = ((one, other), (other, one))
    fitted = [(json.loads(a.info.training or "{}").get("fused_with"), b.name) for a, b in pairs]
    return all(isinstance(names, list) and name in names for names, name in fitted)


def _collision(one: Adapter, other: Adapter, adapters: Sequence[Adapter]) -> str:
    names, partition = f"{one.name!r} and {other.name!r}", one.info.partition
    external = [repr(a.name) for a in (one, other) if a.info.origin]
    if external:
        verb = "are LoRAs" if len(external) == 2 else "is a LoRA"
        return (
            f"{names} overlap, because {' and '.join(external)} {verb} of another program, without blocks: convert "
            "each LoRA without blocks into a slot (python -m merge convert FILE --slot N)"
        )
    unblocked = [repr(a.name) for a in (one, other) if a.info.partition is None]
    if partition is None or unblocked:
        verb = "have" if len(unblocked) == 2 else "has"
        return f"{names} overlap, because {' and '.join(unblocked)} {verb} no blocks: retrain with blocks and a --slot"
    if partition != other.info.partition:
        cuts = f"{one.name!r}: {partition}; {other.name!r}: {other.info.partition}"
        return f"{names} overlap, because their partitions differ ({cuts}): train one again with the other's settings"
    shared = sorted(set(one.info.slots) & set(other.info.slots))
    taken = {slot for adapter in adapters if adapter.info.partition == partition for slot in adapter.info.slots}
    free = [slot for slot in range(partition.num_blocks) if slot not in taken]
    advice = f"retrain one with --slot N (free: {_some(free)})" if free else "retrain one with more --blocks"
    return f"{names} both own slot {_some(shared)}: {advice}"


def _some(items: Sequence, limit: int = 4) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
