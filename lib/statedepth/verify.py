"""Does a re-execution give the published numbers? The quick profile's headlines against those of the same seeds and sample."""

import pandas as pd

from statedepth import claims, notebook, publish, tables
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
