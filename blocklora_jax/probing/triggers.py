"""Checks the words that call concepts, before anything is measured on prompts with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.prompts.tokenizer import token_pattern


def check_trigger(adapter: Adapter, words: PromptWords) -> None:
    """Raises: UserError if the adapter's trigger is empty, or is a class noun or a subject of random prompts."""
    check_triggers([adapter], words)


def check_triggers(adapters: Sequence[Adapter], words: PromptWords) -> None:
    """Like `check_trigger`, for all adapters. One error names all of them whose trigger cannot be used."""
    unusable = [adapter for adapter in adapters if not _calls_only_it(adapter, words)]
    if len(unusable) == 1:
        raise UserError(
            f"the trigger of {unusable[0].name!r} is {unusable[0].info.trigger.strip()!r}, which is empty or occurs in "
            "random prompts too: give words that call this concept and nothing else, with --trigger"
        )
    if unusable:
        named = ", ".join(f"{adapter.name!r} ({adapter.info.trigger.strip()!r})" for adapter in unusable)
        raise UserError(
            f"{len(unusable)} concepts have a trigger that is empty or occurs in random prompts too: {named}. Give "
            "words that call each of them and nothing else: as `trigger:` in the library.yaml that `python -m merge "
            "library scan` writes, or with --trigger, one for each file"
        )
    missing = [
        f"the trigger {adapter.info.trigger.strip()!r} does not contain the adapter's token {token}"
        for adapter in adapters
        for token in adapter.tokens
        if not re.search(token_pattern([token]), adapter.info.trigger.strip())
    ]
    if missing:
        raise UserError("; ".join(missing))


def _calls_only_it(adapter: Adapter, words: PromptWords) -> bool:
    trigger = adapter.info.trigger.strip()
    return bool(trigger) and trigger not in (adapter.info.class_noun, *words.subjects)
