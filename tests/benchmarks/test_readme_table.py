"""The tables of README and docs show the results in docs/, line by line. They were measured on the packaged model."""

import json
from pathlib import Path

import pytest

from benchmarks.modular.__main__ import gather
from benchmarks.modular.core.evaluate import CONDITIONS
from benchmarks.modular.core.methods import RECIPES
from benchmarks.modular.core.report import SHORT, by_name, markdown, summarise
from benchmarks.modular.options import Options
from benchmarks.modular.pocket.concepts import draw_concepts
from benchmarks.modular.worlds.table import POCKET
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import parse_args

ROOT = Path(__file__).parents[2]


# The rows of the README's table, and the seeds that they are means of.
HEADLINE_SEEDS = (4, 5, 6)
HEADLINE = {
    "**the defaults**: 64 blocks, token side": "token",
    "the defaults, then a fit": "token_fit",
    "one shared block, erasure": "wide_3",
    "one shared block, erasure, then a fit": "wide_3_fused",
    "LoRAs, summed at the best strength": "sum",
    "LoRAs, then a fit": "plain_fused",
    "LoRAs, gradient fusion (Mix-of-Show)": "fusion",
    "Orthogonal Adaptation": "orthogonal",
}


def test_the_readmes_table_is_that_of_the_published_results():
    options = Options(out=ROOT / "docs" / "token_side", seeds=HEADLINE_SEEDS, methods=tuple(HEADLINE.values()))
    results = gather(options)
    names = {c.name for c in draw_concepts(15, HEADLINE_SEEDS[0]) if c.kind in POCKET.groups["individuals"]}
    rows = {row["method"]: row for row in summarise(*by_name(results.alone, results.merged, results.base, names))}
    lines = []
    for label, method in HEADLINE.items():
        mean = {name: rows[method][name][0] for name in ("identity_alone", "identity", "drift")}
        kept, low, high = rows[method]["identity_retention"]
        cells = f"{mean['identity_alone']:.3f} | {mean['identity']:.3f} | {kept:.3f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {label} | {cells} | {mean['drift']:.3f} |\n")
    table = (ROOT / "README.md").read_text().partition("<!-- headline table -->\n")[2].partition("\n\n")[0] + "\n"
    assert "".join(lines) == table.partition("|---|---|---|---|---|\n")[2]


def test_the_readme_has_fewer_than_900_words():
    assert len((ROOT / "README.md").read_text().split()) < 900


def test_the_table_of_three_seeds_is_that_of_its_published_results():
    folder = ROOT / "docs" / "fifteen"
    options = Options(out=folder, counts=(1, 15), seeds=(0, 1, 2), methods=(
        "wide", "wide_fused", "wide_3", "wide_3_fused", "blocklora_1", "orthogonal",
        "sum", "average", "ties", "dare", "fusion", "plain_fused",
    ))  # fmt: skip
    results = gather(options)
    names = {c.name for c in draw_concepts(15, 0) if c.kind in POCKET.groups["individuals"]}
    rows = summarise(*by_name(results.alone, results.merged, results.base, names))
    table = markdown(rows, 15, POCKET.ceiling, SHORT)
    assert table in (ROOT / "docs" / "results" / "fifteen.md").read_text()
    assert table in (folder / "table.md").read_text()


def test_the_table_of_the_token_side_is_that_of_its_published_results():
    options = Options(out=ROOT / "docs" / "token_side", seeds=HEADLINE_SEEDS, methods=(
        "token", "token_fit", "token_16", "token_16_fit", "text_64", "wide_3", "wide_3_fused",
        "sum", "plain_fused", "fusion", "orthogonal",
    ))  # fmt: skip
    results = gather(options)
    names = {c.name for c in draw_concepts(15, 4) if c.kind in POCKET.groups["individuals"]}
    rows = summarise(*by_name(results.alone, results.merged, results.base, names))
    assert markdown(rows, 15, POCKET.ceiling, SHORT) in (ROOT / "docs" / "token_side.md").read_text()


@pytest.mark.parametrize(
    ("folder", "count", "seeds", "methods"),
    [
        ("token_side_sixty", 60, (4, 5), ("token", "token_fit", "wide_3", "wide_3_fused")),
        ("tuned_tokens/sixty", 60, (4, 5), ("token", "token_tuned", "token_fit", "token_fit_strong")),
        ("tuned_tokens/sixty", 60, (4,), ("token", "token_fit_strong", "token_fit_unseen", "orthogonal_8")),
        ("tuned_tokens/fifteen", 15, (4, 5), ("token", "token_tuned", "token_fit", "token_fit_strong")),
        (
            "tuned_tokens/hundred_twenty",
            120,
            (4,),
            ("token_128", "token_128_tuned", "token_128_fit", "token_128_fit_strong"),
        ),
    ],
)
def test_the_tables_of_large_merges_and_tuned_tokens_are_of_their_published_results(folder, count, seeds, methods):
    options = Options(out=ROOT / "docs" / folder, counts=(count,), seeds=seeds, methods=methods)
    results = gather(options)
    names = {c.name for c in draw_concepts(count, 4) if c.kind in POCKET.groups["individuals"]}
    rows = summarise(*by_name(results.alone, results.merged, results.base, names))
    assert markdown(rows, count, POCKET.ceiling, SHORT) in (ROOT / "docs" / "token_side.md").read_text()


def test_the_published_results_are_of_the_packaged_model():
    files = sorted((ROOT / "docs").glob(f"**/seed-*/results/{CONDITIONS}"))
    folders = {file.parents[2].relative_to(ROOT / "docs").as_posix() for file in files}
    assert folders == {
        "fifteen", "sixty", "token_side", "token_side_sixty", "tuned_tokens/fifteen", "tuned_tokens/hundred_twenty",
        "tuned_tokens/sixty",
        "ordinary_loras", "ordinary_loras/conversion",
        "ordinary_loras/all_attention", "ordinary_loras/sixty",
    }  # fmt: skip
    digest = params_digest(StableDiffusion.from_pretrained("pocket").params)
    for file in files:
        assert json.loads(file.read_text())["base"] == digest


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ("feature_blocks", "blocklora_1"),
        ("one_block", "wide"),
        ("one_block_fit", "wide_3"),
        ("text_basis", "quiet"),
        ("token_side_16", "token_16"),
        ("token_side_128", "token_128"),
    ],
)
def test_the_settings_that_the_readme_names_are_those_that_were_measured(config, recipe):
    needed = ["--images", "pics", "--token", "<x>", "--class-noun", "dog", "--out", "run"]
    settings = parse_args([*needed, "--config", config]).settings()
    measured = {"erase_weight" if name == "lambda" else name: value for name, value in RECIPES[recipe].items()}
    if not measured["token_side"]:
        # The term is off.
        measured = {n: v for n, v in measured.items() if n not in ("token_side_margin", "token_side_own")}
    assert {name: settings[name] for name in measured} == measured
