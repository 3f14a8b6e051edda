"""The grid: nothing is done twice, what is published comes first, and a grid that makes no sense is refused."""

import os
import re
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import joblib
import pandas as pd
import pytest
import torch

from statedepth import analogue, grid, pretrained, probes, training
from statedepth.grid import Cell
from statedepth.models import ModelSpec
from statedepth.probes import ProbeSettings
from statedepth.training import Run, TrainSpec

torch.set_num_threads(1)

REAL_EVALUATE = training.evaluate
PROBES = ProbeSettings(n_fit=64, n_validation=32, n_test=32)


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    """Neither the published checkpoints nor the cache of this checkout are touched, and evaluation is quick."""
    monkeypatch.setattr(grid, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(grid, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(training, "evaluate", partial(REAL_EVALUATE, n=32))


def run_of(seed=0, **changes):
    train = TrainSpec(**{"length": 6, "steps": 3, "batch": 4, **changes})
    return Run("parity", ModelSpec("lstm", d_model=8, n_layers=1, seed=seed), train)


def cell_of(run=None, **changes):
    return Cell(**{"run": run or run_of(), "variable": "state", "length": 6, "probes": PROBES, **changes})


def never(*_, **__):
    raise AssertionError("this work was done before")


@pytest.fixture
def profiled(monkeypatch):
    """(run key, variable, length) of every call of the measurement, which is a stand-in."""
    calls = []

    def profile(trained, variable, length, settings, labelled_by=""):
        calls.append((trained.run.key, variable, length, settings.seed))
        return pd.DataFrame(
            {"site": [0, 1], "accuracy": [0.5, 1 / 3], "weight": trained.model.head.weight[0, 0].item()}
        )

    monkeypatch.setattr(probes, "profile", profile)
    return calls


def publish(run, weight=None):
    """Train `run` into the published folder; with a weight, so that it can be told from a cached one."""
    trained = training.train(run, None, progress=False)
    if weight is not None:
        with torch.no_grad():
            trained.model.head.weight.fill_(weight)
    training.save(trained, grid.PUBLISHED)


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


# ---- obtain ---------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_trained_and_the_second_time_nothing_is(monkeypatch):
    runs = [run_of(seed) for seed in (0, 1)]
    assert grid.obtain(runs, workers=1) == dict.fromkeys(runs, "trained")
    monkeypatch.setattr(training, "train", never)
    assert grid.obtain(runs, workers=1) == dict.fromkeys(runs, "cached")
    for run in runs:
        assert grid.fetch(run).run == run


def test_only_what_is_missing_is_trained(monkeypatch):
    grid.obtain([run_of(0)], workers=1)
    trained, real = [], training.train
    monkeypatch.setattr(training, "train", lambda run, *rest, **more: trained.append(run) or real(run, *rest, **more))
    found = grid.obtain([run_of(0), run_of(1), run_of(1)], workers=1)
    assert trained == [run_of(1)]
    assert found == {run_of(0): "cached", run_of(1): "trained"}


def test_a_changed_setting_is_another_run_and_is_trained():
    grid.obtain([run_of()], workers=1)
    assert grid.source(run_of()) == "cached"
    assert grid.source(run_of(steps=4)) is grid.source(run_of(seed=1)) is grid.source(run_of(lr=1e-3)) is None


def test_a_fetched_model_is_bit_for_bit_the_one_that_training_gives():
    grid.obtain([run_of()], workers=1)
    fetched, trained = grid.fetch(run_of()), training.train(run_of(), None, progress=False)
    weights = trained.model.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in fetched.model.state_dict().items())
    assert fetched.history == trained.history and fetched.accuracy == trained.accuracy


def test_published_beats_cached(monkeypatch, profiled):
    run = run_of()
    grid.obtain([run], workers=1)
    publish(run, 7.0)
    monkeypatch.setattr(training, "train", never)
    assert grid.source(run) == "published"
    assert grid.obtain([run], workers=1) == {run: "published"}
    assert (grid.fetch(run).model.head.weight == 7).all()
    assert grid.measure([cell_of(run)], workers=1)[0]["weight"].tolist() == [7.0, 7.0]


@pytest.mark.parametrize("where", ["PUBLISHED", "CACHE"])
def test_a_damaged_checkpoint_is_refused_by_name_and_not_trained_over(where, monkeypatch):
    run = run_of()
    folder = grid.PUBLISHED if where == "PUBLISHED" else grid.CACHE / "checkpoints"
    training.save(training.train(run, None, progress=False), folder)
    weights = folder / f"{run.key}.safetensors"
    flip_last_byte(weights)
    damaged = weights.read_bytes()
    monkeypatch.setattr(training, "train", never)
    grid.obtain([run], workers=1)
    for use in (lambda: grid.fetch(run), lambda: grid.measure([cell_of(run)], workers=1)):
        with pytest.raises(ValueError, match=re.escape(weights.name)):
            use()
    assert weights.read_bytes() == damaged
    assert not list(grid.CACHE.glob("tables/*"))


def test_weights_without_their_record_do_not_count_as_a_checkpoint():
    run = run_of()
    grid.obtain([run], workers=1)
    (grid.CACHE / "checkpoints" / f"{run.key}.json").unlink()
    assert grid.source(run) is None
    assert grid.obtain([run], workers=1) == {run: "trained"}
    grid.fetch(run)


def test_a_run_that_was_killed_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    run = run_of(steps=7)
    with pytest.raises(KeyboardInterrupt):
        training.train(run, grid.CACHE / "checkpoints", progress=False, stop_after=5)
    steps, real = [], training.learning_rate
    monkeypatch.setattr(training, "learning_rate", lambda step, *rest: steps.append(step) or real(step, *rest))
    assert grid.obtain([run], workers=1) == {run: "trained"}
    assert steps == [4, 5, 6]


def test_an_error_in_one_run_keeps_those_that_are_done(monkeypatch):
    real = training.train

    def second_fails(run, *rest, **more):
        if run.model.seed == 1:
            raise FloatingPointError("nan")
        return real(run, *rest, **more)

    monkeypatch.setattr(training, "train", second_fails)
    with pytest.raises(FloatingPointError):
        grid.obtain([run_of(0), run_of(1)], workers=1)
    assert grid.source(run_of(0)) == "cached"


def test_parallel_work_does_every_item_once(monkeypatch):
    runs = [run_of(seed) for seed in range(4)]
    with joblib.parallel_config(backend="threading"):
        found = grid.obtain(runs, workers=3)
    assert found == dict.fromkeys(runs, "trained")
    alone = training.train(runs[3], None, progress=False).model.state_dict()
    monkeypatch.setattr(training, "train", never)
    grid.obtain(runs, workers=3)
    assert all(torch.equal(alone[name], w) for name, w in grid.fetch(runs[3]).model.state_dict().items())


@pytest.mark.parametrize("n_runs", [1, 2])
def test_every_run_is_trained_with_one_thread_and_the_threads_are_given_back(n_runs, monkeypatch):
    """Two threads give a Transformer other last bits than one, so its checkpoint would depend on its company."""
    threads = []
    monkeypatch.setattr(training, "train", lambda *_, **__: threads.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        grid.obtain([run_of(seed) for seed in range(n_runs)], workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == [1] * n_runs


# ---- measure --------------------------------------------------------------------------------------------------------------


def test_a_cell_is_measured_once(monkeypatch, profiled):
    cells = [cell_of(), cell_of(length=7)]
    grid.obtain([run_of()], workers=1)
    first = grid.measure(cells, workers=1)
    assert [call[2] for call in profiled] == [6, 7]
    monkeypatch.setattr(probes, "profile", never)
    monkeypatch.setattr(training, "load", never)
    again = grid.measure(cells, workers=1)
    for one, two in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert [table.attrs["from_cache"] for table in (*first, *again)] == [False, False, True, True]


def test_tables_come_back_in_the_order_of_the_cells(profiled):
    runs = [run_of(seed) for seed in range(3)]
    grid.obtain(runs, workers=1)
    weights = [grid.fetch(run).model.head.weight[0, 0].item() for run in runs]
    grid.measure([cell_of(runs[1])], workers=1)
    with joblib.parallel_config(backend="threading"):
        found = grid.measure([cell_of(run) for run in reversed(runs)], workers=3)
    assert [table["weight"][0] for table in found] == pytest.approx(weights[::-1])
    assert len(profiled) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"length": 8},
        {"variable": "top"},
        {"probes": ProbeSettings(n_fit=64, n_validation=32, n_test=33)},
        {"probes": ProbeSettings(n_fit=64, n_validation=32, n_test=32, seed=1)},
    ],
    ids=["length", "variable", "amount", "seed"],
)
def test_a_changed_setting_is_measured_anew_and_the_old_one_is_kept(change, profiled):
    grid.obtain([run_of()], workers=1)
    grid.measure([cell_of()], workers=1)
    grid.measure([cell_of(**change)], workers=1)
    assert len(profiled) == 2
    grid.measure([cell_of(), cell_of(**change)], workers=1)
    assert len(profiled) == 2


def test_other_weights_under_the_same_name_are_measured_anew(profiled):
    run = run_of()
    grid.obtain([run], workers=1)
    grid.measure([cell_of()], workers=1)
    trained = grid.fetch(run)
    with torch.no_grad():
        trained.model.head.weight.fill_(3.0)
    training.save(trained, grid.CACHE / "checkpoints")
    assert grid.measure([cell_of()], workers=1)[0]["weight"][0] == 3.0
    assert len(profiled) == 2


def test_other_code_measures_anew(monkeypatch, profiled):
    grid.obtain([run_of()], workers=1)
    grid.measure([cell_of()], workers=1)
    monkeypatch.setattr(grid, "_code_digest", lambda name, *_: "of another version")
    grid.measure([cell_of()], workers=1)
    assert len(profiled) == 2


def test_another_version_of_a_library_or_another_device_measures_anew(monkeypatch):
    grid.obtain([run_of()], workers=1)
    here = grid._digest("profile", cell_of(), "cpu")
    assert grid._digest("profile", cell_of(), "cuda") != here
    before = grid._code_digest.__wrapped__("profile")
    monkeypatch.setattr(grid, "version", lambda name: "0" if name == "scikit-learn" else version(name))
    assert grid._code_digest.__wrapped__("profile") != before


def modules_behind(name):
    """Every module of the library that `name` imports, itself, and what those import."""
    source = (Path(grid.__file__).parent / f"{name}.py").read_text()
    found = {name}
    for direct in re.findall(r"^from statedepth(?: import ([\w, ]+)|\.(\w+) import)", source, re.M):
        for other in re.findall(r"\w+", " ".join(direct)):
            found |= modules_behind(other)
    return found


BEHIND = {"profile": ["probes"], "attribution": ["conv"], "necessity": ["ablation"], "planted": ["ablation", "planted"], "patching": ["patching"], "sweep": ["ablation"], "window": ["windows"], "through_training": ["probes"]}  # fmt: skip


@pytest.mark.parametrize("measurement", BEHIND)
def test_the_digest_of_the_code_covers_every_module_that_a_measurement_imports(measurement, tmp_path, monkeypatch):
    """Each of them, with one more line, must give another digest; `files` only moves bytes."""
    modules = set().union(*map(modules_behind, BEHIND[measurement]), modules_behind("training")) - {"files"}
    assert modules >= {"stream", "models", "tasks"} and set(grid.CODE) == set(BEHIND)
    for path in Path(grid.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(grid, "__file__", str(tmp_path / "grid.py"))
    digests = {grid._code_digest.__wrapped__(measurement)}
    for name in modules:
        (tmp_path / f"{name}.py").write_text((tmp_path / f"{name}.py").read_text() + "# changed\n")
        digests.add(grid._code_digest.__wrapped__(measurement))
    assert len(digests) == 1 + len(modules)


def test_measurements_of_fine_tuned_models_run_through_two_modules_more(tmp_path, monkeypatch):
    for path in Path(grid.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(grid, "__file__", str(tmp_path / "grid.py"))
    digests = {grid._code_digest.__wrapped__("sweep"), grid._code_digest.__wrapped__("sweep", True)}
    more = modules_behind("pretrained") - modules_behind("training")
    assert more == {"analogue", "pretrained"}
    for name in more:
        (tmp_path / f"{name}.py").write_text((tmp_path / f"{name}.py").read_text() + "# changed\n")
        digests.add(grid._code_digest.__wrapped__("sweep", True))
    assert len(digests) == 2 + len(more)


def test_a_measurement_that_fails_leaves_no_table(monkeypatch):
    grid.obtain([run_of()], workers=1)
    monkeypatch.setattr(probes, "profile", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grid.measure([cell_of()], workers=1)
    assert not list(grid.CACHE.glob("tables/*"))


def test_the_real_measurement_runs_and_is_the_profile_of_the_fetched_model():
    grid.obtain([run_of()], workers=1)
    settings = ProbeSettings(n_fit=64, n_validation=32, n_test=32)
    (table,) = grid.measure([cell_of(probes=settings, length=5)], workers=1)
    expected = probes.profile(grid.fetch(run_of()), "state", 5, settings)
    pd.testing.assert_frame_equal(table, expected, check_exact=True, check_dtype=False)


def test_a_cell_named_twice_is_measured_once(profiled):
    grid.obtain([run_of()], workers=1)
    assert len(grid.measure([cell_of(), cell_of()], workers=1)) == 2
    assert len(profiled) == 1


def test_a_damaged_cached_table_is_refused_by_name(profiled):
    grid.obtain([run_of()], workers=1)
    grid.measure([cell_of()], workers=1)
    (path,) = (grid.CACHE / "tables").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Exception, match=re.escape(path.name)):
        grid.measure([cell_of()], workers=1)


def test_no_file_but_the_two_of_a_checkpoint_and_one_a_cell_is_left(profiled):
    grid.obtain([run_of()], workers=1)
    grid.measure([cell_of()], workers=1)
    files = [path for path in grid.CACHE.rglob("*") if path.is_file()]
    assert all(path.stat().st_size == 0 for path in files if path.parent.name == "locks")
    names = sorted(path.name for path in files if path.parent.name != "locks")
    assert names[:2] == [f"{run_of().key}.json", f"{run_of().key}.safetensors"]
    assert len(names) == 3 and re.fullmatch(r"profile-[0-9a-f]{20}\.parquet", names[2])


def test_the_cache_folder_comes_from_the_environment_where_it_is_set():
    code = "from statedepth import grid; print(grid.CACHE)"

    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "STATEDEPTH_CACHE": "/some/where"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "/some/where"


# ---- which runs -------------------------------------------------------------------------------------------------------------

GOOD = {
    "tasks": ["parity", "S3"],
    "architectures": ["lstm", "transformer"],
    "seeds": [0, 1],
    "d_model": 32,
    "n_layers": 2,
}


def test_a_grid_is_every_combination_once_each_by_its_recipe():
    runs = grid.cross(**GOOD, length=12)
    assert len(runs) == len(set(runs)) == len({run.key for run in runs}) == 8
    assert {(run.task, run.model.family, run.model.seed) for run in runs} == {
        (task, family, seed) for task in GOOD["tasks"] for family in GOOD["architectures"] for seed in GOOD["seeds"]
    }
    for run in runs:
        assert run.train == training.recipe(run.model.family, length=12)
        assert (run.model.d_model, run.model.n_layers) == (32, 2)


def test_a_transformer_in_a_grid_has_positions_for_the_longest_evaluation():
    for length in (20, 32, 50, 100):
        (run,) = grid.cross(["parity"], ["transformer"], [0], 32, 1, length=length)
        assert run.model.n_positions >= training.lengths_beyond(length)[-1]
    assert run.model.n_positions == 400


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": []}, "tasks=.*at least one"),
        ({"architectures": []}, "architectures=.*at least one"),
        ({"seeds": []}, "seeds=.*at least one"),
        ({"tasks": ["S3", "parity", "S3"]}, r"tasks=\['S3', 'parity', 'S3'\].*more than once"),
        ({"architectures": ["gru", "gru"]}, r"architectures=\['gru', 'gru'\].*more than once"),
        ({"seeds": [1, 2, 1]}, r"seeds=\[1, 2, 1\].*more than once"),
        ({"tasks": ["parity", "xor"]}, "task='xor'.*known names"),
        ({"architectures": ["rnn"]}, "family='rnn'.*lstm"),
        ({"seeds": [-1]}, "seed=-1.*from 0"),
        ({"seeds": [0, "1"]}, "seed='1'.*whole number"),
        ({"d_model": 4}, "d_model=4.*from 8"),
        ({"n_layers": 0}, "n_layers=0.*from 1"),
        ({"length": 3}, "length=3.*from 4"),
        ({"steps": -5}, "steps=-5.*from 1"),
        ({"stepz": 5}, "stepz.*not a training setting"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_by_name_value_and_rule(change, said):
    with pytest.raises(ValueError, match=said):
        grid.cross(**{**GOOD, **change})


VALUES = {**GOOD, "length": 12, "steps": None, "fresh": []}


def test_the_parameters_of_a_notebook_are_the_grid_and_one_fresh_seed_for_each_pair_named():
    assert grid.runs_of(VALUES) == grid.cross(**GOOD, length=12)
    runs = grid.runs_of({**VALUES, "steps": 50, "fresh": ["S3/lstm", "parity/transformer"]})
    assert runs[:8] == grid.cross(**GOOD, length=12, steps=50)
    assert [(r.task, r.model.family, r.model.seed) for r in runs[8:]] == [
        ("S3", "lstm", grid.FRESH_SEED),
        ("parity", "transformer", grid.FRESH_SEED),
    ]
    assert {r.train.steps for r in runs} == {50} and {r.model.d_model for r in runs} == {32}


@pytest.mark.parametrize("pair", ["S3", "S3/gru", "Z6/lstm", "lstm/S3", "", "S3/lstm/0", "/"])
def test_a_fresh_pair_outside_the_grid_is_refused_by_value(pair):
    with pytest.raises(ValueError, match=re.escape(f"fresh={pair!r}")):
        grid.runs_of({**VALUES, "fresh": [pair]})


@pytest.mark.parametrize(
    "change", [{"tasks": []}, {"seeds": [3, 3]}, {"architectures": ["rnn"]}, {"length": 1}, {"d_model": 1000}]
)
def test_the_parameters_of_a_notebook_are_refused_as_a_grid_is(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"({name}|family)="):
        grid.runs_of({**VALUES, **change})


@pytest.mark.parametrize(
    "change", [{"fresh": ["S3/lstm", "S3/lstm"]}, {"fresh": ["S3/lstm"], "seeds": [0, grid.FRESH_SEED]}]
)
def test_a_run_that_is_asked_for_twice_is_refused(change):
    with pytest.raises(ValueError, match="fresh="):
        grid.runs_of({**VALUES, **change})


def test_one_task_under_two_names_is_a_repetition():
    with pytest.raises(ValueError, match="task='dyck-2-4-top'"):
        grid.cross(**{**GOOD, "tasks": ["dyck-2-4", "dyck-2-4-top"]})


@pytest.mark.parametrize("seeds", [3])
def test_seeds_that_are_no_list_are_refused_with_their_value(seeds):
    with pytest.raises(ValueError, match=f"seeds={seeds}"):
        grid.cross(**{**GOOD, "seeds": seeds})


# ---- devices ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_cuda_where_it_is_and_the_cpu_where_not(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert grid.pick_device("auto") == ("cuda" if there else "cpu")
    assert grid.pick_device("cpu") == "cpu"


def test_a_device_that_is_not_there_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda'.*auto"):
        grid.pick_device("cuda")


@pytest.mark.parametrize("device", ["gpu", "CPU", "", None, "cuda:0"])
def test_an_unknown_device_is_refused_by_value(device):
    with pytest.raises(ValueError, match=re.escape(f"device={device!r}: must be auto, cpu or cuda")):
        grid.pick_device(device)


# ---- the runs of claim 2 ----------------------------------------------------------------------------------------------

GROUPING = {
    "groups": ["parity", "S3", "Z6", "dyck-2-4"],
    "architectures": ["mamba", "lstm"],
    "seeds": [0, 1, 2, 3],
    "control_seeds": [0, 1],
    "targets": ["dyck-2-4", "dyck-2-4-depth"],
    "retrain": True,
    "d_model": 32,
    "n_layers": 2,
    "length": 12,
    "steps": 0,
}


def test_the_runs_of_claim_2_are_groups_by_their_seeds_targets_and_models_of_one_tap():
    parts = grid.grouping_runs(GROUPING)
    assert {k: len(v) for k, v in parts.items()} == {
        "groups": 3 * 2 * 4 + 2 * 2,
        "targets": 2 * 2 * 2,
        "retrained": 3 * 2,
    }
    assert {r.model.seed for r in parts["groups"] if r.task == "Z6"} == {0, 1}
    assert {(r.model.family, r.model.d_conv) for r in parts["retrained"]} == {("mamba", 1)}
    assert {r.model.d_conv for r in parts["groups"] + parts["targets"]} == {4}
    assert set(r for r in parts["targets"] if r.task == "dyck-2-4") < set(parts["groups"])  # trained once
    for run in (run for part in parts.values() for run in part):
        assert run.train == training.recipe(run.model.family, training.UNTIL_LEARNED, length=12)
    assert {r.train.steps for r in grid.grouping_runs({**GROUPING, "steps": 7})["retrained"]} == {7}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": []}, "groups=.*at least one"),
        ({"groups": ["S3", "S3"]}, "groups=.*none twice"),
        ({"groups": ["S3", "xor"]}, "task='xor'"),
        ({"seeds": []}, "seeds=.*at least one"),
        ({"targets": ["dyck-2-4", "dyck-1-4"]}, "targets=.*same bracket strings"),
        ({"targets": ["dyck-2-4", "parity"]}, "targets=.*same bracket strings"),
        ({"targets": ["dyck-2-4", "dyck-2-3"]}, "targets=.*same bracket strings"),
        ({"targets": ["dyck-2-4", "dyck-2-4"]}, "targets=.*none twice"),
        ({"groups": ["S3"], "targets": ["foo"]}, "task='foo'"),
        ({"control_seeds": []}, "control_seeds=.*at least one"),
        ({"architectures": ["rnn"]}, "family='rnn'"),
    ],
)
def test_parameters_of_claim_2_that_make_no_sense_are_refused_by_value_and_rule(change, said):
    with pytest.raises(ValueError, match=said):
        grid.grouping_runs({**GROUPING, **change})


def test_a_claim_without_targets_or_convolutions_has_only_its_groups():
    parts = grid.grouping_runs({**GROUPING, "targets": [], "architectures": ["gru"]})
    assert not parts["targets"] and not parts["retrained"]
    none = grid.grouping_runs({**GROUPING, "groups": ["Z6"]})
    assert not none["retrained"] and not none["targets"]  # other targets of strings that are not asked about


def test_published_are_two_seeds_of_core_tasks_and_one_of_all_others():
    runs, published = grid.wanted("s3_grouping", GROUPING)
    assert len(runs) == len(set(runs)) == 24 + 4 + 4 + 6 and set(published) < set(runs)
    core = [r for r in published if r.task in grid.CORE and r.model.d_conv == 4]
    assert {r.model.seed for r in core} == {0, 1} and len(core) == 3 * 2 * 2
    others = [r for r in published if r not in core]
    assert {r.model.seed for r in others} == {0} and len(others) == 2 + 2 + 3
    assert grid.wanted("flip", VALUES) == (grid.runs_of(VALUES), grid.runs_of(VALUES))


def test_seeds_without_a_checkpoint_are_left_out_where_another_seed_has_one(monkeypatch):
    runs = grid.cross(["parity", "S3"], ["lstm"], [0, 1], 32, 2, length=12)
    monkeypatch.setattr(grid, "source", lambda run: "published" if run == runs[0] else None)
    assert grid.at_hand(runs, False) == ([runs[0], *runs[2:]], [runs[1]])  # S3 has none at all: it is trained
    assert grid.at_hand(runs, True) == (runs, [])


# ---- fine-tuned models --------------------------------------------------------------------------------------------------

ASKED = {
    "tasks": ["dyck-2-4", "parity"], "models": ["gpt-neox-small", "mamba-large"], "checkpoint": "", "seeds": [0, 1], "scratch_seeds": [0],
    "hard_tasks": ["S3"], "hard_models": ["mamba-large"], "hard_seeds": [0], "length": 20, "steps": 0, "width": 2,
}  # fmt: skip


def test_every_model_on_every_task_with_and_without_pretraining_and_the_hard_tasks_beside():
    runs = grid.tuned_runs(ASKED)
    found = {(run.base, run.task, run.pretrained, run.seed) for run in runs}
    core = {(b, t, p, s) for b in ASKED["models"] for t in ASKED["tasks"] for p, seeds in ((True, (0, 1)), (False, (0,))) for s in seeds}  # fmt: skip
    assert found == core | {("mamba-large", "S3", start, 0) for start in (True, False)}
    assert len(runs) == len(found) == len({run.key for run in runs})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": []}, "models=[]: must be a list that names at least one"),
        ({"models": ["pythia"]}, "models: 'pythia' is none of gpt-neox-small"),
        ({"hard_models": ["pythia"]}, "models: 'pythia' is none of gpt-neox-small"),
        ({"seeds": [0, 0]}, "seeds=[0, 0]: names one more than once"),
        ({"tasks": ["parity", "S3"]}, "hard_tasks=['S3']: S3 is among tasks too"),
        ({"tasks": ["riddles"]}, "task='riddles'"),
        ({"checkpoint": "nowhere"}, "checkpoint='nowhere': no such folder"),
        ({"length": 3}, "length=3"),
        ({"steps": -1}, "steps=-1"),
        ({"width": 1}, "width=1: must be 2 to 11 sites in a row, of 12 the last is not erased"),
        ({"width": 12}, "width=12: must be 2 to 11"),
        ({"checkpoint": "my-scratch/"}, "checkpoint='my-scratch/': -scratch marks models that were not pretrained"),
    ],
)
def test_what_claim_4_cannot_run_is_refused_by_name(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        grid.tuned_runs({**ASKED, **changes})


def test_models_without_a_checkpoint_are_left_out_unless_they_are_to_be_made(monkeypatch):
    runs = grid.tuned_runs(ASKED)
    monkeypatch.setattr(grid, "source", lambda run: "published" if run.seed == 1 else None)
    kept, left_out = grid.with_checkpoint(runs, False)
    assert {run.seed for run in kept} == {1} and len(kept) + len(left_out) == len(runs)
    assert grid.with_checkpoint(runs, True) == (runs, [])
    for at_hand in (lambda run: None, lambda run: None if run.pretrained else "cached"):
        monkeypatch.setattr(grid, "source", at_hand)
        with pytest.raises(ValueError, match="rebuild=True"):
            grid.with_checkpoint(runs, False)


def test_published_of_claim_4_is_one_seed_of_what_its_verdict_rests_on():
    runs, published = grid.wanted("pretrained_bottleneck", {**ASKED, "models": list(analogue.ANALOGUES)})
    assert {(run.base, run.task) for run in published} == set(grid.PUBLISHED_TUNED)
    assert all(run.pretrained and run.seed == 0 for run in published) and set(published) < set(runs)


def test_a_fine_tuned_model_is_made_once_measured_and_found_again(monkeypatch):
    """Its base is pretrained before; what is measured is cached like everything else."""
    tiny = analogue.Analogue("gpt_neox", 32, n_layers=3, vocabulary=320, steps=4, batch=2, length=16)
    text = analogue.Text(("def f(x):\n    return [x]\n" * 40,) * 3, ("def g(x):\n    return x\n" * 40,))
    monkeypatch.setattr(analogue, "corpus", lambda: text)
    monkeypatch.setitem(analogue.ANALOGUES, "tiny", tiny)
    run = pretrained.tuning("parity", "tiny", True, 0, steps=5, length=8)
    assert grid.obtain([run], workers=1) == {run: "trained"} and grid.obtain([run], workers=1) == {run: "cached"}
    assert analogue.place_of(tiny, grid.CACHE / "bases").is_dir()
    settings = grid.NecessitySettings(64, 64, 64, 64, 32, 2, 8, 2)
    cells = [grid.sweep_cell(run, settings)], [grid.WindowCell(run, 8, settings, 2)]
    first = [grid.sweep(cells[0], workers=1)[0], grid.window(cells[1], workers=1)[0]]
    again = [grid.sweep(cells[0], workers=1)[0], grid.window(cells[1], workers=1)[0]]
    assert [t.attrs["from_cache"] for t in first + again] == [False, False, True, True]
    assert set(first[0]["site"]) == {1, 2, 3} and set(first[1]["last"]) == {2}
    for one, other in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
