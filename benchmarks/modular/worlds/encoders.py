"""CLIP and DINOv2 as PyTorch runs them: pictures and texts to unit vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.errors import UserError

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes an encoder's input.

    Source: transformers' image processors of CLIP and of DINOv2 (`BitImageProcessor`).

    edge: pixels of the shorter side after resizing. crop: side of the square in the middle. mean, std: of the channels,
    in 0..1.
    """

    edge: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC
    scale: float = 1 / 255

    @classmethod
    def read(cls, folder: Path) -> Preprocessing:
        """What `preprocessor_config.json` says. Raises: UserError if it is missing or asks for something else."""
        path = folder / "preprocessor_config.json"
        try:
            raw = json.loads(path.read_text())
            size, crop = raw["size"], raw["crop_size"]
            found = cls(
                edge=size if isinstance(size, int) else size["shortest_edge"],
                crop=crop if isinstance(crop, int) else crop["height"],
                mean=tuple(raw["image_mean"]),
                std=tuple(raw["image_std"]),
                resample=raw.get("resample", Image.Resampling.BICUBIC),
                scale=raw.get("rescale_factor", 1 / 255),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise UserError(f"{path} does not say how pictures become inputs ({told}): restore the file") from error
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        if off := [step for step in steps if not raw.get(step, True)]:
            raise UserError(
                f"{path} switches {off[0]} off: only encoders that resize, crop and normalise are supported"
            )
        if found.edge < found.crop:
            raise UserError(f"{path}: crop_size {found.crop} is more than the resized picture's {found.edge}")
        return found

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Input fp32 [3, s, s] of an RGB picture of any size."""
        width, height = picture.size
        short = min(width, height)
        wide, high = (self.edge if side == short else int(self.edge * side / short) for side in (width, height))
        left, top = (wide - self.crop) // 2, (high - self.crop) // 2
        resized = picture.resize((wide, high), Image.Resampling(self.resample))
        pixels = np.asarray(resized.crop((left, top, left + self.crop, top + self.crop)), np.float32) * self.scale
        normed = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.moveaxis(normed, -1, 0).astype(np.float32)


@dataclass(frozen=True)
class ImageEncoder:
    """DINOv2, from a folder in transformers' format or a hub id. It embeds as the normed class token, of length 1."""

    name: str
    architecture = "Dinov2Model"

    @cached_property
    def _folder(self) -> Path:
        return fetch(self.name)

    @cached_property
    def _model(self) -> Any:
        return load_model(self._folder, self.name, self.architecture)

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing.read(self._folder)

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Unit embeddings fp32 [n, d] of RGB pictures of any sizes."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                pixels = np.stack([self._preprocessing(p) for p in pictures[start : start + _BATCH]])
                found.append(self._embed(torch.from_numpy(pixels).to(self._model.device)).cpu().numpy())
        return to_unit(np.concatenate(found))

    def _embed(self, pixels: Any) -> Any:
        return self._model(pixel_values=pixels).last_hidden_state[:, 0]


@dataclass(frozen=True)
class ClipEncoder(ImageEncoder):
    """A CLIP; both embeddings are the projected ones."""

    architecture = "CLIPModel"

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return _explained(lambda: CLIPTokenizer.from_pretrained(self._folder), self.name, "CLIPTokenizer")

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings fp32 [n, d]; words beyond the encoder's positions are not read."""
        import torch

        length = self._model.config.text_config.max_position_embeddings
        ids = self._tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            states = self._model.text_model(**ids.to(self._model.device)).pooler_output
            return to_unit(self._model.text_projection(states).cpu().numpy())

    def _embed(self, pixels: Any) -> Any:
        return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)


def fetch(name: str) -> Path:
    """The folder of an encoder's files. Of a hub repository, only the files that PyTorch reads are downloaded.

    Raises: UserError if there is none.
    """
    source = find_source(name)
    safe = any(path.endswith(".safetensors") for path in source.list_names())
    return source.fetch(["*.json", "*.txt", "*.safetensors" if safe else "*.bin"])


def load_model(folder: Path, name: str, architecture: str) -> Any:
    """A transformers model in fp32, on the GPU if PyTorch has one. Raises: UserError if the folder has none."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"measuring real concepts needs PyTorch and transformers ({error}): pip install 'blocklora_jax[torch]'"
        ) from error
    cls = getattr(transformers, architecture)
    model, info = _explained(
        lambda: cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32), name, architecture
    )
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{name!r} is no {architecture}: it lacks {missing[0]} and {len(missing) - 1} more")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def to_unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _explained(load: Any, name: str, what: str) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{name!r} holds no {what} that transformers reads: {' '.join(str(error).split())}") from error
