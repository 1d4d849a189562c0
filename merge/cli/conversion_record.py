"""What a LoRA of a library was converted from, in the result's file, so that a later run knows if it is still that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.library.scan_file import digest_of
from merge.cli.convert_options import ConvertOptions, conversion_config, prompt_words
from merge.cli.convolutions import split_convolutions
from merge.cli.reading import reduction
from merge.cli.sources import Source

# In the record of training, beside "refit" with the settings of the fit.
_KEY = "converted_from"
_TEXTS = ("trigger", "class_noun", "kind")
# Options that change only some LoRAs. They are recorded for these alone, so that others stay when they change.
_IF_USED = ("convolutions", "max_rank")


def with_record(result: Adapter, options: ConvertOptions, source: Source, lora: Adapter) -> Adapter:
    """The converted adapter, whose file will say what it was made of. lora: as it was read from `source`."""
    decided = {"convolutions": bool(split_convolutions(lora)[1]), "max_rank": bool(reduction(lora))}
    record = _always(options, source) | {name: getattr(options, name) for name, did in decided.items() if did}
    training = {**json.loads(result.info.training), _KEY: record}
    return replace(result, info=replace(result.info, training=json.dumps(training)))


def changes_since(
    header: Mapping[str, Any], options: ConvertOptions, source: Source, partition: Partition, slots: tuple[int, ...]
) -> list[str]:
    """What is other now than when an adapter was converted, besides the model. header: of its file.

    Files of older versions have no record: only slots, partition and the settings of the fit are compared.
    """
    training = header.get("training")
    settings, record = ((training.get(key) if isinstance(training, dict) else None) for key in ("refit", _KEY))
    now = {"slots": slots, "partition": partition.to_json(), **vars(conversion_config(options, partition))}
    then = {"slots": header.get("slots"), "partition": header.get("partition")}
    then |= settings if isinstance(settings, dict) else {}
    if isinstance(record, dict):
        then |= record
        now |= _always(options, source) | {name: getattr(options, name) for name in _IF_USED if name in record}
    now = json.loads(json.dumps(now))
    return [name for name in {**now, **then} if name not in now or name not in then or now[name] != then[name]]


def refuse_changed(changes: Mapping[Path, Sequence[str]]) -> None:
    """Raises UserError for results that were made otherwise, of which the first three are named. changes: by file."""
    if not changes:
        return
    first = [f"{path} was converted with other settings ({', '.join(names)})" for path, names in changes.items()][:3]
    more = [f"so were {len(changes) - 3} more"] if len(changes) > 3 else []
    raise UserError(
        f"{'; '.join([*first, *more])}: remove those that are to be made anew, choose another --out, or give "
        "--overwrite, which makes all anew"
    )


def _always(options: ConvertOptions, source: Source) -> dict[str, Any]:
    words = json.dumps(asdict(prompt_words(options)), sort_keys=True)
    texts = {name: getattr(source.entry, name) for name in _TEXTS} if source.entry else {}
    words_digest = hashlib.sha256(words.encode()).hexdigest()
    return {"file": digest_of(source.path), **texts, "weight": source.weight, "words": words_digest}
