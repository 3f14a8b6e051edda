"""Time training steps of four-layer Mamba and Mamba-2 models by every path that a CPU offers, and the floor under them.

    python benchmarks/scan.py            print the tables
    python benchmarks/scan.py --publish  and replace those of the book (book/data/speed)

All rivals run in one process on one thread, in turn, round after round, so that what slows the machine slows all of
them; a time is the median over rounds of one step: forward, cross-entropy, backward, AdamW. Every model has random
weights and reads the same tokens. Run it on a quiet machine.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
import torch.nn.functional as F
from mambapy.mamba import Mamba, MambaConfig
from threadpoolctl import threadpool_limits
from torch import nn
from transformers.models.mamba import modeling_mamba

from statedepth import kernels, mixers, models, notebook, scan, tables
from statedepth.models import ModelSpec

VOCABULARY, CLASSES, LAYERS = 2, 2, 4
ROUNDS = 15
OURS, OURS_2, FLOOR = "Mamba, this library", "Mamba-2, this library", "floor of Mamba's arithmetic"


@dataclass(frozen=True)
class Size:
    """Of one comparison; `width` is Mamba's, the other families take the width of equal parameters (`ModelSpec`)."""

    batch: int
    length: int
    width: int
    state: int


SIZES = (Size(64, 32, 32, 8), Size(64, 128, 32, 8), Size(64, 32, 64, 8), Size(64, 32, 64, 16), Size(16, 512, 32, 8))
SCALING = tuple(Size(16, length, 32, 8) for length in (32, 64, 128, 256, 512, 1024))
Step = Callable[[], None]


class MambapyModel(nn.Module):
    """mambapy's own blocks between an embedding and a head."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, size.width)
        self.blocks = Mamba(MambaConfig(d_model=size.width, n_layers=LAYERS, d_state=size.state))
        self.head = nn.Linear(size.width, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(tokens)))


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """Inside the block, Mamba's scan is a loop over time in torch, with the rest of transformers' path unchanged."""

    def loop(x, dt, A, B, C, D, z, delta_bias, **_):  # type: ignore[no-untyped-def]
        x, dt, B, C, z = (value.transpose(1, 2) for value in (x, dt, B, C, z))
        y = scan.recurrence(x, F.softplus(dt + delta_bias), A, B, C)
        return ((y + x * D) * F.silu(z)).transpose(1, 2)

    with mixers.transformers_path():
        original, modeling_mamba.mamba_selective_scan = modeling_mamba.mamba_selective_scan, loop
        try:
            yield
        finally:
            modeling_mamba.mamba_selective_scan = original


def training_step(model: nn.Module, size: Size, path: Callable[[], AbstractContextManager] = nullcontext) -> Step:
    """One training step of `model` on tokens of this size, inside the context that `path` makes."""
    tokens = torch.randint(VOCABULARY, (size.batch, size.length), generator=torch.Generator().manual_seed(0))
    targets = tokens.cumsum(1) % CLASSES
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with path():
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(models.logits(model, tokens).flatten(0, 1), targets.flatten()).backward()
            optimiser.step()

    return step


def rivals(size: Size) -> dict[str, Step]:
    """Every path for this size, by name; transformers' own, whose backward is quadratic in length, up to 128 only."""

    def build(family: str) -> nn.Module:
        positions = max(ModelSpec.n_positions, size.length)
        spec = ModelSpec(family, d_model=size.width, n_layers=LAYERS, d_state=size.state, n_positions=positions)
        return models.build(spec, VOCABULARY, CLASSES)

    def with_mambapy() -> nn.Module:
        model = build("mamba")
        for block in models.blocks(model):
            block.mixer.use_mambapy = True
        return model

    mamba = {
        "transformers": (lambda: build("mamba"), mixers.transformers_path),
        "transformers with use_mambapy": (with_mambapy, mixers.transformers_path),
        "mambapy's own block": (lambda: MambapyModel(size), nullcontext),
        "plain recurrence": (lambda: build("mamba"), plain_recurrence),
        "this library": (lambda: build("mamba"), nullcontext),
    }
    mamba2 = {
        "transformers, chunk 32": (lambda: build("mamba2"), mixers.transformers_path),
        "this library": (lambda: build("mamba2"), nullcontext),
    }
    if size.length > 128:
        del mamba["transformers"]
    found = {f"Mamba, {name}": made for name, made in mamba.items()}
    found |= {f"Mamba-2, {name}": made for name, made in mamba2.items()}
    for family, name in (("gru", "GRU"), ("lstm", "LSTM"), ("transformer", "Transformer")):
        found[name] = (lambda family=family: build(family), nullcontext)
    return {name: training_step(make(), size, path) for name, (make, path) in found.items()}


def medians(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Seconds of each step: the median over rounds in which all of them run in turn, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if i:
                times[name].append(time.perf_counter() - started)
    return {name: float(pd.Series(values).median()) for name, values in times.items()}


# ---- the floor ------------------------------------------------------------------------------------------------------


def best_rate(work: float, function: Step, repeats: int = 30) -> float:
    """`work` per second at the fastest of some repeats."""
    function()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - started)
    return work / best


def floor(size: Size) -> float:
    """An estimate of the seconds that one Mamba step's arithmetic and memory traffic take where nothing is in their way.

    Operations of the four projections (forward, and twice that backward), the convolution and the scan, at the rate of
    this machine's matrix product of the first projection; and every activation that one pass leaves for another,
    written once and read once, forward and backward, at the rate of copying an array of that size.
    """
    d, e, n, tokens = size.width, 2 * size.width, size.state, size.batch * size.length
    rank = -(-d // 16)
    projections = 3 * 2 * (d * 2 * e + e * (rank + 2 * n) + rank * e + e * d)
    exponential, forward, backward = 18, 8, 25  # operations on one element of the state, as `kernels` has them
    elementwise = e * n * (2 * exponential + forward + backward) + 3 * 2 * 4 * e
    operations = LAYERS * tokens * (projections + elementwise)
    activations = 2 * d + 5 * e + 2 * n  # stream in and out; x, z, the convolution's output, dt, y; B and C
    moved = LAYERS * tokens * 4 * (4 * activations + 2 * n * e / kernels.CHUNK)  # of 4 bytes; few states are kept
    a, b, product = torch.randn(tokens, d), torch.randn(d, 2 * e), torch.empty(tokens, 2 * e)
    operation_rate = best_rate(2 * tokens * d * 2 * e, lambda: torch.mm(a, b, out=product))
    source, target = torch.randn(tokens, e), torch.empty(tokens, e)
    byte_rate = best_rate(2 * 4 * tokens * e, lambda: target.copy_(source))
    return operations / operation_rate + moved / byte_rate


# ---- the tables -----------------------------------------------------------------------------------------------------


def kept_bytes(step: Step, model: nn.Module) -> int:
    """Bytes of all distinct tensors, other than the weights, that a step keeps for its backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def compare(sizes: tuple[Size, ...], rounds: int) -> pd.DataFrame:
    """A row per size and path: seconds per step, and that over ours (of Mamba-2 for its paths, of Mamba for others)."""
    rows = []
    for size in sizes:
        found = medians(rivals(size), rounds) | {FLOOR: floor(size)}
        for path, seconds in found.items():
            where = {"batch": size.batch, "length": size.length, "width": size.width, "state": size.state}
            ours = found[OURS_2 if path.startswith("Mamba-2") else OURS]
            rows.append({**where, "path": path, "seconds": seconds, "times_ours": seconds / ours})
        print(f"measured {size}", file=sys.stderr)
    return pd.DataFrame(rows)


def scaling(sizes: tuple[Size, ...], rounds: int) -> pd.DataFrame:
    """Time and kept memory of our Mamba step by length, all lengths in turn."""
    built, steps = {}, {}
    for size in sizes:
        spec, name = ModelSpec("mamba", d_model=size.width, n_layers=LAYERS, d_state=size.state), str(size.length)
        built[name] = models.build(spec, VOCABULARY, CLASSES)
        steps[name] = training_step(built[name], size)
    found, rows = medians(steps, rounds), []
    for size in sizes:
        where = {"batch": size.batch, "length": size.length, "width": size.width, "state": size.state}
        name = str(size.length)
        rows.append({**where, "seconds": found[name], "kept_bytes": kept_bytes(steps[name], built[name])})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed rounds, of which the median is taken")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--publish", action="store_true", help="replace the tables of the book")
    parser.add_argument("--out", type=Path, help="folder for the tables; none are written without it or --publish")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: must be 1 or more")
    torch.set_num_threads(1)
    sizes, lengths = SIZES, SCALING
    if arguments.small:
        sizes, lengths = (Size(2, 5, 8, 2),), tuple(replace(size, batch=1) for size in SCALING[:2])
    started = time.time()
    with threadpool_limits(1):
        steps, by_length = compare(sizes, arguments.rounds), scaling(lengths, arguments.rounds)
    print(steps.to_string(index=False, float_format="{:.4f}".format))
    print(by_length.to_string(index=False, float_format="{:.4f}".format))
    out = notebook.ROOT / "book" / "data" / "speed" if arguments.publish else arguments.out
    if out is not None:
        tables.write(steps, "steps", out)
        tables.write(by_length, "scaling", out)
        run = {
            "notebook": "speed",
            "profile": "small" if arguments.small else "paper" if arguments.rounds == ROUNDS else "custom",
            **notebook.provenance("cpu", started, ("torch", "transformers", "numba", "mambapy")),
            "parameters": {"rounds": arguments.rounds, "threads": 1},
        }
        tables.write_record(run, "run", out)


if __name__ == "__main__":
    main()
