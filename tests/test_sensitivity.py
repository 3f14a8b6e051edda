"""The sensitivity study: claim 1's criterion at other settings, and the order of "late" and mastery, on planted tables."""

import pandas as pd
import pytest
from synthetic import EARLY, FLAT, FLIPPED, LATE, OTHERS, sensitivity_tables

from statedepth import claims, figures, grid, notebook, sensitivity
from statedepth import sensitivity_readings as readings
from statedepth import tables as table_files
from statedepth.models import ModelSpec
from statedepth.training import Run, TrainSpec

NOT_FLIPPED = {**FLIPPED, **{("parity", a): EARLY for a in OTHERS}}


def holds(verdict, key):
    return {part.key: part.holds for part in verdict.parts}[key]


def test_the_same_profiles_at_another_setting_are_stable():
    verdict = sensitivity.verdict(sensitivity_tables())
    assert (verdict.outcome, verdict.provisional) == ("stable", True)
    assert holds(verdict, "n_layers=8.outcome") is True
    assert [row["text"] for row in verdict.deciding] == ["Mamba 3, Mamba-2 3, LSTM 3, GRU 3"]


def test_a_setting_that_turns_the_outcome_is_named_and_what_moved_is_counted():
    made = sensitivity_tables(variants={"n_layers=8": FLIPPED, "length=40": NOT_FLIPPED})
    verdict = sensitivity.verdict(made)
    assert verdict.outcome == "changes"
    assert "Of 2 variants it comes out otherwise with 40 tokens (not reproduced)." in verdict.reasons
    assert (holds(verdict, "n_layers=8.outcome"), holds(verdict, "length=40.outcome")) == (True, False)
    assert verdict.deciding[1]["text"] == "Mamba 2, Mamba-2 2, LSTM 2, GRU 2"  # all but late
    assert "In 4 of 8 pairs of a variant and an architecture that it could change" in verdict.reasons[2]
    assert "no pair holds more than 3" in verdict.reasons[2]
    row = sensitivity.profiles_moved(made).set_index("setting").loc["40 tokens"]
    assert row["late on Parity"] == "none"


def test_a_setting_in_which_the_transformer_did_not_learn_is_not_tested_and_does_not_count():
    made = sensitivity_tables(failed=[("n_layers=8", "parity", "transformer")])
    verdict = sensitivity.verdict(made)
    assert verdict.outcome == "not tested"
    assert holds(verdict, "n_layers=8.outcome") is None and holds(verdict, "n_layers=8.tested") is False
    assert sensitivity.numbers(made)["failed"].text == "3"


def test_who_is_late_is_said_of_the_transformer_too():
    late, early = ({**FLIPPED, ("parity", "transformer"): shape} for shape in (LATE, EARLY))
    made = sensitivity_tables(shapes=early, variants={"n_layers=8": late, "length=40": dict.fromkeys(FLIPPED, EARLY)})
    found = readings.late_on_parity(made)
    assert [("Transformer" in found[v], len(found[v])) for v in found] == [(False, 4), (True, 5), (False, 0)]
    said = figures.chart("flip_sensitivity", "profiles", made).finding
    assert "Transformer, Mamba" in said and "no architecture (40 tokens)" in said
    of_one = sensitivity_tables(shapes=late, variants={}, seeds=1)
    assert readings.late_on_parity(of_one) == {"base": []}


@pytest.mark.parametrize(
    ("way", "reached", "when"),
    [
        ((LATE, EARLY, EARLY), (0.5, 0.995, 1.0), "before"),
        ((FLAT, LATE, EARLY), (0.5, 0.995, 1.0), "at"),
        ((FLAT, EARLY, LATE), (0.5, 0.995, 1.0), "after"),
        ((FLAT, EARLY, EARLY), (0.5, 0.995, 1.0), "never late"),
        ((LATE, LATE, LATE), (0.5, 0.6, 0.98), "not mastered"),
        (((0.0, 0.0, 0.0, 0.0, 0.05), FLAT, LATE), (0.5, 0.995, 1.0), "after"),  # too little rise to be called late
    ],
)
def test_late_is_put_in_order_with_mastery(way, reached, when):
    found = readings.through_training(sensitivity_tables(on_the_way=way, reached=reached)["trajectory"])
    assert set(found["when"]) == {when}
    assert set(found["late_end"]) == {way[-1] is LATE}
    largest = {LATE: 4, EARLY: 1, FLAT: 1}
    mastered = [largest.get(one, 0) for one, right in zip(way, reached, strict=True) if right >= 0.99]
    assert set(found["at_end"]) == {largest[way[-1]]} and set(found["at_mastery"]) == {mastered[0] if mastered else 0}
    said = readings.in_words(found)
    assert ("cannot tell whether late comes before or after" in said) == (
        when != "not mastered" and way[-1] is not LATE
    )


def test_what_is_said_of_training_counts_each_thing_apart():
    made = sensitivity_tables(on_the_way=(FLAT, EARLY, EARLY), reached=(0.5, 0.995, 1.0))["trajectory"]
    parity = made["task"] == "parity"
    first = parity & (made["architecture"] == "mamba") & (made["seed"] == 0) & (made["step"] == 0)
    last = parity & (made["architecture"] == "gru") & (made["seed"] < 2) & (made["step"] == 20)
    late = 0.5 + 0.5 * made["site"].map(dict(enumerate(LATE)))
    made["accuracy"] = made["accuracy"].mask(first | last, late)
    said = readings.in_words(readings.through_training(made))
    assert said.startswith(
        "On Parity, of 15 models of claim 1's setting that master it, 2 are late when training ends; 1 were late"
    )
    assert "At mastery 13 have their largest rise" in said
    row = readings.training_table({"trajectory": made}).set_index(["task", "architecture"]).loc[("Parity", "GRU")]
    assert (row["block of the largest rise at mastery"], row["at the end"]) == ("1, 1, 1", "4, 4, 1")
    assert sensitivity.numbers({**sensitivity_tables(), "trajectory": made})["before"].text == "1 of 6"


def planted_changes():
    """40 tokens turn Mamba round and leave LSTM undecided; a residual stream has other models of LSTM, Mamba-2 and GRU alone."""
    other = {**FLIPPED, ("parity", "mamba"): FLAT, ("parity", "transformer"): EARLY, ("parity", "lstm"): EARLY}
    made = sensitivity_tables(variants={"length=40": other, "residual=true": FLIPPED})
    of_two = made["varied"]["architecture"].isin(["transformer", "mamba"])
    twins, base = (of_two & (made["varied"]["variant"] == variant) for variant in ("residual=true", "base"))
    made["varied"].loc[twins, "checkpoint"] = made["varied"].loc[base, "checkpoint"].to_numpy()
    return made


def test_an_interval_that_holds_zero_is_no_side():
    made = planted_changes()
    side = readings.sides(made).set_index(["variant", "architecture", "task"])["side"]
    assert side["base", "mamba", "parity"] == "as claimed" and side["length=40", "mamba", "parity"] == "opposite"
    assert side["length=40", "lstm", "parity"] == "undecided"
    turned = readings.turned(made)
    assert turned["length=40"].startswith("as claimed → opposite: Mamba on Parity") and turned["residual=true"] == ""
    assert "as claimed → undecided: LSTM on Parity" in turned["length=40"]
    assert turned["base"].startswith("as claimed: Mamba on Parity")
    assert list(sensitivity.intervals_turned(made).iloc[:, 1]) == [
        turned["base"],
        turned["length=40"],
        "as at claim 1's setting",
    ]
    across = {a for v, a, t in side[side == "opposite"].index if (v, t) == ("length=40", "parity")}
    assert "mamba" in across and sensitivity.numbers(made)["across"].value == len(across)


def test_what_cannot_be_tested_any_more_is_said():
    made = sensitivity_tables(failed=[("n_layers=8", "parity", "lstm")])
    assert readings.turned(made)["n_layers=8"] == "as claimed → not tested: LSTM on Parity"
    assert set(readings.sides(sensitivity_tables(seeds=1))["side"]) == {"not tested"}


def test_models_that_a_setting_leaves_as_they_were_are_no_tests_of_it():
    made = planted_changes()
    assert {a for v, a in readings.new_models(made["varied"]) if v == "residual=true"} == {"mamba2", "lstm", "gru"}
    expected = {*(("length=40", a) for a in OTHERS), *(("residual=true", a) for a in ("mamba2", "lstm", "gru"))}
    assert readings.comparable(made["varied"]) == expected
    verdict = sensitivity.verdict(made)
    assert "Only some of the architectures are other ones with residual LSTM and GRU." in verdict.reasons
    assert any(
        "In 2 of 7 pairs of a variant and an architecture" in reason for reason in verdict.reasons
    )  # Mamba, LSTM
    table = sensitivity.beside_base(made).set_index("setting")["other models"]
    assert list(table) == ["", "all", "Mamba-2, LSTM, GRU"]
    assert "mamba" not in set(readings.moves(made).query("variant == 'residual=true'")["architecture"])
    assert "the same models" in figures.chart("flip_sensitivity", "contrasts", made).svg


def test_numbers_that_the_page_says_in_words():
    made = sensitivity_tables(variants={"negative_eigenvalues=true": {**FLIPPED, ("parity", "mamba"): EARLY}})
    found = sensitivity.numbers(made)
    assert found["negative.first"].text == "3 of 6"
    mamba = readings.sides(made).query("task == 'parity' and architecture == 'mamba'")
    assert found["half"].value == pytest.approx((mamba["high"] - mamba["low"]).sum() / 4)
    assert sensitivity.numbers(sensitivity_tables())["negative.first"].text == "not run"


def test_a_late_architecture_where_claim_1_could_not_be_tested_is_named():
    failed = [("n_layers=8", "parity", "transformer")]
    said = sensitivity.verdict(
        sensitivity_tables(variants={"length=40": FLIPPED, "n_layers=8": FLIPPED}, failed=failed)
    ).reasons
    assert said[1] == "So it is in 1 of 2 variants; 8 blocks could not be tested, since too few models learned."
    assert "Where claim 1 could not be tested, late are Mamba (8 blocks)" in said[2]


def test_without_parity_nothing_is_drawn_of_it_and_nothing_breaks():
    made = sensitivity_tables()
    made = {name: table[table["task"] != "parity"].reset_index(drop=True) for name, table in made.items()}
    for name in figures.CHARTS["flip_sensitivity"]:
        assert figures.chart("flip_sensitivity", name, made).svg.startswith("<svg")
    assert sensitivity.verdict(made).outcome == "not tested"
    assert readings.in_words(readings.through_training(made["trajectory"])) == ""


def test_an_architecture_from_outside_is_in_no_reason_of_the_verdict():
    made = sensitivity_tables()
    more = {
        name: pd.concat([table, table[table["architecture"] == "gru"].assign(architecture="elman")])
        for name, table in made.items()
    }
    assert sensitivity.verdict(more).reasons == sensitivity.verdict(made).reasons


def test_how_far_a_concentration_moves_stands_with_its_interval():
    other = {**FLIPPED, ("parity", "gru"): EARLY, ("parity", "lstm"): FLAT}
    made = sensitivity_tables(variants={"length=40": other})
    table = readings.moves(made).set_index("architecture")
    assert table.loc["lstm", "difference"] == pytest.approx(-0.6, abs=0.03) and table.loc["lstm", "clear"]
    assert not table.loc["mamba", "clear"] and (table["low"] < table["high"]).all()
    said = sensitivity.profiles_moved(made).set_index("setting")["C on Parity, less that at claim 1's setting"]
    assert "LSTM −0." in said["40 tokens"].replace("-", "−") and "Mamba " not in said["40 tokens"]


def test_models_that_did_not_learn_are_named():
    made = sensitivity_tables(failed=[("n_layers=8", "parity", "lstm"), ("n_layers=8", "dyck-2-4", "gru")])
    row = sensitivity.beside_base(made).set_index("setting")["did not learn"]
    assert row["8 blocks"] == "6 of 30: LSTM 3 on Parity, GRU 3 on Dyck-(2,4)" and row["claim 1's setting"] == "none"


def test_predictions_name_parts_that_the_verdict_has():
    made = sensitivity_tables(variants=dict.fromkeys(sensitivity.VARIANTS, FLIPPED))
    verdict = sensitivity.verdict(made)
    assert {key for p in sensitivity.PREDICTIONS for key in p.expected} <= {part.key for part in verdict.parts}
    assert set(claims.outcomes_of_predictions("flip_sensitivity", verdict)["came true"]) <= {
        "yes",
        "no",
        "in part",
        "undecided",
    }


def test_tables_fit_their_schemas_and_every_figure_is_drawn(tmp_path):
    for name, table in sensitivity_tables(failed=[("n_layers=8", "parity", "lstm")]).items():
        table_files.write(table, name, tmp_path)
    read = table_files.read_folder(tmp_path)
    assert sensitivity.verdict(read).record("paper")["title"] == "Claim 1 at other settings"
    for name in figures.CHARTS["flip_sensitivity"]:
        made = figures.chart("flip_sensitivity", name, read)
        assert made.svg.startswith("<svg") and made.finding


# ---- the runs --------------------------------------------------------------------------------------------------------------

VALUES = {
    "tasks": ["parity"],
    "architectures": ["mamba", "gru"],
    "seeds": [0],
    "d_model": 64,
    "n_layers": 4,
    "length": 20,
    "steps": 0,
}


def varied(*variants):
    return grid.varied_runs({**VALUES, "variants": list(variants)})


def test_a_variant_is_claim_1s_run_with_one_setting_changed():
    found = varied("n_layers=8", "supervision=last", "length=40")
    base = found[grid.BASE]
    assert [run.model.n_layers for run in found["n_layers=8"]] == [8, 8]
    assert [run.train.supervision for run in found["supervision=last"]] == ["last", "last"]
    assert [run.train.length for run in found["length=40"]] == [40, 40]
    assert grid.cross(["parity"], ["mamba", "gru"], [0], 64, 4, length=20) == base


def test_an_architecture_without_the_setting_is_in_the_variant_as_it_was():
    found = varied("residual=true", "negative_eigenvalues=true")
    mamba, gru = found[grid.BASE]
    assert found["residual=true"] == [mamba, Run("parity", ModelSpec("gru", residual=True), gru.train)]
    assert found["negative_eigenvalues=true"][1] == gru


def test_a_transformer_gets_positions_for_a_longer_training():
    run = grid.varied(Run("parity", ModelSpec("transformer"), TrainSpec(length=20)), "length=40")
    assert run.model.n_positions == 160


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("depth=8", "'depth=8' must be SETTING=VALUE"),
        ("seed=3", "'seed=3' must be SETTING=VALUE"),
        ("n_layers=four", "n_layers='four': must be a whole number"),
        ("n_layers=4", "'n_layers=4' changes none of mamba, gru"),
        ("supervision=first", "supervision='first': must be every or last"),
        ("d_model=[", "has a value that cannot be read"),
        ("lr=fast", "has a value that cannot be read"),
    ],
)
def test_a_variant_that_is_none_is_refused_before_anything_is_computed(variant, says):
    with pytest.raises(ValueError, match=says):
        varied(variant)
    with pytest.raises(ValueError, match="names 'n_layers=8' more than once"):
        varied("n_layers=8", "n_layers=8")


@pytest.mark.parametrize("moments", [[], [0.5, 0.1], [0.0, 1.5], [0.1, 0.1], [0.0, 0.5], [0.1, 1.0]])
def test_moments_rise_from_0_to_1(moments):
    with pytest.raises(ValueError, match="must be shares of training that rise from 0 to 1"):
        grid.moments_of({"moments": moments})


def test_a_rate_may_be_written_as_physicists_write_it():
    assert grid.varied(Run("parity", ModelSpec("gru"), TrainSpec()), "lr=1e-3").train.lr == 1e-3


def test_another_architecture_that_flips_is_another_outcome_though_both_are_called_partly():
    only = {a: {**FLIPPED, **{("parity", other): EARLY for other in OTHERS if other != a}} for a in ("mamba", "lstm")}
    made = sensitivity_tables(only["mamba"], variants={"n_layers=8": only["mamba"], "length=40": only["lstm"]})
    verdict = sensitivity.verdict(made)
    assert {one.outcome for one in sensitivity.outcomes(made).values()} == {"partly"}
    assert (holds(verdict, "n_layers=8.outcome"), holds(verdict, "length=40.outcome")) == (True, False)


def test_one_provisional_variant_makes_intervals_decide_in_all():
    made = sensitivity_tables(seeds=5)
    assert not any(one.provisional for one in sensitivity.outcomes(made).values())
    gone = (made["varied_profiles"]["variant"] == "n_layers=8") & (made["varied_profiles"]["seed"] == 4)
    made["varied_profiles"] = made["varied_profiles"][~gone]
    assert all(one.provisional for one in sensitivity.outcomes(made).values())


def test_a_model_that_stands_in_several_variants_is_one_model():
    made = sensitivity_tables()
    twice = made["varied"]["variant"] == "n_layers=8"
    made["varied"].loc[twice, "checkpoint"] = made["varied"].loc[~twice, "checkpoint"].to_numpy()
    assert sensitivity.numbers(made)["models"].value == len(made["varied"]) / 2


def test_the_notebook_varies_what_the_predictions_are_about():
    assert notebook.declared("flip_sensitivity")["variants"].default == list(sensitivity.VARIANTS)
