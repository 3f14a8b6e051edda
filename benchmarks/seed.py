"""Train one seed of every architecture on Parity, Dyck-(2,4) and S_3 from nothing, and say how long that takes.

    python benchmarks/seed.py            print the table
    python benchmarks/seed.py --publish  and replace that of the book (book/data/seed)

The models and recipes are the notebooks' own, one process per core, each of one thread. The Transformer on S_3, which
needs a recipe of its own, is left out. Nothing is read from a cache or left in one.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import joblib
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from statedepth import grid, models, notebook, tables, training
from statedepth.training import Run

TASKS = ("parity", "dyck-2-4", "S3")
PAPER = (64, 4, 0)  # Mamba's width, blocks, and the recipes' own steps, as in the notebooks
SEED = 0  # it only chooses the initial weights and the data


def runs(d_model: int, n_layers: int, steps: int) -> list[Run]:
    """All runs of one seed, those with the most steps first, so that no core ends up alone with one; 0: own steps."""
    changes = {"steps": steps} if steps else {}
    found = grid.cross(TASKS, models.FAMILIES, [SEED], d_model, n_layers, **changes)
    found = [run for run in found if (run.task, run.model.family) != ("S3", "transformer")]
    return sorted(found, key=lambda run: -run.train.steps)


def timed(run: Run, folder: Path, origin: float) -> dict[str, str | float]:
    """Train on one thread: when it started and ended, in minutes since `origin`, and the accuracy that it reached."""
    started = time.time()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        trained = training.train(run, folder, progress=False)
    return {
        "task": run.task,
        "architecture": run.model.family,
        "started": (started - origin) / 60,
        "ended": (time.time() - origin) / 60,
        "accuracy": trained.accuracy_at(run.train.length),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--d-model", type=int, default=PAPER[0], help="Mamba's width; the others' follows from it")
    parser.add_argument("--n-layers", type=int, default=PAPER[1])
    parser.add_argument("--steps", type=int, default=PAPER[2], help="in place of each recipe's own (0)")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--publish", action="store_true", help="replace the table of the book")
    parser.add_argument("--out", type=Path, help="folder for the table; none is written without it or --publish")
    arguments = parser.parse_args()
    if arguments.cores < 1:
        parser.error(f"--cores {arguments.cores}: must be 1 or more")
    try:
        todo = runs(arguments.d_model, arguments.n_layers, arguments.steps)
    except ValueError as error:
        parser.error(str(error))
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        pool, origin = joblib.Parallel(n_jobs=arguments.cores, verbose=5), time.time()
        found = pd.DataFrame(pool(joblib.delayed(timed)(run, Path(folder), origin) for run in todo))
    found["cores"] = arguments.cores
    print(found.to_string(index=False, float_format="{:.3f}".format))
    print(f"all of them: {found['ended'].max():.1f} minutes on {arguments.cores} cores")
    out = grid.ROOT / "book" / "data" / "seed" if arguments.publish else arguments.out
    if out is not None:
        tables.write(found, "seed", out)
        size = {"d_model": arguments.d_model, "n_layers": arguments.n_layers}
        run = {
            "notebook": "seed",
            "profile": "paper" if (arguments.d_model, arguments.n_layers, arguments.steps) == PAPER else "custom",
            **notebook.provenance("cpu", started, ("torch", "transformers", "numba")),
            "parameters": {**size, "steps": arguments.steps, "cores": arguments.cores, "seed": SEED},
        }
        tables.write_record(run, "run", out)


if __name__ == "__main__":
    main()
