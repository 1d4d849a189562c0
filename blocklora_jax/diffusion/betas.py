"""Beta curves. They are rounded to fp32 at the same places as in PyTorch, so that all tables agree bit for bit."""

from __future__ import annotations

import math

import numpy as np

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def make_betas(schedule: str, start: float, end: float, num_steps: int) -> np.ndarray:
    """Per-step noise variances `beta_t`.

    Args:
        schedule: one of `BETA_SCHEDULES`; the cosine curve does not use `start` and `end`.
        start: beta of the first training step.
        end: beta of the last training step.
        num_steps: number of training steps.

    Returns:
        float32 `[num_steps]`, in 0..1.

    Source: DDPM (linear), latent diffusion (scaled_linear), improved DDPM eq. 17 (squaredcos_cap_v2).
    """
    if schedule == "linear":
        return _linspace(start, end, num_steps)
    if schedule == "scaled_linear":
        return _linspace(start**0.5, end**0.5, num_steps) ** 2
    if schedule == "squaredcos_cap_v2":
        return _cosine(num_steps)
    raise ValueError(f"unknown beta schedule {schedule!r}; known: {', '.join(BETA_SCHEDULES)}")


def rescale_to_zero_snr(betas: np.ndarray) -> np.ndarray:
    """Betas for which the last step has no signal.

    `sqrt(alpha_bar)` is shifted to end at 0 and stretched to keep its first value.

    Source: "Common diffusion noise schedules and sample steps are flawed", algorithm 1.
    """
    signal = np.sqrt(cumulative_alphas(betas))
    first, last = signal[0], signal[-1]
    signal = (signal - last) * (first / (first - last))
    alpha_bar = signal**2
    return 1 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def cumulative_alphas(betas: np.ndarray) -> np.ndarray:
    """`alpha_bar_t = prod_{s <= t} (1 - beta_s)` as float32."""
    # PyTorch rounds each 1 - beta to fp32 and then multiplies in double precision.
    return np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)


def _linspace(start: float, end: float, count: int) -> np.ndarray:
    """`torch.linspace` in fp32. It computes from both ends to the middle, with fused multiply-add."""
    if count == 1:
        return np.array([start], np.float32)
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(count - 1))
    index = np.arange(count)
    # A fused multiply-add equals a double precision result that is rounded once.
    rising = (np.float64(first) + step * index).astype(np.float32)
    falling = (np.float64(last) - step * (count - 1 - index)).astype(np.float32)
    return np.where(index < count // 2, rising, falling)


def _cosine(count: int, max_beta: float = 0.999) -> np.ndarray:
    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    ratios = [signal((i + 1) / count) / signal(i / count) for i in range(count)]
    return np.array([min(1 - ratio, max_beta) for ratio in ratios], np.float32)
