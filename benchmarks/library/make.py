"""Makes a folder of LoRA files of every kind and dialect that can be read, with the texts that people have beside them.

A few files cannot be used, as in real folders. Names, triggers and kinds are told in as many ways as there are.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from benchmarks.library.algorithms import ALGORITHMS
from benchmarks.library.dialects import DIALECTS
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.torch_names import to_torch

# Which layers an adapter changes, by a pattern of PyTorch's names.
LAYERS = {
    "cross-attention": r"attn2\.to_[kv]$",
    "attention": r"attn[12]\.to_(q|k|v|out\.0)$",
    "attention and text": r"attn[12]\.to_(q|k|v|out\.0)$|self_attn\.(q|k|v|out)_proj$",
    "everything": r"(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_(in|out)|conv[12]|(q|k|v|out)_proj|fc[12])$",
}
NOUNS = {"woman": "person", "man": "person", "dog": "object", "car": "object", "style": "style", "beach": "scene"}


class Specimen(NamedTuple):
    """A sort of file. rank: of its layers."""

    kind: str
    dialect: str
    layers: str
    rank: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.dialect}, {self.layers}"


def specimens(quick: bool = False) -> list[Specimen]:
    """All sorts of files, or, if quick, LoRAs of cross-attention in every dialect."""
    if quick:
        return [Specimen("LoRA", dialect, "cross-attention", 4) for dialect in DIALECTS]
    layers = list(LAYERS)
    sorts = [Specimen("LoRA", *each, 4) for each in product(DIALECTS, layers)]
    sorts += [Specimen(kind, "kohya", each, 4) for kind in ALGORITHMS if kind != "LoRA" for each in layers[:3]]
    sorts += [Specimen("LoCon", "kohya", "everything", 2)]
    return [each for each in sorts if each.dialect != "old diffusers" or each.layers in layers[:2]]


def weights_of(params: Mapping[str, Any]) -> dict[tuple[str, str], np.ndarray]:
    """PyTorch's weights of the layers that LoRAs change, by component and name."""
    chosen = {}
    for component in ("unet", "text_encoder"):
        for key, weight in to_torch(component, params[component]).items():
            if key.endswith(".weight") and weight.ndim in (2, 4):
                chosen[component, key.removesuffix(".weight")] = weight
    return chosen


def make_tensors(
    specimen: Specimen, weights: Mapping[tuple[str, str], np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The tensors of a file."""
    name, tensors = DIALECTS[specimen.dialect], {}
    for (component, layer), weight in weights.items():
        if not re.search(LAYERS[specimen.layers], layer):
            continue
        if weight.ndim == 4 and weight.shape[2:] == (1, 1) and specimen.kind in ("LoHa", "GLoRA"):
            weight = weight[:, :, 0, 0]
        made = ALGORITHMS[specimen.kind](rng, weight, specimen.rank)
        if specimen.dialect in ("diffusers", "U-Net alone", "old diffusers", "ai-toolkit"):
            made.pop("alpha", None)
        tensors |= {name(component, layer, end): np.ascontiguousarray(value) for end, value in made.items()}
    return tensors


def readable(params: Mapping[str, Any], quick: bool = False) -> tuple[list[Specimen], dict[str, str]]:
    """The sorts that this version reads, and for each of the others the reason why it does not."""
    weights, rng, good, wrong = weights_of(params), np.random.default_rng(0), [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.safetensors"
        for specimen in specimens(quick):
            save_file(make_tensors(specimen, weights, rng), path)
            try:
                Adapter.load(path, base=params)
                good.append(specimen)
            except UserError as error:
                wrong[str(specimen)] = str(error).replace(str(path), "it")
    return good, wrong


def make_folder(folder: Path, count: int, params: Mapping[str, Any], sorts: list[Specimen], broken: bool = True) -> int:
    """Write `count` files that can be read, in three subfolders. Gives the number of further, unusable files.

    Every tenth file resembles the one that was made a round of sorts before it, as later epochs of a training do.
    broken: also write a few files that cannot be used.
    """
    weights, nouns = weights_of(params), list(NOUNS)
    for index in range(count):
        specimen, noun = sorts[index % len(sorts)], nouns[index % len(nouns)]
        rng = np.random.default_rng(index)
        path = folder / f"{noun}s" / f"{specimen.kind.lower().replace(' ', '_')}_{index:03}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"format": "pt"}
        for name, text in tell(index, f"sks{index:03} {noun}", path.stem, noun):
            if name:
                path.with_name(path.stem + name).write_text(text)
            else:
                metadata |= json.loads(text)
        tensors = make_tensors(specimen, weights, rng)
        if index % 10 == 9 and index >= len(sorts):
            earlier = make_tensors(specimen, weights, np.random.default_rng(index - len(sorts)))
            tensors = {k: _near(earlier[k], x) for k, x in tensors.items()}
        save_file(tensors, path, metadata=metadata)
    return _break(folder) if broken else 0


def _near(earlier: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`earlier` with a tenth of `other` added, if they are matrices."""
    return (earlier + other / 10).astype(other.dtype) if other.ndim > 1 and other.dtype != bool else earlier


def tell(index: int, trigger: str, name: str, noun: str) -> Iterator[tuple[str, str]]:
    """How a file tells its trigger: (the end of a file's name beside it, its text), or ("", fields of the header)."""
    ways = (
        ("", json.dumps({"modelspec.trigger_phrase": trigger, "modelspec.architecture": "stable-diffusion-v1/lora"})),
        ("", json.dumps({"ss_tag_frequency": json.dumps({f"10_{trigger}": {trigger: 20, "smile": 7}})})),
        (".civitai.info", json.dumps({"trainedWords": [trigger], "baseModel": "SD 1.5", "model": {"tags": [noun]}})),
        (".json", json.dumps({"activation text": trigger, "sd version": "SD1", "preferred weight": 0.8})),
        (".txt", f"trigger: {trigger}\nfrom a friend\n"),
    )
    yield ways[index % len(ways)]


def _break(folder: Path) -> int:
    """Files that cannot be used: of another model, cut short, a pickle, a web page, an embedding."""
    flux = {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": np.ones((2, 8), np.float32)}
    save_file(flux, folder / "flux.safetensors")
    save_file({"emb_params": np.ones((2, 32), np.float32)}, folder / "embedding.safetensors")
    whole = (folder / "flux.safetensors").read_bytes()
    (folder / "cut_short.safetensors").write_bytes(whole[:-20])
    (folder / "page.safetensors").write_text("<!DOCTYPE html><title>Log in</title>")
    (folder / "old.pt").write_bytes(b"\x80\x02}q\x00.")
    return 5
