"""Concepts that are exchanged in a model in memory: the weights are those of a fresh merge, and back to the base."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import merge
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter

NAMES = ("ada", "bob", "cy", "dee")
PARTITIONS = {"features": Partition(num_blocks=4), "basis": Partition(num_blocks=4, basis="0" * 16, assignment="text")}


def known_for(sd, partition: str, size: float = 0.05):
    return [
        random_adapter(
            name, sd.params, slots=(i,), layers="cross_kv+text_encoder", partition=PARTITIONS[partition], size=size
        )
        for i, name in enumerate(NAMES)
    ]  # fmt: skip


def differing(model, expected) -> list[str]:
    """The leaves in which two models differ. Token tables are compared up to the rows of the expected one."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(model.params), jax.tree_util.tree_leaves_with_path(expected.params),
        strict=True,
    )  # fmt: skip
    return [
        jax.tree_util.keystr(path)
        for (path, leaf), (_, wanted) in pairs
        if not np.array_equal(np.asarray(leaf)[: len(wanted)], np.asarray(wanted))
    ]


def on(sd, place: str):
    return replace(sd, params=jax.tree.map({"host": np.asarray, "device": jnp.asarray}[place], sd.params))


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_after_any_exchange_the_weights_are_those_of_a_fresh_merge(tiny_sd, place, partition):
    sd, rng = on(tiny_sd, place), np.random.default_rng(0)
    known = known_for(sd, partition)
    switch, by_name = merge.AdapterSwitch(sd, known), {a.name: a for a in known}
    for _ in range(12):
        names = list(rng.permutation(NAMES)[: rng.integers(0, 5)])
        weights = [float(w) for w in rng.choice([1.0, 0.7], len(names))]
        model = switch.use(names, weights)
        assert differing(model, sd.with_adapters([by_name[name] for name in names], weights)) == []
    model = switch.use([])
    assert differing(model, sd) == []
    kernels = jax.tree.leaves(model.params["unet"])
    assert all(one is other for one, other in zip(kernels, jax.tree.leaves(sd.params["unet"]), strict=True))


def test_changes_that_are_too_large_to_be_read_off_are_summed_anew(tiny_sd):
    known = known_for(tiny_sd, "basis", size=2.0)
    switch = merge.AdapterSwitch(tiny_sd, known)
    switch.use(NAMES)
    assert differing(switch.use(NAMES[1:]), tiny_sd.with_adapters(known[1:])) == []


def test_pictures_are_those_of_a_fresh_merge_and_the_text_encoder_keeps_its_shape(tiny_sd):
    known = known_for(tiny_sd, "basis")
    switch = merge.AdapterSwitch(tiny_sd, known)
    settings = {"steps": 2, "seed": 3}
    for names in (["cy"], ["ada", "dee"]):
        prompts = [f"a photo of <{names[-1]}> man"]
        fresh = tiny_sd.with_adapters([next(a for a in known if a.name == name) for name in names])
        model = switch.use(names)
        np.testing.assert_array_equal(model.generate(prompts, **settings), fresh.generate(prompts, **settings))
        table = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
        assert len(table) == tiny_sd.models.text_encoder.config.vocab_size + 2 * len(NAMES)


def test_concepts_that_cannot_be_together_are_refused_and_those_from_before_stay(tiny_sd):
    known = known_for(tiny_sd, "features")
    rival = random_adapter("eve", tiny_sd.params, slots=(0,), layers="cross_kv")
    switch = merge.AdapterSwitch(tiny_sd, [*known, rival])
    switch.use(["ada"])
    for names, weights, message in (
        (["ada", "eve"], None, "both own slot 0"),
        (["ada", "nobody"], None, "there is no adapter 'nobody': known are ada, bob"),
        (["bob", "bob"], None, "named twice"),
        (["bob"], [1.0, 2.0], "2 weights for 1 concepts"),
        (["bob"], [float("nan")], "weight nan is not a finite number"),
    ):
        with pytest.raises(UserError, match=message):
            switch.use(names, weights)
    assert differing(switch.use(["ada", "bob"]), tiny_sd.with_adapters(known[:2])) == []


def test_adapters_of_another_base_are_refused(tiny_sd, tiny_xl):
    with pytest.raises(UserError, match="cannot merge: "):
        merge.AdapterSwitch(tiny_sd, known_for(tiny_xl, "features"))


def test_a_model_with_spare_rows_is_not_saved(tiny_sd, tmp_path):
    ada, bob = known_for(tiny_sd, "features")[:2]
    switch = merge.AdapterSwitch(tiny_sd, [ada, bob])
    with pytest.raises(UserError, match="cannot save: the token table has .* save the one that sd.with_adapters"):
        switch.use(["ada"]).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    switch.use(["ada", "bob"]).save(tmp_path / "model")
