"""Choosing a command, running it, and answering a user's mistake by one sentence."""

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
    command: Any = tyro.cli(
        Command,
        prog="reg4rec",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes,),
        description="Generative recommendation that reasons over unordered semantic tokens.",
    )
    try:
        command.run()
    except MISTAKES as error:
        sys.exit(_say(error))
    except KeyboardInterrupt:
        print("reg4rec: interrupted; run the same command again to go on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _say(error: Exception) -> int:
    print(f"reg4rec: {error}", file=sys.stderr)
    return 2
