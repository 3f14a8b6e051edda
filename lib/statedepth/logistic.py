"""Many small logistic regressions at once: one per position, fitted together by Newton's method.

The kind of probe that `statedepth.probes` fits one by one with scikit-learn, for the many refits of the necessity test.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

PENALTIES = (0.01, 1.0, 100.0)  # scikit-learn's C, the inverse strength; the same choice for every probe
FLAT = 1e-5  # a feature whose spread is under this share of the activations' is constant: rounding, not a code
READ_TOLERANCE = 1e-5  # gradient per sample at which a probe that is only read from is done
SURE = 2.0  # standard errors of the difference in loss at which a probe is preferred to the constant
LEAST = math.log(1e-9)  # log-probability that any answer gets: a class that the fit never saw must not decide a choice
_ABSENT = -1e9  # logit of a class that the fit never saw
_STEPS = 60  # of Newton; from the optimum of a stronger penalty about eight are enough


@dataclass(frozen=True)
class Linear:
    """P linear read-outs of K classes from D features."""

    weight: torch.Tensor  # (P, K, D) float64
    bias: torch.Tensor  # (P, K) float64

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """(P, n, K) for activations (P, n, D)."""
        return torch.baddbmm(self.bias[:, None], h, self.weight.mT)


def _basis(n_classes: int) -> torch.Tensor:
    """(K, K-1): logits that sum to zero, from K-1 free ones. For two classes +-v/2, scikit-learn's single row."""
    if n_classes == 2:
        return torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    centred = torch.eye(n_classes, dtype=torch.float64) - 1 / n_classes
    return torch.linalg.svd(centred).U[:, : n_classes - 1]


def fit(
    x: torch.Tensor,
    y: torch.Tensor,
    n_classes: int,
    penalties: tuple[float, ...] = PENALTIES,
    tolerance: float = 1e-7,
) -> list[Linear]:
    """For each penalty, from the strongest, the P minima of  sum_i -log p(y_i | x_i) + |weight|^2 / (2 C).

    As in scikit-learn, the weight of two classes is one row, the difference of theirs. A class that a problem lacks gets
    no probability there.

    x (P, n, D) float64 standardised activations, y (P, n) labels. The intercept is free of the penalty. Newton's method
    with backtracking: the gradient is in double precision, so that the minimum is; the Hessian, which only chooses the
    step, in single. Done where no entry of the gradient, per sample, is over `tolerance`.
    """
    n_problems, n, n_features = x.shape
    ones = torch.ones(n_problems, n, 1, dtype=torch.float64)
    x1 = torch.cat([x, ones], 2)
    x1_single = x1.float()
    basis = _basis(n_classes)
    target = torch.nn.functional.one_hot(y, n_classes).double()
    offset = torch.where(target.sum(1, keepdim=True) > 0, 0.0, _ABSENT)  # (P, 1, K)
    free, width = n_classes - 1, n_features + 1
    theta = torch.zeros(n_problems, width, free, dtype=torch.float64)  # logits = x1 @ theta @ basis.T
    found = []
    for penalty in sorted(penalties):
        ridge = torch.full((width,), 1 / penalty, dtype=torch.float64)
        ridge[-1] = 1e-9  # the intercept: enough to keep the Hessian regular

        def loss(
            theta: torch.Tensor,
            x1: torch.Tensor,
            picked: torch.Tensor,
            offset: torch.Tensor,
            ridge: torch.Tensor = ridge,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            log_p = torch.log_softmax(x1 @ theta @ basis.T + offset, 2)
            return -(log_p * picked).sum((1, 2)) + (ridge[:, None] * theta**2).sum((1, 2)) / 2, log_p

        active = torch.arange(n_problems)
        a, single, picked, shut = (
            x1,
            x1_single,
            target,
            offset,
        )  # of the problems that go on; copied only where some end
        value, log_p = loss(theta, a, picked, shut)
        for _ in range(_STEPS):
            here, p = theta[active], log_p.exp()
            gradient = a.mT @ ((p - picked) @ basis) + ridge[:, None] * here  # (A, width, free)
            going = gradient.abs().amax((1, 2)) > tolerance * n
            if not going.any():
                break
            if not going.all():
                active, a, single, picked, shut = (part[going] for part in (active, a, single, picked, shut))
                here, p, gradient, value = (part[going] for part in (here, p, gradient, value))
            hessian = _hessian(single, p, basis).double() + torch.diag(ridge.repeat(free))
            flat = gradient.mT.reshape(len(active), -1, 1)
            step = torch.cholesky_solve(flat, _factor(hessian)).reshape(-1, free, width).mT
            size = torch.ones(len(active), 1, 1, dtype=torch.float64)
            trial, log_p = loss(here - step, a, picked, shut)
            for _ in range(30):
                worse = trial > value + 1e-12 * value.abs()
                if not worse.any():
                    break
                size[worse] /= 2
                trial[worse], log_p[worse] = loss((here - size * step)[worse], a[worse], picked[worse], shut[worse])
            theta[active], value = here - size * step, trial
        else:
            warnings.warn(f"{len(active)} probes at C = {penalty:g} not converged after {_STEPS} steps", stacklevel=2)
        weight = basis @ theta.mT  # (P, K, width)
        seen = (offset[:, 0] == 0).double()[
            ..., None
        ]  # (P, K, 1); an absent class tells nothing: its row is the others' mean
        weight = seen * weight + (1 - seen) * (seen * weight).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        found.append(Linear(weight[..., :-1].clone(), weight[..., -1] + offset[:, 0]))
    return found


def _factor(hessian: torch.Tensor) -> torch.Tensor:
    """Cholesky factors, with just as much added to each diagonal as the rounding of single precision asks for."""
    jitter = 2e-6 * hessian.diagonal(dim1=1, dim2=2).mean(1)
    while True:
        factor, failed = torch.linalg.cholesky_ex(hessian + torch.diag_embed(jitter[:, None].expand(hessian.shape[:2])))
        if not failed.any():
            return factor
        jitter = torch.where(failed > 0, 10 * jitter, jitter)


def _hessian(x1: torch.Tensor, p: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """(P, (K-1)(D+1), (K-1)(D+1)) second derivatives of the loss, blocks of the free logits."""
    free = basis.shape[1]
    in_basis = p @ basis  # (P, n, K-1): of cov = B' (diag p - p p') B
    blocks: list[list[torch.Tensor]] = []
    for i in range(free):
        row = []
        for j in range(free):
            if j < i:
                row.append(blocks[j][i].mT)
                continue
            cov = p @ (basis[:, i] * basis[:, j]) - in_basis[..., i] * in_basis[..., j]
            row.append(x1.mT @ (cov.float()[..., None] * x1))
        blocks.append(row)
    return torch.cat([torch.cat(row, 2) for row in blocks], 1)


@dataclass(frozen=True)
class Reading:
    """What P probes, fitted, chosen and tested on three samples, read of a variable."""

    accuracy: np.ndarray  # (P,) on the test sample, of the probe chosen by its loss on the validation sample
    majority: np.ndarray  # (P,) of the class most frequent in the fit sample
    bits: np.ndarray  # (P,) information per label on the test sample over that of the constant, in bits
    by_accuracy: np.ndarray  # (P,) accuracy of the probe chosen by its accuracy, the constant no candidate
    probe: Linear  # the chosen ones, on activations as they are; zero weights where the constant was chosen
    strong: Linear  # those with the strongest penalty


Sample = tuple[torch.Tensor, torch.Tensor]  # (P, n, D) activations and their (P, n) labels


def read(
    sample: Sample,
    validation: Sample,
    test: Sample,
    n_classes: int,
    spread: float,
    penalties: tuple[float, ...] = PENALTIES,
    group: int = 1,
) -> Reading:
    """Fit P probes with each penalty, choose each on validation, report on test.

    The choice is by cross-entropy, and the constant (the class frequencies of the fit sample) is one of the candidates: it
    stays unless a probe's loss is under its by `SURE` standard errors. A probe that tells no more is no reading, whatever
    side of one half its rounding falls on: where class means coincide, one with almost no weight can be right more often
    than the most frequent class is, and tell nothing in bits. `by_accuracy` is for those who want that too. `group`
    validation rows in a row are of one sequence, and count as one. `spread` is the standard deviation of the activations before any edit; features
    flatter than `FLAT` of it are taken for constants, or the rounding errors of an exact eraser would be read. Raises
    ValueError for activations that are not finite and for labels outside 0..K-1.
    """
    for part, labels in (sample, validation, test):
        if not torch.isfinite(part).all():
            raise ValueError("activations hold values that are not finite; a probe of them means nothing")
        if labels.min() < 0 or labels.max() >= n_classes:
            raise ValueError(f"labels must be whole numbers from 0 to {n_classes - 1}")
    h, y = sample
    mean, scale = h.mean(1, keepdim=True), h.std(1, keepdim=True, correction=0)
    live = scale > FLAT * spread
    shrink = torch.where(live, 1 / torch.where(live, scale, 1.0), 0.0)
    candidates = fit((h - mean) * shrink, y, n_classes, penalties, READ_TOLERANCE)
    candidates = [
        Linear(one.weight * shrink, one.bias - ((one.weight * shrink) @ mean.mT)[..., 0]) for one in candidates
    ]
    frequency = torch.nn.functional.one_hot(y, n_classes).double().mean(1)
    constant = Linear(torch.zeros_like(candidates[0].weight), frequency.clamp_min(1e-9).log())
    here = torch.arange(len(y))
    judged = [_score(one, *validation) for one in (constant, *candidates)]
    losses, accuracies = torch.stack([loss for loss, _ in judged]), torch.stack([share for _, share in judged])
    best, by_accuracy = 1 + losses[1:].mean(2).argmin(0), 1 + accuracies[1:].argmax(0)
    gain = (losses[0] - losses[best, here]).reshape(len(y), -1, group).mean(2)  # (P, sequences)
    error = gain.std(1) / math.sqrt(gain.shape[1])
    by_loss = torch.where(gain.mean(1) > SURE * error, best, 0)
    tested = [_score(one, *test) for one in (constant, *candidates)]
    loss, accuracy = torch.stack([loss.mean(1) for loss, _ in tested]), torch.stack([share for _, share in tested])
    weights, biases = (
        torch.stack([getattr(one, part) for one in (constant, *candidates)]) for part in ("weight", "bias")
    )
    return Reading(
        accuracy[by_loss, here].numpy(),
        accuracy[0].numpy(),
        ((loss[0] - loss[by_loss, here]) / np.log(2)).numpy(),
        accuracy[by_accuracy, here].numpy(),
        Linear(weights[by_loss, here], biases[by_loss, here]),
        candidates[0],
    )


def _score(probe: Linear, h: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every row in nats, (P, n), and accuracy, (P,), of each of P probes."""
    log_p = torch.log_softmax(probe.logits(h), 2).clamp_min(LEAST)
    loss = -log_p.gather(2, y[..., None])[..., 0]
    return loss, (log_p.argmax(2) == y).double().mean(1)
