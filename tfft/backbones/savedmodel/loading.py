"""Loads of a SavedModel what the scan let through, and nothing else: :func:`load`."""

from __future__ import annotations

import pathlib
import shutil
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tfft.backbones.savedmodel import folder_scan
from tfft.backbones.savedmodel.prune import write_pruned
from tfft.backbones.savedmodel.scan import Judged, check_savedmodel, chosen_meta_graph, read_meta_graphs
from tfft.backbones.text_ops import load_text_ops, ops_of_graph
from tfft.console.output import quiet_loggers
from tfft.console.profile import stage
from tfft.errors import SavedModelError, join_names, reason_of

_Result = TypeVar("_Result")


def load(
    folder: pathlib.Path, tags: Sequence[str] | None, trust: bool, signature: str | None = None
) -> tuple[Any, list[str]]:
    """Scan and load a SavedModel.

    Args:
        folder: The SavedModel.
        tags: Tags of the meta graph; None for the default.
        trust: True loads it unscanned.
        signature: Signature that will be called; None for the default.

    Returns:
        The loaded model, and notes on what was left out of it.
    """
    judged = Judged(read_meta_graphs(folder)) if trust else check_savedmodel(folder, tags=tags, signature=signature)
    meta = chosen_meta_graph(judged.meta_graphs, tags, folder)
    ops = {op for one in judged.meta_graphs for op in ops_of_graph(one.graph_def)}
    load_text_ops(ops, f"The SavedModel {str(folder)!r}")
    notes = []
    if judged.left_out:
        notes.append(f"Left out, since neither loading nor the endpoint runs it: {join_names(judged.left_out)}.")
    if beside := folder_scan.checkpoint_folder(folder) == folder:
        notes.append("The variables are beside saved_model.pb instead of in variables/, and were read from there.")
    if judged.pruned is None and not beside:
        return _load(folder, list(meta.meta_info_def.tags), folder), notes
    part = write_pruned(judged.pruned or meta, folder)
    try:
        loaded = _load(part, list(meta.meta_info_def.tags), folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    weakref.finalize(loaded, shutil.rmtree, part, ignore_errors=True)  # tables may be read from its assets again
    return loaded, notes


@stage("load the SavedModel")
def _load(folder: pathlib.Path, tags: Sequence[str], shown: pathlib.Path) -> Any:
    try:
        with quiet_loggers("tensorflow"):  # it warns twice of every reference variable; tf1.py deals with these
            # The strategy stack is per thread: what is created here must be plain, also inside a strategy scope.
            return outside_strategy(lambda: tf.saved_model.load(str(folder), tags=tags))
    except Exception as error:  # TensorFlow raises a dozen classes for a damaged model
        if "variables" in str(error) and (reason := folder_scan.missing_variables(shown)):
            raise SavedModelError(f"TensorFlow cannot load {str(shown)!r}. {reason}") from error
        raise SavedModelError(f"TensorFlow cannot load {str(shown)!r}: {reason_of(error)}") from error


def outside_strategy(function: Callable[[], _Result]) -> _Result:
    """Run a function in a thread of its own where a distribution strategy is active: what it makes is plain."""
    if not tf.distribute.has_strategy():
        return function()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
