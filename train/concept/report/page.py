"""The page of a report. Everything that comes from files is escaped, and the page loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from blocklora_jax.io.line_chart import Curve, line_chart
from blocklora_jax.io.outputs import SOFTWARE
from blocklora_jax.io.printing import printable
from train.concept.report.embedded import embed, embed_file
from train.concept.report.run_facts import RunFacts, shown_settings
from train.concept.report.usage import usage

# Earlier previews that are shown; of more, some in between are left out.
_MOST_PREVIEWS = 12
# The most telling metrics come first. The speed is no curve that anybody reads.
_FIRST, _LEFT_OUT = ("diffusion_loss", "erase_loss", "token_loss"), ("step", "steps_per_second")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: 0.75rem 1rem; overflow-x: auto; border-radius: 4px; }
table { border-collapse: collapse; } td { padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
td:first-child { color: #666; } summary { cursor: pointer; margin: 0.5rem 0; }
.state { color: #666; margin-top: 0.25rem; }
"""
# A browser that obeys it runs no script and fetches nothing, whatever stands in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def make_page(run: RunFacts) -> str:
    """The report of a run as HTML."""
    title = text(run.concept.trigger)
    sections = [
        f'<h1>{title}</h1>\n<p class="state">{text(state_of(run))}</p>',
        _previews(run),
        _section("Losses", _chart(run)),
        _section("Training pictures", _contact_sheet(run)),
        _section("How to use it", usage(run) if run.adapter else ""),
        _section("Settings", _settings(run)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="generator" content="{SOFTWARE}">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """`value` as text of the page: nothing in it is read as markup."""
    return escape(printable(value))


def state_of(run: RunFacts) -> str:
    """How far the run is, in words."""
    if run.adapter:
        return f"Finished: {run.steps} steps. {run.adapter.name}, {run.adapter.stat().st_size / 1e6:.2f} MB"
    if not run.done:
        return "Not finished: no step is logged yet"
    return f"Not finished: {run.done} of {run.steps} steps. The same command with --resume goes on"


def _section(heading: str, content: str) -> str:
    return f"<h2>{heading}</h2>\n{content}" if content else ""


def _previews(run: RunFacts) -> str:
    """The last preview, and the earlier ones, which a click shows."""
    pictures = [(step, embed_file(run.previews[step], f"preview after {step} steps")) for step in _chosen(run)]
    pictures = [(step, picture) for step, picture in pictures if picture]
    if not pictures:
        return ""
    step, last = pictures[-1]
    earlier = "\n".join(f"<p>After {step} steps</p>\n{picture}" for step, picture in reversed(pictures[:-1]))
    more = f"<details><summary>Earlier previews</summary>\n{earlier}\n</details>" if earlier else ""
    return _section(f"Preview after {step} steps", f"{last}\n{more}")


def _chosen(run: RunFacts) -> list[int]:
    """The steps whose previews are shown, the last one included."""
    steps = sorted(run.previews)
    every = -(-len(steps) // _MOST_PREVIEWS) if steps else 1
    return sorted({*steps[::every], *steps[-1:]})


def _chart(run: RunFacts) -> str:
    names = dict.fromkeys([*_FIRST, *(name for line in run.metrics for name in line if name not in _LEFT_OUT)])
    curves = {name: _curve(run, name) for name in names}
    if not any(curve.x for curve in curves.values()):
        return ""
    return embed(line_chart(curves, columns=3), "curves of the losses over the steps", "PNG")


def _curve(run: RunFacts, name: str) -> Curve:
    lines = [line for line in run.metrics if type(line.get(name)) in (int, float)]
    return Curve([line["step"] for line in lines], [line[name] for line in lines])


def _contact_sheet(run: RunFacts) -> str:
    picture = embed_file(run.folder / "contact_sheet.png", "the training pictures with their captions")
    about = "What no crop covers is pale, what the mask leaves out is red, and every crop has a green frame."
    return f"<p>{about}</p>\n{picture}" if picture else ""


def _settings(run: RunFacts) -> str:
    chosen, others = shown_settings(run.settings)
    return (
        f"{_table(chosen.items())}\n<details><summary>All others have their defaults</summary>\n"
        f"{_table(others.items())}\n</details>"
    )


def _table(rows: Iterable[tuple[str, str]] | Mapping[str, str]) -> str:
    cells = "\n".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in rows)
    return f"<table>\n{cells}\n</table>"
