"""The explorer's readings are those of the published models and probes, and pages number them as they were written."""

import json

import numpy as np
import pytest
import torch

from statedepth import explorer, explorer_page, grid, models, training
from statedepth.grid import ROOT
from statedepth.probes import ProbeSettings
from statedepth.stream import stream
from statedepth.tasks import named
from statedepth.verdicts import NAMES

DATA = {name: json.loads((ROOT / f"book/data/explorer/{name}.json").read_text()) for name in explorer.SHOWN}


def test_there_are_as_many_strings_as_the_automaton_allows():
    assert len(explorer.strings(named("parity"), 10)) == 2**10
    assert len(explorer.strings(named("S3"), 4)) == 6**4
    dyck = explorer.strings(named("dyck-2-4"), 3)  # an opener, then an opener or what closes it, and so on
    assert sorted(map(tuple, dyck)) == sorted(
        (a, b, c) for a in (0, 1) for b in (0, 1, a + 2) for c in ((0, 1) if b == a + 2 else (0, 1, b + 2))
    )


@pytest.mark.parametrize("name", explorer.SHOWN)
def test_a_page_knows_every_prefix_and_its_state(name):
    task, data = named(name), DATA[name]
    places = explorer_page.numbered(data)
    rng = np.random.default_rng(0)
    every = explorer.strings(task, data["length"])
    for string in every[rng.integers(0, len(every), 40)]:
        state = task.start
        for t, token in enumerate(string):
            state = task.step(state, int(token))
            number = places[tuple(int(x) for x in string[: t + 1])][1]
            assert data["reads"][number] == task.read(state)[task.target]
    assert len(places) == sum(len(np.unique(every[:, : t + 1], axis=0)) for t in range(data["length"]))


def test_a_byte_holds_class_and_confidence():
    probability = np.array([[0.1, 0.9, 0.0], [0.34, 0.33, 0.33], [0.0, 0.0, 1.0]])
    found = explorer.packed(probability)
    assert (found // explorer.LEVELS).tolist() == [1, 0, 2]
    sure = (found % explorer.LEVELS + 0.5) / explorer.LEVELS
    assert np.abs(sure - probability.max(-1)).max() <= 1 / explorer.LEVELS


@pytest.mark.parametrize(("name", "family"), [("parity", "gru"), ("dyck-2-4", "transformer"), ("S3", "lstm")])
def test_the_published_answers_are_those_of_the_published_model(name, family):
    """By a pass of its own on single strings: what the file says the network answers, and how sure."""
    data, task = DATA[name], named(name)
    own = {"recipes": training.UNTIL_LEARNED, "length": 12} if name == "S3" else {"length": 20}
    (run,) = grid.cross([name], [family], [0], d_model=64, n_layers=4, **own)
    about = [one["name"] for one in data["architectures"]]
    assert data["architectures"][about.index(NAMES[family])]["checkpoint"] == run.key
    trained = grid.fetch(run)
    every = explorer.strings(task, data["length"])
    for string in every[:: len(every) // 7]:
        with torch.no_grad():
            odds = models.logits(trained.model, torch.tensor(string[None])).softmax(-1)[0]
        read = explorer_page.read(data, [int(x) for x in string])[about.index(NAMES[family])][-1]
        for t, (chosen, sure, _) in enumerate(read):
            assert float(odds[t].max()) == pytest.approx(sure, abs=1.1 / explorer.LEVELS)
            assert chosen == int(odds[t].argmax()) or float(odds[t].topk(2).values.diff().abs()) < 0.01


def test_readings_are_those_of_a_probe_on_the_stream_and_of_the_head():
    """On a small model, with a probe of few sequences: shape, sums, and the last column."""
    (run,) = grid.cross(["parity"], ["gru"], [0], d_model=64, n_layers=4, length=20)
    trained = grid.fetch(run)
    every = explorer.strings(named("parity"), 4)
    small = ProbeSettings(n_fit=128, n_validation=64, n_test=64)
    found = explorer.readings(trained, every, 20, small)
    assert found.shape == (16, 4, 6, 2)
    assert np.allclose(found.sum(-1), 1)
    with torch.no_grad(), stream(trained.model, keep=[4]):
        odds = models.logits(trained.model, torch.from_numpy(every)).softmax(-1).numpy()
    assert np.abs(found[:, :, -1] - odds).max() < 1e-6
    right = found[:, :, 4].argmax(-1) == every.cumsum(1) % 2
    assert right.mean() > 0.95  # the last site of a model that learned the task


@pytest.mark.parametrize("name", explorer.SHOWN)
def test_the_widget_says_in_words_what_it_shows_in_colour(name):
    element = explorer_page.widget(DATA[name])
    assert element.count("<table") == 5 and element.count("<caption") == 5
    assert element.count("sure, wrong</span>") == element.count('class="wrong"')
    assert element.count("sure, right</span>") == element.count('class="right"')
