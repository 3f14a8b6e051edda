"""Tasks: samplers, labels, laws and splits against derivations that share no code with the library."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from statedepth import tasks
from statedepth.tasks import alternating, cyclic, dyck, named, parity, symmetric

torch.set_num_threads(1)

GROUPS = [parity(), cyclic(3), cyclic(6), symmetric(2), symmetric(3), symmetric(4), alternating(4), alternating(5)]
DYCKS = [
    dyck(1, 1),
    dyck(1, 3),
    dyck(2, 2),
    dyck(2, 4),
    dyck(3, 3),
    dyck(2, 4, target="depth"),
    dyck(2, 4, target="openers"),
    dyck(3, 2, target="first"),
]
EVERY = [*GROUPS, *DYCKS]
by_name = pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- derivations of our own -----------------------------------------------------------------------------------------


def elements_of(task):
    """The permutations that a symmetric or alternating task counts, evenness read off the number of cycles."""
    n = int(task.name[1:])  # of the symmetric group it lies in
    found = sorted(itertools.permutations(range(n)))
    return found if task.name[0] == "S" else [p for p in found if (n - n_cycles(p)) % 2 == 0]


def n_cycles(p):
    seen, count = set(), 0
    for i in range(len(p)):
        count += i not in seen
        while i not in seen:
            seen.add(i)
            i = p[i]
    return count


def composed(task, tokens):
    """Running product of one string of a permutation group: new[j] = state[action[j]], the identity first."""
    elements = elements_of(task)
    state, labels = list(elements[0]), []
    for token in tokens:
        action = elements[token]
        state = [state[action[j]] for j in range(len(state))]
        labels.append(elements.index(tuple(state)))
    if task.name[0] == "A":
        return {"state": labels}
    signs = [(len(state) - n_cycles(elements[label])) % 2 for label in labels]
    return {"state": labels, "sign": signs, "coset": [elements[label].index(0) for label in labels]}


def summed(n, tokens):
    total, labels = 0, []
    for token in tokens:
        total += token
        labels.append(total - n * (total // n))
    return {"state": labels}


def stacked(task, tokens):
    """Top and depth of one Dyck string, with a list as the stack; fails where the string is no prefix of a word."""
    k, m = (int(n) for n in task.name.split("-")[1:3])
    stack, top, depth = [], [], []
    for token in tokens:
        if token < k:
            stack.append(token)
        else:
            assert stack, "closed a bracket on an empty stack"
            assert stack.pop() == token - k, "closed a bracket of another type"
        assert len(stack) <= m, "deeper than the bound"
        top.append(1 + stack[-1] if stack else 0)
        depth.append(len(stack))
    if task.target in ("top", "depth"):
        return {"top": top, "depth": depth}
    opened = [sum(token < k for token in tokens[: t + 1]) for t in range(len(tokens))]
    return {"top": top, "depth": depth, "openers": [n % 2 for n in opened], "first": [tokens[0]] * len(tokens)}


def derived(task, tokens):
    if task.name.startswith("dyck"):
        return stacked(task, tokens)
    if task.name == "parity":
        return summed(2, tokens)
    return summed(int(task.name[1:]), tokens) if task.name[0] == "Z" else composed(task, tokens)


def folded(task, tokens):
    state, labels = task.start, {variable: [] for variable in task.n_states}
    for token in tokens:
        state = task.step(state, token)
        for variable, value in task.read(state).items():
            labels[variable].append(value)
    return labels


def product_table(task):
    n = task.vocab_size
    return np.array([[task.step(a, b) for b in range(n)] for a in range(n)])


# ---- labels -----------------------------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("split", [None, "train"])
def test_sampled_labels_agree_with_folding_step_and_with_our_own_derivation(task, split):
    if task.name == "dyck-1-1" and split:
        pytest.skip("one string for each length, so that most splits are empty")
    batch = task.sample(40, 17, seeded(), split)
    assert set(batch.states) == set(task.n_states)
    for row, tokens in enumerate(batch.tokens.tolist()):
        labels = {variable: values[row].tolist() for variable, values in batch.states.items()}
        assert labels == folded(task, tokens)
        assert labels == derived(task, tokens)
        assert batch.targets[row].tolist() == labels[task.target]


@by_name
def test_a_batch_has_the_shapes_types_and_ranges_that_it_promises(task):
    batch = task.sample(33, 9, seeded())
    for values in (batch.tokens, batch.targets, batch.automaton, *batch.states.values()):
        assert values.shape == (33, 9)
        assert values.dtype == torch.int64
    assert batch.tokens.min() >= 0 and batch.tokens.max() < task.vocab_size
    for variable, values in batch.states.items():
        assert values.min() >= 0 and values.max() < task.n_states[variable]
    assert task.n_outputs == task.n_states[task.target]


@by_name
def test_the_automaton_number_names_the_full_state(task):
    batch = task.sample(20, 12, seeded(3))
    for tokens, numbers in zip(batch.tokens.tolist(), batch.automaton.tolist(), strict=True):
        state = task.start
        for token, number in zip(tokens, numbers, strict=True):
            state = task.step(state, token)
            assert task.tables.states[number] == state


@by_name
def test_every_class_and_every_token_occurs(task):
    batch = task.sample(3000, 20, seeded())
    assert len(batch.tokens.unique()) == task.vocab_size
    for variable, k in task.n_states.items():
        assert len(batch.states[variable].unique()) == k


def test_worked_examples_in_the_docstrings_are_right():
    found = 0
    for task, function in (
        (cyclic(3), cyclic),
        (parity(), parity),
        (symmetric(3), symmetric),
        (alternating(3), alternating),
    ):
        for tokens, states in re.findall(r"tokens ([\d ]+?)\s*->\s*states ([\d ]+)", function.__doc__):
            tokens, states = ([int(n) for n in text.split()] for text in (tokens, states))
            assert len(tokens) == len(states)
            assert folded(task, tokens)["state"] == states == derived(task, tokens)["state"]
            found += 1
    token = {"(": 0, "[": 1, ")": 2, "]": 3}
    for text, top, depth in re.findall(r"([()\[\] ]+)->\s+top ([\d ]+),\s+depth ([\d ]+)", dyck.__doc__):
        tokens = [token[character] for character in text.split()]
        expected = {"top": [int(n) for n in top.split()], "depth": [int(n) for n in depth.split()]}
        assert folded(dyck(2, 4), tokens) == expected == stacked(dyck(2, 4), tokens)
        found += 1
    assert found == 8


def test_elements_named_in_the_docstrings_have_the_numbers_said_there():
    for n, function in ((3, symmetric), (3, alternating)):
        listed = re.search(r"elements ((?:\d{3} ?)+)", function.__doc__)[1].split()
        assert ["".join(map(str, p)) for p in elements_of(function(n))] == listed


# ---- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", GROUPS, ids=lambda task: task.name)
def test_group_tables_satisfy_the_group_axioms(task):
    table, n = product_table(task), task.vocab_size
    everything = set(range(n))
    assert all(set(row) == everything for row in table)  # closed, and each row and column a permutation: inverses
    assert all(set(column) == everything for column in table.T)
    assert (table[0] == range(n)).all() and (table[:, 0] == range(n)).all()  # element 0 is the identity
    assert (table[table] == table[:, table]).all()  # (a b) c at [a, b, c] = a (b c) at [a, b, c]
    assert task.start == 0 and task.n_states["state"] == n


@pytest.mark.parametrize(
    ("task", "order"),
    [(symmetric(3), 6), (symmetric(4), 24), (symmetric(5), 120), (alternating(4), 12), (alternating(5), 60)],
)
def test_permutation_groups_have_their_order(task, order):
    assert task.vocab_size == task.n_outputs == order == len(elements_of(task))


def cayley(task):
    """The table of a group from permutation matrices, or from addition: no code of the library, no tuples composed."""
    if task.name[0] == "Z":
        n = int(task.name[1:])
        return [[(a + b) % n for b in range(n)] for a in range(n)]
    n = int(task.name[1:])
    every = [p for p in itertools.product(range(n), repeat=n) if len(set(p)) == n]  # lexicographic
    matrices = [np.eye(n, dtype=int)[list(p)] for p in every]  # row j has its one at p[j]
    if task.name[0] == "A":
        matrices = [m for m in matrices if round(np.linalg.det(m)) == 1]
    number = {m.tobytes(): i for i, m in enumerate(matrices)}
    # new[j] = state[action[j]]: row j of the new matrix is row action[j] of the state's
    return [[number[(action @ state).tobytes()] for action in matrices] for state in matrices]


@pytest.mark.parametrize("task", [symmetric(3), cyclic(6), alternating(4), alternating(5)], ids=lambda task: task.name)
def test_group_labels_agree_with_an_independent_cayley_table(task):
    table = cayley(task)
    assert product_table(task).tolist() == table
    batch = task.sample(200, 9, seeded())
    for tokens, labels in zip(batch.tokens.tolist(), batch.states["state"].tolist(), strict=True):
        state = 0
        for token, label in zip(tokens, labels, strict=True):
            state = table[state][token]
            assert state == label


@pytest.mark.parametrize("task", [symmetric(3), symmetric(4)], ids=lambda task: task.name)
def test_sign_and_coset_are_running_states_of_their_own_and_for_s3_together_the_state(task):
    for variable, n in (("sign", 2), ("coset", int(task.name[1:]))):
        moves = {
            (task.read(s)[variable], a, task.read(task.step(s, a))[variable])
            for s in range(task.vocab_size)
            for a in range(task.vocab_size)
        }
        assert len(moves) == n * task.vocab_size  # one class follows from a class and a token, whatever the element was
    both = {(task.read(s)["sign"], task.read(s)["coset"]) for s in range(6)}
    assert task.name != "S3" or len(both) == 6


def test_every_target_draws_the_same_strings_and_the_shared_variables_agree():
    drawn = [dyck(2, 4, target).sample(64, 12, seeded(), "train") for target in tasks.DYCK_TARGETS]
    for batch in drawn[1:]:
        assert torch.equal(batch.tokens, drawn[0].tokens)
        assert torch.equal(batch.states["top"], drawn[0].states["top"])
    assert [set(batch.states) for batch in drawn] == [{"top", "depth"}] * 2 + [{"top", "depth", "openers", "first"}] * 2


def test_a_first_opener_of_one_type_is_no_target():
    with pytest.raises(ValueError, match="k=2 or more"):
        dyck(1, 4, "first")


def test_s3_does_not_commute_and_z6_does_at_the_same_order():
    s3, z6 = product_table(symmetric(3)), product_table(cyclic(6))
    assert s3.shape == z6.shape
    assert (z6 == z6.T).all()
    assert (s3 != s3.T).any()


def test_s3_and_z6_share_the_quotient_of_two_and_a4_has_none():
    def homomorphisms_to_sign(task):
        table, n = product_table(task), task.vocab_size
        if n > 6:  # a map to Z2 sends every square and every commutator to 0; collect what that generates
            kernel = {int(table[a, a]) for a in range(n)}
            while len(grown := {int(table[a, b]) for a in kernel for b in kernel} | kernel) > len(kernel):
                kernel = grown
            return 0 if len(kernel) == n else 1
        return sum(
            any(sign) and all(sign[table[a, b]] == (sign[a] + sign[b]) % 2 for a in range(n) for b in range(n))
            for sign in itertools.product((0, 1), repeat=n)
        )

    assert homomorphisms_to_sign(symmetric(3)) == homomorphisms_to_sign(cyclic(6)) == 1
    assert homomorphisms_to_sign(alternating(4)) == homomorphisms_to_sign(alternating(5)) == 0


# ---- laws --------------------------------------------------------------------------------------------------------------


@by_name
def test_each_law_is_a_distribution_over_the_tokens_that_step_allows(task):
    for state in task.tables.states:
        law = task.law(state)
        assert law.shape == (task.vocab_size,)
        assert (law >= 0).all() and law.sum() == pytest.approx(1)
        for token in np.flatnonzero(law > 0):
            task.step(state, int(token))


@pytest.mark.parametrize("task", [dyck(2, 4), dyck(3, 3)], ids=lambda task: task.name)
def test_dyck_tokens_follow_the_law_of_hewitt_et_al(task):
    """Empty opens, full closes, any other opens or closes with 1/2; an opener has 1/k of the opening share."""
    k, m = (int(n) for n in task.name.split("-")[1:3])
    counts = Counter()
    for tokens in task.sample(1500, 24, seeded(5)).tokens.tolist():
        depths = [0, *stacked(task, tokens)["depth"][:-1]]
        kinds = ["empty" if d == 0 else "full" if d == m else "inner" for d in depths]
        counts.update((kind, token if token < k else "close") for kind, token in zip(kinds, tokens, strict=True))
    openers = list(range(k))
    assert counts["empty", "close"] == 0
    assert sum(counts["full", o] for o in openers) == 0 and counts["full", "close"] > 100
    for kind, outcomes, share in (
        ("empty", openers, [1 / k] * k),
        ("inner", [*openers, "close"], [1 / (2 * k)] * k + [1 / 2]),
    ):
        seen = np.array([counts[kind, o] for o in outcomes])
        assert stats.chisquare(seen, seen.sum() * np.array(share)).pvalue > 1e-3


@pytest.mark.parametrize("task", [parity(), cyclic(6), symmetric(3), alternating(4)], ids=lambda task: task.name)
def test_group_tokens_are_uniform_and_independent_of_the_token_before(task):
    tokens = task.sample(2500, 12, seeded(1)).tokens
    assert stats.chisquare(np.bincount(tokens.flatten())).pvalue > 1e-3
    pairs = np.zeros((task.vocab_size, task.vocab_size))
    np.add.at(pairs, (tokens[:, ::2].flatten(), tokens[:, 1::2].flatten()), 1)
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_dyck_depth_is_congruent_to_the_position_mod_2():
    depth = dyck(2, 4).sample(100, 15, seeded()).states["depth"]
    assert (depth % 2 == torch.arange(1, 16) % 2).all()


def test_the_largest_uniform_draw_still_gives_an_allowed_token(monkeypatch):
    """Six openers of 1/6 add up to 1 - 2^-53 in float64, the largest number that torch.rand returns."""
    largest = math.nextafter(1, 0)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, largest, dtype=torch.float64))
    stacked(dyck(6, 2), dyck(6, 2).sample(1, 1, seeded()).tokens[0].tolist())


# ---- splits -------------------------------------------------------------------------------------------------------------


def rows(batch):
    return {tuple(tokens) for tokens in batch.tokens.tolist()}


@pytest.mark.parametrize(
    ("task", "length"), [(parity(), 12), (dyck(2, 4), 8), (symmetric(3), 4)], ids=["parity", "dyck", "S3"]
)
def test_splits_share_no_sequence_whoever_draws_them(task, length):
    found = {
        s: rows(task.sample(1500, length, seeded(7), s)) | rows(task.sample(900, length, seeded(8), s))
        for s in tasks.SPLITS
    }
    assert min(len(sequences) for sequences in found.values()) > 25
    for a, b in itertools.combinations(found, 2):
        assert not found[a] & found[b]


def test_a_prefix_or_a_longer_string_is_split_on_its_own():
    long = parity().sample(2000, 14, seeded(), "train").tokens.numpy()
    shares = [((tasks.sequence_hash(long[:, :t]) % 10) < 8).mean() for t in (13, 12)]
    assert shares == pytest.approx([0.8, 0.8], abs=0.05)


@pytest.mark.parametrize(
    ("task", "length"), [(parity(), 12), (cyclic(3), 8), (symmetric(3), 5)], ids=["parity", "Z3", "S3"]
)
def test_all_strings_of_a_length_split_8_to_1_to_1_independently_of_the_label(task, length):
    strings = np.array(list(itertools.product(range(task.vocab_size), repeat=length)))
    tenth = (tasks.sequence_hash(strings) % 10).astype(int)
    part = np.digitize(tenth, [8, 9])
    assert np.bincount(part) / len(part) == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    table, label = product_table(task), np.zeros(len(strings), dtype=int)
    for column in strings.T:
        label = table[label, column]
    for y in (label, strings[:, -1]):
        counts = np.zeros((3, task.n_outputs))
        np.add.at(counts, (part, y), 1)
        assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_the_hash_of_a_sequence_never_changes_since_published_models_were_trained_by_it():
    """Reference values by whole-number arithmetic in plain Python."""

    def mixed(tokens):
        mask, h = 2**64 - 1, len(tokens)
        for token in tokens:
            h = (h + token + 0x9E3779B97F4A7C15) & mask
            h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
            h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
            h ^= h >> 31
        return h

    strings = np.random.default_rng(0).integers(0, 24, (50, 20))
    assert tasks.sequence_hash(strings).tolist() == [mixed(row) for row in strings.tolist()]
    assert tasks.sequence_hash(np.array([[1, 0, 1, 1]])).tolist() == [14049170254838959308]


def test_without_a_split_all_tenths_are_drawn():
    tokens = parity().sample(2000, 16, seeded()).tokens.numpy()
    assert set((tasks.sequence_hash(tokens) % 10).tolist()) == set(range(10))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_length_with_no_sequence_in_the_split_is_refused_and_does_not_hang(split):
    with pytest.raises(ValueError, match=rf"length=2: .*parity.*{split}"):
        parity().sample(64, 2, seeded(), split)


def test_a_split_with_a_single_sequence_repeats_it():
    """dyck(1, 1) has one string of each length, so that exactly one split holds it."""
    drawn = []
    for split in tasks.SPLITS:
        try:
            drawn.append(rows(dyck(1, 1).sample(5, 6, seeded(), split)))
        except ValueError as error:
            assert "length=6" in str(error)
    assert drawn == [{(0, 1, 0, 1, 0, 1)}]


# ---- generators -------------------------------------------------------------------------------------------------------


@by_name
def test_the_same_generator_seed_gives_the_same_tokens_and_another_seed_others(task):
    first, again, other = (task.sample(50, 20, seeded(s)).tokens for s in (4, 4, 5))
    assert torch.equal(first, again)
    assert task.name == "dyck-1-1" or not torch.equal(first, other)


def test_the_same_seed_gives_the_same_split_and_successive_calls_differ():
    generator = seeded(2)
    one, two = (parity().sample(30, 20, generator, "train").tokens for _ in range(2))
    assert torch.equal(one, parity().sample(30, 20, seeded(2), "train").tokens)
    assert not torch.equal(one, two)


def test_sampling_leaves_the_global_generators_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    dyck(2, 4).sample(20, 10, seeded(), "train")
    symmetric(3).sample(20, 10, seeded())
    assert torch.equal(torch_before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()


# ---- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 0}, "batch=0"),
        ({"batch": -3}, "batch=-3"),
        ({"batch": 2.5}, "batch=2.5"),
        ({"length": 0}, "length=0"),
        ({"length": "8"}, "length='8'"),
        ({"length": None}, "length=None"),
        ({"split": "dev"}, "split='dev'.*train"),
    ],
)
def test_an_impossible_draw_is_refused_by_parameter_and_value(change, said):
    with pytest.raises(ValueError, match=said):
        parity().sample(**{"batch": 4, "length": 8, "generator": seeded(), **change})


@pytest.mark.parametrize("name", ["batch", "length"])
def test_a_truth_value_is_no_number_of_sequences(name):
    with pytest.raises(ValueError, match=f"{name}=True"):
        parity().sample(**{"batch": 4, "length": 8, "generator": seeded(), name: True})


@pytest.mark.parametrize("generator", [None, 0, np.random.default_rng(0)])
def test_a_missing_generator_is_refused_with_the_remedy(generator):
    with pytest.raises(TypeError, match=r"generator=.*torch\.Generator"):
        parity().sample(4, 8, generator)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: cyclic(1), "n=1"),
        (lambda: cyclic(121), "n=121"),
        (lambda: cyclic(7.5), "n=7.5"),
        (lambda: cyclic(True), "n=True"),
        (lambda: cyclic("6"), "n='6'"),
        (lambda: symmetric(1), "n=1"),
        (lambda: symmetric(6), "n=6"),
        (lambda: alternating(2), "n=2"),
        (lambda: alternating(6), "n=6"),
        (lambda: dyck(0, 2), "k=0"),
        (lambda: dyck(9, 2), "k=9"),
        (lambda: dyck(2, 0), "depth=0"),
        (lambda: dyck(2, 9), "depth=9"),
        (lambda: dyck(8, 8), "k=8, depth=8"),
        (lambda: dyck(2, 4, target="stack"), "target='stack'.*top.*depth"),
    ],
)
def test_an_impossible_task_is_refused_by_parameter_and_value(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("k", [True, 1.0])
def test_a_bad_setting_is_refused_also_after_an_equal_good_one(k):
    dyck(1, 3)
    with pytest.raises(ValueError, match=f"k={k}"):
        dyck(k, 3)


@pytest.mark.parametrize(
    ("task", "state", "token", "said"),
    [
        (parity(), 0, 2, "token=2: parity"),
        (symmetric(3), 1, -1, "token=-1: S3"),
        (symmetric(3), 1, 6, "token=6: S3"),
        (dyck(2, 2), (), 4, "token=4"),
        (dyck(2, 2), (), -1, "token=-1"),
        (dyck(2, 2), (), 2, "token=2: closes type 1"),
        (dyck(2, 2), (1,), 3, r"token=3: closes type 2.*\(1,\)"),
        (dyck(2, 2), (1, 2), 0, r"token=0: opens.*full.*\(1, 2\)"),
    ],
)
def test_a_token_that_is_not_allowed_is_refused_by_value(task, state, token, said):
    with pytest.raises(ValueError, match=said):
        task.step(state, token)


# ---- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [*EVERY, cyclic(120), symmetric(5), alternating(3), dyck(8, 4), dyck(1, 8)], ids=lambda t: t.name
)
def test_named_gives_back_every_task_by_its_name(task):
    assert named(task.name) == task
    assert named(task.name).name == task.name


def test_no_two_tasks_share_a_name():
    names = [task.name for task in EVERY]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name", ["", "Parity", "parity ", "S", "S3x", "D4", "dyck", "dyck-2", "dyck-2-4-state", "Z-3", "S1", "Z1"]
)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(repr(name)) if name not in ("S1", "Z1") else "n=1"):
        named(name)


@pytest.mark.parametrize("name", ["dyck-2-4-top", "S03", "Z06", "dyck-02-4"])
def test_a_task_has_one_name_only(name):
    with pytest.raises(ValueError, match="task="):
        named(name)
