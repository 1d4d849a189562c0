import huggingface_hub
import pytest
from huggingface_hub import constants

import blocklora_jax.testing.folders as build
from blocklora_jax.checkpoints.diffusers import load_folder, save_folder
from blocklora_jax.checkpoints.hub import HubRepository, LocalFolder, find_source
from blocklora_jax.errors import UserError

REPO, COMMIT = "someone/small-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub's cache with one repository, as a download leaves it."""
    checkpoint = build.make_checkpoint(tmp_path)
    cache = tmp_path / "cache"
    repository = cache / "models--someone--small-model"
    save_folder(repository / "snapshots" / COMMIT, checkpoint)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return checkpoint


def test_a_hub_model_loads_from_the_cache_without_network(hub_cache):
    loaded = load_folder(REPO)
    build.assert_same_params(loaded.params, hub_cache.params)
    assert loaded.name == REPO


def test_a_hub_model_that_is_not_in_the_cache_is_refused(hub_cache):
    with pytest.raises(UserError, match="no network, or HF_HUB_OFFLINE is set"):
        load_folder("someone/other-model")
    with pytest.raises(UserError, match="no network, or HF_HUB_OFFLINE is set"):
        load_folder(REPO, revision="v2")


def test_only_the_files_that_are_needed_are_fetched(hub_cache, monkeypatch):
    requested = []
    fetch = huggingface_hub.snapshot_download

    def record(*args, allow_patterns, **kwargs):
        requested.extend(allow_patterns)
        return fetch(*args, allow_patterns=allow_patterns, **kwargs)

    source = find_source(REPO)
    names = [*source.list_names(), "unet/diffusion_pytorch_model.fp16.safetensors", "v1-5-pruned.ckpt"]
    monkeypatch.setattr(HubRepository, "list_names", lambda self: names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    load_folder(REPO)
    weights = {name for name in requested if name.endswith(("safetensors", "ckpt", "bin"))}
    stem = "diffusion_pytorch_model.safetensors"
    assert weights == {f"unet/{stem}", f"vae/{stem}", "text_encoder/model.safetensors"}
    assert "*" not in requested


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "neither a folder here nor"),
        ("GatedRepoError", "accept its terms"),
        ("RevisionNotFoundError", "no 'someone/small-model' at revision 'v2'"),
        ("HfHubHTTPError", "cannot fetch"),
    ],
)
def test_errors_of_the_hub_become_one_line(monkeypatch, kind, message):
    def refuse(*args, **kwargs):
        raise type(kind, (Exception,), {})("HTTP\nstatus")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refuse)
    with pytest.raises(UserError, match=message) as caught:
        load_folder(REPO, revision="v2")
    assert "\n" not in str(caught.value)


def test_errors_in_our_own_code_are_not_reported_as_errors_of_the_hub(monkeypatch):
    def fail(*args, **kwargs):
        raise TypeError("a bug")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    with pytest.raises(TypeError, match="a bug"):
        load_folder(REPO)


def test_a_folder_a_hub_id_and_neither_are_told_apart(tmp_path):
    assert find_source(tmp_path) == LocalFolder(str(tmp_path), tmp_path)
    assert find_source("owner/name.v1-5", "main") == HubRepository("owner/name.v1-5", "main")
    for path in (tmp_path / "absent", "./owner/name", "~/model", "name", "a/b/c", "", "../model"):
        with pytest.raises(UserError, match="there is no folder"):
            find_source(path)


def test_a_single_file_and_a_revision_of_a_folder_are_refused(tmp_path):
    (tmp_path / "model.ckpt").write_text("")
    with pytest.raises(UserError, match="is a file, but a Diffusers folder"):
        find_source(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="revision"):
        find_source(tmp_path, "main")
