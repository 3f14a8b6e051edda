"""One more task, architecture, eraser, figure or claim: what a file outside the package calls (see CONTRIBUTING.md).

What is added is measured and drawn like what is here. No verdict of the four claims changes by it: they are about five
architectures and the erasers that they name, and a run with other tasks than the published ones passes none. ValueError for a name that is taken or cannot be one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandera.pandas as pa

from statedepth import (
    causal_figures,
    claims,
    erasers,
    figures,
    grid,
    models,
    notebook,
    tables,
    tasks,
    theme,
    training,
    verdicts,
)
from statedepth.erasers import Eraser
from statedepth.models import Family
from statedepth.render import Figure
from statedepth.tasks import Task
from statedepth.verdicts import Claim, Number, Prediction, Tables, Verdict


def _new(
    what: str, name: str, known: Sequence[str] | Mapping[str, Any], pattern: str = r"[A-Za-z][A-Za-z0-9]*"
) -> None:
    if name in known:
        raise ValueError(f"{what}={name!r}: there is one of this name already")
    if not re.fullmatch(pattern, name):
        raise ValueError(f"{what}={name!r}: must look like {pattern}, since files and keys are named by it")


def task(made: Task) -> None:
    """A task under its own name; models are trained on its variable `state`."""
    _new("task", made.name, tasks.OTHERS)
    if re.fullmatch(r"parity|[SAZ]\d+|dyck.*", made.name):
        raise ValueError(f"task={made.name!r}: there are tasks of such names already")
    if made.target != "state":
        raise ValueError(f"target={made.target!r}: must be 'state', as of every task but Dyck's")
    tasks.OTHERS[made.name] = made


def architecture(
    name: str,
    title: str,
    colour: str,
    family: Family,
    recipe: Mapping[str, Any],
    until_learned: Mapping[str, Any] | None = None,
) -> None:
    """A family of models: how it is built, how it is trained (`training.TrainSpec`'s settings), how readers see it.

    `until_learned` is its recipe in claim 2; `recipe` with the stop rule where none is given.
    """
    _new("architecture", name, (*models.FAMILIES, *models.OTHERS), r"[a-z][a-z0-9]*")
    if title in theme.COLOURS:
        raise ValueError(f"title={title!r}: there is an architecture of this title already")
    for one in (recipe, until_learned or {}):
        training.TrainSpec(**one)  # refuses what is no setting
    models.OTHERS[name] = family
    training.RECIPES[name] = dict(recipe)
    training.UNTIL_LEARNED[name] = dict(until_learned or {**recipe, "stop_at": 0.99})
    verdicts.NAMES[name] = title
    theme.COLOURS[title] = colour
    theme.ARCHITECTURES.append(title)


def eraser(name: str, fit: Callable[..., Eraser]) -> None:
    """A method of the necessity test: `fit(h, y)` as `erasers.leace`, one eraser for all positions or one at each."""
    _new("eraser", name, erasers.METHODS, r"[A-Za-z][A-Za-z0-9 -]*")
    erasers.FITTERS[name] = fit
    erasers.METHODS.append(name)  # the plan of claim 3 is this list
    causal_figures.METHODS.append(name)


def figure(of: str, name: str, draw: Callable[[Tables], Figure]) -> None:
    """A figure of a notebook's tables; pages show it by `{chart} OF.NAME`, notebooks by `figures.chart(OF, NAME, tables)`."""
    if of not in figures.CHARTS:
        raise ValueError(f"figure of {of!r}: known notebooks are {', '.join(figures.CHARTS)}")
    _new("figure", name, figures.CHARTS[of], r"[a-z][a-z0-9_]*")
    figures.CHARTS[of][name] = draw


def claim(
    made: Claim,
    source: str,
    criterion: Callable[[Tables], Verdict],
    runs: Callable[[Mapping[str, Any]], list[Any]],
    schemas: Mapping[str, pa.DataFrameSchema] | None = None,
    charts: Mapping[str, Callable[[Tables], Figure]] | None = None,
    numbers: Callable[[Tables], dict[str, Number]] | None = None,
    predictions: tuple[Prediction, ...] = (),
    committed: str = "",
    quick: Mapping[str, Any] | None = None,
) -> None:
    """A claim with its notebook: `source` is Jupytext's percent format, `runs` the models that its parameters ask for.

    `schemas` are tables that no other notebook has, `charts` its figures, `numbers` what prose may quote, `committed` the
    commit of criterion and predictions, `quick` the parameters of the quick profile.
    """
    name = made.notebook
    _new("claim", name, notebook.known(), r"[a-z][a-z0-9_]*")
    for key in schemas or {}:
        _new("table", key, tables.SCHEMAS, r"[a-z][a-z0-9_]*")
    notebook.OTHERS[name] = source
    notebook.QUICK[name] = dict(quick or {})
    verdicts.CLAIMS[name] = made
    claims.CRITERIA[name] = criterion
    claims.PREDICTIONS[name] = predictions
    claims.COMMITTED[name] = committed
    claims.NUMBERS[name] = numbers or (lambda _: {})
    figures.CHARTS[name] = dict(charts or {})
    grid.OTHERS[name] = runs
    tables.SCHEMAS.update(schemas or {})
