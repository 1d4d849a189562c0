"""Draws pictures on all cores until the time for it is over."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
from tqdm import tqdm

from blocklora_jax.pocket.architecture import IMAGE_SIZE
from blocklora_jax.pocket.world import sample_batch
from train.base.pictures import Pictures, PictureSet

_CHUNK = 250


def draw_for(
    seconds: float, most: PictureSet, room: int, workers: int | None = None
) -> tuple[Pictures, PictureSet]:  # fmt: skip
    """The first pictures of `most` that can be drawn in this time, at least one chunk, and the set that they are.

    They are the same as those of `draw_pictures`. room: number of images in the array; those after the last are black.
    workers: number of processes; None: as many as there are cores.
    """
    workers = workers or len(os.sched_getaffinity(0))
    until = time.monotonic() + seconds
    images = np.zeros((room, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    captions: list[str] = []
    with (
        # "spawn", because forking a process in which JAX runs threads can deadlock.
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
        tqdm(total=most.pictures, desc="draw", unit="picture", dynamic_ncols=True) as bar,
    ):
        waiting: list[Future] = []
        starts = iter(range(0, most.pictures, _CHUNK))
        while True:
            # Few chunks are under way, so that little is thrown away at the end.
            while len(waiting) < 2 * workers and (start := next(starts, None)) is not None:
                waiting.append(pool.submit(_draw, most, start))
            if not waiting or (captions and time.monotonic() >= until):
                break
            drawn, texts = waiting.pop(0).result()
            images[len(captions) : len(captions) + len(drawn)] = drawn
            captions += texts
            bar.update(len(drawn))
        pool.shutdown(wait=False, cancel_futures=True)
    return Pictures(images, captions), most._replace(pictures=len(captions))


def draw_again(drawn: PictureSet, room: int, workers: int | None = None) -> Pictures:
    """All pictures of `drawn`, however long it takes. room, workers: see `draw_for`."""
    return draw_for(float("inf"), drawn, room, workers)[0]


def _draw(chosen: PictureSet, start: int) -> tuple[np.ndarray, list[str]]:
    number = min(_CHUNK, chosen.pictures - start)
    return sample_batch(chosen.seed, start, number, several=chosen.several)
