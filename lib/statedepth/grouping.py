"""Claim 2: does S3 group with Parity? Its criterion, our dated predictions, and the numbers of its page.

The criterion was committed before the run that it judges. Tables in, verdicts and numbers out; no torch.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from statedepth import profiles
from statedepth.verdicts import (
    JUDGED,
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
    of_the_five,
    target_of,
    task_name,
)

CLAIMED, NEAR, FAR = "S3", "parity", "dyck-2-4"  # the claim: the first is nearer to the second than to the third
SUBJECTS = ("S3", "Z6", "Z3", "A4", "dyck-1-4")  # asked of each; the claim is about the first
Profiled = tuple[str, str]  # a task and a variable of it
PAIRS: dict[tuple[Profiled, Profiled], str] = {
    (("S3", "state"), ("Z6", "state")): "same size, same Parity quotient; one commutes",
    (("A4", "state"), ("Z3", "state")): "non-commutative, without a parity inside",
    (("dyck-1-4", "top"), ("dyck-2-4", "top")): "counter against stack",
    (("S3", "sign"), ("S3", "coset")): "the two parts of one state, in the same models",
}
OF_TASK, OF_SUM = "share of the task lost", "share of all that is lost"  # scales of the convolution's attribution
CONV_EDIT = "current token"  # the edit by which the attribution is judged; the other stands beside it
FAR_APART = 0.5  # blocks from which on two tasks are called far apart
SMALL = 0.1  # blocks under which a difference is said to be small, whatever its interval
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
    columns = ["reading", "architecture", "subject", *NEARER]
    return _corrected(pd.DataFrame(rows, columns=columns), ["reading", "subject"])


NEARER = ("to_near", "to_far", "difference", "low", "high", "n", "p", "least_p", "spread", "bound")


def _of_nearer(found: profiles.Nearer) -> dict[str, float]:
    values = (found.to_near.estimate, found.to_far.estimate, found.difference.estimate, found.difference.low)
    rest = (found.difference.high, found.difference.n, found.p, found.least_p, found.spread, found.bound)
    return dict(zip(NEARER, (*values, *rest), strict=True))


def _corrected(table: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """Holm's correction over each family, and whether any data could have brought a row's corrected p under `LEVEL`."""
    if not len(table):
        return table.assign(p_holm=[], testable=[])

    def corrected(column: str) -> pd.Series:
        return table.groupby(family)[column].transform(lambda p: profiles.holm(p.to_numpy()))

    # in Holm's steps, a row comes to its least where all of its family come to theirs
    return table.assign(p_holm=corrected("p"), testable=corrected("least_p") < LEVEL)


def conv_contrasts(tables: Tables) -> pd.DataFrame:
    """The same of the convolution's attribution: which blocks need it? A row per edit, scale, architecture and subject.

    A model's attribution is the share of the way down to the majority class that it falls when the convolution of each
    one block is edited; distances are mean absolute differences over blocks. By the scale `OF_SUM` each model's falls are
    shares of their sum over blocks, which leaves where the convolution is needed and takes away how much.
    """
    rows = []
    if "conv" in tables:
        table = tables["conv"].query("block > 0")
        by = ["edit", "architecture", "task"]
        found = vectors(table, by, "block", "lost", sorted(table["seed"].unique()))
        for edit, architecture in dict.fromkeys(key[:2] for key in found):
            for subject in SUBJECTS:
                groups = [found.get((edit, architecture, task)) for task in (subject, NEAR, FAR)]
                if any(group is None for group in groups):
                    continue
                where = {"edit": edit, "architecture": architecture, "subject": subject}
                shares = [group / group.sum(1, keepdims=True) for group in groups if group is not None]
                for scale, values in ((OF_TASK, groups), (OF_SUM, shares)):
                    near = profiles.nearer(*values, profiles.mean_gap)  # type: ignore[arg-type, call-arg]
                    rows.append({**where, "scale": scale} | _of_nearer(near))
    family = ["edit", "architecture", "subject", "scale"]
    return _corrected(pd.DataFrame(rows, columns=[*family, *NEARER]), family)  # each by itself: a family of one


def conv_table(tables: Tables) -> pd.DataFrame:
    """`conv_contrasts` of the judged edit as readers see it, a row per architecture and subject."""
    table = conv_contrasts(tables).query("edit == @CONV_EDIT and n > 0")
    rows = []
    for (architecture, subject), part in table.groupby(["architecture", "subject"], sort=False):
        row = {"architecture": NAMES.get(str(architecture), str(architecture)), "task": task_name(str(subject))}
        rows.append(row | {one["scale"]: interval_text(one) for _, one in part.iterrows()})
    return pd.DataFrame(rows)


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


def confounds(table: pd.DataFrame) -> pd.DataFrame:
    """The pairs that differ in few things, from the table of `distances`: `p_holm` over the architectures of a pair."""
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
    between targets over that between seeds (`profiles.depends_on_group`). `undefined` names the variables that stay out,
    since their profile is not defined in every model: models where it is are no fair sample of their target.
    """
    rows = []
    if "targets" in tables:
        table = tables["targets"].query("passed")
        for architecture, part in table.groupby("architecture", sort=False):
            models = part[["task", "seed"]].drop_duplicates().reset_index(drop=True)
            between: dict[str, np.ndarray] = {}
            for variable, cell in part.groupby("variable", sort=False):
                shares = np.full((len(models), cell["site"].max()), np.nan)
                for i, model in enumerate(models.itertuples()):
                    mine = cell[(cell["task"] == model.task) & (cell["seed"] == model.seed)].sort_values("site")
                    found = profiles.rise_shares(profiles.with_readability(mine)["readability"].to_numpy())
                    if found is not None:
                        shares[i] = found
                between[str(variable)] = profiles.wasserstein(shares, shares)
            kept = [distance for distance in between.values() if np.isfinite(distance).all()]
            undefined = [name for name, distance in between.items() if not np.isfinite(distance).all()]
            excess = p = np.nan
            if kept:
                excess, p = profiles.depends_on_group(np.array(kept), models["task"].to_numpy())
            row = {"architecture": architecture, "excess": excess, "n": len(models), "p": p}
            rows.append({**row, "undefined": ", ".join(undefined)})
    table = pd.DataFrame(rows, columns=["architecture", "excess", "n", "p", "undefined"])
    return table.assign(p_holm=profiles.holm(table["p"].to_numpy(dtype=float)))


def with_one_tap(retrained: pd.DataFrame) -> str:
    """In words: which tasks every seed learned with one tap in the convolution, and which none did."""
    passed = retrained.query("taps == 1").groupby(["architecture", "task"], sort=False)["passed"]

    def listed(which: pd.Series) -> str:
        return ", ".join(f"{NAMES[a]} on {task_name(t)}" for a, t in which[which].index) or "none"

    return f"With one tap every seed learned it of {listed(passed.all())}, and no seed of {listed(~passed.any())}"


# ---- the criterion ----------------------------------------------------------------------------------------------------


def verdict(tables: Tables) -> Verdict:
    """Claim 2, from the rise shares of the pooled profiles and the convolution's attribution.

    In an architecture S3 *groups with Parity* where d(S3, Dyck) - d(S3, Parity) is over 0: its 95% interval over seeds
    excludes 0, and its exact permutation p, one-sided and Holm-corrected over the architectures, is under .05. Tested
    are the architectures of which at least two seeds passed on each of the three tasks; the others are named.
    *Reproduced*: S3 groups with Parity in all that were tested, and Mamba's attribution with tap 0 alone has the same
    order, over 0. *Partly*: in more than half of them, or in all without the attribution. *Not reproduced*: else. *Not
    tested*: no architecture could be. With fewer than `MIN_SEEDS` seeds in any group, or without one of the five
    architectures, the verdict is provisional; where so few models passed that no data could bring the corrected p under
    .05, the interval alone decides.

    The other parts are our own findings: the same question for the other subjects; whether the pairs that differ in one
    thing are apart (`_apart`); whether any two tasks are `FAR_APART` (`_far`); and whether another target moves the
    depths.
    """
    tables = of_the_five(tables)
    found, apart = contrasts(tables), distances(tables)
    pooled = found[found["reading"] == "pooled"]
    claimed = pooled[(pooled["subject"] == CLAIMED) & (pooled["n"] >= 2)]
    run = [a for a in JUDGED if a in set(tables["models"]["architecture"])]
    provisional = bool(len(claimed) == 0 or claimed["n"].min() < MIN_SEEDS or len(run) < len(JUDGED))
    tested = [a for a in JUDGED if a in set(claimed["architecture"])]
    parts = _parts(pooled, apart, conv_contrasts(tables), target_effect(tables))
    holds = {part.key: part.holds for part in parts}
    groups = [a for a in tested if holds[f"{a}.{CLAIMED}"]]
    if not {CLAIMED, NEAR, FAR} <= set(tables["models"]["task"]):
        reasons = [f"This run does not have all of {', '.join(map(task_name, (CLAIMED, NEAR, FAR)))}."]
        return Verdict("s3_grouping", "formal", "not tested", True, reasons, parts)
    conv_measured = "conv" in tables and "mamba" in set(tables["conv"]["architecture"])
    outcome, reasons = _outcome(tested, groups, holds.get("mamba.conv"), conv_measured)
    rows = pooled[(pooled["subject"] == CLAIMED) & pooled["architecture"].isin(groups)]
    small = rows[rows["difference"] < SMALL]
    for _, row in small.iterrows():
        size = interval_text(row)
        reasons.insert(
            1, f"In {NAMES[row['architecture']]} the difference counts by the criterion but is small, {size} blocks."
        )
    if len(small):
        large = [a for a in groups if a not in set(small["architecture"])]
        without = _outcome(tested, large, holds.get("mamba.conv"), conv_measured)[0]
        names = " and ".join(NAMES[a] for a in small["architecture"])
        reasons.append(f"Without the small difference in {names} the outcome would be: {without}.")
    reasons += _of_spread(found, groups) + _beyond(rows, apart)
    lacking = [a for a in run if a not in tested]
    if lacking and tested:
        reasons.append(f"Not tested, for want of two seeds that learned all three tasks: {_listed(lacking)}.")
    if len(run) < len(JUDGED):
        reasons.append(f"Not in this run: {_listed([a for a in JUDGED if a not in run])}.")
    others = [r for r in dict.fromkeys(found["reading"]) if r not in ("pooled", profiles.UNTRAINED)]
    if tested and others:
        reasons.append(_other_readings(found, others, tested, groups))
    deciding = [
        {"label": f"d(S₃, Dyck) - d(S₃, Parity) in {NAMES[row['architecture']]}, blocks", "text": interval_text(row)}
        for _, row in claimed.iterrows()
    ]
    return Verdict("s3_grouping", "formal", outcome, provisional, reasons, parts, deciding)


def _parts(pooled: pd.DataFrame, apart: pd.DataFrame, conv: pd.DataFrame, effect: pd.DataFrame) -> list[Part]:
    """Every statement of the criterion and of our own findings, from the tables of this module."""
    parts = []
    enough = {(row["architecture"], row["subject"]): row for row in pooled[pooled["n"] >= 2].to_dict("records")}
    for architecture, name in JUDGED.items():
        for subject in SUBJECTS:
            text = f"in {name}, {task_name(subject)} is nearer to {task_name(NEAR)} than to {task_name(FAR)}"
            row = enough.get((architecture, subject))
            text += _by_interval(row) if row else ""
            parts.append(Part(f"{architecture}.{subject}", text, _over_zero(row) if row else None))
    judged = conv.query("edit == @CONV_EDIT and scale == @OF_TASK and subject == @CLAIMED and n >= 2")
    for row in judged.to_dict("records"):
        text = f"the convolution of {NAMES[row['architecture']]} is needed for S₃ as for Parity rather than as for Dyck"
        parts.append(Part(f"{row['architecture']}.conv", text + _by_interval(row), _over_zero(row)))
    for row in confounds(apart).to_dict("records"):
        a, b = (profile_name(label) for label in row["pair"].split("/"))
        text = f"in {NAMES[row['architecture']]}, {a} and {b} are apart" + _by_interval(row)
        parts.append(Part(f"{row['architecture']}.{row['pair']}", text, _apart(row)))
    parts += [_far(str(which), cell) for which, cell in apart.groupby("architecture", sort=False)]
    for row in effect.to_dict("records"):
        text = f"in {NAMES[row['architecture']]}, the target moves the depth at which variables of the same strings are read"
        text += f" (without {row['undefined']}, undefined in some models)" if row["undefined"] else ""
        moved = None if np.isnan(row["p_holm"]) else bool(row["p_holm"] < LEVEL)
        parts.append(Part(f"{row['architecture']}.target", text, moved))
    return parts


def _over_zero(row: Any) -> bool | None:
    """A row of `contrasts` or `conv_contrasts`: by its interval, and by its p unless no data could bring that down.

    No where the whole interval is under 0; None where it holds 0, or its p does not agree.
    """
    over = row["low"] > 0 and (not row["testable"] or row["p_holm"] < LEVEL)
    return True if over else False if row["high"] <= 0 else None


def _listed(architectures: Iterable[str], none: str = "none") -> str:
    return ", ".join(NAMES[a] for a in architectures) or none


def _by_interval(row: Any) -> str:
    """Says that no data could have brought the p of this row under `LEVEL`, where it has an interval to go by."""
    return "" if row["testable"] or np.isnan(row["low"]) else " (too few seeds for its p: by its interval)"


def _apart(row: Any) -> bool | None:
    """Are the two profiles of a row of `confounds` apart? None where the data cannot tell.

    Yes: the exact p of the energy statistic, Holm-corrected over the architectures, is under `LEVEL`; where no data could
    bring it there, the interval of the distance is over that between two seeds of one task. No: that interval ends less
    than `FAR_APART` over it; of two variables of the same models, which no seeds set apart, under `FAR_APART`. To find
    nothing with few seeds is not to find them alike.
    """
    over = row["p_holm"] < LEVEL if row["testable"] else row["low"] > row["floor"]
    same_models = row["a"].split()[0] == row["b"].split()[0]
    alike = row["high"] < FAR_APART + (0.0 if same_models else row["floor"])
    return True if over else False if alike else None


def _far(architecture: str, table: pd.DataFrame) -> Part:
    """Are any two tasks of these `distances` far apart? None where some seem so and the seeds are too few to be sure.

    Yes: a pair's distance is over `FAR_APART`, and over that between two seeds of one task by an interval that is
    Bonferroni-corrected over all pairs. No: every pair's interval ends under `FAR_APART`.
    """
    text = f"in {NAMES[architecture]}, some two tasks are far apart"
    pairs = table[(table["a"] != table["b"]) & ~(table["a"] + table["b"]).str.contains(" ")].dropna(subset=["low"])
    seem = pairs[pairs["distance"] > FAR_APART].sort_values("distance", ascending=False)
    wider = stats.t.ppf(1 - LEVEL / 2 / max(1, len(pairs)), seem["n"] - 1) / stats.t.ppf(1 - LEVEL / 2, seem["n"] - 1)
    sure = seem[seem["distance"] - wider * (seem["high"] - seem["distance"]) > seem["floor"]]
    if len(sure):
        a, b = (profile_name(label) for label in sure[["a", "b"]].iloc[0])
        return Part(f"{architecture}.far", f"{text}: {a} and {b}, {sure['distance'].iloc[0]:.2f} blocks", True)
    return Part(f"{architecture}.far", text, False if len(pairs) and (pairs["high"] < FAR_APART).all() else None)


def _of_spread(found: pd.DataFrame, groups: list[str]) -> list[str]:
    """Which architectures group only because the seeds of one task differ more than those of the other."""
    less = found[(found["subject"] == CLAIMED) & (found["reading"] == SPREAD) & ~(found["low"] > 0)]
    named = [a for a in groups if a in set(less["architecture"])]
    return [f"Less the spread of seeds, the interval of the difference holds 0 in {_listed(named)}."] if named else []


def _beyond(rows: pd.DataFrame, apart: pd.DataFrame) -> list[str]:
    """What the difference cannot say, of the architectures in `rows` that group: how near S3 itself is to Parity."""
    full = rows.loc[rows["difference"] > 0.99 * rows["bound"], "architecture"].tolist()
    reasons = []
    if full:
        reasons.append(
            f"In {_listed(full)} the difference is as large as d(Parity, Dyck), its bound: S₃ lies on Parity's side of "
            "Dyck, and the difference says no more than that."
        )
    both = apart[apart["a"].isin([CLAIMED, NEAR]) & apart["b"].isin([CLAIMED, NEAR]) & (apart["a"] != apart["b"])]
    other = both[(both["low"] > both["floor"]) & both["architecture"].isin(rows["architecture"])]
    if len(other):
        each = [
            f"{NAMES[row['architecture']]} ({row['distance']:.2f} blocks; {row['floor']:.2f} between seeds)"
            for _, row in other.iterrows()
        ]
        reasons.append(f"It is not where Parity is: their distance is over that between seeds in {', '.join(each)}.")
    return reasons


def _outcome(tested: list[str], groups: list[str], conv: bool | None, conv_measured: bool) -> tuple[str, list[str]]:
    if not tested:
        return "not tested", ["In no architecture of this run did two seeds learn each of S₃, Parity and Dyck."]
    others = _listed([a for a in tested if a not in groups], "")
    text = f"S₃ groups with Parity in {len(groups)} of {len(tested)} architectures that learned it: {_listed(groups)}"
    reasons = [text + (f"; this is not shown in {others}." if others else ".")]
    if conv is None:
        why = (
            "cannot be told: too few Mamba models learned the three tasks, or their interval holds 0"
            if conv_measured
            else "was not measured"
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
    stands = {
        "reproduced": "speaks against",
        "partly": "speaks neither for nor against",
        "not reproduced": "agrees with",
    }
    reasons.append(
        f"This {stands[outcome]} v2, which withdrew the grouping after three designs that we could not read."
    )
    return outcome, reasons


def _other_readings(found: pd.DataFrame, readings: list[str], tested: list[str], groups: list[str]) -> str:
    """In how many other readings of the same profiles the same architectures group; readings that lack one are named."""
    rows = found[(found["subject"] == CLAIMED) & found["architecture"].isin(tested) & (found["n"] >= 2)]
    by_reading = {reading: rows[rows["reading"] == reading] for reading in readings}
    undefined = [reading for reading, mine in by_reading.items() if set(mine["architecture"]) != set(tested)]
    same: list[str] = []
    differ: list[str] = []
    for reading in (reading for reading in readings if reading not in undefined):
        here = {row["architecture"] for _, row in by_reading[reading].iterrows() if _over_zero(row)}
        (same if here == set(groups) else differ).append(reading)
    text = (
        f"By {len(same)} of {len(same) + len(differ)} other readings of the same profiles the same architectures group"
    )
    text += f"; not by {', '.join(differ)}" if differ else ""
    return text + (f"; not defined in all of them by {', '.join(undefined)}." if undefined else ".")


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
    for architecture, name in NAMES.items():
        mine = at_length[at_length["architecture"] == architecture]
        text, most = "", float(mine["steps"].max()) if len(mine) else None
        if len(mine):
            rate, grow_at = mine[["rate", "grow_at"]].iloc[0]
            text = f"rate {rate:g}, longer once {grow_at:.0%} are right; {mine['steps'].median():,.0f} steps in the median, {most:,.0f} at most"
        found.add(f"{architecture}.recipe", most, text, f"training of {name}", "grouping-models")
    wide = profiles.with_readability(tables["readability"].query("labels == 'task' and position == 0"))
    wide = wide[(wide["network"] == "untrained") & (wide["site"] == wide["site"].max())]
    for task in (CLAIMED, NEAR, FAR):
        read = wide[(wide["task"] == task) & (wide["variable"] == target_of(task))]["readability"]
        value = float(read.mean()) if len(read) else None
        label = f"readability of {task_name(task)} at the last site of an untrained network, mean over architectures"
        found.add(f"untrained.{task}", value, f"{value:.2f}" if len(read) else "", label, "grouping-distances")
    tasks = tables["readability"]["task"].nunique()  # models has those of other targets too
    found.add("tasks", tasks, str(tasks), "tasks that are compared", "grouping-models")
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
            to_near = float(row["to_near"].iloc[0]) if len(row) else None
            name_of = f"distance of {task_name(subject)} to {task_name(NEAR)} in {name}, blocks"
            text = f"{to_near:.2f}" if len(row) else ""
            found.add(
                f"{architecture}.{subject}.to-parity", to_near, text, name_of, "grouping-distances", lacking=lacking
            )
            label = f"corrected permutation p of {task_name(subject)} in {name}"
            key, text = f"{architecture}.{subject}.p", f"{p:.3f}" if len(row) else ""
            found.add(key, p, text, label, "grouping-distances", lacking=lacking)
    conv = conv_contrasts(tables).query("edit == @CONV_EDIT and n > 0")
    for architecture, subject in ((a, s) for a in ("mamba", "mamba2") for s in SUBJECTS):
        for scale, suffix in ((OF_TASK, "conv"), (OF_SUM, "conv-shares")):
            row = conv.query("architecture == @architecture and subject == @subject and scale == @scale")
            which = f"{task_name(subject)} in {NAMES[architecture]}, as {scale}"
            label = f"attribution's distance to Dyck less that to Parity, {which}"
            value, text = (float(row["difference"].iloc[0]), interval_text(row.iloc[0])) if len(row) else (None, "")
            found.add(f"{architecture}.{subject}.{suffix}", value, text, label, "grouping-conv")
    apart = {(row["architecture"], row["pair"]): row for row in confounds(distances(tables)).to_dict("records")}
    for architecture, name in NAMES.items():
        for pair in ("/".join(_label(*which) for which in both) for both in PAIRS):
            result: Any = apart.get((architecture, pair), {"distance": None, "low": np.nan, "high": np.nan, "n": 0})
            interval = profiles.Interval(result["distance"] or 0.0, result["low"], result["high"], result["n"])
            label = f"distance of {' and '.join(map(profile_name, pair.split('/')))} in {name}, blocks"
            key = f"{architecture}.{pair.replace(' ', '-')}"
            found.add(key, result["distance"], mean_text(interval), label, "grouping-confounds")
    return found
