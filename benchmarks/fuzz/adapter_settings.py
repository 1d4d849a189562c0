"""Settings that other programs write beside the tensors: PEFT's, in a file or in the header, and kohya's header."""

from __future__ import annotations

import functools
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.adapter_specimens import FILE, PEFT_SETTINGS, Specimen
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.trial import Case, Matching, Trial
from benchmarks.fuzz.wrong_values import NO_JSON, WRONG_VALUES, fields_of, twice, with_value, without

_FILE = "adapter_config.json"
# Values that are not damage: other alphas, and switches that give another scale.
_SOUND = {
    "lora_alpha": ("a fraction", "10^9", "0", "-1", "10^20", "-10^20"),
    "use_rslora": ("true",),
    "r": (),
    "alpha_pattern": (),
}
# Settings under which the tensors alone are not the whole change.
_MUST_REFUSE: dict[str, Any] = {
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "loftq", "corda"],
    "use_dora": [True],
    "alpha_pattern": [{"to_q": "x"}, {"to_q": None}, {"to_q": [1]}, {"to_q": True}, {"(": 1}, {"to_q": 1e308 * 10}],
    "lora_alpha": [[3], {"a": 3}, "three", True, None],
}
_BOMBS = (
    "(a+)+$",
    "(.*)*x",
    "(.|.)*y",
    "(([a-z])+.)+[A-Z]([a-z])+$",
    "(to_q|to_q)*" * 50,
    "x{1,60000}" * 3,
    "(" * 5000 + ")" * 5000,
)


def setting_cases(specimens: list[Specimen]) -> list[Case]:
    """Cases for the specimens that have such settings."""
    by_name = {specimen.name: specimen for specimen in specimens}
    peft = by_name["PEFT"]
    cases = [_case(f"PEFT: {title}", peft, text, ok) for title, text, ok in _texts(PEFT_SETTINGS)]
    cases += [Case(f"PEFT: settings are {w}", functools.partial(_place, peft, m)) for w, m in NOT_FILES.items()]
    flat = {f"unet.{key}": value for key, value in PEFT_SETTINGS.items() if key not in ("lora_alpha", "r")}
    for title, text, ok in _texts(flat | {"unet.r": 2, "unet.lora_alpha": 2}, "unet."):
        cases.append(_texts_case(f"diffusers: {title}", by_name["diffusers"], "lora_adapter_metadata", text, ok))
    for key in ("ss_sd_model_name", "ss_base_model_version", "modelspec.trigger_phrase", "blocklora"):
        for wrong in WRONG_VALUES:
            value = json.loads(wrong.text) if wrong.text.startswith('"') and "ud800" not in wrong.text else wrong.text
            cases.append(_texts_case(f"kohya: {key} is {wrong.words}", by_name["kohya"], key, value, True))
    return cases


def _texts(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str | bytes, bool]]:
    """(title, settings as text, whether the unchanged result is allowed)."""
    texts: list[tuple[str, str | bytes, bool]] = []
    for path in fields_of(settings, 1):
        field = path[0].removeprefix(prefix)
        for wrong in WRONG_VALUES:
            if wrong.words not in _SOUND.get(field, ()):
                texts.append((f"{field} is {wrong.words}", with_value(settings, path, wrong.text), True))
        if field != "lora_alpha":
            texts.append((f"{field} missing", json.dumps(without(settings, path)), True))
        texts.append((f"{field} twice", twice(settings, path[0], '"other"', first=False), True))
    for field, values in _MUST_REFUSE.items():
        texts += [(f"{field} is {value!r}", json.dumps({**settings, prefix + field: value}), False) for value in values]
    for bomb in _BOMBS:
        texts.append((f"a pattern {bomb[:20]!r}", json.dumps({**settings, f"{prefix}alpha_pattern": {bomb: 3}}), True))
    return texts + [(f"settings are {w}", make(json.dumps(settings)), bool(prefix)) for w, make in NO_JSON.items()]


def _case(title: str, specimen: Specimen, text: str | bytes, unchanged: bool) -> Case:
    def make(rng: np.random.Generator, scratch: Path) -> Trial:
        trial = specimen.trial(specimen.data, scratch, accept=(specimen.facts,) if unchanged else ())
        (scratch / _FILE).write_bytes(text.encode() if isinstance(text, str) else text)
        return trial

    return Case(title, make)


def _place(specimen: Specimen, make: Any, rng: np.random.Generator, scratch: Path) -> Trial:
    """Something that is not a file in the place of the settings."""
    specimen.trial(specimen.data, scratch)
    (scratch / _FILE).unlink()
    path = make(scratch / _FILE)
    if path.name != _FILE and path.parent == scratch:
        path = scratch / _FILE  # the file has another name, so the settings are missing
    return specimen.trial_of(scratch / FILE, accept=())


def _texts_case(title: str, specimen: Specimen, key: str, text: str | bytes, unchanged: bool) -> Case:
    def make(rng: np.random.Generator, scratch: Path) -> Trial:
        raw = specimen.raw
        raw.metadata[key] = text.decode("latin-1") if isinstance(text, bytes) else text
        accept = (Matching(functools.partial(_same_but_texts, specimen.facts)),) if unchanged else ()
        return specimen.trial(raw.pack(), scratch, accept=accept)

    return Case(title, make)


def _same_but_texts(expected: Any, facts: Any) -> bool:
    """Whether the numbers are the same and all texts can be printed."""
    free = ("trigger", "base_name", "class_noun")
    known = {key: value for key, value in facts["info"].items() if key not in free}
    same = known == {key: value for key, value in expected["info"].items() if key not in free}
    texts = [facts["info"][key] for key in free]
    if not all(isinstance(text, str) and len(text) <= 10_000 and _is_plain(text) for text in texts):
        return False
    return same and all(facts[key] == expected[key] for key in ("lora", "tokens", "tokens_2"))


def _is_plain(text: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)
