"""Claim 4: does a fine-tuned language model have a bottleneck? Its criterion, our dated predictions, and its page's numbers.

The criterion was committed before the run that it judges. Tables in, verdicts and numbers out; no torch.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from statedepth import profiles
from statedepth.profiles import Interval, difference_interval, mean_interval, permutation_p
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
)

DYCK, PARITY = "dyck-2-4", "parity"
TASKS = (DYCK, PARITY)  # on which the claim is judged
CLASSES = {"gpt_neox": "GPT-NeoX", "mamba": "Mamba", "mamba2": "Mamba-2"}
COSTS = 50.0  # points of accuracy that an ablation at a bottleneck costs, at the least
INERT = 5.0  # points that no direction may cost where a model "has no direction that breaks the task"
READ = 0.95  # A' at the last site
READABLE = 0.1  # A' under which there is nothing to erase
RECOVERED = 0.9  # of the gap, by a patch
ABLATION = ("pooled", "direction")  # v1's
EXACT = ("each", "LEACE")  # by which the most damaged site is told
METHODS = ("direction", "mean projection", "LEACE", "INLP")
PUBLISHED = ("pythia-160m", "pythia-410m", "mamba-130m-hf")  # the paper's own, by the name of their folder
ANALOGUES = (
    "gpt-neox-small",
    "gpt-neox-large",
    "mamba-small",
    "mamba-large",
)  # of `statedepth.analogue`, which loads torch
SCRATCH = "-scratch"  # ends the name of an architecture that was not pretrained

PREDICTIONS = (
    Prediction("2026-11-25", "One direction out costs the GPT-NeoX models less than 50 points on Dyck at every middle site and window, at both sizes.", {"gpt-neox-small.bottleneck": False, "gpt-neox-large.bottleneck": False}),
    Prediction("2026-11-25", "The direction between class means, taken out in its place, does cost 50 points at some middle site or window of both.", {"gpt-neox-small.means": True, "gpt-neox-large.means": True}),
    Prediction("2026-11-25", "Mamba's last site reads at .95 or more on both tasks, at both sizes.", {"mamba-small.read": True, "mamba-large.read": True}),
    Prediction("2026-11-25", "Some direction costs Mamba more than 5 points at some site before the last, at both sizes.", {"mamba-small.inert": False, "mamba-large.inert": False}),
    Prediction("2026-11-25", "A patch of one position recovers 90% in Mamba where the bounds do not decide it, on both tasks and at both sizes.", {"mamba-small.patched": True, "mamba-large.patched": True}),
    Prediction("2026-11-25", "Not in every pretrained model do the best-read and the most damaged site differ.", {"v2.differ": False}),
    Prediction("2026-11-25", "Claim 1's flip of concentration between GPT-NeoX and Mamba does not come out at this scale, at either size.", {"small.flip": False, "large.flip": False}),
    Prediction("2026-11-25", "Without pretraining the same architectures learn both tasks as well.", {"scratch.as-well": True}),
)  # fmt: skip


# ---- names --------------------------------------------------------------------------------------------------------------


def start_of(architecture: str) -> tuple[str, bool]:
    """The base of an architecture's name, and whether it was pretrained."""
    return architecture.removesuffix(SCRATCH), not architecture.endswith(SCRATCH)


def size_of(base: str) -> str:
    """small or large of an analogue; the name itself of any other."""
    return base.rpartition("-")[2] if base in ANALOGUES else base


def name_of(architecture: str) -> str:
    """As readers see it: GPT-NeoX, large; with "from scratch" where it was not pretrained."""
    base, pretrained = start_of(architecture)
    shown = base
    for prefix, name in (("gpt-neox-", "GPT-NeoX, "), ("mamba-", "Mamba, ")):
        if base.startswith(prefix) and size_of(base) != base:
            shown = name + size_of(base)
    return shown if pretrained else f"{shown}, from scratch"


def family_of(tables: Tables) -> dict[str, str]:
    """The class of each architecture: gpt_neox, mamba or mamba2."""
    table = tables["tuned"]
    return {str(a): str(f) for a, f in zip(table["architecture"], table["family"], strict=True)}


def pretrained_only(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that were pretrained."""
    return table[~table["architecture"].str.endswith(SCRATCH)]


# ---- what the criterion reads --------------------------------------------------------------------------------------------


def sites(tables: Tables) -> pd.DataFrame:
    """Every ablation of one site in a model that passed: the rows of `necessity` with `points` and `read`.

    `points` of accuracy are lost; `read` is A' of the pooled probe before; `last_site` is L. `judged` says that the site
    is before the last, where erasing is no tautology.
    """
    table = tables["necessity"]
    table = table[table["passed"]]
    last = table.groupby("architecture")["site"].transform("max")
    return table.assign(
        points=100 * (table["intact"] - table["after"]),
        read=(table["before"] - table["majority"]) / (1 - table["majority"]),
        last_site=last,
        judged=table["site"] < last,
    ).reset_index(drop=True)


def places(tables: Tables, method: str) -> pd.DataFrame:
    """One eraser for all positions, at every site before the last and every window: points lost, seed by seed."""
    one = sites(tables).query("judged and positions == 'pooled' and method == @method")
    columns = ["task", "architecture", "seed", "first", "last", "points", "last_site"]
    found = [one.assign(first=one["site"], last=one["site"])[columns]]
    if "windows" in tables:
        table = tables["windows"].query("passed and method == @method")
        deepest = one.groupby("architecture")["last_site"].max()
        more = table.assign(
            points=100 * (table["intact"] - table["after"]), last_site=table["architecture"].map(deepest)
        )
        found.append(more.dropna(subset=["last_site"])[columns])
    return pd.concat(found).astype({"first": int, "last": int, "last_site": int}).reset_index(drop=True)


def is_middle(table: pd.DataFrame) -> pd.Series:
    """Is all of a place in the middle two thirds of the sites? v1's are L6-L7 of 12 and L4-L18 of 24."""
    return (table["first"] > table["last_site"] / 6) & (table["last"] <= table["last_site"] * 5 / 6)


def best_read(tables: Tables) -> dict[tuple[str, str], list[int]]:
    """Where the pooled probe reads best before the last site, over seeds: sites that cannot be told from the best.

    A site is among them where its mean shortfall against the best is within one standard error over seeds.
    """
    table, found = sites(tables).query("judged and positions == 'pooled' and method == 'direction'"), {}
    for task, architecture, part in _groups(table):
        by_seed = part.pivot_table(index="seed", columns="site", values="before")
        found[task, architecture] = _top(by_seed)
    return found


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (task, architecture), part in table.groupby(["task", "architecture"], sort=False):
        yield str(task), str(architecture), part


def _top(by_seed: pd.DataFrame) -> list[int]:
    """The columns (sites) whose mean over rows (seeds) is the highest, or within one standard error of it."""
    best = by_seed.mean().idxmax()
    short = by_seed[best].to_numpy()[:, None] - by_seed.to_numpy()
    n = len(by_seed)
    error = short.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(short.shape[1])
    return [int(site) for site, one in zip(by_seed.columns, short.mean(0) <= error, strict=True) if one]


def bottlenecks(tables: Tables, method: str = "direction") -> pd.DataFrame:
    """The middle site or window whose ablation costs most, and by how much more than at the best-read sites.

    A row per task and architecture: the place, its `points` with the t interval over seeds, `at_best` (the mean over the
    sites that read best), and `over`, their difference by seed. `holds`: at least `COSTS` points, and `over` over 0. The
    place is the one with the largest mean, so that its interval is pointwise.
    """
    table, best, rows = places(tables, method), best_read(tables), []
    for task, architecture, part in _groups(table):
        middle = part[is_middle(part)]
        if not len(middle):
            continue
        means = middle.groupby(["first", "last"])["points"].mean()
        at: Any = means.idxmax()
        first, last = at
        there = middle[(middle["first"] == first) & (middle["last"] == last)].set_index("seed")["points"]
        single = part[(part["first"] == part["last"]) & part["first"].isin(best[task, architecture])]
        at_best = single.groupby("seed")["points"].mean()
        seeds = there.index.intersection(at_best.index)
        points, over = mean_interval(there[seeds].to_numpy()), mean_interval((there - at_best)[seeds].to_numpy())
        row = {"task": task, "architecture": architecture, "method": method, "first": int(first), "last": int(last)}
        row |= {"points": points.estimate, "low": points.low, "high": points.high, "n": points.n}
        row |= {"at_best": float(at_best.mean()), "over": over.estimate, "over_low": over.low, "over_high": over.high}
        holds = bool(points.estimate >= COSTS and over.excludes_zero(1)) if points.n >= 2 else None
        rows.append({**row, "holds": holds})
    columns = ["task", "architecture", "method", "first", "last", "points", "low", "high", "n", "at_best", "over", "over_low", "over_high", "holds"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).astype({"holds": object})


def last_sites(tables: Tables) -> pd.DataFrame:
    """A' of the pooled probe at the last site, over seeds: a row per task and architecture; `holds` at `READ` or more."""
    table, rows = sites(tables).query("not judged and positions == 'pooled' and method == 'direction'"), []
    for task, architecture, part in _groups(table):
        read = mean_interval(part["read"].to_numpy())
        row = {"task": task, "architecture": architecture, "read": read.estimate, "low": read.low, "high": read.high}
        rows.append({**row, "n": read.n, "holds": bool(read.estimate >= READ) if read.n >= 2 else None})
    columns = ["task", "architecture", "read", "low", "high", "n", "holds"]
    return pd.DataFrame(rows, columns=columns).astype({"holds": object})


def most_costly(tables: Tables, method: str = "direction") -> pd.DataFrame:
    """The single site before the last whose ablation costs most: a row per task and architecture; `inert` at `INERT` or less."""
    table, rows = places(tables, method), []
    table = table[table["first"] == table["last"]]
    for task, architecture, part in _groups(table):
        site: Any = part.groupby("first")["points"].mean().idxmax()
        points = mean_interval(part[part["first"] == site]["points"].to_numpy())
        row = {"task": task, "architecture": architecture, "site": int(site), "points": points.estimate}
        row |= {"low": points.low, "high": points.high, "n": points.n}
        rows.append({**row, "inert": bool(points.estimate <= INERT) if points.n >= 2 else None})
    columns = ["task", "architecture", "site", "points", "low", "high", "n", "inert"]
    return pd.DataFrame(rows, columns=columns).astype({"inert": object})


def patches(tables: Tables, least_offset: int = 0) -> pd.DataFrame:
    """The whole stream of one position, before the read position, at a site where the bounds decide nothing.

    The site and distance from the changed token, at least `least_offset`, at which most is recovered, over seeds: a row per
    task and architecture. Site 0 at the changed token is the clean string itself, and before the read position the last
    site must give 0: both are left out.
    """
    columns = ["task", "architecture", "site", "offset", "recovery", "low", "high", "n", "holds"]
    if "patching" not in tables:
        return pd.DataFrame(columns=columns).astype({"holds": object})
    table = tables["patching"].query("passed and at == 'before'").dropna(subset=["recovery"])
    last = table.groupby("architecture")["site"].transform("max")
    table = table[(table["site"] > 0) & (table["site"] < last) & (table["offset"] >= least_offset)]
    rows = []
    for task, architecture, part in _groups(table):
        at: Any = part.groupby(["site", "offset"])["recovery"].mean().idxmax()
        site, offset = at
        there = part[(part["site"] == site) & (part["offset"] == offset)]["recovery"]
        share = mean_interval(there.to_numpy())
        row = {"task": task, "architecture": architecture, "site": int(site), "offset": int(offset)}
        row |= {"recovery": share.estimate, "low": share.low, "high": share.high, "n": share.n}
        rows.append({**row, "holds": bool(share.estimate >= RECOVERED) if share.n >= 2 else None})
    return pd.DataFrame(rows, columns=columns).astype({"holds": object})


def peaks(tables: Tables) -> pd.DataFrame:
    """Where the state is read best, and where exact erasure (LEACE at each position) does most damage, over seeds.

    Both are sets of sites that cannot be told from the best by one standard error over seeds; they `differ` where they
    share none. `gap` is the least distance between them, positive where the most damaged is deeper.
    """
    table, best, rows = sites(tables), best_read(tables), []
    exact = table[table["judged"] & (table["positions"] == EXACT[0]) & (table["method"] == EXACT[1])]
    for task, architecture, part in _groups(exact):
        by_seed = part.pivot_table(index="seed", columns="site", values="points")
        hurt, read = _top(by_seed), best[task, architecture]
        gap = min((h - r for h, r in product(hurt, read)), key=abs)
        row = {"task": task, "architecture": architecture, "read": read, "hurt": hurt, "gap": gap, "n": len(by_seed)}
        rows.append({**row, "differ": not set(hurt) & set(read) if len(by_seed) >= 2 else None})
    columns = ["task", "architecture", "read", "hurt", "gap", "n", "differ"]
    return pd.DataFrame(rows, columns=columns).astype({"differ": object})


def flips(tables: Tables) -> pd.DataFrame:
    """Claim 1's indices at this scale: Mamba less GPT-NeoX of the same size, pretrained: a row per size, task and index.

    `difference` with Welch's interval, the exact one-sided p of what v1 says of the concentration (over 0 on Parity, under
    0 on Dyck), and its Holm correction over the two tasks of a size; `over`: the interval excludes 0 on that side.
    """
    table = pretrained_only(tables["indices"]).query("reading == 'pooled' and passed")
    table = table[table["variable"].isin(["state", "top"])]
    family, rows = family_of(tables), []
    sizes = list(dict.fromkeys(size_of(a) for a in table["architecture"]))
    for size, index in product(sizes, profiles.INDICES):
        of_size: list[dict[str, Any]] = []
        for task, sign in ((PARITY, 1), (DYCK, -1)):
            cell = table[(table["task"] == task) & (table["index"] == index)]
            own = [(size_of(str(a)), family[str(a)]) for a in cell["architecture"]]
            mine = {kind: np.array([one == (size, kind) for one in own], dtype=bool) for kind in ("mamba", "gpt_neox")}
            values = {kind: cell["value"][rows_of].dropna() for kind, rows_of in mine.items()}
            if min(map(len, values.values())) < 2:
                continue
            a, b = values["mamba"].to_numpy(), values["gpt_neox"].to_numpy()
            found = difference_interval(a, b)
            row = {"size": size, "task": task, "index": index, "difference": found.estimate, "low": found.low}
            row |= {"high": found.high, "n": found.n, "p": permutation_p(a, b, sign)}
            of_size.append({**row, "over": found.excludes_zero(sign)})
        for row, p in zip(of_size, profiles.holm(np.array([row["p"] for row in of_size])), strict=True):
            rows.append({**row, "p_holm": p})
    columns = ["size", "task", "index", "difference", "low", "high", "n", "p", "p_holm", "over"]
    return pd.DataFrame(rows, columns=columns)


def scratches(tables: Tables) -> pd.DataFrame:
    """Accuracy and steps of models with and without pretraining: a row per task and base that has both.

    `as_well`: without it the mean accuracy at the training length is no more than half a point lower.
    """
    at_length, rows = tables["models"].query("length == trained_length"), []
    for task, architecture, part in _groups(at_length):
        base, pretrained = start_of(architecture)
        other = at_length[(at_length["task"] == task) & (at_length["architecture"] == base + SCRATCH)]
        if not pretrained or not len(other):
            continue
        row: dict[str, Any] = {
            "task": task,
            "base": base,
            "pretrained": part["accuracy"].mean(),
            "scratch": other["accuracy"].mean(),
        }
        row |= {"steps": part["steps"].mean(), "steps_scratch": other["steps"].mean()}
        row |= {"n": len(part), "n_scratch": len(other), "passed": int(part["passed"].sum())}
        row |= {"passed_scratch": int(other["passed"].sum())}
        rows.append({**row, "as_well": bool(row["scratch"] >= row["pretrained"] - 0.005)})
    columns = ["task", "base", "pretrained", "scratch", "steps", "steps_scratch", "n", "n_scratch", "passed", "passed_scratch", "as_well"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


# ---- the criterion ------------------------------------------------------------------------------------------------------


def verdict(tables: Tables) -> Verdict:
    """Claim 4, v1's, at the scale of the models in the tables.

    A GPT-NeoX model has a *bottleneck* on Dyck where the ablation of v1 (the probe's direction, all positions) at some
    middle site or window of two costs at least 50 points of accuracy, and more than at the best-read sites, over 0
    (`bottlenecks`). A Mamba model *fails the other way* where, on Parity and on Dyck, its last site reads at .95 or more
    (`last_sites`), no single site's direction before the last costs more than 5 points (`most_costly`), and patching
    recovers at least .9 at a site and position that the bounds do not decide (`patches`). On analogues: *holds on the
    analogue* where both are true at every size that was run, else *does not hold on the analogue*. On checkpoints of
    others: *reproduced* where all models behave as their class is said to, *partly* where some do, *not reproduced* where
    none does. *Not tested* where a class could not be judged. Fewer than `MIN_SEEDS` seeds anywhere make it provisional.

    The other parts are v2's (the two sites differ), claim 1's flip, and what pretraining has to do with it.
    """
    parts = _parts(tables)
    holds = {part.key: part.holds for part in parts}
    family = family_of(tables)
    core = pretrained_only(tables["models"][tables["models"]["task"].isin(TASKS)])
    bases = [str(a) for a in dict.fromkeys(core["architecture"])]
    analogue = set(bases) <= set(ANALOGUES)
    scale = "analogue" if analogue else "published checkpoint" if set(bases) <= set(PUBLISHED) else "own checkpoint"
    judged = {base: _class_holds(base, family[base], holds) for base in bases}
    reasons, deciding = _reasons(tables, judged, family), _deciding(tables, family)
    classes = {kind: [judged[b] for b in bases if family[b] == kind] for kind in ("gpt_neox", "mamba")}
    known = [value for value in judged.values() if value is not None]
    if not judged or len(known) < len(judged) or (analogue and not all(classes.values())):
        untested = [name_of(base) for base, value in judged.items() if value is None]
        lacking = [CLASSES[kind] for kind, values in classes.items() if analogue and not values]
        said = [f"Not judged, for want of two seeds that learned both tasks: {', '.join(untested)}"] if untested else []
        said += [f"Not in this run: {', '.join(lacking)}"] if lacking else []
        reasons = [f"{'. '.join(said) or 'No model of this run is judged'}.", *reasons]
        return Verdict("pretrained_bottleneck", scale, "not tested", True, reasons, parts)
    passed = pretrained_only(tables["models"].query("length == trained_length and passed"))
    seeds = passed[passed["task"].isin(TASKS)].groupby(["task", "architecture"]).size()
    provisional = bool(seeds.min() < MIN_SEEDS)
    if analogue:
        outcome = "holds on the analogue" if all(known) else "does not hold on the analogue"
    else:
        outcome = "reproduced" if all(known) else "partly" if any(known) else "not reproduced"
    return Verdict("pretrained_bottleneck", scale, outcome, provisional, reasons, parts, deciding)


def _class_holds(base: str, family: str, holds: dict[str, bool | None]) -> bool | None:
    """Does a model behave as v1 says of its class? None where a part of it could not be tested."""
    wanted = ("bottleneck",) if family == "gpt_neox" else ("read", "inert", "patched")
    values = [holds.get(f"{base}.{key}") for key in wanted]
    return None if any(value is None for value in values) else all(values)


def _all_of(table: pd.DataFrame, architecture: str, column: str, tasks: tuple[str, ...] = TASKS) -> bool | None:
    """Is it so on every task? None where it was not tested on each."""
    values = table[(table["architecture"] == architecture) & table["task"].isin(tasks)][column].tolist()
    return None if len(values) < len(tasks) or any(v is None for v in values) else all(values)


def _parts(tables: Tables) -> list[Part]:
    parts, family = [], family_of(tables)
    one, means = bottlenecks(tables), bottlenecks(tables, "mean projection")
    read, cost, patched = last_sites(tables), most_costly(tables), patches(tables)
    for architecture, kind in family.items():
        base, name = architecture, name_of(architecture)
        parts.append(Part(f"{base}.bottleneck", f"{name}: on Dyck, one direction out at a middle site or window costs {COSTS:.0f} points, and more than where the probe reads best", _all_of(one, base, "holds", (DYCK,))))  # fmt: skip
        parts.append(Part(f"{base}.means", f"{name}: the same by the direction between class means", _all_of(means, base, "holds", (DYCK,))))  # fmt: skip
        if kind != "gpt_neox":
            parts.append(Part(f"{base}.read", f"{name}: the last site reads at {READ} or more on both tasks", _all_of(read, base, "holds")))  # fmt: skip
            parts.append(Part(f"{base}.inert", f"{name}: no direction at one site before the last costs more than {INERT:.0f} points on either task", _all_of(cost, base, "inert")))  # fmt: skip
            parts.append(Part(f"{base}.patched", f"{name}: a patch of one position recovers {RECOVERED} on both tasks", _all_of(patched, base, "holds")))  # fmt: skip
    apart = pretrained_only(peaks(tables))
    known = [value for value in apart["differ"] if value is not None]
    parts.append(Part("v2.differ", "the best-read and the most damaged site differ in every pretrained model", all(known) if known else None))  # fmt: skip
    table = flips(tables)
    for size in dict.fromkeys(table["size"]):
        rows = table[(table["size"] == size) & (table["index"] == "concentration")]
        flip = bool((rows["over"] & (rows["p_holm"] < LEVEL)).all()) if len(rows) == 2 else None
        parts.append(Part(f"{size}.flip", f"{size}: Mamba is more concentrated than GPT-NeoX on Parity and less on Dyck", flip))  # fmt: skip
    beside = scratches(tables)
    core = beside[beside["task"].isin(TASKS)]
    parts.append(Part("scratch.as-well", "without pretraining the same architectures learn both tasks as well", bool(core["as_well"].all()) if len(core) else None))  # fmt: skip
    return parts


def _reasons(tables: Tables, judged: dict[str, bool | None], family: dict[str, str]) -> list[str]:
    """In words, what came out: pretraining first, where it changes nothing."""
    reasons = []
    core = scratches(tables)
    core = core[core["task"].isin(TASKS)]
    if len(core):
        well = core[core["as_well"].astype(bool)]
        text = f"Without pretraining, {len(well)} of {len(core)} pairs of model and task are learned as well (within half a point)"
        others = [f"{name_of(r['base'])} on {task_name(r['task'])} ({r['scratch']:.1%} against {r['pretrained']:.1%})" for r in _records(core[~core["as_well"].astype(bool)])]  # fmt: skip
        reasons.append(text + (f"; not {', '.join(others)}." if others else "."))  # fmt: skip
    one = bottlenecks(tables)
    cost, patched, near = most_costly(tables), patches(tables), patches(tables, 1)
    for base, holds in judged.items():
        name = name_of(base)
        if family[base] == "gpt_neox":
            for row in _records(one[(one["architecture"] == base) & (one["task"] == DYCK)]):
                where = _place(row)
                said = "has v1's bottleneck" if holds else "has no such bottleneck" if holds is not None else "could not be judged"  # fmt: skip
                reasons.append(f"{name} {said}: on Dyck, one direction out costs at most {row['points']:.0f} points in the middle ({where}), and {row['at_best']:.0f} where the probe reads best.")  # fmt: skip
            continue
        said = "is as v1 says" if holds else "is not as v1 says" if holds is not None else "could not be judged"
        costs = [f"{row['points']:.0f} on {task_name(row['task'])} (site {row['site']})" for row in _records(cost[(cost["architecture"] == base) & cost["task"].isin(TASKS)])]  # fmt: skip
        recovers = [f"{row['recovery']:.2f} on {task_name(row['task'])} (site {row['site']}, {row['offset']} after the changed token)" for row in _records(patched[(patched["architecture"] == base) & patched["task"].isin(TASKS)])]  # fmt: skip
        later = [f"{row['recovery']:.2f}" for row in _records(near[(near["architecture"] == base) & near["task"].isin(TASKS)])]  # fmt: skip
        text = f"{name} {said}: one direction out costs at most {' and '.join(costs) or 'nothing measured'}"
        if recovers:
            text += f"; a patch recovers {' and '.join(recovers)}, and after the changed token no more than {' and '.join(later)}"  # fmt: skip
        reasons.append(text + ".")
    apart = pretrained_only(peaks(tables)).dropna(subset=["differ"])
    if len(apart):
        count = int(apart["differ"].astype(bool).sum())
        reasons.append(f"The best-read and the most damaged site differ in {count} of {len(apart)} pretrained models and tasks.")  # fmt: skip
    return reasons


def _place(row: dict[str, Any]) -> str:
    return f"site {row['first']}" if row["first"] == row["last"] else f"sites {row['first']} and {row['last']}"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _points(value: Interval) -> str:
    """Points of accuracy as readers see them, with the interval over seeds."""
    if math.isnan(value.estimate):
        return NOT_RUN
    numbers = [f"{x:.0f}".replace("-0", "0") if abs(x) < 0.5 else f"{x:.0f}" for x in (value.estimate, value.low, value.high) if not math.isnan(x)]  # fmt: skip
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})" if value.n >= 2 else numbers[0]


def _interval(row: dict[str, Any], column: str) -> Interval:
    return Interval(row[column], row["low"], row["high"], int(row["n"]))


def _deciding(tables: Tables, family: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for row in _records(pretrained_only(bottlenecks(tables))):
        if family[row["architecture"]] == "gpt_neox" and row["task"] == DYCK:
            label = f"points lost when one direction is out at {_place(row)}, {name_of(row['architecture'])} on Dyck"
            found.append({"label": label, "text": _points(_interval(row, "points"))})
            more = Interval(row["over"], row["over_low"], row["over_high"], int(row["n"]))
            label = f"points more than where the probe reads best, {name_of(row['architecture'])} on Dyck"
            found.append({"label": label, "text": _points(more)})
    for table, column, what, text in (
        (last_sites(tables), "read", "readability of the last site", mean_text),
        (most_costly(tables), "points", "points lost at most when one direction is out before the last site", _points),
        (patches(tables), "recovery", "share of the gap that one position's patch recovers, at most", mean_text),
    ):
        for row in _records(pretrained_only(table)):
            if family[row["architecture"]] != "gpt_neox" and row["task"] in TASKS:
                label = f"{what}, {name_of(row['architecture'])} on {task_name(row['task'])}"
                found.append({"label": label, "text": text(_interval(row, column))})
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
    beside = tables["readability"].query("network == 'untrained'")["seed"].nunique()
    found.add("baseline_seeds", beside, str(beside), "seeds whose baselines are probed", "bottleneck-profile")
    own = pretrained_only(tables["tuned"][tables["tuned"]["task"].isin(TASKS)])
    whole = float(own["whole_vocabulary"].min()) if len(own) else math.nan
    if "windows" in tables:
        width = int((tables["windows"]["last"] - tables["windows"]["first"]).max()) + 1
        found.add("width", width, str(width), "sites in a row that are erased together", "bottleneck-sweep")
    found.add("whole", whole, f"{whole:.1%}", "least share of answers that are right among all tokens of the vocabulary", "bottleneck-models")  # fmt: skip
    if "bases" in tables:
        for row in _records(tables["bases"]):
            name, key = name_of(row["base"]), row["base"]
            for column, what, text in (("parameters", "parameters", f"{row['parameters'] / 1e6:.2f} million"), ("held_out", "held-out loss, nats per token", f"{row['held_out']:.2f}"), ("unigram", "loss of token frequencies alone, nats per token", f"{row['unigram']:.2f}"), ("tokens_seen", "tokens of pretraining", f"{row['tokens_seen'] / 1e6:.1f} million")):  # fmt: skip
                found.add(f"{key}.{column}", row[column], text, f"{what}, {name}", "bottleneck-pretraining")
    for row in _records(scratches(tables)):
        where = f"{name_of(row['base'])} on {task_name(row['task'])}"
        for column, what in (("pretrained", "pretrained"), ("scratch", "without pretraining")):
            label = f"accuracy of {where}, {what}, mean over seeds"
            found.add(f"{row['base']}.{row['task']}.{column}", row[column], f"{row[column]:.1%}", label, "bottleneck-scratch")  # fmt: skip
    core = scratches(tables)
    core = core[core["task"].isin(TASKS)]
    well = int(core["as_well"].sum())
    found.add("as-well", well if len(core) else None, f"{well} of {len(core)}", "pairs of model and task that are learned as well without pretraining", "bottleneck-scratch", True)  # fmt: skip
    _of_ablations(found, tables)
    _of_patches(found, tables)
    apart = pretrained_only(peaks(tables)).dropna(subset=["differ"])
    count = int(apart["differ"].astype(bool).sum())
    found.add("differ", count if len(apart) else None, f"{count} of {len(apart)}", "pretrained models and tasks whose best-read and most damaged site differ", "bottleneck-peaks", True)  # fmt: skip
    for row in _records(flips(tables)):
        label = f"{profiles.INDICES[row['index']]}, Mamba less GPT-NeoX, {row['size']}, on {task_name(row['task'])}"
        text = f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        found.add(f"{row['size']}.{row['task']}.{row['index']}", row["difference"], text, label, "bottleneck-flip", row["index"] == "concentration")  # fmt: skip
    return found


def _of_ablations(found: Numbers, tables: Tables) -> None:
    for method in METHODS:
        for row in _records(bottlenecks(tables, method)):
            name, key = f"{name_of(row['architecture'])} on {task_name(row['task'])}", f"{row['architecture']}.{row['task']}.{method}".replace(" ", "-")  # fmt: skip
            text = _points(_interval(row, "points"))
            headline = method == "direction" and row["task"] == DYCK
            found.add(f"{key}.middle", row["points"], text, f"points lost by {method} at the most costly middle place, {name}", "bottleneck-sweep", headline)  # fmt: skip
            found.add(f"{key}.where", row["first"], _place(row), f"that place, {name}", "bottleneck-sweep")
            found.add(f"{key}.best", row["at_best"], f"{row['at_best']:.0f}", f"points lost by {method} where the probe reads best, {name}", "bottleneck-sweep")  # fmt: skip
    for row in _records(most_costly(tables)):
        name, key = f"{name_of(row['architecture'])} on {task_name(row['task'])}", f"{row['architecture']}.{row['task']}"  # fmt: skip
        text = _points(_interval(row, "points"))
        found.add(f"{key}.most", row["points"], text, f"points lost at most when one direction is out at a site before the last, {name}", "bottleneck-sweep", row["task"] in TASKS)  # fmt: skip
    for row in _records(last_sites(tables)):
        name, key = f"{name_of(row['architecture'])} on {task_name(row['task'])}", f"{row['architecture']}.{row['task']}"  # fmt: skip
        text = mean_text(_interval(row, "read"))
        found.add(f"{key}.last", row["read"], text, f"readability of the last site, {name}", "bottleneck-sweep")
    one = pretrained_only(sites(tables)).query(
        "judged and positions == 'pooled' and method == 'direction' and rank > 0"
    )
    one = one[one["read"] >= READABLE]  # or a refit gets back what was never there
    back = one["refit"] / one["before"]
    count = int((back >= READ).sum())
    found.add("back", count if len(one) else None, f"{count} of {len(one)}", "ablations of one direction after which a refitted probe gets back 95% of its accuracy", "bottleneck-sweep", True)  # fmt: skip
    exact = sites(tables).query("judged and positions == 'each' and method == 'LEACE'")
    needed = int((exact["outcome"] == "necessary").sum())
    found.add("necessary", needed if len(exact) else None, f"{needed} of {len(exact)}", "cells in which the state is necessary by LEACE at each position", "bottleneck-sweep")  # fmt: skip


def _of_patches(found: Numbers, tables: Tables) -> None:
    for least, suffix, where in ((0, "patched", "at or after"), (1, "patched-later", "after")):
        for row in _records(patches(tables, least)):
            name, key = f"{name_of(row['architecture'])} on {task_name(row['task'])}", f"{row['architecture']}.{row['task']}.{suffix}"  # fmt: skip
            label = f"share of the gap that a patch {where} the changed token recovers, at most, {name}"
            found.add(key, row["recovery"], mean_text(_interval(row, "recovery")), label, "bottleneck-patching")
            found.add(f"{key}.site", row["site"], str(row["site"]), f"its site, {name}", "bottleneck-patching")
