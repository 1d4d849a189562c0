"""Draws the pictures of `python -m merge … --prompt`, and writes them as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.stages import Stage
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.open_picture import open_picture, to_mask, to_rgb
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.pipeline import MergedModel, StableDiffusion
from merge.cli.options import MergeOptions
from merge.cli.picture_cells import Cell, Variant, plan_grid, whole
from merge.cli.picture_record import RECORD, picture_record
from merge.cli.weight_by_step import read_factors, stages_of
from merge.methods.table import METHODS


def write_pictures(sd: StableDiffusion, adapters: Sequence[Adapter], model: MergedModel, options: MergeOptions) -> None:
    """Draw all cells and write the grid. model: `adapters` merged into `sd` as the options say."""
    grid = plan_grid(options, adapters)
    drawn = _draw(sd, adapters, model, options, grid.cells)
    images = np.stack([drawn[_key(cell)] for cell in grid.cells])
    # Pictures of small models are enlarged, so that details can be seen.
    scale = max(1, 256 // images.shape[1])
    picture = picture_grid(images, [cell.caption for cell in grid.cells], columns=grid.columns, scale=scale)
    record = picture_record(sd, adapters, options, grid.cells, images.shape[1:3])
    write_atomic(options.out, png_bytes(picture, {RECORD: record}))
    print(f"wrote {options.out}")


def _key(cell: Cell) -> tuple[Variant, str, int]:
    """What a picture depends on: cells with the same key are drawn once."""
    return cell.variant, cell.prompt, cell.index


def _draw(
    sd: StableDiffusion, adapters: Sequence[Adapter], model: MergedModel, options: MergeOptions, cells: Sequence[Cell]
) -> dict[tuple[Variant, str, int], np.ndarray]:
    """The picture of each key. As many are drawn at once as there are prompts, and one model is kept at a time."""
    order = {variant: place for place, variant in enumerate(dict.fromkeys(cell.variant for cell in cells))}
    keys = sorted({_key(cell) for cell in cells}, key=lambda key: (order[key[0]], key[2], key[1]))
    drawn = {}
    with tqdm(total=len(keys), desc="pictures", unit="picture", dynamic_ncols=True, disable=None) as bar:
        for variant, group in groupby(keys, key=lambda key: key[0]):
            merged = model if variant == whole(options, adapters) else _merge(sd, adapters, variant, options)
            stages, of_variant = _stages(sd, adapters, variant, options), list(group)
            for first in range(0, len(of_variant), len(options.prompt)):
                batch = of_variant[first : first + len(options.prompt)]
                drawn |= dict(zip(batch, _generate(merged, batch, options, stages), strict=True))
                bar.update(len(batch))
    return drawn


def _merge(sd: StableDiffusion, adapters: Sequence[Adapter], variant: Variant, options: MergeOptions) -> MergedModel:
    chosen = [adapters[place] for place in variant.adapters]
    method = METHODS[options.method].merge
    merged = method(sd, chosen, variant.weights, options.method_settings, check_base=options.check_base)
    return sd.with_params(merged.params, merged.adapters, variant.weights)


def _stages(
    sd: StableDiffusion, adapters: Sequence[Adapter], variant: Variant, options: MergeOptions
) -> Sequence[Stage]:
    """The U-Net's parameters in later steps, if the user gave weights by step."""
    if not options.weight_by_step:
        return ()
    factors = read_factors(options.weight_by_step, [adapter.name for adapter in adapters])
    chosen = [adapters[place] for place in variant.adapters]
    shares = options.method_settings.shares_weights
    return stages_of(sd, chosen, variant.weights, factors, allow_overlap=shares, check_base=options.check_base)


def _generate(
    model: MergedModel, batch: Sequence[tuple[Variant, str, int]], options: MergeOptions, stages: Sequence[Stage]
) -> np.ndarray:
    prompts = [prompt for _, prompt, _ in batch]
    settings = {
        # SDXL's own empty prompt is not the text "".
        "negative_prompts": [options.negative_prompt] if options.negative_prompt else None,
        "seed": options.seed,
        "indices": [index for *_, index in batch],
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_rescale": options.guidance_rescale,
        "sampler": options.sampler,
        "spacing": options.spacing,
        "clip_skip": options.clip_skip,
        "stages": stages,
    }
    pictures = model.generate(
        prompts,
        height=options.height,
        width=options.width,
        image=None if options.image is None else _read(options.image, False, model, options),
        mask=None if options.mask is None else _read(options.mask, True, model, options),
        strength=options.strength,
        regions=[model.side_by_side(prompt) for prompt in prompts] if options.side_by_side else None,
        **settings,
    )
    return model.refine(pictures, prompts, strength=options.refine, **settings) if options.refine else pictures


def _read(path: Path, is_mask: bool, model: MergedModel, options: MergeOptions) -> np.ndarray:
    """The picture in `path` as bytes, cut to the size of the pictures.

    Raises: UserError if it cannot be read.
    """
    height, width = (side or model.image_size for side in (options.height, options.width))
    try:
        picture = open_picture(path.expanduser(), to_mask if is_mask else to_rgb)
    except UserError as error:
        raise UserError(f"{path} is not a picture that can be read: {error}") from error
    method = Image.Resampling.NEAREST if is_mask else Image.Resampling.LANCZOS
    return np.asarray(ImageOps.fit(picture, (width, height), method))
