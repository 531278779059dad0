"""Contract of an export: :func:`check_export`."""

from __future__ import annotations

import pathlib
from typing import Any

import keras

from tfft.exporting.parity import FreshProcess, check
from tfft.exporting.signatures import serving_functions
from tfft.testing.contract import Contract, expect, report


def check_export(
    path: str | pathlib.Path, model: keras.Model, *, examples: Any = None, tolerance: float = 1e-5
) -> Contract:
    """Check an export that is already in place: layout, signatures, and answers equal to the model's.

    :func:`tfft.export` makes the same comparison before it puts a version in place; this one can be
    run again after copying it to a server.

    Args:
        path: The version folder.
        model: The Keras model it was made from.
        examples: What to compare on, as :func:`tfft.export` takes them; random inputs by default.
        tolerance: Largest allowed ``|served - expected| / (1 + |expected|)``.

    Returns:
        What passed.

    Raises:
        ContractError: With every check that failed.
    """
    folder = pathlib.Path(path)

    def layout() -> None:
        expect(folder.name.isdecimal(), f"a server reads folders named by a number, this is {folder.name!r}")
        for name in ("saved_model.pb", "variables/variables.index", "assets/model_card.md"):
            expect((folder / name).is_file(), f"{name} is missing")

    def same() -> None:
        with FreshProcess() as process:
            check(folder, serving_functions(model), examples, tolerance, process)

    return report(str(folder), iter({"layout": layout, "answers equal the model's": same}.items()))
