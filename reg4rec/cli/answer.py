"""Choosing a command, running it, and answering a user's mistake by one sentence."""

import argparse
import contextlib
import functools
import io
import operator
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from reg4rec import distributed
from reg4rec.cli.commands import Align, DataGet, DataPrepare, Evaluate, Pretrain, Recommend, Tokenize
from reg4rec.cli.compare import Compare
from reg4rec.cli.demo import Demo
from reg4rec.cli.doctor import Doctor
from reg4rec.cli.explain import Explain
from reg4rec.cli.fit import Fit
from reg4rec.cli.info import Info
from reg4rec.cli.report import Report
from reg4rec.cli.study import StudyColdStart, StudyCorp, StudyRetrievers, StudySampling, StudyVariants
from reg4rec.errors import InputError, ProcessLostError, TokenizerCollapseError
from reg4rec.ops import BackendError
from reg4rec.recipes import Recipe, recipe_named
from reg4rec.studies import QUESTIONS

__all__ = ["run"]

ABOUT_DATA = "Fetch a public dataset or prepare your own."
ABOUT_STUDIES = "Experiments that answer one question each."
DataCommand = Annotated[DataGet, tyro.conf.subcommand("get")] | Annotated[DataPrepare, tyro.conf.subcommand("prepare")]
STUDIES: tuple[Any, ...] = (
    Annotated[StudyColdStart, tyro.conf.subcommand("cold-start")],
    Annotated[StudyCorp, tyro.conf.subcommand("corp")],
    Annotated[StudyRetrievers, tyro.conf.subcommand("retrievers")],
    Annotated[StudySampling, tyro.conf.subcommand("sampling")],
    *(
        Annotated[
            StudyVariants,
            tyro.conf.subcommand(
                name, default=StudyVariants(tyro.MISSING, tyro.MISSING, name), description=question.title
            ),
        ]
        for name, question in QUESTIONS.items()
    ),
)
StudyCommand: Any = functools.reduce(operator.or_, STUDIES)
MISTAKES = (InputError, TokenizerCollapseError, BackendError, FloatingPointError, ProcessLostError)
SHARED = (Fit, Tokenize, Pretrain, Align, Evaluate)
"""Commands that several processes run as one."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 2 with one sentence on a mistake of the user.

    Where the reader of the output goes away (`| head`), exit 141 without a word.
    """
    try:
        try:
            _answer(sys.argv[1:] if arguments is None else arguments)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's last flush does not fail
        sys.exit(141)


def _answer(words: Sequence[str]) -> None:
    try:
        command = _parse(words)
        if not isinstance(command, SHARED) and distributed.world() > 1:
            raise InputError("this command runs in one process; torchrun is for fit and its stages, and evaluate")
        command.run()
    except MISTAKES as error:
        print(f"reg4rec: {_as_typed(str(error), words)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be used: {error.strerror}"
        print(f"reg4rec: {reason}; mend its permissions, or give another file or folder", file=sys.stderr)
        sys.exit(2)


def _command(recipe: Recipe) -> Any:
    """The type of all commands, with a recipe's settings as the defaults of the stages."""
    tokenize = Tokenize(tyro.MISSING, tyro.MISSING, config=recipe.tokenizer)
    pretrain = Pretrain(tyro.MISSING, tyro.MISSING, tyro.MISSING, config=recipe.pretrain)
    align = Align(tyro.MISSING, tyro.MISSING, tyro.MISSING, config=recipe.align)
    stage = (
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Fit, tyro.conf.subcommand("fit")]
        | Annotated[DataCommand, tyro.conf.subcommand("data", description=ABOUT_DATA)]
        | Annotated[Tokenize, tyro.conf.subcommand("tokenize", default=tokenize)]
        | Annotated[Pretrain, tyro.conf.subcommand("pretrain", default=pretrain)]
        | Annotated[Align, tyro.conf.subcommand("align", default=align)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Recommend, tyro.conf.subcommand("recommend")]
        | Annotated[Explain, tyro.conf.subcommand("explain")]
        | Annotated[Info, tyro.conf.subcommand("info")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")]
        | Annotated[Report, tyro.conf.subcommand("report")]
    )
    # these hold several configurations with equal field names, so their flags keep their prefixes
    whole = (
        Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[StudyCommand, tyro.conf.subcommand("study", description=ABOUT_STUDIES)]
    )
    return tyro.conf.OmitArgPrefixes[stage] | whole  # type: ignore[misc]


def _recipe(words: Sequence[str]) -> Recipe:
    """The recipe that is asked for, whose settings are the defaults that the help shows."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--recipe", default="default")
    return recipe_named(options.parse_known_args(words)[0].recipe)


def _parse(words: Sequence[str]) -> Any:
    """The chosen command; an InputError of its settings comes as it is, not in tyro's words."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return tyro.cli(
                _command(_recipe(words)),
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
