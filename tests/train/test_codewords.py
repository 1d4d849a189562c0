"""Codewords: they are made on a tiny model, saved in the basis file, and drawn as negative tokens."""

from __future__ import annotations

import numpy as np
import pytest
from token_side_builders import random_codewords, write_basis

from blocklora_jax.adapters.basis import TextBasis, basis_digest, codewords_digest, load_text_basis, save_basis
from blocklora_jax.adapters.codewords import draw_codewords, jitter_deviation
from blocklora_jax.adapters.token_side import whitened_directions
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.pocket.references import BASIS
from blocklora_jax.prompts.random_prompts import PromptWords
from train.basis_options import BasisOptions
from train.codewords import (
    CodewordSettings,
    codeword_prompts,
    first_tokens,
    optimise_codewords,
    slot_masks,
    speech_ratios,
    split_words,
)
from train.text_basis import energies_along, principal_directions, text_moments, write_text_basis

WORDS = PromptWords(
    styles=("a photo of", "a drawing of"), subjects=("dog", "owl"), scenes=("in the snow", "on the beach")
)
BLOCKS = 4


@pytest.mark.parametrize("model", ["tiny_sd", "tiny_xl"])
def test_features_of_codewords_lie_in_their_slots_directions_on_held_out_prompts(model, request):
    sd = request.getfixturevalue(model)
    moments = text_moments(sd, WORDS, 20)
    basis = principal_directions(moments)[1]
    whitened = whitened_directions(basis, energies_along(basis, moments))
    settings, (used, held_out) = CodewordSettings(steps=40, prompts=2, chunk=3), split_words(WORDS)
    found = optimise_codewords(sd, whitened, BLOCKS, codeword_prompts(used, 8, 0), settings)
    assert {part: tokens.shape[:2] for part, tokens in found.items()} == dict.fromkeys(
        sd.models.text_encoders, (BLOCKS, settings.vectors)
    )
    prompts = codeword_prompts(held_out, 8, 1)
    after = speech_ratios(sd, found, whitened, prompts)
    before = speech_ratios(sd, first_tokens(sd, np.arange(BLOCKS), settings), whitened, prompts)
    assert (after > 1.5 * before).all()


def test_slots_take_all_directions_in_turn():
    masks = slot_masks(BLOCKS, 10)
    assert masks.sum(0).tolist() == [1] * 10
    assert np.flatnonzero(masks[1]).tolist() == [1, 5, 9]


def test_a_file_keeps_energies_and_codewords(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "basis.safetensors"
    directions = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    words = {"text_encoder": rng.standard_normal((4, 2, 8)).astype(np.float16).astype(np.float32)}
    save_basis(path, TextBasis(directions, np.arange(8.0, 0, -1), {4: words}), "base")
    found = load_text_basis(path, "base")
    np.testing.assert_array_equal(found.directions, directions)
    np.testing.assert_array_equal(found.energies, np.arange(8.0, 0, -1))
    np.testing.assert_array_equal(found.codewords_for(4)["text_encoder"], words["text_encoder"])
    assert codewords_digest(found.codewords[4]) == codewords_digest(words)
    with pytest.raises(UserError, match="no codewords for 8 blocks .*for: 4.*--extend FILE --blocks 8"):
        found.codewords_for(8)
    save_basis(path, TextBasis(directions, -np.ones(8)), "base")
    with pytest.raises(UserError, match="the energies in .* do not fit its directions"):
        load_text_basis(path, "base")
    save_basis(path, TextBasis(directions, None, {5: words}), "base")
    with pytest.raises(UserError, match=r"codewords/5/text_encoder in .* has a wrong shape \(\[4, 2, 8\]\)"):
        load_text_basis(path, "base")


def test_the_packaged_codewords_work_on_held_out_words():
    sd = StableDiffusion.from_pretrained("pocket")
    found = load_text_basis(BASIS, params_digest(sd.params))
    # Adapters identify the directions by this digest. Adding codewords to the file does not change it.
    assert basis_digest(found.directions) == "697c69d8371c798c"
    assert set(found.codewords) == {16, 32, 64, 128}
    assert found.energies is not None
    prompts = codeword_prompts(split_words(words_for("pocket"))[1], 8, 1)
    ratios = speech_ratios(
        sd, dict(found.codewords_for(16)), whitened_directions(found.directions, found.energies), prompts
    )
    assert ratios.min() > 15


def test_negative_tokens_are_other_slots_codewords_moved_by_the_jitter():
    words = {"text_encoder": np.repeat(np.arange(6.0, dtype=np.float32), 2 * 50).reshape(6, 2, 50)}
    exact = draw_codewords(words, (1, 4), 200, 3, {"text_encoder": 0.0}, 7)["text_encoder"]
    assert exact.shape == (200, 3, 50)
    assert set(np.unique(exact)) == {0, 2, 3, 5}
    moved = draw_codewords(words, (1, 4), 200, 3, {"text_encoder": 0.3}, 7)["text_encoder"]
    # The deviation is a uniform share of .3, so the mean square is .09 / 3. With 200 rows it is known to about 7 %.
    assert np.square(moved - exact).mean() == pytest.approx(0.03, rel=0.3)
    np.testing.assert_array_equal(
        moved, draw_codewords(words, (1, 4), 200, 3, {"text_encoder": 0.3}, 7)["text_encoder"]
    )
    with pytest.raises(UserError, match="the concept owns all 6 slots"):
        draw_codewords(words, tuple(range(6)), 2, 2, {"text_encoder": 0.0}, 0)


def test_the_jitter_is_what_training_adds_to_where_tokens_start():
    assert jitter_deviation(0.1, 1.0, 2.0) == pytest.approx(0.1 * 3**0.5)
    assert jitter_deviation(0.1, 1.0, 1.0) == 0


def test_extending_keeps_the_codewords_that_are_there_and_adds_the_others(tiny_folder, tmp_path, capsys, monkeypatch):
    sd, made = StableDiffusion.from_pretrained(tiny_folder), []

    def make(sd, basis, energies, words, count, settings):
        made.append(count)
        return random_codewords(sd, count, seed=7)

    monkeypatch.setattr("train.text_basis._make_codewords", make)
    path, out = write_basis(tmp_path / "basis", sd), tmp_path / "more"
    options = {"model": str(tiny_folder), "extend": path, "out": out, "blocks": (BLOCKS, 6)}
    with pytest.raises(UserError, match=r"keeps the codewords for 4 blocks of \S+basis.*: leave out --blocks 4"):
        write_text_basis(BasisOptions(**options, codewords=CodewordSettings(steps=9)))
    assert not out.exists()
    write_text_basis(BasisOptions(**options))
    before, after = (load_text_basis(file, sd.digest) for file in (path, out))
    assert made == [6] and set(after.codewords) == {BLOCKS, 6}
    assert codewords_digest(after.codewords[BLOCKS]) == codewords_digest(before.codewords[BLOCKS])
    assert f"4 codewords, {codewords_digest(before.codewords[BLOCKS])}: kept" in capsys.readouterr().out
