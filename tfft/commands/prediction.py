"""``tfft predict``: predict labels for files, texts or rows of a table.

Implementation notes: the run provides the columns of a table; the modality of the model determines the accepted files.
"""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tfft import registry
from tfft.commands.opening import open_model
from tfft.commands.options import add_json
from tfft.console.output import FAILED, SUCCESS, PrintResult, say, start_tensorflow
from tfft.errors import DataError, join_names
from tfft.io.text_lines import read_lines
from tfft.settings import parse_column, parse_whole

SUMMARY = "predict labels for images, recordings, texts or a table"

_LONGEST_NAME = 60  # characters of a file that is named after a text
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", metavar="RUN_OR_EXPORT", help="run folder, exported model or .keras file")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="images or recordings, or folders of them; for texts .txt files, a text in each line, or -; or one table "
        "(.csv, .tsv, .jsonl)",
    )
    parser.add_argument("--text", action="append", metavar="TEXT", help="a text; repeat the option for several")
    parser.add_argument("--text-pair", action="append", metavar="TEXT", help="the second text, for a model of pairs")
    parser.add_argument(
        "--column", type=parse_column, nargs="+", metavar="COLUMN",
        help="column of a table with the texts or files; two for pairs (as in training)",
    )  # fmt: skip
    parser.add_argument("--delimiter", metavar="CHAR", help="character between the fields of the table (detected)")
    parser.add_argument("--encoding", metavar="NAME", help="encoding of the table (UTF-8, or detected)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="new table: the rows of the given one with their predictions; for speech synthesis a new folder of WAV "
        "files",
    )
    parser.add_argument("--top", type=parse_whole, default=3, metavar="K", help="number of classes to list (3)")
    parser.add_argument("--draw", metavar="FOLDER", help="new folder: each image with its boxes or its mask drawn")
    add_json(parser)


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Predict for files, texts or a table; report inputs that cannot be used and continue."""
    if not options.files and not options.text:
        raise DataError("Expected image FILEs, texts with --text, or a table of either. Received: nothing.")
    tables = [file for file in options.files if file.lower().endswith(_TABLES)]
    if all((pathlib.Path(options.model) / name).is_file() for name in ("model.keras", "settings.json")):
        return _write(options, print_result)  # a language model has no classes
    served = open_model(options.model)
    if tables:
        return _predict_table(options, served, print_result)
    if options.out is not None and type(registry.task_or_plain(served.task)).file_of is registry.Task.file_of:
        raise DataError("--out writes the rows of a table with their predictions. Expected a table. Received: none.")
    from tfft.exporting import predict_each

    taken = served.asked()
    kind = registry.modality(taken.modality)
    files = [file for given in options.files for file in _files_in(given, kind.file_suffixes())]
    asked = (files, options.text or (), options.text_pair or ())
    items = kind.items_of_command(options.model, taken.spec, *asked)
    found = predict_each(served, items, top=options.top)
    if options.draw is not None:
        found = _drawn(found, served.task, pathlib.Path(options.draw))
    if options.out is not None:
        found = _as_files(found, served.task, pathlib.Path(options.out))
    rows = _shown(((row.file, row) for row in found), served.task, options.json)
    if options.json:
        print_result({"model": options.model, "predictions": [row.to_dict(kind.request) for row in rows]}, "")
    return FAILED if any(row.error for row in rows) else SUCCESS


def _drawn(found: Iterator[Any], task: str, folder: pathlib.Path) -> Iterator[Any]:
    """Write each input with its prediction drawn on it into a folder, and yield the predictions."""
    drawing = registry.task_or_plain(task).draw

    def draw(row: Any) -> tuple[str, str, bytes]:
        png = drawing(row.file, row.outputs)
        if png is None:
            raise DataError(f"--draw: a model for {task or 'this task'} has nothing to draw. Leave --draw out.")
        return pathlib.Path(row.file).stem, ".png", png

    return _written(found, folder, "--draw", draw)


def _as_files(found: Iterator[Any], task: str, folder: pathlib.Path) -> Iterator[Any]:
    """Write each prediction as a file into a folder, named after its text, and yield the predictions."""
    of_prediction = registry.task_or_plain(task).file_of

    def make(row: Any) -> tuple[str, str, bytes]:
        suffix, content = of_prediction(row.outputs) or ("", b"")
        return re.sub(r"\W+", "-", row.file).strip("-")[:_LONGEST_NAME] or "text", suffix, content

    return _written(found, folder, "--out", make)


def _written(
    found: Iterator[Any], folder: pathlib.Path, option: str, make: Callable[[Any], tuple[str, str, bytes]]
) -> Iterator[Any]:
    """Write a file for each prediction into a new folder, and yield the predictions."""
    from tfft.io.atomic import write_whole

    if folder.exists():
        raise DataError(f"{option}: {folder} exists. Expected a new folder, so that no file is overwritten.")
    taken: set[str] = set()
    for row in found:
        if row.error is None:
            stem, suffix, content = make(row)
            folder.mkdir(parents=True, exist_ok=True)
            count = 0
            while (name := f"{stem}{f'-{count}' if count else ''}{suffix}") in taken:  # files of two folders
                count += 1
            taken.add(name)
            write_whole(folder / name, content)
        yield row


def _files_in(given: str, suffixes: Sequence[str]) -> list[str]:
    """Return a file as it is, and the files of a folder and those below it that end as the modality's do."""
    folder = pathlib.Path(given)
    if not folder.is_dir():
        return [given]
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = [str(path) for path in inside if path.suffix.lower() in suffixes]
    if not found:
        raise DataError(f"Expected files of {join_names(suffixes)} in {folder}. Received: {len(inside)} other files.")
    return found


def _predict_table(options: argparse.Namespace, served: Any, print_result: PrintResult) -> int:
    from tfft.exporting import predict_table, write_predictions
    from tfft.exporting.table_prediction import check_target

    if len(options.files) > 1 or options.text or options.text_pair:
        raise DataError(f"Expected a table alone. Received: {len(options.files)} files, possibly with --text.")
    if options.out is not None:
        check_target(options.out)  # fail before computing
    columns = _columns(options, served)
    try:
        form = {"delimiter": options.delimiter, "encoding": options.encoding}
        table, found = predict_table(served, options.files[0], columns, top=options.top, **form)
    except DataError as error:
        if options.column is not None:
            raise
        raise DataError(f"{error} Without --column, it is {join_names(map(repr, columns))}.") from error
    if options.out is not None:
        rows = write_predictions(table, found, options.out)
        bad = [f"{place} {row.error}" for place, row in zip(table.places, rows, strict=True) if row.error]
        for line in bad:
            say(f"tfft: {line}")
        text = f"{options.out}: {len(rows):,} rows, {len(bad):,} unusable"
        print_result({"model": options.model, "out": options.out, "rows": len(rows), "errors": bad}, text)
    else:
        rows = _shown(zip(table.places, found, strict=True), served.task, options.json)
        name = registry.modality(served.asked().modality).request
        said = [{"row": at, **row.to_dict(name)} for at, row in zip(table.places, rows, strict=True)]
        if options.json:
            print_result({"model": options.model, "predictions": said}, "")
    return FAILED if any(row.error for row in rows) else SUCCESS


def _columns(options: argparse.Namespace, served: Any) -> Sequence[str | int]:
    """Return the columns of a table: those that were named, else those of the training data."""
    if options.column is not None:
        return options.column
    taken, plan = served.asked(), pathlib.Path(options.model) / "plan.yaml"
    kind = registry.modality(taken.modality)
    if plan.is_file():
        from tfft.recipes import plan_from_yaml

        known = plan_from_yaml(plan)
        for given in (getattr(known, name) for name in kind.columns):
            if given is not None:
                return given if isinstance(given, (list, tuple)) else [given]
    return kind.columns_of(taken.spec)


def _shown(rows: Iterable[tuple[str, Any]], task: str, silent: bool) -> list[Any]:
    """Print predictions as they arrive, each after the name of its input, unless silent; return them."""
    found = []
    for name, row in rows:
        found.append(row)
        if row.error is not None:
            say(f"tfft: {name}: {row.error}")
        elif not silent:
            print(_line(name, row, task))
    return found


def _line(name: str, row: Any, task: str) -> str:
    """Format one prediction for its task, or generically for an unknown task."""
    asked = name if row.pair is None or name != row.file else f"{name} | {row.pair}"
    return registry.task_or_plain(task).format_prediction(asked, row.answer)


def _write(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Generate continuations of texts with a language model."""
    start_tensorflow()
    from tfft.tasks import causal_lm as models

    texts = [*(options.text or ()), *read_lines(options.files)]
    written = models.load(options.model).generate(texts)
    rows = [{"text": text, "generated_text": found} for text, found in zip(texts, written, strict=True)]
    print_result({"model": options.model, "predictions": rows}, "\n\n".join(written))
    return SUCCESS
