"""Multi-head softmax attention, in one of four forms that compute the same.

    plain     all scores at once
    chunked   the scores of some queries at a time, computed again in the backward pass; on CPUs head by head
    cudnn     the fused kernel of cuDNN: NVIDIA GPUs from Ampere on, 16-bit numbers
    flash     the Pallas kernel for TPUs

Scores and softmax are fp32 in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blocklora_jax.errors import UserError
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.models.device import is_ampere

Queries = Float[Array, "b t h d"]
Keys = Float[Array, "b s h d"]

# The largest number of scores that the chunked form holds at once: 32 MiB in fp32. On CPUs 2 MiB, which stay in the
# cache.
CHUNK_SCORES, CPU_CHUNK_SCORES = 2**23, 2**19
# Up to this many scores are kept for the backward pass, in every form: 8 MiB in fp32.
KEPT_SCORES = 2**21
# The head sizes that cuDNN's kernel takes on all GPUs from Ampere on.
_CUDNN_HEAD, _CUDNN_STEP = 128, 8
# The TPU kernel works on tiles of this many positions, and of this many numbers of a head.
_FLASH_TILE, _FLASH_HEAD = 512, 128


def attend(
    query: Float[Array, "b t d"],
    key: Float[Array, "b s d"],
    value: Float[Array, "b s d"],
    num_heads: int,
    is_causal: bool = False,
    form: AttentionForm = "auto",
) -> Float[Array, "b t d"]:
    """Multi-head softmax attention: softmax(q k^T / sqrt(d / heads)) v.

    form: "auto" takes what the default device is best at. A form that does not take these shapes or this dtype is
    replaced by the chunked one.
    """
    q, k, v = (x.reshape(*x.shape[:2], num_heads, -1) for x in (query, key, value))
    return _FORMS[_fitting(form, q, k, is_causal)](q, k, v, is_causal).reshape(query.shape)


def _fitting(form: AttentionForm, q: Queries, k: Keys, is_causal: bool) -> str:
    """The form that is used. Few scores are always computed in the plain form: they need no more memory."""
    if form == "auto":
        form = preferred_form()
    if scores(q, k) <= KEPT_SCORES or is_causal:
        return "plain"
    if form == "cudnn" and not (
        q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % _CUDNN_STEP == 0 and q.shape[-1] <= _CUDNN_HEAD
    ):
        return "chunked"
    if form == "flash" and (q.shape[1] % _FLASH_TILE or k.shape[1] % _FLASH_TILE):
        return "chunked"
    return form


def scores(q: Queries, k: Keys) -> int:
    """The number of scores of all heads."""
    batch, length, heads, _ = q.shape
    return batch * heads * length * k.shape[1]


def preferred_form() -> AttentionForm:
    """The form for the default device: cudnn on NVIDIA GPUs from Ampere on, flash on TPUs, else chunked."""
    device = jax.devices()[0]
    if device.platform == "tpu":
        return "flash"
    return "cudnn" if is_ampere(device) else "chunked"


def check_form(form: AttentionForm) -> None:
    """Raises UserError for a kernel that the default device does not have."""
    device, best = jax.devices()[0], preferred_form()
    if form in ("cudnn", "flash") and form != best:
        needs = {"cudnn": "an NVIDIA GPU of the Ampere generation or later", "flash": "a TPU"}[form]
        raise UserError(f"--attention {form} needs {needs}; this is {device.device_kind}: leave it out, or give auto")


def _plain(q: Queries, k: Keys, v: Keys, is_causal: bool) -> Queries:
    return jax.nn.dot_product_attention(q, k, v, is_causal=is_causal)


def _chunked(q: Queries, k: Keys, v: Keys, is_causal: bool) -> Queries:
    """Attention for chunks of queries, one after the other. The backward pass recomputes the scores of each chunk.

    On CPUs a chunk has queries of one head, because a few large matrices are slower there than many that fit the cache.
    """
    assert not is_causal
    return jax.lax.platform_dependent(q, k, v, cpu=_head_by_head, default=_all_heads)


def _all_heads(q: Queries, k: Keys, v: Keys) -> Queries:
    rows = chunk_rows(q.shape[1], scores(q, k), CHUNK_SCORES)
    out = jax.lax.map(_recomputed(lambda chunk: _plain(chunk, k, v, False)), _in_chunks(q, rows))
    return _joined(out, q.shape[1])


def _head_by_head(q: Queries, k: Keys, v: Keys) -> Queries:
    rows = chunk_rows(q.shape[1], q.shape[1] * k.shape[1], CPU_CHUNK_SCORES)

    def one(query: Float[Array, "t d"], key: Float[Array, "d s"], value: Float[Array, "d s"]) -> Float[Array, "t d"]:
        weights = jax.nn.softmax(_logits(query, key) / math.sqrt(len(key)), axis=-1).astype(value.dtype)
        return jnp.einsum("ts,ds->td", weights, value)

    def head(inputs: tuple[jax.Array, jax.Array, jax.Array]) -> Float[Array, "n t d"]:
        queries, key, value = inputs
        return jax.lax.map(_recomputed(lambda chunk: one(chunk, key, value)), queries)

    batch, _, heads, _ = q.shape
    queries = jnp.transpose(_in_chunks(q, rows), (1, 3, 0, 2, 4))  # b h n t d
    keys, values = (jnp.transpose(x, (0, 2, 3, 1)) for x in (k, v))  # b h d s
    flat = [x.reshape(batch * heads, *x.shape[2:]) for x in (queries, keys, values)]
    out = jax.lax.map(head, tuple(flat)).reshape(queries.shape)
    return _joined(jnp.transpose(out, (2, 0, 3, 1, 4)), q.shape[1])


@jax.custom_vjp
def _logits(query: Float[Array, "t d"], key: Float[Array, "d s"]) -> Float[Array, "t s"]:
    """The product of queries and keys in fp32, with the gradient of the keys as [d, s].

    JAX would form it as [s, d] and transpose it, which takes twice as long.
    """
    return jnp.matmul(query, key, preferred_element_type=jnp.promote_types(query.dtype, jnp.float32))


def _logits_forward(query: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _logits(query, key), (query, key)


def _logits_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    query, key = kept
    return (gradient @ key.T).astype(query.dtype), (query.T @ gradient).astype(key.dtype)


_logits.defvjp(_logits_forward, _logits_backward)


def _recomputed(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    # Within a loop, nothing can be merged with the forward pass.
    return jax.checkpoint(function, prevent_cse=False)


def _in_chunks(q: Queries, rows: int) -> Float[Array, "n b {rows} h d"]:
    """Of `rows` queries each; the last is filled up with zeros."""
    batch, length, heads, width = q.shape
    count = -(-length // rows)
    padded = jnp.pad(q, ((0, 0), (0, count * rows - length), (0, 0), (0, 0)))
    return jnp.moveaxis(padded.reshape(batch, count, rows, heads, width), 1, 0)


def _joined(chunks: Float[Array, "n b r h d"], length: int) -> Queries:
    """The inverse of `_in_chunks`."""
    count, batch, rows, *rest = chunks.shape
    return jnp.moveaxis(chunks, 0, 1).reshape(batch, count * rows, *rest)[:, :length]


def chunk_rows(length: int, all_scores: int, most: int) -> int:
    """The number of queries in a chunk: `length` in equal parts, of at most `most` scores each.

    >>> chunk_rows(4096, 4096 * 4096 * 8, most=2**23)
    256
    """
    parts = max(1, math.ceil(all_scores / most))
    return max(1, math.ceil(length / parts))


def _cudnn(q: Queries, k: Keys, v: Keys, is_causal: bool) -> Queries:
    """The kernel of cuDNN. It differentiates only even lengths: an odd one gets a position that is not read."""
    kernel = partial(jax.nn.dot_product_attention, is_causal=is_causal, implementation="cudnn")
    length, keys = q.shape[1], k.shape[1]
    if length % 2 == 0 and keys % 2 == 0:
        return kernel(q, k, v)
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    out = kernel(q, k, v, query_seq_lengths=_lengths(q, length), key_value_seq_lengths=_lengths(q, keys))
    return out[:, :length]


def _lengths(q: Queries, length: int) -> Int[Array, " b"]:
    """`length` for each row.

    It is computed from `q`: before 0.11 JAX wants a length for each of all rows under `vmap`, and a constant has no
    such rows.
    """
    return length + jnp.int32(0) * jnp.isnan(q[:, 0, 0, 0])


def _flash(q: Queries, k: Keys, v: Keys, is_causal: bool) -> Queries:
    """The TPU kernel. Heads are padded with zeros to the width of its tiles, which changes no score."""
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention

    width = q.shape[-1]
    pad = -width % _FLASH_HEAD
    q, k, v = (jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, 0), (0, pad))) for x in (q, k, v))
    names = BlockSizes.__dataclass_fields__
    sizes = BlockSizes(**{name: 1 if name == "block_b" else _FLASH_TILE for name in names})
    out = flash_attention(q, k, v, causal=is_causal, sm_scale=width**-0.5, block_sizes=sizes)
    return jnp.swapaxes(out, 1, 2)[..., :width]


_FORMS: dict[str, Callable[[Queries, Keys, Keys, bool], Queries]] = {
    "plain": _plain, "chunked": _chunked, "cudnn": _cudnn, "flash": _flash,
}  # fmt: skip
