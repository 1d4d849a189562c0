"""Where training runs, and how often it writes what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.dtype_names import AdapterDtype
from train.concept.settings.visible_text import check_visible


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Seed, hardware, checkpoints, previews and logs."""

    resume: bool = False
    """Continue an interrupted run. The result is the same, bit for bit."""
    seed: int = 0
    """Seed of everything random."""
    save_dtype: AdapterDtype = "float32"
    """Precision of adapter.safetensors."""
    tpu: bool = False
    """Run on TPUs (bf16, all cores, all hosts of a pod)."""
    gpu: bool = False
    """Run on GPUs."""
    cpu: bool = False
    """Run on the CPU."""
    mapper: Literal["shard_map", "pmap"] = "shard_map"
    """How the step is mapped over the devices."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 200
    """Steps between checkpoints."""
    previews: bool = True
    """Draw preview grids, one of them at the end."""
    preview_every: int = 250
    """Steps between preview grids. 0: one grid, at the end."""
    preview_prompts: tuple[str, ...] = ()
    """Prompts of the preview grids. If not given: a few that fit the concept."""
    report: bool = True
    """Write report.html at the end: settings, losses, previews and pictures on one page."""
    tensorboard: bool = False
    """Write TensorBoard files with curves and previews too."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Log curves and previews to Weights & Biases. offline needs no account; `wandb sync` uploads such a run later."""

    def __post_init__(self) -> None:
        if sum((self.tpu, self.gpu, self.cpu)) > 1:
            raise UserError("choose one of --tpu, --gpu and --cpu")
        check_options(self)
        check_visible(self, ("preview_prompts",))
