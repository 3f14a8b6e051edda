"""Ablation of several sites in a row at once: what survives an edit of one site may have been carried past it by a block.

Each site's eraser is fitted on the unedited stream, as a probe's direction found beforehand would be; the edits act in one
forward pass. So a later eraser may miss what an earlier edit has moved, an exact one too: a probe refitted at the last site of
the window says what is read there after all of them.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from statedepth import erasers, logistic, models
from statedepth.ablation import (
    NecessitySettings,
    Subject,
    capture,
    device_of,
    groups,
    parts_at,
    right_answers,
    rows_at_once,
)
from statedepth.erasers import Eraser
from statedepth.removal import READABLE, Parts, applied, fit_chain
from statedepth.stream import between, run_from, stream
from statedepth.tasks import Task

METHODS = ("direction", "mean projection", "LEACE", "INLP")
Edit = Callable[[torch.Tensor], torch.Tensor]


def measure(
    model: torch.nn.Module,
    task: Task,
    length: int,
    settings: NecessitySettings,
    width: int = 2,
    methods: Sequence[str] = METHODS,
) -> pd.DataFrame:
    """Erase the target at every `width` sites in a row, for all positions with one eraser each: a row per window and method.

    Windows end before the last site. Columns: `first` and `last` site; `rank`, summed over sites; the task's accuracy
    `intact` and `after`, its majority class, and `fall`, the share of the way down to it, with its 95% interval over
    sequences, and of a language model `intact_whole` and `after_whole`, as `ablation.measure` has them; `resample_fall`, where each site's part comes from another string; `random_fall` and `random_most`, the
    mean and the most over draws of random subspaces of the same ranks; probes at the last site of the window `before`
    and refitted after (`refit`), with their majority class. ValueError for a width of which there is no window.
    """
    n_blocks = len(models.blocks(model))
    if isinstance(width, bool) or not isinstance(width, int) or not 2 <= width < n_blocks:
        raise ValueError(f"width={width!r}: must be a whole number of sites from 2 to {n_blocks - 1}")
    rows = []
    for sites in groups(model, task, length, settings, range(1, n_blocks), overlap=width - 1):
        subject = capture(model, task, length, settings, sites)
        chains: dict[int, dict[str, list[Eraser]]] = {}
        read: dict[int, logistic.Reading] = {}
        for site in sites:
            parts = parts_at(subject, site, task.target, [length - 1], settings, False)
            before = parts.readings(parts.probed)
            chains[site] = {method: fit_chain(method, "pooled", parts, before) for method in methods}
            read[site] = before.pooled
        for window in [sites[i : i + width] for i in range(len(sites) - width + 1)]:
            first, last = window[0], window[-1]
            parts = parts_at(subject, last, task.target, [length - 1], settings, False)
            seen = {"before": float(read[last].accuracy[0]), "majority": float(read[last].majority[0])}
            for method in methods:
                chosen = {site: chains[site][method] for site in window}
                found = _of_window(subject, chosen, parts, settings)
                rows.append({"first": first, "last": last, "method": method, **found, **seen})
    return pd.DataFrame(rows)


def _of_window(
    subject: Subject, chains: dict[int, list[Eraser]], last_parts: Parts, settings: NecessitySettings
) -> dict[str, Any]:
    sites, n = list(chains), settings.n_task
    edits = {site: applied(chain) for site, chain in chains.items()}
    generator = torch.Generator().manual_seed(1000 * settings.seed + 89)
    other = torch.randperm(n, generator=generator)
    h = {site: subject.h["test"][site][:n].double() for site in sites}
    taken = {site: h[site] - edits[site](h[site]) for site in sites}
    everything = torch.arange(n)
    intact, intact_whole = _right(subject, {sites[0]: lambda x, rows: x}, everything)
    after, after_whole = _right(subject, {site: _by(edits[site]) for site in sites}, everything)
    resampled, _ = _right(subject, {site: _by(edits[site], taken[site][other]) for site in sites}, everything)
    targets = subject.batches["test"].targets[:n]
    majority = float((targets == subject.batches["erase"].targets.flatten().bincount().argmax()).double().mean())
    way = float(intact.mean()) - majority
    done = way >= READABLE * (1 - majority)
    fall = (intact - after) / way if done else np.full(n, math.nan)
    half = 1.96 * float(fall.std(ddof=1)) / math.sqrt(n)
    draws, each = [], min(settings.n_control, n)
    for draw in range(settings.draws):
        some = (torch.arange(each) + draw * each) % n
        random = {site: [erasers.random_like(one, generator) for one in chain] for site, chain in chains.items()}
        right, _ = _right(subject, {site: _by(applied(chain)) for site, chain in random.items()}, some)
        draws.append(float(((intact[some.numpy()] - right) / way).mean()) if done else math.nan)
    edited = _after_window(subject, edits, last_parts)
    readings = edited.readings(edited.fit)
    whole = {"intact_whole": float(intact_whole.mean()), "after_whole": float(after_whole.mean())}
    return {
        **(whole if models.has_others(subject.model) else {}),
        "rank": sum(erasers.total_rank(chain) for chain in chains.values()),
        "intact": float(intact.mean()),
        "after": float(after.mean()),
        "task_majority": majority,
        "fall": float(fall.mean()),
        "fall_low": float(fall.mean()) - half,
        "fall_high": float(fall.mean()) + half,
        "resample_fall": float((intact - resampled).mean() / way) if done else math.nan,
        "random_fall": float(np.mean(draws)),
        "random_most": float(np.max(draws)),
        "refit": float(readings.pooled.accuracy[0]),
        "refit_majority": float(readings.pooled.majority[0]),
    }


def _by(edit: Edit, put: torch.Tensor | None = None) -> Callable[..., torch.Tensor]:
    """An edit of float32 (B, T, D) rows of the test strings; `put` (n, T, D) takes the place of what it takes."""

    def edited(h: torch.Tensor, *, rows: torch.Tensor) -> torch.Tensor:
        changed = edit(h.double().cpu())
        return (changed if put is None else changed + put[rows]).to(h)

    return edited


def _right(subject: Subject, edits: dict[int, Callable], rows: torch.Tensor) -> np.ndarray:
    """(2, n) share of right answers of each of the test strings `rows`, with all `edits` in one pass: `right_answers`."""
    device, first = device_of(subject.model), min(edits)
    batch, found = subject.batches["test"], []
    for some in rows.split(rows_at_once(batch.tokens.shape[1])):
        later = {site: partial(edit, rows=some) for site, edit in edits.items() if site != first}
        start = edits[first](subject.h["test"][first][some], rows=some).to(device)
        with torch.no_grad(), models.with_others(subject.model), stream(subject.model, edit=later):
            logits = run_from(subject.model, first, start, batch.tokens[some].to(device))
        found.append(right_answers(logits, batch.targets[some], subject.task).double().mean(2))
    return torch.cat(found, 1).numpy()


def _after_window(subject: Subject, edits: dict[int, Edit], parts: Parts) -> Parts:
    """The parts of the window's last site, as they are after all edits: what a refitted probe gets to see."""
    first, last = min(edits), max(edits)
    later = {site: partial(_by(edit), rows=torch.empty(0)) for site, edit in edits.items() if site != first}
    device = device_of(subject.model)
    found = {}
    for name in ("erase", "fit", "validation", "test"):
        if name == "erase":  # refits are fitted on others
            found[name] = getattr(parts, name)
            continue
        batch, made = subject.batches[name], []
        for rows in torch.arange(len(batch.tokens)).split(rows_at_once(batch.tokens.shape[1])):
            start = edits[first](subject.h[name][first][rows].double()).float().to(device)
            with torch.no_grad():
                made.append(between(subject.model, first, last, start, batch.tokens[rows].to(device), later).cpu())
        found[name] = torch.cat(made).double(), getattr(parts, name)[1]
    return Parts(**found, n_classes=parts.n_classes, positions=parts.positions, n_probe=parts.n_probe, spread=parts.spread, seed=parts.seed)  # fmt: skip
