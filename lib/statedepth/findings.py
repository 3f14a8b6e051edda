"""What each figure says, in a sentence computed from what it draws, for the figures whose captions say how to read them."""

import dataclasses
import re
from collections.abc import Callable

import pandas as pd

from statedepth.render import Figure
from statedepth.verdicts import NAMES, THRESHOLD, Tables, task_name

LEAST = 0.5  # half of the way: what counts as reading, or as losing, a state


def _of(count: int, total: int, what: str = "architectures") -> str:
    return f"{count} of {total} {what}"


def _tested(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of several seeds: of one there is no interval, and its ends are drawn where the value is."""
    return rows[rows["n"] > 1]


def _profiles(drawn: pd.DataFrame, _: Tables) -> str:
    """Where the interval of what is read at the last site is over what the last tokens tell."""
    last = drawn[drawn["site"] == drawn["site"].max()]
    state = _tested(last[last["kind"] == "state"].dropna(subset=["mean"])).set_index(["panel", "name"])["low"]
    floor = (
        last[last["kind"].str.startswith("last")]
        .drop_duplicates(["panel", "name"])
        .set_index(["panel", "name"])["mean"]
    )
    said = []
    for panel in dict.fromkeys(state.index.get_level_values(0)):
        here = state.loc[panel]
        over = int((here > floor.loc[panel].reindex(here.index)).sum())
        said.append(f"{panel}: {_of(over, len(here))}")
    return f"At the last site networks read more than the last tokens tell ({'; '.join(said)})." if said else ""


def _by_position(drawn: pd.DataFrame, _: Tables) -> str:
    """The first site at which a probe of its own is right at every position."""
    worst = drawn.dropna(subset=["mean"]).groupby(["panel", "name", "site"], sort=False)["mean"].min().reset_index()
    said = []
    for panel, here in worst.groupby("panel", sort=False):
        first = here[here["mean"] >= THRESHOLD].groupby("name", sort=False)["site"].min()
        names = [f"{name} from site {float(first[name]):.0f}" for name in NAMES.values() if name in first]
        said.append(f"{panel}: {', '.join(names) or 'none'}")
    return f"With a probe of its own, {THRESHOLD:.0%} is read at every position ({'; '.join(said)})." if said else ""


def _indices(drawn: pd.DataFrame, _: Tables) -> str:
    """By each index, in how many architectures both tasks stand on the sides that the claim gives."""
    if "index" not in drawn:  # nothing to compare in this run
        return ""
    rows = drawn.dropna(subset=["index", "difference"])
    rows = rows[rows["task"] != "Interaction"]
    rows = rows.assign(right=rows["difference"] * rows["expected_sign"] > 0)
    said = []
    for index, here in rows.groupby("index", sort=False):
        both = here.groupby("name")["right"].agg(["all", "size"])
        said.append(f"{index} {int((both['all'] & (both['size'] > 1)).sum())}")
    total = rows["name"].nunique()
    return f"Architectures with both marks on the claim's sides, of {total}: {', '.join(said)}." if said else ""


def _published(drawn: pd.DataFrame, _: Tables) -> str:
    """Where ours is farthest from the published number."""
    rows = _tested(drawn.dropna(subset=["published", "mean"]).drop_duplicates(["architecture", "task", "site"]))
    if not len(rows):
        return ""
    far = rows.iloc[int((rows["mean"] - rows["published"]).abs().to_numpy().argmax())]
    digit = 0.005  # the published ones are whole per cent
    inside = int(((rows["low"] - digit <= rows["published"]) & (rows["published"] <= rows["high"] + digit)).sum())
    where = f"{NAMES[far['architecture']]} on {task_name(far['task'])} at site {far['site']:.0f}"
    return (
        f"Farthest from v1's number is {where}: {far['mean']:.0%} here, {far['published']:.0%} there. "
        f"{inside} of {len(rows)} published numbers, as rounded, lie in our intervals."
    )


def _accuracies(_: pd.DataFrame, tables: Tables) -> str:
    at_length = tables["models"].query("length == trained_length")
    return f"{_of(int(at_length['passed'].sum()), len(at_length), 'models')} learned their task."


def _distances(drawn: pd.DataFrame, _: Tables) -> str:
    pairs = _tested(drawn[drawn["a"] < drawn["b"]].dropna(subset=["distance"]))
    told = pairs.groupby("name", sort=False)["sure"].agg(["sum", "size"])
    said = ", ".join(f"{name} {row['sum']:.0f} of {row['size']:.0f}" for name, row in told.iterrows())
    return f"Pairs of tasks that lie farther apart than seeds of one task do: {said}." if said else ""


def _subject(drawn: pd.DataFrame) -> pd.DataFrame:
    rows = _tested(drawn.dropna(subset=["difference"]))
    return rows[rows["subject"] == "S3"]


def _subjects(drawn: pd.DataFrame, _: Tables) -> str:
    """Which other tasks lie on Parity's side in every architecture, and which in none."""
    rows = _tested(drawn.dropna(subset=["difference", "low"]))
    sides = rows.assign(side=(rows["low"] > 0).astype(int) - (rows["high"] < 0).astype(int)).groupby(
        "subject", sort=False
    )["side"]
    said = [f"{task_name(str(task))} in {(side > 0).sum()} of {len(side)}" for task, side in sides]
    return (
        f"On Parity's side, its interval over 0, lies {', '.join(said)} architectures with two seeds or more."
        if said
        else ""
    )


def _readings(drawn: pd.DataFrame, _: Tables) -> str:
    rows = _subject(drawn)
    over = rows.groupby("name", sort=False)["low"].agg(lambda low: (low > 0).sum())
    total = rows.groupby("name", sort=False).size()
    said = ", ".join(f"{name} {count} of {total[str(name)]}" for name, count in over.items())
    return f"Readings by which S₃ is nearer to Parity, interval over 0: {said}." if said else ""


def _confounds(drawn: pd.DataFrame, _: Tables) -> str:
    rows = _tested(drawn.dropna(subset=["low"]))
    if not len(rows):
        return ""
    over = rows[rows["low"] > rows["floor"]]
    pairs = [f"{task_name(b)} and {task_name(a)}" for a, b in zip(over["a"], over["b"], strict=True)]
    parts = over.assign(pair=pairs).groupby("pair", sort=False)
    said = ", ".join(f"{pair} in {', '.join(part['name'])}" for pair, part in parts) or "none"
    return f"Pairs whose interval lies over the distance between seeds: {said}."


def _of_groups(drawn: pd.DataFrame, tables: Tables) -> str:
    at_length = tables["models"].query("length == trained_length")
    learned = at_length.groupby(["task", "architecture"])["passed"].any()
    return f"{_of(int(learned.sum()), len(learned), 'pairs of task and architecture')} were learned by some seed."


def _by_site(drawn: pd.DataFrame, _: Tables) -> str:
    before = drawn[drawn["site"] < drawn["site"].max()].dropna(subset=["mean"])
    half = before.assign(half=before["mean"] >= LEAST).groupby("edit", sort=False)["half"].agg(["sum", "size"])
    said = ", ".join(f"{edit} {row['sum']} of {row['size']}" for edit, row in half.iterrows())
    return f"Sites before the last at which at least half of the task is lost: {said}." if said else ""


def _beyond(drawn: pd.DataFrame, _: Tables) -> str:
    mean = drawn.dropna(subset=["mean"]).groupby(["panel", "times"], sort=False)["mean"].mean().unstack("times")
    if not len(mean):
        return ""
    short, long = mean.columns.min(), mean.columns.max()
    mean = mean.dropna(subset=[short, long])
    said = "; ".join(
        f"{str(panel).replace(' / ', ', ')}: {row[short]:.0%}, {row[long]:.0%}" for panel, row in mean.iterrows()
    )
    return f"Task lost at {short:g} and at {long:g} times the training length, mean over architectures: {said}."


def _patching(drawn: pd.DataFrame, _: Tables) -> str:
    """The most that a patch after the changed token brings back, at a site before the last: what is carried on."""
    rows = drawn[(drawn["site"] > 0) & (drawn["offset"] > 0)].dropna(subset=["recovery"])
    best = rows.groupby(["panel", "name"], sort=False)["recovery"].max()
    said = [f"{panel}: " + ", ".join(f"{name} {value:.2f}" for name, value in part.droplevel(0).items()) for panel, part in best.groupby("panel", sort=False)]  # fmt: skip
    return f"The most that one position after the changed token brings back: {'; '.join(said)}." if said else ""


def _read_position(drawn: pd.DataFrame, _: Tables) -> str:
    rows = drawn[(drawn["site"] > 0) & (drawn["site"] < drawn["site"].max())]
    mean = rows.groupby("intervention", sort=False)["mean"].mean()
    if not {"stream", "subspace", "complement"} <= set(mean.index):
        return ""
    return (
        f"Between embedding and last site the whole stream brings back {mean['stream']:.0%} on the mean, its readable subspace alone "
        f"{mean['subspace']:.0%}, all but that {mean['complement']:.0%}."
    )


def _places(drawn: pd.DataFrame, _: Tables) -> str:
    """How many models lose half of all answers somewhere in the middle, by each direction."""
    if "kind" not in drawn:
        return ""
    middle = drawn[drawn["kind"] == "middle"]
    said = [
        f"{method} {(part['points'] >= 50).sum()} of {len(part)}"
        for method, part in middle.groupby("method", sort=False)
    ]
    return f"Models and tasks that lose 50 points or more somewhere in the middle: {', '.join(said)}." if said else ""


def _scaling(drawn: pd.DataFrame, _: Tables) -> str:
    rows = drawn.drop_duplicates("length").sort_values("length")
    per = (rows["seconds"] / rows["seconds"].shift()) / (rows["length"] / rows["length"].shift())
    if not len(per.dropna()):
        return ""
    return f"Twice the length takes at most {2 * per.max():.1f} times as long."


FINDINGS: dict[str, Callable[[pd.DataFrame, Tables], str]] = {
    "flip.profiles": _profiles,
    "flip.by_position": _by_position,
    "flip.indices": _indices,
    "flip.published": _published,
    "flip.accuracies": _accuracies,
    "s3_grouping.distances": _distances,
    "s3_grouping.readability": _of_groups,
    "s3_grouping.subjects": _subjects,
    "s3_grouping.confounds": _confounds,
    "s3_grouping.readings": _readings,
    "causal_necessity.by_site": _by_site,
    "causal_necessity.beyond": _beyond,
    "causal_necessity.patching": _patching,
    "pretrained_bottleneck.read_position": _read_position,
    "pretrained_bottleneck.places": _places,
    "speed.scaling": _scaling,
}


# Captions that hold their finding, and the words with which it begins: it goes in front.
BEGINNINGS = {
    "s3_grouping.grouping": "Nearer to Parity than to Dyck",
    "s3_grouping.targets": "By the permutation test",
    "s3_grouping.convolution": "Distance of S₃'s row",
    "flip.sensitivity": "By the criterion",
    "causal_necessity.story": "Readability on the mean",
    "causal_necessity.planted": "Every framed cell",
    "causal_necessity.directions": "Taking a direction out destroys",
    "causal_necessity.outcomes": "The state is:",
    "causal_necessity.controls": "LEACE takes",
    "causal_necessity.peaks": "The two sites differ",
    "causal_necessity.interchange": "Between the embedding",
    "pretrained_bottleneck.controls": "The edit costs more",
    "pretrained_bottleneck.patching": "The most outside the frames",
    "pretrained_bottleneck.peaks": "The best-read and the most damaged",
    "speed.steps": "The largest ratio",
}


def _from_caption(figure: Figure) -> Figure:
    """Its finding taken out of the middle of the caption, from where it begins to the end of that sentence."""
    begin = figure.caption.find(BEGINNINGS[figure.name])
    if begin < 1:
        return figure
    end = re.search(r"\.(?=\s|$)", figure.caption[begin:].rstrip())
    finding = figure.caption[begin : begin + end.end()] if end else figure.caption[begin:].strip()
    rest = figure.caption.replace(finding, "", 1).replace("  ", " ").strip()
    return dataclasses.replace(figure, finding=finding, caption=rest, alt_text=f"{finding} {figure.alt_text}")


def stated(figure: Figure, tables: Tables) -> Figure:
    """The figure with its finding in front of caption and alternative text; as it is where the caption is the finding."""
    if figure.name in BEGINNINGS:
        return _from_caption(figure)
    finding = FINDINGS[figure.name](figure.rows, tables) if figure.name in FINDINGS and len(figure.rows) else ""
    if not finding:
        return figure
    return dataclasses.replace(figure, finding=finding, alt_text=f"{finding} {figure.alt_text}")
