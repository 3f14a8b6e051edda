"""One function per figure: tables in, a `Figure` out; no files, no torch. One theme, one colour per architecture."""

import math
from collections.abc import Callable

import altair as alt
import pandas as pd

from statedepth import (
    bottleneck_figures,
    causal_figures,
    findings,
    grouping_figures,
    overview_figures,
    profiles,
    sensitivity_figures,
)
from statedepth.flip import PUBLISHED_PROFILES, contrasts, outcomes_by_reading
from statedepth.render import Figure
from statedepth.theme import (
    ARCHITECTURES,
    COLOURS,
    GREY,
    READABILITY,
    colour,
    complete,
    count_passed,
    named,
    over_seeds,
    panel_names,
    rows_with_text,
    themed,
)
from statedepth.verdicts import NAMES, THRESHOLD, Tables, target_of, task_name, two_figures


def _profiles(tables: Tables, passed: bool = True) -> pd.DataFrame:
    table = named(profiles.with_readability(tables["readability"]))
    return table[table["passed"]] if passed else table


def readability_map(tables: Tables) -> Figure:
    """Which site can be read? Architecture by site, one panel per task and variable."""
    table = _profiles(tables, passed=False).query("network == 'trained' and labels == 'task' and position == 0")
    by = ["panel", "task", "variable", "architecture", "name", "site"]
    means = over_seeds(table[table["passed"]], by, "readability")
    cells = (
        table[by]
        .drop_duplicates()
        .merge(means, how="left", on=by)
        .merge(count_passed(tables), on=["task", "architecture"])
    )
    cells["row"] = cells["name"] + [
        "" if a == b else f" ({a} of {b})" for a, b in zip(cells["n_passed"], cells["n_seeds"], strict=True)
    ]
    cells["text"] = [f"{100 * m:.0f}" if n else "╱╱╱" for m, n in zip(cells["mean"], cells["n"].fillna(0), strict=True)]
    order = [row for name in ARCHITECTURES for row in dict.fromkeys(cells[cells["name"] == name]["row"])]
    x = alt.X("site:O", title="site (0 = embedding, l = output of block l)", axis=alt.Axis(labelAngle=0))
    panels = []
    for panel in panel_names(cells):
        base = alt.Chart(cells[cells["panel"] == panel]).encode(x=x, y=alt.Y("row:N", sort=order, title=None))
        nothing = base.transform_filter("!isValid(datum.mean)").mark_rect(
            color="#e6e6e6", stroke="white", strokeWidth=2
        )
        fill = base.mark_rect(stroke="white", strokeWidth=2).encode(
            color=alt.Color(
                "mean:Q",
                scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True),
                legend=alt.Legend(title="readability (1 = always right)", gradientLength=200, titleLimit=300),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="architecture"),
                "site:O",
                alt.Tooltip("mean:Q", format=".3f", title=READABILITY),
                alt.Tooltip("low:Q", format=".3f", title="95% from"),
                alt.Tooltip("high:Q", format=".3f", title="to"),
                alt.Tooltip("n:Q", title="seeds"),
            ],
        )
        dark = "datum.n > 0 && datum.mean < 0.55"
        label = base.mark_text(fontSize=12).encode(
            text="text:N", color=alt.condition(dark, alt.value("white"), alt.value("#111"))
        )
        panels.append(
            (nothing + fill + label).properties(
                title=panel, width=300, height=25 * cells[cells["panel"] == panel]["row"].nunique()
            )
        )
    finding = _describe_rises(tables) or "No model passed, so there is nothing to read."
    alt_text = f"Heat map of readability in per cent, architecture by site. {finding}"
    return Figure(themed(alt.vconcat(*panels)), "flip.readability", alt_text, finding)


def _describe_rises(tables: Tables) -> str:
    """In words, from the table: where each architecture has its largest rise."""
    sentences = []
    table = tables["indices"].query("passed and reading == 'pooled' and index == 'concentration'")
    for task, part in table.groupby("task", sort=False):
        part = part[part["variable"] == target_of(str(task))]
        blocks: dict[str, list[str]] = {}
        for architecture, cell in part.groupby("architecture", sort=False):
            sites = sorted(set(cell["largest_site"]))
            where = "no site" if sites == [0] else "block " + " or ".join(str(s) for s in sites if s)
            blocks.setdefault(where, []).append(NAMES[str(architecture)])
        text = "; ".join(f"{where} in {', '.join(names)}" for where, names in sorted(blocks.items()))
        sentences.append(f"{task_name(str(task))}: the largest rise is at {text}.")
    return " ".join(sentences)


def profile_lines(tables: Tables) -> Figure:
    """How sure is each profile, and what do its baselines reach?"""
    pooled = _profiles(tables).query("position == 0")
    by = ["panel", "name", "site"]
    kinds = {
        "state": pooled.query("network == 'trained' and labels == 'task'"),
        "untrained network": pooled.query("network == 'untrained'"),
        "control labels": pooled.query("labels == 'control'"),
    }
    parts = [over_seeds(part, by, "readability").assign(kind=kind) for kind, part in kinds.items()]
    lines = complete(pd.concat([*parts, _window_floor(tables, pooled)]).reset_index(drop=True), panel_names(pooled))
    x = alt.X("site:O", title="site", axis=alt.Axis(labelAngle=0, grid=False))
    scale = alt.Scale(domain=[-0.15, 1.1], clamp=True)
    y = alt.Y("mean:Q", scale=scale, title=READABILITY, axis=alt.Axis(values=[0, 0.5, 1]))
    dashes = alt.Scale(domain=["untrained network", "control labels", WINDOW], range=[[1, 0], [2, 2], [6, 3]])
    greys = alt.Scale(domain=dashes.domain, range=["#9a9a9a", "#9a9a9a", GREY])
    tooltip = [
        "name:N",
        "kind:N",
        "site:O",
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("mean", "low", "high")),
        "n:Q",
    ]
    everything = alt.Chart().encode(x=x)
    state = everything.transform_filter("datum.kind == 'state'").encode(color=colour())
    layers = [
        state.mark_area(opacity=0.25).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        everything.transform_filter("datum.kind != 'state'")
        .mark_line()
        .encode(
            y=y,
            tooltip=tooltip,
            strokeDash=alt.StrokeDash("kind:N", scale=dashes, legend=alt.Legend(title=None, labelLimit=260)),
            stroke=alt.Stroke("kind:N", scale=greys, legend=alt.Legend(title=None, labelLimit=260)),
        ),
        state.mark_line(strokeWidth=2.5, point=True).encode(y=y, tooltip=tooltip),
    ]
    chart = (
        alt.layer(*layers, data=lines)
        .properties(width=94, height=140)
        .facet(
            row=alt.Row("panel:N", sort=panel_names(pooled), title=None, header=alt.Header(labelFontSize=11)),
            column=alt.Column("name:N", sort=ARCHITECTURES, title=None),
            spacing={"row": 12, "column": 8},
        )
    )
    caption = (
        "Readability of the state at each site (colour; band: pointwise 95% t interval over seeds) beside what an untrained "
        "network, meaningless control labels, and the last 3l+1 tokens with the position (exact Bayes) reach at that site."
    )
    return Figure(themed(chart), "flip.profiles", f"{caption} {_describe_rises(tables)}", caption)


WINDOW = "last 3l+1 tokens (Bayes)"


def _window_floor(tables: Tables, pooled: pd.DataFrame) -> pd.DataFrame:
    """The Bayes baseline on the scale of readability, a row for each panel, architecture and site."""
    where = ["panel", "name", "task", "variable", "architecture"]
    majority = pooled.query("labels == 'task'").groupby(where, as_index=False)["majority"].mean()
    floor = majority.merge(tables["baselines"].query("position == 0"), on=["task", "variable"])
    value = (floor["bayes_window"] - floor["majority"]) / (1 - floor["majority"])
    return floor[["panel", "name", "site"]].assign(mean=value, low=value, high=value, kind=WINDOW)


def by_position(tables: Tables) -> Figure:
    """Is the state read at every position, or only where the window still reaches the first token?"""
    table = _profiles(tables).query("network == 'trained' and labels == 'task' and position > 0")
    table = table[table["variable"] == table["task"].map(target_of)]
    cells = over_seeds(table, ["panel", "name", "site", "position"], "own_accuracy")
    cells["edge"] = cells["position"] == 3 * cells["site"] + 1
    cells = complete(cells, panel_names(table)).fillna({"position": 1, "edge": False})
    ticks = [1, *range(5, int(tables["readability"]["position"].max()) + 1, 5)]
    x = alt.X("position:O", title="position", axis=alt.Axis(labelAngle=0, values=ticks))
    y = alt.Y("site:O", sort="descending", title="site")
    base = alt.Chart().encode(x=x, y=y)
    fill = base.mark_rect().encode(
        color=alt.Color(
            "mean:Q",
            scale=alt.Scale(scheme="viridis", domain=[0.4, 1], clamp=True),
            legend=alt.Legend(title="probe accuracy", gradientLength=200, titleLimit=300),
        ),
        tooltip=["name:N", "site:O", "position:O", alt.Tooltip("mean:Q", format=".3f"), "n:Q"],
    )
    mark = base.transform_filter("datum.edge").mark_tick(color="white", thickness=2, xOffset=6, height=14)
    chart = (
        alt.layer(fill, mark, data=cells)
        .properties(width=240, height=76)
        .facet(
            row=alt.Row("name:N", sort=ARCHITECTURES, title=None),
            column=alt.Column("panel:N", sort=panel_names(table), title=None),
            spacing={"row": 8, "column": 12},
        )
    )
    caption = (
        "Accuracy of a probe fitted at one position alone, by site and position, mean over seeds. Left of the white bar the "
        "last 3l+1 tokens still reach the start of the string, so that no running state is needed there."
    )
    return Figure(themed(chart), "flip.by_position", caption, caption)


def index_contrasts(tables: Tables) -> Figure:
    """Does an architecture change side of the Transformer when the task changes? Four indices, two tasks."""
    found = contrasts(tables["indices"])
    found = found[(found["reading"] == "pooled") & (found["task"] != "interaction")].dropna(subset=["difference"])
    found = found.assign(
        name=found["architecture"].map(NAMES),
        task=found["task"].map(task_name),
        low=found["low"].fillna(found["difference"]),
        high=found["high"].fillna(found["difference"]),
    )
    panels = []
    for index, meaning in profiles.INDICES.items():
        here = found[found["index"] == index]
        y = alt.Y("name:N", sort=ARCHITECTURES, title=None, scale=alt.Scale(paddingInner=0.3))
        offset = alt.YOffset("task:N", sort=[task_name("parity"), task_name("dyck-2-4")])
        base = alt.Chart(here).encode(y=y, yOffset=offset, color=colour())
        title = alt.TitleParams(index, subtitle=meaning, subtitleFontSize=12)
        tooltip = [
            "name:N",
            "task:N",
            *(alt.Tooltip(f"{c}:Q", format="+.3f") for c in ("difference", "low", "high")),
            alt.Tooltip("p:Q", format=".3f", title="one-sided p"),
            alt.Tooltip("p_holm:Q", format=".3f", title="Holm"),
            "n:Q",
        ]
        marks = alt.Scale(domain=[task_name("parity"), task_name("dyck-2-4")], range=["square", "circle"])
        shape = alt.Shape(
            "task:N", scale=marks, legend=alt.Legend(title=None, symbolFillColor=GREY, symbolStrokeColor=GREY)
        )
        layers = [
            alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=GREY).encode(x=alt.X("zero:Q", title=None)),
            base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=None), x2="high:Q"),
            base.mark_point(size=55, strokeWidth=2, opacity=1, filled=True).encode(
                x=alt.X("difference:Q", title=None, scale=alt.Scale(domain=[-1, 1])), shape=shape, tooltip=tooltip
            ),
        ]
        panels.append(alt.layer(*layers).properties(width=230, height=150, title=title))
    grid = alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]))
    caption = (
        "Each index, architecture minus Transformer, with pointwise 95% Welch intervals over seeds. The claim puts Parity "
        "(squares) right of zero and Dyck (circles) left of it by concentration and by centre, and the other way round by "
        "spread and by mean; a pair on the wrong two sides is the reverse of the claim."
    )
    return Figure(themed(grid), "flip.indices", caption, caption)


def sensitivity(tables: Tables) -> Figure:
    """Does the difference in concentration depend on how the profile is read?"""
    chart = sensitivity_figures.concentration_panels(tables["indices"], "reading")
    outcomes = outcomes_by_reading(tables).groupby("outcome", sort=False)["reading"].agg(list)
    finding = "; ".join(f"{outcome} by {', '.join(readings)}" for outcome, readings in outcomes.items())
    caption = (
        "Concentration, architecture minus Transformer, by each reading of the same profiles, with pointwise 95% Welch "
        f"intervals over seeds. By the criterion claim 1 is {finding}."
    )
    return Figure(themed(chart), "flip.sensitivity", caption, caption)


def published(tables: Tables) -> Figure:
    """The sixteen published numbers beside ours, same sites, same scale."""
    table = _profiles(tables).query("network == 'trained' and labels == 'task' and position == 0 and site > 0")
    table = table[table["variable"] == table["task"].map(target_of)]
    ours = over_seeds(table, ["task", "architecture", "site"], "accuracy")
    both = PUBLISHED_PROFILES.merge(ours, how="inner", on=["task", "architecture", "site"])
    panels = []
    for (architecture, task), here in both.groupby(["architecture", "task"], sort=False):
        name = NAMES[str(architecture)]
        x = alt.X("site:O", title="site", axis=alt.Axis(labelAngle=0))
        scale = alt.Scale(domain=[0.4, 1.02])
        y = alt.Y("mean:Q", title="probe accuracy", scale=scale, axis=alt.Axis(format="%", tickCount=4))
        base = alt.Chart(here).encode(x=x)
        tooltip = [
            "site:O",
            alt.Tooltip("published:Q", format=".0%"),
            alt.Tooltip("mean:Q", format=".1%", title="ours"),
            "n:Q",
        ]
        key = alt.Chart(here[here["site"] == here["site"].max()]).encode(x=x)
        layers = [
            base.mark_area(opacity=0.25, color=COLOURS[name]).encode(
                y=alt.Y("low:Q", title=None, scale=scale), y2="high:Q"
            ),
            base.mark_line(color=COLOURS[name], point={"color": COLOURS[name]}).encode(y=y, tooltip=tooltip),
            base.mark_line(color=GREY, strokeDash=[5, 3], point={"color": GREY, "shape": "diamond"}).encode(
                y=alt.Y("published:Q", title=None), tooltip=tooltip
            ),
            key.mark_text(align="right", dx=14, fontSize=12, color=COLOURS[name]).encode(
                y=alt.datum(0.53), text=alt.value("ours")
            ),
            key.mark_text(align="right", dx=14, fontSize=12, color=GREY).encode(
                y=alt.datum(0.45), text=alt.value("published (dashed)")
            ),
        ]
        title = alt.TitleParams(f"{name} · {task_name(str(task))}", color=COLOURS[name])
        panels.append(alt.layer(*layers).properties(width=220, height=130, title=title))
    rows = [alt.hconcat(*panels[i : i + 2]) for i in range(0, len(panels), 2)]
    caption = (
        "The only published numbers of the paper (grey, dashed; its L0 to L3 read as sites 1 to 4) beside ours (colour; "
        "mean and 95% t interval over seeds). The settings behind the published ones are not known."
    )
    return Figure(themed(alt.vconcat(*rows)), "flip.published", caption, caption)


def accuracies(tables: Tables) -> Figure:
    """Did every model learn its task, and how far beyond the training length does it go?"""
    table = tables["models"].assign(name=tables["models"]["architecture"].map(NAMES))
    table = table.assign(
        times=table["length"] / table["trained_length"], state=table["passed"].map({True: "passed", False: "failed"})
    )
    panels, scale = [], alt.Scale(domain=[0.1 * int(10 * table["accuracy"].min()), 1.0])
    for task, here in table.groupby("task", sort=False):
        x = alt.X("times:O", title="length, in training lengths", axis=alt.Axis(labelAngle=0, format=".1~f"))
        dots = (
            alt.Chart(here)
            .mark_point(size=45, strokeWidth=1.6, opacity=0.9)
            .encode(
                x=x,
                xOffset=alt.XOffset("name:N", sort=ARCHITECTURES),
                y=alt.Y("accuracy:Q", title="accuracy", scale=scale, axis=alt.Axis(format="%")),
                color=colour(legend=True),
                shape=alt.Shape(
                    "state:N",
                    scale=alt.Scale(domain=["passed", "failed"], range=["circle", "cross"]),
                    legend=alt.Legend(title=None),
                ),
                tooltip=["name:N", "seed:O", "length:Q", alt.Tooltip("accuracy:Q", format=".2%"), "state:N"],
            )
        )
        rule = (
            alt.Chart(pd.DataFrame({"threshold": [THRESHOLD]}))
            .mark_rule(color=GREY, strokeDash=[4, 3])
            .encode(y=alt.Y("threshold:Q", scale=scale))
        )
        panels.append((rule + dots).properties(width=255, height=190, title=task_name(str(task))))
    caption = (
        "Accuracy of every trained model (one mark per seed) at its training length and beyond. A model enters the analysis "
        f"at {THRESHOLD:.0%} or more at its training length (dashed); one below it is drawn as a cross and counted as failed."
    )
    return Figure(themed(alt.hconcat(*panels)), "flip.accuracies", caption, caption)


def training_steps(tables: Tables) -> Figure:
    """How long does a training step take by each path?"""
    table = tables["steps"].assign(
        name=[path.partition(",")[0] for path in tables["steps"]["path"]],
        text=[
            f"{path}: {two_figures(1000 * s)} ms, {two_figures(t)}×"
            for path, s, t in tables["steps"][["path", "seconds", "times_ours"]].to_numpy()
        ],
    )
    panels = []
    low, high = math.floor(math.log10(table["seconds"].min())), math.ceil(math.log10(table["seconds"].max()))
    powers = [10.0**i for i in range(low, high + 1)]
    for (batch, length, width, state), here in table.groupby(["batch", "length", "width", "state"], sort=False):
        ordered = here.sort_values("seconds", ascending=False)["path"].tolist()
        scale = alt.Scale(type="log", domain=[powers[0], powers[-1]])
        base = alt.Chart(here).encode(y=alt.Y("path:N", sort=ordered, axis=None))
        point = base.mark_point(size=70, filled=True, opacity=1, yOffset=7).encode(
            x=alt.X("seconds:Q", scale=scale, title="seconds per training step", axis=alt.Axis(values=powers)),
            color=alt.Color(
                "name:N",
                scale=alt.Scale(
                    domain=[*ARCHITECTURES, "floor of Mamba's arithmetic"], range=[*COLOURS.values(), GREY]
                ),
                legend=None,
            ),
            tooltip=["path:N", alt.Tooltip("seconds:Q", format=".4f"), alt.Tooltip("times_ours:Q", format=".2f")],
        )
        title = f"batch {batch}, length {length}, width {width}, state {state}"
        panels.append(rows_with_text(base, point).properties(title=title))
    slowest = table.sort_values("times_ours").iloc[-1]
    caption = (
        "Median time of one training step of a four-layer model on one thread, and that in multiples of this library's (of "
        "its Mamba-2 for Mamba-2, of its Mamba for all others). The largest "
        f"ratio is {two_figures(slowest['times_ours'])}, of {slowest['path']} at batch {slowest['batch']}, length "
        f"{slowest['length']}, width {slowest['width']} and state {slowest['state']}."
    )
    return Figure(themed(alt.vconcat(*panels)), "speed.steps", caption, caption)


def growth_with_length(tables: Tables) -> Figure:
    """Do time and memory of our scan grow in proportion to the length?"""
    table = tables["scaling"].assign(megabytes=tables["scaling"]["kept_bytes"] / 1e6)
    panels = []
    for column, title in (("seconds", "seconds per training step"), ("megabytes", "MB kept for the backward pass")):
        start = table.sort_values("length").iloc[0]
        line = table.assign(linear=start[column] * table["length"] / start["length"])
        x = alt.X(
            "length:Q", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=sorted(table["length"]), format="d")
        )
        y = alt.Y(f"{column}:Q", scale=alt.Scale(type="log"), title=title, axis=alt.Axis(tickCount=5))
        base = alt.Chart(line).encode(x=x)
        panels.append(
            (
                base.mark_line(color=GREY, strokeDash=[5, 3]).encode(y=alt.Y("linear:Q", title=title))
                + base.mark_line(color=COLOURS["Mamba"], point={"color": COLOURS["Mamba"], "size": 60}).encode(
                    y=y, tooltip=["length:Q", alt.Tooltip(f"{column}:Q", format=".4g")]
                )
            ).properties(width=290, height=180)
        )
    caption = (
        "Our Mamba's training step by length; dashed: in proportion to the shortest. Both axes are logarithmic, so that "
        "growth in proportion is a straight line along the dashes."
    )
    return Figure(themed(alt.vconcat(*panels)), "speed.scaling", caption, caption)


def one_seed(tables: Tables) -> Figure:
    """Where does the time of one seed go?"""
    table = tables["seed"]
    table = table.assign(
        name=table["architecture"].map(NAMES),
        model=[f"{NAMES[a]} on {task_name(t)}" for a, t in table[["architecture", "task"]].to_numpy()],
    )
    columns = table[["model", "started", "ended", "accuracy"]].to_numpy()
    table["text"] = [f"{model}: {end - start:.1f} min, {accuracy:.1%}" for model, start, end, accuracy in columns]
    minutes, cores = table["ended"].max(), table["cores"].max()
    base = alt.Chart(table).encode(y=alt.Y("model:N", sort=table.sort_values("started")["model"].tolist(), axis=None))
    bar = base.mark_bar(height=9, yOffset=7).encode(
        x=alt.X("started:Q", title="minutes since the start", scale=alt.Scale(domain=[0, minutes], nice=False)),
        x2="ended:Q",
        color=colour(),
        tooltip=["model:N", "started:Q", "ended:Q", alt.Tooltip("accuracy:Q", format=".2%")],
    )
    caption = (
        f"The training of {len(table)} models from nothing on {cores} cores, {minutes:.0f} minutes in all: when each began "
        "and ended, how long it took, and the accuracy that it reached."
    )
    return Figure(themed(rows_with_text(base, bar)), "seed.training", caption, caption)


CHARTS: dict[str, dict[str, Callable[[Tables], Figure]]] = {
    "flip": {
        "readability": readability_map,
        "profiles": profile_lines,
        "by_position": by_position,
        "indices": index_contrasts,
        "sensitivity": sensitivity,
        "published": published,
        "accuracies": accuracies,
    },
    "s3_grouping": grouping_figures.CHARTS,
    "causal_necessity": causal_figures.CHARTS,
    "pretrained_bottleneck": bottleneck_figures.CHARTS,
    "flip_sensitivity": sensitivity_figures.CHARTS,
    "speed": {"steps": training_steps, "scaling": growth_with_length},
    "seed": {"training": one_seed},
}
OVERVIEW = overview_figures.CHARTS  # of all claims' runs together


def chart(notebook: str, name: str, tables: Tables) -> Figure:
    """One figure of a notebook, drawn from its tables, with its finding. KeyError for a figure that it does not have."""
    return findings.stated(CHARTS[notebook][name](tables), tables)
