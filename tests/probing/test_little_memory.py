"""Probes with little memory: fewer prompts and layers at once, and the same results."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

import merge
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.probing import memory as probe_memory
from blocklora_jax.probing.conversion import convert
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.crosstalk import measure_crosstalk
from blocklora_jax.probing.input_statistics import Inputs, gram_bytes, input_groups, input_layers, measure_inputs
from blocklora_jax.probing.memory import GIB, default_memory, layer_groups, rows_at_once
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from merge.methods.finished_groups import FinishedGroups, remove_finished
from merge.methods.joint_equations import fit_groups

WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "man"), scenes=("on the beach",))
CONFIG = ConversionConfig(prompts=4, random_prompts=8, chunk=4, steps=1, rank=4)
# GiB with which the tiny model draws one of four prompts at once, and its layers fall into groups.
LITTLE = 5e-5


@pytest.fixture(scope="module")
def adapters(tiny_sd):
    """Two adapters in every fifth of the attention, feed-forward and projection layers of U-Net and text encoder."""
    kinds = {"slots": (), "layers": "full+text_encoder", "partition": None, "size": 0.3}
    made = [random_adapter(name, tiny_sd.params, **kinds) for name in ("ada", "rex")]
    return [replace(a, lora={c: dict([*layers.items()][::5]) for c, layers in a.lora.items()}) for a in made]


@pytest.mark.parametrize("attention", [False, True])
def test_inputs_do_not_depend_on_the_memory(tiny_sd, adapters, attention):
    much, little = (
        measure_inputs(tiny_sd, adapters, WORDS, CONFIG, attention=attention, memory=memory)
        for memory in (None, LITTLE)
    )
    assert [*much.grams] == [*little.grams] == [*much.ordinary] == [*little.ordinary]
    for layer, grams in much.grams.items():
        for found, expected in zip(
            [*little.grams[layer], little.ordinary[layer]], [*grams, much.ordinary[layer]], strict=True
        ):
            # fp32 sums over other numbers of rows.
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_little_memory_means_parts(tiny_sd, adapters):
    assert [rows_at_once(tiny_sd, 4, memory) for memory in (None, 1.5e-3, 5e-4, LITTLE)] == [4, 4, 1, 1]
    # Six is not a multiple of the five for which there is room, nor of four.
    assert rows_at_once(tiny_sd, 6, 1.5e-3) == 3
    groups = list(input_groups(tiny_sd, adapters, WORDS, CONFIG, memory=LITTLE))
    assert len(groups) > 1 == len(list(input_groups(tiny_sd, adapters, WORDS, CONFIG)))
    # Text encoders and layers that read text are observed once, whatever the groups.
    readers = [reader for group in groups for readers in group.readers.values() for reader in readers]
    assert sorted(readers) == sorted({f"{c}/{path}" for c, layers in adapters[0].lora.items() for path in layers})


class Group:
    """Some layers of inputs that are already measured, as `InputGroup` gives them."""

    def __init__(self, inputs, layers):
        self.readers, self._inputs = {layer: [layer] for layer in layers}, inputs
        self.is_measured = self.is_skipped = False

    def skip(self):
        self.is_skipped = True

    def own(self, index):
        self.is_measured = True
        return {layer: self._inputs.grams[layer][index].copy() for layer in self.readers}

    def ordinary(self):
        return {layer: self._inputs.ordinary[layer].copy() for layer in self.readers}


def random_inputs(adapters) -> Inputs:
    rng, layers = np.random.default_rng(0), gram_bytes(adapters, input_layers(adapters))
    widths = {layer: round((size / 4) ** 0.5) for layer, size in layers.items()}
    grams = {layer: [x @ x.T for x in rng.standard_normal((3, n, 9))] for layer, n in widths.items()}
    return Inputs({layer: three[:2] for layer, three in grams.items()}, {layer: x[2] for layer, x in grams.items()})


def groups_of(inputs: Inputs) -> list[Group]:
    return [Group(inputs, part.tolist()) for part in np.array_split([*inputs.grams], 3)]


def downs(adapters) -> dict[str, np.ndarray]:
    return {
        f"{adapter.name}: {component}/{path}": np.asarray(pair.lora_A)
        for adapter in adapters
        for component, layers in adapter.lora.items()
        for path, pair in layers.items()
    }


@pytest.fixture
def interrupted(adapters, tmp_path):
    """The finished layers of a fit that was interrupted in its third group, and the inputs."""
    inputs = random_inputs(adapters)
    groups = groups_of(inputs)

    def stopping():
        yield from groups[:2]
        raise KeyboardInterrupt

    finished = FinishedGroups(tmp_path / ".unfinished", adapters, {"lambda": 1.0})
    with pytest.raises(KeyboardInterrupt):
        fit_groups(adapters, stopping(), finished=finished)
    return inputs, finished


def test_an_interrupted_fit_goes_on_and_gives_the_same(adapters, interrupted):
    inputs, finished = interrupted
    groups = groups_of(inputs)
    resumed = fit_groups(adapters, groups, finished=finished)
    assert [group.is_skipped for group in groups] == [True, True, False]
    assert [group.is_measured for group in groups] == [False, False, True]
    whole = fit_groups(adapters, groups_of(inputs))
    for layer, down in downs(whole).items():
        np.testing.assert_array_equal(downs(resumed)[layer], down)
    other = finished.folder / "fit-mine.safetensors"
    other.touch()
    remove_finished(finished.folder)
    assert [*finished.folder.iterdir()] == [other]
    other.unlink()
    remove_finished(finished.folder)
    assert not finished.folder.exists()


def test_finished_layers_of_another_fit_are_not_used(adapters, interrupted):
    inputs, finished = interrupted
    retrained = [replace(adapters[0], lora=jax.tree.map(lambda x: 2 * np.asarray(x), adapters[0].lora)), adapters[1]]
    louder = [replace(adapters[0], info=replace(adapters[0].info, alpha=2 * adapters[0].info.alpha)), adapters[1]]
    changed = ((retrained, {"lambda": 1.0}), (louder, {"lambda": 1.0}), (adapters, {"lambda": 2.0}))
    for others, settings in changed:
        groups = groups_of(inputs)
        fit_groups(others, groups, finished=FinishedGroups(finished.folder, others, settings))
        assert all(group.is_measured for group in groups)


def test_a_damaged_file_of_finished_layers_is_made_again(adapters, interrupted):
    inputs, finished = interrupted
    for path in finished.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-7] + b"damaged")
    groups = groups_of(inputs)
    resumed = fit_groups(adapters, groups, finished=finished)
    assert all(group.is_measured for group in groups)
    for layer, down in downs(fit_groups(adapters, groups_of(inputs))).items():
        np.testing.assert_array_equal(downs(resumed)[layer], down)


@pytest.mark.parametrize("erase_weight", [None, 0.0, 2.0])
def test_a_joint_fit_by_groups_of_layers_is_that_of_all_layers(adapters, erase_weight):
    inputs = random_inputs(adapters)
    groups = groups_of(inputs)
    ordinary = None if erase_weight is None else inputs.ordinary
    whole = merge.fit_to_inputs(adapters, inputs.grams, ordinary, erase_weight=erase_weight or 0.0)
    for found, expected in zip(fit_groups(adapters, groups, erase_weight=erase_weight), whole, strict=True):
        assert found.info == expected.info
        for component, paths in expected.lora.items():
            for path, pair in paths.items():
                np.testing.assert_array_equal(found.lora[component][path].lora_A, pair.lora_A)
                np.testing.assert_array_equal(found.lora[component][path].lora_B, pair.lora_B)


def test_a_conversion_does_not_depend_on_the_memory(tiny_sd, adapters):
    partition = Partition(num_blocks=4, axis="out")
    (much, fits), (little, few_fits) = (
        convert(tiny_sd, adapters[0], partition, (1,), WORDS, CONFIG, memory=memory) for memory in (None, LITTLE)
    )
    assert much.info == little.info and [*fits] == [*few_fits]
    for kind, fit in fits.items():
        np.testing.assert_allclose(few_fits[kind], fit, rtol=1e-3)
    for component, layers in much.lora.items():
        for path, (a, b) in layers.items():
            found = little.lora[component][path]
            # The condition of the inputs multiplies the rounding of their sums.
            np.testing.assert_allclose(found.lora_A @ found.lora_B, a @ b, rtol=0, atol=1e-3 * np.abs(a @ b).max())


def test_crosstalk_does_not_depend_on_the_memory(tiny_sd, adapters):
    much, little = (measure_crosstalk(tiny_sd, adapters, steps=1, memory=memory) for memory in (None, LITTLE))
    for kind, expected in much.items():
        np.testing.assert_allclose(little[kind].pairs, expected.pairs, rtol=1e-4)
        np.testing.assert_allclose(little[kind].others, expected.others, rtol=1e-4)


def test_groups_keep_the_order_and_fill_their_share():
    layers = dict.fromkeys("abcde", 30)
    assert layer_groups(layers, 80 / GIB) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert layer_groups(layers, 160 / GIB) == [["a", "b"], ["c", "d"], ["e"]]
    assert layer_groups(layers, 4) == [[*"abcde"]]
    # A layer that is larger than its share has a group of its own.
    assert layer_groups({"a": 1, "b": 100, "c": 1}, 40 / GIB) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("device", "host", "expected"),
    [(None, 64, 4), (12, 64, 4), (30, 64, 7.5), (72, 64, 16), (None, 8, 2), (None, 2, 1), (12, float("inf"), 4)],
)
def test_the_default_follows_the_memory_of_device_and_host(device, host, expected, monkeypatch):
    class Device:
        def memory_stats(self):
            return device and {"bytes_limit": device * GIB}

    monkeypatch.setattr(probe_memory.jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(probe_memory, "_host_memory", lambda: host * GIB)
    assert default_memory() == expected
