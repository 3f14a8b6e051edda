"""What claims share: their wording, their verdicts, and every number that prose may quote. Types and names; no torch."""

import math
from dataclasses import asdict, dataclass, field

import pandas as pd

from statedepth import profiles

THRESHOLD = 0.99  # accuracy in distribution at which a model enters an analysis
MIN_SEEDS = 5  # seeds in every group for a verdict that is not provisional
LEVEL = 0.05
NAMES = {"transformer": "Transformer", "mamba": "Mamba", "mamba2": "Mamba-2", "lstm": "LSTM", "gru": "GRU"}

JUDGED = dict(NAMES)  # the five that the claims are about, whatever is added to the names

Tables = dict[str, pd.DataFrame]


def of_the_five(tables: Tables) -> Tables:
    """The tables of claims 1 to 3 without architectures that were added from outside: no verdict is about those."""
    return {
        name: table[table["architecture"].isin(JUDGED)].reset_index(drop=True) if "architecture" in table else table
        for name, table in tables.items()
    }


def task_name(task: str) -> str:
    """The task's name as readers see it: S3 is S₃, dyck-2-4 is Dyck-(2,4)."""
    if task.startswith("dyck-"):
        _, k, depth, *target = task.split("-")
        return f"Dyck-({k},{depth})" + "".join(f" {part}" for part in target)
    if task[0] in "SAZ":
        return task[0] + task[1:].translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    return task.capitalize()


def target_of(task: str) -> str:
    """The variable on which models of this task are trained, and from which its verdicts are read."""
    if not task.startswith("dyck-"):
        return "state"
    return "top" if task.count("-") == 2 else task.rpartition("-")[2]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what became of it in its second version."""

    notebook: str
    number: int
    title: str
    plain: str  # the question, in words that need no paper
    v1: str
    v2: str
    deciding: str  # label of the number that stands for the claim where there is room for one


CLAIMS = {
    claim.notebook: claim
    for claim in (
        Claim(
            "flip",
            1,
            "The profile flips with the task",
            "Does the same network keep the state at another depth when the task changes?",
            "On Parity the state is concentrated late in Mamba and in the recurrent baselines and built gradually in "
            "the Transformer; on bounded Dyck the pattern flips.",
            "Holding inputs and positions fixed, changing only the supervised target moves the depth at which a "
            "variable becomes readable; the taxonomy of tasks built on the flip is withdrawn.",
            "C(Mamba) - C(Transformer) on Parity",
        ),
        Claim(
            "s3_grouping",
            2,
            "S₃ groups with Parity",
            "Is a running product of permutations (S₃) kept at the depths of a running sum (Parity), or of a stack (Dyck)?",
            "Non-commutative S₃ groups with Parity, not with Dyck, by probing in all five architectures and by attribution to "
            "Mamba's Conv1D, so that the grouping tracks computational structure rather than commutativity.",
            "Withdrawn: a pre-registered test on three further task designs did not support it.",
            "d(S₃, Dyck) - d(S₃, Parity) in Mamba, blocks",
        ),
        Claim(
            "causal_necessity",
            3,
            "The readable direction is necessary",
            "Take out the direction in which a probe reads the state: can the network still do the task?",
            "In four-layer models linearly readable directions are often functionally necessary, and can remain important "
            "beyond the training lengths, on Parity and Dyck.",
            "Not a necessity test: a probe refitted after the ablation gets its accuracy back in every cell; with INLP "
            "the conclusion reverses.",
            "share of the task lost with the direction out at the best-read site (of tied ones the worst), LSTM on Parity, 1x the training length",
        ),
        Claim(
            "pretrained_bottleneck",
            4,
            "Pretrained models have a bottleneck",
            "Do language models that were fine-tuned on the tasks hold the state in a bottleneck of their middle layers?",
            "Fine-tuned Pythia on Dyck has a strong bottleneck in its middle layers (ablating L6 and L7 drops accuracy by "
            "roughly 81% at 160M); pretrained Mamba has a readable last layer and no single direction that breaks the task, yet "
            "patching a middle position there recovers 97-98% of the logit gap.",
            "Where a variable is most readable and where deleting it does most damage are different layers in every "
            "pretrained model.",
            "points of accuracy lost when one direction is out at sites 4 and 5, GPT-NeoX, large on Dyck",
        ),
    )
}

# Questions that no claim asks, judged by code and published like the claims; by notebook, as readers see them.
STUDIES = {"flip_sensitivity": "Claim 1 at other settings"}


@dataclass(frozen=True)
class Prediction:
    """What we expected, and when we wrote it down."""

    date: str
    text: str
    expected: dict[str, bool]  # a part of the verdict for each clause of the text, and what it says of it
    given: dict[str, bool] = field(default_factory=dict)  # parts without which it says nothing


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
    outcome: str  # of a claim: reproduced | partly | not reproduced | not tested; a study has words of its own
    provisional: bool
    reasons: list[str]  # in words, why the outcome is what it is
    parts: list[Part] = field(default_factory=list)
    deciding: list[dict[str, str]] = field(default_factory=list)  # {"label", "text"}: the numbers that decided

    def record(self, profile: str) -> dict:
        """The content of verdict.json, with the claim's wording beside it; a study has its title alone."""
        if self.claim in STUDIES:
            return {**asdict(self), "title": STUDIES[self.claim], "profile": profile}
        claim = CLAIMS[self.claim]
        return {**asdict(self), "title": claim.title, "v1": claim.v1, "v2": claim.v2, "profile": profile}


@dataclass(frozen=True)
class Number:
    """One number of a run: `{num}` prints its text, tests compare its value, a re-run is compared by the headlines."""

    text: str
    value: float | None
    label: str  # what it is
    cell: str  # label of the section of the notebook that made it
    headline: bool = False


NOT_RUN = "not run"


class Numbers(dict[str, Number]):
    """The numbers of one notebook by key; one that this run did not compute reads "not run"."""

    def add(
        self,
        key: str,
        value: float | None,
        text: str,
        label: str,
        cell: str,
        headline: bool = False,
        lacking: str = NOT_RUN,
    ) -> None:
        """`cell` is the label of the section that made it; `lacking` is said where there is no value."""
        missing = value is None or math.isnan(value)
        self[key] = Number(lacking if missing else text, None if missing else value, label, cell, headline)


def interval_text(row: pd.Series) -> str:
    """A row of `contrasts` in words: difference (low to high, n). Three decimals where two would say 0.00 of any of them."""
    values = [row["difference"], row["low"], row["high"]]
    digits = 3 if any(abs(value) < 0.005 for value in values) else 2
    value, low, high = (f"{value:+.{digits}f}" for value in values)
    return f"{value} (1 seed)" if row["n"] < 2 else f"{value} ({low} to {high}, n = {row['n']:.0f})"


def with_n(text: str, n: int) -> str:
    """An estimate with its interval in words, and over how many seeds."""
    return f"{text[:-1]}, n = {n})" if text.endswith(")") else text


def two_figures(value: float) -> str:
    """A ratio or a time as readers see it: two figures, all that stand before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def mean_text(value: profiles.Interval) -> str:
    """An estimate in words: mean (low to high), or alone where one seed is all there is."""
    if value.n < 2:
        return f"{value.estimate:.2f}"
    return f"{value.estimate:.2f} ({value.low:.2f} to {value.high:.2f})"
