"""Many logistic regressions at once say what scikit-learn says of each alone, and a reading is no more than there is."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from statedepth import logistic

torch.set_num_threads(1)

by_classes = pytest.mark.parametrize("n_classes", [2, 3, 5])


def planted(n_classes, n=150, n_problems=3, n_features=5, noise=1.0, seed=0):
    """Activations of several problems, and labels that follow a linear score with some noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_problems, n, n_features))
    score = x @ rng.standard_normal((n_problems, n_features, n_classes)) * 2
    return x, (score + noise * rng.gumbel(size=score.shape)).argmax(2)


def by_sklearn(x, y, n_classes, penalty):
    """(K, D) weights and (K,) biases that sum to zero over the classes seen; the others are not a number."""
    model = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full, full_bias = np.full((n_classes, x.shape[1]), np.nan), np.full(n_classes, np.nan)
    full[model.classes_], full_bias[model.classes_] = weight, bias - bias.mean()
    return full, full_bias


def fitted(x, y, n_classes, penalties=logistic.PENALTIES):
    return logistic.fit(torch.tensor(x), torch.tensor(y), n_classes, penalties)


def assert_sklearn_agrees(x, y, n_classes, penalties=logistic.PENALTIES):
    found = fitted(x, y, n_classes, penalties)
    assert len(found) == len(penalties)
    for penalty, one in zip(sorted(penalties), found, strict=True):
        for p in range(len(x)):
            weight, bias = by_sklearn(x[p], y[p], n_classes, penalty)
            seen = ~np.isnan(bias)
            got, near = one.bias[p].numpy()[seen], 1e-5 * max(abs(weight[seen]).max(), abs(bias[seen]).max())
            assert one.weight[p].numpy()[seen] == pytest.approx(weight[seen], rel=0, abs=near)
            assert got - got.mean() == pytest.approx(bias[seen], rel=0, abs=near)


@by_classes
def test_weights_and_biases_are_those_of_scikit_learn_at_every_penalty(n_classes):
    assert_sklearn_agrees(*planted(n_classes), n_classes)


def test_the_penalties_come_back_from_the_strongest_in_whatever_order_they_are_given():
    x, y = planted(3)
    assert_sklearn_agrees(x, y, 3, (10.0, 0.1))


@by_classes
def test_separable_labels_have_the_same_finite_weights(n_classes):
    x, y = planted(n_classes, noise=0.0)
    assert_sklearn_agrees(x, y, n_classes, (100.0,))
    (probe,) = fitted(x, y, n_classes, (100.0,))
    assert (probe.logits(torch.tensor(x)).argmax(2).numpy() == y).mean() > 0.97


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_a_class_absent_from_one_problem_leaves_the_rest_of_it_and_the_other_problems_as_they_are(absent):
    x, y = planted(5)
    y[1] = np.where(y[1] == absent, (absent + 1) % 5, y[1])
    assert_sklearn_agrees(x, y, 5)
    for probe in fitted(x, y, 5):
        p = probe.logits(torch.tensor(x)).softmax(2)
        assert p[1, :, absent].max() == 0
        assert (p[[0, 2], :, absent] > 0).any(1).all()


def test_a_problem_of_one_class_always_says_that_class():
    x, y = planted(3)
    y[0] = 1
    for probe in fitted(x, y, 3):
        logits = probe.logits(torch.tensor(x))
        assert (logits[0].argmax(1) == 1).all()
        assert probe.weight[0].abs().max() < 1e-6
        assert (logits[1:].argmax(2) == torch.tensor(y[1:])).double().mean() > 0.6


def test_rare_classes_and_their_large_intercepts_agree():
    x, _ = planted(2, n=1000, n_problems=1)
    y = (np.arange(1000) < 6).astype(int)[None]
    assert_sklearn_agrees(x, y, 2)


def test_constant_and_repeated_features():
    x, y = planted(3)
    x = np.concatenate([x, np.zeros((*x.shape[:2], 2)), x[..., :1]], 2)
    assert_sklearn_agrees(x, y, 3)
    for probe in fitted(x, y, 3):
        assert (probe.weight[..., 5:7] == 0).all()


@by_classes
def test_problems_do_not_influence_each_other(n_classes):
    """An easy one, a separable one and one of pure noise need different numbers of steps."""
    x, y = planted(n_classes)
    y[1] = planted(n_classes, noise=0.0)[1][1]
    y[2] = np.random.default_rng(1).integers(0, n_classes, y.shape[1])
    together = fitted(x, y, n_classes)
    turned = fitted(x[::-1].copy(), y[::-1].copy(), n_classes)
    for p in range(3):
        alone = fitted(x[p : p + 1], y[p : p + 1], n_classes)
        for a, b, c in zip(together, alone, turned, strict=True):
            assert torch.allclose(a.weight[p], b.weight[0], rtol=1e-9, atol=1e-9)
            assert torch.allclose(a.weight[p], c.weight[2 - p], rtol=1e-9, atol=1e-9)


@by_classes
def test_the_loss_has_its_minimum_there(n_classes):
    """No step away, of weights or intercepts, is lower: the intercept is free, |logit differences| are penalised."""
    x, y = planted(n_classes, n_problems=1)
    rng = np.random.default_rng(2)

    def loss(weight, bias, penalty):
        share = 2 if n_classes == 2 else 1  # scikit-learn penalises the one row of two classes, not its two halves
        picked = log_loss(y[0], softmax(x[0] @ weight.T + bias), labels=range(n_classes), normalize=False)
        return picked + share * (weight**2).sum() / (2 * penalty)

    for penalty, probe in zip(logistic.PENALTIES, fitted(x, y, n_classes), strict=True):
        weight, bias = probe.weight[0].numpy(), probe.bias[0].numpy()
        lowest = loss(weight, bias, penalty)
        for _ in range(20):
            step = rng.standard_normal(weight.shape) * 1e-2
            step -= step.mean(0)
            assert loss(weight + step, bias, penalty) > lowest
            other = bias + 1e-2 * rng.standard_normal() * (np.arange(n_classes) == 0)
            assert loss(weight, other, penalty) > lowest


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def samples(h, y, at=None):
    """Fit, validation and test: (P, n, D) activations and their labels, cut in thirds or at two places."""
    at = at or 3
    return [(torch.tensor(a), torch.tensor(b)) for a, b in zip(np.split(h, at, 1), np.split(y, at, 1), strict=True)]


def expected_reading(fit, validation, test, n_classes):
    """Of one problem, with scikit-learn, by the words of the docstring: accuracy, majority, bits, by_accuracy."""
    (h, y), (h_v, y_v), (h_t, y_t) = fit, validation, test
    frequency = np.bincount(y, minlength=n_classes) / len(y)
    probes = []
    for penalty in logistic.PENALTIES:
        mean, scale = h.mean(0), h.std(0)
        weight, bias = by_sklearn((h - mean) / scale, y, n_classes, penalty)
        probes.append(lambda g, w=weight, b=bias, m=mean, s=scale: softmax((g - m) / s @ w.T + b))
    candidates = [lambda g: np.tile(frequency, (len(g), 1)), *probes]

    def in_nats(probe, g, labels):
        return -np.log(probe(g)[np.arange(len(labels)), labels]).mean()

    def right(probe, g, labels):
        return (probe(g).argmax(1) == labels).mean()

    best = min(probes, key=lambda probe: in_nats(probe, h_v, y_v))
    rows = np.arange(len(y_v))
    gain = np.log(best(h_v)[rows, y_v]) - np.log(candidates[0](h_v)[rows, y_v])
    chosen = best if gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(y_v)) else candidates[0]
    by_accuracy = max(probes, key=lambda probe: right(probe, h_v, y_v))
    bits = (in_nats(candidates[0], h_t, y_t) - in_nats(chosen, h_t, y_t)) / np.log(2)
    return right(chosen, h_t, y_t), (y_t == frequency.argmax()).mean(), bits, right(by_accuracy, h_t, y_t)


@by_classes
def test_a_reading_is_that_of_scikit_learn_on_standardised_activations(n_classes):
    """Loud, faint and silent problems, on features far from the origin and of many sizes."""
    h, y = planted(n_classes, n=600, n_problems=4, n_features=8)
    noise = planted(n_classes, n=600, n_problems=4, n_features=8, seed=1)[1]
    y[2] = np.where(np.arange(600) % 4 > 0, noise[2], y[2])
    y[3] = noise[3]
    h = h * np.logspace(-2, 2, 8) + np.arange(8)
    parts = samples(h, y)
    reading = logistic.read(*parts, n_classes, spread=1.0)
    for p in range(4):
        accuracy, majority, bits, by_accuracy = expected_reading(
            *[(a[p].numpy(), b[p].numpy()) for a, b in parts], n_classes
        )
        assert reading.accuracy[p] == pytest.approx(accuracy)
        assert reading.majority[p] == pytest.approx(majority)
        assert reading.bits[p] == pytest.approx(bits, rel=1e-4, abs=1e-5)
        assert reading.by_accuracy[p] == pytest.approx(by_accuracy)
    assert reading.bits[0] > 0.3 > reading.bits[2]
    assert reading.accuracy[0] > reading.majority[0] + 0.1


@by_classes
def test_the_probe_of_a_reading_works_on_activations_as_they_are(n_classes):
    h, y = planted(n_classes, n=600)
    parts = samples(100 * h + 7, y)
    reading = logistic.read(*parts, n_classes, spread=100.0)
    right = reading.probe.logits(parts[2][0]).argmax(2) == parts[2][1]
    assert right.double().mean(1).numpy() == pytest.approx(reading.accuracy)


def test_two_equal_classes_that_a_feature_tells_apart_are_one_bit():
    y = np.arange(300)[None] % 2
    reading = logistic.read(*samples(2.0 * y[..., None] - 1, y), 2, spread=1.0)
    assert reading.accuracy == [1.0]
    assert reading.majority == [0.5]
    assert 0.99 < reading.bits[0] <= 1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_of_labels_independent_of_the_activations_nothing_is_read(n_classes):
    rng = np.random.default_rng(3)
    h = rng.standard_normal((4, 1500, 100))
    y = np.where(rng.random((4, 1500)) < 0.3, 0, rng.integers(0, n_classes, (4, 1500)))
    parts = samples(h, y, (200, 900))
    reading = logistic.read(*parts, n_classes, spread=1.0)
    assert (reading.bits == 0).all()
    assert (reading.accuracy == reading.majority).all()
    assert (reading.probe.weight == 0).all()
    assert reading.majority == pytest.approx((y[:, 900:] == 0).mean(1))
    frequency = np.stack([np.bincount(row, minlength=n_classes) / 200 for row in y[:, :200]])
    assert reading.probe.bias.softmax(1).numpy() == pytest.approx(frequency)


def test_exclusive_or_is_no_linear_information_though_a_probe_may_be_right_in_three_corners_of_four():
    """The fit sample is a little off balance, which tilts the probe; the constant has the lower loss all the same."""
    corners = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])

    def sample(counts):
        h = np.repeat(corners, counts, 0)[None]
        return torch.tensor(h), torch.tensor((h.prod(2) < 0).astype(int))

    balanced = sample([100] * 4)
    reading = logistic.read(sample([110, 90, 101, 101]), balanced, balanced, 2, spread=1.0)
    assert (reading.accuracy, reading.majority, reading.bits, reading.by_accuracy) == (0.5, 0.5, 0.0, 0.75)


@pytest.mark.parametrize(
    ("size", "spread", "is_read"),
    [(1e-8, 1.0, False), (1e-8, 1e-8, True), (1e-6, 1.0, False), (1e-4, 1.0, True), (1e-4, 1e3, False)],
)
def test_a_feature_is_rounding_or_a_code_by_the_spread_of_the_unedited_activations(size, spread, is_read):
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, (1, 600))
    h = np.stack([7 + size * (2 * y - 1), np.full(y.shape, 3.0)], 2)
    reading = logistic.read(*samples(h, y), 2, spread)
    if is_read:
        assert reading.accuracy == [1.0]
        assert reading.bits[0] > 0.9
    else:
        assert (reading.accuracy, reading.bits) == (reading.majority, 0)
        assert reading.by_accuracy == reading.majority
