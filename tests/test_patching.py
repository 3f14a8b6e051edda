"""Activation patching: pairs differ as they should, shares are what they are called, and hand-built models come out true."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from statedepth import models, patching, tasks
from statedepth.models import ModelSpec
from statedepth.patching import Recovery, label, measure, pairs, recovered, sites_by_recovery
from statedepth.planted import Planted
from statedepth.stream import stream

torch.set_num_threads(1)

GROUPS, DYCK = ("parity", "Z6", "S3"), ("dyck-2-4", "dyck-3-3")
every_task = pytest.mark.parametrize("name", [*GROUPS, *DYCK])
every_group = pytest.mark.parametrize("name", GROUPS)
every_dyck = pytest.mark.parametrize("name", DYCK)
N, LENGTH = 200, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(name, n=N, length=LENGTH, seed=0, **changes):
    return pairs(tasks.named(name), n, length, generator(seed), **changes)


def folded(task, tokens):
    """States after every token, by the automaton's `step`, which says no where a token is not allowed."""
    state, states = task.start, []
    for token in tokens.tolist():
        state = task.step(state, token)
        states.append(state)
    return states


def answer(task, tokens):
    return task.read(folded(task, tokens)[-1])[task.target]


# ---- pairs ---------------------------------------------------------------------------------------------------------------


@every_task
def test_one_token_before_the_last_is_changed_and_no_other(name):
    made = drawn(name)
    assert made.clean.shape == made.corrupted.shape == (N, LENGTH)
    differ = made.clean != made.corrupted
    assert (differ.sum(1) == 1).all()
    assert torch.equal(differ.int().argmax(1), made.changed)
    assert made.changed.max() < LENGTH - 1


@every_task
def test_answers_are_those_of_the_automaton_at_the_end_and_differ(name):
    task, made = tasks.named(name), drawn(name)
    assert made.clean_answer.tolist() == [answer(task, tokens) for tokens in made.clean]
    assert made.corrupted_answer.tolist() == [answer(task, tokens) for tokens in made.corrupted]
    assert (made.clean_answer != made.corrupted_answer).all()


@every_group
def test_in_a_group_every_place_and_every_other_token_comes_up(name):
    task, made = tasks.named(name), drawn(name, n=600)
    assert set(made.changed.tolist()) == set(range(LENGTH - 1))
    rows = torch.arange(600)
    before, after = made.clean[rows, made.changed], made.corrupted[rows, made.changed]
    assert {*zip(before.tolist(), after.tolist(), strict=True)} == {
        (a, b) for a in range(task.vocab_size) for b in range(task.vocab_size) if a != b
    }


@every_dyck
def test_in_dyck_the_bracket_on_top_at_the_end_changes_its_type_and_the_depth_is_kept(name):
    task, made = tasks.named(name), drawn(name)
    kinds = task.vocab_size // 2
    for clean, corrupted, place in zip(made.clean, made.corrupted, made.changed.tolist(), strict=True):
        stacks, others = folded(task, clean), folded(task, corrupted)  # well-nested, or `step` would have said no
        assert [len(stack) for stack in stacks] == [len(stack) for stack in others]
        height = len(stacks[-1])
        assert height > 0 and stacks[-1][:-1] == others[-1][:-1]
        assert clean[place] < kinds and corrupted[place] < kinds
        assert (
            len(stacks[place]) == height and min(len(stack) for stack in stacks[place:]) == height
        )  # on top ever since


@every_dyck
def test_in_dyck_every_type_becomes_every_other(name):
    made = drawn(name, n=400)
    kinds = tasks.named(name).vocab_size // 2
    changes = {*zip(made.clean_answer.tolist(), made.corrupted_answer.tolist(), strict=True)}
    assert changes == {(a, b) for a in range(1, kinds + 1) for b in range(1, kinds + 1) if a != b}


def test_clean_strings_are_of_the_split_that_is_asked_for():
    tenths = {split: set(tasks.sequence_hash(drawn("S3", split=split).clean.numpy()) % 10) for split in ("test", None)}
    assert tenths["test"] == {9}
    assert len(tenths[None]) > 5


def test_pairs_are_those_of_the_generator():
    assert torch.equal(drawn("S3").corrupted, drawn("S3").corrupted)
    assert not torch.equal(drawn("S3").corrupted, drawn("S3", seed=1).corrupted)


def test_the_shortest_strings_of_a_group_have_their_first_token_changed():
    made = drawn("Z6", n=20, length=2, split=None)
    assert (made.changed == 0).all()


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("parity", 1, "length=1: must be 2 or more"),
        ("dyck-2-4", 0, "length=0: must be 2 or more"),
        ("dyck-1-4", 8, "dyck-1-4.*two bracket types"),
        ("dyck-2-4-depth", 8, "dyck-2-4-depth.*top of a stack"),
        ("dyck-2-4-openers", 8, "dyck-2-4-openers.*top of a stack"),
        ("dyck-2-4", 2, "length=2: too few strings of dyck-2-4.*longer"),
    ],
)
def test_strings_that_cannot_be_paired_are_refused(name, length, message):
    with pytest.raises(ValueError, match=message):
        drawn(name, n=10, length=length, split=None)


# ---- labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GROUPS, *DYCK, "dyck-2-4-depth", "dyck-2-4-first"])
def test_labels_are_those_of_step_and_of_the_sampler(name):
    task = tasks.named(name)
    batch = task.sample(40, 11, generator())
    found = label(task, batch.tokens)
    assert found.tolist() == [[task.read(s)[task.target] for s in folded(task, tokens)] for tokens in batch.tokens]
    assert torch.equal(found, batch.targets)


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        ([[0, 1, 3, 2], [0, 1, 2, 0]], "token 2 at position 3"),  # ( [ ) : the wrong bracket
        ([[0, 2, 3, 0]], "token 3 at position 3"),  # nothing to close
        ([[0, 0, 0, 0, 1]], "token 1 at position 5"),  # a fifth on a stack of four
    ],
)
def test_a_token_that_is_not_allowed_is_named_with_its_place(strings, message):
    with pytest.raises(ValueError, match=f"{message}.*dyck-2-4"):
        label(tasks.named("dyck-2-4"), torch.tensor(strings))


# ---- the share that is recovered -------------------------------------------------------------------------------------------


def gaps(n=300, seed=0):
    """Differences m of clean, corrupted and patched runs whose gap and share vary from pair to pair, and go together."""
    rng = np.random.default_rng(seed)
    gap, corrupted = rng.uniform(2, 12, n), rng.normal(-3, 2, n)
    return corrupted + gap, corrupted, corrupted + gap * (0.1 + 0.05 * gap) + rng.normal(0, 1.5, n)


def test_the_share_is_a_ratio_of_means_and_not_the_mean_of_ratios():
    result = recovered([4.0, 18.0], [0.0, 2.0], [4.0, 6.0])
    assert result.share == pytest.approx((4 + 4) / (4 + 16))  # ratios 1 and 1/4
    assert (result.n, result.left_out) == (2, 0)


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.3, 1.0, 2.5])
def test_a_planted_share_comes_back_whatever_it_is(share):
    clean, corrupted, _ = gaps()
    result = recovered(clean, corrupted, corrupted + share * (clean - corrupted))
    assert (result.share, result.low, result.high) == pytest.approx((share, share, share))


def test_neither_the_share_nor_its_interval_is_clipped():
    clean, corrupted, _ = gaps()
    noise = np.random.default_rng(1).normal(0, 20, len(clean))
    assert recovered(clean, corrupted, clean + noise - noise.mean()).high > 1.05
    assert recovered(clean, corrupted, corrupted + noise - noise.mean()).low < -0.05


def test_the_interval_is_that_of_a_bootstrap_over_pairs():
    clean, corrupted, patched = gaps()
    rng = np.random.default_rng(2)
    rows = rng.integers(len(clean), size=(4000, len(clean)))
    shares = (patched - corrupted)[rows].sum(1) / (clean - corrupted)[rows].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    result = recovered(clean, corrupted, patched)
    assert result.high - result.low == pytest.approx(high - low, rel=0.1)
    assert result.low == pytest.approx(low, abs=0.1 * (high - low))
    assert result.high == pytest.approx(high, abs=0.1 * (high - low))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    within = []
    for seed in range(300):
        clean, corrupted, patched = gaps(n=60, seed=100 + seed)
        result = recovered(clean, corrupted, patched)
        truth = 0.1 + 0.05 * (49 + 100 / 12) / 7  # .1 + .05 E gap^2 / E gap
        within.append(result.low < truth < result.high)
    assert 0.91 < np.mean(within) < 0.98


def test_pairs_with_a_small_or_negative_gap_are_left_out_and_counted():
    clean, corrupted, patched = np.array([[5.0, 0, 1], [9, 0, 3], [0.9, 0, 50], [-4, 0, 50], [1, 0, 1]]).T
    result = recovered(clean, corrupted, patched)
    assert result.share == pytest.approx(5 / 15)
    assert (result.n, result.left_out) == (3, 2)
    assert recovered(clean, corrupted, patched, min_gap=6).left_out == 4


@pytest.mark.parametrize("n", [0, 1, 3])
def test_without_two_pairs_that_differ_enough_the_share_is_not_a_number(n):
    result = recovered(np.full(n, 0.5), np.zeros(n), np.ones(n))
    assert np.isnan([result.share, result.low, result.high]).all()
    assert (result.n, result.left_out) == (0, n)
    assert np.isnan(recovered([5.0, 0.5], [0.0, 0.0], [1.0, 1.0]).share)  # one pair has no interval


@pytest.mark.parametrize(
    ("three", "message"),
    [
        (([1.0, 2.0], [0.0], [1.0, 2.0]), r"\(2,\), \(1,\), \(2,\).*must be \(n,\)"),
        (([[1.0]], [[0.0]], [[1.0]]), r"must be \(n,\)"),
        (([np.nan, 2.0], [0.0, 0.0], [1.0, 2.0]), "finite"),
        (([3.0, 2.0], [0.0, 0.0], [1.0, np.inf]), "finite"),
    ],
)
def test_differences_that_are_none_are_refused(three, message):
    with pytest.raises(ValueError, match=message):
        recovered(*three)


def test_the_difference_is_that_of_the_two_answers_at_the_last_position():
    logits = torch.arange(12.0).reshape(2, 2, 3) ** 2
    made = SimpleNamespace(clean_answer=torch.tensor([2, 0]), corrupted_answer=torch.tensor([0, 1]))
    assert patching.difference(logits, made).tolist() == [25 - 9, 81 - 100]


# ---- models of which we know the truth -------------------------------------------------------------------------------------


def planted(name, kind):
    task = tasks.named(name)
    return measure(Planted(task, kind), task, LENGTH, 64, n_erase=512)


def at_sites(table, what, sites):
    return table.query("at == 'read' and intervention == @what and site in @sites").set_index("site")


by_planted = pytest.mark.parametrize("name", ["parity", "dyck-2-4"])


@by_planted
@pytest.mark.parametrize(
    ("what", "share"),
    [("stream", 1), ("subspace", 1), ("complement", 0), ("same state", 0), ("other state", 1), ("other subspace", 1)],
)
def test_where_the_code_is_the_cause_it_alone_carries_the_answer(name, what, share):
    rows = at_sites(planted(name, "cause"), what, [1, 2, 3])
    assert np.allclose(rows["recovery"], share, atol=1e-3)
    assert (rows["follows"] == share).all()
    assert (rows["n"] == 64).all() and (rows["left_out"] == 0).all()


@by_planted
def test_where_the_answer_is_computed_again_the_code_carries_nothing_until_it_is(name):
    table = planted(name, "recomputed")
    for what in patching.INTERVENTIONS:
        assert np.allclose(at_sites(table, what, [1, 2])["recovery"], 0, atol=1e-3)
    late = at_sites(table, "subspace", [3])
    assert late["recovery"].item() == pytest.approx(1, abs=1e-3) and late["follows"].item() == 1


@by_planted
def test_before_the_code_is_written_and_away_from_the_read_position_nothing_is_recovered(name):
    table = planted(name, "cause")
    assert np.allclose(table.query("site == 0")["recovery"], 0, atol=1e-3)  # the writers read tokens, not the stream
    assert np.allclose(table.query("at == 'before'")["recovery"], 0, atol=1e-3)


# ---- models of the zoo -----------------------------------------------------------------------------------------------------


def untrained(family, task):
    """Two blocks, with a head so large that gaps are too."""
    spec = ModelSpec(family, d_model=16, n_layers=2, d_state=4)
    model = models.build(spec, task.vocab_size, task.n_outputs).eval()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
    return model


@pytest.fixture(scope="module", params=[("lstm", "S3"), ("mamba", "parity"), ("mamba", "dyck-2-4")], ids="-".join)
def run(request):
    family, name = request.param
    task = tasks.named(name)
    model = untrained(family, task)
    return SimpleNamespace(task=task, model=model, table=measure(model, task, LENGTH, 48, seed=3, n_erase=256))


def test_the_bounds_at_the_last_site_are_met(run):
    bound = run.table.dropna(subset="bound")
    assert set(bound["site"]) == {2} and set(bound["intervention"]) == {"stream"}
    assert set(bound.query("at == 'read'")["bound"]) == {1.0} and set(bound.query("at == 'before'")["bound"]) == {0.0}
    assert len(bound) == len(run.table.query("site == 2 and intervention == 'stream'"))
    assert bound["recovery"].notna().sum() > 3
    assert np.allclose((bound["recovery"] - bound["bound"]).dropna(), 0, atol=1e-6)


def test_the_changed_tokens_own_embedding_is_all_the_difference_and_later_ones_are_none(run):
    """True of one changed token, and so of every model."""
    first = run.table.query("site == 0 and at == 'before'").set_index("offset")["recovery"].dropna()
    assert first[0] == pytest.approx(1, abs=1e-4)
    assert np.allclose(first.drop(0), 0, atol=1e-4)
    whole = at_sites(run.table, "stream", [0])["recovery"].item()
    assert whole == pytest.approx(0, abs=1e-4)  # the last token is the same


def test_shares_are_those_of_an_edit_made_by_hand(run):
    made = pairs(run.task, 48, LENGTH, generator(3 * 1000 + 97))

    def m(tokens, edit=None):
        with torch.no_grad(), stream(run.model, keep=[1], edit=edit or {}) as kept:
            logits = models.logits(run.model, tokens)
        return patching.difference(logits, made), kept[1]

    (clean, theirs), (corrupted, _) = m(made.clean), m(made.corrupted)

    def swapped(h, at):
        h = h.clone()
        for row, place in enumerate(at):
            h[row, place] = theirs[row, place]
        return h

    patched, _ = m(made.corrupted, {1: lambda h: swapped(h, [LENGTH - 1] * 48)})
    row = at_sites(run.table, "stream", [1])
    kept = clean - corrupted >= patching.MIN_GAP
    share = (patched - corrupted)[kept].sum() / (clean - corrupted)[kept].sum()
    assert row["recovery"].item() == pytest.approx(share, abs=1e-5)
    assert (row["n"].item(), row["left_out"].item()) == (kept.sum(), (~kept).sum())
    offset = 2
    inside = (made.changed + offset < LENGTH - 1).numpy()
    patched, _ = m(made.corrupted, {1: lambda h: swapped(h, (made.changed + offset).clamp_max(LENGTH - 1).tolist())})
    kept &= inside
    row = run.table.query("site == 1 and at == 'before' and offset == @offset")
    share = (patched - corrupted)[kept].sum() / (clean - corrupted)[kept].sum()
    assert row["recovery"].item() == pytest.approx(share, abs=1e-5)
    assert row["n"].item() + row["left_out"].item() == inside.sum()


def test_rows_are_of_every_site_and_intervention_and_of_offsets_with_strings_enough(run):
    read = run.table.query("at == 'read'")
    assert not read.duplicated(["site", "intervention"]).any()
    assert set(zip(read["site"], read["intervention"], strict=True)) == {
        (site, what) for site in range(3) for what in patching.INTERVENTIONS
    }
    before = run.table.query("at == 'before'")
    assert (before["n"] + before["left_out"] >= 10).all()
    assert {tuple(rows["offset"]) for _, rows in before.groupby("site")} == {tuple(range(before["offset"].max() + 1))}
    wide = sites_by_recovery(run.table, ["stream", "subspace"])
    assert list(wide.columns) == ["stream", "subspace"] and list(wide.index) == [0, 1, 2]
    assert wide.loc[1, "subspace"] == pytest.approx(
        at_sites(run.table, "subspace", [1])["recovery"].item(), nan_ok=True
    )


def test_the_model_is_left_as_it_was_and_the_seed_decides(run):
    blocks = list(models.blocks(run.model))
    assert not any("forward" in vars(block) or block._forward_hooks or block._forward_pre_hooks for block in blocks)
    again = measure(run.model, run.task, LENGTH, 48, seed=3, n_erase=256)
    assert again.equals(run.table)
    assert not measure(run.model, run.task, LENGTH, 48, seed=4, n_erase=256).equals(run.table)


# ---- what is put in --------------------------------------------------------------------------------------------------------


class _Half:
    """An eraser of the first half of the features."""

    def removed(self, h):
        return torch.cat([h[..., :4], torch.zeros_like(h[..., 4:])], -1)


def streams(n=5, seed=0):
    return torch.randn(3, n, LENGTH, 8, generator=generator(seed))


def test_patching_a_run_with_itself_changes_nothing_and_recovers_nothing():
    base, own = streams()[0], torch.arange(5)
    for patched in patching._at_read(base, base, base, own, own, _Half()).values():
        assert torch.allclose(patched, base, atol=1e-6)
    assert torch.equal(patching._at_read(base, base, base, own, own, _Half())["stream"], base)
    assert torch.equal(patching._patched_at(base, base, own), base)
    assert recovered([3.0, 4.0], [1.0, 1.0], [1.0, 1.0]) == Recovery(0.0, 0.0, 0.0, 2, 0)


def test_each_intervention_puts_in_what_it_says_at_the_last_position_alone():
    base, clean, donors = streams()
    same, other = torch.tensor([4, 3, 2, 1, 0]), torch.tensor([1, 1, 0, 0, 2])
    found = patching._at_read(base, clean, donors, same, other, _Half())
    assert set(found) == set(patching.INTERVENTIONS)
    assert all(torch.equal(patched[:, :-1], base[:, :-1]) for patched in found.values())
    b, c, d = (part[:, -1] for part in (base, clean, donors))
    expected = {
        "stream": c,
        "subspace": torch.cat([c[:, :4], b[:, 4:]], 1),
        "complement": torch.cat([b[:, :4], c[:, 4:]], 1),
        "same state": d[same],
        "other state": d[other],
        "other subspace": torch.cat([d[other][:, :4], b[:, 4:]], 1),
    }
    for name, value in expected.items():
        assert torch.allclose(found[name][:, -1], value, atol=1e-6), name


def test_one_position_of_each_string_is_patched_and_none_past_the_end():
    base, donor = streams()[:2]
    places = torch.tensor([0, 3, 7, 8, 20])
    patched = patching._patched_at(base, donor, places)
    changed = (patched != base).any(2)
    assert changed.nonzero().tolist() == [[0, 0], [1, 3], [2, 7]]
    assert torch.equal(patched[1, 3], donor[1, 3])


def test_donors_end_in_the_state_that_is_wanted_and_none_is_an_error():
    states, wanted = torch.tensor([0, 1, 1, 2, 0, 1]), torch.tensor([1] * 40 + [0] * 5 + [2])
    chosen = patching._donors(states, wanted, generator())
    assert torch.equal(states[chosen], wanted)
    assert set(chosen[:40].tolist()) == {1, 2, 5}
    with pytest.raises(ValueError, match="ends in state 3"):
        patching._donors(states, torch.tensor([3]), generator())
