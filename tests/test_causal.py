"""The criterion of claim 3 on tables made by hand that bring out every outcome; its figures and numbers say the same."""

import numpy as np
import pandas as pd
import pytest
from synthetic import DIRECTION, EXACT, METHODS, causal_tables

from statedepth import causal, causal_figures, claims
from statedepth import tables as table_files
from statedepth.causal import numbers, peaks, refits, reversals, verdict

DESTROYS = {None: {DIRECTION: ((0.1, 0.2, 0.9, 1.0), 0.98)}}  # at the best-readable site, 3, at every length
FAMILIES = ("transformer", "mamba", "mamba2", "lstm", "gru")


@pytest.fixture(scope="module")
def usual():
    return causal_tables()


def only(*pairs):
    return {pair: DESTROYS[None] for pair in pairs}


def holds(found, key):
    return {part.key: part.holds for part in found.parts}[key]


def test_tables_made_by_hand_fit_their_schemas(usual, tmp_path):
    for name, table in usual.items():
        table_files.write(table, name, tmp_path)
    assert set(table_files.read_folder(tmp_path)) == set(usual)


# ---- v1 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("falls", "outcome"),
    [
        (None, "not reproduced"),
        (DESTROYS, "reproduced"),
        (
            only(*[(t, a) for t in ("parity", "dyck-2-4") for a in ("mamba", "lstm", "gru")]),
            "reproduced",
        ),  # 3 of 5: often
        (only(*[(t, a) for t in ("parity", "dyck-2-4") for a in ("lstm", "gru")]), "partly"),  # 2 of 5
        (only(*[("parity", a) for a in FAMILIES]), "partly"),  # on one task
        (
            {None: {DIRECTION: ((0.1, 0.2, lambda times: 0.9 if times == 1 else 0.1, 1.0), 0.98)}},
            "partly",
        ),  # not beyond
        ({None: {DIRECTION: ((0.9, 0.2, 0.1, 1.0), 0.98)}}, "not reproduced"),  # destroys, at a site that is read worse
        ({None: {DIRECTION: ((0.1, 0.2, 0.3, 1.0), 0.98)}}, "not reproduced"),  # the last site decides nothing
    ],
)
def test_each_outcome_of_v1s_claim(falls, outcome):
    found = verdict(causal_tables(falls, patched=False))
    assert found.outcome == outcome and not found.provisional


def test_a_control_that_costs_as_much_takes_the_ablation_its_meaning(usual):
    made = causal_tables(DESTROYS, patched=False)
    made["necessity"]["random_fall"] = 0.95
    assert verdict(made).outcome == "not reproduced"


def test_of_sites_that_are_read_equally_well_the_one_counts_that_favours_v1():
    falls = {None: {DIRECTION: ((0.9, 0.1, 0.1, 1.0), 0.98)}}
    assert verdict(causal_tables(falls, read=(1.0, 1.0, 1.0, 1.0), patched=False)).outcome == "reproduced"


def test_few_seeds_or_architectures_make_it_provisional_and_one_seed_tests_nothing():
    assert verdict(causal_tables(seeds=3, patched=False)).provisional
    assert verdict(causal_tables(architectures=("mamba", "lstm"), patched=False)).provisional
    assert verdict(causal_tables(seeds=1, patched=False)).outcome == "not tested"
    assert verdict(causal_tables(tasks=("parity",), patched=False)).outcome == "not tested"


def test_models_that_failed_are_counted_and_stay_out():
    failed = [("parity", "mamba", s) for s in range(5)]
    made = causal_tables(DESTROYS, failed=failed, patched=False)
    found = verdict(made)
    assert (
        found.provisional and holds(found, "lstm.parity.v1") and "mamba.parity.v1" not in {p.key for p in found.parts}
    )
    assert "Mamba on Parity, seed 4" in numbers(made)["failed"].text


def test_a_model_that_does_not_do_the_task_at_a_length_has_no_fall_there(usual):
    made = {**usual, "necessity": usual["necessity"].copy()}
    beyond = made["necessity"]["length"] > made["necessity"]["trained_length"]
    made["necessity"].loc[beyond, ["fall", "fall_low", "fall_high"]] = np.nan
    assert holds(verdict(made), "mamba.parity.v1.2x") is None
    assert numbers(made)["mamba.parity.direction.2x"].text == "not tested"


def test_other_tasks_do_not_count_for_the_claim():
    made = causal_tables(patched=False)
    other = made["necessity"].query("task == 'parity'").assign(task="S3", fall=0.9, fall_low=0.88, fall_high=0.92)
    made["necessity"] = pd.concat([made["necessity"], other])
    assert verdict(made).outcome == "not reproduced"


def test_the_direction_is_read_in_three_ways_and_the_verdict_says_what_the_others_would_give(usual):
    said = " ".join(verdict(usual).reasons)
    assert (
        "With the direction between class means in its place it is 10 of 10, and the outcome would be: reproduced."
        in said
    )
    assert "With the most penalised probe's direction in its place it is 0 of 10" in said


# ---- v2 -------------------------------------------------------------------------------------------------------------------


def test_refits_are_counted_where_there_was_something_to_read(usual):
    assert len(refits(usual)) == 2 * 5 * 5 * 4 * 3  # tasks, architectures, seeds, lengths, sites before the last
    assert holds(verdict(usual), "v2.refit")
    lost = causal_tables({("parity", "gru"): {DIRECTION: (METHODS[DIRECTION][0], 0.2)}}, patched=False)
    assert not holds(verdict(lost), "v2.refit")
    unread = causal_tables(read=(0.05, 0.5, 0.9, 1.0), patched=False)
    assert len(refits(unread)) == 2 * 5 * 5 * 4 * 2  # the first site has nothing to get back


def test_only_an_ablation_that_costs_little_where_the_state_is_surely_needed_proves_nothing(usual):
    said = "no evidence against necessity"
    assert any(said in reason for reason in verdict(usual).reasons)  # a tenth at the last site
    assert not any(said in reason for reason in verdict(causal_tables(DESTROYS, patched=False)).reasons)


def test_a_reversal_needs_half_of_the_way_and_more_than_random_subspaces(usual):
    assert reversals(usual)["reversed"].all() and holds(verdict(usual), "v2.reversal")
    weak = causal_tables({None: {("pooled", "INLP"): ((0.4, 0.4, 0.4, 1.0), 0.0)}}, patched=False)
    assert not reversals(weak)["reversed"].any()
    made = {**usual, "necessity": usual["necessity"].assign(random_most=1.5)}
    assert not reversals(made)["reversed"].any() and holds(verdict(made), "v2.reversal") is False


def test_cells_that_lost_the_task_by_one_direction_are_not_called_inert():
    assert set(reversals(causal_tables(DESTROYS, patched=False))["site"]) <= {1}


# ---- ours -----------------------------------------------------------------------------------------------------------------


def test_the_gap_between_the_two_peaks_has_a_sign_and_an_interval(usual):
    found = peaks(usual)
    assert (found["gap"] == -2.0).all() and holds(
        verdict(usual), "mamba.parity.differ"
    )  # read best at 3, hurt most at 1
    same = peaks(causal_tables({None: {EXACT: ((0.1, 0.2, 0.9, 1.0), 0.0)}}, patched=False))
    assert (same["gap"] == 0.0).all()


def test_a_gap_that_comes_and_goes_with_the_seed_is_undecided_and_one_of_zero_is_no():
    made = causal_tables({None: {EXACT: ((0.1, 0.2, 0.9, 1.0), 0.0)}}, patched=False)
    assert holds(verdict(made), "mamba.parity.differ") is False
    table = made["necessity"]
    early = (table["positions"] == "each") & (table["method"] == "LEACE") & (table["architecture"] == "mamba")
    early &= (table["task"] == "parity") & (table["site"] == 1) & (table["seed"] < 2)
    up = table.loc[early, "fall"] - 1.5
    for column in ("fall", "fall_low", "fall_high"):
        table.loc[early, column] -= up
    assert holds(verdict(made), "mamba.parity.differ") is None


def test_necessary_cells_are_counted_by_what_qualifies_them(usual):
    table = usual["necessity"].copy()
    cells = table.index[
        (table["positions"] == "each")
        & (table["method"] == "LEACE")
        & (table["length"] == table["trained_length"])
        & (table["site"] < 4)
    ]
    table["resample_fall"], table["positions_read"] = 1.0, 0
    table.loc[cells[:7], "resample_fall"] = 0.4
    table.loc[cells[:3], "positions_read"] = 1
    found = numbers({**usual, "necessity": table})
    assert (found["each.LEACE.resampled"].text, found["each.LEACE.somewhere"].text) == ("143 of 150", "3 of 150")


def test_sites_within_a_standard_error_are_one_set():
    falls = {None: {EXACT: ((0.1, 0.2, 0.9, 1.0), 0.0)}}
    found = peaks(causal_tables(falls, read=(1.0, 1.0, 1.0, 1.0), patched=False))
    assert (found["gap"] == 0.0).all() and (
        found["read"] == 2.0
    ).all()  # all three are read best, one of them is hurt most


def test_exact_erasers_are_held_against_their_refits_own_majority(usual):
    assert causal.exactness(usual)["over"].abs().max() < 1e-9
    made = {**usual, "necessity": usual["necessity"].copy()}
    row = made["necessity"].index[
        (made["necessity"]["method"] == "LEACE") & (made["necessity"]["positions"] == "each")
    ][0]
    made["necessity"].loc[row, "refit_own"] += 0.035
    assert numbers(made)["exact.own_over"].text == "3.5"
    total = len(causal.exactness(usual))
    assert numbers(made)["exact.own_over.within"].text == f"{total - 1} of {total}"


def test_numbers_say_in_how_many_cells_one_direction_left_the_state(usual):
    found = numbers(usual)
    assert found["direction.still"].value == found["direction.cells"].value == 600
    assert found["inert"].value == 150 and found["reversed"].value == 150
    assert found["each.LEACE.necessary"].text == "150 of 150"
    assert found["planted.right"].text == "4 of 4"


def test_every_prediction_is_about_a_part_that_exists(usual):
    known = {part.key for part in verdict(usual).parts}
    for prediction in causal.PREDICTIONS:
        assert set(prediction.expected) <= known
    assert set(claims.outcomes_of_predictions("causal_necessity", verdict(usual))["came true"]) <= {"yes", "no"}


# ---- figures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", causal_figures.CHARTS)
def test_every_figure_draws_all_architectures_and_states_its_finding(usual, name):
    figure = causal_figures.CHARTS[name](usual)
    svg = figure.svg
    assert svg.count("<path") > 5 and len(figure.alt_text) > 60
    if name not in ("planted", "outcomes"):
        assert all(architecture in svg for architecture in ("Transformer", "Mamba-2", "GRU"))


@pytest.mark.parametrize("name", causal_figures.CHARTS)
@pytest.mark.parametrize(
    "few", [{"seeds": 1, "architectures": ("lstm",), "beyond": ()}, {"tasks": ("parity",), "seeds": 2}]
)
def test_figures_and_numbers_bear_small_runs(name, few):
    made = causal_tables(**few)
    assert "NaN" not in causal_figures.CHARTS[name](made).svg
    assert numbers(made)["models"].value and verdict(made).outcome == "not tested"


NONE_PASSED = {"seeds": 1, "failed": [(t, a, 0) for t in ("parity", "dyck-2-4") for a in FAMILIES]}


@pytest.mark.parametrize("name", causal_figures.CHARTS)
def test_figures_and_numbers_bear_a_run_in_which_no_model_learned_its_task(name):
    made = causal_tables(**NONE_PASSED)
    assert "NaN" not in causal_figures.CHARTS[name](made).svg
    assert numbers(made)["direction.cells"].text == "not run" and verdict(made).outcome == "not tested"


def test_captions_count_what_is_drawn(usual):
    assert "0 by the probe's direction, 0 by the most penalised probe's direction, 10 by the direction between class means" in causal_figures.directions(usual).caption  # fmt: skip
    assert "by one direction, not removed in 150; by LEACE at each position, necessary in 150" in causal_figures.outcomes(usual).caption  # fmt: skip
    planted = usual["planted"].copy()
    planted.loc[planted.index[0], "outcome"] = "inconclusive"
    wrong = causal_figures.planted({**usual, "planted": planted}).caption
    assert "1 framed cells came out otherwise" in wrong
