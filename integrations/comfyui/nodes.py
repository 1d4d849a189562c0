"""The nodes. Each one calls one command of blocklora."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import folder_paths

from .command import call
from .pictures import empty_picture, read_picture
from .places import basis_value, find_model, path_below, result_folder
from .stack import STACK, Entry, Stack, digest, flags, paths, stamp

_MODEL = (
    "STRING",
    {
        "default": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "tooltip": "The base model of the LoRAs: a Diffusers folder, a hub id, or the name of a checkpoint.",
    },
)
_BASIS = (
    "A basis of the model's text (a file of train.basis), with which each LoRA gets a token of its own and keeps far "
    "more. Empty: blocks of the features themselves."
)
_FAMILIES = ["auto", "sd1", "sd2", "sdxl"]
_STACK = (STACK, {"tooltip": "LoRAs from a stack node."})


class BlockLoRAStack:
    """Adds a LoRA to a stack."""

    TITLE = "LoRA stack (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "add"
    RETURN_TYPES = (STACK,)
    RETURN_NAMES = ("stack",)

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        return {
            "required": {
                "lora": (
                    folder_paths.get_filename_list("loras"),
                    {"tooltip": "A file in models/loras, of any trainer."},
                ),
                "weight": ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}),
                "trigger": ("STRING", {"default": "", "tooltip": "The words that call it. Empty: those in the file."}),
            },
            "optional": {
                "class_noun": ("STRING", {"default": "", "tooltip": "What it is, in a word: woman, dog, style."}),
                "stack": _STACK,
            },
        }

    @classmethod
    def IS_CHANGED(cls, lora, **_):
        """Changes when the file does."""
        path = folder_paths.get_full_path("loras", lora)
        return stamp(path) if path else ""

    @classmethod
    def VALIDATE_INPUTS(cls, lora):
        """Whether the file exists."""
        return True if folder_paths.get_full_path("loras", lora) else f"there is no LoRA {lora}"

    def add(self, lora: str, weight: float, trigger: str, class_noun: str = "", stack: Stack = ()):
        """The stack with the LoRA at its end."""
        path = folder_paths.get_full_path("loras", lora)
        if path is None:
            raise FileNotFoundError(f"there is no LoRA {lora}")
        return ((*stack, Entry(path, weight, trigger, class_noun)),)


class BlockLoRACheck:
    """Measures how much the LoRAs of a stack disturb each other."""

    TITLE = "Check LoRAs (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "check"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("heat_map", "report")

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        return {"required": {"stack": _STACK, "model": _MODEL}}

    def check(self, stack: Stack, model: str):
        """The heat map, and what the command printed. Problems are no error here: the report names them."""
        picture = os.path.join(result_folder("check", digest(stack, model)), "heat_map.png")
        arguments = ["check", *paths(stack), "--model", find_model(model), "--out", picture, "--overwrite"]
        result = call(arguments, _stop, allowed=(0, 1))
        shown = read_picture(picture) if os.path.exists(picture) else empty_picture()
        return (shown, result.text)


class BlockLoRAFit:
    """Fits the LoRAs of a stack jointly, so that their sum keeps each of them."""

    TITLE = "Joint fit (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "fit"
    RETURN_TYPES = (STACK, "STRING")
    RETURN_NAMES = ("stack", "report")

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        erase = {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "Weight of ordinary prompts."}
        keep = {"default": False, "tooltip": "Keep the whole strength of each. Better with many LoRAs."}
        return {
            "required": {"stack": _STACK, "model": _MODEL, "erase_weight": ("FLOAT", erase)},
            "optional": {"keep_strength": ("BOOLEAN", keep)},
        }

    def fit(self, stack: Stack, model: str, erase_weight: float, keep_strength: bool = False):
        """A stack of the fitted LoRAs, with the same weights and words."""
        folder = result_folder("fit", digest(stack, model, erase_weight, keep_strength))
        arguments = ["--lambda", str(erase_weight), *flags(stack, "--trigger", "trigger")]
        return _each_anew("fit", stack, model, folder, arguments + ["--keep-strength"] * keep_strength)


class BlockLoRATune:
    """Tunes the tokens of a stack to each other, so that their sum keeps more of each. The weights stay."""

    TITLE = "Tune tokens (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "tune"
    RETURN_TYPES = (STACK, "STRING")
    RETURN_NAMES = ("stack", "report")

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        return {"required": {"stack": _STACK, "model": _MODEL}}

    def tune(self, stack: Stack, model: str):
        """A stack of adapters with the same weights, and with other tokens."""
        arguments = ["--allow-overlap", "--weights", *(str(entry.weight) for entry in stack)]
        return _each_anew("tune", stack, model, result_folder("tune", digest(stack, model)), arguments)


class BlockLoRAConvert:
    """Converts each LoRA of a stack into blocks of its own, so that merging them is lossless."""

    TITLE = "Convert into blocks (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "convert"
    RETURN_TYPES = (STACK, "STRING")
    RETURN_NAMES = ("stack", "report")

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        return {
            "required": {
                "stack": _STACK,
                "model": _MODEL,
                "blocks": ("INT", {"default": 16, "min": 1, "max": 4096, "tooltip": "The same for all LoRAs."}),
                "first_slot": (
                    "INT",
                    {"default": 0, "min": 0, "max": 4095, "tooltip": "The others get the next ones."},
                ),
            },
            "optional": {"basis": ("STRING", {"default": "", "tooltip": _BASIS})},
        }

    def convert(self, stack: Stack, model: str, blocks: int, first_slot: int, basis: str = ""):
        """A stack of the converted LoRAs."""
        folder, done, texts = result_folder("convert", digest(stack, model, blocks, first_slot, basis)), [], []
        for index, entry in enumerate(stack):
            out = os.path.join(folder, f"{index:02}-{os.path.basename(entry.path)}")
            slot = str(first_slot + index)
            arguments = ["convert", entry.path, "--model", find_model(model), "--out", out, "--overwrite"]
            arguments += ["--slot", slot, "--basis", basis_value(basis), "--blocks", str(blocks)]
            words = [*flags((entry,), "--trigger", "trigger"), *flags((entry,), "--class-noun", "class_noun")]
            texts.append(call([*arguments, *words], _stop).text)
            # In a basis the file has a trigger of its own.
            done.append(entry._replace(path=out, **({"trigger": ""} if basis.strip() else {})))
        return (tuple(done), "\n".join(texts))


class BlockLoRASave:
    """Saves a stack as one LoRA that ComfyUI loads."""

    TITLE = "Save merged LoRA (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("lora_file",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        rank = {"default": 0, "min": 0, "max": 4096, "tooltip": "Cut the rank to this. 0: exact, the sum of all ranks."}
        return {
            "required": {
                "stack": _STACK,
                "name": (
                    "STRING",
                    {"default": "blocklora/merged", "tooltip": "Below models/loras, without an ending."},
                ),
                "max_rank": ("INT", rank),
                "model": _MODEL,
                "family": (_FAMILIES, {"tooltip": "Of the base model, if the LoRAs do not show it."}),
            }
        }

    def save(self, stack: Stack, name: str, max_rank: int, model: str, family: str):
        """The path of the file below models/loras."""
        out = path_below(folder_paths.get_folder_paths("loras")[0], f"{name}.safetensors")
        os.makedirs(os.path.dirname(out), exist_ok=True)
        weights = [str(entry.weight) for entry in stack]
        arguments = ["export", *paths(stack), "--out", out, "--layout", "kohya", "--allow-overlap", "--overwrite"]
        arguments += ["--no-card", "--weights", *weights, "--model", find_model(model)]
        arguments += ["--max-rank", str(max_rank)] if max_rank else []
        arguments += ["--family", family] if family != _FAMILIES[0] else []
        text = call(arguments, _stop).text
        return {"ui": {"text": [text]}, "result": (out,)}


class BlockLoRALoad:
    """Applies a LoRA file by its path, such as the one that was just saved."""

    TITLE = "Load LoRA file (blocklora)"
    CATEGORY = "blocklora"
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP")

    @classmethod
    def INPUT_TYPES(cls):
        """The sockets and widgets."""
        strength = ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05})
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "lora_file": ("STRING", {"forceInput": True}),
                "strength": strength,
            }
        }

    def load(self, model, clip, lora_file: str, strength: float):
        """The model and the text encoder with the LoRA."""
        # ComfyUI's own modules, which need PyTorch.
        import comfy.sd
        import comfy.utils

        lora = comfy.utils.load_torch_file(lora_file, safe_load=True)
        return comfy.sd.load_lora_for_models(model, clip, lora, strength, strength)


NODES = (BlockLoRAStack, BlockLoRACheck, BlockLoRAFit, BlockLoRATune, BlockLoRAConvert, BlockLoRASave, BlockLoRALoad)


def _each_anew(command: str, stack: Stack, model: str, folder: str, arguments: Sequence[str]):
    """A stack of the files that a command writes into `folder`, one for each LoRA, and what the command printed."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths(stack)]
    # The command takes names that are file names on every system, in at most 200 bytes.
    plain = [re.sub(r"[^\w-]+", "_", stem)[:40] for stem in stems]
    names = [f"{index:02}-{stem}" for index, stem in enumerate(plain)]
    shared = ["--model", find_model(model), "--out", folder, "--overwrite", "--name", *names]
    result = call([command, *paths(stack), *shared, *arguments], _stop)
    written = [os.path.join(folder, f"{name}.safetensors") for name in names]
    return (tuple(entry._replace(path=path) for entry, path in zip(stack, written, strict=True)), result.text)


def _stop() -> None:
    """Raises ComfyUI's exception if the user pressed cancel."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
    except ImportError:
        return
    throw_exception_if_processing_interrupted()
