"""Every notebook at smoke size through papermill, by the runner and by the plain pipe; and what bad parameters do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from synthetic import FLAT, LATE, tables

from statedepth import analogue, notebook
from statedepth import tables as table_files
from statedepth.grid import ROOT
from statedepth.publish import drop_reruns, scrub

SMOKE = {
    "flip": {"architectures": ["transformer", "lstm"], "seeds": [0], "d_model": 16, "n_layers": 2, "length": 8, "steps": 12, "n_fit": 256, "n_test": 128, "workers": 1},
    "s3_grouping": {"groups": ["parity", "S3", "dyck-2-4"], "architectures": ["mamba", "lstm"], "seeds": [0], "control_seeds": [0], "targets": ["dyck-2-4", "dyck-2-4-openers"], "d_model": 16, "n_layers": 2, "length": 8, "steps": 12, "n_fit": 256, "n_test": 128, "workers": 1},
    "causal_necessity": {"architectures": ["mamba", "lstm"], "seeds": [0], "beyond": [2.0], "d_model": 16, "n_layers": 2, "length": 10, "steps": 12, "n_erase": 256, "n_fit": 128, "n_test": 128, "n_task": 64, "draws": 2, "own_positions": 2, "n_pairs": 32, "planted_length": 10, "workers": 1},
    "flip_sensitivity": {"variants": ["n_layers=3", "residual=true"], "architectures": ["transformer", "lstm"], "seeds": [0], "moments": [0.0, 1.0], "d_model": 16, "n_layers": 2, "length": 8, "steps": 12, "n_fit": 256, "n_test": 128, "workers": 1},
    "pretrained_bottleneck": {"checkpoint": "TINY", "seeds": [0], "scratch_seeds": [0], "length": 8, "steps": 30, "n_erase": 128, "n_fit": 128, "n_test": 64, "n_task": 32, "draws": 2, "own_positions": 2, "n_pairs": 32, "workers": 1},
}  # fmt: skip


def tiny_checkpoint(folder):
    """A GPT-NeoX of three blocks and its tokenizer, as others would have saved them."""
    spec = analogue.Analogue("gpt_neox", 32, n_layers=3, vocabulary=320)
    analogue.new(spec.config(), 0).save_pretrained(folder)
    analogue.tokenizer(("def even(odd): return [0, 1]\n",) * 50, spec.vocabulary).save_pretrained(folder)
    return str(folder)


def python(*arguments, folder, **more):
    env = {
        **os.environ,
        "STATEDEPTH_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False, **more
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Each notebook run once at smoke size: name -> (folder of the notebook, folder of its tables)."""
    folder = tmp_path_factory.mktemp("smoke")
    script = (
        "import sys, yaml; from pathlib import Path; from statedepth import publish;"
        "publish.execute(sys.argv[1], yaml.safe_load(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))"
    )
    found = {}
    own = tiny_checkpoint(tmp_path_factory.mktemp("own"))
    for name in notebook.known():
        values = {key: own if value == "TINY" else value for key, value in SMOKE[name].items()}
        arguments = [
            "-c",
            script,
            name,
            yaml.safe_dump(values),
            str(folder / "executed"),
            str(folder / "data" / name),
        ]
        done = python(*arguments, folder=folder)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = folder / "executed" / f"{name}.ipynb", folder / "data" / name
    return folder, found


def test_every_notebook_runs_at_smoke_size_and_leaves_a_whole_run(executed):
    for path, data in executed[1].values():
        run = json.loads((data / "run.json").read_text())
        assert run["profile"] == "custom" and run["parameters"]["seeds"] == [0]
        assert json.loads((data / "verdict.json").read_text())["outcome"] == "not tested"
        assert not [
            c
            for c in nbformat.read(path, 4).cells
            if c.cell_type == "code" and any(o.output_type == "error" for o in c.outputs)
        ]


def test_executed_notebooks_hold_no_time_no_progress_bar_and_no_folder_of_this_machine(executed):
    for path, _ in executed[1].values():
        text = path.read_text()
        assert "papermill" not in json.loads(text)["metadata"]
        assert "cell/s" not in text and str(executed[0]) not in text


def test_the_plain_pipe_gives_the_same_tables(executed):
    folder, found = executed
    out = folder / "piped"
    parameters = " ".join(
        f"-p {k} '{json.dumps(v) if not isinstance(v, str) else v}'"
        for k, v in {**SMOKE["flip"], "out": str(out)}.items()
    )
    pipe = f"jupytext --to ipynb -o - notebooks/flip.py | papermill - {folder}/piped.ipynb {parameters}"
    env = {
        **os.environ,
        "STATEDEPTH_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("readability", "baselines", "indices"):
        pd.testing.assert_frame_equal(pd.read_csv(out / f"{name}.csv"), pd.read_csv(found["flip"][1] / f"{name}.csv"))


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (["d_modell", "48"], "d_modell: not a parameter of flip; known are tasks: list[str]"),
        (["d_model", "wide"], "d_model='wide': must be int (features of Mamba's stream"),
        (["seeds", "3"], "seeds='3': must be list[int]"),
        (["seeds", "[0, zero]"], "seeds='[0, zero]': must be list[int]"),
    ],
)
def test_unknown_names_and_wrong_types_are_one_line_before_any_kernel_starts(pairs, says, tmp_path):
    done = python("-m", "statedepth", "run", "flip", "-p", *pairs, folder=tmp_path, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 4}, "d_model=4: must be a whole number from 8 to 512"),
        ({"seeds": [0, 0]}, "seeds=[0, 0]: names one more than once"),
        ({"fresh": ["S3/lstm"]}, "fresh='S3/lstm': must be TASK/ARCHITECTURE, one of tasks"),
        ({"device": "tpu"}, "device='tpu': must be auto, cpu or cuda"),
    ],
)
def test_impossible_and_inconsistent_values_are_one_line_and_leave_nothing(values, says, tmp_path):
    script = (
        "import sys, yaml; from pathlib import Path; from statedepth import publish\n"
        "try: publish.execute('flip', yaml.safe_load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))\n"
        "except publish.RunFailed as error: sys.exit(f'error: {error}')"
    )
    done = python(
        "-c", script, yaml.safe_dump(values), str(tmp_path / "executed"), str(tmp_path / "data"), folder=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: flip: {says}")
    assert not [p for p in (*tmp_path.glob("executed/*"), *tmp_path.glob("data/*"))]


def test_a_misspelt_parameter_stops_the_plain_pipe_too(tmp_path):
    given = {name: p.default for name, p in notebook.declared("flip").items()}
    with pytest.raises(ValueError, match="d_modell: not a parameter of flip"):
        notebook.begin("flip", {**given, "d_modell": 48, "out": str(tmp_path)})


def test_a_run_starts_without_the_tables_of_an_earlier_one(tmp_path):
    """They may be of an older form, or of other parameters; what is not a table of ours stays."""
    (tmp_path / "indices.csv").write_text("positions\nall\n")
    (tmp_path / "notes.csv").write_text("mine\n")
    session = notebook.begin("flip", {"out": str(tmp_path)})
    assert session.out == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["notes.csv"]


def test_profiles_change_only_declared_parameters():
    for path in ROOT.glob("notebooks/profiles/*/*.yaml"):
        notebook.check(path.stem, yaml.safe_load(path.read_text()))


def test_scrubbing_twice_changes_nothing(executed, tmp_path):
    for path, _ in executed[1].values():
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        scrub(copy)
        assert copy.read_bytes() == path.read_bytes()


def published_run(folder):
    """A run of one architecture, as it would lie under book/data."""
    for name, table in tables({("parity", "mamba"): LATE}, seeds=2).items():
        table_files.write(table, name, folder)
    table_files.write_record({}, "run", folder)
    return folder


def test_headline_numbers_stand_beside_the_published_ones_with_their_difference(tmp_path):
    ours = tables({("parity", "mamba"): FLAT}, seeds=2, noise=0)
    rows = notebook.compare("flip", ours, published_run(tmp_path)).set_index("number")
    row = rows.loc["concentration of Mamba on Parity"]
    assert row["published"].startswith("0.9") and row["this run"].startswith("0.30")
    assert float(row["difference"]) == pytest.approx(-0.6, abs=0.03)
    assert rows.loc["accuracy of GRU on Parity", "difference"] == ""


def test_a_published_run_of_another_form_is_left_out_with_a_warning(tmp_path):
    folder = published_run(tmp_path)
    (folder / "indices.csv").write_text("task,positions\nparity,pooled\n")
    with pytest.warns(UserWarning, match=r"no comparison.*indices\.csv"):
        rows = notebook.compare("flip", tables({("parity", "mamba"): FLAT}, seeds=2), folder)
    assert (rows["published"] == "none").all() and (rows["this run"] != "none").any()


def test_the_published_run_stands_beside_no_other(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("compare")])
    book.cells[1].metadata["tags"] = ["hide-input", "rerun"]
    nbformat.write(book, tmp_path / "one.ipynb")
    drop_reruns(tmp_path / "one.ipynb")
    assert [cell.source for cell in nbformat.read(tmp_path / "one.ipynb", as_version=4).cells] == ["1"]
    for path in (ROOT / "book").glob("*.ipynb"):
        assert "notebook.compare" not in path.read_text()
        assert 'tags=["hide-input", "rerun", "show"]' in (ROOT / "notebooks" / f"{path.stem}.py").read_text()


def test_a_run_that_leaves_seeds_out_is_not_the_published_one_and_says_so(tmp_path):
    session = notebook.begin("s3_grouping", {"out": str(tmp_path)})
    assert session.profile == "paper"
    session.left_out = 3
    assert session.profile == "custom"
