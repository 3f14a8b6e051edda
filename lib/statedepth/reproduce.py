"""The whole paper from nothing, in one command that may be killed and goes on: train, measure, build the site, compare."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from statedepth import analogue, grid, notebook, pretrained, publish, verify
from statedepth.pretrained import Tuning

FOLDER = publish.BUILD / "reproduce"  # with a folder for each kind of reproduction
# Minutes on 2 CPU cores that training and measuring are expected to take at the published settings: the shares by which
# time left is told, and its unit until this machine has shown its speed. Put together from runs on several days.
EXPECTED = {
    "flip": (32, 25),
    "s3_grouping": (110, 60),
    "causal_necessity": (1, 37),
    "pretrained_bottleneck": (97, 75),
    "flip_sensitivity": (195, 60),
}
SITE = 3  # minutes to build it
TELL_EVERY = 60  # seconds
# One seed of the core tasks, by the claims about small models.
ONE_SEED: dict[str, dict[str, Any]] = {
    "flip": {"seeds": [0]},
    "s3_grouping": {"groups": list(grid.CORE), "seeds": [0], "control_seeds": [0], "targets": [], "retrain": False},
    "causal_necessity": {"seeds": [0]},
}


@dataclass(frozen=True)
class Stage:
    """A part of the work, and how far it is: `made()` of `of` things; `of` is 0 where it cannot say."""

    name: str
    minutes: float
    do: Callable[[], Any]
    made: Callable[[], int] = lambda: 0
    of: int = 0
    unit: str = ""

    def share(self) -> float:
        """Of its work that is done."""
        return min(1.0, max(0.0, self.made() / self.of)) if self.of else 0.0


@contextmanager
def from_nothing(folder: Path) -> Iterator[None]:
    """Inside, here and in all processes that are started, the cache is new and no checkpoint is published.

    It is `folder`/cache, or where STATEDEPTH_CACHE is set, as for a cluster, a folder of the same name in that.
    """
    named = os.environ.get(grid.CACHE_VARIABLE)
    cache = Path(named).resolve() / folder.name if named else folder / "cache"
    places = {grid.CACHE_VARIABLE: cache, grid.PUBLISHED_VARIABLE: folder / "published"}
    before, here = {name: os.environ.get(name) for name in places}, (grid.CACHE, grid.PUBLISHED)
    os.environ |= {name: str(place) for name, place in places.items()}
    grid.CACHE, grid.PUBLISHED = places.values()
    try:
        yield
    finally:
        grid.CACHE, grid.PUBLISHED = here
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def stages(chosen: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Stage]:
    """What is to be done for these notebooks with these parameters, in order. ValueError for parameters that they refuse."""
    found: list[Stage] = []
    seen: set[Any] = set()
    measured_before = 0
    for name, values in chosen.items():
        checked, whole = notebook.check(name, values), notebook.check(name, {})
        runs, all_runs = (grid.wanted(name, one)[0] for one in (checked, whole))
        training, measuring = (minutes * len(runs) / len(all_runs) for minutes in EXPECTED.get(name, (10, 10)))
        new = [run for run in dict.fromkeys(runs) if run not in seen]
        seen |= set(new)
        if new:
            found.append(_training(name, new, training, checked))
        place = publish.BOOK / "data" / name
        cells = (
            notebook.record(place, "run")["cells"]
            if at_published(name, values) and (place / "run.json").exists()
            else 0
        )
        found.append(_measuring(name, values, measuring, cells, measured_before, folder))
        measured_before += cells
    return found


def _training(name: str, runs: Sequence[Any], minutes: float, values: Mapping[str, Any]) -> Stage:
    bases = pretrained.bases_of([run for run in runs if isinstance(run, Tuning)])
    places = [analogue.place_of(analogue.ANALOGUES[base], grid.CACHE / "bases") for base in bases]

    def made() -> int:
        return sum(grid.source(run) is not None for run in runs) + sum(place.exists() for place in places)

    def do() -> None:
        grid.obtain(runs, grid.pick_device(values["device"]), values["workers"])

    return Stage(f"train {name}", minutes, do, made, len(runs) + len(places), "models")


def _measuring(name: str, values: Mapping[str, Any], minutes: float, cells: int, before: int, folder: Path) -> Stage:
    def made() -> int:
        return max(0, len(list((grid.CACHE / "tables").glob("*.parquet"))) - before)

    def do() -> None:
        publish.execute(name, values, folder / "executed", folder / "data" / name)

    return Stage(f"measure {name}", minutes, do, made, cells, "measurements")


class Progress:
    """Tells, every minute, which stage is at work, how far it is, how long this has taken and about how long it will."""

    def __init__(self, work: Sequence[Stage], tell: Callable[[str], Any]) -> None:
        self.work, self.tell = work, tell
        self.finished = 0
        self.began = time.monotonic()
        self.at_first = [stage.share() for stage in work]  # of an earlier attempt: it has cost no time of this one
        self.over = threading.Event()

    def line(self) -> str:
        """All of it in a line."""
        stage = self.work[min(self.finished, len(self.work) - 1)]
        made = f": {min(stage.made(), stage.of)} of {stage.of} {stage.unit}" if stage.of else ""
        gone, left = self.gone(), self.left()
        return f"[{self.finished + 1} of {len(self.work)}] {stage.name}{made} · {duration(gone)} gone, about {duration(left)} left"  # fmt: skip

    def gone(self) -> float:
        """Minutes since this attempt began."""
        return (time.monotonic() - self.began) / 60

    def left(self) -> float:
        """Minutes, by the expected ones and by how this machine has kept to them so far."""
        shares = [1.0 if i < self.finished else stage.share() for i, stage in enumerate(self.work)]
        minutes = [stage.minutes for stage in self.work]
        done = sum(m * (now - then) for m, now, then in zip(minutes, shares, self.at_first, strict=True))
        left = sum(m * (1 - now) for m, now in zip(minutes, shares, strict=True))
        pace = self.gone() / done if done > 0.02 * sum(minutes) else 1.0
        return left * pace

    def run(self) -> None:
        """Do all stages in order."""
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        try:
            for number, stage in enumerate(self.work):
                self.finished = number
                self.tell(self.line())
                stage.do()
            self.finished = len(self.work)
        finally:
            self.over.set()
            watching.join()

    def _watch(self) -> None:
        while not self.over.wait(TELL_EVERY):
            self.tell(self.line())


def duration(minutes: float) -> str:
    """3.2 as "3 min", 200 as "3 h 20 min"."""
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest:02d} min" if hours else f"{rest} min"


def chosen_values(names: Sequence[str], one_seed: bool, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook: those of `values` that it has, over the published ones or those of one seed.

    ValueError for a name that none of them has, and with `one_seed` for a notebook that is not about small models.
    """
    preset = ONE_SEED if one_seed else {name: {} for name in notebook.known()}
    names = list(names or preset)
    for name in names:
        notebook.source_of(name)
        if name not in preset:
            raise ValueError(f"notebook={name!r}: with --one-seed it must be one of {', '.join(preset)}")
    declared = {name: notebook.declared(name) for name in names}
    for key in values:
        if not any(key in of for of in declared.values()):
            raise ValueError(f"{key}: not a parameter of {', '.join(names)}")
    return {name: {**preset[name], **{k: v for k, v in values.items() if k in declared[name]}} for name in names}


def at_published(name: str, values: Mapping[str, Any]) -> bool:
    """Do these parameters ask for what was published? Where to compute is of no account."""
    ours, theirs = (
        {k: v for k, v in notebook.check(name, one).items() if k not in notebook.PLACES} for one in (values, {})
    )
    return ours == theirs


def reproduce(chosen: Mapping[str, Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """Train and measure from nothing in `folder`, or go on there; build the site; compare with the published runs.

    Returns the differences (`verify.differences`), which are also written there, where parameters are the published ones.
    RunFailed and ValueError as `publish.execute`.
    """
    with from_nothing(folder):
        work = stages(chosen, folder)
        site = Stage("build the site", SITE, lambda: publish.site_of(folder))
        progress = Progress([*work, site], lambda line: tqdm.write(line, file=sys.stderr))
        progress.run()
    same = [name for name, values in chosen.items() if at_published(name, values)]
    for name in [name for name in chosen if name not in same]:
        print(f"{name}: not compared with the published run, whose parameters are others")
    for name in [name for name in same if not (publish.BOOK / "data" / name / "run.json").exists()]:
        print(f"{name}: no published run to compare it with")
    table = verify.all_differences(same, folder / "data")
    verify.report(table, folder)
    print(f"{duration(progress.gone())} for {', '.join(chosen)}; the site is at {folder / 'site' / '_build' / 'html' / 'index.html'}")  # fmt: skip
    return table
