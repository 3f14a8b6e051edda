"""The criterion of claim 1 on tables made to bring out each outcome."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from synthetic import EARLY, FLAT, FLIPPED, LATE, OTHERS, seed_tables, speed_tables, tables

from statedepth import claims, flip
from statedepth.verdicts import Part, Verdict


def part(verdict, key):
    return {p.key: p.holds for p in verdict.parts}[key]


def test_all_four_flipping_is_reproduced_and_final_at_five_seeds():
    verdict = claims.flip(tables(FLIPPED))
    assert (verdict.outcome, verdict.provisional) == ("reproduced", False)


def test_at_three_seeds_the_same_is_provisional():
    verdict = claims.flip(tables(FLIPPED, seeds=3))
    assert (verdict.outcome, verdict.provisional) == ("reproduced", True)


@pytest.mark.parametrize("keep", OTHERS)
def test_one_architecture_that_flips_is_partly_and_is_named(keep):
    shapes = {**FLIPPED, **{("parity", a): EARLY for a in OTHERS if a != keep}}
    verdict = claims.flip(tables(shapes))
    assert verdict.outcome == "partly"
    assert re.search(rf"Only {re.escape(claims.NAMES[keep])} of", verdict.reasons[0])
    assert [a for a in OTHERS if part(verdict, f"{a}.flips")] == [keep]


def test_no_difference_on_dyck_is_not_reproduced():
    shapes = {**FLIPPED, **{("dyck-2-4", a): EARLY for a in OTHERS}}
    verdict = claims.flip(tables(shapes))
    assert verdict.outcome == "not reproduced"
    assert part(verdict, "mamba.parity") and not part(verdict, "mamba.dyck")


def test_concentrated_but_early_on_parity_is_not_a_flip():
    shapes = {**FLIPPED, **{("parity", a): EARLY for a in OTHERS}}
    verdict = claims.flip(tables(shapes))
    assert verdict.outcome == "not reproduced"
    assert part(verdict, "lstm.parity") and not part(verdict, "lstm.late")


def test_the_flip_turned_round_is_not_reproduced():
    shapes = {(task, a): {"parity": EARLY if a == "transformer" else FLAT}.get(task, LATE) for task, a in FLIPPED}
    shapes["dyck-2-4", "transformer"] = FLAT
    assert claims.flip(tables(shapes)).outcome == "not reproduced"


def test_failed_models_are_left_out_of_the_analysis_but_counted():
    failed = [("parity", "gru", seed) for seed in range(4)]
    made = tables(FLIPPED, failed=failed)
    verdict = claims.flip(made)
    assert part(verdict, "gru.flips") is None and verdict.outcome == "partly" and verdict.provisional
    numbers = claims.numbers("flip", made)
    assert numbers["gru.parity.passed"].text == "1 of 5"
    assert numbers["failed"].value == 4


def test_without_a_transformer_that_learned_the_task_nothing_is_tested():
    failed = [("parity", "transformer", seed) for seed in range(5)]
    assert claims.flip(tables(FLIPPED, failed=failed)).outcome == "not tested"


def test_one_seed_tests_nothing():
    verdict = claims.flip(tables(FLIPPED, seeds=1))
    assert verdict.outcome == "not tested" and verdict.provisional


def test_profiles_without_a_rise_have_no_concentration_and_test_nothing():
    flat = dict.fromkeys(FLIPPED, (0.5, 0.5, 0.5, 0.5, 0.5))
    assert claims.flip(tables(flat, noise=0.001)).outcome == "not tested"


def test_a_true_null_is_rarely_called_a_flip():
    same = dict.fromkeys(FLIPPED, FLAT)
    assert claims.flip(tables(same, noise=0.1)).outcome == "not reproduced"


def test_partial_runs_still_have_every_number_that_prose_quotes():
    whole = claims.numbers("flip", tables(FLIPPED))
    alone = claims.numbers("flip", tables({("parity", "mamba"): LATE}, seeds=1))
    assert set(whole) == set(alone)
    assert alone["gru.parity.concentration"].text == claims.NOT_RUN
    assert alone["mamba.parity.concentration"].value == pytest.approx(0.9, abs=0.05)


def test_a_reading_that_disagrees_is_named_in_the_verdict_and_in_the_table():
    made = tables(FLIPPED)
    assert claims.flip(made).reasons[1].startswith("5 of 5 other readings")
    assert claims.flip(made).reasons[1].endswith(", part by part.")
    turned = tables({**FLIPPED, **{("dyck-2-4", a): EARLY for a in OTHERS}})["indices"].query("reading == 'λ = 1'")
    made["indices"] = pd.concat([made["indices"].query("reading != 'λ = 1'"), turned])
    verdict, by_reading = claims.flip(made), claims.outcomes_by_reading(made).set_index("reading")
    assert verdict.outcome == "reproduced"
    assert verdict.reasons[1].startswith("4 of 5 other readings")
    assert "λ = 1 (not reproduced)" in verdict.reasons[1]
    assert by_reading["outcome"]["λ = 1"] == "not reproduced"
    assert "in 1 of them some part" in verdict.reasons[1]
    assert by_reading["less concentrated on Dyck"].to_dict() == {
        reading: "none" if reading == "λ = 1" else "Mamba, Mamba-2, LSTM, GRU" for reading in by_reading.index
    }
    assert "untrained network" not in by_reading.index


def test_by_every_index_a_late_profile_on_parity_and_an_early_one_on_dyck_is_the_direction_of_the_claim():
    """Later than the Transformer is more concentrated here, of less spread, of a later centre and of a lower mean."""
    late = {"parity": LATE, "dyck-2-4": FLAT}
    early = {"parity": FLAT, "dyck-2-4": LATE}
    shapes = {(task, a): (early if a == "transformer" else late)[task] for task, a in FLIPPED}
    found = claims.contrasts(tables(shapes)["indices"]).query("reading == 'pooled' and task != 'interaction'")
    assert (found["difference"] * found["expected_sign"] > 0).all()
    assert (found["p_holm"] < 0.05).all()
    verdict = claims.flip(tables(shapes))
    assert all(part(verdict, f"{a}.{index}_flips") for a in OTHERS for index in ("spread", "centre", "mean"))


def test_a_prediction_of_two_clauses_comes_true_in_part():
    shapes = {**FLIPPED, ("parity", "lstm"): (0.0, 0.1, 0.9, 0.95, 1.0)}  # neither late nor at the first block
    verdict = claims.flip(tables(shapes))
    came = claims.outcomes_of_predictions("flip", verdict).set_index("prediction")["came true"]
    lstm = next(text for text in came.index if "LSTM" in text)
    assert came[lstm] == "in part"
    early = claims.flip(tables({**FLIPPED, ("parity", "lstm"): EARLY}))
    assert claims.outcomes_of_predictions("flip", early).set_index("prediction")["came true"][lstm] == "yes"


def test_a_clause_that_failed_is_not_hidden_by_one_that_could_not_be_tested():
    of_two = next(i for i, p in enumerate(claims.grouping.PREDICTIONS) if len(p.expected) > 2)
    keys = list(claims.grouping.PREDICTIONS[of_two].expected)  # all expected not to hold

    def came(*holds):
        parts = [Part(key, "", value) for key, value in zip(keys, holds, strict=True)]
        verdict = Verdict("s3_grouping", "formal", "partly", True, [], parts)
        return claims.outcomes_of_predictions("s3_grouping", verdict)["came true"].iloc[of_two]

    assert came(False, False, False, False) == "yes" and came(False, False, None, False) == "undecided"
    assert came(False, True, None, False) == "in part" and came(None, True, None, True) == "no"
    assert came(None, None, None, None) == "undecided"


def test_a_small_difference_is_not_rounded_to_nothing():
    row = {"difference": 0.0102, "low": 0.0041, "high": 0.0163, "n": 5}
    assert claims.interval_text(row) == "+0.010 (+0.004 to +0.016, n = 5)"
    assert claims.interval_text({**row, "low": -0.3, "high": 0.32}) == "+0.01 (-0.30 to +0.32, n = 5)"
    assert claims.interval_text({**row, "n": 1}) == "+0.010 (1 seed)"


def test_the_concentration_of_each_seed_stands_beside_the_untrained_one():
    table = claims.concentration_by_seed(tables(FLIPPED, seeds=3, noise=0)).set_index(["task", "architecture"])
    row = table.loc[("Parity", "Mamba")]
    assert row["C of each seed"] == "0.90, 0.90, 0.90" and row["largest rise at block"] == "4, 4, 4"
    assert row["C untrained, mean"] == "no rise"


def test_the_least_corrected_p_is_that_of_complete_separation():
    assert claims.numbers("flip", tables(FLIPPED))["least_p"].value == pytest.approx(8 / 252)
    alone = claims.numbers("flip", tables({("parity", "transformer"): FLAT}, seeds=1))
    assert alone["least_p"].text == claims.NOT_RUN


def test_numbers_follow_the_table():
    made = tables(FLIPPED, noise=0)
    before = claims.numbers("flip", made)["mamba.parity.accuracy"]
    made["models"].loc[lambda t: (t["architecture"] == "mamba") & (t["task"] == "parity"), "accuracy"] = 0.995
    after = claims.numbers("flip", made)["mamba.parity.accuracy"]
    assert (before.text, after.text) == ("100.0%", "99.5%")


def test_numbers_of_speed_are_ratios_to_ours_and_the_growth_with_length():
    numbers = claims.numbers("speed", speed_tables())
    assert numbers["64x32x32x8.mamba-slow"].text == "10×"
    assert numbers["64x128x32x8.mamba-slow.ms"].text == "400 ms"
    assert numbers["growth.time"].value == pytest.approx(1.25)  # 2.5 times from 64 to 128
    assert numbers["growth.memory"].text == "1.00"


def test_numbers_of_one_seed_count_its_minutes_and_name_what_failed():
    numbers = claims.numbers("seed", seed_tables())
    assert (numbers["minutes"].text, numbers["models"].text, numbers["cores"].text) == ("3.0", "3", "2")
    assert (numbers["mamba.share"].text, numbers["gru.share"].text) == ("50%", "50%")
    assert numbers["failed"].text == "GRU on S₃ (50.0%)"


def test_predictions_are_compared_with_the_parts_they_name():
    verdict = claims.flip(tables(FLIPPED))
    came = claims.outcomes_of_predictions("flip", verdict)
    assert len(came) == len(claims.PREDICTIONS["flip"])
    assert set(came["came true"]) == {"yes", "no"}  # mamba flips: yes; lstm is late: we said no
    assert {key for p in claims.PREDICTIONS["flip"] for key in p.expected} <= {p.key for p in verdict.parts}


def test_published_numbers_are_the_sixteen_of_the_figure():
    table = claims.PUBLISHED_PROFILES
    assert len(table) == 16
    assert table.query("architecture == 'mamba' and task == 'parity'")["published"].tolist() == [0.55, 0.60, 0.71, 1.0]


def test_v1_s_own_figure_has_the_signs_that_the_claim_names():
    """By hand, on Parity from a half: Mamba rises by 5, 5, 11 and 29 of 50, the Transformer by 5, 21, 22 and 2."""
    made = tables(FLIPPED)
    found = flip.published_contrasts(made)
    assert found["parity", "nothing"] == pytest.approx(29 / 50 - 22 / 50)
    assert found["dyck-2-4", "nothing"] < 0 and found["dyck-2-4", "ours"] < 0
    assert claims.numbers("flip", made)["published.parity.nothing"].text == "+0.14"


@pytest.mark.parametrize("module", ["claims", "figures"])
def test_criteria_and_figures_need_no_torch(module):
    code = f"import sys, statedepth.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
