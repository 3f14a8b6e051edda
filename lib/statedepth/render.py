"""A chart as one element of a page: an SVG that needs no script, and the specification that a script makes interactive."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import vl_convert

# Upgrades every figure in place, one at a time as it comes near the window; if anything throws, the SVG stays.
_UPGRADE = """
  function upgrade(figure) {
    var spec = JSON.parse(figure.querySelector("script").textContent);
    var fresh = document.createElement("div");
    fresh.className = "statedepth-svg";
    fresh.tabIndex = 0;
    fresh.style.cssText = figure.querySelector(".statedepth-svg").style.cssText;
    vegaEmbed(fresh, spec, {renderer: "svg", actions: false, ast: false}).then(function () {
      figure.querySelector(".statedepth-svg").replaceWith(fresh);
      var svg = fresh.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", figure.dataset.alt);
      svg.style.width = "100%";
      svg.style.height = "auto";
      fresh.style.setProperty("--natural", svg.getAttribute("width") + "px"); // text may be wider here than where it was drawn
      svg.querySelectorAll("[role]").forEach(function (part) { part.removeAttribute("role"); part.removeAttribute("aria-roledescription"); });
      figure.dataset.interactive = "yes";
    }).catch(function () {});
  }
  var seen = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); upgrade(entry.target); }
    });
  }, {rootMargin: "300px"});
  document.querySelectorAll("figure.statedepth-chart").forEach(function (figure) { seen.observe(figure); });
"""


@dataclass(frozen=True)
class Figure:
    """A chart with its words; as the last value of a notebook cell it shows itself."""

    chart: Any  # an Altair chart
    name: str  # notebook.figure
    alt_text: str  # states the finding, for those who do not see the chart
    caption: str = ""  # how to read it; with the finding, where that is no field of its own
    finding: str = ""  # what it says, in a sentence

    def __repr__(self) -> str:
        return self.alt_text

    def _repr_html_(self) -> str:
        return render(self)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart's specification, in numbers that a picture can show."""
        said = json.dumps(self.chart.to_dict())
        return json.loads(said, parse_constant=lambda _: None, parse_float=_short)  # JSON knows no NaN

    @cached_property
    def svg(self) -> str:
        """The chart as an SVG of its own, the same whatever was drawn before it."""
        return _with_ids(vl_convert.vegalite_to_svg(self.spec), "id")

    @property
    def rows(self) -> pd.DataFrame:
        """What the chart draws, as one tidy table; `panel` is the title of the part, `layer` numbers the tables of several."""
        titles = dict(_titles(self.spec))
        sets = {name: pd.DataFrame(rows) for name, rows in self.spec.get("datasets", {}).items()}
        for number, (name, one) in enumerate(sets.items()):
            empty = one.columns[one.isna().all()]  # JSON's null is no number until a column has one
            one = sets[name] = one.astype(dict.fromkeys(empty, float))
            if len(sets) > 1:
                one["layer"] = number
            if titles.get(name) and "panel" not in one:
                one["panel"] = titles[name]
        return pd.concat(sets.values(), ignore_index=True) if sets else pd.DataFrame()


def _titles(part: Any, title: str = "") -> Iterator[tuple[str, str]]:
    """Each data set of a specification with the title of the nearest part around it."""
    if isinstance(part, list):
        for one in part:
            yield from _titles(one, title)
    elif isinstance(part, dict):
        own = part.get("title") if {"mark", "layer", "hconcat", "vconcat", "spec"} & set(part) else None
        own = own.get("text") if isinstance(own, dict) else own
        own = " / ".join(own) if isinstance(own, list) else own
        title = own if isinstance(own, str) else title
        if isinstance(part.get("data"), dict) and "name" in part["data"]:
            yield part["data"]["name"], title
        for key in ("layer", "hconcat", "vconcat", "spec"):
            yield from _titles(part.get(key, []), title)


def _with_ids(svg: str, anchor: str) -> str:
    """Clip paths and gradients are found by id, which vl-convert numbers over the whole session: here `anchor`-0, -1, ..."""
    for number, name in enumerate(re.findall(r' id="([^"]+)"', svg)):
        svg = svg.replace(f' id="{name}"', f' id="{anchor}-{number}"').replace(
            f"url(#{name})", f"url(#{anchor}-{number})"
        )
    return svg


def _short(number: str) -> float:
    """Five digits: what a picture and a tooltip can show."""
    return float(f"{float(number):.5g}")


def render(figure: Figure, below: str = "", suffix: str = "") -> str:
    """The figure as HTML, with `below` (HTML) after its caption: same chart, same text, byte for byte.

    `suffix` tells it from a figure of the same name on the same page.
    """
    anchor = (figure.name + suffix).replace(".", "-")
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", figure.svg)
    svg = re.sub(r'<path [^>]*\bopacity="0"[^>]*?(?:/>|></path>)', "", svg)  # what only answers the pointer
    svg = re.sub(r' (?:role|aria-roledescription)="[^"]*"', "", svg)  # the whole is one image with one text
    fonts = set(re.findall(r' font-family="([^"]+)"', svg))
    family = f";font-family:{fonts.pop()}" if len(fonts) == 1 else ""  # said once, and not at each of a thousand texts
    svg = re.sub(r' font-family="[^"]+"', "", svg) if family else svg
    svg = _with_ids(svg, anchor)  # all charts of a page share its ids
    width = re.search(r'<svg[^>]*?\bwidth="([\d.]+)"', svg)
    assert width, "vl-convert always writes a width"
    alt = html.escape(figure.alt_text, quote=True)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{alt}" style="width:100%;height:auto{family}"', 1)
    finding = f"<strong>{html.escape(minus(figure.finding))}</strong> " if figure.finding else ""
    data = json.dumps(figure.spec, separators=(",", ":")).replace("<", "\\u003c")  # or text could end the script
    return (
        f'<figure class="statedepth-chart" id="chart-{anchor}" data-chart="{figure.name}" data-alt="{alt}">'
        f'<div class="statedepth-svg" style="--natural:{width[1]}px" tabindex="0">{svg}</div>'  # by keyboard too, where it is wider than the screen
        f'<script type="application/json">{data}</script>'
        f"<figcaption>{finding}{html.escape(minus(figure.caption))}{below}</figcaption></figure>"
    )


def minus(text: str) -> str:
    """With a minus sign, rather than a hyphen, before a number."""
    return re.sub(r"(?<![\w.)\]-])-(?=\.?\d)", "−", text)


LONG = 20  # rows of a table that a reader opens rather than scrolls past


class Rows:
    """A small table as HTML that reads well on a page (and as text elsewhere)."""

    def __init__(self, table: pd.DataFrame, caption: str) -> None:
        self.table, self.caption = table, caption

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        body = self.table.to_html(index=False, border=0, classes="statedepth-rows", escape=True, na_rep="")
        body = minus(body.replace("<th>", '<th scope="col">'))
        body = re.sub(r"\b(\d{4})-(\d\d)-(\d\d)\b", "\\1\u2011\\2\u2011\\3", body)  # a date stays on its line
        caption = html.escape(self.caption)
        if len(self.table) <= LONG:
            return body.replace("<thead>", f"<caption>{caption}</caption><thead>", 1)
        return f'<details class="statedepth-long"><summary>{caption} ({len(self.table)} rows)</summary>{body}</details>'


def vega_bundle() -> str:
    """The script of the site: Vega and the upgrade of every chart, in a function, so that nothing leaks into the page."""
    return f"(function () {{\n{vl_convert.javascript_bundle(_UPGRADE)}\n}})();\n"
