"""Many cells: trained or loaded, measured in parallel, and never done twice.

A run whose hash names a published checkpoint is loaded; else one in the cache is; any other is trained and cached.
Measurements are cached under a hash of the cell, the weights and the code that measures.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
import yaml
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from statedepth import (
    ablation,
    analogue,
    causal,
    conv,
    extensions,
    patching,
    planted,
    pretrained,
    probes,
    training,
    windows,
)
from statedepth.ablation import NecessitySettings
from statedepth.bottleneck_readings import SCRATCH
from statedepth.files import alone, write_whole
from statedepth.models import ModelSpec
from statedepth.pretrained import Tuning
from statedepth.probes import ProbeSettings
from statedepth.sensitivity_readings import BASE
from statedepth.tasks import named
from statedepth.training import Run, Trained, TrainSpec

AnyRun = Run | Tuning

ROOT = Path(__file__).resolve().parents[2]
FRESH_SEED = 1000  # never published, so it is always trained where it is asked for
CACHE_VARIABLE, PUBLISHED_VARIABLE = "STATEDEPTH_CACHE", "STATEDEPTH_PUBLISHED"
CACHE = Path(os.environ.get(CACHE_VARIABLE, ROOT / ".cache"))
PUBLISHED = Path(os.environ.get(PUBLISHED_VARIABLE, ROOT / "book" / "data" / "checkpoints"))


def pick_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU. ValueError for a device that is unknown or not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r}: must be auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': no CUDA device is here; use device='auto' or 'cpu'")
    return device


def cross(
    tasks: Sequence[str],
    architectures: Sequence[str],
    seeds: Sequence[int],
    d_model: int,
    n_layers: int,
    recipes: Mapping[str, Mapping[str, Any]] = training.RECIPES,
    d_conv: int = ModelSpec.d_conv,
    **train: Any,
) -> list[Run]:
    """Every task with every architecture and seed, each by its architecture's recipe with the changes in `train`.

    Raises ValueError, before anything is computed, for an empty list, a repeated entry, and any value that the specs
    refuse.
    """
    for name, values in (("tasks", tasks), ("architectures", architectures), ("seeds", seeds)):
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"{name}={values!r}: must be a list that names at least one")
        if len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)}: names one more than once; remove the repetition")
    runs = []
    for task in tasks:
        for family in architectures:
            spec = training.recipe(family, recipes, **train)
            positions = max(ModelSpec.n_positions, training.lengths_beyond(spec.length)[-1])
            for seed in seeds:
                model = ModelSpec(
                    family, d_model=d_model, n_layers=n_layers, d_conv=d_conv, n_positions=positions, seed=seed
                )
                runs.append(Run(task, model, spec))
    return runs


CORE = ("parity", "dyck-2-4", "S3")  # tasks of every claim; the others are controls


def grouping_runs(values: Mapping[str, Any]) -> dict[str, list[Run]]:
    """The runs that the parameters of claim 2 ask for, by what they are for.

    `groups`: the tasks that are compared, the core ones with `seeds`, the others with `control_seeds`; `targets`: other
    targets on the strings of one task, where one of them is among the groups; `retrained`: core tasks with one tap in the
    convolution. Raises ValueError as `cross` does, and for targets of different strings.
    """
    changes = {"steps": values["steps"]} if values["steps"] else {}
    common = {"d_model": values["d_model"], "n_layers": values["n_layers"], "recipes": training.UNTIL_LEARNED}
    common |= {"length": values["length"], **changes}
    families, groups, control_seeds = values["architectures"], values["groups"], values["control_seeds"]
    if not isinstance(groups, list) or not groups or len(set(groups)) < len(groups):
        raise ValueError(f"groups={groups!r}: must be a list that names at least one task, and none twice")
    targets = values["targets"]
    strings = {re.sub("-(depth|openers|first)$", "", task) for task in targets if named(task)}
    if len(strings) > 1 or not all(task.startswith("dyck-") for task in targets) or len(set(targets)) < len(targets):
        raise ValueError(
            f"targets={targets}: must be targets of the same bracket strings, as dyck-2-4 and dyck-2-4-first, none twice"
        )
    if not isinstance(control_seeds, list) or not control_seeds or len(set(control_seeds)) < len(control_seeds):
        raise ValueError(f"control_seeds={control_seeds!r}: must be a list that names at least one, and none twice")
    found: dict[str, list[Run]] = {"groups": [], "targets": [], "retrained": []}
    for task in groups:
        found["groups"] += cross([task], families, values["seeds"] if task in CORE else control_seeds, **common)
    if set(targets) & set(groups):
        found["targets"] = cross(targets, families, control_seeds, **common)
    convolving, core = [f for f in families if "mamba" in f], [task for task in groups if task in CORE]
    if values["retrain"] and convolving and core:
        found["retrained"] = cross(core, convolving, control_seeds, **common, d_conv=1)
    return found


def runs_of(values: Mapping[str, Any]) -> list[Run]:
    """The runs that the parameters of claim 1 ask for: the grid, then one more seed for each TASK/ARCHITECTURE in `fresh`.

    Raises ValueError as `cross` does, and for an entry of `fresh` that is not part of the grid.
    """
    train = {"length": values["length"], **({"steps": values["steps"]} if values["steps"] else {})}
    size = {"d_model": values["d_model"], "n_layers": values["n_layers"]}
    runs = cross(values["tasks"], values["architectures"], values["seeds"], **size, **train)
    if len(set(values["fresh"])) < len(values["fresh"]) or (values["fresh"] and FRESH_SEED in values["seeds"]):
        raise ValueError(
            f"fresh={values['fresh']}: names a run more than once, or seeds names {FRESH_SEED}, which it uses"
        )
    for pair in values["fresh"]:
        task, _, family = pair.partition("/")
        if task not in values["tasks"] or family not in values["architectures"]:
            raise ValueError(f"fresh={pair!r}: must be TASK/ARCHITECTURE, one of tasks and one of architectures")
        runs += cross([task], [family], [FRESH_SEED], **size, **train)
    return runs


# Settings that only some architectures have; the others stay as they are where a variant changes one.
ONLY = {
    "negative_eigenvalues": ("mamba", "mamba2"),
    "d_state": ("mamba", "mamba2"),
    "d_conv": ("mamba", "mamba2"),
    "n_heads": ("transformer", "mamba2"),
    "residual": ("lstm", "gru"),
}


def varied_runs(values: Mapping[str, Any]) -> dict[str, list[Run]]:
    """The runs of the sensitivity study: those of claim 1 (`sensitivity_readings.BASE`), then those of each variant.

    A variant is one setting of the model or of its training with another value, as "n_layers=8" or "supervision=last".
    An architecture that has no such setting is in it as it was. Raises ValueError, before anything is computed, as
    `cross` does, and for a variant that is no setting, changes nothing, or fits none of the architectures.
    """
    size = {"d_model": values["d_model"], "n_layers": values["n_layers"]}
    train = {"length": values["length"], **({"steps": values["steps"]} if values["steps"] else {})}
    found = {BASE: cross(values["tasks"], values["architectures"], values["seeds"], **size, **train)}
    for variant in values["variants"]:
        if variant in found:
            raise ValueError(
                f"variants={values['variants']!r}: names {variant!r} more than once; remove the repetition"
            )
        runs = [varied(run, variant) for run in found[BASE]]
        if runs == found[BASE]:
            raise ValueError(f"variants: {variant!r} changes none of {', '.join(values['architectures'])}")
        found[variant] = runs
    return found


def varied(run: Run, variant: str) -> Run:
    """This run with one setting changed, SETTING=VALUE; ValueError for one that is no setting, or a value it cannot have."""
    name, _, text = variant.partition("=")
    of_model = {f.name for f in fields(ModelSpec)} - {"family", "seed", "n_positions"}
    if name not in of_model | {f.name for f in fields(TrainSpec)}:
        known = ", ".join(f.name for f in (*fields(ModelSpec), *fields(TrainSpec)))
        raise ValueError(
            f"variants: {variant!r} must be SETTING=VALUE, with one of {known}, but family, seed, n_positions"
        )
    if run.model.family not in ONLY.get(name, (run.model.family,)):
        return run
    value: Any
    try:
        value = yaml.safe_load(text)
        value = (
            float(value) if isinstance(value, str) and name in ("lr", "grow_at", "stop_at") else value
        )  # YAML: "1e-3"
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"variants: {variant!r} has a value that cannot be read") from error
    change: dict[str, Any] = {name: value}
    if name in of_model:
        return replace(run, model=replace(run.model, **change))
    spec = replace(run.train, **change)
    positions = max(ModelSpec.n_positions, training.lengths_beyond(spec.length)[-1])
    return Run(run.task, replace(run.model, n_positions=positions), spec)


def moments_of(values: Mapping[str, Any]) -> Callable[[Run], tuple[int, ...]]:
    """The steps of a run after which the sensitivity study probes it. ValueError for shares that do not rise from 0 to 1."""
    moments = values["moments"]
    if len(moments) < 2 or sorted(set(moments)) != moments or (moments[0], moments[-1]) != (0, 1):
        raise ValueError(f"moments={moments}: must be shares of training that rise from 0 to 1, these two among them")
    return lambda run: tuple(dict.fromkeys(round(share * run.train.steps) for share in moments))


def necessity_runs(values: Mapping[str, Any]) -> list[Run]:
    """The runs that the parameters of claim 3 ask for: those of claim 1, where they are the same. ValueError as `cross`."""
    train = {"length": values["length"], **({"steps": values["steps"]} if values["steps"] else {})}
    size = {"d_model": values["d_model"], "n_layers": values["n_layers"]}
    if values["n_layers"] < 2:
        raise ValueError(
            f"n_layers={values['n_layers']}: must be 2 or more; the test is judged at sites before the last"
        )
    return cross(values["tasks"], values["architectures"], values["seeds"], **size, **train)


def at_hand(runs: Sequence[Run], every_seed: bool) -> tuple[list[Run], list[Run]]:
    """The runs to go on with, and those left out: seeds that have no checkpoint where another seed of the same has one.

    With `every_seed` none is left out, so that `obtain` trains what is missing.
    """

    def cell(run: Run) -> Run:
        return replace(run, model=replace(run.model, seed=0))

    have = {cell(run) for run in runs if source(run)}
    left_out = [] if every_seed else [run for run in runs if not source(run) and cell(run) in have]
    return [run for run in runs if run not in left_out], left_out


def tuned_runs(values: Mapping[str, Any]) -> list[Tuning]:
    """The fine-tuned models that the parameters of claim 4 ask for.

    Every base on every task, pretrained with `seeds` and without pretraining with `scratch_seeds`; beside them `hard_tasks`
    on `hard_models` with `hard_seeds`, both ways. With `checkpoint`, its base is the only one. Raises ValueError, before
    anything is computed, for an empty list, a repeated entry, an unknown base, windows wider than the models, and any
    value that the specs refuse.
    """
    own = values["checkpoint"]
    if own.rstrip("/").endswith(SCRATCH):
        raise ValueError(f"checkpoint={own!r}: {SCRATCH} marks models that were not pretrained; give it another name")
    bases = [own] if own else values["models"]
    for name, chosen in (("tasks", values["tasks"]), ("models", bases), ("seeds", values["seeds"])):
        if not chosen:
            raise ValueError(f"{name}={chosen!r}: must be a list that names at least one")
    for name in ("tasks", "models", "seeds", "scratch_seeds", "hard_tasks", "hard_models", "hard_seeds"):
        if len(set(values[name])) < len(values[name]):
            raise ValueError(f"{name}={values[name]!r}: names one more than once; remove the repetition")
    for base in () if own else (*bases, *values["hard_models"]):
        if base not in analogue.ANALOGUES:
            known = ", ".join(analogue.ANALOGUES)
            raise ValueError(f"models: {base!r} is none of {known}; another checkpoint is named by checkpoint")
    if both := set(values["tasks"]) & set(values["hard_tasks"]):
        raise ValueError(f"hard_tasks={values['hard_tasks']!r}: {sorted(both)[0]} is among tasks too; name it once")
    train = {"length": values["length"], **({"steps": values["steps"]} if values["steps"] else {})}
    hard = [] if own else values["hard_tasks"]
    found = []
    for start, seeds in ((True, values["seeds"]), (False, values["scratch_seeds"])):
        asked = [(task, base, seed) for seed in seeds for task in values["tasks"] for base in bases]
        asked += [
            (task, base, seed) for task in hard for base in values["hard_models"] for seed in values["hard_seeds"]
        ]
        found += [pretrained.tuning(task, base, start, seed, **train) for task, base, seed in asked]
    blocks = min(run.config().num_hidden_layers for run in {run.base: run for run in found}.values())
    if not 2 <= values["width"] < blocks:
        raise ValueError(
            f"width={values['width']}: must be 2 to {blocks - 1} sites in a row, of {blocks} the last is not erased"
        )
    return found


# What stands in the repository of claim 4: it must stay small.
PUBLISHED_TUNED = (("gpt-neox-large", "dyck-2-4"), ("mamba-large", "parity"))


def with_checkpoint(runs: Sequence[Tuning], rebuild: bool) -> tuple[list[Tuning], list[Tuning]]:
    """The runs to go on with, and those left out. Of analogues, those without a checkpoint are, but with `rebuild`.

    ValueError where no pretrained model would be left: the others only stand beside them.
    """
    left_out = [] if rebuild else [run for run in runs if run.base in analogue.ANALOGUES and not source(run)]
    kept = [run for run in runs if run not in left_out]
    if not any(run.pretrained for run in kept):
        raise ValueError(
            "no pretrained one of these models has a checkpoint; rebuild=True pretrains and fine-tunes them"
        )
    return kept, left_out


# Of claims that were added from outside (`extend.claim`), the models that their parameters ask for.
OTHERS: dict[str, Callable[[Mapping[str, Any]], list[Any]]] = {}


def wanted(notebook: str, values: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """All runs of a notebook, and those of them whose checkpoints are published.

    Of claim 2, two seeds of the core tasks and one of all others; of claim 4, one seed of what its verdict rests on: the
    repository must stay small, and every claim adds to it.
    """
    if notebook == "pretrained_bottleneck":
        tuned = tuned_runs(values)
        first = [r for r in tuned if r.pretrained and r.seed == 0 and (r.base, r.task) in PUBLISHED_TUNED]
        return tuned, first
    if notebook in OTHERS:
        return OTHERS[notebook](values), []
    if notebook == "flip_sensitivity":  # its own models stay in the cache: the repository must stay small
        found = varied_runs(values)
        return list(dict.fromkeys(run for part in found.values() for run in part)), []
    if notebook in ("flip", "causal_necessity"):
        runs = runs_of(values) if notebook == "flip" else necessity_runs(values)
        return runs, runs
    parts = grouping_runs(values)
    runs = list(dict.fromkeys(run for part in parts.values() for run in part))
    core = [run for run in parts["groups"] if run.task in CORE and run.model.seed < 2]
    return runs, core + [run for run in runs if run.model.seed == 0 and run not in core]


def source(run: AnyRun) -> str | None:
    """Where the weights of this run are: published, cached, or nowhere yet (None)."""
    for name, folder in (("published", PUBLISHED), ("cached", CACHE / "checkpoints")):
        if (folder / f"{run.key}.json").exists():
            return name
    return None


def folder_of(run: AnyRun) -> Path:
    """Where its checkpoint is, or is to be."""
    return PUBLISHED if source(run) == "published" else CACHE / "checkpoints"


def fetch(run: AnyRun, device: str = "cpu") -> Trained:
    """Load a run that `obtain` has made sure of. Raises as `training.load` and `pretrained.load_tuned` do."""
    load: Callable[..., Trained] = pretrained.load_tuned if isinstance(run, Tuning) else training.load
    return load(run, folder_of(run), device)


def obtain(runs: Sequence[Any], device: str = "cpu", workers: int = 0) -> dict[Any, str]:
    """Make sure that every run is trained, and say for each where it came from: published, cached or trained.

    What is missing is trained in parallel, one thread each, resuming where an earlier attempt was killed; the analogues
    that fine-tuning starts from are pretrained before.
    """
    found = {run: source(run) or "trained" for run in runs}
    missing = [run for run, where in found.items() if where == "trained"]
    if missing:
        bases = pretrained.bases_of([run for run in missing if isinstance(run, Tuning)])
        specs = [analogue.ANALOGUES[name] for name in bases]
        lacking = [spec for spec in specs if not analogue.place_of(spec, CACHE / "bases").exists()]
        lacking.sort(key=lambda spec: -spec.d_model)
        _parallel(_pretrain, [(spec, CACHE / "bases", device) for spec in lacking], workers, "pretraining")
        # The slowest first, so that no core ends up alone with it.
        missing.sort(key=lambda run: -run.train.steps * run.train.length)
        _parallel(_train, [(run, CACHE / "checkpoints", device) for run in missing], workers, "training")
    return found


def _pretrain(spec: analogue.Analogue, folder: Path, device: str) -> str:
    with alone(CACHE / "locks" / f"{spec.key}.lock"):
        analogue.pretrain(spec, folder, device, progress=False)  # loads it, where another process has made it meanwhile
    return spec.key


def _train(run: AnyRun, folder: Path, device: str) -> str:
    with alone(CACHE / "locks" / f"{run.key}.lock"):
        if (folder / f"{run.key}.json").exists():  # another process has trained it meanwhile
            return run.key
        if isinstance(run, Tuning):
            pretrained.fine_tune(run, folder, CACHE / "bases", device, progress=False)
        else:
            training.train(run, folder, device, progress=False)
    return run.key


@dataclass(frozen=True)
class Cell:
    """One measurement of one model: its hash names its cache entry."""

    run: AnyRun
    variable: str
    length: int  # tokens of the sequences that are measured
    probes: ProbeSettings
    labelled_by: str = ""  # another task on the same strings, whose variable it is


def measure(cells: Sequence[Cell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """`probes.profile` of every cell, in order; `attrs["from_cache"]` of each says whether it was measured before."""
    return _cached(_profile, cells, device, workers, "probing")


def _profile(cell: Cell, device: str) -> pd.DataFrame:
    return probes.profile(fetch(cell.run, device), cell.variable, cell.length, cell.probes, cell.labelled_by)


@dataclass(frozen=True)
class TrainingCell:
    """The profile of one model at moments of its training, which is done anew for it."""

    run: Run
    variable: str
    steps: tuple[int, ...]  # optimiser steps after which it is probed
    probes: ProbeSettings


def follow(cells: Sequence[TrainingCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """Pooled `probes.profile` of every cell after each of its steps, with the accuracy `reached`; as `measure` does."""
    found = _cached(_through_training, cells, device, workers, "training and probing")
    for cell in cells:
        shutil.rmtree(_on_the_way(cell, device), ignore_errors=True)
    return found


def _on_the_way(cell: TrainingCell, device: str) -> Path:
    """Where its snapshots are until its table is written; other moments, code or devices have folders of their own."""
    return CACHE / "snapshots" / _digest("through_training", cell, device)


def _through_training(cell: TrainingCell, device: str) -> pd.DataFrame:
    length, parts = cell.run.train.length, []
    for step, trained in training.snapshots(cell.run, cell.steps, _on_the_way(cell, device), device).items():
        found = probes.profile(trained, cell.variable, length, cell.probes).query("position == 0 and penalty == 0")
        parts.append(found[["site", "accuracy", "majority"]].assign(step=step, reached=trained.in_distribution()))
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class ConvCell:
    """The convolution's attribution in one model."""

    run: Run
    length: int
    n: int  # sequences


def attribute(cells: Sequence[ConvCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """`conv.attribution` of every cell, in order, as `measure` does."""
    return _cached(_attribution, cells, device, workers, "editing convolutions")


def _attribution(cell: ConvCell, device: str) -> pd.DataFrame:
    return conv.attribution(fetch(cell.run, device), cell.length, cell.n)


@dataclass(frozen=True)
class NecessityCell:
    """The necessity test of one model at one length."""

    run: Run
    length: int
    settings: NecessitySettings
    beyond: bool  # a length over that of training: fewer methods (`ablation.PLAN_BEYOND`), no last site, no MLP


def necessity_settings(values: Mapping[str, Any], beyond: bool) -> NecessitySettings:
    """How much data the parameters of claim 3 ask for: at the training length, and half of it beyond. ValueError as there."""
    full = NecessitySettings(
        n_erase=values["n_erase"],
        n_fit=values["n_fit"],
        n_validation=max(64, values["n_fit"] // 2),
        n_test=values["n_test"],
        n_task=values["n_task"],
        draws=values["draws"],
        own_positions=values["own_positions"],
    )
    if not beyond:
        return full
    half = {
        name: max(64, getattr(full, name) // 2) for name in ("n_erase", "n_fit", "n_validation", "n_test", "n_task")
    }
    return replace(full, **half, n_control=16, own_positions=max(2, full.own_positions // 2))


def necessity_cells(run: Run, values: Mapping[str, Any]) -> list[NecessityCell]:
    """At the training length of a run, and at each of its multiples in `beyond`. ValueError for one under 1 or not whole."""
    cells = [NecessityCell(run, run.train.length, necessity_settings(values, False), False)]
    longest = training.lengths_beyond(run.train.length)[-1]
    for times in values["beyond"]:
        length = round(times * run.train.length)
        if not run.train.length < length <= longest:
            raise ValueError(
                f"beyond={values['beyond']}: multiples of the training length, over 1 and up to {longest / run.train.length:g}"
            )
        cells.append(NecessityCell(run, length, necessity_settings(values, True), True))
    return cells


def erase(cells: Sequence[NecessityCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """`necessity.measure` of every cell, in order, as `measure` does."""
    return _cached(_necessity, cells, device, workers, "erasing")


def _necessity(cell: NecessityCell, device: str) -> pd.DataFrame:
    trained = fetch(cell.run, device)
    if not cell.beyond:
        return ablation.measure(trained.model, trained.task, cell.length, cell.settings, mlp=True)
    sites = list(range(1, cell.run.model.n_layers))
    twice = cell.length == 2 * cell.run.train.length
    plan = ablation.PLAN_AT_TWICE if twice else ablation.PLAN_BEYOND
    return ablation.measure(trained.model, trained.task, cell.length, cell.settings, sites=sites, methods=plan)


@dataclass(frozen=True)
class PlantedCell:
    """The necessity test of a hand-built model, of which it is known what must come out."""

    task: str
    kind: str
    length: int
    settings: NecessitySettings


def check_planted(cells: Sequence[PlantedCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """The necessity test at sites 1 and 2 of every hand-built model, in order, with the outcome that is `expected`."""
    return _cached(_planted, cells, device, workers, "testing the test")


def _planted(cell: PlantedCell, _device: str) -> pd.DataFrame:
    model = planted.Planted(named(cell.task), cell.kind)
    methods = {"pooled": ("direction",), "each": ("direction", "mean projection", "LEACE", "INLP")}
    given = {planted.CLEAN: [model.clean]} if cell.kind == "copy" else {}
    found = ablation.measure(
        model, model.task, cell.length, cell.settings, sites=[1, 2], methods=methods, given=given
    ).assign(length=cell.length)
    keys = zip(found["positions"], found["method"], strict=True)
    return found.assign(expected=[planted.EXPECTED.get((cell.kind, *key), causal.UNPLANTED) for key in keys])


@dataclass(frozen=True)
class PatchCell:
    """Activation patching in one model."""

    run: AnyRun
    length: int
    n: int  # pairs of strings
    n_erase: int  # strings that the eraser of the subspace is fitted on


def patch(cells: Sequence[PatchCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """`patching.measure` of every cell, in order, as `measure` does."""
    return _cached(_patching, cells, device, workers, "patching")


def _patching(cell: PatchCell, device: str) -> pd.DataFrame:
    trained = fetch(cell.run, device)
    return patching.measure(trained.model, trained.task, cell.length, cell.n, n_erase=cell.n_erase)


# Of claim 4: what is erased at each of many sites; less in models that stand beside those that are judged.
SWEEP = {"pooled": windows.METHODS, "each": ("LEACE",)}
SWEEP_BESIDE = {"pooled": ("direction", "mean projection")}


def sweep_settings(values: Mapping[str, Any]) -> NecessitySettings:
    """How much data the parameters of claim 4 ask for. ValueError as there."""
    return NecessitySettings(
        n_erase=values["n_erase"],
        n_fit=max(64, values["n_fit"] // 2),
        n_validation=max(64, values["n_fit"] // 4),
        n_test=values["n_test"],
        n_task=values["n_task"],
        draws=values["draws"],
        own_positions=values["own_positions"],
    )


@dataclass(frozen=True)
class SweepCell:
    """The necessity test at every site of a fine-tuned model: by fewer methods in one that was not pretrained."""

    run: Tuning
    length: int
    settings: NecessitySettings
    methods: tuple[tuple[str, tuple[str, ...]], ...]  # of each scope


def sweep_cell(run: Tuning, settings: NecessitySettings) -> SweepCell:
    """By all methods of `SWEEP`, or those of `SWEEP_BESIDE` for a model that was not pretrained."""
    return SweepCell(run, run.train.length, settings, tuple((SWEEP if run.pretrained else SWEEP_BESIDE).items()))


def sweep(cells: Sequence[SweepCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """`ablation.measure` at every site of every cell, in order, as `measure` does."""
    return _cached(_sweep, cells, device, workers, "erasing, block by block")


def _sweep(cell: SweepCell, device: str) -> pd.DataFrame:
    trained = fetch(cell.run, device)
    return ablation.measure(trained.model, trained.task, cell.length, cell.settings, methods=dict(cell.methods))


@dataclass(frozen=True)
class WindowCell:
    """Ablation of `width` sites in a row of a fine-tuned model."""

    run: Tuning
    length: int
    settings: NecessitySettings
    width: int
    methods: tuple[str, ...] = windows.METHODS


def window(cells: Sequence[WindowCell], device: str = "cpu", workers: int = 0) -> list[pd.DataFrame]:
    """`windows.measure` of every cell, in order, as `measure` does."""
    return _cached(_window, cells, device, workers, "erasing, sites in a row")


def _window(cell: WindowCell, device: str) -> pd.DataFrame:
    trained = fetch(cell.run, device)
    return windows.measure(trained.model, trained.task, cell.length, cell.settings, cell.width, cell.methods)


def _cached(
    function: Callable[[Any, str], pd.DataFrame], cells: Sequence[Any], device: str, workers: int, label: str
) -> list[pd.DataFrame]:
    name = function.__name__.strip("_")
    paths = [CACHE / "tables" / f"{name}-{_digest(name, cell, device)}.parquet" for cell in cells]
    todo = [
        (function, cell, path, device)
        for path, cell in dict(zip(paths, cells, strict=True)).items()
        if not path.exists()
    ]
    fresh = {path for _, _, path, _ in todo}
    _parallel(_measure_one, todo, workers, label)
    found = [_read(path) for path in paths]
    for path, table in zip(paths, found, strict=True):
        table.attrs["from_cache"] = path not in fresh
    return found


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        os.listdir(path.parent)  # on a network file system, what another machine has written may be seen only then
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # pyarrow's own are of these kinds, without a number
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path.name}: damaged ({error}); delete it, and it is measured anew") from error


def _measure_one(function: Callable[[Any, str], pd.DataFrame], cell: Any, path: Path, device: str) -> str:
    with alone(CACHE / "locks" / f"{path.stem}.lock"):
        if not path.exists():  # else another process has measured it meanwhile
            table = function(cell, device)
            write_whole(path, lambda draft: table.to_parquet(draft, index=False, write_page_checksum=True))
    what = getattr(cell, "variable", "") or getattr(cell, "length", "")
    return f"{cell.run.key if hasattr(cell, 'run') else cell.kind} {what}"


def _digest(name: str, cell: Any, device: str) -> str:
    weights = "hand-built, or trained by the measurement"
    if hasattr(cell, "run") and not isinstance(cell, TrainingCell):
        weights = json.loads((folder_of(cell.run) / f"{cell.run.key}.json").read_text())["sha256"]
    parts = [
        json.dumps(asdict(cell), sort_keys=True),
        weights,
        _code_digest(name, isinstance(getattr(cell, "run", None), Tuning)),
        device,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


# What a measurement runs through, beside what all of them do.
COMMON = ("tasks", "kernels", "scan", "mixers", "models", "training", "stream")
CODE = {
    "profile": ("logistic", "probes"),
    "through_training": ("logistic", "probes"),
    "attribution": ("conv",),
    "necessity": ("logistic", "erasers", "removal", "ablation"),
    "planted": ("logistic", "erasers", "removal", "ablation", "planted"),
    "patching": ("logistic", "erasers", "patching"),
    "sweep": ("logistic", "erasers", "removal", "ablation"),
    "window": ("logistic", "erasers", "removal", "ablation", "windows"),
}
TUNED = ("analogue", "pretrained")  # what fine-tuned models run through besides


@cache
def _code_digest(name: str, tuned: bool = False) -> str:
    """Of all that a measurement runs through: a number is never older than the code and the libraries that make it."""
    modules = (*COMMON, *CODE[name], *(TUNED if tuned else ()))
    own = [(Path(__file__).parent / f"{module}.py").read_bytes() for module in modules]
    own += [path.read_bytes() for path in extensions.paths()]
    return hashlib.sha256(b"".join(own + _libraries())).hexdigest()


def _libraries() -> list[bytes]:
    return [version(name).encode() for name in ("torch", "transformers", "scikit-learn", "numpy", "numba")]


@cache
def _library_digest() -> str:
    """Of all code that any measurement may run through."""
    own = [path.read_bytes() for path in (*sorted(Path(__file__).parent.glob("*.py")), *extensions.paths())]
    return hashlib.sha256(b"".join(own + _libraries())).hexdigest()


SCHEDULER = "STATEDEPTH_SCHEDULER"  # environment variable: address of a Dask scheduler, or its scheduler file
ANSWERS_IN = 30  # seconds in which a scheduler must answer
WORKERS_IN = 3600  # seconds in which the first worker must come: jobs wait in queues


def _parallel(function: Callable[..., str], items: Sequence[tuple], workers: int, label: str) -> None:
    """Run `function(*item)` for all items over processes, under a bar that says what is done and what is left.

    Where `SCHEDULER` names a Dask cluster, over its workers instead.
    """
    if not items:
        return
    workers = workers or os.cpu_count() or 1
    jobs: Iterable[str]
    if os.environ.get(SCHEDULER):
        jobs = _on_cluster(os.environ[SCHEDULER], function, items)
    elif workers == 1 or len(items) == 1:
        jobs = (_one_thread(function, *item) for item in items)
    else:
        pool = joblib.Parallel(n_jobs=min(workers, len(items)), return_as="generator_unordered")
        jobs = pool(joblib.delayed(_one_thread)(function, *item) for item in items)
    with tqdm(total=len(items), desc=label, unit="cell", file=sys.stderr, mininterval=1) as bar:
        for done in jobs:
            bar.set_postfix_str(f"done {done}")
            bar.update()


def _on_cluster(where: str, function: Callable[..., str], items: Sequence[tuple]) -> Iterator[str]:
    """The same over the workers of a Dask cluster; what a lost one had begun goes on at another, from its last saved step.

    Results are files, so that all machines must see this cache, and run this code; a worker that does not, or that has
    several threads, is refused (`_refusal`), and so is one that comes later. ValueError for that, and where no scheduler
    answers or no worker comes; ConnectionError where one item has cost several workers.
    """
    from distributed import Client, KilledWorker, as_completed  # noqa: PLC0415 (seconds, and most runs need no cluster)

    try:
        named = {"scheduler_file": where} if Path(where).exists() else {"address": where}
        client = Client(**named, timeout=ANSWERS_IN, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"{SCHEDULER}={where!r}: no Dask scheduler answers there ({error})") from error
    with client, tempfile.NamedTemporaryFile(dir=_made(CACHE), prefix=".seen-") as token:
        try:
            client.wait_for_workers(1, timeout=WORKERS_IN)
        except TimeoutError as error:
            raise ValueError(f"{SCHEDULER}={where!r}: no worker came in {WORKERS_IN} s") from error
        here = (str(CACHE.resolve()), str(PUBLISHED.resolve()), _library_digest(), str(_seen_from_here(token.name)))
        for address, refusal in client.run(_refusal, *here).items():
            if refusal:
                raise ValueError(f"{SCHEDULER}={where!r}: worker {address} {refusal}")
        futures = [client.submit(_as_here, here, function, *item, pure=False) for item in items]
        try:
            for future in as_completed(futures, loop=client.loop):
                yield future.result()
        except KilledWorker as error:
            raise ConnectionError(f"{SCHEDULER}={where!r}: {error}") from error


def _seen_from_here(name: str) -> Path:
    return Path(name).resolve()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _refusal(cache: str, published: str, code: str, token: str, dask_worker: Any = None) -> str:
    """Why this worker must not compute for whoever asks; empty where it may, and its folders are then those of the asker."""
    global CACHE, PUBLISHED  # set once in a process, by whoever it works for
    if dask_worker.state.nthreads != 1:  # two trainings in one process would share the generator of initial weights
        return "has several threads; start workers with --nthreads 1"
    if not Path(token).exists():
        return "does not see the cache; set STATEDEPTH_CACHE to a folder that all machines share"
    if code != _library_digest():
        return "runs other code than this; install the same checkout, lock and extensions there"
    CACHE, PUBLISHED = Path(cache), Path(published)
    return ""


def _as_here(here: tuple[str, str, str, str], function: Callable[..., str], *item: Any) -> str:
    from distributed import get_worker  # noqa: PLC0415 (see `_on_cluster`)

    if refusal := _refusal(*here, dask_worker=get_worker()):
        raise ValueError(f"worker {get_worker().address} {refusal}")
    return _one_thread(function, *item)


def _one_thread(function: Callable[..., str], *item: Any) -> str:
    """More threads gain nothing at these sizes, and on busy cores they wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return function(*item)
    finally:
        torch.set_num_threads(threads)
