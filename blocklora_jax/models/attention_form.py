"""The names of the forms of attention, see `attend`. Apart from it, because this needs no JAX."""

from __future__ import annotations

from typing import Literal

AttentionForm = Literal["auto", "cudnn", "flash", "chunked", "plain"]
