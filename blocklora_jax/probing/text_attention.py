"""How much of the U-Net's attention each text position gets while a prompt's picture is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.text import Ids
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.models.config import UNetConfig
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.probe import Probe, row_parts


@dataclass(frozen=True, eq=False, repr=False)
class TextAttention:
    """Measures the attention to each text position. Compiled once.

    It is the mean over cross-attention layers, heads, pixels and `steps` of a DDIM run from noise, without guidance.

    chunk, at_once: see `Probe`.
    """

    sd: StableDiffusion
    steps: int = 2
    chunk: int = 16
    at_once: int | None = None

    def __repr__(self) -> str:
        return f"TextAttention({self.sd.checkpoint.name!r}, {self.steps} steps)"

    def __call__(
        self, params: Mapping[str, Any], adapter: Adapter | None, ids: Ids, seed: int = 0, *, weight: float = 1.0
    ) -> Float[np.ndarray, "b t"]:
        """The share of the attention that each position gets. Each row has the sum 1.

        Args:
            params, adapter, ids, seed, weight: as for `Probe`.
        """
        kernels, shares = self._kernels(params["unet"], adapter, weight), []
        for chunk in row_parts(len(ids), self.chunk):
            noise = self._attention_probe.noise(seed + chunk.start, 0, len(ids[chunk]))
            assert noise is not None
            for rows in row_parts(len(noise), self.at_once):
                shares.append(self._share(params, adapter, kernels, ids[chunk][rows], noise[rows], weight))
        return np.concatenate(shares)

    def _share(
        self,
        params: Mapping[str, Any],
        adapter: Adapter | None,
        kernels: Mapping[str, Float[Array, "n m"]],
        ids: Ids,
        noise: Float[Array, "b h w c"],
        weight: float,
    ) -> np.ndarray:
        states = jnp.asarray(self._text(params, adapter, ids, weight=weight)[self._text_reader], jnp.float32)
        states = states.reshape(len(ids), -1, states.shape[-1])
        context = {
            f"unet/{block}/to_q": {"query": kernels[f"{block}/to_q"], "keys": states @ kernels[f"{block}/to_k"]}
            for block in self._blocks
        }
        seen: dict[str, Any] = {}
        self._attention_probe.add(seen, params, adapter, ids, context, noise, weight=weight)
        return np.mean([seen[layer] for layer in context], axis=0) / self.steps

    @cached_property
    def _blocks(self) -> list[str]:
        end = "/to_q/kernel"
        paths = flatten_params(self.sd.params["unet"])
        return sorted(path.removesuffix(end) for path in paths if path.endswith(f"attn2{end}"))

    def _kernels(
        self, unet: Mapping[str, Any], adapter: Adapter | None, weight: float
    ) -> dict[str, Float[Array, "n m"]]:
        """By layer, the kernels of queries and keys with the adapter added."""
        flat, pairs, kernels = flatten_params(unet), adapter.lora.get("unet", {}) if adapter else {}, {}
        for path in (f"{block}/{name}" for block in self._blocks for name in ("to_q", "to_k")):
            kernels[path] = jnp.asarray(flat[f"{path}/kernel"], jnp.float32)
            if adapter and path in pairs:
                a, b = (jnp.asarray(factor) for factor in pairs[path])
                # Not `kernel_change`: this must have the default precision, like the model.
                kernels[path] += weight * adapter.info.scale * a @ b
        return kernels

    @property
    def _text_reader(self) -> str:
        return f"unet/{self._blocks[0]}/to_k"

    @cached_property
    def _text(self) -> Probe:
        """The inputs of the layers that read text."""
        return Probe(self.sd, frozenset((self._text_reader,)), lambda layer, x, y, context: x, chunk=self.chunk)

    @cached_property
    def _attention_probe(self) -> Probe:
        def observe(layer: str, x: Array, y: Array, context: Any) -> Array:
            query, keys = x.astype(jnp.float32) @ context[layer]["query"], context[layer]["keys"]
            return received(
                query.reshape(len(keys), -1, query.shape[-1]), keys, _heads(self.sd.models.unet.config, layer)
            )

        return Probe(
            self.sd, frozenset(f"unet/{block}/to_q" for block in self._blocks), observe, self.steps, self.chunk
        )


def received(query: Float[Array, "b p d"], keys: Float[Array, "b t d"], num_heads: int) -> Float[Array, "b t"]:
    """The softmax weights of each key, averaged over heads and queries."""
    q, k = (x.reshape(*x.shape[:2], num_heads, -1) for x in (query, keys))
    return jax.nn.softmax(jnp.einsum("bphd,bthd->bhpt", q, k) / np.sqrt(q.shape[-1]), axis=-1).mean((1, 2))


def _heads(config: UNetConfig, layer: str) -> int:
    """The number of heads in a layer, "unet/up_blocks_1/…"."""
    heads, block = config.heads_by_block, layer.split("/")[1]
    if block.startswith("mid_block"):
        return heads[-1]
    heads = heads[::-1] if block.startswith("up_blocks") else heads
    return heads[int(block.rsplit("_", 1)[1])]
