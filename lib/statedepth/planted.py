"""Hand-built models of which we know what is necessary: the test that tests the necessity test.

Three blocks with a residual stream. Block 1 keeps the state, by folding the task's automaton over the tokens, and writes
its code into the stream, beside distractors; what the later blocks and the head make of it decides what is true:

| kind | what the head reads | so, at sites 1 and 2, once the state is out of the stream, it is |
|---|---|---|
| cause | that code and nothing else | *necessary* |
| recomputed | a code that block 3 writes, from the tokens, by a route that does not pass the site | *not necessary* |
| copy | one of two codes, an uneven one beside a clean one | *necessary* with both out; *not removed* with the clean one out alone |
"""

import torch
from torch import nn

from statedepth import erasers, logistic
from statedepth.tasks import Task

KINDS = ("cause", "recomputed", "copy")
CLEAN = "the clean code"  # an eraser that is given: it takes out the first code and nothing else
_BY_EXACT = {"cause": "necessary", "recomputed": "not necessary", "copy": "necessary"}
# kind, positions of the edit, method -> outcome; what is not here was not planted: how well a probe's direction or INLP do
EXPECTED = {
    **{
        (kind, "each", method): outcome
        for kind, outcome in _BY_EXACT.items()
        for method in ("mean projection", "LEACE")
    },
    ("copy", "pooled", "direction"): "not removed",
    ("copy", "each", "direction"): "not removed",
    ("copy", "pooled", CLEAN): "not removed",
}
_DISTRACTORS, _WIDTH = 20, 40


class _Writer(nn.Module):
    """A block that adds, to what it is given, codes of the state that it keeps by itself while reading the tokens."""

    def __init__(self, task: Task, codes: list[tuple[torch.Tensor, bool]]) -> None:
        super().__init__()
        self.task, self.codes = task, codes

    def forward(self, h: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        if not self.codes:
            return h
        move = torch.from_numpy(self.task.tables.move)
        value = torch.from_numpy(self.task.tables.read[self.task.target])
        state, states = torch.zeros(len(tokens), dtype=torch.long), []
        for column in tokens.cpu().T:
            state = move[state, column]
            states.append(value[state])
        for code, uneven in self.codes:
            gain = 0.2 + 0.8 * _pseudo_random(tokens, 1, seed=9).abs() if uneven else 1.0
            h = h + gain * code[torch.stack(states, 1)]
        return h


class _Backbone(nn.Module):
    def __init__(self, layers: list[_Writer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Planted(nn.Module):
    """A model of one `kind` for one task. ValueError for an unknown kind."""

    def __init__(self, task: Task, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
        k = task.n_outputs
        if 2 * k + task.vocab_size + _DISTRACTORS > _WIDTH + 2 * k:
            raise ValueError(f"task={task.name!r}: has too many tokens for a planted model of {_WIDTH} features")
        width = _WIDTH + 2 * k
        generator = torch.Generator().manual_seed(0)
        turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]  # nothing lies along an axis
        first, second = turn[:k] - turn[:k].mean(0), turn[k : 2 * k] - turn[k : 2 * k].mean(0)
        self.task, self.kind = task, kind
        self.token_code, self.noise_code = turn[2 * k : 2 * k + task.vocab_size], turn[-_DISTRACTORS:]
        none: list[tuple[torch.Tensor, bool]] = []
        written = {"copy": [(first, False), (3 * second, True)]}.get(kind, [(first, False)])
        again = [(second, False)] if kind == "recomputed" else none
        self.backbone = _Backbone([_Writer(task, written), _Writer(task, none), _Writer(task, again)])
        self.clean = erasers.direction(logistic.Linear(first, torch.zeros(k)))  # takes the first code out
        self.readout = 10 * (first if kind == "cause" else second)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) tokens to (B, T, n_outputs) logits."""
        h = self.token_code[tokens] + _pseudo_random(tokens, _DISTRACTORS, seed=1) @ self.noise_code
        for layer in self.backbone.layers:
            h = layer(h, tokens)
        return h @ self.readout.T


def _pseudo_random(tokens: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """(B, T, n) numbers in -1..1 that every prefix fixes and that look like noise."""
    generator = torch.Generator().manual_seed(seed)
    step = 100 * torch.rand(64, n, generator=generator, dtype=torch.float64)
    place = torch.arange(1, tokens.shape[1] + 1, dtype=torch.float64)[None, :, None].sqrt()
    return torch.sin((step[tokens] * place).cumsum(1)).float()
