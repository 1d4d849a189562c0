"""Exchanges by diffusers and PEFT: `set_adapters`, which keeps adapters apart, and `fuse_lora` with `unfuse_lora`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig


def load(folder: str) -> Any:
    """The U-Net of a Diffusers folder."""
    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True).eval()


@torch.no_grad()
def measure(unet: Any, count: int, swaps: int) -> dict[str, Any]:
    """Times of exchanging one concept, of a forward pass, and what is left of `swaps` fused and unfused adapters.

    The U-Net gets `count` adapters more.
    """
    # With one thread CPU time is the time on an idle machine.
    torch.set_num_threads(1)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    plain = _median(lambda _: _forward(unet), 5)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False)
    for index in range(count + 1):
        unet.add_adapter(config, f"c{index}")
    names = [f"c{index}" for index in range(count + 1)]
    set_all = _median(lambda i: unet.set_adapters([name for name in names if name != names[i % len(names)]]), 7)
    with_all = _median(lambda _: _forward(unet), 5)
    unet.set_adapters(names[:1])
    with_one = _median(lambda _: _forward(unet), 5)
    fused = _median(lambda i: _exchange(unet, names[i % len(names)]), swaps)
    return {
        "side": "diffusers", "adapters": count, "swaps": swaps, "set_ms": 1e3 * set_all, "fuse_ms": 1e3 * fused,
        "forward_none_ms": 1e3 * plain, "forward_one_ms": 1e3 * with_one, "forward_all_ms": 1e3 * with_all,
        "difference": _difference(unet, before),
    }  # fmt: skip


def _exchange(unet: Any, name: str) -> None:
    unet.set_adapters([name])
    unet.fuse_lora(adapter_names=[name])
    unet.unfuse_lora()


def _forward(unet: Any) -> None:
    size, channels = unet.config.sample_size, unet.config.in_channels
    torch.manual_seed(0)
    text = torch.randn(2, 16, unet.config.cross_attention_dim)
    unet(torch.randn(2, channels, size, size), torch.tensor(500), encoder_hidden_states=text)


def _difference(unet: Any, before: dict[str, Any]) -> float:
    """The largest difference of the base's weights from those before."""
    after = {name.replace(".base_layer", ""): tensor for name, tensor in unet.state_dict().items()}
    return float(torch.stack([(after[name] - tensor).abs().max() for name, tensor in before.items()]).max())


def _median(call: Callable[[int], Any], count: int) -> float:
    times = []
    for index in range(count):
        began = time.process_time()
        call(index)
        times.append(time.process_time() - began)
    return statistics.median(times[1:] or times)
