"""The library's source as pages of the site, so that a definition, a figure and the code behind it are one click apart."""

import ast
import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

HERE = Path(__file__).parent


@cache
def _lines(module: str) -> dict[str, int]:
    """Line of each function, class and constant at the top of a module, and of each method as Class.method."""
    found: dict[str, int] = {}
    for node in ast.parse((HERE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{n.name}": n.lineno for n in node.body if isinstance(n, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node.lineno for target in targets if isinstance(target, ast.Name)}
    return found


@cache
def _passed_on(module: str) -> dict[str, str]:
    """What a module takes from others of the library and offers under its own name: name -> module.name there."""
    nodes = [n for n in ast.parse((HERE / f"{module}.py").read_text()).body if isinstance(n, ast.ImportFrom)]
    return {
        alias.asname or alias.name: f"{(node.module or '').removeprefix('statedepth').lstrip('.')}.{alias.name}".lstrip(
            "."
        )
        for node in nodes
        if (node.module or "").startswith("statedepth")
        for alias in node.names
    }


def place(name: str) -> str | None:
    """Address below the site's root of `module` or `module.name` of the library; None for what it does not have."""
    module, _, inside = name.partition(".")
    if not (HERE / f"{module}.py").exists():
        return None
    if not inside:
        return f"code/{module}.html"
    line = _lines(module).get(inside)
    if line is not None:
        return f"code/{module}.html#L-{line}"
    head, _, rest = inside.partition(".")
    return place(".".join(filter(None, (_passed_on(module)[head], rest)))) if head in _passed_on(module) else None


def pages() -> Iterator[tuple[str, dict[str, Any], str]]:
    """For Sphinx: name, context and template of a page for each module."""
    form = HtmlFormatter(lineanchors="L", cssclass="highlight statedepth-listing", wrapcode=True)
    for path in sorted(HERE.glob("*.py")):
        text = path.read_text()
        if path.stem == "__init__":
            continue
        about = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
        title = f"statedepth.{path.stem}"
        code = highlight(text, PythonLexer(), form)
        code = re.sub(r'<a id="(L-\d+)" name="L-\d+" href="#L-\d+"></a>', r'<span id="\1"></span>', code)
        code = code.replace(
            '<div class="highlight', '<div tabindex="0" role="region" aria-label="source" class="highlight', 1
        )
        body = f"<h1>{title}</h1><p>{html.escape(about)}</p>{code}"
        yield f"code/{path.stem}", {"title": title, "body": body, "parents": []}, "page.html"
