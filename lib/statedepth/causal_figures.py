"""The figures of claim 3: is the variable gone, is the task gone, and what puts it back?"""

import math
from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd

from statedepth import causal
from statedepth.causal import DIRECTIONS, OUTCOMES
from statedepth.render import Figure
from statedepth.theme import ARCHITECTURES, COLOURS, GREY, colour, over_seeds, rows_with_text, themed
from statedepth.verdicts import NAMES, Tables, task_name

# Told apart in grey too; none is the colour of an architecture.
OUTCOME_COLOURS = {"necessary": "#3b2a6b", "inconclusive": "#8d86a8", "not necessary": "#cfc8ea", "not removed": "#b9770e", "absent": "#dddddd"}  # fmt: skip
DARK = ("necessary", "inconclusive", "not removed")  # under white text
METHODS = ["direction", "strong direction", "mean projection", "LEACE", "INLP"]
SCOPES = {"pooled": "one", "each": "each", "last": "last"}
ROWS = (
    "In a row's name, one: one eraser for all positions; each: one at each position; last: at the last position alone. "
)
SHORT = {"mean projection": "class means"}  # of names that a phone has no room for
LOST = "task lost"
READ = "still read"
SHARE = alt.Scale(domain=[-0.1, 1.3], clamp=True)


def _shade(legend: bool) -> alt.Color:
    """The colour of an architecture; its legend in two rows, for a phone."""
    shown = alt.Legend(title=None, orient="top", columns=3, symbolOpacity=1) if legend else None
    scale = alt.Scale(domain=ARCHITECTURES, range=list(COLOURS.values()))
    return alt.Color("name:N", scale=scale, legend=shown)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With the names that readers see, and a row label for the method and the positions of the edit."""
    rows = [_row(m, p) for m, p in zip(table["method"], table["positions"], strict=True)]
    return table.assign(name=table["architecture"].map(NAMES), panel=table["task"].map(task_name), row=rows)


def _row(method: str, positions: str) -> str:
    return f"{SHORT.get(method, method)}, {SCOPES[positions]}"


def _order(table: pd.DataFrame) -> list[str]:
    wanted = [_row(method, positions) for positions in SCOPES for method in METHODS]
    return [row for row in wanted if row in set(table["row"])]


def _names(table: pd.DataFrame) -> list[str]:
    return [name for name in ARCHITECTURES if name in set(table["name"])]


def _stacked(panels: list[Any]) -> Any:
    return themed(alt.vconcat(*panels) if panels else alt.Chart(pd.DataFrame({"x": []})).mark_point())


def _panels(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["panel"]))


def planted(tables: Tables) -> Figure:
    """Does the test return what was planted?"""
    table = tables["planted"].copy()
    table["row"] = [_row(m, p) if m in METHODS else m for m, p in zip(table["method"], table["positions"], strict=True)]
    cells = table.groupby(["task", "kind", "row"], sort=False).agg(
        outcome=("outcome", lambda o: o.iloc[0] if o.nunique() == 1 else "differs by site"),
        expected=("expected", "first"),
        fall=("fall", "mean"),
        read=("refit_own", "mean"),
    )
    cells = cells.reset_index().assign(
        planted=lambda t: t["expected"] != causal.UNPLANTED, dark=lambda t: t["outcome"].isin(DARK)
    )
    cells["right"] = ~cells["planted"] | (cells["outcome"] == cells["expected"])
    order = [*[row for row in _order(cells)], *[row for row in dict.fromkeys(cells["row"]) if row not in _order(cells)]]
    scale = alt.Scale(domain=list(OUTCOME_COLOURS), range=list(OUTCOME_COLOURS.values()))
    panels: list[Any] = []
    for task in dict.fromkeys(cells["task"]):
        base = alt.Chart(cells[cells["task"] == task]).encode(
            x=alt.X("kind:N", sort=None, title=None, axis=alt.Axis(labelAngle=0, orient="top")),
            y=alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=170)),
        )
        tooltip = ["kind:N", "row:N", "outcome:N", "expected:N", alt.Tooltip("fall:Q", format=".2f"), alt.Tooltip("read:Q", format=".2f")]  # fmt: skip
        fill = base.mark_rect(stroke="white", strokeWidth=2).encode(
            color=alt.Color("outcome:N", scale=scale, legend=None), tooltip=tooltip
        )
        text = base.mark_text(fontSize=10.5).encode(
            text="outcome:N", color=alt.condition("datum.dark", alt.value("white"), alt.value("#111"))
        )
        ring = base.transform_filter("datum.planted").mark_rect(fill=None, stroke="#111", strokeWidth=1.5)
        panels.append((fill + text + ring).properties(width=225, height=alt.Step(22), title=task_name(task)))
    wrong = int((~cells["right"]).sum())
    came = "Every framed cell came out as planted." if not wrong else f"{wrong} framed cells came out otherwise."
    caption = (
        "What the whole pipeline says of three hand-built models, sites 1 and 2. Framed: what was planted is known. "
        f"{came} A probe's direction does not remove even a state that has one clean code. " + ROWS
    )
    return Figure(_stacked(panels), "causal_necessity.planted", caption, caption)


def story(tables: Tables) -> Figure:
    """Per method: is the variable gone, and is the task gone?"""
    table = _named(causal.cells(tables))
    table = table[(table["times"].round(6) == 1) & (table["positions"] != "last")]
    by_model = (
        table.groupby(["panel", "row", "name", "seed"], sort=False)[["own_before", "own_after", "fall"]]
        .mean()
        .reset_index()
    )
    order = _order(table)
    panels: list[Any] = []
    names = _names(table)
    for panel in _panels(table):
        columns: list[Any] = []
        for value, title in (("own_after", READ), ("fall", LOST)):
            here = over_seeds(by_model[by_model["panel"] == panel], ["row", "name"], value)
            axis = alt.Axis(labelLimit=200) if value == "own_after" else None
            base = alt.Chart(here).encode(
                y=alt.Y("row:N", sort=order, title=None, axis=axis), yOffset=alt.YOffset("name:N", sort=names)
            )
            per_cent = alt.Axis(values=[0, 0.5, 1], labelExpr="round(100 * datum.value)")
            x = alt.X("mean:Q", title=f"{title}, %", scale=SHARE, axis=per_cent)
            tooltip = [
                "row:N",
                "name:N",
                *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")),
                "n:Q",
            ]
            rule = base.mark_rule(clip=True).encode(
                x=alt.X("low:Q", scale=SHARE), x2="high:Q", color=_shade(not panels)
            )
            point = base.mark_point(size=28, filled=True, opacity=1).encode(
                x=x, color=_shade(not panels), tooltip=tooltip
            )
            columns.append((rule + point).properties(width=92, height=alt.Step(7)))
        panels.append(alt.hconcat(*columns, spacing=12).properties(title=alt.TitleParams(panel, anchor="start")))
    caption = (
        f"Left: how well probes refitted at single positions still read the state after the edit. Right: {LOST}, the share of the way "
        "down to the most frequent class. Mean over the sites before the last at the training length, with 95% t intervals "
        "over seeds. " + _of_story(by_model) + " " + ROWS
    )
    return Figure(_stacked(panels), "causal_necessity.story", caption, caption)


def _of_story(by_model: pd.DataFrame) -> str:
    """What the figure shows, in words."""
    mean = by_model.groupby("row")[["own_after", "fall"]].mean()
    said = []
    for row, words in SAID.items():
        if row in mean.index:
            read, fall = mean.loc[row, ["own_after", "fall"]].to_numpy()
            said.append(f"after {words} {read:.0%} and {fall:.0%} of the task lost")
    before = float(by_model["own_before"].mean()) if said else 0.0
    return f"Readability on the mean: {before:.0%} before; {'; '.join(said)}." if said else ""


def directions(tables: Tables) -> Figure:
    """v1's test, the direction read in three ways."""
    found = causal.ablations(tables)
    found = found[(found["times"].round(6) == 1) & found["fall"].notna()]
    found = found.assign(positions="pooled", low=found["low"].fillna(found["fall"]), high=found["high"].fillna(found["fall"]))  # fmt: skip
    table = _named(found)
    panels: list[Any] = []
    ways = {"direction": "the probe's", "strong direction": "most penalised", "mean projection": "class means"}
    names = _names(table)
    table["way"] = table["method"].map(ways)
    for panel in _panels(table):
        base = alt.Chart(table[table["panel"] == panel]).encode(
            y=alt.Y("way:N", sort=list(ways.values()), title=None, axis=alt.Axis(labelLimit=230)),
            yOffset=alt.YOffset("name:N", sort=names),
        )
        x = alt.X("fall:Q", title=LOST, scale=SHARE, axis=alt.Axis(values=[0, 0.5, 1], format="%"))
        half = alt.Chart(pd.DataFrame({"half": [0.5]})).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="half:Q")
        rule = base.mark_rule(clip=True).encode(x=alt.X("low:Q", scale=SHARE), x2="high:Q", color=_shade(not panels))
        tooltip = ["name:N", "way:N", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("fall", "low", "high", "over")), "n:Q"]  # fmt: skip
        point = base.mark_point(size=45, filled=True, opacity=1).encode(x=x, color=_shade(not panels), tooltip=tooltip)
        panels.append((half + rule + point).properties(width=170, height=alt.Step(11), title=panel))
    held = found.groupby("method")["holds"].apply(lambda h: int((h == True).sum()))  # noqa: E712
    counted = ", ".join(f"{held.get(method, 0)} by {name}" for method, name in DIRECTIONS.items())
    named = "; ".join(f"{ways[method]}: {name}" for method, name in DIRECTIONS.items())
    caption = (
        f"{LOST.capitalize()} when one direction is taken out at the best-readable site, at all positions, with 95% t intervals over seeds. "
        f"Taking a direction out destroys the task (at or over the dashed line, and over every control), of {len(table) // max(1, len(DIRECTIONS))} "
        f"architectures and tasks, in {counted}. Rows are {named}."
    )
    return Figure(_stacked(panels), "causal_necessity.directions", caption, caption)


SAID = {"direction, one": "one direction", "LEACE, each": "LEACE at each position"}
BY_SITE = {("pooled", "direction"): "direction", ("each", "LEACE"): "LEACE, each position"}


def by_site(tables: Tables) -> Figure:
    """Site by site: what one direction costs, what an exact eraser costs, and a random subspace of its rank."""
    table = _named(causal.cells(tables, judged=False))
    table = table[table["times"].round(6) == 1]
    parts = [table[(table["positions"] == p) & (table["method"] == m)].assign(edit=name) for (p, m), name in BY_SITE.items()]  # fmt: skip
    parts.append(parts[1].assign(edit="random, same rank", fall=parts[1]["random_fall"]))
    lines = over_seeds(pd.concat(parts).dropna(subset=["fall"]), ["panel", "name", "edit", "site"], "fall")
    edits = [*BY_SITE.values(), "random, same rank"]
    scale = alt.Scale(domain=edits, range=[[5, 3], [1, 0], [1, 3]])
    rows: list[Any] = []
    for name in _names(table):
        columns: list[Any] = []
        for panel in _panels(table):
            base = alt.Chart(lines[(lines["name"] == name) & (lines["panel"] == panel)]).encode(
                x=alt.X("site:O", title=None, axis=alt.Axis(labelAngle=0))
            )
            y = alt.Y("mean:Q", title=None, scale=SHARE, axis=alt.Axis(values=[0, 0.5, 1], format="%"))
            dash = alt.StrokeDash("edit:N", scale=scale, sort=edits, legend=alt.Legend(title=None, orient="top", columns=1, labelLimit=220))  # fmt: skip
            tooltip = ["edit:N", "site:O", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")), "n:Q"]  # fmt: skip
            whisker = base.mark_rule(opacity=0.5, clip=True, color=COLOURS[name]).encode(
                y=alt.Y("low:Q", scale=SHARE), y2="high:Q"
            )
            line = base.mark_line(color=COLOURS[name], strokeWidth=2).encode(y=y, strokeDash=dash, detail="edit:N")
            point = base.mark_point(color=COLOURS[name], filled=True, size=25, opacity=1).encode(y=y, tooltip=tooltip)
            title = alt.TitleParams(f"{name}, {panel}", color=COLOURS[name], fontSize=12)
            columns.append((whisker + line + point).properties(width=125, height=85, title=title))
        rows.append(alt.hconcat(*columns, spacing=10))
    caption = (
        f"{LOST.capitalize()} by the site that is edited (1 to L; the last is a bound, since the head reads it). Solid: LEACE at each "
        "position. Dashed: one direction. Dotted: random subspaces of the same rank as LEACE. Means with 95% t intervals over seeds."
    )
    return Figure(_stacked(rows), "causal_necessity.by_site", caption, caption)


def outcomes(tables: Tables) -> Figure:
    """How many cells of each method come out how?"""
    table = causal.cells(tables)
    table = _named(table[table["times"].round(6) == 1])
    found = table.groupby(["panel", "row", "outcome"], sort=False).size().rename("cells").reset_index()
    found["rank"] = found["outcome"].map({name: i for i, name in enumerate(OUTCOME_COLOURS)})
    found["dark"] = found["outcome"].isin(DARK)
    order = _order(table)
    panels: list[Any] = []
    scale = alt.Scale(domain=list(OUTCOME_COLOURS), range=list(OUTCOME_COLOURS.values()))
    for panel in _panels(table):
        here = found[found["panel"] == panel].sort_values(["row", "rank"]).copy()
        here["end"] = here.groupby("row")["cells"].cumsum()
        here["start"] = here["end"] - here["cells"]
        here["middle"] = (here["start"] + here["end"]) / 2
        base = alt.Chart(here).encode(y=alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=190)))
        legend = alt.Legend(title=None, orient="top", columns=3) if not panels else None
        bar = base.mark_bar(stroke="white").encode(
            x=alt.X("start:Q", title="cells"),
            x2="end:Q",
            color=alt.Color("outcome:N", scale=scale, legend=legend),
            tooltip=["row:N", "outcome:N", "cells:Q"],
        )
        text = (
            base.transform_filter("datum.cells > 3")
            .mark_text(fontSize=11)
            .encode(
                x="middle:Q", text="cells:Q", color=alt.condition("datum.dark", alt.value("white"), alt.value("#111"))
            )
        )
        panels.append((bar + text).properties(width=170, height=alt.Step(22), title=panel))
    said = {row: part.set_index("outcome")["cells"] for row, part in found.groupby("row")}
    counted = []
    for row, words in SAID.items():
        if row in said:
            total = said[row].groupby(level=0).sum()
            counted.append(
                f"by {words}, " + ", ".join(f"{name} in {total[name]}" for name in OUTCOMES if name in total)
            )
    caption = (
        "Cells (a site before the last, an architecture, a seed) by outcome, at the training length. The state is: "
        + "; ".join(counted)
        + ". "
        + ROWS
    )
    return Figure(_stacked(panels), "causal_necessity.outcomes", caption, caption)


CONTROLS = {
    "fall": "LEACE, each",
    "resample_fall": "resampled",
    "matched_fall": "same variance",
    "random_fall": "same rank",
    "control_fall": "another variable",
}


def controls(tables: Tables) -> Figure:
    """What does taking out as much of something else cost?"""
    table = causal.cells(tables)
    table = _named(
        table[(table["times"].round(6) == 1) & (table["positions"] == "each") & (table["method"] == "LEACE")]
    )
    long = table.melt(["panel", "name", "seed", "site"], list(CONTROLS), var_name="kind", value_name="value")
    by_model = long.groupby(["panel", "name", "seed", "kind"], sort=False)["value"].mean().reset_index()
    by_model["kind"] = by_model["kind"].map(CONTROLS)
    panels: list[Any] = []
    names = _names(table)
    for panel in _panels(table):
        here = over_seeds(by_model[by_model["panel"] == panel].dropna(subset=["value"]), ["name", "kind"], "value")
        base = alt.Chart(here).encode(
            y=alt.Y("kind:N", sort=list(CONTROLS.values()), title=None, axis=alt.Axis(labelLimit=200)),
            yOffset=alt.YOffset("name:N", sort=names),
        )
        x = alt.X("mean:Q", title=LOST, scale=SHARE, axis=alt.Axis(values=[0, 0.5, 1], format="%"))
        tooltip = ["name:N", "kind:N", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")), "n:Q"]
        rule = base.mark_rule(clip=True).encode(x=alt.X("low:Q", scale=SHARE), x2="high:Q", color=_shade(not panels))
        point = base.mark_point(size=40, filled=True, opacity=1).encode(x=x, color=_shade(not panels), tooltip=tooltip)
        panels.append((rule + point).properties(width=150, height=alt.Step(9), title=panel))
    taken = float(table["variance_removed"].mean()) if len(table) else math.nan
    matched = float(table["matched_share"].mean()) if len(table) else math.nan
    caption = (
        f"{LOST.capitalize()} by LEACE at each position, by the same with the part of another string in place of what it takes, and by "
        "its controls: random subspaces of the same variance and of the same rank, and LEACE of another, irrelevant variable. Mean "
        f"over the sites before the last, with 95% t intervals over seeds. LEACE takes {taken:.0%} of the variance on the mean; the control that is matched to it comes to "
        f"{matched:.0%} where the state's own subspace is left alone."
    )
    return Figure(_stacked(panels), "causal_necessity.controls", caption, caption)


def peaks(tables: Tables) -> Figure:
    """Is the best-read site the most damaged one?"""
    found = causal.peaks(tables)
    found = found.assign(name=found["architecture"].map(NAMES), panel=found["task"].map(task_name))
    found = found[found["n"] > 0]
    found["text"] = [
        f"{r['name']}: "
        + (
            "tied in every seed"
            if r["gap"] == r["low"] == r["high"] == 0
            else f"{r['gap']:+.1f}" + (f" ({r['low']:+.1f} to {r['high']:+.1f})" if r["n"] > 1 else "")
        )
        for r in found.to_dict("records")
    ]
    marks = {"read": "read best", "hurt": "erasure hurts most"}
    deepest = max([3, *causal.cells(tables)["site"]])
    panels: list[Any] = []
    for panel in _panels(found):
        here = found[found["panel"] == panel]
        names = _names(here)
        y = alt.Y("name:N", sort=names, axis=None)
        scale = alt.Scale(domain=[0.8, deepest + 0.2])
        ends = pd.concat([here.assign(what=text, x=here[c], x_low=here[f"{c}_low"], x_high=here[f"{c}_high"]) for c, text in marks.items()])  # fmt: skip
        base = alt.Chart(here).encode(y=y)
        axis = alt.Axis(values=list(range(1, deepest + 1)), format="d")
        line = base.mark_rule(strokeWidth=2, yOffset=7).encode(
            x=alt.X("read:Q", scale=scale), x2="hurt:Q", color=colour()
        )
        shape = alt.Shape(
            "what:N",
            scale=alt.Scale(domain=list(marks.values()), range=["circle", "square"]),
            legend=alt.Legend(title=None, symbolFillColor=GREY, symbolStrokeColor=GREY) if not panels else None,
        )
        point = (
            alt.Chart(ends)
            .mark_point(size=80, filled=True, opacity=1, yOffset=7)
            .encode(
                y=y,
                x=alt.X("x:Q", title="site, mean over seeds", scale=scale, axis=axis),
                shape=shape,
                color=colour(),
                tooltip=["name:N", "what:N", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("x", "x_low", "x_high"))],
            )
        )
        panels.append(rows_with_text(base, alt.layer(line, point)).properties(title=panel))
    differ = found[(found["low"] > 0) | (found["high"] < 0)]
    named = ", ".join(f"{a} on {b}" for a, b in differ[["name", "panel"]].to_numpy()) or "none"
    caption = (
        "Where a probe at each position reads the state best (circle) and where LEACE at each position costs most (square), among the sites "
        "before the last. In words: how much deeper the second is, with its 95% t interval over seeds; sites within a standard "
        f"error count as the same. The two sites differ, by an interval that excludes 0, in: {named}."
    )
    return Figure(_stacked(panels), "causal_necessity.peaks", caption, caption)


def beyond(tables: Tables) -> Figure:
    """What do ablations cost on longer strings?"""
    table = _named(causal.cells(tables))
    rows: list[Any] = []
    shown = {("pooled", "direction"): "one direction", ("pooled", "LEACE"): "LEACE, one eraser"}
    every = []
    for panel in _panels(table):
        columns: list[Any] = []
        for (positions, method), title in shown.items():
            here = table[(table["panel"] == panel) & (table["positions"] == positions) & (table["method"] == method)]
            worst = here.groupby(["name", "seed", "times"], sort=False)["fall"].max().reset_index().dropna()
            lines = over_seeds(worst, ["name", "times"], "fall")
            every.append(lines.assign(panel=panel, title=title))
            base = alt.Chart(lines).encode(
                x=alt.X("times:O", title="times the training length", axis=alt.Axis(labelAngle=0)), color=_shade(not rows and not columns)
            )  # fmt: skip
            y = alt.Y("mean:Q", title=None, scale=SHARE, axis=alt.Axis(values=[0, 0.5, 1], format="%"))
            tooltip = ["name:N", "times:O", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")), "n:Q"]  # fmt: skip
            layers = [
                base.mark_rule(clip=True).encode(y=alt.Y("low:Q", scale=SHARE), y2="high:Q"),
                base.mark_line(strokeWidth=2).encode(y=y),
                base.mark_point(filled=True, size=30, opacity=1).encode(y=y, tooltip=tooltip),
            ]
            columns.append(
                alt.layer(*layers).properties(width=125, height=120, title=alt.TitleParams([panel, title], fontSize=12))
            )
        rows.append(alt.hconcat(*columns, spacing=10))
    caption = (
        f"{LOST.capitalize()} at the site, before the last, where the edit costs most, by the length of the strings; means with 95% t intervals "
        "over seeds. Erasers are fitted on strings of that length. The way down is that of the intact model at that length."
    )
    return Figure(_stacked(rows), "causal_necessity.beyond", caption, caption)


PUT_IN = {
    "stream": "whole stream of the clean run",
    "subspace": "LEACE's part of the clean run",
    "complement": "all but that part",
    "other state": "another string, clean state",
    "other subspace": "LEACE's part of that string",
    "same state": "another string, corrupted state",
}


def _recovery_colour(legend: bool) -> alt.Color:
    shown = alt.Legend(title="recovered (0 corrupted, 1 clean)", gradientLength=180, titleLimit=300) if legend else None
    return alt.Color("recovery:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True), legend=shown)


def interchange(tables: Tables) -> Figure:
    """At the read position: what of another run makes the answer that run's?"""
    table = causal.transfers(tables)
    table = table.assign(name=table["architecture"].map(NAMES), panel=table["task"].map(task_name))
    table["text"] = [f"{r:.1f}" if not math.isnan(r) else "" for r in table["recovery"]]
    rows: list[Any] = []
    for intervention, title in PUT_IN.items():
        columns: list[Any] = []
        for panel in _panels(table):
            here = table[(table["panel"] == panel) & (table["intervention"] == intervention)]
            y = alt.Y("name:N", sort=_names(here), title=None, axis=alt.Axis() if not columns else None)
            base = alt.Chart(here).encode(x=alt.X("site:O", title=None, axis=alt.Axis(labelAngle=0)), y=y)
            tooltip = ["name:N", "site:O", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("recovery", "low", "high", "follows")), "n:Q"]  # fmt: skip
            fill = base.mark_rect(stroke="white").encode(color=_recovery_colour(not rows and not columns), tooltip=tooltip)  # fmt: skip
            dark = alt.condition("datum.recovery < 0.55", alt.value("white"), alt.value("#111"))
            text = base.mark_text(fontSize=10).encode(text="text:N", color=dark)
            heading = alt.TitleParams([title, panel] if not columns else ["", panel], fontSize=12)
            columns.append((fill + text).properties(width=115, height=alt.Step(17), title=heading))
        rows.append(alt.hconcat(*columns, spacing=8))
    caption = (
        "What is put into the corrupted run at the last position, by site (0 = embedding), and how much of the difference "
        "between clean and corrupted answer it brings back; mean over seeds, never clipped in the tooltip. At the last site the "
        "whole stream brings back everything by construction. " + _of_subspace(table)
    )
    return Figure(_stacked(rows), "causal_necessity.interchange", caption, caption)


def _of_subspace(table: pd.DataFrame) -> str:
    judged = table[(table["site"] > 0) & (table["site"] < table["site"].max())]
    means = judged.groupby("intervention")["recovery"].mean()
    if not {"subspace", "complement"} <= set(means.index):
        return ""
    rest = judged[judged["intervention"] == "complement"].groupby(["architecture", "task"])["recovery"].mean()
    most = rest.idxmax()
    return (
        f"Between the embedding and the last site the erasable part brings back {means['subspace']:.0%} on the mean, the rest "
        f"{means['complement']:.0%}; the rest brings back most in {NAMES[most[0]]} on {task_name(most[1])}, {rest.max():.0%}."
    )


def patching(tables: Tables) -> Figure:
    """Which site and position, before the read one, carries the change on?"""
    table = tables["patching"]
    table = table[(table["at"] == "before") & table["passed"] & (table["offset"] <= 10)]
    found = table.groupby(["task", "architecture", "site", "offset"], sort=False)["recovery"].mean().reset_index()
    found = found.assign(name=found["architecture"].map(NAMES), panel=found["task"].map(task_name))
    rows: list[Any] = []
    for name in _names(found):
        columns: list[Any] = []
        for panel in _panels(found):
            here = found[(found["name"] == name) & (found["panel"] == panel)]
            y = alt.Y("site:O", sort="descending", title=None, axis=alt.Axis(labelFontSize=10) if not columns else None)  # fmt: skip
            base = alt.Chart(here).encode(x=alt.X("offset:O", title=None, axis=alt.Axis(labelAngle=0)), y=y)
            tooltip = ["name:N", "site:O", "offset:O", alt.Tooltip("recovery:Q", format=".2f")]
            fill = base.mark_rect().encode(color=_recovery_colour(not rows and not columns), tooltip=tooltip)
            title = alt.TitleParams(f"{name}, {panel}", color=COLOURS[name], fontSize=12)
            columns.append(fill.properties(width=130, height=alt.Step(13), title=title))
        rows.append(alt.hconcat(*columns, spacing=8))
    caption = (
        "The whole stream of one position before the read one, put from the clean into the corrupted run: by site (up is deep) and by "
        "tokens after the changed one (across), mean over seeds. At site 0 only the changed token matters. At the last site nothing "
        "can, since no block comes after it to carry it on."
    )
    return Figure(_stacked(rows), "causal_necessity.patching", caption, caption)


CHARTS: dict[str, Callable[[Tables], Figure]] = {
    "story": story,
    "planted": planted,
    "directions": directions,
    "by_site": by_site,
    "outcomes": outcomes,
    "controls": controls,
    "peaks": peaks,
    "beyond": beyond,
    "interchange": interchange,
    "patching": patching,
}
