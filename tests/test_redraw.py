"""Pages follow their tables: cells that show are executed anew, others are not; a re-run stands beside the published run."""

import re
import shutil

import nbformat
import pandas as pd
import pytest
from conftest import edit_json, page, synthetic_data
from synthetic import LATE, tables

from statedepth import notebook, publish, redraw
from statedepth import tables as table_files
from statedepth.grid import ROOT
from statedepth.publish import jupyter_book
from statedepth.render import Figure


def book_of(*cells):
    """A notebook of code cells, each a source and its tags."""
    return nbformat.v4.new_notebook(
        metadata={"language_info": {"name": "python"}, "kernelspec": {"name": "python3", "display_name": "Python 3"}},
        cells=[nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}) for source, *tags in cells],
    )


RUN = redraw.Reopened({"seeds": [0]}, {"models": pd.DataFrame({"accuracy": [0.5, 1.0]})})


def test_only_cells_that_show_are_executed_and_of_others_the_imports():
    book = book_of(
        ("import math\nraise RuntimeError('this would measure')",),
        ("half = math.floor(1.5)\nsession.tables['models']['accuracy'].mean() + half", "show"),
        ("raise RuntimeError('nor this')", "hide-input"),
        ("(session.values, half)", "show"),
    )
    assert dict(redraw.shown(book, RUN)) == {1: 1.75, 3: ({"seeds": [0]}, 1)}


def test_a_cell_that_shows_must_end_in_what_it_shows():
    with pytest.raises(AssertionError, match="does not end in what it shows"):
        list(redraw.shown(book_of(("a = 1", "show")), RUN))


def test_a_folder_without_a_finished_run_is_not_reopened(tmp_path):
    with pytest.raises(FileNotFoundError):
        redraw.reopen(tmp_path)


@pytest.mark.parametrize("name", notebook.known())
def test_every_figure_and_table_of_a_notebook_is_in_a_cell_that_shows(name):
    """Or a changed table would leave it as it was."""
    source = notebook.source_of(name)
    for cell in re.split(r"(?m)^# %%", source)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" not in head and re.search(r"figures\.chart\(|notebook\.Rows\(", body):
            assert '"show"' in head or "library_models" in body, body[:200]  # the demonstration has no table


@pytest.mark.parametrize("name", [n for n in notebook.known() if (ROOT / "book" / "data" / n / "run.json").exists()])
def test_the_published_notebook_is_its_source_with_what_the_tables_say_today(name):
    """Cell by cell the code is that of the repository, and everything shown is in it, without the data the site adds."""
    published = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    import jupytext  # noqa: PLC0415

    source = jupytext.reads(notebook.source_of(name), "py:percent")
    kept = [cell.source for cell in source.cells if "rerun" not in cell.metadata.get("tags", [])]
    assert [cell.source for cell in published.cells] == kept
    shows = [cell for cell in published.cells if "show" in cell.metadata.get("tags", [])]
    assert shows and all(cell.outputs for cell in shows)
    assert "application/json" not in "".join(str(cell.outputs) for cell in shows)


@pytest.fixture
def claim(small_book):
    """The small book with a notebook in the place of claim 1's page."""
    (small_book / "flip.md").unlink()
    book = book_of(
        ("from statedepth import claims, figures, notebook",),
        ('figures.chart("flip", "readability", session.tables)', "show"),
        ('notebook.Rows(claims.concentration_by_seed(session.tables), "by seed")', "show"),
        ('notebook.Rows(notebook.compare("flip", session.tables), "both")', "rerun", "show"),
    )
    book.cells.insert(0, nbformat.v4.new_markdown_cell("# Claim\n\n(flip-models)=\n## Models\n\ntext"))
    nbformat.write(book, small_book / "flip.ipynb")
    return small_book


def built(source):
    done = jupyter_book(source, source.parent / "out")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return source.parent / "out" / "_build" / "html"


def test_one_changed_value_changes_figure_table_files_and_number_of_a_notebooks_page(claim):
    site = built(claim)
    before = page(site, "flip")
    files = {
        kind: (site / "_static/figures" / f"flip.readability.{kind}").read_bytes() for kind in ("svg", "csv", "parquet")
    }
    assert "statedepth-files" in before and 'href="code/figures.html#L-' in before
    assert "statedepth-pair" not in before  # a published run stands alone
    table = pd.read_csv(claim / "data/flip/readability.csv")
    chosen = (
        (table["architecture"] == "mamba")
        & (table["task"] == "parity")
        & (table["position"] == 0)
        & (table["site"] == 2)
    )
    table.loc[chosen & (table["labels"] == "task") & (table["network"] == "trained"), "accuracy"] = 0.8123
    table_files.write(table, "readability", claim / "data/flip")
    site = built(claim)
    assert page(site, "flip") != before
    for kind, content in files.items():
        assert (site / "_static/figures" / f"flip.readability.{kind}").read_bytes() != content
    drawn = pd.read_csv(site / "_static/figures/flip.readability.csv")
    pd.testing.assert_frame_equal(
        drawn.drop(columns="text"),  # a CSV does not say that a number is meant as text
        pd.read_parquet(site / "_static/figures/flip.readability.parquet").drop(columns="text"),
        check_dtype=False,
    )
    assert ((drawn["mean"] - (0.8123 - 0.5) / 0.5).abs() < 0.02).any()


def test_a_re_run_stands_beside_the_published_run(claim):
    synthetic_data(claim / "data" / "flip", profile="custom")
    site = built(claim)
    text = page(site, "flip")
    assert text.count('class="statedepth-pair"') == 2  # the figure and the table; what compares the two stands alone
    assert text.count("This run") == text.count("Published run") == 2
    assert 'id="chart-flip-readability"' in text and 'id="chart-flip-readability-published"' in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_redrawing_a_published_page_measures_nothing_and_changes_nothing_twice(tmp_path, monkeypatch, capsys):
    """On a copy; the run block stays that of the run, the verdict follows the tables."""
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("checkpoints", "_build"))
    monkeypatch.setattr(publish, "BOOK", tmp_path / "book")
    run = (tmp_path / "book/data/flip/run.json").read_bytes()
    edit_json(tmp_path / "book/data/flip/verdict.json", outcome="reproduced")
    publish.redraw("flip")
    first = (tmp_path / "book/flip.ipynb").read_bytes()
    assert first == (ROOT / "book/flip.ipynb").read_bytes()  # what is published is what the tables say today
    publish.redraw("flip")
    assert (tmp_path / "book/flip.ipynb").read_bytes() == first
    assert (tmp_path / "book/data/flip/run.json").read_bytes() == run
    assert '"outcome": "not reproduced"' in (tmp_path / "book/data/flip/verdict.json").read_text()
    assert "drew flip" in capsys.readouterr().out


def test_the_command_of_a_page_gives_back_its_parameters():
    """As a shell and the runner read it."""
    import shlex  # noqa: PLC0415

    changes = {"seeds": [0, 3], "architectures": ["gru"], "d_model": 48, "device": "cpu"}
    command = notebook.command("flip", changes)
    name, argument = shlex.split(command)[2:]
    assert name == "NOTEBOOK=flip"
    words = shlex.split(argument.removeprefix("ARGS="))
    pairs = [words[i + 1 : i + 3] for i in range(0, len(words), 3)]
    assert all(words[i] == "-p" for i in range(0, len(words), 3))
    checked = notebook.check("flip", publish.parse_assignments(pairs))
    assert {key: checked[key] for key in changes} == changes
    assert notebook.command("flip", {}) == "make run NOTEBOOK=flip"


def test_a_figure_of_several_parts_gives_its_rows_with_the_part_they_belong_to():
    import altair as alt  # noqa: PLC0415

    parts = [
        alt.Chart(pd.DataFrame({"x": [i], "y": [2 * i]})).mark_point().encode(x="x:Q").properties(title=f"part {i}")
        for i in (1, 2)
    ]
    rows = Figure(alt.hconcat(*parts), "a.b", "text").rows
    assert dict(zip(rows["panel"], rows["y"], strict=True)) == {"part 1": 2, "part 2": 4}


def test_a_finding_is_computed_from_what_is_drawn():
    """A failed model is counted in the sentence before the caption."""
    from statedepth import figures  # noqa: PLC0415

    made = tables({("parity", "mamba"): LATE}, seeds=3, failed=[("parity", "mamba", 1)])
    figure = figures.chart("flip", "accuracies", made)
    assert figure.finding == "2 of 3 models learned their task." and figure.alt_text.startswith(figure.finding)
    assert f"<strong>{figure.finding}</strong>" in figure._repr_html_()


def test_a_finding_in_the_middle_of_a_caption_comes_first():
    """The sentence is taken out whole; the others stay."""
    from statedepth import findings  # noqa: PLC0415

    caption = "How to read it. The largest ratio is 2.5, of a. And more."
    made = findings.stated(Figure(None, "speed.steps", "alt", caption), {})
    assert (made.finding, made.caption) == ("The largest ratio is 2.5, of a.", "How to read it. And more.")


@pytest.mark.parametrize("name", ["published", "profiles"])
def test_of_one_seed_no_finding_speaks_of_an_interval(name):
    """There is none, whatever is drawn where its ends would be."""
    from statedepth import figures  # noqa: PLC0415

    made = tables({("parity", "mamba"): LATE, ("parity", "transformer"): LATE}, seeds=1)
    assert figures.chart("flip", name, made).finding == ""


def test_a_drawing_that_was_interrupted_is_made_again_and_the_oldest_go(tmp_path, monkeypatch):
    """Half a drawing is none; drafts and other builds' folders are left alone."""
    from statedepth import pages  # noqa: PLC0415

    monkeypatch.setattr(pages, "CACHE", tmp_path)
    monkeypatch.setattr(pages, "KEPT", 2)
    (tmp_path / "drawn" / ".draft").mkdir(parents=True)
    (tmp_path / "drawn" / "abc").mkdir()  # what an interrupted removal leaves
    data = synthetic_data(tmp_path / "data")
    for title in "abcd":
        book = book_of((f'figures_of_{title} = 1\n"{title}"', "show"))
        assert pages.outputs(book, data, None, None, "")[0].data["text/plain"] == repr(title)
    left = [path for path in (tmp_path / "drawn").iterdir() if path.name != ".draft"]
    assert len(left) <= 3 and all((path / pages.WHOLE).exists() for path in left)
    (left[0] / pages.WHOLE).unlink()
    for title in "abcd":
        book = book_of((f'figures_of_{title} = 1\n"{title}"', "show"))
        assert pages.outputs(book, data, None, None, "")[0].data["text/plain"] == repr(title)


def test_a_notebook_without_a_published_run_is_not_drawn_and_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "BOOK", tmp_path)
    assert publish.published() == []
    with pytest.raises(ValueError, match="make publish NOTEBOOK=flip"):
        publish.redraw("flip")
