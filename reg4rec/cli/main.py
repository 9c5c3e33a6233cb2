"""Choosing a command, running it, and answering a user's mistake by one sentence."""

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from reg4rec.cli.commands import DataGet, DataPrepare, Evaluate, Pretrain, Recommend, Tokenize
from reg4rec.cli.compare import Compare
from reg4rec.cli.demo import Demo
from reg4rec.cli.info import Info
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.ops import BackendError

__all__ = ["main"]

DataCommand = Annotated[DataGet, tyro.conf.subcommand("get")] | Annotated[DataPrepare, tyro.conf.subcommand("prepare")]
StageCommand = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[DataCommand, tyro.conf.subcommand("data", description="Fetch a public dataset or prepare your own.")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Recommend, tyro.conf.subcommand("recommend")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)
# compare holds several configurations with equal field names, so its flags keep their prefixes
Command = tyro.conf.OmitArgPrefixes[StageCommand] | Annotated[Compare, tyro.conf.subcommand("compare")]

MISTAKES = (InputError, TokenizerCollapseError, BackendError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 2 with one sentence on a mistake of the user, 130 when interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        _parse(words).run()
    except MISTAKES as error:
        print(f"reg4rec: {_as_typed(str(error), words)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("reg4rec: interrupted; run the same command again to go on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _parse(words: Sequence[str]) -> Any:
    """The chosen command; an InputError of its settings comes as it is, not in tyro's words."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return tyro.cli(
                Command,
                prog="reg4rec",
                args=words,
                config=(tyro.conf.OmitSubcommandPrefixes,),
                description="Generative recommendation that reasons over unordered semantic tokens.",
            )
        except SystemExit as error:
            stop = error
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__context__
    if cause is None:
        print(said.getvalue(), end="", file=sys.stderr)
    raise cause or stop


def _as_typed(message: str, words: Sequence[str]) -> str:
    """The message with the option as it was typed, where it begins with the name of a setting."""
    name, space, rest = message.partition(" ")
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    typed = [option for option in options if option.lstrip("-").rpartition(".")[2].replace("-", "_") == name]
    return " or ".join(dict.fromkeys(typed) or [name]) + space + rest
