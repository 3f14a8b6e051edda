"""Is a variable gone after an edit? Erasers fitted on one sample of activations, probes refitted on another.

What the necessity test and the check of a reader's own activations share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from statedepth import erasers, logistic
from statedepth.erasers import METHODS, Eraser

READABLE = 0.1  # readability A' under which there is nothing to erase
WITHIN = 0.02  # accuracy over the majority class up to which a refitted probe reads nothing
SCOPES = {
    "pooled": "one eraser, used at all positions",
    "each": "an eraser of its own at each position, and one of all positions on top where the position tells of the state",
    "last": "an eraser of the last position, used there alone",
}


def removed(cell: Mapping[str, Any]) -> str:
    """The first half of the test, from the numbers of one cell: absent, not removed, or removed.

    *absent*: A' was under `READABLE` before, pooled and at single positions, or the eraser has rank 0. *Not removed*: a
    refitted probe, pooled or of single positions (their mean), is still more than `WITHIN` over the majority class.
    """
    pooled = readability(cell["before"], cell["majority"])
    own = readability(cell["before_own"], cell["own_majority"])
    if not cell["rank"] > 0 or not max(pooled, own) >= READABLE:
        return "absent"
    over = max(cell["refit"] - cell["refit_majority"], cell["refit_own"] - cell["refit_own_majority"])
    return "not removed" if over > WITHIN else "removed"


def readability(accuracy: float, majority: float) -> float:
    """A' = (accuracy - majority) / (1 - majority); 0 where one class is all there is."""
    return (accuracy - majority) / (1 - majority) if majority < 1 else 0.0


Part = tuple[torch.Tensor, torch.Tensor]  # (n, T, D) float64 activations and their (n, T) labels


def pool(part: Part, seed: int, each: int = 4) -> logistic.Sample:
    """(1, m, D): a few positions drawn from each sequence, for probes and erasers of all positions."""
    h, y = part
    n, length, _ = h.shape
    if length <= each:
        return h.reshape(1, n * length, -1), y.reshape(1, -1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, length, generator=generator).argsort(1)[:, :each]
    rows = torch.arange(n)[:, None]
    return h[rows, drawn].reshape(1, n * each, -1), y[rows, drawn].reshape(1, -1)


def flat(part: Part) -> logistic.Sample:
    """(1, n T, D): all positions of all sequences."""
    h, y = part
    return h.reshape(1, -1, h.shape[-1]), y.reshape(1, -1)


def _at(part: Part, positions: Sequence[int]) -> logistic.Sample:
    h, y = part
    return h[:, positions].transpose(0, 1).contiguous(), y[:, positions].T.contiguous()


@dataclass(frozen=True)
class Parts:
    """One site's activations in four samples of sequences. Validation and test share none with the others; those of erasers
    and refits are drawn one after the other, so that short strings may be in both."""

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
        length = self.validation[0].shape[1]
        pooled = logistic.read(
            pool(parts[0], self.seed), flat(parts[1]), flat(parts[2]), self.n_classes, self.spread, group=length
        )
        three = [_at(part, self.positions) for part in parts]
        own = logistic.read(three[0], three[1], three[2], self.n_classes, self.spread)
        return Readings(pooled, own, self.positions)

    def edited(self, edit: Callable[[torch.Tensor], torch.Tensor]) -> "Parts":
        """The same with an edit applied to every sample."""
        four = (self.erase, self.fit, self.validation, self.test)
        erase, fit, validation, test = ((edit(h), y) for h, y in four)
        return replace(self, erase=erase, fit=fit, validation=validation, test=test)

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
            "refit_majority": float(self.pooled.majority[0]),
            "refit_bits": float(self.pooled.bits[0]),
            "refit_by_accuracy": float(self.pooled.by_accuracy[0]),
            "refit_own": float(self.own.accuracy.mean()),
            "refit_own_majority": float(self.own.majority.mean()),
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
        return [fit_one(method, parts, before)]
    if scope == "pooled":
        return [fit_one(method, parts, before, pooled=True)]
    chain = [fit_one(method, parts, before)]
    if position_tells(parts):
        edited = parts.edited(chain[0])
        again = edited.readings(edited.probed) if method in erasers.DIRECTIONS else before
        if method not in erasers.DIRECTIONS or (again.pooled.probe.weight != 0).any():
            chain.append(fit_one(method, edited, again, pooled=True))
    return chain


def fit_one(method: str, parts: Parts, before: Readings, pooled: bool = False) -> Eraser:
    """One eraser for all positions (`pooled`, or where there is one position), or one for each."""

    def shaped(part: Part, each: int) -> Part:
        if pooled:
            h, y = pool(part, parts.seed + 1, each)
            return h[0], y[0]
        return (part[0][:, 0], part[1][:, 0]) if part[0].shape[1] == 1 else part

    h, y = shaped(parts.erase, 4)
    if method in erasers.DIRECTIONS:
        reading = before.pooled if pooled else before.own
        probe = reading.probe if method == "direction" else reading.strong
        return erasers.direction(logistic.Linear(probe.weight[0], probe.bias) if h.ndim == 2 else probe, h)
    if method == "INLP":
        probed, validation = shaped(parts.probed, 2), shaped(parts.validation, 2)
        return erasers.inlp(*probed, *validation)
    return erasers.FITTERS[method](h, y)
