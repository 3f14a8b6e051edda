"""What a notebook needs around its science: checked parameters, files written whole, the run block, the comparison."""

import ast
import contextlib
import datetime
import hashlib
import json
import platform
import re
import shlex
import subprocess
import time
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from statedepth import claims, grid, tables
from statedepth.files import alone
from statedepth.grid import ROOT
from statedepth.render import Rows  # noqa: F401 (notebooks show their tables by it)

NOTEBOOKS = ROOT / "notebooks"
PLACES = {"device", "workers", "out"}  # parameters that say where to compute, not what
SHOWN_VERSIONS = ("torch", "transformers", "scikit-learn", "numpy", "pandas", "altair", "statedepth")
_BUILTIN = {"In", "Out", "exit", "quit", "get_ipython", "open"}  # what IPython itself puts into a notebook's globals


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: `name: type = default  # meaning`."""

    name: str
    type: Any
    default: Any
    meaning: str


OTHERS: dict[str, str] = {}  # sources that were added from outside (`extend.claim`)
QUICK: dict[str, dict[str, Any]] = {}  # and their quick profiles


def known() -> list[str]:
    """Names of the notebooks that can be run: claims by their numbers, studies, others."""
    found = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
    first = [name for name in (*claims.CLAIMS, *claims.STUDIES) if name in found]
    return [*first, *(name for name in found if name not in first), *OTHERS]


def source_of(notebook: str) -> str:
    """The text of a notebook, in Jupytext's percent format; ValueError, with the known names, for any other name."""
    if notebook not in known():
        raise ValueError(f"notebook={notebook!r}: known notebooks are {', '.join(known())}")
    return OTHERS[notebook] if notebook in OTHERS else (NOTEBOOKS / f"{notebook}.py").read_text()


def declared(notebook: str) -> dict[str, Parameter]:
    """The parameters of a notebook, read from its source."""
    cell = re.search(r'# %%[^\n]*"parameters"[^\n]*\n(.*?)(?=\n# %%)', source_of(notebook), re.S)
    assert cell, f"{notebook} has no cell tagged parameters"
    lines = cell[1].splitlines()
    found = {}
    for node in ast.parse(cell[1]).body:
        assert isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        kind = eval(
            ast.unparse(node.annotation),
            {"__builtins__": {"list": list, "str": str, "int": int, "float": float, "bool": bool}},
        )
        meaning = lines[(node.end_lineno or 1) - 1].partition("#")[2].strip()
        found[node.target.id] = Parameter(node.target.id, kind, ast.literal_eval(node.value), meaning)
    return found


def profile_values(notebook: str, profile: str) -> dict[str, Any]:
    """What a profile changes: nothing for `paper`; else the content of notebooks/profiles/PROFILE/NOTEBOOK.yaml."""
    if profile == "paper":
        return {}
    if profile == "quick" and notebook in QUICK:
        return QUICK[notebook]
    path = NOTEBOOKS / "profiles" / profile / f"{notebook}.yaml"
    if not path.exists():
        others = sorted(p.parent.name for p in NOTEBOOKS.glob(f"profiles/*/{notebook}.yaml"))
        raise ValueError(f"profile={profile!r}: known profiles of {notebook} are {', '.join(['paper', *others])}")
    return yaml.safe_load(path.read_text()) or {}


def check(notebook: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a notebook with `values` in place of defaults, each of its declared type.

    Text is read as YAML where another type is declared (papermill's -p passes lists as text). Raises ValueError for an
    unknown name, with all known ones, and for a wrong type, with what the parameter means.
    """
    parameters = declared(notebook)
    checked = {name: parameter.default for name, parameter in parameters.items()}
    for name, value in values.items():
        if name not in parameters:
            listing = ", ".join(f"{p.name}: {_type_name(p.type)}" for p in parameters.values())
            raise ValueError(f"{name}: not a parameter of {notebook}; known are {listing}")
        checked[name] = _as_type(parameters[name], value)
    return checked


def _type_name(kind: Any) -> str:
    return str(kind) if isinstance(kind, types.GenericAlias) else kind.__name__


def _as_type(parameter: Parameter, value: Any) -> Any:
    kind = parameter.type
    parsed = value
    if isinstance(value, str) and kind is not str:
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
    if kind is float and isinstance(parsed, int) and not isinstance(parsed, bool):
        parsed = float(parsed)
    fits = type(parsed) is (typing.get_origin(kind) or kind)
    if fits and isinstance(parsed, list):
        fits = all(type(item) is typing.get_args(kind)[0] for item in parsed)
    if not fits:
        raise ValueError(f"{parameter.name}={value!r}: must be {_type_name(kind)} ({parameter.meaning})")
    return parsed


def record(folder: Path, name: str) -> dict[str, Any]:
    """run.json or verdict.json of a folder of tables."""
    return json.loads((folder / f"{name}.json").read_text())


def command(notebook: str, changes: Mapping[str, Any]) -> str:
    """The line that runs a notebook with these parameters in place of the published ones."""
    pairs = [f"-p {name} {_quoted(value)}" for name, value in changes.items()]
    return f"make run NOTEBOOK={notebook}" + (f' ARGS="{" ".join(pairs)}"' if pairs else "")


def _quoted(value: Any) -> str:
    """A value as papermill's -p takes it, inside double quotes of a shell."""
    if isinstance(value, list):
        return "'" + json.dumps(value).replace('"', '\\"') + "'"
    return (
        json.dumps(value)
        if isinstance(value, bool | int | float)
        else re.sub(r'(["$`\\])', r"\\\1", shlex.quote(value))
    )


@dataclass
class Session:
    """One run of one notebook: its checked parameters, its tables so far, and where they are written."""

    notebook: str
    values: dict[str, Any]
    out: Path
    device: str
    started: float
    held: contextlib.ExitStack  # keeps other runs out of the folder
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    cells: int = 0  # measured for this run, or found measured
    cells_from_cache: int = 0
    left_out: int = 0  # runs that the parameters ask for and that this run goes without

    @property
    def profile(self) -> str:
        """`paper` or `quick` where what is computed is all that those parameters ask for, else `custom`."""
        if self.left_out:
            return "custom"
        computed = {k: v for k, v in self.values.items() if k not in PLACES}
        for profile in ("paper", "quick"):
            try:
                wanted = check(self.notebook, profile_values(self.notebook, profile))
            except ValueError:
                continue
            if computed == {k: v for k, v in wanted.items() if k not in PLACES}:
                return profile
        return "custom"

    def measure(self, cells: Sequence[grid.Cell]) -> list[pd.DataFrame]:
        """`grid.measure` on this run's device and workers; the run block says how much was found in the cache."""
        return self._count(grid.measure(cells, self.device, self.values["workers"]))

    def follow(self, cells: Sequence[grid.TrainingCell]) -> list[pd.DataFrame]:
        """`grid.follow`, likewise."""
        return self._count(grid.follow(cells, self.device, self.values["workers"]))

    def attribute(self, cells: Sequence[grid.ConvCell]) -> list[pd.DataFrame]:
        """`grid.attribute`, likewise."""
        return self._count(grid.attribute(cells, self.device, self.values["workers"]))

    def erase(self, cells: Sequence[grid.NecessityCell]) -> list[pd.DataFrame]:
        """`grid.erase`, likewise."""
        return self._count(grid.erase(cells, self.device, self.values["workers"]))

    def check_planted(self, cells: Sequence[grid.PlantedCell]) -> list[pd.DataFrame]:
        """`grid.check_planted`, likewise."""
        return self._count(grid.check_planted(cells, self.device, self.values["workers"]))

    def patch(self, cells: Sequence[grid.PatchCell]) -> list[pd.DataFrame]:
        """`grid.patch`, likewise."""
        return self._count(grid.patch(cells, self.device, self.values["workers"]))

    def sweep(self, cells: Sequence[grid.SweepCell]) -> list[pd.DataFrame]:
        """`grid.sweep`, likewise."""
        return self._count(grid.sweep(cells, self.device, self.values["workers"]))

    def window(self, cells: Sequence[grid.WindowCell]) -> list[pd.DataFrame]:
        """`grid.window`, likewise."""
        return self._count(grid.window(cells, self.device, self.values["workers"]))

    def _count(self, found: list[pd.DataFrame]) -> list[pd.DataFrame]:
        self.cells += len(found)
        self.cells_from_cache += sum(table.attrs["from_cache"] for table in found)
        return found

    def write(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Check and write a table; from here on figures and numbers read what was written."""
        tables.write(table, name, self.out)
        self.tables[name] = tables.read_folder(self.out)[name]
        return self.tables[name]

    def finish(self) -> dict[str, Any]:
        """Write verdict.json, then run.json: a folder with a run.json is a whole run."""
        verdict = claims.CRITERIA[self.notebook](self.tables).record(self.profile)
        tables.write_record(verdict, "verdict", self.out)
        run = {
            "notebook": self.notebook,
            "profile": self.profile,
            **provenance(self.device, self.started),
            "cells": self.cells,
            "cells_from_cache": self.cells_from_cache,
            "left_out": self.left_out,
            "parameters": {k: v for k, v in self.values.items() if k != "out"},
        }
        tables.write_record(run, "run", self.out)
        self.held.close()
        return run


def lock_of(out: Path) -> Path:
    """The file by which runs into this folder keep one another out; not in it, since the folder is what is published."""
    return grid.CACHE / "locks" / f"run-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:20]}.lock"


PATIENCE = 5  # seconds
_HELD: dict[Path, contextlib.ExitStack] = {}  # folders that this process writes to, until their run is finished


def begin(notebook: str, namespace: Mapping[str, Any]) -> Session:
    """Check the parameters that a notebook was given, before anything is computed; call it with `globals()`.

    Names that were set but never declared are refused too, so that a plain papermill run cannot misspell one in
    silence. Raises ValueError as `check` and `grid.pick_device` do, and where another run is writing to the same folder.
    """
    given = {
        name: value
        for name, value in namespace.items()
        if not (name.startswith("_") or name in _BUILTIN or callable(value) or isinstance(value, types.ModuleType))
    }
    values = check(notebook, given)
    device = grid.pick_device(values["device"])
    if values["workers"] < 0:
        raise ValueError(f"workers={values['workers']}: must be 0 (one per core) or more")
    out = Path(values["out"]) if values["out"] else ROOT / "_build" / "runs" / notebook / "data" / notebook
    out.mkdir(parents=True, exist_ok=True)
    held = _HELD.pop(out.resolve(), contextlib.ExitStack())
    held.close()  # of an earlier session of this very process: its notebook began anew
    # A kernel whose runner was killed notices within a second, and must not keep the next run out.
    busy = f"out={str(out)!r}: another run is writing its tables there; wait for its end, or name another folder"
    held.enter_context(alone(lock_of(out), PATIENCE, busy))
    _HELD[out.resolve()] = held
    for old in ("run.json", "verdict.json", *(f"{name}.csv" for name in tables.SCHEMAS)):
        (out / old).unlink(
            missing_ok=True
        )  # until it is finished, this folder is not a run; no table of an earlier one
    return Session(notebook, values, out, device, time.time(), held)


def compare(notebook: str, ours: claims.Tables, published: Path | None = None) -> pd.DataFrame:
    """Headline numbers of these tables beside those of the published run: number, published, this run, difference.

    Warns, and goes on without it, where the published run cannot be read: it may be of an older form of the tables.
    """
    folder = published or ROOT / "book" / "data" / notebook
    theirs: dict[str, claims.Number] = {}
    if (folder / "run.json").exists():
        try:
            theirs = claims.numbers(notebook, tables.read_folder(folder))
        except ValueError as error:
            warnings.warn(f"no comparison with the published run of {notebook}: {error}", stacklevel=2)
    rows = []
    for key, number in claims.numbers(notebook, ours).items():
        if not number.headline:
            continue
        other = theirs.get(key)
        both = other is not None and other.value is not None and number.value is not None
        rows.append(
            {
                "number": number.label,
                "published": other.text if other else "none",
                "this run": number.text,
                "difference": f"{number.value - other.value:+.3f}" if both else "",  # type: ignore[operator, union-attr]
            }
        )
    return pd.DataFrame(rows, columns=["number", "published", "this run", "difference"])


def provenance(device: str, started: float, libraries: Sequence[str] = SHOWN_VERSIONS) -> dict[str, Any]:
    """The part of a run block that says when, where and with what a run was made; `started` is its time.time()."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "device": _device_name(device),
        "wall_time_s": round(time.time() - started, 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
    }


def _commit() -> str:
    """The commit of this checkout, marked where a tracked file of the code differs from it."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "lib", "notebooks"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def _device_name(device: str) -> str:
    if device == "cuda":
        return f"CUDA: {torch.cuda.get_device_name()}"
    return f"CPU: {platform.machine()}"
