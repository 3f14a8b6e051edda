"""The Sphinx extension of the book: numbers, charts, verdicts and run blocks come from tables when the site is built."""

import difflib
import hashlib
import html
import json
import re
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from latex2mathml.converter import convert as mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.math import get_node_equation_number
from sphinx.util.nodes import make_refnode

from statedepth import claims, figures, render, tables

LOG = logging.getLogger(__name__)
SCALES = {
    "formal": "at the scale of four-layer models",
    "analogue": "small language models of our own, an analogue",
    "own checkpoint": "checkpoints of the reader's own",
}
NOT_MEASURED = "not measured yet"


class UnknownKey(Exception):  # noqa: N818
    """A page asks for something that no run made; the message lists what comes near."""


def _folder(app: Sphinx) -> Path:
    return Path(app.srcdir) / app.config.statedepth_data


def _run(folder: Path, notebook: str) -> dict[str, Any] | None:
    path = folder / notebook / "run.json"
    return json.loads(path.read_text()) if path.exists() else None


@cache
def _tables(folder: Path, notebook: str, _digest: str) -> claims.Tables:
    return tables.read_folder(folder / notebook)


@cache
def _numbers(folder: Path, notebook: str, digest: str) -> dict[str, claims.Number]:
    return claims.numbers(notebook, _tables(folder, notebook, digest))


def _digest(app: Sphinx) -> str:
    """Of all that any page may show: tables, records, static files, and the code that makes text and charts of them."""
    folder, static = _folder(app), Path(app.srcdir) / "_static"
    files = [p for p in folder.rglob("*") if p.suffix in {".csv", ".json"} and "checkpoints" not in p.parts]
    files += [p for p in static.rglob("*") if p.is_file()] + list(Path(__file__).parent.glob("*.py"))
    made = hashlib.sha256(metadata.version("vl-convert-python").encode())
    for path in sorted(files):
        made.update(f"{path}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return made.hexdigest()


def _split(key: str) -> tuple[str, str]:
    notebook, _, name = key.partition(".")
    if notebook not in claims.SOURCES:
        raise UnknownKey(f"{key!r}: must start with one of {', '.join(claims.SOURCES)} and a dot")
    return notebook, name


def _near(key: str, name: str, known: Any) -> UnknownKey:
    near = difflib.get_close_matches(name, list(known), n=4, cutoff=0.3)
    return UnknownKey(f"{key!r} is not known; near are {', '.join(near) or 'none'}")


def _escape(text: Any) -> str:
    return html.escape(str(text), quote=True)


class NumRole(SphinxRole):
    """`` {num}`flip.models` ``: a number of a run, linked to the section that made it, with the run in its tooltip."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """One reference, resolved when all pages are read; a warning where the key, or later its section, is unknown."""
        app = self.env.app
        folder = _folder(app)
        try:
            notebook, name = _split(self.text)
            run = _run(folder, notebook)
            if run is None:
                raise UnknownKey(f"{self.text!r}: {notebook} has no run under {app.config.statedepth_data}")
            known = _numbers(folder, notebook, app.config.statedepth_digest)
            if name not in known:
                raise _near(self.text, name, known)
        except UnknownKey as error:
            LOG.warning("num %s", error, location=self.get_location())
            return [nodes.strong(text=f"[unknown number {self.text}]")], []
        number = known[name]
        chosen = ", ".join(f"{k}={v}" for k, v in run["parameters"].items())
        tip = f"{number.label}; {run['profile']} run of {run['date']} on {run['device']}; {chosen}"
        link = addnodes.pending_xref(
            "", nodes.Text(number.text), refdomain="", reftype="num", reftarget=number.cell, refwarn=True, tip=tip
        )
        link["refdoc"] = self.env.docname
        self.set_source_info(link)
        return [link], []


def _link(app: Sphinx, env: Any, node: addnodes.pending_xref, content: nodes.Text) -> nodes.reference | None:
    """The link of a `{num}` to the section labelled `(cell)=`; without such a label Sphinx warns, so that no link is dead."""
    place = env.get_domain("std").anonlabels.get(node["reftarget"]) if node["reftype"] == "num" else None
    if place is None:
        return None
    link = make_refnode(app.builder, node["refdoc"], place[0], place[1], content, node["tip"])
    link["classes"].append("statedepth-num")
    return link


def _up(docname: str) -> str:
    return "../" * docname.count("/")


class _Block(SphinxDirective):
    """A directive with one argument, a notebook or a key, that becomes HTML."""

    required_arguments = 1

    def html(self) -> str:
        """The HTML of the block; UnknownKey where there is none."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """One raw node; a warning where the key is unknown."""
        try:
            text = self.html()
        except UnknownKey as error:
            LOG.warning("%s %s", self.name, error, location=self.get_location())
            return [nodes.strong(text=f"[unknown: {self.name} {' '.join(self.arguments)}]")]
        return [nodes.raw("", text, format="html")]

    @property
    def folder(self) -> Path:
        """The data folder."""
        return _folder(self.env.app)

    def record(self, notebook: str, name: str) -> dict[str, Any] | None:
        """verdict.json or run.json of a notebook; None where it was never run."""
        if notebook not in claims.SOURCES:
            raise UnknownKey(f"{notebook!r}: known are {', '.join(claims.SOURCES)}")
        path = self.folder / notebook / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None


class ChartDirective(_Block):
    """`{chart} flip.readability`: a figure, drawn from the tables when the book is built."""

    option_spec = {"caption": directives.unchanged}  # noqa: RUF012 (docutils reads it so)

    def html(self) -> str:
        """The figure's element."""
        notebook, name = _split(self.arguments[0])
        if _run(self.folder, notebook) is None:
            raise UnknownKey(f"{self.arguments[0]!r}: {notebook} has no run under {self.config.statedepth_data}")
        if name not in figures.CHARTS.get(notebook, {}):
            raise _near(self.arguments[0], name, figures.CHARTS.get(notebook, {}))
        made = figures.chart(notebook, name, _tables(self.folder, notebook, self.config.statedepth_digest))
        caption = self.options.get("caption", made.caption)
        return render.render(render.Figure(made.chart, made.name, made.alt_text, caption))


class VerdictDirective(_Block):
    """`{verdict} flip`: the badge, why, and the numbers that decided."""

    def html(self) -> str:
        """A card; without a badge where the run is not the published one."""
        verdict = self.record(self.arguments[0], "verdict")
        if verdict is None:
            return f'<div class="statedepth-verdict"><p>{NOT_MEASURED.capitalize()}.</p></div>'
        if verdict["profile"] != "paper":
            return (
                '<div class="statedepth-verdict quick"><p><strong>This is a re-run</strong>, with other parameters or fewer seeds. It shows its '
                "numbers beside the published ones and passes no verdict.</p></div>"
            )
        rows = "".join(
            f"<li>{_escape(d['label'])}: <strong>{_escape(d['text'])}</strong></li>" for d in verdict["deciding"]
        )
        reasons = " ".join(_escape(reason) for reason in verdict["reasons"])
        return (
            f'<div class="statedepth-verdict"><p>{_badge(verdict)} {reasons}</p>'
            f"<details><summary>The numbers that decided, with 95% intervals</summary><ul>{rows}</ul></details></div>"
        )


def _badge(verdict: dict[str, Any]) -> str:
    kind = verdict["outcome"].replace(" ", "-")
    scale = SCALES.get(verdict["scale"], verdict["scale"]) + (", provisional" if verdict["provisional"] else "")
    return f'<span class="statedepth-badge {kind}">{_escape(verdict["outcome"])}</span> <span class="scale">({_escape(scale)})</span>'


class ClaimsBoard(_Block):
    """`{claims-board}`: what was claimed, what its author corrected, what we found."""

    required_arguments = 0

    def html(self) -> str:
        """A table with a row for each claim."""
        rows = []
        for claim in claims.CLAIMS.values():
            verdict = self.record(claim.notebook, "verdict")
            title = f"{claim.number}. {_escape(claim.title)}"
            if self.env.doc2path(claim.notebook, False) and claim.notebook in self.env.found_docs:
                title = f'<a href="{_up(self.env.docname)}{claim.notebook}.html">{title}</a>'
            if verdict is None:
                found = f'<span class="statedepth-badge not-measured">{NOT_MEASURED}</span>'
            elif verdict["profile"] != "paper":
                found = "re-run with other parameters or fewer seeds: numbers only, no verdict"
            else:
                found = f"{_badge(verdict)} {' '.join(_escape(reason) for reason in verdict['reasons'])}"
            cells = (
                ("The claim (v1)", _escape(claim.v1)),
                ("Its correction (v2)", _escape(claim.v2)),
                ("What we found", found),
            )
            body = "".join(f'<td data-label="{label}">{text}</td>' for label, text in cells)
            rows.append(f'<tr><th scope="row">{title}</th>{body}</tr>')
        head = "".join(f'<th scope="col">{name}</th>' for name in ("Claim", "v1", "v2", "What we found"))
        return f'<table class="statedepth-board"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


class RunBlock(_Block):
    """`{run-block} flip`: when, where, from what code and with which parameters the run was made."""

    def html(self) -> str:
        """A list behind one click."""
        run = self.record(self.arguments[0], "run")
        if run is None:
            return f"<p>{NOT_MEASURED.capitalize()}.</p>"
        minutes = run["wall_time_s"] / 60
        rows = [
            ("profile", run["profile"]),
            ("date", run["date"]),
            ("commit", run["commit"]),
            ("device", run["device"]),
        ]
        rows += [("wall time", f"{minutes:.1f} min")]
        if "cells" in run:
            found = f"{run['cells']}, of which {run['cells_from_cache']} were found measured before, by the same code"
            rows += [("measurements", found)]
        if run.get("left_out"):
            rows += [("left out", f"{run['left_out']} seeds that have no checkpoint")]
        rows += run["parameters"].items()
        rows += [(f"version of {name}", version) for name, version in run["versions"].items()]
        body = "".join(f"<dt>{_escape(k)}</dt><dd>{_escape(v)}</dd>" for k, v in rows)
        title = f"{run['profile']} run of {run['date']}, {minutes:.1f} min on {run['device']}"
        return f'<details class="statedepth-run"><summary>{_escape(title)}</summary><dl>{body}</dl></details>'


# ---- the site ----------------------------------------------------------------------------------------------------------


def _configure(app: Sphinx, config: Any) -> None:
    """The real table of contents stands one folder up, beside _config.yml; the data decide which pages are out of date."""
    toc = Path(app.srcdir).parent / "_toc.yml"
    if toc.exists():
        config.external_toc_path = str(toc)
    config.statedepth_digest = _digest(app)
    # Thebe runs cells on a server of others; without one its script throws on every page.
    for event, listeners in app.events.listeners.items():
        app.events.listeners[event] = [one for one in listeners if one.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files = [one for one in app.registry.css_files if one[0] != "sphinx-thebe.css"]


def _fresh_static(app: Sphinx) -> None:
    """Write Vega once, and copy our own static files even where Sphinx thinks that nothing changed."""
    if app.builder.format != "html":
        return
    ours, out = Path(app.srcdir) / "_static", Path(app.outdir) / "_static"
    if not (out / "vega.js").exists() or _built(app) != app.config.statedepth_digest:
        out.mkdir(parents=True, exist_ok=True)
        (out / "vega.js").write_text(render.vega_bundle())
    if ours.is_dir():
        shutil.copytree(ours, out, dirs_exist_ok=True)


def _page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Pages with a chart load Vega."""
    if 'class="statedepth-chart"' in context.get("body", ""):
        app.add_js_file("vega.js", loading_method="defer")


def _outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """All pages, where what they show changed since the last build that came to its end: numbers stand on any of them."""
    return [] if _built(app) == app.config.statedepth_digest else list(env.found_docs)


def _built(app: Sphinx) -> str:
    """The digest of the last build that came to its end; Sphinx saves its own records before it writes a page."""
    stamp = Path(app.doctreedir) / "statedepth.digest"
    return stamp.read_text() if stamp.exists() else ""


def _finished(app: Sphinx, exception: Exception | None) -> None:
    if exception is None:
        (Path(app.doctreedir) / "statedepth.digest").write_text(app.config.statedepth_digest)


def _mathml(node: nodes.Element, display: str) -> str:
    """MathML with the LaTeX as its text; a warning for what latex2mathml refuses, or passes on as if it were a letter."""
    latex = node.astext()
    try:
        # It knows align* but not aligned; names of functions get the thin space that TeX gives them.
        made = mathml(latex.replace("{aligned}", "{align*}"), display=display)
        made = re.sub(r"<m([io])>(log|ln|exp|max|min)</m\1>", r'<mo lspace="0.17em" rspace="0.17em">\2</mo>', made)
        unknown = re.findall(r"<mi>(\\[^<]+|&)</mi>", made)
    except Exception as error:  # its exceptions have no base of their own
        made, unknown = f"<code>{_escape(latex)}</code>", [type(error).__name__]
    if unknown:
        LOG.warning("math %r: %s is not understood", latex, ", ".join(unknown), location=node)
    return made.replace("<math ", f'<math alttext="{_escape(latex)}" ', 1)


def _math_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node, "inline"))
    raise nodes.SkipNode


def _math_block(translator: Any, node: nodes.math_block) -> None:
    number = f'<span class="eqno">({get_node_equation_number(translator, node)})</span>' if node["number"] else ""
    translator.body.append(f"{translator.starttag(node, 'div', CLASS='math')}{number}{_mathml(node, 'block')}</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_config_value("statedepth_data", "data", "env")
    app.add_config_value("statedepth_digest", "", "")
    app.add_role("num", NumRole())
    blocks: dict[str, type[Directive]] = {
        "chart": ChartDirective,
        "verdict": VerdictDirective,
        "claims-board": ClaimsBoard,
        "run-block": RunBlock,
    }
    for name, directive in blocks.items():
        app.add_directive(name, directive)
    # MathML is read by every browser and by screen readers; MathJax would be two megabytes of script from another host.
    app.add_html_math_renderer("mathml", (_math_inline, None), (_math_block, None))
    app.connect("config-inited", _configure, priority=1)
    app.connect("builder-inited", _fresh_static)
    app.connect("env-get-outdated", _outdated)
    app.connect("missing-reference", _link)
    app.connect("build-finished", _finished)
    app.connect("html-page-context", _page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
