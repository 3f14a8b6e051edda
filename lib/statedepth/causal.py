"""Claim 3: is what can be read needed? Its criterion, our dated predictions, and the numbers of its page.

The criterion was committed before the run that it judges. Tables in, verdicts and numbers out; no torch.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from statedepth import profiles
from statedepth.profiles import Interval, mean_interval
from statedepth.verdicts import (
    JUDGED,
    MIN_SEEDS,
    NAMES,
    NOT_RUN,
    THRESHOLD,
    Number,
    Numbers,
    Part,
    Prediction,
    Tables,
    Verdict,
    mean_text,
    of_the_five,
    task_name,
    with_n,
)

TASKS = ("parity", "dyck-2-4")  # of the claim
HALF, TENTH = 0.5, 0.1  # of the way down to the majority class, as in `statedepth.ablation`
READABLE = 0.1  # A' under which there is nothing to erase
BACK = 0.95  # share of its accuracy that a refitted probe gets back (v2)
N_TEST = 2048  # sequences of a full test sample: the standard error by which sites are told apart
SAME = 0.5  # sites: an interval of the distance between two that lies within this is called no difference
TWICE = 2.0  # times the training length, at which v1's test is made again
OUTCOMES = ("absent", "not removed", "necessary", "not necessary", "inconclusive")
ABLATION = ("pooled", "direction")  # v1's: one direction, at all positions
EXACT = ("each", "LEACE")  # what our own finding rests on: of minimal rank, with a guarantee, at each position
UNPLANTED = (
    "not planted"  # in the column `expected` of hand-built models: what a method comes to there is shown, not tested
)
POSITIONS = {"pooled": "one eraser for all positions", "each": "an eraser for each position", "last": "the last position alone"}  # fmt: skip
# Readings of v1's "direction": of the validated probe (judged), of the most penalised one, and between class means.
DIRECTIONS = {"direction": "the probe's direction", "strong direction": "the most penalised probe's direction", "mean projection": "the direction between class means"}  # fmt: skip

PREDICTIONS = (
    Prediction("2026-11-25", "Where one direction is ablated as v1 did, the task survives at the best-readable site, in every architecture and on both tasks.", {"v1.any": False}),
    Prediction("2026-11-25", "A probe refitted after that gets back 95% of its accuracy in every cell.", {"v2.refit": True}),
    Prediction("2026-11-25", "INLP takes at least half of the way in more than half of the cells that looked inert, and by more than random subspaces of its rank.", {"v2.reversal": True}),
    Prediction("2026-11-25", "Taking out the direction between class means instead costs at least half of the way in more than half of architectures and tasks.", {"means.most": True}),
    Prediction("2026-11-25", "An exact eraser at each position shows the state to be necessary at some site before the last, in every architecture and on both tasks.", {"exact.everywhere": True}),
    Prediction("2026-11-25", "In the LSTM and the GRU, where every site reads the state about as well, erasure does most damage at an early site, so that the two differ on Parity.", {"lstm.parity.differ": True, "gru.parity.differ": True}),
    Prediction("2026-11-25", "In Mamba on Parity the two sites are the same.", {"mamba.parity.differ": False}),
)  # fmt: skip


# ---- cells --------------------------------------------------------------------------------------------------------------


def cells(tables: Tables, judged: bool = True) -> pd.DataFrame:
    """The rows of the necessity test in models that passed; with `judged`, at sites before the last alone.

    Adds `times`, the length over that of training, A' before and after (`read_before`, `read_after`, of the pooled probe,
    and `own_before`, `own_after` of single positions), and `strongest`, the largest mean fall under any control.
    """
    table = tables["necessity"]
    table = table[table["passed"]]
    if judged:
        last = table.groupby(["task", "architecture"])["site"].transform("max")
        # beyond the training length the last site is not measured; `times` tells those rows
        deepest = table[table["length"] == table["trained_length"]].groupby(["task", "architecture"])["site"].max()
        last = pd.Series([deepest.get(key, top) for key, top in zip(zip(table["task"], table["architecture"], strict=True), last, strict=True)], index=table.index)  # fmt: skip
        table = table[table["site"] < last]
    table = table.assign(
        times=table["length"] / table["trained_length"],
        read_before=_share(table["before"], table["majority"]),
        own_before=_share(table["before_own"], table["own_majority"]),
        read_after=_share(table["refit"], table["refit_majority"]),
        own_after=_share(table["refit_own"], table["refit_own_majority"]),
        strongest=table[["random_fall", "matched_fall", "control_fall"]].max(axis=1),
    )
    return table.reset_index(drop=True)


def _share(accuracy: pd.Series, majority: pd.Series) -> pd.Series:
    return (accuracy - majority) / (1 - majority).where(majority < 1)


def _of(table: pd.DataFrame, positions: str, method: str, times: float = 1.0) -> pd.DataFrame:
    return table[(table["positions"] == positions) & (table["method"] == method) & np.isclose(table["times"], times)]


def best_readable(table: pd.DataFrame) -> pd.DataFrame:
    """Of each model and length, the row at the site where the pooled probe reads best.

    Sites within one standard error of the best are equals; of these, in v1's favour, the one where the task falls most.
    """
    key = ["task", "architecture", "seed", "length"]
    best = table.groupby(key)["before"].transform("max")
    equal = best - table["before"] <= np.sqrt(np.maximum(best * (1 - best), 0) / N_TEST)
    order = table[equal].sort_values(["fall", "site"], ascending=[False, True], na_position="last")
    return order.drop_duplicates(key).sort_index()


def ablations(tables: Tables) -> pd.DataFrame:
    """v1's test, at the best-readable site: a row per task, architecture, length and reading of "direction".

    `fall` is the share of the way down to the majority class with its t interval over seeds; `over` the fall less the
    strongest control's. `holds`: the mean fall is at least half of the way, and the interval of `over` is over 0. Models
    that do not do the task at a length have no fall there; with fewer than two seeds left, it is not tested.
    """
    table, rows = cells(tables), []
    for method, name in DIRECTIONS.items():
        for times in sorted(table["times"].unique()):
            best = best_readable(_of(table, "pooled", method, times))
            for (task, architecture), part in best.groupby(["task", "architecture"], sort=False):
                tested = part.dropna(subset=["fall"])
                fall = mean_interval(tested["fall"].to_numpy())
                over = mean_interval((tested["fall"] - tested["strongest"]).to_numpy())
                holds = bool(fall.estimate >= HALF and over.excludes_zero(1)) if fall.n >= 2 else None
                row = {"method": method, "name": name, "times": times, "task": task, "architecture": architecture}
                row |= {"share": tested["variance_removed"].mean()}
                row |= {"fall": fall.estimate, "low": fall.low, "high": fall.high, "n": fall.n, "over": over.estimate}
                rows.append({**row, "over_low": over.low, "over_high": over.high, "holds": holds})
    columns = ["method", "name", "times", "task", "architecture", "fall", "low", "high", "n", "over", "over_low", "over_high", "holds", "share"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).astype({"holds": object})


def refits(tables: Tables) -> pd.DataFrame:
    """v2's test: the accuracy of the refitted probe over that before, in each cell in which there was something to read.

    One direction out, at all positions, every length, sites before the last.
    """
    table = cells(tables)
    table = table[(table["positions"] == ABLATION[0]) & (table["method"] == ABLATION[1]) & (table["rank"] > 0)]
    table = table[table["read_before"] >= READABLE]  # or a refit gets back what was never there
    back = {"back": table["refit"] / table["before"], "back_read": table["read_after"] / table["read_before"]}
    return table.assign(**back).reset_index(drop=True)


def reversals(tables: Tables) -> pd.DataFrame:
    """Cells that looked inert when one direction was out, beside what INLP makes of them, against random subspaces.

    `reversed`: INLP takes at least half of the way, and more than any draw of random subspaces of its rank.
    """
    table = cells(tables)
    key = ["task", "architecture", "seed", "site"]
    one, many = _of(table, *ABLATION), _of(table, "pooled", "INLP")
    both = one[one["outcome"] != "absent"].merge(many, on=key, suffixes=("", "_inlp"))
    both = both[both["fall"] < TENTH]
    turned = (both["fall_inlp"] >= HALF) & (both["fall_inlp"] > both["random_most_inlp"])
    return both[
        [*key, "fall", "fall_inlp", "random_fall_inlp", "random_most_inlp", "rank_inlp", "outcome_inlp"]
    ].assign(reversed=turned)


def counts(tables: Tables) -> pd.DataFrame:
    """How many cells of each method and scope, at the training length and sites before the last, come out how."""
    table = cells(tables)
    table = table[np.isclose(table["times"], 1.0)]
    found = table.groupby(["positions", "method", "outcome"], sort=False).size().rename("cells").reset_index()
    return found.assign(all=found.groupby(["positions", "method"])["cells"].transform("sum"))


def peaks(tables: Tables) -> pd.DataFrame:
    """Where the state is read best, where exact erasure does most damage, and how far apart that is, over seeds.

    At the training length, sites before the last. Where sites are within one standard error of the best, the best is a
    set; `gap` is the least distance from the set of the most damaged to that of the best read, and counts sites.
    """
    table, rows = _of(cells(tables), *EXACT), []
    for (task, architecture), part in table.groupby(["task", "architecture"], sort=False):
        gaps, read_at, hurt_at = [], [], []
        for _, model in part.groupby("seed"):
            if model["fall"].isna().any() or not (model["own_before"] >= READABLE).any():
                continue
            accuracy = model["before_own"].to_numpy()
            error = np.sqrt(
                np.maximum(accuracy * (1 - accuracy), 0) / N_TEST
            )  # positions of one string are not independent
            read = _top(model["site"].to_numpy(), accuracy, error)
            width = ((model["fall_high"] - model["fall_low"]) / 2 / 1.96).to_numpy()
            hurt = _top(model["site"].to_numpy(), model["fall"].to_numpy(), width)
            pairs = [h - r for h in hurt for r in read]
            nearest = min(map(abs, pairs))
            gaps.append(np.mean([pair for pair in pairs if abs(pair) == nearest]))  # on both sides alike: nowhere
            read_at.append(np.mean(read))
            hurt_at.append(np.mean(hurt))
        gap = mean_interval(np.array(gaps, dtype=float))
        row = {"task": task, "architecture": architecture, "gap": gap.estimate, "low": gap.low, "high": gap.high, "n": gap.n}  # fmt: skip
        for name, values in (("read", read_at), ("hurt", hurt_at)):
            interval = mean_interval(np.array(values, dtype=float))
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    columns = ["task", "architecture", "gap", "low", "high", "n", "read", "read_low", "read_high", "hurt", "hurt_low", "hurt_high"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _top(sites: np.ndarray, values: np.ndarray, errors: np.ndarray) -> list[int]:
    """The best site, and those within one standard error (of the difference) of it."""
    best = int(values.argmax())
    within = values[best] - values <= np.sqrt(errors**2 + errors[best] ** 2)
    return [int(site) for site in sites[within]]


def exactness(tables: Tables) -> pd.DataFrame:
    """By how much refits after LEACE and mean projection at each position are over the majority class, cell by cell."""
    table = cells(tables, judged=False)
    table = table[(table["positions"] == "each") & table["method"].isin(["LEACE", "mean projection"]) & (table["outcome"] != "absent")]  # fmt: skip
    return table.assign(
        over=table["refit"] - table["refit_majority"], own_over=table["refit_own"] - table["refit_own_majority"]
    )


# ---- the criterion ------------------------------------------------------------------------------------------------------


def verdict(tables: Tables) -> Verdict:
    """Claim 3, v1's: ablating the readable direction often destroys the task, and can do so beyond the training length.

    At the best-readable site before the last, over seeds that passed: the ablation *destroys* a task in an architecture
    where it takes at least half of the way down to the majority class, and more than every control, its interval over 0
    (`ablations`). *Reproduced*: it does in at least half of the architectures tested, on Parity and on Dyck ("often"), and
    in at least one on each at twice the training length ("can"). *Partly*: it does in some architecture on some task at
    some length. *Not reproduced*: in none. *Not tested*: no architecture could be, or a task is not in the run. With
    fewer than `MIN_SEEDS` seeds anywhere, or without one of the five architectures, the verdict is provisional.

    The other parts are v2's (the refit, the reversal) and our own findings.
    """
    tables = of_the_five(tables)
    found = ablations(tables)
    claimed = found[found["method"] == ABLATION[1]]
    parts = _parts(tables, found)
    run = [a for a in JUDGED if a in set(tables["models"]["architecture"])]
    at_length = claimed[np.isclose(claimed["times"], 1.0) & claimed["task"].isin(TASKS)]
    tested = at_length[at_length["holds"].notna()]
    if not set(TASKS) <= set(tables["models"]["task"]) or not set(TASKS) <= set(tested["task"]):
        reasons = [f"This run does not have two seeds that learned each of {' and '.join(map(task_name, TASKS))}."]
        return Verdict("causal_necessity", "formal", "not tested", True, reasons, parts)
    provisional = bool(
        tested["n"].min() < MIN_SEEDS or len(tested) < len(TASKS) * len(JUDGED) or len(run) < len(JUDGED)
    )
    outcome, reasons = _outcome(claimed[claimed["task"].isin(TASKS)])
    reasons[0] += _of_last_site(tables)
    reasons += (
        _other_directions(found) + _of_refits(tables) + _of_reversals(tables) + _of_exact(tables) + _of_peaks(tables)
    )
    deciding = [
        {
            "label": f"share of the task lost with the direction out at the best-read site (of tied ones the worst), {NAMES[row['architecture']]} on {task_name(row['task'])}, {row['times']:g}x the training length",
            "text": with_n(_percent(Interval(row["fall"], row["low"], row["high"], int(row["n"]))), int(row["n"])),
        }
        for _, row in claimed[claimed["task"].isin(TASKS) & claimed["times"].isin([1.0, TWICE])].iterrows()
    ]
    return Verdict("causal_necessity", "formal", outcome, provisional, reasons, parts, deciding)


def _percent(value: Interval) -> str:
    """A share of the way as readers see it, with its interval over seeds."""
    if math.isnan(value.estimate):
        return "not tested"
    if value.n < 2:
        return f"{value.estimate:.0%}".replace("-0%", "0%")
    parts = [
        f"{x:.0%}".replace("-0%", "0%") if abs(x) < 0.005 else f"{x:.0%}"
        for x in (value.estimate, value.low, value.high)
    ]
    return f"{parts[0]} ({parts[1]} to {parts[2]})"


def _outcome(judged: pd.DataFrame) -> tuple[str, list[str]]:
    held = judged[judged["holds"] == True]  # noqa: E712 (None is not False)
    reasons: list[str] = []
    often: list[bool] = []
    can: list[bool] = []
    counted: dict[str, list[str]] = {}
    for task in TASKS:
        for times, marks in ((1.0, often), (TWICE, can)):
            rows = judged[(judged["task"] == task) & np.isclose(judged["times"], times) & judged["holds"].notna()]
            yes = rows[rows["holds"] == True]  # noqa: E712
            marks.append(2 * len(yes) >= len(rows) > 0 if times == 1.0 else len(yes) > 0)
            where = "the training length" if times == 1.0 else "twice that"
            named = f" ({', '.join(NAMES[a] for a in yes['architecture'])})" if len(yes) else ""
            counted.setdefault(f"{len(yes)} of {len(rows)} architectures{named}", []).append(
                f"{task_name(task)} at {where}"
            )
    everywhere = f"each of {' and '.join(map(task_name, TASKS))}, at the training length and at twice it"
    said = "; ".join(
        f"in {count} on {everywhere if len(places) == 2 * len(TASKS) else ', on '.join(places)}"
        for count, places in counted.items()
    )
    reasons.append(f"Ablating the probe's direction destroys the task {said}.")
    outcome = "reproduced" if all(often) and all(can) else "partly" if len(held) else "not reproduced"
    return outcome, reasons


def _other_directions(found: pd.DataFrame) -> list[str]:
    """What v1's test would say of another direction; which one it ablated is not in what we could read."""
    reasons = []
    for method, name in reversed(DIRECTIONS.items()):  # the direction between class means first: it decides otherwise
        rows = found[(found["method"] == method) & found["task"].isin(TASKS) & found["holds"].notna()]
        if method == ABLATION[1] or not len(rows):
            continue
        at_length = rows[np.isclose(rows["times"], 1.0)]
        yes = int((at_length["holds"] == True).sum())  # noqa: E712
        reasons.append(
            f"With {name} in its place it is {yes} of {len(at_length)}, and the outcome would be: {_outcome(rows)[0]}."
        )
    return reasons


def _of_refits(tables: Tables) -> list[str]:
    table = refits(tables)
    if not len(table):
        return []
    back, still = int((table["back"] >= BACK).sum()), int((table["outcome"] == "not removed").sum())
    stands = (
        "agrees with"
        if back == len(table)
        else "agrees in most cells with"
        if 2 * back > len(table)
        else "speaks against"
    )
    return [
        f"After the probe's direction is out a refitted probe gets back 95% of its accuracy in {back} of {len(table)} cells (of its readability, in "
        f"{int((table['back_read'] >= BACK).sum())}), and in {still} it still reads the state: this {stands} v2's first statement."
    ]


def _of_last_site(tables: Tables) -> str:
    """What a task that survives the ablation does not show, where the ablation fails at the last site too."""
    last = at_last_site(tables)
    if not len(last) or last["fall"].max() >= HALF:  # or the ablation would have found what it looks for
        return ""
    return (
        " That a task survives is no evidence against necessity: at the last site, which the head reads, the same ablation "
        f"costs no more than {last['fall'].max():.0%} in any architecture and task."
    )


def at_last_site(tables: Tables) -> pd.DataFrame:
    """What taking the direction out costs at the last site, where the state is needed by construction: over seeds."""
    table = _of(cells(tables, judged=False), *ABLATION)
    table = table[table["site"] == table.groupby(["task", "architecture"])["site"].transform("max")]
    return table.groupby(["task", "architecture"], sort=False)["fall"].mean().dropna().reset_index()


def _of_reversals(tables: Tables) -> list[str]:
    table = reversals(tables)
    if not len(table):
        return []
    turned = table[table["reversed"]]
    like = int(((table["fall_inlp"] >= HALF) & ~table["reversed"]).sum())
    still = int((turned["outcome_inlp"] == "not removed").sum())
    return [
        f"Of {len(table)} cells that looked inert by one direction, INLP costs half of the way or more, and more than any random "
        f"subspace of its rank ({table['rank_inlp'].mean():.0f} on the mean), in {len(turned)}, of which a probe still reads "
        f"the state in {still}; in {like} more some random subspace costs as much."
    ]


def _of_exact(tables: Tables) -> list[str]:
    table = _of(cells(tables), *EXACT)
    if not len(table):
        return []
    each = table["outcome"].value_counts()
    said = ", ".join(f"{name} in {each[name]}" for name in OUTCOMES if name in each)
    return [f"By LEACE at each position, of {len(table)} cells at the training length the state is {said}."]


def _of_peaks(tables: Tables) -> list[str]:
    table = peaks(tables)
    differ = table[(table["low"] > 0) | (table["high"] < 0)]
    named = ", ".join(f"{NAMES[a]} on {task_name(t)}" for a, t in differ[["architecture", "task"]].to_numpy()) or "none"
    if not len(table):
        return []
    text = f"The site that is read best and the one where erasure hurts most differ, over seeds, in: {named}"
    return [
        text
        + ("." if len(differ) else "; equals within an error count as one, so that this does not show that they agree.")
    ]


def _parts(tables: Tables, found: pd.DataFrame) -> list[Part]:
    """Every statement of the criterion, of v2, and of our own findings."""
    parts = []
    for row in found[(found["method"] == ABLATION[1]) & found["task"].isin(TASKS)].to_dict("records"):
        text = f"in {NAMES[row['architecture']]} on {task_name(row['task'])}, ablating the direction destroys the task"
        key = f"{row['architecture']}.{row['task']}.v1" + ("" if row["times"] == 1.0 else f".{row['times']:g}x")
        parts.append(Part(key, text + ("" if row["times"] == 1.0 else f" at {row['times']:g} times the training length"), row["holds"]))  # fmt: skip
    known = [part.holds for part in parts if part.holds is not None]
    parts.append(Part("v1.any", "ablating the direction destroys some task somewhere", any(known) if known else None))
    back = refits(tables)
    parts.append(Part("v2.refit", "a refitted probe gets back 95% of its accuracy in every cell", bool((back["back"] >= BACK).all()) if len(back) else None))  # fmt: skip
    turned = reversals(tables)
    parts.append(Part("v2.reversal", "INLP shows most cells that looked inert to carry the task", bool(turned["reversed"].mean() > 0.5) if len(turned) else None))  # fmt: skip
    means = found[(found["method"] == "mean projection") & np.isclose(found["times"], 1.0) & found["holds"].notna()]
    parts.append(Part("means.most", "taking out the direction between class means destroys the task in most", bool((means["holds"] == True).mean() > 0.5) if len(means) else None))  # noqa: E712  # fmt: skip
    exact, shown = _of(cells(tables), *EXACT), []
    for (task, architecture), part in exact.groupby(["task", "architecture"], sort=False):
        by_site = part.groupby("site")["outcome"].agg(lambda o: (o == "necessary").mean())
        holds = bool((by_site > 0.5).any())
        shown.append(holds)
        parts.append(Part(f"{architecture}.{task}.necessary", f"in {NAMES[str(architecture)]} on {task_name(str(task))}, the state is necessary at some site before the last, in most seeds", holds))  # fmt: skip
    parts.append(Part("exact.everywhere", "the state is necessary at some site before the last, in every architecture and task", all(shown) if shown else None))  # fmt: skip
    for row in peaks(tables).to_dict("records"):
        text = f"in {NAMES[row['architecture']]} on {task_name(row['task'])}, the best-read and the most damaged site differ"
        differ = (
            True if row["low"] > 0 or row["high"] < 0 else False if -SAME < row["low"] <= row["high"] < SAME else None
        )
        parts.append(Part(f"{row['architecture']}.{row['task']}.differ", text, differ))
    return parts


# ---- numbers for prose --------------------------------------------------------------------------------------------------


def numbers(tables: Tables) -> dict[str, Number]:
    """Every number that prose may quote, by key; what a run did not measure reads "not run"."""
    found = Numbers()
    at_length = tables["models"].query("length == trained_length")
    failed = at_length.loc[~at_length["passed"], ["architecture", "task", "seed"]].to_numpy()
    named = ", ".join(f"{NAMES[a]} on {task_name(t)}, seed {s}" for a, t, s in failed) or "none"
    length = int(at_length["trained_length"].max())
    _count(found, "models", len(at_length), "models", "causal-models")
    found.add("failed", len(failed), named, f"models under {THRESHOLD:.0%}", "causal-models")
    _count(found, "length", length, "training length, tokens", "causal-models")
    _count(
        found, "cells", len(cells(tables)), "cells of the necessity test at judged sites, all lengths", "causal-story"
    )
    _of_one_direction(found, tables)
    _of_ablations(found, tables)
    _of_outcomes(found, tables)
    for row in _records(peaks(tables)):
        where = f"{NAMES[row['architecture']]} on {task_name(row['task'])}"
        label = f"sites by which the most damaged is deeper than the best read, {where}"
        text = mean_text(Interval(row["gap"], row["low"], row["high"], row["n"]))
        found.add(f"{row['architecture']}.{row['task']}.gap", row["gap"], text, label, "causal-peaks")
    if "planted" in tables:
        planted = tables["planted"][tables["planted"]["expected"] != UNPLANTED]
        right = int((planted["outcome"] == planted["expected"]).sum())
        for key, task, name in (("cause", "parity", "Parity model"), ("cause.counter", "dyck-1-3-depth", "counter")):
            of_task = tables["planted"][tables["planted"]["task"] == task]
            cause = of_task.query("kind == 'cause' and positions == 'pooled' and method == 'direction'")
            value = float(cause["fall"].mean()) if len(cause) else None
            label = f"task lost by one direction in the planted {name} whose code is the cause"
            found.add(f"planted.{key}", value, f"{value:.0%}" if value is not None else "", label, "causal-planted")
        label = "planted cells that come out as planted"
        found.add("planted.right", right, f"{right} of {len(planted)}", label, "causal-planted", True)
    for row in _records(transfers(tables)):
        label = f"recovery by {row['intervention']} at site {row['site']}, {NAMES[row['architecture']]} on {task_name(row['task'])}"
        key = f"{row['architecture']}.{row['task']}.{row['intervention']}.{row['site']}".replace(" ", "-")
        text = mean_text(Interval(row["recovery"], row["low"], row["high"], row["n"]))
        found.add(key, row["recovery"], text, label, "causal-patching")
    return found


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _count(found: Numbers, key: str, value: int | None, label: str, cell: str, headline: bool = False) -> None:
    found.add(key, value, str(value), label, cell, headline)


def _of_one_direction(found: Numbers, tables: Tables) -> None:
    """v2's two: what a refitted probe gets back, and what INLP shows of cells that looked inert."""
    back, turned = refits(tables), reversals(tables)
    for key, which, label in (
        ("direction.cells", back["back"] == back["back"], "cells of the direction ablation with something to read"),
        (
            "direction.back",
            back["back"] >= BACK,
            "of them, cells in which a refitted probe gets back 95% of its accuracy",
        ),
        ("direction.still", back["outcome"] == "not removed", "of them, cells in which the state is still read"),
    ):
        _count(found, key, int(which.sum()) if len(back) else None, label, "causal-story", True)
    least = float(back["back"].min()) if len(back) else None
    label = "least share of its accuracy that a refitted probe got back"
    found.add("direction.least", least, f"{least:.0%}" if least is not None else "", label, "causal-story")
    back_read = back["back_read"]
    _count(
        found,
        "direction.back-read",
        int((back_read >= BACK).sum()) if len(back) else None,
        "of them, cells in which it gets back 95% of its readability",
        "causal-story",
    )
    least = float(back_read.min()) if len(back) else None
    found.add(
        "direction.least-read",
        least,
        f"{least:.0%}" if least is not None else "",
        "least share of its readability that a refitted probe got back",
        "causal-story",
    )
    last = at_last_site(tables)
    for task in TASKS:
        falls = last.loc[last["task"] == task, "fall"]
        label = (
            f"task lost on {task_name(task)} when the direction is out at the last site, at most, over architectures"
        )
        found.add(
            f"last.{task}",
            float(falls.max()) if len(falls) else None,
            f"{falls.max():.0%}" if len(falls) else "",
            label,
            "causal-reversal",
        )
    still = turned[turned["outcome_inlp"] == "not removed"]
    _count(
        found,
        "reversed.still",
        int(still["reversed"].sum()),
        "of the reversed cells, those in which the state is still read",
        "causal-reversal",
    )
    _count(
        found,
        "inert.still",
        len(still),
        "of the inert cells, those in which the state is still read after INLP",
        "causal-reversal",
    )
    _count(found, "inert", len(turned), "cells that looked inert by one direction", "causal-reversal", True)
    label = "of these, cells that INLP shows to carry the task"
    _count(found, "reversed", int(turned["reversed"].sum()), label, "causal-reversal", True)
    like = int(((turned["fall_inlp"] >= HALF) & ~turned["reversed"]).sum())
    label = "cells in which INLP costs half of the way or more, and some random subspace of its rank as much"
    _count(found, "reversed.not", like, label, "causal-reversal")
    rank = float(turned["rank_inlp"].mean()) if len(turned) else None
    found.add(
        "inlp.rank",
        rank,
        f"{rank:.0f}" if rank is not None else "",
        "directions that INLP takes out, on the mean",
        "causal-reversal",
    )


def _of_ablations(found: Numbers, tables: Tables) -> None:
    """v1's test by task, architecture, reading of "direction" and length; a length is in the key where it is beyond."""
    table = ablations(tables)
    lengths = sorted(table["times"].unique()) or [1.0]
    rows = {(r["architecture"], r["task"], r["method"], r["times"]): r for r in _records(table)}
    for architecture, name in NAMES.items():
        for task in TASKS:
            for method, what in DIRECTIONS.items():
                for times in lengths:
                    row = rows.get((architecture, task, method, times))
                    text = _percent(Interval(row["fall"], row["low"], row["high"], row["n"])) if row else ""
                    key = f"{architecture}.{task}.{method}".replace(" ", "-") + ("" if times == 1.0 else f".{times:g}x")
                    where = f"in {name} on {task_name(task)}, {times:g}x the training length"
                    label = f"task lost when {what} is out at the best-readable site, {where}"
                    if times == 1.0:
                        share, of = row["share"] if row else None, f"share of variance that {what} takes there, {where}"
                        found.add(f"{key}.share", share, f"{share:.1%}" if row else "", of, "causal-reversal")
                    headline = method == ABLATION[1] and times == 1.0
                    lacking = "not tested" if row else NOT_RUN
                    found.add(key, row["fall"] if row else None, text, label, "causal-reversal", headline, lacking)


def _of_outcomes(found: Numbers, tables: Tables) -> None:
    """How many cells come out how, and how exact the exact erasers were."""
    for (positions, method), part in counts(tables).groupby(["positions", "method"], sort=False):
        for outcome in OUTCOMES:
            count = int(part.loc[part["outcome"] == outcome, "cells"].sum())
            key = f"{positions}.{method}.{outcome}".replace(" ", "-")
            label = f"cells that come out {outcome} by {method}, {POSITIONS[str(positions)]}"
            found.add(key, count, f"{count} of {int(part['all'].iloc[0])}", label, "causal-outcomes")
    _by_exact_erasers(found, cells(tables))
    exact = exactness(tables)
    for column, what in (("over", "pooled"), ("own_over", "single positions'")):
        worst = float(exact[column].max()) if len(exact) else None
        label = f"points that {what} refits after an exact eraser are over the majority class, at most"
        text = f"{100 * worst:.1f}" if worst is not None else ""
        found.add(f"exact.{column}", worst, text, label, "causal-outcomes")
        within = int((exact[column] <= 0.02).sum())
        label = f"cells in which {what} refits are within 2 points"
        found.add(f"exact.{column}.within", within, f"{within} of {len(exact)}", label, "causal-outcomes")
    table = cells(tables)
    alone = (table["outcome"] == "inconclusive") & (table["fall"] >= HALF) & (table["control_fall"] >= table["fall"])
    alone &= table[["random_most", "matched_most"]].max(axis=1) < table["fall"]
    label = "cells that are not called necessary because of the irrelevant variable's control alone"
    _count(found, "control.alone", int(alone.sum()), label, "causal-outcomes")
    exact = _of(table, *EXACT)
    elsewhere = exact[(exact["architecture"] != "transformer") | (exact["task"] != "parity")]
    needed = int((elsewhere["outcome"] == "necessary").sum())
    label = "cells in which the state is necessary by LEACE at each position, but for the Transformer on Parity"
    found.add("each.LEACE.elsewhere", needed, f"{needed} of {len(elsewhere)}", label, "causal-outcomes")
    of_these = exact[exact["outcome"] == "necessary"]
    _count(
        found,
        "each.LEACE.unmatched",
        int((of_these["matched_share"] < 0.9 * of_these["variance_removed"]).sum()),
        "of its necessary cells, those whose variance-matched control took over a tenth less",
        "causal-outcomes",
    )
    for key, which, label in (
        ("resampled", of_these["resample_fall"] >= HALF, "of its necessary cells, those in which another string's part in place of the mean costs half of the way too"),
        ("somewhere", of_these["positions_read"] > 0, "of its necessary cells, those in which a probe of some single position still reads the state"),
    ):  # fmt: skip
        found.add(
            f"each.LEACE.{key}", int(which.sum()), f"{int(which.sum())} of {len(of_these)}", label, "causal-outcomes"
        )
    weak = (table["outcome"] == "necessary") & (table["matched_share"] < 0.9 * table["variance_removed"])
    label = "necessary cells whose variance-matched control took over a tenth less than the eraser"
    needed = int((table["outcome"] == "necessary").sum())
    found.add("unmatched", int(weak.sum()), f"{int(weak.sum())} of {needed}", label, "causal-outcomes")
    needed_cells = table[table["outcome"] == "necessary"]
    median = float((needed_cells["matched_share"] / needed_cells["variance_removed"]).median()) if needed else math.nan
    label = "variance that the matched control takes, in the median of necessary cells, as a share of the eraser's"
    found.add("matched.median", median, f"{median:.0%}", label, "causal-outcomes")
    left = table.dropna(subset=["mlp"])
    value = float(_share(left["mlp"], left["majority"]).mean()) if len(left) else None
    label = "readability by an MLP after LEACE at each position, mean over cells"
    found.add("mlp", value, f"{value:.2f}" if value is not None else "", label, "causal-outcomes")


def _by_exact_erasers(found: Numbers, table: pd.DataFrame) -> None:
    """Of each architecture and task: cells in which the state is necessary by an exact eraser at each position, and its fall."""
    for method in ("LEACE", "mean projection"):
        part = _of(table, "each", method)
        for architecture, name in NAMES.items():
            for task in TASKS:
                mine = part[(part["architecture"] == architecture) & (part["task"] == task)]
                where, key = f"in {name} on {task_name(task)}", f"{architecture}.{task}.each.{method}".replace(" ", "-")
                needed = int((mine["outcome"] == "necessary").sum())
                label = f"cells in which the state is necessary by {method} at each position, {where}"
                found.add(
                    f"{key}.necessary",
                    needed if len(mine) else None,
                    f"{needed} of {len(mine)}",
                    label,
                    "causal-outcomes",
                )
                fall = mean_interval(mine.groupby("seed")["fall"].mean().dropna().to_numpy())
                label = f"task lost by {method} at each position, mean over the sites before the last, {where}"
                found.add(f"{key}.fall", fall.estimate, _percent(fall), label, "causal-outcomes")


def transfers(tables: Tables) -> pd.DataFrame:
    """Recovery at the read position over seeds: a row per task, architecture, site and intervention."""
    if "patching" not in tables:
        return pd.DataFrame(columns=["task", "architecture", "site", "intervention", "recovery", "low", "high", "n", "follows"])  # fmt: skip
    table, rows = tables["patching"], []
    table = table[(table["at"] == "read") & table["passed"]]
    for keys, part in table.groupby(["task", "architecture", "site", "intervention"], sort=False):
        interval = profiles.mean_interval(part["recovery"].dropna().to_numpy())
        row = dict(zip(("task", "architecture", "site", "intervention"), keys, strict=True))
        row |= {"recovery": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}
        rows.append({**row, "follows": float(part["follows"].mean())})
    return pd.DataFrame(rows, columns=["task", "architecture", "site", "intervention", "recovery", "low", "high", "n", "follows"])  # fmt: skip
