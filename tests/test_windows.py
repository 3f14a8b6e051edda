"""Edits of several sites in one pass: by another route, on planted models, and what stands beside them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from statedepth import ablation, analogue, erasers, models, planted, windows
from statedepth.ablation import NecessitySettings
from statedepth.erasers import Eraser
from statedepth.models import ModelSpec
from statedepth.planted import Planted
from statedepth.pretrained import Tuned, Vocabulary
from statedepth.removal import Parts
from statedepth.stream import between
from statedepth.tasks import dyck, parity

torch.set_num_threads(1)

L, T = 4, 7
TINY = NecessitySettings(n_erase=256, n_fit=192, n_validation=96, n_test=128, n_task=96, draws=2, n_control=96, own_positions=1)  # fmt: skip
SMALL = replace(TINY, n_erase=1024, n_fit=512, n_validation=256, n_test=256)
KINDS = ("lstm", "mamba", "transformer", "tuned")
every_model = pytest.mark.parametrize("model", KINDS, indirect=True)
one_model = pytest.mark.parametrize("model", ["lstm"], indirect=True)

# ---- models, and a forward pass with edits, by hand ----------------------------------------------------------------------


def made(kind):
    """A random network whose head was solved for the state: it does the task better than chance, and not well."""
    if kind == "tuned":
        config = transformers.GPTNeoXConfig(vocab_size=320, hidden_size=16, num_hidden_layers=L, num_attention_heads=2, intermediate_size=32)  # fmt: skip
        model = Tuned(analogue.new(config, 0), Vocabulary((3, 4), (5, 6), (), (7,)))
    else:
        model = models.build(ModelSpec(kind, d_model=16, n_layers=L, d_state=4, n_heads=2), 2, 2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.3 * torch.randn(weights.shape, generator=generator)
        batch = parity().sample(400, T, torch.Generator().manual_seed(5), "train")
        head = model.lm.get_output_embeddings() if kind == "tuned" else model.head
        found = []
        if kind == "tuned":
            found = [model.hidden(batch.tokens)]
        else:
            handle = head.register_forward_pre_hook(lambda _, args: found.append(args[0]))
            model(batch.tokens)
            handle.remove()
        x = torch.cat([found[0], torch.ones_like(found[0][..., :1])], -1).flatten(0, 1).double()
        x = x[:, :-1] if head.bias is None else x
        sign = 2.0 * batch.targets.flatten().double() - 1
        w = torch.linalg.lstsq(x, sign, driver="gelsd").solution.float()
        rows = (5, 6) if kind == "tuned" else (0, 1)
        for row, way in zip(rows, (-1, 1), strict=True):
            head.weight[row] = way * w[:16] if kind == "tuned" else way * w[: head.in_features]
            if head.bias is not None:
                head.bias[row] = way * w[-1]
    return model.eval()


@pytest.fixture(scope="module")
def model(request):
    return made(request.param)


def run_by_hand(model, tokens, edits=None, keep=()):
    """The logits, and the stream at the sites `keep`, of one whole pass with edits at the outputs of blocks."""
    before = len(model.begin) if isinstance(model, Tuned) else 0
    edits, found, handles = edits or {}, {}, []

    def hook(site):
        def at(_module, _args, out):
            whole = out[0] if isinstance(out, tuple) else out
            h = whole[:, before:]
            h = edits[site](h) if site in edits else h
            found[site] = h
            whole = torch.cat([whole[:, :before], h], 1)
            return (whole, *out[1:]) if isinstance(out, tuple) else whole

        return at

    for site in {*edits, *keep}:
        handles.append(model.backbone.layers[site - 1].register_forward_hook(hook(site)))
    with torch.no_grad():
        out = model(tokens)
    for handle in handles:
        handle.remove()
    return out, {site: found[site] for site in keep}


def by(chain):
    """Erasers one after the other, by their definition h' = h - left right (h - mean), in double precision."""

    def edit(h):
        x = h.double()
        for one in chain:
            x = x - (x - one.mean) @ one.right.mT @ one.left.mT
        return x.float()

    return edit


def strings(task, settings, length=T):
    """The test strings that the edited model is run on, and their answers."""
    batch = task.sample(settings.n_test, length, torch.Generator().manual_seed(79), "test")
    return batch.tokens[: settings.n_task], batch.targets[: settings.n_task]


def right_by_hand(model, task, settings, edits, length=T):
    """Share of right answers of each string."""
    tokens, targets = strings(task, settings, length)
    return (run_by_hand(model, tokens, edits)[0].argmax(-1) == targets).double().mean(1).numpy()


@pytest.fixture
def seen(monkeypatch):
    """The erasers that are fitted, by site and method, and those that are drawn."""
    fitted, drawn, site_of = {}, [], {}
    real_fit, real_parts, real_random = windows.fit_chain, windows.parts_at, erasers.random_like

    def parts_at(subject, site, *rest):
        parts = real_parts(subject, site, *rest)
        site_of[id(parts)] = site, parts
        return parts

    def fit_chain(method, scope, parts, before):
        assert scope == "pooled"
        fitted[site_of[id(parts)][0], method] = chain = real_fit(method, scope, parts, before)
        return chain

    def random_like(one, *rest):
        drawn.append((one, real_random(one, *rest)))
        return drawn[-1][1]

    monkeypatch.setattr(windows, "parts_at", parts_at)
    monkeypatch.setattr(windows, "fit_chain", fit_chain)
    monkeypatch.setattr(erasers, "random_like", random_like)
    return fitted, drawn


def put_in(monkeypatch, make):
    """Erasers of our own, one for each site and method, in the place of fitted ones."""
    chains, calls = {}, []

    def fit_chain(method, _scope, parts, _before):
        site = 1 + sum(one == method for one in calls)
        calls.append(method)
        chains[site, method] = make(site, method, parts)
        return chains[site, method]

    monkeypatch.setattr(windows, "fit_chain", fit_chain)
    return chains


def overdone(site, method, parts, strength=1.6):
    """An edit that done twice is another than done once, and that leaves nothing of a stream as it was."""
    width = parts.erase[0].shape[-1]
    generator = torch.Generator().manual_seed(100 * site + len(method))
    basis = torch.linalg.qr(torch.randn(width, 5, generator=generator, dtype=torch.float64))[0]
    mean = parts.erase[0].mean((0, 1)) + 0.1
    return [Eraser(mean, strength * basis, basis.mT, "overdone", 5.0, math.nan)]


# ---- the edited pass -----------------------------------------------------------------------------------------------------


@every_model
def test_what_the_task_loses_is_what_a_pass_with_all_edits_by_hand_loses(model, seen):
    table = windows.measure(model, parity(), T, TINY, methods=("mean projection", "LEACE"))
    intact = right_by_hand(model, parity(), TINY, {})
    majority = table["task_majority"].iloc[0]
    assert len(table) == 4 and intact.mean() > majority + 0.1 * (1 - majority)
    for row in table.itertuples():
        edits = {site: by(seen[0][site, row.method]) for site in (row.first, row.last)}
        after = right_by_hand(model, parity(), TINY, edits)
        fall = (intact - after) / (intact.mean() - majority)
        half = 1.96 * fall.std(ddof=1) / math.sqrt(len(fall))
        assert row.intact == pytest.approx(intact.mean()) and row.after == pytest.approx(after.mean())
        assert (row.fall, row.fall_low, row.fall_high) == pytest.approx((fall.mean(), fall.mean() - half, fall.mean() + half))  # fmt: skip
        assert row.rank == sum(one.rank for site in (row.first, row.last) for one in seen[0][site, row.method])


@every_model
@pytest.mark.parametrize("width", [2, 3])
def test_each_edit_acts_once_and_on_what_the_edits_before_it_made(model, width, monkeypatch):
    methods = ("LEACE", "mean projection", "direction")  # three draws of other edits, under their names
    chains = put_in(monkeypatch, overdone)
    table = windows.measure(model, parity(), T, replace(TINY, draws=1), width, methods)
    tokens, _ = strings(parity(), TINY)
    clean = run_by_hand(model, tokens, keep=range(1, L))[1]
    wrong = {"first alone": 0, "last alone": 0, "the last on the clean stream": 0, "twice": 0}
    for row in table.itertuples():
        window = range(row.first, row.last + 1)
        edits = {site: by(chains[site, row.method]) for site in window}
        assert row.after == pytest.approx(right_by_hand(model, parity(), TINY, edits).mean())
        last = edits[row.last](clean[row.last])
        others = {
            "first alone": {row.first: edits[row.first]},
            "last alone": {row.last: edits[row.last]},
            "the last on the clean stream": {**edits, row.last: lambda _, last=last: last},
            "twice": {site: by(2 * chains[site, row.method]) for site in window},
        }
        for name, other in others.items():
            wrong[name] += abs(right_by_hand(model, parity(), TINY, other).mean() - row.after) > 1e-6
    assert all(wrong.values()), wrong  # or the numbers above could not tell


@every_model
def test_a_refitted_probe_sees_the_stream_as_all_edits_leave_it(model, monkeypatch):
    chains, reached = put_in(monkeypatch, overdone), []
    monkeypatch.setattr(windows, "between", lambda *args: reached.append(between(*args)) or reached[-1])
    row = windows.measure(model, parity(), T, replace(TINY, draws=1), 3, ("LEACE",)).iloc[0]
    assert (row["first"], row["last"]) == (1, 3)
    edits = {site: by(chains[site, "LEACE"]) for site in (1, 2, 3)}
    batches, h = ablation.capture(model, parity(), T, TINY, [3]).batches, {}
    for name, some in (("all", edits), ("last alone", {3: edits[3]}), ("none", {})):
        h[name] = {part: run_by_hand(model, batch.tokens, some, [3])[1][3] for part, batch in batches.items()}
    seen, wanted = torch.cat(reached), torch.cat([h["all"][part] for part in ("fit", "validation", "test")])
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(seen, torch.cat([h["last alone"][part] for part in ("fit", "validation", "test")]), atol=0.01)  # fmt: skip
    read, spread = {}, float(h["none"]["fit"].double().std())
    for name in ("all", "none"):
        four = {part: (h[name][part].double(), batch.states["state"]) for part, batch in batches.items()}
        parts = Parts(**four, n_classes=2, positions=[T - 1], n_probe=TINY.n_fit, spread=spread, seed=0)
        read[name] = parts.readings(parts.fit if name == "all" else parts.probed).pooled
    numbers = [float(x[0]) for one in (read["none"], read["all"]) for x in (one.accuracy, one.majority)]
    found = list(row[["before", "majority", "refit", "refit_majority"]])
    assert found == pytest.approx(numbers, abs=0.004)  # rounding may turn an answer or two


def whole_by_hand(model, edits):
    """Accuracy where every token of the vocabulary may be the answer: a pass up to the head, then its own matrix."""
    tokens, targets = strings(parity(), TINY)
    found = []
    handle = model.lm.get_output_embeddings().register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model.others = True
    run_by_hand(model, tokens, edits)
    model.others = False
    handle.remove()
    answer = (found[0] @ model.lm.get_output_embeddings().weight.T).argmax(-1)
    return float((answer == model.states[targets]).double().mean())


def test_a_language_model_may_answer_with_any_token_of_its_vocabulary(seen):
    model = made("tuned")
    with torch.no_grad():  # so that other tokens are often, and not always, more probable than a state
        rows = model.lm.get_output_embeddings().weight
        rows[:5] *= 0.02
        rows[7:] *= 0.02
    table = windows.measure(model, parity(), T, TINY, methods=("mean projection",))
    for row in table.itertuples():
        edits = {site: by(seen[0][site, row.method]) for site in (row.first, row.last)}
        assert row.intact_whole == pytest.approx(whole_by_hand(model, {})) and 0.1 < row.intact_whole < row.intact
        assert row.after_whole == pytest.approx(whole_by_hand(model, edits)) and row.after_whole < row.after
    single = ablation.measure(model, parity(), T, TINY, sites=[2], methods={"pooled": ("mean projection",)}).iloc[0]
    assert single["intact_whole"] == table["intact_whole"].iloc[0]
    assert single["after_whole"] == pytest.approx(whole_by_hand(model, {2: by(seen[0][2, "mean projection"])}))
    assert not model.others and model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 2)


@one_model
def test_a_model_that_knows_no_other_token_has_no_such_columns(model):
    row = windows.measure(model, parity(), T, replace(TINY, draws=1), methods=("LEACE",)).iloc[0]
    assert not {"intact_whole", "after_whole"} & set(row.index)


@one_model
def test_streams_that_do_not_fit_into_memory_are_taken_in_groups_with_the_same_result(model, monkeypatch):
    once = [windows.measure(model, parity(), T, TINY, 2, ("LEACE",)), ablation.measure(model, parity(), T, TINY, methods={"pooled": ("LEACE",)})]  # fmt: skip
    monkeypatch.setattr(ablation, "HELD", 1)
    assert ablation.groups(model, parity(), T, TINY, [1, 2, 3]) == [[1], [2], [3]]
    assert ablation.groups(model, parity(), T, TINY, [1, 2, 3], 1) == [[1, 2], [2, 3]]
    again = [windows.measure(model, parity(), T, TINY, 2, ("LEACE",)), ablation.measure(model, parity(), T, TINY, methods={"pooled": ("LEACE",)})]  # fmt: skip
    for one, other in zip(once, again, strict=True):
        assert one.equals(other)


@one_model
def test_erasers_of_rank_0_change_nothing(model, monkeypatch):
    none = erasers.leace(np.ones((100, model.head.in_features)), np.arange(100) % 2)
    put_in(monkeypatch, lambda *_: [none])
    for row in windows.measure(model, parity(), T, TINY, methods=("LEACE",)).itertuples():
        subject = ablation.capture(model, parity(), T, TINY, [row.last])
        parts = ablation.parts_at(subject, row.last, "state", [T - 1], TINY, False)
        assert row.rank == 0 and row.after == row.intact
        assert row.fall == row.fall_low == row.fall_high == row.resample_fall == row.random_fall == row.random_most == 0
        assert row.refit == float(parts.readings(parts.fit).pooled.accuracy[0])  # as before, of another sample


@one_model
def test_the_model_is_left_as_it_was(model):
    tokens, _ = strings(parity(), TINY)
    before = run_by_hand(model, tokens)[0]
    windows.measure(model, parity(), T, replace(TINY, draws=1), methods=("LEACE",))
    assert torch.equal(run_by_hand(model, tokens)[0], before)
    assert not any(block._forward_hooks or block._forward_pre_hooks or "forward" in vars(block) for block in models.blocks(model))  # fmt: skip


# ---- from one site to another ----------------------------------------------------------------------------------------------


@every_model
def test_between_two_sites_is_what_a_whole_pass_with_those_edits_has_there(model):
    tokens, _ = strings(parity(), TINY)
    clean = run_by_hand(model, tokens, keep=[1, 2, 3])[1]
    h, edit = clean[1].flip(0), lambda h: 2 * h.roll(1, -1)
    with torch.no_grad():
        for last in (2, 3):
            edits = {site: edit for site in range(2, last + 1)}
            expected = run_by_hand(model, tokens, {1: lambda _: h, **edits}, [last])[1][last]
            torch.testing.assert_close(between(model, 1, last, h, tokens, edits), expected)
            torch.testing.assert_close(between(model, 1, last, clean[1], tokens), clean[last])


@one_model
def test_no_block_but_those_between_runs(model, monkeypatch):
    tokens, _ = strings(parity(), TINY)
    h, ran, blocks = run_by_hand(model, tokens, keep=[1])[1][1], [], list(models.blocks(model))
    real = type(blocks[0]).forward
    monkeypatch.setattr(type(blocks[0]), "forward", lambda self, *a, **k: ran.append(blocks.index(self)) or real(self, *a, **k))  # fmt: skip
    between(model, 1, 3, h, tokens)
    assert ran == [1, 2]


@one_model
@pytest.mark.parametrize(("site", "last", "says"), [(2, 2, "last=2: must be after site=2"), (3, 1, "last=1: must be after site=3"), (1, L + 1, f"site={L + 1}: this model has the sites 0")])  # fmt: skip
def test_a_last_site_that_is_not_after_the_first_or_not_there_is_refused(model, site, last, says):
    with pytest.raises(ValueError, match=says):
        between(model, site, last, torch.zeros(2, T, model.head.in_features), torch.zeros(2, T, dtype=torch.long))


# ---- planted ground truth --------------------------------------------------------------------------------------------------


def written_at(task, *codes, read="cause"):
    """A planted model with a block for each of `codes`: "", or which code of the state it writes, "first" or "second"."""
    model = Planted(task, read)
    writers = Planted(task, "recomputed").backbone.layers
    of = {"first": writers[0].codes, "": [], "second": writers[2].codes}
    model.backbone = planted._Backbone([planted._Writer(task, of[code]) for code in codes])
    return model


@pytest.mark.parametrize("task", [parity(), dyck(1, 3, "depth")], ids=lambda task: task.name)
def test_a_window_over_the_cause_costs_the_task_and_one_before_it_nothing(task):
    model = written_at(task, "", "", "first", "", "")
    table = windows.measure(model, task, 12, SMALL, methods=("LEACE",)).set_index("first")
    assert (table["intact"] == 1).all()
    assert table.loc[1, "fall"] == table.loc[1, "fall_high"] == 0
    for first in (2, 3):  # from its writing on, and after
        row = table.loc[first]
        assert row["fall_low"] > 0.5 and row["before"] == 1
        assert abs(row["random_most"]) < 0.3


def test_a_window_over_what_is_recomputed_later_removes_the_state_and_costs_nothing():
    row = windows.measure(Planted(parity(), "recomputed"), parity(), 12, SMALL, methods=("LEACE",)).iloc[0]
    assert (row["before"], row["fall"], row["after"]) == (1, 0, 1)
    assert row["refit"] <= row["refit_majority"] + 0.02


@pytest.mark.parametrize("width", [2, 3])
def test_after_leace_at_its_last_site_a_probe_reads_no_more_than_the_majority(width):
    model = written_at(parity(), "first", "", "", "")
    table = windows.measure(model, parity(), 12, SMALL, width, methods=("LEACE",))
    assert len(table) == 4 - width and (table["before"] == 1).all()
    assert (table["refit"] <= table["refit_majority"] + 0.02).all()


def test_where_an_edit_changes_what_the_next_site_holds_its_eraser_may_miss_and_the_refit_says_so():
    """Site 4 holds two codes, site 3 the one: without it, what LEACE of both takes away is not all of the other."""
    model = written_at(parity(), "first", "", "", "second", "", read="recomputed")
    alone = ablation.measure(model, parity(), 12, SMALL, sites=[4], methods={"pooled": ("LEACE",)}).iloc[0]
    assert alone["refit"] <= alone["refit_majority"] + 0.02
    row = windows.measure(model, parity(), 12, SMALL, methods=("LEACE",)).set_index("first").loc[3]
    assert row["refit"] > 0.99


def test_the_same_befalls_a_mean_projection_where_the_present_token_tells_of_the_state():
    """Alone it costs the model its cause; after one at the site before, which took the token's part, it misses."""
    model = written_at(parity(), "", "", "first", "", "")
    row = windows.measure(model, parity(), 12, SMALL, methods=("mean projection",)).set_index("first").loc[2]
    assert row["fall"] == 0 and row["refit"] > 0.99


def test_with_the_part_of_another_string_in_its_place_the_model_answers_for_that_one():
    """So it is right where both strings have the same answer: by chance, as often as not."""
    model = written_at(parity(), "first", "", "", "")
    row = windows.measure(model, parity(), 12, SMALL, methods=("LEACE",)).iloc[0]
    _, targets = strings(parity(), SMALL, 12)
    other = torch.randperm(SMALL.n_task, generator=torch.Generator().manual_seed(89))
    agree = float((targets == targets[other]).double().mean())
    assert row["resample_fall"] == pytest.approx((1 - agree) / (1 - row["task_majority"]))


# ---- definitions -----------------------------------------------------------------------------------------------------------


@one_model
def test_a_row_for_each_window_and_method_and_no_window_reaches_the_last_site(model):
    for width, windows_are in ((2, [(1, 2), (2, 3)]), (3, [(1, 3)])):
        table = windows.measure(model, parity(), T, replace(TINY, draws=1), width, ("LEACE", "INLP"))
        found = list(zip(table["first"], table["last"], table["method"], strict=True))
        assert found == [(*window, method) for window in windows_are for method in ("LEACE", "INLP")]


@one_model
@pytest.mark.parametrize("width", [1, 0, -2, L, L + 1, True, 2.0, "2", None])
def test_a_width_of_which_there_is_no_window_is_refused_by_name(model, width):
    with pytest.raises(ValueError, match=f"width={width!r}: must be a whole number of sites from 2 to {L - 1}"):
        windows.measure(model, parity(), T, TINY, width)


@one_model
def test_an_unknown_method_is_refused_by_name(model):
    with pytest.raises(ValueError, match="method='amnesia': must be one of direction"):
        windows.measure(model, parity(), T, TINY, methods=("amnesia",))


def test_the_majority_class_is_that_of_the_sample_that_erasers_see():
    task = dyck(1, 3, "depth")
    row = windows.measure(written_at(task, "first", "", ""), task, 9, TINY, methods=("LEACE",)).iloc[0]
    seen_before = task.sample(TINY.n_erase + TINY.n_fit, 9, torch.Generator().manual_seed(71), "train").targets[: TINY.n_erase]  # fmt: skip
    common = max(range(task.n_outputs), key=lambda state: int((seen_before == state).sum()))
    _, targets = strings(task, TINY, 9)
    assert row["task_majority"] == pytest.approx(float((targets == common).double().mean()))
    way = row["intact"] - row["task_majority"]
    assert row["fall"] == pytest.approx((row["intact"] - row["after"]) / way)


@one_model
def test_random_subspaces_have_the_ranks_of_the_erasers_and_cost_what_they_do_by_hand(model, seen):
    table = windows.measure(model, parity(), T, TINY, methods=("LEACE", "mean projection"))
    fitted, drawn = seen
    intact, drawn_of = right_by_hand(model, parity(), TINY, {}), iter(drawn)
    for row in table.itertuples():
        falls = []
        for _ in range(TINY.draws):  # each on all strings: n_control is n_task
            edits = {}
            for site in (row.first, row.last):
                chain = []
                for one in fitted[site, row.method]:
                    like, random = next(drawn_of)
                    assert like is one and random.rank == one.rank and torch.equal(random.mean, one.mean)
                    assert torch.linalg.matrix_rank(random.left @ random.right) == one.rank
                    assert not torch.allclose(random.left @ random.right, one.left @ one.right, atol=1e-2)
                    chain.append(random)
                edits[site] = by(chain)
            after = right_by_hand(model, parity(), TINY, edits)
            falls.append((intact - after).mean() / (intact.mean() - row.task_majority))
        assert (row.random_fall, row.random_most) == pytest.approx((np.mean(falls), np.max(falls)))
    assert next(drawn_of, None) is None


@one_model
def test_two_calls_give_the_same_table_and_another_seed_another(model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = windows.measure(model, parity(), T, TINY, methods=("LEACE",))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert windows.measure(model, parity(), T, TINY, methods=("LEACE",)).equals(first)
    assert not windows.measure(model, parity(), T, replace(TINY, seed=1), methods=("LEACE",)).equals(first)


@one_model
def test_a_model_at_chance_has_no_falls(model):
    def guessing(tokens):
        out = model(tokens)
        return torch.stack([torch.ones_like(out[..., 0]), 0 * out[..., 1]], -1)

    class Guess(torch.nn.Module):
        backbone = model.backbone

        def forward(self, tokens):
            return guessing(tokens)

    table = windows.measure(Guess(), parity(), T, TINY, methods=("LEACE",))
    falls = ["fall", "fall_low", "fall_high", "resample_fall", "random_fall", "random_most"]
    assert table[falls].isna().all(axis=None) and not table.drop(columns=falls).isna().any(axis=None)
    assert (table["after"] == table["intact"]).all()


# ---- what erasers are fitted on --------------------------------------------------------------------------------------------


def erasers_of(model, monkeypatch, *poisoned):
    """All erasers, where these parts hold other strings with other streams."""
    found, real_fit, real_capture = [], windows.fit_chain, windows.capture

    def capture(*args):
        subject = real_capture(*args)
        for part in poisoned:
            old = subject.batches[part]
            subject.batches[part] = replace(old, targets=1 - old.targets, states={"state": 1 - old.states["state"]})
            for site, h in subject.h[part].items():
                subject.h[part][site] = 3 * h.flip(0, 1, 2) + 1
        return subject

    with monkeypatch.context() as patch:
        patch.setattr(windows, "capture", capture)
        patch.setattr(windows, "fit_chain", lambda *args: found.append(real_fit(*args)) or found[-1])
        windows.measure(model, parity(), T, replace(TINY, draws=1), methods=windows.METHODS)
    return found


@one_model
def test_erasers_are_fitted_on_their_own_part_alone(model, monkeypatch):
    """Penalties of probes, and INLP's end, are chosen on validation strings; no eraser sees those of the test or of refits."""

    def same(one, two):
        fields = ("mean", "left", "right")
        return [all(torch.equal(getattr(a, f), getattr(b, f)) for a, b in zip(x, y, strict=True) for f in fields) for x, y in zip(one, two, strict=True)]  # fmt: skip

    clean, exact = erasers_of(model, monkeypatch), 3 * [method in erasers.FITTERS for method in windows.METHODS]
    assert [chain[0].rank for chain, is_exact in zip(clean, exact, strict=True) if is_exact] == 6 * [1]
    assert all(same(clean, erasers_of(model, monkeypatch, "test", "fit")))
    without = same(clean, erasers_of(model, monkeypatch, "test", "fit", "validation"))
    assert all(is_same for is_same, is_exact in zip(without, exact, strict=True) if is_exact)
    assert not any(same(clean, erasers_of(model, monkeypatch, "erase")))
