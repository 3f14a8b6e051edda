"""Tables: what is written is what is read, and what does not fit is refused before a file changes."""

import json

import numpy as np
import pandas as pd
import pandera.errors
import pytest

from statedepth import tables
from statedepth.files import write_whole

REFUSED = (pandera.errors.SchemaError, pandera.errors.SchemaErrors)

WHERE = {"task": "parity", "variable": "state", "architecture": "lstm", "seed": 0}
SIZE = {"batch": 64, "length": 32, "width": 32, "state": 8}
ROWS = {
    "models": {
        "task": "parity",
        "architecture": "lstm",
        "seed": 0,
        "checkpoint": "parity-lstm-0-abc",
        "source": "trained",
        "parameters": 1234,
        "trained_length": 20,
        "steps": 100,
        "rate": 1e-3,
        "grow_at": 0.0,
        "length": 40,
        "accuracy": 0.987654,
        "last_position": 1.0,
        "passed": False,
    },
    "readability": {
        **WHERE,
        "passed": True,
        "site": 0,
        "network": "trained",
        "labels": "task",
        "position": -1,
        "accuracy": 0.75,
        "majority": 0.5,
        "own_accuracy": 0.8,
        "own_majority": 0.0,
    },
    "baselines": {
        "task": "parity",
        "variable": "state",
        "site": 4,
        "position": 20,
        "position_only": 0.5,
        "bayes_window": 1 / 3,
    },
    "penalties": {
        **WHERE,
        "passed": True,
        "site": 4,
        "penalty": 0.01,
        "accuracy": 1 / 3,
        "majority": 0.25,
    },
    "shares": {**WHERE, "passed": True, "reading": "pooled", "block": 1, "share": 1 / 3},
    "targets": {
        **WHERE,
        "passed": True,
        "site": 4,
        "accuracy": 1 / 3,
        "majority": 0.25,
    },
    "conv": {
        "task": "parity",
        "architecture": "mamba",
        "seed": 0,
        "passed": True,
        "edit": "mean output",
        "block": 0,
        "intact": 1.0,
        "accuracy": 1 / 3,
        "majority": 0.25,
        "lost": 8 / 9,
    },
    "retrained": {
        "task": "parity",
        "architecture": "mamba",
        "seed": 0,
        "taps": 1,
        "steps": 100,
        "accuracy": 1 / 3,
        "last_position": 0.5,
        "passed": False,
    },
    "steps": {**SIZE, "path": "GRU", "seconds": 0.05, "times_ours": 1 / 3},
    "scaling": {**SIZE, "seconds": 0.05, "kept_bytes": 10},
    "seed": {"task": "S3", "architecture": "gru", "started": 0.0, "ended": 1.5, "accuracy": 0.5, "cores": 2},
    "indices": {
        **WHERE,
        "passed": True,
        "reading": "pooled",
        "largest_site": 0,
        "last_site": 4,
        "index": "mean",
        "value": -0.25,
    },
}
KEYS = {
    "models": "length",
    "readability": "site",
    "baselines": "position",
    "penalties": "site",
    "indices": "seed",
    "shares": "block",
    "targets": "site",
    "conv": "block",
    "retrained": "seed",
    "steps": "length",
    "scaling": "length",
    "seed": "task",
}
CELL = {
    **{"length": 20, "site": 2, "positions": "each", "method": "LEACE", "rank": 1.5, "before": 0.9, "majority": 0.5},
    **{"before_own": 0.95, "own_majority": 0.5, "refit": 0.5, "refit_majority": 0.5, "refit_by_accuracy": 0.51},
    **{"refit_own": 0.5, "refit_own_majority": 0.5, "refit_own_by_accuracy": 0.55, "refit_bits": 0.0},
    **{"refit_own_bits": -0.001, "positions_read": 0, "positions_asked": 6, "mlp": 0.7, "variance_removed": 1.2},
    **{"norm": 0.4, "intact": 1.0, "task_majority": 0.5, "after": 0.45, "fall": 1.1, "fall_low": 1.0, "fall_high": 1.2},
    **{"resample_fall": 0.9, "random_fall": -0.01, "random_most": 0.02, "matched_fall": 0.1, "matched_most": 0.2},
    **{"matched_share": 0.9, "matched_rank": 4.0, "control_readable": -0.01, "control_fall": 0.0, "control_share": 0.1},
    **{"control": "first token", "outcome": "necessary"},
}
ROWS["necessity"] = {**WHERE, "passed": True, "trained_length": 20, **CELL}
ROWS["sweep"] = {**ROWS["necessity"], "intact_whole": 0.99, "after_whole": 0.5}
ROWS["windows"] = {
    "intact_whole": 0.99,
    "after_whole": 0.5,
    **{"task": "parity", "architecture": "mamba-large", "seed": 0, "passed": True, "first": 3, "last": 4},
    **{"method": "direction", "rank": 2.0, "intact": 1.0, "after": 0.9, "task_majority": 0.5, "before": 0.9},
    **{"majority": 0.5, "refit": 0.9, "refit_majority": 0.5, "fall": 0.2, "fall_low": 0.1, "fall_high": 0.3},
    **{"resample_fall": 0.2, "random_fall": -0.01, "random_most": 0.1},
}
ROWS["tuned"] = {
    **{"task": "parity", "architecture": "mamba-large-scratch", "seed": 0, "base": "mamba-large", "family": "mamba"},
    **{"pretrained": False, "blocks": 12, "width": 88, "added_tokens": 2, "whole_vocabulary": 0.99},
}
ROWS["bases"] = {
    **{"base": "mamba-large", "parameters": 1000, "blocks": 12, "width": 88, "tokens_seen": 10, "text_bytes": 20},
    **{"python": "3.11.7", "held_out": 2.2, "unigram": 5.2},
}
ROWS["pretraining"] = {"base": "mamba-large", "step": 250, "loss": 3.5, "held_out": 3.6}
ROWS["planted"] = {"task": "parity", "kind": "cause", "expected": "necessary", **CELL}
ROWS["patching"] = {
    **{"task": "parity", "architecture": "lstm", "seed": 0, "passed": True, "site": 4, "intervention": "stream"},
    **{"at": "read", "offset": -1, "recovery": 1.02, "low": -0.1, "high": 1.3, "follows": 0.9, "n": 250, "left_out": 6},
    "bound": 1.0,
}
ROWS["passes"] = {"part": "edits", "task": "parity", "architecture": "lstm", "seconds": 0.1, "seconds_cell_by_cell": 0.3, "ratio": 3.0}  # fmt: skip
ROWS["varied"] = {
    **{"variant": "n_layers=8", "task": "parity", "architecture": "lstm", "seed": 0, "checkpoint": "parity-lstm-0-abc"},
    **{"source": "trained", "parameters": 1234, "blocks": 8, "trained_length": 20, "reached": 0.99, "passed": True},
}
ROWS["varied_profiles"] = {
    "variant": "n_layers=8",
    **WHERE,
    "passed": True,
    "site": 8,
    "accuracy": 0.9,
    "majority": 0.5,
}
ROWS["trajectory"] = {**WHERE, "step": 50, "reached": 0.7, "site": 4, "accuracy": 0.9, "majority": 0.5}
ROWS["differences"] = {
    **{"notebook": "flip", "key": "models", "label": "models", "headline": True, "published": 50.0, "now": 49.0},
    **{"difference": -1.0, "tolerance": 5.0, "within": True},
}
KEYS |= {
    "varied": "seed",
    "varied_profiles": "site",
    "trajectory": "step",
    "differences": "key",
    "necessity": "site",
    "planted": "site",
    "patching": "site",
    "passes": "architecture",
    "sweep": "site",
    "windows": "first",
    "tuned": "architecture",
    "bases": "base",
    "pretraining": "step",
}
by_name = pytest.mark.parametrize("name", ROWS)


def table_of(name, n=3, **changes):
    """n rows that differ in one part of the key."""
    key = KEYS[name]
    text = isinstance(ROWS[name][key], str)
    return pd.DataFrame([{**ROWS[name], key: f"S{3 + i}" if text else 3 + i, **changes} for i in range(n)])


def test_there_is_a_row_here_for_every_schema():
    assert ROWS.keys() == tables.SCHEMAS.keys()


@by_name
def test_a_written_table_is_read_back_as_it_was(name, tmp_path):
    table = table_of(name)
    path = tables.write(table, name, tmp_path)
    assert path == tmp_path / f"{name}.csv"
    found = tables.read_folder(tmp_path)
    assert list(found) == [name]
    pd.testing.assert_frame_equal(found[name], table, check_dtype=False, rtol=1e-5)
    for column in table.select_dtypes(["int", "bool"]):
        assert found[name][column].dtype == table[column].dtype


@by_name
def test_reading_and_writing_again_gives_the_same_bytes(name, tmp_path):
    first = tables.write(table_of(name), name, tmp_path / "one")
    second = tables.write(tables.read_folder(tmp_path / "one")[name], name, tmp_path / "two")
    assert first.read_bytes() == second.read_bytes()


@by_name
def test_the_index_of_the_frame_is_of_no_account(name, tmp_path):
    one = tables.write(table_of(name), name, tmp_path / "one").read_bytes()
    assert tables.write(table_of(name).set_index(pd.Index([7, 7, 9])), name, tmp_path / "two").read_bytes() == one


def test_an_index_that_is_not_defined_is_kept_as_such(tmp_path):
    tables.write(table_of("indices", value=np.nan), "indices", tmp_path)
    assert tables.read_folder(tmp_path)["indices"]["value"].isna().all()


def test_all_tables_of_a_folder_are_read_and_other_files_left_alone(tmp_path):
    for name in ROWS:
        tables.write(table_of(name), name, tmp_path)
    (tmp_path / "notes.csv").write_text("not,a,table\n")
    assert set(tables.read_folder(tmp_path)) == set(ROWS)
    assert tables.read_folder(tmp_path / "nowhere") == {}


def test_a_folder_may_be_named_by_a_string(tmp_path):
    tables.write(table_of("models"), "models", tmp_path)
    assert list(tables.read_folder(str(tmp_path))) == ["models"]


# ---- what does not fit -----------------------------------------------------------------------------------------------------


BAD = [
    ("models", {"accuracy": 1.01}, "accuracy"),
    ("models", {"accuracy": -0.01}, "accuracy"),
    ("models", {"accuracy": np.nan}, "accuracy"),
    ("models", {"last_position": np.inf}, "last_position"),
    ("models", {"parameters": 0}, "parameters"),
    ("models", {"source": "guessed"}, "source"),
    ("models", {"seed": "first"}, "seed"),
    ("models", {"seed": None}, "seed"),
    ("models", {"task": None}, "task"),
    ("readability", {"network": "tranied"}, "network"),
    ("readability", {"labels": "shuffled"}, "labels"),
    ("readability", {"position": -2}, "position"),
    ("readability", {"own_majority": 2.0}, "own_majority"),
    ("baselines", {"site": -1}, "site"),
    ("baselines", {"bayes_window": 1.5}, "bayes_window"),
    ("indices", {"reading": "all"}, "reading"),
    ("penalties", {"penalty": 0.0}, "penalty"),
    ("steps", {"seconds": 0.0}, "seconds"),
    ("scaling", {"kept_bytes": -1}, "kept_bytes"),
    ("indices", {"last_site": 0}, "last_site"),
    ("seed", {"ended": 0.0}, "ended"),
    ("seed", {"cores": 0}, "cores"),
]


def rejects(table, name, column, folder):
    with pytest.raises(REFUSED, match=column):
        tables.write(table, name, folder)
    assert not list(folder.iterdir())
    return True


@pytest.mark.parametrize(("name", "change", "column"), BAD, ids=str)
def test_a_value_that_does_not_fit_is_refused_by_column_and_nothing_is_written(name, change, column, tmp_path):
    assert rejects(table_of(name, **change), name, column, tmp_path)


def test_a_refusal_names_the_value(tmp_path):
    with pytest.raises(REFUSED, match=r"1\.01"):
        tables.write(table_of("models", accuracy=1.01), "models", tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("models", {"seed": 1.7}),
        ("models", {"parameters": 2.5}),
        ("models", {"passed": "False"}),
        ("models", {"passed": "no"}),
        ("models", {"passed": None}),
        ("models", {"passed": 0.3}),
        ("readability", {"site": 0.9}),
        ("indices", {"largest_site": 2.4}),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_refused_and_not_bent_to_fit(name, change, tmp_path):
    table = table_of(name, n=1, **change)
    assert rejects(table, name, next(iter(change)), tmp_path)


@by_name
def test_a_missing_and_an_unknown_column_are_refused_by_name(name, tmp_path):
    for column in ROWS[name]:
        assert rejects(table_of(name).drop(columns=column), name, column, tmp_path)
    assert rejects(table_of(name, surprise=1), name, "surprise", tmp_path)


@by_name
def test_a_repeated_row_is_refused_with_its_key(name, tmp_path):
    table = table_of(name, n=1)
    assert rejects(pd.concat([table, table]), name, KEYS[name], tmp_path)


@pytest.mark.parametrize(
    ("name", "column"),
    [("models", "accuracy"), ("readability", "passed"), ("baselines", "bayes_window"), ("indices", "value")],
)
def test_a_row_repeated_with_another_result_is_refused_too(name, column, tmp_path):
    other = {"models": 0.1, "readability": False, "baselines": 0.1, "indices": 0.1}[name]
    table = pd.concat([table_of(name, n=1), table_of(name, n=1, **{column: other})])
    assert rejects(table, name, KEYS[name], tmp_path)


def test_an_unknown_table_is_refused_with_the_names_that_are_known(tmp_path):
    with pytest.raises(ValueError, match=r"modles.*models"):
        tables.write(table_of("models"), "modles", tmp_path)


# ---- broken files ----------------------------------------------------------------------------------------------------------


def test_a_refused_table_leaves_the_one_before_as_it_was(tmp_path):
    path = tables.write(table_of("models"), "models", tmp_path)
    before = path.read_bytes()
    with pytest.raises(REFUSED):
        tables.write(table_of("models", accuracy=7.0), "models", tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["models.csv"]


def test_a_write_that_fails_half_way_leaves_the_table_before_and_no_half_one(tmp_path, monkeypatch):
    path = tables.write(table_of("models"), "models", tmp_path)
    before = path.read_bytes()

    def half(self, draft, **_):
        draft.write_text("task,architec")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="disk full"):
        tables.write(table_of("models", n=5), "models", tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["models.csv"]


def broken(damage, tmp_path):
    tables.write(table_of("baselines"), "baselines", tmp_path)
    path = tables.write(table_of("models"), "models", tmp_path)
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=r"models\.csv"):
        tables.read_folder(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.replace("0.987654", "1.987654"),
        lambda text: text.replace("0.987654", ""),
        lambda text: text.replace(",trained,", ",found,"),
        lambda text: text + text.splitlines()[-1] + "\n",
        lambda text: text + "a,b,c,d,e,f,g,h,i,j,k,l,m\n",
    ],
    ids=["empty", "range", "blank", "source", "twice", "ragged"],
)
def test_reading_a_folder_names_the_file_that_is_broken(damage, tmp_path):
    broken(damage, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("accuracy", "acuracy", 1),
        lambda text: text.replace(",passed", "", 1),
        lambda text: text[: -len("ained,1234,20,5,0.987654,1,False\n")],
        lambda text: "\x00\x01",
        lambda text: text.replace("1234", "many"),
        lambda text: text.replace("0.987654", "high"),
    ],
    ids=["column", "header cut", "row cut", "binary", "no integer", "no number"],
)
def test_reading_a_folder_names_the_file_whose_columns_or_types_are_broken(damage, tmp_path):
    broken(damage, tmp_path)


@pytest.mark.parametrize("blank", ["", "no", "fail"])
def test_a_model_without_a_clear_passed_is_refused_on_reading(blank, tmp_path):
    path = tables.write(table_of("models"), "models", tmp_path)
    path.write_text(path.read_text().replace("False", blank, 1))
    with pytest.raises(ValueError, match=r"models\.csv"):
        tables.read_folder(tmp_path)


# ---- records and whole files ---------------------------------------------------------------------------------------------


def test_a_record_is_read_back_and_a_failed_one_changes_nothing(tmp_path):
    path = tables.write_record({"a": [1, 2.5, None]}, "run", tmp_path)
    assert path == tmp_path / "run.json"
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(TypeError):
        tables.write_record({"a": object()}, "run", tmp_path)
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_whole_file_appears_at_once_in_folders_that_need_not_exist(tmp_path):
    path, seen = tmp_path / "deep" / "down" / "file.txt", []

    def write(draft):
        draft.write_text("half")
        seen.append(path.exists())
        draft.write_text("whole")

    write_whole(path, write)
    assert seen == [False]
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_whole_file_that_fails_leaves_the_old_one_also_on_a_kill_from_the_keyboard(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(draft):
        draft.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        write_whole(path, lambda draft: None)
    assert path.read_text() == "old"
