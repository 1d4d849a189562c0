"""The choice of what is done to concepts before they are merged."""

from __future__ import annotations

import gradio as gr

_CHOICES = [
    ("leave them as they are", "sum"),
    ("tune their tokens: keeps more of each when many are merged", "tuned_tokens"),
    ("fit them to each other: they may also share a slot", "joint_fit"),
]


def method_choice() -> gr.Radio:
    """One of the methods of `train.app.session.Method`."""
    return gr.Radio(
        _CHOICES, value="sum", label="Before the concepts are merged",
        info="Both work without your pictures. Tuning takes seconds for each concept.",
    )  # fmt: skip
