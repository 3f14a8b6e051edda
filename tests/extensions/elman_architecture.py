"""An architecture: Elman's recurrent network, layers of tanh units."""

from torch import nn

from statedepth import extend, models


def backbone(spec, vocab_size):
    """Tokens to (B, T, D); its `layers` are the blocks."""
    return models.RecurrentStack(nn.RNN, vocab_size, spec.width, spec.n_layers)


def block_parameters(_spec, width):
    """Two square matrices and two biases."""
    return 2 * width**2 + 2 * width


extend.architecture(
    "elman",
    title="Elman",
    colour="#56B4E9",
    family=models.Family(backbone, block_parameters),
    recipe={"steps": 1500, "lr": 1e-3},
)
