"""Every figure draws from its tables alone, whatever they hold, and says in words what it shows."""

import json

import pytest
import vl_convert
from synthetic import FLIPPED, LATE, seed_tables, speed_tables, tables

from statedepth import figures
from statedepth.claims import NAMES

EVERY = [("flip", name) for name in figures.CHARTS["flip"]]
WHOLE = tables(FLIPPED, seeds=3, failed=[("parity", "gru", seed) for seed in range(3)])
PARTIAL = tables({("parity", "mamba"): LATE}, seeds=1)
NONE_PASSED = tables(FLIPPED, seeds=1, failed=[(task, a, 0) for task, a in FLIPPED])


@pytest.mark.parametrize(("notebook", "name"), EVERY)
@pytest.mark.parametrize("made", [WHOLE, PARTIAL, NONE_PASSED], ids=["whole", "one model", "none passed"])
def test_every_figure_draws_from_any_run(notebook, name, made):
    figure = figures.CHARTS[notebook][name](made)
    svg = vl_convert.vegalite_to_svg(figure.chart.to_dict())
    assert svg.startswith("<svg") and figure.name == f"{notebook}.{name}"
    assert len(figure.alt_text) > 60


@pytest.mark.parametrize(("notebook", "name"), EVERY)
def test_figures_ask_no_other_host(notebook, name):
    spec = json.dumps(figures.CHARTS[notebook][name](WHOLE).chart.to_dict())
    assert '"url"' not in spec


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
