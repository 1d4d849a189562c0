"""Train the pocket model: `python -m train.base`.

Draws pictures of the little world, then trains CLIP, the autoencoder and the U-Net on them, each stage resumable, and
writes a Diffusers folder in fp16.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

from blocklora_jax.checkpoints.diffusers import Checkpoint, save_folder
from blocklora_jax.checkpoints.image_encoder import save_image_encoder
from blocklora_jax.command import run
from blocklora_jax.diffusion.generate import Models, generate
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.files import write_atomic, write_json
from blocklora_jax.grid import picture_grid, png_bytes
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.clip_vision import VisionConfig
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL
from blocklora_jax.pocket import architecture
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.pocket.world import vocabulary
from blocklora_jax.tokens import Tokenizer
from train.loop import LoopConfig
from train.stages.autoencoder import train_autoencoder
from train.stages.clip import train_clip
from train.stages.denoiser import encode_pictures, train_denoiser
from train.stages.pictures import Pictures, draw_pictures

PREVIEW_PROMPTS = (
    "a photo of a man on a beach",
    "a photo of a woman in a city",
    "a photo of a girl in the snow",
    "a photo of a dog in a forest",
    "a photo of a cat in a room",
    "a photo of a bear in the snow",
    "a photo of a robot in a desert",
    "a photo of a car in a city",
    "a sketch of a boat on a beach",
    "a watercolour of a house in a forest",
    "a blueprint of a robot in a city",
    "a neon picture of a man at night",
    "a sepia photo of a teapot in a room",
    "a photo of a man and a dog on a beach",
    "a photo of a woman and a cat in a room",
    "a photo of a mug in a desert",
)


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Train the pocket Stable Diffusion from nothing. The defaults made the packaged weights."""

    out: Path = Path("runs/base")
    """Run folder: pictures, checkpoints, metrics, preview grids, and the finished model in `model/`."""
    resume: bool = False
    """Continue an interrupted run, or one that is to train longer (raise a stage's steps)."""
    seed: int = 0
    pictures: int = 40_000
    """How many pictures are drawn to learn from."""
    clip_steps: int = 400
    clip_batch: int = 128
    clip_learning_rate: float = 5e-4
    vae_steps: int = 2400
    vae_batch: int = 8
    vae_learning_rate: float = 1e-3
    unet_steps: int = 5000
    unet_batch: int = 24
    unet_learning_rate: float = 4e-4
    save_every: int = 250
    preview_every: int = 1000


@dataclass(frozen=True)
class Run:
    """One run of the three stages."""

    config: BaseConfig

    def loop(self, steps: int, preview_every: int = 0) -> LoopConfig:
        """The loop settings of a stage with so many steps."""
        config = self.config
        return LoopConfig(steps=steps, save_every=config.save_every, preview_every=preview_every, resume=config.resume)

    def train(self) -> Path:
        """All stages; returns the model's folder."""
        config, out = self.config, self.config.out
        pictures = draw_pictures(out, config.seed, config.pictures)
        rows = write_tokenizer(out / "tokenizer", vocabulary(), architecture.MAX_TOKENS)
        tokenizer = Tokenizer(out / "tokenizer", rows, architecture.MAX_TOKENS)
        text = TextConfig.from_json(architecture.text_config(rows), "pocket text encoder")
        ids, empty_ids = tokenizer.encode(pictures.captions), tokenizer.encode([""])[0]
        clip = self.clip(text, pictures, ids)
        vae, vae_params = self.autoencoder(pictures)
        latents, factor = self.latents(vae, vae_params, pictures)
        vae = dataclasses.replace(vae, scaling_factor=factor)
        unet = UNetConfig.from_json(architecture.UNET, "pocket unet")
        schedule = Schedule.from_json(architecture.SCHEDULER, "pocket scheduler")
        models = Models(UNet2DConditionModel(unet), AutoencoderKL(vae), CLIPTextModel(text))
        configs = {"unet": unet, "vae": vae, "text_encoder": text}

        def preview(step: int, unet_params: dict) -> None:
            params = {"unet": unet_params, "vae": vae_params, "text_encoder": clip["text_encoder"]}
            prompt_ids = tokenizer.encode(PREVIEW_PROMPTS)
            noise = np.random.default_rng(0).standard_normal((len(prompt_ids), *latents.shape[1:]), np.float32)
            empty = np.broadcast_to(empty_ids, prompt_ids.shape)
            images = generate(models, params, schedule, "ddim", prompt_ids, empty, jnp.asarray(noise), 4.0, 25)
            grid = picture_grid(np.asarray(images), columns=4, scale=3)
            write_atomic(out / "previews" / f"{step:06d}.png", png_bytes(grid))

        unet_params = train_denoiser(
            unet, (text, clip["text_encoder"]), schedule, (latents * factor, ids, empty_ids), out / "unet",
            self.loop(config.unet_steps, config.preview_every), config.unet_batch, config.unet_learning_rate, config.seed,
            preview,
        )  # fmt: skip
        preview(config.unet_steps, unet_params)
        params = {"unet": unet_params, "vae": vae_params, "text_encoder": clip["text_encoder"]}
        folder = out / "model"
        checkpoint = Checkpoint(
            name="pocket", configs=configs, params=params, scheduler=architecture.SCHEDULER, tokenizer=out / "tokenizer"
        )
        save_folder(folder, checkpoint, dtype="float16")
        vision = VisionConfig.from_json(architecture.VISION, "pocket image tower")
        save_image_encoder(folder / "image_encoder", vision, clip["vision"], clip["text_projection"], dtype="float16")
        write_json(out / "config.json", {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()})
        return folder

    def clip(self, text: TextConfig, pictures: Pictures, ids: np.ndarray) -> dict:
        """Stage 1."""
        config = self.config
        vision = VisionConfig.from_json(architecture.VISION, "pocket image tower")
        loop = self.loop(config.clip_steps)
        return train_clip(
            text, vision, pictures, ids, config.out / "clip", loop, config.clip_batch, config.clip_learning_rate, config.seed
        )

    def autoencoder(self, pictures: Pictures) -> tuple[VAEConfig, dict]:
        """Stage 2."""
        config = self.config
        vae = VAEConfig.from_json(architecture.VAE, "pocket vae")
        loop = self.loop(config.vae_steps)
        params = train_autoencoder(
            vae, pictures, config.out / "vae", loop, config.vae_batch, config.vae_learning_rate, config.seed
        )
        return vae, params

    def latents(self, vae: VAEConfig, params: dict, pictures: Pictures) -> tuple[np.ndarray, float]:
        """All pictures as latents [n, 16, 16, 4], and the factor that makes them unit size; kept in the run folder."""
        path = self.config.out / f"latents-{self.config.vae_steps}.npy"
        if not path.exists():
            np.save(path, encode_pictures(vae, params, pictures)[0])
        latents = np.load(path)
        return latents, float(1.0 / latents.astype(np.float32).std())


def main() -> None:
    """The command line."""
    config = tyro.cli(BaseConfig, description=__doc__)
    folder = Run(config).train()
    print(f"the pocket model is in {folder}")


if __name__ == "__main__":
    run(main)
