"""The session: the base model, in memory once, and merged models that all use one compiled program for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

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
from merge.methods.tuned_tokens import tune_tokens
from train.app.jobs import JobQueue
from train.app.library import Library
from train.app.options import AppOptions
from train.app.taught import Training

# What is done to adapters before they are summed, by the names of `python -m merge --method`, and how it is told.
Method = Literal["sum", "tuned_tokens", "joint_fit"]
ADJUSTING: dict[Method, str] = {
    "sum": "",
    "tuned_tokens": "tuning the tokens of the concepts",
    "joint_fit": "fitting the concepts to each other",
}

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
        self._adjust = lru_cache(maxsize=8)(self._adjust_now)
        self._merge = lru_cache(maxsize=4)(self._merge_now)

    def merged(self, adapters: Sequence[Adapter], weights: Sequence[float], method: Method = "sum") -> MergedModel:
        """The base with concepts in it. method: see `adjusted`.

        Raises: UserError if the adapters cannot be merged, or were not trained on this base.
        """
        # Adapters are not hashable. The library keeps them, so that equal files are the same object.
        known = tuple(map(_Same, adapters))
        return self._merge(known, tuple(map(float, weights)), method)

    def adjusted(
        self, adapters: Sequence[Adapter], method: Method, weights: Sequence[float] | None = None
    ) -> list[Adapter]:
        """The adapters as a method merges them: as they are, with tuned tokens, or fitted to each other.

        weights: those of the merge, which tuned tokens depend on; None: 1 for each.
        Raises: UserError, see `merge.tune_tokens` and `merge.fit_jointly`.
        """
        # A fit is the same for all weights, so it is made once.
        strengths = tuple(map(float, weights)) if weights is not None and method == "tuned_tokens" else None
        return self._adjust(tuple(map(_Same, adapters)), strengths, method)

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

    def _merge_now(self, known: tuple[_Same, ...], weights: tuple[float, ...], method: Method) -> MergedModel:
        adapters = [each.adapter for each in known]
        self.check_base(adapters)
        adapters = self.adjusted(adapters, method, weights)
        padding = padding_adapter(self.sd, adapters)
        params = compose(
            self.sd.params, [*adapters, padding], [*weights, 1.0], allow_overlap=shares_slots(method), check_base=False
        )
        return self.sd.with_params(params, adapters, weights)

    def _adjust_now(self, known: tuple[_Same, ...], weights: tuple[float, ...] | None, method: Method) -> list[Adapter]:
        adapters = [each.adapter for each in known]
        if method == "joint_fit":
            return fit_jointly(self.sd, adapters, check_base=False)
        # Nothing disturbs a single concept.
        if method == "tuned_tokens" and len(adapters) > 1:
            return tune_tokens(self.sd, adapters, weights, check_base=False).adapters
        return adapters


def shares_slots(method: Method) -> bool:
    """Whether concepts of the same slot can be merged after it."""
    return method == "joint_fit"


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
