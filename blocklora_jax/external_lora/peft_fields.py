"""PEFT's settings of an adapter (`LoraConfig`, `LoHaConfig`, …): which are used, ignored, and refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blocklora_jax.external_lora.peft_patterns import check_patterns

# Used to compute the scale or the change. init_lora_weights is used by `starts`.
_USED = frozenset(
    "lora_alpha alpha alpha_pattern use_rslora r rank_pattern use_cayley_neumann num_cayley_neumann_terms"
    " feedforward_modules init_lora_weights".split()
)
# Ignored: about training, about which layers are adapted (the tensors show that), or about the program that wrote it.
_IGNORED = frozenset(
    "_custom_modules auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config"
    " exclude_modules inference_mode layers_pattern layers_to_transform loftq_config lora_dropout"
    " lora_ga_config megatron_core peft_type peft_version qalora_group_size revision runtime_config"
    " target_modules task_type velora_config"
    # LoHa, LoKr, OFT, BOFT and IA3. The tensors' shapes show how they are cut.
    " rank_dropout module_dropout rank_dropout_scale init_weights use_effective_conv2d decompose_both decompose_factor"
    " oft_block_size block_share eps boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout"
    " init_ia3_weights".split()
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
    "coft": "its rotations are cut to a length while it runs (constrained OFT)",
}
# Settings that are no obstacle if the file has tensors of these parts.
_WITH_PARTS = {"use_dora": "output_magnitude", "lora_bias": "up_bias"}
_TYPES = ("LORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3")


def refuse_settings(config: Mapping[str, Any], parts: Collection[str] = (), peft_type: str = "LORA") -> str | None:
    """Why the tensors alone do not describe an adapter with these settings; None if they do.

    parts: the names of the parts in the file. peft_type: the kind that these parts show.
    """
    for name, value in config.items():
        if name in _REFUSED and _is_set(value) and _WITH_PARTS.get(name) not in parts:
            return f"{name} = {_shown(value)}: {_REFUSED[name]}"
        if name not in _REFUSED and name not in _USED | _IGNORED and _is_set(value):
            return f"{name} = {_shown(value)}, which this version does not know"
    for name in ("use_rslora", "use_cayley_neumann"):
        if not isinstance(config.get(name), bool | None):
            return f"{name} = {_shown(config[name])}: it must be true or false"
    kind = config.get("peft_type")
    if kind not in (None, peft_type) or kind not in (None, *_TYPES):
        return f"peft_type = {_shown(kind)}: it is not a {'LoRA' if peft_type == 'LORA' else peft_type}"
    if config.get("bias") not in (None, "none"):
        return f"bias = {_shown(config['bias'])}: it has biases"
    terms = config.get("num_cayley_neumann_terms")
    if terms is not None and (type(terms) is not int or not 1 <= terms <= 100):
        return f"num_cayley_neumann_terms = {_shown(terms)}: it must be a whole number from 1 to 100"
    return _feedforward_problem(config.get("feedforward_modules"))


def _feedforward_problem(modules: Any) -> str | None:
    """What is wrong with IA3's `feedforward_modules`: names of layers, or one pattern."""
    if isinstance(modules, str):
        problem = check_patterns([modules])
        return f"feedforward_modules cannot be read: {problem}" if problem else None
    names = [] if modules is None else modules
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"feedforward_modules = {_shown(modules)}: it must be a list of names, or one pattern"
    return None


def _is_set(value: Any) -> bool:
    # 0 and 0.0 count as not set, like False.
    return bool(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
