"""The app in a browser.

python -m train.app
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from train.app.options import AppOptions


def main() -> None:
    """The command line. It serves until Ctrl-C; a training that runs then is saved first."""
    options = read_options(AppOptions, prog="python -m train.app")
    with tempfile.TemporaryDirectory(prefix="blocklora-app-", ignore_cleanup_errors=True) as folder:
        _keep_files_in(Path(folder).resolve())
        _serve(options)


def _serve(options: AppOptions) -> None:
    require_gradio()
    # JAX, Flax and Gradio load here, so that --help and wrong flags answer at once.
    from train.app.open_session import open_session
    from train.app.site import launch
    from train.engine.signals import CatchSignals

    session = open_session(options)
    with CatchSignals() as caught:
        site, address = launch(session)
        print(f"the app is at {address} (end it with Ctrl-C)", flush=True)
        while not caught.signal:
            time.sleep(0.2)
        session.jobs.stop_all()
    site.close(verbose=False)


def require_gradio() -> None:
    """Raises UserError if Gradio is not installed."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UserError("the app needs Gradio: pip install 'blocklora_jax[app]'")


def _keep_files_in(folder: Path) -> None:
    """Let Gradio keep uploads and files for the browser in `folder`, and report nothing. Gradio is imported later."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


if __name__ == "__main__":
    run(main)
