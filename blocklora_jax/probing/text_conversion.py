"""Converts an ordinary LoRA into an adapter in a slot of the text basis, with a token that speaks in this slot.

Layers that read text see of the new token's features x' what lies in the slot's directions. There the change D gives
them what the LoRA F gave them with its own words, whose features are x, and what the weights W lack with the new token:

    D, token = argmin  mean_t |x F + (x - x') W - x' D|^2 + lambda mean_e |x_e D|^2 + token side,   rank D <= r

x and x' are features of the same prompts, from the concept's words on. x_e are those of ordinary prompts and, as often
as other concepts are expected, of prompts with codewords of other slots. For a given token this is reduced-rank ridge
regression. The token is trained through the text encoder by Adam, starting from the slot's codeword, with the terms of
`adapters.token_side`. No picture is drawn. A LoRA's change of text encoders is in x. Its changes of layers that read
pictures are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import TextBasis, basis_digest
from blocklora_jax.adapters.finite import check_finite
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.adapters.token_side import whitened_directions
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.conversion import Fit, check_linear, fit_block, fit_of_energies
from blocklora_jax.probing.scaled_token import Token
from blocklora_jax.probing.slot_prompts import Moments, SlotPrompts, swapped_trigger
from blocklora_jax.probing.slot_token import train_token
from blocklora_jax.probing.text_conversion_config import TextConversionConfig
from blocklora_jax.probing.triggers import check_trigger
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.prompts.random_prompts import PromptWords

# The layers of the result, which are those that read text.
_LAYERS = "cross_kv"
# Below this share of the base's output a LoRA's own output is no unit to measure errors in.
_LEAST_OUTPUT = 1e-2
_DEFAULTS = TextConversionConfig()
_ENCODERS = ("text_encoder", "text_encoder_2")


def convert_to_slot(
    sd: StableDiffusion,
    adapter: Adapter,
    partition: Partition,
    slots: Sequence[int],
    basis: TextBasis,
    words: PromptWords,
    config: TextConversionConfig = _DEFAULTS,
) -> tuple[Adapter, dict[str, Fit]]:
    """Converts `adapter`, trained on `sd` without blocks, into one in `slots`. Also gives a `Fit` by type of layer.

    The result has a token of its own, `<name>`, in place of the trigger's words before the class noun.

    basis: with energies, and with codewords for the partition's number of blocks.

    Raises: UserError for a trigger that also occurs in random prompts, for slots that do not exist, for another basis
        than the partition's, for layers that the model does not have, and for NaN or infinity in the adapter.
    """
    check_finite([adapter])
    if partition.assignment != "text" or partition.basis != basis_digest(basis.directions):
        raise UserError(f"the slots are {partition}, which are not those of this basis: give the basis of the slots")
    if basis.energies is None:
        raise UserError("the basis has no energies of ordinary text: python -m train.basis --extend adds them")
    check_trigger(adapter, words)
    check_linear(sd.params, adapter)
    info = replace(
        adapter.info, trigger=swapped_trigger(adapter.info), partition=partition, rank=config.rank,
        slots=partition.check_slots(tuple(slots)), alpha=float(config.rank), base_family=sd.checkpoint.family,
        training=json.dumps({"refit": asdict(config), "of": json.loads(adapter.info.training)}),
    )  # fmt: skip
    prompts = SlotPrompts.make(sd, adapter, info, basis, words, config)
    layers = _TextLayers.of(sd, adapter)
    root = layers.root(prompts.before[prompts.counted])
    token = train_token(prompts, whitened_directions(basis.directions, basis.energies), root, config)
    lora, fit = layers.solve(prompts.moments(token, config.chunk), prompts.directions, config)
    result = _adapter(lora, token, info)
    check_finite([result])
    return result, {_LAYERS: fit}


def _adapter(lora: Mapping[str, LoRAPair], token: Token, info: AdapterInfo) -> Adapter:
    tokens = [{concept_token(info.name): token[part]} if part in token else {} for part in _ENCODERS]
    return Adapter(lora={"unet": dict(lora)}, tokens=tokens[0], tokens_2=tokens[1], info=info)


@dataclass(frozen=True, eq=False, repr=False)
class _TextLayers:
    """The layers that read text: their weights W, and the LoRA's change as factors A, B. By path in the U-Net."""

    weights: Mapping[str, Float[np.ndarray, "n m"]]
    changes: Mapping[str, LoRAPair]

    @classmethod
    def of(cls, sd: StableDiffusion, adapter: Adapter) -> _TextLayers:
        kernels, own = flatten_params(sd.params["unet"]), adapter.lora.get("unet", {})
        paths = select_kernels(sd.params, _LAYERS)["unet"]
        weights = {path: np.asarray(kernels[f"{path}/kernel"], np.float32) for path in paths}
        scaled = {
            path: LoRAPair(np.asarray(pair.lora_A, np.float32) * np.float32(adapter.info.scale),
                           np.asarray(pair.lora_B, np.float32))
            for path, pair in own.items() if path in paths
        }  # fmt: skip
        return cls(weights, scaled)

    def root(self, states: Float[np.ndarray, "p n"]) -> Float[np.ndarray, "z z"]:
        """See `train_token`. Every layer counts in units of the base's output. states: with the LoRA's words."""
        moments, total, output = states.T @ states / len(states), 0.0, 0.0
        for path, weight in self.weights.items():
            joined = self._joined(path)
            base = np.sum(weight * (moments @ weight))
            change = joined[: len(weight)]
            total, output = total + joined @ joined.T / base, output + np.sum(change * (moments @ change)) / base
        squares, vectors = np.linalg.eigh(
            np.asarray(total / max(output, _LEAST_OUTPUT * len(self.weights)), np.float64)
        )
        return (vectors * np.sqrt(np.maximum(squares, 0.0))).astype(np.float32)

    def solve(
        self, moments: Moments, directions: Float[np.ndarray, "n s"], config: TextConversionConfig
    ) -> tuple[dict[str, LoRAPair], Fit]:
        """The best pair of every layer, and how well all are fitted."""
        energies, pairs = np.zeros(5), {}
        erased, ordinary = (directions.T @ x @ directions for x in (moments.erased, moments.ordinary))
        for path, weight in self.weights.items():
            joined, n = self._joined(path).astype(np.float64), len(weight)
            cross = moments.cross @ joined
            a, b = fit_block(moments.own, cross, erased, config.rank, config.erase_weight, config.ridge)
            pairs[path] = LoRAPair((directions @ a).astype(np.float32), b.astype(np.float32))
            change, before = a @ b, joined[:n]
            after = np.sum(change * (moments.own @ change))
            error = np.sum(joined * (moments.wanted @ joined)) - 2 * np.sum(change * cross) + after
            lora = np.sum(before * (moments.wanted[:n, :n] @ before))
            base, random_base = (np.sum(weight * (m @ weight)) for m in (moments.wanted[:n, :n], moments.ordinary))
            leaks = np.sum(change * (ordinary @ change)), np.sum(before * (moments.ordinary @ before))
            energies += np.r_[np.array([error, after, lora]) / base, np.array(leaks) / random_base]
        return pairs, fit_of_energies(*energies)

    def _joined(self, path: str) -> Float[np.ndarray, "z m"]:
        """[F; W] of a layer."""
        weight = self.weights[path]
        change = (
            self.changes[path].lora_A @ self.changes[path].lora_B if path in self.changes else np.zeros_like(weight)
        )
        return np.concatenate([change, weight])
