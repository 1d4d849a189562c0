"""Makes the outputs of a notebook fit to be committed: small pictures, no progress bars, nothing of this machine."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image

# Pixels of a picture's width, and the quality of its JPEG.
_WIDEST, _QUALITY = 1000, 80
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def tidy(book: NotebookNode, folder: Path) -> NotebookNode:
    """`book` as it is committed. folder: where it ran; its path becomes "."."""
    book.metadata = NotebookNode(_METADATA)
    count = 0
    for cell in book.cells:
        cell.metadata = NotebookNode({key: cell.metadata[key] for key in ("tags",) if key in cell.metadata})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        # Progress bars and warnings go to stderr.
        cell.outputs = [_tidy_output(each, folder, count) for each in cell.outputs if each.get("name") != "stderr"]
    return book


def _tidy_output(output: NotebookNode, folder: Path, count: int) -> NotebookNode:
    if output.output_type == "stream":
        output.text = output.text.replace(str(folder), ".")
        return output
    if output.output_type == "execute_result":
        output.execution_count = count
    output.metadata = NotebookNode()
    # The name under which a picture was replaced while the cell ran.
    output.pop("transient", None)
    pictures = [output.data.pop(kind) for kind in ("image/png", "image/jpeg") if kind in output.data]
    if pictures:
        kind, data = smaller_picture(base64.b64decode(pictures[0]))
        output.data[kind] = base64.b64encode(data).decode()
        output.data["text/plain"] = "a picture"
    return output


def smaller_picture(data: bytes) -> tuple[str, bytes]:
    """(The MIME type, the content) of a picture as JPEG, or as PNG of its own size where that is smaller.

    That is so for charts, whose letters stay sharp.
    """
    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    picture.thumbnail((_WIDEST, 8 * _WIDEST), Image.Resampling.LANCZOS)
    picture.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    if png.tell() <= jpeg.tell():
        return "image/png", png.getvalue()
    return "image/jpeg", jpeg.getvalue()
