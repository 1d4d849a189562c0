"""Training of many concepts, one group after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.registry.store import read_registry
from train.concept.basis_file import require_basis_file
from train.concept.batch_training import train_together
from train.concept.claims import check_base, check_basis, use_claim
from train.concept.common_settings import check_equal, check_one_shape
from train.concept.config import ConceptConfig
from train.concept.own_directions import basis_of
from train.concept.run import load_base
from train.concept.run_folder import check_run_dir, hold_run_folders, keep_off_inputs, refuse_others_files
from train.concept.slots import check_apart, give_slots
from train.engine.platform import is_first_host, select_platform
from train.engine.pod import peers_watched


def train_and_report(configs: Sequence[ConceptConfig], groups: Path, at_once: int) -> None:
    """Train the concepts on the hardware that the configurations name, and print where the adapters are."""
    platform = select_platform(configs[0].run.tpu, configs[0].run.gpu, configs[0].run.cpu)
    with peers_watched():
        paths = train_concepts(configs, groups, at_once, platform)
    if is_first_host():
        print("\n".join(f"{path} ({c.trigger})" for path, c in zip(paths, configs, strict=True)))


def train_concepts(
    configs: Sequence[ConceptConfig], groups: Path, at_once: int = 16, platform: str | None = None
) -> list[Path]:
    """Train all concepts, `at_once` at a time; returns the paths of their adapter files.

    groups: the folder for metrics and checkpoints, with one folder in it for each group. platform: see
    `train_concept`.

    Raises: UserError for anything wrong with settings or pictures, or a run that diverges.
    """
    run = configs[0].run
    platform = platform or select_platform(run.tpu, run.gpu, run.cpu)
    check_equal(configs)
    check_one_shape(configs[:at_once])
    registry = read_registry(configs[0].adapter.registry) if configs[0].adapter.registry else None
    configs = give_slots([use_claim(config, registry) for config in configs])
    check_apart(configs)
    require_basis_file(configs[0].adapter, configs[0].model)
    keep_off_inputs(configs, [groups])
    with hold_run_folders([*(config.out for config in configs), groups], lambda: _check_folders(configs, groups)):
        sd = load_base(configs[0].model, configs[0].base, platform)
        check_base(registry, sd.digest, configs[0].model)
        basis = basis_of(configs[0], sd)
        check_basis(registry, configs[0], basis)
        paths: list[Path] = []
        for start in range(0, len(configs), at_once):
            group = configs[start : start + at_once]
            paths += train_together(group, sd, basis, groups / f"{start // at_once:03d}")
        return paths


def _check_folders(configs: Sequence[ConceptConfig], groups: Path) -> None:
    """Raises UserError as `check_run_dir` does, for each concept. An interrupted run may have begun only some."""
    begun = [config for config in configs if (config.out / "config.json").exists()] if configs[0].run.resume else []
    for config in begun or configs:
        check_run_dir(config)
    for config in configs if begun else ():
        if config not in begun:
            refuse_others_files(config.out)
    for folder in sorted(groups.glob("*/")) if not configs[0].run.resume else ():
        refuse_others_files(folder)
