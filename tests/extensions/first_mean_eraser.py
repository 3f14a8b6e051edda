"""An eraser: the one direction along which class means differ most."""

from dataclasses import replace

import torch

from statedepth import erasers, extend


def first_mean(h, y):
    """The first of the orthogonal directions that `erasers.mean_projection` takes out, alone."""
    whole = erasers.mean_projection(h, y)
    one = replace(whole, left=whole.left[..., :1], right=whole.right[..., :1, :], method="first mean", rank=1.0)
    x = torch.as_tensor(h).double()
    share = one.removed(x).square().sum() / (x - one.mean).square().sum()
    return replace(one, variance_removed=float(share))


extend.eraser("first mean", first_mean)
