"""Drawn examples of the definitions: small made-up data, and what the library's own functions make of them."""

import itertools
import math
from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd
import torch

from statedepth import ablation, conv, erasers, patching, probes, profiles
from statedepth.render import Figure
from statedepth.tasks import named
from statedepth.theme import GREY, READABILITY, themed

BLUE, ORANGE = "#0072B2", "#D55E00"
STRINGS = {"parity": ([1, 0, 1, 1, 0], "01"), "dyck-2-4": ([0, 1, 3, 2, 1], "([)]"), "S3": ([1, 3, 3, 2, 0], ["123", "132", "213", "231", "312", "321"])}  # fmt: skip


def strings() -> Figure:
    """A string of each task with the state after every token, by the automaton itself."""
    rows, said = [], []
    for name, (tokens, signs) in STRINGS.items():
        task = named(name)
        state, states = task.start, []
        for position, token in enumerate(tokens, 1):
            state = task.step(state, token)
            value = task.read(state)[task.target]
            shown = {"parity": ["even", "odd"], "dyck-2-4": ["none", "(", "["]}.get(name, ["ABC", "ACB", "BAC", "BCA", "CAB", "CBA"])  # fmt: skip
            states.append(shown[value])
            rows += [{"task": name, "position": position, "row": "token", "text": signs[token]}, {"task": name, "position": position, "row": "state", "text": shown[value]}]  # fmt: skip
        said.append(f"{', '.join(signs[token] for token in tokens)} gives {', '.join(states)}")
    titles = {"parity": "Parity: is the number of ones odd?", "dyck-2-4": "Dyck: which bracket is open last?", "S3": "S₃: the order of three things"}  # fmt: skip
    panels: list[alt.LayerChart] = []
    for name in STRINGS:
        base = alt.Chart(pd.DataFrame([row for row in rows if row["task"] == name])).encode(
            x=alt.X("position:O", title=None, axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("row:N", sort=["token", "state"], title=None),
            color=alt.Color("row:N", scale=alt.Scale(domain=["token", "state"], range=[GREY, BLUE]), legend=None),
        )
        cells = base.mark_rect(opacity=0.12).encode(tooltip=["position", "row", "text"])
        words = base.mark_text(fontSize=15).encode(text="text:N")
        panels.append((cells + words).properties(width=270, height=54, title=titles[name]))
    caption = f"The label at a position is the state after that token. {'; '.join(said)}."
    return Figure(themed(alt.vconcat(*panels)), "drawn.strings", f"Three example strings. {caption}", caption)


def sites() -> Figure:
    """Where the sites lie: the embedding, then the output of each of four blocks."""
    blocks = pd.DataFrame({"x": [1.5, 2.5, 3.5, 4.5], "name": [f"block {i}" for i in range(1, 5)]})
    points = pd.DataFrame({"x": [1, 2, 3, 4, 5], "site": range(5), "what": ["embedding", *(f"output of block {i}" for i in range(1, 5))]})  # fmt: skip
    x = alt.X("x:Q", scale=alt.Scale(domain=[0.6, 6.2]), axis=None)
    stream = alt.Chart(pd.DataFrame({"x": [0.7], "end": [5.75]})).mark_rule(strokeWidth=3, color=GREY).encode(x=x, x2="end:Q", y=alt.value(60))  # fmt: skip
    boxes = alt.Chart(blocks).mark_rect(width=34, height=26, fill="#dbe8f1", stroke=BLUE, cornerRadius=4).encode(x=x, y=alt.value(60))  # fmt: skip
    words = alt.Chart(blocks).mark_text(dy=-24, fontSize=11, color=GREY).encode(x=x, y=alt.value(60), text="name:N")
    marks = alt.Chart(points).mark_point(size=110, filled=True, color=ORANGE, opacity=1).encode(x=x, y=alt.value(60), tooltip=["site", "what"])  # fmt: skip
    numbers = alt.Chart(points).mark_text(dy=22, fontSize=13, fontWeight="bold", color=ORANGE).encode(x=x, y=alt.value(60), text="site:N")  # fmt: skip
    head = alt.Chart(pd.DataFrame({"x": [6.0], "text": ["head"]})).mark_text(color=GREY, fontSize=12).encode(x=x, y=alt.value(60), text="text:N")  # fmt: skip
    caption = (
        "The residual stream from left to right; each orange point is a site, at which activations are read or edited."
    )
    chart = (stream + boxes + words + marks + numbers + head).properties(width=325, height=100)
    return Figure(themed(chart), "drawn.sites", f"A diagram of four blocks with sites 0 to 4. {caption}", caption)


def window() -> Figure:
    """The exact Bayes accuracy from the last w tokens and the position, for two tasks."""
    length, rows = 12, []
    for name, shown in (("parity", "Parity"), ("dyck-2-4", "Dyck, stack top")):
        task = named(name)
        batch = task.sample(400, length, torch.Generator().manual_seed(0))
        for w in range(1, length + 1):
            rows.append({"task": shown, "w": w, "accuracy": float(probes.bayes_accuracy(task, batch, task.target, w).mean())})  # fmt: skip
    table = pd.DataFrame(rows)
    base = alt.Chart(table).encode(x=alt.X("w:Q", title="last tokens that are seen, w", axis=alt.Axis(tickMinStep=1)), y=alt.Y("accuracy:Q", scale=alt.Scale(domain=[0.4, 1]), title="best possible accuracy"), color=alt.Color("task:N", scale=alt.Scale(range=[ORANGE, BLUE]), legend=None))  # fmt: skip
    last = alt.Chart(table[table["w"] == 5]).mark_text(align="left", dx=6, dy=12, fontSize=12).encode(x="w:Q", y="accuracy:Q", text="task:N", color=alt.Color("task:N", legend=None))  # fmt: skip
    chart = (base.mark_line(point=True).encode(tooltip=["task", "w", alt.Tooltip("accuracy", format=".3f")]) + last).properties(width=290, height=170)  # fmt: skip
    four = table[table["w"] == 4].set_index("task")["accuracy"]
    caption = f"What can be known without a running state, on strings of {length} tokens: the last four tokens and the position give {four['Parity']:.0%} of Parity and {four['Dyck, stack top']:.0%} of Dyck's stack top."
    return Figure(themed(chart), "drawn.window", f"Two rising lines. {caption}", caption)


def indices() -> Figure:
    """Three made-up profiles and their four indices."""
    made = {"late": [0, 0.02, 0.05, 0.1, 1], "gradual": [0, 0.25, 0.5, 0.75, 1], "early": [0, 0.9, 0.95, 1, 1]}
    rows = [{"profile": name, "site": site, "value": value} for name, values in made.items() for site, value in enumerate(values)]  # fmt: skip
    found = {name: profiles.indices(np.array(values)) for name, values in made.items()}
    lines = alt.Chart(pd.DataFrame(rows)).mark_line(point=True, color=BLUE).encode(x=alt.X("site:O", axis=alt.Axis(labelAngle=0), title="site"), y=alt.Y("value:Q", title=READABILITY), tooltip=["profile", "site", "value"])  # fmt: skip
    panels = [
        alt.layer(lines.transform_filter(alt.datum.profile == name)).properties(
            width=85, height=100, title=alt.Title(text=name, subtitle=[f"{k} {found[name][k]:.2f}" for k in profiles.INDICES], subtitleColor=GREY)
        )
        for name in made
    ]  # fmt: skip
    caption = "Three made-up profiles and their indices: late and early are as concentrated as each other, and the centre tells them apart (" + ", ".join(f"{name} {of['centre']:.2f}" for name, of in found.items()) + ")."  # fmt: skip
    return Figure(themed(alt.hconcat(*panels, spacing=14)), "drawn.indices", caption, caption)


def distance() -> Figure:
    """Two profiles' cumulative shares of the rise, and the area between them."""
    p, q = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.7, 0.2, 0.05, 0.05])
    far = float(profiles.wasserstein(p[None], q[None]).squeeze())
    blocks = np.arange(1, 5)
    table = pd.DataFrame({"block": blocks, "end": blocks + 1, "late": p.cumsum(), "early": q.cumsum()})
    area = alt.Chart(table).mark_rect(opacity=0.2, color=GREY).encode(x=alt.X("block:Q", title="block", axis=alt.Axis(values=[1, 2, 3, 4]), scale=alt.Scale(domain=[1, 5])), x2="end:Q", y=alt.Y("late:Q", title="cumulative share of the rise"), y2="early:Q", tooltip=["block", "late", "early"])  # fmt: skip
    steps = [alt.Chart(table).mark_line(interpolate="step-after", strokeWidth=2.5, color=colour).encode(x="block:Q", y=f"{name}:Q") for name, colour in (("late", BLUE), ("early", ORANGE))]  # fmt: skip
    words = alt.Chart(pd.DataFrame({"block": [1.1, 2.2], "at": [0.82, 0.18], "text": ["early profile", "late profile"]})).mark_text(align="left", fontSize=12).encode(x="block:Q", y="at:Q", text="text:N")  # fmt: skip
    caption = f"The distance between two profiles is the area between their cumulative shares: {far:.2f} blocks here."
    return Figure(themed(alt.layer(area, *steps, words).properties(width=290, height=170)), "drawn.distance", f"Two step curves. {caption}", caption)  # fmt: skip


def conv_taps() -> Figure:
    """Four taps of one channel before and after the edits."""
    weight, bias = torch.tensor([[[0.2, -0.4, 0.6, 1.0]]]), torch.tensor([0.1])
    after = {"intact": weight, "current token": conv.current_token((weight, bias))[0], "mean output": conv.mean_output(torch.tensor([0.3]))((weight, bias))[0]}  # fmt: skip
    rows = [{"edit": name, "token": token, "weight": float(value)} for name, taps in after.items() for token, value in zip(["−3", "−2", "−1", "now"], taps.flatten(), strict=True)]  # fmt: skip
    panels = [
        alt.Chart(pd.DataFrame([row for row in rows if row["edit"] == name]))
        .mark_bar(color=BLUE)
        .encode(x=alt.X("token:N", sort=["−3", "−2", "−1", "now"], title=None, axis=alt.Axis(labelAngle=0, labelFontSize=10)), y=alt.Y("weight:Q", scale=alt.Scale(domain=[-0.5, 1]), title="weight" if name == "intact" else None), tooltip=["token", "weight"])
        .properties(width=90, height=90, title=name)
        for name in after
    ]  # fmt: skip
    caption = "The four taps of one channel: with the edit “current token” nothing of the tokens before is left, with “mean output” a constant stands in place of all of it."
    return Figure(themed(alt.hconcat(*panels, spacing=10)), "drawn.conv_taps", f"Bars. {caption}", caption)


def two_classes() -> tuple[np.ndarray, np.ndarray]:
    """(600, 2) points of two classes whose means differ along one axis and whose spread lies along another, and labels."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 300)
    spread = rng.normal(size=(600, 2)) @ np.array([[1.6, 1.1], [0.0, 0.35]])
    return spread + np.where(y[:, None] == 1, [0.9, -0.5], [-0.9, 0.5]), y


def erased() -> Figure:
    """Two classes before and after the three erasers of rank one, with what a refitted probe reads."""
    h, y = two_classes()
    probe = probes.fit_probe((h, y), (h, y), (h, y), 2)
    edits: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "before": lambda x: x,
        "direction": lambda x: erasers.direction(probe, h)(torch.from_numpy(x)).numpy(),
        "mean projection": lambda x: erasers.mean_projection(h, y)(torch.from_numpy(x)).numpy(),
        "LEACE": lambda x: erasers.leace(h, y)(torch.from_numpy(x)).numpy(),
    }
    panels, said = [], []
    for name, edit in edits.items():
        edited = edit(h)
        read = probes.fit_probe((edited, y), (edited, y), (edited, y), 2).accuracy
        moved = float(np.square(edited - h).sum() / np.square(h - h.mean(0)).sum())
        said.append(
            f"{name} {read:.0%} ({moved:.0%} of the variance gone)" if name != "before" else f"before {read:.0%}"
        )
        table = pd.DataFrame({"x": edited[::3, 0].round(2), "y": edited[::3, 1].round(2), "class": np.where(y[::3], "odd", "even")})  # fmt: skip
        panels.append(
            alt.Chart(table)
            .mark_point(size=14, opacity=0.7)
            .encode(
                x=alt.X("x:Q", scale=alt.Scale(domain=[-5, 5]), axis=None),
                y=alt.Y("y:Q", scale=alt.Scale(domain=[-4, 4]), axis=None),
                color=alt.Color("class:N", scale=alt.Scale(range=[BLUE, ORANGE]), legend=None),
                shape=alt.Shape("class:N", legend=None),
                tooltip=["class"],
            )
            .properties(
                width=145,
                height=110,
                title=alt.Title(text=name, subtitle=f"refitted probe {read:.0%}", subtitleColor=GREY),
            )
        )
    caption = f"Accuracy of a probe fitted after each eraser, with two classes and a rank of one: {'; '.join(said)}. LEACE moves the points least of those after which nothing linear is left."
    chart = alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]))
    return Figure(themed(chart), "drawn.erased", f"Four scatter plots. {caption}", caption)


def outcomes() -> Figure:
    """The five outcomes as regions: what a refitted probe reads, and what the task loses."""
    cell = {"before": 0.99, "majority": 0.5, "before_own": 0.99, "own_majority": 0.5, "rank": 1, "refit_majority": 0.5, "refit_own_majority": 0.5, "random_most": 0.15, "matched_most": 0.2, "control_fall": 0.1}  # fmt: skip
    rows = []
    for over, fall in itertools.product(np.arange(0, 0.1, 0.01), np.arange(0, 1, 0.05)):
        read = 0.5 + over
        rows.append({"over": round(over, 3), "over_end": round(over + 0.01, 3), "fall": round(fall, 3), "fall_end": round(fall + 0.05, 3), "outcome": ablation.outcome({**cell, "refit": read, "refit_own": read, "fall": fall, "fall_low": fall - 0.02, "fall_high": fall + 0.02})})  # fmt: skip
    table = pd.DataFrame(rows)
    scale = alt.Scale(domain=["necessary", "not necessary", "inconclusive", "not removed"], range=[ORANGE, BLUE, "#c9c9c9", "#8e7cc3"])  # fmt: skip
    regions = alt.Chart(table).mark_rect(opacity=0.75).encode(x=alt.X("over:Q", title="refitted probe over the most frequent class", axis=alt.Axis(format="%")), x2="over_end:Q", y=alt.Y("fall:Q", title="share of the task lost", axis=alt.Axis(format="%")), y2="fall_end:Q", color=alt.Color("outcome:N", scale=scale, legend=alt.Legend(title=None, columns=2)), tooltip=["outcome", "over", "fall"])  # fmt: skip
    caption = "The necessity test, for a state that was readable: only where a refitted probe is at the most frequent class does what the task loses decide. Here every control loses a fifth at most."
    return Figure(themed(regions.properties(width=290, height=180)), "drawn.outcomes", f"Coloured regions. {caption}", caption)  # fmt: skip


def patched() -> Figure:
    """Logit differences of a few pairs: clean, corrupted, patched, and the share recovered."""
    rng = np.random.default_rng(1)
    clean, corrupted = rng.normal(6, 0.8, 12), rng.normal(-5, 0.8, 12)
    some = corrupted + 0.7 * (clean - corrupted) + rng.normal(0, 0.5, 12)
    share = patching.recovered(clean, corrupted, some)
    table = pd.concat([pd.DataFrame({"m": values, "run": name}) for name, values in (("corrupted", corrupted), ("patched", some), ("clean", clean))])  # fmt: skip
    points = alt.Chart(table).mark_tick(thickness=2.5, size=22).encode(x=alt.X("m:Q", title="logit of the clean answer less that of the corrupted one"), y=alt.Y("run:N", sort=["clean", "patched", "corrupted"], title=None), color=alt.Color("run:N", scale=alt.Scale(domain=["clean", "patched", "corrupted"], range=[BLUE, "#009E73", ORANGE]), legend=None), tooltip=["run", alt.Tooltip("m", format=".1f")])  # fmt: skip
    caption = f"Twelve made-up pairs: the patch recovers {share.share:.2f} of the gap (95% {share.low:.2f} to {share.high:.2f})."
    return Figure(themed(points.properties(width=280, height=110)), "drawn.patched", f"Three rows of ticks. {caption}", caption)  # fmt: skip


def permutation() -> Figure:
    """All 252 ways to deal ten values to two groups of five, and where the observed difference lies."""
    a, b = np.array([0.95, 0.9, 0.88, 0.97, 0.7]), np.array([0.6, 0.75, 0.82, 0.66, 0.72])
    pool, seen, p = np.concatenate([a, b]), a.mean() - b.mean(), profiles.permutation_p(a, b, 1)
    deals = [pool[list(chosen)].mean() - np.delete(pool, list(chosen)).mean() for chosen in itertools.combinations(range(10), 5)]  # fmt: skip
    bars = alt.Chart(pd.DataFrame({"difference": deals})).mark_bar(color="#b9c6d0").encode(x=alt.X("difference:Q", bin=alt.Bin(maxbins=30), title="difference of means"), y=alt.Y("count()", title="deals"), tooltip=["count()"])  # fmt: skip
    line = alt.Chart(pd.DataFrame({"seen": [seen]})).mark_rule(color=ORANGE, strokeWidth=3).encode(x="seen:Q")
    caption = f"Ten values dealt to two groups of five in all {math.comb(10, 5)} ways; a difference as large as the observed one (orange) comes up in {p * math.comb(10, 5):.0f}, so that p = {p:.3f}."
    return Figure(themed((bars + line).properties(width=290, height=140)), "drawn.permutation", f"A histogram. {caption}", caption)  # fmt: skip


CHARTS: dict[str, Callable[[], Figure]] = {
    function.__name__: function
    for function in (strings, sites, window, indices, distance, conv_taps, erased, outcomes, patched, permutation)
}
