"""A layerwise profile as numbers, and the statistics over training seeds. No torch here: tables in, numbers out."""

import itertools
import math
from dataclasses import dataclass

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
    table = with_readability(readability.query("labels == 'task' and position <= 0"))
    fixed = with_readability(penalties)
    untrained, table = table[table["network"] == "untrained"], table[table["network"] == "trained"]
    by = ["task", "variable", "architecture", "seed", "passed"]
    readings = {
        "pooled": table[table["position"] == 0],
        "beyond window": table[table["position"] == -1],
        "own probe": table[table["position"] == 0].assign(readability=table["own_readability"]),
        "common start": _common_start(table[table["position"] == 0], baselines),
        **{f"λ = {1 / c:g}": fixed[fixed["penalty"] == c] for c in sorted(map(float, fixed["penalty"].unique()))},
        UNTRAINED: untrained[untrained["position"] == 0],
    }
    rows = []
    for reading, part in readings.items():
        for keys, cell in part.groupby(by, sort=False):
            values = cell.sort_values("site")["readability"].to_numpy()
            if len(values) < 2:
                continue
            defined = np.isfinite(values).all()  # not where one class is all there is
            shares = rise_shares(values) if defined else None
            found = indices(values) if defined else dict.fromkeys(INDICES, math.nan)
            where = {
                **dict(zip(by, keys, strict=True)),
                "reading": reading,
                "largest_site": 0 if shares is None else int(shares.argmax()) + 1,
                "last_site": len(values) - 1,
            }
            rows += [{**where, "index": index, "value": value} for index, value in found.items()]
    return pd.DataFrame(rows)


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
