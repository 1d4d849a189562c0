"""Settings: flags override YAML, which overrides the defaults. Wrong settings are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from concept_builders import make_config

from benchmarks.modular.core.methods import RECIPES
from blocklora_jax.errors import UserError
from train.concept.basis_file import require_basis_file
from train.concept.config import ConceptConfig, parse_args
from train.concept.settings.adapter import AdapterSettings
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions

FLAGS = ["--images", "pics", "--token", "<ada>", "--class-noun", "woman", "--out", "runs/ada"]
ROOT = Path(__file__).parents[3]


def write_yaml(folder: Path, text: str) -> list[str]:
    (folder / "c.yaml").write_text(text)
    return ["--config", str(folder / "c.yaml")]


def test_flags_alone_give_a_configuration():
    config = parse_args([*FLAGS, "--lambda", "2.5", "--slot", "3", "5", "--flip", "--crop", "0.8"])
    assert config.images == Path("pics")
    assert (config.token, config.class_noun, config.name, config.trigger) == ("<ada>", "woman", "ada", "<ada> woman")
    assert (config.erasure.erase_weight, config.adapter.slot, config.data.flip, config.data.crop) == (
        2.5,
        (3, 5),
        True,
        0.8,
    )
    assert config.adapter.rank == AdapterSettings.rank


def test_flags_override_yaml_overrides_defaults(tmp_path):
    text = """
        images: pics
        token: <ada>
        class-noun: old woman
        out: runs/ada
        rank: 4
        learning_rate: 1e-4
        lambda: 0
        flip: true
        alpha: null
        slot: [1, 2]
        layers: attention+text_encoder
        basis: null
        assignment: layer
        token_side: 0
        token_start: noun
        negatives_from: nouns
        random_shares: {negative: 0.25, own-class: 1}
        preview_prompts: ["a photo of <ada> old woman", "a -- dash"]
    """
    config = parse_args([*write_yaml(tmp_path, text), "--rank", "8", "--no-flip", "--slot", "7"])
    assert (config.adapter.rank, config.data.flip, config.adapter.slot) == (8, False, (7,))
    assert (
        config.class_noun,
        config.optimizer.learning_rate,
        config.erasure.erase_weight,
        config.adapter.alpha,
    ) == (
        "old woman",
        1e-4,
        0.0,
        None,
    )
    assert (config.random_shares.negative, config.random_shares.own_class) == (0.25, 1.0)
    assert config.run.preview_prompts == ("a photo of <ada> old woman", "a -- dash")
    assert config.random_rows == 0


def test_a_yaml_file_with_all_settings_gives_the_same_configuration(tmp_path):
    config = parse_args([*FLAGS, "--alpha", "3", "--random-styles", "a photo of", "--slot", "2"])
    values = json.loads(json.dumps(config.to_json()))
    values["lambda"] = values.pop("erase_weight")
    values = {name: value for name, value in values.items() if value != []}
    assert parse_args(write_yaml(tmp_path, yaml.safe_dump(values))) == config


def test_shipped_configs_are_read():
    files = sorted((ROOT / "configs").glob("*.yaml"))
    assert files
    for path in files:
        required = yaml.safe_load(path.read_text())
        if all(isinstance(value, dict) for value in required.values()):
            options = ConceptsOptions(concepts=path, out=Path("runs/x"))
            assert len(read_concepts(options, [])) == len(required)
            continue
        given = {"images": "pics", "token": "<x>", "class_noun": "dog", "out": "runs/x"}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if name not in required]
        assert isinstance(parse_args(["--config", str(path), *flags]), ConceptConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagse: pics", "c.yaml: unknown setting 'imagse'"),
        ("- images", "must be a mapping"),
        ("images: [", "not valid YAML"),
        ("just words", "must be a mapping"),
    ],
)
def test_the_error_for_a_yaml_file_names_it(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        parse_args([*write_yaml(tmp_path, text), *FLAGS])


def test_a_missing_yaml_file_is_named():
    with pytest.raises(UserError, match=r"cannot read nothing\.yaml: No such file"):
        parse_args(["--config", "nothing.yaml"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--token", "ada"], "--token 'ada' must look like '<name>'"),
        (["--token", "<Ada>"], "lower-case"),
        (["--tpu", "--cpu"], "choose one of --tpu, --gpu and --cpu"),
        (["--rank", "0"], "--rank must be at least 1, not 0"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--batch", "-2"], "--batch must be at least 1, not -2"),
        (["--blocks", "-1"], "--blocks must be at least 0, not -1"),
        (["--lambda", "-1"], "--lambda must be at least 0"),
        (["--random-batch", "-1"], "--random-batch must be at least 0"),
        (["--resolution", "0"], "--resolution must be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate must be at least 0"),
        (["--learning-rate", "nan"], "--learning-rate must be at least 0, not nan"),
        (["--clip-norm", "0"], "--clip-norm must be above 0"),
        (["--snr-gamma", "0"], "--snr-gamma must be above 0"),
        (["--pure-noise", "2"], r"--pure-noise must lie in 0\.\.1, not 2\.0"),
        (["--crop", "0"], r"--crop must lie in 0\.1\.\.1, not 0\.0"),
        (["--class-noun", " "], "--class-noun must not be empty"),
        (["--class-noun", "dog\u200b"], r"--class-noun 'dog\\u200b' has invisible characters: write 'dog'"),
        (["--class-noun", "old\u00a0man"], "invisible characters: write 'old man'"),
        (["--class-noun", "old\nman"], "invisible characters: write 'old man'"),
        (
            ["--random-scenes", "in the snow", "on\u00ad a beach"],
            r"--random-scenes .* invisible .*: write 'on a beach'",
        ),
        (["--preview-prompts", "<ada>\u200b man"], "--preview-prompts .* invisible characters"),
        (["--preview-prompts", "<ada>\x1b man"], "control characters"),
        (["--random-shares.negative", "2"], r"negative=2.0 must lie in 0\.\.1"),
        (["--down", "orthogonal"], "--down orthogonal keeps .* without blocks: start from --config one_block"),
        (
            ["--config", "one_block", "--down", "orthogonal", "--slot", "1", "2"],
            "--down orthogonal takes one --slot, not 2",
        ),
        (["--erase", "preserve", "--token-vectors", "0"], "--erase preserve .* give --token-vectors 1 or more"),
        (["--erase", "preserve", "--random-batch", "7"], "--random-batch must be at most --batch 6, not 7"),
    ],
)
def test_bad_values_are_named_with_their_flag(flags, message):
    with pytest.raises(UserError, match=message):
        parse_args([*FLAGS, *flags])


@pytest.mark.parametrize("flags", [["--imagse", "x"], ["--rank", "many"], ["--axis", "rows"], ["extra"]])
def test_unknown_flags_and_values_exit_with_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args([*FLAGS, *flags])
    assert stop.value.code == 2


def test_required_settings_are_asked_for(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args([])
    assert stop.value.code == 2
    assert "--images" in capsys.readouterr().err


def test_a_concept_without_tokens_is_called_by_its_noun():
    assert make_config(token_vectors=0).trigger == "man"


def test_the_number_of_random_rows_depends_on_form_and_layers():
    # Rows of which only the text is read cost little.
    assert make_config(batch=3, layers="cross_kv").random_rows == 12
    assert make_config(batch=3, layers="cross_kv", erase="epsilon").random_rows == 3
    assert make_config(batch=3, layers="attention").random_rows == 3
    assert make_config(batch=3, random_batch=5).random_rows == 5
    assert make_config(erase="none").random_rows == 0
    assert make_config(erase_weight=0.0).random_rows == 0


def test_spaces_of_any_kind_are_fine_in_prompts():
    prompt = "a photo of\n <ada> man"
    assert make_config(preview_prompts=(prompt,)).run.preview_prompts == (prompt,)


def test_the_configuration_can_be_written_as_json():
    values = json.loads(json.dumps(make_config().to_json()))
    assert values["images"] == "pictures"
    assert values["random_shares"]["empty"] == 0.1


def test_the_defaults_are_those_that_the_bench_calls_token():
    defaults = parse_args(["--images", "pics", "--token", "<x>", "--class-noun", "dog", "--out", "run"]).settings()
    recipe = {"erase_weight" if name == "lambda" else name: value for name, value in RECIPES["token"].items()}
    assert {name: defaults[name] for name in recipe} == recipe


def test_a_model_without_a_packaged_basis_is_told_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--images", "pics", "--token", "<x>", "--class-noun", "dog", "--out", "run", "--model", "ann/sd"]
    make = r"python -m train\.basis --model ann/sd --blocks 64 --out basis\.safetensors"
    with pytest.raises(UserError, match=rf"^--model ann/sd needs a basis of .*{make}.* --config one_block$"):
        parse_args(flags)
    config = parse_args([*flags, "--basis", "basis.safetensors"])
    with pytest.raises(UserError, match=rf"^--basis: there is no file basis\.safetensors\. Make it once: {make} "):
        require_basis_file(config.adapter, config.model)
    (tmp_path / "basis.safetensors").touch()
    require_basis_file(config.adapter, config.model)
    assert parse_args([*flags, "--config", "one_block"]).adapter.basis is None
