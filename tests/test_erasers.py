"""Erasers take out what they say, no more than they must, and say how much that was; all by other routes than their own.

A second derivation of each stands here in numpy, scipy or scikit-learn, on data whose variable is planted.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from concept_erasure import LeaceFitter
from scipy import linalg, stats
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from statedepth import erasers
from statedepth.erasers import Eraser, direction, inlp, leace, mean_projection, random_like, variance_matched

torch.set_num_threads(1)

by_exact = pytest.mark.parametrize("fit", [leace, mean_projection], ids=["leace", "mean_projection"])
by_classes = pytest.mark.parametrize("n_classes", [2, 3, 5])


def two_rounds(h, y):
    return inlp(h, y, h, y, at_most=2)


by_fitter = pytest.mark.parametrize(
    "fit", [leace, mean_projection, two_rounds], ids=["leace", "mean_projection", "inlp"]
)


def planted(n_classes=3, n=400, n_features=12, distance=0.7, seed=0):
    """(n, D) correlated activations far from the origin, and labels of unequal classes that shift them."""
    rng = np.random.default_rng(seed)
    share = np.arange(n_classes, 0, -1) / np.arange(1, n_classes + 1).sum()
    y = rng.permutation(np.repeat(np.arange(n_classes), np.diff(np.round(np.cumsum([0, *share]) * n).astype(int))))
    mixing = rng.standard_normal((n_features, n_features)) * np.logspace(0, -1, n_features)
    shift = distance * rng.standard_normal((n_classes, n_features))
    return (rng.standard_normal((n, n_features)) + shift[y]) @ mixing + 5, y


def with_positions(n_positions=3, n_classes=3, **changes):
    parts = [planted(n_classes, seed=10 + t, **changes) for t in range(n_positions)]
    return np.stack([h for h, _ in parts], 1), np.stack([y for _, y in parts], 1)


def projection(eraser):
    """(D, D) P of  h' = mean + P (h - mean), as the map itself shows it."""
    mean = eraser.mean.numpy()
    return (eraser(mean + np.eye(len(mean))) - mean).T


def one_hot(y):
    return np.eye(y.max() + 1)[y]


def cross_covariance(h, y):
    z = one_hot(y)
    return (h - h.mean(0)).T @ (z - z.mean(0)) / len(h)


def edit_size(after, h):
    """E |h' - h|^2."""
    return ((after - h) ** 2).sum(-1).mean()


def relative_edit(after, h, mean=None):
    return edit_size(after, h) / edit_size(h.mean(0) if mean is None else mean, h)


def probe_accuracy(h, y, h_test=None, y_test=None, penalty=1.0):
    """Of a scikit-learn probe, refitted on standardised activations."""
    scaler = StandardScaler().fit(h)
    model = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-8).fit(scaler.transform(h), y)
    return model.score(scaler.transform(h if h_test is None else h_test), y if y_test is None else y_test)


def majority(y):
    return np.bincount(y).max() / len(y)


def leace_by_regressions(h, y):
    """Two least squares: what of the labels is linear in h, and what of h is linear in that."""
    deviation, z = h - h.mean(0), one_hot(y)
    read = deviation @ np.linalg.lstsq(deviation, z - z.mean(0), rcond=1e-10)[0]
    return h - read @ np.linalg.lstsq(read, deviation, rcond=1e-10)[0]


def leace_by_roots(h, y):
    """The paper's formula with scipy's square root of the covariance and its pseudo-inverses."""
    root = linalg.sqrtm(np.cov(h.T, bias=True)).real
    onto = linalg.inv(root) @ cross_covariance(h, y)
    out = root @ onto @ linalg.pinv(onto, rtol=1e-8) @ linalg.inv(root)
    return h - (h - h.mean(0)) @ out.T


def mean_projection_by_differences(h, y):
    """The projection onto the complement of the differences of class means, of which the first is as good as the mean."""
    means = np.stack([h[y == k].mean(0) for k in range(y.max() + 1)])
    span = (means[1:] - means[0]).T
    return h - (h - h.mean(0)) @ (span @ np.linalg.pinv(span)).T


# ---- exact erasers


@by_exact
@by_classes
def test_an_exact_eraser_leaves_no_covariance_with_the_labels_and_keeps_the_mean(fit, n_classes):
    h, y = planted(n_classes)
    after = fit(h, y)(h)
    assert abs(cross_covariance(after, y)).max() < 1e-9 * abs(cross_covariance(h, y)).max()
    assert after.mean(0) == pytest.approx(h.mean(0), rel=1e-12)
    for k in range(n_classes):
        assert after[y == k].mean(0) == pytest.approx(h.mean(0), rel=1e-9)


@by_exact
@by_classes
def test_its_rank_is_the_number_of_classes_less_one_and_a_second_pass_changes_nothing(fit, n_classes):
    h, y = planted(n_classes)
    eraser = fit(h, y)
    p = projection(eraser)
    assert eraser.rank == n_classes - 1
    assert eraser.left.shape == (12, n_classes - 1)
    assert eraser.right.shape == (n_classes - 1, 12)
    assert np.linalg.matrix_rank(np.eye(12) - p, tol=1e-9) == n_classes - 1
    assert p @ p == pytest.approx(p, abs=1e-9)
    after = eraser(h)
    assert eraser(after) == pytest.approx(after, abs=1e-9)


@by_exact
def test_classes_whose_means_are_on_a_line_need_one_direction(fit):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 100)
    noise = rng.standard_normal((100, 6))
    h = np.tile(noise, (4, 1)) + np.array([0.0, 1.0, 3.0, 4.0])[y][:, None] * rng.standard_normal(6)
    eraser = fit(h, y)
    assert eraser.rank == 1
    assert abs(cross_covariance(eraser(h), y)).max() < 1e-9


@by_exact
def test_there_are_no_more_directions_than_features(fit):
    h, y = planted(5, n_features=2)
    eraser = fit(h, y)
    assert eraser.rank == 2
    assert eraser(h) == pytest.approx(np.tile(h.mean(0), (len(h), 1)))


@by_exact
@by_classes
def test_a_probe_refitted_on_the_same_sample_reads_nothing_though_it_did_before(fit, n_classes):
    h, y = planted(n_classes)
    assert probe_accuracy(h, y) > majority(y) + 0.2
    after = fit(h, y)(h)
    for penalty in (1.0, 100.0):
        assert probe_accuracy(after, y, penalty=penalty) <= majority(y)


@by_classes
def test_leace_is_that_of_concept_erasure(n_classes):
    h, y = planted(n_classes)
    x, z = torch.tensor(h), torch.tensor(one_hot(y))
    fitter = LeaceFitter.fit(x, z, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-12)
    assert leace(h, y)(h) == pytest.approx(fitter.eraser(x).numpy(), rel=0, abs=1e-9)


@by_classes
@pytest.mark.parametrize("derived", [leace_by_regressions, leace_by_roots])
def test_leace_is_that_of_other_derivations(n_classes, derived):
    h, y = planted(n_classes)
    assert leace(h, y)(h) == pytest.approx(derived(h, y), rel=0, abs=1e-9)


@by_classes
def test_mean_projection_is_that_of_the_differences_of_means(n_classes):
    h, y = planted(n_classes)
    assert mean_projection(h, y)(h) == pytest.approx(mean_projection_by_differences(h, y), rel=0, abs=1e-9)
    p = projection(mean_projection(h, y))
    assert p == pytest.approx(p.T, abs=1e-9)


def test_activations_in_a_subspace_and_with_constant_features_are_erased_all_the_same():
    h, y = planted(3)
    rng = np.random.default_rng(1)
    wide = np.concatenate([h @ rng.standard_normal((12, 16)), np.full((len(h), 2), 3.0)], 1)
    eraser = leace(wide, y)
    assert eraser.rank == 2
    assert eraser(wide) == pytest.approx(leace_by_regressions(wide, y), rel=0, abs=1e-8)
    assert eraser(wide)[:, 16:] == pytest.approx(3.0)


def test_fewer_samples_than_features():
    h, y = planted(3, n=20, n_features=40)
    for fit, derived in ((leace, leace_by_regressions), (mean_projection, mean_projection_by_differences)):
        assert fit(h, y)(h) == pytest.approx(derived(h, y), rel=0, abs=1e-8)


@by_classes
def test_no_exact_affine_eraser_changes_less_than_leace(n_classes):
    """All that leave no covariance with the labels and are of rank K - 1: along the class means, whatever they read."""
    h, y = planted(n_classes)
    cross = cross_covariance(h, y)
    span, rng = linalg.orth(cross, rcond=1e-9), np.random.default_rng(1)
    least = edit_size(leace(h, y)(h), h)
    best = linalg.solve(np.cov(h.T, bias=True), span)
    for reads in (span, *(best + s * rng.standard_normal(best.shape) for s in (1e-3, 0.1, 10) for _ in range(10))):
        out = span @ linalg.solve(reads.T @ span, reads.T)
        other = h - (h - h.mean(0)) @ out.T
        assert abs(cross_covariance(other, y)).max() < 1e-9 * abs(cross).max()
        assert edit_size(other, h) > least
    assert edit_size(mean_projection(h, y)(h), h) > 1.01 * least


def faint(distance, n_classes=3):
    """Noise that is alike in every class, and class means so far apart, in units of the spread."""
    rng = np.random.default_rng(0)
    noise = np.tile(rng.standard_normal((100, 6)), (n_classes, 1))
    y = np.repeat(np.arange(n_classes), 100)
    return noise + distance * rng.standard_normal((n_classes, 6))[y], y


@by_exact
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_a_weak_variable_is_erased_like_a_strong_one(fit, size):
    h, y = faint(1e-4)
    eraser = fit(size * h, y)
    assert eraser.rank == 2
    after = cross_covariance(eraser(size * h), y)
    assert abs(after).max() < 1e-9 * abs(cross_covariance(size * h, y)).max()


@by_exact
@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_the_scale_of_activations_does_not_matter(fit, size):
    h, y = planted()
    one, other = fit(h, y), fit(size * h, y)
    assert (other.rank, other.variance_removed) == (one.rank, pytest.approx(one.variance_removed))
    assert other(size * h) / size == pytest.approx(one(h), abs=1e-9)


@by_exact
def test_a_rotation_before_is_a_rotation_after(fit):
    h, y = planted()
    turn = stats.ortho_group.rvs(12, random_state=0)
    assert fit(h @ turn, y)(h @ turn) == pytest.approx(fit(h, y)(h) @ turn, abs=1e-9)


def test_leace_reads_the_same_in_any_coordinates_and_mean_projection_does_not():
    """What is taken away, as a function of the labels' regression on h, is equivariant to every invertible map."""
    h, y = planted()
    mixing = np.random.default_rng(3).standard_normal((12, 12))
    assert leace(h @ mixing, y)(h @ mixing) == pytest.approx(leace(h, y)(h) @ mixing, abs=1e-8)
    moved = mean_projection(h @ mixing, y)(h @ mixing) - mean_projection(h, y)(h) @ mixing
    assert abs(moved).max() > 0.1


@by_exact
def test_names_of_classes_and_gaps_between_them_do_not_matter(fit):
    h, y = planted()
    assert fit(h, np.array([4, 0, 2])[y])(h) == pytest.approx(fit(h, y)(h), abs=1e-9)


@by_fitter
def test_variance_removed_is_the_size_of_the_edit(fit):
    h, y = planted()
    eraser = fit(h, y)
    assert eraser.variance_removed == pytest.approx(relative_edit(eraser(h), h))
    assert 0.01 < eraser.variance_removed < 1
    h, y = with_positions()
    eraser = fit(h, y)
    edit, total = edit_size(eraser(h), h), edit_size(h.mean(0), h)
    assert eraser.variance_removed == pytest.approx(edit / total)


@pytest.mark.parametrize(
    ("fit", "name"), [(leace, "LEACE"), (mean_projection, "mean projection"), (two_rounds, "INLP")]
)
def test_methods_have_the_names_of_the_list(fit, name):
    assert fit(*planted()).method == name
    assert name in erasers.METHODS


def test_fit_and_apply_are_two_things():
    """The mean and the span are those of the fit sample, whatever it is applied to, one row or many."""
    h, y = planted()
    eraser = leace(h, y)
    fresh = planted(seed=1)[0]
    rows = np.stack([eraser(row) for row in fresh])
    assert eraser(fresh) == pytest.approx(rows, abs=1e-9)
    assert eraser(fresh.reshape(4, 100, 12)).reshape(400, 12) == pytest.approx(rows, abs=1e-9)
    assert eraser(h.mean(0)) == pytest.approx(h.mean(0))


# ---- positions


@by_fitter
def test_positions_are_separate_fits(fit):
    h, y = with_positions(4)
    eraser = fit(h, y)
    assert eraser.positions == 4
    alone = [fit(h[:, t], y[:, t]) for t in range(4)]
    assert [one.positions for one in alone] == [None] * 4
    fresh = with_positions(4, n=50)[0]
    apart = np.stack([one(fresh[:, t]) for t, one in enumerate(alone)], 1)
    assert eraser(fresh) == pytest.approx(apart, abs=1e-6 if fit is two_rounds else 1e-9)
    assert eraser.rank == pytest.approx(np.mean([one.rank for one in alone]))
    assert eraser(fresh.reshape(5, 10, 4, 12)).reshape(50, 4, 12) == pytest.approx(eraser(fresh), abs=1e-9)
    assert eraser(fresh[0]) == pytest.approx(eraser(fresh)[0], abs=1e-9)


@by_fitter
def test_a_position_of_one_class_is_left_untouched(fit):
    h, y = with_positions(3)
    y[:, 1] = 2
    y[:, 2] %= 2
    eraser = fit(h, y)
    after = eraser(h)
    assert (after[:, 1] == h[:, 1]).all()
    assert abs(after[:, 0] - h[:, 0]).max() > 0.1
    assert torch.linalg.matrix_rank(eraser.left).tolist() == torch.linalg.matrix_rank(eraser.right).tolist()
    ranks = torch.linalg.matrix_rank(eraser.left, atol=1e-9, rtol=0)
    assert ranks[1] == 0
    assert eraser.rank == pytest.approx(ranks.double().mean().item())
    assert (eraser.left[1] == 0).all()
    if fit is not two_rounds:
        assert ranks.tolist() == [2, 0, 1]


@by_fitter
def test_a_position_of_constant_activations_is_left_untouched(fit):
    """As the site before the first block is, where all sequences start alike."""
    h, y = with_positions(2)
    h[:, 0] = 2.0
    eraser = fit(h, y)
    assert (eraser.left[0] == 0).all()
    assert (eraser(h)[:, 0] == 2.0).all()


# ---- arrays


@by_fitter
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_eraser_gives_back_what_it_is_given(fit, dtype):
    h, y = planted()
    given = h.astype(dtype)
    for eraser in (fit(given, y), fit(torch.tensor(given), torch.tensor(y)), fit(given, y.astype("int32"))):
        assert eraser.left.dtype == eraser.right.dtype == eraser.mean.dtype == torch.float64
        after = eraser(given)
        assert isinstance(after, np.ndarray)
        assert after.dtype == dtype
        assert torch.equal(eraser(torch.tensor(given)), torch.tensor(after))
        assert after == pytest.approx(fit(h, y)(h), abs=1e-9 if dtype == "float64" else 1e-3)


def test_what_is_given_is_not_changed_and_gradients_pass():
    h, y = planted()
    before = h.copy()
    eraser = leace(h, y)
    eraser(h)
    inlp(h, y, h, y)
    variance_matched([eraser], h)
    assert (h == before).all()
    x = torch.tensor(h[:1], requires_grad=True)
    eraser(x).sum().backward()
    assert x.grad[0].numpy() == pytest.approx(projection(eraser).sum(0), abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 2, 12), (5, 4, 12), (3, 7), (5, 12), (12,)])
def test_other_positions_or_features_than_those_fitted_are_an_error(shape):
    eraser = leace(*with_positions(3))
    with pytest.raises(ValueError, match=r"needs \(\.\.\., 3, 12\)"):
        eraser(np.zeros(shape))


def test_other_features_than_those_fitted_are_an_error():
    with pytest.raises(ValueError, match=r"needs \(\.\.\., 12\)"):
        leace(*planted())(torch.zeros(5, 7))


def put(h, value):
    h[3, 2] = value
    return h


BAD = {
    "too few labels": lambda h, y: (h, y[:-1]),
    "labels of positions": lambda h, y: (h, np.stack([y, y], 1)),
    "no labels of positions": lambda h, y: (np.stack([h, h], 1), y),
    "labels the wrong way round": lambda h, y: (np.stack([h, h], 1), np.stack([y, y])),
    "a single class": lambda h, y: (h, np.full_like(y, 1)),
    "nan": lambda h, y: (put(h, np.nan), y),
    "inf": lambda h, y: (put(h, np.inf), y),
    "negative labels": lambda h, y: (h, y - 1),
    "float labels": lambda h, y: (h, y.astype(float)),
    "bool labels": lambda h, y: (h, y > 0),
    "1-d": lambda h, y: (h[:, 0], y),
    "4-d": lambda h, y: (h.reshape(20, 20, 2, 6), y),
    "one row": lambda h, y: (h[:1], y[:1]),
}


@by_fitter
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_fitted_on_is_an_error(fit, case):
    h, y = BAD[case](*planted())
    with pytest.raises(ValueError, match=r"^[hy] "):
        fit(h, y)


@pytest.mark.parametrize("case", BAD)
def test_so_it_is_in_the_validation_sample_of_inlp(case):
    h, y = planted()
    with pytest.raises(ValueError, match=r"^[hy] "):
        inlp(h, y, *BAD[case](*planted()))


@pytest.mark.parametrize("case", ["nan", "inf", "1-d", "4-d", "one row"])
def test_so_it_is_in_the_activations_by_which_variance_is_measured(case):
    h, y = planted()
    eraser, wrong = leace(h, y), BAD[case](*planted())[0]
    for measure in (
        lambda: direction(SimpleNamespace(weight=np.eye(2, 12)), wrong),
        lambda: random_like(eraser, torch.Generator(), wrong),
        lambda: variance_matched([eraser], wrong),
    ):
        with pytest.raises(ValueError, match=r"^h "):
            measure()


@by_fitter
def test_an_eraser_of_constant_activations_does_nothing(fit):
    h = np.full((64, 5), 2.0)
    eraser = fit(h, np.arange(64) % 3)
    assert (eraser.rank, eraser.variance_removed) == (0, 0)
    fresh = planted(n_features=5)[0]
    assert (eraser(fresh) == fresh).all()


# ---- direction


@by_classes
def test_direction_is_the_projection_onto_the_nullspace_of_weight_differences(n_classes):
    h, _ = planted()
    weight = np.random.default_rng(0).standard_normal((n_classes, 12)) + 3
    eraser = direction(SimpleNamespace(weight=weight), h)
    null = linalg.null_space(weight[1:] - weight[0])
    assert eraser(h) == pytest.approx(h.mean(0) + (h - h.mean(0)) @ null @ null.T, abs=1e-9)
    assert (eraser.rank, eraser.method) == (n_classes - 1, "direction")
    assert eraser.variance_removed == pytest.approx(relative_edit(eraser(h), h))
    logits = eraser(h) @ weight.T
    assert np.ptp(logits[:, 1:] - logits[:, :1], axis=0).max() < 1e-9


def test_without_activations_direction_goes_through_the_origin():
    weight = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    eraser = direction(SimpleNamespace(weight=weight))
    null = linalg.null_space((weight.double()[1:] - weight.double()[0]).numpy())
    h = planted()[0]
    assert eraser(h) == pytest.approx(h @ null @ null.T, abs=1e-9)
    assert np.isnan(eraser.variance_removed)
    assert eraser.rank == 2


def test_direction_of_a_probe_at_each_position():
    h, _ = with_positions(3)
    weight = np.random.default_rng(0).standard_normal((3, 3, 12))
    weight[1] = 0.5
    eraser = direction(SimpleNamespace(weight=weight), h)
    for t in (0, 2):
        alone = direction(SimpleNamespace(weight=weight[t]), h[:, t])
        assert eraser(h)[:, t] == pytest.approx(alone(h[:, t]), abs=1e-9)
    assert (eraser(h)[:, 1] == h[:, 1]).all()
    assert eraser.rank == pytest.approx(4 / 3)


def test_direction_leaves_a_second_copy_of_another_scale_and_leace_does_not():
    rng = np.random.default_rng(0)
    y = (rng.random(800) < 0.4).astype(int)
    h = rng.standard_normal((800, 6))
    h[:, 0] = 10 * (2 * y - 1) + rng.standard_normal(800)
    h[:, 1] = 0.1 * (2 * y - 1) + 0.02 * rng.standard_normal(800)
    scale = h.std(0)
    probe = LogisticRegression(solver="newton-cholesky").fit(h / scale, y)
    assert probe.score(h / scale, y) == 1
    weight = np.vstack([-probe.coef_, probe.coef_]) / 2 / scale
    assert probe_accuracy(direction(SimpleNamespace(weight=weight), h)(h), y) > 0.98
    assert probe_accuracy(leace(h, y)(h), y) <= majority(y)


# ---- INLP


def polished(x, y, weight, bias, penalty):
    """Full Newton steps in numpy from scikit-learn's solution on: the (K, D) weights of the exact optimum, summing to zero."""
    k, n, d = len(weight), len(x), x.shape[1]
    x1, onehot = np.c_[x, np.ones(n)], np.eye(k)[y]
    theta = np.c_[weight, bias]
    ridge = np.tile(np.r_[np.full(d, 1 / penalty), 0.0], k)
    for _ in range(6):
        p = softmax(x1 @ theta.T, axis=1)
        gradient = ((p - onehot).T @ x1).ravel() + ridge * theta.ravel()
        blocks = np.einsum("nk,kl,ni,nj->kilj", p, np.eye(k), x1, x1) - np.einsum("nk,nl,ni,nj->kilj", p, p, x1, x1)
        hessian = blocks.reshape(k * (d + 1), -1) + np.diag(ridge)
        theta = theta - (np.linalg.pinv(hessian, rcond=1e-12) @ gradient).reshape(theta.shape)
    return theta[:, :d]


def inlp_by_sklearn(h, y, h_v, y_v, rounds=20):
    """(D, r) basis, round by round, and each round's accuracy before its probe was taken out.

    scikit-learn finds the probes; Newton's method in numpy takes them to the last digit.
    """
    n_classes, basis, steps, accuracies = y.max() + 1, np.zeros((h.shape[1], 0)), [], []
    for _ in range(rounds):
        p = np.eye(h.shape[1]) - basis @ basis.T
        left, left_v = (h - h.mean(0)) @ p, (h_v - h.mean(0)) @ p
        scale = left.std(0)
        model = LogisticRegression(C=erasers.INLP_PENALTY, solver="newton-cholesky", tol=1e-13, max_iter=500).fit(
            left / scale, y
        )
        accuracies.append(model.score(left_v / scale, y_v))
        if accuracies[-1] <= (y_v == np.bincount(y).argmax()).mean() + 0.01:
            break
        coef, intercept, penalty = model.coef_, model.intercept_, erasers.INLP_PENALTY
        if n_classes == 2:  # one row, the difference of two: the same with half the penalty on each
            coef, intercept, penalty = np.r_[-coef, coef] / 2, np.r_[-intercept, intercept] / 2, penalty / 2
        coef = polished(left / scale, y, coef, intercept, penalty)
        rows = (coef[1:] - coef[0]) / scale
        basis = np.linalg.qr(np.concatenate([basis, rows.T], 1))[0]
        steps.append(rows)
    return basis, steps, accuracies


@pytest.mark.parametrize(("n_classes", "n_features", "distance"), [(2, 12, 0.7), (3, 16, 0.4)])
def test_inlp_is_the_loop_written_with_scikit_learn(n_classes, n_features, distance, monkeypatch):
    h, y = planted(n_classes, n=600, n_features=n_features, distance=distance)
    fit, validation = (h[:400], y[:400]), (h[400:], y[400:])
    loose = inlp(*fit, *validation)
    monkeypatch.setattr(erasers, "INLP_TOLERANCE", 1e-14)
    eraser = inlp(*fit, *validation)
    basis, steps, accuracies = inlp_by_sklearn(*fit, *validation)
    assert len(steps) >= 3
    floor = (validation[1] == np.bincount(fit[1]).argmax()).mean()
    assert min(abs(a - floor - 0.01) for a in accuracies) > 1e-3  # no round is decided by rounding
    assert eraser.rank == basis.shape[1] == len(steps) * (n_classes - 1) < n_features
    p = projection(eraser)
    assert np.eye(n_features) - p == pytest.approx(basis @ basis.T, abs=1e-9)
    for rows in steps:
        assert abs(p @ rows.T).max() < 1e-9 * abs(rows).max()
    assert eraser.mean.numpy() == pytest.approx(fit[0].mean(0))
    assert projection(loose) == pytest.approx(p, abs=1e-3)


@by_classes
def test_inlp_is_an_orthogonal_projection_that_stops_when_nothing_is_read(n_classes):
    h, y = planted(n_classes, n=1000, n_features=12)
    fit, validation = (h[:600], y[:600]), (h[600:], y[600:])
    eraser = inlp(*fit, *validation)
    r = int(eraser.rank)
    assert r % (n_classes - 1) == 0
    assert eraser.left.T @ eraser.left == pytest.approx(np.eye(r), abs=1e-12)
    assert torch.equal(eraser.right, eraser.left.T)
    floor = (validation[1] == np.bincount(fit[1]).argmax()).mean()
    assert probe_accuracy(*fit, *validation) > floor + 0.2
    assert probe_accuracy(eraser(fit[0]), fit[1], eraser(validation[0]), validation[1]) <= floor + 0.01
    before = inlp(*fit, *validation, at_most=r // (n_classes - 1) - 1)
    assert probe_accuracy(before(fit[0]), fit[1], before(validation[0]), validation[1]) > floor + 0.01


@by_classes
def test_inlp_grows_by_the_number_of_classes_less_one_a_round_and_keeps_what_it_has(n_classes):
    h, y = planted(n_classes, n=1000, n_features=12)
    spans = []
    for rounds in range(3):
        eraser = inlp(h, y, h, y, at_most=rounds)
        assert eraser.rank == rounds * (n_classes - 1)
        spans.append(np.eye(12) - projection(eraser))
    assert spans[0] == pytest.approx(0)
    assert spans[2] @ spans[1] == pytest.approx(spans[1], abs=1e-9)


def test_inlp_of_a_variable_that_is_everywhere_ends_when_nothing_is_left():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    h = (2 * y - 1)[:, None] + 1e-3 * rng.standard_normal((300, 3))
    eraser = inlp(h, y, h, y)
    assert 1 <= eraser.rank <= 3
    assert probe_accuracy(eraser(h), y) <= majority(y) + 0.01


def test_inlp_goes_on_at_each_position_as_long_as_it_must():
    """One where nothing is to be read, one of a round or two, and one of several."""
    rng = np.random.default_rng(0)
    h, y = planted(2, n=1000, n_features=10)
    h = np.stack([rng.standard_normal(h.shape), rng.standard_normal(h.shape), h], 1)
    h[:, 1, 4] += 3 * y
    y = np.stack([y] * 3, 1)
    eraser = inlp(h[:600], y[:600], h[600:], y[600:])
    ranks = (eraser.left.square().sum(1) > 0).sum(1).tolist()
    assert 0 == ranks[0] < ranks[1] < ranks[2] < 10
    for t, r in enumerate(ranks):
        used = eraser.left[t, :, :r]
        assert used.T @ used == pytest.approx(np.eye(r), abs=1e-9)
        assert (eraser.left[t, :, r:] == 0).all()
        assert inlp(h[:600, t], y[:600, t], h[600:, t], y[600:, t]).rank == r


# ---- controls


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@by_fitter
def test_a_random_control_has_the_same_rank_and_is_orthogonal(fit):
    h, y = planted()
    eraser = fit(h, y)
    control = random_like(eraser, generator())
    r = int(eraser.rank)
    assert (control.rank, control.method) == (r, "random")
    assert control.left.T @ control.left == pytest.approx(np.eye(r), abs=1e-12)
    assert torch.equal(control.right, control.left.T)
    assert torch.equal(control.mean, eraser.mean)
    assert np.isnan(control.variance_removed)
    assert torch.equal(control.left, random_like(eraser, generator()).left)
    assert not torch.allclose(control.left, random_like(eraser, generator(1)).left)


def test_a_random_control_measures_its_share_on_what_it_is_given():
    h, y = planted()
    control = random_like(leace(h, y), generator(), h)
    assert control.variance_removed == pytest.approx(relative_edit(control(h), h))


def test_a_random_control_has_the_rank_of_each_position():
    h, y = with_positions(3)
    y[:, 1] = 0
    y[:, 2] %= 2
    for measured_on in (None, h):
        control = random_like(leace(h, y), generator(), measured_on)
        assert torch.linalg.matrix_rank(control.left, atol=1e-9, rtol=0).tolist() == [2, 0, 1]
        assert control.rank == 1
        assert (control(h)[:, 1] == h[:, 1]).all()
        for t, r in ((0, 2), (2, 1)):
            used = control.left[t, :, :r]
            assert used.T @ used == pytest.approx(np.eye(r), abs=1e-12)
        assert abs(control.left[0, :, 0] @ control.left[2, :, 0]) < 1 - 1e-6


def test_random_controls_are_uniform_over_subspaces():
    """Over 3000 draws, the mean projector is r / D and the share of any axis has the beta law of Haar subspaces."""
    draws, d, r = 3000, 6, 2
    columns = torch.eye(d, dtype=torch.float64)[:, :r].expand(draws, d, r)
    pattern = Eraser(torch.zeros(draws, d, dtype=torch.float64), columns, columns.mT, "pattern", r, 0.0)
    left = random_like(pattern, generator()).left
    projector = (left @ left.mT).numpy()
    assert projector.mean(0) == pytest.approx(np.eye(d) * r / d, abs=0.03)
    oblique = np.ones(d) / np.sqrt(d)
    for axis in (np.eye(d)[0], oblique):
        share = axis @ projector @ axis
        assert stats.kstest(share, stats.beta(r / 2, (d - r) / 2).cdf).pvalue > 1e-3
    for sign in left[:, 0, 0], left[:, 3, 1]:
        assert (sign > 0).double().mean() == pytest.approx(0.5, abs=0.05)


def flat(n=600, n_features=96, n_classes=3, distance=4.0, seed=0):
    """White noise of many features and a variable in a few of them, which is worth several features' variance."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    h = rng.standard_normal((n, n_features)) + 1
    h[:, :n_classes] += distance * np.eye(n_classes)[y]
    return h, y


@by_exact
def test_matched_draws_take_away_as_much_and_touch_nothing_that_the_eraser_does(fit):
    h, y = flat()
    eraser = fit(h, y)
    matcher = variance_matched([eraser], h)
    touched = torch.cat([eraser.left, eraser.right.T], 1)
    draws = [matcher.draw(generator(seed)) for seed in range(20)]
    goal = relative_edit(eraser(h), h)
    for draw in draws:
        assert abs(draw.left.T @ touched).max() < 1e-9 * touched.norm(dim=0).max()
        assert draw.left.T @ draw.left == pytest.approx(np.eye(int(draw.rank)), abs=1e-9)
        assert torch.equal(draw.right, draw.left.T)
        assert draw.variance_removed == pytest.approx(goal, rel=0.1)
        assert draw.variance_removed == pytest.approx(relative_edit(draw(h), h))
        assert draw.method == "variance-matched"
        assert draw(h).mean(0) == pytest.approx(h.mean(0))
        assert draw.rank > eraser.rank
    assert np.std([draw.left[50, 0].item() for draw in draws]) > 0.02
    again = variance_matched([eraser], h).draw(generator(0))
    assert torch.equal(again.left, draws[0].left)


def test_the_rank_of_a_matched_draw_is_the_nearest_to_the_goal():
    """One column more or less of the same draw is further off."""
    h, y = planted(2, n_features=12)
    eraser = leace(h, y)
    goal = edit_size(eraser(h), h)
    for seed in range(10):
        draw = variance_matched([eraser], h).draw(generator(seed))
        columns = draw.left.numpy()
        each = ((h - h.mean(0)) @ columns).var(0)
        assert abs(each.sum() - goal) <= abs(each[:-1].sum() - goal) + 1e-9
        assert draw.variance_removed == pytest.approx(each.sum() / edit_size(h.mean(0), h))


def test_a_draw_is_uniform_in_the_complement():
    rng = np.random.default_rng(0)
    h, y = rng.standard_normal((400, 6)), rng.integers(0, 2, 400)
    h[:, 0] += 3 * y
    axis = torch.eye(6, dtype=torch.float64)[:, :1]
    eraser = Eraser(torch.tensor(h.mean(0)), axis, axis.T, "the first axis", 1.0, 0.0)
    matcher, source = variance_matched([eraser], h), generator()
    first = np.stack([matcher.draw(source).left[:, 0].numpy() for _ in range(600)])
    assert abs(first[:, 0]).max() < 1e-12
    assert np.einsum("ni,nj->ij", first, first)[1:, 1:] / 600 == pytest.approx(np.eye(5) / 5, abs=0.06)
    assert stats.kstest(first[:, 1] ** 2, stats.beta(1 / 2, 4 / 2).cdf).pvalue > 1e-3


def test_erasers_one_after_the_other_are_matched_together():
    h, y = flat()
    other = np.random.default_rng(5).integers(0, 2, len(h))
    h[:, 10] += 5 * other
    one = leace(h, y)
    two = mean_projection(one(h), other)
    assert erasers.total_rank([one, two]) == 3
    goal = relative_edit(two(one(h)), h)
    assert goal > 1.2 * max(relative_edit(one(h), h), relative_edit(two(h), h))
    draw = variance_matched([one, two], h).draw(generator())
    assert draw.variance_removed == pytest.approx(goal, rel=0.1)
    for eraser in (one, two):
        assert abs(draw.left.T @ eraser.left).max() < 1e-9
        assert abs(draw.left.T @ eraser.right.T).max() < 1e-9


def test_where_the_complement_holds_too_little_a_draw_takes_all_of_it_and_says_less():
    h, y = flat(n_features=8, distance=40.0)
    eraser = mean_projection(h, y)
    draw = variance_matched([eraser], h).draw(generator())
    rest = relative_edit(h, eraser(h), h.mean(0))  # what the eraser takes
    null = linalg.null_space(eraser.left.numpy().T)
    most = ((h - h.mean(0)) @ null).var(0).sum() / edit_size(h.mean(0), h)
    assert most < 0.1 < rest
    assert draw.variance_removed == pytest.approx(most)
    assert draw.variance_removed == pytest.approx(relative_edit(draw(h), h))
    assert draw.variance_removed < 0.1 * eraser.variance_removed
    assert draw.rank == 6


def test_each_position_is_matched_by_itself():
    parts = [flat(seed=seed, distance=distance) for seed, distance in enumerate((2.0, 5.0, 2.0))]
    h, y = (np.stack([part[i] for part in parts], 1) for i in (0, 1))
    y[:, 2] = 1
    eraser = leace(h, y)
    draw = variance_matched([eraser], h).draw(generator())
    after = draw(h)
    for t in (0, 1):
        assert edit_size(after[:, t], h[:, t]) == pytest.approx(edit_size(eraser(h)[:, t], h[:, t]), rel=0.1)
        assert abs(draw.left[t].T @ eraser.left[t]).max() < 1e-9
    assert (after[:, 2] == h[:, 2]).all()
    assert draw.variance_removed == pytest.approx(edit_size(after, h) / edit_size(h.mean(0), h))
    ranks = (draw.left.square().sum(1) > 0).sum(1).double()
    assert ranks[1] > ranks[0] > ranks[2] == 0
    assert draw.rank == pytest.approx(ranks.mean().item())


def test_one_eraser_for_all_positions_is_matched_at_each():
    h, y = flat(n=900)
    eraser = leace(h, y)
    cut = h.reshape(300, 3, -1)
    draw = variance_matched([eraser], cut).draw(generator())
    assert draw.positions == 3
    for t in range(3):
        assert edit_size(draw(cut)[:, t], cut[:, t]) == pytest.approx(edit_size(eraser(cut[:, t]), cut[:, t]), rel=0.15)


def test_nothing_erased_is_matched_by_nothing():
    eraser = leace(np.full((64, 12), 2.0), np.arange(64) % 3)
    h = planted()[0]
    for control in (random_like(eraser, generator(), h), variance_matched([eraser], h).draw(generator())):
        assert (control.rank, control.variance_removed) == (0, 0)
        assert (control(h) == h).all()
