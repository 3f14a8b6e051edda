"""Train one model on one task; checkpoints that say what they are; training that survives a kill."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from statedepth import models, tasks
from statedepth.files import write_whole
from statedepth.models import ModelSpec

BEYOND = (1.0, 1.5, 2.0, 4.0)  # lengths at which a trained model is evaluated, over the training length
EVAL_SEQUENCES = 4096
STORED = torch.float16  # of the weights in a checkpoint: half the size in the history of the repository
SAVE_EVERY = 200  # steps between two points from which an interrupted run can go on


def state_loss(model: nn.Module, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the states at every position, and the (B, T, n_outputs) logits."""
    out = models.logits(model, tokens)
    return F.cross_entropy(out.flatten(0, 1), targets.flatten()), out.detach()


def last_loss(model: nn.Module, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the states at the last position, and the (B, T, n_outputs) logits."""
    out = models.logits(model, tokens)
    return F.cross_entropy(out[:, -1], targets[:, -1]), out.detach()


LOSSES = {"every": state_loss, "last": last_loss}


@dataclass(frozen=True)
class TrainSpec:
    """How a model is trained; the same for every task of an architecture (`recipe`).

    AdamW with weight decay .01 and clipping at norm 1; the rate warms up over 5% of the steps, stays, and falls
    linearly to zero over the last 40%. Batches start at `min_length` tokens; whenever the accuracy at the last two
    positions of the longest batch passes `grow_at`, the longest length grows by one, up to `length` (0: lengths are
    mixed nearly from the start). Half of the batches have the longest length, half a length drawn evenly up to it.
    Training stops after `steps`. With `stop_at` it may stop before: once the accuracy at full length on the validation
    split reaches it, looked at every `SAVE_EVERY` steps, the rate begins its fall there and then, which again takes 40%
    of all steps that are done. So every task is trained until it is learned, by one rule, and no longer.

    With `supervision` last, the loss and the growth of the lengths see the last position of each sequence alone. Lengths
    being mixed, any position from `min_length` on is the last of some.
    """

    length: int = 20  # tokens, the longest training length T
    steps: int = 2000  # optimiser steps
    lr: float = 3e-3  # AdamW's rate at its plateau
    batch: int = 64  # sequences per step
    min_length: int = 4  # tokens at the start of the curriculum
    grow_at: float = 0.95  # accuracy at the last two positions at which the length grows
    stop_at: float = 0.0  # accuracy at full length at which the rate begins to fall; 0 for never before its time
    supervision: str = "every"  # positions whose state is asked for in training: every, or the last

    def __post_init__(self) -> None:
        for name, kind, low, high in (
            ("length", int, 4, 1024),
            ("steps", int, 1, 1_000_000),
            ("lr", float, 1e-6, 1),
            ("batch", int, 1, 65536),
            ("min_length", int, 2, 1024),
            ("grow_at", float, 0, 1),
            ("stop_at", float, 0, 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or not low <= value <= high:
                what = "a whole number" if kind is int else "a number"
                raise ValueError(f"{name}={value!r}: must be {what} from {low:g} to {high:g}")
            object.__setattr__(self, name, kind(value))  # 1 and 1.0 are one setting, and have one hash
        if self.supervision not in LOSSES:
            raise ValueError(f"supervision={self.supervision!r}: must be {' or '.join(LOSSES)}")
        if self.min_length > self.length:
            raise ValueError(f"min_length={self.min_length}: must not exceed length={self.length}")


# One recipe per architecture for all tasks, fixed on the learnability of the tasks alone, before any probe was run.
RECIPES: dict[str, dict[str, Any]] = {
    "transformer": {
        "steps": 6000,
        "lr": 1e-3,
        "grow_at": 0.0,
    },  # all lengths from the start: waiting only cost it steps
    "mamba": {"steps": 2500},
    "mamba2": {"steps": 2500},
    "lstm": {"steps": 1000},
    "gru": {"steps": 1000},
}


# For tasks of very different difficulty (claim 2): every task until it is learned, by the same stop rule. The numbers
# were chosen on S3 and A4 alone, by accuracy, with a seed that is not published; but the Transformer's steps were raised
# from 16,000 once its first two published seeds had stayed at 98.1% and 98.7% on S3.
UNTIL_LEARNED: dict[str, dict[str, Any]] = {
    "transformer": {"steps": 24000, "lr": 5e-4, "batch": 128, "grow_at": 0.9, "stop_at": 0.99},
    "mamba": {"steps": 10000, "stop_at": 0.99},
    "mamba2": {"steps": 10000, "stop_at": 0.99},
    "lstm": {"steps": 6000, "stop_at": 0.99},
    "gru": {"steps": 6000, "stop_at": 0.99},
}


def recipe(family: str, recipes: Mapping[str, Mapping[str, Any]] = RECIPES, **changes: Any) -> TrainSpec:
    """The training recipe of an architecture, with changes."""
    if family not in recipes:
        raise ValueError(f"family={family!r}: must be one of {', '.join(recipes)}")
    unknown = set(changes) - {f.name for f in fields(TrainSpec)}
    if unknown:
        raise ValueError(
            f"{sorted(unknown)[0]}: not a training setting; known are {[f.name for f in fields(TrainSpec)]}"
        )
    return TrainSpec(**{**recipes[family], **changes})


@dataclass(frozen=True)
class Run:
    """A task, a model and a recipe: all that decides the weights. Its hash names its checkpoint.

    Raises ValueError for an unknown task, and where a Transformer has too few positions for the longest evaluation.
    """

    task: str
    model: ModelSpec
    train: TrainSpec

    def __post_init__(self) -> None:
        splits_hold(self.task, self.train.min_length, self.train.length)
        needed = lengths_beyond(self.train.length)[-1]
        if self.model.family == "transformer" and 0 < self.model.n_positions < needed:
            raise ValueError(
                f"n_positions={self.model.n_positions}: length={self.train.length} is evaluated up to {needed} tokens; "
                f"use n_positions={needed} or more, or 0 for rotary positions alone"
            )

    @property
    def key(self) -> str:
        """File name of the checkpoint: task, family, seed, and a hash of all that differs from the defaults.

        A setting added later, with a default that changes nothing, leaves the names of older checkpoints as they are;
        `load` compares every setting.
        """
        changed = {
            part: {f.name: value for f in fields(spec) if (value := getattr(spec, f.name)) != f.default}
            for part, spec in (("model", self.model), ("train", self.train))
        }
        text = json.dumps({"task": self.task, **changed}, sort_keys=True)
        return f"{self.task}-{self.model.family}-{self.model.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def seed(self) -> int:
        """Of the initial weights and of the training data."""
        return self.model.seed

    @property
    def taps(self) -> int:
        """Of the short convolution: what a block of Mamba sees of the tokens without its state."""
        return self.model.d_conv

    def untrained(self, device: str = "cpu") -> "Trained":
        """The same architecture with other random weights, never trained: a baseline for every probe."""
        task = tasks.named(self.task)
        spec = replace(self.model, seed=(self.seed + 1_000_003) % 2**31)
        return Trained(models.build(spec, task.vocab_size, task.n_outputs).eval().to(device), task, self, [])


@cache
def splits_hold(task: str, shortest: int, longest: int) -> None:
    """ValueError, which names the task, where a length that training or evaluation needs has no sequence in a split."""
    for split, lengths in (
        ("train", range(shortest, longest + 1)),
        ("validation", (longest,)),
        ("test", lengths_beyond(longest)),
    ):
        for length in lengths:
            tasks.named(task).sample(1, length, torch.Generator().manual_seed(0), split)


class TaskRun(Protocol):
    """What training and probing need to know of a run: a `Run`, or a fine-tuned checkpoint's."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def task(self) -> str:
        """Name of the task."""

    @property
    def train(self) -> TrainSpec:
        """The recipe."""

    @property
    def key(self) -> str:
        """Name of the checkpoint."""

    @property
    def seed(self) -> int:
        """Of the weights that are new, and of the training data."""

    @property
    def taps(self) -> int:
        """Of a short convolution; 1 where there is none."""

    def untrained(self, device: str = "cpu") -> "Trained":
        """The same architecture with other random weights, never trained."""


@dataclass(frozen=True)
class Trained:
    """A trained model with its record."""

    model: nn.Module
    task: tasks.Task
    run: TaskRun
    history: list[dict[str, float]]  # every SAVE_EVERY steps: step, loss, longest length
    accuracy: dict[int, list[float]] = field(default_factory=dict)  # length -> accuracy at each position, test split

    def accuracy_at(self, length: int) -> float:
        """Mean accuracy over all positions at one of the evaluated lengths."""
        return float(np.mean(self.accuracy[length]))

    def in_distribution(self) -> float:
        """Accuracy at the training length where training asked for the state: over all positions, or at the last."""
        length = self.run.train.length
        return self.accuracy_at(length) if self.run.train.supervision == "every" else self.accuracy[length][-1]


FALL = 0.4  # of all steps, over which the rate falls to zero


def learning_rate(step: int, spec: TrainSpec, end: int | None = None) -> float:
    """The rate at a step of training that ends after `end` steps: 5% warm-up, plateau, linear fall over the last 40%."""
    end = spec.steps if end is None else end
    return spec.lr * min(1.0, (step + 1) / max(0.05 * spec.steps, 1.0), (end - step) / (FALL * end))


def evaluate(
    model: nn.Module, task: tasks.Task, length: int, n: int = EVAL_SEQUENCES, seed: int = 0, split: str | None = "test"
) -> list[float]:
    """Accuracy at each of `length` positions, over `n` sequences of a split."""
    device = next(model.parameters()).device
    batch = task.sample(n, length, torch.Generator().manual_seed(seed), split)
    with torch.no_grad():
        right = torch.cat(
            [
                (models.logits(model, tokens.to(device)).argmax(-1).cpu() == targets)
                for tokens, targets in zip(batch.tokens.split(512), batch.targets.split(512), strict=True)
            ]
        )
    return right.double().mean(0).tolist()


def fit(
    model: nn.Module,
    run: "TaskRun",
    resume: Path | None = None,
    loss_of: Callable[[nn.Module, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
    progress: bool = True,
    stop_after: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train `model`, as it is given, by the recipe of `run`; what is left in the file `resume` is gone on with.

    `loss_of(model, tokens, targets)` gives the loss and the detached (B, T, n_outputs) logits of the states; it is that of
    the recipe's supervision where none is given. `watch` is told how many steps are done after each of them, before they
    are saved. Returns the history. `stop_after` ends early after so many steps, as a kill would, and raises KeyboardInterrupt. Raises
    FloatingPointError where the loss is no longer finite.
    """
    task, spec = tasks.named(run.task), run.train
    loss_of = loss_of or LOSSES[spec.supervision]
    asked = 2 if spec.supervision == "every" else 1  # last positions that the lengths grow by
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(run.seed + 1)
    longest, first, end = spec.min_length, 0, spec.steps
    history: list[dict[str, float]] = []
    if resume is not None and resume.exists():
        meta = load_progress(resume, run, model, optimiser, generator)
        longest, first, end, history = meta["longest"], meta["step"], meta["end"], meta["history"]
    bar = tqdm(initial=first, total=end, desc=run.key, disable=not progress, mininterval=2)
    step = first - 1
    while (step := step + 1) < end:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, spec, end)
        length = longest
        if torch.rand((), generator=generator) < 0.5:
            length = int(torch.randint(spec.min_length, longest + 1, (), generator=generator))
        batch = task.sample(spec.batch, length, generator, "train")
        targets = batch.targets.to(device)
        loss, out = loss_of(model, batch.tokens.to(device), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if length == longest and longest < spec.length:
            right = out[:, -asked:].argmax(-1) == targets[:, -asked:]
            longest += int(right.double().mean() > spec.grow_at)
        bar.update()
        if watch is not None:
            watch(step + 1)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == end:
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"{run.key}: the loss is {loss.item()} after {step + 1} steps; lower lr={spec.lr}"
                )
            history.append({"step": step + 1, "loss": loss.item(), "longest": longest})
            bar.set_postfix(loss=f"{loss.item():.4f}", length=longest)
            shortened = round((step + 1) / (1 - FALL))
            if spec.stop_at and longest == spec.length and end == spec.steps and shortened < end:
                reached = float(np.mean(evaluate(model, task, spec.length, n=512, split="validation")))
                history[-1]["validation"] = reached
                if reached >= spec.stop_at:
                    bar.total = end = shortened
            if resume is not None:
                done = {"longest": longest, "step": step + 1, "end": end, "history": history}
                save_progress(resume, run, model, optimiser, generator, done)
        if stop_after is not None and step + 1 >= stop_after:
            raise KeyboardInterrupt
    bar.close()
    return history


def round_to(model: nn.Module, stored: torch.dtype) -> None:
    """Round all weights to what a checkpoint holds: what is evaluated, probed and published is what was stored."""
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.to(stored))


def train(
    run: Run,
    folder: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    stop_after: int | None = None,
) -> Trained:
    """Train from nothing, or go on from where an interrupted run of the same spec left off in `folder`.

    Same run, same machine: the same bits, interrupted or not. Raises as `fit` does.
    """
    task = tasks.named(run.task)
    model = models.build(run.model, task.vocab_size, task.n_outputs).to(device)
    resume = None if folder is None else folder / f"{run.key}.resume.safetensors"
    history = fit(model, run, resume, progress=progress, stop_after=stop_after)
    model.eval()
    round_to(model, STORED)
    accuracy = {length: evaluate(model, task, length) for length in lengths_beyond(run.train.length)}
    trained = Trained(model, task, run, history, accuracy)
    if folder is not None:
        save(trained, folder)
        assert resume is not None
        resume.unlink(missing_ok=True)
    return trained


def snapshots(run: Run, steps: Sequence[int], folder: Path, device: str = "cpu") -> dict[int, Trained]:
    """The model of this run as it was after each of `steps` (0: before training), with its accuracy at the training length.

    It is trained anew, as `train` does it, and goes on where an interrupted attempt left off in `folder`; weights are
    rounded as in a checkpoint. ValueError for a step that training does not reach, and as `read_checked`.
    """
    task = tasks.named(run.task)
    if not steps or min(steps) < 0 or max(steps) > run.train.steps:
        raise ValueError(f"steps={list(steps)}: must be from 0 to {run.train.steps}")

    def build() -> nn.Module:
        return models.build(run.model, task.vocab_size, task.n_outputs)

    files = {step: folder / f"{run.key}.step{step}.safetensors" for step in steps}
    model = build().to(device)

    def keep(step: int) -> None:
        if step in files:
            tensors = {k: v.detach().to("cpu", STORED).contiguous() for k, v in model.state_dict().items()}
            write_checked(files[step], run, tensors, {"step": step})

    lost = [step for step, path in files.items() if not path.exists()]
    if lost:
        resume = folder / f"{run.key}.steps.resume.safetensors"
        if resume.exists() and read_checked(resume, run)[1]["step"] >= min(s for s in (*lost, run.train.steps) if s):
            resume.unlink()  # it lies behind a step that is wanted again
        keep(0)
        fit(model, run, resume, progress=False, watch=keep)
        if lacking := [step for step, path in files.items() if not path.exists()]:
            raise ValueError(f"steps={list(steps)}: training of {run.key} ended before {lacking}")
    found = {}
    for step, path in files.items():
        kept = build()
        kept.load_state_dict(read_checked(path, run)[0])
        kept.eval().to(device)
        length = run.train.length
        found[step] = Trained(kept, task, run, [], {length: evaluate(kept, task, length)})
    return found


def lengths_beyond(length: int) -> list[int]:
    """The lengths at which a model trained up to `length` is evaluated."""
    return [round(length * factor) for factor in BEYOND]


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names and contents."""
    return hashlib.sha256(b"".join(n.encode() + t.numpy().tobytes() for n, t in sorted(tensors.items()))).hexdigest()


def write_checked(path: Path, run: object, tensors: Mapping[str, torch.Tensor], done: Mapping[str, Any]) -> None:
    """Tensors with the run that they are of, a record of the caller's that JSON can hold, and a hash of their contents."""
    meta = {"run": repr(run), "done": json.dumps(done), "sha256": digest(tensors)}
    write_whole(path, lambda draft: draft.write_bytes(safetensors.torch.save(dict(tensors), meta)))


def read_checked(path: Path, run: object) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_checked` wrote. ValueError, by name, for a file that is damaged or of another run."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path.name}: cannot be read ({error}); delete it to train from nothing") from error
    if meta.get("run") != repr(run) or meta.get("sha256") != digest(tensors):
        raise ValueError(f"{path.name}: damaged, or of another run than {run}; delete it to train from nothing")
    return tensors, json.loads(meta["done"])


def save_progress(
    path: Path,
    run: object,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    done: Mapping[str, Any],
) -> None:
    """Write all that an interrupted training needs to go on as if it had not been; `done` is JSON of the caller's."""
    tensors = {f"model.{k}": v.cpu().clone() for k, v in model.state_dict().items()}  # tied ones must not share
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v.cpu() for k, v in state.items()}
    write_checked(path, run, tensors | {"generator": generator.get_state()}, done)


def load_progress(
    path: Path, run: object, model: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Any]:
    """Put back what `save_progress` wrote, and return its `done`. ValueError as `read_checked`."""
    tensors, done = read_checked(path, run)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    generator.set_state(tensors["generator"])
    return done


def save(trained: Trained, folder: Path) -> Path:
    """Write KEY.safetensors and, after it, KEY.json: the spec, the record, and the SHA-256 of the weights.

    The weights are stored in float16; `train` has rounded them to it, so that nothing is lost.
    """
    weights = folder / f"{trained.run.key}.safetensors"
    tensors = {k: v.detach().to("cpu", STORED).contiguous() for k, v in trained.model.state_dict().items()}
    write_whole(weights, lambda draft: draft.write_bytes(safetensors.torch.save(tensors)))
    record = {
        "run": asdict(trained.run),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": models.n_parameters(trained.model),
        "history": trained.history,
        "accuracy": trained.accuracy,
    }
    write_whole(folder / f"{trained.run.key}.json", lambda draft: draft.write_text(json.dumps(record, indent=1) + "\n"))
    return weights


def load(run: Run, folder: Path, device: str = "cpu") -> Trained:
    """The checkpoint of exactly this run. FileNotFoundError if there is none; ValueError, by name, if it is not
    what it says it is: another spec under this name, weights that do not match their hash, an unreadable record."""
    weights, record_path = folder / f"{run.key}.safetensors", folder / f"{run.key}.json"
    for path in (record_path, weights):
        if not path.exists():
            raise FileNotFoundError(f"{path.name}: no such checkpoint in {folder}")
    again = "delete both files of this name and run again to train it anew"
    try:
        record = json.loads(record_path.read_text())
        said = record["run"]
        stored = Run(said["task"], ModelSpec(**said["model"]), TrainSpec(**said["train"]))
        accuracy = {int(length): values for length, values in record["accuracy"].items()}
        wanted_hash, history = record["sha256"], record["history"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{record_path.name}: not a readable record of a checkpoint ({error}); {again}") from error
    if stored != run:
        raise ValueError(f"{record_path.name}: describes {stored}, not {run}; {again}")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != wanted_hash:
        raise ValueError(f"{weights.name}: does not match the hash in {record_path.name}; {again}")
    task = tasks.named(run.task)
    model = models.build(run.model, task.vocab_size, task.n_outputs)
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{weights.name}: does not fit the model that its record describes ({error}); {again}"
        ) from error
    return Trained(model.eval().to(device), task, run, history, accuracy)
