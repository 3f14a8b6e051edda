"""The book: numbers and charts follow their tables, an unknown key stops the build, the published run builds cleanly."""

import gzip
import json
import re

import pandas as pd
import pytest
import yaml
from conftest import PAGES, edit_json, page, synthetic_data

from statedepth import book, claims, grid, notebook, tables, verify
from statedepth.grid import ROOT
from statedepth.publish import jupyter_book


def test_the_stub_of_the_contents_names_the_root_of_the_real_one():
    stub, real = (yaml.safe_load((ROOT / f).read_text()) for f in ("book/_toc.yml", "_toc.yml"))
    assert stub == {"format": real["format"], "root": real["root"]}
    assert len((ROOT / "book/_toc.yml").read_text().splitlines()) == 3


def test_numbers_charts_and_verdict_are_on_their_pages_and_link_to_their_cell(small_book):
    done = jupyter_book(small_book, small_book.parent / "out")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    site = small_book.parent / "out" / "_build" / "html"
    assert re.search(
        r'href="flip.html#flip-models" title="trained models; published run of 2026-01-02[^"]*">30</a>',
        page(site, "index"),
    )
    assert page(site, "index").count('class="statedepth-chart"') == 1
    assert "vega.js" in page(site, "index") and "vega.js" not in page(site, "other")
    assert (
        "<math" in page(site, "other")
        and "mathjax.js" not in page(site, "other").lower()
        and "cdn" not in page(site, "other").lower()
    )
    assert 'class="statedepth-badge reproduced"' in page(site, "other") and "provisional" in page(site, "other")
    assert "0123456789ab" in page(site, "other")
    assert "not measured yet" in page(site, "index")  # claims 2 to 4
    assert 'href="#flip-models"' in page(site, "flip")
    assert "thebe" not in page(site, "index").lower()


def test_one_changed_value_changes_every_place_that_shows_it(small_book):
    out = small_book.parent / "out"
    assert jupyter_book(small_book, out).returncode == 0
    site = out / "_build" / "html"
    before = page(site, "index"), page(site, "other")
    assert "100.0%" in before[1]
    path = small_book / "data" / "flip" / "models.csv"
    table = pd.read_csv(path)
    table.loc[(table["architecture"] == "mamba") & (table["task"] == "parity"), "accuracy"] = 0.9955
    table = table[table["architecture"] != "gru"]
    tables.write(table, "models", path.parent)
    assert jupyter_book(small_book, out).returncode == 0
    assert "99.5%" in page(site, "other") or "99.6%" in page(site, "other")
    assert ">24</a>" in page(site, "index") and ">30</a>" not in page(site, "index")


def test_a_changed_style_reaches_the_site_on_an_incremental_build(small_book):
    out = small_book.parent / "out"
    assert jupyter_book(small_book, out).returncode == 0
    (small_book / "_static" / "site.css").write_text("/* changed */")
    (small_book / "_static" / "more").mkdir()
    before = page(out / "_build" / "html", "other")
    assert jupyter_book(small_book, out).returncode == 0
    assert page(out / "_build" / "html", "other") != before, "pages must ask for the new version"
    assert (out / "_build" / "html" / "_static" / "site.css").read_text() == "/* changed */"


UNKNOWN = {
    "{num}`flip.mamba.parity.acuracy`": "near are mamba.parity.accuracy",
    "{num}`flop.models`": "must start with one of flip, s3_grouping",
    "{num}`s3_grouping.models`": "s3_grouping has no run",
    "```{chart} flip.readabilty\n```": "near are readability",
    "```{chart} s3_grouping.profiles\n```": "s3_grouping has no run",
    "```{verdict} flop\n```": "known are flip",
    "{num}`flip.mamba.parity.concentration`": "reference target not found: flip-indices",
    r"$\arg x$": r"\arg is not understood",
    r"$\left( x$": "ExtraLeftOrMissingRightError is not understood",
}


def test_unknown_keys_stop_the_build_and_name_what_is_near(small_book):
    (small_book / "other.md").write_text("# Other\n\n" + "\n\n".join(UNKNOWN) + "\n")
    done = jupyter_book(small_book, small_book.parent / "out")
    assert done.returncode != 0
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert [says for says in UNKNOWN.values() if says not in said] == []


def test_a_re_run_shows_numbers_and_no_verdict(small_book):
    synthetic_data(small_book / "data" / "flip", profile="custom")
    assert jupyter_book(small_book, small_book.parent / "out").returncode == 0
    site = small_book.parent / "out" / "_build" / "html"
    for name in ("index", "other"):
        assert 'class="statedepth-badge reproduced"' not in page(site, name)
    assert "passes no verdict" in page(site, "other")


def test_text_of_a_run_is_escaped(small_book):
    edit_json(small_book / "data" / "flip" / "run.json", device='<script>alert("x")</script>')
    assert jupyter_book(small_book, small_book.parent / "out").returncode == 0
    assert "<script>alert" not in page(small_book.parent / "out" / "_build" / "html", "other")


def test_the_published_run_is_whole_and_its_verdict_is_what_the_criterion_says_today():
    for folder in (ROOT / "book" / "data").iterdir():
        if folder.name in {"checkpoints", "explorer"} or folder.is_file():
            continue
        read = tables.read_folder(folder)
        assert read and (folder / "run.json").exists()
        if folder.name not in claims.CRITERIA:  # a benchmark
            assert claims.numbers(folder.name, read)
            continue
        stored = (folder / "verdict.json").read_text()
        verdict = claims.CRITERIA[folder.name](read)
        assert yaml.safe_load(stored) == yaml.safe_load(yaml.safe_dump(verdict.record("paper")))


def test_no_number_of_ours_is_typed_into_prose():
    for path in (ROOT / "book").glob("*.md"):
        text = re.sub(r"```.*?```|\$\$.*?\$\$|`[^`]*`", "", path.read_text(), flags=re.S)
        typed = re.findall(
            r"\b\d+\.\d{2,}\b(?!\d)|\b\d+(?:\.\d+)? (?:points|x faster)",
            re.sub(r"(?:arXiv:|Python )\d+\.\d+", "", text),
        )
        assert not typed, f"{path.name}: {typed}"


def test_every_page_of_the_published_site_is_there(published_site):
    for name in PAGES:
        assert "<h1>" in page(published_site, name)
    on_the_wire = {path.name: len(gzip.compress(path.read_bytes())) for path in published_site.glob("*.html")}
    assert max(on_the_wire.values()) < 300_000, on_the_wire
    assert (
        max(path.stat().st_size for path in published_site.glob("*.html")) < 1_500_000
    )  # for a host that does not compress


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_every_checkpoint_that_is_to_be_published_is_found_under_its_name(name):
    """A setting that is added later must not leave readers without the models of a page."""
    runs = grid.wanted(name, notebook.check(name, {}))[1]
    assert runs and {grid.source(run) for run in runs} == {"published"}


def test_published_tables_are_of_the_published_checkpoints():
    """No number of claims 1 and 3 is of other weights than those that readers can load."""
    for name in ("flip", "causal_necessity"):
        models = pd.read_csv(ROOT / "book" / "data" / name / "models.csv")
        for row in models.to_dict("records"):
            record = json.loads((ROOT / "book" / "data" / "checkpoints" / f"{row['checkpoint']}.json").read_text())
            accuracy = record["accuracy"][str(row["length"])]
            assert row["accuracy"] == pytest.approx(sum(accuracy) / len(accuracy), abs=1e-5)


def test_a_re_execution_is_shown_number_by_number(small_book):
    table = verify.differences("flip", tables.read_folder(ROOT / "book" / "data" / "flip"))
    moved = table.index[table["published"].notna()][3]
    table.loc[moved, ["now", "difference", "within"]] = [table["published"][moved] + 9, 9.0, False]
    tables.write(table, "differences", small_book / "data" / "differences")
    run = json.loads((small_book / "data" / "flip" / "run.json").read_text())
    run["versions"] |= {"torch": "9.8.7"}
    for name in ("run", "flip"):
        tables.write_record(run, name, small_book / "data" / "differences")
    (small_book / "other.md").write_text(
        "# Other\n\n(reproduce-differences)=\n## Differences\n\n{num}`differences.compared` {num}`differences.outside`\n\n```{differences}\n```\n\n```{run-block} differences\n```\n"
    )
    assert jupyter_book(small_book, small_book.parent / "out").returncode == 0
    text = page(small_book.parent / "out" / "_build" / "html", "other")
    assert "torch 9.8.7" in text and "The run behind this page: re-execution at the published settings of" in text
    assert f">{len(table)}<" in text and table["label"][moved] in text.replace("&#x27;", "'").replace("&#39;", "'")


def test_the_command_for_a_page_as_it_is_trains_what_is_not_published():
    """Or the page would come out with fewer seeds than it shows."""
    for name, extra in (
        ("flip", ""),
        ("s3_grouping", "-p every_seed true"),
        ("pretrained_bottleneck", "-p rebuild true"),
    ):
        run = {"parameters": {}, "profile": "paper"}
        said = book._again(name, run)
        assert f"make run NOTEBOOK={name}" in said and extra in said
        assert ("takes hours" in said) == bool(extra) and "every_seed" not in book._again("flip", run)
