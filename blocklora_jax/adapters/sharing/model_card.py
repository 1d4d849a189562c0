"""The model card beside an exported file: what it holds, which words call the concepts, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from blocklora_jax.adapters.adapter_like import AdapterLike
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.sharing.card_sections import here_section, merging_section, pictures_section
from blocklora_jax.adapters.sharing.publication import Publication
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import is_hub_id
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.printing import markdown_block, markdown_code, markdown_text
from blocklora_jax.layouts.families.table import FAMILIES

# Begins the line that shows that a card is ours.
MARKER = "<!-- blocklora_jax: "
# Opens any kind of model.
_ANY_PIPELINE = "DiffusionPipeline"


def make_card(
    path: Path,
    adapters: Sequence[AdapterLike],
    weights: Sequence[float],
    family: str,
    note: str = "",
    publication: Publication | None = None,
) -> str:
    """The text of the card of the LoRA file at `path`, in Markdown with Hugging Face's front matter.

    Args:
        path: the LoRA file.
        adapters, weights: the adapters that it was made of, and their weights.
        family: a key of `FAMILIES`; "" if it is not known.
        note: a line on how it was made ("rank cut to 16, …").
        publication: the repository, if it is on the hub; it holds one adapter.
    """
    base = publication.base_model if publication else hub_base(adapters)
    triggers = [adapter.info.trigger for adapter in adapters if adapter.info.trigger]
    title = adapters[0].info.name if publication else path.stem
    sections = [
        _front_matter(base, triggers, family, publication),
        f"{_marker(path)}\n# {markdown_text(title)}",
        *(pictures_section(publication) if publication else ()),
        _table(adapters, weights) + (f"\n\n{note}" if note else ""),
        *([merging_section(adapters[0].info, publication)] if publication else ()),
        "## diffusers\n\n"
        + markdown_block(_diffusers_code(path, adapters, base, triggers, family, publication), "python"),
        _comfy_text(path, adapters, publication),
        here_section(adapters[0].info, publication) if publication else _here_text(path),
    ]
    return "\n\n".join(sections) + "\n"


def write_card(path: Path, text: str) -> Path:
    """Write the card of the file at `path`. Gives the card's path, see `card_path`."""
    card = card_path(path)
    write_atomic(card, text.encode())
    return card


def card_path(path: Path) -> Path:
    """The path of the card for the file at `path`: `README.md` beside it, or `<name>.md` if there is another README.md.

    Raises UserError if both exist and are not cards of this file.
    """
    for card in (path.with_name("README.md"), path.with_suffix(".md")):
        if not card.exists() or (card.is_file() and _marker(path) in _start_of(card)):
            return card
    raise UserError(f"will not overwrite README.md and {path.stem}.md beside {path}: choose another folder or no card")


def _start_of(card: Path) -> str:
    with card.open(encoding="utf-8", errors="replace") as file:
        return file.read(1 << 20)


def embeddings_folder(path: Path) -> Path:
    """The folder of the embeddings for A1111 and ComfyUI, which are named after their tokens: `merged.embeddings/`."""
    return path.with_suffix(".embeddings")


def _marker(path: Path) -> str:
    return f"{MARKER}{path.name} -->"


def hub_base(adapters: Sequence[AdapterLike]) -> str:
    """The hub id of the base model; "" if none is known. What other trainers write is a tag of theirs, not an id."""
    info = adapters[0].info if adapters else None
    return info.base_name if info and not info.origin and is_hub_id(info.base_name) else ""


def _front_matter(base: str, triggers: Sequence[str], family: str, publication: Publication | None) -> str:
    tags = [FAMILIES[family].tag] if family else []
    tags = ["text-to-image", *tags, "lora", "diffusers", *(["blocklora"] if publication else ())]
    lines = ["tags:", *(f"- {tag}" for tag in tags)]
    if base:
        lines.append(f"base_model: {base}")
    if triggers:
        lines.append(f"instance_prompt: {_yaml(', '.join(triggers))}")
    if publication:
        lines += [f"license: {publication.license}"] if publication.license else []
        lines += ["pipeline_tag: text-to-image"]
        lines += _widget(publication)
    return "\n".join(["---", *lines, "library_name: diffusers", "---"])


def _widget(publication: Publication) -> list[str]:
    """The prompts of the page's widget. As many pictures as prompts are shown with them, each with its own."""
    lines, is_shown = [], len(publication.pictures) == len(publication.prompts)
    for i, prompt in enumerate(publication.prompts):
        lines.append(f"- text: {_yaml(prompt)}")
        lines += ["  output:", f"    url: {publication.pictures[i]}"] if is_shown else []
    return ["widget:", *lines] if lines else []


def _yaml(text: str) -> str:
    # A JSON string is also a YAML string.
    return json.dumps(text, ensure_ascii=False)


def _table(adapters: Sequence[AdapterLike], weights: Sequence[float]) -> str:
    rows = ["| concept | trigger words | weight | blocks | rank | base |", "|---|---|---|---|---|---|"]
    for adapter, weight in zip(adapters, weights, strict=True):
        info, partition = adapter.info, adapter.info.partition
        blocks = "whole layers"
        if partition:
            blocks = f"slots {', '.join(map(str, info.slots))} of {partition.num_blocks} ({partition.axis})"
        cells = (
            markdown_text(info.name),
            markdown_code(info.trigger) if info.trigger else "",
            f"{weight:g}",
            blocks,
            str(info.rank),
            markdown_text(info.base_name),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _diffusers_code(
    path: Path,
    adapters: Sequence[AdapterLike],
    base: str,
    triggers: Sequence[str],
    family: str,
    publication: Publication | None,
) -> str:
    pipeline = FAMILIES[family].pipelines[0] if family in FAMILIES else _ANY_PIPELINE
    tokens = token_counts(adapters)
    lines = [f"from diffusers import {pipeline}"]
    by_tensors = bool(tokens) and _has_two_text_encoders(family)
    lines += ["from huggingface_hub import hf_hub_download"] if by_tensors and publication else []
    lines += ["from safetensors.torch import load_file"] if by_tensors else []
    lines += [
        "",
        *_base_comment(base, adapters, family, publication),
        f"pipe = {pipeline}.from_pretrained({_base_in_code(base, adapters, family)!r})",
        f"pipe.load_lora_weights({_source(publication)!r}, weight_name={path.name!r})",
    ]
    lines += _token_code(path, tokens, family, publication)
    prompt = " and ".join(triggers) or "…"
    return "\n".join([*lines, f"image = pipe({f'a photo of {prompt}'!r}).images[0]"])


def _source(publication: Publication | None) -> str:
    return publication.repository if publication else "."


def _is_of_any_base(base: str, adapters: Sequence[AdapterLike], family: str) -> bool:
    """Whether only the family of the base is known: LoRAs of other programs name it by a tag of theirs, if at all."""
    return not base and bool(family) and bool(adapters) and bool(adapters[0].info.origin)


def _base_in_code(base: str, adapters: Sequence[AdapterLike], family: str) -> str:
    if _is_of_any_base(base, adapters, family):
        return FAMILIES[family].configs[0].repository
    stated = adapters[0].info.base_name if adapters and not adapters[0].info.origin else ""
    return base or stated or "the base model"


def _base_comment(
    base: str, adapters: Sequence[AdapterLike], family: str, publication: Publication | None
) -> list[str]:
    if _is_of_any_base(base, adapters, family):
        return [f"# Or another model of the kind {FAMILIES[family].title}."]
    return ["# The base is not on the hub: name its folder here."] if publication and not base else []


def _token_code(path: Path, tokens: Mapping[str, int], family: str, publication: Publication | None) -> list[str]:
    files = {token: f"{path.stem}.{token.strip('<>')}.safetensors" for token in tokens}
    if not _has_two_text_encoders(family):
        if publication:
            source = publication.repository
            return [f"pipe.load_textual_inversion({source!r}, weight_name={file!r})" for file in files.values()]
        return [f"pipe.load_textual_inversion({file!r})" for file in files.values()]
    lines = []
    if files:
        lines = [
            "# Published configs of SDXL name a wrong end token, with which a prompt is read up to a concept "
            "token only.",
            "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id",
        ]
    for token, file in files.items():
        place = f"hf_hub_download({publication.repository!r}, {file!r})" if publication else repr(file)
        lines.append(f"vectors = load_file({place})")
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            parts = f"text_encoder=pipe.text_encoder{suffix}, tokenizer=pipe.tokenizer{suffix}"
            lines.append(f"pipe.load_textual_inversion(vectors[{key!r}], {token!r}, {parts})")
    return lines


def _has_two_text_encoders(family: str) -> bool:
    return family in FAMILIES and FAMILIES[family].has_second_text_encoder


def _comfy_text(path: Path, adapters: Sequence[AdapterLike], publication: Publication | None) -> str:
    names = [token.strip("<>") for token in token_counts(adapters)]
    begin = f"They read the layout `kohya`. Copy `{path.name}` to `models/loras` (A1111: `models/Lora`)"
    if publication:
        saved = f"{adapters[0].info.name}.safetensors"
        begin = f"Save `{path.name}` as {markdown_code(saved)} in `models/loras` (A1111: `models/Lora`)"
    lines = [
        "## ComfyUI and A1111",
        "",
        begin
        + (
            f" and the files of `{embeddings_folder(path).name}/` {'in' if publication else 'to'} `models/embeddings`"
            " (A1111: `embeddings`)."
            if names
            else "."
        ),
    ]
    if names:
        calls = ", ".join(f"`embedding:{name}`" for name in names)
        lines += [
            "",
            f"Call the concepts in ComfyUI with {calls}, in A1111 with {', '.join(f'`{name}`' for name in names)}.",
        ]
    return "\n".join(lines)


def _here_text(path: Path) -> str:
    return (
        "## blocklora_jax\n\n```python\nfrom blocklora_jax import Adapter\n\n"
        f"adapter = Adapter.load({path.name!r})  # an ordinary LoRA, without the tokens\n```\n\n"
        "To merge on, take the adapter files that this was made of: they know their blocks and their tokens."
    )
