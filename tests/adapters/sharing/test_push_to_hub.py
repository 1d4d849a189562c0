"""Pushing adapters to a stand-in of the hub, and what the repository holds then. There is no network in tests."""

from __future__ import annotations

import dataclasses
import shlex
from io import BytesIO
from pathlib import Path

import jax
import pytest
import yaml
from huggingface_hub import constants
from merge_builders import make_adapter, same_bits
from PIL import Image

import merge
from blocklora_jax import Adapter, UserError
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.sharing.model_card import make_card
from blocklora_jax.adapters.sharing.publication import Publication

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PARTITION = Partition(num_blocks=4, basis="0123456789abcdef", assignment="text")


def described(name: str = "ada", **fields) -> Adapter:
    adapter = make_adapter(name, (1,), Partition(num_blocks=4), digest="a" * 64)
    return dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, **{"base_name": BASE, **fields}))


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_someone")
    hub.put(BASE, {"model_index.json": b"{}"})
    return hub


def files_of(hub, name: str = "someone/ada") -> dict[str, bytes]:
    return hub.repositories["models", name].files


def front_matter(hub) -> dict:
    return yaml.safe_load(files_of(hub)["README.md"].decode().split("---")[1])


def test_what_is_pushed_is_what_is_loaded(logged_in):
    adapter = described()
    assert adapter.push_to_hub("someone/ada") == f"{logged_in.url}/someone/ada"
    loaded = Adapter.load("someone/ada")
    assert loaded.info == adapter.info
    assert jax.tree.all(jax.tree.map(same_bits, loaded.lora, adapter.lora))
    assert not logged_in.repositories["models", "someone/ada"].private


def test_the_files_for_other_programs_are_those_of_an_export(logged_in, tmp_path):
    described().push_to_hub("hub:someone/ada")
    exported = merge.export(described(), tmp_path / "pytorch_lora_weights.safetensors", "kohya", card=False)
    names = [path.relative_to(tmp_path).as_posix() for path in exported]
    assert names[1:] == ["pytorch_lora_weights.ada.safetensors", "pytorch_lora_weights.embeddings/ada.safetensors"]
    held = files_of(logged_in)
    assert {name: held[name] for name in names} == {n: p.read_bytes() for n, p in zip(names, exported, strict=True)}
    assert set(held) == {".gitattributes", "README.md", "adapter.safetensors", *names}


def test_the_card_says_what_the_adapter_is_and_how_to_use_it(logged_in):
    info = dataclasses.replace(described().info, partition=PARTITION, training='{"codewords": "feedfacefeedface"}')
    lora = {"unet": described().lora["unet"]}
    dataclasses.replace(described(), info=info, lora=lora).push_to_hub("someone/ada", license="mit")
    assert front_matter(logged_in) == {
        "tags": ["text-to-image", "stable-diffusion", "lora", "diffusers", "blocklora"],
        "base_model": BASE,
        "instance_prompt": "<ada> man",
        "license": "mit",
        "pipeline_tag": "text-to-image",
        "widget": [{"text": "a photo of <ada> man"}],
        "library_name": "diffusers",
    }
    text = files_of(logged_in)["README.md"].decode()
    for part in (
        "# ada",
        "| slot | `1 of 4; the other adapter needs another one` |",
        "| basis | `0123456789abcdef` |",
        "| codewords | `feedfacefeedface` |",
        f"| base | `{'a' * 64}` |",
        f"blocklora merge hub:someone/ada hub:OWNER/OTHER --model {BASE} --save merged",
        f"pipe = StableDiffusionPipeline.from_pretrained('{BASE}')",
        "pipe.load_lora_weights('someone/ada', weight_name='pytorch_lora_weights.safetensors')",
        "pipe.load_textual_inversion('someone/ada', weight_name='pytorch_lora_weights.ada.safetensors')",
        "Save `pytorch_lora_weights.safetensors` as `ada.safetensors` in `models/loras`",
        "`embedding:ada`",
        "Adapter.load('someone/ada')",
    ):
        assert part in text
    blocks = text.split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")


def test_the_card_of_sdxl_loads_both_parts_of_the_token():
    vectors = described().tokens
    adapter = dataclasses.replace(described(base_family="sdxl"), tokens_2=vectors)
    card = make_card(Path("lora.safetensors"), [adapter], [1.0], "sdxl", publication=Publication("someone/ada"))
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "vectors = load_file(hf_hub_download('someone/ada', 'lora.ada.safetensors'))" in code
    assert code.count("pipe.load_textual_inversion(vectors[") == 2


def test_only_the_kind_of_base_is_named_for_a_lora_of_another_trainer():
    adapter = described(base_name="sd_v1/tag", origin="kohya")
    card = make_card(Path("lora.safetensors"), [adapter], [1.0], "sd1")
    assert "# Or another model of the kind Stable Diffusion 1.x.\n" in card
    assert f"pipe = StableDiffusionPipeline.from_pretrained('{BASE}')\n" in card
    assert "base_model:" not in card


def test_diffusers_finds_the_lora_when_only_the_repository_is_named(logged_in, monkeypatch):
    from diffusers.loaders import lora_base
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin

    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    described().push_to_hub("someone/ada")
    assert set(files_of(logged_in)) > {"adapter.safetensors", "pytorch_lora_weights.ada.safetensors"}
    assert lora_base._best_guess_weight_name("someone/ada").endswith("pytorch_lora_weights.safetensors")
    state, *_ = StableDiffusionLoraLoaderMixin.lora_state_dict("someone/ada")
    assert any("attn2" in key for key in state)


@pytest.mark.filterwarnings("ignore:the card names no base model")
def test_text_from_an_adapter_cannot_run_in_the_commands_of_a_card(logged_in):
    evil = "$(touch x) `y` '; z"
    described(base_name=evil).push_to_hub("someone/ada", license="mit")
    text = files_of(logged_in)["README.md"].decode()
    assert f"--model {shlex.quote(evil)} --save" in text
    assert "base_model" not in front_matter(logged_in)


@pytest.mark.filterwarnings("ignore:the card names no base model")
def test_a_base_that_is_not_on_the_hub_is_not_named(logged_in):
    described(base_name="someone/deleted").push_to_hub("someone/ada")
    assert "base_model" not in front_matter(logged_in)
    described(base_name="folder").push_to_hub("someone/ada", base_model=BASE)
    assert front_matter(logged_in)["base_model"] == BASE
    described(base_name=BASE, origin="kohya").push_to_hub("someone/style", replace=True)
    assert b"base_model" not in files_of(logged_in, "someone/style")["README.md"]
    for name in ("someone/deleted", "a folder"):
        with pytest.raises(UserError, match="no such repository|not the name of a repository"):
            described().push_to_hub("someone/ada", base_model=name)


def test_a_missing_base_is_said(logged_in):
    with pytest.warns(UserWarning, match="the card names no base model: 'folder' is not known as a repository"):
        described(base_name="folder").push_to_hub("someone/ada")


def test_pictures_are_shown_without_what_a_camera_writes(logged_in, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a camera with a place"
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo.jpg", exif=exif)
    described().push_to_hub("someone/ada", pictures=[tmp_path / "photo.jpg"], prompts=["<ada> man at sea", 'a "b" \\'])
    held = files_of(logged_in)
    assert b"camera" not in held["pictures/0.png"]
    assert Image.open(BytesIO(held["pictures/0.png"])).format == "PNG"
    assert "![sample pictures](pictures/0.png)" in held["README.md"].decode()
    assert [each["text"] for each in front_matter(logged_in)["widget"]] == ["<ada> man at sea", 'a "b" \\']
    described().push_to_hub("someone/ada", pictures=[tmp_path / "photo.jpg"])
    assert front_matter(logged_in)["widget"] == [
        {"text": "a photo of <ada> man", "output": {"url": "pictures/0.png"}}
    ], "as many pictures as prompts belong together"
    with pytest.raises(UserError, match="17 pictures are too many"):
        described().push_to_hub("someone/ada", pictures=["x.png"] * 17)
    with pytest.raises(UserError, match="x.png"):
        described().push_to_hub("someone/ada", pictures=[tmp_path / "x.png"])


def test_a_new_version_of_the_same_adapter_is_one_more_commit(logged_in):
    described().push_to_hub("someone/ada", license="mit")
    described(training='{"steps": 9}').push_to_hub("someone/ada", message="more steps")
    commits = logged_in.repositories["models", "someone/ada"].commits
    assert [commit.message for commit in commits] == ["initial commit", "Upload ada", "more steps"]
    assert front_matter(logged_in)["license"] == "mit", "what was stated before is kept"
    assert Adapter.load(f"hub:someone/ada@{commits[1].sha}").info.training == "{}"
    assert Adapter.load("hub:someone/ada").info.training == '{"steps": 9}'


def test_another_adapter_is_replaced_only_if_asked(logged_in, tmp_path):
    described().push_to_hub("someone/ada")
    before = dict(files_of(logged_in))
    others = {
        "holds another adapter, 'ada'": described("bob"),
        "an adapter 'ada' of another base model": described(base_digest="b" * 64),
        "an adapter 'ada' with other slots": described(slots=(2,)),
        "an adapter 'ada' with other blocks": described(partition=None, slots=()),
    }
    for message, other in others.items():
        with pytest.raises(UserError, match=f"someone/ada on the Hugging Face hub .*{message}.*--replace"):
            other.push_to_hub("someone/ada")
    assert files_of(logged_in) == before
    described("bob").push_to_hub("someone/ada", replace=True)
    held = files_of(logged_in)
    assert Adapter.load("someone/ada").name == "bob"
    assert not any("ada." in name and name != "README.md" for name in held if "bob" not in name and "/" in name)
    assert "pytorch_lora_weights.ada.safetensors" not in held
    assert "pytorch_lora_weights.embeddings/bob.safetensors" in held


def test_files_and_cards_of_others_are_replaced_only_if_asked(logged_in):
    for files, message in (
        ({"x.ckpt": b"", "notes.txt": b"mine"}, "holds x.ckpt, which is not this adapter"),
        ({"adapter.safetensors": b"x"}, "holds a file adapter.safetensors that is not an adapter of ours"),
        ({"README.md": b"---\nlicense: mit\n---\n# My own words"}, "has a README.md that was not written by this"),
    ):
        logged_in.put("someone/ada", files)
        with pytest.raises(UserError, match=message):
            described().push_to_hub("someone/ada")
        assert files_of(logged_in) == files
        described().push_to_hub("someone/ada", replace=True)
        assert set(files) <= set(files_of(logged_in)), "what is not of an adapter stays"


def test_a_repository_made_on_the_page_keeps_its_license(logged_in):
    logged_in.put("someone/ada", {"README.md": b"---\r\nlicense: apache-2.0\r\n---\r\n", ".gitattributes": b""})
    described().push_to_hub("someone/ada")
    assert front_matter(logged_in)["license"] == "apache-2.0"
    described().push_to_hub("someone/ada", license="mit")
    assert front_matter(logged_in)["license"] == "mit"


def test_private_means_private(logged_in):
    described().push_to_hub("someone/secret", private=True)
    assert logged_in.repositories["models", "someone/secret"].private
    described(training='{"steps": 9}').push_to_hub("someone/secret")
    assert Adapter.load("someone/secret").info.training == '{"steps": 9}'
    with pytest.raises(UserError, match="or it is private"):
        Adapter.load("someone/secret", token=False)
    described().push_to_hub("someone/ada")
    with pytest.raises(UserError, match="someone/ada is public already"):
        described().push_to_hub("someone/ada", private=True)


def test_what_prevents_a_push_is_one_line(logged_in, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="someone.else/ada.* the token does not allow it"):
        described().push_to_hub("someone.else/ada")
    with pytest.raises(UserError, match="does not accept the token"):
        described().push_to_hub("someone/ada", token="nonsense")
    with pytest.raises(UserError, match="the license 'MY OWN' is not one of the hub's words"):
        described().push_to_hub("someone/ada", license="MY OWN")
    with pytest.raises(UserError, match='the hub refuses the model card: .*"license" must be one of'):
        described().push_to_hub("someone/ada", license="unknown")
    with pytest.raises(UserError, match="write it as owner/name"):
        described().push_to_hub("ada")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot reach someone/ada .* no network, or HF_HUB_OFFLINE is set"):
        described().push_to_hub("someone/ada")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token that may write: log in with `hf auth login`, or set HF_TOKEN"):
        described().push_to_hub("someone/ada")


def test_a_change_at_the_same_time_is_not_overwritten(logged_in, monkeypatch):
    import blocklora_jax.adapters.sharing.push as module

    described().push_to_hub("someone/ada")
    repository = logged_in.repositories["models", "someone/ada"]

    def write(*args):
        repository.add({**repository.files, "notes.md": b"new"}, "somebody else")
        return real(*args)

    real = module._write_files
    monkeypatch.setattr(module, "_write_files", write)
    with pytest.raises(UserError, match="somebody changed it at the same time: try again"):
        described(training='{"steps": 9}').push_to_hub("someone/ada")
    assert repository.commits[-1].message == "somebody else"


def test_a_lora_of_an_unknown_family_needs_it(logged_in, tmp_path: Path):
    lora = {"text_encoder": described().lora["text_encoder"]}
    adapter = dataclasses.replace(described(base_family="", origin="diffusers", partition=None, slots=()), lora=lora)
    with pytest.raises(UserError, match="--family sd1"):
        adapter.push_to_hub("someone/ada")
    assert ("models", "someone/ada") not in logged_in.repositories
    with pytest.warns(UserWarning, match="no base model"):
        adapter.push_to_hub("someone/ada", family="sd1")
