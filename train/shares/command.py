"""`python -m train.concepts --shard I/N`: one share, from the options to the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from blocklora_jax.errors import UserError
from train.concept.config import ConceptConfig
from train.engine.joining import JoiningSettings
from train.engine.platform import select_platform
from train.shares.run import ShareSettings, train_share


def train_and_report_share(configs: Sequence[ConceptConfig], settings: ShareSettings) -> None:
    """Train the share on the hardware that the configurations name, and print what became of the groups.

    Raises: UserError if several processes are to train one share together, or adapters are to be pushed.
    """
    first = configs[0]
    if pushed := next((config for config in configs if config.sharing.push is not None), None):
        file = f"{settings.remote or settings.groups.parent}/{pushed.out.name}/adapter.safetensors"
        raise UserError(
            f"--shard does not push: leave out the push of {pushed.token} to {pushed.sharing.push}; when all shares are"
            f" finished, `python -m merge push {file} {pushed.sharing.push}` pushes it"
        )
    if first.joining not in (JoiningSettings(), JoiningSettings(distributed="off")):
        raise UserError(
            "--shard gives each process a share of its own: leave out --distributed, --coordinator, --process-count "
            "and --process-id"
        )
    platform = select_platform(first.run.tpu, first.run.gpu, first.run.cpu)
    report = train_share(configs, settings, platform)
    print(report.line(settings.share), file=sys.stderr, flush=True)
