"""Safetensors are written and read, and a digest reveals damage."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from blocklora_jax.errors import UserError
from blocklora_jax.io.tensor_digest import DIGEST_KEY, tensors_digest
from blocklora_jax.io.tensor_file import open_tensors, save_tensors

TENSORS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "half": np.ones((3,), np.float16),
    "bfloat": np.ones((2, 1), ml_dtypes.bfloat16),
    "scalar": np.asarray(2.0, np.float64),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def path(tmp_path):
    save_tensors(tmp_path / "a.safetensors", TENSORS, {"b": "ü\n", "a": "1"})
    return tmp_path / "a.safetensors"


def read(path, **options):
    with open_tensors(path, **options) as file:
        return file.read_all()


def test_the_safetensors_library_reads_what_we_write(path):
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        np.testing.assert_array_equal(loaded[key], tensor)
        assert loaded[key].dtype == tensor.dtype
        np.testing.assert_array_equal(read(path)[key], tensor)


def test_equal_tensors_and_texts_are_equal_bytes_in_whatever_order(path, tmp_path):
    again = dict(reversed([(key, tensor.copy()) for key, tensor in TENSORS.items()]))
    save_tensors(tmp_path / "b.safetensors", again, {"a": "1", "b": "ü\n"})
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_every_flipped_bit_of_a_file_is_noticed(path):
    good, plain = path.read_bytes(), read(path)
    with open_tensors(path) as file:
        texts = file.metadata
    accepted = 0
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            with open_tensors(path) as file:
                tensors, found = file.read_all(), file.metadata
        except UserError:
            continue
        # A change without meaning (another kind of space in the header) may be accepted. The content is then the same.
        accepted += 1
        assert {key: found[key] for key in "ab"} == {key: texts[key] for key in "ab"}
        for key, tensor in plain.items():
            np.testing.assert_array_equal(tensors[key], tensor)
    assert accepted < 20  # in the padding, and in the name of the entry that holds the digest


def test_a_file_that_was_edited_on_purpose_is_read_on_request(path):
    tensors = read(path)
    save_file({**tensors, "half": tensors["half"] * 2}, path, metadata={DIGEST_KEY: "0" * 64})
    with pytest.raises(UserError, match="a.safetensors is damaged.*--no-verify"):
        read(path)
    np.testing.assert_array_equal(read(path, verify=False)["half"], 2)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.bool_, np.int64])
def test_weights_of_whole_numbers_are_refused(path, dtype):
    save_file({"x": np.ones(2, np.float32), "y": np.ones(2, dtype)}, path)
    with pytest.raises(UserError, match="y is .*tensors must be BF16, F16, F32, F64"):
        read(path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "C64", "NEW"])
def test_types_that_numpy_lacks_are_named(path, dtype):
    size = 16 if dtype == "C64" else 1 if dtype == "F4" else 2
    header = json.dumps({"y": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    with pytest.raises(UserError, match="y is|not a complete safetensors"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04rest", "may run code"),
        (b"\x80\x02}q", "pickle"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\xff" * 100, "not a complete safetensors file"),
        # The first byte is that of a pickle.
        (struct.pack("<Q", 128) + b'{"x":', "not a complete safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a complete safetensors file"),
        (struct.pack("<Q", 10**6) + b"[" * 10**6, "not a complete safetensors file"),
    ],
)
def test_the_error_for_another_file_names_its_kind(path, content, words):
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(path)


def test_names_of_any_length_are_not_read(tmp_path):
    name = "lora_unet_" * 100_000
    save_file({name: np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a name of 1000000 characters \(lora_unet_.*…\)"):
        read(tmp_path / "a.safetensors")


def test_only_ordinary_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, words in (
        (tmp_path / "pipe", "not an ordinary file"),
        (tmp_path / "loop", "there is no|cannot read"),
        ("/dev/zero", "not an ordinary file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "nothing", "there is no file"),
        ("nul\0", "cannot read|there is no"),
    ):
        with pytest.raises(UserError, match=words):
            read(path)


def test_a_digest_depends_on_names_types_shapes_and_bytes():
    one = {"a": np.zeros((2, 3), np.float32)}
    others = [{"b": one["a"]}, {"a": one["a"].T}, {"a": np.zeros((2, 3), np.float64)}, {"a": one["a"] + 1}, {}]
    digests = {tensors_digest(tensors) for tensors in (one, *others)}
    assert len(digests) == 6
    assert tensors_digest({"a": np.zeros((2, 3), np.float32, order="F")}) == tensors_digest(one)


def test_mapped_tensors_equal_copied_ones(path) -> None:
    with open_tensors(path) as file:
        mapped = dict(file.tensors(mapped=True))
        copied = dict(file.tensors())
    assert mapped.keys() == copied.keys() == TENSORS.keys()
    for key, tensor in mapped.items():
        assert tensor.dtype == copied[key].dtype
        np.testing.assert_array_equal(tensor, TENSORS[key])


def test_mapped_tensors_may_start_anywhere_in_the_file(tmp_path) -> None:
    # Files of other programs need not pad their header.
    tensors, path = {"a": np.arange(5, dtype=np.float32)}, tmp_path / "a.safetensors"
    text = json.dumps({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}).encode()
    text += b" " * (1 + -len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors["a"].tobytes())
    with open_tensors(path) as file:
        np.testing.assert_array_equal(dict(file.tensors(mapped=True))["a"], tensors["a"])


def test_damage_is_found_in_mapped_tensors(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with open_tensors(path) as file, pytest.raises(UserError, match="damaged"):
        dict(file.tensors(mapped=True))
