"""What claim 4's criterion reads from the tables: what an edit costs and where, what is read there, what a patch brings back.

Tables in, tables out, a row per task and architecture; no torch. An architecture is the name of a base, with `SCRATCH` behind it
where it was not pretrained.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from statedepth import profiles
from statedepth.profiles import difference_interval, mean_interval, permutation_p
from statedepth.verdicts import Tables

DYCK, PARITY = "dyck-2-4", "parity"
TASKS = (DYCK, PARITY)  # on which the claim is judged
CLASSES = {"gpt_neox": "GPT-NeoX", "mamba": "Mamba", "mamba2": "Mamba-2"}
COSTS = 50.0  # points of accuracy that an ablation at a bottleneck costs, at the least
INERT = 5.0  # points that no direction may cost where a model "has no direction that breaks the task"
READ = 0.95  # A' at the last site
READABLE = 0.1  # A' under which there is nothing to erase
RECOVERED = 0.9  # of the gap, by a patch
MIN_PAIRS = 32  # in a judged cell of patching
EXACT = ("each", "LEACE")  # by which the most damaged site is told
METHODS = ("direction", "mean projection", "LEACE", "INLP")
MEASURES = {
    "points": "points of accuracy among the states",
    "whole": "points of accuracy among all tokens of the vocabulary",
    "way": "per cent of the way down to the most frequent state",
}
SATURATED = 0.002  # accuracy within which probes that read nearly everything are not told apart
ANALOGUES = (
    "gpt-neox-small",
    "gpt-neox-large",
    "mamba-small",
    "mamba-large",
)  # of `statedepth.analogue`, which loads torch
SCRATCH = "-scratch"  # ends the name of an architecture that was not pretrained


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


def place_name(first: int, last: int) -> str:
    """site 3; sites 3 and 4; sites 3 to 5."""
    if first == last:
        return f"site {first}"
    return f"sites {first} and {last}" if last == first + 1 else f"sites {first} to {last}"


def family_of(tables: Tables) -> dict[str, str]:
    """The class of each architecture: gpt_neox, mamba or mamba2."""
    table = tables["tuned"]
    return {str(a): str(f) for a, f in zip(table["architecture"], table["family"], strict=True)}


def pretrained_only(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that were pretrained."""
    return table[~table["architecture"].str.endswith(SCRATCH)]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (task, architecture), part in table.groupby(["task", "architecture"], sort=False):
        yield str(task), str(architecture), part


def _table(rows: list[dict[str, Any]], columns: str, *judged: str) -> pd.DataFrame:
    """With these columns where there is no row, too; those that are judged may hold None."""
    return pd.DataFrame(rows, columns=[*columns.split(), *judged]).astype(dict.fromkeys(judged, object))


# ---- what an edit costs ----------------------------------------------------------------------------------------------------


def sites(tables: Tables) -> pd.DataFrame:
    """Every ablation of one site in a model that passed: the rows of `sweep` with what it costs and what was read.

    `points`, `whole` and `way` as `MEASURES` says; `can_lose`: points down to the most frequent state; `read`: A' of the
    pooled probe before; `last_site`: L; `judged`: the site is before the last, where erasing is no tautology.
    """
    table = tables["sweep"]
    table = _costs(table[table["passed"]])
    last = table.groupby("architecture")["site"].transform("max")
    read = (table["before"] - table["majority"]) / (1 - table["majority"])
    return table.assign(read=read, last_site=last, judged=table["site"] < last).reset_index(drop=True)


def _costs(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        points=100 * (table["intact"] - table["after"]),
        whole=100 * (table["intact_whole"] - table["after_whole"]),
        way=100 * table["fall"],
        can_lose=100 * (table["intact"] - table["task_majority"]),
    )


def places(tables: Tables, method: str) -> pd.DataFrame:
    """One eraser for all positions, at every site before the last and every window, seed by seed: what it costs."""
    one = sites(tables).query("judged and positions == 'pooled' and method == @method")
    columns = ["task", "architecture", "seed", "first", "last", *MEASURES, "last_site"]
    found = [one.assign(first=one["site"], last=one["site"])[columns]]
    if "windows" in tables:
        more = _costs(tables["windows"].query("passed and method == @method"))
        more = more.assign(last_site=more["architecture"].map(one.groupby("architecture")["last_site"].max()))
        found.append(more.dropna(subset=["last_site"])[columns])
    return pd.concat(found).astype({"first": int, "last": int, "last_site": int}).reset_index(drop=True)


def is_middle(table: pd.DataFrame) -> pd.Series:
    """Is all of a place in the middle two thirds of the sites? v1's are L6-L7 of 12 and L4-L18 of 24."""
    return (table["first"] > table["last_site"] / 6) & (table["last"] <= table["last_site"] * 5 / 6)


def best_read(tables: Tables) -> dict[tuple[str, str], list[int]]:
    """Where the pooled probe reads best before the last site, over seeds: sites that cannot be told from the best.

    A site is among them where its mean shortfall against the best is within one standard error over seeds.
    """
    table = sites(tables).query("judged and positions == 'pooled' and method == 'direction'")
    return {(t, a): top(part.pivot(index="seed", columns="site", values="before")) for t, a, part in _groups(table)}


def top(by_seed: pd.DataFrame, floor: float = 0.0) -> list[int]:
    """The columns (sites) whose mean over rows (seeds) is the highest, or within one standard error, or `floor`, of it."""
    best = by_seed.mean().idxmax()
    short = by_seed[best].to_numpy()[:, None] - by_seed.to_numpy()
    n = len(by_seed)
    error = short.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(short.shape[1])
    within = short.mean(0) <= np.maximum(error, floor)
    return [int(site) for site, one in zip(by_seed.columns, within, strict=True) if one]


def bottlenecks(tables: Tables, method: str = "direction", measure: str = "points") -> pd.DataFrame:
    """The middle site or window whose ablation costs most, and by how much more than at the best-read sites.

    A row per task and architecture: the place, its `points` (of `measure`) with the t interval over seeds, `at_best` (the mean
    over the sites that read best), and `over`, their difference by seed with its interval and `over_p`, the exact
    one-sided p of swapping signs, at least 1/32 at five seeds. `costs`: at least `COSTS`; `holds`: and `over` over 0, by its
    interval; `anywhere`: both are so at some place of the middle, be it another one. `like` holds the place against the mean of other places of the same width with a best-read site in them,
    in place of single sites; `holds_like` by that. The place is the one with the largest mean, so that its interval is pointwise.
    """
    table, best, rows = places(tables, method), best_read(tables), []
    for task, architecture, part in _groups(table):
        middle = part[is_middle(part)].dropna(subset=[measure])
        if not len(middle):
            continue
        at: Any = middle.groupby(["first", "last"])[measure].mean().idxmax()
        first, last = at
        there = middle[(middle["first"] == first) & (middle["last"] == last)].set_index("seed")[measure]
        read = best[task, architecture]
        single = part[(part["first"] == part["last"]) & part["first"].isin(read)]
        wide = part[(part["last"] - part["first"] == last - first) & (part["first"] != first)]
        wide = wide[[any(f <= site <= t for site in read) for f, t in zip(wide["first"], wide["last"], strict=True)]]
        at_best, alike = (one.groupby("seed")[measure].mean() for one in (single, wide))
        points, over = mean_interval(there.to_numpy()), (there - at_best).dropna().to_numpy()
        like = mean_interval((there - alike).dropna().to_numpy())
        more = mean_interval(over)
        row = {"task": task, "architecture": architecture, "first": int(first), "last": int(last)}
        row |= {"points": points.estimate, "low": points.low, "high": points.high, "n": points.n}
        row |= {"at_best": float(at_best.mean()), "over": more.estimate, "over_low": more.low, "over_high": more.high}
        row |= {
            "over_p": profiles.sign_flip_p(over),
            "like": like.estimate,
            "like_low": like.low,
            "like_high": like.high,
        }
        known = points.n >= 2
        row["costs"] = bool(points.estimate >= COSTS) if known else None
        row["holds"] = bool(points.estimate >= COSTS and more.excludes_zero(1)) if known else None
        row["anywhere"] = _anywhere(middle, at_best, measure) if known else None
        alone = not len(wide) and any(
            first <= site <= last for site in read
        )  # no other place of its width has a best-read site
        comparable = known and (like.n >= 2 or alone)
        row["holds_like"] = bool(points.estimate >= COSTS and like.excludes_zero(1)) if comparable else None
        rows.append(row)
    columns = (
        "task architecture first last points low high n at_best over over_low over_high over_p like like_low like_high"
    )
    return _table(rows, columns, "costs", "holds", "anywhere", "holds_like")


def _anywhere(middle: pd.DataFrame, at_best: pd.Series, measure: str) -> bool:
    """Is there a place that costs `COSTS`, and more than the best-read sites?"""
    for _, part in middle.groupby(["first", "last"]):
        there = part.set_index("seed")[measure]
        if there.mean() >= COSTS and mean_interval((there - at_best).dropna().to_numpy()).excludes_zero(1):
            return True
    return False


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
    return _table(rows, "task architecture site points low high n", "inert")


def last_sites(tables: Tables) -> pd.DataFrame:
    """A' of the pooled probe at the last site, over seeds, and the `points` that one direction costs there, a bound.

    A row per task and architecture; `holds` at `READ` or more.
    """
    table, rows = sites(tables).query("not judged and positions == 'pooled' and method == 'direction'"), []
    for task, architecture, part in _groups(table):
        read = mean_interval(part["read"].to_numpy())
        row = {"task": task, "architecture": architecture, "read": read.estimate, "low": read.low, "high": read.high}
        row |= {"n": read.n, "points": part["points"].mean()}
        rows.append({**row, "holds": bool(read.estimate >= READ) if read.n >= 2 else None})
    return _table(rows, "task architecture read low high n points", "holds")


# ---- what a patch brings back ------------------------------------------------------------------------------------------------


def enough_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of patching that have `MIN_PAIRS` pairs in every seed: or the seeds of a cell would be those that happen to."""
    least = table.groupby(["task", "architecture", "site", "at", "offset", "intervention"])["n"].transform("min")
    return table[least >= MIN_PAIRS].dropna(subset=["recovery"])


def patches(tables: Tables, least_offset: int = 0, middle: bool = False) -> pd.DataFrame:
    """The whole stream of one position, before the read position, at a site where the bounds decide nothing.

    The site and distance from the changed token, at least `least_offset`, at which most is recovered, over seeds: a row per
    task and architecture. Site 0 at the changed token is the clean string itself, and before the read position the last
    site must give 0: both are left out, and so are cells of fewer than `MIN_PAIRS` pairs in any seed. `middle`: of the middle
    two thirds of the sites alone.
    """
    columns = "task architecture site offset recovery low high n"
    if "patching" not in tables:
        return _table([], columns, "holds")
    table = enough_pairs(tables["patching"].query("passed and at == 'before'"))
    every = tables["patching"].groupby("architecture")["site"].max()
    last = table["architecture"].map(every).astype(float)
    table = table[(table["site"] > 0) & (table["site"] < last) & (table["offset"] >= least_offset)]
    if middle:
        table = table[is_middle(table.assign(first=table["site"], last=table["site"], last_site=last))]
    rows = []
    for task, architecture, part in _groups(table):
        at: Any = part.groupby(["site", "offset"])["recovery"].mean().idxmax()
        site, offset = at
        there = part[(part["site"] == site) & (part["offset"] == offset)]["recovery"]
        share = mean_interval(there.to_numpy())
        row = {"task": task, "architecture": architecture, "site": int(site), "offset": int(offset)}
        row |= {"recovery": share.estimate, "low": share.low, "high": share.high, "n": share.n}
        rows.append({**row, "holds": bool(share.estimate >= RECOVERED) if share.n >= 2 else None})
    return _table(rows, columns, "holds")


# ---- v2's statement, claim 1's flip, and pretraining ---------------------------------------------------------------------------


def peaks(tables: Tables) -> pd.DataFrame:
    """Where the state is read best, and where exact erasure (LEACE at each position) does most damage, over seeds.

    Both are sets of sites that cannot be told from the best by one standard error over seeds; they `differ` where they
    share none (the committed rule), and `gap` is the least distance between them, positive where the most damaged is deeper.
    A flat profile has such sets by chance, so that `told` asks for more: *differ* where the most damaged site is none of the
    best-read ones, those within `SATURATED` accuracy among them, and damage there exceeds the mean damage at these, seed by
    seed, by its interval at a level corrected for the choice of the site; *same* where it is one of them; else *not told
    apart*. `differ_argmax`: the sites with the highest means differ; `differ_last`: with the last site among them, they do.
    """
    table, best, rows = sites(tables), best_read(tables), []
    read_by = table[(table["positions"] == "pooled") & (table["method"] == "direction")]
    exact = table[(table["positions"] == EXACT[0]) & (table["method"] == EXACT[1])]
    for task, architecture, part in _groups(exact):
        probe = read_by[(read_by["task"] == task) & (read_by["architecture"] == architecture)]
        all_cost, all_read = (one.pivot(index="seed", columns="site", values=value) for one, value in ((part, "points"), (probe, "before")))  # fmt: skip
        cost, read = all_cost.iloc[:, :-1], all_read.iloc[:, :-1]  # before the last site
        hurt, among = top(cost), best[task, architecture]
        gap = min((h - r for h, r in product(hurt, among)), key=abs)
        worst, best_site = (int(table.columns[int(table.mean().argmax())]) for table in (cost, read))
        nearly = top(read, SATURATED)
        others = [site for site in cost.columns if site not in nearly]
        more = mean_interval((cost[worst] - cost[nearly].mean(axis=1)).to_numpy(), 1 - 0.05 / max(1, len(others)))
        told = "same" if worst in nearly else "differ" if more.excludes_zero(1) else "not told apart"
        row = {"task": task, "architecture": architecture, "read": among, "hurt": hurt, "gap": gap, "n": len(cost)}
        row |= {"worst": worst, "over": more.estimate, "over_low": more.low, "over_high": more.high}
        row |= {"differ_argmax": worst != best_site, "differ_last": not set(top(all_cost)) & set(top(all_read))}
        known = len(cost) >= 2
        rows.append({**row, "told": told if known else None, "differ": not set(hurt) & set(among) if known else None})
    columns = "task architecture read hurt gap n worst over over_low over_high differ_argmax differ_last"
    return _table(rows, columns, "told", "differ")


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
    return _table(rows, "size task index difference low high n p p_holm over")


def scratches(tables: Tables) -> pd.DataFrame:
    """Accuracy and steps of models with and without pretraining: a row per task and base that has both, at the training length.

    `as_well`: without it all models pass, and the mean accuracy is no more than half a point lower.
    """
    table, rows = lengths_beside(tables), []
    at_length = tables["models"].query("length == trained_length")
    for row in records(table[table["times"] == 1]):
        own, other = (
            at_length[(at_length["task"] == row["task"]) & (at_length["architecture"] == name)]
            for name in (row["base"], row["base"] + SCRATCH)
        )
        row |= {"steps": own["steps"].mean(), "steps_scratch": other["steps"].mean()}
        row |= {"passed": int(own["passed"].sum()), "passed_scratch": int(other["passed"].sum())}
        rows.append({**row, "as_well": bool(row["scratch"] >= row["pretrained"] - 0.005 and other["passed"].all())})
    return _table(rows, "task base pretrained scratch steps steps_scratch n n_scratch passed passed_scratch as_well")


def lengths_beside(tables: Tables) -> pd.DataFrame:
    """Accuracy with and without pretraining at every length: a row per task, base and length.

    `times` the training length; `difference`, pretrained less scratch, with Welch's interval over seeds; `better`: it is over 0.
    """
    rows = []
    for task, architecture, part in _groups(tables["models"]):
        base, pretrained = start_of(architecture)
        of_task = tables["models"][tables["models"]["task"] == task]
        other = of_task[of_task["architecture"] == base + SCRATCH]
        if not pretrained or not len(other):
            continue
        for length, own in part.groupby("length", sort=True):
            a, b = own["accuracy"].to_numpy(), other[other["length"] == length]["accuracy"].to_numpy()
            found = difference_interval(a, b)
            row = {"task": task, "base": base, "length": length, "times": length / own["trained_length"].iloc[0]}
            row |= {"pretrained": a.mean(), "scratch": b.mean(), "difference": found.estimate, "low": found.low}
            row |= {"high": found.high, "n": len(a), "n_scratch": len(b)}
            rows.append({**row, "better": found.excludes_zero(1) if found.n >= 2 else None})
    return _table(rows, "task base length times pretrained scratch difference low high n n_scratch", "better")


def damage_beside(tables: Tables, method: str = "direction") -> pd.DataFrame:
    """Points lost at the most costly single site of the middle, with and without pretraining: a row per task and base.

    Each at its own site, the one with the largest mean; `difference`, pretrained less scratch, with Welch's interval.
    """
    table = places(tables, method)
    table = table[(table["first"] == table["last"]) & is_middle(table)]
    most = {}
    for task, architecture, part in _groups(table):
        site: Any = part.groupby("first")["points"].mean().idxmax()
        most[task, architecture] = int(site), part[part["first"] == site]["points"].to_numpy()
    rows = []
    for (task, architecture), (site, values) in most.items():
        if (task, architecture + SCRATCH) in most:
            other_site, others = most[task, architecture + SCRATCH]
            found = difference_interval(values, others)
            row = {"task": task, "base": architecture, "site": site, "site_scratch": other_site}
            row |= {"pretrained": values.mean(), "scratch": others.mean(), "difference": found.estimate}
            rows.append({**row, "low": found.low, "high": found.high, "n": len(values), "n_scratch": len(others)})
    return _table(rows, "task base site site_scratch pretrained scratch difference low high n n_scratch")
