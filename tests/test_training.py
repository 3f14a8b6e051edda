"""Training: the same bits however often it is interrupted, and checkpoints that are what they say or are refused."""

import errno
import hashlib
import itertools
import json
import re
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from statedepth import models, tasks, training
from statedepth.models import FAMILIES, ModelSpec
from statedepth.training import Run, Trained, TrainSpec, recipe

torch.set_num_threads(1)

STEPS = 12
REAL_EVALUATE = training.evaluate


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch):
    """Few test sequences, and a point to go on from at every fifth step."""
    monkeypatch.setattr(training, "evaluate", partial(REAL_EVALUATE, n=64))
    monkeypatch.setattr(training, "SAVE_EVERY", 5)


def tiny(family="lstm", task="parity", seed=0, d_model=8, **changes):
    model = ModelSpec(family, d_model=d_model, n_layers=2, d_state=2, n_heads=2, n_positions=64, seed=seed)
    return Run(task, model, TrainSpec(**{"length": 8, "steps": STEPS, "batch": 8, "grow_at": 0.4, **changes}))


def trained(run=None, folder=None, **options):
    return training.train(run or tiny(), folder, progress=False, **options)


def same(a, b):
    weights, others = a.model.state_dict(), b.model.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert a.history == b.history
    assert a.accuracy == b.accuracy
    return True


def flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


# ---- the same bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_run_gives_the_same_bits(family):
    run = tiny(family, steps=6)
    assert same(trained(run), trained(run))


def test_another_seed_gives_another_model_and_other_data():
    one, two = trained(tiny(seed=0)), trained(tiny(seed=1))
    assert one.history != two.history
    assert not torch.equal(one.model.head.weight, two.model.head.weight)


def test_training_draws_nothing_from_the_global_generators():
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = trained()
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    torch.manual_seed(6)
    assert same(first, trained())


@pytest.mark.parametrize(
    "stops", [(1,), (4,), (5,), (7,), (10,), (11,), (STEPS,), (3, 6, 6, 11), (5, 10, STEPS)], ids=str
)
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stops):
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            trained(folder=tmp_path / "often", stop_after=stop)
        assert not list((tmp_path / "often").glob("*.json"))
    often, once = trained(folder=tmp_path / "often"), trained(folder=tmp_path / "once")
    assert same(often, once)
    names = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "often").iterdir())
    assert all((tmp_path / "often" / n).read_bytes() == (tmp_path / "once" / n).read_bytes() for n in names)


@pytest.mark.parametrize("family", ["mamba", "transformer"])
def test_the_other_kinds_of_model_go_on_where_they_were_too(family, tmp_path):
    run = tiny(family, steps=8)
    with pytest.raises(KeyboardInterrupt):
        trained(run, tmp_path, stop_after=6)
    assert same(trained(run, tmp_path), trained(run))


def test_going_on_really_starts_from_the_last_point_and_not_from_nothing(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, stop_after=11)
    steps = []
    monkeypatch.setattr(training, "learning_rate", lambda step, *_: steps.append(step) or 1e-3)
    trained(folder=tmp_path)
    assert steps == [10, 11]


def test_an_interrupted_run_of_another_spec_is_left_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tiny(seed=1), tmp_path, stop_after=6)
    assert same(trained(tiny(seed=0), tmp_path), trained(tiny(seed=0)))
    assert len(list(tmp_path.glob("*.resume.safetensors"))) == 1


def test_a_damaged_point_to_go_on_from_is_refused_by_name(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, stop_after=6)
    (resume,) = tmp_path.glob("*.resume.safetensors")
    flip_byte(resume, -100)
    with pytest.raises(ValueError, match=re.escape(resume.name)):
        trained(folder=tmp_path)


def test_a_point_to_go_on_from_of_another_spec_under_this_name_is_refused(tmp_path):
    """Run.key leaves defaults out: a default that changes between two versions gives two specs one name."""
    with pytest.raises(KeyboardInterrupt):
        trained(tiny(lr=1e-2), tmp_path, stop_after=6)
    (resume,) = tmp_path.glob("*.resume.safetensors")
    resume.rename(tmp_path / f"{tiny().key}.resume.safetensors")
    with pytest.raises(ValueError, match=re.escape(tiny().key)):
        trained(folder=tmp_path)


def test_a_cut_point_to_go_on_from_is_refused_by_name(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, stop_after=6)
    (resume,) = tmp_path.glob("*.resume.safetensors")
    resume.write_bytes(resume.read_bytes()[:-50])
    with pytest.raises(Exception, match=re.escape(resume.name)):
        trained(folder=tmp_path)


# ---- checkpoints -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with one saved run; tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "evaluate", partial(REAL_EVALUATE, n=64))
        return trained(folder=folder), folder


@pytest.fixture
def damaged(checkpoint, tmp_path):
    """(folder, weights, record) of a copy to damage."""
    for path in checkpoint[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    key = tiny().key
    return tmp_path, tmp_path / f"{key}.safetensors", tmp_path / f"{key}.json"


def test_a_checkpoint_gives_back_what_was_saved(checkpoint):
    original, folder = checkpoint
    loaded = training.load(tiny(), folder)
    assert same(loaded, original)
    assert loaded.run == original.run and loaded.task == tasks.parity()
    assert not loaded.model.training
    tokens = tasks.parity().sample(4, 9, torch.Generator().manual_seed(0)).tokens
    assert torch.equal(models.logits(loaded.model, tokens), models.logits(original.model, tokens))


def test_a_checkpoint_is_two_files_and_nothing_half_written(checkpoint):
    original, folder = checkpoint
    key = original.run.key
    assert sorted(path.name for path in folder.iterdir()) == [f"{key}.json", f"{key}.safetensors"]
    record = json.loads((folder / f"{key}.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in original.model.parameters())
    assert record["sha256"] == hashlib.sha256((folder / f"{key}.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("at", [-1, -500, 12], ids=["last weight", "some weight", "header"])
def test_a_flipped_bit_in_the_weights_is_refused_by_name(damaged, at):
    folder, weights, _ = damaged
    flip_byte(weights, at)
    with pytest.raises(ValueError, match=re.escape(weights.name)):
        training.load(tiny(), folder)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_cut_weights_are_refused_by_name(damaged, size):
    folder, weights, _ = damaged
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ValueError, match=re.escape(weights.name)):
        training.load(tiny(), folder)


@pytest.mark.parametrize("which", [1, 2], ids=["weights", "record"])
def test_a_missing_file_is_named(damaged, which):
    damaged[which].unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(damaged[which].name)):
        training.load(tiny(), damaged[0])


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"run": 3}', '{"run": {"task": "parity"}}', "\x00\xff"])
def test_an_unreadable_record_is_refused_by_name(damaged, text):
    folder, _, record = damaged
    record.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(record.name)):
        training.load(tiny(), folder)


def rewrite(record, change):
    content = json.loads(record.read_text())
    change(content)
    record.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["run"]["model"].update(seed=1),
        lambda r: r["run"]["train"].update(lr=0.01),
        lambda r: r["run"].update(task="Z2"),
        lambda r: r["run"]["train"].update(steps=0),
        lambda r: r["run"]["model"].update(dropout=0.1),
        lambda r: r["run"].pop("train"),
        lambda r: r.pop("sha256"),
        lambda r: r.pop("history"),
        lambda r: r.pop("accuracy"),
        lambda r: r["accuracy"].update(long=[]),
        lambda r: r.update(sha256="0" * 64),
        lambda r: r.update(sha256=None),
    ],
)
def test_a_record_that_says_something_else_is_refused_by_name(damaged, change):
    folder, _, record = damaged
    rewrite(record, change)
    with pytest.raises(ValueError, match=re.escape(record.name)):
        training.load(tiny(), folder)


@pytest.mark.parametrize("accuracy", [None, [0.5]])
def test_a_record_with_accuracies_of_another_kind_is_refused_by_name(damaged, accuracy):
    folder, _, record = damaged
    rewrite(record, lambda r: r.update(accuracy=accuracy))
    with pytest.raises(ValueError, match=re.escape(record.name)):
        training.load(tiny(), folder)


@pytest.mark.parametrize("rename", [lambda name: name.replace("head", "tail"), lambda name: name + "x"])
def test_weights_that_do_not_fit_the_model_are_refused_by_name(damaged, rename):
    """As after an update of transformers that renames a parameter: the hash is right, the names are not."""
    folder, weights, record = damaged
    safetensors.torch.save_file({rename(n): t for n, t in safetensors.torch.load_file(weights).items()}, weights)
    rewrite(record, lambda r: r.update(sha256=hashlib.sha256(weights.read_bytes()).hexdigest()))
    with pytest.raises(ValueError, match=re.escape(weights.name)):
        training.load(tiny(), folder)


def test_a_whole_checkpoint_under_another_runs_name_is_refused(damaged):
    folder, weights, record = damaged
    other = tiny(seed=3)
    weights.rename(folder / f"{other.key}.safetensors")
    record.rename(folder / f"{other.key}.json")
    with pytest.raises(ValueError, match=f"{re.escape(other.key)}.*seed=0.*seed=3"):
        training.load(other, folder)


def half(path, content):
    """`Path.write_bytes` on a disk that is full after half of it."""
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "disk full")


@pytest.mark.parametrize("broken", ["write_bytes", "dumps"])
def test_a_write_that_fails_leaves_nothing_that_loads(tmp_path, monkeypatch, broken, checkpoint):
    def no_json(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(*((Path, "write_bytes", half) if broken == "write_bytes" else (json, "dumps", no_json)))
    with pytest.raises(OSError, match="disk full"):
        training.save(replace(checkpoint[0], run=FixedKey("k")), tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ([] if broken == "write_bytes" else ["k.safetensors"])
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tiny().key}.json")):
        training.load(tiny(), tmp_path)


@dataclass(frozen=True)
class FixedKey:
    """A run whose key needs no JSON."""

    key: str


def test_a_failed_save_of_a_point_to_go_on_from_keeps_the_one_before(tmp_path, monkeypatch):
    real, calls = Path.write_bytes, []

    def second_fails(path, content):
        calls.append(path)
        return half(path, content) if len(calls) == 2 else real(path, content)

    monkeypatch.setattr(Path, "write_bytes", second_fails)
    with pytest.raises(OSError, match="disk full"):
        trained(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{tiny().key}.resume.safetensors"]
    assert same(trained(folder=tmp_path), trained())


# ---- names of runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LaterTrainSpec(TrainSpec):
    """TrainSpec as a later version might have it."""

    dropout: float = 0.0


@dataclass(frozen=True)
class LaterModelSpec(ModelSpec):
    """ModelSpec as a later version might have it."""

    gated: bool = False


def test_a_setting_added_later_changes_no_name_at_its_default_and_does_where_it_is_set():
    model, train = ModelSpec("lstm", d_model=48), TrainSpec(steps=50)
    key = Run("parity", model, train).key
    assert Run("parity", LaterModelSpec("lstm", d_model=48), LaterTrainSpec(steps=50)).key == key
    assert Run("parity", model, LaterTrainSpec(steps=50, dropout=0.1)).key != key
    assert Run("parity", LaterModelSpec("lstm", d_model=48, gated=True), train).key != key


def test_a_setting_written_out_at_its_default_changes_no_name():
    written = {f.name: f.default for f in fields(TrainSpec)}
    assert Run("parity", ModelSpec("gru"), TrainSpec(**written)).key == Run("parity", ModelSpec("gru"), TrainSpec()).key


OTHER = {
    "model": {
        "family": "gru",
        "d_model": 32,
        "n_layers": 3,
        "d_state": 4,
        "d_conv": 2,
        "n_heads": 2,
        "n_positions": 256,
        "seed": 1,
        "negative_eigenvalues": True,
    },
    "train": {
        "length": 24,
        "steps": 100,
        "lr": 1e-3,
        "batch": 32,
        "min_length": 2,
        "grow_at": 0.9,
        "stop_at": 0.9,
        "supervision": "last",
    },
}


def test_every_setting_that_is_changed_changes_the_name():
    assert OTHER["model"].keys() | {"residual"} == {f.name for f in fields(ModelSpec)}
    assert OTHER["train"].keys() == {f.name for f in fields(TrainSpec)}
    base = Run("parity", ModelSpec("mamba"), TrainSpec())
    keys = [base.key, replace(base, task="S3").key]
    for part, changes in OTHER.items():
        keys += [replace(base, **{part: replace(getattr(base, part), **{n: v})}).key for n, v in changes.items()]
    lstm = replace(base, model=ModelSpec("lstm"))
    keys += [lstm.key, replace(lstm, model=ModelSpec("lstm", residual=True)).key]
    assert len(set(keys)) == len(keys) == 2 + 9 + 8 + 2


def test_names_are_unique_over_a_grid_and_say_task_family_and_seed():
    grid = itertools.product(["parity", "dyck-2-4", "S3"], FAMILIES, range(4), [32, 64], [12, 20], [500, 1000])
    runs = [Run(t, ModelSpec(f, d_model=d, seed=s), TrainSpec(length=n, steps=k)) for t, f, s, d, n, k in grid]
    assert len({run.key for run in runs}) == len(runs) == 480
    for run in runs:
        assert run.key.startswith(f"{run.task}-{run.model.family}-{run.model.seed}-")
        assert re.fullmatch(r"[\w-]+", run.key)


@pytest.mark.parametrize(("name", "whole"), [("lr", 1), ("grow_at", 0)])
def test_equal_runs_have_one_name(name, whole):
    one, two = (Run("parity", ModelSpec("lstm"), TrainSpec(**{name: v})) for v in (whole, float(whole)))
    assert one == two
    assert one.key == two.key


# ---- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 3),
        ("length", 1025),
        ("length", 20.0),
        ("steps", 0),
        ("steps", True),
        ("lr", 0),
        ("lr", 1.5),
        ("lr", float("nan")),
        ("lr", "0.1"),
        ("batch", 0),
        ("min_length", 1),
        ("grow_at", 1.1),
        ("grow_at", -0.1),
        ("grow_at", None),
    ],
)
def test_an_impossible_training_setting_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: must be")):
        TrainSpec(**{name: value})


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"min_length=9.*length=8"):
        TrainSpec(length=8, min_length=9)
    with pytest.raises(ValueError, match=r"n_positions=79.*length=20.*80"):
        Run("parity", ModelSpec("transformer", n_positions=79), TrainSpec(length=20))
    for positions in (0, 80):
        Run("parity", ModelSpec("transformer", n_positions=positions), TrainSpec(length=20))
    Run("parity", ModelSpec("lstm", n_positions=5), TrainSpec(length=20))  # has no positions at all


def test_an_unknown_task_is_refused_before_training():
    with pytest.raises(ValueError, match="task='XOR'"):
        Run("XOR", ModelSpec("lstm"), TrainSpec())


@pytest.mark.parametrize("task", ["dyck-1-1", "dyck-1-2"])
def test_a_task_with_an_empty_split_is_refused_before_training(task):
    """dyck(1, 1) has one string of each length: no length has sequences in all three splits."""
    with pytest.raises(ValueError, match=task):
        tiny(task=task)


def test_a_task_with_an_empty_split_at_a_length_in_between_is_refused_before_training():
    """dyck(1, 2) has two strings of three tokens, and neither is in the train split."""
    with pytest.raises(ValueError, match="length=3"):
        tasks.dyck(1, 2).sample(1, 3, torch.Generator().manual_seed(0), "train")
    with pytest.raises(ValueError, match="dyck-1-2"):
        tiny(task="dyck-1-2", length=6, min_length=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_is_a_training_spec_and_takes_changes(family):
    spec = recipe(family)
    assert recipe(family, steps=7, length=30) == replace(spec, steps=7, length=30)
    assert spec == recipe(family)
    with pytest.raises(ValueError, match="stepz"):
        recipe(family, stepz=7)
    with pytest.raises(ValueError, match="batch=-1"):
        recipe(family, batch=-1)


def test_a_recipe_for_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"family='rnn'.*lstm"):
        recipe("rnn")


def test_a_loss_that_is_not_finite_stops_with_the_run_and_the_rate(monkeypatch, tmp_path):
    monkeypatch.setattr(F, "cross_entropy", lambda out, _: out.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match=rf"{re.escape(tiny().key)}.*nan after 5 steps.*lr=0.003"):
        trained(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- schedule and curriculum -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100, 1000])
def test_the_rate_warms_up_stays_and_falls(steps):
    spec = TrainSpec(steps=steps, lr=0.01)
    rates = np.array([training.learning_rate(step, spec) for step in range(steps)])
    assert (rates > 0).all() and (rates <= 0.01).all()
    top = np.flatnonzero(np.isclose(rates, 0.01))
    if steps < 100:
        return
    assert (top[0], top[-1]) == (steps // 20 - 1, 6 * steps // 10)  # 5% to 60%
    assert len(top) == top[-1] - top[0] + 1
    assert np.allclose(np.diff(rates[: top[0] + 1]), 0.01 / (steps // 20))  # straight up
    assert np.allclose(np.diff(rates[top[-1] :]), -0.01 / (0.4 * steps))  # straight down
    assert rates[-1] == pytest.approx(0.01 / (0.4 * steps))


@pytest.mark.parametrize("end", [50, 100])
def test_a_shorter_training_falls_over_its_own_last_two_fifths_and_warms_up_as_a_long_one(end):
    spec = TrainSpec(steps=100, lr=0.01)
    rates = np.array([training.learning_rate(step, spec, end) for step in range(end)])
    top = np.flatnonzero(np.isclose(rates, 0.01))
    assert (top[0], top[-1]) == (4, 6 * end // 10)
    assert rates[-1] == pytest.approx(0.01 / (0.4 * end))


def learns_after(monkeypatch, step):
    """The validation split says that the task is learned from the n-th look on; returns the looks that were taken."""
    looks = []

    def evaluate(*args, split="test", **options):
        if split == "validation":
            looks.append(args[2])
            return [1.0 if len(looks) >= step else 0.5]
        return REAL_EVALUATE(*args, **{**options, "n": 64}, split=split)

    monkeypatch.setattr(training, "evaluate", evaluate)
    return looks


def test_training_ends_two_thirds_of_its_steps_after_the_task_is_learned(monkeypatch):
    looks = learns_after(monkeypatch, 3)
    result = trained(tiny(steps=60, grow_at=0.0, stop_at=0.9, min_length=8))
    assert looks == [8, 8, 8]  # at full length, none after it was learned
    assert [row["step"] for row in result.history] == [5, 10, 15, 20, 25]  # 15 / (1 - .4)
    assert [row.get("validation") for row in result.history] == [0.5, 0.5, 1.0, None, None]


def test_a_task_learned_too_late_to_save_steps_or_never_takes_all_of_them(monkeypatch):
    looks = learns_after(monkeypatch, 99)
    assert trained(tiny(steps=30, grow_at=0.0, stop_at=0.9, min_length=8)).history[-1]["step"] == 30
    assert len(looks) == 3  # at 5, 10 and 15 steps; from 18 on, the rate falls anyway
    assert trained(tiny(steps=30, grow_at=0.0)).history[-1]["step"] == 30
    assert len(looks) == 3  # none is taken where none is asked for


def test_no_look_is_taken_before_the_curriculum_has_reached_the_full_length(monkeypatch):
    looks = learns_after(monkeypatch, 1)
    assert trained(tiny(steps=30, grow_at=1.0, stop_at=0.9)).history[-1]["step"] == 30
    assert looks == []


def test_an_interrupted_training_that_had_learned_ends_where_it_would_have(monkeypatch, tmp_path):
    run = tiny(steps=60, grow_at=0.0, stop_at=0.9, min_length=8)
    learns_after(monkeypatch, 3)
    whole = trained(run)
    learns_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        trained(run, tmp_path, stop_after=17)
    assert same(trained(run, tmp_path), whole)


@pytest.fixture
def drawn(monkeypatch):
    """(length, split) of every batch that is drawn."""
    calls, real = [], tasks.Task.sample

    def spy(self, batch, length, generator, split=None):
        if batch > 1:  # a batch of one only asks whether the split holds such a length
            calls.append((length, split))
        return real(self, batch, length, generator, split)

    monkeypatch.setattr(tasks.Task, "sample", spy)
    return calls


def test_the_longest_length_never_shrinks_and_never_passes_the_training_length(drawn):
    result = trained(tiny(grow_at=0.2, steps=60, length=9, min_length=4))
    longest = [row["longest"] for row in result.history]
    assert longest == sorted(longest)
    assert longest[0] >= 4 and longest[-1] == 9
    lengths = [length for length, split in drawn if split == "train"]
    assert len(lengths) == 60
    assert min(lengths) >= 4 and max(lengths) == 9
    reached = np.maximum.accumulate(lengths)
    assert (np.diff(reached) <= 1).all()  # grows by one at a time
    assert [row["step"] for row in result.history] == list(range(5, 61, 5))


def test_the_length_never_grows_where_the_bar_cannot_be_passed(drawn):
    assert [row["longest"] for row in trained(tiny(grow_at=1.0)).history] == [4, 4, 4]
    assert {length for length, split in drawn if split == "train"} == {4}


def test_half_of_the_batches_have_the_longest_length_and_half_an_even_mixture(drawn):
    trained(tiny(grow_at=0.0, steps=600, length=8, min_length=4, batch=4, d_model=8))
    late = [length for length, split in drawn if split == "train"][100:]
    counts = np.bincount(late, minlength=9)[4:] / len(late)
    assert counts == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.6], abs=0.07)


def test_training_sees_the_train_split_alone_and_the_record_the_test_split_alone(drawn):
    result = trained(tiny(length=8))
    assert [split for _, split in drawn] == ["train"] * STEPS + ["test"] * 4
    assert [length for length, split in drawn if split == "test"] == [8, 12, 16, 32] == list(result.accuracy)
    assert all(len(values) == length for length, values in result.accuracy.items())


def test_the_history_has_a_row_for_every_fifth_step_and_the_last():
    assert [row["step"] for row in trained().history] == [5, 10, 12]


# ---- learning and evaluation ---------------------------------------------------------------------------------------------------


def test_a_tiny_lstm_learns_parity_of_eight_tokens():
    run = Run(
        "parity", ModelSpec("lstm", d_model=16, n_layers=1), recipe("lstm", steps=400, length=8, batch=32, lr=1e-2)
    )
    result = trained(run)
    assert result.accuracy_at(8) > 0.95
    assert result.history[-1]["loss"] < 0.2 < result.history[0]["loss"]
    assert not result.model.training


class Guess(torch.nn.Module):
    """Answers with the parity itself, or always with 0."""

    def __init__(self, right):
        super().__init__()
        self.right, self.scale = right, torch.nn.Parameter(torch.ones(()))

    def forward(self, tokens):
        state = tokens.cumsum(1) % 2 if self.right else torch.zeros_like(tokens)
        return self.scale * F.one_hot(state, 2).float()


def test_evaluation_gives_the_accuracy_at_each_position():
    assert REAL_EVALUATE(Guess(True), tasks.parity(), 16, n=700) == [1.0] * 16
    assert REAL_EVALUATE(Guess(False), tasks.parity(), 16, n=3000) == pytest.approx([0.5] * 16, abs=0.05)


def test_an_untrained_network_is_another_one_of_the_same_shape_and_always_the_same():
    run = tiny()
    one, two, start = run.untrained(), run.untrained(), models.build(run.model, 2, 2)
    weights = one.model.state_dict()
    assert all(torch.equal(weights[n], w) for n, w in two.model.state_dict().items())
    assert {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in start.state_dict().items()}
    assert not any(torch.equal(weights[n], w) for n, w in start.state_dict().items() if w.ndim > 1)
    assert not one.model.training and one.history == [] and one.accuracy == {}


def test_every_seed_that_a_spec_allows_has_an_untrained_network():
    assert isinstance(tiny(seed=2**31 - 1).untrained(), Trained)


# ---- supervision, and the model on its way ----------------------------------------------------------------------------------


def test_with_the_last_position_supervised_no_other_position_moves_the_weights():
    model = models.build(tiny().model, 2, 2)
    tokens = torch.randint(2, (3, 8), generator=torch.Generator().manual_seed(0))
    right, wrong = torch.ones(3, 8, dtype=torch.long), torch.zeros(3, 8, dtype=torch.long)
    wrong[:, -1] = 1
    losses = [training.last_loss(model, tokens, targets)[0] for targets in (right, wrong)]
    assert torch.equal(*losses)
    assert not torch.equal(*(training.state_loss(model, tokens, targets)[0] for targets in (right, wrong)))


def test_supervision_is_one_of_two():
    with pytest.raises(ValueError, match="supervision='first': must be every or last"):
        TrainSpec(supervision="first")


def test_accuracy_in_distribution_is_where_training_asked_for_the_state():
    every, last = trained(), trained(tiny(supervision="last"))
    assert every.in_distribution() == every.accuracy_at(8)
    assert last.in_distribution() == last.accuracy[8][-1]


def test_snapshots_end_where_training_ends_and_begin_before_it(tmp_path):
    steps = (0, 3, STEPS)
    found = training.snapshots(tiny(), steps, tmp_path)
    assert tuple(found) == steps
    whole, first = trained().model.state_dict(), models.build(tiny().model, 2, 2).state_dict()
    for name, weights in found[STEPS].model.state_dict().items():
        assert torch.equal(weights, whole[name])
        assert torch.equal(found[0].model.state_dict()[name], first[name].half().float())
    assert found[STEPS].in_distribution() == trained().in_distribution()


def test_interrupted_snapshots_are_those_of_an_undisturbed_training(tmp_path, monkeypatch):
    """Killed after step 7, of which 5 are saved: what was kept at 6 is kept again, with the same bits."""
    steps = (0, 3, 6, STEPS)
    undisturbed = training.snapshots(tiny(), steps, tmp_path / "one")
    real = training.fit
    monkeypatch.setattr(training, "fit", lambda *rest, **more: real(*rest, **more, stop_after=7))
    with pytest.raises(KeyboardInterrupt):
        training.snapshots(tiny(), steps, tmp_path / "two")
    monkeypatch.setattr(training, "fit", real)
    again = training.snapshots(tiny(), steps, tmp_path / "two")
    for step in steps:
        a, b = undisturbed[step].model.state_dict(), again[step].model.state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_further_steps_and_a_deleted_snapshot_are_made_again(tmp_path):
    training.snapshots(tiny(), (0, STEPS), tmp_path)
    undisturbed = training.snapshots(tiny(), (0, 6, STEPS), tmp_path / "other")
    again = training.snapshots(tiny(), (0, 6, STEPS), tmp_path)
    for path in tmp_path.glob("*.step6.safetensors"):
        path.unlink()
    for found in (again, training.snapshots(tiny(), (0, 6, STEPS), tmp_path)):
        for step, one in undisturbed.items():
            a, b = one.model.state_dict(), found[step].model.state_dict()
            assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_damaged_snapshot_is_refused_by_name_and_a_step_out_of_reach_by_value(tmp_path):
    training.snapshots(tiny(), (0, STEPS), tmp_path)
    (first,) = tmp_path.glob("*.step0.safetensors")
    flip_byte(first, -1)
    with pytest.raises(ValueError, match=re.escape(first.name)):
        training.snapshots(tiny(), (0, STEPS), tmp_path)
    with pytest.raises(ValueError, match=f"must be from 0 to {STEPS}"):
        training.snapshots(tiny(), (0, STEPS + 1), tmp_path)
