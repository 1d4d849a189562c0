"""Observes the inputs of a model's layers while it draws prompts, for crosstalk and conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.apply import apply_observed
from blocklora_jax.adapters.concept_tokens import tokens_of
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.samplers.protocol import start
from blocklora_jax.diffusion.samplers.table import get_sampler
from blocklora_jax.diffusion.text import Ids, add_sizes, ids_of, join_towers, make_size_ids
from blocklora_jax.layouts.token_tables import token_table, with_token_table
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.pipeline import StableDiffusion

# observe("unet/…/to_k", x [rows, n], y [rows, m], context) -> arrays, which are summed over all calls. x is the layer's
# input, y = W x the base's output. `context` is the argument of the same name in the call of `Probe`.
Observe = Callable[[str, jax.Array, jax.Array, Any], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """Sums up what `observe` computes from each layer's inputs while a model draws prompts. Compiled once.

    Layers that read text are observed once for each prompt. The others are observed `steps` times, in a DDIM run from
    noise without guidance.

    layers: names such as "unet/…/to_k", "text_encoder/…/q_proj".
    chunk: prompts whose text is encoded at once, and whose noise has one key.
    at_once: of these, the prompts that the U-Net draws at once; None: all. See `memory.rows_at_once`.
    """

    sd: StableDiffusion
    layers: frozenset[str]
    observe: Observe
    steps: int = 4
    chunk: int = 8
    at_once: int | None = None

    def __repr__(self) -> str:
        return f"Probe({self.sd.checkpoint.name!r}, {len(self.layers)} layers, {self.steps} steps)"

    def __call__(
        self,
        params: Mapping[str, Any],
        adapter: Adapter | None,
        ids: Ids,
        context: Any = None,
        seed: int = 0,
        *,
        weight: float = 1.0,
    ) -> dict[str, Any]:
        """The sums, in fp64, by layer.

        Args:
            params: the base's parameters, with token tables as long as `ids` needs (see `with_tokens`).
            adapter: its LoRA is active; None: the base model alone.
            ids: token ids of the prompts, [b, t] or [b, 2, t].
            context: arrays for `observe`.
            seed: seed of the noise.
            weight: of the adapter. With 0 this is the base model, and the U-Net is not compiled anew for it.
        """
        total: dict[str, Any] = {}
        for first in range(0, len(ids), self.chunk):
            chunk = ids[first : first + self.chunk]
            self.add(total, params, adapter, chunk, context, self.noise(seed, first, len(chunk)), weight=weight)
        return total

    def noise(self, seed: int, first: int, rows: int) -> Float[Array, "b h w c"] | None:
        """The noise of `rows` prompts, of which the first is number `first`. None if no layer needs a picture."""
        if all(reads_text(layer) for layer in self.layers):
            return None
        key, side = jax.random.fold_in(jax.random.key(seed), first), self.sd.image_size
        return draw_latents(self.sd.models, key, rows, side, side)

    def add(
        self,
        total: dict[str, Any],
        params: Mapping[str, Any],
        adapter: Adapter | None,
        ids: Ids,
        context: Any,
        noise: Float[Array, "b h w c"] | None,
        *,
        weight: float = 1.0,
    ) -> None:
        """Adds to `total` what is observed for one chunk of prompts. Arguments as for a call, and as `noise` gives."""
        lora, scale = (adapter.lora, weight * adapter.info.scale) if adapter else ({}, 1.0)
        towers = {name: params[name] for name in self.sd.models.text_encoders}
        text_readers = [path for path in self._paths("unet") if reads_text(f"unet/{path}")]
        kernels = {path: _kernel(params["unet"], path) for path in text_readers}
        text, seen = self.text_step(towers, kernels, lora, scale, ids, context)
        _add(total, seen)
        if noise is None:
            return
        for rows in row_parts(len(ids), self.at_once):
            part = jax.tree.map(lambda x, rows=rows: x[rows], text)
            self._draw(params["unet"], lora.get("unet", {}), scale, part, noise[rows], context, total)

    def _paths(self, component: str) -> list[str]:
        head = f"{component}/"
        return sorted(layer.removeprefix(head) for layer in self.layers if layer.startswith(head))

    @cached_property
    def text_step(self) -> Callable[..., tuple[TextOutput, dict[str, Any]]]:
        """Gives text states for ids, and the observations in the text encoders and in U-Net layers that read text."""

        @jax.jit
        def step(towers, kernels, lora, scale, ids, context):
            models, outputs, seen = with_token_rows(self.sd.models, towers), [], {}
            for name, tower in models.text_encoders.items():
                watch = _within(name, self.observe, context)
                output, records = apply_observed(
                    tower, towers[name], lora.get(name, {}), scale, self._paths(name), watch, ids_of(ids, name)
                )
                outputs.append(output)
                seen |= {f"{name}/{path}": record for path, record in records.items()}
            text = join_towers(*outputs)
            states = text.states.reshape(-1, text.states.shape[-1])
            for path, kernel in kernels.items():
                seen[f"unet/{path}"] = self.observe(
                    f"unet/{path}", states, states @ kernel.astype(states.dtype), context
                )
            return text, seen

        return step

    @cached_property
    def unet_step(self) -> Callable[..., tuple[jax.Array, dict[str, Any]]]:
        paths = [path for path in self._paths("unet") if not reads_text(f"unet/{path}")]

        @jax.jit
        def step(params, pairs, scale, context, *inputs):
            watch = _within("unet", self.observe, context)
            output, seen = apply_observed(self.sd.models.unet, params, pairs, scale, paths, watch, *inputs)
            return output.astype(jnp.float32), {f"unet/{path}": record for path, record in seen.items()}

        return step

    def _draw(
        self,
        params: Any,
        pairs: Any,
        scale: float,
        text: TextOutput,
        noise: Float[Array, "b h w c"],
        context: Any,
        total: dict[str, Any],
    ) -> None:
        """Adds to `total` what is observed while the pictures for `text` are drawn."""
        sampler, rows, side = get_sampler("ddim"), len(noise), self.sd.image_size
        plan = sampler.init(self.sd.schedule, self.steps)
        added = add_sizes(text, jnp.asarray(make_size_ids(side, side, rows)))
        state = start(plan, noise)
        for index, timestep in enumerate(plan.timesteps):
            row = jax.tree.map(lambda x, i=index: x[i], plan.coefficients)
            noisy, at = sampler.scale(row, state.latents), jnp.full(rows, timestep)
            output, seen = self.unet_step(
                params, pairs, scale, context, noisy, at, text.states, *([added] if added else [])
            )
            state = sampler.step(row, state, output)
            _add(total, seen)


def row_parts(rows: int, at_once: int | None) -> list[slice]:
    """Parts of `at_once` rows each, or one of all rows.

    >>> row_parts(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    size = at_once or rows
    return [slice(first, first + size) for first in range(0, rows, size)]


def with_tokens(params: Mapping[str, Any], vectors: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """`params` with token rows appended: {"text_encoder": [[v, d], …], …}."""
    longer = dict(params)
    for component, rows in vectors.items():
        if rows:
            table = jnp.concatenate([jnp.asarray(token_table(params, component)), *map(jnp.asarray, rows)])
            longer[component] = with_token_table(params[component], table)
    return longer


def own_tokens(sd: StableDiffusion, adapter: Adapter) -> dict[str, list[Any]]:
    """The adapter's token vectors by text encoder, for `with_tokens`, in the order of `token_counts`."""
    return {
        component: [vectors for _, vectors in sorted(tokens_of(adapter, component).items())]
        for component in sd.models.text_encoders
    }


def _within(component: str, observe: Observe, context: Any) -> Callable[[str, jax.Array, jax.Array], Any]:
    def watch(path: str, x: jax.Array, y: jax.Array) -> Any:
        return observe(f"{component}/{path}", x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), context)

    return watch


def _kernel(params: Any, path: str) -> jax.Array:
    for name in path.split("/"):
        params = params[name]
    kernel = jnp.asarray(params["kernel"])
    return kernel.reshape(kernel.shape[-2:])


def _add(total: dict[str, Any], seen: dict[str, Any]) -> None:
    """Adds `seen` to `total`, in place. `seen` is emptied layer by layer, so that its arrays leave the device."""
    for layer in list(seen):
        record = seen.pop(layer)
        if layer in total:
            jax.tree.map(lambda old, new: np.add(old, np.asarray(new), out=old), total[layer], record)
        else:
            # On the host and in fp64, because these are sums of many small parts.
            total[layer] = jax.tree.map(lambda new: np.array(new, np.float64), record)
