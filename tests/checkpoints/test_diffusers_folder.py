import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import blocklora_jax.testing.folders as build
from blocklora_jax.checkpoints.diffusers import Checkpoint, load_folder, save_folder
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.errors import UserError
from blocklora_jax.testing.tiny_model import save_tiny, tiny_configs

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    return build.make_checkpoint(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    save_folder(path, checkpoint)
    (path / "blocklora.json").unlink()  # as if another program had written it
    return path


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def ours(checkpoint, tmp_path):
    """A folder that we saved, manifest included."""
    save_folder(tmp_path / "ours", checkpoint)
    return tmp_path / "ours"


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_later_models_save_and_load_bit_for_bit(family, tmp_path):
    first = load_folder(save_tiny(tmp_path / "a", family))
    save_folder(tmp_path / "b", first)
    again = load_folder(tmp_path / "b")
    build.assert_same_params(again.params, first.params)
    assert again.configs == first.configs == tiny_configs(first.configs["text_encoder"].vocab_size, family=family)
    assert (again.family, again.force_zeros_for_empty_prompt) == (family, True)
    prompts = ["a photo of a man!"]
    np.testing.assert_array_equal(again.make_tokenizer().encode(prompts), first.make_tokenizer().encode(prompts))
    for name in ("model_index.json", "unet/config.json", "tokenizer/vocab.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_second_text_encoder_gets_its_end_token_from_its_tokenizer(tmp_path):
    folder = save_tiny(tmp_path / "m", "sdxl")
    config = load_folder(folder).configs["text_encoder_2"]
    build.edit_json(folder / "text_encoder_2/config.json", eos_token_id=2)
    assert load_folder(folder).configs["text_encoder_2"] == config
    vocabulary = json.loads((folder / "tokenizer_2/vocab.json").read_text())
    assert config.eos_token_id == vocabulary["<|endoftext|>"] != 2


def test_parts_of_sdxl_that_do_not_fit_are_named(tmp_path):
    folder = save_tiny(tmp_path / "m", "sdxl")
    build.edit_json(folder / "text_encoder_2/config.json", projection_dim=8)
    with pytest.raises(UserError, match="the unet's pooled text is 20, but what the text encoders give is 8"):
        load_folder(folder)
    (folder / "text_encoder_2/model.safetensors").unlink()
    build.edit_json(folder / "text_encoder_2/config.json", projection_dim=20)
    with pytest.raises(UserError, match="no text_encoder_2 weights"):
        load_folder(folder)


def test_a_saved_model_loads_bit_for_bit(checkpoint, saved):
    loaded = load_folder(saved)
    build.assert_same_params(loaded.params, checkpoint.params)
    assert loaded.configs == checkpoint.configs
    assert loaded.scheduler == checkpoint.scheduler
    ids = loaded.make_tokenizer().encode(["a photo of a man"])
    np.testing.assert_array_equal(ids, checkpoint.make_tokenizer().encode(["a photo of a man"]))
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(loaded.params))


def test_jax_arrays_save_like_numpy_arrays(checkpoint, saved, tmp_path):
    save_folder(tmp_path / "m", dataclasses.replace(checkpoint, params=jax.tree.map(jnp.asarray, checkpoint.params)))
    for name in (UNET, VAE, TEXT):
        assert (tmp_path / "m" / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_load_as_rounded_fp32(checkpoint, tmp_path, dtype):
    save_folder(tmp_path / "m", checkpoint, dtype=dtype)
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf.astype(jnp.dtype(dtype)), np.float32), checkpoint.params)
    build.assert_same_params(load_folder(tmp_path / "m").params, rounded)


def test_parameters_can_be_loaded_in_half_precision(checkpoint, saved):
    params = load_folder(saved, dtype="bfloat16").params
    build.assert_same_params(params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), checkpoint.params))


def test_fp16_and_fp32_files_have_the_same_digest_and_other_weights_another(checkpoint, saved, tmp_path):
    save_folder(tmp_path / "half", checkpoint, dtype="float16")
    digest = params_digest(load_folder(saved).params)
    assert params_digest(load_folder(tmp_path / "half").params) == digest
    assert params_digest({**checkpoint.params, "unet": build.random_params(checkpoint.configs["unet"], 9)}) != digest


def test_sharded_files_load(checkpoint, folder):
    for name in (UNET, TEXT):
        build.shard(folder / name)
    build.assert_same_params(load_folder(folder).params, checkpoint.params)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_variant_loads_when_it_is_asked_for(checkpoint, folder, tmp_path, sharded):
    save_folder(tmp_path / "half", checkpoint, dtype="float16")
    for name in (UNET, VAE, TEXT):
        (folder / name).unlink()
        target = folder / name.replace(".safetensors", ".fp16.safetensors")
        shutil.copy(tmp_path / "half" / name, target)
        if sharded:
            build.shard(target)
    with pytest.raises(UserError, match=r"variant='bf16'; it has them with variant='fp16'"):
        load_folder(folder, variant="bf16")
    params = load_folder(folder, variant="fp16").params
    build.assert_same_params(params, jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), checkpoint.params))
    # Without asking for it too, because there is no other.
    build.assert_same_params(load_folder(folder).params, params)
    for name in (UNET, VAE, TEXT):
        other = folder / name.replace(".safetensors", ".bf16.safetensors")
        shutil.copy(tmp_path / "half" / name, other)
    with pytest.raises(
        UserError, match=r"no unet weights without a variant; .* with variant='bf16', with variant='fp16': choose"
    ):
        load_folder(folder)


def test_the_error_for_a_missing_variant_names_those_that_exist(folder):
    with pytest.raises(UserError, match=r"no unet weights with variant='fp16'; it has them without a variant"):
        load_folder(folder, variant="fp16")


@pytest.mark.parametrize("part", [UNET, VAE, TEXT])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_each_part_is_read_from_the_variant_that_exists(checkpoint, folder, tmp_path, part, variant):
    save_folder(tmp_path / "half", checkpoint, dtype="float16")
    (folder / part).unlink()
    shutil.copy(tmp_path / "half" / part, folder / part.replace(".safetensors", ".fp16.safetensors"))
    half, whole = load_folder(tmp_path / "half").params, checkpoint.params
    name = part.partition("/")[0]
    build.assert_same_params(load_folder(folder, variant=variant).params, {**whole, name: half[name]})


def test_the_file_without_a_variant_is_read_unless_a_variant_is_asked_for(checkpoint, folder, tmp_path):
    save_folder(tmp_path / "half", checkpoint, dtype="float16")
    shutil.copy(tmp_path / "half" / UNET, folder / UNET.replace(".safetensors", ".fp16.safetensors"))
    half = load_folder(tmp_path / "half").params
    build.assert_same_params(load_folder(folder).params, checkpoint.params)
    build.assert_same_params(load_folder(folder, variant="fp16").params, {**checkpoint.params, "unet": half["unet"]})


def test_text_encoder_keys_without_prefix_and_with_buffers_load(checkpoint, folder):
    def strip(tensors):
        plain = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
        return plain | {"embeddings.position_ids": np.arange(16)[None]}

    build.rewrite(folder / TEXT, strip)
    build.assert_same_params(load_folder(folder).params, checkpoint.params)


def test_the_old_names_of_the_autoencoders_attention_load(checkpoint, folder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        renamed = {}
        for key, tensor in tensors.items():
            for new_name, old_name in old.items():
                key = key.replace(f".{new_name}.", f".{old_name}.")
            renamed[key] = tensor
        assert renamed.keys() != tensors.keys()
        return renamed

    build.rewrite(folder / VAE, rename)
    build.assert_same_params(load_folder(folder).params, checkpoint.params)


def test_saved_text_encoder_keys_have_the_prefix(saved):
    assert all(key.startswith("text_model.") for key in load_file(saved / TEXT))


def test_all_missing_unexpected_and_misshapen_tensors_are_in_one_message(folder):
    def spoil_unet(tensors):
        tensors["conv_in.weight"] = np.zeros((32, 9, 3, 3), np.float32)
        tensors["extra.weight"] = tensors.pop("conv_out.weight")
        return tensors | {"logit_scale": np.zeros((), np.float32)}

    build.rewrite(folder / UNET, spoil_unet)
    build.rewrite(folder / TEXT, lambda t: {key: value for key, value in t.items() if "layers.1" not in key})
    with pytest.raises(UserError) as caught:
        load_folder(folder)
    message = str(caught.value)
    assert "1 missing (conv_out.weight)" in message
    assert "2 not expected (logit_scale, extra.weight)" in message
    assert "conv_in.weight is [32, 9, 3, 3] instead of [32, 4, 3, 3]" in message
    assert "text_encoder (model.safetensors): 16 missing (text_model.encoder.layers.1." in message
    assert "and 10 more" in message
    assert "fetch them again" in message
    assert "\n" not in message


def test_one_parameter_under_two_names_is_refused(folder):
    build.rewrite(folder / TEXT, lambda t: t | {"final_layer_norm.bias": t["text_model.final_layer_norm.bias"]})
    with pytest.raises(UserError, match="are the same parameter"):
        load_folder(folder)


def test_a_model_with_concept_tokens_saves_and_loads(checkpoint, tmp_path):
    tokens = {"<p1>": 2, "<d1>": 1}
    table = checkpoint.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    grown = jax.tree.map(lambda leaf: leaf, checkpoint.params)
    longer = np.concatenate([table, np.arange(72, dtype=np.float32).reshape(3, 24)])
    grown["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"] = longer
    save_folder(tmp_path / "m", dataclasses.replace(checkpoint, params=grown), tokens=tokens)
    loaded = load_folder(tmp_path / "m")
    build.assert_same_params(loaded.params, grown)
    prompt = ["a <d1> of <p1> man"]
    ids = checkpoint.make_tokenizer().encode(prompt, tokens)
    np.testing.assert_array_equal(loaded.make_tokenizer().encode(prompt), ids)
    with pytest.raises(UserError, match=r"token_embedding\.weight is \[526, 24\] instead of \[523, 24\].*tokens="):
        save_folder(tmp_path / "n", dataclasses.replace(checkpoint, params=grown))


def test_saving_replaces_an_earlier_model_of_ours_and_nothing_else(checkpoint, ours, tmp_path):
    (ours / "notes.txt").write_text("mine")
    (ours / "safety_checker").mkdir()
    (ours / "safety_checker" / "config.json").write_text("{}")
    (ours / "scheduler" / "scheduler_config.json").write_text("{}")
    save_folder(ours, checkpoint)
    assert (ours / "notes.txt").read_text() == "mine"
    assert (ours / "safety_checker" / "config.json").read_text() == "{}"
    build.assert_same_params(load_folder(ours).params, checkpoint.params)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("")
    with pytest.raises(UserError, match="will not overwrite"):
        save_folder(tmp_path / "thesis", checkpoint)
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "thesis"}


def test_a_part_that_the_new_model_lacks_is_removed_with_the_earlier_model(checkpoint, ours):
    manifest = json.loads((ours / "blocklora.json").read_text())
    assert set(manifest["files"]) == {p.relative_to(ours).as_posix() for p in ours.glob("*/*")} | {"model_index.json"}
    save_folder(ours.parent / "xl", load_folder(save_tiny(ours.parent / "tiny_xl", "sdxl")))
    save_folder(ours.parent / "xl", checkpoint)
    assert not (ours.parent / "xl" / "text_encoder_2").exists()


def test_another_programs_model_is_replaced_only_on_request(checkpoint, folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="will not overwrite .*--overwrite"):
        save_folder(folder, checkpoint)
    save_folder(folder, checkpoint, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    build.assert_same_params(load_folder(folder).params, checkpoint.params)


def test_a_model_is_never_saved_over_the_files_it_was_read_from(ours):
    loaded = load_folder(ours)
    for path in (ours, ours / "merged", ours.parent):
        with pytest.raises(UserError, match="(is an input|lies inside the input|contains the input)"):
            save_folder(path, loaded, overwrite=True)
    build.assert_same_params(load_folder(ours).params, loaded.params)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"])
def test_a_file_that_was_changed_since_we_wrote_it_is_noticed(ours, name):
    text = (ours / name).read_text()
    (ours / name).write_text(text + " ")
    with pytest.raises(UserError, match=f"{name} differ from what was written.*--no-verify"):
        load_folder(ours)
    load_folder(ours, verify=False)


def test_a_flipped_bit_in_the_weights_is_noticed(ours):
    data = bytearray((ours / UNET).read_bytes())
    data[-5] ^= 1
    (ours / UNET).write_bytes(data)
    with pytest.raises(UserError, match="diffusion_pytorch_model.safetensors is damaged.*--no-verify"):
        load_folder(ours)
    load_folder(ours, verify=False)


def test_weights_of_another_merge_are_noticed(checkpoint, ours):
    other = jax.tree.map(lambda leaf: leaf * 2, checkpoint.params)
    save_folder(ours.parent / "other", dataclasses.replace(checkpoint, params=other))
    shutil.copy(ours.parent / "other" / UNET, ours / UNET)
    with pytest.raises(UserError, match="diffusion_pytorch_model.safetensors differ from what was written"):
        load_folder(ours)


def test_a_failed_save_leaves_the_earlier_model(checkpoint, ours):
    huge = jax.tree.map(lambda leaf: leaf * 1e7, checkpoint.params)
    with pytest.raises(UserError, match="beyond the range of float16"):
        save_folder(ours, dataclasses.replace(checkpoint, params=huge), dtype="float16")
    build.assert_same_params(load_folder(ours).params, checkpoint.params)
    assert [path.name for path in ours.parent.iterdir()] == ["ours"]


def test_a_model_that_cannot_be_saved_is_an_error_that_names_the_reason(checkpoint, tmp_path):
    with pytest.raises(UserError, match="choose float32, float16, bfloat16"):
        save_folder(tmp_path / "m", checkpoint, dtype="int8")
    with pytest.raises(UserError, match="_class_name"):
        save_folder(tmp_path / "m", dataclasses.replace(checkpoint, scheduler={}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file of that name"):
        save_folder(tmp_path / "file", checkpoint)


SUPPORTED = "supported are Stable Diffusion 1.x and 2.x .* and SDXL base"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, f"text_encoder_2 is None .*{SUPPORTED}"),
        (
            {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True},
            f"is SDXL's refiner .*{SUPPORTED}",
        ),
        ({"_class_name": "StableDiffusionInpaintPipeline"}, f"is a StableDiffusionInpaintPipeline; {SUPPORTED}"),
        ({"_class_name": "StableDiffusion3Pipeline"}, f"is a StableDiffusion3Pipeline; {SUPPORTED}"),
        ({"_class_name": "FluxPipeline"}, f"is a FluxPipeline; {SUPPORTED}"),
        ({"_class_name": "StableDiffusionControlNetPipeline"}, f"is a StableDiffusionControlNet.*{SUPPORTED}"),
        ({"unet": ["diffusers", "SD3Transformer2DModel"]}, "unet is SD3Transformer2DModel"),
        ({"vae": None}, "vae is None"),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet is not a part of"),
        ({"text_encoder_2": ["transformers", "T5EncoderModel"]}, "text_encoder_2 is not a part of"),
    ],
)
def test_other_pipelines_are_refused_by_name(folder, fields, message):
    build.edit_json(folder / "model_index.json", **fields)
    with pytest.raises(UserError, match=message):
        load_folder(folder)


def test_an_inpainting_unet_is_refused(folder):
    build.edit_json(folder / "unet/config.json", in_channels=9)
    with pytest.raises(UserError, match="unet in_channels is 9, but vae latent_channels is 4"):
        load_folder(folder)


def test_an_unsupported_config_value_is_named_with_its_file(folder):
    build.edit_json(folder / "unet/config.json", use_quantum_attention=True)
    with pytest.raises(UserError, match=r"unet/config\.json.*use_quantum_attention=True"):
        load_folder(folder)


def test_pickled_weights_are_never_opened(folder):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"only as unet/diffusion_pytorch_model\.bin; only safetensors .*convert it"):
        load_folder(folder)


def test_missing_files_are_named(folder):
    (folder / TEXT).unlink()
    with pytest.raises(UserError, match=r"no text_encoder weights: expected text_encoder/model\.safetensors"):
        load_folder(folder)
    (folder / "scheduler/scheduler_config.json").unlink()
    with pytest.raises(UserError, match="it has no scheduler/scheduler_config"):
        load_folder(folder)
    (folder / "model_index.json").write_text("[1]")
    with pytest.raises(UserError, match="does not hold a JSON object"):
        load_folder(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"is not a Diffusers folder: it has no model_index\.json"):
        load_folder(folder)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:4], lambda data: b"<html>not found</html>"]
)
def test_a_damaged_file_is_named(folder, damage):
    (folder / VAE).write_bytes(damage((folder / VAE).read_bytes()))
    with pytest.raises(
        UserError,
        match=r"vae/diffusion_pytorch_model\.safetensors is "
        r"(not a complete safetensors file.*download it again|a web page: the download)",
    ):
        load_folder(folder)


def test_quantised_weights_are_refused(folder):
    build.rewrite(folder / UNET, lambda t: t | {"conv_in.weight": t["conv_in.weight"].astype(np.int8)})
    with pytest.raises(UserError, match=r"conv_in\.weight is I8"):
        load_folder(folder)


def test_bad_shards_are_named(folder):
    build.shard(folder / UNET)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    good = index.read_text()
    (folder / "unet/diffusion_pytorch_model-00002-of-00002.safetensors").rename(folder / "unet/other.safetensors")
    with pytest.raises(UserError, match=r"no weight file .*00002-of-00002"):
        load_folder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="not a safetensors file beside it"):
        load_folder(folder)
    index.write_text("{")
    with pytest.raises(UserError, match="cannot read the list"):
        load_folder(folder)
    index.write_text(good.replace("-00002-of-00002", "-00001-of-00002"))
    with pytest.raises(UserError, match="missing"):
        load_folder(folder)


def test_a_tensor_in_two_shards_is_refused(folder):
    build.shard(folder / UNET)
    first, second = (folder / f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(UserError, match="is in an earlier file too"):
        load_folder(folder)
