from pathlib import Path

import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HubAddress, is_hub_address, parse_address, parse_repository


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hub:someone/dog", HubAddress("someone/dog")),
        ("someone/dog-v1.5", HubAddress("someone/dog-v1.5")),
        ("hub:someone/dog@v1.0", HubAddress("someone/dog", "", "v1.0")),
        (
            "hub:someone/dog@refs/pr/3/sub/a b.safetensors",
            HubAddress("someone/dog", "sub/a b.safetensors", "refs/pr/3"),
        ),
        (Path("hub:someone/dog/sub/"), HubAddress("someone/dog", "sub")),
    ],
)
def test_an_address_has_a_repository_a_revision_and_a_path(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "hub:", "hub:dog", "hub:/a/b", "hub:a/../b", "hub:a/b/../c", "hub:a/b/.git/c", "hub:a/b@", "hub:a/b\nc"],
)
def test_texts_that_are_no_address_are_refused(text):
    with pytest.raises(UserError, match="must be like hub:owner/name, or hub:owner/name/folder; a revision"):
        parse_address(text)


def test_a_repository_to_write_to_has_no_path_and_no_revision():
    assert parse_repository("hub:someone/dog") == parse_repository("someone/dog") == "someone/dog"
    for text in ("dog", "someone/dog/x", "someone/dog@v1", "hub:", "./dog"):
        with pytest.raises(UserError, match="write it as owner/name"):
            parse_repository(text)


def test_a_file_that_is_called_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_address("hub:a/b")
    Path("hub:a").mkdir()
    Path("hub:a/b").touch()
    assert not is_hub_address("hub:a/b")
