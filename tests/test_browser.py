"""The published pages in a real browser: readable by everyone, on any screen, with and without a script, and asking nobody."""

import functools
import gzip
import itertools
import json
import os
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest
from conftest import PAGES
from playwright.sync_api import sync_playwright

from statedepth import claims, render, tables
from statedepth.grid import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ALL = (*PAGES, "code/erasers", "search")
VIEWS = {
    "wide": {"viewport": {"width": 1440, "height": 900}},
    "tablet": {"viewport": {"width": 820, "height": 1100}},
    "phone": {"viewport": {"width": 390, "height": 844}},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
}
AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text()

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine: install Debian's chromium"
)


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "CI must install Chromium"
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


def opened(browser, site, name, **settings):
    """The page, and what it did that it should not: requests to other hosts and script errors."""
    faults = []
    view = browser.new_context(**settings).new_page()
    view.on("request", lambda r: faults.append(f"asks {r.url}") if r.url.startswith(("http", "ws")) else None)
    view.on("pageerror", lambda e: faults.append(f"script error: {e}"))
    view.goto((site / f"{name}.html").as_uri())
    return view, faults


def serious(view):
    """What axe-core finds on this page that would keep somebody out, as rule and place."""
    view.evaluate(AXE)
    found = view.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{one['id']}: {node['html'][:160]} {node['target']}"
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"][:3]
    ]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)
def test_a_page_asks_nobody_raises_no_error_fits_its_screen_and_keeps_nobody_out(
    browser, published_site, name, settings
):
    view, faults = opened(browser, published_site, name, **settings)
    view.wait_for_timeout(500)
    assert not faults
    assert view.evaluate("document.documentElement.scrollWidth") <= settings["viewport"]["width"] + 2
    assert view.evaluate("[...document.images].filter(i => !i.alt).length") == 0
    levels = view.evaluate(
        "[...document.querySelectorAll('article :is(h1,h2,h3,h4,h5,h6)')].map(h => Number(h.tagName[1]))"
    )
    assert (levels[:1] == [1] and levels.count(1) == 1) or name == "search"
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    assert serious(view) == []
    view.context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("script", [True, False])
def test_on_a_phone_no_chart_is_drawn_under_nine_tenths_of_its_size(browser, published_site, name, script):
    view, _ = opened(browser, published_site, name, viewport={"width": 390, "height": 844}, java_script_enabled=script)
    for chart in view.locator("figure.statedepth-chart").all():
        chart.scroll_into_view_if_needed()
        view.wait_for_timeout(300 if script else 0)
        drawn = chart.locator("svg").first.bounding_box()["width"]
        assert drawn >= 0.89 * float(chart.locator("svg").first.get_attribute("width"))
    view.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_charts_are_there_without_a_script_with_words_that_say_what_they_show(browser, published_site, name):
    view, _ = opened(browser, published_site, name, java_script_enabled=False)
    charts = view.locator("figure.statedepth-chart svg[role=img]")
    assert charts.count() == view.locator("figure.statedepth-chart").count()
    for i in range(charts.count()):
        box = charts.nth(i).bounding_box()
        assert box and box["width"] > 200 and box["height"] > 60
        assert len(charts.nth(i).get_attribute("aria-label")) > 60
    view.context.close()


MARKS = ".role-mark:is(.mark-rect, .mark-symbol, .mark-line, .mark-bar, .mark-area, .mark-rule) path, .role-mark line"


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_has_marks_and_shows_a_tooltip(browser, published_site, name):
    """All become interactive; of each some mark answers the pointer."""
    view, faults = opened(browser, published_site, name, viewport={"width": 1200, "height": 900})
    for chart in view.locator("figure.statedepth-chart").all():
        which = chart.get_attribute("data-chart")
        chart.scroll_into_view_if_needed()
        view.wait_for_selector(f"#{chart.get_attribute('id')}[data-interactive=yes]", timeout=20_000)
        assert chart.locator(f":is({MARKS}, .mark-text text)").count() > 1, which
        assert tooltip_of(view, chart), f"{which}: no mark has a tooltip"
    assert not faults
    view.context.close()


# The middle of a mark; of a line, which is no area, the middle of its path.
A_POINT_OF = """mark => {
  const style = getComputedStyle(mark), box = mark.getBoundingClientRect();
  if (mark.tagName !== "path" || style.fill !== "none") return [box.x + box.width / 2, box.y + box.height / 2];
  const at = mark.getPointAtLength(mark.getTotalLength() / 2), to = mark.getScreenCTM();
  return [to.a * at.x + to.e, to.d * at.y + to.f];
}"""


def tooltip_of(view, chart):
    """The first tooltip that any of a few marks, spread over the chart, gives."""
    marks = chart.locator(f":is({MARKS}, .mark-text:not(.role-axis-label) text)")
    n = marks.count()
    for i in sorted({round(k * (n - 1) / 24) for k in range(25)}):
        marks.nth(i).scroll_into_view_if_needed()
        x, y = marks.nth(i).evaluate(A_POINT_OF)
        view.mouse.move(x - 1, y - 1)
        view.mouse.move(x, y)
        tip = view.locator("#vg-tooltip-element.visible")
        if tip.count() and tip.inner_text().strip():
            return tip.inner_text()
    return ""


@functools.cache
def numbers_of(notebook):
    return claims.numbers(notebook, tables.read_folder(ROOT / "book" / "data" / notebook))


@pytest.mark.parametrize("name", PAGES)
def test_every_number_is_that_of_its_table_and_leads_to_the_cell_that_made_it(browser, published_site, name):
    view, _ = opened(browser, published_site, name)
    for link in view.locator("a.statedepth-num").all():
        key = re.search(r"num:(\S+)", link.get_attribute("class"))[1]
        notebook, _, which = key.partition(".")
        assert link.inner_text() == render.minus(numbers_of(notebook)[which].text)
        page, _, anchor = link.get_attribute("href").partition("#")
        assert f'id="{anchor}"' in (published_site / (page or f"{name}.html")).read_text(), f"no section {anchor}"
        assert "run of" in link.get_attribute("title")
    view.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_file_of_a_page_is_there(browser, published_site, name):
    view, _ = opened(browser, published_site, name)
    for href in set(view.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")):
        if href.startswith(("http", "mailto:", "javascript:")) or href in {"#", ""}:
            continue
        path, _, anchor = href.partition("#")
        target = (published_site / name).parent / path.partition("?")[0] if path else published_site / f"{name}.html"
        assert target.exists(), href
        if anchor and target.suffix == ".html":
            assert re.search(rf'(?:id|name)="{re.escape(anchor)}"', target.read_text()), href
    view.context.close()


def test_the_hero_answers_the_choice_of_task_and_measure(browser, published_site):
    view, faults = opened(browser, published_site, "index", viewport={"width": 1200, "height": 900})
    view.wait_for_selector("#chart-overview-hero[data-interactive=yes]", timeout=15_000)
    chart = view.locator("#chart-overview-hero")
    before = chart.locator("svg").text_content()
    chart.get_by_label("Dyck-(2,4)").check(force=True)
    view.wait_for_timeout(300)
    assert "On Dyck-(2,4)" in chart.locator("svg").text_content() and before != chart.locator("svg").text_content()
    chart.locator("select").select_option("task lost when what linear probes read is erased")
    view.wait_for_timeout(300)
    assert "task lost when what linear probes read is erased" in chart.locator("svg").text_content()
    assert not faults
    view.context.close()


def test_the_explorer_follows_the_readers_edits_by_keyboard(browser, published_site):
    """Its words after an edit are those of the readings, by a count of its own."""
    data = json.loads((ROOT / "book/data/explorer/parity.json").read_text())
    view, faults = opened(browser, published_site, "explorer")
    explorer = view.locator("#explorer-parity")
    truth = explorer.locator("table").first.locator("tr.truth td")
    assert "".join(truth.all_inner_texts()) == parity_of(data["first"])
    third = explorer.locator(".tokens button").nth(2)
    third.focus()
    view.keyboard.press("Enter")
    flipped = [*data["first"][:2], 1 - data["first"][2], *data["first"][3:]]
    assert "".join(truth.all_inner_texts()) == parity_of(flipped)
    assert "site" in explorer.locator(".said").inner_text() or "right" in explorer.locator(".said").inner_text()
    for table in explorer.locator("table").all():
        for row in table.locator("tr:not(.truth)").all():
            for cell, state in zip(row.locator("td").all(), parity_of(flipped), strict=True):
                assert ("right" in cell.get_attribute("class")) == (cell.text_content()[0] == state)
    dyck = view.locator("#explorer-dyck-2-4")
    for _ in range(12):  # no press ever leaves an impossible string
        for button in dyck.locator(".tokens button").all():
            button.click()
        tokens = dyck.locator(".tokens button").all_inner_texts()
        assert valid_brackets(tokens), tokens
    assert not faults
    view.context.close()


def parity_of(bits):
    return "".join("EO"[sum(bits[: i + 1]) % 2] for i in range(len(bits)))


def valid_brackets(tokens):
    stack = []
    for token in tokens:
        if token in "([":
            stack.append(token)
        elif not stack or "([".index(stack.pop()) != ")]".index(token):
            return False
        if len(stack) > 4:
            return False
    return True


def test_the_explorer_reads_without_a_script(browser, published_site):
    view, _ = opened(browser, published_site, "explorer", java_script_enabled=False)
    assert view.locator("#explorer-S3 table").count() == 5
    assert view.locator("#explorer-S3 td.right").count() > 20
    view.context.close()


def test_a_citation_shows_its_entry_to_pointer_and_keyboard(browser, published_site):
    view, _ = opened(browser, published_site, "index")
    cite = view.locator(".statedepth-cite").first
    assert not cite.locator(".card").is_visible()
    cite.locator("a").focus()
    assert cite.locator(".card").is_visible() and "arXiv" in cite.locator(".card").inner_text()
    view.context.close()


def test_a_page_prints_with_its_charts_as_vectors_and_its_details_open(browser, published_site, tmp_path):
    view, _ = opened(browser, published_site, "flip")
    view.emulate_media(media="print")
    assert view.locator(".statedepth-run dd").first.is_visible()
    assert not view.locator(".bd-sidebar-primary").is_visible()
    view.pdf(path=tmp_path / "flip.pdf")
    pdf = (tmp_path / "flip.pdf").read_bytes()
    assert pdf.count(b"/Subtype /Image") == 0 and len(pdf) > 50_000  # an image would be a chart that is no vector
    view.context.close()


def test_what_must_arrive_before_the_first_chart_is_drawn_is_small(published_site):
    """The page and what its head makes a browser wait for, compressed: 300 kB are 1.5 s on a line of 1.6 Mbit/s."""
    for name in PAGES:
        text = (published_site / f"{name}.html").read_text()
        head = text.partition("</head>")[0]
        waits = re.findall(
            r'<link[^>]*href="([^"?]+)[^"]*"[^>]*rel="stylesheet"|<link rel="stylesheet"[^>]*href="([^"?]+)', head
        )
        waits += [(src, "") for src in re.findall(r'<script (?!defer)[^>]*src="([^"?]+)', head)]
        needed = {a or b for a, b in waits}
        assert len(needed) > 5
        size = len(gzip.compress(text.encode())) + sum(packed(published_site / path) for path in needed)
        assert size < 300_000, (name, size)
        everything = size + sum(
            packed(published_site / p) for p in re.findall(r'<script defer[^>]*src="([^"?]+)', text)
        )
        assert everything < 1_500_000, (name, everything)


@functools.cache
def packed(path: Path) -> int:
    return len(gzip.compress(path.read_bytes()))


def test_search_finds_a_word_of_the_book(browser, published_site):
    view, _ = opened(browser, published_site, "search")
    view.goto((published_site / "search.html").as_uri() + "?q=nullspace")
    view.wait_for_selector("#search-results li a", timeout=10_000)
    found = view.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    assert "glossary.html" in " ".join(found)
    view.context.close()
