"""Training of many concepts, one group after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from blocklora_jax.adapters.basis import TextBasis
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.registry.claims import Registry
from blocklora_jax.registry.store import read_registry
from train.concept.basis_file import require_basis_file
from train.concept.batch_training import train_together
from train.concept.claims import check_base, check_basis, use_claim
from train.concept.common_settings import check_class_folders, check_equal, check_one_shape
from train.concept.config import ConceptConfig
from train.concept.group_record import check_same_groups
from train.concept.inputs import check_inputs
from train.concept.own_directions import basis_of
from train.concept.push import check_pushes, push_trained
from train.concept.run import load_base
from train.concept.run_folder import (
    Resume,
    check_run_dir,
    hold_run_folders,
    keep_off_inputs,
    refuse_others_files,
    with_resuming,
)
from train.concept.slots import check_apart, give_slots
from train.concept.unused_settings import refuse_unused
from train.engine.platform import is_first_host, select_platform
from train.engine.pod import peers_watched

# In the folder of groups: what machines that train shares tell each other.
SHARED = "shares"


def train_and_report(
    configs: Sequence[ConceptConfig], groups: Path, at_once: int, shown: Callable[[Path], str] = str
) -> None:
    """Train the concepts on the hardware that the configurations name, and print where the adapters are.

    shown: the name of a file for people, as in an object store.
    """
    run = configs[0].run
    platform = select_platform(run.tpu, run.gpu, run.cpu, configs[0].joining)
    with peers_watched():
        check_pushes(configs)
        paths = train_concepts(configs, groups, at_once, platform)
    if is_first_host():
        print("\n".join(f"{shown(path)} ({c.trigger})" for path, c in zip(paths, configs, strict=True)))
    push_trained(configs, paths)


def train_concepts(
    configs: Sequence[ConceptConfig],
    groups: Path,
    at_once: int = 16,
    platform: str | None = None,
    *,
    resume: Resume | None = None,
) -> list[Path]:
    """Train all concepts, `at_once` at a time; returns the paths of their adapter files.

    groups: the folder for metrics and checkpoints, with one folder in it for each group. platform, resume: see
    `train_concept`.

    Raises: UserError for anything wrong with settings or pictures, or a run that diverges.
    """
    configs = with_resuming(configs, resume)
    run = configs[0].run
    platform = platform or select_platform(run.tpu, run.gpu, run.cpu, configs[0].joining)
    if (groups / SHARED).exists():
        raise UserError(f"{groups.parent} is trained in shares: go on with --shard, such as --shard 0/1 for all of it")
    configs, registry = check_concepts(configs, groups, at_once)
    dealt = {groups / group_name(i // at_once): configs[i : i + at_once] for i in range(0, len(configs), at_once)}

    def check() -> None:
        if configs[0].run.resume:
            check_same_groups(dealt)
        check_folders(configs, groups)

    with hold_run_folders([*(config.out for config in configs), groups], check):
        sd, basis = load_for(configs[0], registry, platform)
        check_inputs(configs[at_once:], sd)
        return [path for folder, group in dealt.items() for path in train_together(group, sd, basis, folder)]


def group_name(index: int) -> str:
    """The name of a group's folder."""
    return f"{index:03d}"


def check_concepts(
    configs: Sequence[ConceptConfig], groups: Path, at_once: int
) -> tuple[list[ConceptConfig], Registry | None]:
    """The configurations with their slots, and the registry that they name.

    Raises: UserError for what can be found wrong before the model is loaded.
    """
    check_equal(configs)
    check_one_shape(configs[:at_once])
    refuse_unused(configs)
    check_class_folders(configs)
    registry = read_registry(configs[0].adapter.registry) if configs[0].adapter.registry else None
    configs = give_slots([use_claim(config, registry) for config in configs])
    check_apart(configs)
    require_basis_file(configs[0].adapter, configs[0].model)
    keep_off_inputs(configs, [groups])
    return configs, registry


def load_for(
    config: ConceptConfig, registry: Registry | None, platform: str
) -> tuple[StableDiffusion, TextBasis | None]:
    """The base model and the basis of `config`. Raises: UserError if they are not the registry's."""
    sd = load_base(config.model, config.base, platform, config.parts_on_host)
    check_base(registry, sd.digest, config.model)
    basis = basis_of(config, sd)
    check_basis(registry, config, basis)
    return sd, basis


def check_folders(configs: Sequence[ConceptConfig], groups: Path) -> None:
    """Raises UserError as `check_run_dir` does, for each concept. An interrupted run may have begun only some."""
    begun = [config for config in configs if (config.out / "config.json").exists()] if configs[0].run.resume else []
    for config in begun or configs:
        check_run_dir(config)
    for config in configs if begun else ():
        if config not in begun:
            refuse_others_files(config.out)
    for folder in sorted(groups.glob("*/")) if not configs[0].run.resume else ():
        refuse_others_files(folder)
