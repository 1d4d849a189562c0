"""Stands in for ComfyUI: loads a node pack as its `nodes.load_custom_node` does, and gives it `folder_paths`.

Written from ComfyUI's documentation ("Custom Nodes", "Registry"): a pack is a package of which `__init__.py` defines
NODE_CLASS_MAPPINGS. A node has INPUT_TYPES, RETURN_TYPES, FUNCTION and CATEGORY.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# ComfyUI's own nodes that the example uses: {type: (inputs with links, number of widgets, outputs)}.
CORE = {
    "PreviewImage": ({"images": "IMAGE"}, 0, ()),
    "SaveImage": ({"images": "IMAGE"}, 1, ()),
    "CheckpointLoaderSimple": ({}, 1, ("MODEL", "CLIP", "VAE")),
    "CLIPTextEncode": ({"clip": "CLIP"}, 1, ("CONDITIONING",)),
    "EmptyLatentImage": ({}, 3, ("LATENT",)),
    # The widget after the seed says what happens to it after a run.
    "KSampler": (
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        7,
        ("LATENT",),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, 0, ("IMAGE",)),
}
WIDGETS = ("STRING", "FLOAT", "INT", "BOOLEAN")


def make_folder_paths(root: Path) -> ModuleType:
    """ComfyUI's module `folder_paths` for the folders below `root`."""
    module = ModuleType("folder_paths")

    def get_folder_paths(kind: str) -> list[str]:
        return [str(root / "models" / kind)]

    def get_full_path(kind: str, name: str) -> str | None:
        path = Path(get_folder_paths(kind)[0]) / name
        return str(path) if path.is_file() else None

    def get_filename_list(kind: str) -> list[str]:
        folder = Path(get_folder_paths(kind)[0])
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))

    module.get_folder_paths, module.get_full_path = get_folder_paths, get_full_path
    module.get_filename_list = get_filename_list
    module.get_output_directory = lambda: str(root / "output")
    for name in ("models/loras", "models/checkpoints", "output"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return module


def load_custom_node(path: Path) -> ModuleType:
    """The pack in a folder, under the name that ComfyUI gives it: its path, with other dots."""
    name = str(path).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        del sys.modules[loaded]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def sockets(node: Any) -> dict[str, str]:
    """The inputs that are sockets, with their types: those of other types than widgets, and forced ones."""
    kinds = node.INPUT_TYPES()
    inputs = {**kinds.get("required", {}), **kinds.get("optional", {})}
    return {name: spec[0] for name, spec in inputs.items() if _is_socket(spec)}


def widgets(node: Any) -> list[str]:
    """The inputs that are widgets, in their order."""
    kinds = node.INPUT_TYPES()
    inputs = {**kinds.get("required", {}), **kinds.get("optional", {})}
    return [name for name, spec in inputs.items() if not _is_socket(spec)]


def _is_socket(spec: tuple) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return bool(options.get("forceInput")) or (isinstance(spec[0], str) and spec[0] not in WIDGETS)
