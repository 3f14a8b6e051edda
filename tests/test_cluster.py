"""The same grid on a Dask cluster: the same bits, also where a worker is killed, and clear words where it cannot work."""

import os
import re
import signal
import threading
import time
from functools import partial

import pytest
from distributed import Client, LocalCluster

from statedepth import grid, training
from statedepth.models import ModelSpec
from statedepth.probes import ProbeSettings
from statedepth.training import Run, TrainSpec

RUNS = [
    Run("parity", ModelSpec("lstm", d_model=8, n_layers=2, seed=seed), TrainSpec(length=8, steps=1200, batch=8))
    for seed in range(3)
]
CELLS = [grid.Cell(run, "state", 8, ProbeSettings(64, 32, 32, own="none", beside=False)) for run in RUNS]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, worker_dashboard_address=None
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(grid, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(grid, "CACHE", tmp_path / "local")


def kill_a_worker_at_work(cluster, checkpoints, killed):
    """Once a training has saved a point to go on from, kill the process that is computing it."""
    began = time.monotonic()
    while not list(checkpoints.glob("*.resume.safetensors")):
        if time.monotonic() - began > 120:
            return
        time.sleep(0.05)
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        pids = client.run(os.getpid)
        busy = [address for address, keys in client.processing().items() if keys]
    for address in busy[:1]:
        os.kill(pids[address], signal.SIGKILL)
        killed.append(pids[address])


def test_a_grid_on_two_workers_of_which_one_is_killed_equals_the_local_run(cluster, tmp_path, monkeypatch):
    grid.obtain(RUNS, workers=1)
    local = grid.measure(CELLS, workers=1)
    monkeypatch.setattr(grid, "CACHE", tmp_path / "cluster")
    monkeypatch.setenv(grid.SCHEDULER, cluster.scheduler_address)
    monkeypatch.setattr(training, "train", partial(pytest.fail, "trained here, not on the cluster"))
    killed: list[int] = []
    arguments = cluster, tmp_path / "cluster" / "checkpoints", killed
    killer = threading.Thread(target=kill_a_worker_at_work, args=arguments, daemon=True)
    killer.start()
    assert set(grid.obtain(RUNS).values()) == {"trained"}
    killer.join()
    assert killed
    for run in RUNS:
        for suffix in ("safetensors", "json"):
            ours, theirs = (tmp_path / p / "checkpoints" / f"{run.key}.{suffix}" for p in ("cluster", "local"))
            assert ours.read_bytes() == theirs.read_bytes()
    for ours, theirs in zip(grid.measure(CELLS), local, strict=True):
        assert ours.equals(theirs)


def test_an_error_on_a_worker_is_the_error_here(cluster, tmp_path, monkeypatch):
    grid.obtain(RUNS[:1], workers=1)
    (weights,) = (tmp_path / "local" / "checkpoints").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setenv(grid.SCHEDULER, cluster.scheduler_address)
    with pytest.raises(ValueError, match=f"{re.escape(weights.name)}: does not match the hash"):
        grid.measure(CELLS[:1])


def test_workers_of_other_code_and_places_without_a_scheduler_are_refused(cluster, monkeypatch):
    monkeypatch.setenv(grid.SCHEDULER, cluster.scheduler_address)
    monkeypatch.setattr(grid, "_library_digest", lambda: "of a later commit")
    with pytest.raises(ValueError, match="runs other code than this"):
        grid.obtain(RUNS[:1])
    monkeypatch.setattr(grid, "ANSWERS_IN", 1)
    monkeypatch.setenv(grid.SCHEDULER, "tcp://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"STATEDEPTH_SCHEDULER='tcp://127\.0\.0\.1:9': no Dask scheduler answers there"
    ):
        grid.obtain(RUNS[:1])


def test_workers_that_do_not_see_the_cache_are_refused(cluster, monkeypatch, tmp_path):
    """As on machines that share no file system."""
    monkeypatch.setenv(grid.SCHEDULER, cluster.scheduler_address)
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(grid, "_seen_from_here", lambda _: elsewhere / "token")
    with pytest.raises(ValueError, match="does not see the cache; set STATEDEPTH_CACHE"):
        grid.obtain(RUNS[:1])


def test_the_script_for_slurm_asks_for_workers_of_one_thread(monkeypatch, capsys):
    """The page's own script, but for the submission: without Slurm it can go as far as the job that it would submit."""
    script = re.search(r"```python\n(.*?)```", (grid.ROOT / "book" / "reproduce.md").read_text(), re.S)[1]
    monkeypatch.setattr("dask_jobqueue.SLURMCluster.scale", lambda cluster, jobs: print(jobs, cluster.job_script()))
    monkeypatch.setattr("builtins.input", print)
    exec(compile(script, "reproduce.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert said.startswith("40 ") and "#SBATCH --cpus-per-task=1" in said and "--nthreads 1" in said
    assert re.search(r"^tcp://\S+:\d+$", said, re.M)


def test_workers_of_several_threads_and_a_scheduler_without_workers_are_refused(monkeypatch):
    """Two trainings in one process would share the generator from which initial weights are drawn."""
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as made:
        monkeypatch.setenv(grid.SCHEDULER, made.scheduler_address)
        with pytest.raises(ValueError, match="has several threads; start workers with --nthreads 1"):
            grid.obtain(RUNS[:1])
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as made:
        monkeypatch.setenv(grid.SCHEDULER, made.scheduler_address)
        monkeypatch.setattr(grid, "WORKERS_IN", 0.5)
        with pytest.raises(ValueError, match=r"no worker came in 0\.5 s"):
            grid.obtain(RUNS[:1])
