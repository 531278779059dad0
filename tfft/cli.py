"""The command ``tfft``: arguments in, recipes called, results and errors printed.

Hidden here: what a shell needs and a script does not. TensorFlow is imported only once the arguments
are known to be right; ``--json`` puts one JSON object on standard output and nothing else; an error
is one sentence on standard error and an exit code (2: wrong input, 1: anything else, 130: Ctrl-C).
Set ``TFFT_DEBUG=1`` to see the traceback and TensorFlow's own messages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from tfft import __version__, commands, registry
from tfft.errors import TfftError, did_you_mean, listed

_WRONG_INPUT, _INTERRUPTED = 2, 130
_DESCRIPTION = "Transfer learning with TensorFlow and Keras: from a folder of photos to a served model."
_EPILOG = "Start with: tfft demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    if options.command is None:
        parser().print_help()
        return commands.SUCCESS
    try:
        with _results_only(options) as print_result:
            return options.run(options, print_result)
    except TfftError as error:
        if commands.debugging():
            raise
        commands.say(f"tfft: error: {error}")
        return _WRONG_INPUT if isinstance(error, ValueError) else commands.FAILED
    except KeyboardInterrupt:
        commands.say("tfft: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has left, as in `tfft list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.SUCCESS
    except OSError as error:
        if commands.debugging():
            raise
        commands.say(f"tfft: error: {error}")
        return commands.FAILED


# --- arguments ---------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "list|clear" not in message:
            word = message.split("invalid choice: ")[1].split(" ")[0].strip("'")
            message = f"unknown command {word!r}.{did_you_mean(word, _COMMANDS)} Commands: {listed(_COMMANDS)}."
        self.print_usage(sys.stderr)
        self.exit(_WRONG_INPUT, f"tfft: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    top = _Parser(prog="tfft", description=_DESCRIPTION, epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"tfft {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (run, add_arguments, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.set_defaults(run=run, json=False)
        add_arguments(command)
    return top


def _demo_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "what",
        nargs="?",
        choices=["digits", "text"],
        default="digits",
        help="handwritten digits, or messages to a shop",
    )
    add.add_argument("--out", metavar="DIR", help="new folder for everything it makes (tfft-demo, tfft-demo-text)")


def _train_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "data", nargs="?", metavar="DATA",
        help="folder with one folder per class, of images or recordings, or with train/ and val/; or a table of texts "
        "or of files: .csv, .tsv, .jsonl; or tfds:NAME, of TensorFlow Datasets",
    )  # fmt: skip
    add.add_argument("--backbone", metavar="HANDLE", help="what to start from: see `tfft list` (efficientnet-lite0)")
    add.add_argument("--out", required=True, metavar="RUN", help="new folder for the model and its records")
    add.add_argument("--config", metavar="PLAN", help="plan.yaml of an earlier run, to repeat it")
    training = add.add_argument_group("training")
    training.add_argument(
        "--unfreeze", type=_blocks, metavar="N", help="last N blocks, a name, regex, share, norm, bias, all or none"
    )
    training.add_argument("--epochs", type=_count, metavar="N", help="passes with unfrozen blocks")
    training.add_argument(
        "--frozen-epochs", type=_whole, metavar="N", help="train the head alone for N passes before that (it is solved)"
    )
    training.add_argument("--batch-size", type=_size, metavar="N", help="examples per step, or auto to try sizes (32)")
    training.add_argument("--part-size", type=_whole, metavar="N", help="examples at a time, if steps need less memory")
    training.add_argument(
        "--learning-rate", type=float, metavar="RATE", help="peak rate of the passes with unfrozen blocks"
    )
    training.add_argument(
        "--plan", metavar="NAME", help="lp_ft, linear_probe, gradual, full, bit, fastai, surgical, setfit, ..."
    )
    training.add_argument(
        "--set", type=_setting, nargs="+", metavar="KEY=VALUE", help="of the plan's phases, such as layer_decay=0.8"
    )
    training.add_argument("--seed", type=int, metavar="S", help="of split, order and new weights (0)")
    training.add_argument("--dropout", type=float, metavar="SHARE", help="of the features, before the head (0.2)")
    training.add_argument("--l2", type=float, metavar="WEIGHT", help="weight decay of the head (cross-validated)")
    training.add_argument("--label-smoothing", type=float, metavar="SHARE", help="of the target, over all classes (0)")
    training.add_argument("--loss", choices=["cross_entropy", "focal"], help="what is made small (cross_entropy)")
    training.add_argument("--class-weight", choices=["balanced"], help="weigh rare classes up")
    training.add_argument("--sampling", choices=["balanced"], help="draw all classes equally often")
    training.add_argument(
        "--deterministic", action="store_true", default=None, help="only operations that repeat bit for bit"
    )
    training.add_argument("--batch-norm", choices=["fixed", "train"], help="statistics in unfrozen blocks (fixed)")
    training.add_argument(
        "--augment", nargs="+", metavar="CHANGE", help="vary pictures: flip, crop, rand; or recordings: shift, mask"
    )
    training.add_argument("--views", type=_whole, metavar="K", help="variations of each picture, used in turn")
    training.add_argument(
        "--cache",
        metavar="PLACE",
        help="keep what is frozen in this folder, in memory, or off (the user's cache folder)",
    )
    data = add.add_argument_group("data and model")
    data.add_argument("--image-size", type=_whole, nargs="+", metavar="PIXELS", help="one number, or height and width")
    data.add_argument("--resize", choices=["crop", "stretch", "pad"], help="for another aspect ratio (crop)")
    data.add_argument(
        "--validation", type=_share, metavar="SHARE", help="held out of each class, or split.csv of a run (0.2)"
    )
    data.add_argument(
        "--group", metavar="REGEX", help="what must not be on both sides: folder, or a part of the file's name"
    )
    data.add_argument("--strict", action="store_true", default=None, help="an image that cannot be used is an error")
    data.add_argument("--image", type=_column, metavar="COLUMN", help="column or feature with images or paths")
    data.add_argument("--audio", type=_column, metavar="COLUMN", help="column or feature with recordings or paths")
    data.add_argument("--sample-rate", type=_whole, metavar="HZ", help="of recordings (that of most of them)")
    data.add_argument("--seconds", type=float, metavar="S", help="of recordings that are heard (what most need)")
    text = add.add_argument_group("texts")
    text.add_argument("--text", type=_column, nargs="+", metavar="COLUMN", help="column of the texts; two for pairs")
    text.add_argument("--label", type=_column, metavar="COLUMN", help="column of the labels")
    text.add_argument("--task", choices=registry.task_names(), help="(from the labels)")
    text.add_argument("--separator", metavar="TEXT", help="between the labels of one text, where it has several")
    text.add_argument("--max-length", type=_whole, metavar="N", help="pieces of a text that are read (128 at most)")
    text.add_argument("--pooling", choices=["cls", "mean", "last", "pooled_output"], help="(the backbone's own)")
    text.add_argument("--preprocessor", metavar="HANDLE", help="makes the inputs of a text encoder of TF Hub")
    data.add_argument("--no-export", action="store_true", help="do not write the SavedModel into RUN/export")
    _opening_arguments(data)


def _language_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("data", metavar="DATA", help=".txt file, documents parted by empty lines; or a folder of them")
    add.add_argument("--backbone", required=True, metavar="PRESET", help="decoder of KerasHub, such as gpt2_base_en")
    add.add_argument("--out", required=True, metavar="RUN", help="new folder for the model and its records")
    add.add_argument("--lora", type=int, metavar="RANK", help="of the updates that train; 0 trains everything (8)")
    add.add_argument("--epochs", type=_whole, metavar="N", help="at most (10)")
    add.add_argument("--learning-rate", type=float, metavar="RATE", help="at the peak (1e-3)")
    add.add_argument("--batch-size", type=_whole, metavar="N", help="windows per step (8)")
    add.add_argument("--max-length", type=_whole, metavar="N", help="pieces in a window (128 at most)")
    add.add_argument("--validation", type=float, metavar="SHARE", help="of the documents, held out (0.1)")
    add.add_argument("--seed", type=int, metavar="S", help="of split, order and new weights (0)")
    add.add_argument("--export", metavar="OUT", help="write a SavedModel from texts to texts, such as served/1")


def _opening_arguments(add: Any) -> None:
    add.add_argument("--input-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="what black and white become")
    add.add_argument("--output", metavar="KEY", help="which output of a backbone with several")
    add.add_argument(
        "--trust",
        action="store_true",
        default=None,
        help="open a SavedModel although the scan found unusual operations",
    )


def _check_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "data", metavar="DATA", help="folder with one folder per class, also split; table of texts or files; tfds:NAME"
    )
    add.add_argument(
        "--backbone", metavar="HANDLE", help="check labels too, by a probe on its features, and find larger crops"
    )
    add.add_argument("--html", metavar="FILE", help="write a page with small pictures of what was found")
    add.add_argument("--text", type=_column, nargs="+", metavar="COLUMN", help="column of the texts; two for pairs")
    add.add_argument("--image", type=_column, metavar="COLUMN", help="column or feature with images or paths")
    add.add_argument("--audio", type=_column, metavar="COLUMN", help="column or feature with recordings or paths")
    add.add_argument("--label", type=_column, metavar="COLUMN", help="column of the labels")
    add.add_argument("--seed", type=int, default=0, metavar="S", help="of the split of texts, and of the probe (0)")
    _json_argument(add)


def _preview_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("data", metavar="DATA", help="folder with one folder per class, also split")
    add.add_argument("--out", metavar="FILE", default="preview.png", help="picture to write (preview.png)")
    add.add_argument("--augment", nargs="+", metavar="CHANGE", help="flip, crop, rand, or with a number: crop=0.7")
    add.add_argument("--resize", choices=["crop", "stretch", "pad"], default="crop", help="(crop)")
    add.add_argument("--image-size", type=_whole, nargs="+", metavar="PIXELS", default=[160], help="(160)")
    add.add_argument("--rows", type=_whole, default=6, metavar="N", help="of the grid (6)")
    add.add_argument("--columns", type=_whole, default=6, metavar="N", help="of the grid (6)")
    add.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice and the changes (0)")
    _json_argument(add)


def _inspect_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("handle", metavar="HANDLE", help="short name, folder, file or address of a model")
    add.add_argument("--image-size", type=_whole, nargs="+", metavar="PIXELS", help="one number, or height and width")
    _opening_arguments(add)
    _json_argument(add)


def _predict_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("model", metavar="RUN_OR_EXPORT", help="run folder, exported model or .keras file")
    add.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="images or recordings; for texts .txt files, a text in each line, or -; or one table (.csv, .tsv, .jsonl)",
    )
    add.add_argument("--text", action="append", metavar="TEXT", help="a text; may be given several times")
    add.add_argument("--text-pair", action="append", metavar="TEXT", help="the second text, for a model of pairs")
    add.add_argument(
        "--column", type=_column, nargs="+", metavar="COLUMN",
        help="of a table, with its texts or files (as the run has learned from); two for pairs",
    )  # fmt: skip
    add.add_argument("--out", metavar="FILE", help="new table: the rows of the given one, and what the model says")
    add.add_argument("--top", type=_whole, default=3, metavar="K", help="classes to list for each file (3)")
    _json_argument(add)


def _evaluate_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("run_folder", metavar="RUN", help="run folder")
    add.add_argument(
        "data", metavar="DATA", help="folder with one folder per class; of a split one, val/ is used; table; tfds:NAME"
    )
    add.add_argument("--batch-size", type=_whole, default=32, metavar="N", help="examples per step (32)")
    _json_argument(add)


def _export_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("run_folder", metavar="RUN", help="run folder")
    add.add_argument("out", metavar="OUT", help="version folder such as served/1, or served for the next version")
    _json_argument(add)


def _cache_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("action", choices=["list", "clear"], metavar="list|clear", help="show the entries, or remove all")
    add.add_argument("--folder", metavar="DIR", help="given to train as --cache (the user's cache folder)")
    _json_argument(add)


def _list_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("pattern", nargs="?", metavar="PATTERN", help="part of the name")
    _json_argument(add)


def _json_argument(add: argparse.ArgumentParser) -> None:
    add.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, received {text!r}")
    return int(text)


def _setting(text: str) -> tuple[str, Any]:
    """A setting of a phase: numbers, true and false as such, anything else as text."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as layer_decay=0.8, received {text!r}")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    return name, value


def _column(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


def _share(text: str) -> float | str:
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _size(text: str) -> int | str:
    return text if text == "auto" else _whole(text)


def _count(text: str) -> int:
    return 0 if text == "0" else _whole(text)


def _blocks(text: str) -> int | float | str:
    """A number is a count of blocks, a fraction a share of the parameters, anything else a name or pattern."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


# --- output ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _results_only(options: argparse.Namespace) -> Iterator[commands.PrintResult]:
    """Gives a function that prints the result as JSON or text; with --json all else goes to standard error."""
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


_COMMANDS = {
    "demo": (
        commands.demo,
        _demo_arguments,
        "train on handwritten digits, export, predict: a few minutes, nothing to download",
    ),
    "train": (commands.train, _train_arguments, "train a model on labelled images or texts"),
    "language": (commands.language, _language_arguments, "teach a language model how some texts are written"),
    "check": (commands.check, _check_arguments, "look for faults in a data set before training on it"),
    "preview": (commands.preview, _preview_arguments, "draw pictures as training will see them"),
    "inspect": (commands.inspect, _inspect_arguments, "show the blocks and the input of a backbone"),
    "predict": (commands.predict, _predict_arguments, "say what image files show, or what texts are"),
    "evaluate": (commands.evaluate, _evaluate_arguments, "measure a run on labelled images or texts"),
    "export": (commands.export, _export_arguments, "write the model of a run as a SavedModel for serving"),
    "cache": (commands.cache, _cache_arguments, "list or remove the features that were kept"),
    "list": (commands.list_presets, _list_arguments, "list the pretrained backbones known by a short name"),
}
