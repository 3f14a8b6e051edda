"""The figures of claim 2: which tasks are near each other, and how sure is that?"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import altair as alt
import pandas as pd

from statedepth import profiles
from statedepth.grouping import (
    CLAIMED,
    CONV_EDIT,
    FAR,
    NEAR,
    OF_TASK,
    SUBJECTS,
    confounds,
    contrasts,
    conv_contrasts,
    distances,
    profile_name,
    target_effect,
)
from statedepth.render import Figure
from statedepth.theme import ARCHITECTURES, COLOURS, GREY, colour, over_seeds, rows_with_text, themed, variable_name
from statedepth.verdicts import NAMES, Tables, interval_text, target_of, task_name

ORDER = (
    "parity",
    "Z3",
    "Z6",
    "S3",
    "S3 sign",
    "S3 coset",
    "A4",
    "dyck-1-4",
    "dyck-2-4",
)  # of profiles, as tables label them
DEPTH = "distance, in blocks of depth"
SHAPES = alt.Scale(domain=[task_name(NEAR), task_name(FAR)], range=["square", "circle"])


def _named(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(name=table["architecture"].map(NAMES))


def grouping(tables: Tables) -> Figure:
    """Is S3 nearer to Parity or to Dyck, and how sure is that?"""
    found = _named(contrasts(tables).query("reading == 'pooled' and subject == @CLAIMED"))
    sure = [f", p = {p:.3f}" if n and not math.isnan(p) else "" for p, n in found[["p_holm", "n"]].to_numpy()]
    texts = [interval_text(row) if row["n"] else "no seed learned all three tasks" for _, row in found.iterrows()]
    found["text"] = [f"{name}: {text}{p}" for name, text, p in zip(found["name"], texts, sure, strict=True)]
    ends = [found.assign(to=task_name(task), distance=found[c]) for task, c in ((NEAR, "to_near"), (FAR, "to_far"))]
    both = pd.concat(ends) if len(found) else pd.DataFrame(columns=["name", "text", "to", "distance"])
    order = [name for name in ARCHITECTURES if name in set(found["name"])]
    y = alt.Y("name:N", sort=order, axis=None)
    base = alt.Chart(found).encode(y=y)
    x = alt.X("distance:Q", title=f"{task_name(CLAIMED)}'s {DEPTH}", scale=alt.Scale(domainMin=0))
    line = base.mark_rule(strokeWidth=2, yOffset=7).encode(x=alt.X("to_near:Q"), x2="to_far:Q", color=colour())
    points = (
        alt.Chart(both)
        .mark_point(size=90, filled=True, opacity=1, yOffset=7)
        .encode(
            y=y,
            x=x,
            color=colour(),
            shape=alt.Shape(
                "to:N",
                scale=SHAPES,
                legend=alt.Legend(title="distance to", symbolFillColor=GREY, symbolStrokeColor=GREY),
            ),
            tooltip=["name:N", alt.Tooltip("to:N", title="to"), alt.Tooltip("distance:Q", format=".2f"), "text:N"],
        )
    )
    caption = (
        f"How far {task_name(CLAIMED)}'s profile of rises is from Parity's (square) and from Dyck's (circle); a square left of "
        "its circle groups with Parity. In words: distance to Dyck less distance to Parity with its 95% t interval over "
        "seeds, and the exact one-sided permutation p, Holm-corrected. "
        + _grouped(found)
        + _unlearned(tables, task=(CLAIMED, NEAR, FAR))
    )
    chart = rows_with_text(base, alt.layer(line, points))
    return Figure(themed(chart), "s3_grouping.grouping", caption, caption)


def _grouped(found: pd.DataFrame) -> str:
    """Which intervals lie on one side of zero; of one seed there is none."""
    if not len(found):
        return "Not tested: this run does not have all three tasks."
    over, under, neither = (
        ", ".join(found.loc[which, "name"])
        for which in (found["low"] > 0, found["high"] < 0, ~(found["low"] > 0) & ~(found["high"] < 0))
    )
    said = (
        ("by an interval over 0 in", over),
        ("the other way round in", under),
        ("undecided, or of one seed, in", neither),
    )
    return (
        "Nearer to Parity than to Dyck is S₃ " + "; ".join(f"{where} {names}" for where, names in said if names) + "."
    )


def _unlearned(tables: Tables, **shown: Iterable[str]) -> str:
    """What no figure can show: cells of which no seed learned the task; `shown` has the `task` or `architecture` of it."""
    table = tables["models"].query("length == trained_length")
    for column, values in shown.items():
        table = table[table[column].isin(list(values))]
    cells = table.groupby(["architecture", "task"], sort=False).agg(some=("passed", "any"), best=("accuracy", "max"))
    names = [
        f"{NAMES[str(a)]} on {task_name(str(t))} (at best {best:.1%})"
        for (a, t), (some, best) in zip(cells.index, cells.to_numpy(), strict=True)
        if not some
    ]
    return f" Not shown, since no seed learned the task: {', '.join(names)}." if names else ""


def _in_order(labels: Iterable[str]) -> list[str]:
    labels = list(dict.fromkeys(labels))
    return [x for x in ORDER if x in labels] + [x for x in labels if x not in ORDER]


def distance_map(tables: Tables) -> Figure:
    """Which tasks are near each other in each architecture?"""
    table = distances(tables)
    turned = table[table["a"] != table["b"]].rename(columns={"a": "b", "b": "a"})
    cells = _named(pd.concat([table, turned]))
    cells = cells[~(cells["a"] + cells["b"]).str.contains(" ")]  # targets alone, no further variables of a task
    labels = _in_order(cells["a"])
    names = {label: profile_name(label) for label in labels}
    cells = cells.assign(
        row=cells["a"].map(names),
        column=cells["b"].map(names),
        text=["" if math.isnan(d) else f"{d:.1f}" for d in cells["distance"]],
        same=cells["a"] == cells["b"],
        sure=cells["low"] > cells["floor"],
    )
    order, most = [names[label] for label in labels], max(1.0, cells["distance"].max())
    panels = []
    for name in [name for name in ARCHITECTURES if name in set(cells["name"])]:
        here = cells[cells["name"] == name]
        base = alt.Chart(here).encode(
            x=alt.X("column:N", sort=order, title=None, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("row:N", sort=order, title=None),
        )
        fill = base.mark_rect(stroke="white", strokeWidth=1).encode(
            color=alt.Color(
                "distance:Q",
                scale=alt.Scale(scheme="viridis", domain=[0, most], reverse=True),
                legend=alt.Legend(title=DEPTH, gradientLength=200, titleLimit=300),
            ),
            tooltip=[
                "name:N",
                "row:N",
                "column:N",
                *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("distance", "low", "high", "floor")),
                "n:Q",
            ],
        )
        dark = alt.condition(f"datum.distance > {0.5 * most}", alt.value("white"), alt.value("#111"))
        text = base.transform_filter("!datum.sure").mark_text(fontSize=12).encode(text="text:N", color=dark)
        bold = (
            base.transform_filter("datum.sure")
            .mark_text(fontSize=13, fontWeight="bold")
            .encode(text="text:N", color=dark)
        )
        ring = base.transform_filter("datum.same").mark_rect(fill=None, stroke="#111", strokeWidth=1.5)
        title = alt.TitleParams(name, color=COLOURS[name])
        panels.append(
            (fill + text + bold + ring).properties(width=34 * len(order), height=24 * len(order), title=title)
        )
    caption = (
        "Distance between the profiles of every two tasks, in blocks of depth: dark is far. Framed, on the diagonal: the mean "
        "distance between two seeds of one task, which is what chance alone makes of it (empty: one seed learned it). Bold: the 95% t "
        "interval over seeds "
        "lies above that. Tasks that group form a light square."
    ) + _unlearned(tables)
    chart = alt.vconcat(*panels) if panels else alt.Chart(pd.DataFrame()).mark_point()
    return Figure(themed(chart), "s3_grouping.distances", caption, caption)


def readability_by_task(tables: Tables) -> Figure:
    """Where is the state of every task read, and which models did not learn theirs?"""
    table = profiles.with_readability(tables["readability"])
    table = _named(table.query("network == 'trained' and labels == 'task' and position == 0"))
    label = [t if v == target_of(t) else f"{t} {v}" for t, v in zip(table["task"], table["variable"], strict=True)]
    table = table.assign(label=label)
    shown = _in_order(label)
    by = ["name", "task", "label", "site"]
    means = over_seeds(table[table["passed"]], by, "readability")
    at_length = _named(tables["models"].query("length == trained_length"))
    accuracy = at_length.groupby(["name", "task"])["accuracy"].max().rename("best").reset_index()
    cells = table[by].drop_duplicates().merge(means, how="left", on=by).merge(accuracy, how="left", on=["name", "task"])
    middle = cells["site"].max() // 2
    cells["text"] = [
        f"{100 * m:.0f}" if n > 0 else f"{best:.1%}" if site == middle else "╱╱╱"
        for m, n, best, site in zip(cells["mean"], cells["n"].fillna(0), cells["best"], cells["site"], strict=True)
    ]
    cells["row"] = cells["label"].map(profile_name)
    order, panels = [profile_name(x) for x in shown], []
    for name in [name for name in ARCHITECTURES if name in set(cells["name"])]:
        base = alt.Chart(cells[cells["name"] == name]).encode(
            x=alt.X("site:O", title=None, axis=alt.Axis(labelAngle=0)), y=alt.Y("row:N", sort=order, title=None)
        )
        nothing = base.transform_filter("!isValid(datum.mean)").mark_rect(
            color="#e6e6e6", stroke="white", strokeWidth=2
        )
        fill = base.mark_rect(stroke="white", strokeWidth=2).encode(
            color=alt.Color(
                "mean:Q",
                scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True),
                legend=alt.Legend(title="readability (1 = always right)", gradientLength=200, titleLimit=300),
            ),
            tooltip=["name:N", "row:N", "site:O", alt.Tooltip("mean:Q", format=".3f"), "n:Q"],
        )
        dark = alt.condition("datum.n > 0 && datum.mean < 0.55", alt.value("white"), alt.value("#111"))
        text = base.mark_text(fontSize=12).encode(text="text:N", color=dark)
        title = alt.TitleParams(name, color=COLOURS[name])
        panels.append((nothing + fill + text).properties(width=225, height=alt.Step(22), title=title))
    caption = (
        "Readability in per cent at sites 0 (embedding) to L, mean over the seeds that learned the task. Hatched: no seed "
        "did, with the best accuracy that one reached."
    )
    return Figure(themed(alt.vconcat(*panels)), "s3_grouping.readability", caption, caption)


def other_subjects(tables: Tables) -> Figure:
    """Do the other tasks lie on Parity's side or on Dyck's?"""
    found = _named(contrasts(tables).query("reading == 'pooled' and n > 0"))
    found = found.fillna({"low": found["difference"], "high": found["difference"]})
    panels = []
    for subject in [s for s in SUBJECTS if s in set(found["subject"])]:
        here = found[found["subject"] == subject]
        panels.append(_differences(here, task_name(subject), "Dyck's distance less Parity's, in blocks", found))
    caption = (
        "The same question of every task: its distance to Dyck less its distance to Parity, with pointwise 95% t intervals "
        "over seeds (none where one seed learned all three). Right of zero is Parity's side."
    ) + _unlearned(tables)
    chart = alt.vconcat(*panels) if panels else alt.Chart(pd.DataFrame()).mark_point()
    return Figure(themed(chart), "s3_grouping.subjects", caption, caption)


def _differences(table: pd.DataFrame, title: str, axis: str, whole: pd.DataFrame) -> Any:
    """Differences with intervals, a row per architecture, around a rule at zero; on the scale of the `whole` figure."""
    x, y = _shared(whole, "difference", axis)
    base = alt.Chart(table).encode(y=y, color=colour())
    tooltip = ["name:N", *(alt.Tooltip(f"{c}:Q", format="+.2f") for c in ("difference", "low", "high")), "n:Q"]
    layers = [
        alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=GREY).encode(x=x("zero")),
        base.mark_rule(strokeWidth=2, clip=True).encode(x=x("low"), x2="high:Q"),
        base.mark_point(size=60, filled=True, opacity=1).encode(x=x("difference"), tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(width=215, height=alt.Step(18), title=title)


def _shared(whole: pd.DataFrame, value: str, title: str) -> tuple[Callable[[str], alt.X], alt.Y]:
    """Axes that all panels of a figure share: x to the outermost value, intervals of few seeds cut; y with every name."""
    low, high = min(0.0, whole[value].min()), whole[value].max()
    room = 0.35 * (high - low)
    scale = alt.Scale(domain=[low - room if low < 0 or whole["low"].min() < 0 else 0.0, high + room], nice=True)
    names = [name for name in ARCHITECTURES if name in set(whole["name"])]
    y = alt.Y("name:N", sort=names, title=None, scale=alt.Scale(domain=names))
    return lambda column: alt.X(f"{column}:Q", title=title, scale=scale), y


def pairs_apart(tables: Tables) -> Figure:
    """Are tasks that differ in few things apart by more than two seeds of one task are?"""
    found = _named(confounds(distances(tables)).dropna(subset=["distance"]))
    found = found.fillna({"low": found["distance"], "high": found["distance"]})
    panels = []
    for pair, here in found.groupby("pair", sort=False):
        x, y = _shared(found, "distance", DEPTH)
        base = alt.Chart(here).encode(y=y)
        tooltip = ["name:N", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("distance", "low", "high", "floor", "p"))]
        layers = [
            base.mark_rule(strokeWidth=2, clip=True).encode(x=x("low"), x2="high:Q", color=colour()),
            base.mark_tick(thickness=3, height=14, color=GREY).encode(x=x("floor")),
            base.mark_point(size=60, filled=True, opacity=1).encode(x=x("distance"), color=colour(), tooltip=tooltip),
        ]
        a, b = (profile_name(label) for label in str(pair).split("/"))
        title = alt.TitleParams(f"{a} and {b}", subtitle=here["meaning"].iloc[0], subtitleFontSize=12)
        panels.append(alt.layer(*layers).properties(width=215, height=alt.Step(18), title=title))
    caption = (
        "Distance between two tasks that differ in few things (colour, with its pointwise 95% t interval over seeds, cut where "
        "it leaves the figure) beside the mean distance between two seeds of one task (grey tick). A point without an "
        "interval is of one seed."
    ) + _unlearned(tables)
    chart = alt.vconcat(*panels) if panels else alt.Chart(pd.DataFrame()).mark_point()
    return Figure(themed(chart), "s3_grouping.confounds", caption, caption)


def readings(tables: Tables) -> Figure:
    """Does the answer depend on how the profiles are read?"""
    found = contrasts(tables).query("subject == @CLAIMED and n > 0")
    found = _named(found[found["reading"] != profiles.UNTRAINED])
    found = found.fillna({"low": found["difference"], "high": found["difference"]})
    panels = []
    for reading, here in found.groupby("reading", sort=False):
        panels.append(_differences(here, str(reading), "Dyck's distance less Parity's, in blocks", found))
    caption = (
        f"{task_name(CLAIMED)}'s distance to Dyck less its distance to Parity by each reading of the same profiles, with pointwise "
        "95% t intervals over seeds; the claim is judged by the first. The second is the first less what is there because the "
        "seeds of one task differ more than those of the other."
    )
    chart = alt.vconcat(*panels) if panels else alt.Chart(pd.DataFrame()).mark_point()
    return Figure(themed(chart), "s3_grouping.readings", caption, caption)


def other_targets(tables: Tables) -> Figure:
    """Same strings, same positions: where is a variable read when the model is trained on it, and when on another?"""
    table = tables["targets"].query("passed")
    table = _named(profiles.with_readability(table))
    table = table.assign(
        row=table["variable"].map(variable_name),
        target=[
            "trained on it" if target_of(t) == v else variable_name(target_of(t))
            for t, v in table[["task", "variable"]].to_numpy()
        ],
    )
    lines = over_seeds(table, ["name", "row", "target", "site"], "readability")
    own = "datum.target == 'trained on it'"
    base = alt.Chart().encode(
        x=alt.X("site:O", title="site", axis=alt.Axis(labelAngle=0, grid=False)),
        y=alt.Y(
            "mean:Q", title=None, scale=alt.Scale(domain=[-0.1, 1.05], clamp=True), axis=alt.Axis(values=[0, 0.5, 1])
        ),
        tooltip=["name:N", "row:N", "target:N", "site:O", alt.Tooltip("mean:Q", format=".2f"), "n:Q"],
    )
    layers = [
        base.transform_filter(f"!({own})").mark_line(color="#9a9a9a", strokeWidth=1.2).encode(detail="target:N"),
        base.transform_filter(own).mark_line(strokeWidth=2.5, point=True).encode(color=colour()),
    ]
    order = [variable_name(v) for v in ("top", "depth", "openers", "first") if variable_name(v) in set(lines["row"])]
    chart = (
        alt.layer(*layers, data=lines)
        .properties(width=62, height=70)
        .facet(
            row=alt.Row("name:N", sort=ARCHITECTURES, title=None, header=alt.Header(labelOrient="left")),
            column=alt.Column("row:N", sort=order, title=None, header=alt.Header(labelFontSize=12)),
            spacing={"row": 4, "column": 6},
        )
    )
    effect = target_effect(tables)
    known = effect.dropna(subset=["p_holm"])
    moved = [
        f"{NAMES[row['architecture']]} (by {row['excess']:.2f} blocks, corrected p = {row['p_holm']:.4f})"
        for _, row in known.iterrows()
        if row["p_holm"] < 0.05
    ]
    told = f"moves the depths in {', '.join(moved) or 'no architecture'}" if len(known) else "could not be tested"
    caption = (
        "Readability of each variable of one stream of bracket strings, by site: in models trained on that variable (colour) and "
        f"in models trained on another one (grey), mean over seeds. By the permutation test the target {told}."
    )
    return Figure(themed(chart), "s3_grouping.targets", caption, caption)


def convolution(tables: Tables) -> Figure:
    """Which block's convolution does each task need?"""
    table = _named(tables["conv"].query("passed")).assign(row=lambda t: t["task"].map(task_name))
    means = over_seeds(table, ["name", "edit", "row", "block"], "lost")
    means = means.assign(
        where=[str(b) if b else "all" for b in means["block"]],
        text=[f"{100 * m:.0f}" for m in means["mean"]],
    )
    last = str(means["block"].max()) if len(means) else "1"
    order, panels = [*map(str, range(1, int(last) + 1)), "all"], []
    tasks = [task_name(t) for t in _in_order(tables["conv"]["task"])]
    for (name, edit), here in means.groupby(["name", "edit"], sort=False):
        base = alt.Chart(here).encode(
            x=alt.X("where:N", sort=order, title="block edited", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("row:N", sort=tasks, title=None),
        )
        fill = base.mark_rect(stroke="white", strokeWidth=2).encode(
            color=alt.Color(
                "mean:Q",
                scale=alt.Scale(scheme="viridis", domain=[0, 1], reverse=True),
                legend=alt.Legend(title="share of the accuracy lost", gradientLength=200, titleLimit=300),
            ),
            tooltip=[
                "name:N",
                "row:N",
                "where:N",
                *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")),
                "n:Q",
            ],
        )
        dark = alt.condition("datum.mean > 0.5", alt.value("white"), alt.value("#111"))
        title = alt.TitleParams(f"{name}: {EDIT_NAMES[str(edit)]}", color=COLOURS[str(name)])
        panels.append(
            (fill + base.mark_text(fontSize=12).encode(text="text:N", color=dark)).properties(
                width=225, height=alt.Step(22), title=title
            )
        )
    found = _named(conv_contrasts(tables))
    judged = (found["edit"] == CONV_EDIT) & (found["scale"] == OF_TASK) & (found["subject"] == CLAIMED)
    found = found[judged]
    order_text = "; ".join(f"{row['name']}: {interval_text(row)}" for _, row in found.iterrows() if row["n"] > 1)
    caption = (
        "Per cent of the way down to the majority class that the task falls when the convolution of one block, or of all, is "
        "edited; mean over seeds. Distance of S₃'s row to Dyck's less that to Parity's, with one block edited to its current "
        f"token: {order_text or 'not tested'}."
    ) + _unlearned(tables, architecture=tables["conv"]["architecture"])
    chart = alt.vconcat(*panels) if panels else alt.Chart(pd.DataFrame()).mark_point()
    return Figure(themed(chart), "s3_grouping.convolution", caption, caption)


EDIT_NAMES = {"current token": "only the current token", "mean output": "its mean output"}

CHARTS: dict[str, Callable[[Tables], Figure]] = {
    "grouping": grouping,
    "distances": distance_map,
    "readability": readability_by_task,
    "subjects": other_subjects,
    "confounds": pairs_apart,
    "readings": readings,
    "targets": other_targets,
    "convolution": convolution,
}
