"""Linear probes of the state at a site, and everything a probe's accuracy must stand beside.

A probe is multinomial logistic regression on standardised features. It is fitted on the train split, its
regularisation chosen on the validation split, its accuracy reported on the test split; splits are by sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from statedepth import models, tasks
from statedepth.logistic import PENALTIES
from statedepth.models import ModelSpec
from statedepth.stream import stream
from statedepth.tasks import SPLITS, Batch, Task
from statedepth.training import Trained

SHOWN_PENALTIES = (*PENALTIES, 1e4)  # at each of these alone the pooled profile is given too: does the choice matter?
POOLED_POSITIONS = 4  # positions drawn from each sequence to fit a pooled probe; it is tested at all of them
UNREADABLE = -1.0e9  # bias of a class that never occurs where the probe was fitted


@dataclass(frozen=True)
class ProbeSettings:
    """How much data a probe gets; the same in every cell. ValueError for an impossible amount."""

    n_fit: int = 4096  # sequences to fit on
    n_validation: int = 1024  # sequences to choose the penalty on
    n_test: int = 2048  # sequences to report on
    seed: int = 0  # of the sequences and of the positions drawn from them
    own: str = "all"  # which networks get a probe of their own at each position: all, trained (on the task), none
    beside: bool = True  # are the untrained network and the control labels probed too?

    def __post_init__(self) -> None:
        if self.own not in ("all", "trained", "none") or not isinstance(self.beside, bool):
            raise ValueError(
                f"own={self.own!r}, beside={self.beside!r}: must be all, trained or none; and True or False"
            )
        for name, low in (("n_fit", 64), ("n_validation", 32), ("n_test", 32), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 2**20:
                raise ValueError(f"{name}={value!r}: must be a whole number from {low} to {2**20}")


@dataclass(frozen=True)
class Probe:
    """A linear read-out of K classes from D features, with the standardisation folded in."""

    weight: np.ndarray  # (K, D)
    bias: np.ndarray  # (K,)
    accuracy: float  # on the test split
    baselines: dict[str, float] = field(default_factory=dict)  # name -> accuracy on the same split
    penalty: float = 0.0  # scikit-learn's C of this fit; 0 where one class was all there was to fit

    def predict(self, h: np.ndarray) -> np.ndarray:
        """(n,) classes for (n, D) activations."""
        return (h @ self.weight.T + self.bias).argmax(1)

    def score(self, h: np.ndarray, y: np.ndarray) -> float:
        """Accuracy for (n, D) activations and their (n,) labels."""
        return float((self.predict(h) == y).mean())


Pair = tuple[np.ndarray, np.ndarray]  # (n, D) activations and their (n,) labels


def fit_probe(
    fit: Pair, validation: Pair, test: Pair, n_classes: int, penalties: tuple[float, ...] = PENALTIES
) -> Probe:
    """Fit on the first pair with each penalty, choose by the second (the strongest of equals), report on the third.

    Its `majority` baseline is the accuracy, on the test pair, of the class most frequent in the fit pair. Where the
    fit pair holds one class only, the probe always answers with it. Raises ValueError for activations that are not
    finite and for labels outside 0..n_classes-1.
    """
    return choose(fit_probes(fit, validation, test, n_classes, penalties), validation)


def choose(probes: list[Probe], validation: Pair) -> Probe:
    """The first of the probes that are best on the validation pair."""
    return max(probes, key=lambda probe: probe.score(*validation))


def fit_probes(
    fit: Pair, validation: Pair, test: Pair, n_classes: int, penalties: tuple[float, ...] = PENALTIES
) -> list[Probe]:
    """One probe for each penalty, from the strongest; see `fit_probe`.

    Newton's method in float64: it converges at every penalty, which limited-memory BFGS does not in hundreds of
    iterations, and in single precision Newton's method diverges.
    """
    h, y = fit
    for part, (h_part, y_part) in {"fit": fit, "validation": validation, "test": test}.items():
        if not np.isfinite(h_part).all():
            raise ValueError(f"{part} activations hold values that are not finite; a probe of them means nothing")
        if len(h_part) != len(y_part) or y_part.min() < 0 or y_part.max() >= n_classes:
            raise ValueError(f"{part} labels must be {len(h_part)} whole numbers from 0 to {n_classes - 1}")
    counts = np.bincount(y, minlength=n_classes)
    majority = {"majority": float((test[1] == counts.argmax()).mean())}
    present = np.flatnonzero(counts)
    if len(present) == 1:
        bias = np.full(n_classes, UNREADABLE)
        bias[present] = 0.0
        return [Probe(np.zeros((n_classes, h.shape[1])), bias, majority["majority"], majority)]
    mean, scale = h.mean(0, dtype=np.float64), h.std(0, dtype=np.float64)
    scale[scale < 1e-9] = 1.0  # a constant feature stays constant
    standard = (h - mean) / scale
    probes = []
    regression = LogisticRegression(solver="newton-cholesky", warm_start=True)  # from the optimum of a stronger penalty
    for penalty in sorted(penalties):
        regression.set_params(C=penalty).fit(standard, y)
        coef, intercept = regression.coef_, regression.intercept_
        if len(present) == 2:  # scikit-learn gives one row for two classes
            coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        weight, bias = np.zeros((n_classes, h.shape[1])), np.full(n_classes, UNREADABLE)
        weight[present] = coef / scale
        bias[present] = intercept - weight[present] @ mean
        probes.append(Probe(weight, bias, Probe(weight, bias, 0.0).score(*test), majority, penalty))
    return probes


def readability(accuracy: float, majority: float) -> float:
    """A' = (accuracy - majority) / (1 - majority); not a number where one class is all there is."""
    return float("nan") if majority >= 1.0 else (accuracy - majority) / (1.0 - majority)


def window(site: int, taps: int = ModelSpec.d_conv) -> int:
    """Tokens that l short convolutions see, 3l + 1 with the usual four taps: w of the Bayes baseline at site l."""
    return (taps - 1) * site + 1


def bayes_accuracy(task: Task, batch: Batch, variable: str, w: int) -> np.ndarray:
    """(T,) accuracy of the best possible guess of `variable` from the position and the last `w` tokens.

    By forward filtering of the automaton: a belief over its states, started w tokens back from the law of the state at
    that position, then updated with the law of each token seen (Rabiner 1989). Exact for these sequences: the mean
    probability of the most probable class, not the noisy count of right guesses.
    """
    tables, length = task.tables, batch.tokens.shape[1]
    n_states, move = len(tables.states), tables.move
    prior = np.zeros((length + 1, n_states))  # law of the state after t tokens
    prior[0, 0] = 1.0
    step = np.zeros((n_states, n_states))
    for token in range(task.vocab_size):
        allowed = move[:, token] >= 0
        np.add.at(step, (np.flatnonzero(allowed), move[allowed, token]), tables.law[allowed, token])
    for t in range(length):
        prior[t + 1] = prior[t] @ step
    after = np.zeros((task.vocab_size, n_states, n_states))  # belief @ after[token]: unnormalised update
    for token in range(task.vocab_size):
        allowed = move[:, token] >= 0
        after[token, np.flatnonzero(allowed), move[allowed, token]] = tables.law[allowed, token]
    classes = np.eye(task.n_states[variable])[tables.read[variable]]  # (S, K)
    tokens = batch.tokens.numpy()
    accuracy = np.empty(length)
    for t in range(length):
        first = max(0, t + 1 - w)
        recent, inverse = np.unique(tokens[:, first : t + 1], axis=0, return_inverse=True)
        belief = np.tile(prior[first], (len(recent), 1))
        for column in recent.T:
            belief = np.einsum("bs,bsr->br", belief, after[column])
            belief /= belief.sum(1, keepdims=True)
        accuracy[t] = (belief @ classes).max(1)[inverse.ravel()].mean()
    return accuracy


def control_labels(task: Task, batch: Batch, variable: str) -> np.ndarray:
    """(B, T) labels that mean nothing: a fixed random function of (position mod 4, last two tokens).

    Hewitt and Liang 2019 (arXiv:1909.03368), with the context a short window rather than a word type. Each context of
    one fixed sample of the train split gets the class that is most under its share so far, in random order, so that
    the control's marginals follow the variable's. The function depends on the task, the variable and the length alone.
    """
    reference = task.sample(4096, batch.tokens.shape[1], torch.Generator().manual_seed(0), "train")
    context, n_contexts = _contexts(task, batch), 4 * (task.vocab_size + 1) * task.vocab_size
    frequency = np.bincount(_contexts(task, reference).ravel(), minlength=n_contexts).astype(float)
    wanted = np.bincount(reference.states[variable].numpy().ravel(), minlength=task.n_states[variable]).astype(float)
    label = np.zeros(n_contexts, dtype=np.int64)
    rng = np.random.default_rng(0)
    order = rng.permutation(np.flatnonzero(frequency))
    for c in order[np.argsort(-frequency[order] // 1000, kind="stable")]:  # roughly the frequent first, else random
        label[c] = wanted.argmax()
        wanted[label[c]] -= frequency[c]
    return label[context]


def _contexts(task: Task, batch: Batch) -> np.ndarray:
    tokens = batch.tokens.numpy()
    before = np.concatenate([np.full((len(tokens), 1), task.vocab_size), tokens[:, :-1]], axis=1)
    position = np.arange(tokens.shape[1]) % 4
    return (position * (task.vocab_size + 1) + before) * task.vocab_size + tokens


@dataclass(frozen=True)
class Activations:
    """The stream of one model on one split."""

    batch: Batch
    h: dict[int, np.ndarray]  # site -> (B, T, D) float32


def activations(
    trained: Trained, length: int, sites: list[int], n: int, split: str, seed: int, reader: Task | None = None
) -> Activations:
    """Run `n` sequences of a split through the model and keep the stream at `sites`; `reader` draws and labels them."""
    offset = list(SPLITS).index(split)
    batch = (reader or trained.task).sample(n, length, torch.Generator().manual_seed(1000 * seed + offset + 17), split)
    device = next(trained.model.parameters()).device
    parts: list[dict[int, np.ndarray]] = []
    for tokens in batch.tokens.split(1024):
        with torch.no_grad(), stream(trained.model, keep=sites) as kept:
            models.logits(trained.model, tokens.to(device))
        parts.append({site: kept[site].float().cpu().numpy() for site in sites})
    return Activations(batch, {site: np.concatenate([p[site] for p in parts]) for site in sites})


def profile(
    trained: Trained, variable: str, length: int, settings: ProbeSettings, labelled_by: str = ""
) -> pd.DataFrame:
    """Probe every site of one model for one variable; a row per (site, network, labels, position, penalty).

    `network` is trained or untrained, `labels` is task or control, `position` is 1..T, or 0 for all positions pooled.
    `penalty` is 0 where it was chosen on the validation split; pooled rows with each of `SHOWN_PENALTIES` alone follow
    for the trained network and the task's labels, without probes of single positions.
    `accuracy` is of the pooled probe (at that position, or over all); `own_accuracy` is of a probe fitted at that
    position alone (pooled rows: the mean over positions); `majority` and `own_majority` are their floors. A second
    pooled row, position -1, covers the positions beyond the window of the last site, where there are any. What
    `settings` leaves out has no rows, or no numbers in the columns of a position's own probe.

    `labelled_by` names another task on the same strings: its automaton draws and labels them, and `variable` is one of
    its. ValueError where the tokens are not the same.
    """
    reader = tasks.named(labelled_by) if labelled_by else trained.task
    if reader.vocab_size != trained.task.vocab_size:
        raise ValueError(f"labelled_by={labelled_by!r}: has {reader.vocab_size} tokens, {trained.task.name} others")
    _check_variable(reader, variable)
    sites = list(range(len(models.blocks(trained.model)) + 1))
    rows: list[dict[str, object]] = []
    for network in ("trained", "untrained") if settings.beside else ("trained",):
        subject = trained if network == "trained" else trained.run.untrained(_device(trained))
        data = {
            split: activations(subject, length, sites, n, split, settings.seed, reader)
            for split, n in zip(SPLITS, (settings.n_fit, settings.n_validation, settings.n_test), strict=True)
        }
        for labels in ("task", "control") if network == "trained" and settings.beside else ("task",):
            y = {split: part.batch.states[variable].numpy() for split, part in data.items()}
            if labels == "control":
                y = {s: control_labels(reader, part.batch, variable) for s, part in data.items()}
            for site in sites:
                h = {split: part.h[site] for split, part in data.items()}
                shown = SHOWN_PENALTIES if (network, labels) == ("trained", "task") else ()
                own = settings.own == "all" or (settings.own == "trained" and bool(shown))
                n_classes, beyond = reader.n_states[variable], window(sites[-1], trained.run.taps)
                for row in _probe_site(h, y, n_classes, settings.seed, beyond, shown, own):
                    rows.append({"site": site, "network": network, "labels": labels, **row})
    return pd.DataFrame(rows)


def _check_variable(task: Task, variable: str) -> None:
    if variable not in task.n_states:
        raise ValueError(f"variable={variable!r}: {task.name} has {', '.join(task.n_states)}")


def _device(trained: Trained) -> str:
    return str(next(trained.model.parameters()).device)


def pooled_probe(
    h: dict[str, np.ndarray], y: dict[str, np.ndarray], n_classes: int, seed: int, shown: tuple[float, ...] = ()
) -> tuple[Probe, list[Probe]]:
    """The probe for all positions of one site, and one probe for each penalty; `h` and `y` hold a (n, T, D) and a (n, T)
    array for each split.

    Fitted on a few positions drawn from each sequence of the train split, chosen on all of the validation split among
    `PENALTIES`; `shown` are further penalties that are fitted and not chosen from.
    """
    n, length, _ = h["train"].shape
    rng = np.random.default_rng(seed)
    drawn = np.argsort(rng.random((n, length)), axis=1)[:, :POOLED_POSITIONS]
    take = np.arange(n)[:, None], drawn
    fit = _flat(h["train"][take]), y["train"][take].ravel()
    validation, test = ((_flat(h[s]), y[s].ravel()) for s in ("validation", "test"))
    probes = fit_probes(fit, validation, test, n_classes, tuple({*PENALTIES, *shown}))
    return choose([probe for probe in probes if probe.penalty in (0.0, *PENALTIES)], validation), probes


def _flat(h: np.ndarray) -> np.ndarray:
    return h.reshape(-1, h.shape[-1])


def _probe_site(
    h: dict[str, np.ndarray],
    y: dict[str, np.ndarray],
    n_classes: int,
    seed: int,
    beyond: int,
    shown: tuple[float, ...] = (),
    each_position: bool = True,
) -> Iterator[dict[str, float]]:
    """At one site: a pooled probe, a probe of its own for each position, and the pooled one at each `shown` penalty."""
    length = h["train"].shape[1]
    pooled, probes = pooled_probe(h, y, n_classes, seed, shown)
    right = (pooled.predict(_flat(h["test"])) == y["test"].ravel()).reshape(len(y["test"]), length)
    common = np.bincount(y["train"].ravel(), minlength=n_classes).argmax()
    is_common = y["test"] == common
    own, own_majority = np.full(length, np.nan), np.full(length, np.nan)
    for t in range(length) if each_position else ():
        at = {s: (h[s][:, t], y[s][:, t]) for s in h}
        probe = fit_probe(at["train"], at["validation"], at["test"], n_classes)
        own[t], own_majority[t] = probe.accuracy, probe.baselines["majority"]
    groups = {0: np.arange(length), -1: np.arange(beyond, length), **{t + 1: np.array([t]) for t in range(length)}}
    for position, where in groups.items():
        if len(where):
            yield {
                "position": position,
                "penalty": 0.0,
                "accuracy": right[:, where].mean(),
                "majority": is_common[:, where].mean(),
                "own_accuracy": own[where].mean(),
                "own_majority": own_majority[where].mean(),
            }
    for probe in probes if shown else ():
        yield {
            "position": 0,
            "penalty": probe.penalty,
            "accuracy": probe.accuracy,
            "majority": is_common.mean(),
            "own_accuracy": np.nan,
            "own_majority": np.nan,
        }


def baselines(
    task: Task, variable: str, length: int, n_layers: int, settings: ProbeSettings, taps: int = ModelSpec.d_conv
) -> pd.DataFrame:
    """What needs no network, on the same test split; a row per (site, position), position 0 pooled, -1 as in `profile`.

    `position_only` is the accuracy of the class most frequent at each position; `bayes_window` of the best guess from
    the position and the last 3l+1 tokens (`window`).
    """
    _check_variable(task, variable)
    batches = {}
    for offset, (split, n) in enumerate(
        zip(SPLITS, (settings.n_fit, settings.n_validation, settings.n_test), strict=True)
    ):
        generator = torch.Generator().manual_seed(1000 * settings.seed + offset + 17)
        batches[split] = task.sample(n, length, generator, split)
    y_fit, y_test = (batches[s].states[variable].numpy() for s in ("train", "test"))
    common = [np.bincount(column).argmax() for column in y_fit.T]
    by_position = (y_test == common).mean(0)
    rows = []
    for site in range(n_layers + 1):
        bayes = bayes_accuracy(task, batches["test"], variable, window(site, taps))
        groups = {
            0: slice(None),
            -1: slice(window(n_layers, taps), None),
            **{t + 1: slice(t, t + 1) for t in range(length)},
        }
        for position, where in groups.items():
            if len(bayes[where]):
                rows.append(
                    {
                        "site": site,
                        "position": position,
                        "position_only": by_position[where].mean(),
                        "bayes_window": bayes[where].mean(),
                    }
                )
    return pd.DataFrame(rows)
