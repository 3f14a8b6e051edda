"""Activation patching: what of one run, put into another, makes it answer as the first did?

A clean and a corrupted string differ by a symmetric change of one token (Zhang and Nanda 2024, arXiv:2309.16042), so that
the answer at the last position, where both are read, differs. Activations of the clean run are put into the corrupted one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from statedepth import erasers, models
from statedepth.erasers import Eraser
from statedepth.stream import run_from, stream
from statedepth.tasks import Task

MIN_GAP = 1.0  # logit difference, clean less corrupted, under which a pair is counted and left out
INTERVENTIONS = {  # what of a donor is put in at the read position, and who the donor is
    "stream": "the whole stream of the clean run",
    "subspace": "of the clean run, the part that LEACE takes away",
    "complement": "of the clean run, all but that part",
    "same state": "the whole stream of another string with the corrupted run's state",
    "other state": "the whole stream of another string with the clean run's state",
    "other subspace": "of another string with the clean run's state, the part that LEACE takes away",
}


@dataclass(frozen=True)
class Pairs:
    """n clean and corrupted strings of T tokens whose states differ at the last position."""

    clean: torch.Tensor  # (n, T)
    corrupted: torch.Tensor  # (n, T)
    changed: torch.Tensor  # (n,) position of the changed token (of the opening bracket, in Dyck), from 0
    clean_answer: torch.Tensor  # (n,)
    corrupted_answer: torch.Tensor  # (n,)


def pairs(task: Task, n: int, length: int, generator: torch.Generator, split: str | None = "test") -> Pairs:
    """Draw pairs whose changed token lies anywhere before the last.

    In a group one token becomes another, at random; in Dyck the bracket that is on top at the read position changes its
    type, so that depth is kept (a change of a pair that has closed would leave the answer as it is), and strings that
    end empty, or whose top was opened by the last token, are left out. Raises ValueError for a length under 2, for
    Dyck with one bracket type or another target than `top`, and where too few strings can be changed.
    """
    if length < 2:
        raise ValueError(f"length={length}: must be 2 or more, one token to change and one to read at")
    dyck = task.name.startswith("dyck-")
    if dyck and (task.target != "top" or task.vocab_size < 4):
        raise ValueError(f"task={task.name!r}: pairs are defined for the top of a stack of two bracket types or more")
    found: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    for _ in range(50):
        batch = task.sample(2 * n, length, generator, split)
        for tokens in batch.tokens:
            place = _top_opened(tokens, task.vocab_size // 2) if dyck else int(torch.randint(length - 1, (), generator=generator))  # fmt: skip
            if place is None or place == length - 1:
                continue
            other = tokens.clone()
            kinds = task.vocab_size // 2 if dyck else task.vocab_size
            shift = int(torch.randint(1, kinds, (), generator=generator)) if kinds > 2 else 1
            other[place] = (tokens[place] + shift) % kinds
            found.append((tokens, other, place))
            if len(found) == n:
                clean, corrupted = (torch.stack([pair[i] for pair in found]) for i in (0, 1))  # type: ignore[misc]
                answers = [label(task, strings)[:, -1] for strings in (clean, corrupted)]
                return Pairs(clean, corrupted, torch.tensor([pair[2] for pair in found]), answers[0], answers[1])
    raise ValueError(f"length={length}: too few strings of {task.name} can be changed; use longer ones")


def _top_opened(tokens: torch.Tensor, kinds: int) -> int | None:
    """Where the bracket on top at the end was opened; None where the stack is empty."""
    stack: list[int] = []
    for place, token in enumerate(tokens.tolist()):
        if token < kinds:
            stack.append(place)
        else:
            stack.pop()
    return stack[-1] if stack else None


def label(task: Task, tokens: torch.Tensor) -> torch.Tensor:
    """(B, T) targets of given strings. ValueError for a token that is not allowed where it stands."""
    move, value = torch.from_numpy(task.tables.move), torch.from_numpy(task.tables.read[task.target])
    state, targets = torch.zeros(len(tokens), dtype=torch.long), []
    for place, column in enumerate(tokens.T):
        state = move[state, column]
        if (state < 0).any():
            raise ValueError(
                f"token {int(column[state < 0][0])} at position {place + 1}: not allowed there in {task.name}"
            )
        targets.append(value[state])
    return torch.stack(targets, 1)


@dataclass(frozen=True)
class Recovery:
    """The share of the clean-corrupted gap that a patch recovers, a ratio of means over pairs with its 95% interval."""

    share: float
    low: float
    high: float
    n: int  # pairs that entered
    left_out: int  # pairs with a gap under the threshold


def recovered(clean: np.ndarray, corrupted: np.ndarray, patched: np.ndarray, min_gap: float = MIN_GAP) -> Recovery:
    """sum(m_patched - m_corrupted) / sum(m_clean - m_corrupted), never clipped, from logit differences m (n,).

    m = logit(clean answer) - logit(corrupted answer). The interval is that of a ratio of means, by the delta method over
    pairs. Raises ValueError for arrays of different lengths and values that are not finite; where no gap reaches
    `min_gap` the share is not a number.
    """
    three = [np.asarray(m, dtype=float) for m in (clean, corrupted, patched)]
    if len({m.shape for m in three}) > 1 or three[0].ndim != 1:
        raise ValueError(f"clean, corrupted and patched are {[m.shape for m in three]}: must be (n,) each")
    if not all(np.isfinite(m).all() for m in three):
        raise ValueError("logit differences must be finite")
    gap = three[0] - three[1]
    kept = gap >= min_gap
    gap, gain = gap[kept], (three[2] - three[1])[kept]
    n = int(kept.sum())
    if n < 2:
        return Recovery(math.nan, math.nan, math.nan, n, int((~kept).sum()))
    share = gain.sum() / gap.sum()
    error = np.sqrt(np.square(gain - share * gap).sum() * n / (n - 1)) / gap.sum()
    return Recovery(float(share), float(share - 1.96 * error), float(share + 1.96 * error), n, int((~kept).sum()))


def difference(logits: torch.Tensor, pairs: Pairs) -> np.ndarray:
    """(n,) m at the last position: logit of the clean answer less that of the corrupted one."""
    last, rows = logits[:, -1].double().cpu(), torch.arange(len(logits))
    return (last[rows, pairs.clean_answer] - last[rows, pairs.corrupted_answer]).numpy()


def measure(model: nn.Module, task: Task, length: int, n: int, seed: int = 0, n_erase: int = 8192) -> pd.DataFrame:
    """Patch every site: a row per site, intervention and position.

    The whole `stream` is patched at each position (1..T, from 1) counted from the changed token: `offset` 0 is its own
    position, and rows of the read position have `at` = "read"; the other interventions (`INTERVENTIONS`) are at the read
    position. `recovery` is `recovered`'s share, `follows` the share of pairs whose answer becomes the clean one, `bound`
    what the whole stream at the last site must give: 1 at the read position, 0 before it. A donor with "the same state"
    should do nothing; one with the "other state" should do all, if the state is all that matters.
    """
    generator = torch.Generator().manual_seed(1000 * seed + 97)
    made = pairs(task, n, length, generator)
    sites = list(range(len(models.blocks(model)) + 1))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def run(tokens: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        with torch.no_grad(), stream(model, keep=sites) as kept:
            found = models.logits(model, tokens.to(device)).cpu()
        return found, {site: kept[site].cpu() for site in sites}

    (clean_logits, clean), (corrupted_logits, corrupted) = run(made.clean), run(made.corrupted)
    m_clean, m_corrupted = difference(clean_logits, made), difference(corrupted_logits, made)
    train = task.sample(n_erase, length, torch.Generator().manual_seed(1000 * seed + 71), "train")
    last = [run(tokens)[1] for tokens in train.tokens.split(1024)]
    pool = task.sample(4 * n, length, torch.Generator().manual_seed(1000 * seed + 101), "validation")
    donors = run(pool.tokens)[1]
    same, other = (
        _donors(pool.targets[:, -1], answer, generator) for answer in (made.corrupted_answer, made.clean_answer)
    )
    offsets = torch.arange(length - 1)  # after the changed token
    rows = []
    for site in sites:
        eraser = erasers.leace(torch.cat([part[site][:, -1] for part in last]), train.targets[:, -1])
        base, here = corrupted[site], clean[site]
        edits: dict[tuple[str, Any], torch.Tensor] = {
            ("stream", int(offset)): _patched_at(base, here, made.changed + offset) for offset in offsets
        }
        edits |= {("read", name): h for name, h in _at_read(base, here, donors[site], same, other, eraser).items()}
        with torch.no_grad():
            stacked = torch.cat(list(edits.values()))
            tokens = made.corrupted.repeat(len(edits), 1)
            found = torch.cat(
                [
                    run_from(model, site, h.to(device), t.to(device)).cpu()[:, -1:]
                    for h, t in zip(stacked.split(4096), tokens.split(4096), strict=True)
                ]
            )
        for (where, what), logits in zip(edits, found.split(n), strict=True):
            inside = made.changed + what < length - 1 if where == "stream" else torch.ones(n, dtype=torch.bool)
            if inside.sum() < max(10, n // 20):  # too few strings are long enough
                continue
            chosen = inside.numpy()
            result = recovered(m_clean[chosen], m_corrupted[chosen], difference(logits, made)[chosen])
            follows = float((logits[:, -1].argmax(-1) == made.clean_answer)[inside].double().mean())
            is_last = site == sites[-1]
            bound = (0.0 if where == "stream" else 1.0) if is_last and what in ("stream", *range(length)) else math.nan
            rows.append(
                {
                    "site": site,
                    "intervention": "stream" if where == "stream" else what,
                    "at": "before" if where == "stream" else "read",
                    "offset": what if where == "stream" else -1,
                    "recovery": result.share,
                    "low": result.low,
                    "high": result.high,
                    "follows": follows,
                    "n": result.n,
                    "left_out": result.left_out,
                    "bound": bound,
                }
            )
    return pd.DataFrame(rows)


def _donors(states: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(n,) for each wanted state, the number of a string that ends in it."""
    chosen = torch.empty_like(wanted)
    for value in wanted.unique():
        have = torch.nonzero(states == value)[:, 0]
        if len(have) == 0:
            raise ValueError(f"no donor string ends in state {int(value)}; draw more strings")
        rows = wanted == value
        chosen[rows] = have[torch.randint(len(have), (int(rows.sum()),), generator=generator)]
    return chosen


def _patched_at(base: torch.Tensor, donor: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """`base` with the donor's stream at one position of each string; where that is past the end, as it was."""
    patched, inside = base.clone(), positions < base.shape[1]
    rows = torch.nonzero(inside)[:, 0]
    patched[rows, positions[rows]] = donor[rows, positions[rows]]
    return patched


def _at_read(
    base: torch.Tensor,
    clean: torch.Tensor,
    donors: torch.Tensor,
    same: torch.Tensor,
    other: torch.Tensor,
    eraser: Eraser,
) -> dict[str, torch.Tensor]:
    """The interventions at the last position; a subspace is interchanged, h - removed(h) + removed(donor)."""
    own, theirs = base[:, -1].double(), clean[:, -1].double()
    others = donors[other, -1].double()
    end = {
        "stream": theirs,
        "subspace": own - eraser.removed(own) + eraser.removed(theirs),
        "complement": theirs - eraser.removed(theirs) + eraser.removed(own),
        "same state": donors[same, -1].double(),
        "other state": others,
        "other subspace": own - eraser.removed(own) + eraser.removed(others),
    }
    found = {}
    for name, value in end.items():
        patched = base.clone()
        patched[:, -1] = value.to(base.dtype)
        found[name] = patched
    return found


def sites_by_recovery(table: pd.DataFrame, interventions: Sequence[str] = tuple(INTERVENTIONS)) -> pd.DataFrame:
    """The rows at the read position, a column per intervention."""
    read = table[(table["at"] == "read") & table["intervention"].isin(list(interventions))]
    return read.pivot(index="site", columns="intervention", values="recovery")
