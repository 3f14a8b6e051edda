"""Erasers: affine maps that take a variable out of activations. Fit and apply are two things.

A fitter learns from activations and labels; the frozen `Eraser` that it returns maps (..., D) to (..., D):

    h' = h - left right (h - mean),

so that the mean is kept. Activations of shape (n, D) give one eraser; (n, T, D) with labels (n, T) give one for each of
T positions, which is then called on (..., T, D). All is fitted in double precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from statedepth import logistic

Array = Any  # a numpy array or a torch tensor; an eraser gives back what it is given
TINY_VARIANCE = 1e-12  # of the largest: directions under it are rounding, not activations
TINY_MEAN = 1e-6  # of the activations' spread, or a correlation: class means closer than this are the same
FLAT = 1e-9  # of the largest activation: a spread under it is rounding
INLP_MARGIN = 0.01  # validation accuracy over the majority at which INLP is done
INLP_PENALTY = (
    100.0  # scikit-learn's C of the probes that INLP goes through: the weakest of the refits', or they read on
)
INLP_TOLERANCE = 1e-4  # gradient per sample at which a probe of INLP is done: its next round mends what it missed


@dataclass(frozen=True)
class Eraser:
    """What an edit takes away, and how much that is. With positions, every field has a leading axis T."""

    mean: torch.Tensor  # (D,) or (T, D)
    left: torch.Tensor  # (D, r) or (T, D, r); where a position has a lower rank, columns of zeros
    right: torch.Tensor  # (r, D) or (T, r, D)
    method: str
    rank: float  # directions taken away; over positions, their mean
    variance_removed: float  # E |h' - h|^2 / E |h - mean|^2 where it was fitted: the size of the edit

    @property
    def positions(self) -> int | None:
        """T, or None where one eraser serves all positions."""
        return None if self.mean.ndim == 1 else len(self.mean)

    def __call__(self, h: Array) -> Array:
        """The edited activations: same shape, same kind, same precision. ValueError for another number of features."""
        if tuple(h.shape[-self.mean.ndim :]) != tuple(self.mean.shape):
            raise ValueError(f"h is {tuple(h.shape)}: this eraser needs (..., {', '.join(map(str, self.mean.shape))})")
        if isinstance(h, np.ndarray):
            return self(torch.from_numpy(np.array(h))).numpy()
        if not h.is_floating_point():
            raise ValueError(f"h is {h.dtype}: activations must be floating-point numbers")
        return h - self.removed(h)

    def removed(self, h: torch.Tensor) -> torch.Tensor:
        """left right (h - mean): the part of (..., D) activations that is taken away."""
        precision = torch.promote_types(h.dtype, torch.float32)  # in half precision too little would be taken away
        mean, left, right = (part.to(h.device, precision) for part in (self.mean, self.left, self.right))
        deviation = h.to(precision) - mean
        if self.positions is None:
            return (deviation @ right.mT @ left.mT).to(h.dtype)
        flat = deviation.reshape(-1, *self.mean.shape).transpose(0, 1)  # (T, n, D)
        return (flat @ right.mT @ left.mT).transpose(0, 1).reshape(h.shape).to(h.dtype)


def _checked(h: Array, y: Array | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(T, n, D) float64 activations and (T, n) labels; T = 1 for one eraser. ValueError for what cannot be fitted on."""
    h = torch.as_tensor(h).detach().cpu()
    if h.ndim not in (2, 3) or len(h) < 2:
        raise ValueError(
            f"h is {tuple(h.shape)}: must be (n, D), or (n, T, D) for an eraser of each position, with n > 1"
        )
    h = h.double()
    if not torch.isfinite(h).all():
        raise ValueError("h holds values that are not finite; an eraser of them means nothing: leave out those rows")
    h = h[:, None] if h.ndim == 2 else h
    h = h.transpose(0, 1).contiguous()
    if y is None:
        return h, None
    y = torch.as_tensor(y).detach().cpu()
    wanted = tuple(h.shape[1::-1]) if len(h) > 1 or y.ndim == 2 else (h.shape[1],)
    if tuple(y.shape) != wanted:
        raise ValueError(f"y is {tuple(y.shape)}: must have a label for each activation, {wanted}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.min() < 0:
        raise ValueError(f"y is {y.dtype} from {y.min().item()}: labels must be whole numbers from 0")
    y = y.long()
    if y.unique().numel() < 2:
        raise ValueError(f"y holds the class {int(y.flatten()[0])} alone: nothing to erase; labels need two classes")
    return h, (y[:, None] if y.ndim == 1 else y).mT.contiguous()


def _finished(
    h: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    method: str,
    single: bool,
    center: torch.Tensor | None = None,
) -> Eraser:
    """From (T, n, D) activations and (T, D, r), (T, r, D) factors whose unused columns are zero."""
    mean = h.mean(1) if center is None else center
    deviation = h - mean[:, None]
    edit = (deviation @ right.mT @ left.mT).square().sum()
    ranks = (left.square().sum(1) > 0).sum(1)
    share = float(edit / deviation.square().sum().clamp_min(1e-300))
    keep = int(ranks.max())
    left, right = left[..., :keep], right[:, :keep]
    if single:
        mean, left, right = mean[0], left[0], right[0]
    return Eraser(mean, left, right, method, float(ranks.double().mean()), share)


def _centred(x: torch.Tensor) -> torch.Tensor:
    """(T, n, D) deviations from the mean of each position; zero where they are no more than rounding."""
    deviation = x - x.mean(1, keepdim=True)
    deviation -= deviation.mean(1, keepdim=True)
    flat = deviation.square().mean((1, 2)).sqrt() <= FLAT * x.abs().amax((1, 2))
    return torch.where(flat[:, None, None], 0.0, deviation)


def _one_hot(y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(y, int(y.max()) + 1).double()


def _orthonormal(rows: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """(T, D, r): an orthonormal basis of the span of (T, m, D) rows; zeros for what is under the (T,) threshold."""
    _, size, basis = torch.linalg.svd(rows, full_matrices=False)
    return (basis * (size > threshold[:, None])[..., None]).mT


def direction(probe: Any, h: Array | None = None) -> Eraser:
    """The orthogonal projection onto the complement of a probe's row space: v1's ablation. Rank K - 1.

    `probe` has a `weight` of (K, D), or (T, K, D) for each of T positions; rows enter as their differences from their
    mean, which is all that decides a class. `h`, (n, D) or (n, T, D), are activations whose mean is kept and by which the
    share of variance is measured; without them the projection is through the origin and that share is not a number.
    """
    weight = torch.as_tensor(probe.weight).detach().cpu().double()
    single = weight.ndim == 2
    weight = weight[None] if single else weight
    rows = weight - weight.mean(1, keepdim=True)
    size = rows.flatten(1).norm(dim=1)
    basis = _orthonormal(rows, 1e-9 * size)
    wanted = (*weight.shape[:-2], weight.shape[-1])[0 if not single else 1 :]
    if h is not None and tuple(h.shape[1:]) != wanted:
        raise ValueError(f"h is {tuple(h.shape)}: this probe needs (n, {', '.join(map(str, wanted))})")
    if h is None:
        origin = torch.zeros(len(rows), 2, rows.shape[-1], dtype=torch.float64)
        made = _finished(origin, basis, basis.mT, "direction", single)
        return replace(made, variance_removed=float("nan"))
    return _finished(_checked(h)[0], basis, basis.mT, "direction", single)


def mean_projection(h: Array, y: Array) -> Eraser:
    """The orthogonal projection onto the complement of the span of the class means less the mean. Rank K - 1.

    Afterwards all class means coincide, so that no linear probe does better than a constant on the sample that it was
    fitted on (Belrose et al. 2023, arXiv:2306.03819, theorem 3.1). ValueError as for `leace`.
    """
    x, z = _labelled(h, y)
    deviation = _centred(x)
    onehot = _one_hot(z)
    counts = onehot.sum(1)  # (T, K)
    means = onehot.mT @ deviation / counts.clamp_min(1)[..., None]
    spread = deviation.square().mean((1, 2)).sqrt()
    basis = _orthonormal(means, (TINY_MEAN * spread).clamp_min(1e-300))
    return _finished(x, basis, basis.mT, "mean projection", torch.as_tensor(h).ndim == 2)


def leace(h: Array, y: Array) -> Eraser:
    """Least-squares concept erasure (Belrose et al. 2023, arXiv:2306.03819, theorem 4.3). Rank K - 1.

    With the whitening W = cov(h)^(-1/2) and P the orthogonal projection onto the columns of W cov(h, one-hot(y)):
    h' = h - W^+ P W (h - mean), of all affine maps that leave no linear information the one that changes h least.
    Labels are always one-hot. Tolerances are of correlations, whatever the scale of h, so that a weak concept is erased
    like a strong one. Raises
    ValueError for activations that are not finite, labels of the wrong shape, and a single class.
    """
    x, z = _labelled(h, y)
    deviation = _centred(x)
    onehot = _one_hot(z)
    n = x.shape[1]
    covariance = deviation.mT @ deviation / n
    cross = deviation.mT @ (onehot - onehot.mean(1, keepdim=True)) / n
    value, vector = torch.linalg.eigh(covariance)
    live = value > TINY_VARIANCE * value[:, -1:].clamp_min(1e-300)
    root = torch.where(live, value, 1.0).sqrt()
    whiten = (vector * torch.where(live, 1 / root, 0.0)[:, None]) @ vector.mT
    colour = (vector * torch.where(live, root, 0.0)[:, None]) @ vector.mT
    u, size, _ = torch.linalg.svd(whiten @ cross, full_matrices=False)  # correlations: free of the scale of h
    u = u * ((size > 1e-6 * size[:, :1]) & (size[:, :1] > TINY_MEAN))[:, None]
    return _finished(x, colour @ u, u.mT @ whiten, "LEACE", torch.as_tensor(h).ndim == 2)


def _labelled(h: Array, y: Array) -> tuple[torch.Tensor, torch.Tensor]:
    x, z = _checked(h, y)
    assert z is not None
    return x, z


def inlp(h: Array, y: Array, h_validation: Array, y_validation: Array, at_most: int | None = None) -> Eraser:
    """Iterative nullspace projection (Ravfogel et al. 2020, arXiv:2004.07667); the rank grows by K - 1 a round.

    Each round fits a logistic probe on what is left and takes its row space out as well; the eraser is the projection
    onto the intersection of all nullspaces. A position is done once a probe's validation accuracy is within
    `INLP_MARGIN` of the majority class, or nothing is left; the validation sample must be another than the first, which
    probes this weakly penalised read by heart. `at_most` bounds the rounds. ValueError as for `leace`.
    """
    (x, z), (x_v, z_v) = _labelled(h, y), _labelled(h_validation, y_validation)
    if x.shape[::2] != x_v.shape[::2]:
        raise ValueError(f"h_validation is {tuple(h_validation.shape)}: must have the positions and features of h")
    n_positions, _, n_features = x.shape
    n_classes = int(max(z.max(), z_v.max())) + 1
    mean = x.mean(1, keepdim=True)
    left, left_v = x - mean, x_v - mean
    spread = left.std((1, 2))[:, None, None]
    common = _one_hot(z).sum(1).argmax(1)
    majority = (z_v == common[:, None]).double().mean(1)
    basis = torch.zeros(n_positions, n_features, 0, dtype=torch.float64)
    active = torch.arange(n_positions)
    for _ in range(n_features if at_most is None else at_most):
        scale = left[active].std(1, keepdim=True, correction=0)
        shrink = torch.where(scale > logistic.FLAT * spread[active], 1 / scale, 0.0)
        probe = logistic.fit(left[active] * shrink, z[active], n_classes, (INLP_PENALTY,), INLP_TOLERANCE)[0]
        probe = logistic.Linear(probe.weight * shrink, probe.bias)
        accuracy = (probe.logits(left_v[active]).argmax(2) == z_v[active]).double().mean(1)
        rows = probe.weight - probe.weight.mean(1, keepdim=True)
        going = (accuracy > majority[active] + INLP_MARGIN) & (rows.abs().amax((1, 2)) > 0)
        if not going.any():
            break
        active, rows = active[going], rows[going]
        used = basis[active]
        for _ in range(2):  # twice, or rounding leaves a component along what is already out
            rows = rows - (rows @ used) @ used.mT
        new = _orthonormal(rows, 1e-6 * rows.flatten(1).norm(dim=1).clamp_min(1e-300))[..., : n_classes - 1]
        grown = torch.zeros(n_positions, n_features, new.shape[-1], dtype=torch.float64)
        grown[active] = new
        basis = torch.cat([basis, grown], 2)
        for part in (left, left_v):
            part[active] = part[active] - (part[active] @ new) @ new.mT
    full = torch.argsort((basis.square().sum(1) > 0).int(), dim=1, descending=True, stable=True)  # used columns first
    basis = basis.gather(2, full[:, None].expand_as(basis))
    return _finished(x, basis, basis.mT, "INLP", torch.as_tensor(h).ndim == 2)


FITTERS: dict[str, Callable[..., Eraser]] = {"mean projection": mean_projection, "LEACE": leace}  # of (h, y), exact
DIRECTIONS = ("direction", "strong direction")  # of the chosen probe, and of the one with the strongest penalty
METHODS = [*DIRECTIONS, *FITTERS, "INLP"]  # and those that were added from outside (`extend.eraser`)


def _haar(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Orthonormal columns, uniform over all subspaces (Stewart 1980)."""
    q, r = torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def _lifted(erasers: Sequence[Eraser]) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, D) mean and (T, D, 2 r) span of all that erasers, applied one after the other, read or write."""
    n_positions = max(len(one.mean) if one.positions else 1 for one in erasers)
    spans = []
    for one in erasers:
        left, right = (part if one.positions else part[None] for part in (one.left, one.right))
        both = torch.cat([left, right.mT], 2)
        spans.append(both.expand(n_positions, -1, -1))
    mean = erasers[0].mean if erasers[0].positions else erasers[0].mean[None]
    return mean.expand(n_positions, -1), torch.cat(spans, 2)


def total_rank(erasers: Sequence[Eraser]) -> float:
    """Directions that erasers, applied one after the other, take away."""
    return sum(one.rank for one in erasers)


def random_like(eraser: Eraser, generator: torch.Generator, h: Array | None = None) -> Eraser:
    """A random subspace of the same rank (at each position), its mean kept: what taking away any so many directions does.

    `h` is what its share of variance is measured on; without it, that is not a number.
    """
    single = eraser.positions is None
    left = eraser.left[None] if single else eraser.left
    used = left.square().sum(1) > 0  # (T, r)
    n_positions, n_features, rank = left.shape
    basis = _haar((n_positions, n_features, rank), generator) * used[:, None]
    mean = eraser.mean[None] if single else eraser.mean
    if h is not None and tuple(h.shape[1:]) != tuple(eraser.mean.shape):
        raise ValueError(f"h is {tuple(h.shape)}: this eraser needs (n, {', '.join(map(str, eraser.mean.shape))})")
    if h is None:
        ranks = float(used.sum(1).double().mean())
        basis, mean = (basis[0], mean[0]) if single else (basis, mean)
        return Eraser(mean, basis, basis.mT, "random", ranks, float("nan"))
    return _finished(_checked(h)[0], basis, basis.mT, "random", single, mean)


@dataclass(frozen=True)
class Matcher:
    """Draws of subspaces that take away as much as given erasers do, and none of what those touch (`variance_matched`)."""

    mean: torch.Tensor  # (T, D)
    allowed: torch.Tensor  # (T, D, D): projection onto the complement of the erasers' span
    covariance: torch.Tensor  # (T, D, D)
    goal: torch.Tensor  # (T,) variance to take away
    single: bool

    def draw(self, generator: torch.Generator) -> Eraser:
        """One draw: Haar in the complement, with the rank that comes nearest to the goal at each position."""
        n_positions, n_features = self.mean.shape
        normal = torch.randn(n_positions, n_features, n_features, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(self.allowed @ normal)[0]
        basis = self.allowed @ basis  # columns beyond the complement's dimension become zero
        basis = torch.where(basis.norm(dim=1, keepdim=True) > 0.5, basis, 0.0)
        each = (basis * (self.covariance @ basis)).sum(1)  # (T, D) variance along each column
        taken = torch.cat([torch.zeros(n_positions, 1, dtype=torch.float64), each.cumsum(1)], 1)
        rank = (taken - self.goal[:, None]).abs().argmin(1)
        used = torch.arange(n_features) < rank[:, None]
        basis = (basis * used[:, None])[..., : max(1, int(rank.max()))]
        total = self.covariance.diagonal(dim1=1, dim2=2).sum()
        share = float(taken.gather(1, rank[:, None]).sum() / total.clamp_min(1e-300))
        mean, left = (self.mean[0], basis[0]) if self.single else (self.mean, basis)
        return Eraser(mean, left, left.mT, "variance-matched", float(rank.double().mean()), share)


def variance_matched(erasers: Sequence[Eraser], h: Array) -> Matcher:
    """Controls that change as much as `erasers`, applied one after the other, and leave alone all that these touch.

    `h`, (n, D) or (n, T, D), are the activations by which variance is measured. A draw's `variance_removed` says what it
    came to; where the complement holds too little variance, that is less than was asked for.
    """
    if not erasers:
        raise ValueError("erasers=[]: name at least one to match")
    x, _ = _checked(h)
    single = torch.as_tensor(h).ndim == 2
    edited = torch.as_tensor(h).detach().cpu().double()
    for one in erasers:
        edited = one(edited)
    edited = edited[:, None] if single else edited
    goal = (x - edited.transpose(0, 1)).square().sum(2).mean(1)
    mean, span = _lifted(erasers)
    mean, span = mean.expand(len(x), -1), span.expand(len(x), -1, -1)
    unit = span / span.norm(dim=1, keepdim=True).clamp_min(1e-300)
    basis, size, _ = torch.linalg.svd(unit, full_matrices=False)
    basis = basis * (size > 1e-9)[:, None]
    eye = torch.eye(x.shape[-1], dtype=torch.float64)
    deviation = x - mean[:, None]
    covariance = deviation.mT @ deviation / x.shape[1]
    return Matcher(mean, eye - basis @ basis.mT, covariance, goal, single)
