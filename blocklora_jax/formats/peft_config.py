"""The scale of PEFT's layers, which their tensors do not tell: from `adapter_config.json`, or from the file's header."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.formats.layers import module_name

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftConfigs:
    """PEFT's settings by component; none where a file says nothing, and scales are 1."""

    by_component: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, path: str | Path, metadata: Mapping[str, str], keys: Collection[str]) -> PeftConfigs:
        """Of the LoRA file at `path`, with this header and these tensors.

        diffusers >= 0.35 may write the settings into the header. PEFT itself writes `adapter_config.json` beside the
        file, without which the scale of its layers is not known.

        Raises: UserError if that is missing, or the settings ask for more than a LoRA.
        """
        if any(key.startswith(_PREFIX) for key in keys):
            config = _read_json(Path(path).with_name("adapter_config.json"), path)
            configs: dict[str, dict[str, Any]] = dict.fromkeys(("unet", "text_encoder", "text_encoder_2"), config)
        else:
            configs = _by_component(metadata.get("lora_adapter_metadata", "{}"), path)
        for config in configs.values():
            if config.get("use_dora"):
                raise UserError(f"{path} is a DoRA (weight-decomposed LoRA), by its settings; ordinary LoRAs are read")
        return cls(configs)

    def scale(self, component: str, layer: str, rank: int) -> float:
        """alpha / rank of a layer whose tensors have this rank."""
        config = self.by_component.get(component)
        if not config or config.get("lora_alpha") is None:
            return 1.0
        name = module_name(component, layer)
        patterns = config.get("alpha_pattern") or {}
        try:
            alpha = next((a for pattern, a in patterns.items() if _matches(pattern, name)), config["lora_alpha"])
            return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
        except (TypeError, ValueError, AttributeError, re.error) as error:
            raise UserError(
                f"the LoRA's PEFT settings hold an unusable lora_alpha or alpha_pattern ({error})"
            ) from error


def _matches(pattern: str, name: str) -> bool:
    # transformers 5 leaves out `text_model.`, so patterns may do too. Source: peft `get_pattern_key`.
    return any(re.match(rf"(.*\.)?({pattern})$", form) for form in (name, name.removeprefix("text_model.")))


def _read_json(file: Path, path: str | Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} was saved by PEFT, which keeps its lora_alpha in {file.name} beside it, and that cannot be read"
            f" ({error.__class__.__name__}): put it there"
        ) from error


def _by_component(text: str, path: str | Path) -> dict[str, dict[str, Any]]:
    """{"unet.r": 4, …} as {"unet": {"r": 4}}."""
    try:
        flat = json.loads(text)
        configs: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            component, _, name = key.partition(".")
            configs.setdefault(component, {})[name] = value
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot read the header's lora_adapter_metadata ({error})") from error
    return configs
