"""The run-time type checker that the jaxtyping plug-in puts on every function: an int may stand for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
