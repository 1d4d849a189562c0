"""How much concepts disturb each other: a heat map, and advice in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.io.heat_map import heat_map
from blocklora_jax.probing.crosstalk import ALL, measure_crosstalk
from train.app.jobs import Job
from train.app.session import ADJUSTING, Method, Session

# All other concepts together, as a share of the concept's own output. Above `_MUCH`, pictures usually change visibly.
_LITTLE, _MUCH = 0.1, 0.3


class Disturbance(NamedTuple):
    """picture: the heat map. advice: sentences, one a line."""

    picture: Image.Image
    advice: list[str]


def start_measuring(session: Session, names: Sequence[str], method: Method = "sum") -> Job:
    """Add the measurement to the queue. method: measure the concepts as they are after it, see `Session.adjusted`.

    Raises: UserError for fewer than two concepts, and for concepts of another base.
    """
    adapters = [entry.adapter for entry in session.library.find(list(names))]
    if len(adapters) < 2:
        raise UserError("choose two concepts or more: one concept alone disturbs nothing")
    session.check_base(adapters)

    def work(job: Job) -> Disturbance:
        if method != "sum":
            job.say(ADJUSTING[method])
        measured = session.adjusted(adapters, method)
        job.say("reading the outputs of all concepts")
        by_type = measure_crosstalk(session.sd, measured)
        pairs, others = by_type[ALL] if ALL in by_type else next(iter(by_type.values()))
        labels = [adapter.name for adapter in adapters]
        picture = heat_map(np.c_[pairs, others], labels, [*labels, "all others"])
        return Disturbance(picture, advise(labels, pairs, others, method))

    return session.jobs.add("measuring crosstalk", work)


def advise(
    names: Sequence[str], pairs: Float[np.ndarray, "n n"], others: Float[np.ndarray, " n"], method: Method = "sum"
) -> list[str]:
    """Sentences about who disturbs whom, and what to do. method: what was done to them already.

    pairs, others: see `probing.crosstalk.Crosstalk`.

    >>> advise(["ada", "rex"], np.array([[1, 0.05], [0.02, 1]]), np.array([0.05, 0.02]))
    ['These concepts hardly disturb each other (at most 5 % of their own output). Merge them as they are.']
    """
    finite = np.isfinite(others)
    silent = [names[i] for i in np.flatnonzero(~finite).tolist()]
    sentences = [f"{name} has no output on its own prompts. Was it trained to the end?" for name in silent]
    known = np.where(finite, others, 0)
    if known.max() <= _LITTLE:
        return sentences or [
            f"These concepts hardly disturb each other (at most {100 * known.max():.0f} % of their own output)."
            " Merge them as they are."
        ]
    for i in np.argsort(-known).tolist():
        if known[i] > _LITTLE:
            word = "clearly" if known[i] > _MUCH else "a little"
            sentences.append(
                f"{names[i]} is changed {word} by the others: they add {100 * known[i]:.0f} % of its own output."
            )
    return [*sentences, *_way_out(names, pairs, known, method)]


def _way_out(
    names: Sequence[str], pairs: Float[np.ndarray, "n n"], known: Float[np.ndarray, " n"], method: Method
) -> list[str]:
    caused = np.square(np.where(np.isfinite(pairs), pairs, 0) * (1 - np.eye(len(names)))).sum(0)
    loudest, share = int(caused.argmax()), caused.max() / max(caused.sum(), 1e-30)
    drop = f"{names[loudest]} causes most of it ({100 * share:.0f} %): leave it out, or lower its weight."
    fit = "Choose “fit them to each other”. It needs none of your pictures."
    if known.max() <= _MUCH:
        return ["This is often not visible. Look at “each alone, and merged” first."]
    if method == "joint_fit":
        return [f"They were fitted already. {drop}"]
    return [fit, f"If that is not enough: {drop}" if len(names) > 2 else "Or lower the weight of the stronger one."]
