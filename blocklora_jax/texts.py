"""Texts that people write: prompts with places in them, and characters that cannot be written."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Whether there are no halves of characters in it, as Python reads bytes of a command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fill(template: str, text: str = "", **named: str) -> str:
    """`template` with `text` at every {}, and others at their {name}; all other braces stay, unlike with str.format.

    >>> fill("{first} and {}, {0} {", "a dog", first="ada")
    'ada and a dog, {0} {'
    """
    for name, value in named.items():
        template = template.replace(f"{{{name}}}", value)
    return template.replace("{}", text)
