"""Parameters on the device: their precision there, and which stay on the host."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checkpoints.place import place_params
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params


def test_only_kernels_are_rounded_and_components_may_stay_on_the_host():
    params = jax.tree.map(np.asarray, tiny_params())
    placed = place_params(params, jnp.bfloat16, on_host=("vae",))
    for component in params:
        before, after = flatten_params(params[component]), flatten_params(placed[component])
        for path, leaf in after.items():
            is_rounded = component != "vae" and leaf.ndim >= 2 and not path.endswith("token_embedding/embedding")
            assert leaf.dtype == (jnp.bfloat16 if is_rounded else jnp.float32), path
            assert isinstance(leaf, np.ndarray) == (component == "vae")
            # bfloat16 has 8 bits of precision.
            np.testing.assert_allclose(np.asarray(leaf, np.float32), before[path], rtol=2**-8)


def test_a_model_with_rounded_weights_keeps_the_digest_draws_and_is_not_saved(tiny_folder, tmp_path):
    exact = StableDiffusion.from_pretrained(tiny_folder, dtype=jnp.bfloat16)
    rounded = StableDiffusion.from_pretrained(
        tiny_folder, dtype=jnp.bfloat16, weights_dtype=jnp.bfloat16, on_host=("vae",)
    )
    assert rounded.digest == exact.digest == params_digest(exact.params) != params_digest(rounded.params)
    pictures = [sd.generate(["a photo"], steps=2, seed=1).astype(int) for sd in (exact, rounded)]
    # The layers round their kernels to bfloat16 in any case.
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
    adapter = random_adapter("ada", exact.params, slots=(0,))
    with pytest.raises(UserError, match="pass check_base=False if they are only a copy in another precision"):
        rounded.with_adapters([adapter])
    merged = rounded.with_adapters([adapter], check_base=False)
    for model in (rounded, merged):
        with pytest.raises(UserError, match="rounded to bfloat16 when loaded; load .* without weights_dtype"):
            model.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_the_precision_are_refused():
    with pytest.raises(UserError, match="unet/kernel"):
        place_params({"unet": {"unet": {"kernel": np.full((2, 2), 1e6, np.float32)}}}, np.float16)
