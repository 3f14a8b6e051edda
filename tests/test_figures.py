"""Every figure draws from its tables alone, whatever they hold, and says in words what it shows."""

import json

import pytest
import vl_convert
from synthetic import FLAT, FLIPPED, GROUPED, LATE, grouping_tables, seed_tables, speed_tables, tables

from statedepth import figures
from statedepth.claims import NAMES

EVERY = [(notebook, name) for notebook in ("flip", "s3_grouping") for name in figures.CHARTS[notebook]]
WHOLE = tables(FLIPPED, seeds=3, failed=[("parity", "gru", seed) for seed in range(3)])
PARTIAL = tables({("parity", "mamba"): LATE}, seeds=1)
NONE_PASSED = tables(FLIPPED, seeds=1, failed=[(task, a, 0) for task, a in FLIPPED])
GROUPS = grouping_tables(GROUPED, seeds=3, failed=[("A4", "lstm", seed) for seed in range(3)])
MADE = {
    ("flip", "whole"): WHOLE,
    ("flip", "one model"): PARTIAL,
    ("flip", "none passed"): NONE_PASSED,
    ("s3_grouping", "whole"): GROUPS,
    ("s3_grouping", "one model"): grouping_tables({("dyck-2-4", "mamba"): FLAT}, seeds=1),
    ("s3_grouping", "none passed"): grouping_tables(GROUPED, seeds=1, failed=[(task, a, 0) for task, a in GROUPED]),
}


@pytest.mark.parametrize(("notebook", "name"), EVERY)
@pytest.mark.parametrize("what", ["whole", "one model", "none passed"])
def test_every_figure_draws_from_any_run(notebook, name, what):
    figure = figures.chart(notebook, name, MADE[notebook, what])
    svg = vl_convert.vegalite_to_svg(figure.chart.to_dict())
    assert svg.startswith("<svg") and figure.name == f"{notebook}.{name}"
    assert len(figure.alt_text) > 60


@pytest.mark.parametrize(("notebook", "name"), EVERY)
def test_figures_ask_no_other_host(notebook, name):
    spec = json.dumps(figures.CHARTS[notebook][name](MADE[notebook, "whole"]).chart.to_dict())
    assert '"url"' not in spec


def test_a_picture_is_the_same_whatever_was_drawn_before_it():
    made = tables(FLIPPED)
    first, second = (figures.chart("flip", "readability", made).svg for _ in range(2))
    assert "url(#" in first and first == second


def test_an_architecture_has_one_colour_in_every_figure():
    assert set(figures.COLOURS) == set(NAMES.values())
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_models_that_failed_are_hatched_and_counted_in_the_first_figure():
    spec = json.dumps(figures.readability_map(WHOLE).chart.to_dict(), ensure_ascii=False)
    assert "GRU (0 of 3)" in spec and "╱╱╱" in spec


@pytest.mark.parametrize("name", figures.CHARTS["speed"])
def test_the_figures_of_speed_draw_from_their_tables_and_say_the_largest_ratio(name):
    figure = figures.chart("speed", name, speed_tables())
    assert vl_convert.vegalite_to_svg(figure.chart.to_dict()).startswith("<svg")
    assert '"url"' not in json.dumps(figure.chart.to_dict())
    assert name != "steps" or "ratio is 40, of Mamba, slow at batch 64, length 128, width 32" in figure.alt_text


def test_the_figure_of_one_seed_says_how_long_it_took_and_what_each_model_reached():
    figure = figures.chart("seed", "training", seed_tables())
    svg = vl_convert.vegalite_to_svg(figure.chart.to_dict())
    assert "3 models from nothing on 2 cores, 3 minutes in all" in figure.alt_text
    assert "GRU on S₃" in svg and "1.0 min, 50.0%" in svg


def test_the_alt_text_states_the_finding():
    text = figures.readability_map(WHOLE).alt_text
    assert "Parity: the largest rise is at block 1 in Transformer; block 4 in Mamba, Mamba-2, LSTM." in text


def test_the_first_figure_of_claim_2_says_in_words_where_s3_is_nearer_to_parity():
    figure = figures.chart("s3_grouping", "grouping", grouping_tables(GROUPED))
    assert (
        "Nearer to Parity than to Dyck is S₃ by an interval over 0 in Mamba; undecided, or of one seed, in LSTM."
        in figure.alt_text
    )
    alone = figures.chart("s3_grouping", "grouping", grouping_tables({("S3", "mamba"): FLAT}, lost={}))
    assert "does not have all three tasks" in alone.alt_text
    assert "Mamba: +1.19 (+1.14 to +1.23, n = 5), p = 0.008" in vl_convert.vegalite_to_svg(figure.chart.to_dict())


def test_models_that_failed_are_hatched_with_the_best_accuracy_in_claim_2():
    svg = vl_convert.vegalite_to_svg(figures.chart("s3_grouping", "readability", GROUPS).chart.to_dict())
    assert "╱╱╱" in svg and "80.0%" in svg


def test_the_map_of_distances_sets_bold_what_is_more_than_two_seeds_are_apart():
    spec = json.dumps(figures.chart("s3_grouping", "distances", grouping_tables(GROUPED)).chart.to_dict())
    rows = [row for data in json.loads(spec)["datasets"].values() for row in data if row["name"] == "Mamba"]
    sure = {(row["a"], row["b"]): row["sure"] for row in rows}
    assert sure["S3", "dyck-2-4"] and sure["dyck-2-4", "S3"] and not sure["S3", "parity"] and not sure["S3", "S3"]
    assert not any(" " in row["a"] + row["b"] for row in rows)


def test_the_figure_of_targets_says_whether_they_move_the_depths():
    moved, same = (figures.chart("s3_grouping", "targets", grouping_tables(GROUPED, moved=m)) for m in (True, False))
    assert (
        "moves the depths in Mamba (by 2.71 blocks, corrected p = 0.0154), LSTM" in moved.alt_text
        and "in no architecture" in same.alt_text
    )
