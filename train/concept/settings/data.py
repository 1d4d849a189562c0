"""How the concept's pictures become training data."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora_jax.command_line.options import check_options
from blocklora_jax.prompts.shares import Kind
from train.concept.settings.visible_text import check_visible


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Pictures and captions of the concept."""

    kind: Kind = "object"
    """What sort of concept it is. This decides where in a prompt its token stands."""
    flip: bool = False
    """Also train on mirrored pictures."""
    crop: float = 1.0
    """Smallest side of random crops, as a share of the picture's shorter side. 1: only the centre square."""
    crop_to_mask: bool = False
    """Train only on the white part of each mask and a margin around it, which fills the training picture then. Pictures
    without a mask are used whole."""
    aspect_buckets: bool = False
    """Keep the shape of portraits and landscapes, instead of cutting a square out of them. They get as many pixels as
    the square has. A batch holds pictures of one shape, and the step is compiled for each shape."""
    caption_prefix: str | None = None
    """Words before every caption that is written in a file, such as "a photo of {trigger},": {trigger} stands for the
    token and the class noun."""
    shuffle_tags: bool = False
    """Train on captions with their tags, the parts between commas, in many orders. The prefix and parts with the token
    stay where they are."""
    caption_dropout: float = 0.0
    """Share of the rows whose caption is only the trigger ("a photo of <ada> woman"), without the rest. It is never
    empty, because the adapter should do nothing for prompts without its token."""
    resolution: int | None = None
    """Side of a training picture, in pixels. If not given: the model's default size."""

    def __post_init__(self) -> None:
        check_options(self)
        check_visible(self, ("caption_prefix",) if self.caption_prefix else ())
