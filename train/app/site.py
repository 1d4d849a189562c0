"""The site: all pages together, and the server that shows them to this machine only, unless told otherwise."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import one_line
from train.app.pages.compose import ComposePage
from train.app.pages.handlers import notice
from train.app.pages.share import SharePage
from train.app.pages.status import status_bar
from train.app.pages.style import CSS, theme
from train.app.pages.teach import teach_page
from train.app.protection import middleware
from train.app.session import Session

_SECONDS = 1.0  # between looks at what runs
_DAY = 24 * 3600


def build_site(session: Session, downloads: Path) -> gr.Blocks:
    """All pages. downloads: a folder for files that a browser may fetch."""
    # Shown files are removed after a day. Nothing is reported to anybody.
    with gr.Blocks(title="blocklora", analytics_enabled=False, delete_cache=(3600, _DAY)) as site:
        timer = gr.Timer(_SECONDS)
        base = one_line(session.sd.checkpoint.public_name)
        gr.HTML(
            f"<h1>blocklora</h1>{notice(f'Base model: {base}. Library: {one_line(session.library.root)}', 'plain')}"
        )
        status_bar(session, timer)
        with gr.Tabs():
            with gr.Tab("Teach", id="teach"):
                teach_page(session, timer)
            with gr.Tab("Compose", id="compose") as compose_tab:
                compose = ComposePage(session)
            with gr.Tab("Share", id="share") as share_tab:
                share = SharePage(session, downloads)
        compose_tab.select(*compose.refresh, api_name="library", show_progress="hidden")
        share_tab.select(*share.refresh, api_name="library_to_share", show_progress="hidden")
        site.load(*compose.refresh, api_visibility="private", show_progress="hidden")
        site.load(*share.refresh, api_visibility="private", show_progress="hidden")
    return site


def launch(session: Session) -> tuple[gr.Blocks, str]:
    """Start the server in a thread; gives the site and its address. Files are served from a new private folder only.

    Raises: UserError if it cannot listen there, as when the port is taken.
    """
    downloads = Path(get_upload_folder()) / "exports"
    downloads.mkdir(parents=True, exist_ok=True)
    options, site = session.options, build_site(session, downloads)
    try:
        _, address, _ = site.launch(
            server_name=options.host, server_port=options.port or None, prevent_thread_lock=True, quiet=True,
            share=False, inbrowser=False, ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False,
            max_file_size=f"{options.largest_upload}mb", footer_links=[], theme=theme(), css=CSS, show_error=True,
            app_kwargs={
                "middleware": middleware(options.host), "docs_url": None, "redoc_url": None, "openapi_url": None,
            },
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"cannot listen on {options.host}, port {options.port}: choose another --port") from error
    return site, address
