"""The Sphinx extension of the book: numbers, charts, verdicts and run blocks come from tables when the site is built."""

import dataclasses
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

import nbformat
import pandas as pd
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from latex2mathml.converter import convert as mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.math import get_node_equation_number
from sphinx.util.nodes import make_refnode

from statedepth import (
    claims,
    drawn,
    exhibit,
    explorer_page,
    extensions,
    figures,
    icons,
    listing,
    notebook,
    pages,
    render,
    tables,
)
from statedepth.exhibit import badge

LOG = logging.getLogger(__name__)
SCALES = {
    "formal": "at the scale of four-layer models",
    "small": "small models of our own",
    "analogue": "small language models of our own, an analogue",
    "own checkpoint": "checkpoints of the reader's own",
}
EXAMPLES = {"flip_sensitivity": {"variants": ["n_layers=3"], "seeds": [0]}, "pretrained_bottleneck": {"models": ["mamba-large"], "tasks": ["parity"], "seeds": [0], "scratch_seeds": [], "hard_tasks": [], "width": 3}}  # fmt: skip
# Of which notebooks not every model is published, and what trains the others where they would be left out.
UNPUBLISHED: dict[str, dict[str, bool]] = {"s3_grouping": {"every_seed": True}, "pretrained_bottleneck": {"rebuild": True}, "flip_sensitivity": {}}  # fmt: skip
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
    files += [p for p in static.rglob("*") if p.is_file()] + [
        p for p in Path(__file__).parent.iterdir() if p.suffix in {".py", ".js"}
    ]
    files += [notebook.ROOT / "CHANGELOG.md", *notebook.NOTEBOOKS.glob("*.py"), *extensions.paths()]
    made = hashlib.sha256(str([metadata.version(name) for name in ("vl-convert-python", "altair", "pandas")]).encode())
    for path in sorted(files):
        made.update(f"{path}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return made.hexdigest()


def _split(key: str) -> tuple[str, str]:
    notebook, _, name = key.partition(".")
    if notebook not in claims.sources():
        raise UnknownKey(f"{key!r}: must start with one of {', '.join(claims.sources())} and a dot")
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
        tip = f"{number.label}; {_which(run)} of {run['date']} on {run['device']}; {chosen}"
        link = addnodes.pending_xref(
            "",
            nodes.Text(render.minus(number.text)),
            refdomain="",
            reftype="num",
            reftarget=number.cell,
            refwarn=True,
            tip=tip,
        )
        link["key"] = self.text
        link["refdoc"] = self.env.docname
        self.set_source_info(link)
        return [link], []


def _link(app: Sphinx, env: Any, node: addnodes.pending_xref, content: nodes.Text) -> nodes.reference | None:
    """The link of a `{num}` to the section labelled `(cell)=`; without such a label Sphinx warns, so that no link is dead."""
    place = env.get_domain("std").anonlabels.get(node["reftarget"]) if node["reftype"] == "num" else None
    if place is None:
        return None
    link = make_refnode(app.builder, node["refdoc"], place[0], place[1], content, node["tip"])
    link["classes"] += ["statedepth-num", f"num:{node['key']}"]
    return link


def _which(run: dict[str, Any]) -> str:
    """The published run, or a re-run with the small parameters of the quick profile or with others."""
    return {"paper": "published run", "quick": "re-run at the quick profile"}.get(
        run["profile"], "re-run with other parameters"
    )


def _up(docname: str) -> str:
    return "../" * docname.count("/")


def _site(app: Sphinx) -> Path | None:
    """Where the site is being written; None for other builders."""
    return Path(app.outdir) if app.builder.format == "html" else None


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
        if notebook not in (*claims.sources(), "explorer"):
            raise UnknownKey(f"{notebook!r}: known are {', '.join(claims.sources())}")
        path = self.folder / notebook / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None


class ChartDirective(_Block):
    """`{chart} flip.readability`: a figure, drawn from the tables when the book is built; `overview.NAME` is of all runs, `drawn.NAME` an example."""

    option_spec = {"caption": directives.unchanged}  # noqa: RUF012 (docutils reads it so)

    def html(self) -> str:
        """The figure's element."""
        made = self._made()
        made = dataclasses.replace(made, caption=self.options.get("caption", made.caption))
        return exhibit.figure(made, _site(self.env.app), _up(self.env.docname))

    def _made(self) -> render.Figure:
        key, digest = self.arguments[0], self.config.statedepth_digest
        if key.startswith("overview."):
            name = key.partition(".")[2]
            if name not in figures.OVERVIEW:
                raise _near(key, name, figures.OVERVIEW)
            runs = {n: _tables(self.folder, n, digest) for n in claims.CLAIMS if _run(self.folder, n)}
            return figures.OVERVIEW[name](runs)
        if key.startswith("drawn."):
            name = key.partition(".")[2]
            if name not in drawn.CHARTS:
                raise _near(key, name, drawn.CHARTS)
            return drawn.CHARTS[name]()
        of, name = _split(key)
        if _run(self.folder, of) is None:
            raise UnknownKey(f"{key!r}: {of} has no run under {self.config.statedepth_data}")
        if name not in figures.CHARTS.get(of, {}):
            raise _near(key, name, figures.CHARTS.get(of, {}))
        return figures.chart(of, name, _tables(self.folder, of, digest))


class VerdictDirective(_Block):
    """`{verdict} flip`: the badge, the sentence that decides, the numbers behind it, and the command that runs it again."""

    def html(self) -> str:
        """A card; without a badge where the run is not the published one."""
        of = self.arguments[0]
        verdict, run = self.record(of, "verdict"), self.record(of, "run")
        if verdict is None:
            return f'<div class="statedepth-verdict"><p>{NOT_MEASURED.capitalize()}.</p></div>'
        again = _again(of, run)
        if verdict["profile"] != "paper":
            profile = "the quick profile" if verdict["profile"] == "quick" else "parameters of its own"
            return (
                f'<div class="statedepth-verdict quick"><p><strong>This is a re-run</strong> with {profile}. It shows its numbers and '
                f"figures beside the published ones and passes no verdict.</p>{again}</div>"
            )
        rows = "".join(
            f"<li>{_escape(d['label'])}: <strong>{_escape(render.minus(d['text']))}</strong></li>"
            for d in verdict["deciding"]
        )
        heading = "Setting by setting" if of in claims.STUDIES else "The numbers that decided, with 95% intervals"
        reasons = [_escape(render.minus(reason)) for reason in verdict["reasons"]]
        first, others = " ".join(reasons[:2]), reasons[2:]  # what decided, and what qualifies it most
        more = "".join(f"<li>{reason}</li>" for reason in others)
        more = f"<details><summary>What else it says</summary><ul>{more}</ul></details>" if others else ""
        return (
            f'<div class="statedepth-verdict {_kind(verdict)}"><p class="decided">{badge(verdict, SCALES)}</p><p>{first}</p>{more}'
            f"<details><summary>{heading}</summary><ul>{rows}</ul></details>{again}</div>"
        )


def _kind(verdict: dict[str, Any]) -> str:
    return verdict["outcome"].replace(" ", "-")


def _again(of: str, run: dict[str, Any] | None) -> str:
    """The box with the command that executes this page's notebook with the parameters shown."""
    if run is None or of not in notebook.known():
        return ""
    defaults = {name: parameter.default for name, parameter in notebook.declared(of).items()}
    own = {k: v for k, v in run["parameters"].items() if k not in notebook.PLACES and defaults.get(k) != v}
    unpublished = UNPUBLISHED.get(of) if run["profile"] == "paper" else None
    same = notebook.command(of, own | (unpublished or {}))
    other = notebook.command(of, own | (EXAMPLES.get(of) or {"seeds": [7]}))
    hours = (
        "" if unpublished is None else " (it trains the models that have no published checkpoint, which takes hours)"
    )
    trained = (
        f"Models without a published checkpoint are left out; <code>{' '.join(unpublished)}</code> trains them."
        if unpublished
        else "What has no published checkpoint is trained."
    )
    return (
        '<details class="statedepth-again"><summary>Run it yourself</summary>'
        f"<p>This page again, with the parameters it shows{hours}:</p>"
        f'<div class="highlight"><pre tabindex="0">{_escape(same)}</pre></div>'
        f"<p>With others, as an example. {trained} The page that it builds has both runs side by side:</p>"
        f'<div class="highlight"><pre tabindex="0">{_escape(other)}</pre></div>'
        "<p>Any parameter of the cell tagged <em>parameters</em> below can be set in the same way.</p></details>"
    )


class ClaimsBoard(_Block):
    """`{claims-board}`: what was claimed, what its author corrected, what we found."""

    required_arguments = 0

    def html(self) -> str:
        """A card for each claim, in a list."""
        cards = []
        for claim in claims.CLAIMS.values():
            verdict = self.record(claim.notebook, "verdict")
            title = f"{claim.number}. {_escape(claim.title)}"
            if claim.notebook in self.env.found_docs:
                title = f'<a href="{_up(self.env.docname)}{claim.notebook}.html">{title}</a>'
            kind, number = "not-measured", ""
            if verdict is None:
                found = f'<p class="decided"><span class="statedepth-badge not-measured">{NOT_MEASURED}</span></p>'
            elif verdict["profile"] != "paper":
                found = "<p>Re-run with other parameters or fewer seeds: numbers only, no verdict.</p>"
            else:
                kind, one = _kind(verdict), exhibit.deciding(claim.notebook, verdict)
                two = " ".join(_escape(render.minus(reason)) for reason in verdict["reasons"][:2])
                found = f'<p class="decided">{badge(verdict, SCALES)}</p><p>{two}</p>'
                if one:
                    value, _, interval = render.minus(one["text"]).partition(" (")
                    interval = f"<span> 95% ({_escape(interval)}</span>" if interval else ""
                    number = f'<p class="number"><strong>{_escape(value)}</strong>{interval}<br>{_escape(render.minus(one["label"]))}</p>'
            cards.append(
                f'<li class="{kind}"><h3>{title}</h3><div class="said"><p class="plain">{_escape(claim.plain)}</p><p><b>v1</b> {_escape(claim.v1)}</p>'
                f'<p><b>v2</b> {_escape(claim.v2)}</p></div><div class="found">{found}{number}</div></li>'
            )
        return f'<ol class="statedepth-board">{"".join(cards)}</ol>'


class ClaimsCount(_Block):
    """`{claims-count}`: of how many claims what came out, in a line."""

    required_arguments = 0

    def html(self) -> str:
        """A strip with a mark for each claim."""
        marks = []
        for claim in claims.CLAIMS.values():
            verdict = self.record(claim.notebook, "verdict")
            kind = "not-measured" if verdict is None or verdict["profile"] != "paper" else _kind(verdict)
            word = (
                NOT_MEASURED if verdict is None else "re-run" if verdict["profile"] != "paper" else verdict["outcome"]
            )
            link = f"{_up(self.env.docname)}{claim.notebook}.html"
            title = _escape(claim.plain)
            title = f'<a href="{link}">{title}</a>' if claim.notebook in self.env.found_docs else title
            marks.append(f'<li>{title} <span class="statedepth-badge {kind}">{_escape(word)}</span></li>')
        return f'<ol class="statedepth-count" aria-label="the four claims and their verdicts">{"".join(marks)}</ol>'


class RunBlock(_Block):
    """`{run-block} flip`: when, where, from what code and with which parameters the run was made, and its tables."""

    def html(self) -> str:
        """A list behind one click."""
        of = self.arguments[0]
        run = self.record(of, "run")
        if run is None:
            return f"<p>{NOT_MEASURED.capitalize()}.</p>"
        which = "re-execution at the published settings" if of == "differences" else _which(run)
        minutes = run["wall_time_s"] / 60
        spent = f"{minutes:.1f} min"
        rows = [
            ("run", which),
            ("date", run["date"]),
            ("commit", run["commit"]),
            ("device", run["device"]),
        ]
        if run.get("cells") and run["cells"] == run["cells_from_cache"]:
            spent += ", with every measurement found cached: it is the time of reading and drawing"
        elif "cells" in run:
            found = f"{run['cells']}, of which {run['cells_from_cache']} were found measured before, by the same code"
            rows += [("measurements", found)]
        rows.insert(4, ("wall time", spent))
        if run.get("left_out"):
            rows += [("left out", f"{run['left_out']} seeds that have no checkpoint")]
        rows += run["parameters"].items()
        rows += [(f"version of {name}", version) for name, version in run["versions"].items()]
        body = "".join(f"<dt>{_escape(k)}</dt><dd>{_escape(v)}</dd>" for k, v in rows)
        body += f"<dt>tables</dt><dd>{self._tables(of)}</dd>"
        title = f"The run behind this page: {which} of {run['date']} on {run['device']}"
        return f'<details class="statedepth-run"><summary>{_escape(title)}</summary><dl>{body}</dl></details>'

    def _tables(self, of: str) -> str:
        """Links to the tables of the run, which are copied to the site."""
        site, up, links = _site(self.env.app), _up(self.env.docname), []
        for path in sorted((self.folder / of).glob("*.csv")) + sorted((self.folder / of).glob("*.json")):
            if site:
                (site / "_static" / "data" / of).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, site / "_static" / "data" / of / path.name)
            links.append(f'<a href="{up}_static/data/{of}/{path.name}" download>{path.name}</a>')
        return " ".join(links)


class Predictions(_Block):
    """`{predictions}`: everything that was predicted, claim by claim, and what came of it."""

    required_arguments = 0

    def html(self) -> str:
        """A table for each claim and study, and how many came true."""
        parts, counts = [], {"yes": 0, "in part": 0, "no": 0, "undecided": 0}
        titles = {c.notebook: f"Claim {c.number}: {c.title}" for c in claims.CLAIMS.values()} | claims.STUDIES
        for name, title in titles.items():
            if _run(self.folder, name) is None:
                continue
            made = claims.CRITERIA[name](_tables(self.folder, name, self.config.statedepth_digest))
            table = claims.outcomes_of_predictions(name, made)
            for came in table["came true"]:
                counts[came] += 1
            parts.append(render.Rows(table, title)._repr_html_())
        words = {"yes": "came true", "in part": "came true in part", "no": "did not come true"}
        said = ", ".join(
            f"{count} {words.get(came) or ('is undecided' if count == 1 else 'are undecided')}"
            for came, count in counts.items()
            if count
        )
        return f"<p>Of {sum(counts.values())} predictions {said}.</p>" + "".join(parts)


def _made_with(run: dict[str, Any] | None) -> str:
    """What most decides the last digits of a run."""
    versions = (run or {"versions": {}})["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy") if name in versions)


class Differences(_Block):
    """`{differences}`: a re-execution at the published settings beside the published run: how many numbers, and which moved most."""

    required_arguments = 0
    SHOWN = 12  # rows

    def html(self) -> str:
        """A row for each notebook, then the numbers with the largest differences."""
        if _run(self.folder, "differences") is None:
            return f"<p>{NOT_MEASURED.capitalize()}.</p>"
        table = _tables(self.folder, "differences", self.config.statedepth_digest)["differences"]
        counts = [
            {
                "notebook": name,
                "numbers": len(part),
                "outside their tolerance": int((~part["within"]).sum()),
                "different in five digits": int((~claims.same_digits(part)).sum()),
                "published with": _made_with(self.record(str(name), "run")),
                "here with": _made_with(self.record("differences", str(name))),
            }
            for name, part in table.groupby("notebook", sort=False)
        ]
        moved = table[~claims.same_digits(table)]
        order = (moved["difference"].abs() / moved["tolerance"]).sort_values(ascending=False, na_position="first").index
        rows = moved.loc[order[: self.SHOWN], ["label", "published", "now", "tolerance"]].map(
            lambda value: f"{value:.6g}" if isinstance(value, float) else value
        )
        first = render.Rows(pd.DataFrame(counts), "Numbers of a re-execution compared with those of the published run")
        second = render.Rows(rows, "Those that differ most, as shares of their tolerance") if len(rows) else None
        return first._repr_html_() + (second._repr_html_() if second else "")


class PublishedNumbers(_Block):
    """`{published-numbers}`: the sixteen values of v1's figure, each beside ours with its interval over seeds."""

    required_arguments = 0

    def html(self) -> str:
        """A row for each architecture, task and site."""
        if _run(self.folder, "flip") is None:
            return f"<p>{NOT_MEASURED.capitalize()}.</p>"
        table = claims.beside_published(_tables(self.folder, "flip", self.config.statedepth_digest))
        return render.Rows(
            table, "Probe accuracy in per cent: v1's figure, and ours (mean over seeds, 95% interval)"
        )._repr_html_()


class Explorer(_Block):
    """`{explorer} parity`: what the probe at each site reads while a reader edits a string."""

    def html(self) -> str:
        """The widget with the readings in it; without a script, those of one string."""
        path = self.folder / "explorer" / f"{self.arguments[0]}.json"
        if not path.exists():
            raise UnknownKey(f"{self.arguments[0]!r}: no readings; python -m statedepth explorer makes them")
        return explorer_page.widget(json.loads(path.read_text()))


# ---- notebooks, drawn anew ---------------------------------------------------------------------------------------------


def _draw_anew(app: Sphinx, docname: str, source: list[str]) -> None:
    """What a notebook shows is drawn from its tables as they are now; a re-run stands beside the published run."""
    folder = _folder(app) / docname
    if docname == "changelog":  # one text for the repository and for the site
        source[0] += (notebook.ROOT / "CHANGELOG.md").read_text().partition("\n")[2]
    if docname not in claims.CRITERIA or not source[0].lstrip().startswith("{") or not (folder / "run.json").exists():
        return
    book = nbformat.reads(source[0], as_version=4)
    made = pages.outputs(book, folder, _beside(app, docname), _site(app), _up(docname))
    for index, output in made.items():
        book.cells[index].outputs = [output]
    source[0] = nbformat.writes(book)


def _beside(app: Sphinx, docname: str) -> Path | None:
    """The published run, where the page is of another."""
    run, folder = _run(_folder(app), docname), notebook.ROOT / "book" / "data" / docname
    return folder if run and run["profile"] != "paper" and (folder / "run.json").exists() else None


class SourceLinks(SphinxPostTransform):
    """A name of the library in code font, as in `statedepth.erasers.leace`, leads to its source; an unknown one is a warning."""

    default_priority = 400

    def run(self, **kwargs: Any) -> None:
        """Wrap each such literal in a link."""
        if self.app.builder.format != "html":
            return
        for literal in list(self.document.findall(nodes.literal)):
            name = re.fullmatch(r"(?:statedepth\.)?([a-z_0-9]+(?:\.\w+){0,2})", literal.astext())
            if name is None or not (literal.astext().startswith("statedepth.") or "." in name[1]):
                continue
            place = listing.place(name[1])
            if place is None:
                if literal.astext().startswith("statedepth."):
                    LOG.warning("%s is not in the library", literal.astext(), location=literal)
                continue
            link = nodes.reference(
                "", "", refuri=_up(self.env.docname) + place, internal=True, classes=["statedepth-source"]
            )
            literal.replace_self(link)
            link += literal


def _listings(app: Sphinx) -> Any:
    return listing.pages() if app.builder.format == "html" else []


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
        shutil.copy2(Path(__file__).with_name("explorer.js"), out)
    if ours.is_dir():
        shutil.copytree(ours, out, dirs_exist_ok=True)


CITATION = re.compile(
    r'<a class="reference internal" href="(?:references\.html)?#id\d+" title="([^"]+)">(.*?)</a>', re.S
)


def _card(found: re.Match[str]) -> str:
    """A citation with its entry beside it, shown by the style sheet where a reader points at it or tabs to it."""
    link = found[0].replace(f' title="{found[1]}"', "", 1)
    return f'<span class="statedepth-cite">{link}<span class="card">{found[1]}</span></span>'


def _page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Pages with a chart load Vega, those with an explorer its script; citations get their cards."""
    if "body" in context:
        body = CITATION.sub(_card, context["body"])
        body = body.replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )  # it holds no list items
        # A table that scrolls on a phone must scroll by keyboard too.
        text = html.unescape(re.sub(r"<[^>]+>|\s+", " ", "".join(re.findall(r"<p>(.*?)</p>", body, re.S)[:1])))
        if text.strip() and 'name="description"' not in context.get("metatags", ""):
            about = _escape(re.sub(r"\s+", " ", text).strip()[:180])
            context["metatags"] = context.get("metatags", "") + f'\n<meta name="description" content="{about}">'
        context["body"] = re.sub(
            r'<table (border="0" )?class="dataframe', r'<table tabindex="0" class="dataframe', body
        )
    if 'class="statedepth-chart"' in context.get("body", ""):
        app.add_js_file("vega.js", loading_method="defer")
    if 'class="statedepth-explorer"' in context.get("body", ""):
        app.add_js_file("explorer.js", loading_method="defer")


def _outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """All pages, where what they show changed since the last build that came to its end: numbers stand on any of them."""
    return [] if _built(app) == app.config.statedepth_digest else list(env.found_docs)


def _built(app: Sphinx) -> str:
    """The digest of the last build that came to its end; Sphinx saves its own records before it writes a page."""
    stamp = Path(app.outdir) / ".statedepth.digest"  # with the pages: where they were removed, all are made again
    return stamp.read_text() if stamp.exists() else ""


def _finished(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and not app._warncount:  # a build with warnings must not pass for a good one the next time
        if app.builder.format == "html":
            icons.slim(Path(app.outdir))
        (Path(app.outdir) / ".statedepth.digest").write_text(app.config.statedepth_digest)


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
    translator.body.append(
        f"{translator.starttag(node, 'div', CLASS='math', tabindex='0')}{number}{_mathml(node, 'block')}</div>"
    )
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
        "claims-count": ClaimsCount,
        "run-block": RunBlock,
        "predictions": Predictions,
        "explorer": Explorer,
        "published-numbers": PublishedNumbers,
        "differences": Differences,
    }
    for name, directive in blocks.items():
        app.add_directive(name, directive)
    # MathML is read by every browser and by screen readers; MathJax would be two megabytes of script from another host.
    app.add_html_math_renderer("mathml", (_math_inline, None), (_math_block, None))
    app.add_css_file("icons.css")
    app.add_post_transform(SourceLinks)
    app.connect("config-inited", _configure, priority=1)
    app.connect("source-read", _draw_anew)
    app.connect("html-collect-pages", _listings)
    app.connect("builder-inited", _fresh_static)
    app.connect("env-get-outdated", _outdated)
    app.connect("missing-reference", _link)
    app.connect("build-finished", _finished)
    app.connect("html-page-context", _page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
