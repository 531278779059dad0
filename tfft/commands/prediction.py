"""``tfft predict``: images, recordings, texts, pairs or rows of a table to labels.

Hides what a model takes, and where the columns of a table are told that it learned from.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tfft import registry
from tfft.console.output import FAILED, SUCCESS, PrintResult, say, start_tensorflow
from tfft.errors import DataError, listed

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


def predict(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Predicts for files, texts or a table; what cannot be used is reported and does not stop the others."""
    if not options.files and not options.text:
        raise DataError("Nothing to predict for: give image FILEs, or texts with --text; or a table of either.")
    tables = [file for file in options.files if file.lower().endswith(_TABLES)]
    if options.out is not None and not tables:
        raise DataError("--out writes the rows of a table with what the model says of them; no table is given.")
    if all((pathlib.Path(options.model) / name).is_file() for name in ("model.keras", "settings.json")):
        return _write(options, print_result)  # a language model: it has no classes to choose from
    served = _answering(pathlib.Path(options.model))
    if tables:
        return _predict_table(options, served, print_result)
    from tfft.exporting import predict_each

    found = predict_each(served, *_items(options, served), top=options.top)
    rows = _shown(((row.file, row) for row in found), served.task, options.json)
    if options.json:
        name = "text" if served.text_inputs else "file"
        print_result({"model": options.model, "predictions": [row.to_dict(name) for row in rows]}, "")
    return FAILED if any(row.error for row in rows) else SUCCESS


def _items(options: argparse.Namespace, served: Any) -> tuple[Sequence[str], ...]:
    """What is asked about: files, texts, or texts and the second texts of pairs."""
    second = options.text_pair or ()
    if not served.text_inputs:
        if options.text or second:
            what = "image files" if served.audio is None else "recordings"
            raise DataError(f"The model in {options.model} takes {what}, not --text.")
        return (options.files,)
    if len(served.text_inputs) == 1:
        if second:
            raise DataError(f"The model in {options.model} takes one text at a time, not pairs: leave out --text-pair.")
        return ([*(options.text or ()), *_lines(options.files)],)
    if options.files or len(options.text or ()) != len(second):
        raise DataError(
            f"The model in {options.model} takes pairs: give one --text-pair for each --text, or a table; got "
            f"{len(options.text or ())} --text, {len(second)} --text-pair and {len(options.files)} files."
        )
    return options.text, second


def _predict_table(options: argparse.Namespace, served: Any, print_result: PrintResult) -> int:
    from tfft.exporting import predict_table, write_predictions
    from tfft.exporting.table_prediction import check_target

    if len(options.files) > 1 or options.text or options.text_pair:
        raise DataError(f"A table is predicted for alone; got {len(options.files)} files, and --text or not.")
    if options.out is not None:
        check_target(options.out)  # told before anything is computed
    columns = _columns(options, served)
    try:
        table, found = predict_table(served, options.files[0], columns, top=options.top)
    except DataError as error:
        if options.column is not None:
            raise
        raise DataError(f"{error} Unless --column says otherwise, it is {listed(map(repr, columns))}.") from error
    if options.out is not None:
        rows = write_predictions(table, found, options.out)
        bad = [f"{place} {row.error}" for place, row in zip(table.places, rows, strict=True) if row.error]
        for line in bad:
            say(f"tfft: {line}")
        text = f"{options.out}: {len(rows):,} rows, {len(bad):,} of which could not be used"
        print_result({"model": options.model, "out": options.out, "rows": len(rows), "errors": bad}, text)
    else:
        rows = _shown(zip(table.places, found, strict=True), served.task, options.json)
        name = "text" if served.text_inputs else "file"
        said = [{"row": at, **row.to_dict(name)} for at, row in zip(table.places, rows, strict=True)]
        if options.json:
            print_result({"model": options.model, "predictions": said}, "")
    return FAILED if any(row.error for row in rows) else SUCCESS


def _columns(options: argparse.Namespace, served: Any) -> Sequence[str | int]:
    """The columns of a table: those that were named, or else those that the run has learned from."""
    if options.column is not None:
        return options.column
    plan = pathlib.Path(options.model) / "plan.yaml"
    if plan.is_file():
        from tfft.recipes import plan_from_yaml

        known = plan_from_yaml(plan)
        for given in (known.text, known.image, known.audio):
            if given is not None:
                return given if isinstance(given, (list, tuple)) else [given]
    return served.text_inputs or ["image" if served.audio is None else "audio"]


def _shown(rows: Iterable[tuple[str, Any]], task: str, silent: bool) -> list[Any]:
    """Prints predictions as they come, each behind the name of what it is for, unless silent; and returns them."""
    found = []
    for name, row in rows:
        found.append(row)
        if row.error is not None:
            say(f"tfft: {name}: {row.error}")
        elif not silent:
            print(_line(name, row, task))
    return found


def _line(name: str, row: Any, task: str) -> str:
    """One prediction in the words of its task; those of any task where tfft does not know it."""
    asked = name if row.pair is None or name != row.file else f"{name} | {row.pair}"
    known = registry.task(task) if task in registry.task_names() else registry.Task()
    return known.format_prediction(asked, row.answer)


def _write(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Lets a language model go on with texts."""
    start_tensorflow()
    from tfft.tasks import causal_lm as models

    texts = [*(options.text or ()), *_lines(options.files)]
    written = models.load(options.model).generate(texts)
    rows = [{"text": text, "generated_text": found} for text, found in zip(texts, written, strict=True)]
    print_result({"model": options.model, "predictions": rows}, "\n\n".join(written))
    return SUCCESS


def _lines(files: Sequence[str]) -> list[str]:
    """The texts in files, one in each line; ``-`` is the standard input."""
    texts: list[str] = []
    for file in files:
        if file != "-" and not file.lower().endswith(".txt"):
            raise DataError(
                "This model takes texts: give them with --text, in a .txt file with one in each line, in a table, or - "
                f"for the standard input; got {file!r}."
            )
        data = sys.stdin.buffer.read() if file == "-" else pathlib.Path(file).read_bytes()
        for number, line in enumerate(data.splitlines(), 1):
            try:
                texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}:{number} is not UTF-8: byte {error.start} of the line is 0x{line[error.start]:02x}."
                ) from error
    return texts


def _answering(path: pathlib.Path) -> Any:
    """Opens what answers: ``Serving`` of a run or a .keras file, or an ``OpenExport``; both are asked alike."""
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected a run folder, an exported model or a .keras file.")
    start_tensorflow()
    if not path.is_file() and not (path / "model.keras").exists():
        from tfft.exporting import open_export

        return open_export(path)
    from tfft.backbones.formats.keras_file import load_keras_file
    from tfft.exporting import serving_functions

    if path.is_file() and path.suffix != ".keras":
        raise DataError(f"{path} is not a model. Expected a run folder, an exported model or a .keras file.")
    file = path if path.is_file() else path / "model.keras"
    serving = serving_functions(load_keras_file(file))
    if not serving.text_inputs and serving.decode is None:
        raise DataError(f"The model in {path} cannot read image files. {' '.join(serving.notes)}")
    return serving
