"""PEFT's settings, from `adapter_config.json` or the file's header. The tensors do not give the scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.peft_fields import refuse_settings
from blocklora_jax.external_lora.peft_patterns import check_patterns, matches
from blocklora_jax.external_lora.starts import start_problem
from blocklora_jax.io.json_text import parse_json, read_json
from blocklora_jax.layouts.components import ADAPTED
from blocklora_jax.layouts.lora_layers import module_name

_PREFIX = "base_model.model."
_LARGEST_ALPHA = 1e9
_WITHOUT_ALPHA = ("OFT", "BOFT", "IA3")


@dataclass(frozen=True)
class PeftConfigs:
    """PEFT's settings by component. A component without settings has the scale 1."""

    by_component: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(
        cls,
        path: str | Path,
        metadata: Mapping[str, str],
        keys: Collection[str],
        parts: Collection[str] = (),
        peft_type: str = "LORA",
        has_base: bool = False,
    ) -> PeftConfigs:
        """The settings of the LoRA file at `path`, with the header `metadata` and tensors named `keys`.

        parts, peft_type: what the tensors show; see `refuse_settings`. has_base: whether the base model is at hand.

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
            _check(config, path, parts, peft_type, has_base)
        return cls(configs)

    def of(self, component: str) -> Mapping[str, Any]:
        """The settings of a component; empty if there are none."""
        return self.by_component.get(component, {})

    def scale(self, component: str, layer: str, rank: int | None) -> float:
        """alpha / rank of a layer whose tensors have this rank. None: the rank is in the settings, if it is a LoKr."""
        config = self.of(component)
        if config.get("peft_type") in _WITHOUT_ALPHA or (rank is None and config.get("peft_type") != "LOKR"):
            return 1.0
        alpha = _by_pattern(config, "alpha_pattern", _alpha_name(config), component, layer)
        rank = _by_pattern(config, "rank_pattern", "r", component, layer) if rank is None else rank
        if alpha is None or not rank:
            return 1.0
        return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _by_pattern(config: Mapping[str, Any], patterns: str, name: str, component: str, layer: str) -> Any:
    """The value of the first pattern that matches the layer, or else of the setting `name`."""
    torch = module_name(component, layer)
    # transformers 5 leaves out `text_model.`, so patterns may leave it out too.
    forms = {torch, torch.removeprefix("text_model.")}
    values = (x for pattern, x in (config.get(patterns) or {}).items() if any(matches(pattern, form) for form in forms))
    return next(values, config.get(name))


def _alpha_name(config: Mapping[str, Any]) -> str:
    return "alpha" if config.get("peft_type") in ("LOHA", "LOKR") else "lora_alpha"


def _check(config: Mapping[str, Any], path: str | Path, parts: Collection[str], peft_type: str, has_base: bool) -> None:
    """Raise UserError if PEFT's settings describe more than the tensors, or do not give the alpha."""
    problem = refuse_settings(config, parts, peft_type)
    if problem := problem or start_problem(config.get("init_lora_weights"), has_base, path):
        raise UserError(f"{path} is more than an ordinary LoRA, according to its PEFT settings: {problem}")
    # The ranks are needed where both sides of a LoKr are whole.
    for name in ("alpha_pattern", "rank_pattern") if peft_type == "LOKR" else ("alpha_pattern",):
        _check_patterns(config.get(name) or {}, name, path)
    if config.get("peft_type") in _WITHOUT_ALPHA:
        return
    alpha = _alpha_name(config)
    _check_numbers({alpha: config.get(alpha), **(config.get("alpha_pattern") or {})}, f"{alpha} or alpha_pattern", path)
    if peft_type == "LOKR":
        ranks = {"r": config.get("r", 1), **(config.get("rank_pattern") or {})}
        _check_numbers(ranks, "r or rank_pattern", path, above=0)


def _check_patterns(patterns: Any, name: str, path: str | Path) -> None:
    if not isinstance(patterns, dict):
        raise UserError(f"{path}: {name} in its PEFT settings must be a JSON object")
    if problem := check_patterns(patterns):
        raise UserError(f"{path}: {name} in its PEFT settings cannot be read: {problem}")


def _check_numbers(numbers: Mapping[str, Any], what: str, path: str | Path, above: float = -_LARGEST_ALPHA) -> None:
    for name, number in numbers.items():
        # In Python a bool is an int.
        if type(number) not in (int, float) or not above < number < _LARGEST_ALPHA:
            positive = " above 0" if above == 0 else ""
            raise UserError(
                f"{path}: its PEFT settings have an unusable {what}: {str(name)[:60]} is {str(number)[:60]}, but must"
                f" be a number{positive}"
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
