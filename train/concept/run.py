"""Training of one concept, from a configuration to an adapter file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from blocklora_jax.models.attend import check_form
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.registry.store import read_registry
from blocklora_jax.storage.address import is_remote, url_of
from blocklora_jax.storage.copies import errors_name_originals
from train.concept.basis_file import require_basis_file
from train.concept.batch_training import train_together
from train.concept.claims import check_base, check_basis, use_claim
from train.concept.config import ConceptConfig
from train.concept.own_directions import basis_of
from train.concept.push import check_pushes, push_trained
from train.concept.report.write import REPORT
from train.concept.run_folder import Resume, check_run_dir, hold_run_folders, keep_off_inputs, with_resuming
from train.concept.settings.base import BaseSettings
from train.concept.staging import stage_inputs, staged_output
from train.concept.unused_settings import refuse_unused
from train.engine.platform import compute_dtype, is_first_host, select_platform, weights_dtype
from train.engine.pod import peers_watched


def train_concept(config: ConceptConfig, platform: str | None = None, *, resume: Resume | None = None) -> Path:
    """Train one concept; returns the path of its adapter file. In a notebook, curves and previews are shown.

    platform: "tpu", "gpu" or "cpu", as `select_platform` gives it; None: the one that `config` names.
    resume: whether to continue a run in the folder; "auto": if there is one; None: as `config` says.

    Raises: UserError for anything wrong with the configuration, the pictures, or a run that diverges.
    """
    [config] = with_resuming([config], resume)
    platform = platform or select_platform(config.run.tpu, config.run.gpu, config.run.cpu, config.joining)
    return train_on_base(config, lambda: load_base(config.model, config.base, platform, config.parts_on_host))


def train_on_base(config: ConceptConfig, load: Callable[[], StableDiffusion]) -> Path:
    """Train one concept on the base that `load` gives; returns the path of its adapter file.

    load: called after everything that needs no base was checked.

    Raises: UserError like `train_concept`.
    """
    refuse_unused([config])
    registry = read_registry(config.adapter.registry) if config.adapter.registry else None
    config = use_claim(config, registry)
    require_basis_file(config.adapter, config.model)
    keep_off_inputs([config])
    with hold_run_folders([config.out], lambda: check_run_dir(config)):
        sd = load()
        check_base(registry, sd.digest, config.model)
        basis = basis_of(config, sd)
        check_basis(registry, config, basis)
        return train_together([config], sd, basis, config.out)[0]


def load_base(model: str, settings: BaseSettings, platform: str, on_host: Sequence[str] = ("vae",)) -> StableDiffusion:
    """The base model, in the precision for the platform.

    on_host: components that stay on the host, because a step does not read them.

    Raises: UserError for a form of attention that the device does not have, or a model that cannot be read.
    """
    check_form(settings.attention)
    dtype = compute_dtype(settings.precision, platform)
    return StableDiffusion.from_pretrained(
        model, variant=settings.variant, dtype=dtype, remat=settings.remat, attention=settings.attention,
        weights_dtype=weights_dtype(settings.base_dtype, dtype, platform), on_host=on_host,
    )  # fmt: skip


@errors_name_originals()
def train_and_report(config: ConceptConfig) -> None:
    """Train one concept on the hardware that `config` names, and print where the adapter is."""
    platform = select_platform(config.run.tpu, config.run.gpu, config.run.cpu, config.joining)
    with peers_watched(), staged_output(config.out) as out:
        check_pushes([config])
        path = train_concept(stage_inputs(config).with_settings(out=out), platform)
        size = path.stat().st_size if is_first_host() else 0
        push_trained([config], [path])
    if is_first_host():
        where = url_of(config.out) if is_remote(config.out) else config.out
        previews = f", previews in {where}/previews" if config.run.previews else ""
        report = f", report {where}/{REPORT}" if config.run.report else ""
        print(f"{where}/{path.name} ({size / 1e6:.2f} MB){previews}{report}; call the concept with {config.trigger!r}")
