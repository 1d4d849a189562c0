"""Configs of the U-Net and the VAE, with the fields and defaults of `config.json`. `clip_config` has those of CLIP."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from blocklora_jax.models.clip_config import CLIPConfig, TextConfig, TextProjectionConfig
from blocklora_jax.models.config_base import ModelConfig

__all__ = ["SIZE_IDS", "CLIPConfig", "TextConfig", "TextProjectionConfig", "UNetConfig", "VAEConfig"]

# Versions, origin, and the fields that diffusers' `EMAModel` leaves in the config of an averaged model.
_DIFFUSERS_BOOKKEEPING = frozenset(
    "_class_name _diffusers_version _name_or_path _use_default_values "
    "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup".split()
)

# The number of size ids: height and width of the original, top and left of the crop, height and width of the target.
SIZE_IDS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(ModelConfig):
    """The denoiser: `unet/config.json`.

    `attention_head_dim` is the *number* of heads: diffusers named it wrongly once and kept the name. `upcast_attention`
    is kept only to be written back: our scores and softmax are fp32 anyway. With SDXL's `addition_embed_type`
    "text_time" the pooled text and the size ids are added to the time embedding.
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
    attention_head_dim: int | tuple[int, ...] = 8
    transformer_layers_per_block: int | tuple[int, ...] = 1
    use_linear_projection: bool = False
    upcast_attention: bool | None = False
    time_embedding_dim: int | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    FIXED: ClassVar[Mapping[str, Any]] = {
        "act_fn": "silu",
        "addition_embed_type_num_heads": 64,
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
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
    }
    BOOKKEEPING: ClassVar[frozenset[str]] = _DIFFUSERS_BOOKKEEPING
    HEADER: ClassVar[Mapping[str, Any]] = {"_class_name": "UNet2DConditionModel"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("in_channels", "out_channels", "block_out_channels", "layers_per_block")
        self._require_positive("norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim")
        self._require_positive("transformer_layers_per_block")
        self._require_block_types("down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D"))
        self._require_block_types("up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D"))
        self._require(self.downsample_padding in (0, 1), f"downsample_padding={self.downsample_padding} must be 0 or 1")
        self._require(self.block_out_channels[0] % 2 == 0, "the first of block_out_channels must be even")
        self._require_size()
        self._require_fitting_blocks()
        self._require_additions()

    def _require_fitting_blocks(self) -> None:
        blocks = len(self.block_out_channels)
        by_block = ("layers_per_block", "attention_head_dim", "transformer_layers_per_block")
        for name in ("down_block_types", "up_block_types", *by_block):
            value = getattr(self, name)
            fits = not isinstance(value, tuple) or len(value) == blocks
            self._require(fits, f"{name}={value!r} must have as many items as block_out_channels ({blocks})")
        groups = self.norm_num_groups
        for channels, heads in zip(self.block_out_channels, self.heads_by_block, strict=True):
            for name, divisor in (("norm_num_groups", groups), ("attention_head_dim", heads)):
                self._require(channels % divisor == 0, f"{name}={divisor} must divide block_out_channels {channels}")

    def _require_additions(self) -> None:
        kind, widths = self.addition_embed_type, ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
        self._require(kind in (None, "text_time"), f"addition_embed_type={kind!r}; supported: None, 'text_time'")
        for name in widths:
            value = getattr(self, name)
            needed = kind is not None
            self._require(
                (value is not None) == needed, f"{name}={value!r} does not go with addition_embed_type={kind!r}"
            )
        if kind:
            self._require_positive(*widths)
            self._require(self.pooled_width > 0, "projection_class_embeddings_input_dim leaves no room for pooled text")

    @property
    def layers_by_block(self) -> tuple[int, ...]:
        """Residual blocks of each down block; up blocks have one more."""
        return self._by_block(self.layers_per_block)

    @property
    def heads_by_block(self) -> tuple[int, ...]:
        """Attention heads of each down block; the middle block has as many as the last."""
        return self._by_block(self.attention_head_dim)

    @property
    def depth_by_block(self) -> tuple[int, ...]:
        """Transformer blocks in each attention of each down block; the middle block has as many as the last."""
        return self._by_block(self.transformer_layers_per_block)

    @property
    def pooled_width(self) -> int:
        """Width of the pooled text that the U-Net reads besides the text states; 0 if it reads none."""
        return (self.projection_class_embeddings_input_dim or 0) - SIZE_IDS * (self.addition_time_embed_dim or 0)

    def _by_block(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

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
        self._require_size()
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
        """How many pixels one latent covers along each side."""
        return 2 ** (len(self.block_out_channels) - 1)
