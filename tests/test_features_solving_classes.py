"""The linear probe with many classes: its optimum, its precision and its threads, and the strength that it chooses."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tfft import heads
from tfft.features.linear_probe import objective as objective_module
from tfft.features.linear_probe import sweep, threads
from tfft.features.linear_probe.objective import Problem, find_basis
from tfft.features.linear_probe.solver import fit_linear_probe

CLASSES = 30
HEAD = heads.classification([str(number) for number in range(CLASSES)])


def intents(count, wide=40, *, apart=0.7, seed=0):
    """Features of norm 1, of classes that overlap within their topic, with a few strong axes."""
    plan, rng = np.random.default_rng(99), np.random.default_rng(seed)
    topics = plan.normal(size=(5, wide))
    centres = topics[np.arange(CLASSES) % 5] + apart * plan.normal(size=(CLASSES, wide))
    axes = np.linalg.qr(plan.normal(size=(wide, wide)))[0] / np.sqrt(np.arange(1, wide + 1))[:, None]
    labels = rng.integers(0, CLASSES, count)
    features = (centres[labels] + rng.normal(size=(count, wide))) @ axes
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def loss_of(features, labels, kernel, bias, l2=0.0):
    logits = features.astype(float) @ kernel + bias
    log = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return -log[np.arange(len(labels)), labels].mean() + l2 * np.sum(kernel**2)


@pytest.fixture
def as_if_large(monkeypatch):
    """Threads over blocks and float32 before float64, as for thousands of rows of many classes."""
    monkeypatch.setattr(threads, "_THREADED_WORK", 0)
    monkeypatch.setattr(objective_module, "_LARGE_WORK", 0)
    monkeypatch.setattr(objective_module, "_BLOCK_LOGITS", 2**10)
    monkeypatch.setattr(objective_module, "_BLOCK_ROWS", 64)


@pytest.mark.daily("0.001")
@pytest.mark.parametrize("l2", [1e-3, 1e-4])
def test_optimum_of_many_classes_is_that_of_scikit_learn_in_float64(as_if_large, l2):
    features, labels = intents(900)
    solved = fit_linear_probe(features, labels, HEAD, l2=l2)
    other = LogisticRegression(C=1 / (2 * 900 * l2), tol=1e-12, max_iter=20_000).fit(features.astype(float), labels)
    least = loss_of(features, labels, other.coef_.T, other.intercept_, l2)
    assert solved.converged
    assert loss_of(features, labels, solved.kernel, solved.bias, l2) == pytest.approx(least, rel=1e-6)
    assert solved.loss == pytest.approx(loss_of(features, labels, solved.kernel, solved.bias), rel=1e-9)


@pytest.mark.slow
def test_threads_and_blocks_give_the_same_numbers_each_time(as_if_large, monkeypatch):
    features, labels = intents(300, 20)
    first, again = (fit_linear_probe(features, labels, HEAD) for _ in range(2))
    monkeypatch.setattr(threads, "_THREADED_WORK", np.inf)
    alone = fit_linear_probe(features, labels, HEAD)
    for other in (again, alone):
        np.testing.assert_array_equal(first.kernel, other.kernel)
        assert first.table == other.table


def test_results_come_in_order_and_errors_come_through(as_if_large):
    assert list(threads.in_order(lambda part: part**2, range(50), 1.0)) == [part**2 for part in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(threads.in_order(lambda part: 1 / part, range(3), 1.0))


def test_small_losses_keep_their_digits_in_float32():
    features = np.eye(CLASSES, dtype=np.float32)
    problem = Problem(features, np.arange(CLASSES), np.full((1, CLASSES), 1 / CLASSES), HEAD)
    rng = np.random.default_rng(0)
    values = np.concatenate([12 * np.eye(CLASSES) + rng.normal(size=(CLASSES, CLASSES)), np.full((CLASSES, 1), 100)], 1)
    exact = loss_of(features, np.arange(CLASSES), values[:, :-1].T.astype(np.float32), values[:, -1])
    assert exact < 1e-3
    assert problem.value_and_gradient(values[None].astype(np.float32))[0][0] == pytest.approx(exact, abs=1e-6)


def test_a_fold_is_scored_on_its_rows_and_trained_on_the_others(as_if_large):
    features, labels = intents(300)
    rows = find_basis(features, np.arange(300)).project(features, None, np.float32)
    fold = np.sort(np.arange(300) % 3) - 1  # -1: never held out
    weights = (fold != np.arange(2)[:, None]) / 200
    problem = Problem(rows, labels, weights, HEAD)
    values = np.random.default_rng(0).normal(size=(2, CLASSES, rows.shape[1] + 1))
    losses, hits = problem.score(values, fold)
    trained, _ = problem.value_and_gradient(values)
    for number, own in enumerate(values):
        held, kernel, bias = fold == number, own[:, :-1].T, own[:, -1]
        assert losses[held].mean() == pytest.approx(loss_of(rows[held], labels[held], kernel, bias), rel=1e-5)
        np.testing.assert_array_equal(hits[held], (rows[held] @ kernel + bias).argmax(1) == labels[held])
        assert trained[number] == pytest.approx(loss_of(rows[~held], labels[~held], kernel, bias), rel=1e-5)
    assert not losses[fold == -1].any()


@pytest.mark.nightly
def test_rough_short_sweep_chooses_a_strength_as_good_as_that_of_the_exact_full_one(as_if_large, monkeypatch):
    features, labels = intents(600, apart=0.4)
    fresh, truth = intents(4000, apart=0.4, seed=1)
    rough = fit_linear_probe(features, labels, HEAD)
    monkeypatch.setattr(objective_module, "_ROUGH_STOP", {"tolerance": 1e-5, "steps": 400})
    monkeypatch.setattr(sweep, "_CLEAR_RISE", 1e9)
    exact = fit_linear_probe(features, labels, HEAD)
    assert len(rough.table) < len(exact.table)
    assert rough.iterations < 0.8 * exact.iterations
    assert abs(np.log10(rough.l2 / exact.l2)) < 0.51  # at most half a power away
    assert rough.best.loss == pytest.approx(exact.best.loss, abs=0.3 * exact.best.loss_error)
    found, least = (loss_of(fresh, truth, solved.kernel, solved.bias) for solved in (rough, exact))
    assert found < 1.02 * least


def test_sweep_goes_on_where_the_loss_has_risen_within_its_error(monkeypatch):
    features, labels = intents(60)
    cautious = fit_linear_probe(features, labels, HEAD)
    monkeypatch.setattr(sweep, "_CLEAR_RISE", 1e9)
    full = fit_linear_probe(features, labels, HEAD)
    assert cautious.table == full.table
    monkeypatch.setattr(sweep, "_CLEAR_RISE", 0.0)
    assert len(fit_linear_probe(features, labels, HEAD).table) < len(full.table)
