"""Claim 4's criterion on tables made by hand: every outcome, every part, and what must not decide it."""

import json

import numpy as np
import pandas as pd
import pytest
from synthetic import EARLY, FLAT, LATE, TALL, bottleneck_tables

from statedepth import analogue, bottleneck, claims, figures
from statedepth import tables as table_files
from statedepth.verdicts import NOT_RUN

MIDDLE = (0.05, 0.1, 1.2, 0.2, 0.1, 0.9)  # 60 points at site 3, in the middle; few where it is read best (site 5)
FLAT_COST = (0.02,) * TALL
NEOX, MAMBA = ("gpt-neox-small", "gpt-neox-large"), ("mamba-small", "mamba-large")
AS_SAID = {base: MIDDLE for base in NEOX}


def parts(tables):
    return {part.key: part.holds for part in bottleneck.verdict(tables).parts}


def outcome(**changes):
    found = bottleneck.verdict(bottleneck_tables(**changes))
    return found.outcome, found.provisional


def test_tables_made_by_hand_fit_their_schemas(tmp_path):
    for name, table in bottleneck_tables(AS_SAID).items():
        table_files.write(table, name, tmp_path)
    assert set(table_files.read_folder(tmp_path)) == set(bottleneck_tables(AS_SAID))


def test_it_holds_where_both_classes_are_as_v1_says():
    assert outcome(falls=AS_SAID) == ("holds on the analogue", False)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"falls": {"gpt-neox-small": MIDDLE}}, "gpt-neox-large.bottleneck"),
        ({"falls": {**AS_SAID, "gpt-neox-large": (0.05, 0.1, 0.9, 0.2, 0.1, 0.9)}}, "gpt-neox-large.bottleneck"),
        ({"falls": {**AS_SAID, "gpt-neox-large": (0.05, 0.1, 1.2, 0.2, 1.2, 0.9)}}, "gpt-neox-large.bottleneck"),
        ({"falls": {**AS_SAID, "gpt-neox-large": (1.3, 0.1, 0.2, 0.2, 0.1, 0.9)}}, "gpt-neox-large.bottleneck"),
        ({"falls": {**AS_SAID, ("parity", "mamba-large"): (0.0, 0.0, 0.2, 0.0, 0.0, 0.0)}}, "mamba-large.inert"),
        ({"falls": {**AS_SAID, ("dyck-2-4", "mamba-small"): (0.2, 0.0, 0.0, 0.0, 0.0, 0.0)}}, "mamba-small.inert"),
        ({"falls": AS_SAID, "read": (0.2, 0.5, 0.8, 0.85, 0.88, 0.9)}, "mamba-large.read"),
        ({"falls": AS_SAID, "recovery": {"mamba-large": (0.8, 0.7, 0.6, 0.3, 0.1, 0.0)}}, "mamba-large.patched"),
    ],
)
def test_one_part_that_fails_is_enough_for_it_not_to_hold(changes, part):
    made = bottleneck_tables(**changes)
    assert bottleneck.verdict(made).outcome == "does not hold on the analogue"
    assert parts(made)[part] is False


def test_what_an_edit_of_the_last_site_costs_decides_nothing():
    last = {base: (*FLAT_COST[:-1], 1.3) for base in (*NEOX, *MAMBA)}
    found = parts(bottleneck_tables(last))
    assert found["gpt-neox-large.bottleneck"] is False and found["mamba-large.inert"] is True


def test_a_window_can_be_the_bottleneck_where_no_single_site_is():
    windows = {base: (0.0, 0.1, 1.2, 0.1, 0.0, 0.0) for base in NEOX}
    made = bottleneck_tables(windows=windows)
    assert parts(made)["gpt-neox-large.bottleneck"] is True
    row = bottleneck.bottlenecks(made).query("architecture == 'gpt-neox-large' and task == 'dyck-2-4'").iloc[0]
    assert (row["first"], row["last"]) == (3, 4) and row["points"] == pytest.approx(60, abs=1)


def test_a_window_does_not_break_mamba_of_which_v1_speaks_of_single_directions():
    assert parts(bottleneck_tables(windows={"mamba-large": (1.2,) * TALL}))["mamba-large.inert"] is True


@pytest.mark.parametrize(("n_sites", "middle"), [(6, {2, 3, 4, 5}), (12, set(range(3, 11))), (24, set(range(5, 21)))])
def test_the_middle_is_two_thirds_and_has_the_layers_that_v1_names(n_sites, middle):
    table = pd.DataFrame({"first": range(1, n_sites + 1), "last": range(1, n_sites + 1), "last_site": n_sites})
    assert set(table[bottleneck.is_middle(table)]["first"]) == middle
    named = {12: {7, 8}, 24: set(range(5, 20))}.get(n_sites, set())  # L6-L7 and L4-L18, as sites
    assert named <= middle


def test_sites_that_seeds_cannot_tell_from_the_best_are_all_best():
    by_seed = pd.DataFrame({1: [0.1, 0.1, 0.1], 2: [0.90, 0.92, 0.91], 3: [0.92, 0.90, 0.91], 4: [0.5, 0.5, 0.5]})
    assert bottleneck._top(by_seed) == [2, 3]
    assert bottleneck._top(pd.DataFrame({1: [0.9, 0.9], 2: [0.8, 0.8]})) == [1]
    assert bottleneck._top(pd.DataFrame({1: [0.9], 2: [0.9], 3: [0.8]})) == [1, 2]


def test_patches_that_the_bounds_decide_do_not_count():
    none = {base: (0.1,) * TALL for base in MAMBA}
    found = bottleneck.patches(bottleneck_tables(recovery=none)).query("architecture == 'mamba-large'")
    assert (found["recovery"] < 0.2).all() and not found["holds"].any()
    late = bottleneck.patches(bottleneck_tables(), 1)
    assert (late["offset"] >= 1).all() and (late["recovery"] < 0.1).all()


def test_where_erasure_hurts_most_is_told_by_leace_at_each_position():
    made = bottleneck_tables()
    row = bottleneck.peaks(made).query("architecture == 'mamba-large' and task == 'parity'").iloc[0]
    assert row["hurt"] == [5] and row["read"] == [5] and row["differ"] is False
    moved = bottleneck_tables(falls={"each": (0.1, 1.0, 0.3, 0.2, 0.1, 0.9)})
    row = bottleneck.peaks(moved).query("architecture == 'mamba-large' and task == 'parity'").iloc[0]
    assert row["hurt"] == [2] and row["differ"] is True and row["gap"] == -3
    assert parts(moved)["v2.differ"] is True and parts(made)["v2.differ"] is False


FLIPPED = {
    **{("parity", base): LATE for base in MAMBA},
    **{("dyck-2-4", base): FLAT for base in MAMBA},
    **{("parity", base): FLAT for base in NEOX},
    **{("dyck-2-4", base): EARLY for base in NEOX},
}


def test_the_flip_needs_both_tasks_and_is_read_from_pretrained_models_alone():
    found = parts(bottleneck_tables(shapes=FLIPPED))
    assert found["small.flip"] is True and found["large.flip"] is True
    half = {**FLIPPED, ("dyck-2-4", "mamba-large"): EARLY}
    found = parts(bottleneck_tables(shapes=half))
    assert found["small.flip"] is True and found["large.flip"] is False
    scratch = {**FLIPPED, **{("parity", f"{base}-scratch"): FLAT for base in MAMBA}}
    pd.testing.assert_frame_equal(
        bottleneck.flips(bottleneck_tables(shapes=FLIPPED)), bottleneck.flips(bottleneck_tables(shapes=scratch))
    )


def test_pretraining_that_changes_nothing_is_said_first():
    as_well, worse = (bottleneck.verdict(bottleneck_tables(AS_SAID, scratch=(level, 3))) for level in (1.0, 0.9))
    assert as_well.reasons[0].startswith("Without pretraining, 8 of 8 pairs")
    assert (
        worse.reasons[0].startswith("Without pretraining, 0 of 8 pairs") and "90.0% against 100.0%" in worse.reasons[0]
    )
    assert parts(bottleneck_tables(scratch=(1.0, 3)))["scratch.as-well"] is True
    assert parts(bottleneck_tables(scratch=(0.9, 3)))["scratch.as-well"] is False
    assert parts(bottleneck_tables(scratch=(1.0, 0)))["scratch.as-well"] is None


def test_models_from_scratch_decide_nothing_else():
    changed = {**AS_SAID, **{f"{base}-scratch": (1.2,) * TALL for base in MAMBA}}
    assert outcome(falls=changed)[0] == "holds on the analogue"


def test_fewer_than_five_seeds_are_provisional_and_one_is_not_tested():
    assert outcome(falls=AS_SAID, seeds=3) == ("holds on the analogue", True)
    assert outcome(falls=AS_SAID, seeds=1, scratch=(1.0, 1)) == ("not tested", True)
    assert outcome(falls=AS_SAID, failed=[("parity", "mamba-large", 0)]) == ("holds on the analogue", True)


@pytest.mark.parametrize(
    "changes", [{"bases": NEOX}, {"bases": MAMBA}, {"tasks": ("parity",)}, {"tasks": ("dyck-2-4",)}]
)
def test_a_run_without_one_class_or_task_is_not_tested(changes):
    assert outcome(**changes)[0] == "not tested"


@pytest.mark.parametrize(
    ("base", "falls", "says"),
    [
        ("pythia-160m", MIDDLE, ("reproduced", "published checkpoint")),
        ("pythia-160m", FLAT_COST, ("not reproduced", "published checkpoint")),
        ("mamba-130m-hf", FLAT_COST, ("reproduced", "published checkpoint")),
        ("my-own", FLAT_COST, ("not reproduced", "own checkpoint")),
    ],
)
def test_checkpoints_of_others_are_judged_by_what_is_said_of_their_class(base, falls, says):
    found = bottleneck.verdict(bottleneck_tables({base: falls}, bases=(base,)))
    assert (found.outcome, found.scale) == says


@pytest.mark.parametrize(
    "changes",
    [{}, {"falls": AS_SAID}, {"seeds": 1, "scratch": (1.0, 1)}, {"scratch": (1.0, 0)}, {"bases": MAMBA}, {"tasks": ("parity",)}, {"scratch": (0.8, 2)}, {"bases": ("pythia-160m",), "seeds": 2}],
)  # fmt: skip
def test_every_figure_number_and_record_bears_every_run(changes, tmp_path):
    made = bottleneck_tables(**changes)
    for name in figures.CHARTS["pretrained_bottleneck"]:
        figure = figures.chart("pretrained_bottleneck", name, made)
        assert "nan" not in figure.alt_text.lower()
        assert figure.svg().startswith("<svg")
    found = claims.numbers("pretrained_bottleneck", made)
    assert all("nan" not in number.text for number in found.values())
    record = bottleneck.verdict(made).record("paper")
    assert "nan" not in json.dumps(record).lower()
    came = claims.outcomes_of_predictions("pretrained_bottleneck", bottleneck.verdict(made))
    assert len(came) == len(bottleneck.PREDICTIONS)


def test_every_prediction_names_parts_that_the_verdict_has():
    known = set(parts(bottleneck_tables(AS_SAID)))
    assert all(set(prediction.expected) <= known for prediction in bottleneck.PREDICTIONS)
    came = claims.outcomes_of_predictions("pretrained_bottleneck", bottleneck.verdict(bottleneck_tables(AS_SAID)))
    assert set(came["came true"]) <= {"yes", "no"}


def test_numbers_are_those_of_the_tables():
    found = claims.numbers("pretrained_bottleneck", bottleneck_tables(AS_SAID))
    assert found["gpt-neox-large.dyck-2-4.direction.middle"].value == pytest.approx(60, abs=1)
    assert found["gpt-neox-large.dyck-2-4.direction.where"].text == "site 3"
    assert found["gpt-neox-large.dyck-2-4.direction.best"].value == pytest.approx(5, abs=1)
    assert found["mamba-large.parity.patched"].value == pytest.approx(0.97, abs=0.02)
    assert found["as-well"].text == "8 of 8" and found["models"].value == 4 * 2 * (5 + 3)
    assert np.isclose(found["whole"].value, 0.999)
    assert claims.numbers("pretrained_bottleneck", bottleneck_tables(scratch=(1.0, 0)))["as-well"].text == NOT_RUN


def test_analogues_are_known_by_their_names_and_not_by_how_a_name_ends():
    assert set(bottleneck.ANALOGUES) == set(analogue.ANALOGUES)
    own = bottleneck.verdict(bottleneck_tables({"my-mamba-small": FLAT_COST}, bases=("my-mamba-small",)))
    assert own.scale == "own checkpoint"


def test_names_as_readers_see_them():
    assert bottleneck.name_of("gpt-neox-large") == "GPT-NeoX, large"
    assert bottleneck.name_of("mamba-small-scratch") == "Mamba, small, from scratch"
    assert bottleneck.name_of("pythia-160m") == "pythia-160m"
    assert bottleneck.start_of("mamba-small-scratch") == ("mamba-small", False)
