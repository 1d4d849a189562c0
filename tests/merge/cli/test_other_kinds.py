"""Commands on files that are more than two small factors: exact where they are folded in, reduced elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from blocklora_jax import Adapter, StableDiffusion
from blocklora_jax.checkpoints.load import load_checkpoint
from blocklora_jax.command_line.runner import run
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.cli.reading import reduction
from merge.export.lora_file import read_export_header
from merge.remove import remove

NORM = "unet/mid_block/attentions_0/transformer_blocks_0/norm2"


def layers(params):
    """(kohya's name, path, PyTorch's weight) of all cross-attention projections of the text."""
    found = []
    for path, kernel in flatten_params(params).items():
        if re.fullmatch(r"unet/.*attn2/to_[kv]/kernel", path):
            name = "lora_" + path.removesuffix("/kernel").replace("/", "_")
            found.append((name, path, np.asarray(kernel).T))
    return found


def write_files(params, folder, chosen):
    """A DoRA, a LoKr of two whole sides, and a LoRA with a norm, each with its name as trigger: {name: path}."""
    tensors: dict[str, dict[str, np.ndarray]] = {"dora": {}, "lokr": {}, "norm": {}}
    rng = np.random.default_rng(0)
    for name, _, weight in chosen:
        outputs, inputs = weight.shape
        down, up = (0.1 * rng.standard_normal(s, np.float32) for s in ((2, inputs), (outputs, 2)))
        pair = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        lengths = np.linalg.norm(weight, axis=1, keepdims=True) * 1.3
        tensors["dora"] |= pair | {f"{name}.dora_scale": lengths.astype(np.float32)}
        sides = {"w1": (4, 4), "w2": (outputs // 4, inputs // 4)}
        tensors["lokr"] |= {
            f"{name}.lokr_{side}": 0.2 * rng.standard_normal(shape, np.float32) for side, shape in sides.items()
        }
        tensors["norm"] |= pair
    norm, width = "lora_" + NORM.replace("/", "_"), np.shape(flatten_params(params)[f"{NORM}/scale"])
    tensors["norm"] |= {f"{norm}.{part}": 0.1 * rng.standard_normal(width, np.float32) for part in ("w_norm", "b_norm")}
    for name, file in tensors.items():
        save_file(file, folder / f"{name}.safetensors", metadata={"modelspec.trigger_phrase": f"sks {name}"})
    return {name: str(folder / f"{name}.safetensors") for name in tensors}


@pytest.fixture(scope="module")
def files(two_level_sd, tmp_path_factory):
    return write_files(two_level_sd.params, tmp_path_factory.mktemp("kinds"), layers(two_level_sd.params))


def call(capsys, *args: str) -> tuple[int, str]:
    code = 0
    try:
        run(lambda: main([*args]))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_merge_folds_them_in_exactly(files, two_level_sd, two_level_folder, tmp_path, capsys):
    out = tmp_path / "merged"
    code, text = call(capsys, files["dora"], "--save", str(out), "--model", str(two_level_folder))
    assert code in (0, None), text
    merged = flatten_params(StableDiffusion.from_pretrained(out).checkpoint.params)
    for _, path, weight in layers(two_level_sd.params):
        # The lengths of all rows are 1.3 times those of the base, up to fp32 rounding.
        got = np.linalg.norm(np.asarray(merged[path]).T, axis=1)
        np.testing.assert_allclose(got, 1.3 * np.linalg.norm(weight, axis=1), rtol=1e-5)
    assert "reduced" not in text


def test_a_merge_with_a_norm_can_be_undone(files, two_level_sd, two_level_folder, tmp_path, capsys):
    out = tmp_path / "merged"
    code, text = call(capsys, files["norm"], "--save", str(out), "--model", str(two_level_folder))
    assert code in (0, None), text
    merged, base = StableDiffusion.from_pretrained(out).checkpoint.params, two_level_sd.checkpoint.params
    adapter = Adapter.load(files["norm"])
    before, after = flatten_params(base), flatten_params(merged)
    for leaf in ("scale", "bias"):
        changed = np.asarray(before[f"{NORM}/{leaf}"]) + adapter.vectors[f"{NORM}/{leaf}"]
        np.testing.assert_array_equal(after[f"{NORM}/{leaf}"], changed)
    back = flatten_params(remove(merged, base, [adapter], adapter.name))
    for path, leaf in before.items():
        np.testing.assert_array_equal(back[path], leaf, err_msg=path)
    code, text = call(
        capsys, "remove", str(out), "norm", "--base", str(two_level_folder), "--out", str(tmp_path / "back")
    )
    assert code in (0, None), text
    stored = flatten_params(StableDiffusion.from_pretrained(tmp_path / "back").checkpoint.params)
    for path, leaf in before.items():
        np.testing.assert_array_equal(stored[path], leaf, err_msg=path)


def test_an_export_is_reduced_and_says_what_it_leaves_out(files, two_level_folder, tmp_path, capsys):
    out = tmp_path / "all.safetensors"
    code, text = call(capsys, "export", *files.values(), "--out", str(out), "--allow-overlap", "--max-rank", "3",
                      "--model", str(two_level_folder), "--family", "sd1")  # fmt: skip
    assert code in (0, None), text
    assert re.search(r"dora: \d+ layers \(DoRA, LoRA\) are reduced to rank 3; \d+\.\d+% of their change is left", text)
    assert re.search(r"lokr: \d+ layers \(LoKr\) are reduced to rank 3", text)
    assert "2 changes of norms and biases are left out" in text
    assert read_export_header(out)["left_out"] == [f"{NORM}/bias", f"{NORM}/scale"]
    assert "2 changes of norms and biases are left out." in (tmp_path / "README.md").read_text()


def test_without_a_model_the_export_asks_for_it(files, tmp_path, capsys):
    code, text = call(capsys, "export", files["dora"], "--out", str(tmp_path / "a.safetensors"))
    assert code == 2
    assert "is a DoRA (weight-decomposed LoRA), and its change depends on the base model" in text


def test_check_takes_all_kinds(files, two_level_folder, tmp_path, capsys):
    picture = str(tmp_path / "c.png")
    _, text = call(
        capsys, "check", *files.values(), "--model", str(two_level_folder), "--out", picture, "--max-rank", "4"
    )
    assert "3 of 3 adapters read" in text
    assert re.search(r"^all layers +dora +lokr +norm", text, re.M)


def test_fit_takes_all_kinds(tmp_path, capsys):
    params = load_checkpoint("pocket").params
    files = write_files(params, tmp_path, layers(params)[:2])
    code, text = call(capsys, "fit", *files.values(), "--out", str(tmp_path / "fitted"), "--max-rank", "4")
    assert code in (0, None), text
    fitted = Adapter.load(tmp_path / "fitted" / "lokr.safetensors")
    assert fitted.info.rank <= 4
    source = json.loads(fitted.info.training)["of"]["source"]
    assert source["kinds"] == ["LoKr"]
    assert source["max_rank"] == 4
    assert 0 < source["relative_error"] < 1
    assert set(Adapter.load(tmp_path / "fitted" / "norm.safetensors").vectors) == {f"{NORM}/scale", f"{NORM}/bias"}


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"kinds": ["LoHa\x1b[2J"], "max_rank": 4, "reduced_layers": 2, "relative_error": 0.5}, "2 layers (LoHa\\x1b"),
        ({"relative_error": "x"}, ""),
        ({"kinds": 5, "relative_error": 0.5}, ""),
        ([], ""),
    ],
)
def test_what_a_file_states_of_its_reduction_is_printed_safely_or_not_at_all(two_level_sd, source, line):
    adapter = random_adapter("ada", two_level_sd.params, slots=(0,), layers="cross_kv")
    adapter = replace(adapter, info=replace(adapter.info, training=json.dumps({"of": {"source": source}})))
    said = reduction(adapter)
    assert line in said
    assert bool(said) == bool(line)
