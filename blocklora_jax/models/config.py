"""The configs of the U-Net, the VAE and the text encoder, with the fields and defaults of their `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from blocklora_jax.models.config_base import ModelConfig

# Versions, origin, and what diffusers' `EMAModel` leaves in the config of an averaged model.
_DIFFUSERS_BOOKKEEPING = frozenset(
    "_class_name _diffusers_version _name_or_path _use_default_values "
    "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(ModelConfig):
    """The denoiser: `unet/config.json`.

    `attention_head_dim` is the *number* of heads: diffusers named it wrongly once and kept the name.
    """

    sample_size: int | tuple[int, ...] | None = None
    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float | int = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    attention_head_dim: int = 8
    time_embedding_dim: int | None = None

    FIXED: ClassVar[Mapping[str, Any]] = {
        "act_fn": "silu",
        "addition_embed_type": None,
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": None,
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "dropout": 0.0,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "projection_class_embeddings_input_dim": None,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": 1,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    BOOKKEEPING: ClassVar[frozenset[str]] = _DIFFUSERS_BOOKKEEPING
    HEADER: ClassVar[Mapping[str, Any]] = {"_class_name": "UNet2DConditionModel"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("in_channels", "out_channels", "block_out_channels", "layers_per_block")
        self._require_positive("norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim")
        self._require_block_types("down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D"))
        self._require_block_types("up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D"))
        self._require(self.downsample_padding in (0, 1), f"downsample_padding={self.downsample_padding} must be 0 or 1")
        blocks = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types", "layers_per_block"):
            value = getattr(self, name)
            fits = not isinstance(value, tuple) or len(value) == blocks
            self._require(fits, f"{name}={value!r} must have as many items as block_out_channels ({blocks})")
        for channels in self.block_out_channels:
            for name in ("norm_num_groups", "attention_head_dim"):
                divisor = getattr(self, name)
                self._require(channels % divisor == 0, f"{name}={divisor} must divide block_out_channels {channels}")
        self._require(self.block_out_channels[0] % 2 == 0, "the first of block_out_channels must be even")

    @property
    def layers_by_block(self) -> tuple[int, ...]:
        """Residual blocks of each down block; up blocks have one more."""
        layers = self.layers_per_block
        return layers if isinstance(layers, tuple) else (layers,) * len(self.block_out_channels)

    @property
    def time_channels(self) -> int:
        """Width of the time embedding that the blocks read."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig(ModelConfig):
    """The image autoencoder: `vae/config.json`.

    `sample_size` and `force_upcast` are kept only to be written back: the first is a hint for tiling, the second
    for half-precision pipelines, and our norms and softmax are fp32 anyway.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, ...] | None = 32
    scaling_factor: float = 0.18215
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    FIXED: ClassVar[Mapping[str, Any]] = {
        "act_fn": "silu",
        "latents_mean": None,
        "latents_std": None,
        "shift_factor": None,
    }
    BOOKKEEPING: ClassVar[frozenset[str]] = _DIFFUSERS_BOOKKEEPING
    HEADER: ClassVar[Mapping[str, Any]] = {"_class_name": "AutoencoderKL"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("in_channels", "out_channels", "block_out_channels", "layers_per_block")
        self._require_positive("latent_channels", "norm_num_groups", "scaling_factor")
        self._require_block_types("down_block_types", ("DownEncoderBlock2D",))
        self._require_block_types("up_block_types", ("UpDecoderBlock2D",))
        blocks = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            fits = len(getattr(self, name)) == blocks
            self._require(fits, f"{name} must have as many items as block_out_channels ({blocks})")
        for channels in self.block_out_channels:
            groups = self.norm_num_groups
            self._require(channels % groups == 0, f"norm_num_groups={groups} must divide block_out_channels {channels}")

    @property
    def downscale(self) -> int:
        """Pixels a latent stands for, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig(ModelConfig):
    """What the text tower and the image tower of CLIP have in common."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    FIXED: ClassVar[Mapping[str, Any]] = {"attention_dropout": 0.0}
    # What transformers writes into every config.json, whatever the model: versions, initialisation, generation.
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

    The token ids and `projection_dim` do not touch the hidden states; they are kept to be written back.
    """

    vocab_size: int = 49408
    projection_dim: int | None = 512
    max_position_embeddings: int = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple[int, ...] | None = 49407

    HEADER: ClassVar[Mapping[str, Any]] = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("vocab_size", "max_position_embeddings")
