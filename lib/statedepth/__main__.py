"""The command line: python -m statedepth run | book | reproduce | train | publish | redraw | explorer | verify | check."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from statedepth import necessity, notebook, publish, reproduce, verify
from statedepth.files import write_whole
from statedepth.publish import BUILD

_PRINTED = ["method", "positions", "rank", "variance_removed", "before", "refit", "refit_majority", "refit_own"]
_PRINTED += ["refit_own_majority", "positions_read", "outcome"]  # the CSV has all columns
_ERASERS = {"pooled": "one eraser", "each": "an eraser at each position"}


def check(path: Path, methods: Sequence[str], out: Path | None, seed: int) -> None:
    """Print what `necessity.check_file` finds, and write it to `out`. ValueError where either file cannot be used."""
    table = necessity.check_file(path, methods, seed)
    short = table[_PRINTED].assign(positions_read=[textwrap.shorten(read or "none", 24) for read in table["positions_read"]])  # fmt: skip
    print(short.to_string(index=False, na_rep="-", float_format="%.3f"))
    for row in table.itertuples():
        print(f"{row.method}, {_ERASERS[str(row.positions)]}: {row.outcome}" + ("" if row.rank else " (it erases nothing)"))  # fmt: skip
    left_out, asked = table["positions_left_out"][0], table["positions_asked"][0]
    if left_out:
        rest = "left out" if asked else "without probes of their own, which leaves the pooled ones"
        print(f"{left_out} of {left_out + asked} positions, with too few rows or a single class: {rest}")
    if out:
        try:
            write_whole(out, lambda draft: table.to_csv(draft, index=False))
        except OSError as error:
            raise ValueError(f"{out}: cannot be written ({getattr(error.__cause__, 'strerror', error)})") from error


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 where it went well, 2 with one line on stderr where the input is wrong, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="statedepth", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one notebook with new parameters and build its page")
    run.add_argument("notebook")
    run.add_argument("-p", dest="pairs", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--profile", default="paper")
    commands.add_parser("book", help="execute every notebook at the quick profile and build the site from them")
    whole = commands.add_parser(
        "reproduce", help="the whole paper from nothing: train, measure, build the site, compare"
    )
    whole.add_argument("notebooks", nargs="*")
    whole.add_argument("--one-seed", action="store_true", help="seed 0 of the core tasks, claims 1 to 3")
    whole.add_argument("-p", dest="pairs", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    for name, meaning in (
        ("train", "train the models of a published run that have no checkpoint yet"),
        ("publish", "train, execute at the paper profile, and replace the published run"),
    ):
        commands.add_parser(name, help=meaning).add_argument("notebook")
    again = commands.add_parser(
        "redraw", help="draw published pages and verdicts anew from their tables, measuring nothing"
    )
    again.add_argument("notebooks", nargs="*")
    commands.add_parser("explorer", help="read every short string with the published models, for the book's explorer")
    tolerated = commands.add_parser(
        "verify", help="execute the quick profile and compare its headlines with the published ones"
    )
    tolerated.add_argument("notebooks", nargs="*")
    tolerated.add_argument(
        "--published", action="store_true", help="at the published settings rather than the quick profile's"
    )
    tolerated.add_argument("--publish", action="store_true", help="write the headlines rather than compare with them")
    own = commands.add_parser("check", help="is a variable readable in your activations, and does an edit remove it?")
    own.add_argument("file", type=Path, help=".npz with the arrays h (n, D), labels, sequence and position (n,)")
    own.add_argument("--method", dest="methods", action="append", help="may be repeated; three where none is named")
    own.add_argument("--out", type=Path, metavar="TABLE.csv")
    own.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "run":
            notebook.source_of(chosen.notebook)
            values = publish.parse_assignments(chosen.pairs)
            publish.run([chosen.notebook], chosen.profile, values, BUILD / "runs" / chosen.notebook)
        elif chosen.command == "book":
            publish.run(notebook.known(), "quick", {}, BUILD / "quick")
        elif chosen.command == "train":
            publish.train(chosen.notebook)
        elif chosen.command == "redraw":
            for name in chosen.notebooks or publish.published():
                publish.redraw(name)
        elif chosen.command == "explorer":
            publish.explore()
        elif chosen.command == "reproduce":
            values = publish.parse_assignments(chosen.pairs)
            wanted = reproduce.chosen_values(chosen.notebooks, chosen.one_seed, values)
            reproduce.reproduce(wanted, reproduce.FOLDER / ("one-seed" if chosen.one_seed else "paper"))
        elif chosen.command == "verify":
            how = verify.at_published_settings if chosen.published else verify.verify
            return how(chosen.notebooks or notebook.known(), chosen.publish)
        elif chosen.command == "check":
            check(chosen.file, chosen.methods or necessity.CHECKED, chosen.out, chosen.seed)
        else:
            publish.publish(chosen.notebook)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (publish.RunFailed, OSError) as error:
        print(f"error: {error.strerror if isinstance(error, OSError) and error.strerror else error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
