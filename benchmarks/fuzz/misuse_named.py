"""The calls that are listed in `must_refuse.txt` and `may_succeed.txt`."""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmarks.fuzz.misuse_flags import WITHOUT_BASIS

_TRAIN = f"train.concept {WITHOUT_BASIS} --images pictures --class-noun man --out run --model model --steps 1 --batch 1"
# Words with a dollar sign, and what they stand for. They are replaced in this order.
_ALIASES = {
    "$TRAIN_ADA": f"{_TRAIN} --token <ada> --rank 1 --blocks 4",
    "$TRAIN": _TRAIN,
    "$BASE": "train.base --out base --clip-steps 1 --vae-steps 1 --unet-steps 1 --judge-steps 0",
    "$MERGE": "merge ada.safetensors bob.safetensors --model model",
    "$EXPORT": "merge export ada.safetensors",
    "$FUSE": "merge fit ada.safetensors plain.safetensors --model model",
    "$CONCEPTS": "train.concepts --concepts concepts.yaml --out runs --model model --steps 1 --batch 1",
    "$LONG_TOKEN": f"<{'x' * 100_000}>",
    "$LONG": f"'{'dog ' * 100}'",
    "$HUGE": str(2**70),
}


def read_calls(name: str) -> list[list[str]]:
    r"""The calls in a file: a module and its arguments in each line. `\e`, `\n` and `\a` stand for those characters."""
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [_words(line) for line in lines if line and not line.startswith("#")]


def _words(line: str) -> list[str]:
    for alias, words in _ALIASES.items():
        line = line.replace(alias, words)
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return [word.replace("\\e", "\x1b").replace("\\n", "\n").replace("\\a", "\a") for word in lexer]
