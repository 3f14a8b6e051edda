"""The figures of claim 4: what each block's ablation costs, what is read there, and what a patch puts back."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from statedepth import bottleneck_readings as readings
from statedepth import profiles
from statedepth.bottleneck_readings import (
    COSTS,
    DYCK,
    INERT,
    PARITY,
    SCRATCH,
    family_of,
    name_of,
    place_name,
    start_of,
)
from statedepth.profiles import with_readability
from statedepth.render import Figure
from statedepth.theme import COLOURS, GREY, HOVER, READABILITY, over_seeds, themed
from statedepth.verdicts import LEVEL, THRESHOLD, Tables, task_name

# A class has the colour of its architecture on every page.
CLASS_COLOURS = {"gpt_neox": COLOURS["Transformer"], "mamba": COLOURS["Mamba"], "mamba2": COLOURS["Mamba-2"]}
READ_ROW = "probe reads"
ROWS = {
    ("pooled", "direction"): "direction",
    ("pooled", "mean projection"): "class means",
    ("pooled", "LEACE"): "LEACE",
    ("pooled", "INLP"): "INLP",
    ("each", "LEACE"): "LEACE, each",
}
WINDOW_ROWS = {"direction": "direction", "mean projection": "class means", "LEACE": "LEACE", "INLP": "INLP"}
NUMBERS = {2: "two", 3: "three"}
MEANING = (
    "Rows: the probe's direction, the one between class means, LEACE and INLP, each with one eraser for all positions; "
    "LEACE with one at each; and the first four at this site and the following ones together."
)
DAMAGE = alt.Scale(domain=[0, 60], scheme="oranges", clamp=True)
GREYS = alt.Scale(domain=[0, 100], range=["#ffffff", "#7d7d7d"], clamp=True)


def _colour(tables: Tables, architecture: str) -> str:
    return CLASS_COLOURS[family_of(tables)[architecture]]


def _models(table: pd.DataFrame, tables: Tables) -> list[tuple[str, str]]:
    """(task, architecture) in the order of the models table, of those in `table`."""
    have = set(zip(table["task"], table["architecture"], strict=True))
    rows = tables["models"][["task", "architecture"]].drop_duplicates()
    return [(t, a) for t, a in zip(rows["task"], rows["architecture"], strict=True) if (t, a) in have]


def _of(table: pd.DataFrame, task: str, architecture: str) -> pd.DataFrame:
    """The rows of a panel, without what its title says."""
    rows = table[(table["task"] == task) & (table["architecture"] == architecture)]
    return rows.drop(columns=["task", "architecture"])


def _title(tables: Tables, task: str, architecture: str) -> alt.TitleParams:
    text = f"{name_of(architecture)}, on {task_name(task)}"
    return alt.TitleParams(text, color=_colour(tables, architecture), fontSize=12.5)


def _stacked(panels: list[Any], columns: int = 2) -> Any:
    """Panels in rows of `columns`: side by side on a wide screen, one after the other where that is 1."""
    if not panels:
        return themed(alt.Chart(pd.DataFrame({"x": []})).mark_point())
    rows = [alt.hconcat(*panels[i : i + columns]) for i in range(0, len(panels), columns)]
    return themed(alt.vconcat(*rows) if columns > 1 else alt.vconcat(*panels))


def damage(tables: Tables) -> Figure:
    """What does it cost to take the state out, by block and method, and what was read there?"""
    table = readings.pretrained_only(readings.sites(tables))
    table = table.assign(row=[ROWS.get(k, "") for k in zip(table["positions"], table["method"], strict=True)])
    by = ["task", "architecture", "row", "site"]
    cells = [over_seeds(table[table["row"] != ""], by, "points")]
    read = table[table["row"] == "direction"].assign(row=READ_ROW, points=lambda t: 100 * t["read"])
    cells.append(over_seeds(read, by, "points"))
    named: dict[str, str] = {}
    if "windows" in tables:
        wide = tables["windows"].query("passed")
        wide = wide[wide["method"].isin(list(WINDOW_ROWS))]
        width = int((wide["last"] - wide["first"]).max()) + 1 if len(wide) else 2
        named = {method: f"{name}, {NUMBERS.get(width, width)}" for method, name in WINDOW_ROWS.items()}
        wide = wide.assign(row=wide["method"].map(named), site=wide["first"], points=100 * (wide["intact"] - wide["after"]))  # fmt: skip
        cells.append(over_seeds(wide, by, "points"))
    found = pd.concat(cells).reset_index(drop=True)
    found["text"] = [f"{x:.0f}".replace("-0", "0") for x in found["mean"]]
    order = [READ_ROW, *ROWS.values(), *named.values()]
    panels: list[Any] = []
    for task, architecture in _models(found, tables):
        here = _of(found, task, architecture)
        base = alt.Chart(here).encode(
            x=alt.X("site:O", title=None, axis=alt.Axis(labelAngle=0, orient="top")),
            y=alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=110)),
        )
        tooltip = ["row:N", "site:O", *(alt.Tooltip(f"{c}:Q", format=".1f") for c in ("mean", "low", "high")), "n:Q"]
        rect = base.mark_rect(stroke="white", strokeWidth=1)
        lost = rect.transform_filter(alt.datum.row != READ_ROW).encode(
            color=alt.Color("mean:Q", scale=DAMAGE, legend=None), tooltip=tooltip
        )
        seen = rect.transform_filter(alt.datum.row == READ_ROW).encode(
            fill=alt.Fill("mean:Q", scale=GREYS, legend=None), tooltip=tooltip
        )
        text = base.mark_text(fontSize=10).encode(
            text="text:N",
            color=alt.condition(
                "datum.row == 'probe reads' ? datum.mean > 60 : datum.mean > 38", alt.value("white"), alt.value("#111")
            ),
        )
        n_sites = int(here["site"].max())
        panels.append(
            (lost + seen + text).properties(
                width=19 * max(12, n_sites), height=alt.Step(19), title=_title(tables, task, architecture)
            )
        )
    finding = " ".join(_said_of_damage(tables))
    caption = (
        f"{finding} Points of accuracy that the task loses, by the site that is edited, mean over seeds; grey: the "
        f"readability A′ of the state there, in per cent, before. {MEANING} The last site is a bound, since the head reads it."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.damage", caption, caption)


def _said_of_damage(tables: Tables, of: Sequence[str] = ()) -> list[str]:
    """In words, from the table: the most costly middle place of the GPT-NeoX models on Dyck, and of Mamba anywhere.

    Of all models, or those named in `of`.
    """
    said, family = [], family_of(tables)
    one, cost = readings.pretrained_only(readings.bottlenecks(tables)), readings.most_costly(tables)
    for row in one[one["task"] == DYCK].to_dict("records"):
        if family[row["architecture"]] == "gpt_neox" and (not of or row["architecture"] in of):
            where = place_name(row["first"], row["last"])
            said.append(f"{name_of(row['architecture'])}, on Dyck: one direction costs at most {row['points']:.0f} points in the middle ({where}), {row['at_best']:.0f} where it is read best.")  # fmt: skip
    for row in readings.pretrained_only(cost).to_dict("records"):
        if (
            family[row["architecture"]] != "gpt_neox"
            and row["task"] in readings.TASKS
            and (not of or row["architecture"] in of)
        ):
            said.append(f"{name_of(row['architecture'])}, on {task_name(row['task'])}: at most {row['points']:.0f} (site {row['site']}).")  # fmt: skip
    return said


STORY = {"read": "read there", "direction": "one direction out", "each": "LEACE at each (dashed)"}


def story(tables: Tables) -> Figure:
    """In short: is what is read there also what the task would miss there? In the largest model of each class."""
    table = readings.pretrained_only(readings.sites(tables))
    table = table[table["task"].isin(readings.TASKS)]
    widths = tables["tuned"].drop_duplicates("architecture").set_index("architecture")["width"]
    own = [(kind, a) for a, kind in family_of(tables).items() if a in set(table["architecture"])]
    largest = {kind: max((a for k, a in own if k == kind), key=lambda a: widths[a]) for kind, _ in own}
    table = table[table["architecture"].isin(largest.values())]
    pooled = table[(table["positions"] == "pooled") & (table["method"] == "direction")]
    exact = table[(table["positions"] == readings.EXACT[0]) & (table["method"] == readings.EXACT[1]) & table["judged"]]
    parts = {"read": pooled.assign(points=100 * pooled["read"]), "direction": pooled[pooled["judged"]], "each": exact}
    by = ["task", "architecture", "site"]
    lines = pd.concat([over_seeds(part, by, "points").assign(kind=kind) for kind, part in parts.items()])
    lines = lines.reset_index(drop=True)
    panels: list[Any] = []
    scale = alt.Scale(domain=[-8, 108], clamp=True)
    for task, architecture in _models(lines, tables):
        here = _of(lines, task, architecture)
        colour, deepest = _colour(tables, architecture), int(here["site"].max())
        ends = here.loc[here.groupby("kind")["site"].idxmax()].sort_values("mean").assign(text=lambda t: t["kind"].map(STORY))  # fmt: skip
        heights: list[float] = []
        for value in ends["mean"]:  # labels must not lie upon one another
            heights.append(max([value, *(h + 17 for h in heights[-1:])]))
        ends["at"] = [h - max(0.0, heights[-1] - 100) for h in heights]
        here, ends = (t.assign(colour=t["kind"].map(lambda k, c=colour: GREY if k == "read" else c)) for t in (here, ends))  # fmt: skip
        dash = alt.Scale(domain=list(STORY), range=[[1, 0], [1, 0], [5, 3]])
        x = alt.X("site:Q", title=None, scale=alt.Scale(domain=[1, deepest]), axis=alt.Axis(tickMinStep=1, format="d"))
        base = alt.Chart(here).encode(x=x, color=alt.Color("colour:N", scale=None))
        y = alt.Y("mean:Q", title="%, points", scale=scale, axis=alt.Axis(values=[0, 50, 100]))
        tooltip = ["kind:N", "site:Q", *(alt.Tooltip(f"{c}:Q", format=".1f") for c in ("mean", "low", "high")), "n:Q"]
        band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q", detail="kind:N")
        line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14)).encode(
            y=y, strokeDash=alt.StrokeDash("kind:N", scale=dash, legend=None), tooltip=tooltip
        )
        text = alt.Chart(ends).mark_text(align="left", dx=6, fontSize=11).encode(
            x=alt.value(215), y=alt.Y("at:Q", scale=scale), text="text:N", color=alt.Color("colour:N", scale=None)
        )  # fmt: skip
        panels.append((band + line + text).properties(width=215, height=105, title=_title(tables, task, architecture)))
    finding = " ".join(_said_of_damage(tables, list(largest.values())))
    lost = [f"{x:.0f} on {task_name(str(task))}" for task, x in pooled.groupby("task")["can_lose"].mean().items()]
    caption = (
        f"{finding} Grey: the readability of the state at each site, in per cent; coloured: points of accuracy that the "
        "task loses when one direction, or by LEACE at each position what a linear probe could read, is taken out "
        f"there; bands: 95% t intervals over seeds. Always giving the most frequent state loses {' and '.join(lost)} points."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.story", caption, caption)


def pretraining(tables: Tables) -> Figure:
    """Were the language models really pretrained?"""
    curves, bases = tables["pretraining"], tables["bases"]
    curves = curves.assign(name=curves["base"].map(name_of))
    colours = {name_of(base): CLASS_COLOURS["mamba" if base.startswith("mamba") else "gpt_neox"] for base in bases["base"]}  # fmt: skip
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    dashes = alt.Scale(domain=list(colours), range=[[4, 3] if "small" in name else [1, 0] for name in colours])
    top = float(bases["unigram"].max())
    base = alt.Chart(curves).encode(
        x=alt.X("step:Q", title="steps of pretraining"),
        y=alt.Y("held_out:Q", title="held-out loss, nats", scale=alt.Scale(domain=[0, top * 1.08])),
    )
    tooltip = ["name:N", "step:Q", alt.Tooltip("loss:Q", format=".2f"), alt.Tooltip("held_out:Q", format=".2f")]
    line = base.mark_line(strokeWidth=2).encode(
        color=alt.Color("name:N", scale=scale, legend=alt.Legend(title=None, orient="top", columns=2)),
        strokeDash=alt.StrokeDash("name:N", scale=dashes, legend=None),
    ) + base.mark_point(**HOVER).encode(tooltip=tooltip)
    floor = pd.DataFrame({"y": [top], "text": ["frequencies of tokens alone"]})
    rule = alt.Chart(floor).mark_rule(color=GREY, strokeDash=[2, 3]).encode(y="y:Q")
    text = alt.Chart(floor).mark_text(align="left", dx=4, dy=-7, color=GREY, fontSize=11).encode(x=alt.value(0), y="y:Q", text="text:N")  # fmt: skip
    ends = ", ".join(f"{name_of(b)} {x:.2f}" for b, x in zip(bases["base"], bases["held_out"], strict=True))
    caption = (
        f"Loss on held-out files in nats per token; at the end: {ends}. A model that knows the frequencies of tokens alone has "
        f"{top:.2f}. Dashed: the smaller size."
    )
    return Figure(themed((line + rule + text).properties(width=300, height=190)), "pretrained_bottleneck.pretraining", caption, caption)  # fmt: skip


def accuracies(tables: Tables) -> Figure:
    """Who learned what, with and without pretraining?"""
    table = tables["models"].query("length == trained_length").copy()
    table["base"], table["start"] = zip(*[start_of(a) for a in table["architecture"]], strict=True)
    table["start"] = table["start"].map({True: "pretrained", False: "from scratch"})
    table["name"] = table["base"].map(name_of)
    family = {start_of(a)[0]: f for a, f in family_of(tables).items()}
    panels: list[Any] = []
    scale = alt.Scale(domain=[min(0.9, float(table["accuracy"].min()) - 0.02), 1.0])
    for task in dict.fromkeys(table["task"]):
        here = table[table["task"] == task].assign(colour=lambda t: t["base"].map(family).map(CLASS_COLOURS))
        base = alt.Chart(here).encode(
            y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=130)),
            yOffset=alt.YOffset("start:N", sort=["pretrained", "from scratch"]),
            x=alt.X("accuracy:Q", title="accuracy", scale=scale, axis=alt.Axis(format="%", tickCount=3)),
            tooltip=["name:N", "start:N", "seed:O", alt.Tooltip("accuracy:Q", format=".2%"), "steps:Q"],
        )
        shape = alt.Shape("start:N", scale=alt.Scale(domain=["pretrained", "from scratch"], range=["circle", "triangle-up"]), legend=alt.Legend(title=None, orient="top") if not panels else None)  # fmt: skip
        points = base.mark_point(size=45, opacity=0.85).encode(shape=shape, color=alt.Color("colour:N", scale=None))
        bar = alt.X("x:Q", scale=scale, title="accuracy")
        rule = alt.Chart(pd.DataFrame({"x": [THRESHOLD]})).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x=bar)
        panels.append((rule + points).properties(width=190, height=alt.Step(14), title=task_name(task)))
    passed, total = int(table["passed"].sum()), len(table)
    caption = (
        f"Accuracy at the training length of every fine-tuned model, one mark a seed. {passed} of {total} reach {THRESHOLD:.0%} "
        "(dashed); the others are kept out of all that is read, erased or patched."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.accuracies", caption, caption)


KINDS = {
    "state": [1, 0],
    "state, from scratch": [6, 3],
    "untrained network": [2, 2],
    "control labels": [1, 3],
    "position alone": [8, 2, 1, 2],
    "tokens in the window": [4, 2, 1, 2, 1, 2],
}
FLOORS = {"position_only": "position alone", "bayes_window": "tokens in the window"}


def readability(tables: Tables) -> Figure:
    """Where can the state be read, and what do the baselines reach?"""
    table = with_readability(tables["readability"].query("passed and position == 0"))
    table["base"] = [start_of(a)[0] for a in table["architecture"]]
    scratch = table["architecture"].str.endswith(SCRATCH)
    trained = (table["network"] == "trained") & (table["labels"] == "task")
    kinds = {
        "state": table[trained & ~scratch],
        "state, from scratch": table[trained & scratch],
        "untrained network": table[(table["network"] == "untrained") & ~scratch],
        "control labels": table[(table["labels"] == "control") & ~scratch],
    }
    by = ["task", "base", "site"]
    found = [over_seeds(part, by, "readability").assign(kind=kind) for kind, part in kinds.items()]
    exact = tables["baselines"].query("position == 0 and site > 0").drop(columns=["position", "variable"])
    for own, part in kinds["state"].groupby("base"):
        floor = part.groupby(["task", "site"], as_index=False)["majority"].mean().merge(exact, on=["task", "site"])
        for column, kind in FLOORS.items():
            value = (floor[column] - floor["majority"]) / (1 - floor["majority"])
            found.append(floor[["task", "site"]].assign(base=own, mean=value, low=value, high=value, n=0, kind=kind))
    lines = pd.concat(found).rename(columns={"base": "architecture"}).reset_index(drop=True)
    panels: list[Any] = []
    scale = alt.Scale(domain=[-0.15, 1.05], clamp=True)
    for task, architecture in _models(lines, tables):
        here = _of(lines, task, architecture)
        colour = _colour(tables, architecture)
        base = alt.Chart(here).encode(x=alt.X("site:O", title=None, axis=alt.Axis(labelAngle=0)))
        y = alt.Y("mean:Q", title=None, scale=scale, axis=alt.Axis(values=[0, 0.5, 1]))
        dash = alt.StrokeDash("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())), legend=alt.Legend(symbolType="stroke", symbolSize=260, symbolOpacity=1, symbolStrokeWidth=2, title=None, orient="top", columns=2, symbolStrokeColor="#555") if not panels else None)  # fmt: skip
        tooltip = ["kind:N", "site:O", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("mean", "low", "high")), "n:Q"]
        band = base.transform_filter(alt.datum.kind == "state").mark_area(opacity=0.25, color=colour).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")  # fmt: skip
        shade = alt.condition(
            "datum.kind == 'state' || datum.kind == 'state, from scratch'", alt.value(colour), alt.value(GREY)
        )
        line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash, color=shade, detail="kind:N")
        line += base.mark_point(**HOVER).encode(y=y, tooltip=tooltip)
        panels.append((band + line).properties(width=290, height=95, title=_title(tables, task, architecture)))
    finding = _said_of_readability(lines)
    caption = (
        f"{finding} {READABILITY} at each site, pooled over positions, mean over seeds (band: 95% t interval), beside the same "
        "architecture without pretraining, an untrained network, control labels, and what the position, or the tokens that "
        "blocks with a window of four each could bring there, tell at best."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.readability", caption, caption)


def _said_of_readability(lines: pd.DataFrame) -> str:
    """From where on is the state read, in words."""
    state, said = lines[lines["kind"] == "state"], []
    for (task, architecture), part in state.groupby(["task", "architecture"], sort=False):
        high = part.loc[part["mean"] >= readings.READ, "site"]
        where = f"first at site {int(high.min())}" if len(high) else "nowhere"
        said.append(f"{name_of(str(architecture))} on {task_name(str(task))}, {where}")
    return f"Reads at {readings.READ} or more: {'; '.join(said)}." if said else "No model passed."


PLACES = {
    "middle": "circle",
    "where read best": "square",
    "middle, among all tokens": "diamond",
}


def places(tables: Tables) -> Figure:
    """The most costly place in the middle beside where the probe reads best, for two readings of "direction"."""
    family, rows = family_of(tables), []

    def add(shared: dict[str, Any], kind: str, row: dict[str, Any], text: str = "") -> None:
        low, high = (row["low"], row["high"]) if row["n"] > 1 else (row["points"], row["points"])
        rows.append({**shared, "kind": kind, "points": row["points"], "low": low, "high": high, "text": text})

    for method, name in (("direction", "the probe's direction"), ("mean projection", "between class means")):
        table = readings.bottlenecks(tables, method)
        whole = readings.bottlenecks(tables, method, "whole").set_index(["task", "architecture"])
        for row in readings.records(table[table["task"].isin(readings.TASKS)]):
            own, pretrained = start_of(row["architecture"])
            shared = {"panel": f"{name_of(own)}, {task_name(row['task'])}", "method": name, "colour": CLASS_COLOURS[family[row["architecture"]]]}  # fmt: skip
            if not pretrained:
                continue
            add(shared, "middle", row, place_name(row["first"], row["last"]).replace(" and ", ", "))
            add(shared, "where read best", {**row, "points": row["at_best"], "n": 1})
            add(shared, "middle, among all tokens", {**whole.loc[(row["task"], row["architecture"])].to_dict(), "n": 1})
    found = pd.DataFrame(rows, columns=["panel", "method", "colour", "kind", "points", "low", "high", "text"])
    panels: list[Any] = []
    lines = pd.DataFrame({"x": [INERT, COSTS]})
    scale = alt.Scale(domain=[-5, 105], clamp=True)
    for method in dict.fromkeys(found["method"]):
        base = alt.Chart(found[found["method"] == method]).encode(
            y=alt.Y("panel:N", sort=None, title=None, axis=alt.Axis(labelLimit=185)),
            yOffset=alt.YOffset("kind:N", sort=list(PLACES)),  # marks that lie at 0 together stay apart
        )
        x = alt.X("points:Q", title="points lost", scale=scale, axis=alt.Axis(values=[0, 25, COSTS, 75, 100]))
        shape = alt.Shape("kind:N", scale=alt.Scale(domain=list(PLACES), range=list(PLACES.values())), legend=alt.Legend(title=None, orient="top", columns=1) if not panels else None)  # fmt: skip
        rule = alt.Chart(lines).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="x:Q")
        whisker = base.mark_rule().encode(x=alt.X("low:Q", scale=scale), x2="high:Q", color=alt.Color("colour:N", scale=None))  # fmt: skip
        point = base.mark_point(size=50, opacity=1).encode(x=x, shape=shape, color=alt.Color("colour:N", scale=None), tooltip=["panel:N", "kind:N", "text:N", *(alt.Tooltip(f"{c}:Q", format=".1f") for c in ("points", "low", "high"))])  # fmt: skip
        panels.append(
            (rule + whisker + point).properties(width=170, height=alt.Step(30, **{"for": "position"}), title=method)
        )
    where = [f"{r['panel']} {r['text'].replace(', ', ' and ')}" for r in rows if r["kind"] == "middle" and r["method"] == "the probe's direction"]  # fmt: skip
    caption = (
        f"Points lost when one direction is out: at the most costly site or window in the middle, with its 95% t interval over "
        f"seeds; at the sites where the probe reads best; and at most in the middle where every token of the vocabulary may be the "
        f"answer. Dashed: the {INERT:.0f} points "
        f"under which nothing breaks, and the {COSTS:.0f} of a bottleneck. By the probe's direction most is lost at: {'; '.join(where) or 'nowhere'}."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.places", caption, caption)


CONTROLS = {  # of an edit, as shares of the way down to the most frequent state
    "fall": ("the edit", "circle"),
    "resample_fall": ("another string's part", "diamond"),
    "random_most": ("random, same rank", "cross"),
    "matched_most": ("random, same variance", "square"),
    "control_fall": ("a token of the past", "triangle-up"),
}


def controls(tables: Tables) -> Figure:
    """Is what an edit costs more than what any edit of its size costs?"""
    table = readings.pretrained_only(readings.sites(tables)).query("judged")
    table = table[table["task"].isin(readings.TASKS)]
    family = family_of(tables)
    panels: list[Any] = []
    scale = alt.Scale(domain=[-0.1, 1.1], clamp=True)
    over: list[str] = []
    for positions, method in (("pooled", "direction"), readings.EXACT):
        rows, of_method = [], table[(table["positions"] == positions) & (table["method"] == method)]
        more, total = 0, 0
        for (task, architecture), part in of_method.groupby(["task", "architecture"], sort=False):
            site = part.groupby("site")["points"].mean().idxmax()
            here = part[part["site"] == site]
            panel = f"{name_of(str(architecture))}, {task_name(str(task))}"
            for column, (kind, _) in CONTROLS.items():
                rows.append({"panel": panel, "kind": kind, "share": here[column].mean(), "site": site, "colour": CLASS_COLOURS[family[str(architecture)]]})  # fmt: skip
            total += len(here)
            more += int(
                (here["fall"] > here[["random_most", "matched_most", "control_fall"]].max(axis=1, skipna=False)).sum()
            )
        found = pd.DataFrame(rows, columns=["panel", "kind", "share", "site", "colour"]).dropna(subset=["share"])
        kinds = alt.Scale(domain=[k for k, _ in CONTROLS.values()], range=[shape for _, shape in CONTROLS.values()])
        x = alt.X("share:Q", title="share of the way down", scale=scale, axis=alt.Axis(format="%", values=[0, 0.5, 1]))
        key = alt.Legend(title=None, orient="top", columns=1, labelLimit=260) if not panels else None
        base = alt.Chart(found).encode(
            y=alt.Y("panel:N", sort=None, title=None, axis=alt.Axis(labelLimit=185)),
            yOffset=alt.YOffset("kind:N", sort=[kind for kind, _ in CONTROLS.values()]),
            x=x,
        )
        point = base.mark_point(size=50, opacity=1).encode(
            shape=alt.Shape("kind:N", scale=kinds, legend=key),
            color=alt.Color("colour:N", scale=None),
            tooltip=["panel:N", "kind:N", "site:Q", alt.Tooltip("share:Q", format=".3f")],
        )
        name = ROWS[positions, method]
        over.append(f"{more} of {total} by {name}")
        panels.append(point.properties(width=170, height=alt.Step(34, **{"for": "position"}), title=name))
    caption = (
        "What an edit costs beside its controls, at the site before the last where it costs most, as a share of the way down to the "
        "most frequent state, means over seeds: the same part taken from another string; the most costly of all draws of a random "
        "subspace of the same rank and of one of the same variance; LEACE of a token of the past. The edit costs more than the "
        f"random subspaces and the token of the past, be it by ever so little, in single models: {'; '.join(over)}."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.controls", caption, caption)


def peaks(tables: Tables) -> Figure:
    """Is the best-read site the most damaged one?"""
    found, family, rows = readings.pretrained_only(readings.peaks(tables)), family_of(tables), []
    found = found[found["task"].isin(readings.TASKS)]
    for row in found.to_dict("records"):
        panel = f"{name_of(row['architecture'])}, {task_name(row['task'])}"
        for kind, at in (("read best", row["read"]), ("erasure hurts most", row["hurt"])):
            rows += [{"panel": panel, "kind": kind, "site": s, "colour": CLASS_COLOURS[family[row["architecture"]]]} for s in at]  # fmt: skip
    table = pd.DataFrame(rows, columns=["panel", "kind", "site", "colour"])
    deepest = max([3, *readings.sites(tables)["site"]])
    shapes = alt.Scale(domain=["read best", "erasure hurts most"], range=["circle", "square"])
    base = alt.Chart(table).encode(
        x=alt.X("site:Q", title="site", scale=alt.Scale(domain=[0, deepest]), axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y("panel:N", sort=None, title=None, axis=alt.Axis(labelLimit=185)),
        tooltip=["panel:N", "kind:N", "site:Q"],
        color=alt.Color("colour:N", scale=None),
        yOffset=alt.YOffset("kind:N", sort=list(shapes.domain)),
    )
    point = base.mark_point(size=60, opacity=1).encode(
        shape=alt.Shape("kind:N", scale=shapes, legend=alt.Legend(title=None, orient="top")),
        fill=alt.condition(
            "datum.kind === 'erasure hurts most'", alt.Fill("colour:N", scale=None), alt.value("transparent")
        ),
    )
    known = found.dropna(subset=["differ"])
    apart, told = int(known["differ"].astype(bool).sum()), known["told"].value_counts()
    caption = (
        "Sites before the last at which a pooled probe reads the state best, and those at which LEACE at each position costs the task "
        "most: all that cannot be told from the best by one standard error over seeds. The best-read and the most damaged sites share none in "
        f"{apart} of {len(known)} pretrained models and tasks. Where sites that read within 0.2 points "
        f"of the best count as best read too, the most damaged site is among them in {told.get('same', 0)}; else damage is told apart seed by "
        f"seed in {told.get('differ', 0)} and not in {told.get('not told apart', 0)}."
    )
    return Figure(themed(point.properties(width=170, height=alt.Step(24))), "pretrained_bottleneck.peaks", caption, caption)  # fmt: skip


def _patched(tables: Tables) -> pd.DataFrame:
    columns = ["task", "architecture", "seed", "passed", "site", "intervention", "at", "offset", "recovery", "low", "high", "n", "left_out"]  # fmt: skip
    return tables.get("patching", pd.DataFrame(columns=columns))


def patching(tables: Tables) -> Figure:
    """Which site and position, put into the corrupted run, brings the clean answer back?"""
    table = readings.enough_pairs(_patched(tables).query("passed and intervention == 'stream'"))
    table = table.assign(column=[f"+{o}" if at == "before" else "read" for o, at in zip(table["offset"], table["at"], strict=True)])  # fmt: skip
    cells = over_seeds(table, ["task", "architecture", "site", "column"], "recovery")
    cells["text"] = [f"{x:.2f}".replace("-0.00", "0.00") for x in cells["mean"]]
    order = [*sorted(set(cells["column"]) - {"read"}, key=lambda c: int(c[1:])), "read"]
    panels: list[Any] = []
    for task, architecture in _models(cells, tables):
        here = _of(cells, task, architecture).copy()
        last = here["site"].max()
        here["bound"] = (here["site"] == last) | ((here["site"] == 0) & (here["column"] == "+0"))
        base = alt.Chart(here).encode(
            x=alt.X("column:N", sort=order, title=None, axis=alt.Axis(labelAngle=0, orient="top")),
            y=alt.Y("site:O", title="site", sort="descending"),
        )
        tooltip = ["site:O", "column:N", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")), "n:Q"]
        scale = alt.Scale(domain=[0, 1], scheme="tealblues", clamp=True)
        fill = base.mark_rect(stroke="white").encode(
            color=alt.Color("mean:Q", scale=scale, legend=None), tooltip=tooltip
        )
        text = base.mark_text(fontSize=10).encode(
            text="text:N", color=alt.condition("datum.mean > 0.6", alt.value("white"), alt.value("#111"))
        )
        frame = base.transform_filter("datum.bound").mark_rect(fill=None, stroke="#111", strokeWidth=1.2)
        panels.append(
            (fill + text + frame).properties(width=230, height=alt.Step(16), title=_title(tables, task, architecture))
        )
    read = _patched(tables).query("passed and at == 'read' and site == 0 and intervention == 'stream'")
    out, asked = int(read["left_out"].sum()), int(read["left_out"].sum() + read["n"].sum())
    best = readings.pretrained_only(readings.patches(tables))
    said = [f"{name_of(r['architecture'])} on {task_name(r['task'])} {r['recovery']:.2f}" for r in best.to_dict("records")]  # fmt: skip
    caption = (
        "Share of the clean-corrupted gap that a patch of the whole stream of one position recovers, mean over seeds; columns: "
        f"positions after the changed token, and the read position; of {readings.MIN_PAIRS} pairs or more in each seed. Framed: decided by construction. The most outside the frames and "
        f"before the read position, of a site after the first: {'; '.join(said) or 'not measured'}. {out} of {asked} pairs are left out, for a gap under 1."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.patching", caption, caption)


PUT_IN = {"stream": [1, 0], "subspace": [6, 3], "complement": [1, 3], "same state": [2, 2], "other state": [8, 2]}
SHADES = [GREY, "#0072B2", "#8c5a2b", "#8e5a86", "#00795a"]  # of what is put in; no architecture is meant


def read_position(tables: Tables) -> Figure:
    """At the read position: is it the readable subspace that decides the answer?"""
    table = _patched(tables).query("passed and at == 'read'").dropna(subset=["recovery"])
    table = table[table["intervention"].isin(list(PUT_IN))]
    lines = over_seeds(table, ["task", "architecture", "site", "intervention"], "recovery")
    panels: list[Any] = []
    scale = alt.Scale(domain=[-0.3, 1.3], clamp=True)
    for task, architecture in _models(lines, tables):
        here = _of(lines, task, architecture)
        base = alt.Chart(here).encode(x=alt.X("site:O", title=None, axis=alt.Axis(labelAngle=0)))
        dash = alt.StrokeDash("intervention:N", scale=alt.Scale(domain=list(PUT_IN), range=list(PUT_IN.values())), legend=None)  # fmt: skip
        shade = alt.Color("intervention:N", scale=alt.Scale(domain=list(PUT_IN), range=SHADES), legend=None)
        tooltip = ["intervention:N", "site:O", *(alt.Tooltip(f"{c}:Q", format=".2f") for c in ("mean", "low", "high")), "n:Q"]  # fmt: skip
        line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(**HOVER)).encode(
            y=alt.Y("mean:Q", title=None, scale=scale, axis=alt.Axis(values=[0, 0.5, 1])),
            strokeDash=dash,
            color=shade,
            tooltip=tooltip,
        )
        # Lines meet at both ends: their names stand beside them in the order of their means, evenly spaced.
        order = here.groupby("intervention")["mean"].mean().sort_values(ascending=False)
        names = pd.DataFrame({"intervention": order.index, "place": [1.2 - 0.32 * i for i in range(len(order))]})
        words = (
            alt.Chart(names)
            .mark_text(align="left", fontSize=11, x=238)
            .encode(y=alt.Y("place:Q", title=None, scale=scale), text="intervention:N", color=shade)
        )
        panels.append((line + words).properties(width=230, height=95, title=_title(tables, task, architecture)))
    caption = (
        "Share of the gap recovered by what is put in at the read position, by site: the whole stream of the clean run; its readable "
        "subspace (what LEACE takes away) alone; its complement alone; the stream of another string with the corrupted run's "
        "state, which should do nothing; and of another with the clean run's."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.read_position", caption, caption)


def flip(tables: Tables) -> Figure:
    """Claim 1's four indices: does the difference between the classes change its sign with the task?"""
    found = readings.flips(tables)
    found = found.assign(panel=found["task"].map(task_name), row=[f"{i}, {s}" for i, s in zip(found["index"], found["size"], strict=True)])  # fmt: skip
    order = [f"{index}, {size}" for index in profiles.INDICES for size in dict.fromkeys(found["size"])]
    panels: list[Any] = []
    zero = alt.Chart(pd.DataFrame({"x": [0.0]})).mark_rule(color=GREY).encode(x="x:Q")
    for task in (PARITY, DYCK):
        here = found[found["task"] == task]
        if not len(here):
            continue
        base = alt.Chart(here).encode(y=alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=150)))
        rule = base.mark_rule(color="#333").encode(x="low:Q", x2="high:Q")
        tooltip = ["row:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("difference", "low", "high", "p_holm")), "n:Q"]  # fmt: skip
        point = base.mark_point(filled=True, size=50, opacity=1, color="#333").encode(
            x=alt.X("difference:Q", title="Mamba less GPT-NeoX"), tooltip=tooltip
        )
        panels.append((zero + rule + point).properties(width=190, height=alt.Step(18), title=task_name(task)))
    judged = found[found["index"] == "concentration"]
    said = [f"{r['size']} on {task_name(r['task'])} {r['difference']:+.3f} (p = {r['p_holm']:.3f}, {'as v1 says' if r['over'] and r['p_holm'] < LEVEL else 'not as v1 says'})" for r in judged.to_dict("records")]  # fmt: skip
    caption = (
        "The four indices of the profiles, Mamba less GPT-NeoX of the same size, with Welch's 95% interval; p: exact permutation of seeds, one-sided, Holm over the two tasks. v1's flip is about "
        f"concentration: over 0 on Parity, under 0 on Dyck. {'; '.join(said) or 'Not measured here'}."
    )
    return Figure(_stacked(panels, 1), "pretrained_bottleneck.flip", caption, caption)


CHARTS: dict[str, Callable[[Tables], Figure]] = {
    "story": story,
    "damage": damage,
    "pretraining": pretraining,
    "accuracies": accuracies,
    "readability": readability,
    "places": places,
    "controls": controls,
    "peaks": peaks,
    "patching": patching,
    "read_position": read_position,
    "flip": flip,
}
