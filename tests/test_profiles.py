"""Profile indices on profiles that can be worked out by hand, and the statistics against scipy and brute force."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from statedepth import profiles
from statedepth.profiles import (
    difference_interval,
    holm,
    index_table,
    indices,
    mean_interval,
    permutation_p,
    rise_shares,
)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- indices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readability", "concentration", "spread", "centre", "mean"),
    [
        ([0, 1, 1, 1, 1], 1, 0, 0, 0.8),  # all at block 1
        ([0, 0, 0, 0, 1], 1, 0, 1, 0.2),  # all at block 4
        ([0, 0.25, 0.5, 0.75, 1], 0.25, 1, 0.5, 0.5),  # even
        ([0, 0.5, 0.5, 1, 1], 0.5, 0.5, 1 / 3, 0.6),  # two blocks: log 2 over log 4; (0 + 2) / 2 / 3
        ([0, 0.5, 0.2, 0.7, 0.7], 0.5, 0.5, 1 / 3, 0.42),  # a fall counts as no rise
        ([0.3, 0.3, 0.3, 0.3, 0.9], 1, 0, 1, 0.42),  # site 0 is where the rise starts from
        ([-0.1, 0.3, 0.7], 0.5, 1, 0.5, 0.3),  # two blocks, below majority at first
        ([0, 1], 1, 0, 0, 0.5),  # one block
        ([1, 0.4, 0.2, 0.6, 0.6], 1, 0, 2 / 3, 0.56),
    ],
)
def test_indices_of_profiles_worked_out_by_hand(readability, concentration, spread, centre, mean):
    expected = {"concentration": concentration, "spread": spread, "centre": centre, "mean": mean}
    assert indices(np.array(readability)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("readability", [[0, 0, 0], [0.9, 0.5, 0.1], [1, 1, 1, 1, 1], [0, 0.05, 0.02, 0.06, 0.0]])
def test_without_a_rise_of_a_tenth_only_the_mean_is_defined(readability):
    values = indices(np.array(readability))
    assert rise_shares(np.array(readability)) is None
    assert values.pop("mean") == pytest.approx(np.mean(readability))
    assert all(math.isnan(value) for value in values.values())


def test_the_rise_that_counts_is_the_total_of_all_rises_and_not_last_minus_first():
    assert rise_shares(np.array([0, 0.06, 0, 0.06, 0])) == pytest.approx([0.5, 0, 0.5, 0])


def test_a_rise_of_exactly_a_tenth_is_enough():
    assert rise_shares(np.array([0.0, 0.1])) is not None
    assert rise_shares(np.array([0.0, 0.0999])) is None


def random_profiles(n=200):
    for seed in range(n):
        g = rng(seed)
        yield np.cumsum(g.normal(0.1, 0.3, size=g.integers(2, 9)))


def test_indices_stay_within_their_bounds_and_shares_add_up_to_one():
    defined = 0
    for profile in random_profiles():
        shares, values = rise_shares(profile), indices(profile)
        if shares is None:
            continue
        defined += 1
        assert len(shares) == len(profile) - 1
        assert shares.min() >= 0 and shares.sum() == pytest.approx(1)
        assert 1 / len(shares) - 1e-12 <= values["concentration"] <= 1 + 1e-12
        assert -1e-12 <= values["spread"] <= 1 + 1e-12
        assert -1e-12 <= values["centre"] <= 1 + 1e-12
        assert values["mean"] == pytest.approx(sum(profile) / len(profile))
    assert defined > 150


def test_shape_indices_do_not_change_with_the_level_or_the_height_of_the_profile():
    for profile in random_profiles(50):
        if rise_shares(profile) is None:
            continue
        before, moved = indices(profile), indices(3 * profile - 0.7)
        assert moved.pop("mean") == pytest.approx(3 * before.pop("mean") - 0.7)
        assert moved == pytest.approx(before)


def test_turning_a_rising_profile_upside_down_turns_the_centre_round_and_keeps_the_rest():
    for seed in range(50):
        profile = np.cumsum(rng(seed).random(6))
        before, turned = indices(profile), indices(profile[-1] + profile[0] - profile[::-1])
        assert turned["centre"] == pytest.approx(1 - before["centre"])
        assert turned["concentration"] == pytest.approx(before["concentration"])
        assert turned["spread"] == pytest.approx(before["spread"])


@pytest.mark.parametrize("bad", [[0.5], [], [0, np.nan, 1], [0, np.inf], [[0, 1], [0, 1]]])
def test_what_is_no_profile_is_refused_with_its_values(bad):
    with pytest.raises(ValueError, match="readability="):
        rise_shares(np.array(bad))


# ---- the sixteen published numbers -------------------------------------------------------------------------------------------

# PAPER.md gives accuracies at L0..L3, read as sites 1..4. Site 0 is not published: the reviewer's numbers come out where
# it is taken to be at majority (no readability in the embedding). Majority is .5 for Parity and .27 for Dyck, the latter
# from item 2 of the same list. With these two readings every number of item 1 is derived, to two decimals.
MAJORITY = {"parity": 0.5, "dyck": 0.27}
PUBLISHED = {
    ("mamba", "parity"): (0.55, 0.60, 0.71, 1.0),
    ("transformer", "parity"): (0.55, 0.76, 0.98, 1.0),
    ("mamba", "dyck"): (0.73, 1.0, 1.0, 1.0),
    ("transformer", "dyck"): (1.0, 1.0, 1.0, 1.0),
}


def published_difference(task, index):
    def of(architecture):
        m = MAJORITY[task]
        return indices(np.array([0, *((a - m) / (1 - m) for a in PUBLISHED[architecture, task])]))[index]

    return of("mamba") - of("transformer")


@pytest.mark.parametrize(
    ("task", "index", "stated"),
    [
        ("parity", "concentration", 0.14),
        ("dyck", "concentration", -0.37),
        ("parity", "centre", 0.29),
        ("dyck", "centre", 0.12),
    ],
)
def test_the_published_numbers_give_the_reviewers_differences(task, index, stated):
    assert published_difference(task, index) == pytest.approx(stated, abs=0.005)


@pytest.mark.parametrize(
    ("index", "flips"), [("concentration", True), ("centre", False), ("mean", False), ("spread", False)]
)
def test_only_concentration_reverses_its_sign_on_the_published_numbers(index, flips):
    assert (published_difference("parity", index) * published_difference("dyck", index) < 0) == flips


# ---- intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_mean_interval_is_scipys_t_interval(n, level):
    values = rng(n).normal(3, 2, size=n)
    found, expected = mean_interval(values, level), stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.estimate, found.n) == (pytest.approx(values.mean()), n)


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7), (3, 4)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_difference_interval_is_scipys_welch_interval(sizes, level):
    a, b = rng(1).normal(1, 1, size=sizes[0]), rng(2).normal(0, 5, size=sizes[1])
    found = difference_interval(a, b, level)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.estimate, found.n) == (pytest.approx(a.mean() - b.mean()), min(sizes))


def test_a_difference_turned_round_has_the_interval_turned_round():
    a, b = rng(1).normal(size=5), rng(2).normal(size=4)
    one, two = difference_interval(a, b), difference_interval(b, a)
    assert (two.estimate, two.low, two.high) == pytest.approx((-one.estimate, -one.high, -one.low))


def test_equal_seeds_give_an_interval_of_no_width():
    for found in (difference_interval(np.full(5, 0.8), np.full(5, 0.5)), mean_interval(np.full(5, 0.3))):
        assert found.low == pytest.approx(found.estimate) == pytest.approx(found.high)
    assert difference_interval(np.full(5, 0.75), np.full(5, 0.5)).excludes_zero(1)
    assert not difference_interval(np.full(5, 0.5), np.full(5, 0.5)).excludes_zero(1)


@pytest.mark.parametrize(
    "found", [mean_interval([0.7]), difference_interval([0.9, 0.8], [0.1]), difference_interval([0.9], [0.1])]
)
def test_below_two_seeds_there_is_an_estimate_and_no_interval(found):
    assert found.estimate > 0.6 and found.n == 1
    assert math.isnan(found.low) and math.isnan(found.high)
    assert not found.excludes_zero(1) and not found.excludes_zero(-1)


def test_without_any_seed_nothing_is_defined_and_nothing_warns(recwarn):
    for found in (mean_interval([]), difference_interval([], [1.0, 2.0]), difference_interval([], [])):
        assert found.n == 0
        assert math.isnan(found.estimate) and math.isnan(found.low) and math.isnan(found.high)
    assert not recwarn.list


def test_a_value_that_is_not_a_number_never_gives_an_interval_that_excludes_zero():
    for found in (mean_interval([1.0, np.nan, 1.0]), difference_interval([5.0, np.nan, 5.1], [0.0, 0.1, 0.0])):
        assert not found.excludes_zero(1) and not found.excludes_zero(-1)


def test_excluding_zero_has_a_side():
    assert mean_interval([0.9, 1.0, 1.1]).excludes_zero(1)
    assert not mean_interval([0.9, 1.0, 1.1]).excludes_zero(-1)
    assert mean_interval([-0.9, -1.0, -1.1]).excludes_zero(-1)
    assert not any(mean_interval([-1.0, 0.0, 1.2]).excludes_zero(sign) for sign in (1, -1))


@pytest.mark.parametrize("n", [3, 5])
def test_the_mean_interval_covers_the_truth_in_95_of_100_runs(n):
    draws = rng(4).normal(0.2, 1, size=(3000, n))
    covered = np.mean([(i := mean_interval(row)).low <= 0.2 <= i.high for row in draws])
    assert covered == pytest.approx(0.95, abs=0.015)  # the percentile bootstrap has .75 at three and .83 at five


def test_the_difference_interval_covers_the_truth_at_unequal_spreads():
    draws = rng(5).normal(0, 1, size=(2000, 10)) * np.repeat([1, 4], 5)
    covered = np.mean([(i := difference_interval(row[:5], row[5:])).low <= 0 <= i.high for row in draws])
    assert covered == pytest.approx(0.95, abs=0.02)


# ---- permutation tests -------------------------------------------------------------------------------------------------------


def brute_force_p(a, b, sign):
    """Over all orders of the pooled values, in exact fractions: how often the first len(a) differ at least as much."""
    pool = [Fraction(value) for value in (*a, *b)]

    def difference(order):
        first, second = order[: len(a)], order[len(a) :]
        return sum(first) / len(first) - sum(second) / len(second)

    def score(d):
        return abs(d) if sign == 0 else sign * d

    seen = score(difference(pool))
    scores = [score(difference(order)) for order in itertools.permutations(pool)]
    return sum(s >= seen for s in scores) / len(scores)


SAMPLES = [
    ([3, 1, 4], [1, 5, 9]),
    ([2, 7], [1, 8, 2, 8]),
    ([5, 5, 5], [1, 1, 1]),
    ([1, 2, 3, 4], [4, 3, 2]),
    ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]),
    ([0, 0, 0], [0, 0, 0]),
    ([7], [1, 2, 3]),
]


@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize(("a", "b"), SAMPLES)
def test_the_permutation_p_is_the_share_of_all_orders(a, b, sign):
    assert permutation_p(a, b, sign) == pytest.approx(brute_force_p(a, b, sign))


@pytest.mark.parametrize(("sign", "alternative"), [(1, "greater"), (-1, "less"), (0, "two-sided")])
@pytest.mark.parametrize("seed", range(4))
def test_the_permutation_p_is_scipys_exact_one(sign, alternative, seed):
    """Groups of equal size: scipy's two-sided p doubles the smaller tail, which is the same only there."""
    a, b = rng(seed).normal(0.8, 1, size=5), rng(10 + seed).normal(0, 1, size=5)
    test = stats.permutation_test(
        (a, b),
        lambda x, y: np.mean(x) - np.mean(y),
        n_resamples=np.inf,
        alternative=alternative,
        permutation_type="independent",
    )
    assert permutation_p(a, b, sign) == pytest.approx(test.pvalue)


@pytest.mark.parametrize(("n", "smallest"), [(5, Fraction(1, 252)), (3, Fraction(1, 20)), (2, Fraction(1, 6))])
def test_the_smallest_possible_p_is_reached_by_groups_that_do_not_overlap(n, smallest):
    high, low = np.arange(n) + 10.0, np.arange(n) + 0.0
    assert permutation_p(high, low, 1) == pytest.approx(float(smallest))
    assert permutation_p(low, high, -1) == pytest.approx(float(smallest))
    assert permutation_p(high, low, -1) == permutation_p(low, high, 1) == 1.0
    assert permutation_p(high, low, 0) == permutation_p(low, high, 0) == pytest.approx(2 * float(smallest))


def test_the_permutation_p_does_not_change_with_order_scale_or_level():
    a, b = rng(1).random(5), rng(2).random(4)
    p = permutation_p(a, b, 1)
    assert permutation_p(a[::-1], rng(3).permutation(b), 1) == p
    assert permutation_p(1000 * a + 5, 1000 * b + 5, 1) == p
    assert permutation_p(1e-3 * a, 1e-3 * b, 1) == p
    assert permutation_p(b, a, -1) == p


def test_values_that_differ_by_rounding_alone_count_as_equal():
    a, b = np.array([0.1 + 0.2, 0.1, 0.7]), np.array([0.3, 0.1, 0.7])
    assert permutation_p(a, b, 1) == permutation_p(b, a, 1) == permutation_p(b, b, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_sign_flip_p_is_scipys_exact_one(seed):
    values = np.random.default_rng(seed).normal(0.3, 1, 5)
    found = stats.permutation_test((values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf)  # fmt: skip
    assert profiles.sign_flip_p(values) == pytest.approx(found.pvalue)
    assert profiles.sign_flip_p(np.abs(values)) == 1 / 32
    assert math.isnan(profiles.sign_flip_p(np.array([]))) and math.isnan(profiles.sign_flip_p(np.array([1.0, np.nan])))


def test_under_no_difference_the_permutation_p_is_at_most_alpha_in_alpha_of_the_runs():
    draws = rng(6).normal(size=(800, 6))
    p = np.array([permutation_p(row[:3], row[3:], 1) for row in draws])
    for alpha in (0.05, 0.1, 0.5):
        assert (p <= alpha + 1e-9).mean() == pytest.approx(alpha, abs=0.05)


@pytest.mark.parametrize(("a", "b"), [([], [1.0]), ([1.0], []), ([], [])])
def test_an_empty_group_has_no_p(a, b):
    assert math.isnan(permutation_p(a, b, 1))


@pytest.mark.parametrize(("a", "b"), [([1.0, np.nan, 2.0], [0.0, 1.0, 0.0]), ([1.0, 2.0], [np.nan, 0.0])])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_a_value_that_is_not_a_number_has_no_p(a, b, sign):
    assert math.isnan(permutation_p(a, b, sign))


# ---- Holm -------------------------------------------------------------------------------------------------------------------


def test_holm_on_a_family_worked_out_by_hand():
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, and the last may not be under the one before."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_at_the_smallest_p_of_five_seeds_and_eight_comparisons_is_032():
    assert holm(np.full(8, 1 / 252)) == pytest.approx([8 / 252] * 8)
    assert 8 / 252 < 0.05 < 8 * 2 / 252


def test_holm_keeps_the_order_never_lowers_a_p_and_stays_within_bonferroni_and_one():
    for seed in range(40):
        p = rng(seed).random(7) ** 3
        corrected = holm(p)
        order = np.argsort(p)
        assert (np.diff(corrected[order]) >= 0).all()
        assert (corrected >= p).all() and (corrected <= np.minimum(1, 7 * p) + 1e-12).all()
        assert corrected[order[0]] == pytest.approx(min(1, 7 * p[order[0]]))


def test_holm_rejects_exactly_what_the_step_down_rule_rejects():
    for seed in range(40):
        p = rng(seed).random(6) ** 4
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (6 - step):
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(holm(p) <= 0.05).tolist()) == rejected


def test_holm_of_equal_values_does_not_depend_on_their_order():
    assert holm(np.array([0.02, 0.01, 0.02])) == pytest.approx([0.04, 0.03, 0.04])


def test_a_p_that_is_not_a_number_stays_so_and_still_counts():
    corrected = holm(np.array([0.01, np.nan, 0.02]))
    assert corrected[[0, 2]] == pytest.approx([0.03, 0.04])
    assert math.isnan(corrected[1])
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()
    assert len(holm(np.array([]))) == 0


# ---- tables -----------------------------------------------------------------------------------------------------------------


def readability_rows(accuracy, own, beyond, **where):
    """Rows at sites 0, 1, .. of one model, majority .5 pooled and .6 at each position."""
    base = {
        "task": "parity",
        "variable": "state",
        "architecture": "lstm",
        "seed": 0,
        "passed": True,
        "network": "trained",
        "labels": "task",
    }
    for site, (a, o, b) in enumerate(zip(accuracy, own, beyond, strict=True)):
        for position, value in ((0, a), (-1, b), (1, 0.123)):
            yield {
                **base,
                "site": site,
                "position": position,
                "accuracy": value,
                "majority": 0.5,
                "own_accuracy": o,
                "own_majority": 0.6,
                **where,
            }


# What the token and its position say at site 0, halfway from chance to certainty.
BASELINES = pd.DataFrame([{"task": "parity", "variable": "state", "site": 0, "position": 0, "bayes_window": 0.75}])


def penalty_rows(accuracy=(), penalty=100.0):
    """A `penalties` table of one model, an accuracy for each site; empty without any."""
    base = {"task": "parity", "variable": "state", "architecture": "lstm", "seed": 0, "passed": True}
    rows = [
        {**base, "site": site, "penalty": penalty, "accuracy": value, "majority": 0.5}
        for site, value in enumerate(accuracy)
    ]
    return pd.DataFrame(rows, columns=[*base, "site", "penalty", "accuracy", "majority"])


def test_the_index_table_has_four_indices_for_every_reading():
    """A' pooled 0 .2 1, own 0 .75 1, beyond the window 0 1 1, at C = 100 0 .6 1, from a common start .5 .2 1, and
    untrained 1 0 0; other labels and positions must not get in."""
    rows = list(readability_rows((0.5, 0.6, 1.0), (0.6, 0.9, 1.0), (0.5, 1.0, 1.0)))
    rows += readability_rows((1.0, 0.5, 0.5), (1.0, 0.6, 0.6), (1.0, 0.5, 0.5), network="untrained")
    rows += readability_rows((1.0, 0.5, 0.5), (1.0, 0.6, 0.6), (1.0, 0.5, 0.5), labels="control")
    table = index_table(pd.DataFrame(rows).sample(frac=1, random_state=0), penalty_rows((0.5, 0.8, 1.0)), BASELINES)
    assert len(table) == 24 and not table.duplicated(["reading", "index"]).any()
    found = table.set_index(["reading", "index"])["value"]
    expected = {
        "pooled": {"concentration": 0.8, "centre": 0.8, "mean": 0.4},
        "own probe": {"concentration": 0.75, "centre": 0.25, "mean": 1.75 / 3},
        "beyond window": {"concentration": 1, "spread": 0, "centre": 0, "mean": 2 / 3},
        "λ = 0.01": {"concentration": 0.6, "centre": 0.4, "mean": 1.6 / 3},
        "common start": {"concentration": 1, "centre": 1, "mean": 1.7 / 3},
        "untrained network": {"mean": 1 / 3},
    }
    for reading, values in expected.items():
        assert found[reading][list(values)].to_dict() == pytest.approx(values)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(2)
    assert found["pooled", "spread"] == pytest.approx(entropy)
    largest = table.drop_duplicates("reading").set_index("reading")["largest_site"]
    assert largest.to_dict() == {
        "pooled": 2,
        "own probe": 1,
        "beyond window": 1,
        "λ = 0.01": 1,
        "common start": 2,
        "untrained network": 0,
    }
    assert (table["last_site"] == 2).all()


def test_the_index_table_keeps_models_apart_and_says_which_passed():
    rows = [
        *readability_rows((0.5, 1.0), (0.6, 1.0), (0.5, 1.0)),
        *readability_rows((0.5, 0.9), (0.6, 1.0), (0.5, 1.0), seed=1, passed=False),
        *readability_rows((0.5, 0.8), (0.6, 1.0), (0.5, 1.0), architecture="gru"),
        *readability_rows((0.5, 0.7), (0.6, 1.0), (0.5, 1.0), variable="top", task="dyck-2-4"),
    ]
    table = index_table(pd.DataFrame(rows), penalty_rows(), BASELINES).query("reading == 'pooled' and index == 'mean'")
    found = {(r.task, r.architecture, r.seed, r.passed): r.value for r in table.itertuples()}
    expected = {
        ("parity", "lstm", 0, True): 0.5,
        ("parity", "lstm", 1, False): 0.4,
        ("parity", "gru", 0, True): 0.3,
        ("dyck-2-4", "lstm", 0, True): 0.2,
    }
    assert found == pytest.approx(expected)


def test_a_profile_that_does_not_rise_has_largest_site_0_and_keeps_its_mean():
    rows = pd.DataFrame(readability_rows((0.5, 0.5), (0.6, 1.0), (0.5, 1.0)))
    table = index_table(rows, penalty_rows(), BASELINES).query("reading == 'pooled'")
    assert (table["largest_site"] == 0).all()
    assert table["value"].isna().tolist() == [index != "mean" for index in table["index"]]


def test_sequences_within_the_window_have_no_indices_beyond_it():
    rows = [row for row in readability_rows((0.5, 1.0), (0.6, 1.0), (0.5, 1.0)) if row["position"] >= 0]
    assert set(index_table(pd.DataFrame(rows), penalty_rows(), BASELINES)["reading"]) == {
        "pooled",
        "own probe",
        "common start",
    }


def test_readability_columns_are_the_share_of_the_way_to_one():
    table = profiles.with_readability(
        pd.DataFrame(readability_rows((0.5, 0.75, 1.0), (0.6, 0.8, 1.0), (0.5, 0.5, 0.4)))
    )
    assert table.query("position == 0")["readability"].tolist() == pytest.approx([0, 0.5, 1])
    assert table.query("position == 0")["own_readability"].tolist() == pytest.approx([0, 0.5, 1])
    assert table.query("position == -1")["readability"].tolist() == pytest.approx([0, 0, -0.2])


def test_readability_is_not_a_number_where_one_class_is_all_there_is():
    table = pd.DataFrame({"accuracy": [1.0], "majority": [1.0], "own_accuracy": [1.0], "own_majority": [0.5]})
    found = profiles.with_readability(table)
    assert found["readability"].isna().all() and found["own_readability"].tolist() == [1.0]


def test_a_variable_of_one_class_gives_undefined_indices_and_does_not_stop_the_others():
    rows = list(readability_rows((0.5, 1.0), (0.6, 1.0), (0.5, 1.0)))
    rows += readability_rows((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), task="dyck-1-1", majority=1.0, own_majority=1.0)
    table = index_table(pd.DataFrame(rows), penalty_rows(), BASELINES)
    assert table.query("task == 'dyck-1-1'")["value"].isna().all()


# ---- distances between tasks ------------------------------------------------------------------------------------------


def deals_of(first, other):
    """Every way to deal the rows of both groups to two groups of the same sizes, by hand."""
    pool = [*first, *other]
    for chosen in itertools.combinations(range(len(pool)), len(first)):
        yield [pool[i] for i in chosen], [pool[i] for i in range(len(pool)) if i not in chosen]


def shares_of(n, seed, centre=None):
    rng = np.random.default_rng(seed)
    made = (
        rng.dirichlet(np.ones(4), n) if centre is None else np.abs(np.eye(4)[centre] + 0.05 * rng.normal(size=(n, 4)))
    )
    return made / made.sum(1, keepdims=True)


def test_wasserstein_agrees_with_scipy_and_is_a_metric():
    a, b, c = (shares_of(6, seed) for seed in range(3))
    blocks = np.arange(4)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            assert profiles.wasserstein(a, b)[i, j] == pytest.approx(stats.wasserstein_distance(blocks, blocks, p, q))
    assert np.allclose(profiles.wasserstein(a, b), profiles.wasserstein(b, a).T)
    assert np.allclose(np.diag(profiles.wasserstein(a, a)), 0)
    direct, detour = (
        profiles.wasserstein(a, c)[0, 0],
        profiles.wasserstein(a, b)[0, 0] + profiles.wasserstein(b, c)[0, 0],
    )
    assert direct <= detour + 1e-12


def test_wasserstein_is_in_blocks():
    assert profiles.wasserstein([1, 0, 0, 0], [0, 0, 0, 1])[0, 0] == 3
    assert profiles.wasserstein([0, 1, 0, 0], [0, 0, 1, 0])[0, 0] == 1
    assert profiles.wasserstein([0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0])[0, 0] == 1


def test_nearer_gives_the_matched_differences_and_the_exact_p_of_all_pairs():
    subject, near, far = (shares_of(4, seed) for seed in (3, 4, 5))
    found = profiles.nearer(subject, near, far)

    def d(p, q):
        return stats.wasserstein_distance(range(4), range(4), p, q)

    matched = [d(s, f) - d(s, n) for s, n, f in zip(subject, near, far, strict=True)]
    expected = profiles.mean_interval(np.array(matched))
    assert (found.difference.estimate, found.difference.low) == pytest.approx((expected.estimate, expected.low))
    assert found.bound == pytest.approx(np.mean([d(n, f) for n, f in zip(near, far, strict=True)]))
    assert found.difference.estimate <= found.bound

    def excess(one, other):
        return np.mean([d(s, f) for s in subject for f in one]) - np.mean([d(s, n) for s in subject for n in other])

    seen = excess(list(far), list(near))
    every = [excess(one, other) >= seen - 1e-12 for one, other in deals_of(far, near)]
    assert len(every) == 70
    assert found.p == pytest.approx(np.mean(every))


def test_nearer_finds_what_was_planted_and_leaves_out_seeds_that_are_not_numbers():
    subject, near, far = shares_of(5, 1, 3), shares_of(5, 2, 3), shares_of(5, 3, 0)
    found = profiles.nearer(subject, near, far)
    assert found.p == pytest.approx(1 / 252) and found.difference.excludes_zero(1)
    assert found.to_far.estimate > 2
    assert found.to_near.estimate < 0.5
    turned = profiles.nearer(subject, far, near)
    assert turned.p == 1 and turned.difference.excludes_zero(-1)
    near[1] = far[4] = math.nan
    left = profiles.nearer(subject, near, far)
    rows = [0, 2, 3]
    assert left.difference.n == 3
    assert left.bound == pytest.approx(np.diag(profiles.wasserstein(near[rows], far[rows])).mean())
    near[:] = math.nan
    empty = profiles.nearer(subject, near, far)
    assert math.isnan(empty.p) and math.isnan(empty.bound) and empty.difference.n == 0


def test_apart_is_the_exact_test_of_the_energy_statistic():
    a, b = shares_of(3, 6), shares_of(4, 7)

    def d(one, other):
        return np.mean([stats.wasserstein_distance(range(4), range(4), p, q) for p in one for q in other])

    def energy(one, other):
        return 2 * d(one, other) - d(one, one) - d(other, other)

    found = profiles.apart(a, b)
    every = [energy(*deal) >= energy(a, b) - 1e-12 for deal in deals_of(a, b)]
    assert len(every) == 35
    assert found.p == pytest.approx(np.mean(every))
    within = [
        np.mean([stats.wasserstein_distance(range(4), range(4), p, q) for p, q in itertools.permutations(group, 2)])
        for group in (a, b)
    ]
    assert found.floor == pytest.approx(np.mean(within))
    assert found.distance.n == 3


def test_paired_profiles_are_swapped_within_their_model():
    a, b = shares_of(5, 1, 0), shares_of(5, 2, 3)
    assert profiles.apart(a, b, paired=True).p == pytest.approx(2 / 32)  # all swapped is the same two groups
    assert profiles.apart(a, b).p == pytest.approx(2 / 252)
    a[2] = math.nan
    assert profiles.apart(a, b, paired=True).p == pytest.approx(2 / 16)


def test_groups_of_one_distribution_are_apart_in_one_of_twenty_cases():
    rng = np.random.default_rng(0)
    p = [profiles.apart(*rng.dirichlet(np.ones(4), (2, 4))).p for _ in range(200)]
    assert np.mean(np.array(p) <= 0.05) < 0.1


def test_a_group_of_one_has_no_floor_and_no_p():
    found = profiles.apart(shares_of(1, 0), shares_of(3, 1))
    assert math.isnan(found.p) and math.isnan(found.floor) and math.isnan(found.distance.low)


def test_dependence_on_the_group_is_found_where_planted_and_only_there():
    group = np.repeat(["a", "b", "c"], 3)
    planted = np.concatenate([shares_of(3, seed, centre) for seed, centre in enumerate((0, 1, 3))])
    other = shares_of(9, 5)

    def distances(*tables):
        return np.array([profiles.wasserstein(table, table) for table in tables])

    excess, p = profiles.depends_on_group(distances(planted), group, deals=999)
    assert excess > 1 and p <= 0.011  # 280 ways to deal nine models to three groups of three
    assert profiles.depends_on_group(distances(other), group, deals=999)[1] > 0.05
    assert profiles.depends_on_group(distances(planted, other), group, deals=999)[1] < 0.1
    assert all(map(math.isnan, profiles.depends_on_group(distances(other), np.repeat("a", 9))))
    planted[4] = math.nan  # one profile is not defined
    with pytest.raises(ValueError, match="must be finite"):
        profiles.depends_on_group(distances(planted, other), group)


def test_shares_have_a_row_for_every_block_and_reading_and_no_numbers_where_nothing_rises():
    rows = list(readability_rows((0.5, 0.75, 1.0), (0.6, 0.8, 1.0), (0.5, 0.5, 0.5)))
    table = profiles.share_table(pd.DataFrame(rows), penalty_rows(), BASELINES)
    pooled = table[table["reading"] == "pooled"]
    assert pooled["block"].tolist() == [1, 2] and pooled["share"].tolist() == pytest.approx([0.5, 0.5])
    assert table[table["reading"] == "beyond window"]["share"].isna().all()
    assert table[table["reading"] == "own probe"]["share"].tolist() == pytest.approx([0.5, 0.5])


def test_cells_without_probes_of_their_own_have_no_such_reading():
    rows = pd.DataFrame(list(readability_rows((0.5, 0.75, 1.0), (0.6, 0.8, 1.0), (0.5, 0.5, 0.5))))
    table = profiles.share_table(rows.assign(own_accuracy=math.nan), penalty_rows(), BASELINES)
    assert "own probe" not in set(table["reading"]) and "pooled" in set(table["reading"])
