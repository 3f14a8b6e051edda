"""The published pages in a real browser: no other host, no script error, charts with and without JavaScript."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

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
PAGES = ("index", "flip", "s3_grouping", "causal_necessity", "pretrained_bottleneck", "methods", "speed", "references")

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


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "settings",
    [
        {"viewport": {"width": 1440, "height": 900}},
        {"viewport": {"width": 390, "height": 844}},
        {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    ],
    ids=["wide", "phone", "dark"],
)
def test_a_page_asks_no_other_host_raises_no_error_and_does_not_scroll_sideways(
    browser, published_site, name, settings
):
    view, faults = opened(browser, published_site, name, **settings)
    view.wait_for_timeout(500)
    assert not faults
    assert view.evaluate("document.documentElement.scrollWidth") <= settings["viewport"]["width"] + 2
    assert view.evaluate("[...document.images].filter(i => !i.alt).length") == 0
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


def test_charts_are_there_without_javascript(browser, published_site):
    view, _ = opened(browser, published_site, "flip", java_script_enabled=False)
    charts = view.locator("figure.statedepth-chart svg[role=img]")
    assert charts.count() >= 5
    for i in range(charts.count()):
        box = charts.nth(i).bounding_box()
        assert box and box["width"] > 200 and box["height"] > 100
        assert len(charts.nth(i).get_attribute("aria-label")) > 60
    view.context.close()


def test_a_chart_becomes_interactive_and_shows_a_tooltip(browser, published_site):
    view, faults = opened(browser, published_site, "index", viewport={"width": 1200, "height": 900})
    chart = view.locator("#chart-flip-readability")
    chart.scroll_into_view_if_needed()
    view.wait_for_selector("#chart-flip-readability[data-interactive=yes]", timeout=15_000)
    chart.locator("svg .mark-rect path").nth(2).hover(force=True)
    tooltip = view.locator("#vg-tooltip-element.visible")
    tooltip.wait_for(timeout=5_000)
    assert "architecture" in tooltip.inner_text()
    assert not faults
    view.context.close()


def test_a_number_leads_to_the_cell_that_made_it(browser, published_site):
    view, _ = opened(browser, published_site, "flip")
    links = view.locator("a.statedepth-num")
    assert links.count() > 5
    for i in range(links.count()):
        target = links.nth(i).get_attribute("href").split("#")[1]
        assert view.locator(f"#{target}").count() == 1, f"no section {target}"
        assert "run of" in links.nth(i).get_attribute("title")
    view.context.close()
