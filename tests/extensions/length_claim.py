"""A claim: models keep their accuracy at twice the training length."""

import altair as alt

from statedepth import extend, grid
from statedepth.render import Figure
from statedepth.theme import colour, themed
from statedepth.verdicts import NAMES, Claim, Numbers, Part, Prediction, Verdict

KEPT = 0.05  # accuracy that a model may lose and still keep the task

CLAIM = Claim(
    notebook="twice_as_long",
    number=5,
    title="What is learned holds at twice the length",
    plain="Do models that learned a task still do it on strings twice as long?",
    v1="Not in the paper.",
    v2="Not in the correction.",
    deciding="LSTM",
)
PREDICTIONS = (Prediction("2026-11-26", "The LSTM keeps Parity.", {"lstm.keeps": True}),)


def lost(tables):
    """Accuracy at the training length less that at twice it, a row per model."""
    table = tables["models"].assign(times=tables["models"]["length"] / tables["models"]["trained_length"])
    wide = table.pivot_table(index=["task", "architecture", "seed"], columns="times", values="accuracy")
    return (wide[1.0] - wide[2.0]).rename("lost").reset_index()


def verdict(tables):
    """*Reproduced* where the mean loss of every architecture is at most five points, *partly* in some."""
    means = lost(tables).groupby("architecture", sort=False)["lost"].mean()
    parts = [Part(f"{a}.keeps", f"{NAMES[a]} keeps the task", bool(value <= KEPT)) for a, value in means.items()]
    kept = sum(bool(part.holds) for part in parts)
    outcome = "reproduced" if kept == len(parts) else "partly" if kept else "not reproduced"
    deciding = [{"label": NAMES[a], "text": f"{value:.2f} lost"} for a, value in means.items()]
    return Verdict(
        CLAIM.notebook, "formal", outcome, True, [f"{kept} of {len(parts)} architectures keep it."], parts, deciding
    )


def numbers(tables):
    """The mean loss of each architecture."""
    found = Numbers()
    for a, value in lost(tables).groupby("architecture", sort=False)["lost"].mean().items():
        found.add(f"{a}.lost", value, f"{value:.2f}", f"accuracy lost by {NAMES[a]}", "twice-verdict", headline=True)
    return found


def runs(values):
    """The models that the notebook's parameters ask for."""
    return grid.cross(
        values["tasks"],
        values["architectures"],
        values["seeds"],
        values["d_model"],
        values["n_layers"],
        length=values["length"],
        steps=values["steps"],
    )


def by_architecture(tables):
    """How much does each architecture lose?"""
    table = lost(tables).assign(name=lambda t: t["architecture"].map(NAMES))
    chart = alt.Chart(table).mark_point(filled=True).encode(x="lost:Q", y=alt.Y("name:N", title=None), color=colour())
    finding = f"The most that is lost is {table['lost'].max():.2f}."
    return Figure(themed(chart), "twice_as_long.lost", finding, "Accuracy lost at twice the training length.", finding)


NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Twice as long
#
# ```{verdict} twice_as_long
# ```

# %% tags=["parameters", "hide-input"]
tasks: list[str] = ["parity"]  # task names
architectures: list[str] = ["lstm", "gru"]  # families of models
seeds: list[int] = [0]  # training seeds
d_model: int = 64  # features
n_layers: int = 4  # blocks
length: int = 20  # tokens
steps: int = 1000  # optimiser steps
device: str = "auto"  # auto, cpu or cuda
workers: int = 0  # processes
out: str = ""  # folder for the tables

# %% tags=["hide-input"]
import pandas as pd

from statedepth import claims, figures, grid, notebook

session = notebook.begin("twice_as_long", globals())
runs = grid.OTHERS["twice_as_long"](session.values)

# %% tags=["hide-input"]
origin = grid.obtain(runs, session.device, session.values["workers"])
rows = []
for run in runs:
    trained = grid.fetch(run)
    for tokens, accuracy in trained.accuracy.items():
        rows.append(
            {
                "task": run.task,
                "architecture": run.model.family,
                "seed": run.seed,
                "checkpoint": run.key,
                "source": origin[run],
                "parameters": sum(p.numel() for p in trained.model.parameters()),
                "trained_length": run.train.length,
                "steps": run.train.steps,
                "rate": run.train.lr,
                "grow_at": run.train.grow_at,
                "length": tokens,
                "accuracy": trained.accuracy_at(tokens),
                "last_position": accuracy[-1],
                "passed": trained.in_distribution() >= claims.THRESHOLD,
            }
        )
_ = session.write("models", pd.DataFrame(rows))

# %% [markdown]
# (twice-verdict)=
# ## What is lost

# %% tags=["hide-input", "show"]
figures.chart("twice_as_long", "lost", session.tables)

# %% tags=["hide-input"]
print(session.finish()["profile"])
"""

extend.claim(
    CLAIM,
    NOTEBOOK,
    verdict,
    runs,
    charts={"lost": by_architecture},
    numbers=numbers,
    predictions=PREDICTIONS,
    quick={"steps": 20, "d_model": 16, "n_layers": 2, "length": 8},
)
