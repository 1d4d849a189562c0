"""Orthogonal Adaptation: down projections do not change, bit for bit, and each slot has its own rows."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from concept_builders import as_flags, make_config, make_trainable, settings, write_pictures

import train.concept.run
import train.concepts
from blocklora_jax import Adapter
from blocklora_jax.adapters.delta import kernel_change
from blocklora_jax.adapters.orthogonal import init_orthogonal
from blocklora_jax.adapters.partition import slot_from_name
from blocklora_jax.errors import UserError
from merge.compose import compose
from train.concept.prepare import init_concept
from train.concept.slots import give_slots
from train.concept.state import masked_lora
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions

SETTINGS = {
    "down": "orthogonal", "blocks": 0, "layers": "cross_kv+text_encoder", "partition_seed": 3, "weight_decay": 0.1,
    "steps": 20,
}  # fmt: skip
NAMES = ("ada", "rex")


def common_flags(model: Path) -> list[str]:
    own = ("images", "token", "class_noun", "out", "slot")
    values = settings(model=model, cpu=True, save_every=20, **SETTINGS)
    return as_flags({name: value for name, value in values.items() if name not in own})


@pytest.fixture(scope="module")
def concepts_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concepts")
    for name in NAMES:
        write_pictures(folder / name)
        (folder / name / "concept.yaml").write_text("class_noun: dog\n")
    return folder


@pytest.fixture(scope="module")
def together(concepts_folder, tiny_folder, tmp_path_factory):
    """The adapters of two concepts that trained in one program."""
    out = tmp_path_factory.mktemp("together")
    train.concepts.main(["--concepts", str(concepts_folder), "--out", str(out), *common_flags(tiny_folder)])
    return [Adapter.load(out / name / "adapter.safetensors") for name in NAMES]


def pairs(adapter: Adapter):
    return [(f"{part}/{path}", pair) for part, layers in adapter.lora.items() for path, pair in layers.items()]


@pytest.mark.parametrize("slot", [0, 1])
def test_down_projections_do_not_change_and_the_rest_trains(together, slot):
    adapter = together[slot]
    start = init_orthogonal(3, adapter.shapes(), slot, rank=2)
    for (path, trained), (_, first) in zip(pairs(adapter), pairs(Adapter(lora=start, tokens={}, info=adapter.info))):
        np.testing.assert_array_equal(trained.lora_A, first.lora_A, err_msg=path)
        assert np.any(trained.lora_B), path
    assert adapter.tokens


def test_changes_of_two_concepts_read_orthogonal_inputs(together):
    for (path, one), (_, other) in zip(*map(pairs, together), strict=True):
        # Changes of W [m, n], as in the paper. They are the transposes of the kernels' changes.
        first, second = ((pair.lora_A @ pair.lora_B).T for pair in (one, other))
        reference = np.linalg.norm(first) * np.linalg.norm(second)
        assert reference > 0
        assert np.linalg.norm(first @ second.T) < 1e-5 * reference, path


def test_a_concept_in_a_group_is_the_one_trained_alone(together, concepts_folder, tiny_folder, tmp_path):
    configs = read_concepts(ConceptsOptions(concepts=concepts_folder, out=tmp_path), common_flags(tiny_folder))
    alone = Adapter.load(train.concept.run.train_concept(give_slots(configs)[1], "cpu"))
    for x, y in zip(jax.tree.leaves(together[1].lora), jax.tree.leaves(alone.lora), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


def test_the_adapters_have_no_partition_and_are_summed_on_request(together, tiny_sd):
    assert all(a.info.partition is None and a.info.slots == () for a in together)
    assert [json.loads(a.info.training)["slot"] for a in together] == [[0], [1]]
    with pytest.raises(UserError, match="overlap"):
        compose(tiny_sd.params, together, check_base=False)
    merged = compose(tiny_sd.params, together, allow_overlap=True, check_base=False)
    path, first = pairs(together[0])[0]
    kernels = []
    for params in (merged, tiny_sd.params):
        for name in path.split("/"):
            params = params[name]
        kernels.append(np.asarray(params["kernel"], np.float64))
    change = sum(kernel_change(pair, a.info.scale) for a in together for p, pair in pairs(a) if p == path)
    np.testing.assert_allclose(kernels[0] - kernels[1], change, atol=1e-6)


def test_a_new_adapter_changes_nothing_and_its_slot_is_drawn_from_the_name(tiny_sd):
    config = make_config(**SETTINGS | {"slot": None, "layers": "cross_kv"})
    info, _, trainable = init_concept(config, tiny_sd, None)
    slot = json.loads(info.training)["slot"]
    # Text has 32 features: 16 sets of 2 rows.
    assert slot == [slot_from_name("ada", 16)]
    assert not any(np.any(pair.lora_B) for pair in trainable.lora["unet"].values())
    expected = init_orthogonal(3, {"unet": dict.fromkeys(trainable.lora["unet"], (32, 1))}, slot[0], 2)["unet"]
    for path, pair in trainable.lora["unet"].items():
        np.testing.assert_array_equal(pair.lora_A, expected[path].lora_A)


def test_a_slot_without_rows_is_refused_before_training(tiny_sd):
    config = make_config(**SETTINGS | {"slot": (16,), "layers": "cross_kv"})
    with pytest.raises(
        UserError, match=r"--slot 16 must lie in 0\.\.15 with --down orthogonal: layer unet/.*to_k has 32"
    ):
        init_concept(config, tiny_sd, None)


def test_free_slots_are_given_out_only_if_slots_are_needed():
    slots = [None, (1,), None, (0,)]
    configs = [make_config(**SETTINGS | {"slot": slot, "token": f"<c{i}>"}) for i, slot in enumerate(slots)]
    assert [config.adapter.slot for config in give_slots(configs)] == [(2,), (1,), (3,), (0,)]
    plain = [make_config(blocks=0, slot=None)]
    assert give_slots(plain) == plain


@pytest.mark.parametrize(("down", "moves"), [("trained", 1.0), ("orthogonal", 0.0)])
def test_a_frozen_projection_gets_no_gradient(down, moves):
    config = make_config(down=down, blocks=0)
    trainable, masks = make_trainable(config)
    grads = jax.grad(
        lambda lora: sum(jnp.sum(x) for x in jax.tree.leaves(masked_lora(lora, masks, config.adapter.down_is_frozen)))
    )(trainable.lora)
    for pair in grads["unet"].values():
        np.testing.assert_array_equal(pair.lora_A, np.full(pair.lora_A.shape, moves))
        np.testing.assert_array_equal(pair.lora_B, np.ones(pair.lora_B.shape))
