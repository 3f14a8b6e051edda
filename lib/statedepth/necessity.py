"""The necessity test for others: `measure` of a model (`statedepth.ablation`), and `check` of a reader's own activations.

`check` answers the first half, for which no model is needed: is a variable readable, and does an edit remove it?
"""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from statedepth import erasers, logistic
from statedepth.ablation import NecessitySettings, measure, outcome
from statedepth.erasers import METHODS, Eraser
from statedepth.removal import WITHIN, Parts, Readings, fit_one, removed

__all__ = ["NecessitySettings", "check", "check_file", "measure", "outcome"]
CHECKED = ("direction", "mean projection", "LEACE")  # the methods of `check` where none is named
_LEAST_ROWS = 40  # rows that a position needs in each of the four samples to be looked at


def check(
    h: Any, labels: Any, sequence: Any, position: Any, methods: Sequence[str] = CHECKED, seed: int = 0
) -> pd.DataFrame:
    """The first half of the test on a reader's own activations: is a variable readable, and is it removed by an edit?

    `h` (n, D) activations, `labels` (n,) the variable's value as a whole number from 0, `sequence` (n,) and `position`
    (n,) whole numbers that say where each comes from. Sequences are dealt to four samples (erasers, refits, validation,
    test), so that none is in two. A row per method and kind of eraser (`positions`: one for all, or one for each):
    readability before, by a pooled probe and by those of single positions, the accuracies of refitted probes with their
    majority classes and bits, `positions_read` (those at which it is still read, by number), rank, share of variance and
    relative norm of the edit, and `outcome`: absent, not removed or removed. Positions with fewer than `_LEAST_ROWS`
    rows in a sample, or with a single class in that of erasers, are left out and counted; where that is all of them,
    pooled probes and erasers of all rows are all there is.

    Raises ValueError, which names the array, for lengths that differ, activations that are not finite, labels that are
    not whole numbers or hold a single class, in a sample or in all, fewer than 50 sequences, an unknown method and a
    seed that is none.
    """
    arrays = _checked_arrays(h, labels, sequence, position)
    if not methods or not set(methods) <= set(METHODS):
        raise ValueError(f"methods={list(methods)}: must name some of {', '.join(METHODS)}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed={seed!r}: must be a whole number from 0")
    rows_of = _dealt(arrays["sequence"], seed)
    if min(len(np.unique(arrays["labels"][rows])) for rows in rows_of[:2]) < 2:
        raise ValueError("labels hold a single class in a sample to fit on: all others are in too few sequences; add some that have them")  # fmt: skip
    n_classes = int(arrays["labels"].max()) + 1
    spread = float(np.sqrt(arrays["h"].var(0).mean()))  # a feature far from 0 that hardly varies must not count
    all_h, all_y = torch.from_numpy(arrays["h"]), torch.from_numpy(arrays["labels"])
    where = torch.from_numpy(arrays["position"])

    def parts_at(chosen: torch.Tensor) -> Parts:
        four = [(all_h[rows & chosen][:, None], all_y[rows & chosen][:, None]) for rows in rows_of]
        return Parts(four[0], four[1], four[2], four[3], n_classes, [0], len(four[0][0]), spread, seed)

    own = {}
    for value in where.unique().tolist():
        at = where == value
        counted = [int((rows & at).sum()) for rows in rows_of]
        if min(counted) >= _LEAST_ROWS and all_y[rows_of[0] & at].unique().numel() > 1:
            own[value] = parts_at(at)
    kept = (
        torch.isin(where, torch.tensor(list(own), dtype=where.dtype))
        if own
        else torch.ones_like(where, dtype=torch.bool)
    )
    left_out = int(where.unique().numel()) - len(own)
    whole = parts_at(kept)
    before, before_own = whole.readings(whole.probed), {p: parts.readings(parts.probed) for p, parts in own.items()}
    found = []
    for scope in ("pooled", "each") if own else ("pooled",):
        for method in methods:
            first: dict[int, Eraser] = {}
            stacked = all_h.clone()
            rank = 0.0
            if scope == "each":
                first = {p: fit_one(method, parts, before_own[p]) for p, parts in own.items()}
                for p, eraser in first.items():
                    stacked[where == p] = eraser(all_h[where == p])
                rank = float(np.mean([one.rank for one in first.values()]))
            edited = _with(whole, stacked, rows_of, kept)
            if scope == "pooled" or _position_tells(all_y, where, rows_of, kept, n_classes):
                again = edited.readings(edited.probed) if scope == "each" and method in erasers.DIRECTIONS else before
                if (
                    scope == "pooled"
                    or method not in erasers.DIRECTIONS
                    or bool((again.pooled.probe.weight != 0).any())
                ):
                    eraser = fit_one(method, edited, again)
                    stacked, rank = eraser(stacked), rank + eraser.rank
                    edited = edited.edited(eraser)
            found.append(
                {"method": method, "positions": scope, "rank": rank}
                | _checked_row(all_h, stacked, rows_of, kept, where, all_y, edited, own, before, before_own, n_classes)
                | {"positions_asked": len(own), "positions_left_out": left_out}
            )
    table = pd.DataFrame(found)
    return table.assign(outcome=[_outcome(row) for row in found])


def _with(parts: Parts, h: torch.Tensor, rows_of: list[torch.Tensor], kept: torch.Tensor) -> Parts:
    """The same samples with other activations, of which `h` (n, D) has all rows."""
    four = (parts.erase, parts.fit, parts.validation, parts.test)
    erase, fit, validation, test = (
        (h[rows & kept][:, None], part[1]) for rows, part in zip(rows_of, four, strict=True)
    )
    return replace(parts, erase=erase, fit=fit, validation=validation, test=test)


def _checked_row(
    h: torch.Tensor,
    edited_h: torch.Tensor,
    rows_of: list[torch.Tensor],
    kept: torch.Tensor,
    where: torch.Tensor,
    labels: torch.Tensor,
    edited: Parts,
    own: dict[int, Parts],
    before: Readings,
    before_own: dict[int, Readings],
    n_classes: int,
) -> dict[str, Any]:
    """What refits read of edited activations, and how large the edit is, on the test sample."""
    test = rows_of[3] & kept
    taken, deviation = h[test] - edited_h[test], h[test] - h[test].mean(0)
    after = edited.readings(edited.fit).pooled
    own_after = {p: _with(parts, edited_h, rows_of, where == p) for p, parts in own.items()}
    read = {p: parts.readings(parts.fit).pooled for p, parts in own_after.items()}

    def mean(name: str, readings: dict[int, logistic.Reading]) -> float:
        return float(np.mean([getattr(one, name)[0] for one in readings.values()])) if readings else math.nan

    still = [str(p) for p, one in read.items() if one.accuracy[0] > one.majority[0] + WITHIN]
    earlier = {p: one.pooled for p, one in before_own.items()}
    return {
        "variance_removed": float(taken.square().sum() / deviation.square().sum()),
        "norm": float((taken.norm(dim=1) / h[test].norm(dim=1).clamp_min(1e-12)).mean()),
        "before": float(before.pooled.accuracy[0]),
        "majority": float(before.pooled.majority[0]),
        "before_own": mean("accuracy", earlier),
        "own_majority": mean("majority", earlier),
        "refit": float(after.accuracy[0]),
        "refit_majority": float(after.majority[0]),
        "refit_bits": float(after.bits[0]),
        "refit_own": mean("accuracy", read),
        "refit_own_majority": mean("majority", read),
        "refit_own_bits": mean("bits", read),
        "positions_read": ", ".join(still),
    }


def _outcome(row: dict[str, Any]) -> str:
    """`removal.removed`; by the pooled probe alone where no position has rows enough for one of its own."""
    if math.isnan(row["before_own"]):
        row = {**row, "before_own": row["before"], "own_majority": row["majority"]}
        row |= {"refit_own": row["refit"], "refit_own_majority": row["refit_majority"]}
    return removed(row)


def _position_tells(
    labels: torch.Tensor, where: torch.Tensor, rows_of: list[torch.Tensor], kept: torch.Tensor, n_classes: int
) -> bool:
    """As `position_tells`, for rows that say where they come from."""
    common = labels[rows_of[0] & kept].bincount(minlength=n_classes).argmax()
    guess = torch.full_like(labels, int(common))
    for value in where[kept].unique():
        guess[where == value] = labels[rows_of[0] & (where == value)].bincount(minlength=n_classes).argmax()
    checked = rows_of[2] & kept
    return bool((labels == guess)[checked].double().mean() > (labels == common)[checked].double().mean() + 0.01)


def _checked_arrays(h: Any, labels: Any, sequence: Any, position: Any) -> dict[str, np.ndarray]:
    arrays = {"h": h, "labels": labels, "sequence": sequence, "position": position}
    arrays = {name: _array(name, value) for name, value in arrays.items()}
    if arrays["h"].ndim != 2 or not arrays["h"].size or not np.issubdtype(arrays["h"].dtype, np.floating):
        raise ValueError(
            f"h is {arrays['h'].dtype} {arrays['h'].shape}: must be floating-point numbers (n, D), n and D over 0"
        )
    n = len(arrays["h"])
    for name in ("labels", "sequence", "position"):
        value = arrays[name]
        if value.shape != (n,):
            raise ValueError(f"{name} is {value.shape}: must be ({n},), one for each row of h")
        if not np.issubdtype(value.dtype, np.integer):
            raise ValueError(f"{name} is {value.dtype}: must be whole numbers; number the values from 0")
        arrays[name] = value.astype(np.int64)
    arrays["h"] = arrays["h"].astype(np.float64)
    if not np.isfinite(arrays["h"]).all():
        bad = int((~np.isfinite(arrays["h"])).any(1).sum())
        raise ValueError(f"h holds values that are not finite in {bad} rows; leave those rows out of all four arrays")
    if arrays["labels"].min() < 0 or arrays["labels"].max() > 1000:
        raise ValueError(f"labels go from {arrays['labels'].min()} to {arrays['labels'].max()}: must be classes numbered from 0, at most 1000")  # fmt: skip
    if len(np.unique(arrays["labels"])) < 2:
        raise ValueError(f"labels hold the class {arrays['labels'][0]} alone: nothing to read or erase; two are needed")
    if len(np.unique(arrays["sequence"])) < 50:
        raise ValueError(f"sequence names {len(np.unique(arrays['sequence']))} sequences: at least 50 are needed, since probes are split by sequence")  # fmt: skip
    arrays["labels"] = np.unique(arrays["labels"], return_inverse=True)[1]  # a probe pays for numbers without rows
    return arrays


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array ({error}); its rows must be of one length") from error


def _dealt(sequence: np.ndarray, seed: int) -> list[torch.Tensor]:
    """Rows of four samples, by sequence: 40% for erasers, 30% for refits, 10% for validation, 20% for the test."""
    names, number = np.unique(sequence, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(names))[number] / len(names)
    return [
        torch.from_numpy((place >= low) & (place < high)) for low, high in ((0, 0.4), (0.4, 0.7), (0.7, 0.8), (0.8, 1))
    ]


ARRAYS = ("h", "labels", "sequence", "position")


def check_file(path: Path, methods: Sequence[str] = CHECKED, seed: int = 0) -> pd.DataFrame:
    """`check` of an `.npz` file with the arrays `h`, `labels`, `sequence` and `position`.

    Raises ValueError, which names the file, where it is not there, is no `.npz`, lacks an array or holds Python objects,
    and as `check` does.
    """
    if not path.is_file():
        raise ValueError(f"{path.name}: no such file")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz, or only a part of one")
        with np.load(path, allow_pickle=False) as stored:
            lacking = [name for name in ARRAYS if name not in stored.files]
            if lacking:
                raise ValueError(f"lacks {', '.join(lacking)}; it has {', '.join(stored.files) or 'nothing'}")
            arrays = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # a damaged file can make zipfile and numpy raise nearly anything, over several lines
        reason = " ".join(str(error).split())
        remedy = "write it by numpy.savez(FILE, h=..., labels=..., sequence=..., position=...)"
        raise ValueError(f"{path.name}: cannot be used ({reason}); {remedy}") from error
    try:
        return check(**arrays, methods=methods, seed=seed)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
