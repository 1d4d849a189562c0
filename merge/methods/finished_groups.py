"""The layers of a joint fit that are fitted, in files, so that a fit that was interrupted can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.io.tensor_digest import TensorDigest
from blocklora_jax.io.tensor_file import open_tensors, save_tensors
from blocklora_jax.layouts.low_rank import LoRAPair

# By (number of the adapter, layer "unet/…/to_k").
Fitted = dict[tuple[int, str], LoRAPair]

_NAME, _DIGITS = "fit-{}.safetensors", 32


class FinishedGroups:
    """The fitted down projections of some layers in each file.

    A file is used again only for the same adapters, layers and settings; its name has a digest of them.
    """

    def __init__(self, folder: Path, adapters: Sequence[Adapter], settings: Mapping[str, object]) -> None:
        """folder: for the files; it is made when the first is written. settings: what else the fit depends on."""
        self.folder, self._adapters = folder, adapters
        self._of = json.dumps([_digest(adapters), settings], sort_keys=True, default=str)

    def read(self, layers: Iterable[str]) -> Fitted | None:
        """The pairs of these layers ("unet/…/to_k"), by number of the adapter and layer; None if they are not there.

        A file that cannot be read counts as not there.
        """
        path, pairs = self._path(layers), self._pairs(layers)
        if not path.is_file():
            return None
        with contextlib.suppress(UserError), open_tensors(path, "part of a joint fit") as file:
            downs = file.read_all()
            if {key: down.shape for key, down in downs.items()} == {_key(p): pairs[p].lora_A.shape for p in pairs}:
                return {p: LoRAPair(downs[_key(p)], np.asarray(pair.lora_B)) for p, pair in pairs.items()}
        return None

    def write(self, layers: Iterable[str], fitted: Fitted) -> None:
        """Keep the pairs of these layers. Raises UserError if the file cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self._path(layers), {_key(place): np.asarray(pair.lora_A) for place, pair in fitted.items()}, {})

    def _path(self, layers: Iterable[str]) -> Path:
        text = json.dumps([self._of, sorted(layers)])
        return self.folder / _NAME.format(hashlib.sha256(text.encode()).hexdigest()[:_DIGITS])

    def _pairs(self, layers: Iterable[str]) -> Fitted:
        """What the adapters have in these layers."""
        pairs = {}
        for layer in layers:
            component, _, path = layer.partition("/")
            for index, adapter in enumerate(self._adapters):
                if path in adapter.lora.get(component, {}):
                    pairs[index, layer] = adapter.lora[component][path]
        return pairs


def remove_finished(folder: Path) -> None:
    """Remove the files of `FinishedGroups`, those of earlier fits too, and the folder if nothing else is in it."""
    for path in folder.glob(_NAME.format("[0-9a-f]" * _DIGITS)):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _key(place: tuple[int, str]) -> str:
    return "{}:{}".format(*place)


def _digest(adapters: Sequence[Adapter]) -> list[str]:
    """Of each adapter's numbers, and of what its prompts depend on."""
    digests = []
    for adapter in adapters:
        digest = TensorDigest()
        for component, layers in adapter.lora.items():
            for path, pair in layers.items():
                for name, array in pair._asdict().items():
                    digest.add(f"{component}/{path}.{name}", np.asarray(array))
        for encoder, rows in adapter.tokens.items():
            digest.add(f"tokens.{encoder}", np.asarray(rows))
        texts = {name: str(getattr(adapter.info, name)) for name in ("trigger", "kind", "class_noun", "scale")}
        digests.append(digest.hexdigest(texts))
    return digests
