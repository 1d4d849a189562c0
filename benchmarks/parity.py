"""How far our models are from PyTorch's at full size, on random weights in fp32.

One model after the other: diffusers or transformers computes, its weights move into ours, ours compute the same. Prints
a table and one line of JSON; exits with 1 if an error is above 1e-4 of max |reference|. Stable Diffusion 1.5 needs
about 10 GiB of memory and, on two cores, some minutes.

    python -m benchmarks.parity [--model sd15] [--components text_encoder vae unet] [--side 64]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from blocklora_jax.checkpoints.layout import to_flax
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL

TOLERANCE = 1e-4
COMPONENTS = ("text_encoder", "vae", "unet")
Case = tuple[str, Callable[..., Any], Callable[..., Any], tuple[np.ndarray, ...]]


def make_torch(component: str, raw: dict[str, Any]) -> torch.nn.Module:
    """The PyTorch module of a config.json, with seeded weights that keep signals at their size."""
    if component == "text_encoder":
        module = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(raw))
    else:
        module = getattr(diffusers, raw["_class_name"]).from_config(raw)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        spread = 0.2 if parameter.ndim == 1 else 1.0 if "embedding" in name else parameter[0].numel() ** -0.5
        is_scale = "norm" in name and name.endswith("weight")
        parameter.data.normal_(1.0 if is_scale else 0.0, spread, generator=generator)
    return module.eval()


def take_params(component: str, module: torch.nn.Module) -> dict[str, Any]:
    """Our parameters from the module's, whose storage is let go one tensor at a time."""
    tensors = {}
    for key, parameter in module.named_parameters():
        tensors[key] = parameter.data.numpy().copy()
        parameter.data = torch.empty(0)
    return jax.tree.map(jnp.asarray, to_flax(component, tensors))


def text_cases(raw: dict[str, Any], side: int) -> list[Case]:
    """Three prompts of the longest length."""
    config = TextConfig.from_json(raw, "text_encoder")
    shape = (3, config.max_position_embeddings)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, shape).astype(np.int32)
    model = CLIPTextModel(config)
    return [("text_encoder", lambda m, x: m(x.long()).last_hidden_state, model.apply, (ids,))]


def vae_cases(raw: dict[str, Any], side: int) -> list[Case]:
    """One image in, one out."""
    config = VAEConfig.from_json(raw, "vae")
    model = AutoencoderKL(config)
    rng = np.random.default_rng(2)
    pixels = side * config.downscale
    images = rng.uniform(-1, 1, (1, pixels, pixels, config.in_channels)).astype(np.float32)
    latents = rng.standard_normal((1, side, side, config.latent_channels), np.float32)

    def encode(params: dict[str, Any], images: jax.Array) -> jax.Array:
        moments: Any = model.apply(params, images, method="encode")
        return jnp.concatenate(moments, axis=-1)

    return [
        (
            "vae encode",
            lambda m, x: channels_last(torch.cat([(d := m.encode(channels_first(x)).latent_dist).mean, d.logvar], 1)),
            encode,
            (images,),
        ),
        (
            "vae decode",
            lambda m, z: channels_last(m.decode(channels_first(z)).sample),
            lambda p, z: model.apply(p, z, method="decode"),
            (latents,),
        ),
    ]


def unet_cases(raw: dict[str, Any], side: int) -> list[Case]:
    """One prediction, with 77 text states."""
    config = UNetConfig.from_json(raw, "unet")
    rng = np.random.default_rng(3)
    sample = rng.standard_normal((1, side, side, config.in_channels), np.float32)
    text = rng.standard_normal((1, 77, config.cross_attention_dim), np.float32)
    return [
        (
            "unet",
            lambda m, x, t, c: channels_last(m(channels_first(x), t, c).sample),
            UNet2DConditionModel(config).apply,
            (sample, np.array([501], np.int32), text),
        )
    ]


CASES = {"text_encoder": text_cases, "vae": vae_cases, "unet": unet_cases}


def channels_first(x: torch.Tensor) -> torch.Tensor:
    """[b, h, w, c] to [b, c, h, w]."""
    return x.permute(0, 3, 1, 2).contiguous()


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """[b, c, h, w] to [b, h, w, c]."""
    return x.permute(0, 2, 3, 1)


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Result and seconds, waiting for the device."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start


def compare(component: str, raw: dict[str, Any], side: int) -> list[dict[str, Any]]:
    """One row per case: error of max |reference|, seconds of both, peak memory of the process so far."""
    module, cases, rows = make_torch(component, raw), CASES[component](raw, side), []
    references = []
    with torch.no_grad():
        for _, theirs, _, inputs in cases:
            output, seconds = timed(theirs, module, *map(torch.from_numpy, inputs))
            references.append((output.numpy(), seconds))
    params = {"params": take_params(component, module)}
    for (name, _, ours, inputs), (reference, torch_seconds) in zip(cases, references, strict=True):
        compiled, compile_seconds = timed(lambda f, *a: jax.jit(f).lower(*a).compile(), ours, params, *inputs)
        output, seconds = timed(compiled, params, *inputs)
        rows.append(
            {
                "case": name,
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
                "shape": list(reference.shape),
                "relative_error": float(np.abs(np.asarray(output) - reference).max() / np.abs(reference).max()),
                "torch_seconds": round(torch_seconds, 2),
                "jax_seconds": round(seconds, 2),
                "jax_compile_seconds": round(compile_seconds, 2),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
    return rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15"])
    parser.add_argument("--components", nargs="+", default=COMPONENTS, choices=COMPONENTS)
    parser.add_argument("--side", type=int, default=64, help="latents along one side")
    args = parser.parse_args()
    rows = []
    for component in args.components:
        raw = json.loads((Path(__file__).parent / args.model / f"{component}.json").read_text())
        rows += compare(component, raw, args.side)
        print(f"{component}: error {rows[-1]['relative_error']:.2e}, peak {rows[-1]['peak_gib']} GiB", file=sys.stderr)
    print(f"{'case':14} {'weights':>12} {'error':>9} {'torch s':>8} {'jax s':>8} {'compile s':>9} {'peak GiB':>8}")
    for row in rows:
        print(
            f"{row['case']:14} {row['parameters']:12,} {row['relative_error']:9.2e} {row['torch_seconds']:8.2f}"
            f" {row['jax_seconds']:8.2f} {row['jax_compile_seconds']:9.2f} {row['peak_gib']:8.2f}"
        )
    print(json.dumps({"model": args.model, "side": args.side, "tolerance": TOLERANCE, "rows": rows}))
    return int(any(not row["relative_error"] <= TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
