"""How to use the adapter of a run: the words that call it, and commands that can be copied."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path

from blocklora_jax.command_line.program import as_called
from blocklora_jax.io.printing import printable
from train.concept.prompts import captions_for
from train.concept.report.run_facts import RunFacts


def usage(run: RunFacts) -> str:
    """The section as HTML. The commands are for the folder that the report lies in."""
    prompt = captions_for(run.concept)[0]
    model = str(run.settings.get("model", "pocket"))
    # A path of this machine helps nobody else.
    shown = "DIR" if Path(model).is_absolute() or Path(model).exists() else model
    option = "" if shown == "pocket" else f" --model {shlex.quote(shown)}"
    draw = as_called(f"python -m merge adapter.safetensors{option} --prompt {shlex.quote(prompt)} --out picture.png")
    file = shlex.quote(f"{run.name}_lora.safetensors")
    export = as_called(f"python -m merge export adapter.safetensors --layout diffusers --out {file}")
    python = "\n".join(
        [
            "from blocklora_jax import Adapter, StableDiffusion",
            "",
            f"sd = StableDiffusion.from_pretrained({shown!r})",
            'model = sd.with_adapters([Adapter.load("adapter.safetensors")])',
            f"images = model.generate([{prompt!r}])",
        ]
    )
    return "\n".join(
        [
            f"<p>Call it in prompts with <code>{_text(run.concept.trigger)}</code>. In this folder:</p>",
            _code(draw),
            "<p>In Python:</p>",
            _code(python),
            "<p>For diffusers; for ComfyUI and A1111 with <code>--layout kohya</code>:</p>",
            _code(export),
        ]
    )


def _code(lines: str) -> str:
    return "<pre>" + "\n".join(_text(line) for line in lines.split("\n")) + "</pre>"


def _text(value: object) -> str:
    return escape(printable(value))
