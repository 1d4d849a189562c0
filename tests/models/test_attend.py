"""The forms of attention give what the plain form gives, with their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental.pallas import tpu as pltpu

from blocklora_jax.errors import UserError
from blocklora_jax.models import attend as module
from blocklora_jax.models.attend import attend, check_form, chunk_rows, preferred_form
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.testing.tiny_model import TEXT_WIDTH, tiny_models, tiny_params


def inputs(length: int, keys: int, width: int = 12, dtype=jnp.float32):
    shapes = {"q": (2, length, width), "k": (2, keys, width), "v": (2, keys, width)}
    drawn = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes.values()))
    return [x.astype(dtype) for x in drawn]


def values_and_gradients(form, arrays, heads=3):
    def loss(*arrays):
        out = attend(*arrays, heads, form=form)
        return jnp.square(out + 0.5).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [out, *gradients]


@pytest.fixture
def small_chunks(monkeypatch):
    for name in ("CHUNK_SCORES", "CPU_CHUNK_SCORES"):
        monkeypatch.setattr(module, name, 200)
    monkeypatch.setattr(module, "KEPT_SCORES", 0)


# The lengths are not multiples of the chunks.
@pytest.mark.parametrize(("length", "keys"), [(50, 50), (37, 7), (1, 300)])
@pytest.mark.parametrize("chunks", ["_all_heads", "_head_by_head"])
def test_chunks_give_the_values_and_gradients_of_the_plain_form(length, keys, chunks, small_chunks, monkeypatch):
    form = getattr(module, chunks)
    monkeypatch.setitem(module._FORMS, "chunked", lambda q, k, v, is_causal: form(q, k, v))
    arrays = inputs(length, keys)
    assert chunk_rows(length, length * keys, most=200) < max(2, length)
    for chunked, plain in zip(
        values_and_gradients("chunked", arrays), values_and_gradients("plain", arrays), strict=True
    ):
        np.testing.assert_allclose(chunked, plain, atol=1e-5)  # the largest entries are about 10


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_chunks_of_one_head_are_used_on_cpus_only(dtype, small_chunks):
    arrays = inputs(50, 50, dtype=dtype)
    attention = jax.jit(lambda *x: attend(*x, 3, form="chunked"))
    # Scores of 4 queries of one head, and of one query of all heads.
    for platform, scores in (("cpu", "tensor<4x50xf32>"), ("cuda", "x3x1x50xf32>")):
        assert scores in export.export(attention, platforms=[platform])(*arrays).mlir_module()


def test_the_chunked_form_never_holds_all_scores(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", 2**20)
    q, k, v = (jax.ShapeDtypeStruct((1, 2048, 16), jnp.float32),) * 3

    def temporaries(form):
        gradient = jax.jit(jax.grad(lambda q, k, v: attend(q, k, v, 4, form=form).sum(), argnums=(0, 1, 2)))
        return gradient.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    scores = 4 * 2048 * 2048 * 4
    assert temporaries("plain") > scores
    # A sixteenth of the queries in a chunk: its scores, softmax and gradients.
    assert temporaries("chunked") < scores / 3


def test_few_scores_are_computed_at_once():
    arrays = inputs(16, 16)
    plain = jax.make_jaxpr(lambda *x: attend(*x, 3, form="plain"))(*arrays)
    for form in ("chunked", "auto", "cudnn", "flash"):
        assert str(jax.make_jaxpr(lambda *x, form=form: attend(*x, 3, form=form))(*arrays)) == str(plain)


@pytest.mark.parametrize(
    ("platform", "capability", "form"),
    [("cpu", None, "chunked"), ("gpu", "7.5", "chunked"), ("gpu", "8.0", "cudnn"), ("tpu", None, "flash")],
)
def test_auto_takes_what_the_device_is_best_at(platform, capability, form, monkeypatch):
    class Device:
        pass

    device = Device()
    device.platform, device.compute_capability = platform, capability
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert preferred_form() == form


@pytest.mark.parametrize(
    ("form", "length", "keys", "width", "dtype"),
    [("cudnn", 64, 64, 8, jnp.float32), ("cudnn", 64, 64, 160, jnp.bfloat16), ("cudnn", 64, 64, 12, jnp.bfloat16),
     ("flash", 500, 512, 8, jnp.float32), ("flash", 512, 77, 8, jnp.float32)],
)  # fmt: skip
def test_a_kernel_that_does_not_take_the_shapes_gives_way_to_chunks(form, length, keys, width, dtype, small_chunks):
    arrays = inputs(length, keys, width, dtype)
    found = str(jax.make_jaxpr(lambda *x: attend(*x, 1, form=form))(*arrays))
    assert found == str(jax.make_jaxpr(lambda *x: attend(*x, 1, form="chunked"))(*arrays))


def test_the_setting_reaches_every_attention(monkeypatch):
    models, params, seen = tiny_models(), tiny_params(), []
    monkeypatch.setattr(module, "_fitting", lambda form, *_: seen.append(form) or "plain")
    unet = models.unet.clone(form="chunked")
    assert isinstance(unet, UNet2DConditionModel)
    x, text = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 6, TEXT_WIDTH))
    jax.eval_shape(lambda: unet.apply({"params": params["unet"]}, x, jnp.zeros(1), text))
    jax.eval_shape(lambda: models.vae.clone(form="chunked").apply({"params": params["vae"]}, jnp.zeros((1, 16, 16, 3))))
    assert len(seen) > 4
    assert set(seen) == {"chunked"}


@pytest.mark.parametrize(("form", "platform", "call"), [
    ("chunked", "cpu", "stablehlo.while"),
    ("flash", "tpu", "tpu_custom_call"),
    ("cudnn", "cuda", "__cudnn$fmhaSoftmax"),
])  # fmt: skip
def test_each_form_lowers_for_its_platform_with_its_gradient(form, platform, call, monkeypatch):
    # What JAX asks the device for.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda wanted: float(wanted) <= 8)
    x = jax.ShapeDtypeStruct((1, 4096, 320), jnp.bfloat16)
    gradient = jax.jit(
        jax.grad(lambda q, k, v: attend(q, k, v, 8, form=form).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    )
    kernels = [export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{end}") for end in ("", "Backward")]
    text = export.export(gradient, platforms=[platform], disabled_checks=kernels)(x, x, x).mlir_module()
    assert call in text
    assert "4096x4096x" not in text  # all scores


@pytest.mark.parametrize(("queries", "keys"), [(4096, 77), (4097, 4097)])
def test_cudnn_differentiates_odd_lengths_for_several_concepts(queries, keys, monkeypatch):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda wanted: float(wanted) <= 8)
    q, k = (jax.ShapeDtypeStruct((3, 2, n, 320), jnp.bfloat16) for n in (queries, keys))
    loss = lambda *x: jnp.square(attend(*x, 8, form="cudnn").astype(jnp.float32)).sum()
    gradient = jax.grad(loss, argnums=(0, 1, 2))
    kernels = [export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{end}") for end in ("", "Backward")]
    exported = export.export(jax.jit(jax.vmap(gradient)), platforms=["cuda"], disabled_checks=kernels)(q, k, k)
    assert "__cudnn$fmhaSoftmaxBackward" in exported.mlir_module()
    assert [out.shape for out in exported.out_avals] == [q.shape, k.shape, k.shape]


@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (64, 77), (65, 65)])
def test_the_best_form_of_this_device_gives_the_values_and_gradients_of_the_plain_form(queries, keys, monkeypatch):
    monkeypatch.setattr(module, "KEPT_SCORES", 0)
    arrays = [x.astype(jnp.bfloat16) for x in inputs(queries, keys, width=16)]
    for best, plain in zip(
        values_and_gradients("auto", arrays, heads=2), values_and_gradients("plain", arrays, heads=2), strict=True
    ):
        best, plain = (np.asarray(x, np.float32) for x in (best, plain))
        # Numbers of 8 bits.
        np.testing.assert_allclose(best, plain, atol=0.02 * np.abs(plain).max())


def test_the_kernel_for_tpus_gives_the_values_and_gradients_of_the_plain_form(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", 1000)
    monkeypatch.setattr(module, "KEPT_SCORES", 0)
    arrays = inputs(512, 512, width=6)
    with pltpu.force_tpu_interpret_mode():
        found = values_and_gradients("flash", arrays, heads=2)
    for flash, plain in zip(found, values_and_gradients("plain", arrays, heads=2), strict=True):
        np.testing.assert_allclose(flash, plain, atol=1e-5)


@pytest.mark.parametrize(("form", "needs"), [("cudnn", "an NVIDIA GPU of the Ampere"), ("flash", "a TPU")])
def test_a_kernel_that_the_device_does_not_have_is_refused_in_one_line(form, needs):
    with pytest.raises(UserError, match=f"^--attention {form} needs {needs}.*; this is cpu: leave it out"):
        check_form(form)
    for known in ("auto", "chunked", "plain"):
        check_form(known)
