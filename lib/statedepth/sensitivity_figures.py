"""Figures of the sensitivity study: what each setting does to claim 1, to its profiles, and to their way through training."""

from collections.abc import Callable, Collection

import altair as alt
import pandas as pd

from statedepth import flip, profiles, sensitivity, sensitivity_readings
from statedepth.render import Figure
from statedepth.sensitivity_readings import BASE, variant_name
from statedepth.theme import ARCHITECTURES, COLOURS, GREY, READABILITY, colour, over_seeds, themed
from statedepth.verdicts import NAMES, THRESHOLD, Tables, task_name


def _variants(tables: Tables) -> list[str]:
    return list(dict.fromkeys(tables["varied"]["variant"]))


def concentration_panels(indices: pd.DataFrame, row: str, same: Collection[tuple[str, str]] = ()) -> alt.TopLevelMixin:
    """C minus the Transformer's with its interval: a panel for each architecture and task, a line for each `reading` of
    the `indices` table, which readers know as `row`.

    In `same`, readings and architectures whose models are those of the first reading: not drawn again. A line that has
    nothing to show says so.
    """
    indices = indices[indices["reading"] != profiles.UNTRAINED]
    order = list(dict.fromkeys(indices["reading"]))
    found = flip.contrasts(indices).query("index == 'concentration' and task != 'interaction'")
    found = found.assign(
        name=found["architecture"].map(NAMES),
        low=found["low"].fillna(found["difference"]),
        high=found["high"].fillna(found["difference"]),
    ).rename(columns={"reading": row})
    again = pd.Series([(r, a) in same for r, a in zip(found[row], found["architecture"], strict=True)], found.index)
    found = found.assign(
        difference=found["difference"].mask(again), text=again.map({True: "the same models", False: "not tested"})
    )
    title = "C minus the Transformer's"
    x = alt.X("difference:Q", title=title, scale=alt.Scale(domain=[-1, 1], clamp=True))
    y = alt.Y(f"{row}:N", sort=order, scale=alt.Scale(domain=order), title=None)
    numbers = [alt.Tooltip(f"{c}:Q", format="+.3f") for c in ("difference", "low", "high")]
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=GREY).encode(x=alt.X("zero:Q", title=title))
    columns = []
    for task, here in found.groupby("task", sort=False):
        panels = []
        for name in [name for name in ARCHITECTURES if name in set(here["name"])]:
            of = here[here["name"] == name]
            shown, gaps = of.dropna(subset=["difference"]), of[of["difference"].isna()]
            base = alt.Chart(shown).encode(y=y, color=colour())
            layers = [zero, base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")]
            for several, part in shown.groupby(shown["n"] > 1):  # a point of single models is hollow
                point = alt.Chart(part).mark_point(size=55, filled=bool(several), opacity=1)
                layers.append(point.encode(x=x, y=y, color=colour(), tooltip=["name:N", f"{row}:N", *numbers, "n:Q"]))
            if len(gaps):
                text = alt.Chart(gaps).mark_text(align="left", dx=4, fontSize=10, color=GREY)
                layers.append(text.encode(x=alt.value(100), y=y, text="text:N"))
            label = alt.TitleParams(f"{name} · {task_name(str(task))}", color=COLOURS[name])
            panels.append(alt.layer(*layers).properties(width=200, height=alt.Step(16), title=label))
        columns.append(alt.vconcat(*panels))
    return alt.hconcat(*columns) if columns else alt.Chart(found).mark_point()


def contrasts(tables: Tables) -> Figure:
    """Does an architecture change its side of the Transformer when a setting changes?"""
    table = sensitivity_readings.indices(tables["varied_profiles"])
    possible = sensitivity_readings.comparable(tables["varied"]) | {(BASE, a) for a in NAMES}
    pairs = set(zip(tables["varied"]["variant"], tables["varied"]["architecture"], strict=True))
    same = {(variant_name(v), a) for v, a in pairs - possible}
    chart = concentration_panels(table.assign(reading=table["reading"].map(variant_name)), "setting", same)
    caption = (
        "Concentration, architecture minus Transformer, at each setting, with pointwise 95% Welch intervals over the models that "
        "learned, cut at the edge; hollow: a single model of one of the two, and so no interval; not tested: none learned; the "
        "same models: a setting that neither architecture has. The claim puts Parity right of zero and Dyck left of it."
    )
    return Figure(
        themed(chart), "flip_sensitivity.contrasts", f"{_finding(tables)} {caption}", caption, _finding(tables)
    )


def _finding(tables: Tables) -> str:
    found = sensitivity.outcomes(tables)
    said: dict[str, list[str]] = {}
    for variant, one in found.items():
        said.setdefault(one.outcome, []).append(variant_name(variant))
    parts = [f"{outcome} with {', '.join(settings)}" for outcome, settings in said.items()]
    return f"By its own criterion claim 1 is {'; '.join(parts)}."


def profile_lines(tables: Tables) -> Figure:
    """Where does the state become readable on Parity, at each setting?"""
    new = sensitivity_readings.new_models(tables["varied"])
    table = profiles.with_readability(tables["varied_profiles"].query("task == 'parity'"))
    table = table[
        (table["variant"] == BASE)
        | pd.Index(table[["variant", "architecture"]].itertuples(index=False, name=None)).isin(new)
    ]
    table = table.assign(
        name=table["architecture"].map(NAMES),
        depth=table["site"] / table.groupby(["variant", "architecture"])["site"].transform("max"),
        setting=table["variant"].map(variant_name),
    )
    failed = table[~table["passed"]]
    lines = over_seeds(table[table["passed"]], ["setting", "name", "depth"], "readability")
    order = [variant_name(variant) for variant in _variants(tables)]
    names = [name for name in ARCHITECTURES if name in set(lines["name"])]
    base = lines[lines["setting"] == variant_name(BASE)].drop(columns="setting")
    tooltip = ["setting:N", "name:N", alt.Tooltip("depth:Q", format=".2f"), *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("mean", "low", "high")), "n:Q"]  # fmt: skip
    rows = []
    for setting in order:
        cells = []
        for name in names:
            # What an axis says, once: under the last row, and left of each.
            under = alt.Axis(values=[0, 1], grid=False, format=".0f", labels=setting == order[-1])
            left = alt.Axis(values=[0, 1], format=".0f", labels=name == names[0])
            x = alt.X("depth:Q", title="depth" if setting == order[-1] else None, axis=under, scale=alt.Scale(domain=[0, 1]))  # fmt: skip

            def vertical(column: str, name: str = name, left: alt.Axis = left) -> alt.Y:
                scale = alt.Scale(domain=[-0.05, 1.05], clamp=True)
                return alt.Y(f"{column}:Q", title="A′" if name == names[0] else None, axis=left, scale=scale)

            y = vertical("mean")
            here = lines[(lines["setting"] == setting) & (lines["name"] == name)]
            reference = alt.Chart(base[base["name"] == name]).mark_line(color="#9a9a9a", strokeDash=[3, 2])
            layers: list[alt.Chart] = [reference.encode(x=x, y=y)]
            lost = failed[(failed["setting"] == setting) & (failed["name"] == name)]
            if len(lost):
                thin = alt.Chart(lost).mark_line(color=GREY, strokeWidth=0.8)
                layers.append(thin.encode(x=x, y=vertical("readability"), detail="seed:N"))
            if len(here):
                shape = alt.Chart(here).encode(x=x, color=alt.value(COLOURS[name]))
                layers += [
                    shape.mark_area(opacity=0.25).encode(y=alt.Y("low:Q"), y2="high:Q"),
                    shape.mark_line(strokeWidth=2, point=True).encode(y=y, tooltip=tooltip),
                ]
            title = alt.TitleParams(name if setting == order[0] else "", color=COLOURS[name], fontSize=11)
            cells.append(alt.layer(*layers).properties(width=58, height=52, title=title))
        rows.append(alt.hconcat(*cells, spacing=6, title=alt.TitleParams(setting, fontSize=12, fontWeight="normal")))
    moved = _late_by_variant(tables)
    caption = (
        f"{READABILITY[0].upper()}{READABILITY[1:]} of the state on Parity from embedding (depth 0) to last block (1), in models that learned it: mean and "
        "95% band over seeds. Dashed: claim 1's own setting, alone where a setting changes nothing of an architecture. Thin and grey: a model that did not learn it."
    )
    chart = alt.vconcat(*rows, spacing=4)
    return Figure(themed(chart), "flip_sensitivity.profiles", f"{moved} {caption}", caption, moved)


def _late_by_variant(tables: Tables) -> str:
    """Who is late on Parity, at which settings: all five, the Transformer too."""
    late: dict[str, list[str]] = {}
    for variant, names in sensitivity_readings.late_on_parity(tables).items():
        late.setdefault(", ".join(names), []).append(variant_name(variant))
    none = late.pop("", [])
    said = [f"{names} ({', '.join(settings)})" for names, settings in late.items()]
    said += [f"no architecture ({', '.join(none)})"] if none else []
    return f"The largest rise on Parity is at the last block in at least {flip.LATE_SHARE:.0%} of seeds, of two or more that learned it, of {'; '.join(said)}."


def training(tables: Tables) -> Figure:
    """Does the rise come to the last block before the task is mastered, or after?"""
    table = tables["trajectory"]
    last = table.groupby(["task", "architecture", "seed"])["step"].transform("max")
    table = profiles.with_readability(table).assign(
        share=table["step"] / last, name=table["architecture"].map(NAMES), panel=table["task"].map(task_name)
    )
    cells = over_seeds(table, ["panel", "name", "share", "site"], "readability")
    shares = sorted(cells["share"].round(6).unique())
    cells["moment"] = [f"{100 * share:.0f}" for share in cells["share"]]
    when = sensitivity_readings.through_training(tables["trajectory"])
    when = when.assign(name=when["architecture"].map(NAMES), panel=when["task"].map(task_name))
    when = when.dropna(subset=["mastery"])
    when["moment"] = [f"{100 * m / s:.0f}" for m, s in zip(when["mastery"], when["steps"], strict=True)]
    x = alt.X("moment:O", title="per cent of training", sort=[f"{100 * share:.0f}" for share in shares], axis=alt.Axis(labelAngle=0, labelFontSize=9))  # fmt: skip
    columns = []
    for panel in dict.fromkeys(cells["panel"]):
        panels = []
        for name in [name for name in ARCHITECTURES if name in set(cells["name"])]:
            here = cells[(cells["panel"] == panel) & (cells["name"] == name)]
            fill = (
                alt.Chart(here)
                .mark_rect()
                .encode(
                    x=x,
                    y=alt.Y("site:O", sort="descending", title="site"),
                    color=alt.Color(
                        "mean:Q",
                        scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True),
                        legend=alt.Legend(title=READABILITY, gradientLength=160),
                    ),
                    tooltip=["name:N", "moment:O", "site:O", alt.Tooltip("mean:Q", format=".3f"), "n:Q"],
                )
            )
            ours = when[(when["panel"] == panel) & (when["name"] == name)]
            counted = ours.groupby("moment", as_index=False).size().assign(text=lambda t: "▼" + t["size"].astype(str))
            marks = alt.Chart(counted).mark_text(baseline="bottom", fontSize=11, color=COLOURS[name])
            marks = marks.encode(x=x, y=alt.value(-1), text="text:N")
            title = alt.TitleParams(f"{name} · {panel}", color=COLOURS[name], offset=4)
            panels.append((fill + marks).properties(width=240, height=90, title=title))
        columns.append(alt.vconcat(*panels))
    said = (
        sensitivity_readings.in_words(sensitivity_readings.through_training(tables["trajectory"]))
        or "Parity was not followed."
    )
    caption = (
        f"Readability at each site through training, mean over seeds. ▼ with a number: so many seeds have {THRESHOLD:.0%} of "
        "answers right at the training length at that moment for the first time. Moments are not evenly spaced."
    )
    return Figure(themed(alt.hconcat(*columns)), "flip_sensitivity.training", f"{said} {caption}", caption, said)


CHARTS: dict[str, Callable[[Tables], Figure]] = {
    "contrasts": contrasts,
    "profiles": profile_lines,
    "training": training,
}
