"""Pushes trained adapters to the hub, for `--push`. Everything that can be checked is checked before the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.sharing.command import check_flags, push_result
from blocklora_jax.errors import UserError
from train.concept.config import ConceptConfig
from train.concept.prompts import preview_prompts, prompt_words
from train.engine.platform import first_host_does, is_first_host

_MOST_PROMPTS = 3


def check_pushes(configs: Sequence[ConceptConfig]) -> None:
    """Raises UserError if an adapter could not be pushed as its configuration says. Asks the hub, on the first host."""
    named = [config.sharing.push for config in configs if config.sharing.push is not None]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(
            f"--push {twice[0]} is given for several concepts: a repository holds one adapter; write `push:"
            " owner/name` into the settings of each concept"
        )

    def ask() -> None:
        for config in configs:
            check_flags(config.sharing, config.name)

    if named:
        first_host_does(ask)


def push_trained(configs: Sequence[ConceptConfig], paths: Sequence[Path]) -> None:
    """Push the adapters in `paths` that are to be pushed, with their last preview. Only the first host does.

    Raises: UserError if one cannot be pushed. All are saved.
    """
    for config, path in zip(configs, paths, strict=True):
        if config.sharing.push is not None and is_first_host():
            push_result(config.sharing, Adapter.load(path), path, _prompts(config))


def _prompts(config: ConceptConfig) -> tuple[str, ...] | None:
    """Prompts of the previews that call the concept, for the page; None if none does."""
    prompts = config.run.preview_prompts or preview_prompts(config.called, prompt_words(config.model, config.erasure))
    calling = [prompt for prompt in prompts if config.token in prompt]
    return tuple(calling[:_MOST_PROMPTS]) or None
