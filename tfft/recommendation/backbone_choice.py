"""Comparison of backbones on some data: :func:`recommend`."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import keras

from tfft import registry
from tfft.backbones.available import available_backbones
from tfft.config import RunConfig, RunSettings, config_of
from tfft.errors import BackboneError, PlanError, TfftError, raise_problems
from tfft.evaluation import Scores
from tfft.recipes.fine_tuning import finetune
from tfft.recipes.run_data import RunData, load_run_data
from tfft.recommendation.contender import Contender
from tfft.recommendation.contest import Contest
from tfft.recommendation.result import Recommendation

_LEAST = 40  # training examples below which folds say nothing


def recommend(
    data: Any,
    candidates: Sequence[Any] | None = None,
    task: str = "auto",
    *,
    max_examples: int = 3200,
    cache: str | os.PathLike[str] | bool | None = "auto",
    verbose: bool = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> Recommendation:
    """Compare backbones on some data and recommend one.

    A linear probe is solved to its optimum on the frozen features of each candidate, on growing samples of the training
    examples. Every example is predicted by a probe that was not trained on it, and candidates are compared in pairs on
    the same examples. A candidate is dropped only when the 95 % interval of its difference to the best, divided among
    all comparisons, shows it to be worse by more than 1 % of the gap between guessing and a perfect score. Among those
    at most that far behind the best, the fastest is recommended. The held-out examples are not used for selection; the
    scores of the recommended backbone come from them.

    Closed scores of transferability do not decide: they mostly order by size (Singh, Hess and Vanschoren, "How not to
    benchmark your SITE metric", 2026). With ``minutes=``, the best candidate by probe and the largest one are also
    fine-tuned for a short time, as Renggli et al. ("Which model to transfer? Finding the needle in the growing
    haystack", 2022) propose, since a probe alone may prefer the wrong one; the held-out score then decides.

    Args:
        data: As in :func:`tfft.finetune`.
        candidates: Backbones as in :func:`tfft.finetune`. None compares those whose weights are on this machine, see
            ``tfft recommend --help``: nothing is downloaded.
        task: As in :func:`tfft.finetune`; its head must have a linear probe.
        max_examples: Training examples of the last round.
        cache: Place for features, as in :func:`tfft.finetune`.
        verbose: Print each round in a line.
        config: As in :func:`tfft.finetune`.
        **settings: Settings of :func:`tfft.finetune` for data and backbones, such as ``image_size``; ``minutes`` is the
            time for everything: no round begins that would not fit, and the time left goes to fine-tuning. Without it,
            probes alone decide.

    Returns:
        A :class:`Recommendation`; ``print`` shows a table and a sentence.

    Raises:
        TfftError: If the data or the settings cannot be used.
        PlanError: If the task has no linear probe, or there are fewer than 40 training examples.
        BackboneError: If no candidate can be opened.

    Example:
        >>> found = tfft.recommend("photos/", ["efficientnet-lite0", "keras:MobileNetV2"])
        >>> print(found)
        >>> tfft.finetune(found.best, "photos/", out="runs/photos")
    """
    began = time.perf_counter()
    _check(candidates, max_examples)
    chosen = config_of(config, task, settings, ("candidates", "max_examples", "cache", "verbose", "config"))
    chosen.check()
    run_data = load_run_data(data, chosen)
    if registry.task(run_data.task).head_class().convex_loss is None:
        raise PlanError(
            f"recommend compares linear probes on frozen features, and the head of {run_data.task} has to be trained. "
            "Train one run for each backbone, and compare their scores."
        )
    if run_data.is_ready:
        raise PlanError(
            "recommend takes samples of the training examples, which a tf.data.Dataset cannot give. Expected arrays, a "
            "folder, a table or what tfft.data.load returns. Received: datasets."
        )
    count = len(run_data.splits.train)
    if count < _LEAST:
        raise PlanError(f"Expected at least {_LEAST} training examples to compare backbones, received {count}.")
    say: Callable[[str], None] = (lambda line: print(line, flush=True)) if verbose else (lambda line: None)
    contenders, left_out = _opened(candidates, run_data, chosen, cache)
    deadline = None if chosen.minutes is None else began + 60 * chosen.minutes
    contest = Contest(run_data, contenders, min(max_examples, count), chosen.seed or 0, deadline, say)
    contest.run()
    tuned = {} if deadline is None else _fine_tuned(contest, data, chosen, deadline, say)
    return contest.result(tuned, left_out, time.perf_counter() - began)


def _opened(
    candidates: Sequence[Any] | None, data: RunData, config: RunConfig, cache: Any
) -> tuple[list[Contender], dict[str, str]]:
    """Return the candidates that can be opened, and why others cannot."""
    handles = list(candidates) if candidates is not None else available_backbones(data.splits.modality or "image")
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    for handle in handles:
        try:
            contender = Contender(handle, data, config, cache)
        except TfftError as error:
            name = os.fspath(handle) if isinstance(handle, (str, os.PathLike)) else getattr(handle, "name", str(handle))
            left_out[name] = str(error)
            continue
        if contender.name in {each.name for each in found}:
            contender.name += f" ({len(found) + 1})"
        found.append(contender)
    if not found:
        why = "; ".join(f"{name}: {reason.removesuffix('.')}" for name, reason in left_out.items())
        raise BackboneError(
            f"No candidate can be used{': ' + why if why else ''}. Give the backbones to compare, such as "
            "candidates=['efficientnet-lite0', 'keras:MobileNetV2']; tfft.list_backbones() lists more."
        )
    return found, left_out


def _fine_tuned(
    contest: Contest, data: Any, config: RunConfig, deadline: float, say: Callable[[str], None]
) -> dict[str, Scores]:
    """Return held-out scores of the best and the largest candidate after a short fine-tuning, by name."""
    tried = {id(each): each for each in (contest.best, max(contest.left, key=lambda each: each.parameters))}
    if len(tried) < 2:
        return {}
    found: dict[str, Scores] = {}
    for at, each in enumerate(tried.values()):
        minutes = (deadline - time.perf_counter()) / 60 / (len(tried) - at)
        if minutes < 0.5:
            say("no time is left for fine-tuning")
            return {}
        run = finetune(each.handle, data, config=config, minutes=minutes, export_to=False, verbose=False)
        found[each.name] = run.final_scores
        say(f"fine-tuned for {minutes:.1f} minutes: {each.name} {found[each.name].value:.4f}")
        gc.collect()
    return found


def _check(candidates: Any, max_examples: Any) -> None:
    problems = []
    if isinstance(candidates, (str, os.PathLike, keras.Model)):
        problems.append(f"candidates: Expected a list of backbones. Received: {candidates!r}. Fix: put it into a list")
    elif candidates is not None and not len(candidates):
        problems.append("candidates: Expected at least one backbone, or None. Received: an empty list")
    if isinstance(max_examples, bool) or not isinstance(max_examples, int) or max_examples < _LEAST:
        problems.append(f"max_examples: Expected an int of at least {_LEAST}. Received: {max_examples!r}")
    raise_problems(PlanError, "Backbones cannot be compared", problems)
