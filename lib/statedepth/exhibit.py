"""What a page shows of a run: a figure with its files and its code beside it, and two runs side by side."""

import html
import io
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from statedepth import claims, drawn, figures, listing
from statedepth.files import write_whole
from statedepth.render import Figure, Rows, render

FILES = "_static/figures"  # below the site's root


def _escape(text: Any) -> str:
    return html.escape(str(text), quote=True)


def code_of(name: str) -> str | None:
    """Address below the site's root of the function that draws the figure `notebook.name`."""
    notebook, _, which = name.partition(".")
    several: dict[str, dict[str, Any]] = {**figures.CHARTS, "overview": figures.OVERVIEW, "drawn": drawn.CHARTS}
    function = several[notebook][which]
    return listing.place(f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}")


def _parquet(table: pd.DataFrame) -> bytes:
    """Columns of several types, as a figure of several tables has them, become text."""
    mixed = [column for column in table if table[column].dropna().map(type).nunique() > 1]
    buffer = io.BytesIO()
    table.astype(dict.fromkeys(mixed, str)).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _put(content: bytes, draft: Path) -> None:
    draft.write_bytes(content)


def figure(made: Figure, site: Path | None, up: str, suffix: str = "") -> str:
    """The figure as HTML; where there is a `site`, its picture and data are written there and linked, `up` from the page."""
    if site is None:
        return render(made)
    table, name = made.rows, made.name + suffix
    white = made.svg.replace("<svg", '<svg style="background:white"', 1)  # opened alone, it may lie on a dark page
    files = {"svg": white.encode(), "csv": table.to_csv(index=False).encode(), "parquet": _parquet(table)}
    for kind, content in files.items():
        write_whole(site / FILES / f"{name}.{kind}", partial(_put, content))
    links = [
        f'<a href="{up}{FILES}/{_escape(name)}.{kind}" download>{said}</a>'
        for kind, said in (("svg", "image (SVG)"), ("csv", "data (CSV)"), ("parquet", "data (Parquet)"))
    ]
    code = code_of(made.name)
    links += [f'<a href="{up}{code}">code that drew it</a>'] if code else []
    return render(made, f'<span class="statedepth-files">{"".join(links)}</span>', suffix)


def shown(value: Any, site: Path | None, up: str, suffix: str = "") -> str | None:
    """What a notebook's cell shows, as HTML; None for what is plain text."""
    if isinstance(value, Figure):
        return figure(value, site, up, suffix)
    return value._repr_html_() if isinstance(value, Rows) else None


def pair(ours: str, published: str) -> str:
    """A re-run beside the published run."""
    halves = (("This run", ours), ("Published run", published))
    inside = "".join(f'<div><p class="statedepth-which">{title}</p>{body}</div>' for title, body in halves)
    return f'<div class="statedepth-pair">{inside}</div>'


def badge(verdict: dict[str, Any], scales: dict[str, str]) -> str:
    """A verdict in a word, and the scale at which it was reached."""
    kind = verdict["outcome"].replace(" ", "-")
    scale = scales.get(verdict["scale"], verdict["scale"]) + (", provisional" if verdict["provisional"] else "")
    return f'<span class="statedepth-badge {kind}">{_escape(verdict["outcome"])}</span> <span class="scale">({_escape(scale)})</span>'


def deciding(notebook: str, verdict: dict[str, Any]) -> dict[str, str] | None:
    """The number that stands for a claim on the board: the one that its registry names, else the first that decided."""
    found = verdict["deciding"]
    named = [one for one in found if one["label"] == claims.CLAIMS[notebook].deciding]
    return (named or found or [None])[0]
