import jax.numpy as jnp
import numpy as np

from blocklora_jax.checkpoints.digest import params_digest


def make_params(seed=0):
    generator = np.random.default_rng(seed)
    kernel, table = generator.standard_normal((6, 4), np.float32), generator.standard_normal((5, 3), np.float32)
    return {"unet": {"conv": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}, "text_encoder": {"table": table}}


def test_digest_does_not_depend_on_order_layout_or_kind_of_array():
    params = make_params()
    kernel = params["unet"]["conv"]["kernel"]
    other = {
        "vae": {"bias": np.ones(3)},
        "text_encoder": {"table": jnp.asarray(params["text_encoder"]["table"])},
        "unet": {"conv": {"bias": jnp.zeros(4), "kernel": np.asfortranarray(kernel)}},
    }
    assert params_digest(other) == params_digest(params)
    assert len(params_digest(params)) == 64


def test_digest_of_fp16_weights_is_that_of_fp32_weights():
    params = make_params()
    params["unet"]["conv"]["kernel"] = params["unet"]["conv"]["kernel"].astype(np.float16)
    assert params_digest(params) == params_digest(make_params())


def test_digest_sees_values_shapes_and_names():
    digests = {params_digest(make_params()), params_digest(make_params(1))}
    reshaped = make_params()
    reshaped["unet"]["conv"]["kernel"] = reshaped["unet"]["conv"]["kernel"].reshape(4, 6)
    renamed = make_params()
    renamed["unet"]["conv2"] = renamed["unet"].pop("conv")
    digests |= {params_digest(reshaped), params_digest(renamed)}
    assert len(digests) == 4


def test_the_digest_is_the_same_in_every_version():
    # Adapter files carry it: it must never change.
    params = {
        "unet": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "text_encoder": {"b": np.ones(2, np.float32)},
    }
    assert params_digest(params) == "ab8a1b9bae4acfed6472c59ecbb38b5ee62e14fd9621f91d4607a5ac03f1e87b"
