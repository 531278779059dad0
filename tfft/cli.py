"""Entry point of the command ``tfft``.

Implementation notes: TensorFlow is imported only after the arguments have been checked. ``--json`` prints one JSON
object on standard output and nothing else; an error is one sentence on standard error and an exit code (2: wrong input,
1: any other error, 130: Ctrl-C). Set ``TFFT_DEBUG=1`` to see the traceback and TensorFlow's own messages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from tfft import __version__
from tfft.commands import (
    cache,
    check,
    demo,
    evaluate,
    explain,
    export,
    features,
    inspect,
    language,
    prediction,
    preview,
    recommend,
    report,
    serve,
    train,
)
from tfft.commands import list as list_presets
from tfft.config.plan import PHASE_KEYWORDS
from tfft.console.output import FAILED, SUCCESS, PrintResult, debugging, say
from tfft.errors import TfftError, did_you_mean, join_names
from tfft.io.allocator import advise_memory
from tfft.settings import nearest_setting

_COMMANDS: dict[str, Any] = {
    "demo": demo, "train": train, "language": language, "check": check, "preview": preview, "inspect": inspect,
    "recommend": recommend, "predict": prediction, "explain": explain, "evaluate": evaluate,
    "report": report, "export": export, "serve": serve, "features": features, "cache": cache, "list": list_presets,
}  # fmt: skip
_WRONG_INPUT, _INTERRUPTED = 2, 130
_DESCRIPTION = "Transfer learning with TensorFlow and Keras: from a folder of photos to a served model."
_EPILOG = "Start with: tfft demo"


def _complete(top: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how a command goes on, and end the process; do nothing otherwise."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments without the program name. Defaults to those of the process.

    Returns:
        The exit code.
    """
    top = parser()
    _complete(top)
    options, unknown = top.parse_known_args(arguments)
    if options.command is None:
        top.print_help()
        return SUCCESS
    if unknown:
        options.parser.refuse(unknown)
    if arguments is None:  # the process is a command, and not the program of somebody else
        advise_memory()
    try:
        with _results_only(options) as print_result:
            return options.run(options, print_result)
    except TfftError as error:
        if debugging():
            raise
        say(f"tfft: error: {error}")
        return _WRONG_INPUT if isinstance(error, ValueError) else FAILED
    except KeyboardInterrupt:
        say("tfft: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # the reading end of a pipe was closed, as in `tfft list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS
    except OSError as error:
        if debugging():
            raise
        say(f"tfft: error: {error}")
        return FAILED


# --- arguments ---------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if found := _WRONG_CHOICE.match(message):
            argument, word, choices = found.groups()
            known = [choice.strip("'") for choice in choices.split(", ")]
            what, title = ("command", "Commands") if argument == "COMMAND" else (f"value of {argument}", "Values")
            message = f"unknown {what}: {word!r}.{did_you_mean(word, known)} {title}: {join_names(known)}."
        self.print_usage(sys.stderr)
        self.exit(_WRONG_INPUT, f"tfft: error: {message}\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Report arguments that are none of the command."""
        known = set(_OPTION.findall(self.format_help()))
        options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        said = [f"unknown option {word}.{_option_hint(word, known)}" for word in options]
        self.error(" ".join(said) or f"unexpected argument: {join_names(unknown)}.")

    def shorten_usage(self) -> None:
        """Leave the options out of the usage, which lists them below, or in the help."""
        needed = _OPTIONAL.sub("", " ".join(self.format_usage().split()).removeprefix(f"usage: {self.prog}"))
        self.usage = " ".join([self.prog, "[OPTIONS]", *needed.split()])


def _option_hint(word: str, known: set[str]) -> str:
    name = word.strip("-").replace("-", "_")
    if name in PHASE_KEYWORDS and "--set" in known:
        return f" It is a setting of a phase: --set {name}=VALUE."
    return nearest_setting(word, known)


_WRONG_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)$")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z0-9-]*")
_OPTIONAL = re.compile(r"\[-(?:[^][]|\[[^]]*\])*\]")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(prog="tfft", description=_DESCRIPTION, epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"tfft {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in _COMMANDS.items():
        summary = command.SUMMARY
        own = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        own.set_defaults(run=command.run, parser=own, json=False)
        command.add_arguments(own)
        own.shorten_usage()
    return top


# --- output ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _results_only(options: argparse.Namespace) -> Iterator[PrintResult]:
    """Return a function that prints the result as JSON or text; with --json, other output goes to standard error."""
    out = sys.stdout

    def print_result(values: dict[str, Any], text: Any) -> None:
        if options.json:
            print(json.dumps(values, ensure_ascii=False), file=out)
        else:
            from rich.console import Console

            wide = None if out.isatty() else 160
            Console(file=out, width=wide, soft_wrap=isinstance(text, str), highlight=False, markup=False).print(text)

    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        yield print_result
    out.flush()
