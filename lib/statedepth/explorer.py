"""What the probe of every site reads of every short string, in one compact file for each task: behind the book's explorer."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from statedepth import grid, models, probes, training
from statedepth.probes import SPLITS, ProbeSettings
from statedepth.stream import stream
from statedepth.tasks import Task, named
from statedepth.training import Trained
from statedepth.verdicts import NAMES, task_name

LEVELS = 32  # of confidence: five bits of a byte, beside three for the class
SETTINGS = ProbeSettings()
# Longest string, and the one that a reader finds; seed 0 of claim 1's models, and of claim 2's on S3, which claim 1 has not.
SHOWN = {
    "parity": (10, [1, 1, 0, 1, 0, 0, 1, 0, 1, 1]),
    "dyck-2-4": (8, [0, 1, 1, 3, 3, 0, 2, 2]),
    "S3": (4, [1, 3, 4, 2]),
}
WORDS = {  # token labels, and of each class a sign and a word
    "parity": (["0", "1"], [["E", "even"], ["O", "odd"]]),
    "dyck-2-4": (["(", "[", ")", "]"], [["–", "nothing open"], ["(", "( on top"], ["[", "[ on top"]]),
    "S3": (["123", "132", "213", "231", "312", "321"], [[s, s] for s in ("ABC", "ACB", "BAC", "BCA", "CAB", "CBA")]),
}


def strings(task: Task, length: int) -> np.ndarray:
    """(N, length) tokens of every string of the task, in lexicographic order."""
    move, found, states = task.tables.move, np.zeros((1, 0), dtype=np.int64), np.zeros(1, dtype=np.int64)
    for _ in range(length):
        row, token = np.nonzero(move[states] >= 0)  # in order of row, then token
        found, states = np.hstack([found[row], token[:, None]]), move[states[row], token]
    return found


def readings(
    trained: Trained, every: np.ndarray, trained_length: int, settings: ProbeSettings = SETTINGS
) -> np.ndarray:
    """(N, length, S + 1, K) probabilities of the target's K classes: what the probe of each of S sites reads, then the answer.

    The probes are those of claim 1: one for all positions, fitted on strings of the training length (`probes.pooled_probe`).
    """
    task, sites = trained.task, list(range(len(models.blocks(trained.model)) + 1))
    data = {
        split: probes.activations(trained, trained_length, sites, n, split, settings.seed)
        for split, n in zip(SPLITS, (settings.n_fit, settings.n_validation, settings.n_test), strict=True)
    }
    labels = {split: part.batch.states[task.target].numpy() for split, part in data.items()}
    with torch.no_grad(), stream(trained.model, keep=sites) as kept:
        answers = models.logits(trained.model, torch.from_numpy(every)).double().numpy()
    read = []
    for site in sites:
        h = {split: part.h[site] for split, part in data.items()}
        probe, _ = probes.pooled_probe(h, labels, task.n_outputs, settings.seed)
        read.append(kept[site].double().numpy() @ probe.weight.T + probe.bias)
    scores = np.stack([*read, answers], axis=2)
    scores -= scores.max(-1, keepdims=True)
    odds = np.exp(scores)
    return odds / odds.sum(-1, keepdims=True)


def packed(probability: np.ndarray) -> np.ndarray:
    """(...) bytes of (..., K) probabilities: the most probable class in three bits, its probability in five."""
    assert probability.shape[-1] <= 8, "three bits hold eight classes"
    chosen, sure = probability.argmax(-1), probability.max(-1)
    return (chosen * LEVELS + np.minimum(LEVELS - 1, (sure * LEVELS).astype(int))).astype(np.uint8)


def explored(name: str, families: Sequence[str] = tuple(NAMES), settings: ProbeSettings = SETTINGS) -> dict[str, Any]:
    """Everything that the explorer shows of one task; see `SHOWN`.

    `readings` is base64 of a byte for each prefix (by length, then in lexicographic order), architecture and column (a
    site each, then the model's answer), as `packed` makes it. `move` and `reads` are the automaton, whose state 0 is the
    start: from it a reader's program numbers the prefixes in the same order.
    """
    task, (length, first) = named(name), SHOWN[name]
    own = {"recipes": training.UNTIL_LEARNED, "length": 12} if name == "S3" else {"length": 20}
    runs = grid.cross([name], families, [0], d_model=64, n_layers=4, **own)  # type: ignore[arg-type]
    grid.obtain(runs)
    every, columns, about = strings(task, length), [], []
    for run in runs:
        trained = grid.fetch(run)
        columns.append(packed(readings(trained, every, run.train.length, settings)))
        reached = round(trained.accuracy_at(run.train.length), 4)
        about.append(
            {"name": NAMES[run.model.family], "checkpoint": run.key, "accuracy": reached, "length": run.train.length}
        )
    together = np.stack(columns, axis=2)  # (N, length, A, S + 1)
    parts = []
    for t in range(1, length + 1):
        _, at = np.unique(
            every[:, :t], axis=0, return_index=True
        )  # the models are causal: a prefix reads the same anywhere
        parts.append(together[at, t - 1].ravel())
    tokens, classes = WORDS[name]
    return {
        "task": name,
        "name": task_name(name),
        "tokens": tokens,
        "classes": classes,
        "length": length,
        "first": first,
        "move": task.tables.move.tolist(),
        "reads": task.tables.read[task.target].tolist(),
        "levels": LEVELS,
        "architectures": about,
        "columns": together.shape[-1],
        "n_fit": settings.n_fit,
        "readings": base64.b64encode(np.concatenate(parts).tobytes()).decode(),
    }
