"""A figure of claim 1's tables: did longer training make better models?"""

import altair as alt

from statedepth import extend
from statedepth.render import Figure
from statedepth.theme import colour, themed
from statedepth.verdicts import NAMES


def learned(tables):
    """Accuracy at the training length by the steps of the recipe, a mark per model."""
    table = tables["models"].query("length == trained_length")
    table = table.assign(name=table["architecture"].map(NAMES))
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=60)
        .encode(
            x="steps:Q",
            y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False)),
            color=colour(legend=True),
            tooltip=["name:N", "task:N", "accuracy:Q"],
        )
    )
    finding = f"{table['passed'].sum()} of {len(table)} models learned their task."
    return Figure(themed(chart), "flip.learned", finding, "Accuracy at the training length by steps.", finding)


extend.figure("flip", "learned", learned)
