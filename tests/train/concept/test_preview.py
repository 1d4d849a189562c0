"""Preview grids: their size, their progress, and that the compiled program is used again."""

from __future__ import annotations

import jax
import jax.monitoring
import pytest
from concept_builders import make_config
from PIL import Image

from train.concept.prepare import Concept, init_concept
from train.concept.preview import make_preview

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """The names of the programs that are compiled during a test."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **facts: str | int) -> None:
        if event == COMPILED:
            names.append(str(facts.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_previews_have_the_size_of_training_and_share_a_program(tiny_sd, tmp_path, compiled, capsys):
    prompts = ("a photo of <ada> man", "a drawing of a dog")
    config = make_config(out=tmp_path, resolution=32, preview_prompts=prompts)
    assert tiny_sd.image_size != 32
    info, masks, trainable = init_concept(config, tiny_sd, None)
    adapter = Concept(config, info, masks, trainable, lambda step: None).to_adapter(trainable)  # pyright: ignore
    preview = make_preview(config, tiny_sd)
    preview(3, adapter)
    assert [name for name in compiled if "program" in name] == ["jit(program)"]
    compiled.clear()
    preview(6, adapter)
    assert compiled == []
    first, second = ((tmp_path / "previews" / f"00000{step}.png").read_bytes() for step in (3, 6))
    assert first == second
    with Image.open(tmp_path / "previews" / "000003.png") as grid:
        # Two pictures of 32 pixels, enlarged by 8, beside each other.
        assert grid.width >= 2 * 256 > grid.height - 100
    assert "preview of step 3" in capsys.readouterr().err
