"""The error that stops a training. This file does not import torch, so that the command line starts fast."""


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number."""
