"""The files that `merge.export` writes: layouts, embeddings, lower ranks with their error, and the model card."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import yaml
from merge_builders import TEXT, UNET, make_adapter
from safetensors.numpy import load_file, save_file

import merge
from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from merge.cli.main import main
from merge.export.lora_file import read_export_header
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


def test_embeddings_are_saved_beside_the_lora_in_both_forms(tmp_path):
    adapters = two()
    written = merge.export(adapters, tmp_path / "m.safetensors", card=False)
    names = ["m.safetensors", "m.ada.safetensors", "m.embeddings/ada.safetensors", "m.bob.safetensors"]
    assert [str(path.relative_to(tmp_path)) for path in written] == [*names, "m.embeddings/bob.safetensors"]
    vectors = adapters[0].tokens["<ada>"]
    np.testing.assert_array_equal(load_file(written[1])["<ada>"], vectors)
    assert list(load_file(written[2])) == ["emb_params"]
    np.testing.assert_array_equal(load_file(written[2])["emb_params"], vectors)


def test_truncation_is_optimal_and_reports_its_error(tmp_path):
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
        # fp32 factors of matrices with entries of about 10.
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


def test_the_card_names_the_triggers_and_how_to_load_the_file(tmp_path):
    card = merge.export(two(), tmp_path / "m.safetensors", weights=[1.0, 0.5])[-1]
    assert card == tmp_path / "README.md"
    text = card.read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["instance_prompt"] == "<ada> man, <bob> man"
    assert {"text-to-image", "lora", "stable-diffusion"} <= set(front["tags"])
    for part in ("| bob | `<bob> man` | 0.5 | slots 1, 2 of 4 (in) | 3 | small |",
                 "load_lora_weights('.', weight_name='m.safetensors')",
                 "load_textual_inversion('m.ada.safetensors')", "`embedding:bob`",
                 "Adapter.load('m.safetensors')"):  # fmt: skip
        assert part in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_readme_of_something_else_is_not_replaced(tmp_path):
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


TO_Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
TE = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def external(folder, tensors, **metadata):
    """A LoRA of another program; `tensors`: {layer: (inputs, outputs, *window)}."""
    made = {}
    for name, (inputs, outputs, *window) in tensors.items():
        down, up = ("lora_down", "lora_up") if name.startswith("lora_") else ("lora_A", "lora_B")
        made[f"{name}.{down}.weight"] = np.ones((2, inputs, *window), np.float32)
        made[f"{name}.{up}.weight"] = np.ones((outputs, 2, *window), np.float32)
    save_file(made, folder / "style.safetensors", metadata or None)
    return Adapter.load(folder / "style.safetensors")


PEFT_Q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
PEFT_TE = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "kinds"),
    [
        ({PEFT_Q: (640, 640)}, "sd1 or sd2 or sdxl"),
        ({PEFT_TE: (768, 768)}, "sd1 or sdxl"),
        ({PEFT_Q: (640, 640), PEFT_TE: (768, 768)}, "sd1 or sdxl"),
    ],
)
def test_a_lora_of_unknown_family_is_not_exported_as_one(tmp_path, tensors, kinds):
    adapter = external(tmp_path, tensors)
    assert adapter.info.base_family == ""
    with pytest.raises(UserError, match=f"whether they are for {kinds}, .*--family sd1") as error:
        merge.export(adapter, tmp_path / "m.safetensors", "kohya")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m.safetensors").exists()
    for family in kinds.split(" or "):
        path = merge.export(adapter, tmp_path / f"{family}.safetensors", "kohya", family=family, card=False)[0]
        assert read_export_header(path)["base_family"] == family
        assert any("lora_te1_" in key or "input_blocks" in key for key in load_file(path)) == (family == "sdxl")
    # Names and shapes are the same for all families, so the family need not be known.
    written = merge.export(adapter, tmp_path / "m.safetensors", "diffusers")
    assert set(load_file(written[0])) == {f"{name}.lora_{x}.weight" for name in tensors for x in "AB"}
    assert "pipe = DiffusionPipeline.from_pretrained" in written[-1].read_text()


def test_projections_of_unknown_family_are_not_exported(tmp_path):
    adapter = external(tmp_path, {"unet.mid_block.attentions.0.proj_in": (1280, 1280)})
    with pytest.raises(UserError, match="do not say whether"):
        merge.export(adapter, tmp_path / "m.safetensors")
    path = merge.export(adapter, tmp_path / "m.safetensors", family="sd2")[0]
    assert {x.ndim for x in load_file(path).values()} == {2}


@pytest.mark.parametrize(
    ("tensors", "metadata", "family"),
    [
        ({"lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768)}, {}, "sdxl"),
        ({TO_Q: (640, 640)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({TE: (1024, 1024)}, {}, "sd2"),
        ({TO_Q: (640, 640), TO_Q.replace("attn1_to_q", "attn2_to_k"): (2048, 640)}, {}, "sdxl"),
    ],
)
def test_the_family_that_a_lora_states_is_kept(tmp_path, tensors, metadata, family):
    adapter = external(tmp_path, tensors, **metadata)
    path = merge.export(adapter, tmp_path / "m.safetensors", "kohya")[0]
    assert read_export_header(path)["base_family"] == family
    assert Adapter.load(path).info.base_family == family
    assert any("lora_te1_" in key or "input_blocks" in key for key in load_file(path)) == (family == "sdxl")


def test_an_impossible_family_is_refused(tmp_path):
    adapter = external(tmp_path, {TO_Q.replace("attn1_to_q", "attn2_to_k"): (2048, 640)})
    with pytest.raises(UserError, match="family is 'sd1' .* only sdxl has layers"):
        merge.export(adapter, tmp_path / "m.safetensors", family="sd1")
    with pytest.raises(UserError, match="family is 'sdxl' .* but 'ada' is for sd1"):
        merge.export(two(), tmp_path / "m.safetensors", family="sdxl")
    with pytest.raises(UserError, match="unknown family 'sd3'"):
        merge.export(two(), tmp_path / "m.safetensors", family="sd3")
    other = external(tmp_path, {TO_Q.replace("attn1_to_q", "attn2_to_v"): (768, 640)})
    with pytest.raises(UserError, match="different families of models"):
        merge.export([adapter, other], tmp_path / "m.safetensors", allow_overlap=True)


def test_layers_that_the_stated_family_does_not_have_are_refused(tmp_path):
    adapter = make_adapter("ada", (0,))
    wrong = dataclasses.replace(adapter, lora=adapter.lora | {"text_encoder_2": adapter.lora["text_encoder"]})
    assert wrong.info.base_family == "sd1"
    with pytest.raises(UserError, match=r"text_encoder_2, .* Stable Diffusion 1.x \(sd1\) does not have: .*\(sdxl\)"):
        merge.export(wrong, tmp_path / "m.safetensors", "kohya")
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_the_family(tmp_path):
    external(tmp_path, {PEFT_TE: (768, 768)})
    out = tmp_path / "out.safetensors"
    main(["export", str(tmp_path / "style.safetensors"), "--out", str(out), "--layout", "kohya", "--family", "sdxl"])
    assert all(key.startswith("lora_te1_") for key in load_file(out))


def test_markup_in_a_trigger_is_escaped_in_the_card(tmp_path):
    adapter = make_adapter("ada", (0,))
    evil = '<ada> ```" <script>alert(1)</script> | # x'
    merge.export(
        dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, trigger=evil)), tmp_path / "a.safetensors"
    )
    card = (tmp_path / "README.md").read_text()
    lines = card.splitlines()
    assert "````python" in lines
    row = next(line for line in lines if line.startswith("| ada |"))
    assert row.count("````") == 2
    assert row.replace("\\|", "").count("|") == 7
    assert not [line for line in lines if line.startswith("# x")]
