"""Pushes an adapter to the hub: its file, a LoRA for other programs, pictures, and a model card."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from blocklora_jax.adapters.adapter_like import AdapterLike
from blocklora_jax.adapters.file import AdapterContents, write_adapter
from blocklora_jax.adapters.sharing.lora_files import tensors_alone, write_alone
from blocklora_jax.adapters.sharing.model_card import hub_base, make_card
from blocklora_jax.adapters.sharing.publication import ADAPTER, LORA, Publication, check_license, usual_prompts
from blocklora_jax.adapters.sharing.replaced import CARD, check_replaced, license_there, stale_files
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import is_hub_id, parse_repository
from blocklora_jax.hub.files import Token
from blocklora_jax.hub.upload import Held, exists, held_by, require_token, upload
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.open_picture import open_picture, to_rgb
from blocklora_jax.io.outputs import kind_of_file
from blocklora_jax.io.picture_grid import png_bytes

MOST_PICTURES = 16
# Of the LoRA for other programs.
_LAYOUT = "kohya"


class PushSettings(NamedTuple):
    """How an adapter is pushed; see `Adapter.push_to_hub`."""

    private: bool = False
    license: str | None = None
    replace: bool = False
    pictures: tuple[str | Path, ...] = ()
    prompts: tuple[str, ...] | None = None
    base_model: str | None = None
    family: str | None = None
    message: str | None = None
    token: Token = None


def push(adapter: AdapterLike, repository: str, settings: PushSettings) -> str:
    """Push the adapter; gives the address of the repository. Raises UserError as `Adapter.push_to_hub` says."""
    repository, token = parse_repository(repository), settings.token
    held = check_push(repository, settings)
    if held and not settings.replace:
        check_replaced(repository, held, adapter.info, token)
    licence = settings.license or (license_there(repository, held, token) if held else "")
    base = _base_model(adapter, settings)
    with TemporaryDirectory() as folder:
        family, files = _write_files(Path(folder), adapter, settings)
        prompts = usual_prompts(adapter.info) if settings.prompts is None else settings.prompts
        pictures = tuple(name for name in files if name.endswith(".png"))
        about = Publication(repository, base, licence, pictures, prompts)
        card = make_card(Path(folder) / LORA, [adapter], [1.0], family, publication=about)
        write_atomic(Path(folder) / CARD, card.encode())
        return upload(
            repository,
            {**files, CARD: Path(folder) / CARD},
            delete=stale_files(held, files) if held and settings.replace else (),
            message=settings.message or f"Upload {adapter.info.name}",
            private=settings.private,
            parent=held.commit if held else None,
            token=token,
        )


def check_push(repository: str, settings: PushSettings, name: str | None = None) -> Held | None:
    """What the repository holds. To be called before something long, after which `push` should not fail.

    name: of the concept whose adapter will be pushed. An adapter of another name is refused then.

    Raises: UserError if nothing can be pushed there with these settings.
    """
    repository = parse_repository(repository)
    if settings.license:
        check_license(settings.license)
    if len(settings.pictures) > MOST_PICTURES:
        raise UserError(f"{len(settings.pictures)} pictures are too many for a model card: at most {MOST_PICTURES}")
    require_token(repository, settings.token)
    held = held_by(repository, settings.token)
    if held and settings.private and not held.private:
        raise UserError(
            f"{repository} is public already: make it private in its settings on the hub, or leave out --private"
        )
    if held and name and not settings.replace:
        check_replaced(repository, held, name, settings.token)
    return held


def check_family(adapter: AdapterLike, family: str | None) -> None:
    """Raises UserError if the LoRA for other programs needs a family that is not given, or another one."""
    tensors_alone(adapter, _LAYOUT, family)


def _write_files(folder: Path, adapter: AdapterLike, settings: PushSettings) -> tuple[str, dict[str, Path]]:
    """The family of the base, and all files but the card by their path in the repository."""
    contents = AdapterContents(adapter.lora, adapter.tokens, adapter.tokens_2, adapter.vectors, adapter.info)
    write_adapter(contents, folder / ADAPTER)
    family, written = write_alone(folder / LORA, adapter, _LAYOUT, settings.family)
    for i, source in enumerate(settings.pictures):
        path = folder / "pictures" / f"{i}.png"
        write_atomic(path, _picture(Path(source).expanduser()))
        written.append(path)
    return family, {path.relative_to(folder).as_posix(): path for path in [folder / ADAPTER, *written]}


def _picture(path: Path) -> bytes:
    """The picture as PNG. What is not ours is encoded anew, because photos say where and when they were taken."""
    if kind_of_file(path) == "picture":
        return path.read_bytes()
    return png_bytes(open_picture(path, to_rgb))


def _base_model(adapter: AdapterLike, settings: PushSettings) -> str:
    """The hub id of the base for the card; "" if none is known that exists."""
    given, stated = settings.base_model, adapter.info.base_name
    if given is not None and not is_hub_id(given):
        raise UserError(f"--base-model {given!r} is not the name of a repository on the hub: write it as owner/name")
    name = given or hub_base([adapter])
    if name and exists(name, settings.token):
        return name
    if given:
        raise UserError(f"--base-model {given}: there is no such repository on the Hugging Face hub")
    if stated != "pocket":
        warnings.warn(
            f"the card names no base model: {stated or 'an unknown one'!r} is not known as a repository on the hub;"
            " --base-model owner/name (base_model=…) states it",
            stacklevel=4,
        )
    return ""
