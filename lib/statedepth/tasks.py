"""State-tracking tasks: each is a small automaton, labelled with its state after every token.

An automaton is three plain functions (`step`, `law`, `read`); `Task` closes them into tables, and one vectorised
sampler walks the tables for every task.
"""

import itertools
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch

SPLITS = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}  # tenths of all sequences, by hash


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens, with the automaton's variables after each token."""

    tokens: torch.Tensor  # (B, T) int64
    states: dict[str, torch.Tensor]  # variable -> (B, T) int64
    targets: torch.Tensor  # (B, T) int64: the variable that models are trained on
    automaton: torch.Tensor  # (B, T) int64: number of the full state, an index into `Task.tables.states`


@dataclass(frozen=True)
class Tables:
    """An automaton with S reachable states and V tokens, as arrays."""

    states: tuple[Hashable, ...]  # (S,) in the order of discovery; number 0 is the start
    move: np.ndarray  # (S, V) int64: next state, -1 where the token is not allowed
    law: np.ndarray  # (S, V) float64: probability of each token in each state
    read: dict[str, np.ndarray]  # variable -> (S,) int64


@dataclass(frozen=True)
class Task:
    """A finite automaton over tokens 0..vocab_size-1.

    `step(state, token)` is the next state; ValueError where the token is not allowed in that state.
    `law(state)` is the (V,) distribution from which the sampler draws the next token.
    `read(state)` gives the value of every variable; `target` names the one that models are trained on.
    """

    name: str
    vocab_size: int
    n_states: dict[str, int] = field(hash=False)  # variable -> number of classes K
    target: str
    start: Hashable
    step: Callable[[Hashable, int], Hashable] = field(repr=False, compare=False)
    law: Callable[[Hashable], np.ndarray] = field(repr=False, compare=False)
    read: Callable[[Hashable], dict[str, int]] = field(repr=False, compare=False)

    @property
    def n_outputs(self) -> int:
        """Classes of the target."""
        return self.n_states[self.target]

    @cached_property
    def tables(self) -> Tables:
        """All states reachable from the start, breadth first."""
        number: dict[Hashable, int] = {self.start: 0}
        rows = []
        queue = [self.start]
        for state in queue:  # grows while we walk it
            law = self.law(state)
            row = []
            for token in range(self.vocab_size):
                if law[token] == 0:
                    row.append(-1)
                    continue
                after = self.step(state, token)
                if after not in number:
                    number[after] = len(queue)
                    queue.append(after)
                row.append(number[after])
            rows.append(row)
        values = [self.read(state) for state in queue]
        return Tables(
            states=tuple(queue),
            move=np.array(rows),
            law=np.stack([self.law(state) for state in queue]),
            read={name: np.array([v[name] for v in values]) for name in self.n_states},
        )

    def sample(
        self,
        batch: int,
        length: int,
        generator: torch.Generator,
        split: str | None = None,
    ) -> Batch:
        """Draw `batch` sequences of `length` tokens, all labelled; with `split`, only sequences of that split.

        The split of a sequence is a hash of its tokens, so no sequence is in two splits, whoever draws it.
        Raises ValueError for an impossible size, an unknown split, or a split that holds no sequence this short.
        """
        for name, value in (("batch", batch), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")
        if not isinstance(generator, torch.Generator):
            raise TypeError(
                f"generator={generator!r}: pass a torch.Generator, for example torch.Generator().manual_seed(0)"
            )
        if split is None:
            return self._label(*self._draw(batch, length, generator))
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}, or None for all sequences")
        low, high = SPLITS[split]
        kept, n = [], 0
        for _ in range(200):
            tokens, states = self._draw(max(2 * batch, 64), length, generator)
            tenth = sequence_hash(tokens) % 10
            keep = (tenth >= low) & (tenth < high)
            kept.append((tokens[keep], states[keep]))
            n += int(keep.sum())
            if n >= batch:
                tokens = np.concatenate([t for t, _ in kept])[:batch]
                return self._label(tokens, np.concatenate([s for _, s in kept])[:batch])
        raise ValueError(
            f"length={length}: too few sequences of {self.name} fall into the {split} split; use longer ones"
        )

    def _draw(self, batch: int, length: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        cumulative = self.tables.law.cumsum(1)
        last_allowed = self.vocab_size - 1 - (self.tables.law[:, ::-1] > 0).argmax(1)
        cumulative[np.arange(self.vocab_size) >= last_allowed[:, None]] = (
            np.inf
        )  # rounding must not push a draw past it
        uniform = torch.rand(batch, length, generator=generator, dtype=torch.float64).numpy()
        tokens = np.empty((batch, length), dtype=np.int64)
        states = np.empty((batch, length), dtype=np.int64)
        state = np.zeros(batch, dtype=np.int64)
        for t in range(length):
            tokens[:, t] = (uniform[:, t, None] >= cumulative[state]).sum(1)
            state = self.tables.move[state, tokens[:, t]]
            states[:, t] = state
        return tokens, states

    def _label(self, tokens: np.ndarray, states: np.ndarray) -> Batch:
        read = {name: torch.from_numpy(values[states]) for name, values in self.tables.read.items()}
        return Batch(torch.from_numpy(tokens), read, read[self.target], torch.from_numpy(states))


def sequence_hash(tokens: np.ndarray) -> np.ndarray:
    """A well-mixed 64-bit hash of each row of (B, T) tokens (splitmix64, Steele et al. 2014), the same everywhere."""
    h = np.full(len(tokens), tokens.shape[1], dtype=np.uint64)
    for column in tokens.T.astype(np.uint64):
        h = h + column + np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
    return h


def _group(name: str, elements: list, product: Callable, parts: dict[str, list[int]] | None = None) -> Task:
    """The word problem of a finite group: tokens and states are element numbers, the state is the running product.

    `parts` are further variables: the class of each element. Each must be a running state by itself (the class after a
    token is decided by the class before it and the token), or it would not be a part of the state to track.
    """
    number = {element: i for i, element in enumerate(elements)}
    table = [[number[product(a, b)] for b in elements] for a in elements]
    n = len(elements)
    uniform = np.full(n, 1 / n)
    variables = {"state": list(range(n)), **(parts or {})}
    n_states = {variable: max(values) + 1 for variable, values in variables.items()}

    def step(state: Hashable, token: int) -> Hashable:
        if not 0 <= token < n:
            raise ValueError(f"token={token!r}: {name} has the tokens 0..{n - 1}")
        return table[state][token]  # type: ignore[call-overload]

    def read(state: Hashable) -> dict[str, int]:
        return {variable: values[state] for variable, values in variables.items()}  # type: ignore[call-overload]

    return Task(name, n, n_states, "state", 0, step, lambda _: uniform, read)


def _permutations(n: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(n)))  # lexicographic, the identity first


def _act(state: tuple[int, ...], action: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(state[a] for a in action)  # new[j] = state[action[j]]


def _is_even(p: tuple[int, ...]) -> bool:
    return sum(p[i] > p[j] for i, j in itertools.combinations(range(len(p)), 2)) % 2 == 0


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be a whole number from {low} to {high}")


@lru_cache(typed=True)
def cyclic(n: int) -> Task:
    """Z_n, the running sum mod n.

    cyclic(3):  tokens 1 2 2 0  ->  states 1 0 2 2
    """
    _whole("n", n, 2, 120)
    return _group(f"Z{n}", list(range(n)), lambda a, b: (a + b) % n)


@lru_cache(typed=True)
def parity() -> Task:
    """Parity of the ones read so far, from even (0); the group Z_2 under its usual name.

    tokens 1 0 1 1  ->  states 1 1 0 1
    tokens 0 0 1 0  ->  states 0 0 1 1
    """
    return _group("parity", [0, 1], lambda a, b: (a + b) % 2)


@lru_cache(typed=True)
def symmetric(n: int) -> Task:
    """S_n, all permutations of n things; elements in lexicographic order, new[j] = state[action[j]].

    Variables beside the state: `sign` (0 even, 1 odd), its quotient by the alternating group, and `coset`, the place at
    which thing 0 stands, a coset of the permutations that leave it alone. Each is tracked by itself; for n = 3 the two
    together are the state.

    symmetric(3), elements 012 021 102 120 201 210 numbered 0..5:
    tokens 1 2  ->  states 1 4    (021, then 201)
    tokens 2 1  ->  states 2 3    (102, then 120: the order matters)
    """
    _whole("n", n, 2, 5)
    elements = _permutations(n)
    parts = {"sign": [int(not _is_even(p)) for p in elements], "coset": [p.index(0) for p in elements]}
    return _group(f"S{n}", elements, _act, parts)


@lru_cache(typed=True)
def alternating(n: int) -> Task:
    """A_n, the even permutations of n things, numbered in lexicographic order.

    alternating(3), elements 012 120 201:  tokens 1 1 2  ->  states 1 2 1
    """
    _whole("n", n, 3, 5)
    return _group(f"A{n}", [p for p in _permutations(n) if _is_even(p)], _act)


DYCK_TARGETS = ("top", "depth", "openers", "first")


@lru_cache(typed=True)
def dyck(k: int, depth: int, target: str = "top") -> Task:
    """Prefixes of well-nested words with k bracket types and nesting at most `depth`.

    Tokens 0..k-1 open types 1..k; token k+i closes what token i opened. The state is the stack, a tuple of types.
    Variables: `top` (0 = empty, else the type on top) and `depth`. An empty stack opens, a full one closes, any other
    opens or closes with 1/2 each; openers are uniform (Hewitt et al. 2020, arXiv:2010.07515).

    The same strings ask for other states where the target is `openers`, the number of openers so far mod 2, or `first`,
    the type of the string's first opener less 1. The automaton of these two carries both beside the stack and has all
    four variables; with one generator, every target draws the same strings.

    dyck(2, 4), written ( [ ) ] for tokens 0 1 2 3:
    ( [ ] )  ->  top 1 2 1 0,  depth 1 2 1 0
    [ [ ] (  ->  top 2 2 2 1,  depth 1 2 1 2
    """
    _whole("k", k, 1, 8)
    _whole("depth", depth, 1, 8)
    if sum(k**d for d in range(depth + 1)) > 20_000:
        raise ValueError(f"k={k}, depth={depth}: more than 20000 stacks; use fewer types or a smaller depth")
    if target not in DYCK_TARGETS:
        raise ValueError(f"target={target!r}: must be one of {', '.join(DYCK_TARGETS)}")
    if target == "first" and k == 1:
        raise ValueError("target='first': with k=1 every string begins alike; use k=2 or more")
    n_states = {"top": k + 1, "depth": depth + 1}

    def step(stack: Hashable, token: int) -> Hashable:
        assert isinstance(stack, tuple)
        if not 0 <= token < 2 * k:
            raise ValueError(f"token={token!r}: dyck({k}, {depth}) has the tokens 0..{2 * k - 1}")
        if token < k:
            if len(stack) == depth:
                raise ValueError(f"token={token}: opens a bracket on the full stack {stack}")
            return (*stack, token + 1)
        if not stack or stack[-1] != token - k + 1:
            raise ValueError(f"token={token}: closes type {token - k + 1}, which is not on top of the stack {stack}")
        return stack[:-1]

    def law(stack: Hashable) -> np.ndarray:
        assert isinstance(stack, tuple)
        p = np.zeros(2 * k)
        opens = 1.0 if not stack else 0.0 if len(stack) == depth else 0.5
        p[:k] = opens / k
        if stack:
            p[k + stack[-1] - 1] = 1 - opens
        return p

    def read(stack: Hashable) -> dict[str, int]:
        assert isinstance(stack, tuple)
        return {"top": stack[-1] if stack else 0, "depth": len(stack)}

    def count(state: Hashable, token: int) -> Hashable:
        assert isinstance(state, tuple)
        stack, openers, first = state
        return step(stack, token), (openers + (token < k)) % 2, first if first >= 0 else token

    def read_all(state: Hashable) -> dict[str, int]:
        assert isinstance(state, tuple)
        stack, openers, first = state
        return {**read(stack), "openers": openers, "first": max(first, 0)}  # before any token there is none

    name = f"dyck-{k}-{depth}" + ("" if target == "top" else f"-{target}")
    if target in n_states:
        return Task(name, 2 * k, n_states, target, (), step, law, read)
    n_states |= {"openers": 2, "first": k}
    start = ((), 0, -1)
    return Task(name, 2 * k, n_states, target, start, count, lambda state: law(state[0]), read_all)  # type: ignore[index]


OTHERS: dict[str, Task] = {}  # added from outside (`extend.task`)


def named(name: str) -> Task:
    """The task with this name: parity, S3, A4, Z6, dyck-2-4, dyck-2-4-depth, -openers, -first, or one that was added.

    ValueError for any other.
    """
    if name in OTHERS:
        return OTHERS[name]
    if name == "parity":
        return parity()
    if match := re.fullmatch(r"([SAZ])([1-9]\d*)", name):  # one task has one name, or it would be trained under each
        return {"S": symmetric, "A": alternating, "Z": cyclic}[match[1]](int(match[2]))
    if match := re.fullmatch(r"dyck-([1-9]\d*)-([1-9]\d*)(?:-(depth|openers|first))?", name):
        return dyck(int(match[1]), int(match[2]), match[3] or "top")
    raise ValueError(
        f"task={name!r}: known names are parity, S<n>, A<n>, Z<n> and dyck-<k>-<depth>[-depth, -openers or -first]"
    )
