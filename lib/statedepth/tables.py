"""The tidy tables that notebooks write, readers download, and figures, numbers and verdicts are made from."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from statedepth.files import write_whole

SHARE = pa.Check.in_range(0.0, 1.0)
READINGS = pa.Check.str_matches(r"^(pooled|beyond window|own probe|common start|untrained network|λ = [0-9.e+-]+)$")
WHERE = {"task": pa.Column(str), "variable": pa.Column(str), "architecture": pa.Column(str), "seed": pa.Column(int)}

SIZE = {name: pa.Column(int, pa.Check.gt(0)) for name in ("batch", "length", "width", "state")}


def _schema(columns: dict[str, pa.Column], unique: list[str]) -> pa.DataFrameSchema:
    """No other column, no repeated key; only a float may be read from a whole number, nothing else is bent to fit."""
    for column in columns.values():
        column.coerce = str(column.dtype) == "float64"
    return pa.DataFrameSchema(columns, strict=True, unique=unique)


CELL_KEY = ["length", "site", "positions", "method"]
CELL = {
    "length": pa.Column(int, pa.Check.gt(0)),
    "site": pa.Column(int, pa.Check.ge(0)),
    "positions": pa.Column(str, pa.Check.isin(["pooled", "each", "last"])),
    "method": pa.Column(str),
    "rank": pa.Column(float, pa.Check.ge(0)),
    **{
        name: pa.Column(float, SHARE)
        for name in ("before", "majority", "before_own", "own_majority", "refit", "refit_majority", "refit_by_accuracy")
    },
    **{name: pa.Column(float, SHARE) for name in ("refit_own", "refit_own_majority", "refit_own_by_accuracy")},
    "refit_bits": pa.Column(float),
    "refit_own_bits": pa.Column(float),
    "positions_read": pa.Column(int, pa.Check.ge(0)),
    "positions_asked": pa.Column(int, pa.Check.gt(0)),
    "mlp": pa.Column(float, SHARE, nullable=True),
    "variance_removed": pa.Column(float, pa.Check.ge(0)),
    "norm": pa.Column(float, pa.Check.ge(0)),
    **{name: pa.Column(float, SHARE) for name in ("intact", "task_majority", "after")},
    **{
        name: pa.Column(float, nullable=True)
        for name in ("fall", "fall_low", "fall_high", "resample_fall", "random_fall", "random_most", "matched_fall", "matched_most", "matched_share", "matched_rank", "control_readable", "control_fall", "control_share")
    },
    "control": pa.Column(str),
    "outcome": pa.Column(str, pa.Check.isin(["absent", "not removed", "necessary", "not necessary", "inconclusive"])),
}  # fmt: skip

WHOLE = {name: pa.Column(float, SHARE) for name in ("intact_whole", "after_whole")}

SCHEMAS: dict[str, pa.DataFrameSchema] = {
    # one row per trained model and evaluated length
    "models": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "checkpoint": pa.Column(str),
            "source": pa.Column(str, pa.Check.isin(["published", "cached", "trained"])),
            "parameters": pa.Column(int, pa.Check.gt(0)),
            "trained_length": pa.Column(int),
            "steps": pa.Column(int, pa.Check.gt(0)),
            "rate": pa.Column(float, pa.Check.gt(0)),
            "grow_at": pa.Column(float, SHARE),
            "length": pa.Column(int),
            "accuracy": pa.Column(float, SHARE),
            "last_position": pa.Column(float, SHARE),
            "passed": pa.Column(bool),
        },
        ["checkpoint", "length"],
    ),
    # one row per probe result: position 1..T, 0 pooled, -1 pooled beyond the last site's window
    "readability": _schema(
        {
            **WHERE,
            "passed": pa.Column(bool),
            "site": pa.Column(int, pa.Check.ge(0)),
            "network": pa.Column(str, pa.Check.isin(["trained", "untrained"])),
            "labels": pa.Column(str, pa.Check.isin(["task", "control"])),
            "position": pa.Column(int, pa.Check.ge(-1)),
            "accuracy": pa.Column(float, SHARE),
            "majority": pa.Column(float, SHARE),
            "own_accuracy": pa.Column(float, SHARE, nullable=True),  # where the cell asked for such probes
            "own_majority": pa.Column(float, SHARE, nullable=True),
        },
        [*WHERE, "site", "network", "labels", "position"],
    ),
    # the sensitivity study: one row per model of each variant; `reached`: accuracy at the training length, where it is
    # asked for the state
    "varied": _schema(
        {
            "variant": pa.Column(str),
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "checkpoint": pa.Column(str),
            "source": pa.Column(str, pa.Check.isin(["published", "cached", "trained"])),
            "parameters": pa.Column(int, pa.Check.gt(0)),
            "blocks": pa.Column(int, pa.Check.gt(0)),
            "trained_length": pa.Column(int, pa.Check.gt(0)),
            "reached": pa.Column(float, SHARE),
            "passed": pa.Column(bool),
        },
        ["variant", "task", "architecture", "seed"],
    ),
    # their pooled profiles
    "varied_profiles": _schema(
        {
            "variant": pa.Column(str),
            **WHERE,
            "passed": pa.Column(bool),
            "site": pa.Column(int, pa.Check.ge(0)),
            "accuracy": pa.Column(float, SHARE),
            "majority": pa.Column(float, SHARE),
        },
        ["variant", *WHERE, "site"],
    ),
    # pooled profiles through training, at the training length
    "trajectory": _schema(
        {
            **WHERE,
            "step": pa.Column(int, pa.Check.ge(0)),
            "reached": pa.Column(float, SHARE),
            "site": pa.Column(int, pa.Check.ge(0)),
            "accuracy": pa.Column(float, SHARE),
            "majority": pa.Column(float, SHARE),
        },
        [*WHERE, "step", "site"],
    ),
    # the share of a profile's rise at each block; not a number where the rise is too small
    "shares": _schema(
        {
            **WHERE,
            "passed": pa.Column(bool),
            "reading": pa.Column(str, READINGS),
            "block": pa.Column(int, pa.Check.gt(0)),
            "share": pa.Column(float, SHARE, nullable=True),
        },
        [*WHERE, "reading", "block"],
    ),
    # pooled probes of every variable of one stream of strings, in models trained on each of them (`task`)
    "targets": _schema(
        {
            **WHERE,
            "passed": pa.Column(bool),
            "site": pa.Column(int, pa.Check.ge(0)),
            "accuracy": pa.Column(float, SHARE),
            "majority": pa.Column(float, SHARE),
        },
        [*WHERE, "site"],
    ),
    # task accuracy with the short convolution of one block edited, or of all (block 0)
    "conv": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "passed": pa.Column(bool),
            "edit": pa.Column(str, pa.Check.isin(["current token", "mean output"])),
            "block": pa.Column(int, pa.Check.ge(0)),
            "intact": pa.Column(float, SHARE),
            "accuracy": pa.Column(float, SHARE),
            "majority": pa.Column(float, SHARE),
            "lost": pa.Column(float, SHARE, nullable=True),  # not where the intact model is no better than the majority
        },
        ["task", "architecture", "seed", "edit", "block"],
    ),
    # models trained anew with another number of taps in the short convolution
    "retrained": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "taps": pa.Column(int, pa.Check.gt(0)),
            "steps": pa.Column(int, pa.Check.gt(0)),
            "accuracy": pa.Column(float, SHARE),
            "last_position": pa.Column(float, SHARE),
            "passed": pa.Column(bool),
        },
        ["task", "architecture", "seed", "taps"],
    ),
    # the necessity test: one row per model, length, site, positions of the edit and method (`ablation.measure`)
    "necessity": _schema(
        {**WHERE, "passed": pa.Column(bool), "trained_length": pa.Column(int), **CELL}, [*WHERE, *CELL_KEY]
    ),
    # the same of fine-tuned language models, with what is right where every token of the vocabulary may be the answer
    "sweep": _schema(
        {**WHERE, "passed": pa.Column(bool), "trained_length": pa.Column(int), **CELL, **WHOLE}, [*WHERE, *CELL_KEY]
    ),
    # several sites in a row, erased in one pass (`windows.measure`)
    "windows": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "passed": pa.Column(bool),
            "first": pa.Column(int, pa.Check.gt(0)),
            "last": pa.Column(int, pa.Check.gt(1)),
            "method": pa.Column(str),
            "rank": pa.Column(float, pa.Check.ge(0)),
            **{name: pa.Column(float, SHARE) for name in ("intact", "after", "task_majority", "before", "majority")},
            **{name: pa.Column(float, SHARE) for name in ("refit", "refit_majority")},
            **WHOLE,
            **{
                name: pa.Column(float, nullable=True)
                for name in ("fall", "fall_low", "fall_high", "resample_fall", "random_fall", "random_most")
            },
        },
        ["task", "architecture", "seed", "first", "last", "method"],
    ),
    # what fine-tuned models were made from; `whole_vocabulary`: right answers where every token may be one
    "tuned": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "base": pa.Column(str),
            "family": pa.Column(str, pa.Check.isin(["gpt_neox", "mamba", "mamba2"])),
            "pretrained": pa.Column(bool),
            "blocks": pa.Column(int, pa.Check.gt(0)),
            "width": pa.Column(int, pa.Check.gt(0)),
            "added_tokens": pa.Column(int, pa.Check.ge(0)),
            "whole_vocabulary": pa.Column(float, SHARE),
        },
        ["task", "architecture", "seed"],
    ),
    # language models that we pretrained ourselves; losses in nats per token
    "bases": _schema(
        {
            "base": pa.Column(str),
            "parameters": pa.Column(int, pa.Check.gt(0)),
            "blocks": pa.Column(int, pa.Check.gt(0)),
            "width": pa.Column(int, pa.Check.gt(0)),
            "tokens_seen": pa.Column(int, pa.Check.gt(0)),
            "text_bytes": pa.Column(int, pa.Check.gt(0)),
            "python": pa.Column(str),
            "held_out": pa.Column(float, pa.Check.gt(0)),
            "unigram": pa.Column(float, pa.Check.gt(0)),
        },
        ["base"],
    ),
    # their training curves
    "pretraining": _schema(
        {
            "base": pa.Column(str),
            "step": pa.Column(int, pa.Check.gt(0)),
            "loss": pa.Column(float, pa.Check.gt(0)),
            "held_out": pa.Column(float, pa.Check.gt(0)),
        },
        ["base", "step"],
    ),
    # the same of the hand-built models, with the outcome that was planted
    "planted": _schema(
        {"task": pa.Column(str), "kind": pa.Column(str), "expected": pa.Column(str), **CELL},
        ["task", "kind", *CELL_KEY],
    ),
    # activation patching: whole streams before the read position by their distance from the changed token (`offset`), and
    # what is put in at the read position (`patching.measure`)
    "patching": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "seed": pa.Column(int),
            "passed": pa.Column(bool),
            "site": pa.Column(int, pa.Check.ge(0)),
            "intervention": pa.Column(str),
            "at": pa.Column(str, pa.Check.isin(["before", "read"])),
            "offset": pa.Column(int, pa.Check.ge(-1)),
            "recovery": pa.Column(float, nullable=True),  # not where no gap reaches the threshold
            "low": pa.Column(float, nullable=True),
            "high": pa.Column(float, nullable=True),
            "follows": pa.Column(float, SHARE),
            "n": pa.Column(int, pa.Check.ge(0)),
            "left_out": pa.Column(int, pa.Check.ge(0)),
            "bound": pa.Column(float, nullable=True),
        },
        ["task", "architecture", "seed", "site", "intervention", "at", "offset"],
    ),
    # the parts of the necessity test's pass, done together and cell by cell
    "passes": _schema(
        {
            "part": pa.Column(str, pa.Check.isin(["edits", "refits"])),
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            **{name: pa.Column(float, pa.Check.gt(0)) for name in ("seconds", "seconds_cell_by_cell", "ratio")},
        },
        ["part", "task", "architecture"],
    ),
    # what needs no network
    "baselines": _schema(
        {
            "task": pa.Column(str),
            "variable": pa.Column(str),
            "site": pa.Column(int, pa.Check.ge(0)),
            "position": pa.Column(int, pa.Check.ge(-1)),
            "position_only": pa.Column(float, SHARE),
            "bayes_window": pa.Column(float, SHARE),
        },
        ["task", "variable", "site", "position"],
    ),
    # pooled probes of trained networks at one penalty each, whatever the validation split would choose
    "penalties": _schema(
        {
            **WHERE,
            "passed": pa.Column(bool),
            "site": pa.Column(int, pa.Check.ge(0)),
            "penalty": pa.Column(float, pa.Check.gt(0)),
            "accuracy": pa.Column(float, SHARE),
            "majority": pa.Column(float, SHARE),
        },
        [*WHERE, "site", "penalty"],
    ),
    # every number of a re-execution beside that of the published run
    "differences": _schema(
        {
            "notebook": pa.Column(str),
            "key": pa.Column(str),
            "label": pa.Column(str),
            "headline": pa.Column(bool),
            **{name: pa.Column(float, nullable=True) for name in ("published", "now", "difference")},
            "tolerance": pa.Column(float, pa.Check.gt(0)),
            "within": pa.Column(bool),
        },
        ["notebook", "key"],
    ),
    # seconds of one training step by each path, at each size; `times_ours`: over ours, of Mamba-2 for
    # its paths and of Mamba for all others
    "steps": _schema(
        {
            **SIZE,
            "path": pa.Column(str),
            "seconds": pa.Column(float, pa.Check.gt(0)),
            "times_ours": pa.Column(float, pa.Check.gt(0)),
        },
        [*SIZE, "path"],
    ),
    # our Mamba's step by length: seconds, and bytes kept for the backward pass
    "scaling": _schema(
        {**SIZE, "seconds": pa.Column(float, pa.Check.gt(0)), "kept_bytes": pa.Column(int, pa.Check.gt(0))},
        [*SIZE],
    ),
    # the training of one seed, every architecture on three tasks: minutes since the first began, accuracy reached
    "seed": _schema(
        {
            "task": pa.Column(str),
            "architecture": pa.Column(str),
            "started": pa.Column(float, pa.Check.ge(0)),
            "ended": pa.Column(float, pa.Check.gt(0)),
            "accuracy": pa.Column(float, SHARE),
            "cores": pa.Column(int, pa.Check.gt(0)),
        },
        ["task", "architecture"],
    ),
    # the four indices of each profile; not a number where the rise is too small
    "indices": _schema(
        {
            **WHERE,
            "passed": pa.Column(bool),
            "reading": pa.Column(str, READINGS),
            "largest_site": pa.Column(int, pa.Check.ge(0)),
            "last_site": pa.Column(int, pa.Check.ge(1)),
            "index": pa.Column(str),
            "value": pa.Column(float, nullable=True),
        },
        [*WHERE, "reading", "index"],
    ),
}


def write(table: pd.DataFrame, name: str, folder: Path) -> Path:
    """Check `table` against the schema of this name and write NAME.csv, whole or not at all.

    Raises ValueError for an unknown name and pandera's SchemaError (or SchemaErrors), which names the column and the value, for a table that does not fit.
    """
    if name not in SCHEMAS:
        raise ValueError(f"table={name!r}: known tables are {', '.join(SCHEMAS)}")
    checked = SCHEMAS[name].validate(table.reset_index(drop=True))
    path = folder / f"{name}.csv"
    write_whole(path, lambda draft: checked.to_csv(draft, index=False, float_format="%.6g", lineterminator="\n"))
    return path


def read_folder(folder: Path) -> dict[str, pd.DataFrame]:
    """Every known table in a folder, checked; ValueError, with the file's name, for one that does not fit."""
    found = {}
    for name, schema in SCHEMAS.items():
        path = Path(folder) / f"{name}.csv"
        if path.exists():
            try:
                found[name] = schema.validate(pd.read_csv(path))
            except (pa.errors.SchemaError, pa.errors.SchemaErrors, ValueError) as error:
                raise ValueError(f"{path.name}: does not fit its schema ({error})") from error
    return found


def write_record(record: dict[str, Any], name: str, folder: Path) -> Path:
    """A JSON record (run.json, verdict.json) beside the tables."""
    path = folder / f"{name}.json"
    write_whole(path, lambda draft: draft.write_text(json.dumps(record, indent=1) + "\n"))
    return path
