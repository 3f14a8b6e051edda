"""The figures of claim 2."""

from collections.abc import Callable

from statedepth.render import Figure
from statedepth.verdicts import Tables

CHARTS: dict[str, Callable[[Tables], Figure]] = {}
