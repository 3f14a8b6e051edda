"""Claim 4's criterion on tables made by hand: every outcome, every part, and what must not decide it."""

import json

import numpy as np
import pandas as pd
import pytest
from synthetic import EARLY, FLAT, LATE, TALL, bottleneck_tables

from statedepth import analogue, bottleneck, claims, figures
from statedepth import bottleneck_readings as readings
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
    row = readings.bottlenecks(made).query("architecture == 'gpt-neox-large' and task == 'dyck-2-4'").iloc[0]
    assert (row["first"], row["last"]) == (3, 4) and row["points"] == pytest.approx(60, abs=1)


def test_a_window_does_not_break_mamba_of_which_v1_speaks_of_single_directions():
    assert parts(bottleneck_tables(windows={"mamba-large": (1.2,) * TALL}))["mamba-large.inert"] is True


@pytest.mark.parametrize(("n_sites", "middle"), [(6, {2, 3, 4, 5}), (12, set(range(3, 11))), (24, set(range(5, 21)))])
def test_the_middle_is_two_thirds_and_has_the_layers_that_v1_names(n_sites, middle):
    table = pd.DataFrame({"first": range(1, n_sites + 1), "last": range(1, n_sites + 1), "last_site": n_sites})
    assert set(table[readings.is_middle(table)]["first"]) == middle
    named = {12: {7, 8}, 24: set(range(5, 20))}.get(n_sites, set())  # L6-L7 and L4-L18, as sites
    assert named <= middle


def test_sites_that_seeds_cannot_tell_from_the_best_are_all_best():
    by_seed = pd.DataFrame({1: [0.1, 0.1, 0.1], 2: [0.90, 0.92, 0.91], 3: [0.92, 0.90, 0.91], 4: [0.5, 0.5, 0.5]})
    assert readings.top(by_seed) == [2, 3]
    assert readings.top(pd.DataFrame({1: [0.9, 0.9], 2: [0.8, 0.8]})) == [1]
    assert readings.top(pd.DataFrame({1: [0.9], 2: [0.9], 3: [0.8]})) == [1, 2]


def test_patches_that_the_bounds_decide_do_not_count():
    none = {base: (0.1,) * TALL for base in MAMBA}
    found = readings.patches(bottleneck_tables(recovery=none)).query("architecture == 'mamba-large'")
    assert (found["recovery"] < 0.2).all() and not found["holds"].any()
    late = readings.patches(bottleneck_tables(), 1)
    assert (late["offset"] >= 1).all() and (late["recovery"] < 0.1).all()


def test_where_erasure_hurts_most_is_told_by_leace_at_each_position():
    made = bottleneck_tables()
    row = readings.peaks(made).query("architecture == 'mamba-large' and task == 'parity'").iloc[0]
    assert row["hurt"] == [5] and row["read"] == [5] and row["differ"] is False
    moved = bottleneck_tables(falls={"each": (0.1, 1.0, 0.3, 0.2, 0.1, 0.9)})
    row = readings.peaks(moved).query("architecture == 'mamba-large' and task == 'parity'").iloc[0]
    assert row["hurt"] == [2] and row["differ"] is True and row["gap"] == -3
    assert parts(moved)["v2.differ"] is True and parts(made)["v2.differ"] is False


def test_a_peak_that_is_clear_is_told_to_differ():
    clear = readings.peaks(bottleneck_tables(falls={"each": (0.1, 1.0, 0.3, 0.2, 0.1, 0.9)}))
    assert (clear["told"] == "differ").all() and (clear["over_low"] > 30).all() and (clear["worst"] == 2).all()


def test_a_flat_profile_is_told_to_differ_in_few_of_many_draws():
    """Damage and reading without any peak, only noise: what the committed rule says by chance, the other rule does not."""
    rng, differ, told, n = np.random.default_rng(0), 0, 0, 60
    where = {"passed": True, "architecture": "gpt-neox-small", "task": "parity", "intact": 1.0, "task_majority": 0.5, "intact_whole": 1.0, "after_whole": 1.0, "majority": 0.5, "fall": 0.1}  # fmt: skip
    for _ in range(n):
        rows = []
        for seed in range(5):
            for site in range(1, 13):
                row = {**where, "seed": seed, "site": site}
                rows.append({**row, "positions": "pooled", "method": "direction", "before": 0.9 + 0.02 * rng.normal(), "after": 0.9})  # fmt: skip
                rows.append({**row, "positions": "each", "method": "LEACE", "before": 0.9, "after": 0.8 + 0.05 * rng.normal()})  # fmt: skip
        found = readings.peaks({"sweep": pd.DataFrame(rows)}).iloc[0]
        differ, told = differ + found["differ"], told + (found["told"] == "differ")
    assert told / n < 0.1 and differ >= told


def test_v2_is_not_tested_where_a_model_lacks_a_task():
    assert parts(bottleneck_tables(tasks=("dyck-2-4",)))["v2.differ"] is None


def test_cost_alone_is_a_part_of_its_own():
    everywhere = bottleneck_tables({**AS_SAID, "gpt-neox-large": (0.05, 0.1, 1.2, 0.2, 1.2, 0.9)})
    found = parts(everywhere)
    assert found["gpt-neox-large.costs"] is True and found["gpt-neox-large.bottleneck"] is False
    row = readings.bottlenecks(everywhere).query("architecture == 'gpt-neox-small' and task == 'dyck-2-4'").iloc[0]
    assert row["over_p"] == 1 / 32


def test_among_all_tokens_more_can_be_lost():
    """40 points among the states, 80 among all tokens, and .8 of the way down: v1's bottleneck by two of three measures."""
    made = bottleneck_tables({base: (0.05, 0.1, 0.8, 0.2, 0.1, 0.9) for base in NEOX}, whole=2.0)
    found = parts(made)
    assert found["gpt-neox-large.bottleneck"] is False
    assert found["gpt-neox-large.bottleneck-whole"] is True and found["gpt-neox-large.bottleneck-half"] is True
    of = {m: readings.bottlenecks(made, "direction", m).set_index(["task", "architecture"]).loc["dyck-2-4", "gpt-neox-large"]["points"] for m in readings.MEASURES}  # fmt: skip
    assert of == pytest.approx({"points": 40, "whole": 80, "way": 80}, abs=1)
    assert claims.numbers("pretrained_bottleneck", made)["gpt-neox-large.dyck-2-4.can-lose"].text == "50"


def test_a_window_can_be_held_against_windows():
    """A window that costs 60 points, where the ones over the best-read site cost as much: of single sites none does."""
    alike = bottleneck_tables(windows={base: (0.0, 0.1, 1.3, 1.2, 0.0, 0.0) for base in NEOX}, noise=0.1)
    assert parts(alike)["gpt-neox-large.bottleneck"] is True and parts(alike)["gpt-neox-large.bottleneck-like"] is False
    other = bottleneck_tables(windows={base: (0.0, 1.2, 0.1, 0.1, 0.0, 0.0) for base in NEOX})
    assert parts(other)["gpt-neox-large.bottleneck-like"] is True


def test_a_patch_must_be_of_enough_pairs():
    made = bottleneck_tables(later=0.95)
    assert parts(made)["mamba-large.patched-later"] is True and parts(bottleneck_tables())["mamba-large.patched-later"] is False  # fmt: skip
    made["patching"].loc[made["patching"]["offset"] == 1, "n"] = 31
    assert parts(made)["mamba-large.patched-later"] is False
    made["patching"]["n"] = 31
    made = {name: table.convert_dtypes(dtype_backend="pyarrow") if name == "patching" else table for name, table in made.items()}  # fmt: skip
    assert not len(readings.patches(made)) and not len(readings.patches(made, middle=True))


def test_a_patch_must_be_of_enough_pairs_in_every_seed():
    """Or a cell of the one seed that happens to have them could take the place of one that all have."""
    made = bottleneck_tables(later=0.99)
    made["patching"].loc[(made["patching"]["offset"] == 1) & (made["patching"]["seed"] > 0), "n"] = 31
    row = readings.patches(made).query("architecture == 'mamba-large' and task == 'parity'").iloc[0]
    assert (row["offset"], row["n"], row["holds"]) == (0, 5, True)
    assert parts(made)["mamba-large.patched"] is True


def test_a_bottleneck_at_another_place_than_the_most_costly_one_is_a_part_of_its_own():
    made = bottleneck_tables(AS_SAID)
    there = (made["sweep"]["architecture"] == "gpt-neox-large") & (made["sweep"]["method"] == "direction")
    for seed, fall in enumerate((2.0, 2.0, 2.0, 0.2, 0.0)):  # site 2 costs most, in three seeds of five; site 3 in all
        made["sweep"].loc[there & (made["sweep"]["site"] == 2) & (made["sweep"]["seed"] == seed), "after"] = (
            1 - fall / 2
        )
    row = readings.bottlenecks(made).query("architecture == 'gpt-neox-large' and task == 'dyck-2-4'").iloc[0]
    assert row["first"] == 2 and row["holds"] is False and row["anywhere"] is True
    assert (
        parts(made)["gpt-neox-large.bottleneck"] is False and parts(made)["gpt-neox-large.bottleneck-anywhere"] is True
    )


def test_what_neither_learns_is_not_learned_as_well():
    made = bottleneck_tables()
    made["models"].loc[made["models"]["architecture"].str.startswith("mamba-large"), ["accuracy", "passed"]] = [
        0.6,
        False,
    ]
    row = readings.scratches(made).query("base == 'mamba-large'").iloc[0]
    assert row["pretrained"] == row["scratch"] == 0.6 and not row["as_well"]


def test_a_patch_in_the_middle_is_a_part_of_its_own():
    early = bottleneck_tables(recovery={base: (0.97, 0.5, 0.4, 0.3, 0.1, 0.0) for base in MAMBA})
    assert parts(early)["mamba-large.patched"] is True and parts(early)["mamba-large.patched-middle"] is False
    assert parts(bottleneck_tables())["mamba-large.patched-middle"] is True


def test_the_direction_between_class_means_can_break_what_the_probes_does_not():
    made = parts(bottleneck_tables())
    assert made["mamba-large.inert"] is True and made["mamba-large.inert-means"] is False


def test_at_longer_strings_pretraining_may_tell():
    made = bottleneck_tables()
    assert parts(made)["scratch.as-well-beyond"] is True
    table = made["models"]
    table.loc[(table["length"] == 2 * table["trained_length"]) & table["architecture"].str.endswith("scratch"), "accuracy"] -= 0.2  # fmt: skip
    found = readings.lengths_beside(made).query("times == 2")
    assert found["better"].all() and parts(made)["scratch.as-well-beyond"] is False
    assert parts(made)["scratch.as-well"] is True
    assert "At twice that length the pretrained model does better, its interval over 0, in 8 of 8" in " ".join(bottleneck.verdict(made).reasons)  # fmt: skip


def test_damage_stands_beside_that_of_models_from_scratch():
    made = bottleneck_tables({**AS_SAID, **{f"{base}-scratch": FLAT_COST for base in NEOX}})
    row = readings.damage_beside(made).query("base == 'gpt-neox-large' and task == 'dyck-2-4'").iloc[0]
    assert (row["site"], row["n"], row["n_scratch"]) == (3, 5, 3) and row["difference"] == pytest.approx(59, abs=1)
    assert row["low"] > 50


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
        readings.flips(bottleneck_tables(shapes=FLIPPED)), readings.flips(bottleneck_tables(shapes=scratch))
    )


def test_pretraining_that_changes_nothing_is_said_right_after_what_decides():
    as_well, worse = (bottleneck.verdict(bottleneck_tables(AS_SAID, scratch=(level, 3))) for level in (1.0, 0.9))
    assert as_well.reasons[1].startswith("Without pretraining, 8 of 8 pairs")
    assert (
        worse.reasons[1].startswith("Without pretraining, 0 of 8 pairs") and "90.0% against 100.0%" in worse.reasons[1]
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
    ("bases", "falls", "says"),
    [
        (("pythia-160m",), MIDDLE, ("holds here", "published checkpoint")),
        (("pythia-160m",), FLAT_COST, ("does not hold here", "published checkpoint")),
        (("mamba-130m-hf",), FLAT_COST, ("holds here", "published checkpoint")),
        (("my-own",), FLAT_COST, ("does not hold here", "own checkpoint")),
        (("pythia-160m", "mamba-130m-hf"), MIDDLE, ("reproduced", "published checkpoint")),
        (("pythia-160m", "mamba-130m-hf"), FLAT_COST, ("partly", "published checkpoint")),
    ],
)
def test_checkpoints_of_others_are_judged_by_what_is_said_of_their_class(bases, falls, says):
    found = bottleneck.verdict(bottleneck_tables({"pythia-160m": falls, "my-own": falls}, bases=bases))
    assert (found.outcome, found.scale) == says


def test_of_mamba_2_v1_says_nothing():
    made = bottleneck_tables(bases=("mamba-2.8b",))
    made["tuned"]["family"] = "mamba2"
    found = bottleneck.verdict(made)
    assert found.outcome == "not tested" and "v1 says nothing of its class: mamba-2.8b" in found.reasons[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"falls": AS_SAID}, {"seeds": 1, "scratch": (1.0, 1)}, {"scratch": (1.0, 0)}, {"bases": MAMBA}, {"tasks": ("parity",)}, {"scratch": (0.8, 2)}, {"bases": ("pythia-160m",), "seeds": 2}],
)  # fmt: skip
def test_every_figure_number_and_record_bears_every_run(changes, tmp_path):
    made = bottleneck_tables(**changes)
    for name in figures.CHARTS["pretrained_bottleneck"]:
        figure = figures.chart("pretrained_bottleneck", name, made)
        assert "nan" not in figure.alt_text.lower()
        assert figure.svg.startswith("<svg")
    found = claims.numbers("pretrained_bottleneck", made)
    assert all("nan" not in number.text for number in found.values())
    verdict = bottleneck.verdict(made)
    assert "nan" not in json.dumps(verdict.record("paper")).lower()
    came = claims.outcomes_of_predictions("pretrained_bottleneck", verdict)
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


def test_wider_windows_are_called_what_they_are():
    made = bottleneck_tables({}, windows={base: (0.0, 1.2, 0.1, 0.1, 0.0, 0.0) for base in NEOX}, width=3)
    found = claims.numbers("pretrained_bottleneck", made)
    assert found["width"].text == "3" and found["gpt-neox-large.dyck-2-4.direction.where"].text == "sites 2 to 4"
    assert "direction, three" in figures.chart("pretrained_bottleneck", "damage", made).svg


def test_what_a_run_lacks_reads_not_run_under_the_same_keys():
    whole, half = (claims.numbers("pretrained_bottleneck", bottleneck_tables(bases=bases)) for bases in ((*NEOX, *MAMBA), MAMBA))  # fmt: skip
    lacking = {key for key in whole if key not in half}
    assert lacking and all("-scratch." in key for key in lacking)
    assert half["gpt-neox-large.dyck-2-4.direction.where"].text == half["gpt-neox-large.parameters"].text == NOT_RUN


def test_analogues_are_known_by_their_names_and_not_by_how_a_name_ends():
    assert set(readings.ANALOGUES) == set(analogue.ANALOGUES)
    own = bottleneck.verdict(bottleneck_tables({"my-mamba-small": FLAT_COST}, bases=("my-mamba-small",)))
    assert own.scale == "own checkpoint"


def test_names_as_readers_see_them():
    assert readings.name_of("gpt-neox-large") == "GPT-NeoX, large"
    assert readings.name_of("mamba-small-scratch") == "Mamba, small, from scratch"
    assert readings.name_of("pythia-160m") == "pythia-160m"
    assert readings.start_of("mamba-small-scratch") == ("mamba-small", False)
