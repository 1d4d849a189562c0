"""Where models, bases and results are, as the user names them."""

from __future__ import annotations

import os

import folder_paths


def find_model(name: str) -> str:
    """The path of a checkpoint of ComfyUI, or the name itself."""
    name = name.strip()
    known = name in folder_paths.get_filename_list("checkpoints")
    return folder_paths.get_full_path("checkpoints", name) if known else name


def basis_value(name: str) -> str:
    """The value of --basis."""
    text = name.strip() or "None"
    if text.startswith("-"):
        raise RuntimeError(f"{text!r} is not a basis: give the path of its file")
    return text


def result_folder(kind: str, name: str) -> str:
    """A folder for results, below ComfyUI's output folder. The same inputs get the same one."""
    folder = os.path.join(folder_paths.get_output_directory(), "blocklora", f"{kind}-{name}")
    os.makedirs(folder, exist_ok=True)
    return folder


def path_below(folder: str, name: str) -> str:
    """A path below `folder`. Raises ValueError for one outside it: workflows come from other people."""
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath([root, path]) != root or path == root:
        raise ValueError(f"{name} is outside {folder}")
    return path
