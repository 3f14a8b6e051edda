"""The whole paper from nothing: it uses nothing published, goes on after a kill, tells what is left, and compares."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from synthetic import FLAT, FLIPPED, tables
from test_notebooks import SMOKE

from statedepth import claims, grid, notebook, publish, reproduce, verify
from statedepth import tables as table_files
from statedepth.grid import ROOT
from statedepth.reproduce import Progress, Stage

TINY = {**SMOKE["flip"], "architectures": ["lstm", "gru"], "tasks": ["parity"], "steps": 400}
SCRIPT = """
import json, sys
from pathlib import Path
from statedepth import publish, reproduce
publish.site_of = lambda folder: folder  # building a site is tested elsewhere
reproduce.TELL_EVERY = 0.5
reproduce.reproduce({"flip": json.loads(sys.argv[1])}, Path(sys.argv[2]))
"""


def begin(folder):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(TINY), str(folder)], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip


def test_from_nothing_killed_on_its_way_it_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    undisturbed = begin(tmp_path / "one")
    out, said = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, said[-3000:]
    assert re.search(r"\[1 of 3\] train flip: \d of 2 models · 0 min gone, about \d+ min left", said)
    assert "[2 of 3] measure flip" in said and "[3 of 3] build the site" in said
    assert "the site is at" in out

    killed = begin(tmp_path / "two")
    checkpoints = tmp_path / "two" / "cache" / "checkpoints"
    while not list(checkpoints.glob("*.json")) and killed.poll() is None:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = begin(tmp_path / "two")
    _, said = again.communicate(timeout=600)
    assert again.returncode == 0, said[-3000:]
    assert re.search(r"\[1 of 3\] train flip: [12] of 2 models", said)  # what was done is known
    one, two = (table_files.read_folder(tmp_path / name / "data" / "flip") for name in ("one", "two"))
    assert set(one["models"]["source"]) == {"cached"}  # trained before the notebook, here
    for name in one:
        pd.testing.assert_frame_equal(one[name], two[name])


@pytest.mark.parametrize("named", [False, True])
def test_inside_nothing_published_is_seen_and_afterwards_all_is_as_before(named, tmp_path, monkeypatch):
    """Where a cache is named, as for a cluster that shares it, the new one is a folder of that."""
    monkeypatch.delenv(grid.PUBLISHED_VARIABLE, raising=False)
    monkeypatch.delenv(grid.CACHE_VARIABLE, raising=False)
    if named:
        monkeypatch.setenv(grid.CACHE_VARIABLE, str(tmp_path / "shared"))
    environment, before = dict(os.environ), (grid.CACHE, grid.PUBLISHED)
    place = tmp_path / "paper"
    expected = (tmp_path / "shared" / "paper" if named else place / "cache", place / "published")
    with reproduce.from_nothing(place):
        found = grid.CACHE, grid.PUBLISHED
        assert found == expected
        seen = subprocess.run([sys.executable, "-c", "from statedepth import grid; print(grid.CACHE, grid.PUBLISHED)"], capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert seen.split() == [str(path) for path in expected]
    after = grid.CACHE, grid.PUBLISHED
    assert after == before and dict(os.environ) == environment


def stage(name, minutes, share):
    return Stage(name, minutes, lambda: None, lambda: round(100 * share[name]), 100, "things")


def test_time_left_is_by_what_this_attempt_has_done_and_how_fast(monkeypatch):
    share = {"a": 0.5, "b": 0.0}
    clock = [0.0]
    monkeypatch.setattr(reproduce.time, "monotonic", lambda: clock[0])
    progress = Progress([stage("a", 100, share), stage("b", 100, share)], print)
    assert progress.left() == 150  # half of a was done by an earlier attempt
    share["a"], clock[0] = 0.75, 60 * 50.0
    assert progress.gone() == 50
    assert progress.left() == pytest.approx(125 * 2)  # 25 expected minutes took 50
    assert progress.line() == "[1 of 2] a: 75 of 100 things · 50 min gone, about 4 h 10 min left"


def test_all_stages_are_done_in_order_and_an_error_ends_the_telling():
    done = []
    Progress([Stage(n, 1, lambda n=n: done.append(n)) for n in "abc"], lambda _: None).run()
    assert done == ["a", "b", "c"]
    failing = Progress([Stage("x", 1, lambda: 1 / 0)], lambda _: None)
    with pytest.raises(ZeroDivisionError):
        failing.run()
    assert failing.over.is_set()


def test_every_notebook_has_its_stages_and_what_two_share_is_trained_once(tmp_path):
    with reproduce.from_nothing(tmp_path):
        names = ["flip", "causal_necessity", "s3_grouping"]
        found = reproduce.stages({name: {} for name in names}, tmp_path)
        assert [stage.name for stage in found] == ["train flip", "measure flip", "measure causal_necessity", "train s3_grouping", "measure s3_grouping"]  # fmt: skip
        assert all(stage.of > 0 and stage.share() == 0 for stage in found)
    assert found[0].of == 50


def test_one_seed_is_the_core_tasks_of_claims_1_to_3():
    chosen = reproduce.chosen_values([], True, {})
    assert list(chosen) == ["flip", "s3_grouping", "causal_necessity"]
    assert all(values["seeds"] == [0] for values in chosen.values())
    with pytest.raises(ValueError, match="with --one-seed it must be one of flip, s3_grouping, causal_necessity"):
        reproduce.chosen_values(["pretrained_bottleneck"], True, {})


def test_a_parameter_goes_to_the_notebooks_that_have_it_and_an_unknown_one_is_refused():
    chosen = reproduce.chosen_values(["flip", "causal_necessity"], False, {"seeds": "[0]", "n_erase": "512"})
    assert chosen == {"flip": {"seeds": "[0]"}, "causal_necessity": {"seeds": "[0]", "n_erase": "512"}}
    with pytest.raises(ValueError, match="sedes: not a parameter of flip, causal_necessity"):
        reproduce.chosen_values(["flip", "causal_necessity"], False, {"sedes": "[0]"})


@pytest.mark.parametrize(("minutes", "text"), [(0.2, "0 min"), (59.6, "1 h 00 min"), (200, "3 h 20 min")])
def test_durations(minutes, text):
    assert reproduce.duration(minutes) == text


# ---- the report of differences ----------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Claim 1's tables by hand, as the published run."""
    monkeypatch.setattr(publish, "BOOK", tmp_path / "book")
    made = tables(FLIPPED)
    for name, table in made.items():
        table_files.write(table, name, tmp_path / "book" / "data" / "flip")
    (tmp_path / "book" / "data" / "flip" / "run.json").write_text("{}")
    return made


def test_the_same_run_differs_in_nothing_and_every_number_is_there(published):
    table = verify.differences("flip", published)
    assert table["within"].all() and len(table) > 50 and 0 < table["headline"].sum() < len(table)
    assert (table["difference"].abs() < 1e-4).all()  # tables are written in six digits


def test_another_run_is_told_number_by_number(published, tmp_path, capsys):
    other = tables({**FLIPPED, ("parity", "mamba"): FLAT})
    table = verify.differences("flip", other)
    outside = table[~table["within"]]
    assert any("mamba.parity" in key for key in outside["key"]) and not any("lstm.parity" in key for key in outside["key"])  # fmt: skip
    verify.report(table, tmp_path)
    said = capsys.readouterr().out
    assert f"flip: {len(table)} numbers compared with the published run, {len(outside)} outside their tolerance" in said
    assert said.count("(tolerance") == len(outside)
    assert table_files.read_folder(tmp_path)["differences"]["within"].sum() == len(table) - len(outside)


def test_a_number_that_only_one_run_has_is_not_within(published):
    fewer = tables({key: shape for key, shape in FLIPPED.items() if key[1] != "gru"})
    table = verify.differences("flip", fewer)
    lacking = table[table["now"].isna()]
    assert len(lacking) and not lacking["within"].any()


def test_a_notebook_without_a_published_run_is_left_out_and_costs_the_others_nothing(published, tmp_path):
    for name, table in published.items():
        table_files.write(table, name, tmp_path / "data" / "flip")
    (tmp_path / "data" / "flip_sensitivity").mkdir()
    table = verify.all_differences(["flip_sensitivity", "flip"], tmp_path / "data")
    assert set(table["notebook"]) == {"flip"} and table["within"].dtype == bool
    verify.report(verify.all_differences(["flip_sensitivity"], tmp_path / "data"), tmp_path)
    assert not (tmp_path / "differences.csv").exists()


def record_of_a_run(torch, **changes):
    run = {
        "profile": "paper",
        "date": f"2026 by {torch}",
        "commit": "abc",
        "device": "CPU: x86_64",
        "wall_time_s": 60.0,
    }
    return {**run, "cells": 3, "cells_from_cache": 0, "left_out": 0, "versions": {"torch": torch}, **changes}


def ran(folder, made, run):
    for name, table in made.items():
        table_files.write(table, name, folder)
    table_files.write_record(run, "run", folder)
    return folder


def test_runs_of_several_machines_stand_in_one_report_and_each_replaces_its_own(published, tmp_path, monkeypatch):
    for name in ("flip", "causal_necessity"):  # which is judged here as if it were claim 1
        ran(tmp_path / "book" / "data" / name, published, record_of_a_run("2.0"))
    monkeypatch.setitem(claims.NUMBERS, "causal_necessity", claims.NUMBERS["flip"])
    other = tables({**FLIPPED, ("parity", "mamba"): FLAT})
    place = tmp_path / "book" / "data" / "differences"
    verify.publish_differences("causal_necessity", ran(tmp_path / "there", published, record_of_a_run("2.1")))
    verify.publish_differences("flip", ran(tmp_path / "here", other, record_of_a_run("2.2")))
    table = table_files.read_folder(place)["differences"]
    assert list(table["notebook"].unique()) == ["flip", "causal_necessity"]  # by claims, not by when they came
    within = table.groupby("notebook")["within"].all()
    assert within["causal_necessity"] and not within["flip"]
    together, flips = notebook.record(place, "run"), notebook.record(place, "flip")
    assert (together["versions"]["torch"], together["device"]) == ("2.2, 2.1", "CPU: x86_64")
    assert (together["wall_time_s"], together["cells"], together["cells_from_cache"]) == (120, 6, 0)
    assert flips["versions"] == {"torch": "2.2"} and together["parameters"]["notebooks"] == "flip, causal_necessity"
    verify.publish_differences("flip", ran(tmp_path / "again", published, record_of_a_run("2.3")))
    again = table_files.read_folder(place)["differences"]
    assert len(again) == len(table) and again["within"].all()
    assert notebook.record(place, "run")["versions"]["torch"] == "2.3, 2.1"


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("flip", {"profile": "custom"}, "not at the published settings; run it without parameters"),
        ("flip", {"profile": "quick"}, "not at the published settings"),
        ("flip", {"left_out": 2}, "not at the published settings"),
        ("flip", {"cells_from_cache": 1}, "1 of its measurements were found in a cache; name an empty one"),
        ("s3_grouping", {}, "has no published run to compare with"),
    ],
)
def test_differences_of_another_run_are_not_published(published, tmp_path, name, changes, says):
    ran(tmp_path / "run", published, record_of_a_run("2.0", **changes))
    with pytest.raises(ValueError, match=f"notebook='{name}': .*{says}"):
        verify.publish_differences(name, tmp_path / "run")
    assert not (tmp_path / "book" / "data" / "differences").exists()


def test_where_to_compute_does_not_make_a_run_another():
    assert reproduce.at_published("flip", {"workers": "8", "device": "cpu"})
    assert not reproduce.at_published("flip", {"seeds": "[0]"})
