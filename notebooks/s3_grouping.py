# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Claim 2: does S₃ group with Parity?
#
# > **v1** Non-commutative S₃ groups with Parity, not with Dyck, by probing in all five architectures and by attribution to
# > Mamba's Conv1D, so that the grouping tracks computational structure rather than commutativity. {cite}`jiang2026v1`
# >
# > **v2** Withdrawn: a pre-registered test on three further task designs did not support it. {cite}`jiang2026v2`
#
# Parity, a product of permutations and a stack of brackets are all states to keep while reading. Which of them does a
# network treat alike? If what matters is *algebra*, the permutations of three things (S₃, where the order of the factors
# matters) should stand apart from Parity (where it does not). If what matters is the *computation*, S₃ and Parity belong
# together, since both fold one token after the other into a running product, and the stack stands apart. Here "alike" is
# a number: how far apart, in depth, are the blocks at which the state becomes readable?
#
# ```{verdict} s3_grouping
# ```
#
# (grouping-criterion)=
# ## The criterion, written before the run
#
# The readability of the state rises from block to block; the **shares** of that rise say where in depth it happens. The
# distance *d* between two models is the Wasserstein-1 distance between their shares, in blocks: how far, on average, the
# rise of one would have to be moved to become that of the other. In one architecture, over models that learned their
# task, S₃ *groups with Parity* where
#
# > *d*(S₃, Dyck) − *d*(S₃, Parity) is over 0:
#
# its 95% interval over seeds excludes 0, and the exact permutation *p* (deal the Parity and the Dyck models anew: how
# often is a group dealt at random nearer by as much?), one-sided and Holm-corrected over the architectures, is under .05.
# *Reproduced* needs this in every architecture that learned the three tasks, and the same order in Mamba's Conv1D
# attribution; *partly*, in more than half of them, or without the attribution. Where so few models learned a task that
# no data could bring that *p* so low, the interval alone decides. The criterion is code, in
# `statedepth.grouping.verdict`, and its history is public:
#
# - Its first form and our predictions were committed before any model of this page was trained (commit `7898530`). The
#   Transformer's steps were raised while training went on (`ce48ef9`), when two seeds had stayed just under 99% on S₃.
# - A review amended it before the measurements of this page (`c101b68`), after the notebook had been tried on small samples
#   of the first models: the interval decides where no data could bring *p* down, rather than wherever a seed failed, in
#   pairs of tasks too; two clauses were added to the third prediction (no task far from another in LSTM and GRU) and a
#   condition to the fourth.
# - Two more reviews, which had seen the published numbers, made our own findings more careful (`1c1923b` and after): "no"
#   is told apart from "undecided", "far apart" is corrected for the number of pairs, a run without all five architectures
#   is provisional, and a prediction is not called undecided where a clause of it failed. Of the rule by which S₃ groups
#   they changed one thing, which decides nothing here: whether a *p* could be reached is asked of each of Holm's steps.
#   A third, of the built site, found "no" where an interval holds 0 in the statements of single tasks, which now read
#   "undecided", and had the two sentences and the table below the convolution's figure added.
#   What they thought too generous in the rule itself is said beside the
#   verdict: a difference that counts and is small, and one that says on which side of Dyck a task is, not how near.
#
# S₃ holds a Parity: the sign of a permutation. So the page also asks the same of tasks that differ in fewer things
# (below), of other targets on one and the same stream of strings, and of the convolution.

# %% tags=["parameters", "hide-input"]
groups: list[str] = ["parity", "Z3", "Z6", "S3", "A4", "dyck-1-4", "dyck-2-4"]  # tasks that are compared
architectures: list[str] = ["transformer", "mamba", "mamba2", "lstm", "gru"]  # families of models
seeds: list[int] = [
    0,
    1,
    2,
    3,
    4,
]  # training seeds of parity, dyck-2-4 and S3; fewer than 5 make the verdict provisional
control_seeds: list[int] = [0, 1, 2]  # training seeds of all other tasks, targets and retrained models
targets: list[str] = ["dyck-2-4", "dyck-2-4-depth", "dyck-2-4-openers", "dyck-2-4-first"]  # on one stream of strings
retrain: bool = True  # also models of the core tasks whose convolution has one tap
every_seed: bool = False  # train seeds that have no checkpoint, rather than leave them out where another seed has one
d_model: int = 64  # features of Mamba's stream; the other families derive theirs, so that sizes agree
n_layers: int = 4  # blocks
length: int = 12  # tokens, the longest training length
steps: int = 0  # optimiser steps at most; 0 for the recipe of each architecture
n_fit: int = 4096  # sequences that a probe is fitted on
n_test: int = 2048  # sequences that its accuracy is reported on
device: str = "auto"  # auto, cpu or cuda
workers: int = 0  # processes; 0 for one per core
out: str = ""  # folder for the tables; empty for a folder of this notebook's under _build

# %% tags=["hide-input"]
from dataclasses import replace

import pandas as pd

from statedepth import claims, conv, figures, grid, grouping, notebook, probes, profiles
from statedepth import tasks as task_library

session = notebook.begin("s3_grouping", globals())
full = probes.ProbeSettings(n_fit=session.values["n_fit"], n_test=session.values["n_test"], own="trained")
pooled_only = replace(full, own="none")
bare = replace(pooled_only, beside=False)
asked = grid.grouping_runs(session.values)
runs, left_out = grid.at_hand(
    list(dict.fromkeys(run for part in asked.values() for run in part)), session.values["every_seed"]
)
first_seeds = {(run.task, run.model.family, run.model.d_conv): run for run in reversed(runs)}.values()
parts = {name: [run for run in part if run in set(runs)] for name, part in asked.items()}
session.left_out = len(left_out)
if left_out:
    print(f"{len(left_out)} seeds have no checkpoint and are left out; every_seed=True trains them")

# %% [markdown]
# (grouping-models)=
# ## Models that learned the task
#
# Tasks that are compared: {num}`s3_grouping.tasks`, from Parity and the cyclic groups Z₃ and Z₆ (running sums), the permutation
# groups S₃ and A₄ (running products, where the order matters), and bracket strings of one type (a counter) and of two (a
# stack). One recipe per architecture for all of them; sequences of up to {num}`s3_grouping.length` tokens; training stops
# by one rule, once the task is learned. Of {num}`s3_grouping.models` models, with those of the
# [other targets](#grouping-targets), {num}`s3_grouping.failed` stayed under 99%; they are shown, and stay out of the
# analysis: {num}`s3_grouping.failed_where`.

# %% tags=["hide-input"]
origin = grid.obtain(runs, session.device, session.values["workers"])
rows, passed = [], {}
for run in runs:
    trained = grid.fetch(run)
    at_length = trained.accuracy_at(run.train.length)
    passed[run] = at_length >= claims.THRESHOLD
    row = {
        "task": run.task,
        "architecture": run.model.family,
        "seed": run.model.seed,
        "steps": int(trained.history[-1]["step"]),
    }
    for tokens, accuracy in trained.accuracy.items():
        rows.append(
            {
                **row,
                "checkpoint": run.key,
                "source": origin[run],
                "parameters": sum(p.numel() for p in trained.model.parameters()),
                "trained_length": run.train.length,
                "rate": run.train.lr,
                "grow_at": run.train.grow_at,
                "length": tokens,
                "accuracy": trained.accuracy_at(tokens),
                "last_position": accuracy[-1],
                "passed": passed[run],
            }
        )
table = pd.DataFrame(rows)
retrained = {run.key for run in parts["retrained"]}
models = session.write("models", table[~table["checkpoint"].isin(retrained)])

# %% tags=["hide-input", "show"]
counted = session.tables["models"].query("length == trained_length").groupby(["task", "architecture"], sort=False)
notebook.Rows(
    counted.agg(
        learned=("passed", "sum"), seeds=("seed", "nunique"), best=("accuracy", "max"), steps=("steps", "median")
    )
    .reset_index()
    .assign(
        task=lambda t: t["task"].map(claims.task_name),
        architecture=lambda t: t["architecture"].map(claims.NAMES),
        best=lambda t: t["best"].map("{:.1%}".format),
        steps=lambda t: t["steps"].map("{:,.0f}".format),
    ),
    "Seeds that learned the task, of those trained; the best accuracy; steps until the stop rule ended training (median)",
)

# %% [markdown]
# (grouping-distances)=
# ## Which tasks group?
#
# A linear probe reads the state at every site; the rises of its readability, as shares, are the profile of a model.

# %% tags=["hide-input"]
cells, passes = [], []
for run in parts["groups"]:
    for variable in task_library.named(run.task).n_states:
        is_target = variable == task_library.named(run.task).target
        settings = full if run.task in grid.CORE and is_target else pooled_only
        # the untrained network and the control labels once for a task and an architecture
        settings = settings if run in first_seeds else replace(settings, beside=False)
        cells.append(grid.Cell(run, variable, run.train.length, settings))
        passes.append(passed[run])
measured = session.measure(cells)
probed = pd.concat(
    [
        result.assign(
            task=cell.run.task,
            variable=cell.variable,
            architecture=cell.run.model.family,
            seed=cell.run.model.seed,
            passed=ok,
        )
        for cell, result, ok in zip(cells, measured, passes, strict=True)
    ]
)
session.write("readability", probed[probed["penalty"] == 0].drop(columns="penalty"))
only_fixed = ["network", "labels", "position", "own_accuracy", "own_majority"]  # one value or none in these rows
session.write("penalties", probed[probed["penalty"] > 0].drop(columns=only_fixed))
session.write(
    "baselines",
    pd.concat(
        [
            probes.baselines(task, variable, session.values["length"], session.values["n_layers"], full).assign(
                task=task.name, variable=variable
            )
            for task in map(task_library.named, session.values["groups"])
            for variable in task.n_states
        ]
    ),
)
three = [session.tables[name] for name in ("readability", "penalties", "baselines")]
session.write("shares", profiles.share_table(*three))
_ = session.write("indices", profiles.index_table(*three))

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "grouping", session.tables)

# %% [markdown]
# By the criterion S₃'s difference is {num}`s3_grouping.mamba.S3.difference` in Mamba,
# {num}`s3_grouping.mamba2.S3.difference` in Mamba-2, {num}`s3_grouping.transformer.S3.difference` in the Transformer,
# {num}`s3_grouping.lstm.S3.difference` in the LSTM and {num}`s3_grouping.gru.S3.difference` in the GRU (blocks; mean, 95%
# interval, seeds). It cannot be more than the distance of Parity to Dyck, and is that wherever S₃ rises later than Parity:
# it says on which side of Dyck S₃ is. S₃'s distance to Parity itself is {num}`s3_grouping.mamba.S3.to-parity` in Mamba,
# {num}`s3_grouping.mamba2.S3.to-parity` in Mamba-2 and {num}`s3_grouping.transformer.S3.to-parity` in the Transformer; the
# map below shows it beside that between two seeds.
#
# All tasks by their distance:

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "distances", session.tables)

# %% [markdown]
# (grouping-profiles)=
# ### The profiles behind the distances

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "readability", session.tables)

# %% tags=["hide-input", "show"]
beside = profiles.with_readability(session.tables["readability"].query("position == 0"))
beside = beside[(beside["site"] == beside["site"].max()) & beside["passed"]].assign(
    kind=lambda t: t["network"] + " " + t["labels"]
)
of_each = beside.groupby(["task", "variable", "kind", "architecture"])[
    "readability"
].mean()  # over seeds, then over these
wide = of_each.groupby(["task", "variable", "kind"]).mean().unstack("kind")
last = session.tables["baselines"].query("position == 0 and site == site.max()").set_index(["task", "variable"])
majority = beside.query("labels == 'task'").groupby(["task", "variable"])["majority"].mean()
for name in ("position_only", "bayes_window"):
    wide[name] = (last[name] - majority) / (1 - majority)
names = {
    "trained task": "trained",
    "untrained task": "untrained network",
    "trained control": "control labels",
    "position_only": "position only",
    "bayes_window": "last 3l+1 tokens (Bayes)",
}
shown = wide.rename(columns=names)[[name for name in names.values() if name in wide.rename(columns=names)]]
notebook.Rows(
    shown.map("{:.2f}".format)
    .rename_axis(columns=None)
    .reset_index()
    .assign(task=lambda t: t["task"].map(claims.task_name)),
    "Readability at the last site beside its baselines, mean over architectures that learned the task. Where strings are no "
    "longer than the window of the last site, what stands out is how deep the state is read, not that a running state is needed",
)

# %% [markdown]
# (grouping-confounds)=
# ## The confounds, one by one
#
# S₃ and Z₆ have six elements each and a Parity as their quotient, and Z₆ commutes. A₄ does not commute and has no
# Parity inside, and Z₃ is its quotient. Dyck-(1,4) needs a counter, Dyck-(2,4) a stack. And in one and the same model of
# S₃ the sign (its Parity) and the coset (where the first thing has got to) are two variables, which together are the
# state.

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "confounds", session.tables)

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "subjects", session.tables)

# %% [markdown]
# In Mamba, S₃ and Z₆ are {num}`s3_grouping.mamba.S3/Z6` blocks apart, and S₃'s sign and coset
# {num}`s3_grouping.mamba.S3-sign/S3-coset`. Sign and coset are two variables of the same models: a mean distance over 0
# says that a model reads one before the other, not that all models read the same one first.
#
# (grouping-targets)=
# ## Same strings, same positions, another target
#
# Tasks differ in their inputs too. So here the inputs are held fixed: one stream of bracket strings, and four states that
# can be asked of it (the type on top of the stack, the depth, whether the number of openers so far is odd, the type of the
# first opener). Models are trained on one of them each, and all four variables are read in every model.

# %% tags=["hide-input"]
# the task whose automaton knows the most variables of these strings labels them for all
reader = max(session.values["targets"], key=lambda task: len(task_library.named(task).n_states), default="")
variables = list(task_library.named(reader).n_states) if reader else []
read = [grid.Cell(run, variable, run.train.length, bare, reader) for run in parts["targets"] for variable in variables]
if read:
    results = [
        result.query("position == 0 and penalty == 0").assign(
            task=cell.run.task,
            variable=cell.variable,
            architecture=cell.run.model.family,
            seed=cell.run.model.seed,
            passed=passed[cell.run],
        )
        for cell, result in zip(read, session.measure(read), strict=True)
    ]
    columns = ["task", "variable", "architecture", "seed", "passed", "site", "accuracy", "majority"]
    session.write("targets", pd.concat(results)[columns])

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "targets", session.tables) if "targets" in session.tables else "no targets in this run"

# %% [markdown]
# (grouping-conv)=
# ## Which blocks need the convolution?
#
# Mamba and Mamba-2 have a short convolution over four tokens in every block. Three edits ask what it is needed for: keep
# only its current token; put its mean output in its place; train anew with one tap. The first two are done to one block
# of a trained model at a time, and to all.

# %% tags=["hide-input"]
edited = [run for run in parts["groups"] if "mamba" in run.model.family]
if edited:
    found = session.attribute([grid.ConvCell(run, run.train.length, session.values["n_test"]) for run in edited])
    session.write(
        "conv",
        pd.concat(
            [
                result.assign(
                    task=run.task,
                    architecture=run.model.family,
                    seed=run.model.seed,
                    passed=passed[run],
                    lost=conv.lost(result),
                )
                for run, result in zip(edited, found, strict=True)
            ]
        ),
    )

# %% tags=["hide-input", "show"]
figures.chart(
    "s3_grouping", "convolution", session.tables
) if "conv" in session.tables else "no architecture of this run has a convolution"

# %% [markdown]
# In Mamba S₃'s attribution has a difference of {num}`s3_grouping.mamba.S3.conv` (over 0: it needs the convolution as Parity does,
# rather than as Dyck does). How far does that go? Two numbers that the criterion does not ask for. The counter Dyck-(1,4), whose
# *profile* has a difference of {num}`s3_grouping.mamba.dyck-1-4.difference`, has one of {num}`s3_grouping.mamba.dyck-1-4.conv` by its
# convolution, and in Mamba-2 {num}`s3_grouping.mamba2.dyck-1-4.conv`: where that is over 0, brackets of one kind are on
# Parity's side too, and the attribution does not tell groups from brackets. And with each model's losses as shares of
# their sum, which leaves *where* the convolution is needed and takes away *how much*, S₃'s difference is
# {num}`s3_grouping.mamba.S3.conv-shares` in Mamba and {num}`s3_grouping.mamba2.S3.conv-shares` in Mamba-2.

# %% tags=["hide-input", "show"]
notebook.Rows(
    grouping.conv_table(session.tables),
    "The convolution's attribution: distance to Dyck less distance to Parity, in shares, with 95% intervals over seeds. First of "
    "the way that the task falls (the criterion's, for S₃), then of all that is lost over the blocks",
)

# %% tags=["hide-input"]
if parts["retrained"]:
    once = table[table["length"] == table["trained_length"]]
    again = once[once["checkpoint"].isin(retrained)].assign(taps=1)
    same = once[once["checkpoint"].isin([run.key for run in edited if run.task in grid.CORE])].assign(taps=4)
    kept = ["task", "architecture", "seed", "taps", "steps", "accuracy", "last_position", "passed"]
    session.write("retrained", pd.concat([again, same])[kept])

# %% tags=["hide-input", "show"]
if "retrained" in session.tables:
    grouped = session.tables["retrained"].groupby(["task", "architecture", "taps"], sort=False)
    counted = grouped.agg(
        learned=("passed", "sum"), seeds=("seed", "nunique"), accuracy=("accuracy", "mean"), steps=("steps", "median")
    ).reset_index()
    counted = counted.assign(
        task=counted["task"].map(claims.task_name),
        architecture=counted["architecture"].map(claims.NAMES),
        accuracy=counted["accuracy"].map("{:.1%}".format),
        steps=counted["steps"].map("{:,.0f}".format),
    )
    said = grouping.with_one_tap(session.tables["retrained"])
    shown = notebook.Rows(
        counted, f"Trained anew with one tap, beside the usual four: is the convolution needed at all? {said}"
    )
else:
    shown = "nothing was trained anew in this run"
shown

# %% [markdown]
# The three edits need not agree. That of one block at a time asks how much a trained model leans on that block's
# convolution; that with one tap, whether a task can be learned without any.

# %% [markdown]
# (grouping-sensitivity)=
# ## The same profiles, read in other ways

# %% tags=["hide-input", "show"]
figures.chart("s3_grouping", "readings", session.tables)

# %% [markdown]
# (grouping-verdict)=
# ## Verdict

# %% tags=["hide-input", "show"]
verdict = claims.grouping.verdict(session.tables)
outcome = {True: "yes", False: "no", None: "undecided"}  # no models, or too few to tell
notebook.Rows(
    pd.DataFrame([{"statement": part.text, "holds": outcome[part.holds]} for part in verdict.parts]),
    "The parts of the criterion (S₃ in each architecture, Mamba's convolution) and our own findings. Undecided: too few "
    "models learned the task, their interval holds both answers, or interval and p do not agree",
)

# %% tags=["hide-input", "show"]
notebook.Rows(claims.outcomes_of_predictions("s3_grouping", verdict), "Predictions, written before the run")

# %% tags=["hide-input", "rerun", "show"]
notebook.Rows(notebook.compare("s3_grouping", session.tables), "Headline numbers: this run beside the published one")

# %% [markdown]
# ## Limits
#
# - v1's definition of grouping, its S₃ numbers and its Conv1D attribution are not in what we could read, nor are v2's three task designs.
#   The distance, the criterion and the edits are ours (see the [methods](methods.md)).
# - Training ends when a task is learned, so that an easy task has had fewer steps than a hard one; with a fixed number, it
#   would have had more after it was learned. Claim 1 trains Parity and Dyck for a fixed number.
# - Strings are short, {num}`s3_grouping.length` tokens: a window of *l* short convolutions, 3*l* + 1 tokens, soon sees all
#   of one.
# - An untrained network of the same size already reads Dyck at {num}`s3_grouping.untrained.dyck-2-4` of the way, and
#   Parity at {num}`s3_grouping.untrained.parity` and S₃ at {num}`s3_grouping.untrained.S3` (last site, mean over
#   architectures). That Dyck is early may be the architecture's doing more than training's. An untrained network's profile
#   of S₃ has no rise to speak of, so that the distances have no untrained counterpart.
# - A distance between profiles says at which depths states become readable, not how they are computed: two tasks may be
#   near and be solved in different ways.
# - The exact permutation deals Parity's and Dyck's models anew, so that its null is that both have the same profiles, and
#   differ as much between seeds. A distance between two models holds that difference too, so that a task whose seeds
#   differ more seems farther away; the readings above give the answer without that part.
# - Some tasks have {num}`s3_grouping.least_seeds` seeds per architecture. Where so few cannot bring an exact, corrected *p*
#   under .05, whatever the data, the table of the verdict says that the interval decides.
# - The convolution's mean output is that before its SiLU. An edit leaves the rest of the block as it was trained.
# - The untrained network and the control labels were probed for the first seed only.
#
# ```{run-block} s3_grouping
# ```

# %% tags=["hide-input"]
run_block = session.finish()
print(f"{run_block['profile']} run of {run_block['date']} on {run_block['device']}, {run_block['wall_time_s']} s")
