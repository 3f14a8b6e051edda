"""Claim 2: does S3 group with Parity? Its criterion, our dated predictions, and the numbers of its page.

The criterion was committed before the run that it judges. Tables in, verdicts and numbers out; no torch.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from statedepth import profiles
from statedepth.verdicts import (
    LEVEL,
    MIN_SEEDS,
    NAMES,
    NOT_RUN,
    Numbers,
    Part,
    Prediction,
    Tables,
    Verdict,
    interval_text,
    mean_text,
    target_of,
    task_name,
)

CLAIMED, NEAR, FAR = "S3", "parity", "dyck-2-4"  # the claim: the first is nearer to the second than to the third
SUBJECTS = ("S3", "Z6", "Z3", "A4", "dyck-1-4")  # asked of each; the claim is about the first
Profiled = tuple[str, str]  # a task and a variable of it
PAIRS: dict[tuple[Profiled, Profiled], str] = {
    (("S3", "state"), ("Z6", "state")): "commutativity alone: same order, same parity inside",
    (("A4", "state"), ("Z3", "state")): "non-commutative, without a parity inside",
    (("dyck-1-4", "top"), ("dyck-2-4", "top")): "counter against stack",
    (("S3", "sign"), ("S3", "coset")): "the two parts of one state, in the same models",
}
CONV_EDIT = "current token"  # the edit by which the attribution is judged; the other stands beside it
FAR_APART = 0.5  # blocks from which on two tasks are called far apart
SPREAD = "less the spread of seeds"  # beside the readings: the pooled one, without what two seeds of one task differ by

PREDICTIONS = (
    Prediction("2026-11-23", "In Mamba and Mamba-2, S3 is nearer to Parity than to Dyck.", {"mamba.S3": True, "mamba2.S3": True}),
    Prediction("2026-11-23", "In the Transformer too, if it learns S3.", {"transformer.S3": True}),
    Prediction("2026-11-23", "In LSTM and GRU it is not: their first block holds the state of every task, so that no task is far from another.", {"lstm.S3": False, "gru.S3": False, "lstm.far": False, "gru.far": False}),
    Prediction("2026-11-23", "Where S3 groups with Parity in Mamba, the commutative Z6 does too.", {"mamba.Z6": True}, {"mamba.S3": True}),
    Prediction("2026-11-23", "Mamba's convolution is needed for S3 in the same blocks as for Parity, rather than as for Dyck.", {"mamba.conv": True}),
    Prediction("2026-11-23", "In Mamba, S3's sign and its coset are read at the same depth.", {"mamba.S3 sign/S3 coset": False}),
    Prediction("2026-11-23", "In Mamba, training on another target of the same strings moves the depth at which a variable is read.", {"mamba.target": True}),
)  # fmt: skip


# ---- distances --------------------------------------------------------------------------------------------------------


def vectors(
    table: pd.DataFrame, by: list[str], column: str, value: str, seeds: Iterable[int]
) -> dict[tuple, np.ndarray]:
    """For each group `by`, an array (seeds, L) of `value` over `column`; rows that are not numbers where a seed has none.

    Models that did not pass are such seeds.
    """
    seeds, found = list(seeds), {}
    for keys, cell in table.groupby(by, sort=False):
        wide = cell.pivot(index="seed", columns=column, values=value)
        found[keys] = wide.where(cell.groupby("seed")["passed"].first(), axis=0).reindex(seeds).to_numpy(dtype=float)
    return found


def _shares(table: pd.DataFrame) -> dict[tuple, np.ndarray]:
    """(reading, architecture, task, variable) -> (seeds, L)."""
    by = ["reading", "architecture", "task", "variable"]
    return vectors(table, by, "block", "share", sorted(table["seed"].unique()))


def contrasts(tables: Tables) -> pd.DataFrame:
    """Is each subject nearer to Parity than to Dyck? A row per reading of the profiles, architecture and subject.

    `difference` is d(subject, Dyck) - d(subject, Parity), in blocks of depth (`profiles.nearer`); `p_holm` corrects
    over the architectures, for each subject and reading, and `testable` says whether any data could bring it under
    `LEVEL`. Beside the readings stands the pooled one less `spread`: what of the difference is there because the seeds
    of one task differ more than those of the other. It has an interval and no p.
    """
    found, rows = _shares(tables["shares"]), []
    for reading, architecture in dict.fromkeys(key[:2] for key in found):
        for subject in SUBJECTS:
            groups = [found.get((reading, architecture, task, target_of(task))) for task in (subject, NEAR, FAR)]
            if any(group is None for group in groups):
                continue
            where = {"reading": reading, "architecture": architecture, "subject": subject}
            row = where | _of_nearer(profiles.nearer(*groups))  # type: ignore[arg-type]
            rows.append(row)
            if reading == "pooled":
                moved = {column: row[column] - row["spread"] for column in ("difference", "low", "high")}
                rows.append({**row, **moved, "reading": SPREAD, "p": np.nan, "least_p": np.nan})
    return _corrected(
        pd.DataFrame(rows, columns=["reading", "architecture", "subject", *NEARER]), ["reading", "subject"]
    )


NEARER = ("to_near", "to_far", "difference", "low", "high", "n", "p", "least_p", "spread")


def _of_nearer(found: profiles.Nearer) -> dict[str, float]:
    values = (found.to_near.estimate, found.to_far.estimate, found.difference.estimate, found.difference.low)
    rest = (found.difference.high, found.difference.n, found.p, found.least_p, found.spread)
    return dict(zip(NEARER, (*values, *rest), strict=True))


def _corrected(table: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    of_family = table.groupby(family)["p"] if len(table) else None
    table["p_holm"] = [] if of_family is None else of_family.transform(lambda p: profiles.holm(p.to_numpy()))
    table["testable"] = [] if of_family is None else table["least_p"] * of_family.transform("size") < LEVEL
    return table


def conv_contrasts(tables: Tables) -> pd.DataFrame:
    """The same of the convolution's attribution: which blocks need it? A row per edit, architecture and subject.

    A model's attribution is the share of the way down to the majority class that it falls when the convolution of each
    one block is edited; distances are mean absolute differences over blocks.
    """
    rows = []
    if "conv" in tables:
        table = tables["conv"].query("block > 0")
        by = ["edit", "architecture", "task"]
        found = vectors(table, by, "block", "lost", sorted(table["seed"].unique()))
        for edit, architecture in dict.fromkeys(key[:2] for key in found):
            groups = [found.get((edit, architecture, task)) for task in (CLAIMED, NEAR, FAR)]
            if any(group is None for group in groups):
                continue
            near = profiles.nearer(*groups, profiles.mean_gap)  # type: ignore[arg-type, call-arg]
            rows.append({"edit": edit, "architecture": architecture} | _of_nearer(near))
    table = pd.DataFrame(rows, columns=["edit", "architecture", *NEARER])
    return _corrected(table, ["edit", "architecture"])  # the claim's is of Mamba alone: a family of one


def distances(tables: Tables, reading: str = "pooled") -> pd.DataFrame:
    """Every two profiles of an architecture: their distance with its interval, and whether that is more than by chance.

    `floor` is the mean distance between two seeds of one task and `p` the exact p of the energy statistic
    (`profiles.apart`), not corrected. A profile beside itself has its own floor as its distance and no p.
    """
    table = tables["shares"]
    found, rows = _shares(table[table["reading"] == reading]), []
    for architecture in [a for a in NAMES if a in {key[1] for key in found}]:
        mine = {key[2:]: group for key, group in found.items() if key[1] == architecture}
        names = list(mine)
        for i, a in enumerate(names):
            for b in names[i:]:
                if a == b:
                    result = profiles.apart(mine[a], mine[a])
                    interval = profiles.Interval(result.floor, np.nan, np.nan, int(np.isfinite(mine[a]).all(1).sum()))
                else:
                    result = profiles.apart(mine[a], mine[b], paired=a[0] == b[0])
                    interval = result.distance
                row = {"architecture": architecture, "a": _label(*a), "b": _label(*b), "distance": interval.estimate}
                row |= {"low": interval.low, "high": interval.high, "n": interval.n, "floor": result.floor}
                rows.append(row | {"p": np.nan if a == b else result.p, "least_p": result.least_p})
    columns = ["architecture", "a", "b", "distance", "low", "high", "n", "floor", "p", "least_p"]
    return pd.DataFrame(rows, columns=columns)


def _label(task: str, variable: str) -> str:
    return task if variable == target_of(task) else f"{task} {variable}"


def profile_name(label: str) -> str:
    """A profile as readers see it: the task, and its variable where it is not the one that models are trained on."""
    task, _, variable = label.partition(" ")
    return f"{task_name(task)} {variable}".strip()


def confounds(tables: Tables) -> pd.DataFrame:
    """The pairs that differ in one thing, from the table of distances: `p_holm` over the architectures of a pair."""
    table = distances(tables)
    rows = []
    for pair, meaning in PAIRS.items():
        labels = {_label(*which) for which in pair}
        for row in table.to_dict("records"):
            if {row["a"], row["b"]} == labels:
                rows.append({**row, "pair": "/".join(_label(*which) for which in pair), "meaning": meaning})
    return _corrected(pd.DataFrame(rows, columns=[*table.columns, "pair", "meaning"]), ["pair"])


def target_effect(tables: Tables) -> pd.DataFrame:
    """On one stream of strings: does the target that a model is trained on move the depth at which variables are read?

    Of every variable, the profiles in models of all targets; a row per architecture with the excess of the distance
    between targets over that between seeds (`profiles.depends_on_group`).
    """
    rows = []
    if "targets" in tables:
        table = tables["targets"].query("passed")
        for architecture, part in table.groupby("architecture", sort=False):
            models = part[["task", "seed"]].drop_duplicates().reset_index(drop=True)
            between = []
            for _, cell in part.groupby("variable", sort=False):
                shares = np.full((len(models), cell["site"].max()), np.nan)
                for i, model in enumerate(models.itertuples()):
                    mine = cell[(cell["task"] == model.task) & (cell["seed"] == model.seed)].sort_values("site")
                    found = profiles.rise_shares(profiles.with_readability(mine)["readability"].to_numpy())
                    if found is not None:
                        shares[i] = found
                between.append(profiles.wasserstein(shares, shares))
            excess, p = profiles.depends_on_group(np.array(between), models["task"].to_numpy())
            row = {"architecture": architecture, "excess": excess, "n": len(models), "p": p, "least_p": np.nan}
            rows.append({**row, "all": "all"})
    table = _corrected(pd.DataFrame(rows, columns=["architecture", "excess", "n", "p", "least_p", "all"]), ["all"])
    return table.drop(columns=["all", "least_p", "testable"])


# ---- the criterion ----------------------------------------------------------------------------------------------------


def verdict(tables: Tables) -> Verdict:
    """Claim 2, from the rise shares of the pooled profiles and the convolution's attribution.

    In an architecture S3 *groups with Parity* where d(S3, Dyck) - d(S3, Parity) is over 0: its 95% interval over seeds
    excludes 0, and its exact permutation p, one-sided and Holm-corrected over the architectures, is under .05. Tested
    are the architectures of which at least two seeds passed on each of the three tasks; the others are named.
    *Reproduced*: S3 groups with Parity in all that were tested, and Mamba's attribution with tap 0 alone has the same
    order, over 0. *Partly*: in more than half of them, or in all without the attribution. *Not reproduced*: else. *Not
    tested*: no architecture could be. With fewer than `MIN_SEEDS` seeds in any group the verdict is provisional; where so
    few models passed that no data could bring the corrected p under .05, the interval alone decides.

    The other parts are our own findings: the same question for the other subjects; whether the pairs that differ in one
    thing are apart (exact p of the energy statistic, Holm-corrected over the architectures, under .05; where no data
    could bring it there, the interval of the distance over that between two seeds of one task); whether any two tasks
    are `FAR_APART`; and whether another target moves the depths.
    """
    found = contrasts(tables)
    pooled = found[found["reading"] == "pooled"]
    claimed = pooled[(pooled["subject"] == CLAIMED) & (pooled["n"] >= 2)]
    provisional = bool(len(claimed) == 0 or claimed["n"].min() < MIN_SEEDS)
    tested = [a for a in NAMES if a in set(claimed["architecture"])]
    parts, groups = [], []
    for architecture, name in NAMES.items():
        for subject in SUBJECTS:
            rows = pooled[
                (pooled["architecture"] == architecture) & (pooled["subject"] == subject) & (pooled["n"] >= 2)
            ]
            holds = _over_zero(rows.iloc[0]) if len(rows) else None
            text = f"in {name}, {task_name(subject)} is nearer to {task_name(NEAR)} than to {task_name(FAR)}"
            parts.append(Part(f"{architecture}.{subject}", text, holds))
            if subject == CLAIMED and holds:
                groups.append(architecture)
    conv_parts, conv_holds = [], None
    for row in conv_contrasts(tables).to_dict("records"):
        if row["edit"] != CONV_EDIT or row["n"] < 2:
            continue
        holds = _over_zero(row)
        conv_holds = holds if row["architecture"] == "mamba" else conv_holds
        text = f"the convolution of {NAMES[row['architecture']]} is needed for S₃ as for Parity rather than as for Dyck"
        conv_parts.append(Part(f"{row['architecture']}.conv", text, holds))
    parts += conv_parts
    for row in confounds(tables).to_dict("records"):
        a, b = (profile_name(label) for label in row["pair"].split("/"))
        said, holds = f"in {NAMES[row['architecture']]}, {a} and {b} are apart", None
        if row["testable"]:
            holds = bool(row["p_holm"] < LEVEL)
        elif not np.isnan(row["low"] - row["floor"]):
            holds = bool(row["low"] > row["floor"])
            said += " (too few seeds for its p: by its interval)"
        parts.append(Part(f"{row['architecture']}.{row['pair']}", said, holds))
    for which, cell in distances(tables).groupby("architecture", sort=False):
        pairs = cell[(cell["a"] != cell["b"]) & ~(cell["a"] + cell["b"]).str.contains(" ") & cell["low"].notna()]
        far = bool(((pairs["low"] > pairs["floor"]) & (pairs["distance"] > FAR_APART)).any()) if len(pairs) else None
        parts.append(Part(f"{which}.far", f"in {NAMES[str(which)]}, some two tasks are far apart", far))
    for row in target_effect(tables).to_dict("records"):
        text = f"in {NAMES[row['architecture']]}, the target moves the depth at which variables of the same strings are read"
        moved = None if np.isnan(row["p_holm"]) else bool(row["p_holm"] < LEVEL)
        parts.append(Part(f"{row['architecture']}.target", text, moved))
    if not {CLAIMED, NEAR, FAR} <= set(tables["models"]["task"]):
        reasons = [f"This run does not have all of {', '.join(map(task_name, (CLAIMED, NEAR, FAR)))}."]
        return Verdict("s3_grouping", "formal", "not tested", True, reasons, parts)
    outcome, reasons = _outcome(tested, groups, conv_holds, "conv" in tables)
    lacking = [NAMES[a] for a in NAMES if a in set(tables["models"]["architecture"]) and a not in tested]
    if lacking and tested:
        reasons.append(f"Not tested, for want of two seeds that learned all three tasks: {', '.join(lacking)}.")
    others = [r for r in dict.fromkeys(found["reading"]) if r not in ("pooled", profiles.UNTRAINED)]
    if tested and others:
        reasons.append(_other_readings(found, others, tested, groups))
    deciding = [
        {"label": f"d(S₃, Dyck) - d(S₃, Parity) in {NAMES[row['architecture']]}, blocks", "text": interval_text(row)}
        for _, row in claimed.iterrows()
    ]
    return Verdict("s3_grouping", "formal", outcome, provisional, reasons, parts, deciding)


def _over_zero(row: Any) -> bool:
    """A row of `contrasts` or `conv_contrasts`: by its interval, and by its p unless no data could bring that down."""
    return bool(row["low"] > 0 and (not row["testable"] or row["p_holm"] < LEVEL))


def _outcome(tested: list[str], groups: list[str], conv: bool | None, conv_measured: bool) -> tuple[str, list[str]]:
    if not tested:
        return "not tested", ["In no architecture did two seeds learn each of S₃, Parity and Dyck."]
    names, others = (", ".join(NAMES[a] for a in which) for which in (groups, [a for a in tested if a not in groups]))
    text = f"S₃ groups with Parity in {len(groups)} of {len(tested)} architectures that learned it: {names or 'none'}"
    reasons = [text + (f"; not in {others}." if others else ".")]
    if conv is None:
        why = (
            "could not be judged: too few Mamba models learned the three tasks" if conv_measured else "was not measured"
        )
        reasons.append(f"Mamba's Conv1D attribution {why}.")
    else:
        reasons.append(f"Mamba's Conv1D attribution {'has' if conv else 'does not have'} the same order.")
    if len(groups) == len(tested) and conv:
        outcome = "reproduced"
    elif 2 * len(groups) > len(tested):
        outcome = "partly"
    else:
        outcome = "not reproduced"
    stands = {"reproduced": "does not bear out", "partly": "bears out in part", "not reproduced": "bears out"}[outcome]
    reasons.append(f"This {stands} v2, which withdrew the grouping.")
    return outcome, reasons


def _other_readings(found: pd.DataFrame, readings: list[str], tested: list[str], groups: list[str]) -> str:
    """In how many other readings of the same profiles the same architectures group."""
    same = []
    for reading in readings:
        rows = found[(found["reading"] == reading) & (found["subject"] == CLAIMED) & found["architecture"].isin(tested)]
        if [row["architecture"] for _, row in rows.iterrows() if _over_zero(row)] == [
            a for a in rows["architecture"] if a in groups
        ]:
            same.append(reading)
    differ = [reading for reading in readings if reading not in same]
    text = f"By {len(same)} of {len(readings)} other readings of the same profiles the same architectures group"
    return text + (f"; not by {', '.join(differ)}." if differ else ".")


# ---- numbers that prose may quote ------------------------------------------------------------------------------------


def numbers(tables: Tables) -> Numbers:
    """Every number that the pages quote from claim 2; what this run did not compute reads "not run"."""
    found = Numbers()
    at_length = tables["models"].query("length == trained_length")
    length = int(at_length["trained_length"].iloc[0])
    found.add("length", length, str(length), "training length in tokens", "grouping-models")
    found.add("models", len(at_length), str(len(at_length)), "trained models", "grouping-models")
    failed = at_length[~at_length["passed"]]
    found.add(
        "failed", len(failed), str(len(failed)) if len(failed) else "none", "models that failed", "grouping-models"
    )
    where = [
        f"{NAMES[str(a)]} on {task_name(str(t))} ({len(cell)} of {n}, at best {cell['accuracy'].max():.1%})"
        for (a, t), cell in failed.groupby(["architecture", "task"], sort=False)
        for n in [len(at_length[(at_length["architecture"] == a) & (at_length["task"] == t)])]
    ]
    found.add("failed_where", len(where), "; ".join(where) or "none", "models that failed, by cell", "grouping-models")
    tasks = at_length["task"].nunique()
    found.add("tasks", tasks, str(tasks), "tasks", "grouping-models")
    per_cell = at_length.groupby(["task", "architecture"])["seed"].nunique()
    least = int(per_cell.min())
    found.add("least_seeds", least, str(least), "seeds of a task and an architecture, at least", "grouping-models")
    pooled = contrasts(tables).query("reading == 'pooled'")
    for architecture, name in NAMES.items():
        for task in dict.fromkeys((CLAIMED, NEAR, FAR, *SUBJECTS)):
            mine = at_length[(at_length["architecture"] == architecture) & (at_length["task"] == task)]
            accuracy = profiles.mean_interval(mine["accuracy"].to_numpy())
            text, label = f"{accuracy.estimate:.1%}", f"accuracy of {name} on {task_name(task)}"
            found.add(f"{architecture}.{task}.accuracy", accuracy.estimate, text, label, "grouping-models", True)
        for subject in SUBJECTS:
            row = pooled.query("architecture == @architecture and subject == @subject")
            value = float(row["difference"].iloc[0]) if len(row) else None
            label = f"d({task_name(subject)}, Dyck) - d({task_name(subject)}, Parity) in {name}, blocks"
            text, headline = interval_text(row.iloc[0]) if len(row) else "", subject == CLAIMED
            lacking = "not tested: no seed learned all three tasks" if len(row) else NOT_RUN
            key = f"{architecture}.{subject}.difference"
            found.add(key, value, text, label, "grouping-distances", headline, lacking)
            p = float(row["p_holm"].iloc[0]) if len(row) else None
            label = f"corrected permutation p of {task_name(subject)} in {name}"
            found.add(f"{architecture}.{subject}.p", p, f"{p:.3f}" if len(row) else "", label, "grouping-distances")
    apart = {(row["architecture"], row["pair"]): row for row in confounds(tables).to_dict("records")}
    for architecture, name in NAMES.items():
        for pair in ("/".join(_label(*which) for which in both) for both in PAIRS):
            result: Any = apart.get((architecture, pair), {"distance": None, "low": np.nan, "high": np.nan, "n": 0})
            interval = profiles.Interval(result["distance"] or 0.0, result["low"], result["high"], result["n"])
            label = f"distance of {' and '.join(map(profile_name, pair.split('/')))} in {name}, blocks"
            key = f"{architecture}.{pair.replace(' ', '-')}"
            found.add(key, result["distance"], mean_text(interval), label, "grouping-confounds")
    return found
