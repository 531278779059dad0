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
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import keras
import numpy as np

from tfft import registry
from tfft.data.class_balance import class_weights
from tfft.data.forms import labels_for
from tfft.errors import DataError, PlanError, join_names, raise_problems
from tfft.features.linear_probe.nearest_mean import Prototypes
from tfft.features.linear_probe.objective import Basis, Fitted, Problem, Ridge, blocks, find_basis, fit
from tfft.heads import Head, Logits

SWEEP_EXAMPLES = 20_000  # maximum for the sweep: enough to find a strength to half a power of ten
_SWEEP_LOGITS = 2_000_000  # ... and at fewer where there are many classes, but at ten of each
_SWEEP_VALUES = 2**27  # ... and at fewer where features are very wide: half a gigabyte
_STRENGTHS = 10.0 ** -np.arange(9)  # of the total variance of the features: from no influence to hardly a penalty
_HALF_POWER = 10**0.5


@dataclasses.dataclass(frozen=True)
class Trial:
    """One strength of the penalty, evaluated on held-out examples.

    Attributes:
        l2: Strength.
        loss: Loss of the head, the mean over folds.
        loss_error: Standard error of that mean over the folds; over the examples with a single validation set.
        accuracy: Accuracy (for multi-label: of single labels); None for regression.
        accuracy_error: Its standard error.
    """

    l2: float
    loss: float
    loss_error: float
    accuracy: float | None
    accuracy_error: float | None

    def __str__(self) -> str:
        right = "" if self.accuracy is None else f"  accuracy {self.accuracy:.4f} ± {self.accuracy_error:.4f}"
        return f"l2 {self.l2:9.3g}  held-out loss {self.loss:.4f} ± {self.loss_error:.4f}{right}"


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
            lines.append("the final solution stopped before it met its tolerance")
        return "\n".join([*lines, f"l2 {self.l2:.3g}, training loss {self.loss:.5f}, solved in {self.seconds:.1f} s"])


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
    """Find the kernel and bias that minimise the head's loss plus an L2 penalty: the linear probe.

    Use it as the first result of any project and, with :func:`set_head_weights`, as the start of fine-tuning. It
    minimizes ``head.loss()``, a mean over examples (and over units, for all but classification), plus ``l2 * sum(kernel
    ** 2)``, without a penalty on the bias. So ``l2`` means the same as in ``keras.regularizers.L2(l2)`` and
    ``heads.classification(l2=...)``: with it, training continues from an optimum. scikit-learn sums over examples and
    halves the penalty: its ``C`` is ``1 / (2 * N * l2)``, its ``alpha`` of ridge regression ``N * l2``, with ``l2 *
    units`` for ``l2`` if the loss is a mean over units. The head's own ``l2`` and ``dropout`` are not used. Features
    are not standardized by column, as in the protocols above: the spread of a channel shows its importance (on
    EfficientNet-Lite0, standardizing gave a higher loss on new examples in eleven cases of thirteen); the principal
    axes improve the conditioning. Focal loss has no single optimum: a head with it gets that of cross-entropy, a good
    start for training with either.
    cross-entropy, a good start for training with either.

    The sweep goes from strong to weak in powers of ten until the held-out loss has risen twice, then tries half a power
    on both sides of the best. The lowest loss wins. The one-standard-error rule (Breiman et al. 1984) would prefer
    stronger penalties, but its error bar has no unbiased estimate (Bengio and Grandvalet 2004). The sweep uses at most
    ``SWEEP_EXAMPLES`` stratified examples (fewer if features are wider than 6,700 or classes more than 100); with N
    examples in total, the penalty keeps its weight against the sum of the losses, ``l2 * swept / N``. The sweep
    computes in float32, the final solution in float64 and from all examples.

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
    targets = _targets(features, labels, head, "features")
    weigh = _weighing(targets, head, class_weight)
    own = _own_weights(sample_weight, len(targets))
    generator = np.random.default_rng(seed)
    sample = _sample(targets, features.shape[1], head, generator)
    basis = find_basis(features, sample)
    sweep = None
    if l2 == "auto":
        held = _hold_out(features, targets, sample, validation, basis, head, folds, weigh, generator, own[sample])
        sweep = _Sweep(*held, basis.variances, verbose)
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
    layers = list(_logits_layers(model))
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


class _Sweep:
    """Sweep of strengths on held-out rows, with the best one and a start for the fit on all rows.

    The weights of a problem have the sum 1, so its strengths are those of the caller divided by the mean row weight.
    """

    def __init__(
        self, problem: Problem, fold: np.ndarray, weights: np.ndarray, variances: np.ndarray, verbose: bool
    ) -> None:
        self._problem, self._fold, self._variances, self._verbose = problem, fold, variances, verbose
        self._weights, self._mean = weights, float(weights.mean())
        self._ridge = Ridge(problem) if problem.head.convex_loss == "squared" else None
        self._done: dict[float, tuple[Trial, np.ndarray]] = {}
        self.steps = 0

    @property
    def table(self) -> tuple[Trial, ...]:
        """All trials, strong to weak."""
        return tuple(self._done[l2][0] for l2 in sorted(self._done, reverse=True))

    @property
    def best(self) -> Trial:
        """The trial with the least held-out loss."""
        return min(self.table, key=lambda trial: trial.loss)

    @property
    def start(self) -> np.ndarray:
        """The mean of the folds at the best strength, [1, U, r + 1]."""
        return self._done[self.best.l2][1].mean(0, keepdims=True)

    def run(self) -> None:
        """Follow the path until the loss has risen twice, then search around its minimum."""
        total = max(float(self._variances.sum()), 1e-12) / self._problem.gain
        for strength in _STRENGTHS * (total * self._mean):
            self._try(strength)
            if self.best.l2 > 50 * strength:  # two powers past it
                break
        best = self.best.l2
        self._try(best * _HALF_POWER)
        self._try(best / _HALF_POWER)

    def _try(self, l2: float) -> None:
        if self._ridge is None:
            fitted = fit(self._problem, l2 / self._mean, self._variances, self._guess(l2))
        else:
            fitted = self._ridge.fit(l2)
        losses, hits, _ = self._problem.score(fitted.values)
        regression = self._problem.head.convex_loss == "squared"
        trial = Trial(l2, *self._judge(losses * self._weights), *((None, None) if regression else self._judge(hits)))
        self._done[l2] = (trial, fitted.values)
        self.steps += fitted.steps
        if self._verbose:
            print(trial, flush=True)

    def _guess(self, l2: float) -> np.ndarray | None:
        """Extrapolate the two nearest solutions linearly over the logarithm of the strength."""
        near = sorted(self._done, key=lambda done: abs(np.log(done / l2)))[:2]
        found = [self._done[done][1] for done in near]
        if len(near) < 2:
            return found[0] if near else None
        return found[0] + (found[1] - found[0]) * (np.log(l2 / near[0]) / np.log(near[1] / near[0]))

    def _judge(self, scores: np.ndarray) -> tuple[float, float]:
        own = [row[self._fold == number] for number, row in enumerate(scores)]
        means = own[0] if len(own) == 1 else np.array([np.mean(part) for part in own])
        error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        return float(np.mean(means)), float(error)


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
    if not _is_exclusive(head):
        raise PlanError(f"class_weight weights examples of one class each; the head is {head.task}. Leave it out.")
    found = class_weights(_classes(targets, head), head.class_names or (), class_weight)
    by_class = np.array([found[k] for k in range(len(found))])
    return lambda some: by_class[_classes(some, head)]


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


def _hold_out(
    features: np.ndarray,
    targets: np.ndarray,
    sample: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None,
    basis: Basis,
    head: Head,
    folds: int,
    weigh: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    own: np.ndarray,
) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return the rows of the sweep in float32, the fold that each is held out of (-1: never), and its weight."""
    rows, swept = basis.project(features, sample, np.float32), targets[sample]
    if validation is None:
        fold = _folds(swept, head, folds, generator)
    else:
        other = _targets(*validation, head, "validation features", features.shape[1])
        chosen = _sample(other, features.shape[1], head, generator)
        rows = np.concatenate([rows, basis.project(validation[0], chosen, np.float32)])
        swept = np.concatenate([swept, other[chosen]])
        fold = np.repeat([-1, 0], [len(sample), len(chosen)])
    trains = fold != np.arange(fold.max() + 1)[:, None]
    weights = weigh(swept) * np.concatenate([own, np.ones(len(swept) - len(own))])
    shares = trains * weights
    return Problem(rows, swept, shares / shares.sum(1, keepdims=True), head), fold, weights


def _folds(targets: np.ndarray, head: Head, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Assign the rows of each class to folds in turn, so that a class with two rows is never missing in training."""
    order = generator.permutation(len(targets))
    classes = _classes(targets, head)[order]
    order = order[np.argsort(classes, kind="stable")]
    alone = np.isin(_classes(targets, head), np.flatnonzero(np.bincount(classes) == 1))
    dealt = order[~alone[order]]
    if len(dealt) < 2:
        raise DataError(
            f"{len(targets)} examples, no two of one class, leave none to choose l2 on. Pass l2=, for example l2=0.01."
        )
    fold = np.full(len(targets), -1)
    fold[dealt] = np.arange(len(dealt)) % min(folds, len(dealt))
    return fold


def _sample(targets: np.ndarray, width: int, head: Head, generator: np.random.Generator) -> np.ndarray:
    """Draw the rows of the sweep, sorted: the same share of each class, but at least ten if available."""
    limit = min(SWEEP_EXAMPLES, max(_SWEEP_LOGITS // head.units, 10 * head.units), max(_SWEEP_VALUES // width, 100))
    if len(targets) <= limit:
        return np.arange(len(targets))
    order = generator.permutation(len(targets))
    classes = _classes(targets, head)[order]
    order = order[np.argsort(classes, kind="stable")]
    sizes = np.bincount(classes)
    sizes = sizes[sizes > 0]
    rank = np.concatenate([np.arange(size) for size in sizes])
    share = np.maximum(rank - 9, 0) / np.repeat(sizes, sizes)
    return np.sort(order[np.argsort(share, kind="stable")[:limit]])


def _classes(targets: np.ndarray, head: Head) -> np.ndarray:
    if _is_exclusive(head):
        return targets.reshape(-1).astype(np.int64)
    return np.zeros(len(targets), np.int64)


def _is_exclusive(head: Head) -> bool:
    """Whether each example has exactly one class."""
    return registry.task(head.task).exclusive_classes


def _check_plan(l2: float | str, folds: int) -> None:
    problems = []
    is_number = isinstance(l2, (int, float, np.number)) and not isinstance(l2, bool) and 0 <= l2 < float("inf")
    if l2 != "auto" and not is_number:
        problems.append(f"l2 must be 'auto' or a number of at least 0, received {l2!r}")
    if isinstance(folds, bool) or not isinstance(folds, (int, np.integer)) or folds < 2:
        problems.append(f"folds must be an int of at least 2, received {folds!r}")
    raise_problems(PlanError, "The head cannot be solved", problems)


def _targets(features: np.ndarray, labels: np.ndarray, head: Head, what: str, width: int | None = None) -> np.ndarray:
    """Return int [N] for classification, float [N, units] for the rest; raise all that is wrong."""
    labels = labels_for(head, np.asarray(labels))
    problems = []
    if not isinstance(features, np.ndarray) or features.ndim != 2 or not features.size or features.dtype.kind != "f":
        received = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
        problems.append(f"{what} must be an array of floats [N, D], received {received}")
    elif width is not None and features.shape[1] != width:
        problems.append(f"{what} must be [N, {width}] like the training features, received {features.shape}")
    elif bad := _not_finite(features):
        problems.append(f"{what} hold values that are NaN or infinite, in the rows {join_names(bad, limit=5)}")
    single = _is_exclusive(head)
    shapes = [(len(features),)] * (single or head.units == 1) + [(len(features), 1 if single else head.units)]
    if labels.shape not in shapes:
        problems.append(f"labels of a {head.task} head must have the shape {shapes[0]}, received {labels.shape}")
    elif not np.all(np.isfinite(labels)):
        problems.append("labels hold values that are NaN or infinite")
    elif head.convex_loss != "squared" and (wrong := _not_labels(labels, head)):
        highest = head.units - 1 if head.convex_loss == "softmax" else 1
        problems.append(f"labels must be whole numbers from 0 to {highest}, received {join_names(wrong, limit=5)}")
    raise_problems(DataError, f"The head cannot be solved on these {what}", problems)
    if head.convex_loss == "softmax":
        return labels.reshape(-1).astype(np.int64)
    return head.scaled(labels.reshape(len(labels), head.units).astype(np.float64))


def _not_finite(features: np.ndarray) -> list[int]:
    bad: list[int] = []
    for part in blocks(*features.shape):
        sums = np.asarray(features[part], np.float64).sum(1)  # of finite floats always finite in float64
        bad += (np.flatnonzero(~np.isfinite(sums)) + part.start).tolist()
    return bad


def _not_labels(labels: np.ndarray, head: Head) -> list[object]:
    top = head.units if head.convex_loss == "softmax" else 2
    return np.unique(labels[(labels < 0) | (labels >= top) | (labels != np.floor(labels))]).tolist()


def _logits_layers(model: keras.Model) -> Iterator[Logits]:
    for layer in model.layers:
        if isinstance(layer, Logits):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _logits_layers(layer)
