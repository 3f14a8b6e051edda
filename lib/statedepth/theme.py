"""What all figures share: one theme, one colour per architecture, intervals over seeds, names that readers see."""

from typing import Any

import altair as alt
import pandas as pd

from statedepth import profiles
from statedepth.verdicts import NAMES, Tables, target_of, task_name

# Okabe and Ito's palette: told apart with any colour vision, and in print.
COLOURS = {"Transformer": "#0072B2", "Mamba": "#D55E00", "Mamba-2": "#E69F00", "LSTM": "#009E73", "GRU": "#CC79A7"}
ARCHITECTURES = list(COLOURS)
GREY = "#767676"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# Points of a line that nobody sees and that answer the pointer.
HOVER: dict[str, Any] = {"opacity": 0, "size": 120, "filled": True}
READABILITY = "readability A′"


def themed(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """A finished chart in the theme of the book."""
    return (
        chart.configure(
            font=FONT, background="transparent", padding=4, aria=False
        )  # the figure as a whole has its text
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridOpacity=0.35, domain=False)
        .configure_header(labelFontSize=13, labelFontWeight="bold", title=None)
        .configure_title(fontSize=13, anchor="start")
        .configure_legend(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", orient="top")
    )


def colour(legend: bool = False) -> alt.Color:
    """The colour of an architecture, by its column `name`."""
    scale = alt.Scale(domain=ARCHITECTURES, range=list(COLOURS.values()))
    return alt.Color("name:N", scale=scale, legend=alt.Legend(title=None, orient="top") if legend else None)


def named(table: pd.DataFrame) -> pd.DataFrame:
    """With the names that readers see: architecture, and task with its variable where it is not the verdict's."""
    panel = [
        task_name(task) + ("" if value == target_of(task) == "state" else f", {variable_name(value)}")
        for task, value in zip(table["task"], table["variable"], strict=True)
    ]
    return table.assign(name=table["architecture"].map(NAMES), panel=panel)


def variable_name(name: str) -> str:
    """A variable as readers see it."""
    return {"top": "stack top", "state": "state"}.get(name, name)


def panel_names(table: pd.DataFrame) -> list[str]:
    """The panels of a table, in the order of their first rows."""
    return list(dict.fromkeys(table["panel"]))


def over_seeds(table: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean and t interval of `value` over seeds, with n."""
    rows = []
    for keys, cell in table.groupby(by, sort=False):
        interval = profiles.mean_interval(cell[value].dropna().to_numpy())
        low = interval.low if interval.n > 1 else interval.estimate
        high = interval.high if interval.n > 1 else interval.estimate
        numbers = {"mean": interval.estimate, "low": low, "high": high, "n": interval.n}
        rows.append({**dict(zip(by, keys, strict=True)), **numbers})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def complete(table: pd.DataFrame, panels: list[str]) -> pd.DataFrame:
    """With an empty row for each panel and architecture that has none: a facet without data shifts all later ones."""
    names = [name for name in ARCHITECTURES if name in set(table["name"])]
    have = set(zip(table["panel"], table["name"], strict=True))
    lacking = [{"panel": p, "name": n, "site": 0} for p in panels for n in names if (p, n) not in have]
    return pd.concat([table, pd.DataFrame(lacking)]).reset_index(drop=True) if lacking else table


def rows_with_text(base: alt.Chart, mark: Any) -> alt.LayerChart:
    """Rows on a phone's width: what a row says (column `text`) stands over its mark, in place of an axis."""
    text = base.mark_text(align="left", dx=2, dy=-7, fontSize=11, color=GREY).encode(x=alt.value(0), text="text:N")
    return (text + mark).properties(width=325, height=alt.Step(32))


def count_passed(tables: Tables) -> pd.DataFrame:
    """Per task and architecture: seeds that passed, and all."""
    table = tables["models"].query("length == trained_length")
    counts = table.groupby(["task", "architecture"], sort=False)["passed"].agg(["sum", "count"])
    return counts.rename(columns={"sum": "n_passed", "count": "n_seeds"}).reset_index()
