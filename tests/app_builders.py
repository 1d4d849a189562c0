"""A session of the app on the tiny model, for tests."""

from __future__ import annotations

from pathlib import Path

from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter
from train.app.options import AppOptions
from train.app.session import Session

# Blocks of the features, which need no basis file, in short steps.
CONFIG = """
basis: null
assignment: layer
token_side: 0
token_start: noun
negatives_from: nouns
rank: 2
blocks: 4
batch: 2
warmup_steps: 1
lambda: 1.0
random_styles: [a photo of, a drawing of]
random_subjects: [dog, owl]
random_scenes: [in the snow, on the beach]
"""


def make_session(sd: StableDiffusion, model: Path, out: Path) -> Session:
    """A session whose library is `out`. The settings of training lie beside it."""
    config = out.parent / "config.yaml"
    config.write_text(CONFIG)
    return Session(AppOptions(model=str(model), out=out, config=config, port=0), sd)


def add_concepts(session: Session, *names: str) -> None:
    """Random adapters in the library, each with a slot of its own."""
    for slot, name in enumerate(names):
        adapter = random_adapter(name, session.sd.params, slots=(slot,), layers="cross_kv")
        folder = session.library.root / name
        folder.mkdir(parents=True)
        adapter.save(folder / "adapter.safetensors")
