"""A merge from disk to disk is the folder that is written from memory, byte for byte."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.errors import UserError
from blocklora_jax.io.tensor_file import save_tensors
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.stream import merge_streamed

FEATURES, BASIS = Partition(num_blocks=4), Partition(num_blocks=4, basis="0" * 16, assignment="text")


def contents(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_adapters(sd, folder, partition=FEATURES, layers="attention+text_encoder"):
    paths = []
    for i, name in enumerate(("eve", "ada", "bob")):
        adapter = random_adapter(name, sd.params, slots=(i,), layers=layers, partition=partition, size=0.1)
        adapter.save(folder / f"{name}.safetensors")
        paths.append(folder / f"{name}.safetensors")
    return paths


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("family", "partition"), [("tiny_sd", FEATURES), ("tiny_sd", BASIS), ("tiny_xl", BASIS)])
def test_the_folder_is_that_of_a_merge_in_memory(request, tmp_path, family, partition, dtype):
    sd = request.getfixturevalue(family)
    files = write_adapters(sd, tmp_path, partition, "cross_kv+text_encoder" if partition is BASIS else "full")
    words = [*map(str, files), "--model", str(sd.checkpoint.source), "--weights", "1", "0.5", "2", "--dtype", dtype]
    main([*words, "--save", str(tmp_path / "memory")])
    main([*words, "--save", str(tmp_path / "stream"), "--stream"])
    assert contents(tmp_path / "stream") == contents(tmp_path / "memory")


def test_adapters_without_blocks_are_summed_in_the_same_order(tiny_sd, tmp_path):
    files = write_adapters(tiny_sd, tmp_path, None)
    words = [*map(str, files), "--model", str(tiny_sd.checkpoint.source), "--allow-overlap"]
    main([*words, "--save", str(tmp_path / "memory")])
    main([*words, "--save", str(tmp_path / "stream"), "--stream"])
    assert contents(tmp_path / "stream") == contents(tmp_path / "memory")


def test_names_weights_and_damaged_files_of_a_library_are_those_of_a_merge_in_memory(tiny_sd, tmp_path, capsys):
    loras = tmp_path / "loras"
    damaged = write_adapters(tiny_sd, loras)[2]
    main(["library", "scan", str(loras)])
    text = (loras / "library.yaml").read_text()
    for old, new in (("name: ada", "name: adalovelace"), ("class_noun: man", "class_noun: boy"), ("1.0", "0.5")):
        text = text.replace(f"\n  {old}" if ":" in old else old, f"\n  {new}" if ":" in new else new, 1)
    (loras / "library.yaml").write_text(text)
    state = damaged.stat()
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"hurt")
    os.utime(damaged, ns=(state.st_atime_ns, state.st_mtime_ns))  # so that the damage is found when it is read
    words = [str(loras), "--model", str(tiny_sd.checkpoint.source)]
    for how, more in (("memory", []), ("stream", ["--stream"])):
        with pytest.raises(UserError, match="1 of 3 files cannot be used: .*bob"):
            main([*words, *more, "--save", str(tmp_path / how)])
        capsys.readouterr()
        main([*words, *more, "--save", str(tmp_path / how), "--skip-unusable"])
        assert "left out: " in capsys.readouterr().err
    assert contents(tmp_path / "stream") == contents(tmp_path / "memory")
    assert b"adalovelace" in contents(tmp_path / "stream")["blocklora.json"]
    save_tensors(loras / "other.safetensors", {"lora_unet_x.lora_down.weight": np.zeros((2, 3), np.float32)}, {})
    with pytest.raises(UserError, match="which cannot be streamed"):
        main(
            [*words[1:], str(loras / "other.safetensors"), "--stream", "--skip-unusable", "--save", str(tmp_path / "x")]
        )


def test_a_concept_can_be_removed_again(tiny_sd, tmp_path):
    files = write_adapters(tiny_sd, tmp_path)
    merge_streamed(tiny_sd.checkpoint.source, files, tmp_path / "three")
    main(["remove", str(tmp_path / "three"), "ada", "--out", str(tmp_path / "two")])
    two = StableDiffusion.from_pretrained(tmp_path / "two")
    merge_streamed(tiny_sd.checkpoint.source, [files[0], files[2]], tmp_path / "fresh")
    assert params_digest(two.params) == params_digest(StableDiffusion.from_pretrained(tmp_path / "fresh").params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": (1,)}, "both own slot 1"),
        ({"name": "bob", "trigger": "<bob> man"}, "both define the token <bob>"),
        ({"base_digest": "f" * 64}, "trained on different models"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused_before_anything_is_written(tiny_sd, tmp_path, change, message):
    files = write_adapters(tiny_sd, tmp_path)
    adapter = random_adapter(change.get("name", "ada"), tiny_sd.params, slots=(0,))
    replace(adapter, info=replace(adapter.info, **change)).save(files[0])
    with pytest.raises(UserError, match=message):
        merge_streamed(tiny_sd.checkpoint.source, files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lora_of_another_program_and_pictures_are_refused(tiny_sd, tmp_path):
    save_tensors(tmp_path / "other.safetensors", {"lora_unet_x.lora_down.weight": np.zeros((2, 3), np.float32)}, {})
    with pytest.raises(UserError, match="a LoRA of another program, which cannot be streamed"):
        merge_streamed(tiny_sd.checkpoint.source, [tmp_path / "other.safetensors"], tmp_path / "out")
    [file, *_] = write_adapters(tiny_sd, tmp_path)
    for more in (["--prompt", "a photo"], ["--save", str(tmp_path / "x.safetensors")], ["--method", "average"]):
        with pytest.raises(UserError, match="--stream"):
            main([str(file), "--save", str(tmp_path / "out"), "--stream", *more])
