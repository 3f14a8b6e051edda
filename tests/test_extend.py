"""One task, architecture, eraser, figure and claim from outside the package: measured, drawn, and in no verdict."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import page
from synthetic import FLIPPED, tables
from test_notebooks import SMOKE

from statedepth import causal, claims, extend, extensions, flip, grid, models, verdicts
from statedepth import tables as table_files
from statedepth.grid import ROOT
from statedepth.verdicts import Claim

HERE = ROOT / "tests" / "extensions"


def outside(*arguments, folder, which=HERE):
    """Run Python with the extensions of `which` (a file or a folder)."""
    env = {
        **os.environ,
        extensions.VARIABLE: str(which),
        "STATEDEPTH_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, check=False)  # fmt: skip
    return done


EXECUTE = (
    "import sys, yaml; from pathlib import Path; from statedepth import publish;"
    "publish.execute(sys.argv[1], yaml.safe_load(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))"
)


def executed(name, values, folder):
    """A notebook run with all extensions: its tables, and the text of its page."""
    done = outside("-c", EXECUTE, name, json.dumps(values), folder / "executed", folder / name, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return table_files.read_folder(folder / name), (folder / "executed" / f"{name}.ipynb").read_text()


def test_a_task_and_an_architecture_are_trained_probed_and_drawn_beside_the_others(tmp_path):
    values = {**SMOKE["flip"], "tasks": ["parity", "Reset3"], "architectures": ["lstm", "elman"], "workers": 2}
    made, text = executed("flip", values, tmp_path)
    for name in ("models", "readability", "indices"):
        assert {("Reset3", "elman"), ("Reset3", "lstm"), ("parity", "elman")} <= set(made[name][["task", "architecture"]].itertuples(index=False, name=None))  # fmt: skip
    assert (made["baselines"]["task"] == "Reset3").any()
    assert text.count("Elman") > 5 and "Reset3" in text
    assert "#56B4E9" in text or "#56b4e9" in text  # its colour, in a figure


def test_an_eraser_is_fitted_applied_and_drawn_in_the_necessity_test(tmp_path):
    values = {**SMOKE["causal_necessity"], "architectures": ["lstm"], "tasks": ["parity"], "beyond": []}
    made, _ = executed("causal_necessity", values, tmp_path)
    ours = made["necessity"].query("method == 'first mean'")
    assert len(ours) and (ours["rank"] == 1).all() and (ours["positions"] == "pooled").all()
    assert set(ours["outcome"]) <= set(causal.OUTCOMES)
    assert (made["planted"]["method"] == "first mean").sum() == 0  # hand-built models are tested with what is planted
    passing = "import sys; from pathlib import Path; from statedepth import figures, tables; t = tables.read_folder(Path(sys.argv[1])); t['necessity']['passed'] = True; print(figures.chart('causal_necessity', 'outcomes', t).svg)"  # fmt: skip
    done = outside(
        "-c", passing, tmp_path / "causal_necessity", folder=tmp_path
    )  # too few steps for a model that passes
    assert "first mean, one" in done.stdout, done.stderr[-2000:]


def test_a_figure_and_a_claim_are_on_pages_of_the_site(tmp_path, small_book):
    made, _ = executed("twice_as_long", {"steps": 20, "d_model": 16, "n_layers": 2, "length": 8}, tmp_path)
    assert set(made["models"]["architecture"]) == {"lstm", "gru"}
    for source, target in (
        (tmp_path / "executed" / "twice_as_long.ipynb", small_book),
        (tmp_path / "twice_as_long", small_book / "data"),
    ):
        subprocess.run(["cp", "-r", source, target], check=True)
    record = small_book / "data" / "twice_as_long" / "verdict.json"
    record.write_text(re.sub(r'"profile": "custom"', '"profile": "paper"', record.read_text()))
    toc = small_book.parent / "_toc.yml"
    toc.write_text(toc.read_text() + "  - file: twice_as_long\n")
    (small_book / "other.md").write_text("# Other\n\n```{chart} flip.learned\n```\n\n{num}`twice_as_long.lstm.lost`\n\n```{predictions}\n```\n")  # fmt: skip
    build = "import sys; from jupyter_book.cli.main import main; main()"
    done = outside(
        "-c", build, "build", small_book, "--path-output", tmp_path / "out", "-W", "--keep-going", folder=tmp_path
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    site = tmp_path / "out" / "_build" / "html"
    assert 'id="figure-flip-learned' in page(site, "other") or "models learned their task" in page(site, "other")
    assert "The LSTM keeps Parity." in page(site, "other")
    assert "The most that is lost is" in page(site, "twice_as_long") and "<svg" in page(site, "twice_as_long")
    assert "What is learned holds at twice the length" in page(site, "index")  # the board


def test_a_claim_from_outside_has_a_command_like_the_others(tmp_path):
    done = outside("-m", "statedepth", "run", "twice_as_long", "-p", "stepps", "3", folder=tmp_path)
    assert done.returncode == 2
    assert "stepps: not a parameter of twice_as_long; known are tasks: list[str]" in done.stderr


def test_a_measurement_is_not_taken_for_that_of_another_extension(tmp_path):
    said = "from statedepth import grid; print(grid._code_digest('profile'), grid._library_digest())"
    with_all = outside("-c", said, folder=tmp_path).stdout
    with_one = outside("-c", said, folder=tmp_path, which=HERE / "reset_task.py").stdout
    assert len({with_all, with_one, f"{grid._code_digest('profile')} {grid._library_digest()}\n"}) == 3


def test_no_verdict_of_the_five_changes_by_an_architecture_from_outside(monkeypatch):
    shapes = dict(FLIPPED)
    before = flip.verdict(tables(shapes))
    monkeypatch.setitem(verdicts.NAMES, "elman", "Elman")
    for task in ("parity", "dyck-2-4"):
        shapes[task, "elman"] = FLIPPED[task, "transformer"]
    after = flip.verdict(tables(shapes))
    assert (after.outcome, after.reasons, after.parts) == (before.outcome, before.reasons, before.parts)
    assert after.deciding == before.deciding
    assert "elman" in set(claims.contrasts(tables(shapes)["indices"])["architecture"])  # but it is compared and drawn


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: extend.architecture("lstm", "LSTM", "#000", models.Family(None, None), {}), "architecture='lstm': there is one of this name already"),
        (lambda: extend.architecture("My net", "My net", "#000", models.Family(None, None), {}), "architecture='My net': must look like"),
        (lambda: extend.architecture("mine", "Mine", "#000", models.Family(None, None), {"step": 3}), "step"),
        (lambda: extend.architecture("mine", "LSTM", "#000", models.Family(None, None), {}), "title='LSTM': there is an architecture of this title"),
        (lambda: extend.architecture("mine", "Mine", "#000", models.Family(None, None), {}, {"stepps": 3}), "stepps"),
        (lambda: extend.eraser("LEACE", None), "eraser='LEACE': there is one"),
        (lambda: extend.figure("flap", "x", None), "figure of 'flap': known notebooks are flip"),
        (lambda: extend.figure("flip", "readability", None), "figure='readability': there is one"),
        (lambda: extend.claim(Claim("flip", 9, "", "", "", "", ""), "", None, None), "claim='flip': there is one"),
    ],
)  # fmt: skip
def test_a_name_that_is_taken_or_impossible_is_refused_and_changes_nothing(call, says):
    before = len(verdicts.NAMES), len(models.OTHERS)
    with pytest.raises((ValueError, TypeError), match=says):
        call()
    assert (len(verdicts.NAMES), len(models.OTHERS)) == before


def test_a_place_that_is_not_there_is_refused_by_name(tmp_path):
    done = outside("-c", "import statedepth", folder=tmp_path, which=tmp_path / "mine.py")
    assert done.returncode != 0
    assert "mine.py is not there" in done.stderr.splitlines()[-1]


def test_each_example_is_one_short_file():
    for path in Path(HERE).glob("*.py"):
        assert len(path.read_text().splitlines()) < 180
