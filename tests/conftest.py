"""What several test files share: one thread, and books that are built once."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from synthetic import FLIPPED, tables

from statedepth import claims
from statedepth import tables as table_files
from statedepth.grid import ROOT
from statedepth.publish import jupyter_book

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

PAGES = ["index"] + [
    chapter["file"] for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for chapter in part["chapters"]
]
RUN = {
    "notebook": "flip",
    "profile": "paper",
    "date": "2026-01-02 03:04 UTC",
    "commit": "0123456789ab",
    "device": "CPU: test",
    "wall_time_s": 61.0,
    "cells": 3,
    "cells_from_cache": 1,
    "parameters": {"seeds": [0, 1, 2]},
    "versions": {"python": "3.11"},
}


def copy_of_the_book(folder: Path) -> Path:
    """The book with its settings, elsewhere, so that nothing tracked is touched."""
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("_build", "checkpoints"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, folder)
    return folder / "book"


def synthetic_data(folder: Path, profile: str = "paper") -> Path:
    """A data folder of claim 1 from tables made by hand."""
    made = tables(FLIPPED, seeds=3, failed=[("parity", "gru", 0)])
    for name, table in made.items():
        table_files.write(table, name, folder)
    table_files.write_record(claims.flip(made).record(profile), "verdict", folder)
    table_files.write_record({**RUN, "profile": profile}, "run", folder)
    return folder


@pytest.fixture(scope="session")
def published_site(tmp_path_factory) -> Path:
    """The pages of the published run, built with warnings as errors; once for all processes of a run of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "published"
    pages = folder / "out" / "_build" / "html"
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            done = jupyter_book(copy_of_the_book(folder), folder / "out")
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
            (folder / "built").touch()
    return pages


@pytest.fixture
def small_book(tmp_path) -> Path:
    """A book of three pages with our extension on synthetic data; returns its source folder."""
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: flip\n  - file: other\n")
    book = tmp_path / "book"
    shutil.copytree(ROOT / "book" / "_static", book / "_static")
    shutil.copy2(ROOT / "book" / "references.bib", book)
    (book / "_toc.yml").write_text((ROOT / "book" / "_toc.yml").read_text())
    (book / "index.md").write_text(
        "# Small\n\nThere are {num}`flip.models` models.\n\n```{claims-board}\n```\n\n```{chart} flip.readability\n```\n"
    )
    (book / "flip.md").write_text("# Claim\n\n(flip-models)=\n## Models\n\n{num}`flip.models`\n")
    (book / "other.md").write_text(
        "# Other\n\nMamba: {num}`flip.mamba.parity.accuracy`, $x^2$.\n\n```{verdict} flip\n```\n\n```{run-block} flip\n```\n"
    )
    synthetic_data(book / "data" / "flip")
    return book


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text()


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
