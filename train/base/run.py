"""The stages of training the pocket model, one after the other."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocklora_jax.checkpoints.diffusers import load_folder
from blocklora_jax.checkpoints.image_encoder import save_image_encoder
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.io.locks import hold
from blocklora_jax.models.clip_vision import VisionConfig
from blocklora_jax.models.config import TextConfig, VAEConfig
from blocklora_jax.pocket import architecture
from blocklora_jax.pocket.judge import load_judge, save_judge
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.pocket.world import vocabulary
from blocklora_jax.prompts.tokenizer import Tokenizer
from train.base.autoencoder import train_autoencoder
from train.base.clip import train_clip
from train.base.config import BaseConfig
from train.base.denoiser import Examples, encode_pictures, train_denoiser
from train.base.judge import train_judge
from train.base.layout import subjects_of
from train.base.networks import unet_config, vae_config
from train.base.package import Packager
from train.base.pictures import Pictures, PictureSet, draw_pictures, read_picture_sets, write_array
from train.base.report import write_report
from train.base.timed.run import train_timed
from train.base.used import keep_to_start, refuse_used
from train.engine.loop import LoopConfig

# Options that concern one call, not the model. The README of the model leaves them out.
_OF_THE_CALL = frozenset({"out", "resume", "only_judge", "report", "model", "gpu"})


class Frozen(NamedTuple):
    """The components that stay fixed while the U-Net trains, and the initial U-Net (None: random).

    configs: of "vae" and "text_encoder". vae, text_encoder, unet: parameters. learnt_from: the pictures of the runs
    that made them. folder: of the model that they were read from; None if this run trained them.
    """

    configs: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    unet: dict[str, Any] | None = None
    learnt_from: tuple[PictureSet, ...] = ()
    folder: Path | None = None

    @property
    def source(self) -> Path:
        """`folder`, of components that were read from a model."""
        assert self.folder
        return self.folder


def train_base(config: BaseConfig) -> Path:
    """Run all stages, or continue them; returns the folder of the model."""
    with hold(config.out, "training in"):
        return _train_stages(config) if config.minutes is None else train_timed(config, public_settings(config))


def _train_stages(config: BaseConfig) -> Path:
    out = config.out
    refuse_used(config)
    # First, because drawing takes minutes: an error in the model to start from must be reported before that.
    start = load_frozen(config.start) if config.start else None
    if start:
        keep_to_start(start.source, out)
    pictures = draw_pictures(out, _picture_set(config))
    if start:
        copy_others(start, out)
    frozen = start or train_frozen(config, pictures)
    text, vae = frozen.configs["text_encoder"], frozen.configs["vae"]
    tokenizer = Tokenizer(out / "tokenizer", text.vocab_size, architecture.MAX_TOKENS)
    latents_path = out / f"latents-{config.vae_steps}.npy"
    if not latents_path.exists():
        write_array(latents_path, encode_pictures(vae, frozen.vae, pictures))
    latents = np.load(latents_path)
    if not config.start:
        vae = dataclasses.replace(vae, scaling_factor=float(1.0 / latents.astype(np.float32).std()))
    unet = unet_config(config)
    settings = public_settings(config)
    configs = {"unet": unet, "vae": vae, "text_encoder": text}
    learnt_from = (*frozen.learnt_from, _picture_set(config))
    packager = Packager(out, configs, frozen.text_encoder, frozen.vae, settings, learnt_from)
    unet_params = train_denoiser(
        unet,
        (text, frozen.text_encoder),
        Schedule.from_json(architecture.SCHEDULER, "pocket scheduler"),
        Examples(
            latents * np.float16(vae.scaling_factor),
            tokenizer.encode(pictures.captions),
            tokenizer.encode([""])[0],
            subjects_of(_picture_set(config).specs()),
        ),
        out / "unet",
        _loop_config(config, config.unet_steps, config.preview_every),
        config.unet_batch,
        config.unet_learning_rate,
        config.seed,
        packager.write,
        frozen.unet,
    )
    make_judge(config, (vae, frozen.vae))
    return packager.write(config.unet_steps, unet_params)


def make_judge(config: BaseConfig, vae: tuple[VAEConfig, dict[str, Any]]) -> Path:
    """Train the judge; returns the folder of its weights. With --start it continues from the judge of that model."""
    folder = config.out / "judge" / "weights"
    if config.judge_steps:
        loop, rate = _loop_config(config, config.judge_steps), config.judge_learning_rate
        start = load_judge(folder) if config.start and folder.is_dir() else None
        judge = train_judge(
            vae, folder.parent, loop, config.judge_batch, rate, config.seed, config.judge_individuals, start
        )
        save_judge(folder, judge)
    return folder


def train_frozen(config: BaseConfig, pictures: Pictures) -> Frozen:
    """Write the tokenizer, and train CLIP and the autoencoder."""
    out = config.out
    rows = write_tokenizer(out / "tokenizer", vocabulary(), architecture.MAX_TOKENS)
    ids = Tokenizer(out / "tokenizer", rows, architecture.MAX_TOKENS).encode(pictures.captions)
    text = TextConfig.from_json(architecture.text_config(rows), "pocket text encoder")
    vision = VisionConfig.from_json(architecture.VISION, "pocket image tower")
    vae = vae_config(config)
    loop = _loop_config(config, config.clip_steps)
    clip = train_clip(
        text, vision, pictures, ids, out / "clip", loop, config.clip_batch, config.clip_learning_rate, config.seed
    )
    save_image_encoder(out / "image_encoder", vision, clip["vision"], clip["text_projection"], dtype="float16")
    loop = _loop_config(config, config.vae_steps)
    vae_params = train_autoencoder(
        vae, pictures, out / "vae", loop, config.vae_batch, config.vae_learning_rate, config.seed
    )
    return Frozen({"vae": vae, "text_encoder": text}, vae_params, clip["text_encoder"])


def load_frozen(name: str) -> Frozen:
    """Read the components from a model: "pocket", or a folder that such a run wrote."""
    model = load_folder(name)
    folder, params = model.tokenizer.parent, model.params
    return Frozen(
        dict(model.configs),
        params["vae"],
        params["text_encoder"],
        params["unet"],
        tuple(read_picture_sets(folder)),
        folder,
    )


def copy_others(start: Frozen, out: Path) -> None:
    """Copy the tokenizer, the image encoder and the judge of the model to start from into the run folder."""
    for part, copy in (("tokenizer", "tokenizer"), ("image_encoder", "image_encoder"), ("judge", "judge/weights")):
        # Old models have no judge.
        if part != "judge" or (start.source / part).is_dir():
            shutil.copytree(start.source / part, out / copy, dirs_exist_ok=True)


def run_stages(config: BaseConfig) -> None:
    """Measure a model, train only the judge, or train all stages, as `config` says; print where the result is."""
    if config.report:
        write_report(config.model, config.out)
    elif config.only_judge:
        frozen = load_frozen(str(config.start))
        with hold(config.out, "training in"):
            refuse_used(config)
            keep_to_start(frozen.source, config.out)
            copy_others(frozen, config.out)
            print(f"the judge is in {make_judge(config, (frozen.configs['vae'], frozen.vae))}")
    else:
        print(f"the pocket model is in {train_base(config)}")


def public_settings(config: BaseConfig) -> dict[str, Any]:
    """The settings that the README of the model names."""
    return {name: value for name, value in vars(config).items() if name not in _OF_THE_CALL}


def _picture_set(config: BaseConfig) -> PictureSet:
    """The pictures of this run."""
    return PictureSet(config.seed, config.pictures, config.several)


def _loop_config(config: BaseConfig, steps: int, preview_every: int = 0) -> LoopConfig:
    """The loop settings of a stage with this number of steps."""
    return LoopConfig(steps=steps, save_every=config.save_every, preview_every=preview_every, resume=config.resume)
