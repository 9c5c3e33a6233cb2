"""The errors that a user's mistake can raise; the command line answers each by one sentence and exit code 2."""

import sys
import warnings


class InputError(ValueError):
    """A file, a table or an argument is not what was asked for; the message says what was found and what to do."""


class TokenizerCollapseError(RuntimeError):
    """Fitting the tokenizer produced codebooks below the health floor; the message names the reason and the remedy."""


class ProcessLostError(RuntimeError):
    """Another process of a group is gone or silent, so that the run cannot go on."""


def warn(message: str) -> None:
    """A warning that is shown with the line outside of the library that led to it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "reg4rec":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"reg4rec: {message}", stacklevel=level)
