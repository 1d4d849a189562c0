"""Small params and adapters for the tests of merging."""

from __future__ import annotations

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.layouts.low_rank import LoRAPair

UNET = {
    "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k": (24, 16),
    "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_out_0": (16, 16),
    "mid_block/attentions_0/proj_in": (16, 19),
}
TEXT = {"text_model/encoder/layers/0/self_attn/q_proj": (24, 24)}
CONVOLUTIONS = {"mid_block/attentions_0/proj_in"}
WIDTH, ROWS = 24, 7


def nest(flat: dict[str, object]) -> dict:
    tree: dict = {}
    for path, value in flat.items():
        *modules, leaf = path.split("/")
        node = tree
        for name in modules:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def flatten(tree, prefix: str = "") -> dict[str, object]:
    flat = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}/") if hasattr(value, "items") else {f"{prefix}{name}": value}
    return flat


def make_params(seed: int = 0, dtype=np.float32) -> dict:
    """Kernels with negative zeros in them, biases, a token table, and a VAE that no adapter touches."""
    rng = np.random.default_rng(seed)
    flat = {"vae/decoder/conv_in/bias": (3,), "unet/conv_in/kernel": (3, 3, 4, 16)}
    flat["text_encoder/text_model/embeddings/token_embedding/embedding"] = (ROWS, WIDTH)
    for component, layers in (("unet", UNET), ("text_encoder", TEXT)):
        for layer, shape in layers.items():
            flat[f"{component}/{layer}/kernel"] = (1, 1, *shape) if layer in CONVOLUTIONS else shape
            flat[f"{component}/{layer}/bias"] = shape[1:]
    arrays = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in flat.items()}
    for array in arrays.values():
        array[rng.random(array.shape) < 0.2] = -0.0
    return nest({path: array.astype(dtype) for path, array in arrays.items()})


def make_adapter(
    name: str,
    slots: tuple[int, ...] = (0,),
    partition: Partition | None = Partition(num_blocks=4),
    *,
    rank: int = 2,
    alpha: float = 3.0,
    vectors: int = 2,
    digest: str = "",
    layers: dict | None = None,
) -> Adapter:
    """An adapter of random pairs, masked as training leaves them."""
    rng = np.random.default_rng(sum(name.encode()))
    info = AdapterInfo(
        name=name, class_noun="man", trigger=f"<{name}> man", rank=rank, alpha=alpha, base_name="small",
        base_digest=digest, partition=partition, slots=slots if partition else (),
    )  # fmt: skip
    lora: dict = {}
    for component, shapes in (layers or {"unet": UNET, "text_encoder": TEXT}).items():
        lora[component] = {layer: _pair(rng, info, component, layer, shape) for layer, shape in shapes.items()}
    tokens = {f"<{name}>": rng.standard_normal((vectors, WIDTH)).astype(np.float32)} if vectors else {}
    return Adapter(lora=lora, tokens=tokens, info=info)


def _pair(rng, info: AdapterInfo, component: str, layer: str, shape: tuple[int, int]) -> LoRAPair:
    rows, columns = info.support(component, layer, shape)
    a, b = np.zeros((shape[0], info.rank), np.float32), np.zeros((info.rank, shape[1]), np.float32)
    a[rows] = rng.standard_normal((len(rows), info.rank))
    b[:, columns] = rng.standard_normal((info.rank, len(columns)))
    return LoRAPair(a, b)


def same_bits(x, y) -> bool:
    """Equal shape, dtype and bits; -0.0 is not 0.0."""
    x, y = np.asarray(x), np.asarray(y)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def unblock(kernel) -> np.ndarray:
    """A kernel as [n, m]."""
    return np.asarray(kernel).reshape(np.shape(kernel)[-2:])
