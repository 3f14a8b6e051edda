"""The command line: python -m statedepth run | book | train | publish."""

import argparse
import sys

from statedepth import notebook, publish
from statedepth.publish import BUILD


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 where it went well, 2 with one line on stderr where the input is wrong, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="statedepth", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one notebook with new parameters and build its page")
    run.add_argument("notebook")
    run.add_argument("-p", dest="pairs", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--profile", default="paper")
    commands.add_parser("book", help="execute every notebook at the quick profile and build the site from them")
    for name, meaning in (
        ("train", "train the models of a published run that have no checkpoint yet"),
        ("publish", "train, execute at the paper profile, and replace the published run"),
    ):
        commands.add_parser(name, help=meaning).add_argument("notebook")
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
        else:
            publish.publish(chosen.notebook)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except publish.RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
