"""How sequence models encode running state, layer by layer: the library behind Where State Lives."""

from statedepth import extensions

extensions.load()
