"""A task: count modulo 3, with a token that resets the count."""

import numpy as np

from statedepth import extend
from statedepth.tasks import Task

STAY, COUNT, RESET = range(3)


def step(state, token):
    """The count after a token."""
    if token not in (STAY, COUNT, RESET):
        raise ValueError(f"token={token!r}: Reset3 has the tokens 0, 1 and 2")
    return 0 if token == RESET else (state + token) % 3


def law(_state):
    """In every state, how probable each token is next."""
    return np.array([0.4, 0.4, 0.2])


extend.task(
    Task(
        name="Reset3",
        vocab_size=3,
        n_states={"state": 3},
        target="state",
        start=0,
        step=step,
        law=law,
        read=lambda state: {"state": state},
    )
)
