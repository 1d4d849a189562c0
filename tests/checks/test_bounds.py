"""Every number that a user can set has bounds. The error for a number beyond them names the flag as it is typed."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from blocklora_jax.checks.bounds import BOUNDS, Bound, check_number
from blocklora_jax.command_line.options import flag_of
from blocklora_jax.errors import UserError

MODULES = (
    "merge.cli.options merge.cli.export merge.cli.info merge.cli.fit merge.cli.convert_options merge.cli.plan "
    "merge.cli.registry merge.cli.remove merge.cli.replace merge.cli.check merge.methods.sum merge.methods.ties "
    "merge.cli.library merge.methods.magnitude merge.methods.svd merge.methods.knots merge.methods.routing "
    "benchmarks.library.__main__ merge.methods.dare merge.methods.gradient_fusion merge.methods.joint_fit "
    "merge.cli.tune merge.methods.tuned_tokens blocklora_jax.probing.tuned_token "
    "train.concept.config train.base.config blocklora_jax.prompts.shares train.negative_tokens train.concepts_options "
    "train.basis_options train.codeword_settings benchmarks.training benchmarks.modular.__main__ "
    "benchmarks.modular.tuning "
    "benchmarks.modular.ablation benchmarks.modular.layer_error benchmarks.modular.narrow benchmarks.modular.rates "
    "benchmarks.modular.distractors benchmarks.modular.worlds.encoder_measures "
    "train.concept.settings.adapter train.concept.settings.base train.concept.settings.data "
    "train.concept.settings.erasure train.concept.settings.loss train.concept.settings.optimizer "
    "train.concept.settings.run train.concept.settings.tokens"
).split()


def option_classes() -> list[type]:
    classes = {
        value
        for module in map(importlib.import_module, MODULES)
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and name.endswith(("Options", "Config", "Encoders", "Shares", "Settings"))
    }
    return sorted(
        (cls for cls in classes if cls.__module__ in MODULES), key=lambda cls: f"{cls.__module__} {cls.__name__}"
    )


def kinds(hint: Any) -> set[Any]:
    return {hint, *(kind for argument in get_args(hint) for kind in kinds(argument))}


def test_all_option_classes_are_found():
    assert len(option_classes()) >= 24


@pytest.mark.parametrize("cls", option_classes(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_number_of_every_command_has_bounds(cls):
    numbers = [name for name, hint in get_type_hints(cls).items() if {int, float} & kinds(hint)]
    assert [name for name in numbers if name not in BOUNDS] == []
    assert all(np.isfinite([BOUNDS[name].least, BOUNDS[name].most]).all() for name in numbers)


@pytest.mark.parametrize(
    ("bound", "value", "demand"),
    [
        (Bound(1, 10), 0, "must be at least 1"),
        (Bound(1, 10), 11, "must be at most 10"),
        (Bound(1, 10), 10**400, "must be at most 10"),
        (Bound(1, 10), -(10**400), "must be at least 1"),
        (Bound(1, 10), 2.5, "must be a whole number"),
        (Bound(1, 10), 2.0, "must be a whole number"),
        (Bound(1, 10), True, "must be a whole number"),
        (Bound(1, 10), "3", "must be a whole number"),
        (Bound(1, 10), None, "must be a whole number"),
        (Bound(1, 10), np.int64(3), ""),
        (Bound(0, 10, above=True, whole=False), 0.0, "must be above 0"),
        (Bound(0, 10, whole=False), float("nan"), "must be at least 0"),
        (Bound(-5, 5, whole=False), float("nan"), "must be a finite number"),
        (Bound(-5, 5, whole=False), float("-inf"), "must be at least -5"),
        (Bound(0, 1, whole=False), float("inf"), "must lie in 0..1"),
        (Bound(0, 1, whole=False), np.float32(0.5), ""),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_what_is_allowed(bound, value, demand):
    assert bound.demand(value) == demand


def test_a_number_of_many_digits_is_not_written_out():
    with pytest.raises(UserError, match=r"--rank must be at most 4096, not a number of more than 60 digits"):
        check_number("rank", 10**3000, shown="--rank")


def test_flags_are_named_as_they_are_typed():
    fused = importlib.import_module("merge.cli.fit").FitOptions
    assert [flag_of(fused, name) for name in ("erase_weight", "files", "attention")] == [
        "--lambda",
        "FILES",
        "--attention",
    ]
