"""Draws a ComfyUI workflow as its nodes and links: `PYTHONPATH=. python docs/drawings/draw_workflow.py`."""

import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui" / "example_workflows"
COLOURS = {"BLOCKLORA_STACK": "#d95f02", "IMAGE": "#1b9e77", "STRING": "#666666", "MODEL": "#7570b3", "CLIP": "#e6ab02"}
OTHER, BACK, BOX = "#66a61e", "#f5f5f5", "#ffffff"
WIDTH, HEAD, ROW, MARGIN = 300, 26, 20, 40


def main() -> None:
    """Draw every workflow of the folder beside it."""
    for file in sorted(FOLDER.glob("*.json")):
        draw(json.loads(file.read_text(encoding="utf-8"))).save(file.with_suffix(".png"))


def draw(workflow: dict) -> Image.Image:
    """The picture of a workflow: inputs at the left of each node, outputs at the right, then its settings."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    left, top = (min(node["pos"][axis] for node in nodes.values()) for axis in (0, 1))
    corner = {key: (node["pos"][0] - left + MARGIN, node["pos"][1] - top + MARGIN) for key, node in nodes.items()}
    right = max(x for x, _ in corner.values()) + WIDTH + MARGIN
    bottom = max(y + height(nodes[key]) for key, (_, y) in corner.items()) + MARGIN
    picture = Image.new("RGB", (right, bottom), BACK)
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for _, source, slot, target, place, kind in workflow["links"]:
        start = corner[source][0] + WIDTH, corner[source][1] + HEAD + slot * ROW + ROW // 2
        end = corner[target][0], corner[target][1] + HEAD + place * ROW + ROW // 2
        canvas.line([start, end], fill=COLOURS.get(kind, OTHER), width=3)
    for key, node in nodes.items():
        draw_node(canvas, font, node, *corner[key])
    return picture


def height(node: dict) -> int:
    """Pixels of a node."""
    return HEAD + ROW * (max(len(node["inputs"]), len(node["outputs"])) + len(node["widgets_values"])) + 6


def draw_node(canvas: ImageDraw.ImageDraw, font, node: dict, x: int, y: int) -> None:
    """Draw one node, without its links."""
    canvas.rectangle((x, y, x + WIDTH, y + height(node)), fill=BOX, outline="#999999")
    canvas.rectangle((x, y, x + WIDTH, y + HEAD), fill="#dddddd", outline="#999999")
    canvas.text((x + 8, y + 5), node["type"], fill="black", font=font)
    for index, socket in enumerate(node["inputs"]):
        canvas.text((x + 10, y + HEAD + index * ROW + 3), socket["name"], fill="black", font=font)
    for index, socket in enumerate(node["outputs"]):
        canvas.text((x + WIDTH - 10, y + HEAD + index * ROW + 3), socket["name"], fill="black", font=font, anchor="ra")
    first = y + HEAD + ROW * max(len(node["inputs"]), len(node["outputs"]))
    for index, value in enumerate(node["widgets_values"]):
        text = str(value) if len(str(value)) <= 40 else f"{str(value)[:39]}…"
        canvas.text((x + 10, first + index * ROW + 3), text, fill="#666666", font=font)


if __name__ == "__main__":
    main()
