"""Parses the command line, runs the command, and prints one sentence for a user's mistake.

Imports only what the command needs: help, `--version` and commands on files start without PyTorch.
"""

import argparse
import ast
import contextlib
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reg4rec import __version__
from reg4rec.errors import InputError, ProcessLostError, TokenizerCollapseError
from reg4rec.progress import quiet

__all__ = ["COMMANDS", "run"]

ABOUT = "Generative recommendation that reasons over unordered semantic tokens."
GROUPS = {"data": "Fetch a public dataset or prepare your own.", "study": "Experiments that answer one question each."}
VARIANTS = ("tokenizers", "rewards", "futures", "categories", "orders", "layouts", "sizes")
COMMANDS = {
    "demo": "demo.Demo",
    "fit": "fit.Fit",
    "data get": "prepare.DataGet",
    "data prepare": "prepare.DataPrepare",
    "data market": "market.DataMarket",
    "tokenize": "commands.Tokenize",
    "pretrain": "commands.Pretrain",
    "align": "commands.Align",
    "evaluate": "commands.Evaluate",
    "recommend": "commands.Recommend",
    "explain": "explain.Explain",
    "export": "export.Export",
    "info": "info.Info",
    "doctor": "doctor.Doctor",
    "report": "report.Report",
    "compare": "study.Compare",
    "study cold-start": "study.StudyColdStart",
    "study corp": "study.StudyCorp",
    "study retrievers": "study.StudyRetrievers",
    "study sampling": "study.StudySampling",
    **{f"study {name}": "study.StudyVariants" for name in VARIANTS},
}
"""By command: its module and class."""
SHARED = ("fit", "tokenize", "pretrain", "align", "evaluate")
"""Commands that support several processes (torchrun)."""
STAGES = {"tokenize": "tokenizer", "pretrain": "pretrain", "align": "align"}
"""Commands with the settings of one stage of a recipe, by the stage's field in `Recipe`."""
PREFIXED = ("compare", "study")
"""Commands whose flags keep their prefixes, because they have several configurations with equal field names."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; on a user's mistake, print one sentence and exit with code 2.

    If the reader of the output closes the pipe (`| head`), exit silently with code 141.
    """
    try:
        try:
            _answer(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's last flush does not fail
        sys.exit(141)


def _answer(words: list[str]) -> None:
    if words[:1] == ["--version"]:
        print(f"reg4rec {__version__}")
        return
    try:
        name, rest = _chosen(words)
        with quiet("--quiet" in rest), _plain_warnings():
            command = _parse(name, [word for word in rest if word != "--quiet"])
            if name not in SHARED and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise InputError("this command runs in one process; use torchrun for fit, its stages and evaluate only")
            command.run()
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be used: {error.strerror}"
        _refuse(f"{reason}; fix its permissions, or give another file or folder")
    except Exception as error:
        if not isinstance(error, _mistakes()):
            raise
        _refuse(_as_typed(str(error), words))


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show each of reg4rec's warnings as one line on standard error within the block; others are unchanged."""
    with warnings.catch_warnings():
        show_default = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], name: str, number: int, *more: Any) -> None:
            if str(message).startswith("reg4rec"):
                print(message, file=sys.stderr)
            else:
                show_default(message, category, name, number, *more)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _refuse(sentence: str) -> NoReturn:
    print(f"reg4rec: {sentence}", file=sys.stderr)
    sys.exit(2)


def _mistakes() -> tuple[type[Exception], ...]:
    found: tuple[type[Exception], ...] = (InputError, TokenizerCollapseError, FloatingPointError, ProcessLostError)
    ops = sys.modules.get("reg4rec.ops")
    return found if ops is None else (*found, ops.BackendError)


def _chosen(words: list[str]) -> tuple[str, list[str]]:
    """The name of the command and the words after it; for other words, print help or an error and exit."""
    for count in (2, 1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name, words[count:]
    group = words[0] if words and words[0] in GROUPS else ""
    rest = words[1:] if group else words
    asked = bool(rest) and rest[0] in ("-h", "--help")
    if rest and not asked:
        known = _names(group) if group else list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))
        typed = f"{group} {rest[0]}".strip()
        _refuse(f"there is no command {typed!r}; there are {', '.join(known)}")
    print(_overview(group), file=sys.stdout if asked else sys.stderr)
    sys.exit(0 if asked else 2)


def _names(group: str) -> list[str]:
    return [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{group} ")]


def _overview(group: str) -> str:
    """The help text with all commands (of a group), each with the first sentence of its docstring."""
    lines = [f"usage: reg4rec {group} COMMAND ...".replace("  ", " "), "", GROUPS.get(group, ABOUT), ""]
    shown = [name for name in COMMANDS if name.startswith(group)]
    width = max(map(len, shown))
    about = {place: _first_sentence(place) for place in dict.fromkeys(COMMANDS[name] for name in shown)}
    lines += [f"  {name:{width}}  {about[COMMANDS[name]]}" for name in shown]
    options = "reg4rec COMMAND --help shows options, --quiet hides progress; reg4rec --version"
    return "\n".join([*lines, "", options])


def _first_sentence(place: str) -> str:
    """The first sentence of a command's docstring, read from its file because an import would load PyTorch."""
    module, _, name = place.partition(".")
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return (ast.get_docstring(found) or "").partition(":")[0].partition("\n")[0].rstrip(".") + "."


def _parse(name: str, words: list[str]) -> Any:
    """The command with its settings; an InputError of the settings is raised unchanged, not in tyro's words."""
    import tyro

    module, _, kind = COMMANDS[name].partition(".")
    command = getattr(importlib.import_module(f"reg4rec.cli.{module}"), kind)
    default, about = _default(name, command, words)
    config = () if name.partition(" ")[0] in PREFIXED else (tyro.conf.OmitArgPrefixes,)
    given = {} if default is None else {"default": default}
    with contextlib.redirect_stdout(_Help()) as shown, contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return tyro.cli(command, prog=f"reg4rec {name}", description=about, args=words, config=config, **given)
        except SystemExit as error:
            stop = error
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__context__
    if cause is None:
        print(shown.text(), end="")
        print(said.getvalue(), end="", file=sys.stderr)
    raise cause or stop


class _Help(io.StringIO):
    """Captures tyro's help, with the colors and box characters that standard output supports."""

    def __init__(self) -> None:
        super().__init__()
        self.meant_for = sys.stdout

    def isatty(self) -> bool:
        return self.meant_for.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.meant_for.encoding

    def text(self) -> str:
        """The captured text, with "none" as the default of an empty list."""
        color = r"(?:\x1b\[[\d;]*m)*"
        return re.sub(rf"\(default:({color}) \)({color}) {{0,4}}", r"(default:\1 none)\2", self.getvalue())


def _default(name: str, command: Any, words: list[str]) -> tuple[Any, str | None]:
    """The default command with the settings of the chosen recipe, and its description; None for tyro's own."""
    import tyro

    missing = tyro.MISSING
    if name in STAGES:
        from reg4rec.recipes import recipe_named

        recipe = recipe_named(_recipe_in(words))
        needed = [missing] * (2 if name == "tokenize" else 3)
        return command(*needed, config=getattr(recipe, STAGES[name])), None
    if (question := name.removeprefix("study ")) in VARIANTS:
        from reg4rec.experiments import QUESTIONS, VariantConfig, recipe_of_studies

        config = VariantConfig(recipe=recipe_of_studies(_recipe_in(words)))
        return command(data=missing, out=missing, study=question, config=config), QUESTIONS[question].title
    return None, None


def _recipe_in(words: list[str]) -> str:
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--recipe", default="default")
    name: str = options.parse_known_args(words)[0].recipe
    return name


def _as_typed(message: str, words: Sequence[str]) -> str:
    """The message for the command line: if it begins with a setting, that becomes the option as it was typed."""
    message = message.replace("start over with resume off", "start over with --no-resume")
    name, space, rest = message.partition(" ")
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    typed = [option for option in options if option.lstrip("-").rpartition(".")[2].replace("-", "_") == name]
    return " or ".join(dict.fromkeys(typed) or [name]) + space + rest
