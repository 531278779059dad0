"""Linear probes: the best linear head for given features, in closed form or by L-BFGS instead of SGD.

On frozen features a head is a convex problem with one solution. Implementation notes: the penalty is chosen on
stratified held-out examples, from strong to weak with warm starts (Friedman, Hastie and Tibshirani, "Regularization
paths for generalized linear models via coordinate descent", 2010), on a sample of large data. A probe by L-BFGS with a
swept penalty is the protocol of Kornblith, Shlens and Le ("Do better ImageNet models transfer better?", 2019) and of
CLIP (Radford et al. 2021); starting fine-tuning from it is LP-FT (Kumar et al., "Fine-tuning can distort pretrained
features and underperform out-of-distribution", 2022).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Literal

import keras
import numpy as np

from tfft.console.profile import stage
from tfft.data.class_balance import class_weights
from tfft.errors import DataError, PlanError, raise_problems
from tfft.features.linear_probe.nearest_mean import Prototypes
from tfft.features.linear_probe.objective import Basis, Fitted, Problem, Ridge, find_basis, fit
from tfft.features.linear_probe.sweep import Sweep, Trial, hold_out, sample_rows
from tfft.features.linear_probe.targets import checked_targets, classes_of, is_exclusive
from tfft.heads import Head
from tfft.heads.logits import logits_layers


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
    """Head at its optimum; ``print`` shows the sweep.

    Attributes:
        kernel: float64 [D, units], for unscaled features.
        bias: float64 [units].
        l2: Strength used, see :func:`fit_linear_probe`.
        table: Trials of the sweep, strong to weak; empty if ``l2`` was given.
        iterations: L-BFGS steps, including the sweep; 0 for regression.
        seconds: Total wall time.
        loss: Loss of the head on all training features, with class weights if given, without the penalty.
        converged: Whether the final solution met its tolerance.
        sweep_examples: Number of training examples in the sweep; 0 without a sweep.
    """

    kernel: np.ndarray
    bias: np.ndarray
    l2: float
    table: tuple[Trial, ...]
    iterations: int
    seconds: float
    loss: float
    converged: bool
    sweep_examples: int

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest held-out loss; None without a sweep."""
        return min(self.table, key=lambda trial: trial.loss, default=None)

    def __str__(self) -> str:
        lines = [f"{trial}{'  <- chosen' if trial is self.best else ''}" for trial in self.table]
        if not self.converged:
            lines.append("the solver stopped before reaching its tolerance")
        return "\n".join([*lines, f"l2 {self.l2:.3g}, training loss {self.loss:.5f}, solved in {self.seconds:.1f} s"])


@stage("solve the head")
def fit_linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    head: Head,
    *,
    l2: float | Literal["auto"] = "auto",
    folds: int = 5,
    seed: int = 0,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    class_weight: str | Mapping[str | int, float] | Mapping[int, float] | None = None,
    sample_weight: np.ndarray | None = None,
    verbose: bool = False,
) -> Solved:
    """Find the kernel and bias that minimize the head's loss plus an L2 penalty: the linear probe.

    Use it as the first result of any project and, with :func:`set_head_weights`, as the start of fine-tuning. The
    objective is ``head.loss()``, a mean over examples (and over units, except for classification), plus ``l2 *
    sum(kernel ** 2)``, without a penalty on the bias: ``l2`` means the same as in ``keras.regularizers.L2(l2)`` and
    ``heads.classification(l2=...)``, so training with it continues from an optimum. In scikit-learn's terms ``C`` is
    ``1 / (2 * N * l2)``, and ``alpha`` of ridge regression ``N * l2``, with ``l2 * units`` for ``l2`` if the loss is a
    mean over units. The head's own ``l2`` and ``dropout`` are not used. Features are not standardized by column, as in
    the protocols above: the spread of a channel shows its importance (on EfficientNet-Lite0, standardizing gave a
    higher loss on new examples in eleven cases of thirteen). Focal loss has no single optimum: a head with it gets that
    of cross-entropy, a good start for training with either.

    The sweep goes from strong to weak in powers of ten until the held-out loss has risen twice, or once by more than
    five standard errors of the rise, then tries half a power on both sides of the best. The lowest loss wins, without
    the one-standard-error rule (Breiman et al. 1984), whose error bar has no unbiased estimate (Bengio and Grandvalet
    2004). The sweep computes in float32, on at most ``SWEEP_EXAMPLES`` stratified examples (fewer if features are wider
    than 6,700 or classes more than 100); with N examples in total, the penalty keeps its weight against the sum of the
    losses, ``l2 * swept / N``. The final solution is computed in float64 from all examples.

    Args:
        features: Features [N, D] of any float type; may be a ``np.memmap``, which is read in blocks.
        labels: Integers [N] for classification and binary, [N, units] for multi-label, [N] or [N, units] for
            regression.
        head: Head from :mod:`tfft.heads`.
        l2: Strength, 0 or more, or ``"auto"`` to choose it.
        folds: Number of cross-validation folds, stratified by class; the only example of a class is never held out.
        seed: Seed for folds and sample; the same seed gives the same numbers on the same machine.
        validation: (features, labels) to choose ``l2`` on instead of folds; never trained on.
        class_weight: ``"balanced"`` or weights by class name, as in :func:`tfft.data.class_weights`. The objective is
            then that of ``fit(class_weight=)``, ``mean(weight * loss)`` plus the penalty; the weighted loss of held-out
            examples determines ``l2``, and the accuracy stays unweighted.
        sample_weight: Weight of each example in the loss, [N], 0 or more; multiplied by that of its class.
        verbose: Print the table as it grows.

    Returns:
        A :class:`Solved`.

    Raises:
        DataError: If features and labels do not match each other or the head; the message lists all problems.
        PlanError: If ``l2``, ``folds`` or a weight is out of range, or a head without classes gets weights.

    Example:
        >>> solved = fit_linear_probe(features, labels, tfft.heads.from_model(model))
        >>> print(solved)
        >>> set_head_weights(model, solved)
    """
    started = time.perf_counter()
    _check_plan(l2, folds)
    if head.convex_loss is None:
        raise PlanError(
            f"The head of {head.task} has no loss whose optimum can be computed. Fix: train it, in a phase with epochs "
            "and a rate."
        )
    targets = checked_targets(features, labels, head, "features")
    weigh = _weighing(targets, head, class_weight)
    own = _own_weights(sample_weight, len(targets))
    generator = np.random.default_rng(seed)
    sample = sample_rows(targets, features.shape[1], head, generator)
    basis = find_basis(features, sample)
    sweep = None
    if l2 == "auto":
        held = hold_out(features, targets, sample, validation, basis, head, folds, weigh, generator, own[sample])
        sweep = Sweep(*held, basis.variances, verbose)
        sweep.run()
        l2 = sweep.best.l2 * len(sample) / len(targets)
    weights = weigh(targets) * own
    problem, mean = _whole(features, targets, sample, head, basis, weights), float(weights.mean())
    fitted = _solve(problem, float(l2) / mean, basis.variances, None if sweep is None else sweep.start)
    kernel, bias = basis.to_raw(fitted.values)
    return Solved(
        kernel=kernel[0].T.copy(),
        bias=bias[0].copy(),
        l2=float(l2),
        table=() if sweep is None else sweep.table,
        iterations=fitted.steps + (0 if sweep is None else sweep.steps),
        seconds=time.perf_counter() - started,
        loss=mean * float(problem.value_and_gradient(fitted.values)[0][0]),
        converged=fitted.converged,
        sweep_examples=0 if sweep is None else len(sample),
    )


def set_head_weights(model: keras.Model, solved: Solved | Prototypes) -> None:
    """Copy a solved kernel and bias into the layer ``logits`` of a model; its loss is then that of the probe.

    Use it before fine-tuning, so that the first steps do not distort the backbone for a random head (Kumar et al.
    2022).

    Args:
        model: Model from :func:`tfft.build`; the features are the inputs of its layer ``dropout``. Changed in place.
        solved: Result of :func:`fit_linear_probe` or :func:`tfft.features.nearest_mean_head`.

    Raises:
        PlanError: If the model has no such layer, several, or one of another shape.

    Example:
        >>> set_head_weights(model, fit_linear_probe(features, labels, tfft.heads.from_model(model)))
    """
    layers = logits_layers(model)
    if len(layers) != 1:
        raise PlanError(
            f"The model {model.name!r} has {len(layers)} tfft heads, expected one layer 'logits'. "
            "Make the model with tfft.build(backbone, tfft.heads.classification(class_names))."
        )
    layer = layers[0]
    wanted = (tuple(layer.kernel.shape), tuple(layer.bias.shape))
    received = (np.shape(solved.kernel), np.shape(solved.bias))
    if wanted != received:
        raise PlanError(
            f"The solved head does not fit the layer {layer.name!r} of {model.name!r}: expected a kernel "
            f"(features, units) of {wanted[0]} and a bias of {wanted[1]}, received {received[0]} and {received[1]}. "
            "Solve it on the features of this model, with head=tfft.heads.from_model(model)."
        )
    layer.kernel.assign(solved.kernel)
    layer.bias.assign(solved.bias)


def _solve(problem: Problem, l2: float, variances: np.ndarray, start: np.ndarray | None) -> Fitted:
    if problem.head.convex_loss == "squared":
        return Ridge(problem).fit(l2)
    return fit(problem, l2, variances, start, final=True)


def _weighing(
    targets: np.ndarray, head: Head, class_weight: str | Mapping[str | int, float] | Mapping[int, float] | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from targets to their weights [n]."""
    if class_weight is None:
        return lambda some: np.ones(len(some))
    if not is_exclusive(head):
        raise PlanError(f"class_weight weights examples of one class each; the head is {head.task}. Leave it out.")
    found = class_weights(classes_of(targets, head), head.class_names or (), class_weight)
    by_class = np.array([found[k] for k in range(len(found))])
    return lambda some: by_class[classes_of(some, head)]


def _own_weights(sample_weight: np.ndarray | None, count: int) -> np.ndarray:
    """Return the weight of each example in the loss."""
    if sample_weight is None:
        return np.ones(count)
    weights = np.asarray(sample_weight, np.float64).reshape(-1)
    if len(weights) != count or not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise DataError(
            f"Expected {count} sample weights, one for each example, finite, 0 or more and not all 0. Received: "
            f"{len(weights)} from {weights.min(initial=np.inf):g} to {weights.max(initial=-np.inf):g}."
        )
    return weights


def _whole(
    features: np.ndarray, targets: np.ndarray, sample: np.ndarray, head: Head, basis: Basis, weights: np.ndarray
) -> Problem:
    shares = (weights / weights.sum())[None]
    if len(sample) < len(targets):
        return Problem(features, targets, shares, head, basis)  # read from where they are in every step
    return Problem(basis.project(features, None, np.float64), targets, shares, head)


def _check_plan(l2: float | str, folds: int) -> None:
    problems = []
    is_number = isinstance(l2, (int, float, np.number)) and not isinstance(l2, bool) and 0 <= l2 < float("inf")
    if l2 != "auto" and not is_number:
        problems.append(f"l2 must be 'auto' or a number of at least 0, received {l2!r}")
    if isinstance(folds, bool) or not isinstance(folds, (int, np.integer)) or folds < 2:
        problems.append(f"folds must be an int of at least 2, received {folds!r}")
    raise_problems(PlanError, "The head cannot be solved", problems)
