"""The benchmark runs, at tiny sizes, and its rivals compute the same thing; its times are never tested."""

import importlib.util
import itertools
import json
import subprocess
import sys

import pytest
import torch

from statedepth import kernels, mixers, models, tables, training
from statedepth.grid import ROOT


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


benchmark, seed = loaded("scan"), loaded("seed")
SIZE = benchmark.Size(3, 7, 8, 2)


def test_it_writes_tables_that_fit_their_schemas_and_says_how_they_were_made(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "scan.py", "--small", "--rounds", "2", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert benchmark.OURS in done.stdout and benchmark.FLOOR in done.stdout
    made = tables.read_folder(tmp_path)
    assert set(made) == {"steps", "scaling"}
    ours = made["steps"].set_index("path")["times_ours"]
    assert ours[benchmark.OURS] == 1.0 and len(ours) == len(benchmark.rivals(SIZE)) + 1
    assert json.loads((tmp_path / "run.json").read_text())["profile"] == "small"


def test_no_number_of_rounds_under_one_is_taken():
    command = [sys.executable, ROOT / "benchmarks" / "scan.py", "--rounds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "--rounds 0: must be 1 or more" in done.stderr


def test_every_path_of_transformers_mamba_gives_the_same_logits():
    model = models.build(models.ModelSpec("mamba", d_model=8, n_layers=2, d_state=2), 2, 2)
    tokens = torch.randint(2, (3, 7))
    ours = models.logits(model, tokens)
    for path in (mixers.transformers_path, benchmark.plain_recurrence):
        with path():
            assert torch.allclose(models.logits(model, tokens), ours, atol=2e-6)
    for block in models.blocks(model):
        block.mixer.use_mambapy = True
    with mixers.transformers_path():
        assert torch.allclose(models.logits(model, tokens), ours, atol=2e-6)


@pytest.mark.parametrize("name", benchmark.rivals(SIZE))
def test_every_rival_trains(name):
    """A step changes the weights, and by their gradients: nobody is fast by doing nothing."""
    step = benchmark.rivals(SIZE)[name]
    optimiser = next(cell.cell_contents for cell in step.__closure__ if hasattr(cell.cell_contents, "param_groups"))
    before = [p.detach().clone() for group in optimiser.param_groups for p in group["params"]]
    step()
    after = [p for group in optimiser.param_groups for p in group["params"]]
    assert all(not torch.equal(a, b) and b.grad.abs().sum() > 0 for a, b in zip(before, after, strict=True))


def test_the_plain_recurrence_is_gone_after_its_block(monkeypatch):
    before = benchmark.modeling_mamba.mamba_selective_scan
    with pytest.raises(KeyError), benchmark.plain_recurrence():
        assert benchmark.modeling_mamba.mamba_selective_scan is not before
        raise KeyError
    calls, kernel = [], kernels.scan_forward
    monkeypatch.setattr(kernels, "scan_forward", lambda *arrays: calls.append(1) or kernel(*arrays))
    model = models.build(models.ModelSpec("mamba", d_model=8, n_layers=1, d_state=2), 2, 2)
    models.logits(model, torch.zeros(1, 3, dtype=torch.int64))
    assert calls == [1]


def test_one_seed_is_every_architecture_on_three_tasks_but_the_transformer_on_s3():
    found = {(run.task, run.model.family) for run in seed.runs(64, 4, 0)}
    assert found == set(itertools.product(("parity", "dyck-2-4", "S3"), models.FAMILIES)) - {("S3", "transformer")}
    assert not [run for run in seed.runs(64, 4, 0) if run.train.steps != training.recipe(run.model.family).steps]


def test_one_seed_is_trained_from_nothing_and_written_with_its_run(tmp_path, monkeypatch):
    run = training.Run("parity", models.ModelSpec("gru", d_model=8, n_layers=1), training.recipe("gru", steps=3))
    monkeypatch.setattr(seed, "runs", lambda *_: [run])
    monkeypatch.setattr(sys, "argv", ["seed.py", "--cores", "1", "--steps", "3", "--out", str(tmp_path)])
    seed.main()
    table = tables.read_folder(tmp_path)["seed"]
    assert table[["task", "architecture", "cores"]].to_numpy().tolist() == [["parity", "gru", 1]]
    assert (table["ended"] > table["started"]).all() and table["accuracy"].between(0.3, 0.8).all()
    assert json.loads((tmp_path / "run.json").read_text())["profile"] == "custom"


@pytest.mark.parametrize(("name", "value"), [("--d-model", "7"), ("--steps", "-1"), ("--cores", "0")])
def test_one_seed_refuses_what_cannot_be_trained(name, value, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seed.py", name, value])
    with pytest.raises(SystemExit) as refused:
        seed.main()
    assert refused.value.code != 0 and value in capsys.readouterr().err


def test_the_pass_together_and_cell_by_cell_come_to_the_same(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "necessity.py", "--small", "--rounds", "1", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # it raises where the two differ
    made = tables.read_folder(tmp_path)["passes"]
    assert set(made["part"]) == {"edits", "refits"} and "cell by cell" in done.stdout
    assert json.loads((tmp_path / "run.json").read_text())["profile"] == "small"
