"""A layerwise profile as numbers, and the statistics over training seeds. No torch here: tables in, numbers out."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

MIN_RISE = 0.1  # total rise of readability under which the shares of a profile are not defined
INDICES = {
    "concentration": "largest single-site share of the rise",
    "spread": "entropy of the shares, over log L",
    "centre": "centre of mass of the rise, 0 first to 1 last block",
    "mean": "mean readability over sites",
}


def rise_shares(readability: np.ndarray) -> np.ndarray | None:
    """p_l = r_l / sum r for l = 1..L, with r_l = max(0, A'_l - A'_{l-1}), from A' at sites 0..L.

    None where the total rise is under `MIN_RISE`: there is no profile to speak of. Raises ValueError for fewer than
    two sites or values that are not finite.
    """
    readability = np.asarray(readability, dtype=float)
    if readability.ndim != 1 or len(readability) < 2 or not np.isfinite(readability).all():
        raise ValueError(f"readability={readability}: must be finite values at two sites or more")
    rise = np.maximum(0.0, np.diff(readability))
    return rise / rise.sum() if rise.sum() >= MIN_RISE else None


def indices(readability: np.ndarray) -> dict[str, float]:
    """The four profile indices; the first three are not a number where `rise_shares` is not defined.

    The centre of mass is scaled so that a rise at block 1 alone is 0 and at block L alone is 1. Where L = 1 the spread
    and the centre are 0.
    """
    shares = rise_shares(readability)
    values = dict.fromkeys(INDICES, math.nan)
    values["mean"] = float(np.mean(readability))
    if shares is not None:
        n = len(shares)
        values["concentration"] = float(shares.max())
        positive = shares[shares > 0]
        values["spread"] = float(-(positive * np.log(positive)).sum() / math.log(n)) if n > 1 else 0.0
        values["centre"] = float((np.arange(n) * shares).sum() / (n - 1)) if n > 1 else 0.0
    return values


def with_readability(table: pd.DataFrame) -> pd.DataFrame:
    """Add A' = (accuracy - majority) / (1 - majority): `readability`, and `own_readability` where there is such a probe."""

    def share(accuracy: pd.Series, majority: pd.Series) -> pd.Series:
        return (accuracy - majority) / (1 - majority).where(majority < 1)

    found = {"readability": share(table["accuracy"], table["majority"])}
    if "own_accuracy" in table:
        found["own_readability"] = share(table["own_accuracy"], table["own_majority"])
    return table.assign(**found)


UNTRAINED = "untrained network"  # stands beside the readings as a control


def index_table(readability: pd.DataFrame, penalties: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """The four indices of every profile, for each reading of it, from three tables of the same names.

    Readings: `pooled` over all positions; `beyond window`, the same probe tested at those past the last site's window;
    `own probe`, one at each position; `common start`, where site 0 is given the exact Bayes accuracy from the token and
    its position, whatever the embedding holds; and each strength of the penalty, in place of the chosen one. Besides,
    the untrained network's, pooled. `largest_site` is the site with the largest rise (0 where none is defined).
    """
    rows = []
    for where, values in _each_profile(readability, penalties, baselines):
        defined = np.isfinite(values).all()  # not where one class is all there is
        shares = rise_shares(values) if defined else None
        found = indices(values) if defined else dict.fromkeys(INDICES, math.nan)
        where |= {"largest_site": 0 if shares is None else int(shares.argmax()) + 1, "last_site": len(values) - 1}
        rows += [{**where, "index": index, "value": value} for index, value in found.items()]
    return pd.DataFrame(rows)


def share_table(readability: pd.DataFrame, penalties: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """The rise shares of every profile, for each reading of it (see `index_table`): a row per block 1..L.

    Not a number at every block where the rise is too small, or one class is all there is.
    """
    rows = []
    for where, values in _each_profile(readability, penalties, baselines):
        shares = rise_shares(values) if np.isfinite(values).all() else None
        shares = np.full(len(values) - 1, math.nan) if shares is None else shares
        rows += [{**where, "block": block, "share": share} for block, share in enumerate(shares, start=1)]
    return pd.DataFrame(rows)


def _each_profile(
    readability: pd.DataFrame, penalties: pd.DataFrame, baselines: pd.DataFrame
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """What a profile is of and by which reading, and its readability at sites 0..L."""
    table = with_readability(readability.query("labels == 'task' and position <= 0"))
    fixed = with_readability(penalties)
    untrained, table = table[table["network"] == "untrained"], table[table["network"] == "trained"]
    by = ["task", "variable", "architecture", "seed", "passed"]
    pooled = table[table["position"] == 0]
    readings = {
        "pooled": pooled,
        "beyond window": table[table["position"] == -1],
        "own probe": pooled.assign(readability=pooled["own_readability"]).dropna(subset=["own_accuracy"]),
        "common start": _common_start(pooled, baselines),
        **{f"λ = {1 / c:g}": fixed[fixed["penalty"] == c] for c in sorted(map(float, fixed["penalty"].unique()))},
        UNTRAINED: untrained[untrained["position"] == 0],
    }
    for reading, part in readings.items():
        for keys, cell in part.groupby(by, sort=False):
            values = cell.sort_values("site")["readability"].to_numpy()
            if len(values) > 1:
                yield {**dict(zip(by, keys, strict=True)), "reading": reading}, values


def _common_start(pooled: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Profiles whose site 0 reads what the token and its position say, for every architecture alike."""
    start = baselines.query("site == 0 and position == 0").set_index(["task", "variable"])["bayes_window"]
    bayes = pd.Series([start.get(key, np.nan) for key in zip(pooled["task"], pooled["variable"], strict=True)])
    at_zero = (pooled["site"] == 0).to_numpy()
    return with_readability(pooled.assign(accuracy=np.where(at_zero, bayes, pooled["accuracy"])))


@dataclass(frozen=True)
class Interval:
    """An estimate with its t interval over n seeds; the ends are not a number below two seeds."""

    estimate: float
    low: float
    high: float
    n: int

    def excludes_zero(self, sign: int) -> bool:
        """Is the whole interval over 0 (sign +1) or under 0 (sign -1)? Never where there is no interval."""
        return bool(self.low > 0) if sign > 0 else bool(self.high < 0)


def mean_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over seeds (a bootstrap over so few is far too narrow)."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else math.nan, math.nan, math.nan, n)
    half = stats.t.ppf(0.5 + level / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half), n)


def difference_interval(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Interval:
    """Welch's t interval of mean(a) - mean(b), for two independent groups of seeds; n is the smaller group."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    n = min(len(a), len(b))
    estimate = float(a.mean() - b.mean()) if n else math.nan
    if n < 2:
        return Interval(estimate, math.nan, math.nan, n)
    part_a, part_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = math.sqrt(part_a + part_b)
    if error == 0:
        return Interval(estimate, estimate, estimate, n)
    freedom = (part_a + part_b) ** 2 / (part_a**2 / (len(a) - 1) + part_b**2 / (len(b) - 1))
    half = stats.t.ppf(0.5 + level / 2, freedom) * error
    return Interval(estimate, estimate - half, estimate + half, n)


def permutation_p(a: np.ndarray, b: np.ndarray, sign: int) -> float:
    """Exact permutation p of "mean(a) - mean(b) has this sign" over all ways to deal the values to the two groups.

    One-sided where sign is +1 or -1, two-sided where it is 0. The smallest p is 1/252 at five seeds against five (2/252
    two-sided) and 1/20 at three against three. Not a number where a group is empty or holds a value that is none.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not len(a) or not len(b) or np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    pool = np.concatenate([a, b])
    total = pool.sum()

    def difference(first: float) -> float:
        return first / len(a) - (total - first) / len(b)

    seen = difference(a.sum())
    score = abs if sign == 0 else (lambda d: sign * d)
    deals = [difference(pool[list(chosen)].sum()) for chosen in itertools.combinations(range(len(pool)), len(a))]
    slack = 1e-12 * max(1.0, float(np.abs(pool).max()))  # equal deals must count as equal
    return float(np.mean([score(d) >= score(seen) - slack for d in deals]))


def sign_flip_p(values: np.ndarray) -> float:
    """Exact one-sided p of "the mean over seeds is over 0", over all ways to turn the signs of paired differences.

    The smallest p is 1/2^n: 1/32 at five seeds, so that a family of two tests cannot reach .05. Not a number for no value.
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or np.isnan(values).any():
        return math.nan
    turned = np.array(list(itertools.product((1.0, -1.0), repeat=len(values)))) @ values
    return float(np.mean(turned >= values.sum() - 1e-12 * max(1.0, float(np.abs(values).sum()))))


# ---- distances between tasks ----------------------------------------------------------------------------------------


def wasserstein(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distances, in blocks of depth, between rise shares p (n, L) and q (m, L): (n, m).

    On a line it is the area between the cumulative shares (Vallender 1974): 0 for equal profiles, L - 1 between a rise
    at the first block alone and one at the last.
    """
    p, q = np.atleast_2d(p), np.atleast_2d(q)
    gap = p.cumsum(1)[:, None, :-1] - q.cumsum(1)[None, :, :-1]
    return np.abs(gap).sum(-1)


def mean_gap(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Mean absolute differences between vectors p (n, L) and q (m, L), entry by entry: (n, m)."""
    return np.abs(np.atleast_2d(p)[:, None] - np.atleast_2d(q)[None]).mean(-1)


Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Nearer:
    """Is the subject nearer to one group than to another?"""

    to_near: Interval  # distance to the group that it should be nearer to, over matched seeds
    to_far: Interval
    difference: Interval  # to_far - to_near, over matched seeds
    p: float  # exact, one-sided
    least_p: float  # that any data could come to
    spread: float  # part of the difference that is there because seeds of one group differ more than those of the other
    bound: float  # distance of the two groups, over the same seeds: no difference can be larger (triangle inequality)


def nearer(subject: np.ndarray, near: np.ndarray, far: np.ndarray, distance: Distance = wasserstein) -> Nearer:
    """Distances of `subject` (n, L) to `near` and `far`, rows by seed; rows that are not numbers are seeds left out.

    The intervals are over seeds: seed s of the subject against seed s of each group, so that each seed gives one
    independent difference. p is from the exact permutation that deals the models of both groups anew, all pairs of
    models taken: how often would a group dealt at random be nearer by as much? Its null is that both groups' profiles
    are alike. A distance between two models holds the differences between seeds too: `spread` is half the mean distance
    between two seeds of `far`, less that of `near`. The difference is at its `bound` wherever the subject lies beyond
    `near`, as seen from `far`: how far beyond, it cannot say.
    """
    n = min(map(len, (subject, near, far)))
    matched = [np.diag(distance(subject[:n], group[:n])) for group in (near, far)]
    kept = np.isfinite(matched[0]) & np.isfinite(matched[1])
    to_near, to_far = (values[kept] for values in matched)
    bound = float(np.diag(distance(near[:n], far[:n]))[kept].mean()) if kept.any() else math.nan
    subject, near, far = (group[np.isfinite(group).all(1)] for group in (subject, near, far))
    p = least = math.nan
    if min(map(len, (subject, near, far))):
        least = 1 / math.comb(len(near) + len(far), len(near))
        to_each = distance(subject, np.concatenate([far, near])).mean(0)
        p = permutation_p(to_each[: len(far)], to_each[len(far) :], 1)
    spread = (between_seeds(far, distance) - between_seeds(near, distance)) / 2
    return Nearer(
        mean_interval(to_near), mean_interval(to_far), mean_interval(to_far - to_near), p, least, float(spread), bound
    )


def between_seeds(group: np.ndarray, distance: Distance = wasserstein) -> float:
    """Mean distance between two of the profiles (n, L); not a number where there are fewer than two."""
    n = len(group)
    return float(distance(group, group).sum() / (n * (n - 1))) if n > 1 else math.nan


@dataclass(frozen=True)
class Apart:
    """How far apart are two groups of profiles, and is that more than seeds of one group are apart?"""

    distance: Interval  # over matched seeds
    floor: float  # mean distance between two seeds of one group
    p: float  # exact, of the energy statistic
    least_p: float  # that any data could come to


def apart(a: np.ndarray, b: np.ndarray, paired: bool = False, distance: Distance = wasserstein) -> Apart:
    """The distance between groups a (n, L) and b (m, L), rows by seed; rows that are not numbers are seeds left out.

    p is exact, of the energy statistic 2 d(a, b) - d(a, a) - d(b, b) (Szekely and Rizzo 2013), over all ways to deal
    the models to the two groups; with `paired`, two profiles of the same model, over all ways to swap them.
    """
    n = min(len(a), len(b))
    matched = np.diag(distance(a[:n], b[:n]))
    interval = mean_interval(matched[np.isfinite(matched)])
    fine = [np.isfinite(group).all(1) for group in (a, b)]
    if paired:
        fine = [fine[0] & fine[1]] * 2
    a, b = a[fine[0]], b[fine[1]]
    if min(len(a), len(b)) < 2:
        return Apart(interval, math.nan, math.nan, math.nan)
    between = distance(np.concatenate([a, b]), np.concatenate([a, b]))
    floor = (between_seeds(a, distance) + between_seeds(b, distance)) / 2
    if paired:
        swaps = np.array(list(itertools.product((False, True), repeat=len(a))))
        deals = np.concatenate([~swaps, swaps], axis=1)  # the first is the given one
    else:
        chosen = list(itertools.combinations(range(len(between)), len(a)))
        deals = np.zeros((len(chosen), len(between)), dtype=bool)
        np.put_along_axis(deals, np.array(chosen), True, axis=1)
    one = deals.astype(float)  # (deals, models): 1 in the first group
    in_one = ((one @ between) * one).sum(1)
    across = one @ between.sum(1) - in_one
    in_other = between.sum() - in_one - 2 * across
    energy = 2 * across / (len(a) * len(b)) - in_one / len(a) ** 2 - in_other / len(b) ** 2
    alike = 2 if paired or len(a) == len(b) else 1  # the statistic is the same with the groups' names exchanged
    return Apart(interval, floor, float(np.mean(energy >= energy[0] - 1e-9)), alike / len(deals))


def depends_on_group(distances: np.ndarray, group: np.ndarray, deals: int = 9999) -> tuple[float, float]:
    """Do profiles differ between groups of models by more than within them? (excess distance, permutation p).

    `distances` (V, N, N): between N models, for each of V variables read in all of them. The excess is the mean distance
    between groups less that within them, over all variables; p is over random deals of the labels `group` (N,) to the
    models, the given one counted. Raises ValueError where a distance is not finite: left out, it would bias the excess
    wherever a variable is defined in models of some groups more often than of others.
    """
    distances, group = np.asarray(distances, dtype=float), np.asarray(group)
    if not np.isfinite(distances).all():
        raise ValueError("distances: must be finite; leave out variables that are not defined in every model")
    pairs = np.triu_indices(len(group), 1)
    mean = distances.mean(0)[pairs]

    def excess(labels: np.ndarray) -> float:
        same = labels[pairs[0]] == labels[pairs[1]]
        if same.all() or not same.any():
            return math.nan
        return float(mean[~same].mean() - mean[same].mean())

    seen = excess(group)
    if math.isnan(seen):
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    reached = sum(excess(rng.permutation(group)) >= seen - 1e-12 for _ in range(deals))
    return seen, (1 + reached) / (1 + deals)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) correction of a family of p-values; a value that is not a number stays so, and still counts."""
    p = np.asarray(p, dtype=float)
    corrected = np.full(len(p), math.nan)
    running = 0.0
    for rank, i in enumerate(np.argsort(p)):  # not-a-numbers sort last
        if not math.isnan(p[i]):
            running = max(running, min(1.0, (len(p) - rank) * p[i]))
            corrected[i] = running
    return corrected
