"""Files as LyCORIS writes them: random modules of each of its kinds over the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule

# {kind: (module, arguments)}. The layers have 8 to 64 outputs and inputs.
KINDS: dict[str, tuple[Callable, dict]] = {
    "LoCon": (LoConModule, {"lora_dim": 2, "alpha": 3.0}),
    "LoCon with a core": (LoConModule, {"lora_dim": 2, "alpha": 3.0, "use_tucker": True}),
    "rank-stabilised LoCon": (LoConModule, {"lora_dim": 3, "alpha": 2.0, "rs_lora": True}),
    "LoCon with a scalar": (LoConModule, {"lora_dim": 2, "alpha": 1.0, "use_scalar": True}),
    "DoRA of outputs": (LoConModule, {"lora_dim": 2, "alpha": 3.0, "weight_decompose": True}),
    "DoRA of inputs": (LoConModule, {"lora_dim": 2, "alpha": 3.0, "weight_decompose": True, "wd_on_out": False}),
    "LoHa": (LohaModule, {"lora_dim": 2, "alpha": 1.5}),
    "LoHa with cores": (LohaModule, {"lora_dim": 2, "alpha": 1.5, "use_tucker": True}),
    "decomposed LoHa": (LohaModule, {"lora_dim": 2, "alpha": 1.5, "weight_decompose": True}),
    "LoKr": (LokrModule, {"lora_dim": 1, "alpha": 0.5, "factor": 2}),
    "LoKr with a core": (LokrModule, {"lora_dim": 1, "alpha": 0.5, "factor": 2, "use_tucker": True}),
    "LoKr of two pairs": (LokrModule, {"lora_dim": 1, "alpha": 0.5, "factor": 4, "decompose_both": True}),
    "LoKr of whole sides": (LokrModule, {"lora_dim": 8, "alpha": 4.0, "factor": 4, "full_matrix": True}),
    "decomposed LoKr": (LokrModule, {"lora_dim": 1, "alpha": 0.5, "factor": 2, "weight_decompose": True}),
    "GLoRA": (GLoRAModule, {"lora_dim": 2, "alpha": 1.0}),
    "OFT": (DiagOFTModule, {"lora_dim": 4}),
    "constrained OFT": (DiagOFTModule, {"lora_dim": 4, "constraint": 0.01}),
    "rescaled OFT": (DiagOFTModule, {"lora_dim": 4, "rescaled": True}),
    "BOFT": (ButterflyOFTModule, {"lora_dim": 4}),
    "rescaled BOFT": (ButterflyOFTModule, {"lora_dim": 2, "rescaled": True, "constraint": 0.02}),
    "IA3 of outputs": (IA3Module, {}),
    "IA3 of inputs": (IA3Module, {"train_on_input": True}),
    "full": (FullModule, {}),
}


def torch_layer(weight: np.ndarray, bias: np.ndarray | None) -> torch.nn.Module:
    """A linear layer or a convolution with this weight, in fp64."""
    outputs, inputs, *window = weight.shape
    if window:
        layer = torch.nn.Conv2d(inputs, outputs, tuple(window), padding=window[0] // 2, bias=bias is not None)
    else:
        layer = torch.nn.Linear(inputs, outputs, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def make(kind: str, weight: np.ndarray, bias: np.ndarray | None, seed: int):
    """({part: array}, LyCORIS' merged weight, its change of the bias or None)."""
    torch.manual_seed(seed)
    build, arguments = KINDS[kind]
    module = build("x", torch_layer(weight, bias), 1.0, **arguments)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("org"):
                noise = 0.3 * torch.randn_like(parameter)
                parameter.copy_(parameter + noise if "dora" in name or "rescale" in name else noise)
        if "use_scalar" in arguments:
            module.scalar.fill_(0.7)
        merged, bias_change = _merged(module, torch.tensor(weight))
    state = getattr(module, "custom_state_dict", lambda: None)() or module.state_dict()
    parts = {name: x.detach().numpy().copy() for name, x in state.items() if not name.startswith("org")}
    return parts, merged.detach().numpy(), None if bias_change is None else bias_change.detach().numpy()


def _merged(module, weight: torch.Tensor):
    if isinstance(module, FullModule):
        # While it is trained it holds whole weights; its file holds their differences from the base.
        return module.weight, None if module.bias is None else module.bias - module.org_bias[0]
    if isinstance(module, (LokrModule, LohaModule)):
        # Their `get_diff_weight` multiplies by the scale twice; their forward pass does it once.
        merged = weight + module.get_weight(module.shape)
        return (module.apply_weight_decompose(merged) if module.wd else merged), None
    return module.get_merged_weight()[0], None


def file_of(layers: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{"lora_unet_….part": array}."""
    return {f"{name}.{part}": np.ascontiguousarray(x) for name, parts in layers.items() for part, x in parts.items()}
