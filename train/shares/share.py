"""Which groups of concepts a machine trains, and in which order."""

from __future__ import annotations

from typing import NamedTuple

from blocklora_jax.errors import UserError


class Share(NamedTuple):
    """Share `index`, from 0, of `count` shares."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that I/N names. Raises: UserError for anything else.

        >>> Share.parse("3/8")
        Share(index=3, count=8)
        """
        index, slash, count = text.partition("/")
        numbers = [int(part) for part in (index, count) if part.isascii() and part.isdecimal() and len(part) < 7]
        if not slash or len(numbers) < 2 or not numbers[1]:
            raise UserError(f"--shard {text!r:.40} must be I/N, such as 0/8")
        if numbers[0] >= numbers[1]:
            raise UserError(f"--shard {text}: shares are counted from 0, so the last one is {numbers[1] - 1}/{count}")
        return cls(*numbers)

    def order(self, groups: int) -> list[int]:
        """All groups, in the order in which this share trains them: its own, then those of the others.

        Of the others it begins with those that they come to last.

        >>> Share(1, 3).order(7)
        [1, 4, 5, 2, 6, 3, 0]
        """
        own = list(range(self.index, groups, self.count))
        shares = [(self.index + i) % self.count for i in range(1, self.count)]
        return own + [group for share in shares for group in reversed(range(share, groups, self.count))]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
