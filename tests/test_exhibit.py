"""Examples, the landing page's figure, source pages, icons, and the comparison that runs every week."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import vl_convert
from synthetic import FLIPPED, tables

from statedepth import claims, drawn, exhibit, figures, icons, listing, profiles, render, verify
from statedepth import tables as table_files
from statedepth.grid import ROOT


@pytest.mark.parametrize("name", drawn.CHARTS)
def test_every_example_is_drawn_and_says_in_words_what_it_shows(name):
    figure = drawn.CHARTS[name]()
    assert figure.name == f"drawn.{name}" and len(figure.alt_text) > 60
    assert vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")
    assert re.match(r"code/drawn\.html#L-\d+$", exhibit.code_of(figure.name))


def test_the_example_of_erasers_shows_what_the_theory_says():
    """After LEACE and mean projection no probe does better than a guess; LEACE moves the points least of the two."""
    caption = drawn.erased().caption
    found = {
        m[0]: (int(m[1]), int(m[2]))
        for m in re.findall(r"(direction|mean projection|LEACE) (\d+)% \((\d+)% of", caption)
    }
    assert found["LEACE"][0] <= 53 and found["mean projection"][0] <= 53
    assert found["LEACE"][1] < found["mean projection"][1]


RUNS = {"flip": tables(FLIPPED, seeds=3)}


def test_the_landing_pages_figure_has_a_cell_for_every_task_measure_architecture_and_site():
    from statedepth import overview_figures  # noqa: PLC0415

    table = overview_figures.values(RUNS)
    assert not table.duplicated(["task", "measure", "name", "site"]).any()
    assert len(table) == 3 * 4 * 5 * 5
    read = table[(table["measure"] == overview_figures.READ) & (table["task"] == "Parity")]
    own = profiles.with_readability(RUNS["flip"]["readability"]).query(
        "task == 'parity' and variable == 'state' and network == 'trained' and labels == 'task' and position == 0 and passed"
    )
    for row in read.to_dict("records"):
        cell = own[(own["architecture"] == row["architecture"]) & (own["site"] == row["site"])]["readability"]
        assert row["mean"] == pytest.approx(cell.mean()) and row["n"] == len(cell)
    assert (table[table["task"] == "S₃"]["n"] == 0).all() and (table[table["task"] == "S₃"]["text"] == "–").all()


def test_the_landing_pages_figure_draws_from_no_run_at_all():
    assert vl_convert.vegalite_to_svg(figures.OVERVIEW["hero"]({}).spec).startswith("<svg")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("erasers.leace", "def leace("),
        ("claims.flip", "def verdict("),  # passed on under another name
        ("training.UNTIL_LEARNED", "UNTIL_LEARNED"),
        ("tasks.Task.sample", "    def sample("),
    ],
)
def test_a_name_leads_to_its_line(name, line):
    page, _, at = listing.place(name).partition("#L-")
    module = page.removeprefix("code/").removesuffix(".html")
    assert (ROOT / f"lib/statedepth/{module}.py").read_text().splitlines()[int(at) - 1].startswith(line)


@pytest.mark.parametrize("name", ["erasers.leece", "nothing", "nothing.at", "tasks.Task.draw"])
def test_a_name_that_is_not_there_leads_nowhere(name):
    assert listing.place(name) is None


def test_every_figure_has_its_code():
    for notebook in figures.CHARTS:
        for name in figures.CHARTS[notebook]:
            assert exhibit.code_of(f"{notebook}.{name}"), (notebook, name)


def test_a_figures_files_are_what_it_draws(tmp_path):
    made = figures.chart("flip", "indices", RUNS["flip"])
    element = exhibit.figure(made, tmp_path, "../")
    svg, csv, parquet = (tmp_path / exhibit.FILES / f"flip.indices.{kind}" for kind in ("svg", "csv", "parquet"))
    assert svg.read_text().startswith("<svg") and len(pd.read_csv(csv)) == len(made.rows) == len(
        pd.read_parquet(parquet)
    )
    for path in (svg, csv, parquet):
        assert f'href="../{exhibit.FILES}/{path.name}"' in element
    assert exhibit.figure(made, None, "") == render.render(made)


def test_long_tables_wait_behind_a_click():
    short, long = (
        render.Rows(pd.DataFrame({"a": range(n)}), "what")._repr_html_() for n in (render.LONG, render.LONG + 1)
    )
    assert "<details" not in short and "<caption>what" in short
    assert long.startswith("<details") and "what (21 rows)" in long


def test_only_icons_that_pages_use_are_kept(tmp_path):
    script = tmp_path / icons.SCRIPT
    script.parent.mkdir(parents=True)
    script.write_text(
        'x={bars:[448,512,["navicon"],"f0c9","M0 9z"],"angle-left":[320,512,[],"f104","M1 1z"],cat:[1,1,[],"f","M2z"]}'
    )
    (tmp_path / "index.html").write_text('<i class="fa-solid fa-bars"></i><i class="fas fa-angle-left"></i>')
    icons.slim(tmp_path)
    sheet = (tmp_path / "_static/icons.css").read_text()
    assert ".fa-bars" in sheet and ".fa-angle-left" in sheet and ".fa-cat" not in sheet and "448" in sheet
    assert script.read_text() == icons.MARK
    icons.slim(tmp_path)
    assert (tmp_path / "_static/icons.css").read_text() == sheet


def test_a_headline_outside_its_tolerance_or_missing_is_told(tmp_path):
    published = verify.headlines("flip", RUNS["flip"])
    assert len(published) > 10 and (published["tolerance"] > 0).all()
    assert verify.compare(published, published)["within"].all()
    moved = published.copy()
    moved.loc[3, "value"] += 1.01 * moved.loc[3, "tolerance"]
    assert verify.compare(moved, published)["within"].tolist().count(False) == 1
    assert verify.compare(moved.drop(index=5), published)["within"].tolist().count(False) == 2


def test_published_headlines_are_there_for_every_notebook():
    found = pd.read_csv(verify.PLACE)
    assert set(found["notebook"]) == {*claims.CLAIMS, *claims.STUDIES}
    assert np.isfinite(found["value"]).all() and not found.duplicated(["notebook", "key"]).any()


def test_tables_of_the_site_are_those_of_the_book(published_site):
    for name in claims.CLAIMS:
        for path in (ROOT / "book/data" / name).glob("*.csv"):
            assert (published_site / "_static/data" / name / path.name).read_bytes() == path.read_bytes()
    assert table_files.read_folder(published_site / "_static/data/flip").keys() == RUNS["flip"].keys()


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_the_number_that_stands_for_a_claim_is_among_those_that_decided(name):
    verdict = json.loads((ROOT / "book/data" / name / "verdict.json").read_text())
    assert exhibit.deciding(name, verdict)["label"] == claims.CLAIMS[name].deciding


def test_counts_may_move_by_a_cell_and_shares_by_three_hundredths():
    def number(text, value, label="a share"):
        return claims.Number(text, value, label, "cell", True)

    assert verify.tolerance(number("23 of 40", 23)) == pytest.approx(2.3)
    assert verify.tolerance(number("3 of 40", 3)) == verify.tolerance(number("3", 3)) == 1
    assert verify.tolerance(number("0.91", 0.91)) == verify.TOLERANCE
    assert verify.tolerance(number("12", 12, "points lost")) == verify.POINTS
