"""The sections of a model card that only repositories on the hub have: pictures, merging, and how to load it here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.sharing.publication import Publication
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HUB
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.printing import markdown_block, markdown_code


def pictures_section(publication: Publication) -> Iterator[str]:
    """The pictures, and the prompts to try. Nothing if there are none."""
    if publication.pictures:
        yield "\n".join(f"![sample pictures]({path})" for path in publication.pictures)
    if publication.prompts:
        yield "\n".join(["Prompts to try:", "", *(f"- {markdown_code(prompt)}" for prompt in publication.prompts)])


def merging_section(info: AdapterInfo, publication: Publication) -> str:
    """What another adapter must have in common with this one, and the command that merges them."""
    base = shlex.quote(publication.base_model or info.base_name or "BASE")
    command = f"blocklora merge {HUB}{publication.repository} {HUB}OWNER/OTHER --model {base} --save merged"
    how = f"\n\n{markdown_block(command, 'bash')}"
    partition = info.partition
    if partition is None:
        return (
            "## Merging with other adapters\n\nIt has no blocks, so it shares weights with other adapters and disturbs"
            " them; `blocklora merge` takes `--allow-overlap` then, and `blocklora fit` makes up for some of it." + how
        )
    rows = {
        "slot": f"{', '.join(map(str, info.slots))} of {partition.num_blocks}; the other adapter needs another one",
        "blocks": f"axis {partition.axis}, seed {partition.seed}, assignment {partition.assignment}",
        "basis": partition.basis or "none",
        "codewords": codewords_of(info) or "none",
        "base": info.base_digest or "not recorded",
    }
    table = ["| | |", "|---|---|", *(f"| {name} | {markdown_code(value)} |" for name, value in rows.items())]
    return (
        "## Merging with other adapters\n\n"
        "It merges without loss with every adapter of another slot that agrees in the rest. Basis, codewords and base"
        " are digests of what they were made with.\n\n" + "\n".join(table) + how
    )


def here_section(info: AdapterInfo, publication: Publication) -> str:
    """The lines that load the adapter in Python and make a picture."""
    prompt = publication.prompts[0] if publication.prompts else f"a photo of {info.trigger}"
    code = [
        "from blocklora_jax import Adapter, StableDiffusion",
        "",
        f"adapter = Adapter.load({publication.repository!r})",
        f"sd = StableDiffusion.from_pretrained({publication.base_model or info.base_name or 'the base model'!r})",
        f"pictures = sd.with_adapters([adapter]).generate([{prompt!r}])",
    ]
    return f"## blocklora_jax\n\n{markdown_block(chr(10).join(code), 'python')}"


def codewords_of(info: AdapterInfo) -> str:
    """The digest of the codewords that the adapter was trained with; "" if it states none."""
    try:
        stated = parse_json(info.training, "the training settings")
    except UserError:
        return ""
    return str(stated.get("codewords", "")) if isinstance(stated, dict) else ""
