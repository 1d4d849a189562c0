"""Training the pocket model within a number of minutes.

All programs are compiled while the pictures are drawn. CLIP and the autoencoder get a share of the time each; the U-Net
gets what is left.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.checkpoints.image_encoder import save_image_encoder
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_vision import VisionConfig
from blocklora_jax.models.config import TextConfig
from blocklora_jax.models.vae import AutoencoderKL
from blocklora_jax.pocket import architecture
from blocklora_jax.pocket.judge import FOLDER
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.pocket.world import vocabulary
from blocklora_jax.prompts.tokenizer import Tokenizer
from train.base.autoencoder import show_reconstructions
from train.base.config import BaseConfig
from train.base.layout import MOST_SUBJECTS, subjects_of
from train.base.networks import unet_config, vae_config
from train.base.package import Packager
from train.base.pictures import Pictures, PictureSet, to_float
from train.base.timed.clock import Clock
from train.base.timed.drawing import draw_again, draw_for
from train.base.timed.latents import CHUNK, encoder
from train.base.timed.loop import SAVE_SECONDS, run_timed
from train.base.timed.stage import Data, Stage, Time, TimedState
from train.base.timed.stages import (
    PICTURE,
    Networks,
    autoencoder_stage,
    clip_stage,
    denoiser_stage,
    initial_params,
)
from train.base.used import refuse_used
from train.engine.platform import compute_dtype

# Parts of the whole time. The U-Net gets the rest. end: for encoding the pictures, and for writing the model.
SHARES = {"draw": 0.12, "clip": 0.12, "vae": 0.16, "end": 0.04}
# Steps that are one call of a compiled function.
CALL_STEPS = 16


class _Ready(NamedTuple):
    """A stage; its state before the first step, and its function, both of which are being compiled."""

    stage: Stage
    start: Future
    call: Future


class _Tables(NamedTuple):
    """The pictures on the device: images uint8, ids and subjects of captions. count: how many are there."""

    images: jax.Array
    ids: jax.Array
    subjects: jax.Array
    count: jax.Array


def train_timed(config: BaseConfig, settings: Mapping[str, Any], save_seconds: float = SAVE_SECONDS) -> Path:
    """Train all stages, or go on with them; returns the folder of the model. settings: for its README.

    save_seconds: between two checkpoints of a stage.

    Raises: UserError as `refuse_used` does.
    """
    assert config.minutes is not None
    out, seconds = config.out, 60 * config.minutes
    refuse_used(config)
    # Wrong channels are refused before anything is written.
    unet_config(config)
    vae_config(config)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(FOLDER, out / "judge" / "weights", dirs_exist_ok=True)
    pool = ThreadPoolExecutor(4)
    try:
        return _train(config, settings, save_seconds, Clock(out / "clock.json", seconds), pool)
    finally:
        # After an error, what is not being compiled yet is not compiled any more.
        pool.shutdown(wait=False, cancel_futures=True)


def _train(
    config: BaseConfig, settings: Mapping[str, Any], save_seconds: float, clock: Clock, pool: ThreadPoolExecutor
) -> Path:
    assert config.minutes is not None
    out, seconds, networks = config.out, 60 * config.minutes, _networks(config)
    tokenizer = Tokenizer(out / "tokenizer", networks.text.vocab_size, architecture.MAX_TOKENS)
    # A multiple of the pictures that are encoded at a time.
    room = -(-config.pictures // CHUNK) * CHUNK
    stages = _compile_stages(config, networks, tokenizer, room, pool)
    encode = pool.submit(_compile_encoder, networks, config.seed, room)
    drawn, tables = _draw(config, clock, room, tokenizer)

    def run(name: str, rows: Any, frozen: Any, share: float, saved: Any = lambda state: None) -> TimedState:
        stage, start, call = stages[name]
        data = Data(rows, tables.count)
        return run_timed(
            stage, call.result(), start.result(), data, frozen, out / name, clock, share, save_seconds, saved
        )

    clip = run("clip", (tables.images, tables.ids), (), SHARES["clip"] * seconds).params
    save_image_encoder(out / "image_encoder", networks.vision, clip["vision"], clip["text_projection"], dtype="float16")
    vae = run("vae", (tables.images,), (), SHARES["vae"] * seconds).params
    latents, deviation = encode.result()(vae, tables.images, tables.count)
    scale = np.float32(1.0) / np.float32(deviation)
    packager = _packager(config, networks, clip["text_encoder"], vae, float(scale), settings, drawn)

    def write(state: TimedState) -> Path:
        return packager.write(int(state.step), state.average["unet"], preview=False)

    rows, frozen = (latents, tables.ids, tables.subjects), (clip["text_encoder"], jnp.asarray(scale))
    unet = run("unet", rows, frozen, max(0.0, clock.left - SHARES["end"] * seconds), write)
    # The model first: what is drawn after it may be cut off.
    folder = write(unet)
    _show(networks, vae, tables.images[:16], out / "vae" / "reconstructions.png")
    packager.write(int(unet.step), unet.average["unet"])
    return folder


def _networks(config: BaseConfig) -> Networks:
    """Also writes the tokenizer, whose size the text encoder needs."""
    rows = write_tokenizer(config.out / "tokenizer", vocabulary(), architecture.MAX_TOKENS)
    return Networks(
        TextConfig.from_json(architecture.text_config(rows), "pocket text encoder"),
        VisionConfig.from_json(architecture.VISION, "pocket image tower"),
        vae_config(config),
        unet_config(config),
        compute_dtype("auto", jax.default_backend()),
    )


def _compile_stages(
    config: BaseConfig, networks: Networks, tokenizer: Tokenizer, room: int, pool: ThreadPoolExecutor
) -> dict[str, _Ready]:
    """All stages. Compiling begins here, and goes on beside what follows."""
    makers = initial_params(networks, config.seed)
    image = _shape(room, *PICTURE, dtype=jnp.uint8)
    ids = _shape(room, architecture.MAX_TOKENS, dtype=jnp.int32)
    latents = _shape(room, *networks.latents, dtype=jnp.float16)
    subjects = _shape(room, MOST_SUBJECTS, dtype=jnp.int8)
    frozen = jax.eval_shape(makers["clip"])["text_encoder"], _shape()
    empty = np.asarray(tokenizer.encode([""])[0])
    chosen = {
        "clip": (clip_stage(networks, config, CALL_STEPS), (image, ids), ()),
        "vae": (autoencoder_stage(networks, config, CALL_STEPS), (image,), ()),
        "unet": (denoiser_stage(networks, config, empty, CALL_STEPS), (latents, ids, subjects), frozen),
    }
    ready = {}
    for name, (stage, rows, fixed) in chosen.items():
        make = lambda stage=stage, maker=makers[name]: stage.start(maker())
        data, times = Data(rows, _shape(dtype=jnp.int32)), Time(*[_shape()] * 3)
        arguments = jax.eval_shape(make), data, fixed, times
        compiled = pool.submit(lambda s=stage, a=arguments: s.function().lower(*a).compile())
        # One program: the operations of a start are many, and each alone would be compiled.
        ready[name] = _Ready(stage, pool.submit(jax.jit(make)), compiled)
    return ready


def _compile_encoder(networks: Networks, seed: int, room: int) -> Any:
    images, count = _shape(room, *PICTURE, dtype=jnp.uint8), _shape(dtype=jnp.int32)
    encode: Any = encoder(networks.vae)
    return encode.lower(jax.eval_shape(initial_params(networks, seed)["vae"]), images, count).compile()


def _show(networks: Networks, params: Any, images: jax.Array, path: Path) -> None:
    """Draw some pictures beside what the autoencoder makes of them."""
    model, pictures = AutoencoderKL(networks.vae), to_float(np.asarray(images))
    both = jax.jit(
        lambda params, x: apply_model(model, params, apply_model(model, params, x, method="encode")[0], method="decode")
    )
    show_reconstructions(pictures, both(params, pictures), path)


def _draw(config: BaseConfig, clock: Clock, room: int, tokenizer: Tokenizer) -> tuple[PictureSet, _Tables]:
    """The pictures on the device. A run that goes on draws the same again, which does not count as its time."""
    assert config.minutes is not None
    wanted = PictureSet(config.seed, config.pictures, config.several)
    if (config.out / "drawn.json").exists():
        with clock.stopped():
            drawn = PictureSet(**read_json(config.out / "drawn.json"))
            pictures = draw_again(drawn, room)
    else:
        pictures, drawn = draw_for(SHARES["draw"] * 60 * config.minutes - clock.used, wanted, room)
        write_json(config.out / "drawn.json", drawn._asdict())
    return drawn, _upload(pictures, drawn, room, tokenizer)


def _upload(pictures: Pictures, drawn: PictureSet, room: int, tokenizer: Tokenizer) -> _Tables:
    ids, subjects = tokenizer.encode(pictures.captions), subjects_of(drawn.specs())
    tables = [pictures.images, *(np.pad(x, ((0, room - len(x)), (0, 0))) for x in (ids, subjects))]
    images, rows, shown = jax.device_put(tables)
    return _Tables(images, rows, shown, jnp.asarray(drawn.pictures, jnp.int32))


def _packager(
    config: BaseConfig, networks: Networks, text: Any, vae: Any, scale: float, settings: Mapping[str, Any],
    drawn: PictureSet,
) -> Packager:  # fmt: skip
    configs = {
        "unet": networks.unet, "vae": dataclasses.replace(networks.vae, scaling_factor=scale),
        "text_encoder": networks.text,
    }  # fmt: skip
    return Packager(config.out, configs, jax.device_get(text), jax.device_get(vae), settings, [drawn])


def _shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)
