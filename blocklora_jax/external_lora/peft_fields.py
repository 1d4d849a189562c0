"""PEFT's settings of a LoRA (`LoraConfig`): which are used, which can be ignored, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Used to compute the scale.
_USED = frozenset("lora_alpha alpha_pattern use_rslora".split())
# Ignored: about training, about which layers are adapted (the tensors show that), or about the program that wrote it.
_IGNORED = frozenset(
    "_custom_modules auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config"
    " exclude_modules inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config lora_dropout"
    " lora_ga_config megatron_core peft_type peft_version qalora_group_size r rank_pattern revision runtime_config"
    " target_modules task_type velora_config".split()
)
# Refused if they are set, with the reason.
_REFUSED = {
    "use_dora": "it is a DoRA (weight-decomposed LoRA)",
    "lora_bias": "it has biases",
    "fan_in_fan_out": "its weights are transposed",
    "modules_to_save": "it replaces whole layers besides the LoRA",
    "trainable_token_indices": "it trains rows of the token table",
    "target_parameters": "it changes parameters that are not layers",
    "layer_replication": "it repeats layers of the model",
    "alora_invocation_tokens": "it is switched on by tokens of the prompt (aLoRA)",
    "use_qalora": "it pools its inputs (QALoRA)",
    "use_bdlora": "its factors are cut into blocks (BD-LoRA)",
    "arrow_config": "it chooses between LoRAs while it runs (Arrow)",
    "kasa_config": "it changes the base model too (KaSA)",
    "monteclora_config": "its factors are drawn at random (MonteCLoRA)",
    "megatron_config": "it is for Megatron's layers",
}
# Values of init_lora_weights that do not change the base model.
_PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_CHANGED_BASES = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ", "lora_ga": "LoRA-GA"}


def refuse_settings(config: Mapping[str, Any]) -> str | None:
    """Why the tensors alone do not describe a LoRA with these settings; None if they do."""
    for name, value in config.items():
        if name in _REFUSED and _is_set(value):
            return f"{name} = {_shown(value)}: {_REFUSED[name]}"
        if name not in _REFUSED and name not in _USED | _IGNORED and _is_set(value):
            return f"{name} = {_shown(value)}, which this version does not know"
    if not isinstance(config.get("use_rslora"), bool | None):
        return f"use_rslora = {_shown(config['use_rslora'])}: it must be true or false"
    kind = config.get("peft_type")
    if kind not in (None, "LORA"):
        return f"peft_type = {_shown(kind)}: it is not a LoRA"
    if config.get("bias") not in (None, "none"):
        return f"bias = {_shown(config['bias'])}: it has biases"
    return _start_problem(config.get("init_lora_weights"))


def _start_problem(start: Any) -> str | None:
    """Why this value of init_lora_weights is refused; None if it is not.

    Some values change the base model before training, and the file does not hold that change.
    """
    if start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in _PLAIN_STARTS):
        return None
    shown = f"init_lora_weights = {_shown(start)}"
    kind = next(
        (name for word, name in _CHANGED_BASES.items() if isinstance(start, str) and start.lower().startswith(word)),
        None,
    )
    if kind is None:
        return f"{shown}, which this version does not know"
    return (
        f"{shown}: {kind} changes the base model too, and that change is not in the file. Convert it to an ordinary"
        " LoRA first, with PEFT: save_pretrained(folder, path_initial_model_for_weight_conversion=…)"
    )


def _is_set(value: Any) -> bool:
    # 0 and 0.0 count as not set, like False.
    return bool(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
