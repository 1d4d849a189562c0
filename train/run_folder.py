"""The folder of a run: whether it may be begun or resumed there, and the pictures that are put into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic
from blocklora_jax.grid import picture_grid, png_bytes
from blocklora_jax.pipeline import StableDiffusion
from merge.compose import compose
from train.config import ConceptConfig
from train.words import preview_prompts

# What a resumed run may do otherwise than before and still compute the same, up to rounding.
MAY_CHANGE = frozenset(
    "out resume registry save_dtype log_every save_every preview_every preview_prompts tensorboard tpu gpu cpu mapper remat".split()
)


def check_run_dir(config: ConceptConfig) -> None:
    """Raises UserError if --out holds a run and --resume is not given, or the run to resume has other settings."""
    path = config.out / "config.json"
    if path.exists() and not config.resume:
        raise UserError(f"{config.out} already holds a run: continue it with --resume, or choose another --out")
    if not config.resume:
        return
    try:
        before = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no run to resume in {config.out}: leave out --resume") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): restore it, or choose another --out") from error
    if changed := changed_settings(before, config):
        raise UserError(f"cannot resume {config.out} with other settings: {'; '.join(changed)}")


def changed_settings(
    before: Mapping[str, Any], config: ConceptConfig, may_change: frozenset[str] = MAY_CHANGE
) -> list[str]:
    """What is otherwise in `config` than in a run's settings, which were read from JSON; in words."""
    now = json.loads(json.dumps(config.to_json()))
    return [
        f"{k} was {before.get(k)!r}, now {v!r}" for k, v in now.items() if k not in may_change and before.get(k) != v
    ]


def make_preview(config: ConceptConfig, sd: StableDiffusion) -> Callable[[int, Adapter], None]:
    """`preview(step, adapter)` writes `previews/<step>.png`: the concept as a merge of this one adapter shows it."""
    prompts = preview_prompts(config)
    # One that is too long is to be told now, not after the training.
    sd.tokenizer.encode(prompts, {config.token: config.token_vectors} if config.token_vectors else {})

    def preview(step: int, adapter: Adapter) -> None:
        params = compose(sd.params, [adapter], check_base=False)
        images = sd.generate(prompts, params=params, adapters=[adapter], seed=config.seed, steps=20)
        grid = picture_grid(images, captions=prompts, columns=4, scale=max(1, 256 // images.shape[1]))
        write_atomic(config.out / "previews" / f"{step:06d}.png", png_bytes(grid))

    return preview
