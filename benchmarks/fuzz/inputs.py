"""Small random models and adapters, from which the damaged ones are made."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.models.config import TextConfig, TextProjectionConfig, UNetConfig, VAEConfig
from blocklora_jax.pocket.tokenizer import write_tokenizer

FOUR_BLOCKS = Partition(num_blocks=4)
WORDS = ["a", "photo", "of", "man", "dog", "in", "the", "snow"]
PROMPTS = ["a photo of a man", "a dog in the snow"]
_POSITIONS, _WIDTH, _WIDTH_2, _POOLED = 77, 16, 24, 20
_SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def tiny_checkpoint(family: str, folder: Path) -> Checkpoint:
    """A random model of "sd1", "sd2" or "sdxl", 16 x 16 pixels; its tokenizer is written below `folder`."""
    rows = write_tokenizer(folder / "words", WORDS, max_length=_POSITIONS)
    configs, rng = _configs(rows, family), np.random.default_rng(rows)
    params = {part: _draw(rng, config) for part, config in configs.items()}
    prediction = {"prediction_type": "v_prediction"} if family == "sd2" else {}
    tokenizer = folder / "words"
    return Checkpoint(
        name="tiny", configs=configs, params=params, scheduler=_SCHEDULER | prediction, tokenizer=tokenizer,
        tokenizer_2=tokenizer if family == "sdxl" else None,
    )  # fmt: skip


def tiny_params(family: str) -> dict[str, Any]:
    """Parameters of such a model."""
    with tempfile.TemporaryDirectory() as folder:
        return dict(tiny_checkpoint(family, Path(folder)).params)


def tiny_adapter(
    name: str,
    params: dict[str, Any],
    *,
    family: str = "sd1",
    slots: tuple[int, ...] = (1,),
    partition: Partition | None = FOUR_BLOCKS,
    layers: str = "attention+text_encoder",
    vectors: int = 2,
) -> Adapter:
    """A random adapter of rank 2 and alpha 3, zero outside its blocks."""
    rng = np.random.default_rng(sum(name.encode()))
    info = AdapterInfo(
        name=name, class_noun="man", trigger=f"<{name}> man", rank=2, alpha=3.0, base_name="tiny",
        base_digest=params_digest(params), base_family=family, partition=partition, slots=slots if partition else (),
    )  # fmt: skip
    lora = {
        part: {layer: _pair(rng, info, part, layer, shape) for layer, shape in shapes.items()}
        for part, shapes in select_kernels(params, layers).items()
    }
    widths = {"tokens": _WIDTH} | ({"tokens_2": _WIDTH_2} if family == "sdxl" else {})
    tokens = {field: {f"<{name}>": _normal(rng, vectors, width)} for field, width in widths.items() if vectors}
    return Adapter(lora=lora, **{"tokens": {}, **tokens}, info=info)


def _pair(rng: np.random.Generator, info: AdapterInfo, part: str, layer: str, shape: tuple[int, int]) -> LoRAPair:
    rows, columns = info.support(part, layer, shape)
    a, b = np.zeros((shape[0], info.rank), np.float32), np.zeros((info.rank, shape[1]), np.float32)
    a[rows], b[:, columns] = _normal(rng, len(rows), info.rank), _normal(rng, info.rank, len(columns))
    return LoRAPair(a, b)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 0.5 * rng.standard_normal(shape, np.float32)


def _draw(rng: np.random.Generator, config: Any) -> dict[str, Any]:
    """Values that keep signals at their size, with no scale one and no bias zero."""
    flat = {}
    for path, shape in sorted(param_shapes(config).items()):
        noise = rng.standard_normal(shape, np.float32)
        is_kernel = path.endswith("kernel")
        scaled = noise / np.float32(np.sqrt(np.prod(shape[:-1]))) if is_kernel else 0.1 * noise
        flat[path] = (1 + scaled if path.endswith("scale") else scaled).astype(np.float32)
    return unflatten_params(flat)


def _configs(rows: int, family: str) -> dict[str, Any]:
    unet = UNetConfig(
        sample_size=8, block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",), layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=_WIDTH, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    vae = VAEConfig(
        sample_size=16, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = TextConfig(
        vocab_size=rows, hidden_size=_WIDTH, intermediate_size=24, projection_dim=_WIDTH, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=_POSITIONS, bos_token_id=rows - 2, eos_token_id=rows - 1,
        pad_token_id=rows - 1,
    )  # fmt: skip
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": text}
    if family == "sd1":
        return parts
    parts["unet"] = replace(unet, use_linear_projection=True, attention_head_dim=(2,))
    if family == "sd2":
        return parts | {"text_encoder": replace(text, hidden_act="gelu")}
    wide = {"hidden_size": _WIDTH_2, "projection_dim": _POOLED, "hidden_act": "gelu"}
    parts["unet"] = replace(
        parts["unet"], cross_attention_dim=_WIDTH + _WIDTH_2, transformer_layers_per_block=(1,),
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=_POOLED + 24,
    )  # fmt: skip
    return parts | {"text_encoder_2": TextProjectionConfig(**{**vars(text), **wide})}
