"""Draw what a notebook shows anew from the tables of its run: cells tagged `show` are executed, nothing is measured."""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from statedepth import tables


@dataclass(frozen=True)
class Reopened:
    """A finished run as its notebook's `show` cells see it: parameters and tables."""

    values: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def reopen(folder: Path) -> Reopened:
    """The run in a folder of tables; FileNotFoundError where it holds no run.json, ValueError for a table of another form."""
    return Reopened(json.loads((folder / "run.json").read_text())["parameters"], tables.read_folder(folder))


def shown(book: nbformat.NotebookNode, run: Reopened) -> Iterator[tuple[int, Any]]:
    """Index and value of every cell tagged `show`, executed in their order on `run`; of all others, the imports alone."""
    namespace: dict[str, Any] = {"session": run}
    for index, cell in enumerate(book.cells):
        if cell.cell_type != "code":
            continue
        body = ast.parse(cell.source).body
        if "show" not in cell.metadata.get("tags", []):
            _execute([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], namespace)
            continue
        last = body.pop()
        assert isinstance(last, ast.Expr), f"cell {index} is tagged show and does not end in what it shows"
        _execute(body, namespace)
        yield index, eval(compile(ast.Expression(last.value), f"cell {index}", "eval"), namespace)


def _execute(body: list[ast.stmt], namespace: dict[str, Any]) -> None:
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)


def output(value: Any, html: str | None = None) -> nbformat.NotebookNode:
    """A value as the output of its cell; `html` in place of what the value itself gives."""
    data = {"text/plain": repr(value)}
    if html is not None or hasattr(value, "_repr_html_"):
        data["text/html"] = html if html is not None else value._repr_html_()
    return nbformat.v4.new_output("execute_result", data, execution_count=None)
