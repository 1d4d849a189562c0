"""Settings in YAML that no run should start with."""

from __future__ import annotations

from collections.abc import Mapping

_LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 9))
    for letter in range(ord("b"), ord("k"))
)

_ADA = b"ada: {class_noun: man, images: pictures}\n"
SETTINGS: Mapping[str, bytes] = {
    "nothing known": b"frobnicate: 1\n",
    "a list": b"- rank\n- 4\n",
    "a text": b"rank",
    "a number": b"5\n",
    "lists 10,000 deep": b"rank: " + b"[" * 10_000,
    "objects 10,000 deep": b"{a: " * 10_000,
    "indents 1,000 deep": b"".join(b" " * i + b"a:\n" for i in range(1000)),
    "a billion laughs": _LAUGHS,
    "an anchor in itself": b"rank: &a [*a]\n",
    "rank twice": b"rank: 1\nrank: 2\n",
    "binary": bytes(range(256)),
    "UTF-16": "rank: 4\n".encode("utf-16"),
    "no UTF-8": b"token: \xff\xfe\n",
    "rank null": b"rank: null\n",
    "rank a list": b"rank: [1, 2]\n",
    "rank an object": b"rank: {a: 1}\n",
    "rank a text": b"rank: many\n",
    "rank true": b"rank: true\n",
    "rank NaN": b"rank: .nan\n",
    "rank infinite": b"rank: .inf\n",
    "rank 10^9": b"rank: 1000000000\n",
    "rank a fraction": b"rank: 1.5\n",
    "steps 1e400": b"steps: 1e400\n",
    "seed of 400 digits": b"seed: " + b"9" * 400 + b"\n",
    "token null": b"token: null\n",
    "token a list": b"token: [a]\n",
    "images an object": b"images: {a: b}\n",
    "images null": b"images: null\n",
    "resume maybe": b"resume: maybe\n",
    "class_noun a number": b"class_noun: {}\n",
    "a Python object": b"rank: !!python/object/apply:os.system ['touch owned']\n",
    "a tag": b"rank: !frobnicate 4\n",
    "two documents": b"rank: 4\n---\nrank: 5\n",
    "a list as a key": b"? [a, b]\n: c\n",
    "a flag as a value": b"out: --help\n",
    "a flag as a key": b"--rank: 4\n",
    "an escape sequence": b'class_noun: "\\e[31mred"\n',
    "an escape sequence as a key": b'"\\e[31mred": 4\n',
    "tabs": b"rank:\n\t- 4\n",
    "a quote": b'rank: "4\n',
    "2 MB": b"# " + b"x" * (2 << 20) + b"\nfrobnicate: 1\n",
    "a date": b"rank: 2026-11-27\n",
    "random_shares a list": b"random_shares: [1]\n",
    "an unknown share": b"random_shares: {x: 1}\n",
    "share NaN": b"random_shares: {negative: .nan}\n",
}

CONCEPTS: Mapping[str, bytes] = {
    **{
        words: text
        for words, text in SETTINGS.items()
        if words.startswith(("a ", "lists", "objects", "binary", "UTF", "no ", "two", "tabs", "2"))
    },
    "an empty file": b"",
    "null": b"null\n",
    "a concept that is null": b"ada: null\n",
    "a concept that is a list": b"ada: [1]\n",
    "a path upwards": b"../../escaped: {class_noun: man, images: pictures}\n",
    "an absolute path": b"/tmp/escaped: {class_noun: man, images: pictures}\n",
    "no name": b'"": {class_noun: man, images: pictures}\n',
    "a dot": b'".": {class_noun: man, images: pictures}\n',
    "no class noun": b"ada: {images: pictures}\n",
    "no pictures": b"ada: {class_noun: man, images: nowhere}\n",
    "a number as pictures": b"ada: {class_noun: man, images: 5}\n",
    "one token twice": _ADA + b"bob: {class_noun: man, images: pictures, token: <ada>}\n",
    "one slot twice": _ADA.replace(b"}", b", slot: 1}") + b"bob: {class_noun: man, images: pictures, slot: 1}\n",
    "a name twice": b"ada: {class_noun: man, images: pictures}\nada: {class_noun: dog, images: pictures}\n",
    "slot as text": b"ada: {class_noun: man, images: pictures, slot: x}\n",
    "slot null": b"ada: {class_noun: man, images: pictures, slot: [null]}\n",
    "an escape sequence as a name": b'"\\e[31mred": {class_noun: man, images: pictures}\n',
    "a setting of all": b"ada: {class_noun: man, images: pictures, rank: 4}\n",
    "class noun null": b"ada: {class_noun: null, images: pictures}\n",
    "out of its own": b"ada: {class_noun: man, images: pictures, out: ../escaped}\n",
}
