"""Where tokens speak: the energy of concepts' tokens in every block of the text basis, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import TextBasis
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.token_side import counted_energies, whitened_directions
from blocklora_jax.checks.texts import fill
from blocklora_jax.diffusion.models import token_table, with_token_rows
from blocklora_jax.diffusion.text import encode_text, ids_of
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.crosstalk import TEMPLATES
from blocklora_jax.probing.probe import own_tokens, with_tokens


def token_speech(
    sd: StableDiffusion, adapters: Sequence[Adapter], basis: TextBasis, blocks: int
) -> Float[np.ndarray, "a blocks"]:
    """The energy of each adapter's token at its own positions, in each of `blocks` blocks of the basis.

    Mean over prompts; 1 is the energy of ordinary text.

    Raises: ValueError for a basis without energies.
    """
    if basis.energies is None:
        raise ValueError("the basis has no energies of ordinary text")
    partition = Partition(num_blocks=blocks, basis="0" * 16, assignment="text")
    directions = [partition.directions("", len(basis.directions), (slot,)) for slot in range(blocks)]
    whitened = whitened_directions(basis.directions, basis.energies)
    rows = [_energies(sd, adapter, whitened) for adapter in adapters]
    return np.stack([[energies[chosen].mean() for chosen in directions] for energies in rows])


def _energies(sd: StableDiffusion, adapter: Adapter, whitened: np.ndarray) -> np.ndarray:
    prompts = [fill(template, adapter.info.trigger) for template in TEMPLATES[adapter.info.kind]]
    ids = sd.tokenizer.encode(prompts, token_counts([adapter]))
    params = with_tokens(sd.params, own_tokens(sd, adapter))
    states = encode_text(with_token_rows(sd.models, params), params, jnp.asarray(ids)).states
    called = ids_of(jnp.asarray(ids), "text_encoder") >= len(token_table(sd.params))
    return np.asarray(counted_energies(states, called, whitened))


def draw_speech(tables: Mapping[str, Float[np.ndarray, "a blocks"]], names: Sequence[str], path: Path) -> None:
    """A panel for each set of adapters: a row for each token, a column for each block, brighter where it speaks.

    tables: by the panel's title, see `token_speech`. names: of the tokens.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    width, height = next(iter(tables.values())).shape[1] / 7 + 2, len(names) / 4 + 1
    figure = Figure(figsize=(width, height * len(tables)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(tables), 1))
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        shown = axes.imshow(table, norm=LogNorm(1, 1000), cmap="magma", aspect="auto")
        axes.set(title=title, xlabel="block of the text basis", yticks=range(len(names)), yticklabels=names)
    figure.colorbar(shown, ax=list(panels), label="energy (ordinary text: 1)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())
