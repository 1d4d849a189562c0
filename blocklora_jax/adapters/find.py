"""Finds the file of an adapter: a file here, one in a folder here, or one in a repository on the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HUB, HubAddress, is_hub_address, is_hub_id, parse_address
from blocklora_jax.hub.files import Token, fetch_file, list_files
from blocklora_jax.io.printing import printable

SUFFIX = ".safetensors"
# The names that we, diffusers and PEFT give to the adapter of a folder, the best first.
USUAL = ("adapter.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.safetensors")
# PEFT keeps its scale in this file, see `external_lora.peft_config`.
PEFT_CONFIG = "adapter_config.json"
# Files that can run code.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find_adapter(
    source: str | os.PathLike[str],
    filename: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    token: Token = None,
) -> Path:
    """The file of an adapter on this machine. What is on the hub is downloaded first, if it is not in the hub's cache.

    Args:
        source: a file, a folder with an adapter, "hub:owner/name", "hub:owner/name@revision/path", or, as a text, the
            hub id "owner/name". A file or folder of that name wins.
        filename, subfolder: which file of the folder or repository.
        revision: branch, tag or commit of the repository.
        token: of the hub, for a private repository. Default: that of `hf auth login`, or HF_TOKEN.

    Raises: UserError if there is no such file, folder or repository, or not one adapter in it.
    """
    inner = "/".join(part.strip("/") for part in (subfolder, filename) if part)
    if address := _address(source):
        beginning = "" if is_hub_address(source) else f"{source!r} is not a file or folder here, and "
        return _fetch(_within(address, inner, revision), token, beginning)
    path = Path(source).expanduser()
    if revision is not None:
        raise UserError(f"a revision ({revision!r}) is only for repositories of the hub; {source} is a path here")
    if inner:
        path = path / inner
    if path.is_dir():
        names = (each.name for each in path.iterdir() if each.is_file())
        return path / choose(names, str(path), whole=(path / "model_index.json").is_file())
    if not path.exists() and is_hub_id(os.fspath(source)) and not inner and path.suffix != SUFFIX:
        raise UserError(f"there is no file or folder {source}; a repository on the hub is written as {HUB}{source}")
    return path


def choose(names: Iterable[str], at: str, whole: bool = False) -> str:
    """Which of the files of a folder is its adapter.

    at: the folder, for errors. whole: whether it is the folder of a whole model.

    Raises: UserError if there is none, or if it is unclear which one is meant.
    """
    names = sorted(names)
    files = [name for name in names if name.lower().endswith(SUFFIX)]
    if usual := next((name for name in USUAL if name in files), None):
        return usual
    # `both.ada.safetensors` is a token beside the LoRA `both.safetensors`.
    stems = [name[: -len(SUFFIX)] for name in files]
    files = [n for n in files if not any(n.startswith(f"{stem}.") and n != stem + SUFFIX for stem in stems)]
    if whole:
        raise UserError(f"{at} is a whole model, not an adapter: name it as the base, with --model")
    if len(files) == 1:
        return files[0]
    if files:
        raise UserError(
            f"{at} has several adapters ({_listed(files)}): name one of them, as in {at}/{printable(files[0])}"
        )
    pickles = [name for name in names if name.lower().endswith(_PICKLES)]
    if pickles:
        raise UserError(
            f"{at} has no {SUFFIX} file, only {_listed(pickles)}. Such files can run code and are not read: ask the"
            f" author for {SUFFIX} files"
        )
    raise UserError(f"there is no adapter file in {at}: nothing there ends in {SUFFIX}")


@contextmanager
def named_as(source: str | os.PathLike[str], path: Path) -> Iterator[None]:
    """Within this context, errors name the file at `path` as `shown_name` does."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(path), shown_name(source, path))) from error


def shown_name(source: str | os.PathLike[str], path: Path) -> str:
    """How messages name the file at `path`: by its address if it is on the hub, and not by its place in the cache."""
    address = _address(source)
    if address is None:
        return str(path)
    return str(address if address.path.endswith(path.name) else _within(address, path.name))


def _address(source: str | os.PathLike[str]) -> HubAddress | None:
    """The address that `source` gives; None if it is a path."""
    if is_hub_address(source):
        return parse_address(source)
    # A `Path` is never an id: nobody expects a request over the network from one.
    if isinstance(source, str) and is_hub_id(source) and not source.endswith(SUFFIX):
        return None if os.path.exists(os.path.expanduser(source)) else HubAddress(source)
    return None


def _within(address: HubAddress, inner: str, revision: str | None = None) -> HubAddress:
    if revision is not None and address.revision not in (None, revision):
        raise UserError(f"{address} and revision={revision!r} name two revisions: give one")
    path = "/".join(part for part in (address.path, inner) if part)
    revision = address.revision if revision is None else revision
    # Checks what was given in pieces.
    parse_address(str(HubAddress(address.repository, path)))
    return HubAddress(address.repository, path, revision)


def _fetch(address: HubAddress, token: Token, beginning: str) -> Path:
    """The file that is meant, downloaded. beginning: of the error if there is no such repository."""
    files = list_files(address, token, beginning)
    if address.path not in files and not address.path.lower().endswith(SUFFIX):
        inside = f"{address.path}/" if address.path else ""
        names = [name.removeprefix(inside) for name in files if name.startswith(inside)]
        here = [name for name in names if "/" not in name]
        if not any(name.lower().endswith(SUFFIX) for name in here):
            _refuse_deeper(address, names)
        address = address._replace(path=inside + choose(here, str(address), whole="model_index.json" in here))
    if address.path not in files:
        others = [name for name in files if name.lower().endswith(SUFFIX)]
        raise UserError(f"{address.repository} has no file {address.path}; it has {_listed(others) or 'no adapter'}")
    folder = address.path.rpartition("/")[0]
    config = f"{folder}/{PEFT_CONFIG}" if folder else PEFT_CONFIG
    if config in files:
        fetch_file(address._replace(path=config), token, files[config])
    return fetch_file(address, token, files[address.path])


def _refuse_deeper(address: HubAddress, names: list[str]) -> None:
    """Raises UserError if adapters lie only in folders of this one."""
    deeper = [name for name in names if name.lower().endswith(SUFFIX)]
    if deeper and "model_index.json" not in names:
        raise UserError(
            f"{address} has adapters only in folders ({_listed(deeper)}): name one, as in"
            f" {address}/{printable(deeper[0])}"
        )


def _listed(names: Iterable[str]) -> str:
    names = [printable(PurePosixPath(name)) for name in names]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
