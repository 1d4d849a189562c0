"""What a model card says of an adapter's repository on the hub."""

from __future__ import annotations

import re
from typing import NamedTuple

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable

# The file for us. Its name is the one that runs give to adapters.
ADAPTER = "adapter.safetensors"
# The file for other programs. diffusers takes it if only the repository is named.
LORA = "pytorch_lora_weights.safetensors"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,60}")
_PROMPTS = {"style": "a {}", "scene": "a photo of a {}"}


class Publication(NamedTuple):
    """A repository with one adapter.

    repository: "owner/name". base_model: the hub id of the base; "" if it has none. license: the hub's word for it; ""
    if it is not stated. pictures: paths in the repository. prompts: for the page's widget.
    """

    repository: str
    base_model: str = ""
    license: str = ""
    pictures: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def check_license(name: str) -> str:
    """`name`, if it has the form of the hub's names of licences, such as "apache-2.0". Raises UserError if not."""
    if not _LICENSE.fullmatch(name):
        raise UserError(
            f"the license {printable(name)!r} is not one of the hub's words, such as apache-2.0, cc-by-4.0,"
            " creativeml-openrail-m or other: https://huggingface.co/docs/hub/repositories-licenses lists them"
        )
    return name


def usual_prompts(info: AdapterInfo) -> tuple[str, ...]:
    """A prompt that shows the concept; none if it has no trigger."""
    return (_PROMPTS.get(info.kind, "a photo of {}").format(info.trigger),) if info.trigger else ()
