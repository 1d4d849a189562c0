"""The session: the base model, in memory once, and merged models that all use one compiled program for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.composing.compose import compose
from blocklora_jax.diffusion.regions import Region
from blocklora_jax.diffusion.sampling import Sampling
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import MergedModel, StableDiffusion
from merge.methods.joint_fit import fit_jointly
from train.app.jobs import JobQueue
from train.app.library import Library
from train.app.options import AppOptions
from train.app.taught import Training

# The rows of concept tokens are a multiple of this, so that models with other concepts have arrays of the same shapes.
_ROWS = 64


class Session:
    """What all pages share: the base model, the library, and the queue of jobs.

    options: of the command. sd: the base model. trainings: those that were begun here, the earliest first.
    """

    def __init__(self, options: AppOptions, sd: StableDiffusion) -> None:
        self.options, self.sd = options, sd
        self.library, self.jobs = Library(options.out), JobQueue()
        self.trainings: list[Training] = []
        self._fit = lru_cache(maxsize=4)(self._fit_now)
        self._merge = lru_cache(maxsize=4)(self._merge_now)

    def merged(self, adapters: Sequence[Adapter], weights: Sequence[float], fit: bool = False) -> MergedModel:
        """The base with concepts in it. fit: fit the adapters to each other before.

        Raises: UserError if the adapters cannot be merged, or were not trained on this base.
        """
        # Adapters are not hashable. The library keeps them, so that equal files are the same object.
        known = tuple(map(_Same, adapters))
        return self._merge(known, tuple(map(float, weights)), fit)

    def fitted(self, adapters: Sequence[Adapter]) -> list[Adapter]:
        """The adapters, fitted to each other; see `merge.fit_jointly`."""
        return self._fit(tuple(map(_Same, adapters)))

    def draw(
        self,
        model: MergedModel,
        prompt: str,
        index: int,
        seed: int,
        sampling: Sampling,
        refine: float = 0.0,
        *,
        negative_prompts: Sequence[str] | None = None,
        regions: Sequence[Sequence[Region]] | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One picture. All pictures are drawn one at a time, by one compiled program for each form of sampling.

        refine: how far each of several people or objects may change when it is drawn again, see `MergedModel.refine`.
        """
        # The strength is that of pictures that begin with another.
        chosen = {name: value for name, value in vars(sampling).items() if name != "strength"}
        settings = {"seed": seed, "indices": [index], "negative_prompts": negative_prompts, **chosen}
        pictures = model.generate([prompt], regions=regions, **settings)
        return (model.refine(pictures, [prompt], strength=refine, **settings) if refine else pictures)[0]

    def check_base(self, adapters: Sequence[Adapter]) -> None:
        """Raises UserError for adapters that were trained on another base."""
        for adapter in adapters:
            if adapter.info.base_digest not in ("", self.sd.digest):
                raise UserError(
                    f"{adapter.name!r} was trained on {adapter.info.base_name or 'another model'}, not on"
                    f" {self.sd.checkpoint.public_name}: start the app with that --model"
                )

    def _merge_now(self, known: tuple[_Same, ...], weights: tuple[float, ...], fit: bool) -> MergedModel:
        adapters = [each.adapter for each in known]
        self.check_base(adapters)
        adapters = self._fit(known) if fit else adapters
        padding = padding_adapter(self.sd, adapters)
        params = compose(self.sd.params, [*adapters, padding], [*weights, 1.0], allow_overlap=fit, check_base=False)
        return self.sd.with_params(params, adapters, weights)

    def _fit_now(self, known: tuple[_Same, ...]) -> list[Adapter]:
        return fit_jointly(self.sd, [each.adapter for each in known], check_base=False)


class _Same:
    """An adapter as a key: equal only to the same object."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.adapter is self.adapter

    def __hash__(self) -> int:
        return id(self.adapter)


def padding_adapter(sd: StableDiffusion, adapters: Sequence[Adapter]) -> Adapter:
    """An adapter without layers, whose token fills the token table up to a multiple of rows. No prompt calls it.

    Without it, the number of concepts would change the shapes of the parameters, and so compile pictures again.
    """
    used = sum(len(vectors) for adapter in adapters for vectors in adapter.tokens.values())
    rows = -used % _ROWS or _ROWS
    name = "<padding of the app>"  # Not a name that a concept can have.
    tables = {
        part: np.zeros((rows, token_table(sd.params, part).shape[1]), np.float32) for part in sd.models.text_encoders
    }
    info = AdapterInfo(name="padding", class_noun="", trigger="", rank=1, alpha=1.0, base_family=sd.checkpoint.family)
    second = tables.get("text_encoder_2")
    return Adapter(
        lora={}, tokens={name: tables["text_encoder"]}, tokens_2={} if second is None else {name: second}, info=info
    )
