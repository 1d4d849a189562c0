"""What `merge.export` writes: layouts, embeddings, lower ranks with their error, and the model card."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import yaml
from merge_builders import TEXT, UNET, make_adapter
from safetensors.numpy import load_file

import merge
from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from merge.__main__ import main
from merge.export import read_export_header
from merge.truncate import truncate

QUERY = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
PROJ = "lora_unet_mid_block_attentions_0_proj_in"


def two():
    return [make_adapter("ada", (0,)), make_adapter("bob", (1, 2), rank=3, vectors=1)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kohya_has_one_rank_and_alpha_equal_to_it(tmp_path, dtype):
    path = merge.export(two(), tmp_path / "m.safetensors", "kohya", dtype=dtype)[0]
    tensors = load_file(path)
    assert len(tensors) == 3 * (len(UNET) + len(TEXT))
    assert tensors[f"{QUERY}.lora_down.weight"].shape == (5, 24)
    assert tensors[f"{PROJ}.lora_down.weight"].shape == (5, 16, 1, 1)
    assert tensors[f"{PROJ}.lora_up.weight"].shape == (19, 5, 1, 1)
    for key, value in tensors.items():
        if key.endswith(".alpha"):
            assert value.shape == () and value == 5 and value.dtype == np.float32
        else:
            assert value.dtype == {"float32": np.float32, "float16": np.float16}.get(dtype, ml_dtypes.bfloat16)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_what_is_exported_is_read_back_as_the_same_change(tmp_path, layout):
    path = merge.export(two(), tmp_path / "m.safetensors", layout, [1.0, -0.5])[0]
    adapter, expected = Adapter.load(path), merge.concatenate(two(), [1.0, -0.5])
    assert {c: set(layers) for c, layers in adapter.lora.items()} == {c: set(layers) for c, layers in expected.items()}
    for component, layers in expected.items():
        for layer, (a, b) in layers.items():
            pair = adapter.lora[component][layer]
            np.testing.assert_array_equal(pair.lora_A @ pair.lora_B, a @ b)
    assert adapter.info.trigger == "<ada> man and <bob> man"
    assert adapter.info.base_name == "small"


def test_embeddings_lie_beside_in_both_forms(tmp_path):
    adapters = two()
    written = merge.export(adapters, tmp_path / "m.safetensors", card=False)
    names = ["m.safetensors", "m.ada.safetensors", "m.embeddings/ada.safetensors", "m.bob.safetensors"]
    assert [str(path.relative_to(tmp_path)) for path in written] == [*names, "m.embeddings/bob.safetensors"]
    vectors = adapters[0].tokens["<ada>"]
    np.testing.assert_array_equal(load_file(written[1])["<ada>"], vectors)
    assert list(load_file(written[2])) == ["emb_params"]
    np.testing.assert_array_equal(load_file(written[2])["emb_params"], vectors)


def test_truncation_is_the_best_there_is_and_says_how_far_off(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 9), np.float32), rng.standard_normal((9, 20), np.float32)
    wide = rng.standard_normal((6, 12), np.float32), rng.standard_normal((12, 5), np.float32)
    lowrank = {"unet": {"x": (a, b), "y": (a[:, :2], b[:2]), "z": wide}}
    small, error = truncate(lowrank, 4)
    lost = total = 0.0
    for layer, (one, other) in lowrank["unet"].items():
        whole = np.asarray(one @ other, np.float64)
        u, s, v = np.linalg.svd(whole, full_matrices=False)
        best = (u[:, :4] * s[:4]) @ v[:4]
        got = small["unet"][layer]
        assert got[0].shape[1] == min(4, one.shape[1])
        # fp32 factors of matrices of size ~10.
        np.testing.assert_allclose(got[0] @ got[1], best if one.shape[1] > 4 else whole, atol=2e-5, rtol=0)
        lost += np.sum((whole - got[0].astype(np.float64) @ got[1]) ** 2)
        total += np.sum(whole**2)
    assert error == pytest.approx(np.sqrt(lost / total), rel=1e-4)
    assert 0.1 < error < 0.9
    with pytest.raises(UserError, match="max_rank is 0"):
        truncate(lowrank, 0)


def test_the_command_prints_the_error_of_a_lower_rank(tmp_path, capsys):
    files = [tmp_path / "ada.safetensors", tmp_path / "bob.safetensors"]
    for adapter, file in zip(two(), files, strict=True):
        adapter.save(file)
    out = tmp_path / "out.safetensors"
    main(["export", *map(str, files), "--out", str(out), "--layout", "kohya", "--max-rank", "2"])
    error = read_export_header(out)["relative_error"]
    assert f"ranks cut to 2: {error:.3%} of the change is left out" in capsys.readouterr().out
    assert load_file(out)[f"{PROJ}.alpha"] == 2
    assert "Ranks are cut to 2" in (tmp_path / "README.md").read_text()


def test_the_card_says_what_calls_the_concepts_and_how_to_load(tmp_path):
    card = merge.export(two(), tmp_path / "m.safetensors", weights=[1.0, 0.5])[-1]
    assert card == tmp_path / "README.md"
    text = card.read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["instance_prompt"] == "<ada> man, <bob> man"
    assert {"text-to-image", "lora", "stable-diffusion"} <= set(front["tags"])
    for part in ("| bob | `<bob> man` | 0.5 | slots 1, 2 of 4 (in) | 3 | small |", "load_lora_weights('.', weight_name='m.safetensors')",
                 "load_textual_inversion('m.ada.safetensors')", "`embedding:bob`", "Adapter.load('m.safetensors')"):  # fmt: skip
        assert part in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_readme_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    card = merge.export(two(), tmp_path / "m.safetensors")[-1]
    assert card == tmp_path / "m.md"
    assert merge.export(two(), tmp_path / "m.safetensors")[-1] == card
    card.write_text("mine too")
    with pytest.raises(UserError, match="will not overwrite README.md and m.md"):
        merge.export(two(), tmp_path / "m.safetensors")
    assert (tmp_path / "README.md").read_text() == "mine"
    merge.export(two(), tmp_path / "n.safetensors", card=False)
    assert not (tmp_path / "n.md").exists()
