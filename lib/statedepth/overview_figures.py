"""The figure of the landing page: what all claims' runs say of one architecture, task and site, by a measure that readers choose."""

from collections.abc import Callable

import altair as alt
import pandas as pd

from statedepth import profiles
from statedepth.render import Figure
from statedepth.theme import ARCHITECTURES, GREY, over_seeds, themed
from statedepth.verdicts import NAMES, Tables, target_of, task_name

READ, ABOVE, NEEDED, V1 = MEASURES = (
    "what a probe reads",
    "what it reads beyond an untrained network",
    "task lost when what linear probes read is erased",
    "task lost when v1's direction is out",
)
TASKS = ("parity", "dyck-2-4", "S3")
BY = ["architecture", "site"]


def _read(tables: Tables, task: str) -> dict[str, pd.DataFrame]:
    """Readability at each site, and its excess over the same network untrained, seed by seed."""
    table = profiles.with_readability(tables["readability"])
    table = table[(table["task"] == task) & (table["variable"] == target_of(task)) & (table["position"] == 0)]
    table = table[table["passed"] & (table["labels"] == "task")]
    own, other = (table[table["network"] == network] for network in ("trained", "untrained"))
    both = own.merge(other[[*BY, "seed", "readability"]], on=[*BY, "seed"], suffixes=("", "_untrained"))
    both = both.assign(value=both["readability"] - both["readability_untrained"])
    return {READ: own.assign(value=own["readability"]), ABOVE: both}


def _needed(tables: Tables, task: str) -> dict[str, pd.DataFrame]:
    """Share of the task that is lost by LEACE at each position and by one probe's direction."""
    table = tables["necessity"]
    table = table[(table["task"] == task) & table["passed"] & (table["length"] == table["trained_length"])].assign(
        value=table["fall"]
    )
    rows = {NEEDED: ("each", "LEACE"), V1: ("pooled", "direction")}
    return {what: table[(table["positions"] == p) & (table["method"] == m)] for what, (p, m) in rows.items()}


def values(runs: dict[str, Tables]) -> pd.DataFrame:
    """Task, measure, architecture, site: mean over seeds with its 95% t interval and n; n is 0 where nothing was measured."""
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for task in TASKS:
        source = next(
            (runs[n] for n in ("flip", "s3_grouping") if n in runs and task in set(runs[n]["models"]["task"])), None
        )
        parts = _read(source, task) if source else {}
        parts |= _needed(runs["causal_necessity"], task) if "causal_necessity" in runs else {}
        found |= {(task, measure): over_seeds(part, BY, "value") for measure, part in parts.items() if len(part)}
    sites = range(1 + max((int(part["site"].max()) for part in found.values()), default=4))
    frame = pd.DataFrame([(a, site) for a in NAMES for site in sites], columns=BY)
    rows = [
        frame.merge(
            found.get((task, measure), pd.DataFrame(columns=[*BY, "mean", "low", "high", "n"])), how="left", on=BY
        ).assign(task=task_name(task), measure=measure)
        for task in TASKS
        for measure in MEASURES
    ]
    table = pd.concat(rows, ignore_index=True).astype(dict.fromkeys(("mean", "low", "high", "n"), float))
    text = [f"{100 * mean:.0f}" if n > 0 else "–" for mean, n in zip(table["mean"], table["n"], strict=True)]
    table.loc[~(table["n"] > 1), ["low", "high"]] = float("nan")  # of one seed there is no interval
    return table.assign(n=table["n"].fillna(0), name=table["architecture"].map(NAMES), text=text)


def hero(runs: dict[str, Tables]) -> Figure:
    """Where is the state read, and where is it needed? Architecture by site; the reader chooses task and measure."""
    table = values(runs)
    names = [task_name(task) for task in TASKS]
    task = alt.param(name="task", value=names[0], bind=alt.binding_radio(options=names, name="Task"))
    measure = alt.param(name="measure", value=READ, bind=alt.binding_select(options=list(MEASURES), name="Measure"))
    base = (
        alt.Chart(table)
        .transform_filter("datum.task === task && datum.measure === measure")
        .encode(
            x=alt.X(
                "site:O",
                title="site (0 = embedding, l = output of block l)",
                axis=alt.Axis(labelAngle=0, ticks=False),
                scale=alt.Scale(paddingInner=0.06),
            ),
            y=alt.Y(
                "name:N",
                sort=ARCHITECTURES,
                title=None,
                axis=alt.Axis(ticks=False, labelFontSize=13),
                scale=alt.Scale(paddingInner=0.06),
            ),
        )
    )
    fill = base.mark_rect(cornerRadius=4).encode(
        color=alt.condition(
            "datum.n > 0",
            alt.Color("mean:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True), legend=None),
            alt.value("#e6e6e6"),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="architecture"),
            alt.Tooltip("task:N"),
            alt.Tooltip("measure:N"),
            "site:O",
            alt.Tooltip("mean:Q", format=".3f"),
            alt.Tooltip("low:Q", format=".3f", title="95% from"),
            alt.Tooltip("high:Q", format=".3f", title="to"),
            alt.Tooltip("n:Q", title="seeds"),
        ],
    )
    light = alt.condition("datum.n > 0 && datum.mean < 0.55", alt.value("white"), alt.value("#111"))
    label = base.mark_text(fontSize=14).encode(text="text:N", color=light)
    title = alt.Title(
        text=alt.ExprRef("'On ' + task + ', in per cent: ' + measure"),
        subtitle="– : not measured in this book",
        subtitleColor=GREY,
        offset=10,
    )
    chart = (fill + label).properties(width=240, height=180, title=title).add_params(task, measure)
    first = table[(table["task"] == names[0]) & (table["measure"] == READ) & (table["n"] > 0)]
    half = first[first["mean"] >= 0.5].groupby("name", sort=False)["site"].min()
    said = "; ".join(f"{name} at site {site}" for name, site in half.items()) or "none"
    caption = (
        f"The first site at which a linear probe gets at least half of the way from always guessing the most frequent state to "
        f"always being right, on {names[0]}: {said}. Choose another task or measure; point at a cell for the mean over seeds, its "
        "95% interval and how many seeds. Parity and Dyck are claim 1's and 3's models, S₃ claim 2's, which were trained on shorter "
        "strings; over 100, an edited model does worse than the most frequent answer. What an edit costs at the last site, which the head "
        "reads, is a bound."
    )
    return Figure(themed(chart), "overview.hero", f"Heat map, architecture by site. {caption}", caption)


CHARTS: dict[str, Callable[[dict[str, Tables]], Figure]] = {"hero": hero}
