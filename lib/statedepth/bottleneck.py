"""Claim 4: does a fine-tuned language model have a bottleneck? Its criterion, our dated predictions, and its page's numbers.

The criterion was committed before the run that it judges. Tables in, verdicts and numbers out; no torch.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas as pd

from statedepth import profiles
from statedepth.bottleneck_readings import (
    ANALOGUES,
    CLASSES,
    COSTS,
    DYCK,
    INERT,
    METHODS,
    MIN_PAIRS,
    READ,
    READABLE,
    RECOVERED,
    SCRATCH,
    TASKS,
    bottlenecks,
    damage_beside,
    family_of,
    flips,
    is_middle,
    last_sites,
    lengths_beside,
    most_costly,
    name_of,
    patches,
    peaks,
    place_name,
    pretrained_only,
    records,
    scratches,
    sites,
    start_of,
)
from statedepth.profiles import Interval
from statedepth.verdicts import (
    LEVEL,
    MIN_SEEDS,
    NOT_RUN,
    THRESHOLD,
    Number,
    Numbers,
    Part,
    Prediction,
    Tables,
    Verdict,
    mean_text,
    task_name,
    with_n,
)

PUBLISHED = ("pythia-160m", "pythia-410m", "mamba-130m-hf")  # the paper's own, by the name of their folder
JUDGED = {"gpt_neox": ("bottleneck",), "mamba": ("read", "inert", "patched")}  # what v1 says of a class

# The parts of the first two, which speak of cost alone, were mended on the same day, before the run: they had been those of the
# criterion, which asks for more.
PREDICTIONS = (
    Prediction("2026-11-25", "One direction out costs the GPT-NeoX models less than 50 points on Dyck at every middle site and window, at both sizes.", {"gpt-neox-small.costs": False, "gpt-neox-large.costs": False}),
    Prediction("2026-11-25", "The direction between class means, taken out in its place, does cost 50 points at some middle site or window of both.", {"gpt-neox-small.means-costs": True, "gpt-neox-large.means-costs": True}),
    Prediction("2026-11-25", "Mamba's last site reads at .95 or more on both tasks, at both sizes.", {"mamba-small.read": True, "mamba-large.read": True}),
    Prediction("2026-11-25", "Some direction costs Mamba more than 5 points at some site before the last, at both sizes.", {"mamba-small.inert": False, "mamba-large.inert": False}),
    Prediction("2026-11-25", "A patch of one position recovers 90% in Mamba where the bounds do not decide it, on both tasks and at both sizes.", {"mamba-small.patched": True, "mamba-large.patched": True}),
    Prediction("2026-11-25", "Not in every pretrained model do the best-read and the most damaged site differ.", {"v2.differ": False}),
    Prediction("2026-11-25", "Claim 1's flip of concentration between GPT-NeoX and Mamba does not come out at this scale, at either size.", {"small.flip": False, "large.flip": False}),
    Prediction("2026-11-25", "Without pretraining the same architectures learn both tasks as well.", {"scratch.as-well": True}),
)  # fmt: skip


# ---- the criterion ------------------------------------------------------------------------------------------------------


def verdict(tables: Tables) -> Verdict:
    """Claim 4, v1's, at the scale of the models in the tables.

    A GPT-NeoX model has a *bottleneck* on Dyck where the ablation of v1 (the probe's direction, all positions), at the
    middle site or window where it costs most, costs at least 50 points of accuracy, and more than at the best-read sites,
    over 0 (`bottlenecks`). A Mamba model *fails the other way* where, on Parity and on Dyck, its last site reads at .95 or more
    (`last_sites`), no single site's direction before the last costs more than 5 points (`most_costly`), and patching
    recovers at least .9 at a site and position that the bounds do not decide (`patches`). On analogues: *holds on the
    analogue* where both are true at every size that was run, else *does not hold on the analogue*. On the paper's own
    checkpoints of both classes: *reproduced* where all models behave as their class is said to, *partly* where some do,
    *not reproduced* where none does; on one class alone, or another checkpoint: *holds here* or *does not hold here*. *Not
    tested* where a class could not be judged; of Mamba-2 v1 says nothing. Fewer than `MIN_SEEDS` seeds anywhere make it
    provisional.

    The other parts are variants of these, v2's statement (the two sites differ), claim 1's flip, and what pretraining has to
    do with it. The variants were added on 2026-11-25, after reviews of the committed rule, before the run but after seed 0
    of three models had been seen, `bottleneck-anywhere` while it was under way; they decide nothing.
    """
    parts = _parts(tables)
    holds = {part.key: part.holds for part in parts}
    family = family_of(tables)
    core = pretrained_only(tables["models"][tables["models"]["task"].isin(TASKS)])
    bases = [str(a) for a in dict.fromkeys(core["architecture"])]
    analogue = set(bases) <= set(ANALOGUES)
    published = set(bases) <= set(PUBLISHED)
    scale = "analogue" if analogue else "published checkpoint" if published else "own checkpoint"
    judged = {base: _class_holds(base, family[base], holds) for base in bases}
    reasons, deciding = _reasons(tables, judged, family, holds), _deciding(tables, family)
    classes = {kind: [judged[b] for b in bases if family[b] == kind] for kind in JUDGED}
    known = [value for value in judged.values() if value is not None]
    if not judged or len(known) < len(judged) or (analogue and not all(classes.values())):
        untested = [name_of(base) for base, value in judged.items() if value is None and family[base] in JUDGED]
        unnamed = [name_of(base) for base in judged if family[base] not in JUDGED]
        lacking = [CLASSES[kind] for kind, values in classes.items() if analogue and not values]
        said = (
            [f"Not judged, for want of two seeds that learned both tasks, or of a measurement: {', '.join(untested)}"]
            if untested
            else []
        )
        said += [f"Not judged, since v1 says nothing of its class: {', '.join(unnamed)}"] if unnamed else []
        said += [f"Not in this run: {', '.join(lacking)}"] if lacking else []
        reasons = [f"{'. '.join(said) or 'No model of this run is judged'}.", *reasons]
        return Verdict("pretrained_bottleneck", scale, "not tested", True, reasons, parts)
    passed = pretrained_only(tables["models"].query("length == trained_length and passed"))
    seeds = passed[passed["task"].isin(TASKS)].groupby(["task", "architecture"]).size()
    provisional = bool(seeds.min() < MIN_SEEDS)
    if published and all(classes.values()):
        outcome = "reproduced" if all(known) else "partly" if any(known) else "not reproduced"
    else:
        where = "on the analogue" if analogue else "here"
        outcome = f"holds {where}" if all(known) else f"does not hold {where}"
    return Verdict("pretrained_bottleneck", scale, outcome, provisional, reasons, parts, deciding)


def _class_holds(base: str, family: str, holds: dict[str, bool | None]) -> bool | None:
    """Does a model behave as v1 says of its class? None where v1 says nothing, or a part could not be tested."""
    values = [holds.get(f"{base}.{key}") for key in JUDGED.get(family, ())]
    return None if not values or any(value is None for value in values) else all(values)


def _all_of(table: pd.DataFrame, architecture: str, column: str, tasks: tuple[str, ...] = TASKS) -> bool | None:
    """Is it so on every task? None where it was not tested on each."""
    values = table[(table["architecture"] == architecture) & table["task"].isin(tasks)][column].tolist()
    return None if len(values) < len(tasks) or any(v is None for v in values) else all(values)


def _parts(tables: Tables) -> list[Part]:
    """The sub-statements, those that decide and the others."""
    parts, family = [], family_of(tables)
    one, means = bottlenecks(tables), bottlenecks(tables, "mean projection")
    read, cost, patched = last_sites(tables), most_costly(tables), patches(tables)
    for a, kind in family.items():
        name, pretrained = name_of(a), start_of(a)[1]
        place = (
            "a middle site or window" if pretrained else "a middle site"
        )  # windows are measured in pretrained models
        of_means = "the direction between class means"
        more = "and more than where the probe reads best"
        parts.append(Part(f"{a}.bottleneck", f"{name}: on Dyck, one direction out at {place} costs {COSTS:.0f} points, {more}", _all_of(one, a, "holds", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{a}.costs", f"{name}: on Dyck, one direction out at {place} costs {COSTS:.0f} points", _all_of(one, a, "costs", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{a}.means", f"{name}: on Dyck, {of_means} out at {place} costs {COSTS:.0f} points, {more}", _all_of(means, a, "holds", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{a}.means-costs", f"{name}: on Dyck, {of_means} out at {place} costs {COSTS:.0f} points", _all_of(means, a, "costs", (DYCK,))))  # fmt: skip
        if kind != "gpt_neox":
            parts.append(Part(f"{a}.read", f"{name}: the last site reads at {READ} or more on both tasks", _all_of(read, a, "holds")))  # fmt: skip
            parts.append(Part(f"{a}.inert", f"{name}: no direction at one site before the last costs more than {INERT:.0f} points on either task", _all_of(cost, a, "inert")))  # fmt: skip
        if pretrained and kind != "gpt_neox":
            parts.append(Part(f"{a}.patched", f"{name}: a patch of one position recovers {RECOVERED} on both tasks", _all_of(patched, a, "holds")))  # fmt: skip
    parts += _variants(tables, family)
    apart = _of_tasks(pretrained_only(peaks(tables)), family)
    parts.append(Part("v2.differ", "the best-read and the most damaged site differ in every pretrained model", _every(apart["differ"], apart)))  # fmt: skip
    told = apart["told"].map(lambda told: None if told is None else told == "differ")
    parts.append(Part("v2.told", "the same, where damage at the two is told apart seed by seed", _every(told, apart)))
    table = flips(tables)
    for size in dict.fromkeys(table["size"]):
        rows = table[(table["size"] == size) & (table["index"] == "concentration")]
        flip = bool((rows["over"] & (rows["p_holm"] < LEVEL)).all()) if len(rows) == 2 else None
        parts.append(Part(f"{size}.flip", f"{size}: Mamba is more concentrated than GPT-NeoX on Parity and less on Dyck", flip))  # fmt: skip
    return parts + _of_pretraining(tables)


def _of_tasks(table: pd.DataFrame, family: dict[str, str]) -> pd.DataFrame:
    """The rows of the judged tasks, and an empty one for every pretrained model that lacks one."""
    table = table[table["task"].isin(TASKS)]
    wanted = [(task, a) for task in TASKS for a in family if start_of(a)[1]]
    return table.set_index(["task", "architecture"]).reindex(pd.MultiIndex.from_tuples(wanted)).astype(object)


def _every(values: pd.Series, table: pd.DataFrame) -> bool | None:
    """Is it so in every row? None where there is none, or one was not tested."""
    known = values[table["n"].notna() & values.notna()]
    return None if not len(table) or len(known) < len(table) else bool(known.all())


def _variants(tables: Tables, family: dict[str, str]) -> list[Part]:
    """Other readings of v1's statements, of pretrained models: what is judged does not depend on them."""
    parts = []
    one, whole, way = (bottlenecks(tables, "direction", measure) for measure in ("points", "whole", "way"))
    means = most_costly(tables, "mean projection")
    later, middle = patches(tables, 1), patches(tables, middle=True)
    for a, kind in family.items():
        name = name_of(a)
        if not start_of(a)[1]:
            continue
        parts.append(Part(f"{a}.bottleneck-whole", f"{name}: has a bottleneck on Dyck by {COSTS:.0f} points among all tokens of the vocabulary", _all_of(whole, a, "holds", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{a}.bottleneck-half", f"{name}: has a bottleneck on Dyck by half of the way down to the most frequent state", _all_of(way, a, "holds", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{a}.bottleneck-anywhere", f"{name}: has a bottleneck on Dyck at some middle site or window, be it not the most costly one", _all_of(one, a, "anywhere", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{a}.bottleneck-like", f"{name}: has a bottleneck on Dyck where a window is held against windows over the best-read sites", _all_of(one, a, "holds_like", (DYCK,))))  # fmt: skip
        if kind != "gpt_neox":
            parts.append(Part(f"{a}.inert-means", f"{name}: nor does the direction between class means cost more than {INERT:.0f} points", _all_of(means, a, "inert")))  # fmt: skip
            parts.append(Part(f"{a}.patched-later", f"{name}: a patch after the changed token recovers {RECOVERED} on both tasks", _all_of(later, a, "holds")))  # fmt: skip
            parts.append(Part(f"{a}.patched-middle", f"{name}: a patch in the middle two thirds of the sites recovers {RECOVERED} on both tasks", _all_of(middle, a, "holds")))  # fmt: skip
    return parts


def _of_pretraining(tables: Tables) -> list[Part]:
    core = scratches(tables)
    core = core[core["task"].isin(TASKS)]
    parts = [Part("scratch.as-well", "without pretraining the same architectures learn both tasks as well, at the training length", bool(core["as_well"].all()) if len(core) else None)]  # fmt: skip
    twice = _at_twice(tables)
    parts.append(Part("scratch.as-well-beyond", "at twice the training length no pretrained model does better than the same architecture without pretraining, by the 95% interval", not twice["better"].any() if len(twice) else None))  # fmt: skip
    return parts


def _at_twice(tables: Tables) -> pd.DataFrame:
    """Models of the judged tasks with and without pretraining at twice the training length, where both have two seeds."""
    table = lengths_beside(tables)
    return table[(table["times"] == 2) & table["task"].isin(TASKS)].dropna(subset=["better"]).astype({"better": bool})


def _reasons(tables: Tables, judged: dict[str, bool | None], family: dict[str, str], holds: dict[str, bool | None]) -> list[str]:  # fmt: skip
    """In words, what came out: what decides, pretraining where it changes nothing, each model, what survival says, v2."""
    reasons: list[str] = []
    one, means, can_lose = bottlenecks(tables), bottlenecks(tables, "mean projection"), _can_lose(tables)
    cost, patched, near = most_costly(tables), patches(tables), patches(tables, 1)
    said = {True: "has v1's bottleneck", False: "has no such bottleneck", None: "could not be judged"}
    for row in records(one[(one["task"] == DYCK) & one["architecture"].isin(judged)]):
        base = row["architecture"]
        if family[base] == "gpt_neox":
            other = means[(means["task"] == DYCK) & (means["architecture"] == base)]["points"].max()
            reasons.append(f"{name_of(base)} {said[judged[base]]}: on Dyck, one direction out costs at most {row['points']:.0f} points in the middle ({place_name(row['first'], row['last'])}), the one between class means {other:.0f}; always giving the most frequent state loses {can_lose[DYCK, base]:.0f}.")  # fmt: skip
    for base in judged:
        if family[base] != "gpt_neox":
            of = [{r["task"]: r for r in records(t[t["architecture"] == base])} for t in (cost, patched, near)]
            costs, most, later = ([f"{row[column]:{digits}} on {task_name(task)}" for task, row in rows.items() if task in TASKS] for rows, column, digits in zip(of, ("points", "recovery", "recovery"), (".0f", ".2f", ".2f"), strict=True))  # fmt: skip
            clauses = (
                ("read", "its last site is readable"),
                ("inert", f"no single direction before the last site costs over {INERT:.0f} points (at most {' and '.join(costs) or NOT_RUN})"),
                ("patched", f"a patch of one position recovers {RECOVERED} (at most {' and '.join(most) or NOT_RUN}; after the changed token {' and '.join(later) or NOT_RUN})"),
            )  # fmt: skip
            found = {value: [text for key, text in clauses if holds[f"{base}.{key}"] is value] for value in (True, False, None)}  # fmt: skip
            words = ((True, "as v1 says, "), (False, "not as v1 says, "), (None, "not tested, "))
            reasons.append(f"{name_of(base)}: {'; '.join((word + ' and '.join(found[value])) for value, word in words if found[value])}.")  # fmt: skip
    back, n_back, needed, n_exact, _ = _erased(tables)
    if n_back and n_exact:
        reasons.append(f"That a task survives one direction says little: a refitted probe gets back 95% of its accuracy in {back} of {n_back} cells. By LEACE at each position the state is necessary in {needed} of {n_exact}.")  # fmt: skip
    apart = pretrained_only(peaks(tables)).dropna(subset=["differ"])
    apart = apart[apart["task"].isin(TASKS)]
    if len(apart):
        told = apart["told"].value_counts()
        reasons.append(f"v2: the best-read and the most damaged site share none in {int(apart['differ'].astype(bool).sum())} of {len(apart)} pretrained models and tasks; in {told.get('differ', 0)} the damage at the two is told apart seed by seed.")  # fmt: skip
    return [*_in_a_sentence(judged, family, means), *_of_scratch(tables), *reasons]


def _in_a_sentence(judged: dict[str, bool | None], family: dict[str, str], means: pd.DataFrame) -> list[str]:
    """How many models of each class behave as v1 says of it; and what another reading of "direction" costs the first class."""
    said = {"gpt_neox": "GPT-NeoX models have a bottleneck in their middle layers", "mamba": "Mamba models fail the other way"}  # fmt: skip
    counts = {kind: [judged[base] for base in judged if family[base] == kind] for kind in said}
    clauses = [f"{sum(v is True for v in values)} of {len(values)} {said[kind]}" for kind, values in counts.items() if values]  # fmt: skip
    of_class = [base for base in judged if family[base] == "gpt_neox"]
    rows = means[(means["task"] == DYCK) & means["architecture"].isin(of_class)]
    other = " and ".join(f"{points:.0f}" for points in rows["points"].dropna())
    but = (
        f" The direction between class means, taken out in its place, costs GPT-NeoX {other} points on Dyck."
        if other
        else ""
    )
    return [f"Of what v1 describes: {'; '.join(clauses)}.{but}"] if clauses else []


def _erased(tables: Tables) -> tuple[int, int, int, int, int]:
    """Of the judged tasks in pretrained models, before the last site: ablations of one direction after which a refitted probe gets
    back 95% of its accuracy, of how many before which the state was read; cells in which it is necessary by LEACE at each position,
    of how many, and in how many of these it was not removed."""
    table = _judged_cells(tables)
    one = table.query("positions == 'pooled' and method == 'direction' and rank > 0")
    one = one[one["read"] >= READABLE]  # or a refit gets back what was never there
    exact = table.query("positions == 'each' and method == 'LEACE'")
    back = int((one["refit"] / one["before"] >= READ).sum())
    return back, len(one), int((exact["outcome"] == "necessary").sum()), len(exact), int((exact["outcome"] == "not removed").sum())  # fmt: skip


def _judged_cells(tables: Tables) -> pd.DataFrame:
    """Cells of the judged tasks in pretrained models, at sites before the last."""
    table = pretrained_only(sites(tables)).query("judged")
    return table[table["task"].isin(TASKS)]


def _of_scratch(tables: Tables) -> list[str]:
    core, found = scratches(tables), []
    core = core[core["task"].isin(TASKS)]
    if len(core):
        well = core["as_well"].astype(bool)
        text = f"Without pretraining, {int(well.sum())} of {len(core)} pairs of model and task are learned as well at the training length (within half a point)"
        others = [f"{name_of(r['base'])} on {task_name(r['task'])} ({r['scratch']:.1%} against {r['pretrained']:.1%})" for r in records(core[~well])]  # fmt: skip
        found.append(text + (f"; not {', '.join(others)}." if others else "."))
    twice = _at_twice(tables)
    if len(twice):
        better = [f"{name_of(r['base'])} on {task_name(r['task'])} ({r['pretrained']:.1%} against {r['scratch']:.1%})" for r in records(twice[twice["better"]])]  # fmt: skip
        found.append(f"At twice that length the pretrained model does better, its interval over 0, in {len(better)} of {len(twice)}{': ' + '; '.join(better) if better else ''}.")  # fmt: skip
    return found


def _can_lose(tables: Tables) -> dict[tuple[str, str], float]:
    """Points down to the most frequent state, mean over seeds: what an edit that leaves no state costs, by task and model."""
    means = sites(tables).groupby(["task", "architecture"])[["can_lose"]].mean().reset_index()
    return {(row["task"], row["architecture"]): row["can_lose"] for row in records(means)}


def _points(value: Interval) -> str:
    """Points of accuracy as readers see them, with the interval over seeds."""
    if math.isnan(value.estimate):
        return NOT_RUN
    numbers = [f"{x:.0f}".replace("-0", "0") if abs(x) < 0.5 else f"{x:.0f}" for x in (value.estimate, value.low, value.high) if not math.isnan(x)]  # fmt: skip
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})" if value.n >= 2 else numbers[0]


def _interval(row: dict[str, Any], column: str, prefix: str = "") -> Interval:
    return Interval(row[column], row[f"{prefix}low"], row[f"{prefix}high"], int(row["n"]))


def _deciding(tables: Tables, family: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for row in records(pretrained_only(bottlenecks(tables))):
        if family[row["architecture"]] == "gpt_neox" and row["task"] == DYCK:
            where = place_name(row["first"], row["last"])
            label = (
                f"points of accuracy lost when one direction is out at {where}, {name_of(row['architecture'])} on Dyck"
            )
            found.append({"label": label, "text": with_n(_points(_interval(row, "points")), int(row["n"]))})
            label = f"points more than where the probe reads best, {name_of(row['architecture'])} on Dyck"
            found.append({"label": label, "text": with_n(_points(_interval(row, "over", "over_")), int(row["n"]))})
    for table, column, what, text in (
        (last_sites(tables), "read", "readability of the last site", mean_text),
        (most_costly(tables), "points", "points lost at most when one direction is out before the last site", _points),
        (patches(tables), "recovery", "share of the gap that one position's patch recovers, at most", mean_text),
    ):
        for row in records(pretrained_only(table)):
            if family[row["architecture"]] != "gpt_neox" and row["task"] in TASKS:
                label = f"{what}, {name_of(row['architecture'])} on {task_name(row['task'])}"
                found.append({"label": label, "text": with_n(text(_interval(row, column)), int(row["n"]))})
    return found


# ---- numbers for prose --------------------------------------------------------------------------------------------------


def numbers(tables: Tables) -> dict[str, Number]:
    """Every number that prose may quote, by key; what a run did not measure reads "not run"."""
    found = Numbers()
    at_length = tables["models"].query("length == trained_length")
    found.add("models", len(at_length), str(len(at_length)), "fine-tuned models", "bottleneck-models")
    failed = at_length[~at_length["passed"]]
    named = ", ".join(f"{name_of(a)} on {task_name(t)}, seed {s} ({x:.1%})" for a, t, s, x in failed[["architecture", "task", "seed", "accuracy"]].to_numpy())  # fmt: skip
    found.add("failed", len(failed), named or "none", f"models under {THRESHOLD:.0%}", "bottleneck-models")
    length = int(at_length["trained_length"].max())
    found.add("length", length, str(length), "training length, tokens", "bottleneck-models")
    parameters = at_length["parameters"]
    found.add("largest", int(parameters.max()), f"{parameters.max() / 1e6:.2f} million", "parameters of the largest fine-tuned model", "bottleneck-models")  # fmt: skip
    beside = tables["readability"].query("network == 'untrained'")["seed"].nunique()
    found.add("baseline_seeds", beside, str(beside), "seeds whose baselines are probed", "bottleneck-profile")
    found.add("pairs", MIN_PAIRS, str(MIN_PAIRS), "pairs that a judged cell of patching has, at the least", "bottleneck-patching")  # fmt: skip
    passed = at_length.query("passed")[["task", "architecture", "seed"]]
    own = pretrained_only(tables["tuned"].merge(passed))
    whole = float(own[own["task"].isin(TASKS)]["whole_vocabulary"].min())
    found.add("whole", whole, NOT_RUN if math.isnan(whole) else f"{math.floor(1000 * whole) / 10:.1f}%", "least share of answers that are right among all tokens of the vocabulary", "bottleneck-models")  # fmt: skip
    width = int((tables["windows"]["last"] - tables["windows"]["first"]).max()) + 1 if "windows" in tables else None
    found.add("width", width, str(width), "sites in a row that are erased together", "bottleneck-sweep")
    _of_bases(found, tables)
    _of_lengths(found, tables)
    _of_ablations(found, tables)
    _of_patches(found, tables)
    _of_peaks(found, tables)
    table = flips(tables)
    rows = {(row["size"], row["task"], row["index"]): row for row in records(table)}
    for size, task, index in dict.fromkeys([*product(("small", "large"), TASKS, profiles.INDICES), *rows]):
        row = rows.get((size, task, index), {})
        label = f"{profiles.INDICES[index]}, Mamba less GPT-NeoX, {size}, on {task_name(task)}"
        text = f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})" if row else ""
        found.add(f"{size}.{task}.{index}", row.get("difference"), text, label, "bottleneck-flip", index == "concentration")  # fmt: skip
    return found


def _cells(table: pd.DataFrame, tables: Tables) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Key, name, architecture and row of every model and task; the row of an analogue that was not run is empty."""
    rows = {(row["task"], row["architecture"]): row for row in records(table)}
    architectures = dict.fromkeys([*ANALOGUES, *family_of(tables)])
    for task in dict.fromkeys([*TASKS, *tables["models"]["task"]]):
        for a in architectures:
            if (task, a) in rows or (a in ANALOGUES and task in TASKS):
                yield f"{a}.{task}", f"{name_of(a)} on {task_name(task)}", task, rows.get((task, a), {})


def _of_bases(found: Numbers, tables: Tables) -> None:
    rows = {row["base"]: row for row in records(tables["bases"])} if "bases" in tables else {}
    for base in dict.fromkeys([*ANALOGUES, *rows]):
        row = rows.get(base, {})
        for column, what, scale, text in (("parameters", "parameters", 1e6, "{:.2f} million"), ("held_out", "held-out loss, nats per token", 1, "{:.2f}"), ("unigram", "loss of token frequencies alone, nats per token", 1, "{:.2f}"), ("tokens_seen", "tokens of pretraining", 1e6, "{:.1f} million")):  # fmt: skip
            value = row.get(column, math.nan)
            found.add(f"{base}.{column}", value, text.format(value / scale), f"{what}, {name_of(base)}", "bottleneck-pretraining")  # fmt: skip


def _of_lengths(found: Numbers, tables: Tables) -> None:
    table = lengths_beside(tables)
    rows = {(row["base"], row["task"], row["times"]): row for row in records(table)}
    cells = dict.fromkeys([*product(ANALOGUES, TASKS), *zip(table["base"], table["task"], strict=True)])
    for (base, task), (times, suffix) in product(cells, ((1.0, ""), (1.5, ".half-more"), (2.0, ".twice"))):
        row = rows.get((base, task, times), {})
        for column, what in (("pretrained", "pretrained"), ("scratch", "without pretraining")):
            label = f"accuracy of {name_of(base)} on {task_name(task)} at {times:g} times the training length, {what}, mean over seeds"  # fmt: skip
            value = row.get(column, math.nan)
            found.add(f"{base}.{task}.{column}{suffix}", value, f"{value:.1%}", label, "bottleneck-scratch")
    core = scratches(tables)
    core = core[core["task"].isin(TASKS)]
    well = int(core["as_well"].sum())
    found.add("as-well", well if len(core) else None, f"{well} of {len(core)}", "pairs of model and task that are learned as well without pretraining", "bottleneck-scratch", True)  # fmt: skip
    twice = _at_twice(tables)
    better = int(twice["better"].sum())
    found.add("better-beyond", better if len(twice) else None, f"{better} of {len(twice)}", "pairs of model and task in which the pretrained model does better at twice the training length", "bottleneck-scratch", True)  # fmt: skip
    for method, suffix in (("direction", ""), ("mean projection", "-means")):
        damage = damage_beside(tables, method)
        damage = damage[damage["task"].isin(TASKS)].dropna(subset=["low"])
        apart = int(((damage["low"] > 0) | (damage["high"] < 0)).sum())
        found.add(f"damage-apart{suffix}", apart if len(damage) else None, f"{apart} of {len(damage)}", f"pairs of model and task in which {method} costs the pretrained model more or less than the one from scratch", "bottleneck-sweep")  # fmt: skip


def _of_ablations(found: Numbers, tables: Tables) -> None:
    where = "bottleneck-sweep"
    for method in METHODS:
        for cell, name, task, row in _cells(bottlenecks(tables, method), tables):
            key, text = f"{cell}.{method}".replace(" ", "-"), "" if not row else _points(_interval(row, "points"))
            headline = method == "direction" and task == DYCK and SCRATCH not in cell
            found.add(f"{key}.middle", row.get("points"), text, f"points lost by {method} at the most costly middle place, {name}", where, headline)  # fmt: skip
            found.add(f"{key}.where", row.get("first"), place_name(row["first"], row["last"]) if row else "", f"that place, {name}", where)  # fmt: skip
            found.add(f"{key}.best", row.get("at_best"), f"{row['at_best']:.0f}" if row else "", f"points lost by {method} where the probe reads best, {name}", where)  # fmt: skip
            if method == "direction":
                found.add(f"{key}.over-p", row.get("over_p"), f"{row['over_p']:.3f}" if row else "", f"exact one-sided p, by swapped signs, that it costs more there than where the probe reads best, {name}", where)  # fmt: skip
    for measure, what in (("whole", "points among all tokens"), ("way", "per cent of the way down to the most frequent state")):  # fmt: skip
        for cell, name, _, row in _cells(bottlenecks(tables, "direction", measure), tables):
            text = "" if not row else _points(_interval(row, "points"))
            found.add(f"{cell}.{measure}.middle", row.get("points"), text, f"{what} lost at most in the middle when one direction is out, {name}", where)  # fmt: skip
    judged = sites(tables).query("judged")
    middle = judged[is_middle(judged.assign(first=judged["site"], last=judged["site"]))]["site"]
    found.add("middle", len(middle) and int(middle.min()), f"{middle.min():.0f} to {middle.max():.0f}", "sites of the middle two thirds", where)  # fmt: skip
    for cell, name, task, row in _cells(most_costly(tables), tables):
        text = "" if not row else _points(_interval(row, "points"))
        found.add(f"{cell}.most", row.get("points"), text, f"points lost at most when one direction is out at a site before the last, {name}", where, task in TASKS and SCRATCH not in cell)  # fmt: skip
    can_lose = _can_lose(tables)
    for cell, name, task, row in _cells(last_sites(tables), tables):
        text = "" if not row else mean_text(_interval(row, "read"))
        found.add(f"{cell}.last", row.get("read"), text, f"readability of the last site, {name}", where)
        found.add(f"{cell}.last-points", row.get("points"), f"{row['points']:.0f}" if row else "", f"points lost when one direction is out at the last site, {name}", where)  # fmt: skip
        lost = math.nan if not row else can_lose[task, row["architecture"]]
        found.add(f"{cell}.can-lose", lost, f"{lost:.0f}", f"points down to the most frequent state, {name}", where)
    one = pretrained_only(sites(tables)).query(
        "judged and positions == 'pooled' and method == 'direction' and rank > 0"
    )
    for task in dict.fromkeys([*TASKS, *one["task"]]):
        rank = one[one["task"] == task]["rank"].mean()
        found.add(f"{task}.rank", rank, f"{rank:.0f}", f"rank of one direction on {task_name(task)}", where)
    back, n_back, needed, n_exact, left = _erased(tables)
    found.add("back", back if n_back else None, f"{back} of {n_back}", "ablations of one direction, of those before which the state was read, after which a refitted probe gets back 95% of its accuracy", where, True)  # fmt: skip
    found.add("not-removed", left if n_exact else None, str(left), "of these, cells in which LEACE at each position did not remove the state", where)  # fmt: skip
    found.add("necessary", needed if n_exact else None, f"{needed} of {n_exact}", "cells in which the state is necessary by LEACE at each position", where)  # fmt: skip
    of_these = _judged_cells(tables).query("positions == 'each' and method == 'LEACE' and outcome == 'necessary'")
    for key, which, label in (
        ("unmatched", of_these["matched_share"] < 0.9 * of_these["variance_removed"], "of these, cells whose variance-matched control took over a tenth less"),
        ("resampled", of_these["resample_fall"] >= 0.5, "of these, cells in which another string's part in place of the mean costs half of the way too"),
    ):  # fmt: skip
        found.add(key, int(which.sum()) if n_exact else None, f"{int(which.sum())} of {len(of_these)}", label, where)


def _of_patches(found: Numbers, tables: Tables) -> None:
    for suffix, table, what in (("patched", patches(tables), "at or after the changed token"), ("patched-later", patches(tables, 1), "after the changed token"), ("patched-middle", patches(tables, middle=True), "in the middle two thirds of the sites")):  # fmt: skip
        for cell, name, _, row in _cells(table, tables):
            text = "" if not row else mean_text(_interval(row, "recovery"))
            found.add(f"{cell}.{suffix}", row.get("recovery"), text, f"share of the gap that a patch {what} recovers, at most, {name}", "bottleneck-patching")  # fmt: skip
            at = f"site {row['site']}, {row['offset']} after the changed token" if row else ""
            found.add(f"{cell}.{suffix}.site", row.get("site"), at, f"its site and position, {name}", "bottleneck-patching")  # fmt: skip


def _of_peaks(found: Numbers, tables: Tables) -> None:
    apart = pretrained_only(peaks(tables)).dropna(subset=["differ"])
    apart = apart[apart["task"].isin(TASKS)]
    total = len(apart)

    def add(key: str, count: int, label: str, headline: bool = False) -> None:
        found.add(key, count if total else None, f"{count} of {total}", label, "bottleneck-peaks", headline)

    add("differ", int(apart["differ"].astype(bool).sum()), "pretrained models and tasks whose best-read and most damaged site differ", True)  # fmt: skip
    for told in ("differ", "same", "not told apart"):
        add(f"told.{told}".replace(" ", "-"), int((apart["told"] == told).sum()), f"of these, seed by seed: {told}")
    add("differ-argmax", int(apart["differ_argmax"].astype(bool).sum()), "the same by the sites of the highest means")
    add("differ-last", int(apart["differ_last"].astype(bool).sum()), "the same with the last site among them")
