"""The configs of CLIP's towers, with the fields and defaults of their `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from blocklora_jax.errors import UserError
from blocklora_jax.models.config_base import AnyConfig, ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig(ModelConfig):
    """The fields that the text tower and the image tower of CLIP have in common."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    FIXED: ClassVar[Mapping[str, Any]] = {"attention_dropout": 0.0}
    # Fields that transformers writes into the config.json of every model: versions, initialisation, generation.
    BOOKKEEPING: ClassVar[frozenset[str]] = frozenset(
        "_name_or_path architectures dtype torch_dtype transformers_version model_type initializer_factor "
        "initializer_range dropout chunk_size_feed_forward id2label is_encoder_decoder label2id output_attentions "
        "output_hidden_states problem_type return_dict _attn_implementation_autoset".split()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        self._require_positive("layer_norm_eps")
        supported = ("quick_gelu", "gelu")
        self._require(self.hidden_act in supported, f"hidden_act={self.hidden_act!r}; supported: {supported}")
        heads = self.num_attention_heads
        fits = self.hidden_size % heads == 0
        self._require(fits, f"num_attention_heads={heads} must divide hidden_size {self.hidden_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(CLIPConfig):
    """The CLIP text encoder: `text_encoder/config.json`.

    The token ids and `projection_dim` do not change the hidden states; they are kept to be written back. Stable
    Diffusion 2.x reads the output of OpenCLIP's last layer but one, so its folders do not hold the last layer.
    """

    vocab_size: int = 49408
    projection_dim: int | None = 512
    max_position_embeddings: int = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple[int, ...] | None = 49407

    HEADER: ClassVar[Mapping[str, Any]] = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}

    @classmethod
    def from_json(cls: type[AnyConfig], raw: Mapping[str, Any], source: str) -> AnyConfig:
        """Like `ModelConfig.from_json`. Also raises UserError if the file gives ids outside the vocabulary."""
        config = super().from_json(raw, source)
        for name in raw.keys() & {"pad_token_id", "bos_token_id", "eos_token_id"}:
            value, rows = getattr(config, name), getattr(config, "vocab_size")  # noqa: B009 (of a class below)
            ids = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(0 <= index < rows for index in ids):
                raise UserError(f"{source}: {name}={value!r} must be one of the {rows} tokens of vocab_size")
        return config

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("vocab_size", "max_position_embeddings")
        if self.projection_dim is not None:
            self._require_positive("projection_dim")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextProjectionConfig(TextConfig):
    """SDXL's second text encoder: `text_encoder_2/config.json`.

    `projection_dim` is the width of the pooled text, which is read at the first `eos_token_id`. In published configs
    this id is 2 by an old mistake; transformers then reads at the largest id of the prompt.
    """

    HEADER: ClassVar[Mapping[str, Any]] = {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.projection_dim is not None, "projection_dim must be given: it is the width of the pooled text"
        )
        self._require_positive("projection_dim")
        end = self.eos_token_id
        self._require(isinstance(end, int), f"eos_token_id={end!r} must be one id: the pooled text is read there")
