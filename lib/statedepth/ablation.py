"""The necessity test: erase a variable at a site, ask a refitted probe whether it is gone, and see whether the task is.

The first half (`statedepth.removal`) needs activations alone; for a reader's own there is `statedepth.necessity`. The second
runs the model on from the edited site (`measure`). Controls, the norm of the edit, resample ablation and an MLP probe stand beside every
erasure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

from statedepth import erasers, logistic, models
from statedepth.erasers import METHODS, Eraser
from statedepth.removal import READABLE, SCOPES, Parts, Readings, applied, fit_chain, flat, pool, readability, removed
from statedepth.stream import run_from, stream
from statedepth.tasks import Batch, Task

HALF, TENTH = 0.5, 0.1  # of the way down to the majority class
HELD = 4 * 2**30  # bytes of streams that are held at once
OUTCOMES = ("absent", "not removed", "necessary", "not necessary", "inconclusive")
# What is erased where. INLP with an eraser for each position is not among it: it would take most of a stream's features.
PLAN: dict[str, Sequence[str]] = {
    "pooled": METHODS,
    "each": ("mean projection", "LEACE"),
    "last": ("direction", "mean projection", "LEACE"),
}
PLAN_AT_LAST_SITE = {"pooled": tuple(METHODS[:-1]), "each": ("LEACE",)}  # a bound, whatever comes out
PLAN_BEYOND = {"pooled": ("direction", "mean projection", "LEACE")}  # longer strings than in training
PLAN_AT_TWICE = {**PLAN_BEYOND, "each": ("LEACE",)}


@dataclass(frozen=True)
class NecessitySettings:
    """How much data the test gets; the same in every cell of a run. ValueError for an impossible amount."""

    n_erase: int = 8192  # sequences that exact erasers are fitted on
    n_fit: int = 4096  # sequences that probes, INLP and refits are fitted on; refits on others than an eraser
    n_validation: int = 2048  # sequences that penalties are chosen on, and INLP's end
    n_test: int = 2048  # sequences that what probes read is reported on
    n_task: int = 512  # of these, the sequences that the edited model is run on
    draws: int = 20  # random controls of each kind for each eraser
    n_control: int = 32  # sequences for each of them
    own_positions: int = 6  # positions at which a position's own probe is refitted, at most
    seed: int = 0  # of the sequences and the draws

    def __post_init__(self) -> None:
        for name, low in (("n_erase", 64), ("n_fit", 64), ("n_validation", 32), ("n_test", 32), ("n_task", 32), ("draws", 1), ("n_control", 8), ("own_positions", 1), ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 2**20:
                raise ValueError(f"{name}={value!r}: must be a whole number from {low} to {2**20}")
        for part, whole in (("n_fit", "n_erase"), ("n_task", "n_test")):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(f"{part}={getattr(self, part)}: must not exceed {whole}={getattr(self, whole)}")


def outcome(cell: Mapping[str, Any]) -> str:
    """One of the five outcomes, from the numbers of one cell.

    *absent* and *not removed* as in `removal.removed`. *Necessary*: removed, and the task falls at least `HALF` of the way
    down to the majority class, and by more than in every draw of every control. *Not necessary*: removed, and the upper
    end of the interval of the fall is under `TENTH`. Else, and where the model did not do the task in the first place,
    *inconclusive*.
    """
    first = removed(cell)
    if first != "removed":
        return first
    controls = [cell[name] for name in ("random_most", "matched_most", "control_fall")]
    known = [value for value in controls if not math.isnan(value)]
    if cell["fall"] >= HALF and all(cell["fall"] > value for value in known):
        return "necessary"
    return "not necessary" if cell["fall_high"] < TENTH else "inconclusive"


@dataclass(frozen=True)
class Subject:
    """A model at one length: its strings, and its stream at every site."""

    model: nn.Module
    task: Task
    batches: dict[str, Batch]
    h: dict[str, dict[int, torch.Tensor]]  # part -> site -> (n, T, D) float32


def capture(model: nn.Module, task: Task, length: int, settings: NecessitySettings, sites: Sequence[int]) -> Subject:
    """The streams at `sites` of strings of each part: erase, fit, validation, test."""
    sizes = {"erase": settings.n_erase, "fit": settings.n_fit, "validation": settings.n_validation, "test": settings.n_test}  # fmt: skip
    batches, h = {}, {}
    drawn = task.sample(
        sizes["erase"] + sizes["fit"], length, torch.Generator().manual_seed(1000 * settings.seed + 71), "train"
    )
    n = sizes["erase"]
    batches["erase"], batches["fit"] = _rows(drawn, slice(0, n)), _rows(drawn, slice(n, None))
    for offset, split in ((73, "validation"), (79, "test")):
        generator = torch.Generator().manual_seed(1000 * settings.seed + offset)
        batches[split] = task.sample(sizes[split], length, generator, split)
    device = device_of(model)
    for name, batch in batches.items():
        kept_parts: list[dict[int, torch.Tensor]] = []
        for tokens in batch.tokens.split(rows_at_once(length)):
            with torch.no_grad(), stream(model, keep=sites) as kept:
                models.logits(model, tokens.to(device))
            kept_parts.append({site: kept[site].float().cpu() for site in sites})
        h[name] = {site: torch.cat([part[site] for part in kept_parts]) for site in sites}
    return Subject(model, task, batches, h)


def groups(model: nn.Module, task: Task, length: int, settings: NecessitySettings, sites: Sequence[int], overlap: int = 0) -> list[list[int]]:  # fmt: skip
    """`sites` in groups whose streams fit into `HELD` bytes; each begins with the last `overlap` sites of the one before."""
    with torch.no_grad(), stream(model, keep=[0]) as kept:
        models.logits(model, torch.zeros(1, 1, dtype=torch.long, device=device_of(model)))
    strings = settings.n_erase + settings.n_fit + settings.n_validation + settings.n_test
    each = 4 * strings * length * kept[0].shape[-1]
    at_once = max(overlap + 1, HELD // each)
    starts = range(0, max(1, len(sites) - overlap), at_once - overlap)
    return [list(sites[start : start + at_once]) for start in starts]


def rows_at_once(length: int) -> int:
    """Strings of a pass: as many as a processor's cache holds; in larger passes memory is what takes the time."""
    return max(32, 5120 // length)


def _rows(batch: Batch, rows: slice) -> Batch:
    states = {name: values[rows] for name, values in batch.states.items()}
    return Batch(batch.tokens[rows], states, batch.targets[rows], batch.automaton[rows])


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def parts_at(subject: Subject, site: int, variable: str, positions: list[int], settings: NecessitySettings, last: bool) -> Parts:  # fmt: skip
    """One site's activations and labels of a variable, for erasers and refits; with `last`, of the last position alone."""
    kept = slice(-1, None) if last else slice(None)
    four = {
        name: (subject.h[name][site][:, kept].double(), subject.batches[name].states[variable][:, kept])
        for name in ("erase", "fit", "validation", "test")
    }
    spread = float(four["fit"][0].std())
    n_classes = subject.task.n_states[variable]
    return Parts(**four, n_classes=n_classes, positions=[0] if last else positions, n_probe=settings.n_fit, spread=spread, seed=settings.seed)  # fmt: skip


CONTROL_VARIABLES = ("first token", "token two back")  # of the past, not needed once the state is known


def control_labels(tokens: torch.Tensor, name: str) -> torch.Tensor:
    """(B, T) labels of a control variable; a class of their own where it would be the present token or is not yet there."""
    none = tokens.max() + 1
    labels = torch.full_like(tokens, int(none))
    if name == "first token":
        labels[:, 1:] = tokens[:, :1]
    else:
        labels[:, 2:] = tokens[:, :-2]
    return labels


def _control(subject: Subject, site: int, last: bool, scope: str, settings: NecessitySettings) -> tuple[str, float, list[Eraser]]:  # fmt: skip
    """LEACE of the more readable of the control variables: its name, its readability A', and its eraser."""
    best: tuple[str, float, list[Eraser]] = ("none", math.nan, [])
    kept = slice(-1, None) if last else slice(2, None)
    for name in CONTROL_VARIABLES:
        labels = {part: control_labels(subject.batches[part].tokens, name) for part in subject.batches}
        n_classes = int(max(int(y.max()) for y in labels.values())) + 1
        few = slice(0, 1024)  # enough to tell which of the two is read better
        late = {part: (subject.h[part][site][few, kept].double(), labels[part][few, kept]) for part in labels}
        if late["fit"][0].shape[1] == 0 or late["fit"][1].unique().numel() < 2:
            continue
        samples = [pool(late["fit"], settings.seed), flat(late["validation"]), flat(late["test"])]
        found = logistic.read(samples[0], samples[1], samples[2], n_classes, float(late["fit"][0].std()), (1.0,))
        readable = readability(float(found.accuracy[0]), float(found.majority[0]))
        if math.isnan(best[1]) or readable > best[1]:
            h, y = subject.h["erase"][site].double(), labels["erase"]
            if last:
                best = name, readable, [erasers.leace(h[:, -1], y[:, -1])]
            elif scope == "each":
                best = name, readable, [erasers.leace(h, y)]
            else:
                pooled_h, pooled_y = pool((h[:, 2:], y[:, 2:]), settings.seed + 1)
                best = name, readable, [erasers.leace(pooled_h[0], pooled_y[0])]
    return best


class _Runs:
    """Edits of one site, collected as rows and run on from there in few passes: what the task's accuracy becomes."""

    def __init__(self, subject: Subject, site: int, last: bool) -> None:
        self.subject, self.site, self.last = subject, site, last
        self.h, self.batch = subject.h["test"][site], subject.batches["test"]
        self.jobs: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}  # key -> edited rows, their numbers

    def add(self, key: tuple, edit: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> None:
        """Plan `edit` (of double (n, T, D), or (n, D) at the last position alone) for the test sequences `rows`."""
        h = self.h[rows]
        if self.last:
            edited = h.clone()
            edited[:, -1] = edit(h[:, -1].double()).float()
        else:
            edited = edit(h.double()).float()
        self.jobs[key] = edited, rows

    def run(self) -> tuple[dict[tuple, np.ndarray], dict[tuple, np.ndarray]]:
        """Share of right answers of each planned sequence, over the positions that count: among all states, then among all
        tokens of the vocabulary (the same where the model knows no others).
        """
        at_once = rows_at_once(self.h.shape[1])
        edited = torch.cat([h for h, _ in self.jobs.values()])
        rows = torch.cat([rows for _, rows in self.jobs.values()])
        tokens, targets = self.batch.tokens[rows], self.batch.targets[rows]
        model, device = self.subject.model, device_of(self.subject.model)
        right = []
        with torch.no_grad(), models.with_others(model):
            for h, some, wanted in zip(
                edited.split(at_once), tokens.split(at_once), targets.split(at_once), strict=True
            ):
                both = right_answers(
                    run_from(model, self.site, h.to(device), some.to(device)), wanted, self.subject.task
                )
                right.append(both[:, :, -1:] if self.last else both)
        shares = torch.cat(right, 1).double().mean(2).numpy()
        ends = np.cumsum([len(rows) for _, rows in self.jobs.values()])
        among, whole = (dict(zip(self.jobs, np.split(share, ends[:-1]), strict=True)) for share in shares)
        return among, whole


def right_answers(logits: torch.Tensor, wanted: torch.Tensor, task: Task) -> torch.Tensor:
    """(2, B, T): is the answer right among the states, and among all that `models.with_others` lets the model say?"""
    logits = logits.cpu()
    return torch.stack([logits[..., : task.n_outputs].argmax(-1) == wanted, logits.argmax(-1) == wanted])


def measure(
    model: nn.Module,
    task: Task,
    length: int,
    settings: NecessitySettings,
    variable: str = "",
    sites: Sequence[int] = (),
    methods: Mapping[str, Sequence[str]] | None = None,
    mlp: bool = False,
    given: Mapping[str, Sequence[Eraser]] | None = None,
) -> pd.DataFrame:
    """The necessity test of one model at one length: a row per site, scope of the edit and method.

    `variable` is the task's target where it is not named; `sites` are 1..L; `methods` names, for each of `SCOPES`, what
    is erased by (`PLAN`; at the last site no more than `PLAN_AT_LAST_SITE`); `given` are further erasers that are at hand, by name, to be used at all positions. With `mlp`, an MLP probe reads what LEACE at each position leaves. Columns: the accuracies of probes
    before (`before`, `before_own`) and refitted after (`refit`, `refit_own`, with their bits, and by probes chosen by
    accuracy alone), their majority classes; `rank`, `variance_removed` and `norm`, the mean of |h' - h| / |h|; the
    task's accuracy `intact` and `after`, its majority class, and `fall`, the share of the way down to it, with its 95%
    interval over sequences; the falls of the controls (mean and most over draws) with what they removed; and `outcome`.
    A language model has `intact_whole` and `after_whole` besides: accuracy where every token of its vocabulary may be the
    answer.
    Raises ValueError for an unknown variable, method or scope.
    """
    variable = variable or task.target
    if variable not in task.n_states:
        raise ValueError(f"variable={variable!r}: {task.name} has {', '.join(task.n_states)}")
    methods = PLAN if methods is None else methods
    sites = list(sites) or list(range(1, len(models.blocks(model)) + 1))
    steps = min(length, settings.own_positions)
    positions = sorted({round(x) for x in np.linspace(0, length - 1, steps)} if steps > 1 else {length - 1})
    rows = []
    for some in groups(model, task, length, settings, sites):
        subject = capture(model, task, length, settings, some)
        for site, (scope, asked) in product(some, methods.items()):
            if scope not in SCOPES:
                raise ValueError(f"scope={scope!r}: must be one of {', '.join(SCOPES)}")
            bound = site == len(models.blocks(model))
            chosen = [one for one in asked if not bound or one in PLAN_AT_LAST_SITE.get(scope, ())]
            if chosen:
                last = scope == "last"
                parts = parts_at(subject, site, variable, positions, settings, last)
                before = _before(parts, scope, chosen)
                chains = {method: fit_chain(method, scope, parts, before) for method in chosen}
                if scope == "pooled":
                    chains |= {name: list(chain) for name, chain in (given or {}).items()}
                for row in _of_site(subject, site, scope, chains, parts, before, settings, mlp):
                    rows.append({"site": site, "positions": scope, **row})
    return pd.DataFrame(rows)


def _before(parts: Parts, scope: str, methods: Sequence[str]) -> Readings:
    """Probes of the unedited activations; at every position where the direction of each is to be taken out."""
    if scope == "each" and "direction" in methods and len(parts.positions) < parts.erase[0].shape[1]:
        parts = replace(parts, positions=list(range(parts.erase[0].shape[1])))
    return parts.readings(parts.probed)


def _of_site(
    subject: Subject,
    site: int,
    scope: str,
    chains: Mapping[str, Sequence[Eraser]],
    parts: Parts,
    before: Readings,
    settings: NecessitySettings,
    mlp: bool,
) -> Iterator[dict[str, Any]]:
    last = scope == "last"
    n_task, n_control = settings.n_task, min(settings.n_control, settings.n_task)
    everything = torch.arange(n_task)
    generator = torch.Generator().manual_seed(1000 * settings.seed + 83)
    other = torch.randperm(n_task, generator=generator)
    control_name, control_readable, control = _control(subject, site, last, scope, settings)
    sample = parts.probed[0][:, 0] if last else parts.probed[0] if scope == "each" else pool(parts.probed, settings.seed + 1)[0][0]  # fmt: skip
    runs = _Runs(subject, site, last)
    runs.add(("intact",), lambda h: h, everything)
    if control:
        runs.add(("control",), applied(control), everything)
    shares: dict[tuple[str, str], list[tuple[float, float]]] = {}
    drawn_rows = [(torch.arange(n_control) + draw * n_control) % n_task for draw in range(settings.draws)]
    for method, chain in chains.items():
        edit = applied(chain)
        if erasers.total_rank(chain) == 0:
            continue
        runs.add((method, "after"), edit, everything)
        task_h = (runs.h[everything, -1] if last else runs.h[everything]).double()
        taken = task_h - edit(task_h)
        runs.add((method, "resample"), _resampled(edit, taken[other]), everything)
        matcher = erasers.variance_matched(chain, sample)
        for draw, rows in enumerate(drawn_rows):
            random = [erasers.random_like(one, generator) for one in chain]
            matched = matcher.draw(generator)
            runs.add((method, "random", draw), applied(random), rows)
            runs.add((method, "matched", draw), matched, rows)
            shares.setdefault((method, "matched"), []).append((matched.variance_removed, matched.rank))
    right, whole = runs.run()
    intact = right[("intact",)]
    common = subject.batches["erase"].targets[:, -1:] if last else subject.batches["erase"].targets
    wanted = subject.batches["test"].targets[:n_task]
    wanted = wanted[:, -1:] if last else wanted
    majority = float((wanted == common.flatten().bincount().argmax()).double().mean())
    way = float(intact.mean()) - majority
    done = way >= READABLE * (1 - majority)

    def fall(key: tuple, rows: torch.Tensor = everything) -> np.ndarray:
        """Share of the way down, by sequence."""
        return (intact[rows.numpy()] - right[key]) / way if done else np.full(len(rows), np.nan)

    for method, chain in chains.items():
        rank = erasers.total_rank(chain)
        row: dict[str, Any] = {"method": method, "rank": rank}
        edit = applied(chain)
        # before, over the positions of the refits, so that the two can be compared
        where = [before.positions.index(t) for t in parts.positions]
        row |= {"before": float(before.pooled.accuracy[0]), "majority": float(before.pooled.majority[0])}
        row |= {"before_own": float(before.own.accuracy[where].mean()), "own_majority": float(before.own.majority[where].mean())}  # fmt: skip
        test_h = parts.test[0][:, 0] if last else parts.test[0]
        taken = test_h - edit(test_h)
        center = test_h.mean((0, 1)) if scope == "pooled" else test_h.mean(0)
        row["variance_removed"] = float(taken.square().sum() / (test_h - center).square().sum())
        row["norm"] = float((taken.norm(dim=-1) / test_h.norm(dim=-1).clamp_min(1e-12)).mean())
        lifted = _lifted(edit) if last else edit
        row |= parts.readings(parts.fit, lifted).numbers() if rank else _unedited(before, where)
        row["mlp"] = _mlp(parts, lifted) if mlp and scope == "each" and method == "LEACE" and rank else math.nan
        row |= {"intact": float(intact.mean()), "task_majority": majority}
        if rank:
            per_sequence = fall((method, "after"))
            middle = float(per_sequence.mean())
            half = 1.96 * float(per_sequence.std(ddof=1)) / math.sqrt(len(per_sequence))
            row |= {"after": float(right[(method, "after")].mean()), "fall": middle}
            row |= {"fall_low": middle - half, "fall_high": middle + half}
            row["resample_fall"] = float(fall((method, "resample")).mean())
            for kind in ("random", "matched"):
                each = [float(fall((method, kind, draw), rows).mean()) for draw, rows in enumerate(drawn_rows)]
                row |= {f"{kind}_fall": float(np.mean(each)), f"{kind}_most": float(np.max(each))}
            share, ranks = np.mean(shares[(method, "matched")], axis=0)
            row |= {"matched_share": float(share), "matched_rank": float(ranks)}
        else:
            row |= dict.fromkeys(("fall", "fall_low", "fall_high", "resample_fall", "random_fall", "random_most", "matched_fall", "matched_most", "matched_share", "matched_rank"), math.nan)  # fmt: skip
            row["after"] = row["intact"]
        if models.has_others(subject.model):
            row |= {"intact_whole": float(whole[("intact",)].mean())}
            row |= {"after_whole": float(whole[(method, "after") if rank else ("intact",)].mean())}
        row |= {"control": control_name, "control_readable": control_readable}
        row["control_fall"] = float(fall(("control",)).mean()) if control else math.nan
        row["control_share"] = sum(one.variance_removed for one in control) if control else math.nan
        row["outcome"] = outcome(row)
        yield row


def _resampled(edit: Callable[[torch.Tensor], torch.Tensor], taken: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:  # fmt: skip
    """The edit, with the part that it took from other strings put in the place of what it takes."""
    return lambda h: edit(h) + taken


def _lifted(edit: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """An edit of (n, D) activations as one of (n, 1, D)."""
    return lambda h: edit(h[:, 0])[:, None]


def _unedited(before: Readings, where: list[int]) -> dict[str, float]:
    """What refits would say of an eraser of rank 0, which changes nothing."""
    own = before.own
    kept = replace(own, **{k: getattr(own, k)[where] for k in ("accuracy", "majority", "bits", "by_accuracy")})
    return Readings(before.pooled, kept, [before.positions[i] for i in where]).numbers()


def _mlp(parts: Parts, edit: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Accuracy of a small MLP on edited activations of all positions: what a linear eraser leaves to others."""
    (h, y), (h_test, y_test) = ((edit(part[0]), part[1]) for part in (parts.fit, parts.test))
    x, labels = (part[0].numpy() for part in pool((h, y), parts.seed))
    mean, scale = x.mean(0), x.std(0)
    scale[scale < logistic.FLAT * parts.spread] = np.inf  # rounding
    net = MLPClassifier((64,), batch_size=256, learning_rate_init=3e-3, max_iter=15, random_state=0, tol=0.0)
    with np.errstate(all="ignore"):
        net.fit((x - mean) / scale, labels)
    x_test, wanted = (part[0].numpy() for part in flat((h_test, y_test)))
    return float((net.predict((x_test - mean) / scale) == wanted).mean())
