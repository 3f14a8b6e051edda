"""The necessity test on models of which the truth is known, its outcomes rule by rule, and its numbers by another route."""

import math

import numpy as np
import pytest
import torch

from statedepth import ablation, erasers, models, planted
from statedepth.ablation import NecessitySettings, control_labels, measure, outcome
from statedepth.models import ModelSpec
from statedepth.planted import EXPECTED, KINDS, Planted
from statedepth.stream import stream
from statedepth.tasks import dyck, named, parity

torch.set_num_threads(1)

SMALL = NecessitySettings(n_erase=4096, n_fit=2048, n_validation=1024, n_test=1024, n_task=96, draws=3, own_positions=4)
TINY = NecessitySettings(n_erase=256, n_fit=128, n_validation=64, n_test=64, n_task=64, draws=2, n_control=16, own_positions=2)  # fmt: skip

# ---- planted ground truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["parity", "dyck-1-3-depth"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_test_returns_what_was_planted(task, kind):
    model = Planted(named(task), kind)
    methods = {"pooled": ("direction",), "each": ("mean projection", "LEACE")}
    given = {planted.CLEAN: [model.clean]} if kind == "copy" else {}
    table = measure(model, model.task, 20, SMALL, sites=[1], methods=methods, given=given)
    found = {(kind, row.positions, row.method): row.outcome for row in table.itertuples()}
    expected = {key: value for key, value in EXPECTED.items() if key[0] == kind and key[1:] != ("each", "direction")}
    assert expected and {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("task", ["parity", "dyck-1-3-depth"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hand_built_model_does_its_task_at_every_length(task, kind):
    batch = named(task).sample(200, 37, torch.Generator().manual_seed(0))
    assert (models.logits(Planted(named(task), kind), batch.tokens).argmax(-1) == batch.targets).all()


def test_one_direction_would_call_a_copied_cause_inert_and_the_refit_says_why():
    """v1's conclusion and its reversal, where the truth is known."""
    model = Planted(parity(), "copy")
    table = measure(model, model.task, 20, SMALL, sites=[1], methods={"pooled": ("direction",), "each": ("LEACE",)})
    one, exact = table.set_index("method").loc["direction"], table.set_index("method").loc["LEACE"]
    assert one["fall"] < 0.1 and one["refit"] > 0.99
    assert exact["fall"] > 0.5 and exact["refit"] < exact["refit_majority"] + 0.02


# ---- the rule -------------------------------------------------------------------------------------------------------------

REMOVED = {"rank": 1.0, "before": 0.9, "majority": 0.5, "before_own": 0.9, "own_majority": 0.5, "refit": 0.51, "refit_majority": 0.5, "refit_own": 0.51, "refit_own_majority": 0.5, "fall": 0.8, "fall_high": 0.85, "random_most": 0.1, "matched_most": 0.1, "control_fall": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "necessary"),
        ({"rank": 0.0}, "absent"),
        ({"before": 0.54, "before_own": 0.54}, "absent"),
        ({"before": 0.54}, "necessary"),  # read at single positions
        ({"refit": 0.53}, "not removed"),
        ({"refit_own": 0.53}, "not removed"),
        ({"refit": 0.53, "refit_majority": 0.52}, "necessary"),  # held against the refit's own majority
        ({"fall": 0.49, "fall_high": 0.6}, "inconclusive"),
        ({"random_most": 0.81}, "inconclusive"),
        ({"matched_most": 0.81}, "inconclusive"),
        ({"control_fall": 0.81}, "inconclusive"),
        ({"control_fall": math.nan}, "necessary"),  # there was none
        ({"fall": 0.05, "fall_high": 0.09}, "not necessary"),
        ({"fall": 0.05, "fall_high": 0.11}, "inconclusive"),
        ({"fall": math.nan, "fall_high": math.nan}, "inconclusive"),  # the model did not do the task
    ],
)
def test_each_outcome_by_its_rule(changes, says):
    assert outcome({**REMOVED, **changes}) == says


# ---- numbers, by another route --------------------------------------------------------------------------------------------


def tiny(family="mamba", task=None):
    task = task or parity()
    return models.build(
        ModelSpec(family, d_model=16, n_layers=3, d_state=4), task.vocab_size, task.n_outputs
    ).eval(), task


@pytest.mark.parametrize("family", models.FAMILIES)
def test_batched_edits_come_to_what_an_edit_of_its_own_pass_does(family):
    model, task = tiny(family)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.head.weight.mul_(20)
    eraser = erasers.direction(torch.nn.Linear(model.head.in_features, 2), torch.randn(50, model.head.in_features, generator=generator))  # fmt: skip
    table = measure(model, task, 9, TINY, sites=[1, 2], methods={"pooled": ("LEACE",)}, given={"own": [eraser]})
    test = task.sample(TINY.n_test, 9, torch.Generator().manual_seed(79), "test")
    for site in (1, 2):
        row = table[(table["site"] == site) & (table["method"] == "own")].iloc[0]
        with torch.no_grad(), stream(model, edit={site: eraser}):
            edited = models.logits(model, test.tokens[: TINY.n_task])
        with torch.no_grad():
            intact = models.logits(model, test.tokens[: TINY.n_task])
        targets = test.targets[: TINY.n_task]
        assert row["after"] == pytest.approx((edited.argmax(-1) == targets).double().mean().item())
        assert row["intact"] == pytest.approx((intact.argmax(-1) == targets).double().mean().item())


def test_the_size_of_an_edit_is_that_of_the_eraser():
    model = Planted(parity(), "cause")
    table = measure(model, model.task, 12, TINY, sites=[1], methods={"pooled": ()}, given={"clean": [model.clean]})
    assert table.empty  # a scope without methods is not asked for
    table = measure(
        model, model.task, 12, TINY, sites=[1], methods={"pooled": ("LEACE",)}, given={"clean": [model.clean]}
    )
    row = table[table["method"] == "clean"].iloc[0]
    test = model.task.sample(TINY.n_test, 12, torch.Generator().manual_seed(79), "test")
    with torch.no_grad(), stream(model, keep=[1]) as kept:
        models.logits(model, test.tokens)
    h = kept[1].double().reshape(-1, kept[1].shape[-1])
    taken = h - model.clean(h)
    assert row["norm"] == pytest.approx((taken.norm(dim=1) / h.norm(dim=1)).mean().item(), rel=1e-6)
    assert row["variance_removed"] == pytest.approx((taken.square().sum() / (h - h.mean(0)).square().sum()).item(), rel=1e-6)  # fmt: skip


def test_same_seed_same_table():
    model, task = tiny("lstm")
    first, second = (measure(model, task, 8, TINY, sites=[1]) for _ in range(2))
    assert first.equals(second)


def test_an_eraser_that_does_nothing_is_absent_not_a_null_result():
    model, task = tiny("gru")
    nothing = erasers.leace(np.ones((100, model.head.in_features)), np.arange(100) % 2)
    assert nothing.rank == 0
    table = measure(model, task, 8, TINY, sites=[1], methods={"pooled": ("LEACE",)}, given={"nothing": [nothing]})
    row = table[table["method"] == "nothing"].iloc[0]
    assert row["outcome"] == "absent" and math.isnan(row["fall"]) and row["after"] == row["intact"]


def test_where_the_position_tells_of_the_state_an_eraser_of_all_positions_follows():
    """Depth is odd at odd positions: without it, a probe of all positions reads the position."""
    model = Planted(dyck(1, 3, "depth"), "cause")
    table = measure(model, model.task, 20, SMALL, sites=[1], methods={"each": ("LEACE",)})
    row = table.iloc[0]
    per_position = 2.5  # two classes at even positions, up to two at odd ones, one at the first
    assert row["rank"] > per_position
    assert row["refit"] <= row["refit_majority"] + 0.02


def test_at_the_last_site_less_is_asked_and_at_the_last_position_only_that_is_edited():
    model, task = tiny("lstm")
    table = measure(model, task, 8, TINY)
    assert set(table[table["site"] == 3]["positions"]) == {"pooled", "each"}
    last = table[table["positions"] == "last"]
    assert set(last["site"]) == {1, 2} and (last["positions_asked"] == 1).all()


def test_control_labels_are_of_the_past_and_say_where_there_is_none():
    tokens = torch.tensor([[0, 1, 1, 0]])
    assert control_labels(tokens, "first token").tolist() == [[2, 0, 0, 0]]
    assert control_labels(tokens, "token two back").tolist() == [[2, 2, 0, 1]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"variable": "depth"}, "variable='depth': parity has state"),
        ({"methods": {"pooled": ("amnesia",)}}, "method='amnesia': must be one of direction"),
        ({"methods": {"some": ("LEACE",)}}, "scope='some': must be one of pooled, each, last"),
    ],
)
def test_unknown_variables_methods_and_scopes_are_refused(given, says):
    model, task = tiny("lstm")
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        measure(model, task, 8, TINY, sites=[1], **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"n_erase": 8}, "n_erase=8: must be a whole number from 64"),
        ({"draws": True}, "draws=True: must be"),
        ({"n_fit": 9000}, "n_fit=9000: must not exceed n_erase=8192"),
        ({"n_task": 4096}, "n_task=4096: must not exceed n_test=2048"),
    ],
)
def test_settings_refuse_impossible_amounts(given, says):
    with pytest.raises(ValueError, match=says):
        NecessitySettings(**given)


def test_every_method_of_the_plan_is_known():
    for plan in (ablation.PLAN, ablation.PLAN_BEYOND, ablation.PLAN_AT_TWICE, ablation.PLAN_AT_LAST_SITE):
        assert set(plan) <= set(ablation.SCOPES) and {m for part in plan.values() for m in part} <= set(erasers.METHODS)
