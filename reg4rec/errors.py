"""The errors for a user's mistakes; the command line prints them as one sentence and exits with code 2."""

import sys
import warnings


class InputError(ValueError):
    """A file, table or argument is unusable; the message says what was expected, what was found and what to do."""


class TokenizerCollapseError(RuntimeError):
    """Fitting the tokenizer produced codebooks below the health floor; the message names the reason and the remedy."""


class ProcessLostError(RuntimeError):
    """Another process of the group is gone or silent, so the run cannot continue."""


def warn(message: str) -> None:
    """Issue a warning that points to the caller's line outside the library."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "reg4rec":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"reg4rec: {message}", stacklevel=level)
