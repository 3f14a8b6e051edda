"""What a notebook's page shows, drawn from the tables as they are now, and kept until tables, code or notebook change."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat

from statedepth import exhibit, extensions, redraw
from statedepth.grid import CACHE

KEPT = 40  # drawings of a notebook's page; the oldest go first
WHOLE = "outputs.json"


def outputs(
    book: nbformat.NotebookNode, data: Path, published: Path | None, site: Path | None, up: str
) -> dict[int, nbformat.NotebookNode]:
    """The output of each cell tagged `show`, by its index; the files of its figures are put below `site`, where there is one.

    `published` is the folder of the run that stands beside this one; None for the published run itself. `up` leads from the page
    to the site's root.
    """
    place = CACHE / "drawn" / _digest(book, data, published, up)
    if (place / WHOLE).exists():
        os.utime(place)  # the oldest go first, and this one is in use
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as folder:
            draft = Path(folder) / "draft"
            draft.mkdir()
            (draft / WHOLE).write_text(json.dumps(_drawn(book, data, published, draft, up)))
            _prune(place.parent)
            with contextlib.suppress(OSError):  # another build was faster, and its drawing is the same
                draft.rename(place)
    if site and (place / "_static").exists():
        shutil.copytree(place / "_static", site / "_static", dirs_exist_ok=True)
    found = json.loads((place / WHOLE).read_text())
    return {int(index): nbformat.from_dict(output) for index, output in found.items()}


def _prune(folder: Path) -> None:
    """Remove the oldest drawings and what is left of an interrupted removal; what vanishes meanwhile is another build's work."""
    ages = {}
    for path in folder.glob("[0-9a-f]*"):
        with contextlib.suppress(OSError):
            ages[path] = path.stat().st_mtime if (path / WHOLE).exists() else 0.0
    newest = sorted(ages, key=ages.__getitem__)[-KEPT:]
    for path in set(ages) - {path for path in newest if ages[path]}:
        with contextlib.suppress(OSError):
            (path / WHOLE).unlink(missing_ok=True)  # first, so that a half-removed one is none
        shutil.rmtree(path, ignore_errors=True)


def _drawn(book: nbformat.NotebookNode, data: Path, published: Path | None, folder: Path, up: str) -> dict[int, Any]:
    values = dict(redraw.shown(book, redraw.reopen(data)))
    others: dict[int, Any] = {}
    if published:
        try:
            others = dict(redraw.shown(book, redraw.reopen(published)))
        except (
            Exception
        ) as error:  # it may be of another form, and whatever a cell raises then must not cost this run its page
            warnings.warn(f"the published run is not shown beside this one: {error}", stacklevel=2)
    found = {}
    for index, value in values.items():
        ours = exhibit.shown(value, folder, up)
        compares = "rerun" in book.cells[index].metadata.get("tags", [])  # it shows both already
        theirs = None if compares else exhibit.shown(others.get(index), folder, up, "-published")
        found[index] = redraw.output(value, exhibit.pair(ours, theirs) if ours and theirs else ours)
    return found


def _digest(book: nbformat.NotebookNode, data: Path, published: Path | None, up: str) -> str:
    """Of the notebook's code, all tables and records, the library, and what draws with it."""
    made = hashlib.sha256(
        json.dumps([[cell.source, cell.metadata] for cell in book.cells if cell.cell_type == "code"]).encode()
    )
    made.update(f"{up}\0{[metadata.version(name) for name in ('vl-convert-python', 'altair', 'pandas')]}".encode())
    files = [*sorted(Path(__file__).parent.glob("*.py")), *extensions.paths(), *_records(data)]
    for path in files + (_records(published) if published else []):
        made.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return made.hexdigest()[:32]


def _records(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.csv"), *folder.glob("*.json")])
