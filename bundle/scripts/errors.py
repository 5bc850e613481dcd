"""Errors that a user can act on. Each message names the record or file, the field, what was found and what to do."""


class InputError(ValueError):
    """A file, a record or a tensor is not what the bundle can work with."""


class OutputError(OSError):
    """A result cannot be written."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, or is not the one that this stage needs."""


class PretrainedWeightsError(RuntimeError):
    """The pretrained weights of a loss network cannot be had."""
