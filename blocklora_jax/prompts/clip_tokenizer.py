"""Reads and writes the files of a CLIP tokenizer in a form that every version of transformers opens.

transformers 4 reads only `vocab.json` and `merges.txt`; transformers 5 saves only `tokenizer.json`. Both forms are read
here, and the first is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.io.json_text import read_json, read_text_bytes

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_END = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """A CLIP tokenizer as data.

    vocabulary: token -> id, including the special tokens.
    merges: "left right", the first to be applied first.
    config: `tokenizer_config.json` without the added tokens.
    added: token -> id for tokens that were appended to the vocabulary, such as concept tokens.
    """

    vocabulary: Mapping[str, int]
    merges: tuple[str, ...]
    config: Mapping[str, Any]
    added: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.vocabulary) + len(self.added)

    @classmethod
    def read(cls, folder: str | Path) -> TokenizerFiles:
        """Read a tokenizer folder of transformers 4 or 5.

        Raises:
            UserError: the folder holds no CLIP tokenizer, or one of its files cannot be read.
        """
        folder = Path(folder)
        try:
            return cls._read(folder).checked(str(folder))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{folder} holds a damaged CLIP tokenizer ({error!r:.200}): fetch it again") from error

    @classmethod
    def _read(cls, folder: Path) -> TokenizerFiles:
        config = dict(_read_json(folder / "tokenizer_config.json", {}))
        listed = {entry["content"]: int(i) for i, entry in config.pop("added_tokens_decoder", {}).items()}
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = _read_json(folder / "vocab.json")
            lines = read_text_bytes(folder / "merges.txt").decode().splitlines()
            merges = [line for line in lines if line.strip() and not line.startswith("#version")]
        elif (folder / "tokenizer.json").is_file():
            whole = _read_json(folder / "tokenizer.json")
            vocabulary = whole["model"]["vocab"]
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]]
            listed |= {entry["content"]: entry["id"] for entry in whole["added_tokens"]}
        else:
            raise UserError(f"{folder} holds no CLIP tokenizer: neither vocab.json with merges.txt nor tokenizer.json")
        listed |= _read_json(folder / "added_tokens.json", {})
        added = {
            token: index for token, index in sorted(listed.items(), key=lambda item: item[1]) if token not in vocabulary
        }
        special = _read_json(folder / "special_tokens_map.json", {})
        config |= {
            name: _content(special.get(name, config.get(name, _END))) for name in _SPECIAL if name != "bos_token"
        }
        config["bos_token"] = _content(special.get("bos_token", config.get("bos_token", "<|startoftext|>")))
        return cls(vocabulary=vocabulary, merges=tuple(merges), config=config, added=added)

    def checked(self, source: str) -> TokenizerFiles:
        """Check the files and return `self`.

        Raises UserError if the ids are not 0, 1, 2, … (transformers 5 would silently renumber them), if a special token
        has no id, or if merges are not pairs of tokens.
        """
        numbers = [*self.vocabulary.values(), *self.added.values()]
        if not all(type(number) is int for number in numbers):
            raise UserError(f"{source}: the tokenizer's ids are not all whole numbers: fetch it again")
        known = {*self.vocabulary, *self.added}
        if lost := [f"{name} {self.config[name]!r}" for name in _SPECIAL if self.config[name] not in known]:
            raise UserError(f"{source}: the tokenizer's {', '.join(lost)} is not one of its tokens: fetch it again")
        if not self.merges:
            raise UserError(f"{source}: the tokenizer has no merges: fetch it again")
        if odd := [merge for merge in self.merges if not _is_merge(merge, self.vocabulary)]:
            raise UserError(
                f"{source}: the tokenizer's merge {odd[0][:80]!r} is not a pair of its tokens: fetch it again"
            )
        ids = sorted([*self.vocabulary.values(), *self.added.values()])
        if ids != list(range(len(ids))):
            raise UserError(
                f"{source}: the tokenizer's ids are not 0 to {len(ids) - 1}, each once; save it again with transformers"
            )
        return self

    def with_tokens(self, names: list[str], first_id: int) -> TokenizerFiles:
        """Append `names` with ids from `first_id` on. Fillers get the ids before, as transformers 5 allows no gaps."""
        fillers = [f"<|unused_{index}|>" for index in range(len(self), first_id)]
        new = {name: len(self) + offset for offset, name in enumerate([*fillers, *names])}
        return replace(self, added={**self.added, **new})

    def write(self, folder: str | Path) -> None:
        """Write `vocab.json`, `merges.txt` and the configs into `folder`, which is made if it does not exist."""
        folder = Path(folder)
        by_id = dict(sorted(self.vocabulary.items(), key=lambda item: item[1]))
        vocabulary = json.dumps(by_id, ensure_ascii=False, separators=(",", ":"))
        write_atomic(folder / "vocab.json", vocabulary.encode())
        write_atomic(folder / "merges.txt", "\n".join(["#version: 0.2", *self.merges, ""]).encode())
        config = {**self.config, "tokenizer_class": "CLIPTokenizer"}
        if self.added:
            # Versions of transformers before 4.34 read only added_tokens.json. Later ones prefer added_tokens_decoder.
            config["added_tokens_decoder"] = {str(index): _entry(token) for token, index in self.added.items()}
            write_json(folder / "added_tokens.json", dict(self.added))
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "special_tokens_map.json", {name: self.config[name] for name in _SPECIAL})


def _is_merge(merge: str, vocabulary: Mapping[str, int]) -> bool:
    parts = merge.split()
    return len(parts) == 2 and all(part in vocabulary for part in (*parts, "".join(parts)))


def _entry(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False)
    return {"content": token, "normalized": True, **flags}


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _read_json(path: Path, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    return read_json(path)
