"""Processes killed at random moments, full disks, folders that may not be written to, two runs at once, damaged files.

A few kills of each kind run with every test; STATEDEPTH_KILLS=60 asks for that many in all (11 min on 2 cores).
"""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import safetensors
from synthetic import FLAT, LATE, tables
from test_notebooks import SMOKE

from statedepth import files, notebook, publish
from statedepth import tables as table_files
from statedepth.grid import ROOT

ASKED = int(os.environ.get("STATEDEPTH_KILLS", "0"))
KILLS = {kind: max(few, round(share * ASKED)) for kind, few, share in (("training", 2, 0.4), ("tables", 2, 0.3), ("notebook", 1, 0.15), ("site", 1, 0.15))}  # fmt: skip

GRID = """
import sys
from pathlib import Path
from statedepth import grid, training
from statedepth.models import ModelSpec
from statedepth.probes import ProbeSettings
real = training.train
def told(run, *rest, **more):
    print("trains", run.key, flush=True)
    return real(run, *rest, **more)
training.train = told
grid.PUBLISHED = Path("nowhere")
spec = training.TrainSpec(length=8, steps=1400, batch=16)
runs = [training.Run("parity", ModelSpec("lstm", d_model=8, n_layers=2, seed=seed), spec) for seed in (0, 1)]
workers = int(sys.argv[1])
grid.obtain(runs, workers=workers)
probes = ProbeSettings(n_fit=64, n_validation=32, n_test=32, own="none", beside=False)
for table in grid.measure([grid.Cell(run, "state", 8, probes) for run in runs], workers=workers):
    print(len(table))
"""
TABLES = """
import sys
from pathlib import Path
import pandas as pd
from statedepth import tables
source, out = map(Path, sys.argv[1:3])
pairs = [{n: pd.read_csv(source / v / f"{n}.csv") for n in ("readability", "models")} for v in ("a", "b")]
for turn in range(int(sys.argv[3])):
    for name, table in pairs[turn % 2].items():
        tables.write(table, name, out)
        print(name, flush=True)
"""
NOTEBOOK = (
    "import sys, yaml; from pathlib import Path; from statedepth import publish;"
    "publish.execute('flip', yaml.safe_load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))"
)
SITE = "import sys; from jupyter_book.cli.main import main; main()"


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in more.items()}}


def start(*arguments, **env):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill(process):
    """The process, its workers and its kernels, which have sessions of their own."""
    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            one.kill()


def end(process):
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said[-3000:]
    return said


def kill_at_random(begin, kills, seconds, rng, look=lambda: None):
    """Kill what `begin` starts after up to `seconds`, `kills` times, and look at what is left after each.

    Where it ends before it is killed, `begin` starts it in a new folder, since nothing would be left to do. Returns that number
    of kills, when they have been done.
    """
    done = fresh = 0
    while done < kills:
        process = begin(fresh)
        try:
            process.communicate(timeout=rng.uniform(0.1, seconds))
            assert process.returncode == 0
            fresh += 1
        except subprocess.TimeoutExpired:
            kill(process)
            process.communicate()
            done += 1
        look()
    return done


def contents(folder, pattern):
    """Bytes of each file, by its name; drafts and locks are none of them."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern)) if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The cache of GRID, run to its end; how long that took."""
    folder, began = tmp_path_factory.mktemp("undisturbed"), time.time()
    end(start("-c", GRID, 1, STATEDEPTH_CACHE=folder))
    return folder, time.time() - began


# ---- kills ----------------------------------------------------------------------------------------------------------------


def test_training_and_measuring_killed_at_random_moments_end_as_if_they_had_not_been(tmp_path, undisturbed):
    rng, (whole, seconds) = random.Random(1), undisturbed
    steps: dict[str, int] = {}

    def progress_is_never_lost():
        for path in tmp_path.glob("killed*/checkpoints/*.resume.safetensors"):
            with safetensors.safe_open(path, framework="pt") as file:
                step = json.loads(file.metadata()["done"])["step"]
            assert step >= steps.get(str(path), 0)
            steps[str(path)] = step

    def begin(fresh):
        return start("-c", GRID, 1 + fresh % 2, STATEDEPTH_CACHE=tmp_path / f"killed{fresh}")

    assert kill_at_random(begin, KILLS["training"], seconds, rng, progress_is_never_lost) == KILLS["training"]
    for folder in sorted(tmp_path.glob("killed*")):
        end(start("-c", GRID, 1, STATEDEPTH_CACHE=folder))
        for place, kind in (("checkpoints", "*.json"), ("checkpoints", "*.safetensors"), ("tables", "*.parquet")):
            assert contents(folder / place, kind) == contents(whole / place, kind)


def test_a_table_killed_while_it_is_written_is_the_old_one_or_the_new_one(tmp_path):
    rng, out = random.Random(2), tmp_path / "out"
    for version, shape in (("a", FLAT), ("b", LATE)):
        for name, table in tables({("parity", "mamba"): shape}, seeds=40).items():
            table_files.write(table, name, tmp_path / version)
    versions = {v: table_files.read_folder(tmp_path / v) for v in ("a", "b")}

    def whole():
        for name, table in table_files.read_folder(out).items():
            assert any(table.equals(made[name]) for made in versions.values()), name

    kill_at_random(lambda _: start("-c", TABLES, tmp_path, out, 10_000), KILLS["tables"], 12, rng, whole)
    end(start("-c", TABLES, tmp_path, out, 2))
    assert table_files.read_folder(out)["readability"].equals(versions["b"]["readability"])


def test_a_notebook_killed_while_it_is_executed_leaves_no_run_and_the_next_one_is_whole(tmp_path):
    rng, values = random.Random(3), json.dumps({**SMOKE["flip"], "architectures": ["lstm"], "tasks": ["parity"]})

    def begin(folder, cache):
        return start("-c", NOTEBOOK, values, folder / "executed", folder / "data", STATEDEPTH_CACHE=cache)

    began = time.time()
    end(begin(tmp_path / "undisturbed", tmp_path / "cache"))
    seconds = time.time() - began

    def no_half_run():
        for folder in tmp_path.glob("killed*"):
            if (folder / "executed" / "flip.ipynb").exists():
                assert (folder / "data" / "run.json").exists()
            if (folder / "data" / "run.json").exists():
                assert len(table_files.read_folder(folder / "data")) == 5

    kill_at_random(lambda n: begin(tmp_path / f"killed{n}", tmp_path / f"cache{n}"), KILLS["notebook"], seconds, rng, no_half_run)  # fmt: skip
    for folder in tmp_path.glob("killed*"):
        end(begin(folder, tmp_path / f"cache{folder.name.removeprefix('killed')}"))
        for name, table in table_files.read_folder(tmp_path / "undisturbed" / "data").items():
            ours = table_files.read_folder(folder / "data")[name]
            pd.testing.assert_frame_equal(ours.drop(columns="source", errors="ignore"), table.drop(columns="source", errors="ignore"))  # fmt: skip


def test_a_site_killed_while_it_is_built_is_whole_the_next_time(tmp_path, small_book):
    rng = random.Random(4)

    def begin(out):
        return start("-c", SITE, "build", small_book, "--path-output", out, "-W", "--keep-going", STATEDEPTH_CACHE=tmp_path / "cache")  # fmt: skip

    began = time.time()
    end(begin(tmp_path / "undisturbed"))
    kill_at_random(lambda n: begin(tmp_path / f"killed{n}"), KILLS["site"], time.time() - began, rng)
    for out in tmp_path.glob("killed*"):
        end(begin(out))
        for kind in ("*.html", "*.csv", "*.svg", "*.json"):
            pages = contents(out / "_build" / "html", kind)
            assert pages == contents(tmp_path / "undisturbed" / "_build" / "html", kind)
            assert pages or kind == "*.json"


# ---- no room, no right ------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 100 kB, and how it gets more room; skipped where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", place], capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("no disk can be mounted here")
    try:
        yield place, lambda: subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_one_line_and_with_more_room_the_run_goes_on(full_disk, undisturbed):
    place, more_room = full_disk
    (place / "ballast").write_bytes(bytes(90_000))
    said, _ = (process := start("-c", GRID, 1, STATEDEPTH_CACHE=place / "cache")).communicate()
    assert process.returncode != 0
    assert re.search(r"could not be written in .*No space left on device\. Nothing else is lost", said.splitlines()[-1])
    assert not list(place.rglob("*.part"))
    more_room()
    end(start("-c", GRID, 1, STATEDEPTH_CACHE=place / "cache"))
    assert contents(place / "cache" / "checkpoints", "*.*") == contents(undisturbed[0] / "checkpoints", "*.*")


def test_the_command_line_says_in_one_line_that_the_disk_is_full(full_disk, tmp_path):
    place, _ = full_disk
    (place / "ballast").write_bytes(bytes(90_000))
    pairs = [word for name, value in SMOKE["flip"].items() for word in ("-p", name, json.dumps(value))]
    process = start("-m", "statedepth", "run", "flip", *pairs, STATEDEPTH_CACHE=place / "cache")
    said, _ = process.communicate()
    assert process.returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line and "could not be written" in line


def test_a_folder_that_may_not_be_written_to_is_one_line(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o555)
    as_nobody = (
        ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"] if os.getuid() == 0 else []
    )
    if as_nobody and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere here")
    done = subprocess.run([*as_nobody, sys.executable, "-c", GRID, "1"], cwd=ROOT, env=environment(STATEDEPTH_CACHE=tmp_path / "cache"), capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode != 0
    assert "Permission denied" in done.stderr.splitlines()[-1]


def test_what_stood_there_is_as_it_was_after_a_write_that_failed(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match=r"table\.csv could not be written"):
        files.write_whole(path, lambda draft: (draft.write_text("ne"), os.stat(tmp_path / "not there")))
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"] and path.read_text() == "old"


def test_drafts_of_killed_processes_go_and_those_that_are_being_written_stay(tmp_path):
    path = tmp_path / "table.csv"
    old, new = tmp_path / ".table.csv.0a.part", tmp_path / ".table.csv.0b.part"
    for draft in (old, new):
        draft.write_text("half")
    os.utime(old, (time.time() - 2 * files.ABANDONED,) * 2)
    files.write_whole(path, lambda draft: draft.write_text("whole"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [new.name, path.name]
    assert list(tmp_path.glob("*.csv")) == [path]  # no reader takes a draft for a table


# ---- two at once ------------------------------------------------------------------------------------------------------------


def test_two_runs_at_once_on_one_cache_do_each_thing_once_and_agree(tmp_path, undisturbed):
    said = [end(process) for process in [start("-c", GRID, 1, STATEDEPTH_CACHE=tmp_path / "cache") for _ in range(2)]]
    trained = re.findall(r"trains (\S+)", "".join(said))
    assert len(trained) == len(set(trained)) == 2
    assert said[0].split()[-1] == said[1].split()[-1]
    assert contents(tmp_path / "cache" / "checkpoints", "*.*") == contents(undisturbed[0] / "checkpoints", "*.*")


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_loses_nothing(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "models.csv").write_text("of the first run")
    with files.alone(notebook.lock_of(data)):
        with pytest.raises(publish.RunFailed, match="data': another run is writing its tables there"):
            publish.execute("flip", SMOKE["flip"], tmp_path / "executed", data)
        assert (data / "models.csv").read_text() == "of the first run"
    assert not list((tmp_path / "executed").glob("*.ipynb"))


def test_a_killed_run_does_not_lock_its_folder(tmp_path):
    script = "import sys, time\nfrom pathlib import Path\nfrom statedepth import files\nwith files.alone(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)"  # fmt: skip
    process = start("-c", script, tmp_path / "x.lock")
    assert process.stdout.readline() == "in\n"
    with pytest.raises(ValueError, match="x: another process is at work there"), files.alone(tmp_path / "x.lock", 0):
        pass
    process.kill()
    process.communicate()
    with files.alone(tmp_path / "x.lock", 0):
        pass


def test_a_notebook_that_begins_anew_in_one_kernel_is_not_kept_out_by_itself(tmp_path):
    values = {**{name: p.default for name, p in notebook.declared("flip").items()}, "out": str(tmp_path / "data")}
    for _ in range(2):
        session = notebook.begin("flip", values)
    session.held.close()
    assert not list((tmp_path / "data").iterdir())


# ---- damaged files ----------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_a_checkpoint_stops_a_run_by_its_name(tmp_path, undisturbed):
    env = {"STATEDEPTH_CACHE": shutil.copytree(undisturbed[0], tmp_path / "cache")}
    (damaged, *_) = sorted((tmp_path / "cache" / "checkpoints").glob("*.safetensors"))
    flip_byte(damaged)
    shutil.rmtree(tmp_path / "cache" / "tables")
    said, _ = (process := start("-c", GRID, 1, **env)).communicate()
    assert process.returncode != 0
    assert f"{damaged.name}: does not match the hash" in said.splitlines()[-1]


def test_a_flipped_byte_in_a_measurement_stops_a_run_by_its_name(tmp_path, undisturbed):
    env = {"STATEDEPTH_CACHE": shutil.copytree(undisturbed[0], tmp_path / "cache")}
    (damaged, *_) = sorted((tmp_path / "cache" / "tables").glob("*.parquet"))
    flip_byte(damaged, 60)  # among the values of the first column
    said, _ = (process := start("-c", GRID, 1, **env)).communicate()
    assert process.returncode != 0
    assert f"{damaged.name}: damaged" in said.splitlines()[-1]
    assert "delete it, and it is measured anew" in said.splitlines()[-1]


def flip_byte(path: Path, at: int = -100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_table_without_a_column_stops_the_site_by_its_name_and_the_column(small_book, tmp_path):
    path = small_book / "data" / "flip" / "readability.csv"
    pd.read_csv(path).drop(columns="majority").to_csv(path, index=False)
    done = publish.jupyter_book(small_book, tmp_path / "out")
    assert done.returncode != 0
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert "readability.csv: does not fit its schema" in said and "majority" in said


def test_a_published_table_without_a_column_is_told_and_the_re_run_goes_on(tmp_path):
    for name, table in tables({("parity", "mamba"): FLAT}, seeds=2).items():
        table_files.write(table, name, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    path = tmp_path / "indices.csv"
    pd.read_csv(path).drop(columns="value").to_csv(path, index=False)
    with pytest.warns(UserWarning, match="indices.csv: does not fit its schema"):
        notebook.compare("flip", tables({("parity", "mamba"): FLAT}, seeds=2), published=tmp_path)
