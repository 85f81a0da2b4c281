"""Random parameters for the models in PyTorch that the encoder is compared with."""

import re

import numpy as np
import torch
from torch import nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every parameter, as initial zeros and ones would hide errors.

    The scales keep the tokens of deep models of one size, and let attention prefer some tokens over others. NumPy draws
    them: its streams do not change between releases.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = 0.5 * rng.standard_normal(parameter.shape, dtype=np.float32)
            if name.endswith("weight") and parameter.ndim > 1:
                values *= 3 * parameter[0].numel() ** -0.5
            elif name.endswith("weight"):
                values += 1
            parameter.copy_(torch.from_numpy(values))
    return model.eval()


def fade(model: nn.Module) -> nn.Module:
    """Makes what adds to tokens so small that the epsilon of the norms counts; its names are those of all libraries."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search("embed|token|gamma|lambda1", name):
                parameter.mul_(0.003)
    return model
