"""The error of a training that cannot go on. It loads no torch: the command line knows it before it needs torch."""


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number."""
