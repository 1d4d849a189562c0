"""Which notebooks there are, and with which values they run here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from blocklora_jax.pocket.concepts import CONCEPTS
from blocklora_jax.pocket.references import write_concept

EXAMPLES = Path(__file__).parents[2] / "examples"
Parameters = dict[str, Any]
_PICTURES = "my_pictures"


class Notebook(NamedTuple):
    """A notebook.

    name: of its file, without .ipynb. quick: values of its parameters for a quick run. written: values for the run that
    makes its committed outputs; empty: its own. prepare: makes files in the folder that it runs in; quick or not.
    """

    name: str
    quick: Parameters
    written: Parameters = {}
    prepare: Callable[[Path, bool], None] = lambda folder, quick: None

    @property
    def file(self) -> Path:
        """The notebook's file."""
        return EXAMPLES / f"{self.name}.ipynb"


def _prepare_own_concept(folder: Path, quick: bool) -> None:
    """Pictures, as a user would upload them, and for a quick run a tiny random model in place of the real one."""
    write_concept(CONCEPTS["miso"], folder / _PICTURES)
    (folder / _PICTURES / "concept.json").unlink()
    # The captions call the packaged concept; the notebook gives it another token.
    for path in (folder / _PICTURES).glob("*.txt"):
        path.write_text(path.read_text().replace(CONCEPTS["miso"].token, "<bo>"))
    if quick:
        from blocklora_jax.testing.random_folder import write_model

        write_model(folder / "tiny", "sd15", small=True)


# Real weights are not available where the outputs are made.
_ON_POCKET = {"steps": 500, "preview_every": 250}

# A quick run has two notebooks at a time: every second one. So to_pytorch follows quickstart, whose adapter it uses.
NOTEBOOKS = (
    Notebook("quickstart", {"STEPS": 2, "DRAWING_STEPS": 2}),
    Notebook(
        "your_own_concept",
        quick={
            "MODEL": "tiny",
            "BASIS_SETTINGS": {"prompts": 16, "blocks": (4,)},
            "DRAWING_STEPS": 2,
            "SETTINGS": {
                "steps": 2, "batch": 1, "resolution": 64, "blocks": 4, "rank": 2, "token_side_margin": 3.0,
                "preview_every": 0, "preview_prompts": ("a photo of <bo> cat",), "remat": True,
            },
        },
        written={"MODEL": "pocket", "BASIS": "pocket", "SETTINGS": _ON_POCKET},
        prepare=_prepare_own_concept,
    ),
    Notebook("to_pytorch", {"STEPS": 2, "DRAWING_STEPS": 2}),
    Notebook("fifteen", {"CONCEPT_COUNT": 2, "STEPS": 2, "DRAWING_STEPS": 2}),
)  # fmt: skip
