"""Draws the pictures of docs/how_it_works.md: `PYTHONPATH=. python docs/drawings/draw.py`.

It needs three trainings of one concept: `train.concept --config configs/ada.yaml`, the same with rex.yaml, and the
ordinary LoRA `train.concept --config one_block --images ada --token '<ada>' --class-noun woman --kind person --erase
none --out runs/ada_lora`.
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from benchmarks.modular.core.speech import token_speech
from blocklora_jax import Adapter, StableDiffusion
from blocklora_jax.adapters.basis import TextBasis, load_text_basis
from blocklora_jax.io.picture_grid import picture_grid
from blocklora_jax.pocket.references import BASIS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURES = Path(__file__).parents[1] / "pictures"
RUNS = Path("runs")
BLOCKS = 64
COLOURS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666")
PALE = "#eeeeee"
PROMPTS = ("a photo of <ada> woman on a beach", "a photo of a woman on a beach", "a photo of a man in a forest",
           "a photo of a dog in the snow")  # fmt: skip


def main() -> None:
    """Draw all of them."""
    sd = StableDiffusion.from_pretrained("pocket")
    ada, rex, lora = (Adapter.load(RUNS / name / "adapter.safetensors") for name in ("ada", "rex", "ada_lora"))
    basis = load_text_basis(BASIS, sd.digest)
    draw_blocks()
    draw_ordinary_text(basis)
    draw_tokens(sd, [ada, rex, lora], basis)
    draw_erasure(sd, ada, lora)


def draw_blocks() -> None:
    """One weight matrix with two ordinary LoRAs, and with two adapters that own blocks."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9))
    titles = ("one LoRA changes all of a weight", "two LoRAs change the same part", "two adapters own different blocks")
    painted = ([(0, 8, "ada")], [(0, 8, "ada"), (0, 8, "rex")], [(2, 3, "ada"), (5, 6, "rex")])
    for axis, title, spans in zip(axes, titles, painted, strict=True):
        _matrix(axis, title)
        for index, (start, stop, name) in enumerate(spans):
            _span(axis, start, stop, COLOURS[0 if name == "ada" else 1], "xx" if index else "//")
            place = (start + stop) / 2 + (0 if len(spans) == 1 or stop - start < 8 else 4 * index - 2)
            axis.text(place, -0.5, name, ha="center", va="top", color=COLOURS[0 if name == "ada" else 1])
    _save(figure, "how_blocks.png")


def _matrix(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set(xlim=(-0.2, 8.2), ylim=(-1.6, 5.2))
    axis.axis("off")
    for column in range(8):
        axis.add_patch(Rectangle((column, 0), 1, 5, facecolor=PALE, edgecolor="#bbbbbb"))
    axis.text(4, -1.2, "input features →", ha="center", va="top", fontsize=8, color="#555555")


def _span(axis: Axes, start: int, stop: int, colour: str, hatch: str) -> None:
    shape = Rectangle((start, 0), stop - start, 5, facecolor=colour, alpha=0.45, hatch=hatch, edgecolor=colour)
    axis.add_patch(shape)


def draw_ordinary_text(basis: TextBasis) -> None:
    """The energy of ordinary text along every direction of the basis, and which block gets which direction."""
    assert basis.energies is not None
    share = basis.energies / basis.energies.sum()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    axes[0].semilogy(np.arange(1, len(share) + 1), share, color="#333333")
    strong = int(np.searchsorted(np.cumsum(share), 0.95)) + 1
    axes[0].axvspan(1, strong, color=COLOURS[0], alpha=0.3)
    axes[0].set(title="Ordinary text uses few directions", ylim=(1e-6, 1))
    axes[0].set(xlabel="direction, strongest first", ylabel="share of energy")
    told = f"{strong} of {len(share)}: 95 % of the energy"
    axes[0].text(strong + 8, share[0] / 3, told, color=COLOURS[0], fontsize=9)
    first = 32
    axes[1].bar(np.arange(first), share[:first], color=[COLOURS[i % 8] for i in range(first)], log=True)
    axes[1].set(title="Directions are dealt to the blocks in turn", xlabel="direction (8 blocks, by colour)")
    _save(figure, "how_text_basis.png")


def draw_tokens(sd: StableDiffusion, adapters: list[Adapter], basis: TextBasis) -> None:
    """In which blocks three trained tokens speak."""
    table = token_speech(sd, adapters, basis, BLOCKS)
    labels = ("ada, the defaults (block 0)", "rex, the defaults (block 1)", "ada, an ordinary LoRA")
    figure, axes = plt.subplots(3, 1, figsize=(9, 4.6), sharex=True, sharey=True)
    for axis, row, label, colour in zip(axes, np.asarray(table), labels, (*COLOURS[:2], "#666666"), strict=True):
        axis.bar(np.arange(BLOCKS), row, color=colour, log=True)
        axis.axhline(1, color="#333333", linewidth=0.8)
        axis.set_title(label, fontsize=10, loc="left")
    axes[1].set_ylabel("energy of the token (ordinary text: 1)")
    axes[-1].set_xlabel("block of the text basis")
    _save(figure, "how_tokens.png")


def draw_erasure(sd: StableDiffusion, erased: Adapter, lora: Adapter) -> None:
    """The same prompts and noise drawn by the base, with an ordinary LoRA, and with an erased adapter."""
    models = [sd.with_adapters([lora]), sd.with_adapters([erased])]
    # The base has no token <ada>: its first picture calls a woman.
    plain = [PROMPTS[0].replace("<ada> woman", "a woman"), *PROMPTS[1:]]
    rows = [sd.generate(plain, seed=3), *(model.generate(list(PROMPTS), seed=3) for model in models)]
    names = ("base model", "ordinary LoRA", "with erasure")
    texts = [plain, PROMPTS, PROMPTS]
    captions = [f"{name}: {text}" for name, row in zip(names, texts, strict=True) for text in row]
    grid = picture_grid(np.concatenate(rows), captions=captions, columns=len(PROMPTS), scale=3)
    _write(Image.fromarray(np.asarray(grid)), "how_erasure.png")


def _save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(PICTURES / name, dpi=110)
    plt.close(figure)
    _write(Image.open(PICTURES / name).convert("RGB"), name)


def _write(image: Image.Image, name: str) -> None:
    """Write with 128 colours, because the files are kept in the repository."""
    image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)
    print(name, image.size, f"{(PICTURES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
