"""What can be set when a concept is taught: flags over a YAML file over the defaults."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from blocklora_jax.adapters.partition import Axis
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_yaml_mapping
from blocklora_jax.io.printing import visible_text
from blocklora_jax.prompts.random_prompts import Kind, RandomPromptShares
from train.concept.setting_types import check_settings

# Where and how a run was made, which is nobody else's business and changes no number.
PRIVATE_SETTINGS = frozenset(
    "images other_images out model registry basis strangers resume save_dtype log_every save_every preview_every"
    " preview_prompts tensorboard tpu gpu cpu mapper remat".split()
)
TOKEN = re.compile(r"<([a-z0-9][a-z0-9_-]*)>")


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """Teach a model one concept from a handful of pictures, as a block-partitioned LoRA adapter.

    --config FILE reads defaults from a YAML file (see configs/); flags override it.
    """

    images: Path
    """Folder of PNG, JPEG or WebP pictures (or a packaged concept, such as ada).
    `name.txt` (UTF-8) beside one is its caption, `name.mask.png` weighs its loss:
    white is where the concept is; black and transparent parts do not count."""
    token: str
    """The concept's new word, such as '<ada>'."""
    class_noun: str
    """What it is, in a word that the model knows: man, dog, car."""
    out: Path
    """Run folder: adapter.safetensors, config.json, metrics.jsonl, previews/, checkpoints/."""
    model: str = "pocket"
    """The base: "pocket" (comes with the package), a Diffusers folder, or a hub id."""
    variant: str | None = None
    """Weights variant of the base, such as fp16."""
    kind: Kind = "object"
    """What sort of concept it is, which says where in a prompt it is called."""
    resume: bool = False
    """Continue an interrupted run, bit for bit."""

    layers: str = "cross_kv"
    """Which layers are adapted: cross_kv, attention, full, text_encoder, or several joined with '+'."""
    rank: int = 16
    """Rank of every adapted layer."""
    alpha: float | None = None
    """The adapter's output is scaled by alpha / rank; as large as rank if not given."""
    down: Literal["trained", "orthogonal"] = "trained"
    """The down projection A: trained, or frozen to disjoint rows of a basis that all share (Orthogonal Adaptation, arXiv 2312.02432; needs --blocks 0; --slot k: rows k * rank on)."""
    blocks: int = 16
    """K: how many blocks every weight is cut into, and how many slots there are. 0: no blocks, an ordinary LoRA."""
    axis: Axis = "in"
    """What is cut: input features, output features, or both."""
    slot: tuple[int, ...] | None = None
    """Which slots this concept owns; drawn from its name if not given. Adapters merge if their slots differ."""
    registry: str | None = None
    """A slot registry (file, folder or URL): train on the slots that are claimed there for the token."""
    partition_seed: int = 0
    """Seeds the assignment of slots to blocks, and shared bases; adapters that are to be merged share it."""

    basis: str | None = None
    """Cut blocks in the directions of this basis of the text features (a file of `python -m train.basis`, or pocket, which comes with the pocket model) instead of the features themselves; adapters that are to be merged share it."""

    token_vectors: int = 2
    """How many embeddings the token stands for; 0 trains none and writes the class noun's own."""
    token_spread: float = 1.0
    """How far new and foreign tokens start from the class noun, in deviations of the token table."""
    foreign_spread: float = 2.0
    """Foreign tokens are drawn up to so many times as far off: as far as training takes new ones."""
    strangers: tuple[str, ...] | None = None
    """Adapters of other concepts on this base, folders of them, or files of `python -m train.strangers`: most foreign tokens are drawn to resemble theirs. If not given, those packaged with the pocket model; without any name, none."""

    erase: Literal["layer", "epsilon", "preserve", "none"] = "layer"
    """Form of Randomized Output Erasure; or preserve, Differential Output Preservation: no random prompts, noise or strangers, but the batch's own noised pictures, captioned by the class noun without the token."""
    erase_weight: Annotated[float, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the erasure term. More silences a block of few features for its own concept too; without blocks 10 is better."""
    random_batch: int | None = None
    """Random rows a step; if not given as many as `batch`, or four times that where they cost little: in the form layer, for layers that read text."""
    random_shares: RandomPromptShares = RandomPromptShares()
    """What the random prompts are made of."""
    random_styles: tuple[str, ...] = ()
    """Beginnings of the random prompts ("a photo of"); a list that fits the model if not given."""
    random_subjects: tuple[str, ...] = ()
    """Their class nouns."""
    random_scenes: tuple[str, ...] = ()
    """Their ends ("on a beach")."""
    pure_noise: float = 0.3
    """Share of the random rows whose latents are noise alone."""
    other_images: Path | None = None
    """Folder of other pictures, to be noised as random latents beside the references.
    Their captions and masks do not count."""

    steps: int = 500
    """Optimizer steps."""
    batch: int = 6
    """Concept rows a step, over all devices."""
    learning_rate: float = 4e-3
    """Of the U-Net's adapter."""
    text_learning_rate: float = 3e-4
    """Of the text encoder's adapter, if `layers` names it."""
    token_learning_rate: float = 5e-3
    """Of the concept's embeddings; 0 leaves them as they are drawn."""
    weight_decay: float = 0.01
    """AdamW's."""
    warmup_steps: int = 20
    """Linear warm-up; a cosine to a tenth follows."""
    clip_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    weighting: Literal["none", "min_snr", "picture"] = "picture"
    """How noise levels count: none, min_snr (arXiv 2303.09556), or picture, the clean picture's error times min(snr, gamma) + 1."""
    snr_gamma: float = 5.0
    """No noise level counts for more than this signal-to-noise ratio."""
    noise_offset: float = 0.0
    """Share of noise that is the same over the whole picture; helps with very dark and bright ones."""
    flip: bool = False
    """Also learn from mirrored pictures."""
    crop: float = 1.0
    """Smallest side of random crops, as a share of the picture; 1 crops nothing but what makes it square."""

    resolution: int | None = None
    """Pixels of a training picture's side; the model's own if not given."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the models compute in; auto is bfloat16 on TPU and float32 elsewhere. Adapters are always float32."""
    remat: bool = False
    """Recompute the U-Net's blocks in the backward pass: less memory, more time."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of adapter.safetensors."""
    seed: int = 0
    """Seeds everything."""
    tpu: bool = False
    """Run on TPUs (bf16, all cores, all hosts of a pod)."""
    gpu: bool = False
    """Run on GPUs."""
    cpu: bool = False
    """Run on the CPU."""
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    """How the step is mapped over the devices."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 200
    """Steps between checkpoints."""
    preview_every: int = 250
    """Steps between preview grids; 0 makes only the last."""
    preview_prompts: tuple[str, ...] = ()
    """Prompts of the preview grids; a few that fit the concept if not given."""
    tensorboard: bool = False
    """Write TensorBoard files too."""

    def __post_init__(self) -> None:
        if not TOKEN.fullmatch(self.token):
            raise UserError(
                f"--token {self.token!r} must look like '<name>': lower-case letters, digits, '-' and '_' in angle brackets"
            )
        if sum((self.tpu, self.gpu, self.cpu)) > 1:
            raise UserError("choose one of --tpu, --gpu and --cpu")
        check_options(self)
        self._check_words()
        self._check_basis()
        self._check_rivals()

    def _check_words(self) -> None:
        """What is read as text is what is seen: zero-width characters would be tokens of their own."""
        for name in ("class_noun", "random_styles", "random_subjects", "random_scenes", "preview_prompts"):
            value = getattr(self, name)
            for text in (value,) if isinstance(value, str) else value:
                # The noun is shown and searched for besides: only ordinary spaces.
                written = text.replace(" ", "") if name == "class_noun" else "".join(text.split())
                if written != "".join(visible_text(text).split()):
                    raise UserError(
                        f"--{name.replace('_', '-')} {text!r} has characters that nobody sees: write"
                        f" {visible_text(text)!r}"
                    )

    def _check_basis(self) -> None:
        """What blocks in the directions of a basis ask of other settings."""
        demands = {
            "--blocks 2 or more": self.blocks >= 2,
            "--axis in": self.axis == "in",
            "--layers cross_kv, which read text": self.layers == "cross_kv",
            "no --registry": self.registry is None,
        }
        if self.basis is not None and (missing := [demand for demand, met in demands.items() if not met]):
            raise UserError(f"--basis cuts blocks of the text features: it takes {' and '.join(missing)}")

    def _check_rivals(self) -> None:
        """What Orthogonal Adaptation and Differential Output Preservation ask of other settings."""
        if self.down == "orthogonal" and self.blocks:
            raise UserError("--down orthogonal keeps concepts apart without blocks: give --blocks 0 too")
        if self.down == "orthogonal" and self.slot is not None and len(self.slot) != 1:
            raise UserError(f"--down orthogonal takes one --slot, not {len(self.slot)}: a higher --rank has more rows")
        if self.erase == "preserve" and not self.token_vectors:
            raise UserError(
                "--erase preserve tells the concept from its class by the token: give --token-vectors 1 or more"
            )
        if self.erase == "preserve" and self.random_rows > self.batch:
            raise UserError(
                f"--erase preserve repeats the batch's own pictures: --random-batch must be at most --batch {self.batch},"
                f" not {self.random_rows}"
            )

    @property
    def name(self) -> str:
        """The concept's name: the token without its brackets."""
        return self.token.strip("<>")

    @property
    def trigger(self) -> str:
        """What calls the concept in a prompt: "<ada> woman"."""
        return f"{self.token} {self.class_noun}" if self.token_vectors else self.class_noun

    @property
    def random_rows(self) -> int:
        """ROE's rows a step."""
        if self.erase == "none" or self.erase_weight == 0:
            return 0
        if self.random_batch is not None:
            return self.random_batch
        only_text = self.erase == "layer" and set(self.layers.split("+")) <= {"cross_kv", "text_encoder"}
        return 4 * self.batch if only_text else self.batch

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; paths become strings."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


def parse_args(args: Sequence[str] | None = None) -> ConceptConfig:
    """The configuration of the command line `args`, whose `--config FILE` is read first and overridden by the rest.

    Raises: UserError for a YAML file that is missing, malformed, or has an unknown setting.
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config", type=Path)
    known, rest = reader.parse_known_args(args)
    flags = _flags_of(known.config) if known.config else []
    # tyro lets the last of two equal flags win, so the file's come first.
    return read_options(ConceptConfig, [*flags, *rest], prog="python -m train.concept")


def _flags_of(path: Path) -> list[str]:
    """The settings of a YAML file as command-line flags."""
    settings = read_yaml(path)
    known = {field.name for field in dataclasses.fields(ConceptConfig)} - {"erase_weight"} | {"lambda"}
    unknown = [name for name in settings if name.replace("-", "_") not in known]
    if unknown:
        raise UserError(f"{path}: unknown setting {unknown[0]!r}; python -m train.concept --help lists all")
    check_settings(str(path), settings, ConceptConfig)
    return settings_as_flags(settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises: UserError if it is missing, malformed, or no mapping."""
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
