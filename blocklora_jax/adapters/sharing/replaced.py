"""What pushing would replace in a repository on the hub, and whether that must be asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.file import read_header
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.sharing.model_card import MARKER
from blocklora_jax.adapters.sharing.publication import ADAPTER
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HubAddress
from blocklora_jax.hub.files import Token, fetch_file
from blocklora_jax.hub.upload import Held
from blocklora_jax.io.printing import printable

CARD = "README.md"
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".msgpack", ".gguf")
# Files of an adapter: at the root, its tokens and its pictures.
_OURS = re.compile(r"[^/]+\.safetensors|[^/]+\.embeddings/[^/]+\.safetensors|pictures/[^/]+\.png")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LICENSE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)


def check_replaced(repository: str, held: Held, new: AdapterInfo | str, token: Token = None) -> None:
    """Raises UserError if pushing would replace more than an earlier version of the same adapter.

    new: the adapter, or its name if no more is known yet.
    """
    if there := _other(repository, held, new, token):
        raise UserError(
            f"{repository} on the Hugging Face hub {there}. Choose another name, or give --replace (replace=True): the"
            " repository then holds only the new adapter, and its history keeps the old files"
        )


def stale_files(held: Held, new: Mapping[str, Path]) -> list[str]:
    """The files of the replaced adapter that the new one does not overwrite."""
    return sorted(name for name in held.files if _OURS.fullmatch(name) and name not in new)


def license_there(repository: str, held: Held, token: Token = None) -> str:
    """The licence that the repository's card states; "" if it states none."""
    front = _FRONT.match(_card(repository, held, token))
    stated = _LICENSE.search(front[1]) if front else None
    return stated[1] if stated else ""


def _other(repository: str, held: Held, new: AdapterInfo | str, token: Token) -> str:
    """What else the repository holds, to follow its name; "" for nothing, or an earlier version of the adapter."""
    if ADAPTER in held.files:
        try:
            header = read_header(fetch_file(HubAddress(repository, ADAPTER), token, held.files[ADAPTER]))
        except UserError:
            return f"holds a file {ADAPTER} that is not an adapter of ours"
        return _difference(header, new)
    weights = [printable(name) for name in held.files if name.lower().endswith(_WEIGHTS)]
    if weights:
        return f"holds {', '.join(sorted(weights)[:3])}, which {'is' if len(weights) == 1 else 'are'} not this adapter"
    text = _card(repository, held, token)
    if _FRONT.sub("", text).strip() and MARKER not in text:
        return f"has a {CARD} that was not written by this program"
    return ""


def _difference(header: Mapping[str, Any], new: AdapterInfo | str) -> str:
    name = new if isinstance(new, str) else new.name
    if header.get("name") != name:
        return f"holds another adapter, {printable(header.get('name'))!r}"
    return "" if isinstance(new, str) else _other_place(header, new)


def _other_place(header: Mapping[str, Any], info: AdapterInfo) -> str:
    now = info.to_json()
    if header.get("base_digest") != now["base_digest"]:
        return f"holds an adapter {info.name!r} of another base model"
    if header.get("partition") != now["partition"]:
        return f"holds an adapter {info.name!r} with other blocks"
    if header.get("slots") != list(info.slots):
        return f"holds an adapter {info.name!r} with other slots"
    return ""


def _card(repository: str, held: Held, token: Token) -> str:
    if CARD not in held.files:
        return ""
    path = fetch_file(HubAddress(repository, CARD), token, held.files[CARD])
    with path.open(encoding="utf-8", errors="replace", newline=None) as file:
        return file.read(1 << 20)
