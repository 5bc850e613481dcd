"""Errors that a user can act on. Each message names the record or file, the field, what was found and what to do."""


class InputError(ValueError):
    """A file, a record or a tensor is not what the bundle can work with."""


class OutputError(OSError):
    """A result cannot be written."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, or is not the one that this stage needs."""


class DivergenceError(RuntimeError):
    """Training has come to values that are not finite."""


class PretrainedWeightsError(RuntimeError):
    """The pretrained weights of a loss network cannot be had."""


BUNDLE_ERRORS = (InputError, OutputError, CheckpointError, PretrainedWeightsError)


def told(error: BaseException) -> str:
    """What an error of another package says, in one line; its type when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def root_cause(error: BaseException) -> BaseException:
    """The bundle's own error among the causes of an error, which MONAI wraps in others; else the first of the chain."""
    while not isinstance(error, BUNDLE_ERRORS) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    return error
