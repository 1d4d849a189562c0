"""What the adapter is: its layers, its rank, and the slots that it owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.adapters.axis import Assignment, Axis
from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Layers, rank, and slots."""

    layers: str = "cross_kv"
    """Which layers are adapted: cross_kv, attention, full, text_encoder, or several joined with '+'."""
    rank: int = 8
    """Rank of every adapted layer."""
    alpha: float | None = None
    """The adapter's output is scaled by alpha / rank. Equal to the rank if not given."""
    down: Literal["trained", "orthogonal"] = "trained"
    """The down projection A. trained, or orthogonal: frozen to rows of a shared orthonormal basis, other rows for each
    slot (Orthogonal Adaptation, arXiv 2312.02432). The latter needs --blocks 0; --slot k takes `rank` rows from row
    k * rank on."""
    blocks: int = 64
    """K, the number of blocks that every weight is cut into, and of slots. 0: no blocks, an ordinary LoRA; --config
    one_block has the other settings that it needs."""
    axis: Axis = "in"
    """What is cut: input features, output features, or both."""
    slot: tuple[int, ...] | None = None
    """The slots that this concept owns. If not given, its name gives one; `train.concepts` gives 0, 1, 2, … in
    order. Adapters can be merged if slots differ."""
    registry: str | None = None
    """A slot registry (file, folder or URL): train on the slots that are claimed there for the token."""
    partition_seed: int = 0
    """Seeds the assignment of slots to blocks, and the shared bases. Adapters that are to be merged need the same."""
    basis: str | None = "pocket"
    """Cut the blocks along the directions of this basis of the text features, not along the features themselves. A file
    of `python -m train.basis`, here or on the hub (hub:owner/name/file.safetensors), or "pocket" for the basis of the
    pocket model. Adapters that are to be merged need the same. None: along the features."""

    assignment: Assignment = "text"
    """text: a slot stands for the same block in all layers that read text, so that the token's text features can lie in
    the directions that its adapter reads; it needs --basis. layer: it stands for a different block in every layer.
    Adapters that are to be merged need the same."""

    def __post_init__(self) -> None:
        check_options(self)
        self._check_basis()
        self._check_orthogonal()

    @property
    def scaling(self) -> float:
        """The factor alpha / rank of the adapter's output."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    @property
    def down_is_frozen(self) -> bool:
        """Whether the down projection keeps its initial values."""
        return self.down != "trained"

    def _check_basis(self) -> None:
        """Raises UserError for a basis with settings that it does not work with."""
        needs = {
            "--blocks 2 or more": self.blocks >= 2,
            "--axis in": self.axis == "in",
            "--layers cross_kv, which read text": self.layers == "cross_kv",
            "no --registry": self.registry is None or self.assignment == "text",
        }
        if self.basis is not None and (missing := [need for need, is_met in needs.items() if not is_met]):
            raise UserError(
                f"--basis cuts blocks along the text features: it needs {' and '.join(missing)}. For blocks of other"
                " features start from --config feature_blocks, without blocks from --config one_block"
            )
        if self.assignment == "text" and (self.basis is None or self.partition_seed):
            raise UserError(
                "--assignment text gives each slot one block of a basis: it needs --basis and --partition-seed 0"
            )

    def _check_orthogonal(self) -> None:
        """Raises UserError for Orthogonal Adaptation with settings that it does not work with."""
        if self.down == "orthogonal" and self.blocks:
            raise UserError("--down orthogonal keeps concepts apart without blocks: start from --config one_block")
        if self.down == "orthogonal" and self.slot is not None and len(self.slot) != 1:
            raise UserError(f"--down orthogonal takes one --slot, not {len(self.slot)}: a higher --rank has more rows")
