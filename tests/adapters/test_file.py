"""The adapter file: what is read back, what is stored, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from blocklora_jax import Adapter
from blocklora_jax.adapters.file import FORMAT_VERSION, read_header
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params

LAYER = "unet/mid_block/attentions_0/transformer_blocks_0/attn2/to_k"  # kernel [32, 32]


def make_adapter(axis: str | None = "in", **kwargs) -> Adapter:
    partition = Partition(num_blocks=4, axis=axis, seed=7) if axis else None
    adapter = random_adapter(
        "ada", tiny_params(), slots=(1, 2), layers="full+text_encoder", partition=partition, **kwargs
    )
    return replace(adapter, info=replace(adapter.info, kind="person", training=json.dumps({"steps": 3, "images": "ü"})))


def assert_same(actual: Adapter, expected: Adapter, convert=lambda x: x) -> None:
    assert actual.info == expected.info
    assert {c: set(layers) for c, layers in actual.lora.items()} == {
        c: set(layers) for c, layers in expected.lora.items()
    }
    for component, layers in expected.lora.items():
        for path, pair in layers.items():
            for got, want in zip(actual.lora[component][path], pair, strict=True):
                assert got.dtype == np.float32
                np.testing.assert_array_equal(got, convert(want))
    for got, want in ((actual.tokens, expected.tokens), (actual.tokens_2, expected.tokens_2)):
        assert list(got) == list(want)
        for token, vectors in want.items():
            np.testing.assert_array_equal(got[token], convert(vectors))


@pytest.mark.parametrize("axis", ["in", "out", "grid", None])
@pytest.mark.parametrize("vectors", [0, 2])
def test_an_adapter_is_read_back_bit_for_bit(tmp_path, axis, vectors):
    adapter = make_adapter(axis, vectors=vectors)
    adapter.save(tmp_path / "a.safetensors")
    assert_same(Adapter.load(tmp_path / "a.safetensors"), adapter)


def test_an_adapter_of_sdxl_has_vectors_and_layers_for_both_text_encoders(tmp_path):
    adapter = random_adapter("ada", tiny_params(family="sdxl"), slots=(1,), partition=Partition(num_blocks=4))
    adapter.save(tmp_path / "a.safetensors")
    loaded = Adapter.load(tmp_path / "a.safetensors")
    assert_same(loaded, adapter)
    assert set(loaded.lora) == {"unet", "text_encoder", "text_encoder_2"}
    assert (loaded.tokens["<ada>"].shape, loaded.tokens_2["<ada>"].shape) == ((2, 32), (2, 24))
    assert loaded.info.base_family == "sdxl"


def test_a_file_from_before_sdxl_still_loads(tmp_path):
    adapter = make_adapter()
    adapter.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        header = json.loads(file.metadata()["blocklora"])
    older = {name: value for name, value in header.items() if name not in ("tokens_2", "base_family", "origin")}
    metadata = {"blocklora": json.dumps(older)}
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "old.safetensors", metadata=metadata)
    assert_same(Adapter.load(tmp_path / "old.safetensors"), adapter)


def test_bfloat16_rounds_once_and_is_read_back_as_float32(tmp_path):
    adapter = make_adapter()
    adapter.save(tmp_path / "a.safetensors", "bfloat16")
    loaded = Adapter.load(tmp_path / "a.safetensors")
    assert_same(loaded, adapter, lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32))
    loaded.save(tmp_path / "b.safetensors", "bfloat16")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("axis", "a", "b"),
    [("in", (16, 2), (2, 32)), ("out", (32, 2), (2, 16)), ("grid", (16, 2), (2, 16)), (None, (32, 2), (2, 32))],
)
def test_only_the_owned_blocks_are_stored(tmp_path, axis, a, b):
    make_adapter(axis).save(tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors[f"lora/{LAYER}/lora_A"].shape == a
    assert tensors[f"lora/{LAYER}/lora_B"].shape == b


def test_sixteen_blocks_make_the_file_smaller_than_one_block(tmp_path):
    small, large = (
        random_adapter("ada", tiny_params(), slots=(0,), rank=8, partition=Partition(num_blocks=k, axis="grid"))
        for k in (16, 1)
    )
    small.save(tmp_path / "small")
    large.save(tmp_path / "large")

    def data(name: str) -> int:
        return sum(x.nbytes for x in load_file(tmp_path / name).values())

    assert data("small") * 8 < data("large")


def test_the_header_says_what_is_inside(tmp_path):
    adapter = make_adapter()
    adapter.save(tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert header.pop("shapes")["unet"][LAYER.removeprefix("unet/")] == [32, 32]
    assert header == {
        "format_version": FORMAT_VERSION,
        "name": "ada",
        "class_noun": "man",
        "trigger": "<ada> man",
        "kind": "person",
        "rank": 2,
        "alpha": 3.0,
        "base_name": "small",
        "base_digest": adapter.info.base_digest,
        "base_family": adapter.info.base_family,
        "origin": "",
        "partition": {"num_blocks": 4, "axis": "in", "seed": 7},
        "slots": [1, 2],
        "training": {"steps": 3, "images": "ü"},
        "tokens": {"<ada>": 2},
        "tokens_2": {},
    }


def rewrite(path, tensors=lambda t: t, **header) -> None:
    """Replace tensors and header fields of an adapter file."""
    old, stored = read_header(path), load_file(path)
    save_file(tensors(stored), path, metadata={"blocklora": json.dumps({**old, **header})})


@pytest.fixture
def path(tmp_path):
    make_adapter().save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no adapter file .*nothing.safetensors"):
        Adapter.load(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match="there is no adapter file"):
        Adapter.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200, -8])
def test_a_truncated_file_is_named(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="a.safetensors is not a complete safetensors file"):
        Adapter.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"blocklora": "not json"}, {"blocklora": "[]"}])
def test_another_safetensors_file_is_refused(path, metadata):
    save_file({"x": np.zeros(2, np.float32)}, path, metadata=metadata)
    for read in (Adapter.load, read_header):
        with pytest.raises(UserError, match="not a blocklora adapter"):
            read(path)


def test_a_newer_format_says_what_to_update(path):
    rewrite(path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(UserError, match=f"format {FORMAT_VERSION + 1}.*update blocklora_jax"):
        Adapter.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != f"lora/{LAYER}/lora_A"},
            "attn2/to_k has lora_A, lora_B of shapes",
        ),
        (lambda t: t | {f"lora/{LAYER}/lora_B": np.zeros((2, 31), np.float32)}, r"\(2, 31\).*expected"),
        (lambda t: t | {"lora/unet/more/lora_A": np.zeros(2)}, "lora/unet/more/lora_A is not expected"),
        (lambda t: {k: v for k, v in t.items() if not k.startswith("tokens/")}, "tokens/<ada> is missing"),
        (lambda t: t | {"tokens/<ada>": np.zeros((3, 32))}, r"tokens/<ada> .* not \[2, d\]"),
        (lambda t: t | {"tokens/<ada>": np.zeros(2)}, r"tokens/<ada> .* not \[2, d\]"),
    ],
)
def test_tensors_that_do_not_fit_the_header_are_named(path, change, message):
    rewrite(path, change)
    with pytest.raises(UserError, match=f"(?s)does not fit its own header.*{message}"):
        Adapter.load(path)


def test_all_tensors_that_do_not_fit_are_in_one_message(path):
    rewrite(path, lambda t: {f"{key}x": value for key, value in t.items()})
    with pytest.raises(UserError) as error:
        Adapter.load(path)
    assert str(error.value).count("is not expected") == len(load_file(path))


@pytest.mark.parametrize(
    "header",
    [
        {"slots": [9]},
        {"slots": []},
        {"partition": {"blocks": 4}},
        {"shapes": {"unet": 3}},
        {"tokens": None},
        {"rank": 0},
        {"kind": "banana"},
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(path, header):
    rewrite(path, **header)
    with pytest.raises(UserError, match="a.safetensors"):
        Adapter.load(path)


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(UserError, match="'float16'; choose float32 or bfloat16"):
        make_adapter().save(tmp_path / "a.safetensors", "float16")


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match="cannot write .*No space left"):
        make_adapter(vectors=0).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


WRONG = (None, True, 3.5, "x" * 5000, [], {}, [[1]], "a\x1b[31m", "a\nb", -(10**9), 10**12)
FIELDS = {
    "name": (*WRONG, "", "../../escaped", "/tmp/escaped", "\ud800"),
    "class_noun": WRONG,
    "trigger": WRONG,
    "base_name": WRONG,
    "base_digest": (*WRONG, "abc"),
    "base_family": (*WRONG, "sd9"),
    "origin": (*WRONG, "other"),
    "rank": (None, True, 2.5, "2", [2], 0, -1, 10**9),
    "alpha": (None, True, "1", [1.0], 1e300, float("nan"), float("inf")),
    "slots": (None, True, 1, "1", [1.5], [True], [-1], [1, 1], [10**9], {}),
    "training": (None, 1, "x", []),
    "tokens": (None, 1, [], {"<ada>": 0}, {"<ada>": -1}, {"<ada>": 10**9}, {"<ada>": "2"}, {"ada": 2}, {"<a\nb>": 2}),
    "format_version": (None, True, 1.5, "1", [], 0),
    "partition": (
        1, "x", [],
        {"num_blocks": 10**9, "axis": "in", "seed": 0},
        {"num_blocks": 0, "axis": "in", "seed": 0},
        {"num_blocks": 3.7, "axis": "in", "seed": 0},
        {"num_blocks": 4, "axis": "on", "seed": 0},
        {"num_blocks": 4, "axis": "in", "seed": "0"},
        {"num_blocks": 4, "axis": "in", "seed": 0, "basis": "../x"},
        {"num_blocks": 4, "axis": "in", "seed": 0, "more": 1},
    ),
    "shapes": (
        None, 1, [], {"unet": {"a": [10**12, 4]}}, {"unet": {"a": [0, 4]}}, {"unet": {"a": [4]}},
        {"unet": {"../a": [4, 4]}},
        {"other": {}}, {"unet": {"a": [4, 4.5]}},
    ),
    "unknown": (1,),
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in FIELDS.items() for v in values])
def test_every_field_of_the_header_has_a_type_and_bounds(path, field, value):
    rewrite(path, **{field: value})
    with pytest.raises(UserError, match="a.safetensors") as error:
        Adapter.load(path)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("missing", ["name", "rank", "alpha", "partition", "slots", "shapes", "tokens", "training"])
def test_a_missing_field_is_named(path, missing):
    header, tensors = read_header(path), load_file(path)
    del header[missing]
    save_file(tensors, path, metadata={"blocklora": json.dumps(header)})
    with pytest.raises(UserError, match=f"a.safetensors.*{missing}"):
        Adapter.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": 1, "format_version": 1}'])
def test_a_header_that_is_nested_deeply_or_has_a_key_twice_is_refused(path, text):
    save_file(load_file(path), path, metadata={"blocklora": text})
    with pytest.raises(UserError, match="a.safetensors"):
        Adapter.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", [f"lora/{LAYER}/lora_A", "tokens/<ada>"])
def test_numbers_that_are_not_finite_are_refused(path, value, key):
    def spoil(tensors):
        tensors[key][0, 0] = value
        return tensors

    rewrite(path, spoil)
    with pytest.raises(UserError, match=f"{key} has values that are not finite"):
        Adapter.load(path)
    adapter = make_adapter()
    adapter.tokens["<ada>"][0, 0] = value
    with pytest.raises(UserError, match="not finite"):
        adapter.save(path)


@pytest.mark.parametrize("place", [-1, -100, 0.5])
def test_a_flipped_bit_in_the_numbers_is_noticed(path, place):
    data = bytearray(path.read_bytes())
    data[place if isinstance(place, int) else int(place * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="a.safetensors is damaged"):
        Adapter.load(path)
    Adapter.load(path, verify=False)


def test_equal_adapters_are_equal_files(tmp_path):
    for name in ("a", "b"):
        make_adapter().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
