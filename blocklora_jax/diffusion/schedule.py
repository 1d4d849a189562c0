"""The noise schedule: how much signal and noise a latent has at every training step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from blocklora_jax.diffusion import schedule_json
from blocklora_jax.diffusion.betas import cumulative_alphas, make_betas, rescale_to_zero_snr
from blocklora_jax.errors import UserError

Latents = Float[Array, "b h w c"]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Forward diffusion `x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise`, `a_t` the cumulative signal power.

    It is hashable and a pytree without leaves: functions can close over it, jitted functions can take it, and it can be
    the key of a cache. Defaults are those of all diffusers schedulers. `timestep_spacing=None` lets the sampler choose.
    `sigma_spacing` ("karras" or "exponential") is a choice of the user, see `samplers.spacing`; it is not in the file.

    Source: the schedulers of diffusers (`DDPMScheduler.add_noise`, `.get_velocity`).

    >>> schedule = Schedule(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    >>> schedule.alphas_cumprod.shape
    (1000,)
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool = False
    lambda_min_clipped: float = float("-inf")
    trained_betas: tuple[float, ...] | None = None
    sigma_spacing: str | None = None
    bookkeeping: tuple[tuple[str, Any], ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def from_json(cls, config: dict[str, Any], source: str) -> Schedule:
        """The schedule of a diffusers `scheduler_config.json`, for any supported scheduler class.

        Args:
            config: the parsed file.
            source: where the file came from, for messages.

        Raises:
            UserError: a field requires a kind of noise or of prediction that is not supported, or the betas leave no
                signal before the last step.
        """
        schedule = cls(**schedule_json.parse(config, source))
        schedule._check_signal(source)
        return schedule

    def to_json(self) -> dict[str, Any]:
        """A `scheduler_config.json` that diffusers reads. `from_json` makes an equal schedule from it."""
        return schedule_json.render(self)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """Cumulative signal power `a_t`, float32 `[num_train_timesteps]`, falling within 0..1."""
        if self.trained_betas is not None:
            betas = np.array(self.trained_betas, np.float32)
        else:
            betas = make_betas(self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps)
        return cumulative_alphas(rescale_to_zero_snr(betas) if self.rescale_betas_zero_snr else betas)

    def _check_signal(self, source: str) -> None:
        """Raise UserError if a division by the signal would give infinity or NaN."""
        with np.errstate(divide="ignore", invalid="ignore"):
            power = self.alphas_cumprod
        lossy = power[:-1] if self.rescale_betas_zero_snr else power
        # Below the smallest normal number the ratio of noise to signal is no longer exact.
        if not (np.isfinite(power).all() and (lossy >= np.finfo(np.float32).tiny).all()):
            raise UserError(
                f"{source}: this noise schedule is not supported: its betas leave no signal long before the last of"
                f" {self.num_train_timesteps} training steps"
            )

    @cached_property
    def sigmas(self) -> np.ndarray:
        """Noise over signal `sqrt((1 - a_t) / a_t)`, float32 `[num_train_timesteps]`, finite."""
        power = self.alphas_cumprod.copy()
        if self.rescale_betas_zero_snr:
            # diffusers uses the smallest positive fp16 number here, so that sigma stays finite.
            power[-1] = 2.0**-24
        return np.sqrt((1 - power) / power)

    def signal_and_noise(self, t: Int[Array, " b"]) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
        """`sqrt(a_t)` and `sqrt(1 - a_t)`, float32, shaped to multiply latents."""
        power = jnp.asarray(self.alphas_cumprod)[t][:, None, None, None]
        return jnp.sqrt(power), jnp.sqrt(1 - power)

    def add_noise(self, x0: Latents, noise: Latents, t: Int[Array, " b"]) -> Latents:
        """`x_t` of the clean latents `x0`, unit normal `noise` and training steps `t` in 0..T-1."""
        signal, spread = self.signal_and_noise(t)
        return signal * x0 + spread * noise

    def training_target(self, x0: Latents, noise: Latents, t: Int[Array, " b"]) -> Latents:
        """The U-Net's target output for `x_t`: the noise, or the velocity `sqrt(a) noise - sqrt(1 - a) x0`."""
        return noise if self.prediction_type == "epsilon" else self.velocity(x0, noise, t)

    def velocity(self, x0: Latents, noise: Latents, t: Int[Array, " b"]) -> Latents:
        """`sqrt(a_t) noise - sqrt(1 - a_t) x0`. Source: "Progressive distillation", appendix D."""
        signal, spread = self.signal_and_noise(t)
        return signal * noise - spread * x0

    def predicted_noise(self, output: Latents, x_t: Latents, t: Int[Array, " b"]) -> Latents:
        """The noise that corresponds to the U-Net's `output` for `x_t`, float32."""
        if self.prediction_type == "epsilon":
            return output
        signal, spread = self.signal_and_noise(t)
        return signal * output + spread * x_t

    def predicted_x0(self, output: Latents, x_t: Latents, t: Int[Array, " b"]) -> Latents:
        """The clean latents that correspond to the U-Net's `output` for `x_t`, float32."""
        signal, spread = self.signal_and_noise(t)
        if self.prediction_type == "epsilon":
            return (x_t - spread * output) / signal
        return signal * x_t - spread * output

    def snr(self, t: Int[Array, " b"]) -> Float[Array, " b"]:
        """Signal-to-noise power `a_t / (1 - a_t)`, float32, >= 0."""
        power = jnp.asarray(self.alphas_cumprod)[t]
        return power / (1 - power)

    def picture_weight(self, t: Int[Array, " b"], gamma: float) -> Float[Array, " b"]:
        """Loss weights that give the clean latents' squared error the weight `min(snr, gamma) + 1`, float32 > 0.

        The plain loss of the noise gives almost no weight to the noisiest steps, at which a small error in the noise is
        a large error in the picture. This is the weighting of velocity prediction, limited where there is little noise.
        """
        snr = self.snr(t)
        weight = jnp.minimum(snr, gamma) + 1
        return weight / snr if self.prediction_type == "epsilon" else weight / (snr + 1)

    def min_snr_weight(self, t: Int[Array, " b"], gamma: float | int) -> Float[Array, " b"]:
        """Loss weights that limit the effective signal-to-noise ratio to `gamma`, float32; in 0..1 for epsilon.

        `min(snr, gamma) / snr` for epsilon, `min(snr, gamma) / (snr + 1)` for velocity.

        Source: "Efficient diffusion training via min-SNR weighting", section 3.4.
        """
        snr = self.snr(t)
        if self.prediction_type == "epsilon":
            return jnp.minimum(1.0, gamma / snr)
        return jnp.minimum(snr, gamma) / (snr + 1)
