"""The errors that a user's mistake can raise; the command line answers each by one sentence and exit code 2."""


class InputError(ValueError):
    """A file, a table or an argument is not what was asked for; the message says what was found and what to do."""


class TokenizerCollapseError(RuntimeError):
    """Fitting the tokenizer produced codebooks below the health floor; the message names the reason and the remedy."""


class ProcessLostError(RuntimeError):
    """Another process of a group is gone or silent, so that the run cannot go on."""
