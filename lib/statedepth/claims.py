"""The claims and studies as one registry: criteria, dated predictions and numbers of each, and the numbers of the speed pages.

Criteria are written in the module of their claim and committed before the run that they judge.
"""

import re
from collections.abc import Callable

import pandas as pd

from statedepth import bottleneck, causal, grouping, sensitivity
from statedepth.bottleneck import PREDICTIONS as OF_BOTTLENECK
from statedepth.causal import PREDICTIONS as OF_CAUSAL
from statedepth.flip import PREDICTIONS as OF_FLIP
from statedepth.flip import PUBLISHED_PROFILES, beside_published, concentration_by_seed, contrasts, outcomes_by_reading
from statedepth.flip import numbers as numbers_of_flip
from statedepth.flip import verdict as flip
from statedepth.grouping import PREDICTIONS as OF_GROUPING
from statedepth.verdicts import (
    CLAIMS,
    NAMES,
    NOT_RUN,
    STUDIES,
    THRESHOLD,
    Number,
    Prediction,
    Tables,
    Verdict,
    interval_text,
    task_name,
    two_figures,
)

# What notebooks reach through this module:
__all__ = ["CLAIMS", "CRITERIA", "NAMES", "NOT_RUN", "NUMBERS", "PREDICTIONS", "PUBLISHED_PROFILES", "STUDIES", "THRESHOLD", "Number", "Tables", "beside_published", "concentration_by_seed", "contrasts", "flip", "grouping", "interval_text", "numbers", "outcomes_by_reading", "outcomes_of_predictions", "same_digits", "sensitivity", "sources", "task_name"]  # fmt: skip
CRITERIA: dict[str, Callable[[Tables], Verdict]] = {
    "flip": flip,
    "s3_grouping": grouping.verdict,
    "causal_necessity": causal.verdict,
    "pretrained_bottleneck": bottleneck.verdict,
    "flip_sensitivity": sensitivity.verdict,
}
PREDICTIONS: dict[str, tuple[Prediction, ...]] = {
    "flip": OF_FLIP,
    "s3_grouping": OF_GROUPING,
    "causal_necessity": OF_CAUSAL,
    "pretrained_bottleneck": OF_BOTTLENECK,
    "flip_sensitivity": sensitivity.PREDICTIONS,
}
COMMITTED = {"flip": "e5a8ee4", "s3_grouping": "7898530", "causal_necessity": "8284d8a", "pretrained_bottleneck": "8b9d2e0", "flip_sensitivity": "6a5ebe1"}  # fmt: skip


def numbers_of_speed(tables: Tables) -> dict[str, Number]:
    """Times of the speed benchmark: `SIZE.PATH`, in multiples of our path's step, and how time grows with length.

    Our path is that of the same architecture for Mamba and Mamba-2, and our Mamba for all others.

    SIZE is batch x length x width x state, as in 64x32x32x8; PATH is the name of the path in lower case with dashes.
    """
    found: dict[str, Number] = {}
    for row in tables["steps"].to_dict("records"):
        size = "x".join(str(row[part]) for part in ("batch", "length", "width", "state"))
        key = f"{size}.{re.sub('[^a-z0-9]+', '-', str(row['path']).lower())}"
        label = f"{row['path']} at {size} (batch, length, width, state)"
        times, seconds = float(row["times_ours"]), float(row["seconds"])
        found[key] = Number(two_figures(times) + "×", times, f"{label}: times as long as our path", "speed-steps")
        text, milliseconds = f"{two_figures(1000 * seconds)} ms", 1000 * seconds
        found[f"{key}.ms"] = Number(text, milliseconds, f"{label}: one training step", "speed-steps")
    by_length = tables["scaling"].sort_values("length")
    for column, what in (("seconds", "time"), ("kept_bytes", "memory")):
        growth = by_length[column] / by_length[column].shift() / (by_length["length"] / by_length["length"].shift())
        label = f"largest growth of {what} per doubling of the length, over 2"
        found[f"growth.{what}"] = Number(f"{growth.max():.2f}", growth.max(), label, "speed-scaling")
    return found


def numbers_of_seed(tables: Tables) -> dict[str, Number]:
    """Of the training of one seed: minutes of all, each architecture's share of them, models, and which failed."""
    table = tables["seed"]
    spent = table["ended"] - table["started"]
    failed = table[table["accuracy"] < THRESHOLD]
    names = [
        f"{NAMES[a]} on {task_name(t)} ({x:.1%})" for a, t, x in failed[["architecture", "task", "accuracy"]].to_numpy()
    ]
    where, cores = "speed-seed", int(table["cores"].max())
    found = {
        "minutes": Number(f"{table['ended'].max():.1f}", table["ended"].max(), "minutes for one seed", where),
        "cores": Number(str(cores), cores, "processes at once", where),
        "models": Number(str(len(table)), len(table), "models of one seed", where),
        "failed": Number(", ".join(names) or "none", len(failed), f"models of one seed under {THRESHOLD:.0%}", where),
    }
    for family, minutes in spent.groupby(table["architecture"]).sum().items():
        share, name = minutes / spent.sum(), NAMES[str(family)]
        found[f"{family}.share"] = Number(f"{share:.0%}", share, f"share of {name} in the time of one seed", where)
    return found


def numbers_of_passes(tables: Tables) -> dict[str, Number]:
    """How many times as long each part of the necessity test takes cell by cell: `PART.TASK.ARCHITECTURE`."""
    return {
        f"{row['part']}.{row['task']}.{row['architecture']}": Number(
            two_figures(float(row["ratio"])) + "×",
            float(row["ratio"]),
            f"{row['part']} in {NAMES[str(row['architecture'])]} on {task_name(str(row['task']))}: times as long cell by cell",
            "speed-necessity",
        )
        for row in tables["passes"].to_dict("records")
    }


def numbers_of_differences(tables: Tables) -> dict[str, Number]:
    """Of a re-execution at the published settings: numbers compared, outside their tolerance, and the largest difference."""
    table, where = tables["differences"], "reproduce-differences"
    both = table.dropna(subset=["published", "now"])
    used = (both["difference"].abs() / both["tolerance"]).max()
    same = int(same_digits(both).sum())
    outside = int((~table["within"]).sum())
    return {
        "compared": Number(str(len(table)), len(table), "numbers compared with the published run", where),
        "outside": Number(str(outside), outside, "of them, outside their tolerance", where),
        "equal": Number(str(same), same, "of them, the same in five digits", where),
        "most": Number(f"{100 * used:.2g}%", used, "the largest difference, as a share of its tolerance", where),
    }


def same_digits(differences: pd.DataFrame) -> pd.Series:
    """Are both numbers the same in five digits? Tables are written in six."""
    return differences["difference"].abs() <= 1e-5 * differences["published"].abs().clip(lower=1e-5)


NUMBERS: dict[str, Callable[[Tables], dict[str, Number]]] = {
    "flip": numbers_of_flip,
    "s3_grouping": grouping.numbers,
    "causal_necessity": causal.numbers,
    "pretrained_bottleneck": bottleneck.numbers,
    "flip_sensitivity": sensitivity.numbers,
    "speed": numbers_of_speed,
    "seed": numbers_of_seed,
    "necessity": numbers_of_passes,
    "differences": numbers_of_differences,
}


def sources() -> tuple[str, ...]:
    """All that a page may quote a number of: folders of book/data."""
    return (*CLAIMS, *STUDIES, "speed", "seed", "necessity", "differences")


def numbers(notebook: str, tables: Tables) -> dict[str, Number]:
    """All numbers of a notebook, from its tables; empty for a notebook that has none yet."""
    return NUMBERS[notebook](tables) if notebook in NUMBERS else {}


def outcomes_of_predictions(notebook: str, verdict: Verdict) -> pd.DataFrame:
    """Each dated prediction beside what came of it: date, commit, prediction, came true (yes, in part, no, undecided).

    A clause that came out wrong is never hidden by another that is undecided.
    """
    holds = {part.key: part.holds for part in verdict.parts}
    rows = []
    for prediction in PREDICTIONS.get(notebook, ()):
        seen = [(holds.get(key), expected) for key, expected in prediction.expected.items()]
        right = [found == expected for found, expected in seen if found is not None]
        void = any(holds.get(key) != needed for key, needed in prediction.given.items())
        if void or not right or (all(right) and len(right) < len(seen)):
            came = "undecided"
        else:
            came = "yes" if all(right) else "in part" if any(right) else "no"
        rows.append(
            {"date": prediction.date, "commit": COMMITTED[notebook], "prediction": prediction.text, "came true": came}
        )
    return pd.DataFrame(rows, columns=["date", "commit", "prediction", "came true"])
