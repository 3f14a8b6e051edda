"""Does a re-execution give the published numbers? The quick profile's headlines against those of the same seeds and sample,
and every number of a run at the published settings against the published run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from statedepth import claims, grid, notebook, publish, tables
from statedepth.files import write_whole

PLACE = publish.BOOK / "data" / "headlines.csv"
# A headline may move by this much of its unit (shares and accuracies lie between 0 and 1, points between 0 and 100) before
# a re-execution fails: other processors and library versions round differently, and one training from nothing differs more.
# A count of cells over a threshold moves by whole cells.
TOLERANCE, POINTS, COUNTS = 0.03, 3.0, 0.1


def headlines(name: str, made: claims.Tables) -> pd.DataFrame:
    """The headline numbers of one run: notebook, key, label, value and the tolerance on it."""
    rows = [
        {"notebook": name, "key": key, "label": number.label, "value": number.value, "tolerance": tolerance(number)}
        for key, number in claims.numbers(name, made).items()
        if number.headline and number.value is not None
    ]
    return pd.DataFrame(rows, columns=["notebook", "key", "label", "value", "tolerance"])


def tolerance(number: claims.Number) -> float:
    """Of a count ("23 of 40", or "23"), of points, or of a number on the scale of 0 to 1."""
    if "points" in number.label:
        return POINTS
    if " of " in number.text or (number.text.isdigit() and float(number.value or 0).is_integer()):
        return max(1.0, COUNTS * abs(number.value or 0.0))
    return TOLERANCE


def compare(found: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Both values of each headline, how far apart they are, and whether that is within tolerance; one that is missing is not."""
    both = published.merge(
        found[["notebook", "key", "value"]], how="outer", on=["notebook", "key"], suffixes=("", "_now")
    )
    both["difference"] = both["value_now"] - both["value"]
    both["within"] = both["difference"].abs() <= both["tolerance"]
    return both


COLUMNS = ["notebook", "key", "label", "headline", "published", "now", "difference", "tolerance", "within"]


def differences(name: str, now: claims.Tables) -> pd.DataFrame:
    """Every number that a run has beside that of the published run, in a row of `COLUMNS`; one that only one has is not within.

    No row where there is no published run.
    """
    if not (publish.BOOK / "data" / name / "run.json").exists():
        return pd.DataFrame(columns=COLUMNS)
    theirs = claims.numbers(name, tables.read_folder(publish.BOOK / "data" / name))
    ours = claims.numbers(name, now)
    rows = []
    for key in dict.fromkeys([*theirs, *ours]):
        number = theirs.get(key) or ours[key]
        values = [made[key].value if key in made else None for made in (theirs, ours)]
        if values == [None, None]:
            continue
        both = None not in values
        apart = values[1] - values[0] if both else None  # type: ignore[operator]
        rows.append(
            {
                "notebook": name,
                "key": key,
                "label": number.label,
                "headline": number.headline,
                "published": values[0],
                "now": values[1],
                "difference": apart,
                "tolerance": tolerance(number),
                "within": both and abs(apart) <= tolerance(number),  # type: ignore[arg-type]
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def all_differences(names: list[str], folder: Path) -> pd.DataFrame:
    """`differences` of the runs in `folder`/NAME, one after the other."""
    found = [differences(name, tables.read_folder(folder / name)) for name in names]
    found = [table for table in found if len(table)]
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)
    numbers = {name: float for name in ("published", "now", "difference", "tolerance")}
    return table.astype({**numbers, "within": bool, "headline": bool})


def report(table: pd.DataFrame, folder: Path) -> None:
    """Write the differences to `folder`/differences.csv, and say of each notebook how many numbers left their tolerance."""
    if not len(table):
        return
    tables.write(table, "differences", folder)
    for name, part in table.groupby("notebook", sort=False):
        outside = part[~part["within"]]
        print(f"{name}: {len(part)} numbers compared with the published run, {len(outside)} outside their tolerance")
        for row in outside.itertuples():
            print(f"  {row.label}: {row.published:.4g} published, {row.now:.4g} here (tolerance {row.tolerance:g})")


def at_published_settings(names: list[str], publishing: bool = False) -> int:
    """Execute these notebooks at the published settings, from the published checkpoints; 1 where a number left its tolerance.

    With `publishing` their differences become those of the book, notebook by notebook (`publish_differences`).
    Measurements that the cache holds are not made again: to measure anew, name an empty one.
    """
    folder = publish.BUILD / "verify" / "published settings"
    for name in names:
        notebook.source_of(name)
    for name in names:
        publish.execute(name, {}, folder / "executed", folder / "data" / name)
        if publishing:
            publish_differences(name, folder / "data" / name)
    table = all_differences(names, folder / "data")
    report(table, folder)
    return int(not table["within"].all())


def publish_differences(name: str, folder: Path) -> None:
    """The differences of the run in `folder`, made here or elsewhere, become those of the book; other notebooks' stay.

    Beside the table lies the record of each run, and, for readers, one of all together. ValueError for a notebook without
    a published run, for a run that is not at its settings, and for one that found measurements in its cache: they may be
    those of the published run.
    """
    run = notebook.record(folder, "run")
    if name not in publish.published():
        raise ValueError(f"notebook={name!r}: has no published run to compare with")
    if run["profile"] != "paper" or run["left_out"]:
        raise ValueError(f"notebook={name!r}: this run is not at the published settings; run it without parameters")
    if run["cells_from_cache"]:
        raise ValueError(
            f"notebook={name!r}: {run['cells_from_cache']} of its measurements were found in a cache; name an empty one, "
            f"as {grid.CACHE_VARIABLE}=$(mktemp -d)"
        )
    place = publish.BOOK / "data" / "differences"
    found = [differences(name, tables.read_folder(folder))]
    if (place / "differences.csv").exists():
        others = tables.read_folder(place)["differences"]
        found += [part for of, part in others.groupby("notebook", sort=False) if of != name]
    found.sort(key=lambda part: notebook.known().index(part["notebook"].iloc[0]))
    table = pd.concat(found, ignore_index=True)
    tables.write(table, "differences", place)
    tables.write_record(run, name, place)
    runs = {of: notebook.record(place, of) for of in table["notebook"].unique()}
    tables.write_record(_together(runs), "run", place)


def _together(runs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One record of several runs: sums of what they took, and of what differs all values in their order."""

    def each(values: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    made = list(runs.values())
    said = {key: each(run[key] for run in made) for key in ("profile", "date", "commit", "device")}
    taken = {key: sum(run[key] for run in made) for key in ("wall_time_s", "cells", "cells_from_cache")}
    libraries = dict.fromkeys(name for run in made for name in run["versions"])
    versions = {name: each(run["versions"].get(name, "none") for run in made) for name in libraries}
    return {**said, **taken, "versions": versions, "parameters": {"notebooks": ", ".join(runs)}}


def verify(names: list[str], publishing: bool = False) -> int:
    """Execute these notebooks at the quick profile; 1 where a headline left its tolerance, with the table of those that did."""
    for name in names:
        notebook.source_of(name)
    folder = publish.BUILD / "verify"
    found = []
    for name in names:
        publish.execute(name, notebook.profile_values(name, "quick"), folder / "executed", folder / "data" / name)
        found.append(headlines(name, tables.read_folder(folder / "data" / name)))
    table = pd.concat(found, ignore_index=True)
    if publishing:
        if PLACE.exists():
            others = pd.read_csv(PLACE)
            table = pd.concat([others[~others["notebook"].isin(names)], table])
        write_whole(PLACE, lambda draft: table.to_csv(draft, index=False, float_format="%.6g"))
        print(f"wrote {len(table)} headlines")
        return 0
    published = pd.read_csv(PLACE)
    both = compare(table, published[published["notebook"].isin(names)])
    wrong = both[~both["within"]]
    print(f"{len(both)} headlines compared; {len(wrong)} outside their tolerance")
    if len(wrong):
        print(wrong.to_string(index=False))
    return int(len(wrong) > 0)
