"""The necessity test: erase a variable at a site, ask a refitted probe whether it is gone, and see whether the task is.

The first half needs activations alone, also a reader's own (`check`). The second runs the model on from the edited site
(`measure`). Controls, the norm of the edit, resample ablation and an MLP probe stand beside every erasure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

from statedepth import erasers, logistic, models
from statedepth.erasers import METHODS, Eraser
from statedepth.stream import run_from, stream
from statedepth.tasks import Batch, Task

READABLE = 0.1  # readability A' under which there is nothing to erase
WITHIN = 0.02  # accuracy over the majority class up to which a refitted probe reads nothing
HALF, TENTH = 0.5, 0.1  # of the way down to the majority class
MATCHED = 0.1  # a control is matched where its share of variance is within this of the eraser's
OUTCOMES = ("absent", "not removed", "necessary", "not necessary", "inconclusive")
# What is erased where. INLP with an eraser for each position is not among it: it would take most of a stream's features.
PLAN: dict[str, tuple[str, ...]] = {"pooled": METHODS, "each": ("direction", "mean projection", "LEACE"), "last": ("direction", "mean projection", "LEACE", "INLP")}
PLAN_AT_LAST_SITE = {"pooled": METHODS[:-1], "each": ("LEACE",)}  # a bound, whatever comes out
PLAN_BEYOND = {"pooled": METHODS[:-1], "each": ("mean projection", "LEACE")}  # longer strings
SCOPES = {
    "pooled": "one eraser, used at all positions",
    "each": "an eraser of its own at each position, and one of all positions on top where the position tells of the state",
    "last": "an eraser of the last position, used there alone",
}


@dataclass(frozen=True)
class NecessitySettings:
    """How much data the test gets; the same in every cell of a run. ValueError for an impossible amount."""

    n_erase: int = 8192  # sequences that exact erasers are fitted on
    n_fit: int = 4096  # sequences that probes, INLP and refits are fitted on; refits never on those of an eraser
    n_validation: int = 2048  # sequences that penalties are chosen on, and INLP's end
    n_test: int = 4096  # sequences that what probes read is reported on
    n_task: int = 512  # of these, the sequences that the edited model is run on
    draws: int = 20  # random controls of each kind for each eraser
    n_control: int = 32  # sequences for each of them
    own_positions: int = 10  # positions at which a position's own probe is refitted, at most
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

    *absent*: A' was under `READABLE` before, or the eraser has rank 0. *Not removed*: a refitted probe, pooled or of single
    positions (their mean), is still more than `WITHIN` over the majority class. *Necessary*: removed, and the task falls
    at least `HALF` of the way down to the majority class, and by more than in every draw of every control. *Not
    necessary*: removed, and the upper end of the interval of the fall is under `TENTH`. Else, and where the model did not
    do the task in the first place, *inconclusive*.
    """
    if not cell["rank"] > 0 or not max(_share(cell["before"], cell["majority"]), _share(cell["before_own"], cell["own_majority"])) >= READABLE:  # fmt: skip
        return "absent"
    if cell["refit"] > cell["majority"] + WITHIN or cell["refit_own"] > cell["own_majority"] + WITHIN:
        return "not removed"
    controls = [cell[name] for name in ("random_most", "matched_most", "control_fall")]
    known = [value for value in controls if not math.isnan(value)]
    if cell["fall"] >= HALF and all(cell["fall"] > value for value in known):
        return "necessary"
    return "not necessary" if cell["fall_high"] < TENTH else "inconclusive"


def _share(accuracy: float, majority: float) -> float:
    return (accuracy - majority) / (1 - majority) if majority < 1 else 0.0


# ---- the first half: is it readable, is it removed? --------------------------------------------------------------------

Part = tuple[torch.Tensor, torch.Tensor]  # (n, T, D) float64 activations and their (n, T) labels


def _pool(part: Part, seed: int, each: int = 4) -> logistic.Sample:
    """(1, m, D): a few positions drawn from each sequence, for probes and erasers of all positions."""
    h, y = part
    n, length, _ = h.shape
    if length <= each:
        return h.reshape(1, n * length, -1), y.reshape(1, -1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, length, generator=generator).argsort(1)[:, :each]
    rows = torch.arange(n)[:, None]
    return h[rows, drawn].reshape(1, n * each, -1), y[rows, drawn].reshape(1, -1)


def _flat(part: Part) -> logistic.Sample:
    h, y = part
    return h.reshape(1, -1, h.shape[-1]), y.reshape(1, -1)


def _at(part: Part, positions: Sequence[int]) -> logistic.Sample:
    h, y = part
    return h[:, positions].transpose(0, 1).contiguous(), y[:, positions].T.contiguous()


@dataclass(frozen=True)
class Parts:
    """One site's activations: the samples that erasers and refits are fitted on share no sequence with the rest."""

    erase: Part
    fit: Part
    validation: Part
    test: Part
    n_classes: int
    positions: list[int]  # at which own probes are fitted, from 0
    n_probe: int  # of the sequences of `erase`, those that probes and INLP use
    spread: float  # standard deviation of the unedited activations
    seed: int

    def readings(self, sample: Part, edit: Callable[[torch.Tensor], torch.Tensor] | None = None) -> "Readings":
        """Probes fitted on `sample`, which `edit` was applied to as to all others."""
        parts = [(edit(h), y) if edit else (h, y) for h, y in (sample, self.validation, self.test)]
        pooled = logistic.read(
            _pool(parts[0], self.seed), _flat(parts[1]), _flat(parts[2]), self.n_classes, self.spread
        )
        own = logistic.read(*(_at(part, self.positions) for part in parts), self.n_classes, self.spread)  # type: ignore[arg-type]
        return Readings(pooled, own, self.positions)

    @property
    def probed(self) -> Part:
        """The part of `erase` that probes and INLP are fitted on."""
        return self.erase[0][: self.n_probe], self.erase[1][: self.n_probe]


@dataclass(frozen=True)
class Readings:
    """What probes of all positions together, and of single ones, read."""

    pooled: logistic.Reading
    own: logistic.Reading
    positions: list[int]

    def numbers(self) -> dict[str, float]:
        """Accuracies and bits of both kinds, and at how many positions the own probe reads."""
        over = self.own.accuracy > self.own.majority + WITHIN
        return {
            "refit": float(self.pooled.accuracy[0]),
            "refit_bits": float(self.pooled.bits[0]),
            "refit_by_accuracy": float(self.pooled.by_accuracy[0]),
            "refit_own": float(self.own.accuracy.mean()),
            "refit_own_bits": float(self.own.bits.mean()),
            "refit_own_by_accuracy": float(self.own.by_accuracy.mean()),
            "positions_read": int(over.sum()),
            "positions_asked": len(self.positions),
        }


def applied(chain: Sequence[Eraser]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The edit that applies erasers one after the other."""

    def edit(h: torch.Tensor) -> torch.Tensor:
        for one in chain:
            h = one(h)
        return h

    return edit


def position_tells(parts: Parts) -> bool:
    """Does the position alone say more of the labels than the majority class does? By over one point, on validation."""
    y, y_v = parts.erase[1], parts.validation[1]
    by_position = torch.stack([column.bincount(minlength=parts.n_classes).argmax() for column in y.T])
    common = y.flatten().bincount(minlength=parts.n_classes).argmax()
    return bool((y_v == by_position).double().mean() > (y_v == common).double().mean() + 0.01)


def fit_chain(method: str, scope: str, parts: Parts, before: Readings) -> list[Eraser]:
    """The erasers of a method: one for all positions, or one at each, then one of all positions where that is needed.

    At each position class means are equal once its own eraser was there; but where the position tells of the state, a
    probe of all positions can read the position. An eraser of all positions on top mends that, and undoes nothing: an
    affine map of equal means leaves them equal. ValueError for an unknown method or scope.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: must be one of {', '.join(METHODS)}")
    if scope not in SCOPES:
        raise ValueError(f"scope={scope!r}: must be one of {', '.join(SCOPES)}")
    if scope == "last" or parts.erase[0].shape[1] == 1:
        return [_fit_one(method, parts, before)]
    if scope == "pooled":
        return [_fit_one(method, parts, before, pooled=True)]
    chain = [_fit_one(method, parts, before)]
    if position_tells(parts):
        edited = replace(parts, **{name: (chain[0](getattr(parts, name)[0]), getattr(parts, name)[1]) for name in ("erase", "fit", "validation", "test")})  # fmt: skip
        again = edited.readings(edited.probed) if method in erasers.DIRECTIONS else before
        if method not in erasers.DIRECTIONS or (again.pooled.probe.weight != 0).any():
            chain.append(_fit_one(method, edited, again, pooled=True))
    return chain


def _fit_one(method: str, parts: Parts, before: Readings, pooled: bool = False) -> Eraser:
    if pooled:
        sample, probed, validation = (
            tuple(part[0] for part in _pool(one, parts.seed + 1, each))
            for one, each in ((parts.erase, 4), (parts.probed, 2), (parts.validation, 2))
        )
    else:
        sample, probed, validation = parts.erase, parts.probed, parts.validation
        if sample[0].shape[1] == 1:
            sample, probed, validation = ((h[:, 0], y[:, 0]) for h, y in (sample, probed, validation))
    if method in erasers.DIRECTIONS:
        reading = before.pooled if pooled else before.own
        probe = reading.probe if method == "direction" else reading.strong
        single = sample[0].ndim == 2
        weight = probe.weight[0] if single else probe.weight
        return erasers.direction(logistic.Linear(weight, probe.bias), sample[0])
    if method == "INLP":
        return erasers.inlp(*probed, *validation)
    return erasers.FITTERS[method](*sample)


# ---- the second half: is the task gone? ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Subject:
    """A model at one length: its strings, and its stream at every site."""

    model: nn.Module
    task: Task
    batches: dict[str, Batch]
    h: dict[str, dict[int, torch.Tensor]]  # part -> site -> (n, T, D) float32


def _capture(model: nn.Module, task: Task, length: int, settings: NecessitySettings, sites: Sequence[int]) -> _Subject:
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
    device = _device(model)
    for name, batch in batches.items():
        kept_parts: list[dict[int, torch.Tensor]] = []
        for tokens in batch.tokens.split(1024):
            with torch.no_grad(), stream(model, keep=sites) as kept:
                models.logits(model, tokens.to(device))
            kept_parts.append({site: kept[site].float().cpu() for site in sites})
        h[name] = {site: torch.cat([part[site] for part in kept_parts]) for site in sites}
    return _Subject(model, task, batches, h)


def _rows(batch: Batch, rows: slice) -> Batch:
    states = {name: values[rows] for name, values in batch.states.items()}
    return Batch(batch.tokens[rows], states, batch.targets[rows], batch.automaton[rows])


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _parts(subject: _Subject, site: int, variable: str, positions: list[int], settings: NecessitySettings, last: bool) -> Parts:  # fmt: skip
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


def _control(subject: _Subject, site: int, last: bool, scope: str, settings: NecessitySettings) -> tuple[str, float, list[Eraser]]:  # fmt: skip
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
        samples = [_pool(late["fit"], settings.seed), _flat(late["validation"]), _flat(late["test"])]
        found = logistic.read(*samples, n_classes, float(late["fit"][0].std()), (1.0,))  # type: ignore[arg-type]
        readable = _share(float(found.accuracy[0]), float(found.majority[0]))
        if math.isnan(best[1]) or readable > best[1]:
            h, y = subject.h["erase"][site].double(), labels["erase"]
            if last:
                best = name, readable, [erasers.leace(h[:, -1], y[:, -1])]
            elif scope == "each":
                best = name, readable, [erasers.leace(h, y)]
            else:
                pooled_h, pooled_y = _pool((h, y), settings.seed + 1)
                best = name, readable, [erasers.leace(pooled_h[0], pooled_y[0])]
    return best


class _Runs:
    """Edits of one site, collected as rows and run on from there in few passes: what the task's accuracy becomes."""

    def __init__(self, subject: _Subject, site: int, last: bool) -> None:
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

    def run(self, at_once: int = 2048) -> dict[tuple, np.ndarray]:
        """Share of right answers of each planned sequence, over the positions that count."""
        edited = torch.cat([h for h, _ in self.jobs.values()])
        rows = torch.cat([rows for _, rows in self.jobs.values()])
        tokens, targets = self.batch.tokens[rows], self.batch.targets[rows]
        model, device = self.subject.model, _device(self.subject.model)
        right = []
        with torch.no_grad():
            for h, some, wanted in zip(edited.split(at_once), tokens.split(at_once), targets.split(at_once), strict=True):
                answer = run_from(model, self.site, h.to(device), some.to(device)).argmax(-1).cpu()
                right.append((answer == wanted)[:, -1:] if self.last else answer == wanted)
        share = torch.cat(right).double().mean(1).numpy()
        ends = np.cumsum([len(rows) for _, rows in self.jobs.values()])
        return dict(zip(self.jobs, np.split(share, ends[:-1]), strict=True))


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
    Raises ValueError for an unknown variable, method or scope.
    """
    variable = variable or task.target
    if variable not in task.n_states:
        raise ValueError(f"variable={variable!r}: {task.name} has {', '.join(task.n_states)}")
    methods = PLAN if methods is None else methods
    sites = list(sites) or list(range(1, len(models.blocks(model)) + 1))
    subject = _capture(model, task, length, settings, sites)
    steps = min(length, settings.own_positions)
    positions = sorted({round(x) for x in np.linspace(0, length - 1, steps)} if steps > 1 else {length - 1})
    rows = []
    for site in sites:
        for scope, asked in methods.items():
            if scope not in SCOPES:
                raise ValueError(f"scope={scope!r}: must be one of {', '.join(SCOPES)}")
            bound = site == len(models.blocks(model))
            chosen = [one for one in asked if not bound or one in PLAN_AT_LAST_SITE.get(scope, ())]
            if chosen:
                last = scope == "last"
                parts = _parts(subject, site, variable, positions, settings, last)
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
    subject: _Subject,
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
    sample = parts.probed[0][:, 0] if last else parts.probed[0] if scope == "each" else _pool(parts.probed, settings.seed + 1)[0][0]  # fmt: skip
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
        runs.add((method, "resample"), lambda h, edit=edit, taken=taken: edit(h) + taken[other], everything)
        matcher = erasers.variance_matched(chain, sample)
        for draw, rows in enumerate(drawn_rows):
            random = [erasers.random_like(one, generator) for one in chain]
            matched = matcher.draw(generator)
            runs.add((method, "random", draw), applied(random), rows)
            runs.add((method, "matched", draw), matched, rows)
            shares.setdefault((method, "matched"), []).append((matched.variance_removed, matched.rank))
    right = runs.run()
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
        row["variance_removed"] = float(taken.square().sum() / (test_h - test_h.mean(0)).square().sum())
        row["norm"] = float((taken.norm(dim=-1) / test_h.norm(dim=-1).clamp_min(1e-12)).mean())
        lifted = (lambda h, edit=edit: edit(h[:, 0])[:, None]) if last else edit
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
        row |= {"control": control_name, "control_readable": control_readable}
        row["control_fall"] = float(fall(("control",)).mean()) if control else math.nan
        row["control_share"] = sum(one.variance_removed for one in control) if control else math.nan
        row["outcome"] = outcome(row)
        yield row


def _unedited(before: Readings, where: list[int]) -> dict[str, float]:
    """What refits would say of an eraser of rank 0, which changes nothing."""
    own = before.own
    kept = replace(own, **{k: getattr(own, k)[where] for k in ("accuracy", "majority", "bits", "by_accuracy")})
    return Readings(before.pooled, kept, [before.positions[i] for i in where]).numbers()


def _mlp(parts: Parts, edit: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Accuracy of a small MLP on edited activations of all positions: what a linear eraser leaves to others."""
    (h, y), (h_test, y_test) = ((edit(part[0]), part[1]) for part in (parts.fit, parts.test))
    x, labels = (part[0].numpy() for part in _pool((h, y), parts.seed))
    mean, scale = x.mean(0), x.std(0)
    scale[scale < logistic.FLAT * parts.spread] = np.inf  # rounding
    net = MLPClassifier((64,), batch_size=256, learning_rate_init=3e-3, max_iter=15, random_state=0, tol=0.0)
    with np.errstate(all="ignore"):
        net.fit((x - mean) / scale, labels)
    x_test, wanted = (part[0].numpy() for part in _flat((h_test, y_test)))
    return float((net.predict((x_test - mean) / scale) == wanted).mean())
