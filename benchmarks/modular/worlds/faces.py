"""Faces of a picture as unit vectors, by OpenCV's YuNet (finds them) and SFace (tells people apart).

OpenCV and both networks may be used for anything (Apache 2.0; YuNet MIT), which other face packages' weights may not.
The networks are fetched from the hub at first use, or read from folders.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.modular.worlds.encoders import to_unit
from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.errors import UserError

DETECTOR_FILE, ENCODER_FILE = "face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx"
# Two faces are of one person from this cosine on. Source: OpenCV's documentation of FaceRecognizerSF, chosen on LFW.
SAME_PERSON = 0.363
# YuNet was trained for faces of up to 300 pixels: where none is found at the first size, a close-up may be too large.
_SIDES = (640, 320)


def is_installed() -> bool:
    """Whether OpenCV is there."""
    return importlib.util.find_spec("cv2") is not None


@dataclass(frozen=True)
class FaceEncoder:
    """detector, encoder: hub ids or folders of the two files."""

    detector: str
    encoder: str

    @cached_property
    def _networks(self) -> tuple[Any, Any, Any]:
        try:
            import cv2  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "recognising faces needs OpenCV: pip install 'blocklora_jax[faces]', or --encoders.faces none"
            ) from error
        detector = cv2.FaceDetectorYN.create(str(_file(self.detector, DETECTOR_FILE)), "", (320, 320), 0.7)
        return cv2, detector, cv2.FaceRecognizerSF.create(str(_file(self.encoder, ENCODER_FILE)), "")

    def faces(self, picture: Image.Image) -> np.ndarray:
        """Unit vectors fp32 [k, 128] of the faces in an RGB picture, the largest first; k may be 0."""
        _, detector, recogniser = self._networks
        for side in _SIDES:
            bgr = _reduced(picture, side)
            detector.setInputSize((bgr.shape[1], bgr.shape[0]))
            _, boxes = detector.detect(bgr)
            if boxes is not None and len(boxes):
                order = np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")
                crops = [recogniser.alignCrop(bgr, boxes[i]) for i in order]
                return to_unit(np.stack([np.asarray(recogniser.feature(c), np.float32).ravel() for c in crops]))
        return np.zeros((0, 128), np.float32)


def _file(name: str, file: str) -> Path:
    path = find_source(name).fetch([file]) / file
    if not path.is_file():
        raise UserError(f"{name!r} has no {file}: give a folder with OpenCV's face networks, or --encoders.faces none")
    return path


def _reduced(picture: Image.Image, side: int) -> np.ndarray:
    """BGR bytes [h, w, 3], the longer side at most `side` pixels."""
    share = min(1.0, side / max(picture.size))
    width, height = (max(1, round(edge * share)) for edge in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized)[:, :, ::-1])
