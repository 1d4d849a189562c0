"""The configuration of a training run. Flags override a YAML file, which overrides the defaults."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from blocklora_jax.adapters.sharing.options import PushFlags
from blocklora_jax.command_line.options import check_options, flag_types, read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_yaml_mapping
from blocklora_jax.pocket.basis_file import no_packaged_basis
from blocklora_jax.prompts.concept_token import is_concept_token
from blocklora_jax.prompts.shares import RandomPromptShares
from blocklora_jax.storage.address import is_remote
from blocklora_jax.storage.copies import local_copy
from train.concept.basis_file import WITHOUT
from train.concept.config_files import find_config, lists_concepts
from train.concept.setting_types import check_settings, typed_names
from train.concept.settings.adapter import AdapterSettings
from train.concept.settings.base import BaseSettings
from train.concept.settings.concept_name import ConceptName
from train.concept.settings.data import DataSettings
from train.concept.settings.erasure import ErasureSettings
from train.concept.settings.flat import flatten, nest, to_json
from train.concept.settings.loss import LossSettings
from train.concept.settings.old_names import OLD_NAMES, rename_flags, rename_settings
from train.concept.settings.optimizer import OptimizerSettings
from train.concept.settings.run import RunSettings
from train.concept.settings.token_side import TokenSideSettings
from train.concept.settings.tokens import TokenSettings
from train.concept.settings.visible_text import check_visible
from train.engine.joining import JoiningSettings

# Keys of settings that say where and how a run was made. They are private and do not change the adapter's numbers, so
# the adapter file leaves them out.
PRIVATE_SETTINGS = frozenset(
    "images other_images class_images out model registry basis strangers resume save_dtype log_every save_every"
    " previews preview_every preview_prompts report tensorboard wandb tpu gpu cpu mapper remat attention"
    " push private license replace".split()
)

_FOLDERS = ("images", "out", "other_images", "class_images")

# Groups of settings, by field of `ConceptConfig`. Their flags have no prefix: --rank, not --adapter.rank.
GROUPS: dict[str, type] = {
    "data": DataSettings,
    "adapter": AdapterSettings,
    "tokens": TokenSettings,
    "token_side": TokenSideSettings,
    "erasure": ErasureSettings,
    "optimizer": OptimizerSettings,
    "loss": LossSettings,
    "base": BaseSettings,
    "run": RunSettings,
    "sharing": PushFlags,
    "joining": JoiningSettings,
}


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """Teach a model one concept from a handful of pictures, as a block-partitioned LoRA adapter.

    --config FILE reads defaults from a YAML file, or from a shipped one by its name (ada); flags override it.
    """

    images: Path
    """Folder of pictures (PNG, JPEG, WebP, HEIC, AVIF, GIF, TIFF, BMP), a folder of a dataset on the hub, such as
    hub:owner/dataset, or a packaged concept, such as ada. `name.txt` (UTF-8) beside `name.png`, or its line in
    metadata.jsonl, is its caption. `name.mask.png` weights its loss: white is where the concept is; black and
    transparent parts do not count."""
    token: str
    """The concept's new word, such as '<ada>'."""
    class_noun: str
    """What the concept is, in a word that the model knows: man, dog, car."""
    out: Path
    """Run folder: adapter.safetensors, report.html, config.json, contact_sheet.png, metrics.jsonl, previews/,
    checkpoints/."""
    model: str = "pocket"
    """The base: "pocket" (comes with the package), a Diffusers folder, or a hub id."""
    steps: int = 500
    """Optimizer steps."""
    data: tyro.conf.OmitArgPrefixes[DataSettings] = DataSettings()
    adapter: tyro.conf.OmitArgPrefixes[AdapterSettings] = AdapterSettings()
    tokens: tyro.conf.OmitArgPrefixes[TokenSettings] = TokenSettings()
    token_side: tyro.conf.OmitArgPrefixes[TokenSideSettings] = TokenSideSettings()
    erasure: tyro.conf.OmitArgPrefixes[ErasureSettings] = ErasureSettings()
    random_shares: RandomPromptShares = RandomPromptShares()
    """How often a random prompt has each of its parts."""
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerSettings] = OptimizerSettings()
    loss: tyro.conf.OmitArgPrefixes[LossSettings] = LossSettings()
    base: tyro.conf.OmitArgPrefixes[BaseSettings] = BaseSettings()
    run: tyro.conf.OmitArgPrefixes[RunSettings] = RunSettings()
    sharing: tyro.conf.OmitArgPrefixes[PushFlags] = PushFlags()
    joining: tyro.conf.OmitArgPrefixes[JoiningSettings] = JoiningSettings()

    def __post_init__(self) -> None:
        if not is_concept_token(self.token):
            raise UserError(
                f"--token {self.token!r} must look like '<name>': lower-case letters, digits, '-' and '_' in angle"
                " brackets"
            )
        check_options(self)
        # The noun is printed and searched for, so it may have no white space other than ordinary spaces.
        check_visible(self, ("class_noun",), only_spaces=True)
        self._check_preservation()
        self._check_token_side()
        # A folder may be a copy of the pocket model. That is known only after it has been read.
        if self.adapter.basis == "pocket" and self.model != "pocket" and not _is_place(self.model):
            raise UserError(no_packaged_basis(self.model, WITHOUT))

    def _check_preservation(self) -> None:
        """Raises UserError for preservation of the class with settings that it does not work with."""
        folder = self.erasure.class_images
        if folder is not None and folder.resolve() == self.images.resolve():
            raise UserError(f"--class-images {folder} is the folder of --images: give another, which may be empty")
        if not self.erasure.preserves_class:
            return
        if not self.tokens.token_vectors:
            raise UserError(
                "--erase preserve needs a token that tells the concept from its class: give --token-vectors 1 or more"
            )
        if folder is None and self.random_rows > self.optimizer.rows:
            raise UserError(
                "--erase preserve repeats the batch's own pictures: --random-batch must be at most --batch"
                f" {self.optimizer.batch}, not {self.random_rows // self.optimizer.accumulate}"
            )

    def _check_token_side(self) -> None:
        """Raises UserError if the token side or codewords are used without a token, or without own directions."""
        used = [flag for flag, is_used in {
            "--token-side": self.token_side.is_on,
            "--token-start codeword": self.token_side.token_start == "codeword",
            "--negatives-from codewords": self.token_side.negatives_from == "codewords",
        }.items() if is_used]  # fmt: skip
        if used and self.adapter.assignment != "text":
            raise UserError(
                f"{used[0]} needs slots that own directions of a basis: give --assignment text and --basis too"
            )
        if used and not self.tokens.token_vectors:
            raise UserError(f"{used[0]} needs a token: give --token-vectors 1 or more")

    @classmethod
    def from_settings(cls, **settings: Any) -> ConceptConfig:
        """The configuration with settings by name, without groups: `from_settings(token="<ada>", ..., rank=8)`.

        Folders may be texts, and `slot` may be a number.
        """
        paths = {name: Path(settings[name]) for name in _FOLDERS if isinstance(settings.get(name), str)}
        slot = {"slot": (settings["slot"],)} if isinstance(settings.get("slot"), int) else {}
        return cls(**nest(settings | paths | slot, GROUPS))

    def with_settings(self, **settings: Any) -> ConceptConfig:
        """This configuration with some settings changed, by name, without groups."""
        return self.from_settings(**self.settings() | settings)

    def settings(self) -> dict[str, Any]:
        """All settings by name, without groups."""
        return flatten(self, GROUPS)

    @property
    def name(self) -> str:
        """The concept's name: the token without its brackets."""
        return self.token.strip("<>")

    @property
    def called(self) -> ConceptName:
        """How the concept is called in prompts."""
        return ConceptName(self.token, self.class_noun, self.data.kind, self.tokens.token_vectors)

    @property
    def trigger(self) -> str:
        """The words that call the concept in a prompt: "<ada> woman"."""
        return self.called.trigger

    @property
    def trains_tokens(self) -> bool:
        """Whether the concept's embeddings change in training."""
        return self.tokens.token_vectors > 0 and self.optimizer.token_learning_rate > 0

    @property
    def parts_on_host(self) -> tuple[str, ...]:
        """Components that a step does not read: the autoencoder, and text encoders if all text is encoded before."""
        reads_text = self.trains_tokens or "text_encoder" in self.adapter.layers.split("+")
        return ("vae",) if reads_text else ("vae", "text_encoder", "text_encoder_2")

    @property
    def random_rows(self) -> int:
        """Number of random rows in a step, in all its batches."""
        return self.erasure.rows(self.optimizer.batch, self.adapter.layers) * self.optimizer.accumulate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by key of config.json; paths become strings."""
        return to_json(self.settings())


def _is_place(model: str) -> bool:
    return is_remote(model) or Path(model).exists()


def parse_args(args: Sequence[str] | None = None) -> ConceptConfig:
    """The configuration that the command line `args` gives; None: that of this process. See `read_flags`."""
    return read_options(ConceptConfig, read_flags(args), prog="python -m train.concept")


def read_flags(args: Sequence[str] | None = None) -> list[str]:
    """`args` in which `--config FILE` is replaced by the file's settings as flags, and old names by new ones.

    Raises: UserError for a YAML file that is missing, malformed, or has an unknown setting.
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config", type=Path)
    known, rest = reader.parse_known_args(rename_flags(sys.argv[1:] if args is None else args))
    # If a flag is given twice, tyro takes the last one. So the file's flags come first.
    return [*(_flags_of(known.config) if known.config else []), *rest]


def is_setting(name: object) -> bool:
    """Whether a key of a YAML file is the name of a setting, or an old name of one."""
    known = {name for field, hint in flag_types(ConceptConfig).items() for name in typed_names(field, hint)}
    return str(name).replace("-", "_") in known | OLD_NAMES.keys()


def _flags_of(given: Path) -> list[str]:
    """The settings of the YAML file that `--config` names as command-line flags."""
    path = find_config(local_copy(given))
    values = read_yaml(path)
    if lists_concepts(values) and not any(map(is_setting, values)):
        raise UserError(
            f"--config {given} lists concepts, and holds no settings: train them with"
            f" `python -m train.concepts --concepts {given} --out DIR`"
        )
    settings = rename_settings(str(path), values)
    if unknown := [name for name in settings if not is_setting(name)]:
        raise UserError(f"{path}: unknown setting {unknown[0]!r}; python -m train.concept --help lists all")
    check_settings(str(path), settings, ConceptConfig)
    return settings_as_flags(settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises: UserError if the file is missing, malformed, or holds no mapping."""
    return read_yaml_mapping(path)


def settings_as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line flags: {"class_noun": "dog"} is --class-noun dog."""
    return [flag for name, value in settings.items() for flag in _flag(name.replace("_", "-"), value)]


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [flag for key, item in value.items() for flag in _flag(f"{name}.{str(key).replace('_', '-')}", item)]
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if value is None:
        return [f"--{name}", "None"]
    return [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
