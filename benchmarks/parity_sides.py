"""The two sides of `benchmarks.parity`. Each opens the folder in its own process and computes every case."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.testing.random_folder import PROMPTS

GUIDANCE, TIMESTEP = 4.0, 501
Cases = dict[str, Callable[[], Any]]


def draw_inputs(raw: dict[str, Any], side: int) -> dict[str, np.ndarray]:
    """The inputs of both sides, the same in every process. Latents are `side` x `side`."""
    rng, unet, vae = np.random.default_rng(7), raw["unet"], raw["vae"]
    pixels = side * 2 ** (len(vae["block_out_channels"]) - 1)
    pooled = raw.get("text_encoder_2", {}).get("projection_dim", 0)
    shapes = {
        "latents": (len(PROMPTS), side, side, 4),
        "states": (len(PROMPTS), 77, unet["cross_attention_dim"]),
        "pooled": (len(PROMPTS), pooled),
        "images": (1, pixels, pixels, 3),
    }
    inputs = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    inputs["images"] = np.tanh(inputs["images"])
    inputs["sizes"] = np.tile(np.array([1024, 768, 0, 8, 512, 512], np.float32), (len(PROMPTS), 1))
    return inputs


def torch_cases(folder: Path, inputs: dict[str, np.ndarray], steps: int) -> Cases:
    """The computations of diffusers, with the folder's own pipeline."""
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    torch.set_grad_enabled(False)
    pipe: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    is_xl = hasattr(pipe, "text_encoder_2")
    arrays = {name: torch.from_numpy(value) for name, value in inputs.items()}
    first = {name: arrays[name].permute(0, 3, 1, 2).contiguous() for name in ("latents", "images")}
    last = lambda x: x.permute(0, 2, 3, 1).numpy()

    def text() -> list[np.ndarray]:
        encoded = pipe.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
        return [encoded[i].numpy() for i in ((0, 2) if is_xl else (0,))]

    def unet() -> np.ndarray:
        added = {"text_embeds": arrays["pooled"], "time_ids": arrays["sizes"]} if is_xl else None
        return last(pipe.unet(first["latents"], TIMESTEP, arrays["states"], added_cond_kwargs=added).sample)

    def encode() -> np.ndarray:
        latents = pipe.vae.encode(first["images"]).latent_dist
        return last(torch.cat([latents.mean, latents.logvar], 1))

    def generate() -> np.ndarray:
        # SDXL gets the size as an input. diffusers takes it from the config, not from the latents.
        height, width = (side * pipe.vae_scale_factor for side in inputs["latents"].shape[1:3])
        options = {"latents": first["latents"], "num_inference_steps": steps, "guidance_scale": GUIDANCE}
        images = pipe(PROMPTS, height=height, width=width, output_type="np", **options).images
        return np.round(255 * images)

    # Decode one picture, as one is encoded: for two, PyTorch's results differ by 5e-5 from those of each alone.
    decode = lambda: last(pipe.vae.decode(first["latents"][:1]).sample)
    return {"text": text, "unet": unet, "vae encode": encode, "vae decode": decode, "generate": generate}


def jax_cases(folder: Path, inputs: dict[str, np.ndarray], steps: int) -> Cases:
    """Our computations. `generate` is the function that users call."""
    import jax
    import jax.numpy as jnp

    from blocklora_jax.diffusion.text import encode_text
    from blocklora_jax.models.apply import apply_model
    from blocklora_jax.models.unet import AddedConditions
    from blocklora_jax.pipeline import StableDiffusion

    sd = StableDiffusion.from_pretrained(folder)
    models, params, ids = sd.models, sd.params, sd.tokenizer.encode(PROMPTS)
    added = (
        [AddedConditions(jnp.asarray(inputs["pooled"]), jnp.asarray(inputs["sizes"]))]
        if models.text_encoder_2 is not None
        else []
    )
    time_ids = np.full(len(PROMPTS), TIMESTEP, np.int32)
    text = jax.jit(lambda params, ids: encode_text(models, params, ids))
    unet = jax.jit(lambda params, *x: apply_model(models.unet, params, *x))
    encode = jax.jit(lambda params, x: jnp.concatenate(apply_model(models.vae, params, x, method="encode"), -1))
    decode = jax.jit(lambda params, x: apply_model(models.vae, params, x, method="decode"))
    towers = {part: params[part] for part in models.text_encoders}
    return {
        "text": lambda: [np.asarray(x) for x in jax.tree.leaves(text(towers, jnp.asarray(ids)))],
        "unet": lambda: np.asarray(unet(params["unet"], inputs["latents"], time_ids, inputs["states"], *added)),
        "vae encode": lambda: np.asarray(encode(params["vae"], inputs["images"])),
        "vae decode": lambda: np.asarray(decode(params["vae"], inputs["latents"][:1])),
        "generate": lambda: sd.generate(
            PROMPTS, latents=inputs["latents"], sampler="ddim", steps=steps, guidance_scale=GUIDANCE
        ),
    }


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the time in seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def run_side(side: str, folder: Path, out: Path, latents: int, steps: int) -> None:
    """Compute all cases; write the arrays to `out`, and seconds and memory to a `.json` beside it."""
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    paths = {part: folder / part / "config.json" for part in parts}
    raw = {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}
    inputs = draw_inputs(raw, latents)
    make = {"torch": torch_cases, "jax": jax_cases}[side]
    cases, load_seconds = timed(lambda: make(folder, inputs, steps))
    arrays: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {}
    for name, case in cases.items():
        result, first = timed(case)
        # The second run is already compiled, so its time is the cost of a picture.
        seconds[name] = [first, timed(case)[1] if side == "jax" else first]
        arrays |= {f"{name}/{i}": x for i, x in enumerate(result if isinstance(result, list) else [result])}
        print(f"{side}: {name} {seconds[name][1]:.2f} s, peak {peak_gib():.2f} GiB", file=sys.stderr, flush=True)
    np.savez(out, allow_pickle=False, **arrays)
    out.with_suffix(".json").write_text(
        json.dumps({"load_seconds": load_seconds, "seconds": seconds, "peak_gib": peak_gib()})
    )


def peak_gib() -> float:
    """The peak of this process' memory, including files mapped from disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    run_side(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
