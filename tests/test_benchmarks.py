"""The benchmark runs, at tiny sizes, and its rivals compute the same thing; its times are never tested."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from statedepth import kernels, models, scan, tables
from statedepth.grid import ROOT

spec = importlib.util.spec_from_file_location("benchmark_of_the_scan", ROOT / "benchmarks" / "scan.py")
assert spec and spec.loader
benchmark = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = benchmark
spec.loader.exec_module(benchmark)
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
    for path in (scan.transformers_path, benchmark.plain_recurrence):
        with path():
            assert torch.allclose(models.logits(model, tokens), ours, atol=2e-6)
    for block in models.blocks(model):
        block.mixer.use_mambapy = True
    with scan.transformers_path():
        assert torch.allclose(models.logits(model, tokens), ours, atol=2e-6)


@pytest.mark.parametrize("name", benchmark.rivals(SIZE))
def test_every_rival_trains(name):
    """A step changes the weights: nobody is fast by doing nothing."""
    step = benchmark.rivals(SIZE)[name]
    optimiser = next(cell.cell_contents for cell in step.__closure__ if hasattr(cell.cell_contents, "param_groups"))
    before = [p.detach().clone() for group in optimiser.param_groups for p in group["params"]]
    step()
    after = [p for group in optimiser.param_groups for p in group["params"]]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


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
