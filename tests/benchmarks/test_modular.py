"""The bench of many concepts: its prompts and its numbers, and that all methods get the same inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tyro
from concept_builders import write_pictures

from benchmarks.modular import __main__ as bench
from benchmarks.modular import ablation, rates
from benchmarks.modular.ablation import VARIANTS
from benchmarks.modular.core import teach
from benchmarks.modular.core.evaluate import CONDITIONS, Bench, keep_to
from benchmarks.modular.core.grid_search import grid_search
from benchmarks.modular.core.methods import FEATURE_BLOCKS, METHODS, RECIPES, trainable
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.core.report import difference, interval, markdown, recognisable, retention, summarise
from benchmarks.modular.pocket.concepts import ORDER, draw_concepts, draw_distractors
from benchmarks.modular.pocket.measures import crop_half
from benchmarks.modular.pocket.prompts import concept_prompts, pair_prompts, plain_prompts, stylised_prompts
from benchmarks.modular.pocket.words import TRAINING_WORDS
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.pocket.world.specs import Individual
from blocklora_jax.testing.random_adapter import random_adapter
from train.codewords import split_words
from train.concept.config import parse_args, settings_as_flags
from train.shares.share import Share

CONCEPTS = draw_concepts(15, 0)


def test_fifteen_concepts_are_five_people_five_subjects_three_scenes_and_two_styles():
    kinds = [concept.kind for concept in CONCEPTS]
    assert (kinds.count("person"), kinds.count("scene"), kinds.count("style")) == (5, 3, 2)
    assert kinds.count("animal") + kinds.count("object") == 5
    assert {"person", "animal", "scene", "object"} == set(ORDER[:4])


def test_fewer_concepts_are_the_first_of_more():
    assert draw_concepts(5, 3) == draw_concepts(15, 3)[:5]
    assert draw_concepts(5, 3) != draw_concepts(5, 4)
    assert len({concept.token for concept in draw_concepts(60, 0)}) == 60


def test_distractors_are_other_individuals_of_the_class():
    for concept in CONCEPTS:
        distractors = draw_distractors(concept, 5, 0)
        assert {s.class_noun for s in distractors} == {concept.class_noun}
        assert len({concept.thing, *(s.thing for s in distractors)}) == 1 + len(distractors) >= 4


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda c: c.name)
def test_prompts_call_their_concept_once_and_their_plain_form_calls_none(concept):
    prompts = concept_prompts(concept)
    assert [p.category for p in prompts] == ["place"] * 4 + ["style"] * 2 + ["company"] * 2
    for prompt in prompts:
        assert prompt.text.count(f"{concept.token} {concept.class_noun}") == 1
        assert "<" not in prompt.plain and concept.class_noun in prompt.plain
        words = prompt.text.replace(f"{concept.token} ", "").split()
        # "a man" has an article, but before a token there is none.
        assert [w for w in prompt.plain.split() if w not in ("a", "an")] == [w for w in words if w not in ("a", "an")]


def test_tasks_call_two_concepts_that_can_be_told_apart():
    for pair in pair_prompts(CONCEPTS, 24):
        assert pair.first.token in pair.text and pair.second.token in pair.text
        assert pair.text.index(pair.first.token) < pair.text.index(pair.second.token)
        assert pair.first.class_noun != pair.second.class_noun
    assert len({pair.text for pair in pair_prompts(CONCEPTS, 24)}) >= 20
    for pair in stylised_prompts(CONCEPTS, 24):
        assert isinstance(pair.first.thing, Individual) and pair.second.kind == "style"
        assert pair.first.token in pair.text and pair.second.token in pair.text
    assert not any("<" in words for words in plain_prompts(CONCEPTS))
    assert pair_prompts(CONCEPTS[:1], 24) == []


def test_the_halves_of_a_picture_are_its_lower_squares():
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[0, 24:, :40, 0] = 255
    left, right = crop_half(picture, 0), crop_half(picture, 1)
    assert left.shape == right.shape == (1, 64, 64, 3)
    assert left[..., 0].min() == 255 and left[..., 1:].max() == 0
    # The middle 16 columns are in both squares of 40.
    assert right[0, :, :22, 0].min() > 200 and right[0, :, 30:].max() < 10


def test_concepts_drawn_apart_are_drawn_side_by_side(tiny_sd):
    adapters = [random_adapter(name, tiny_sd.params, slots=(i,)) for i, name in enumerate(("ada", "rex"))]
    model = tiny_sd.with_adapters(adapters)
    prompts = ["a photo of <ada> man and <rex> man", "a photo of <rex> man"]
    artist = Artist(tiny_sd, adapters, steps=2)
    together, apart = (artist.draw(prompts, "pairs", model, apart=apart) for apart in (False, True))
    assert (together[0] != apart[0]).any()
    # With one concept there is nothing to keep apart.
    assert np.abs(together[1].astype(int) - apart[1]).max() <= 1
    refined = artist.refine(apart, prompts, model)
    assert (refined[0] != apart[0]).any()
    np.testing.assert_array_equal(refined[1], apart[1])


def test_a_person_in_a_style_is_measured_by_the_prompt_alone_and_apart(tiny_sd, tmp_path):
    ada, ink = (random_adapter(name, tiny_sd.params, slots=(i,)) for i, name in enumerate(("ada", "ink")))
    ink = replace(ink, info=replace(ink.info, kind="style", class_noun="mosaic", trigger="<ink> mosaic"))
    asked = SimpleNamespace(first="ada", second="ink", text="a <ink> mosaic of <ada> man")
    tasks: Any = SimpleNamespace(
        concept_prompts=lambda concept, count: [SimpleNamespace(text="a <ada> man", plain="a man")],
        pair_prompts=lambda concepts, count: [],
        stylised_prompts=lambda concepts, count: [asked],
        plain_prompts=lambda concepts: ["a man"],
    )
    brightness = {"ada": 0, "ink": 2}
    seen = lambda concept, images, *_: _Seen(images[..., brightness[concept]].mean((1, 2)) / 255)
    concepts: Any = [SimpleNamespace(name=name) for name in ("ada", "ink")]
    measures: Any = SimpleNamespace(score=lambda c, *rest: seen(getattr(c, "name", c), *rest))
    artist = Artist(tiny_sd, [ada, ink], steps=2)
    found, drawn = Bench(concepts, artist, measures, tmp_path, 1, tasks=tasks).merged(
        METHODS["blocklora"], [ada, ink], {}
    )
    assert (drawn["stylised"] != drawn["stylised_apart"]).any()
    for task in ("stylised", "stylised_apart"):
        red, _, blue = (drawn[task][0].mean((0, 1)) / 255).tolist()
        assert found[task] == [{"individual": pytest.approx(red), "style": pytest.approx(blue)}]


class _Seen(NamedTuple):
    identity: np.ndarray


@pytest.mark.parametrize(("command", "flag"), [(rates, "--recipes"), (ablation, "--only"), (bench, "--methods")])
def test_the_error_for_an_unknown_name_lists_the_known_ones(command, flag):
    with pytest.raises(UserError, match=f"{flag} 'plane' is not known: choose among .*; "):
        tyro.cli(command.Options, args=[flag, "plane"])


@pytest.mark.parametrize(
    ("training", "counted"),
    [
        ("{}", ("tokens", "up", "down")),
        ('{"down": "orthogonal"}', ("tokens", "up")),
        ('{"learning_rate": 0.0}', ("tokens",)),
    ],
)
def test_only_numbers_that_the_settings_train_are_counted(tiny_sd, training, counted):
    adapter = random_adapter("ada", tiny_sd.params, slots=(0,), layers="cross_kv", partition=None)
    pairs = adapter.lora["unet"].values()
    sizes = {"down": sum(p.lora_A.size for p in pairs), "up": sum(p.lora_B.size for p in pairs)}
    sizes["tokens"] = adapter.tokens["<ada>"].size
    trained = replace(adapter, info=replace(adapter.info, training=training))
    assert trainable(trained) == sum(sizes[name] for name in counted)


def test_trained_numbers_in_a_basis_are_those_of_the_owned_directions(tiny_sd):
    partition = Partition(num_blocks=4, basis="b")
    adapter = random_adapter("ada", tiny_sd.params, slots=(0,), layers="cross_kv", partition=partition, rank=2)
    plain = random_adapter(
        "ada", tiny_sd.params, slots=(0,), layers="cross_kv", partition=Partition(num_blocks=4), rank=2
    )
    # Each adapter owns 8 of the tiny model's 32 text features, or 8 of the 32 directions.
    assert trainable(adapter) == trainable(plain)
    assert np.count_nonzero(next(iter(adapter.lora["unet"].values())).lora_A) == 32 * 2


def test_tokens_of_other_concepts_do_not_change_a_picture(tiny_sd):
    adapters = [random_adapter(name, tiny_sd.params, slots=(i,)) for i, name in enumerate(("ada", "rex"))]
    model = tiny_sd.with_adapters(adapters[:1])
    prompts = [f"a photo of {adapters[0].info.trigger}"]
    alone, among = (
        Artist(tiny_sd, known, seed=3, steps=2).draw(prompts, "ada", model) for known in (adapters[:1], adapters)
    )
    np.testing.assert_array_equal(alone, among)
    other = Artist(tiny_sd, adapters, seed=4, steps=2).draw(prompts, "ada", model)
    assert np.any(other != alone)


def result(seed: int = 0, **scores) -> dict:
    names = ("text", "image", "identity", "right", "leakage")
    return {"seed": seed, "concepts": {key: dict.fromkeys(names, values) for key, values in scores.items()}}


def test_retention_is_a_ratio_of_means_over_the_merged_concepts_only():
    alone, merged = result(a=[0.8, 0.8], b=[0.4, 0.4], c=[9.0, 9.0]), result(a=[0.5, 0.5], b=[0.3, 0.3])
    kept, low, high = retention([merged], [alone], "identity")
    assert kept == pytest.approx((0.5 + 0.3) / (0.8 + 0.4))
    # Of two concepts without any spread in their prompts: either alone, or both.
    assert (low, high) == pytest.approx((0.5 / 0.8, 0.3 / 0.4))


def test_results_are_paired_by_seed_where_one_method_has_fewer():
    few, many = [result(5, a=[0.5, 0.5])], [result(4, a=[9.0, 9.0]), result(5, a=[0.2, 0.4])]
    assert difference(few, many, "identity")[0] == pytest.approx(0.2)
    assert retention(few, many, "identity")[0] == pytest.approx(0.5 / 0.3)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["seeds", "concepts", "prompts"])
def test_an_interval_has_the_width_of_what_varies(axis):
    shape = (8, 12, 10)
    varies = np.random.default_rng(1).normal(2.0, 1.0, shape[axis])
    values = np.broadcast_to(varies.reshape([-1 if i == axis else 1 for i in range(3)]), shape)
    mean, low, high = interval([seed[..., None] for seed in values])
    assert mean == pytest.approx(varies.mean())
    # Every level draws anew within each draw of the level above.
    deviation = varies.std() / np.prod(shape[: axis + 1]) ** 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)


def test_only_concepts_whose_drawings_are_recognised_count_as_recognisable():
    one = {"concepts": {}, "drawings": {"a": {"right": [1.0, 1.0]}, "b": {"right": [0.0, 1.0]}, "c": {"right": [0.0]}}}
    assert recognisable([one | {"seed": 4}]) == {4: {"a", "b"}}


def test_a_search_goes_on_beyond_an_edge_of_its_grid_and_stops_inside():
    best, tried = grid_search({"weight": (0.3, 0.6, 1.0)}, lambda s: -abs(s["weight"] - 2.0), {})
    assert best["weight"] == pytest.approx(1.7) and max(t["weight"] for t in tried) > 2.0
    best, _ = grid_search({"weight": (0.3, 0.6, 1.0)}, lambda s: -abs(s["weight"] - 0.1), {})
    assert best["weight"] == pytest.approx(0.1, abs=0.03)
    peak = {"weight": 0.6, "density": 1.0}
    score = lambda s: -sum(abs(s[name] - peak[name]) for name in peak)
    best, tried = grid_search({"weight": (0.3, 0.6, 1.0), "density": (0.2, 0.5, 0.8)}, score, {"density": 1.0})
    assert best == peak and max(t["density"] for t in tried) == 1.0


def test_measured_prompts_have_no_words_of_the_random_prompts():
    used = [p.plain for c in CONCEPTS for p in concept_prompts(c)] + plain_prompts(CONCEPTS)
    phrases = {f"{look} of" for look in ("a sketch", "a sepia photo")}
    scenes = [phrase for phrase in TRAINING_WORDS["random_scenes"] if any(words.endswith(phrase) for words in used)]
    assert not scenes and not phrases & set(TRAINING_WORDS["random_styles"])
    assert not {"cat", "house", "car", "woman"} & set(TRAINING_WORDS["random_subjects"])
    optimised, _ = split_words(words_for("pocket"))
    assert not set(optimised.scenes) & {"in a forest", "in the snow", "at night"}
    assert not set(optimised.styles) & phrases
    assert not set(optimised.subjects) & {"cat", "house", "car", "woman"}


def test_the_table_has_a_row_for_every_method_and_none_for_other_counts():
    one = result(a=[0.8, 0.8], b=[0.6, 0.6]) | {"parameters": 1234.0}
    merged = result(a=[0.7, 0.7], b=[0.6, 0.6]) | {"drift": [0.1, 0.2], "seconds": 0.5, "both": [True, False]}
    merged["stylised_apart"] = [{"individual": 0.25, "style": 0.5}]
    less = result(a=[0.5, 0.5], b=[0.6, 0.6]) | {"drift": [0.1], "seconds": 0.5}
    rows = summarise(
        {"blocklora": [one], "plain": [one]},
        {("blocklora", 2): [merged], ("sum", 2): [less], ("sum", 5): [merged]},
        [{"seed": 0, "base": one["concepts"], "drawings": one["concepts"]}],
    )
    table = markdown(rows, 2).splitlines()
    assert len(table) == 2 + 2 + 2
    assert "16 blocks" in table[4] and "1,234" in table[4] and "0.929" in table[4]
    assert "0.250 [0.25, 0.25] | 0.500 [0.50, 0.50]" in table[4]
    # Paired differences to the first method: a has .2 less, b is equal. The first method has no difference to itself.
    by_method = {(row["method"], row["n"]): row.get("identity_difference") for row in rows}
    assert by_method["sum", 2] == pytest.approx((-0.1, -0.2, 0.0))
    assert by_method["blocklora", 2] is None and by_method["sum", 5] is None
    short = markdown(rows, 2, only=("identity", "seconds")).splitlines()
    assert short[0] == "| | identity merged | merge s |" and short[4].endswith("] | 0.50 |")


@pytest.mark.parametrize("settings", [*VARIANTS.values(), *RECIPES.values()], ids=[*VARIANTS, *RECIPES])
def test_every_variant_has_valid_training_settings(settings):
    needed = ["--images", "ada", "--token", "<ada>", "--class-noun", "woman", "--out", "run", "--blocks", "16"]
    own = settings_as_flags({k: v for k, v in settings.items() if k != "slots_each"})
    plain = parse_args([*needed, *settings_as_flags(FEATURE_BLOCKS)])
    config = parse_args([*needed, *settings_as_flags(FEATURE_BLOCKS), *own])
    # A variant that is the plain one would be trained for nothing.
    assert (config == plain) == (settings in ({}, FEATURE_BLOCKS))


def test_adapters_trained_with_other_settings_are_not_used_again(tiny_sd, tmp_path, monkeypatch):
    taught = []

    def train(configs, groups, at_once, platform):
        for config in configs:
            adapter = random_adapter(config.name, tiny_sd.params, slots=(0,), partition=None, layers="cross_kv")
            info = replace(adapter.info, training=json.dumps(config.to_json()))
            replace(adapter, info=info).save(config.out / "adapter.safetensors")
            taught.append(config.name)

    monkeypatch.setattr(teach, "train_concepts", train)
    concepts: Any = [SimpleNamespace(name=name) for name in ("ada", "rex")]

    def teach_both(place: str = "here", at_once: int = 2, share: Share = teach.ALL, **settings):
        images = str(write_pictures(tmp_path / place, 1))
        entries = {name: {"class_noun": "man", "images": images} for name in ("ada", "rex")}
        settings, folder = FEATURE_BLOCKS | settings, tmp_path / f"adapters-{at_once}"

        def write(chosen, folder):
            return {concept.name: entries[concept.name] for concept in chosen}

        return teach.teach(concepts, tiny_sd, settings, folder, at_once, write=write, share=share)

    assert [adapter.name for adapter in teach_both(blocks=0, rank=5)] == ["ada", "rex"]
    # The place of the pictures may differ.
    assert [adapter.name for adapter in teach_both("there", blocks=0, rank=5)] == taught == ["ada", "rex"]
    with pytest.raises(
        UserError, match="ada/adapter.safetensors was taught with other settings: rank was 5, now 6: use another --out"
    ):
        teach_both(blocks=0, rank=6)
    # Text has 32 features. What the second group has no room for is refused before the first trains.
    with pytest.raises(UserError, match=r"--slot 1 must lie in 0\.\.0 with --down orthogonal"):
        teach_both(blocks=0, rank=20, down="orthogonal", at_once=1)
    assert taught == ["ada", "rex"]
    # Each share teaches its own groups; then all are there, with the slots that they have without shares.
    taught.clear()
    for i in (1, 0):
        shared = teach_both(blocks=0, rank=4, at_once=1, share=Share(i, 2))
        assert [adapter.name for adapter in shared] == [["ada"], ["rex"]][i]
    assert taught == ["rex", "ada"]
    assert [adapter.name for adapter in teach_both(blocks=0, rank=4, at_once=1)] == ["ada", "rex"]
    assert taught == ["rex", "ada"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--shard", "2/2"], "the last one is 1/2"), (["--shard", "0/2", "--quick"], "--shard only teaches")],
)
def test_a_share_that_cannot_be_taught(flags, said):
    with pytest.raises(UserError, match=said):
        bench.main(flags)


def test_results_made_with_other_settings_are_not_used_again(tiny_sd, tmp_path):
    options = SimpleNamespace(steps=300, batch=6, prompts=8, sampler_steps=20)
    concepts: Any = [SimpleNamespace(name=name) for name in ("ada", "rex")]
    folder = tmp_path / "results"
    for _ in range(2):
        keep_to(folder, tiny_sd, options, concepts, 0)
    longer = SimpleNamespace(**vars(options) | {"steps": 500})
    trained = replace(tiny_sd, params=jax.tree.map(lambda x: x + 1, tiny_sd.params))
    for other, said in (
        ((tiny_sd, longer, concepts, 0), "with steps 300, and now it is 500: use another --out"),
        ((trained, options, concepts, 0), "with base "),
        ((tiny_sd, options, concepts[:1], 0), "concepts 2 from ada to rex, and now it is 1 from ada to ada"),
        ((tiny_sd, options, concepts, 1), "seed 0, and now it is 1"),
    ):
        with pytest.raises(UserError, match=said):
            keep_to(folder, *other)
    (folder / CONDITIONS).unlink()
    (folder / "base.json").write_text("{}")
    with pytest.raises(UserError, match=f"holds results, but no {CONDITIONS}"):
        keep_to(folder, tiny_sd, options, concepts, 0)
