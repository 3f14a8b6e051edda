"""Probes on planted codes, and their baselines against brute force."""

import itertools
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from statedepth import probes, tasks, training
from statedepth.models import ModelSpec
from statedepth.probes import ProbeSettings, bayes_accuracy, control_labels, fit_probe
from statedepth.tasks import Batch, cyclic, dyck, named, parity
from statedepth.training import Run, Trained, TrainSpec

torch.set_num_threads(1)
threadpool_limits(1)  # of the BLAS behind scikit-learn: more threads than idle cores take ten times as long

SETTINGS = ProbeSettings(n_fit=200, n_validation=100, n_test=200)


def rng(seed=0):
    return np.random.default_rng(seed)


def code(labels, n_classes, width=8, noise=0.01, seed=0):
    """Activations that hold the label as a random direction for each class, plus a little noise."""
    directions = rng(99).normal(size=(n_classes, width))
    return directions[labels] + noise * rng(seed).normal(size=(*labels.shape, width))


def three_parts(n_classes, n=(1200, 500, 2000), noise=0.01, corrupt=lambda y, _: y):
    parts = []
    for seed, size in enumerate(n):
        y = rng(seed).integers(n_classes, size=size)
        parts.append((code(y, n_classes, noise=noise, seed=10 + seed), corrupt(y, rng(20 + seed))))
    return parts


# ---- one probe ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_planted_linear_code_is_read_perfectly(k):
    probe = fit_probe(*three_parts(k), k)
    assert probe.accuracy == 1.0
    assert probe.weight.shape == (k, 8) and probe.bias.shape == (k,)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("p", [0.1, 0.3])
def test_label_noise_of_share_p_costs_p(k, p):
    def noisy(y, g):
        return np.where(g.random(len(y)) < p, (y + g.integers(1, k, size=len(y))) % k, y)

    assert fit_probe(*three_parts(k, corrupt=noisy), k).accuracy == pytest.approx(1 - p, abs=0.03)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_shuffled_labels_are_read_at_about_the_majority(k):
    def skewed(y, g):
        return np.where(g.random(len(y)) < 0.3, 0, g.permutation(y))

    probe = fit_probe(*three_parts(k, corrupt=skewed), k)
    assert probe.baselines["majority"] == pytest.approx(0.3 + 0.7 / k, abs=0.04)
    assert probe.accuracy == pytest.approx(probe.baselines["majority"], abs=0.04)


def test_a_code_that_is_not_linear_is_not_read():
    h = [rng(seed).normal(size=(1500, 2)) for seed in range(3)]
    assert fit_probe(*((x, (x.prod(1) > 0).astype(int)) for x in h), 2).accuracy < 0.65


def test_predictions_do_not_depend_on_scale_and_offset_of_the_features():
    parts = three_parts(3, noise=1.0)
    scale, offset = 10.0 ** rng().integers(-3, 4, size=8), 100 * rng(1).normal(size=8)
    moved = [(h * scale + offset, y) for h, y in parts]
    one, two = fit_probe(*parts, 3), fit_probe(*moved, 3)
    assert 0.4 < one.accuracy < 0.99
    assert (one.predict(parts[2][0]) == two.predict(moved[2][0])).mean() > 0.998


def test_a_code_in_directions_of_small_variance_is_read_as_well_as_a_converged_weak_penalty_reads_it():
    """Features whose principal axes differ by 100 in spread, as a residual stream's do, and a state along all of them."""
    axes, along = np.linalg.qr(rng(9).normal(size=(40, 40)))[0], rng(8).normal(size=40) / np.sqrt(40)
    parts = []
    for seed, size in enumerate((2000, 500, 3000)):
        z = rng(seed).normal(size=(size, 40))
        y = (z @ along + 0.1 * rng(30 + seed).normal(size=size) > 0).astype(int)
        parts.append(((z * np.logspace(0, -2, 40)) @ axes.T, y))
    regression = LogisticRegression(C=100, solver="newton-cholesky")
    converged = make_pipeline(StandardScaler(), regression).fit(*parts[0]).score(*parts[2])
    assert converged > 0.95
    assert fit_probe(*parts, 2).accuracy > converged - 0.02


def test_a_constant_feature_does_no_harm():
    parts = [
        (np.concatenate([h, np.full((len(h), 1), 0.1, dtype=np.float32)], 1).astype(np.float32), y)
        for h, y in three_parts(3)
    ]
    probe = fit_probe(*parts, 3)
    assert probe.accuracy == 1.0
    assert np.isfinite(probe.weight).all() and np.abs(probe.weight[:, -1]).max() < 1e-6


def pipelines(fit):
    """Another solver than the library's, in as many iterations as it needs."""
    return [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=20_000, tol=1e-8)).fit(*fit)
        for c in probes.PENALTIES
    ]


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("chosen", range(len(probes.PENALTIES)))
def test_the_probe_is_the_standardised_scikit_learn_model_that_validation_prefers(k, chosen):
    """The validation labels are what one of the penalties answers, so that one must be taken."""
    fit, validation, test = three_parts(k, n=(80, 3000, 500), noise=1.5)
    models = pipelines(fit)
    answers = [model.predict(validation[0]) for model in models]
    assert all((answers[chosen] != answers[other]).any() for other in range(len(models)) if other != chosen)
    probe = fit_probe(fit, (validation[0], answers[chosen]), test, k)
    assert probe.penalty == probes.PENALTIES[chosen]
    agreement = probe.predict(test[0]) == models[chosen].predict(test[0])
    assert agreement.mean() > 0.99
    assert (probe.predict(validation[0]) == answers[chosen]).mean() > 0.99
    assert probe.accuracy == pytest.approx((models[chosen].predict(test[0]) == test[1]).mean(), abs=0.01)


def test_the_test_labels_have_no_say_in_the_probe():
    fit, validation, test = three_parts(3, n=(80, 300, 300), noise=1.5)
    one = fit_probe(fit, validation, test, 3)
    other = fit_probe(fit, validation, (test[0], (test[1] + 1) % 3), 3)
    assert (one.weight == other.weight).all() and (one.bias == other.bias).all()
    assert one.accuracy > other.accuracy


def test_the_majority_is_the_fit_parts_most_frequent_class_counted_on_the_test_part():
    h = rng().normal(size=(100, 4))
    fit, test = np.repeat([0, 1, 2], [20, 50, 30]), np.repeat([0, 1, 2], [70, 10, 20])
    assert fit_probe((h, fit), (h, fit), (h, test), 3).baselines["majority"] == 0.1


@pytest.mark.parametrize("only", [0, 2])
def test_where_one_class_is_all_there_is_the_probe_answers_with_it(only):
    h, y = rng().normal(size=(50, 4)), np.full(50, only)
    probe = fit_probe((h, y), (h, y), (h, np.repeat([0, 1, 2], [20, 20, 10])), 3)
    assert (probe.predict(1e6 * h) == only).all()
    assert probe.accuracy == probe.baselines["majority"] == {0: 0.4, 2: 0.2}[only]
    assert np.isnan(probes.readability(1.0, 1.0))


def test_a_class_that_the_fit_part_lacks_is_never_answered():
    for absent, k in ((1, 3), (0, 2 + 1), (4, 5)):
        y = rng().choice([c for c in range(k) if c != absent], size=300)
        probe = fit_probe((code(y, k), y), (code(y, k), y), (code(y, k), y), k)
        assert probe.accuracy == 1.0
        assert absent not in probe.predict(1e4 * rng(3).normal(size=(5000, 8)))


def test_classes_of_the_other_parts_that_the_fit_part_lacks_count_as_wrong():
    y = rng().integers(2, size=300)
    test = np.where(np.arange(300) < 100, 2, y)
    assert fit_probe((code(y, 3), y), (code(y, 3), y), (code(y, 3), test), 3).accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", range(3))
def test_activations_that_are_not_finite_are_refused_by_part(value, part):
    parts = three_parts(2, n=(50, 50, 50))
    parts[part][0][7, 3] = value
    with pytest.raises(ValueError, match=f"{['fit', 'validation', 'test'][part]} activations"):
        fit_probe(*parts, 2)


@pytest.mark.parametrize("change", [lambda y: y + 1, lambda y: y - 1, lambda y: y[:-1]])
@pytest.mark.parametrize("part", range(3))
def test_labels_out_of_range_or_of_another_number_are_refused_by_part(change, part):
    parts = three_parts(2, n=(50, 50, 50))
    parts[part] = (parts[part][0], change(parts[part][1]))
    with pytest.raises(ValueError, match=f"{['fit', 'validation', 'test'][part]} labels must be 50"):
        fit_probe(*parts, 2)


@pytest.mark.parametrize(
    ("accuracy", "majority", "expected"),
    [(1.0, 0.5, 1.0), (0.5, 0.5, 0.0), (0.75, 0.5, 0.5), (0.4, 0.5, -0.2), (0.73, 0.27, 0.63)],
)
def test_readability_is_the_share_of_the_way_from_majority_to_one(accuracy, majority, expected):
    assert probes.readability(accuracy, majority) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("n_fit", 63), ("n_validation", 0), ("n_test", 2.5), ("n_fit", True), ("seed", -1)]
)
def test_an_impossible_amount_of_data_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be"):
        ProbeSettings(**{name: value})


# ---- a whole site --------------------------------------------------------------------------------------------------------


def site(signs=None, n=(400, 150, 300), length=6, k=2, noise=0.05, labels=None):
    """Rows of `_probe_site`, by position, for a planted code whose sign at position t is signs[t]."""
    h, y = {}, {}
    for seed, (split, size) in enumerate(zip(tasks.SPLITS, n, strict=True)):
        y[split] = rng(seed).integers(k, size=(size, length)) if labels is None else labels(size, rng(seed))
        one_hot = np.eye(k)[y[split]] - 1 / k
        h[split] = (
            one_hot @ rng(77).normal(size=(k, 5)) * (np.ones(length) if signs is None else np.array(signs))[:, None]
        )
        h[split] = (h[split] + noise * rng(30 + seed).normal(size=h[split].shape)).astype(np.float32)
    return {row["position"]: row for row in probes._probe_site(h, y, k, seed=0, beyond=4)}


def test_a_code_whose_sign_alternates_is_at_chance_pooled_and_perfect_at_each_position():
    rows = site(signs=[1, -1] * 3)
    assert rows[0]["accuracy"] == pytest.approx(0.5, abs=0.06)
    assert rows[0]["own_accuracy"] == 1.0
    assert all(rows[t]["own_accuracy"] == 1.0 for t in range(1, 7))


@pytest.mark.parametrize(
    ("signs", "size_of_code"), [([1] * 6, 0.1), ([1, -1] * 3, 0.03)], ids=["same sign", "alternating"]
)
def test_a_fine_code_beside_a_large_irrelevant_feature_is_perfect_at_each_position(signs, size_of_code):
    """The state is the small difference of two features that share a large one; the strongest penalty cannot see it."""
    h, y = {}, {}
    for seed, (split, size) in enumerate(zip(tasks.SPLITS, (1000, 300, 300), strict=True)):
        y[split] = rng(seed).integers(2, size=(size, 6))
        (shared, other), state = rng(50 + seed).normal(size=(2, size, 6)), size_of_code * (2 * y[split] - 1)
        h[split] = (np.stack([shared + state, shared - state, other], -1) * np.array(signs)[:, None]).astype(np.float32)
    for t in range(6):  # there is a linear probe for it at every position
        assert fit_probe(*((h[split][:, t], y[split][:, t]) for split in tasks.SPLITS), 2).accuracy > 0.99
    rows = {row["position"]: row for row in probes._probe_site(h, y, 2, seed=0, beyond=4)}
    assert rows[0]["own_accuracy"] > 0.99


def test_a_code_that_holds_at_some_positions_only_is_read_there_only():
    rows = site(signs=[1, 1, 0, 0, 1, 1])
    assert [rows[t]["accuracy"] > 0.95 for t in range(1, 7)] == [True, True, False, False, True, True]
    assert [rows[t]["own_accuracy"] > 0.95 for t in range(1, 7)] == [True, True, False, False, True, True]
    assert rows[-1]["accuracy"] == pytest.approx((rows[5]["accuracy"] + rows[6]["accuracy"]) / 2)
    for column in ("accuracy", "majority", "own_accuracy", "own_majority"):
        assert rows[0][column] == pytest.approx(np.mean([rows[t][column] for t in range(1, 7)]))


def test_the_pooled_probe_is_fitted_on_positions_from_everywhere():
    """Of two opposite codes a probe that never saw their position gets one wrong."""
    for t in (0, 2, 5):
        for sign in (1, -1):
            signs = np.zeros(6)
            signs[t] = sign
            assert site(signs=signs)[t + 1]["accuracy"] > 0.95


def test_a_position_with_one_class_is_read_and_does_not_break_the_others():
    def labels(size, g):
        y = g.integers(3, size=(size, 6))
        y[:, 0] = 2
        return y

    rows = site(k=3, labels=labels)
    assert rows[1]["own_accuracy"] == rows[1]["own_majority"] == 1.0
    assert rows[0]["accuracy"] == 1.0
    assert not any(np.isnan(value) for row in rows.values() for value in row.values())


def test_the_pooled_majority_is_one_class_for_all_positions_and_the_own_majority_one_for_each():
    def labels(size, g):
        return np.tile([0, 1, 1, 0, 1, 1], (size, 1)) ^ (g.random((size, 6)) < 0.1)

    rows = site(labels=labels)
    assert [round(rows[t]["majority"], 1) for t in range(1, 7)] == [0.1, 0.9, 0.9, 0.1, 0.9, 0.9]
    assert all(rows[t]["own_majority"] == pytest.approx(0.9, abs=0.06) for t in range(1, 7))


# ---- a whole model --------------------------------------------------------------------------------------------------------


class Planted(nn.Module):
    """A two-block model for parity: the tokens at site 0, the state at site 1, the state with alternating sign at 2."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.width = nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens):
        sign, bits = 1.0 - 2.0 * (tokens.cumsum(1) % 2), 1.0 - 2.0 * tokens
        wave = 1.0 - 2.0 * (torch.arange(tokens.shape[1]) % 2)
        self.backbone.layers[0].forward = lambda _: sign[..., None] * self.width
        self.backbone.layers[1].forward = lambda h: h * wave[:, None]
        h = bits[..., None] * self.width
        for layer in self.backbone.layers:
            h = layer(h)
        return torch.stack([sign, -sign], -1)


PLANTED_RUN = Run("parity", ModelSpec("lstm", d_model=8, n_layers=2), TrainSpec(length=8))
NETWORKS = (("trained", "task"), ("trained", "control"), ("untrained", "task"))


@pytest.fixture(scope="module")
def planted():
    return Trained(Planted(), parity(), PLANTED_RUN, [])


@pytest.fixture(scope="module")
def whole(planted):
    return probes.profile(planted, "state", 8, SETTINGS)


@pytest.fixture(scope="module")
def table(whole):
    """The rows whose penalty was chosen on the validation split."""
    return cell(whole, penalty=0)


def cell(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_a_profile_has_every_row_once(table):
    expected = itertools.product((0, 1, 2), NETWORKS, range(-1, 9))
    keys = {(s, network, labels, p) for s, (network, labels), p in expected}
    assert {tuple(key) for key in table[["site", "network", "labels", "position"]].to_numpy().tolist()} == keys
    assert len(table) == len(keys)


def test_each_shown_penalty_has_a_pooled_row_at_every_site_and_the_chosen_one_is_among_them(whole, table):
    shown = whole[whole["penalty"] > 0]
    keys = {tuple(key) for key in shown[["site", "network", "labels", "position", "penalty"]].to_numpy().tolist()}
    assert keys == {(s, "trained", "task", 0, c) for s in range(3) for c in probes.SHOWN_PENALTIES}
    assert len(shown) == len(keys) and shown[["own_accuracy", "own_majority"]].isna().all(axis=None)
    for s in range(3):
        chosen = cell(table, site=s, network="trained", labels="task", position=0)
        at = shown[shown["site"] == s]
        assert chosen["accuracy"].item() in at[at["penalty"].isin(probes.PENALTIES)]["accuracy"].tolist()
        assert (at["majority"] == chosen["majority"].item()).all()


def test_a_penalty_that_is_only_shown_is_never_chosen():
    """The state is a difference of two features so fine that only the weakest penalty sees it; that is not on offer."""
    h, y = {}, {}
    for seed, (split, size) in enumerate(zip(tasks.SPLITS, (400, 200, 400), strict=True)):
        y[split] = rng(seed).integers(2, size=(size, 4))
        shared, fine = rng(50 + seed).normal(size=(size, 4)), 1e-4 * (2 * y[split] - 1)
        h[split] = np.stack([shared + fine, shared - fine], -1)
    rows = list(probes._probe_site(h, y, 2, seed=0, beyond=4, shown=(1.0, 1e12)))
    chosen, _, weakest = (next(r for r in rows if r["position"] == 0 and r["penalty"] == c) for c in (0.0, 1.0, 1e12))
    assert weakest["accuracy"] > 0.95
    assert chosen["accuracy"] < 0.7


def test_a_profile_has_no_missing_number_and_none_out_of_range(table):
    values = table[["accuracy", "majority", "own_accuracy", "own_majority"]]
    assert values.notna().all(axis=None)
    assert values.min(axis=None) >= 0 and values.max(axis=None) <= 1


def test_the_same_call_gives_the_same_table_bit_for_bit(planted, whole):
    torch.manual_seed(31)
    np.random.seed(31)
    pd.testing.assert_frame_equal(probes.profile(planted, "state", 8, SETTINGS), whole, check_exact=True)


def test_another_seed_draws_other_sequences(planted, table):
    other = probes.profile(planted, "state", 8, ProbeSettings(n_fit=64, n_validation=32, n_test=100, seed=1))
    assert not np.array_equal(
        cell(other, position=8)["majority"].unique(), cell(table, position=8)["majority"].unique()
    )


def test_a_profile_shows_the_planted_codes_where_they_are(table):
    pooled = cell(table, network="trained", labels="task", position=0).set_index("site")
    assert pooled["accuracy"][1] == pooled["own_accuracy"][1] == 1.0
    assert pooled["accuracy"][2] < 0.6 and pooled["own_accuracy"][2] == 1.0
    late = cell(table, network="trained", labels="task", position=8).set_index("site")
    assert late["own_accuracy"][0] < 0.65  # the last token says nothing of the parity of eight
    first = cell(table, network="trained", labels="task", position=1).set_index("site")
    assert first["own_accuracy"][0] == 1.0  # but the first token is the parity of one


def test_an_untrained_network_is_far_below_the_planted_one(table):
    trained, untrained = (cell(table, network=n, labels="task", position=-1, site=1) for n in ("trained", "untrained"))
    assert trained["accuracy"].item() == 1.0
    assert untrained["accuracy"].item() < 0.65 and untrained["own_accuracy"].item() < 0.65


def test_control_labels_are_not_read_from_the_state(table):
    """Site 1 holds the state alone; a function of position mod 4 and two tokens is not in it."""
    control = cell(table, network="trained", labels="control", site=1, position=0)
    assert control["accuracy"].item() < 0.7


def test_a_trained_network_is_read_far_better_than_an_untrained_one(monkeypatch):
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: [1.0])
    recipe = training.recipe("lstm", steps=400, length=8, batch=32, lr=1e-2)
    run = Run("parity", ModelSpec("lstm", d_model=16, n_layers=1), recipe)
    result = cell(probes.profile(training.train(run, progress=False), "state", 8, SETTINGS), penalty=0)
    at = {
        n: cell(result, network=n, labels="task", site=1, position=8)["own_accuracy"].item()
        for n in ("trained", "untrained")
    }
    assert at["trained"] > 0.95
    assert at["untrained"] < 0.7


def test_activations_are_the_stream_of_the_model_on_the_split_in_order():
    run = Run("parity", ModelSpec("gru", d_model=8, n_layers=2), TrainSpec())
    found = probes.activations(run.untrained(), 7, [0, 2], 1030, "test", seed=3)
    assert found.batch.tokens.shape == (1030, 7)
    assert set((tasks.sequence_hash(found.batch.tokens.numpy()) % 10).tolist()) == {9}
    model = run.untrained().model
    with torch.no_grad():
        embedded = model.backbone.embeddings(found.batch.tokens)
        assert np.array_equal(found.h[0], embedded.numpy())
        assert np.allclose(found.h[2], model.backbone(found.batch.tokens).numpy(), atol=1e-6)


@pytest.mark.parametrize(("task", "variable"), [("parity", "state"), ("dyck-2-4", "top"), ("dyck-2-4", "depth")])
def test_baselines_stand_on_the_same_test_sequences_as_the_profile(task, variable):
    run = Run(task, ModelSpec("gru", d_model=8, n_layers=1), TrainSpec())
    settings = ProbeSettings(n_fit=100, n_validation=32, n_test=64)
    profile = cell(probes.profile(run.untrained(), variable, 8, settings), penalty=0)
    beside = probes.baselines(named(task), variable, 8, 1, settings)
    assert beside["site"].unique().tolist() == [0, 1]
    assert not beside.duplicated(["site", "position"]).any() and beside.notna().all(axis=None)
    for s in (0, 1):
        ours = cell(beside, site=s).set_index("position")["position_only"].sort_index()
        theirs = (
            cell(profile, site=s, network="trained", labels="task").set_index("position")["own_majority"].sort_index()
        )
        assert ours.index.tolist() == theirs.index.tolist() == list(range(-1, 9))
        assert np.allclose(ours, theirs)


def test_a_wider_window_never_guesses_worse_and_pooled_rows_are_means():
    beside = probes.baselines(dyck(2, 4), "top", 12, 2, ProbeSettings(n_fit=200, n_validation=32, n_test=300))
    windows = beside.pivot(index="site", columns="position", values="bayes_window")
    assert (np.diff(windows.to_numpy(), axis=0) >= -1e-12).all()
    assert np.allclose(windows[0], windows[list(range(1, 13))].mean(axis=1))
    assert np.allclose(windows[-1], windows[[8, 9, 10, 11, 12]].mean(axis=1))
    assert (windows.loc[2, list(range(1, 8))] == 1).all()


@pytest.mark.parametrize("function", ["profile", "baselines"])
def test_a_variable_that_the_task_lacks_is_refused_with_those_that_it_has(planted, function):
    with pytest.raises(ValueError, match=r"variable='depht'.*state"):
        if function == "profile":
            probes.profile(planted, "depht", 8, SETTINGS)
        else:
            probes.baselines(parity(), "depht", 8, 2, SETTINGS)


# ---- Bayes by brute force ---------------------------------------------------------------------------------------------------


def strings_with_probabilities(task, length):
    """Every possible string, its probability and its labels, for tasks whose law is simple to write down."""
    found = []
    if not task.name.startswith("dyck"):
        n = task.vocab_size
        for tokens in itertools.product(range(n), repeat=length):
            found.append((tokens, n**-length, [sum(tokens[: t + 1]) % n for t in range(length)]))
        return found
    k, m = (int(n) for n in task.name.split("-")[1:3])

    def grow(tokens, p, stack, labels):
        if len(tokens) == length:
            found.append((tokens, p, labels))
            return
        opens = 1 if not stack else 0 if len(stack) == m else 0.5
        for kind in range(k) if opens else ():
            after = [*stack, kind]
            grow((*tokens, kind), p * opens / k, after, [*labels, (kind + 1, len(after))])
        if stack:
            after = stack[:-1]
            grow(
                (*tokens, k + stack[-1]), p * (1 - opens), after, [*labels, (after[-1] + 1 if after else 0, len(after))]
            )

    grow((), 1.0, [], [])
    index = {"top": 0, "depth": 1}
    return [
        (tokens, p, {v: [pair[i] for pair in labels] for v, i in index.items()}) for tokens, p, labels in found if p > 0
    ]


def batch_of(strings):
    tokens = torch.tensor(strings)
    return Batch(tokens, {}, tokens, tokens)


@pytest.mark.parametrize(
    ("task", "variable", "length"),
    [
        (parity(), "state", 6),
        (cyclic(3), "state", 5),
        (dyck(1, 2), "top", 7),
        (dyck(1, 2), "depth", 7),
        (dyck(2, 2), "top", 6),
        (dyck(2, 2), "depth", 6),
        (dyck(2, 3), "top", 7),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_bayes_accuracy_is_the_best_posterior_by_enumeration_of_all_strings(task, variable, length):
    """Group all strings by what a window shows; within a group the best guess is right with its largest share."""
    everything = strings_with_probabilities(task, length)
    assert sum(p for _, p, _ in everything) == pytest.approx(1)
    alone = [tokens for tokens, _, _ in everything][:: max(1, len(everything) // 25)]
    for w in range(1, length + 1):
        best = np.empty((len(everything), length))
        for t in range(length):
            mass = defaultdict(lambda: defaultdict(float))
            for tokens, p, labels in everything:
                label = labels[variable] if isinstance(labels, dict) else labels
                mass[tokens[max(0, t + 1 - w) : t + 1]][label[t]] += p
            share = {seen: max(by.values()) / sum(by.values()) for seen, by in mass.items()}
            best[:, t] = [share[tokens[max(0, t + 1 - w) : t + 1]] for tokens, _, _ in everything]
        rows = {tokens: best[i] for i, (tokens, _, _) in enumerate(everything)}
        # a batch of one sequence gives that window's own value; a batch of all gives their plain mean
        for tokens in alone:
            assert np.allclose(bayes_accuracy(task, batch_of([tokens]), variable, w), rows[tokens])
        assert np.allclose(bayes_accuracy(task, batch_of([s for s, _, _ in everything]), variable, w), best.mean(0))


def test_bayes_accuracy_over_sampled_sequences_is_the_success_rate_of_the_best_guess():
    """Weighted by probability, the mean posterior is the chance of being right: .5 for parity past its window."""
    batch = parity().sample(500, 9, torch.Generator().manual_seed(0))
    assert bayes_accuracy(parity(), batch, "state", 4) == pytest.approx([1.0] * 4 + [0.5] * 5)
    everything = strings_with_probabilities(dyck(2, 2), 6)
    exact = np.zeros(6)
    for t in range(6):
        mass = defaultdict(lambda: defaultdict(float))
        for tokens, p, labels in everything:
            mass[tokens[max(0, t - 1) : t + 1]][labels["top"][t]] += p
        exact[t] = sum(max(by.values()) for by in mass.values())
    batch = dyck(2, 2).sample(6000, 6, torch.Generator().manual_seed(0))
    assert bayes_accuracy(dyck(2, 2), batch, "top", 2) == pytest.approx(exact, abs=0.02)


def test_the_papers_dyck_shortcuts_have_the_sizes_that_are_stated():
    """PAPER.md item 2, k = 2 and depth bound 4: position alone 52%, majority 27%, position and four tokens 80%.

    It does not name variable or length: it is depth, and about 48 tokens (at our 20: 55, 30 and 84%).
    """
    batch = dyck(2, 4).sample(2500, 48, torch.Generator().manual_seed(0))
    depth = batch.states["depth"].numpy()
    by_position = np.mean([np.bincount(column).max() / len(column) for column in depth.T])
    majority = np.bincount(depth.ravel()).max() / depth.size
    four = bayes_accuracy(dyck(2, 4), batch, "depth", 4).mean()
    assert [by_position, majority, four] == pytest.approx([0.52, 0.27, 0.80], abs=0.015)


def test_the_window_of_a_site_is_what_its_convolutions_see():
    """Four taps a block: each block reaches three tokens further back than the one before."""
    seen = {0}
    for s in range(5):
        assert probes.window(s) == len(seen)
        assert probes.window(s, taps=1) == 1  # a convolution of the current token alone
        seen |= {i + tap for i in seen for tap in range(4)}


# ---- control labels -----------------------------------------------------------------------------------------------------


CONTROLLED = [("parity", "state"), ("S3", "state"), ("dyck-2-4", "top"), ("dyck-2-4", "depth")]
controlled = pytest.mark.parametrize(("task", "variable"), CONTROLLED)


def drawn(task, seed, n=1500, length=14):
    return named(task).sample(n, length, torch.Generator().manual_seed(seed), "train")


def mapping(task, variable, batch):
    """context -> the set of labels that it has, the context being (position mod 4, token before, token)."""
    labels, found = control_labels(named(task), batch, variable), defaultdict(set)
    for tokens, row in zip(batch.tokens.tolist(), labels.tolist(), strict=True):
        for t, label in enumerate(row):
            found[t % 4, tokens[t - 1] if t else None, tokens[t]].add(label)
    return found


@controlled
def test_control_labels_are_a_function_of_the_context_and_of_no_more(task, variable):
    one, two = (mapping(task, variable, drawn(task, seed)) for seed in (1, 2))
    assert all(len(labels) == 1 for labels in one.values())
    shared = one.keys() & two.keys()
    assert len(shared) > 10
    assert all(one[context] == two[context] for context in shared)


@controlled
def test_control_labels_have_about_the_variables_marginals(task, variable):
    batch, k = drawn(task, 0), named(task).n_states[variable]
    labels = control_labels(named(task), batch, variable)
    assert labels.shape == batch.tokens.shape and labels.min() >= 0 and labels.max() < k
    shares, wanted = (np.bincount(y.ravel(), minlength=k) / y.size for y in (labels, batch.states[variable].numpy()))
    assert np.abs(shares - wanted).sum() / 2 < 0.03
    other = control_labels(named(task), drawn(task, 5), variable)
    assert np.abs(np.bincount(other.ravel(), minlength=k) / other.size - wanted).sum() / 2 < 0.05


@controlled
def test_control_labels_use_position_both_tokens_and_not_the_variable(task, variable):
    batch = drawn(task, 0)
    of = mapping(task, variable, batch)
    for part in range(3):  # two contexts that differ in this part alone, with different labels
        rest = defaultdict(set)
        for context, labels in of.items():
            rest[context[:part] + context[part + 1 :]] |= labels
        assert any(len(labels) > 1 for labels in rest.values())
    agreement = (control_labels(named(task), batch, variable) == batch.states[variable].numpy()).mean()
    shares = np.bincount(batch.states[variable].numpy().ravel()) / batch.tokens.numel()
    assert agreement < (shares**2).sum() + 0.15


@controlled
def test_every_context_occurs_in_the_fit_split(task, variable):
    seen = mapping(task, variable, drawn(task, 0, n=4096, length=20))
    fresh = named(task).sample(2048, 20, torch.Generator().manual_seed(8), "test")
    assert mapping(task, variable, fresh).keys() <= seen.keys()


@controlled
def test_control_labels_do_not_touch_the_generators_and_repeat(task, variable):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batch = drawn(task, 0)
    first = control_labels(named(task), batch, variable)
    assert np.array_equal(first, control_labels(named(task), batch, variable))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


@controlled
def test_the_control_function_is_the_same_whatever_sample_the_probe_was_fitted_on(task, variable):
    one, two = (mapping(task, variable, drawn(task, seed)) for seed in (2, 3))
    assert {context: one[context] for context in one.keys() & two.keys()} == {
        c: two[c] for c in one.keys() & two.keys()
    }


# ---- what a cell leaves out, and labels by another task ------------------------------------------------------------------


def small_profile(labelled_by="", variable="top", **changes):
    settings = ProbeSettings(n_fit=100, n_validation=32, n_test=64, **changes)
    run = Run("dyck-2-4", ModelSpec("gru", d_model=8, n_layers=1), TrainSpec())
    return probes.profile(run.untrained(), variable, 8, settings, labelled_by)


def test_without_probes_of_their_own_the_pooled_ones_are_the_same():
    whole, bare = small_profile(), small_profile(own="none")
    assert bare["own_accuracy"].isna().all() and bare["own_majority"].isna().all()
    columns = ["site", "network", "labels", "position", "penalty", "accuracy", "majority"]
    pd.testing.assert_frame_equal(whole[columns], bare[columns])
    trained = cell(small_profile(own="trained"), penalty=0)
    has = trained["own_accuracy"].notna()
    assert (has == ((trained["network"] == "trained") & (trained["labels"] == "task"))).all()


def test_without_what_stands_beside_there_is_the_trained_network_alone():
    bare, whole = small_profile(beside=False), small_profile()
    assert set(bare["network"]) == {"trained"} and set(bare["labels"]) == {"task"}
    same = whole[(whole["network"] == "trained") & (whole["labels"] == "task")].reset_index(drop=True)
    pd.testing.assert_frame_equal(bare, same)


def test_labels_of_another_task_on_the_same_strings():
    same = small_profile("dyck-2-4-openers", own="none", beside=False)
    pd.testing.assert_frame_equal(same, small_profile(own="none", beside=False))  # the same strings, the same variable
    other = small_profile("dyck-2-4-openers", "openers", own="none", beside=False)
    assert abs(cell(other, site=0, position=0, penalty=0)["majority"].item() - 0.5) < 0.1
    with pytest.raises(ValueError, match="labelled_by='parity'"):
        small_profile("parity", "state")
    with pytest.raises(ValueError, match="variable='openers'"):
        small_profile("", "openers")


@pytest.mark.parametrize("change", [{"own": "some"}, {"own": True}, {"beside": 1}])
def test_what_a_cell_leaves_out_is_one_of_the_known_choices(change):
    with pytest.raises(ValueError, match="must be all, trained or none"):
        ProbeSettings(**change)
