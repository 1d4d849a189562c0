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
    # Adapter files hold the digest, so it must never change.
    params = {
        "unet": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "text_encoder": {"b": np.ones(2, np.float32)},
    }
    assert params_digest(params) == "8d078a2a61a781c693df064d1a3ddf4d9787008ef177c1f96da8d3286cdb3abb"


def test_digest_does_not_read_all_values():
    # These would be four terabytes if they were read.
    params = {"unet": {"kernel": np.broadcast_to(np.float32(1), (1_000_000, 1_000_000))}, "text_encoder": {}}
    assert len(params_digest(params)) == 64


def test_digest_sees_a_change_of_a_kernel_that_reaches_a_sixteenth_of_its_rows():
    params = make_params()
    params["unet"]["wide"] = np.zeros((768, 320), np.float32)
    before = params_digest(params)
    params["unet"]["wide"][96:144] += 0.01
    assert params_digest(params) != before


def test_digest_works_without_a_text_encoder():
    params = make_params()
    del params["text_encoder"]
    assert params_digest(params) != params_digest(make_params())
