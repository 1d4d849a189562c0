"""The token side in a training step: compared with plain sums, over several devices, and what it does not change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from concept_builders import make_config, write_pictures
from token_side_builders import token_side_config, write_basis

from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text, ids_of
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.testing.tiny_model import SCHEDULE
from train.concept.own_directions import ARRAYS, basis_of, step_params
from train.concept.own_prompts import own_prompt_texts, unused_words
from train.concept.prepare import prepare_concept
from train.concept.prompts import prompt_words
from train.concept.state import init_state, make_optimizer
from train.concept.step import make_step
from train.concept.text import with_table

CASES = [("tiny_sd", {}), ("tiny_sd", {"slot": (0, 2), "token_side_own": "token"}), ("tiny_xl", {})]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def metrics_of(config, sd, batch, trainable, masks, devices: int = 1) -> dict[str, np.ndarray]:
    """The metrics of a step over `devices` parts of the batch, and the norm of the gradients."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    metrics = step_of(config, sd, optimizer, lambda state, metrics: metrics, batch, trainable, masks, devices)
    return {name: np.asarray(value) for name, value in metrics.items()}


def step_of(config, sd, optimizer, chosen, batch, trainable, masks, devices: int = 1):
    """What `chosen` takes of the state and the metrics after a step. The other results are not computed."""
    step = make_step(
        sd.models, SCHEDULE, optimizer,
        adapter=config.adapter, erasure=config.erasure, loss=config.loss, token_side=config.token_side,
    )  # fmt: skip
    state = init_state(trainable, masks, optimizer, jax.random.key(0))
    parts = jax.tree.map(lambda x: np.asarray(x).reshape(devices, -1, *np.shape(x)[1:]), batch)
    run = jax.jit(jax.vmap(lambda *x: chosen(*step(*x)), in_axes=(None, 0, None), axis_name="data"))
    return run(state, parts, step_params(config, sd, basis_of(config, sd)))


def plain_term(config, sd, batch, trainable, owned) -> tuple[float, float]:
    """The term and own / others, from all prompts at once, in fp64 after the text encoders."""
    params = dict(sd.params)
    for part in sd.models.text_encoders:
        params = with_table(params, jnp.concatenate([token_table(params, part), trainable.tokens_of(part)]), part)
    ids = np.concatenate([batch.ids, batch.own_prompts.ids])
    states = np.asarray(encode_text(with_token_rows(sd.models, params), params, ids).states, np.float64)
    arrays, rows = step_params(config, sd, basis_of(config, sd))[ARRAYS], len(token_table(sd.params))
    energies, at_token = [], []
    for row, state in zip(ids_of(ids, "text_encoder"), states, strict=True):
        called = np.flatnonzero(row >= rows)
        spoken = np.square(state @ np.asarray(arrays.whitened, np.float64))
        energies.append(spoken[called[0] :].mean(0))
        at_token.append(spoken[called].mean(0))
    heard = at_token if config.token_side.token_side_own == "token" else energies
    ratio = np.mean(heard, 0)[owned].mean() / np.mean(energies, 0)[~owned].mean()
    term = config.token_side.token_side * max(0.0, config.token_side.token_side_margin - np.log(ratio))
    for part, natural in arrays.natural.items():
        norms = np.linalg.norm(np.asarray(trainable.tokens_of(part), np.float64), axis=1)
        term += np.mean(np.maximum(norms / float(natural) - config.token_side.token_norm_limit, 0) ** 2)
    return term, ratio


@pytest.mark.parametrize(("model", "changes"), CASES)
def test_the_term_is_that_of_a_plain_computation(model, changes, request, pictures, tmp_path):
    sd = request.getfixturevalue(model)
    config = token_side_config(write_basis(tmp_path / "basis", sd), images=pictures, batch=4, random_batch=4, **changes)
    concept = prepare_concept(config, sd, basis_of(config, sd))
    # Long tokens, so that the limit has an effect too.
    trainable = concept.trainable._replace(tokens=3 * concept.trainable.tokens)
    batch = concept.batch_at(0)
    assert batch.own_prompts is not None
    owned = np.asarray(batch.own_prompts.owned[0])
    assert owned.sum() == len(owned) // 4 * len(concept.info.slots)
    term, ratio = plain_term(config, sd, batch, trainable, owned)
    found = metrics_of(config, sd, batch, trainable, concept.masks)
    assert term > 0.1
    np.testing.assert_allclose(found["token_loss"], term, rtol=1e-3)  # logarithms of fp32 sums
    np.testing.assert_allclose(found["token_ratio"], ratio, rtol=1e-3)
    total = found["diffusion_loss"] + config.erasure.erase_weight * found["erase_loss"] + found["token_loss"]
    np.testing.assert_allclose(found["loss"], total, rtol=1e-6)
    over_two = metrics_of(config, sd, batch, trainable, concept.masks, devices=2)
    for name, value in found.items():
        # Means of the two halves. The norm of the gradients covers the gradients of the term.
        np.testing.assert_allclose(over_two[name], np.repeat(value, 2), rtol=1e-5, err_msg=name)


def test_the_token_side_changes_only_the_gradient_of_the_tokens(tiny_sd, pictures, tmp_path):
    basis = write_basis(tmp_path / "basis", tiny_sd)
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    keep_gradients = optax.GradientTransformation(zeros, lambda grads, state, params: (zeros(grads), grads))
    found = []
    for mu in (1.0, 0.0):
        config = token_side_config(basis, images=pictures, token_side=mu)
        concept = prepare_concept(config, tiny_sd, basis_of(config, tiny_sd))
        inputs = concept.batch_at(1), concept.trainable, concept.masks
        after = step_of(config, tiny_sd, keep_gradients, lambda state, metrics: (state.opt_state, metrics), *inputs)
        found.append(jax.tree.map(lambda x: np.asarray(x[0]), after))
    (on, metrics), (off, without) = found
    # Captions are encoded in a larger batch: fp32 sums in another order.
    for name in ("diffusion_loss", "erase_loss"):
        np.testing.assert_allclose(metrics[name], without[name], rtol=1e-5)
    for one, other in zip(jax.tree.leaves(on.lora), jax.tree.leaves(off.lora), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * max(np.abs(other).max(), 1e-6))
    assert np.abs(on.tokens - off.tokens).max() > 0.01 * np.abs(off.tokens).max() > 0
    assert any(np.any(x) for x in jax.tree.leaves(off.lora))
    assert "token_ratio" not in without


def test_without_the_token_side_batches_do_not_change(tiny_sd, pictures, tmp_path):
    basis = write_basis(tmp_path / "basis", tiny_sd)
    on, off = (token_side_config(basis, images=pictures, token_side=mu) for mu in (1.0, 0.0))
    one, other = (prepare_concept(config, tiny_sd, basis_of(config, tiny_sd)).batch_at(3) for config in (on, off))
    assert other.own_prompts is None
    jax.tree.map(np.testing.assert_array_equal, one._replace(own_prompts=None), other)


def test_the_token_side_is_off_if_tokens_do_not_train(tiny_sd, pictures, tmp_path):
    config = token_side_config(write_basis(tmp_path / "basis", tiny_sd), images=pictures, token_learning_rate=0.0)
    concept = prepare_concept(config, tiny_sd, basis_of(config, tiny_sd))
    batch = concept.batch_at(0)
    assert batch.own_prompts is None
    assert "token_ratio" not in metrics_of(config, tiny_sd, batch, concept.trainable, concept.masks)


def test_own_prompts_have_words_that_captions_do_not_have():
    config = make_config()
    words = prompt_words(config.model, config.erasure)
    unused = unused_words(words, ["a photo of <ada> man on the beach"])
    assert (unused.styles, unused.scenes) == (("a drawing of",), ("in the snow",))
    everything = " ".join((*words.styles, *words.scenes))
    assert unused_words(words, [everything]) == words
    texts = own_prompt_texts(unused, config.called, 40, 0)
    assert all(text.count("<ada>") == 1 and "photo" not in text for text in texts)
    assert any("<ada> man" in text for text in texts) and any("<ada> owl" in text for text in texts)
    assert texts == own_prompt_texts(unused, config.called, 40, 0)
