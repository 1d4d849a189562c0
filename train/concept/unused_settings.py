"""Settings that were given and have no effect beside the others. A new training refuses them."""

from __future__ import annotations

from collections.abc import Sequence

from blocklora_jax.errors import UserError
from train.concept.config import ConceptConfig
from train.concept.settings.erasure import ErasureSettings

# What these settings are if they are not given.
_NOT_GIVEN = {
    "class_images": None, "other_images": None, "pure_noise": ErasureSettings.pure_noise, "negative_tokens": None,
}  # fmt: skip


def refuse_unused(configs: Sequence[ConceptConfig]) -> None:
    """Raises UserError if a new training has a setting without effect. Runs that are resumed may have some."""
    for config in configs:
        for name, reason in () if config.run.resume else unused_settings(config).items():
            raise UserError(f"--{name.replace('_', '-')} has no effect here: {reason}, or leave it out")


def without_unused(config: ConceptConfig) -> ConceptConfig:
    """`config` without the settings that have no effect."""
    return config.with_settings(**{name: _NOT_GIVEN[name] for name in unused_settings(config)})


def unused_settings(config: ConceptConfig) -> dict[str, str]:
    """The settings that were given and have no effect. With each, the reason and what to choose to use it."""
    settings = config.settings()
    reasons = {name: _why_no_picture(config, name) for name in ("class_images", "other_images", "pure_noise")}
    # An empty list says that there are no such tokens, which is true.
    reasons["negative_tokens"] = _why_no_negative_token(config) if config.tokens.negative_tokens else ""
    return {name: reason for name, reason in reasons.items() if reason and settings[name] != _NOT_GIVEN[name]}


def _why_no_picture(config: ConceptConfig, name: str) -> str:
    """Why the setting `name` of the random rows' pictures has no effect; "" if it has one."""
    erasure, layers = config.erasure, config.adapter.layers
    forms = "choose --erase preserve or epsilon" if name == "class_images" else "choose --erase epsilon"
    if erasure.erase == "none":
        return f"--erase none has no random rows: {forms}"
    if not config.random_rows:
        return "there are no random rows: give --lambda and --random-batch above 0"
    either = f"{forms}, or layers that read the picture (--config feature_blocks --layers attention)"
    if erasure.skips_unet(layers):
        return f"--layers {layers} with --erase layer read only the text of the random rows: {either}"
    if erasure.preserves_class and name != "class_images":
        return f"the random rows of --erase preserve are pictures of the concept or its class: {forms}"
    return ""


def _why_no_negative_token(config: ConceptConfig) -> str:
    """Why files of negative tokens have no effect; "" if they have one."""
    if config.token_side.negatives_from == "codewords":
        return "--negatives-from codewords takes the codewords of other slots: choose --negatives-from nouns"
    if config.erasure.preserves_class:
        return "the prompts of --erase preserve have no negative tokens: choose --erase layer or epsilon"
    return ""
