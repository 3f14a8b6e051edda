"""Run notebooks with papermill and build the site from them: what stands behind `make run`, `make book`, `make publish`."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from statedepth import claims, explorer, figures, grid, notebook, tables
from statedepth import redraw as redraw_cells
from statedepth.files import write_whole
from statedepth.grid import ROOT

BOOK, BUILD = ROOT / "book", ROOT / "_build"


class RunFailed(Exception):  # noqa: N818 (it is what happened, not a fault of ours)
    """A notebook stopped; the message is one line that says why."""


def execute(name: str, values: Mapping[str, Any], out: Path, data: Path) -> Path:
    """Execute one notebook with papermill into `out`, its tables into `data`; the notebook appears whole or not at all.

    Raises ValueError, before a kernel starts, for parameters that `notebook.check` refuses, and RunFailed where a cell
    fails.
    """
    checked = notebook.check(name, values)
    passed = {k: v for k, v in checked.items() if k in values} | {"out": str(data)}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        source, draft = Path(folder) / "source.ipynb", Path(folder) / "draft.ipynb"
        jupytext.write(jupytext.reads(notebook.source_of(name), "py:percent"), source)
        try:
            papermill.execute_notebook(
                source, draft, passed, cwd=str(ROOT), log_output=False, progress_bar=True, kernel_name="python3"
            )
        except PapermillExecutionError as error:
            where = "" if error.ename == "ValueError" else f"{error.ename} in cell {error.exec_count}: "
            raise RunFailed(f"{name}: {where}{error.evalue.strip()}") from error
        scrub(draft)
        return draft.replace(out / f"{name}.ipynb")


def scrub(path: Path) -> None:
    """Take out of an executed notebook what changes from run to run and tells a reader nothing.

    Cell ids, times, papermill's records and progress bars go; the run block, which the notebook prints itself, stays.
    So a re-run with no change alters nothing but that block.
    """
    book = nbformat.read(path, as_version=4)
    book.metadata.pop("papermill", None)
    book.metadata.get("language_info", {}).pop("version", None)
    for cell in book.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("out = "))
    book.cells = [cell for cell in book.cells if cell.source != "# Parameters"]  # injected, and nothing is left of it
    _tidy(book)
    nbformat.write(book, path)


SPECIFICATION = re.compile(r'<script type="application/json">.*?</script>', re.S)


def _tidy(book: nbformat.NotebookNode) -> None:
    """Ids by place, no progress bars, and pictures without the data that the site adds to them when it is built."""
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output.data["text/html"] = SPECIFICATION.sub("", output.data["text/html"])


def drop_reruns(path: Path) -> None:
    """Remove the cells tagged `rerun` from an executed notebook: the published run has no other to stand beside."""
    book = nbformat.read(path, as_version=4)
    book.cells = _without_reruns(book)
    nbformat.write(book, path)


def _without_reruns(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if "rerun" not in cell.metadata.get("tags", [])]


def jupyter_book(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`jupyter-book build`, with warnings as errors, by the Python that runs this."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
    command += ["--path-output", str(out), "-W", "--keep-going"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def build_site(source: Path, out: Path) -> Path:
    """Build a book; returns the folder of its pages. RunFailed, with the end of the log, where it does not build."""
    done = jupyter_book(source, out)
    if done.returncode:
        raise RunFailed(f"jupyter-book ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return out / "_build" / "html"


def site_of(folder: Path) -> Path:
    """A copy of the published book in `folder`/book, with the notebooks and tables that were run into `folder` in place."""
    book = folder / "book"
    shutil.copytree(BOOK, book, dirs_exist_ok=True, ignore=shutil.ignore_patterns("_build", "checkpoints", ".*"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, folder / name)
    _list_pages(folder / "_toc.yml", [path.stem for path in sorted((folder / "executed").glob("*.ipynb"))])
    for ran in sorted((folder / "executed").glob("*.ipynb")):
        shutil.copy2(ran, book / ran.name)
        shutil.rmtree(book / "data" / ran.stem, ignore_errors=True)
        shutil.copytree(folder / "data" / ran.stem, book / "data" / ran.stem)
    return build_site(book, folder / "site")


def _list_pages(contents: Path, names: list[str]) -> None:
    """Notebooks that the published book does not have go behind its claims in the table of contents."""
    toc = yaml.safe_load(contents.read_text())
    listed = {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    toc["parts"][0]["chapters"] += [{"file": name} for name in names if name not in listed]
    contents.write_text(yaml.safe_dump(toc, sort_keys=False))


def run(names: list[str], profile: str, values: Mapping[str, Any], folder: Path) -> Path:
    """Execute notebooks at a profile with changes, build the site from them, and print how the numbers moved."""
    for name in names:
        notebook.check(name, {**notebook.profile_values(name, profile), **values})  # refuse all before running any
    for name in names:
        chosen = {**notebook.profile_values(name, profile), **values}
        execute(name, chosen, folder / "executed", folder / "data" / name)
        print(f"\n{name}: this run beside the published one")
        print(notebook.compare(name, tables.read_folder(folder / "data" / name)).to_string(index=False))
    pages = site_of(folder)
    print(f"\nthe site is at {pages / 'index.html'}")
    return pages


def train(name: str, workers: int = 0) -> None:
    """Train every model of a notebook's published run that has no checkpoint, and publish those that are to be."""
    runs, published = grid.wanted(name, notebook.check(name, {}))
    grid.obtain(runs, grid.pick_device("auto"), workers)
    for one in published:
        if grid.source(one) == "cached":
            grid.fetch(one)  # refuses what does not match its record
            for suffix in ("safetensors", "json"):
                grid.PUBLISHED.mkdir(parents=True, exist_ok=True)
                shutil.copy2(grid.CACHE / "checkpoints" / f"{one.key}.{suffix}", grid.PUBLISHED)
    print(f"{len(published)} of {len(runs)} checkpoints of {name} are published")


def publish(name: str) -> None:
    """Execute a notebook at the paper profile and put it and its tables in the place of the published run."""
    train(name)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        executed = execute(name, {}, Path(folder), Path(folder) / "data")
        drop_reruns(executed)
        before, here = Path(folder) / "before", BOOK / "data" / name
        if here.exists():
            here.rename(before)  # not removed: a kill before the next line leaves it on disk
        (Path(folder) / "data").rename(here)
        shutil.copy2(executed, BOOK / executed.name)
    _picture(name)
    print(f"published {name}; build the site with: jupyter-book build book/")


def _picture(name: str) -> None:
    """The first figure of a notebook as a file, for the README, which may be read on a dark page."""
    first = next(iter(figures.CHARTS[name]))
    picture = figures.chart(name, first, tables.read_folder(BOOK / "data" / name)).svg
    write_whole(
        BOOK / "_static" / f"{name}-{first}.svg",
        lambda draft: draft.write_text(picture.replace("<svg", '<svg style="background:white"', 1)),
    )


def _shows(cell: nbformat.NotebookNode) -> bool:
    return "show" in cell.metadata.get("tags", [])


def published() -> list[str]:
    """The notebooks that have a published run."""
    return [name for name in notebook.known() if (BOOK / "data" / name / "run.json").exists()]


def redraw(name: str) -> None:
    """The published page of a notebook from its source as it is now and the published tables; nothing is measured.

    Cells tagged `show` are executed; other cells keep the output of the run where their code is the same. The verdict is
    what the criterion says of the tables. The run block stays that of the run.
    """
    data, page = BOOK / "data" / name, BOOK / f"{name}.ipynb"
    notebook.source_of(name)
    if name not in published():
        raise ValueError(f"notebook={name!r}: has no published run; make publish NOTEBOOK={name} makes one")
    run = notebook.record(data, "run")
    verdict = claims.CRITERIA[name](tables.read_folder(data)).record(run["profile"])
    kept = {c.source: c.outputs for c in nbformat.read(page, as_version=4).cells if c.get("outputs") and not _shows(c)}
    book = jupytext.reads(notebook.source_of(name), "py:percent")
    book.cells = _without_reruns(book)
    lost = set(kept) - {cell.source for cell in book.cells}
    if lost:
        what = sorted(lost)[0][:60]
        raise ValueError(
            f"{name}: {what!r} had an output, changed, and is not drawn from tables: publish the notebook anew"
        )
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = kept.get(cell.source, [])
    for index, value in redraw_cells.shown(book, redraw_cells.reopen(data)):
        book.cells[index].outputs = [redraw_cells.output(value)]
    for number, cell in enumerate((cell for cell in book.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    _tidy(book)
    book.metadata["language_info"] = {"name": "python"}
    tables.write_record(verdict, "verdict", data)
    write_whole(page, lambda draft: nbformat.write(book, draft))
    _picture(name)
    print(f"drew {name} from its tables")


def explore() -> None:
    """Write what the explorer shows, and the record of the run that made it, under book/data/explorer."""
    started, made = time.time(), {name: explorer.explored(name) for name in explorer.SHOWN}
    for name, record in made.items():
        tables.write_record(record, name, BOOK / "data" / "explorer")
    run = {"profile": "paper", **notebook.provenance("cpu", started), "parameters": {"n_fit": explorer.SETTINGS.n_fit}}
    tables.write_record(run, "run", BOOK / "data" / "explorer")


def parse_assignments(pairs: list[list[str]]) -> dict[str, str]:
    """NAME VALUE pairs of the command line; ValueError for a name that is no name or comes twice."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in values:
            raise ValueError(f"-p {name} {value}: each parameter is a name and a value, and comes once")
        values[name] = value
    return values
