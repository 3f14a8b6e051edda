"""What a notebook's page shows, drawn from the tables as they are now, and kept until tables, code or notebook change."""

import hashlib
import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat

from statedepth import exhibit, redraw
from statedepth.grid import CACHE

KEPT = 24  # drawings of a notebook's page; the oldest go first


def outputs(
    book: nbformat.NotebookNode, data: Path, published: Path | None, site: Path | None, up: str
) -> dict[int, nbformat.NotebookNode]:
    """The output of each cell tagged `show`, by its index; the files of its figures are put below `site`, where there is one.

    `published` is the folder of the run that stands beside this one; None for the published run itself. `up` leads from the page
    to the site's root.
    """
    place = CACHE / "drawn" / _digest(book, data, published, up)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            draft = Path(folder) / "draft"
            draft.mkdir()
            made = _drawn(book, data, published, draft, up)
            (draft / "outputs.json").write_text(json.dumps(made))
            if not place.exists():  # else another build was faster
                draft.rename(place)
        for old in sorted(place.parent.iterdir(), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    if site and (place / "_static").exists():
        shutil.copytree(place / "_static", site / "_static", dirs_exist_ok=True)
    found = json.loads((place / "outputs.json").read_text())
    return {int(index): nbformat.from_dict(output) for index, output in found.items()}


def _drawn(book: nbformat.NotebookNode, data: Path, published: Path | None, folder: Path, up: str) -> dict[int, Any]:
    values = dict(redraw.shown(book, redraw.reopen(data)))
    others = dict(redraw.shown(book, redraw.reopen(published))) if published else {}
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
    files = sorted(Path(__file__).parent.glob("*.py")) + sorted(data.iterdir())
    for path in files + (sorted(published.iterdir()) if published else []):
        made.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return made.hexdigest()[:32]
