"""The run-time type checker that the jaxtyping plug-in applies to every function. It accepts an int for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
