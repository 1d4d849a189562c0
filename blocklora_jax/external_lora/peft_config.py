"""The scale of PEFT's layers, from `adapter_config.json` or the file's header. The tensors do not give it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.peft_fields import refuse_settings
from blocklora_jax.external_lora.peft_patterns import check_patterns, matches
from blocklora_jax.io.json_text import parse_json, read_json
from blocklora_jax.layouts.components import ADAPTED
from blocklora_jax.layouts.lora_layers import module_name

_PREFIX = "base_model.model."
_LARGEST_ALPHA = 1e9


@dataclass(frozen=True)
class PeftConfigs:
    """PEFT's settings by component. A component without settings has the scale 1."""

    by_component: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, path: str | Path, metadata: Mapping[str, str], keys: Collection[str]) -> PeftConfigs:
        """The settings of the LoRA file at `path`, with the header `metadata` and tensors named `keys`.

        diffusers >= 0.35 may write the settings into the header. PEFT itself writes `adapter_config.json` beside the
        file; without it the scale of the layers is not known.

        Raises: UserError if that file is missing, or if the settings describe more than a LoRA.
        """
        if any(key.startswith(_PREFIX) for key in keys):
            config = _read_json(Path(path).with_name("adapter_config.json"), path)
            configs: dict[str, dict[str, Any]] = dict.fromkeys(ADAPTED, config)
        else:
            configs = _by_component(metadata.get("lora_adapter_metadata", "{}"), path)
        for config in configs.values():
            _check(config, path)
        return cls(configs)

    def scale(self, component: str, layer: str, rank: int) -> float:
        """alpha / rank of a layer whose tensors have this rank."""
        config = self.by_component.get(component)
        if not config:
            return 1.0
        name = module_name(component, layer)
        # transformers 5 leaves out `text_model.`, so patterns may leave it out too.
        forms = {name, name.removeprefix("text_model.")}
        patterns = (config.get("alpha_pattern") or {}).items()
        alphas = (a for pattern, a in patterns if any(matches(pattern, form) for form in forms))
        alpha = next(alphas, config["lora_alpha"])
        return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _check(config: Mapping[str, Any], path: str | Path) -> None:
    """Raise UserError if PEFT's settings describe more than a LoRA, or do not give its alpha."""
    if problem := refuse_settings(config):
        raise UserError(f"{path} is more than an ordinary LoRA, according to its PEFT settings: {problem}")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{path}: alpha_pattern in its PEFT settings must be a JSON object")
    if problem := check_patterns(patterns):
        raise UserError(f"{path}: alpha_pattern in its PEFT settings cannot be read: {problem}")
    for name, alpha in {"lora_alpha": config.get("lora_alpha"), **patterns}.items():
        # In Python a bool is an int.
        if type(alpha) not in (int, float) or not abs(alpha) < _LARGEST_ALPHA:
            raise UserError(
                f"{path}: its PEFT settings have an unusable lora_alpha or alpha_pattern: {str(name)[:60]} is"
                f" {str(alpha)[:60]}, but must be a number"
            )


def _read_json(file: Path, path: str | Path) -> dict[str, Any]:
    try:
        config = read_json(file, infinity=True)
        if not isinstance(config, dict):
            raise UserError("it does not hold a JSON object")
        return config
    except UserError as error:
        raise UserError(
            f"{path} was saved by PEFT, which keeps lora_alpha in {file.name} beside it. That file cannot be read"
            f" ({error}): copy it there"
        ) from error


def _by_component(text: str, path: str | Path) -> dict[str, dict[str, Any]]:
    """{"unet.r": 4, …} as {"unet": {"r": 4}}. Names without a component are the U-Net's: see `save_lora_adapter`."""
    try:
        flat = parse_json(text, "it", infinity=True)
        configs: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            component, dot, name = key.partition(".")
            configs.setdefault(component if dot else "unet", {})[name if dot else key] = value
    except (UserError, AttributeError) as error:
        raise UserError(f"{path}: cannot read the header's lora_adapter_metadata ({error})") from error
    return configs
