"""The claims, the criteria that judge them, our dated predictions, and every number that prose may quote.

Criteria are written here and committed before the run that they judge. Tables in, verdicts and numbers out; no torch.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import pandas as pd

from statedepth import profiles

THRESHOLD = 0.99  # accuracy in distribution at which a model enters an analysis
MIN_SEEDS = 5  # seeds in every group for a verdict that is not provisional
LATE_SHARE = 0.8  # share of seeds whose largest rise must be at the last block
LEVEL = 0.05
NAMES = {"transformer": "Transformer", "mamba": "Mamba", "mamba2": "Mamba-2", "lstm": "LSTM", "gru": "GRU"}
TASK_NAMES = {"parity": "Parity", "dyck-2-4": "Dyck-(2,4)", "S3": "S₃"}
VERDICT_VARIABLE = {"parity": "state", "dyck-2-4": "top"}  # what a task's verdict is read from

Tables = dict[str, pd.DataFrame]


def task_name(task: str) -> str:
    """The task's name as readers see it."""
    return TASK_NAMES.get(task, task)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what became of it in its second version."""

    notebook: str
    number: int
    title: str
    v1: str
    v2: str


CLAIMS = {
    claim.notebook: claim
    for claim in (
        Claim(
            "flip",
            1,
            "The profile flips with the task",
            "On Parity the state is concentrated late in Mamba and in the recurrent baselines and built gradually in "
            "the Transformer; on bounded Dyck the pattern flips.",
            "Holding inputs and positions fixed, changing only the supervised target moves the depth at which a "
            "variable becomes readable; the taxonomy of tasks built on the flip is withdrawn.",
        ),
        Claim(
            "s3_grouping",
            2,
            "S₃ groups with Parity",
            "Non-commutative S₃ groups with Parity, not with Dyck, in all five architectures and in Mamba's Conv1D: "
            "computation decides, not commutativity.",
            "Withdrawn: a pre-registered test on three further task designs did not support it.",
        ),
        Claim(
            "causal_necessity",
            3,
            "The readable direction is necessary",
            "Ablating the linearly readable direction often destroys the task, and can do so beyond the training "
            "lengths.",
            "Not a necessity test: a probe refitted after the ablation gets its accuracy back in every cell; with INLP "
            "the conclusion reverses.",
        ),
        Claim(
            "pretrained_bottleneck",
            4,
            "Pretrained models have a bottleneck",
            "Fine-tuned Pythia on Dyck has a strong bottleneck in its middle layers; pretrained Mamba has a readable "
            "last layer and no single direction that breaks the task.",
            "Where a variable is most readable and where deleting it does most damage are different layers in every "
            "pretrained model.",
        ),
    )
}

# v1's figure: probe accuracy in per cent at L0..L3, read as sites 1..4 (our reading). The only published numbers.
PUBLISHED_PROFILES = pd.DataFrame(
    [
        {"architecture": architecture, "task": task, "site": site, "published": value / 100}
        for architecture, task, values in (
            ("mamba", "parity", (55, 60, 71, 100)),
            ("transformer", "parity", (55, 76, 98, 100)),
            ("mamba", "dyck-2-4", (73, 100, 100, 100)),
            ("transformer", "dyck-2-4", (100, 100, 100, 100)),
        )
        for site, value in enumerate(values, start=1)
    ]
)


@dataclass(frozen=True)
class Prediction:
    """What we expected, and when we wrote it down."""

    date: str
    text: str
    expected: dict[str, bool]  # a part of the verdict for each clause of the text, and what it says of it


PREDICTIONS = {
    "flip": (
        Prediction("2026-11-22", "Mamba flips: more concentrated than the Transformer on Parity, less on Dyck, and late on Parity.", {"mamba.flips": True}),
        Prediction("2026-11-22", "Mamba-2 flips as Mamba does.", {"mamba2.flips": True}),
        Prediction("2026-11-22", "The LSTM is not late on Parity: its first block already holds the state.", {"lstm.late": False, "lstm.first": True}),
        Prediction("2026-11-22", "The GRU is not late on Parity: its first block already holds the state.", {"gru.late": False, "gru.first": True}),
        Prediction("2026-11-22", "By centre of mass there is no flip in Mamba: it is later than the Transformer on both tasks.", {"mamba.centre_flips": False, "mamba.later": True}),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One sub-statement that a verdict is put together from."""

    key: str
    text: str
    holds: bool | None  # None: could not be tested


@dataclass(frozen=True)
class Verdict:
    """What code makes of a claim's tables."""

    claim: str
    scale: str  # formal | analogue | published checkpoint
    outcome: str  # reproduced | partly | not reproduced | not tested
    provisional: bool
    reasons: list[str]  # in words, why the outcome is what it is
    parts: list[Part] = field(default_factory=list)
    deciding: list[dict[str, str]] = field(default_factory=list)  # {"label", "text"}: the numbers that decided

    def record(self, profile: str) -> dict:
        """The content of verdict.json, with the claim's wording beside it."""
        claim = CLAIMS[self.claim]
        return {**asdict(self), "title": claim.title, "v1": claim.v1, "v2": claim.v2, "profile": profile}


# ---- claim 1 ------------------------------------------------------------------------------------------------------


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """Every architecture against the Transformer: each index, on each task, and the interaction of the two.

    From an `indices` table: models that passed only. `difference` is mean(a) - mean(Transformer) over seeds with its
    Welch interval and `p` its exact one-sided permutation p in the direction that claim 1 gives the index: over 0 on
    Parity, under 0 on Dyck, over 0 for the interaction (difference on Parity minus difference on Dyck, by seed). Spread
    and mean run against concentration (a state that comes late is read at fewer sites), so theirs are turned round. `p_holm` corrects over the family of all
    architectures and tasks of one index (the interaction is a family of its own).
    """
    usable = table[table["passed"] & table["value"].notna()]
    usable = usable[usable["variable"] == usable["task"].map(VERDICT_VARIABLE)]
    rows = []
    for (reading, index), cell in usable.groupby(["reading", "index"], sort=False):
        seeds = {where: part.set_index("seed")["value"] for where, part in cell.groupby(["task", "architecture"])}

        def of(task: str, architecture: str, seeds: dict = seeds) -> pd.Series:
            return seeds.get((task, architecture), pd.Series(dtype=float))

        def flip_of(architecture: str) -> pd.Series:
            return (of("parity", architecture) - of("dyck-2-4", architecture)).dropna()

        towards = -1 if index in ("spread", "mean") else 1
        for architecture in [a for a in NAMES if a != "transformer" and a in set(table["architecture"])]:
            for task, sign, ours, theirs in (
                ("parity", towards, of("parity", architecture), of("parity", "transformer")),
                ("dyck-2-4", -towards, of("dyck-2-4", architecture), of("dyck-2-4", "transformer")),
                ("interaction", towards, flip_of(architecture), flip_of("transformer")),
            ):
                interval = profiles.difference_interval(ours.to_numpy(), theirs.to_numpy())
                rows.append(
                    {
                        "reading": reading,
                        "index": index,
                        "task": task,
                        "architecture": architecture,
                        "expected_sign": sign,
                        "difference": interval.estimate,
                        "low": interval.low,
                        "high": interval.high,
                        "n": interval.n,
                        "p": profiles.permutation_p(ours.to_numpy(), theirs.to_numpy(), sign),
                    }
                )
    columns = ["reading", "index", "task", "architecture", "expected_sign", "difference", "low", "high", "n", "p"]
    result = pd.DataFrame(rows, columns=columns)
    family = [result["reading"], result["index"], result["task"] == "interaction"]
    result["p_holm"] = result.groupby(family)["p"].transform(lambda p: profiles.holm(p.to_numpy())) if rows else []
    return result


def flip(tables: Tables) -> Verdict:
    """Claim 1, from the `indices` table, by the pooled reading; the reasons say how many other readings agree."""
    verdict = flip_by_reading(tables, "pooled")
    table = outcomes_by_reading(tables)
    others, pooled = table[table["reading"] != "pooled"], table[table["reading"] == "pooled"].iloc[0]
    if verdict.outcome == "not tested" or not len(others):
        return verdict
    differ = others[others["outcome"] != verdict.outcome]
    text = f"{len(others) - len(differ)} of {len(others)} other readings of the same profiles give the same outcome"
    if len(differ):
        text += "; not " + ", ".join(f"{row.reading} ({row.outcome})" for row in differ.itertuples())
    parts = list(READING_PARTS.values())
    moved = int((others[parts] != pooled[parts]).any(axis=1).sum())
    text += f"; in {moved} of them some part of the criterion comes out otherwise" if moved else ", part by part"
    return replace(verdict, reasons=[*verdict.reasons, f"{text}."])


READING_PARTS = {"parity": "more concentrated on Parity", "dyck": "less concentrated on Dyck", "late": "late on Parity"}


def outcomes_by_reading(tables: Tables) -> pd.DataFrame:
    """What the criterion of claim 1 gives by each reading: its outcome, and for whom each of its three parts holds."""
    rows = []
    for reading in tables["indices"]["reading"].unique():
        if reading == profiles.UNTRAINED:
            continue
        verdict = flip_by_reading(tables, reading)
        holds = {part.key for part in verdict.parts if part.holds}
        row = {"reading": reading, "outcome": verdict.outcome}
        for key, name in READING_PARTS.items():
            row[name] = ", ".join(NAMES[a] for a in NAMES if f"{a}.{key}" in holds) or "none"
        rows.append(row)
    return pd.DataFrame(rows, columns=["reading", "outcome", *READING_PARTS.values()])


def concentration_by_seed(tables: Tables) -> pd.DataFrame:
    """C of every model that passed, and of the same architecture untrained, by task and architecture."""
    table = tables["indices"].query("index == 'concentration' and passed")
    table = table[table["variable"] == table["task"].map(VERDICT_VARIABLE).fillna(table["variable"])]
    rows = []
    for (task, architecture), cell in table.groupby(["task", "architecture"], sort=False):
        trained = cell[cell["reading"] == "pooled"].sort_values("seed")
        untrained = cell[cell["reading"] == profiles.UNTRAINED]["value"]
        rows.append(
            {
                "task": task_name(str(task)),
                "architecture": NAMES[str(architecture)],
                "C of each seed": ", ".join(f"{value:.2f}" for value in trained["value"]),
                "largest rise at block": ", ".join(str(site) for site in trained["largest_site"]),
                "C untrained, mean": f"{untrained.mean():.2f}" if untrained.notna().any() else "no rise",
            }
        )
    return pd.DataFrame(rows)


def flip_by_reading(tables: Tables, reading: str) -> Verdict:
    """Claim 1 by one reading of the profiles (see `profiles.index_table`); the claim is judged by the pooled one.

    For each architecture a but the Transformer, with C the concentration of the readability of the state (on
    Dyck: the stack top), over the models that passed: C(a) - C(Transformer) is over 0 on Parity and under 0 on Dyck, and
    on Parity the largest rise is at the last block in at least 80% of seeds. *Reproduced*: all architectures but the
    Transformer, and all four were run; *partly*: some, named; *not reproduced*: none. *Not tested*: fewer than two
    seeds passed for the Transformer, or for every other architecture, on one of the tasks.

    "Over" means that the 95% interval excludes 0 and that the Holm-corrected exact permutation p is under .05. The p is
    one-sided, since the claim gives the direction; at five seeds against five the least possible p of a family of
    eight is .032. With fewer than `MIN_SEEDS` seeds in any group no p of the family could reach .05: the interval alone
    decides, and the verdict says provisional.
    """
    table = tables["indices"]
    table = table[table["reading"] == reading]
    found = contrasts(table)
    tested, flips, parts, deciding = [], [], [], []
    provisional = bool(len(found) == 0 or found["n"].min() < MIN_SEEDS)
    for architecture, name in NAMES.items():
        if architecture == "transformer":
            continue
        rows = found[found["architecture"] == architecture]
        if not len(rows):
            parts.append(Part(f"{architecture}.flips", f"{name} flips against the Transformer", None))
            continue

        def over(task: str, index: str = "concentration", rows: pd.DataFrame = rows) -> bool | None:
            chosen = rows[(rows["index"] == index) & (rows["task"] == task)]
            if not len(chosen) or chosen["n"].iloc[0] < 2:
                return None
            row = chosen.iloc[0]
            clear = row["low"] > 0 if row["expected_sign"] > 0 else row["high"] < 0  # never where there is no interval
            return bool(clear and (provisional or row["p_holm"] < LEVEL))

        on_parity, on_dyck = over("parity"), over("dyck-2-4")
        on_last = table[(table["architecture"] == architecture) & (table["task"] == "parity")]
        on_last = on_last.query("passed and index == 'concentration'")
        late = (
            bool((on_last["largest_site"] == on_last["last_site"]).mean() >= LATE_SHARE) if len(on_last) > 1 else None
        )
        first = bool((on_last["largest_site"] == 1).mean() >= LATE_SHARE) if len(on_last) > 1 else None
        later = [
            row["low"] > 0 for _, row in rows[(rows["index"] == "centre") & (rows["task"] != "interaction")].iterrows()
        ]
        flipped = None if None in (on_parity, on_dyck, late) else bool(on_parity and on_dyck and late)
        parts += [
            Part(f"{architecture}.flips", f"{name} flips against the Transformer", flipped),
            Part(f"{architecture}.parity", f"{name} is more concentrated than the Transformer on Parity", on_parity),
            Part(f"{architecture}.dyck", f"{name} is less concentrated than the Transformer on Dyck", on_dyck),
            Part(f"{architecture}.late", f"{name} has its largest rise on Parity at the last block", late),
            Part(f"{architecture}.first", f"{name} has its largest rise on Parity at the first block", first),
            Part(
                f"{architecture}.later",
                f"{name} is later than the Transformer on both tasks by the centre index",
                all(later) if len(later) > 1 else None,
            ),
        ]
        for index in ("spread", "centre", "mean"):
            both = over("parity", index), over("dyck-2-4", index)
            holds = None if None in both else all(both)  # type: ignore[arg-type]
            parts.append(Part(f"{architecture}.{index}_flips", f"{name} flips by the {index} index", holds))
        if flipped is not None:
            tested.append(architecture)
            flips += [architecture] if flipped else []
        for task in ("parity", "dyck-2-4"):
            row = rows[(rows["index"] == "concentration") & (rows["task"] == task)]
            if len(row):
                label = f"C({name}) - C(Transformer) on {task_name(task)}"
                deciding.append({"label": label, "text": interval_text(row.iloc[0])})
    others = [a for a in NAMES if a != "transformer"]
    if not tested:
        outcome, reasons = "not tested", ["Fewer than two seeds passed on one of the tasks in every comparison."]
    elif flips == others:
        outcome, reasons = "reproduced", ["All four architectures flip against the Transformer."]
    elif flips:
        names = " and ".join(NAMES[a] for a in flips)
        outcome, reasons = (
            "partly",
            [f"Only {names} of the {len(tested)} architectures tested flips against the Transformer."],
        )
    else:
        outcome, reasons = (
            "not reproduced",
            [f"None of the {len(tested)} architectures tested flips against the Transformer."],
        )
    return Verdict("flip", "formal", outcome, provisional, reasons, parts, deciding)


def interval_text(row: pd.Series) -> str:
    """A row of `contrasts` in words: difference (low to high, n)."""
    return f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}, n = {row['n']:.0f})"


CRITERIA: dict[str, Callable[[Tables], Verdict]] = {"flip": flip}


# ---- numbers that prose may quote ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """One number of a run: `{num}` prints its text, tests compare its value, a re-run is compared by the headlines."""

    text: str
    value: float | None
    label: str  # what it is
    cell: str  # label of the section of the notebook that made it
    headline: bool = False


NOT_RUN = "not run"


def numbers_of_flip(tables: Tables) -> dict[str, Number]:
    """Every number that the pages quote from claim 1; what this run did not compute reads "not run"."""
    found: dict[str, Number] = {}
    at_length = tables["models"].query("length == trained_length")
    sites = tables["readability"].query("network == 'trained' and labels == 'task' and position == 0 and passed")
    verdict_index = tables["indices"].query("passed and reading == 'pooled'")

    def add(key: str, value: float | None, text: str, label: str, cell: str, headline: bool = False) -> None:
        missing = value is None or math.isnan(value)
        found[key] = Number(NOT_RUN if missing else text, None if missing else value, label, cell, headline)

    def mean_of(values: pd.Series) -> profiles.Interval:
        return profiles.mean_interval(values.dropna().to_numpy())

    for task, variable in VERDICT_VARIABLE.items():
        for architecture, name in NAMES.items():
            where = f"{architecture}.{task}"
            models = at_length[(at_length["task"] == task) & (at_length["architecture"] == architecture)]
            accuracy = mean_of(models["accuracy"])
            label = f"accuracy of {name} on {task_name(task)}"
            add(f"{where}.accuracy", accuracy.estimate, f"{accuracy.estimate:.1%}", label, "flip-models", True)
            passed = f"{models['passed'].sum()} of {len(models)}"
            n_passed = float(models["passed"].sum()) if len(models) else None
            add(
                f"{where}.passed", n_passed, passed, f"models of {name} that passed on {task_name(task)}", "flip-models"
            )
            mine = verdict_index.query("task == @task and architecture == @architecture and variable == @variable")
            for index in profiles.INDICES:
                value = mean_of(mine[mine["index"] == index]["value"])
                label = f"{index} of {name} on {task_name(task)}"
                headline = index == "concentration"
                add(f"{where}.{index}", value.estimate, _mean_text(value), label, "flip-indices", headline)
            here = sites[
                (sites["task"] == task) & (sites["architecture"] == architecture) & (sites["variable"] == variable)
            ]
            here = profiles.with_readability(here)
            for site in range(max(5, *(here["site"] + 1))) if len(here) else range(5):
                value = mean_of(here[here["site"] == site]["readability"])
                label = f"readability at site {site} of {name} on {task_name(task)}"
                add(f"{where}.site{site}", value.estimate, _mean_text(value), label, "flip-readability")
    n_models, n_failed = len(at_length), int((~at_length["passed"]).sum())
    add("models", n_models, str(n_models), "trained models", "flip-models")
    add("failed", n_failed, "none" if n_failed == 0 else str(n_failed), "models that failed", "flip-models")
    for architecture, name in NAMES.items():
        mine = at_length[at_length["architecture"] == architecture].head(1)
        steps, rate, grow_at = (mine[c].iloc[0] if len(mine) else math.nan for c in ("steps", "rate", "grow_at"))
        lengths = "lengths mixed nearly from the start" if grow_at == 0 else f"longer once {grow_at:.0%} are right"
        text = f"{steps:,.0f} steps at a rate of {rate:g}, {lengths}"
        add(f"{architecture}.recipe", float(steps), text, f"training recipe of {name}", "flip-models")
    comparisons = 2 * sum(a in set(at_length["architecture"]) for a in NAMES if a != "transformer")
    per_group = int(at_length.groupby(["task", "architecture"])["seed"].nunique().max())
    least = min(1.0, comparisons / math.comb(2 * per_group, per_group)) if comparisons else math.nan
    label = "least p that a comparison can have after Holm's correction"
    add("least_p", least, f"{least:.3f}", label, "flip-criterion")
    add("seeds", at_length["seed"].nunique(), str(at_length["seed"].nunique()), "seeds", "flip-models")
    length = int(at_length["trained_length"].iloc[0])
    add("length", length, str(length), "training length in tokens", "flip-models")
    differences = contrasts(tables["indices"]).query("reading == 'pooled'")
    for architecture in [a for a in NAMES if a != "transformer"]:
        for task in ("parity", "dyck-2-4", "interaction"):
            for index in profiles.INDICES:
                row = differences.query("architecture == @architecture and task == @task and index == @index")
                difference = float(row["difference"].iloc[0]) if len(row) else None
                text = interval_text(row.iloc[0]) if len(row) else ""
                label = f"{index} of {NAMES[architecture]} minus the Transformer's, {task_name(task)}"
                add(f"{architecture}.{task}.{index}_difference", difference, text, label, "flip-indices")
    return found


def numbers_of_speed(tables: Tables) -> dict[str, Number]:
    """Times of the speed benchmark: `SIZE.PATH`, in multiples of our path's step, and how time grows with length.

    Our path is that of the same architecture for Mamba and Mamba-2, and our Mamba for all others.

    SIZE is batch x length x width x state, as in 64x32x32x8; PATH is the name of the path in lower case with dashes.
    """
    found: dict[str, Number] = {}
    for row in tables["steps"].to_dict("records"):
        size = "x".join(str(row[part]) for part in ("batch", "length", "width", "state"))
        key = f"{size}.{re.sub('[^a-z0-9]+', '-', str(row['path']).lower())}"
        label = f"{row['path']} at {size} (batch, length, width, state)"
        times, seconds = float(row["times_ours"]), float(row["seconds"])
        found[key] = Number(two_figures(times) + "×", times, f"{label}: times as long as our path", "speed-steps")
        text, milliseconds = f"{two_figures(1000 * seconds)} ms", 1000 * seconds
        found[f"{key}.ms"] = Number(text, milliseconds, f"{label}: one training step", "speed-steps")
    by_length = tables["scaling"].sort_values("length")
    for column, what in (("seconds", "time"), ("kept_bytes", "memory")):
        growth = by_length[column] / by_length[column].shift() / (by_length["length"] / by_length["length"].shift())
        label = f"largest growth of {what} per doubling of the length, over 2"
        found[f"growth.{what}"] = Number(f"{growth.max():.2f}", growth.max(), label, "speed-scaling")
    return found


def numbers_of_seed(tables: Tables) -> dict[str, Number]:
    """Of the training of one seed: minutes of all, each architecture's share of them, models, and which failed."""
    table = tables["seed"]
    spent = table["ended"] - table["started"]
    failed = table[table["accuracy"] < THRESHOLD]
    names = [
        f"{NAMES[a]} on {task_name(t)} ({x:.1%})" for a, t, x in failed[["architecture", "task", "accuracy"]].to_numpy()
    ]
    where, cores = "speed-seed", int(table["cores"].max())
    found = {
        "minutes": Number(f"{table['ended'].max():.1f}", table["ended"].max(), "minutes for one seed", where),
        "cores": Number(str(cores), cores, "processes at once", where),
        "models": Number(str(len(table)), len(table), "models of one seed", where),
        "failed": Number(", ".join(names) or "none", len(failed), f"models of one seed under {THRESHOLD:.0%}", where),
    }
    for family, minutes in spent.groupby(table["architecture"]).sum().items():
        share, name = minutes / spent.sum(), NAMES[str(family)]
        found[f"{family}.share"] = Number(f"{share:.0%}", share, f"share of {name} in the time of one seed", where)
    return found


def two_figures(value: float) -> str:
    """A ratio or a time as readers see it: two figures, all that stand before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _mean_text(value: profiles.Interval) -> str:
    if value.n < 2:
        return f"{value.estimate:.2f}"
    return f"{value.estimate:.2f} ({value.low:.2f} to {value.high:.2f})"


NUMBERS: dict[str, Callable[[Tables], dict[str, Number]]] = {
    "flip": numbers_of_flip,
    "speed": numbers_of_speed,
    "seed": numbers_of_seed,
}
SOURCES = (*CLAIMS, "speed", "seed")  # all that a page may quote a number of: folders of book/data


def numbers(notebook: str, tables: Tables) -> dict[str, Number]:
    """All numbers of a notebook, from its tables; empty for a notebook that has none yet."""
    return NUMBERS[notebook](tables) if notebook in NUMBERS else {}


def outcomes_of_predictions(notebook: str, verdict: Verdict) -> pd.DataFrame:
    """Each dated prediction beside what came of it: date, prediction, came true (yes, in part, no, not tested)."""
    holds = {part.key: part.holds for part in verdict.parts}
    rows = []
    for prediction in PREDICTIONS.get(notebook, ()):
        seen = [(holds.get(key), expected) for key, expected in prediction.expected.items()]
        right = [found == expected for found, expected in seen if found is not None]
        came = "not tested" if len(right) < len(seen) else "yes" if all(right) else "in part" if any(right) else "no"
        rows.append({"date": prediction.date, "prediction": prediction.text, "came true": came})
    return pd.DataFrame(rows, columns=["date", "prediction", "came true"])
