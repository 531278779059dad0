"""The solved head: its gradient, its optimum against scikit-learn and Keras, its choice of l2, its set_head_weights."""

import dataclasses
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression, Ridge

from tfft import data, heads
from tfft.errors import DataError, PlanError
from tfft.features.linear_probe import lbfgs, sweep
from tfft.features.linear_probe import objective as objective_module
from tfft.features.linear_probe.objective import Problem, find_basis
from tfft.features.linear_probe.solver import fit_linear_probe, set_head_weights

NAMES = ("ant", "bee", "Käfer", "fly")
HEADS = {
    "classification": heads.classification(NAMES),
    "smoothed": heads.classification(NAMES, label_smoothing=0.1),
    "binary": heads.binary(["ant", "bee"]),
    "multilabel": heads.multilabel(NAMES, label_smoothing=0.05),
    "regression": heads.regression(["x", "y"]),
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def mixture(count, wide, *, informative=8, distance=1.2, classes=4, seed=0):
    """Gaussian clouds in a few of many columns, of unequal spread and far from 0."""
    rng = np.random.default_rng(seed)
    plan = np.random.default_rng(99)
    informative = min(informative, wide)
    centres = np.zeros((classes, wide))
    centres[:, :informative] = plan.normal(size=(classes, informative)) * distance
    spread, shift = np.exp(plan.normal(size=wide) * 0.5), plan.normal(size=wide) * 3
    labels = rng.integers(0, classes, count)
    return ((centres[labels] + rng.normal(size=(count, wide))) * spread + shift).astype(np.float32), labels


def example(head, count=80, wide=12):
    features, classes = mixture(count, wide)
    if head.task == "classification":
        return features, classes
    if head.task == "binary":
        return features, classes % 2
    if head.task == "multilabel":
        return features, np.stack([classes > 1, classes == 2, classes != 0, features[:, 0] > 0], 1).astype(np.float32)
    return features, features[:, :2] * 2 + features[:, 2:4] ** 2 / 9


def targets_of(head, labels):
    return labels if head.task == "classification" else labels.reshape(len(labels), -1).astype(float)


def objective(features, labels, solved, l2):
    logits = features.astype(float) @ solved.kernel + solved.bias
    logits -= logits.max(1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log[np.arange(len(labels)), labels].mean() + l2 * np.sum(solved.kernel**2)


def test_lbfgs_minimizes_functions_of_different_shape_side_by_side():
    rng = np.random.default_rng(0)
    curvatures, lowest = np.exp(rng.normal(size=(3, 30)) * [[0.1], [1], [2]]), rng.normal(size=(3, 30))

    def bowls(points, which):
        away = points - lowest[which]
        return 1 + np.sum(curvatures[which] * away**2, 1), 2 * curvatures[which] * away

    found = lbfgs.minimize(bowls, np.zeros((3, 30)), tolerance=1e-13, steps=500)
    assert found.converged
    np.testing.assert_allclose(found.values, lowest, atol=1e-5)
    assert not lbfgs.minimize(bowls, np.zeros((3, 30)), tolerance=1e-12, steps=3).converged


@each_head
@pytest.mark.parametrize("raw", [False, True], ids=["in-basis", "raw-rows"])
def test_gradient_is_that_of_finite_differences(head, raw):
    features, labels = example(head, count=30, wide=5)
    basis = find_basis(features, np.arange(30))
    rows = features if raw else basis.project(features, None, np.float64)
    rng = np.random.default_rng(0)
    weights = rng.random((2, 30)) / 15
    problem = Problem(rows, targets_of(head, labels), weights, head, basis if raw else None)
    values = rng.normal(size=(2, head.units, 6))
    losses, gradient = problem.value_and_gradient(values, 0.1)
    step = 1e-5 * rng.normal(size=values.shape)
    change = problem.value_and_gradient(values + step, 0.1)[0] - problem.value_and_gradient(values - step, 0.1)[0]
    np.testing.assert_allclose((2 * gradient * step).sum((1, 2)), change, rtol=1e-6)
    alone, _ = problem.value_and_gradient(values[1:], 0.1, np.array([1]))
    np.testing.assert_allclose(alone, losses[1:])


@pytest.mark.parametrize(("count", "wide"), [(300, 20), (60, 150)], ids=["long", "wide"])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_optimum_is_that_of_scikit_learn(count, wide, l2):
    features, labels = mixture(count, wide)
    solved = fit_linear_probe(features, labels, HEADS["classification"], l2=l2)
    other = LogisticRegression(C=1 / (2 * count * l2), tol=1e-10, max_iter=10_000)
    other.fit((features - features.mean(0)).astype(float), labels)
    shift = features.mean(0).astype(float)
    theirs = dataclasses.replace(solved, kernel=other.coef_.T, bias=other.intercept_ - other.coef_ @ shift)
    least = objective(features, labels, theirs, l2)
    assert solved.converged
    assert objective(features, labels, solved, l2) == pytest.approx(least, rel=1e-6)
    assert solved.loss == pytest.approx(objective(features, labels, solved, 0), abs=1e-9)
    np.testing.assert_allclose(solved.kernel, theirs.kernel, atol=2e-3 * np.abs(theirs.kernel).max())


def test_each_label_of_multilabel_is_a_logistic_regression():
    head = heads.multilabel(NAMES)
    features, labels = example(head, count=200)
    solved = fit_linear_probe(features, labels, head, l2=1e-3)
    for label in range(4):
        other = LogisticRegression(C=1 / (2 * 200 * 1e-3 * 4), tol=1e-10, max_iter=10_000)
        other.fit(features.astype(float), labels[:, label])
        np.testing.assert_allclose(solved.kernel[:, label], other.coef_[0], atol=2e-3)


@pytest.mark.parametrize(("count", "wide"), [(200, 12), (40, 90)], ids=["long", "wide"])
def test_regression_is_ridge(count, wide):
    head = HEADS["regression"]
    features, labels = example(head, count, wide)
    solved = fit_linear_probe(features, labels, head, l2=0.01)
    other = Ridge(alpha=count * 0.01 * 2).fit(features.astype(float), labels)
    np.testing.assert_allclose(solved.kernel, other.coef_.T, atol=1e-5)
    np.testing.assert_allclose(solved.bias, other.intercept_, atol=1e-4)


def test_regression_without_penalty_interpolates_and_its_sweep_prefers_some():
    head = heads.regression(1)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 80)).astype(np.float32)
    labels = features[:, 0] + rng.normal(size=50)
    assert fit_linear_probe(features, labels, head, l2=0).loss < 1e-12
    solved = fit_linear_probe(features, labels, head)
    assert solved.best.accuracy is None
    assert solved.best.loss < min(solved.table[0].loss, solved.table[-1].loss, np.var(labels))


@each_head
def test_transplanted_loss_is_the_probes_and_keras_finds_no_slope_there(head):
    head = dataclasses.replace(head, l2=1e-3)
    features, labels = example(head)
    inputs = keras.Input((12,))
    model = keras.Model(inputs, head.attach(inputs))
    model.compile("sgd", **dataclasses.replace(head, l2=0.0).compile_args())
    solved = fit_linear_probe(features, labels, head, l2=head.l2)
    before = model.evaluate(features, labels, batch_size=80, verbose=0)[0]
    set_head_weights(model, solved)
    after = model.evaluate(features, labels, batch_size=80, verbose=0)[0]
    penalty = float(sum(model.losses))
    assert after - penalty == pytest.approx(solved.loss, abs=1e-5)
    assert after < before
    with tf.GradientTape() as tape:  # the penalty of Keras is the same one, so its optimum is here too
        loss = tf.reduce_mean(head.loss()(labels, model(features))) + sum(model.losses)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.abs(gradient).max() < 2e-3 * max(1.0, penalty)


def test_sweep_chooses_what_is_best_on_new_examples():
    head = HEADS["classification"]
    features, labels = mixture(150, 200, informative=8)
    fresh, truth = mixture(4000, 200, informative=8, seed=1)
    solved = fit_linear_probe(features, labels, head)
    losses = {t.l2: objective(fresh, truth, fit_linear_probe(features, labels, head, l2=t.l2), 0) for t in solved.table}
    assert list(losses) == sorted(losses, reverse=True)
    best = min(losses, key=losses.get)
    strengths = sorted(losses)
    assert abs(strengths.index(solved.l2) - strengths.index(best)) <= 1
    assert objective(fresh, truth, solved, 0) < 1.05 * losses[best]
    assert losses[best] < 0.8 * min(losses[strengths[0]], losses[strengths[-1]])  # a choice that matters
    assert abs(solved.best.accuracy - np.mean((fresh @ solved.kernel + solved.bias).argmax(1) == truth)) < 0.1
    assert "<- chosen" in str(solved)


def test_shuffled_labels_give_chance_and_a_strong_penalty():
    head = HEADS["classification"]
    features, labels = mixture(400, 100)
    planted = fit_linear_probe(features, labels, head)
    shuffled = fit_linear_probe(features, np.random.default_rng(0).permutation(labels), head)
    assert planted.best.accuracy > 0.7
    assert shuffled.best.accuracy < 0.35
    assert shuffled.best.loss > 0.98 * np.log(4)
    assert shuffled.l2 > 100 * planted.l2


def test_validation_examples_choose_and_are_not_trained_on():
    head = HEADS["classification"]
    features, labels = mixture(100, 60)
    held = mixture(300, 60, seed=1)
    solved = fit_linear_probe(features, labels, head, validation=held)
    np.testing.assert_array_equal(solved.sweep_examples, 100)
    again = fit_linear_probe(features, labels, head, l2=solved.l2)
    assert objective(features, labels, solved, solved.l2) == pytest.approx(
        objective(features, labels, again, solved.l2), rel=1e-6
    )
    assert solved.best.loss == pytest.approx(objective(*held, again, 0), rel=0.01)
    wrong = fit_linear_probe(
        features, labels, head, validation=(held[0], np.random.default_rng(0).permutation(held[1]))
    )
    assert wrong.l2 > 10 * solved.l2


def test_same_seed_same_numbers():
    head = HEADS["classification"]
    features, labels = mixture(90, 30)
    first, second, other = (fit_linear_probe(features, labels, head, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.kernel, second.kernel)
    assert first.table == second.table
    assert first.table != other.table


def test_large_features_are_swept_on_a_sample_and_solved_from_where_they_are(tmp_path, monkeypatch):
    head = HEADS["classification"]
    features, labels = mixture(3000, 24)
    stored = np.memmap(tmp_path / "features", np.float16, "w+", shape=features.shape)
    stored[:] = features
    monkeypatch.setattr(sweep, "SWEEP_EXAMPLES", 400)
    solved = fit_linear_probe(stored, labels, head)
    assert solved.sweep_examples == 400
    assert solved.l2 == pytest.approx(solved.best.l2 * 400 / 3000)
    monkeypatch.undo()
    again = fit_linear_probe(np.asarray(stored), labels, head, l2=solved.l2)
    reached, least = (objective(stored, labels, found, solved.l2) for found in (solved, again))
    assert reached == pytest.approx(least, rel=1e-7)
    np.testing.assert_allclose(solved.kernel, again.kernel, atol=1e-3)


@pytest.mark.representative("regression")
@pytest.mark.parametrize("name", ["classification", "regression"])
def test_memory_does_not_grow_with_the_features(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sweep, "SWEEP_EXAMPLES", 300)
    monkeypatch.setattr(objective_module, "_BLOCK_FEATURES", 2**14)
    head = HEADS[name]
    features, labels = example(head, 2000, 64)
    peaks = []
    for times in (1, 8):
        stored = np.memmap(tmp_path / f"{times}", np.float16, "w+", shape=(2000 * times, 64))
        stored[:] = np.tile(features, (times, 1))
        many = np.concatenate([labels] * times)
        tracemalloc.start()
        fit_linear_probe(stored, many, head)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 14_000 * 64 * 2  # less than the added features themselves, in float16
    assert peaks[1] < 3 * peaks[0]


def test_rare_and_absent_classes_leave_finite_numbers():
    head = heads.classification([*NAMES, "once", "never"])
    features, labels = mixture(60, 30)
    labels[0], labels[1:3] = 4, 3
    solved = fit_linear_probe(features, labels, head, folds=10)
    assert np.all(np.isfinite(solved.kernel))
    assert all(np.isfinite([t.loss, t.loss_error]).all() and t.loss < 5 for t in solved.table)
    assert not np.any((features @ solved.kernel + solved.bias).argmax(1) == 5)


def test_constant_and_far_away_columns_do_no_harm():
    head = HEADS["classification"]
    features, labels = mixture(200, 10)
    plain = fit_linear_probe(features, labels, head, l2=0.01)
    more = fit_linear_probe(np.append(features + 1000, np.ones((200, 2)), 1).astype(np.float32), labels, head, l2=0.01)
    np.testing.assert_allclose(more.kernel[:-2], plain.kernel, atol=5e-3)
    np.testing.assert_allclose(more.kernel[-2:], 0, atol=1e-6)
    nothing = fit_linear_probe(np.ones((200, 3), np.float32), labels, head)
    shares = np.bincount(labels) / 200
    assert nothing.loss == pytest.approx(-np.sum(shares * np.log(shares)), rel=1e-4)


def test_everything_wrong_with_the_data_is_said_at_once():
    head = HEADS["classification"]
    features, labels = mixture(20, 5)
    features[3, 2] = np.nan
    labels[5] = 4
    with pytest.raises(DataError, match=r"(?s)in the rows 3.*from 0 to 3, received 4"):
        fit_linear_probe(features, labels, head)
    with pytest.raises(DataError, match=r"shape \(20,\), received \(19,\)"):
        fit_linear_probe(mixture(20, 5)[0], labels[:19], head)
    with pytest.raises(DataError, match=r"array of floats \[N, D\], received list"):
        fit_linear_probe([[1.0]], labels[:1], head)
    with pytest.raises(DataError, match="no two of one class"):
        fit_linear_probe(mixture(4, 5)[0], np.arange(4), head)
    with pytest.raises(DataError, match=r"validation features must be \[N, 5\]"):
        fit_linear_probe(*mixture(20, 5), head, validation=mixture(20, 6))
    with pytest.raises(PlanError, match=r"(?s)l2 must be 'auto'.*received -1.*folds must be .* received 1"):
        fit_linear_probe(*mixture(20, 5), head, l2=-1, folds=1)


def test_transplant_refuses_what_does_not_fit():
    head = HEADS["classification"]
    solved = fit_linear_probe(*mixture(40, 7), head, l2=0.1)
    inputs = keras.Input((12,))
    with pytest.raises(PlanError, match=r"kernel \(features, units\) of \(12, 4\).* received \(7, 4\)"):
        set_head_weights(keras.Model(inputs, head.attach(inputs), name="ants"), solved)
    with pytest.raises(PlanError, match="has 0 tfft heads"):
        set_head_weights(keras.Sequential([inputs, keras.layers.Dense(4)]), solved)


def unequal(count=240, wide=12, seed=0):
    features, labels = mixture(count, wide, distance=0.6, seed=seed)
    kept = np.random.default_rng(seed).random(count) < np.array([1.0, 0.5, 0.2, 0.15])[labels]
    return features[kept], labels[kept]


def weighted_objective(features, labels, kernel, bias, l2, weights):
    logits = features.astype(float) @ kernel + bias
    log = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return np.mean(weights[labels] * -log[np.arange(len(labels)), labels]) + l2 * np.sum(kernel**2)


@pytest.mark.representative("by-name")
@pytest.mark.daily("balanced")
@pytest.mark.parametrize("how", ["balanced", {"ant": 0.2, "fly": 7.0}], ids=["balanced", "by-name"])
def test_weighted_optimum_is_that_of_scikit_learn(how):
    head, l2 = HEADS["classification"], 3e-3
    features, labels = unequal()
    solved = fit_linear_probe(features, labels, head, l2=l2, class_weight=how)
    theirs = how if how == "balanced" else {0: 0.2, 1: 1.0, 2: 1.0, 3: 7.0}
    other = LogisticRegression(C=1 / (2 * len(labels) * l2), tol=1e-11, max_iter=20_000, class_weight=theirs)
    other.fit(features.astype(float), labels)
    found = data.class_weights(labels, NAMES, how)
    weights = np.array([found[k] for k in range(4)])
    least = weighted_objective(features, labels, other.coef_.T, other.intercept_, l2, weights)
    reached = weighted_objective(features, labels, solved.kernel, solved.bias, l2, weights)
    assert reached == pytest.approx(least, rel=1e-6)
    np.testing.assert_allclose(solved.kernel, other.coef_.T, atol=5e-3 * np.abs(other.coef_).max())
    assert solved.loss == pytest.approx(
        weighted_objective(features, labels, solved.kernel, solved.bias, 0, weights), rel=1e-6
    )
    plain = fit_linear_probe(features, labels, head, l2=l2)
    assert weighted_objective(features, labels, plain.kernel, plain.bias, l2, weights) > 1.02 * least


@pytest.mark.representative("binary")
@pytest.mark.parametrize("name", ["classification", "binary"])
def test_fit_with_the_same_class_weight_has_no_slope_at_the_solution(name):
    head = dataclasses.replace(HEADS[name], l2=1e-3, dropout=0.0)
    features, labels = unequal()
    labels = labels if name == "classification" else np.minimum(labels, 1)
    how = {"ant": 3.0, "bee": 0.5}  # a mean weight far from 1
    inputs = keras.Input((12,))
    model = keras.Model(inputs, head.attach(inputs))
    set_head_weights(model, fit_linear_probe(features, labels, head, l2=head.l2, class_weight=how))
    before = [v.numpy() for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0), **head.compile_args())
    weights = data.class_weights(labels, head.class_names, how)
    model.fit(features, labels, batch_size=len(labels), epochs=1, verbose=0, class_weight=weights)
    moved = max(np.abs(v - b).max() for v, b in zip(model.trainable_variables, before, strict=True))
    set_head_weights(model, fit_linear_probe(features, labels, head, l2=head.l2))
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(features, labels, batch_size=len(labels), epochs=1, verbose=0, class_weight=weights)
    without = max(np.abs(v - b).max() for v, b in zip(model.trainable_variables, before, strict=True))
    assert moved < 2e-3
    assert without > 50 * moved


def test_weights_of_one_change_nothing_and_twice_the_weights_want_twice_the_penalty():
    head = HEADS["classification"]
    features, labels = unequal()
    plain, ones, twos = (
        fit_linear_probe(features, labels, head, class_weight=how)
        for how in (None, {"ant": 1.0}, dict.fromkeys(NAMES, 2.0))
    )
    np.testing.assert_array_equal(plain.kernel, ones.kernel)
    assert plain.table == ones.table
    assert twos.l2 == pytest.approx(2 * plain.l2)
    assert twos.loss == pytest.approx(2 * plain.loss, rel=1e-6)
    assert twos.best.loss == pytest.approx(2 * plain.best.loss, rel=1e-4)
    np.testing.assert_allclose(twos.kernel, plain.kernel, atol=1e-6)


def test_balanced_weights_find_the_small_class_in_the_sweep_too():
    head = HEADS["classification"]
    features, labels = unequal(600)
    fresh, truth = mixture(2000, 12, distance=0.6, seed=1)
    plain, balanced = (fit_linear_probe(features, labels, head, class_weight=how) for how in (None, "balanced"))
    said = [(fresh @ s.kernel + s.bias).argmax(1) for s in (plain, balanced)]
    recalls = [[np.mean(s[truth == k] == k) for k in range(4)] for s in said]
    assert np.mean(recalls[1]) > np.mean(recalls[0]) + 0.05
    assert recalls[1][3] > recalls[0][3] + 0.1
    held = fit_linear_probe(features, labels, head, class_weight="balanced", validation=(fresh, truth))
    found = data.class_weights(labels, NAMES)
    weights = np.array([found[k] for k in range(4)])
    trial = held.best
    again = fit_linear_probe(features, labels, head, l2=trial.l2, class_weight="balanced")
    expected = weighted_objective(fresh, truth, again.kernel, again.bias, 0, weights)
    assert trial.loss == pytest.approx(expected, rel=0.01)


def test_weights_where_there_are_no_classes_are_refused():
    features, labels = example(HEADS["multilabel"])
    with pytest.raises(PlanError, match="the head is multilabel"):
        fit_linear_probe(features, labels, HEADS["multilabel"], class_weight="balanced")
    features, labels = mixture(60, 10)
    with pytest.raises(DataError, match="Received: none of never"):
        fit_linear_probe(features, labels, heads.classification([*NAMES, "never"]), class_weight="balanced")


def test_a_focal_head_gets_the_optimum_of_cross_entropy():
    features, labels = mixture(80, 12)
    with_loss = [dataclasses.replace(HEADS["classification"], loss_name=name) for name in heads.LOSSES]
    plain, focal = (fit_linear_probe(features, labels, head, l2=0.01) for head in with_loss)
    np.testing.assert_array_equal(plain.kernel, focal.kernel)
