"""One training step compared with a plain computation of the same losses with fused weights."""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from concept_builders import ROWS, batches_of, make_batch, make_config, make_trainable, write_pictures

from blocklora_jax.prompts.shares import RandomPromptShares
from blocklora_jax.testing.tiny_model import SCHEDULE, tiny_models, tiny_params
from train.concept.batch import Batch
from train.concept.data import load_concept_data
from train.concept.prepare import cache_states
from train.concept.state import TrainState, init_state, make_optimizer, stack
from train.concept.step import make_step
from train.engine.parallel import map_step, place_state

PARAMS = tiny_params(levels=1)
MODELS = tiny_models(levels=1)
LAYERS = "attention+text_encoder"
SEED = 11


def start(config):
    """Trainable parameters, masks, the optimizer, and a state before a step."""
    trainable, masks = make_trainable(config)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    state = init_state(trainable, masks, optimizer, jax.random.key(SEED))
    return trainable, masks, optimizer, state._replace(step=jnp.int32(7))


def losses(step, state: TrainState, batch: Batch, params) -> dict[str, float]:
    """The losses of a step. XLA drops the backward pass, because its results are not used."""

    def only_losses(state, batch, params):
        metrics = step(state, batch, params)[1]
        return {name: metrics[name] for name in ("loss", "diffusion_loss", "erase_loss")}

    mapped = jax.vmap(only_losses, in_axes=(None, 0, None), axis_name="data")
    found = jax.jit(mapped)(state, jax.tree.map(lambda x: x[None], batch), params)
    return {name: float(value[0]) for name, value in found.items()}


def fuse(params: dict, layers: dict, scale: float) -> dict:
    def leaf(path, value):
        pair = layers.get("/".join(key.key for key in path[:-1])) if path[-1].key == "kernel" else None
        return value if pair is None else value + (scale * (pair.lora_A @ pair.lora_B)).reshape(value.shape)

    return jax.tree_util.tree_map_with_path(leaf, params)


def run_and_record(model, params, layers, *inputs):
    """The output, and the inputs of every adapted layer."""
    heard = {}

    def record(next_fun, args, kwargs, context):
        path = "/".join(context.module.path)
        if path in layers and context.method_name == "__call__":
            heard[path] = args[0]
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        return model.apply({"params": params}, *inputs), heard


unet_and_inputs = jax.jit(lambda params, layers, *inputs: run_and_record(MODELS.unet, params, layers, *inputs))


def draw(key, row, offset):
    """Timestep and noise of one row."""
    t_key, noise_key, offset_key = jax.random.split(jax.random.fold_in(key, row), 3)
    noise = jax.random.normal(noise_key, (8, 8, 4)) + offset * jax.random.normal(offset_key, (1, 1, 4))
    return int(jax.random.randint(t_key, (), 0, 1000)), np.asarray(noise)


def noised_rows(batch: Batch, key, offset, alphas):
    """Latents, noises and timesteps of all rows, one at a time."""
    rows = []
    for row, x0 in zip(batch.row, batch.latents, strict=True):
        t, noise = draw(key, row, offset)
        rows.append((np.sqrt(alphas[t]) * x0 + np.sqrt(1 - alphas[t]) * noise, noise, t))
    for row, x0, pure in zip(batch.random_row, batch.random_latents, batch.random_is_noise, strict=True):
        t, noise = draw(jax.random.fold_in(key, 1), row, 0.0)
        rows.append((noise if pure else np.sqrt(alphas[t]) * x0 + np.sqrt(1 - alphas[t]) * noise, noise, t))
    return (np.stack(part).astype(np.float32) for part in zip(*rows, strict=True))


def text_rows(params, trainable, scale, batch: Batch):
    """The states of every row and the inputs of its adapted layers. Each row has its own token table."""
    layers = trainable.lora.get("text_encoder", {})
    table = params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    states, inputs = [], []
    for i, ids in enumerate([*batch.ids, *batch.random_ids]):
        extra = [trainable.tokens]
        if i >= len(batch.ids):
            extra.append(batch.random_tokens["text_encoder"][i - len(batch.ids)])
        longer = jnp.concatenate([table, *extra])
        text = fuse(params["text_encoder"], layers, scale)
        text["text_model"]["embeddings"]["token_embedding"]["embedding"] = longer
        model = MODELS.text_encoder.clone(config=replace(MODELS.text_encoder.config, vocab_size=len(longer)))
        output, heard = run_and_record(model, text, layers, ids[None])
        states.append(output[0])
        inputs.append(heard)
    return jnp.stack(states), inputs


def energy(params: dict, path: str, pair, scale: float, x) -> float:
    """|dW x|^2 / |W x|^2 of one row."""
    for name in path.split("/"):
        params = params[name]
    kernel = np.asarray(params["kernel"], np.float64).reshape(len(pair.lora_A), -1)
    change = scale * np.asarray(pair.lora_A, np.float64) @ np.asarray(pair.lora_B, np.float64)
    return float(np.sum((x @ change) ** 2) / np.sum((x @ kernel) ** 2))


def plain_losses(config, trainable, batch: Batch, schedule) -> dict[str, float]:
    key = jax.random.fold_in(jax.random.key(SEED), 7)
    alphas = schedule.alphas_cumprod.astype(np.float64)
    scale, count = config.adapter.alpha / config.adapter.rank, len(batch.row)
    noisy, noise, timesteps = noised_rows(batch, key, config.loss.noise_offset, alphas)
    timesteps = timesteps.astype(np.int32)
    states, text_inputs = text_rows(PARAMS, trainable, scale, batch)
    layers = trainable.lora["unet"]
    output, heard = unet_and_inputs(fuse(PARAMS["unet"], layers, scale), layers, noisy, timesteps, states)
    diffusion = []
    for i in range(count):
        a = alphas[timesteps[i]]
        snr = a / (1 - a)
        velocity = schedule.prediction_type == "v_prediction"
        target = np.sqrt(a) * noise[i] - np.sqrt(1 - a) * batch.latents[i] if velocity else noise[i]
        squared = np.mean((np.asarray(output[i], np.float64) - target) ** 2, axis=-1)
        weight = np.asarray(batch.weights[i, :, :, 0], np.float64)
        capped = min(snr, config.loss.snr_gamma) + (config.loss.weighting == "picture")
        importance = 1 if config.loss.weighting == "none" else capped / (snr + 1 if velocity else snr)
        diffusion.append(importance * (squared * weight).sum() / weight.sum())
    erase = 0.0
    if config.erasure.erase == "layer" and config.random_rows:
        energies = [
            energy(PARAMS["unet"], p, pair, scale, heard[p][i])
            for p, pair in layers.items()
            for i in range(count, len(noisy))
        ]
        text_layers = trainable.lora.get("text_encoder", {})
        energies += [
            energy(PARAMS["text_encoder"], p, pair, scale, np.asarray(inputs[p], np.float64))
            for p, pair in text_layers.items()
            for inputs in text_inputs[count:]
        ]
        erase = np.mean(energies)
    if config.erasure.erase == "epsilon":
        silent = trainable._replace(lora=jax.tree.map(jnp.zeros_like, trainable.lora))
        base_states, _ = text_rows(PARAMS, silent, scale, batch)
        base, _ = unet_and_inputs(PARAMS["unet"], layers, noisy, timesteps, base_states)
        erase = np.mean(np.square(output[count:] - base[count:]))
    diffusion = np.mean(diffusion)
    return {"loss": diffusion + config.erasure.erase_weight * erase, "diffusion_loss": diffusion, "erase_loss": erase}


@pytest.mark.parametrize(
    ("erase", "prediction", "changes"),
    [
        ("layer", "epsilon", {"noise_offset": 0.1}),
        ("layer", "epsilon", {"layers": "cross_kv"}),
        ("layer", "v_prediction", {"layers": "cross_kv+text_encoder"}),
        ("epsilon", "epsilon", {"weighting": "none", "axis": "out"}),
        ("none", "v_prediction", {"blocks": 0}),
        ("none", "epsilon", {"weighting": "min_snr", "snr_gamma": 2.0}),
    ],
)
def test_losses_equal_a_plain_computation_with_fused_weights(erase, prediction, changes):
    settings = {"layers": LAYERS, "alpha": 3.0, "erase_weight": 0.7, "batch": 2, "random_batch": 3, **changes}
    config = make_config(erase=erase, **settings)
    schedule = replace(SCHEDULE, prediction_type=prediction)
    trainable, masks, optimizer, state = start(config)
    batch = make_batch(2, config.random_rows)
    found = losses(
        make_step(MODELS, schedule, optimizer, adapter=config.adapter, erasure=config.erasure, loss=config.loss),
        state,
        batch,
        PARAMS,
    )
    expected = plain_losses(config, trainable, batch, schedule)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name  # fp32 sums in another order
    assert (found["erase_loss"] > 0.01) == (erase != "none")


def test_a_step_trains_the_concept_and_does_not_change_the_base():
    config = make_config(layers=LAYERS, alpha=3.0, warmup_steps=0)
    trainable, masks = make_trainable(config, started=False)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    before = jax.device_get((PARAMS, trainable))
    step = map_step(
        make_step(MODELS, SCHEDULE, optimizer, adapter=config.adapter, erasure=config.erasure, loss=config.loss),
        jax.devices()[:1],
    )
    state = place_state(stack([init_state(trainable, masks, optimizer, jax.random.key(0))]), jax.devices()[:1])
    batch = jax.tree.map(lambda x: x[None], make_batch(2, 2))
    base = jax.tree.map(jnp.asarray, PARAMS)
    for _ in range(2):
        state, metrics = step(state, batch, base)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(base), before[0])
    assert state.step.tolist() == [2]
    assert set(metrics) == {"loss", "diffusion_loss", "erase_loss", "gradient_norm"}
    assert all(np.isfinite(value).all() for value in metrics.values())
    trained = jax.device_get(jax.tree.map(lambda x: x[0], state.trainable))
    for after, old in zip(jax.tree.leaves(trained), jax.tree.leaves(before[1]), strict=True):
        assert np.any(after != old)
    jax.tree.map(
        lambda x, mask: np.testing.assert_array_equal(x[np.broadcast_to(mask == 0, x.shape)], 0), trained.lora, masks
    )


def test_ids_of_negative_tokens_reach_their_own_rows():
    from train.concept.text import ids_by_row

    ids = jnp.asarray([[1, 42, 43], [42, 43, 2], [40, 41, 3]], jnp.int32)
    assert ids_by_row(ids, ROWS + 2, 2).tolist() == [[1, 42, 43], [44, 45, 2], [40, 41, 3]]


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_cached_states_give_the_losses_of_encoding_in_the_step(tiny_sd, tmp_path, rate):
    config = make_config(images=write_pictures(tmp_path), token_learning_rate=rate, alpha=3.0)
    data = load_concept_data(config, tiny_sd)
    trainable, masks = make_trainable(config)
    cached = cache_states(config, tiny_sd, data, trainable)
    assert (cached.text is None) == (rate > 0) and cached.random_text is not None
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    state = init_state(trainable, masks, optimizer, jax.random.key(0))
    step = make_step(
        tiny_sd.models, tiny_sd.schedule, optimizer, adapter=config.adapter, erasure=config.erasure, loss=config.loss
    )
    one, other = (
        losses(step, state, jax.tree.map(jnp.asarray, batches_of(config, d)(3)), tiny_sd.params) for d in (data, cached)
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_states_are_cached_only_where_no_text_trains(tiny_sd, tmp_path):
    config = make_config(images=write_pictures(tmp_path))
    data = load_concept_data(config, tiny_sd)
    for changes in ({}, {"token_learning_rate": 0.0, "layers": LAYERS}):
        changed = make_config(images=tmp_path, **changes)
        trainable, _ = make_trainable(changed)
        cached = cache_states(changed, tiny_sd, data, trainable)
        assert cached.text is None and (cached.random_text is None) == ("layers" in changes)


def test_cached_prompts_have_different_negative_tokens(tiny_sd, tmp_path):
    shares = RandomPromptShares(negative=1.0, empty=0.0, second=0.0, scene=0.0, own_class=1.0)
    config = make_config(
        images=write_pictures(tmp_path), token_learning_rate=0.0, random_shares=shares, random_styles=("a photo of",)
    )
    data = load_concept_data(config, tiny_sd)
    assert len(set(data.prompts.texts)) == 1
    few = data._replace(
        prompts=data.prompts._replace(ids=data.prompts.ids[:4], nouns=data.prompts.nouns[:4]),
        negative_tokens={part: rows[:4] for part, rows in data.negative_tokens.items()},
    )
    states = cache_states(config, tiny_sd, few, make_trainable(config)[0]).random_text.states
    assert len({row.tobytes() for row in states}) == 4


def test_gradients_are_clipped_and_labels_reach_every_part():
    config = make_config(
        layers=LAYERS,
        learning_rate=0.1,
        text_learning_rate=0.0,
        token_learning_rate=0.0,
        weight_decay=0.0,
        warmup_steps=0,
    )
    trainable, _ = make_trainable(config)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, trainable), optimizer.init(trainable), trainable)
    changed = optax.apply_updates(trainable, updates)
    for component, moves in (("unet", True), ("text_encoder", False)):
        same = [
            np.array_equal(x, y)
            for x, y in zip(*map(jax.tree.leaves, (changed.lora[component], trainable.lora[component])), strict=True)
        ]
        assert not any(same) if moves else all(same)
    np.testing.assert_array_equal(changed.tokens, trainable.tokens)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 20), (1, 0), (5, 20), (600, 20)])
def test_learning_rates_are_finite_for_any_length(steps, warmup):
    config = make_config(steps=steps, warmup_steps=warmup, token_learning_rate=0.0)
    trainable, _ = make_trainable(config)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    opt_state = optimizer.init(trainable)
    for _ in range(min(steps, 5)):
        updates, opt_state = optimizer.update(jax.tree.map(jnp.ones_like, trainable), opt_state, trainable)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
