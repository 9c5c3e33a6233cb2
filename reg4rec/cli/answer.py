"""Choosing a command, running it, and answering a user's mistake by one sentence.

Only what the chosen command needs is imported: help, `--version` and work on files start without PyTorch.
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
"""What can be typed, and the class that it is."""
SHARED = ("fit", "tokenize", "pretrain", "align", "evaluate")
"""Commands that several processes run as one."""
STAGES = {"tokenize": "tokenizer", "pretrain": "pretrain", "align": "align"}
"""Commands whose settings are a recipe's."""
PREFIXED = ("compare", "study")
"""Commands that hold several configurations with equal field names, so their flags keep their prefixes."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit 2 with one sentence on a mistake of the user.

    Where the reader of the output goes away (`| head`), exit 141 without a word.
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
                raise InputError("this command runs in one process; torchrun is for fit and its stages, and evaluate")
            command.run()
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be used: {error.strerror}"
        _refuse(f"{reason}; mend its permissions, or give another file or folder")
    except Exception as error:
        if not isinstance(error, _mistakes()):
            raise
        _refuse(_as_typed(str(error), words))


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Within the block each of reg4rec's own warnings is one line on standard error; those of others are as ever."""
    with warnings.catch_warnings():
        as_ever = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], name: str, number: int, *more: Any) -> None:
            if str(message).startswith("reg4rec"):
                print(message, file=sys.stderr)
            else:
                as_ever(message, category, name, number, *more)

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
    """The name of the command, and the words after it; help, or exit 2, where the words make none."""
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
    """Every command, of a group or of all, with the first sentence of its docstring."""
    lines = [f"usage: reg4rec {group} COMMAND ...".replace("  ", " "), "", GROUPS.get(group, ABOUT), ""]
    shown = [name for name in COMMANDS if name.startswith(group)]
    width = max(map(len, shown))
    about = {place: _first_sentence(place) for place in dict.fromkeys(COMMANDS[name] for name in shown)}
    lines += [f"  {name:{width}}  {about[COMMANDS[name]]}" for name in shown]
    options = "--help after a command shows its options, --quiet leaves out its progress; --version"
    return "\n".join([*lines, "", options])


def _first_sentence(place: str) -> str:
    """Of a command's docstring, read from its file: importing it would take PyTorch."""
    module, _, name = place.partition(".")
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return (ast.get_docstring(found) or "").partition(":")[0].partition("\n")[0].rstrip(".") + "."


def _parse(name: str, words: list[str]) -> Any:
    """The chosen command; an InputError of its settings passes unchanged, not in tyro's words."""
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
        print(shown.mended(), end="")
        print(said.getvalue(), end="", file=sys.stderr)
    raise cause or stop


class _Help(io.StringIO):
    """What tyro prints, with the colors and the lines that standard output takes."""

    def __init__(self) -> None:
        super().__init__()
        self.meant_for = sys.stdout

    def isatty(self) -> bool:
        return self.meant_for.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.meant_for.encoding

    def mended(self) -> str:
        """The text, in which an empty list is a default with a name."""
        color = r"(?:\x1b\[[\d;]*m)*"
        return re.sub(rf"\(default:({color}) \)({color}) {{0,4}}", r"(default:\1 none)\2", self.getvalue())


def _default(name: str, command: Any, words: list[str]) -> tuple[Any, str | None]:
    """A command as the help shows it, with the settings of the recipe that is asked for; and what it is about."""
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
    """The message in the words of the command line: an option as it was typed, where it begins with a setting."""
    message = message.replace("start over with resume off", "start over with --no-resume")
    name, space, rest = message.partition(" ")
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    typed = [option for option in options if option.lstrip("-").rpartition(".")[2].replace("-", "_") == name]
    return " or ".join(dict.fromkeys(typed) or [name]) + space + rest
