"""What every command line does with an error: one line, and an exit code that is not 0; and with a warning: one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

from blocklora_jax.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Call `main` and exit: 2 after a UserError, 130 after Ctrl-C, 1 if the system refuses (a full disk)."""
    usual, warnings.formatwarning = warnings.formatwarning, lambda message, *_, **__: f"warning: {_one_line(message)}\n"
    # transformers would advise everyone who has no PyTorch to install it; only its tokenizer is used.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        main()
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    finally:
        warnings.formatwarning = usual


def _fail(message: str, code: int) -> None:
    print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
