"""Folders that we write are opened by PyTorch diffusers, and its folders by us."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import blocklora_jax.testing.folders as build
from blocklora_jax.checkpoints.diffusers import load_folder, save_folder
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.prompts.tokenizer import unit_names

TOKENS = {"<p1>": 2, "<d1>": 1}
PROMPTS = ["a photo of <p1> man", "<p1>'s dog, <d1>.", "a dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return build.make_checkpoint(tmp_path_factory.mktemp("source"))


def open_in_torch(folder, **options):
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)


def modules(pipeline):
    return {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}


def text_keys(state):
    # transformers 5 drops the prefix from the module's own names.
    return {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in state.items()}


def assert_same_weights(pipeline, params):
    for part, module in modules(pipeline).items():
        state = module.state_dict()
        state = text_keys(state) if part == "text_encoder" else state
        expected = to_torch(part, params[part])
        assert state.keys() - {"text_model.embeddings.position_ids"} == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(state[key].numpy(), array, err_msg=f"{part} {key}")


def test_torch_opens_our_folder_with_the_same_weights(checkpoint, tmp_path):
    save_folder(tmp_path / "m", checkpoint)
    pipeline = open_in_torch(tmp_path / "m")
    assert_same_weights(pipeline, checkpoint.params)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.scheduler.config.beta_start == checkpoint.scheduler["beta_start"]
    assert pipeline.unet.config.sample_size == 8
    assert pipeline.safety_checker is None
    picture = pipeline("a man", num_inference_steps=1, output_type="np").images
    assert picture.shape == (1, 16, 16, 3)


def test_torch_opens_our_half_precision_folder(checkpoint, tmp_path):
    save_folder(tmp_path / "m", checkpoint, dtype="float16")
    assert_same_weights(open_in_torch(tmp_path / "m", dtype=torch.float32), load_folder(tmp_path / "m").params)


@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "fp16"}, {"max_shard_size": "100KB"}, {"variant": "fp16", "max_shard_size": "100KB"}],
    ids=["plain", "variant", "sharded", "sharded variant"],
)
def test_folders_that_diffusers_saved_load(checkpoint, tmp_path, options):
    save_folder(tmp_path / "ours", checkpoint)
    pipeline = open_in_torch(tmp_path / "ours")
    pipeline.save_pretrained(tmp_path / "theirs", **options)
    assert bool(list((tmp_path / "theirs").glob("*/*.index*.json"))) == ("max_shard_size" in options)
    loaded = load_folder(tmp_path / "theirs", variant=options.get("variant"))
    build.assert_same_params(loaded.params, checkpoint.params)
    ids = checkpoint.make_tokenizer().encode(["a man's dog"])
    np.testing.assert_array_equal(loaded.make_tokenizer().encode(["a man's dog"]), ids)


def test_concept_tokens_get_the_ids_of_textual_inversion(checkpoint, tmp_path):
    save_folder(tmp_path / "m", checkpoint)
    pipeline = open_in_torch(tmp_path / "m")
    generator = np.random.default_rng(0)
    for name, vectors in TOKENS.items():
        embedding = torch.from_numpy(generator.standard_normal((vectors, 24), np.float32))
        pipeline.load_textual_inversion({name: embedding})
    converted = pipeline.maybe_convert_prompt(PROMPTS, pipeline.tokenizer)
    expected = pipeline.tokenizer(converted, padding="max_length", max_length=16).input_ids
    assert checkpoint.make_tokenizer().encode(PROMPTS, TOKENS).tolist() == expected


def test_a_folder_with_concept_tokens_opens_in_torch_with_the_same_ids_and_rows(checkpoint, tmp_path):
    params = {part: dict(tree) for part, tree in checkpoint.params.items()}
    params["text_encoder"] = build.random_params(build.grow_table(checkpoint.configs["text_encoder"], 3), seed=7)
    save_folder(tmp_path / "m", build.replace_params(checkpoint, params), tokens=TOKENS)
    pipeline = open_in_torch(tmp_path / "m")
    assert_same_weights(pipeline, params)
    converted = pipeline.maybe_convert_prompt(PROMPTS, pipeline.tokenizer)
    ids = pipeline.tokenizer(converted, padding="max_length", max_length=16).input_ids
    assert ids == checkpoint.make_tokenizer().encode(PROMPTS, TOKENS).tolist()
    assert ids == load_folder(tmp_path / "m").make_tokenizer().encode(PROMPTS).tolist()
    names = [unit for name, vectors in TOKENS.items() for unit in unit_names(name, vectors)]
    first = checkpoint.configs["text_encoder"].vocab_size
    assert pipeline.tokenizer.convert_tokens_to_ids(names) == [first, first + 1, first + 2]
