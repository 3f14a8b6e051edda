"""Time the necessity test's intervention pass against the same pass done cell by cell.

    python benchmarks/necessity.py            print the table
    python benchmarks/necessity.py --publish  and replace that of the book (book/data/necessity)

Two parts of it, each of one site of one published model. `edits`: one eraser's edit, its resample ablation and random
controls, all as rows of few passes from the edited site on, against a full forward pass with a hook for each. `refits`: the
probes of single positions, fitted together, against scikit-learn's logistic regression one by one. Both rivals run in
one process on one thread, in turn; a time is the median over rounds. Run it on a quiet machine.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from statedepth import ablation, erasers, grid, logistic, models, notebook, probes, tables
from statedepth.ablation import NecessitySettings
from statedepth.grid import ROOT
from statedepth.stream import stream
from statedepth.training import Trained

SITE, LENGTH, PENALTIES = 2, 20, logistic.PENALTIES
Rival = Callable[[], np.ndarray]


def edits(trained: Trained, settings: NecessitySettings) -> tuple[Rival, Rival]:
    """Shares of right answers under every edit: together, and one forward pass after the other."""
    subject = ablation.capture(trained.model, trained.task, LENGTH, settings, [SITE])
    h, y = subject.h["erase"][SITE].double(), subject.batches["erase"].targets
    eraser = erasers.leace(h, y)
    generator = torch.Generator().manual_seed(0)
    everything = torch.arange(settings.n_task)
    few = torch.arange(settings.n_control)
    planned = [(eraser, everything), *((erasers.random_like(eraser, generator), few) for _ in range(settings.draws))]

    def together() -> np.ndarray:
        runs = ablation._Runs(subject, SITE, last=False)
        for number, (edit, rows) in enumerate(planned):
            runs.add((number,), edit, rows)
        return np.array([share.mean() for share in runs.run()[0].values()])

    def one_by_one() -> np.ndarray:
        batch, shares = subject.batches["test"], []
        for edit, rows in planned:
            with torch.no_grad(), stream(trained.model, edit={SITE: lambda h, edit=edit: edit(h.double()).float()}):
                answer = models.logits(trained.model, batch.tokens[rows]).argmax(-1)
            shares.append((answer == batch.targets[rows]).double().mean().item())
        return np.array(shares)

    return together, one_by_one


def refits(trained: Trained, settings: NecessitySettings) -> tuple[Rival, Rival]:
    """Accuracies of every position's probe on its own sample at every penalty: together, and by scikit-learn in turn."""
    kept = probes.activations(trained, LENGTH, [SITE], settings.n_fit, "train", 0)
    h, y = kept.h[SITE], kept.batch.targets.numpy()
    x = torch.from_numpy(h).double().transpose(0, 1).contiguous()
    labels, n_classes = torch.from_numpy(y).T.contiguous(), trained.task.n_outputs
    mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True).clamp_min(1e-9)

    def together() -> np.ndarray:
        found = logistic.fit((x - mean) / scale, labels, n_classes, PENALTIES, logistic.READ_TOLERANCE)
        return np.array([(one.logits((x - mean) / scale).argmax(2) == labels).double().mean().item() for one in found])

    def one_by_one() -> np.ndarray:
        shares = []
        for t in range(h.shape[1]):
            pair = h[:, t], y[:, t]
            shares.append([one.score(*pair) for one in probes.fit_probes(pair, pair, pair, n_classes, PENALTIES)])
        full = [s for s in shares if len(s) == len(PENALTIES)]
        return np.mean(full, axis=0)

    return together, one_by_one


def measured(architectures: list[str], settings: NecessitySettings, rounds: int) -> pd.DataFrame:
    """A row per part and architecture: seconds of both ways, and their ratio."""
    rows = []
    asked = grid.cross(["parity"], architectures, [0], 64, 4, length=LENGTH)
    three = [family for family in ("mamba", "gru") if family in architectures]  # classes; scikit-learn takes its time
    asked += grid.cross(["dyck-2-4"], three, [0], 64, 4, length=LENGTH) if three else []
    for run in asked:
        trained = grid.fetch(run)
        for part, make in (("edits", edits), ("refits", refits)):
            together, one_by_one = make(trained, settings)
            gap = float(np.abs(together() - one_by_one()).max())  # also warms both up
            if gap > 0.005:
                raise RuntimeError(f"{part} of {run.key}: the two ways differ by {gap}")
            spent: dict[str, list[float]] = {"ours": [], "theirs": []}
            for _ in range(rounds):
                for name, way in (("ours", together), ("theirs", one_by_one)):
                    start = time.perf_counter()
                    way()
                    spent[name].append(time.perf_counter() - start)
            ours, theirs = (float(np.median(spent[name])) for name in ("ours", "theirs"))
            row = {
                "part": part,
                "task": run.task,
                "architecture": run.model.family,
                "seconds": ours,
                "seconds_cell_by_cell": theirs,
            }
            rows.append({**row, "ratio": theirs / ours})
            print(
                f"{part} of {run.model.family} on {run.task}: {ours:.2f} s together, {theirs:.2f} s cell by cell, {theirs / ours:.1f}x"
            )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true", help="replace the table of the book")
    parser.add_argument("--small", action="store_true", help="one architecture and few strings, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "benchmark" / "necessity")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds}: must be 1 or more")
    settings, families = NecessitySettings(), list(models.FAMILIES)
    if chosen.small:
        settings = NecessitySettings(
            n_erase=256, n_fit=256, n_validation=64, n_test=64, n_task=64, draws=3, n_control=16
        )
        families = ["lstm"]
    out = ROOT / "book" / "data" / "necessity" if chosen.publish else chosen.out
    started = time.time()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        table = measured(families, settings, chosen.rounds)
    tables.write(table, "passes", out)
    parameters = {"rounds": chosen.rounds, "site": SITE, "length": LENGTH, "draws": settings.draws}
    libraries = ("torch", "transformers", "scikit-learn", "numpy", "statedepth")
    run = {"notebook": "necessity", "profile": "small" if chosen.small else "paper"}
    run |= {**notebook.provenance("cpu", started, libraries), "parameters": parameters}
    tables.write_record(run, "run", out)


if __name__ == "__main__":
    main()
