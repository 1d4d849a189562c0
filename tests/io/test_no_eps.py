"""Pictures that are programs are not opened."""

import pytest
from PIL import EpsImagePlugin

from blocklora_jax.io.open_picture import UnreadableError, open_picture, to_rgb


def test_eps_under_another_name_never_reaches_ghostscript(tmp_path, monkeypatch) -> None:
    def run(*arguments: object) -> None:
        raise AssertionError("Ghostscript would run the file")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UnreadableError, match="cannot identify"):
        open_picture(path, to_rgb)
