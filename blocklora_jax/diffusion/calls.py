"""Which concepts a prompt calls, by trigger or token, and the same prompt without some of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.prompts.tokenizer import token_pattern

_DETERMINERS = ("a", "an", "the", "my", "your", "his", "her", "its", "our", "their", "this", "that")
# Letters of scripts that put spaces between words.
_LETTERS = r"[0-9A-Za-z_À-ӿ]"


class Call(NamedTuple):
    """A place in a prompt, as of its letters from `start` up to `end`, that calls a concept."""

    start: int
    end: int
    adapter: Adapter


def find_calls(prompt: str, adapters: Sequence[Adapter]) -> list[Call]:
    """The places where a prompt calls a concept by its trigger or one of its tokens, in any case, from left to right.

    A trigger is a whole word or several. If it is part of another concept's longer one, the longer one is called.
    """
    found = [
        Call(*match.span(), adapter)
        for adapter in adapters
        if (names := _names(adapter))
        for match in re.finditer(names, prompt)
    ]
    return sorted((call for call in found if not any(_holds(other, call) for other in found)), key=lambda c: c[:2])


def called_adapters(prompt: str, adapters: Sequence[Adapter]) -> list[Adapter]:
    """The adapters that the prompt calls, in the order of `adapters`."""
    called = {id(call.adapter) for call in find_calls(prompt, adapters)}
    return [adapter for adapter in adapters if id(adapter) in called]


def by_order(calls: Sequence[Call]) -> list[Adapter]:
    """The adapters that are called, each once, in the order of their first calls."""
    return list({id(call.adapter): call.adapter for call in calls}.values())


def only_calling(kept: Adapter, prompt: str, adapters: Sequence[Adapter], also: Collection[str] = ()) -> str:
    """The prompt with class nouns in place of the other concepts. also: kinds of concepts that are kept too.

    Where a noun replaces a call, an article is added if there is no determiner. If there is no noun, the call is
    removed.
    """
    calls = find_calls(prompt, adapters)
    own = {call[:2] for call in calls if call.adapter is kept}
    others = [c for c in calls if c.adapter is not kept and c[:2] not in own and c.adapter.info.kind not in also]
    begun = len(prompt)
    for start, end, adapter in reversed(others):
        # Of calls that overlap, the last is replaced.
        if end <= begun:
            prompt, begun = prompt[:start] + _noun_after(prompt[:start], adapter.info.class_noun) + prompt[end:], start
    return prompt


def _noun_after(before: str, noun: str) -> str:
    words = before.lower().split()
    if not noun or (words and words[-1] in _DETERMINERS):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _holds(outer: Call, inner: Call) -> bool:
    is_longer = outer.end - outer.start > inner.end - inner.start
    return is_longer and outer.start <= inner.start and inner.end <= outer.end and outer.adapter is not inner.adapter


def _names(adapter: Adapter) -> str:
    """A pattern, for any case, of what calls the concept: its trigger, or one of its tokens; "" if it has neither."""
    text = adapter.info.trigger.strip()
    trigger = [rf"(?i:{_whole_words(text)})"] if text else []
    return "|".join([*trigger, *([token_pattern(adapter.tokens)] if adapter.tokens else [])])


def _whole_words(text: str) -> str:
    """A pattern of `text` that is not in the middle of a word."""
    before = f"(?<!{_LETTERS})" if re.match(_LETTERS, text) else ""
    after = f"(?!{_LETTERS})" if re.match(_LETTERS, text[-1]) else ""
    return before + re.escape(text) + after
