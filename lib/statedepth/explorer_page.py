"""The explorer as an element of a page: the readings of one string as tables, which a script keeps up with the reader's edits."""

import base64
import html
import json
from collections.abc import Iterator
from typing import Any

from statedepth.theme import COLOURS


def _escape(text: Any) -> str:
    return html.escape(str(text), quote=True)


def numbered(data: dict[str, Any]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Of every prefix its number in the readings and its state, in the order in which `explorer.explored` wrote them."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    level: list[tuple[tuple[int, ...], int]] = [((), 0)]
    for _ in range(data["length"]):
        level = [
            ((*prefix, token), after)
            for prefix, state in level
            for token, after in enumerate(data["move"][state])
            if after >= 0
        ]
        for prefix, state in level:
            found[prefix] = len(found), state
    return found


def read(data: dict[str, Any], string: list[int]) -> list[list[list[tuple[int, float, bool]]]]:
    """Architecture by column (site, then answer) by position: the class read, how sure, and whether it is the state's."""
    raw, places = base64.b64decode(data["readings"]), numbered(data)
    kinds, columns, levels = len(data["architectures"]), data["columns"], data["levels"]
    table = []
    for a in range(kinds):
        rows = []
        for c in range(columns):
            row = []
            for t in range(1, len(string) + 1):
                number, state = places[tuple(string[:t])]
                byte = raw[(number * kinds + a) * columns + c]
                chosen = byte // levels
                row.append((chosen, (byte % levels + 0.5) / levels, chosen == data["reads"][state]))
            rows.append(row)
        table.append(rows)
    return table


def widget(data: dict[str, Any]) -> str:
    """The element; every cell says in words what its colour says."""
    string = data["first"]
    table, places = read(data, string), numbered(data)
    name = _escape(data["task"])
    buttons = "".join(
        f'<li><button type="button" data-at="{i}" aria-label="token {i + 1} of {len(string)}: {_escape(data["tokens"][token])}; press for the next one">{_escape(data["tokens"][token])}</button></li>'
        for i, token in enumerate(string)
    )
    states = [data["classes"][data["reads"][places[tuple(string[: t + 1])][1]]] for t in range(len(string))]
    truth = "".join(f'<td title="{_escape(word)}">{_escape(sign)}</td>' for sign, word in states)
    truth = f'<tr class="truth"><th scope="row">state</th>{truth}</tr>'
    tables = "".join(_table(data, about, rows, truth) for about, rows in zip(data["architectures"], table, strict=True))
    plain = {
        key: data[key] for key in ("tokens", "classes", "move", "reads", "levels", "columns", "length", "readings")
    }
    inside = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div class="statedepth-explorer" id="explorer-{name}" data-string="{",".join(map(str, string))}">'
        f'<p class="ask">Press a token to change it: <button type="button" class="reset">back to the first string</button></p><ol class="tokens" aria-label="the string">{buttons}</ol>'
        '<p class="said" role="status" aria-live="polite"></p>'
        f'<div class="grids">{tables}</div><script type="application/json">{inside}</script></div>'
    )


def _table(data: dict[str, Any], about: dict[str, Any], rows: list[list[tuple[int, float, bool]]], truth: str) -> str:
    colour = COLOURS[about["name"]]
    body = "".join(_rows(data, rows))
    return (
        f'<table style="--own:{colour}"><caption><span class="dot"></span>{_escape(about["name"])} <small class="count">{_count(rows)}</small></caption>'
        f"<tbody>{body}{truth}</tbody></table>"
    )


def _count(rows: list[list[tuple[int, float, bool]]]) -> str:
    """How far up the state is read right at every position: what there is to see at a glance."""
    right = [all(cell[2] for cell in row) for row in rows[:-1]]
    if not right[-1]:
        return "not read right everywhere at the last site"
    first = next(site for site in range(len(right)) if all(right[site:]))
    return f"all right from site {first} on"


def _rows(data: dict[str, Any], rows: list[list[tuple[int, float, bool]]]) -> Iterator[str]:
    titles = [*(f"site {i}" for i in range(len(rows) - 1)), "answer"]
    for title, row in reversed(list(zip(titles, rows, strict=True))):
        cells = "".join(_cell(data, *cell) for cell in row)
        yield f'<tr{" class=answer" if title == "answer" else ""}><th scope="row">{title}</th>{cells}</tr>'


def _cell(data: dict[str, Any], chosen: int, sure: float, right: bool) -> str:
    sign, word = data["classes"][chosen]
    said = f"{word}, {sure:.0%} sure, {'right' if right else 'wrong'}"
    return f'<td class="{"right" if right else "wrong"}" style="--sure:{sure:.2f}" title="{_escape(said)}">{_escape(sign)}<span>, {sure:.0%} sure, {"right" if right else "wrong"}</span></td>'
