"""What one LoRA file is, from its header and the texts beside it. Its numbers are not read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.file import is_ours, read_header
from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.float8 import is_scale
from blocklora_jax.external_lora.kinds import unsupported_kind
from blocklora_jax.external_lora.names import lora_name
from blocklora_jax.external_lora.needs import base_dependence
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.printing import one_line, plain_text
from blocklora_jax.io.tensor_file import TensorFile, open_tensors
from blocklora_jax.layouts.dialects import find_layer, find_norm
from blocklora_jax.layouts.families.recognise import possible_families
from blocklora_jax.library.entry import Found
from blocklora_jax.library.formats import Format, read_format
from blocklora_jax.library.guesses import Dataset, guess_kind, guess_noun, guess_words, read_dataset
from blocklora_jax.library.sidecars import Sidecar, read_sidecars, sidecar_files, split_words

# Files are read again when this changes.
_VERSION = 1
# Tensors that belong to no layer, and that readers know.
_LAYERLESS = ("bundle_emb.",)
_FLOATS = frozenset("F64 F32 F16 BF16 F8_E4M3 F8_E5M2".split())
_DIGEST_CHUNK = 1 << 22
# Of a problem or note. Names of tensors, which are in them, have no bound, and the library's file has one.
_LONGEST = 1000


def stamp_of(path: Path) -> str:
    """A text that changes when the file, or a text beside it, gets another size or time."""
    states = [(file.name, state.st_size, state.st_mtime_ns) for file, state in _states(path)]
    return f"{_VERSION}-{hashlib.sha256(repr(states).encode(errors='surrogateescape')).hexdigest()[:20]}"


def digest_of(path: Path) -> str:
    """Hex SHA-256 of a file, which is read in parts. Civitai names files by the first ten digits of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_DIGEST_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def scan_file(path: Path) -> Found:
    """What is in the file at `path`. A file that cannot be used has `problems`."""
    size, stamp = path.stat().st_size, stamp_of(path)
    try:
        with open_tensors(path, "LoRA file", verify=False) as file:
            found = _ours(path) if is_ours(file.metadata) else _external(path, file)
    except UserError as error:
        found = Found(name=lora_name(path), problems=(_short(error, path),))
    problems, notes = ([one_line(text, _LONGEST) for text in texts] for texts in (found.problems, found.notes))
    return replace(found, size=size, stamp=stamp, problems=tuple(problems), notes=tuple(notes))


def _states(path: Path):
    return [(file, file.stat()) for file in (path, *sidecar_files(path))]


def _ours(path: Path) -> Found:
    """An adapter that this program wrote."""
    header = read_header(path)
    texts: dict[str, Any] = {
        name: plain_text(header.get(name)) for name in ("name", "trigger", "class_noun", "kind", "base_name")
    }
    shapes = header.get("shapes")
    layers = shapes if isinstance(shapes, Mapping) else {}
    blocks = "with blocks" if header.get("partition") else "without blocks"
    return Found(
        **texts,
        base=plain_text(header.get("base_family", "sd1")),
        format=f"blocklora adapter, {blocks}",
        rank=header["rank"] if isinstance(header.get("rank"), int) else 0,
        layers=sum(len(group) for group in layers.values() if isinstance(group, Mapping)),
    )


def _external(path: Path, file: TensorFile) -> Found:
    form = read_format({key: file.shape(key) for key in file.keys})
    sidecar, notes = read_sidecars(path)
    dataset = read_dataset(file.metadata)
    words = guess_words(_stated(file.metadata, sidecar), dataset)
    name, trigger = lora_name(path), words[0] if words else ""
    clues = _clues(file.metadata, sidecar, dataset, name, trigger)
    families = possible_families(form.layers, form.heads, file.metadata) if form.layers else set()
    return Found(
        name=name,
        trigger=trigger,
        words=tuple(words[1:]),
        class_noun=guess_noun([trigger, *dataset.tags]),
        kind=guess_kind(clues),
        base=families.pop() if len(families) == 1 else "",
        base_name=_base_name(file.metadata, sidecar),
        format=_format(form),
        rank=form.rank,
        layers=len(form.layers),
        problems=tuple(_problems(path, file, form)),
        notes=tuple(notes),
    )


def _stated(metadata: Mapping[str, str], sidecar: Sidecar) -> list[str]:
    """Words that the author gave to call the concept."""
    header = metadata.get("modelspec.trigger_phrase") or metadata.get("ss_trigger_words") or ""
    return [*_exported_trigger(metadata), *split_words(header), *sidecar.words]


def _exported_trigger(metadata: Mapping[str, str]) -> list[str]:
    """The trigger in a LoRA file that this program exported."""
    try:
        header = parse_json(metadata.get("blocklora", "{}"), "the header")
    except UserError:
        return []
    trigger = plain_text(header.get("trigger")) if isinstance(header, Mapping) else ""
    return [trigger] if trigger else []


def _clues(metadata: Mapping[str, str], sidecar: Sidecar, dataset: Dataset, name: str, trigger: str) -> list[str]:
    """Texts that may say what kind of concept it is, the surest first."""
    header = [plain_text(metadata.get(f"modelspec.{key}")) for key in ("tags", "title")]
    return [" ".join(sidecar.tags), header[0], trigger, name, header[1], " ".join(dataset.tags[:6])]


def _base_name(metadata: Mapping[str, str], sidecar: Sidecar) -> str:
    keys = ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture")
    return next((text for key in keys if (text := plain_text(metadata.get(key)))), "") or sidecar.base


def _format(form: Format) -> str:
    is_kohya = any(head.startswith(("lora_", "lycoris_")) for head in form.heads)
    return f"{form.kind}, {'kohya' if is_kohya else 'diffusers'} layout" if form.kind else ""


def _problems(path: Path, file: TensorFile, form: Format) -> list[str]:
    """Why the file cannot be used, as far as its header shows."""
    if kind := unsupported_kind(file.keys):
        return [f"it is {kind}"]
    keys = [key for key in file.keys if not key.startswith(_LAYERLESS)]
    if wrong := [key for key in keys if not key.endswith((".alpha", ".on_input")) and file.dtype(key) not in _FLOATS]:
        return [f"{len(wrong)} tensors are no floating-point numbers ({one_line(wrong[0])} is {file.dtype(wrong[0])})"]
    if not form.layers and not any(map(find_norm, form.heads)):
        return [f"none of its tensors ({', '.join(map(one_line, sorted(keys)[:2])) or 'none'}) belongs to a LoRA"]
    try:
        base_dependence(path, {key: file.shape(key) for key in keys if not is_scale(key)}, file.metadata)
    except UserError as error:
        return [_short(error, path)]
    return _unknown_layers(form)


def _unknown_layers(form: Format) -> list[str]:
    heads = (head for head in form.heads if not head.startswith(_LAYERLESS))
    unknown = sorted(head for head in heads if find_layer(head) is None and find_norm(head) is None)
    return [f"{len(unknown)} layers that no model has ({', '.join(map(one_line, unknown[:2]))})"] if unknown else []


def _short(error: UserError, path: Path) -> str:
    """The error without the path, which the library names anyway."""
    return one_line(str(error).replace(f"{path} is", "it is").replace(f"{path}: ", "").replace(str(path), path.name))
