"""What all pages share: errors as one line, and pieces of HTML in which texts are shown as they are."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from train.app.session import Session

_SECONDS = 20.0  # for which an error is shown


def one_line_errors(session: Session, handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler`, whose errors are shown as the one line that the command line prints."""

    @functools.wraps(handler)
    def guarded(*args: Any) -> Any:
        try:
            return handler(*args)
        except gr.Error:
            raise
        except Exception as error:
            # Gradio shows messages as HTML, in which "<ada>" would be lost.
            line = html.escape(session.jobs.explain(error), quote=False)
            raise gr.Error(line, duration=_SECONDS, title="Error", print_exception=False) from error

    return guarded


def table(headers: list[str], rows: list[tuple[str, ...]]) -> str:
    """A table as HTML. Texts are shown as they are."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headers)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def notice(text: str, kind: str = "info") -> str:
    """A line as HTML. kind: "info", "good" or "bad"; decides its colour."""
    return f'<div class="notice {kind}">{html.escape(text)}</div>' if text else ""


def heading(text: str) -> str:
    """A heading above a part of a page, as HTML."""
    return f'<div class="heading">{html.escape(text)}</div>'
