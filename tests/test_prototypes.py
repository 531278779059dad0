"""The head of nearest means: labels by distance and by cosine, a scale by leaving out, nothing moved by a new class."""

import keras
import numpy as np
import pytest

from tfft import features as tf_features
from tfft import heads
from tfft.errors import DataError, PlanError
from tfft.features import nearest_mean_head, set_head_weights

NAMES = ("ant", "bee", "Käfer", "fly")
SHARES = np.array([0.4, 0.3, 0.2, 0.1])
HEAD = heads.classification(NAMES)
each_distance = pytest.mark.parametrize("distance", ["cosine", "euclidean"])


def clouds(count=60, wide=7, classes=4, distance=1.0, seed=0):
    """Clouds far from 0, of unequal size."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(classes, wide)) * distance
    labels = np.concatenate(
        [np.arange(classes), rng.choice(classes, count - classes, p=SHARES[:classes] / SHARES[:classes].sum())]
    )
    return (centres[labels] + rng.normal(size=(count, wide)) + 3).astype(np.float32), labels


def log_softmax(logits, axis=-1):
    return logits - np.logaddexp.reduce(logits, axis=axis, keepdims=True)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def logits_of(found, features):
    return features.astype(float) @ found.kernel + found.bias


def test_euclidean_labels_are_the_nearest_means_and_logits_the_distances():
    features, labels = clouds()
    fresh, _ = clouds(200, seed=1)
    found = nearest_mean_head(features, labels, HEAD, distance="euclidean")
    means = np.stack([features[labels == k].astype(float).mean(0) for k in range(4)])
    np.testing.assert_allclose(found.means, means, atol=1e-6)
    far = ((fresh[:, None].astype(float) - means) ** 2).sum(-1)
    logits = logits_of(found, fresh)
    np.testing.assert_array_equal(logits.argmax(1), far.argmin(1))
    expected = -found.scale * far / 2
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-6)


def test_it_is_discriminant_analysis_with_a_round_spread():
    from sklearn.covariance import EmpiricalCovariance
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    class Round(EmpiricalCovariance):
        def fit(self, rows):
            self.covariance_ = np.eye(rows.shape[1])
            return self

    features, labels = clouds()
    fresh, _ = clouds(200, seed=1)
    other = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Round(), priors=np.full(4, 0.25))
    other.fit(features.astype(float), labels)
    found = nearest_mean_head(features, labels, HEAD, distance="euclidean", scale=1.0)
    np.testing.assert_allclose(log_softmax(logits_of(found, fresh), 1), other.predict_log_proba(fresh), atol=1e-6)


def test_cosine_labels_are_those_of_normalized_features_though_the_head_is_linear():
    features, labels = clouds()
    fresh, _ = clouds(300, seed=1)
    found = nearest_mean_head(features, labels, HEAD)
    centre = features.astype(float).mean(0)
    near = unit(features - centre)
    means = unit(np.stack([near[labels == k].mean(0) for k in range(4)]))
    cosine = unit(fresh - centre) @ means.T
    logits = logits_of(found, fresh)
    np.testing.assert_array_equal(logits.argmax(1), cosine.argmax(1))
    length = np.linalg.norm(fresh - centre, axis=1, keepdims=True)
    np.testing.assert_allclose(logits, found.scale * length * cosine, atol=1e-6)
    assert found.distance == "cosine"
    plain = nearest_mean_head(features, labels, HEAD, distance="euclidean")
    assert np.any(logits_of(plain, fresh).argmax(1) != logits.argmax(1))  # it is another classifier


@each_distance
def test_leaving_out_is_what_a_head_without_the_example_says(distance):
    features, labels = clouds(30)
    found = nearest_mean_head(features, labels, HEAD, distance=distance, scale=0.7)
    options = {"centre": found.centre} if distance == "cosine" else {}
    losses, right = [], []
    for i in range(30):
        if np.sum(labels == labels[i]) == 1:
            continue
        others = np.arange(30) != i
        one = nearest_mean_head(features[others], labels[others], HEAD, distance=distance, scale=0.7, **options)
        logits = logits_of(one, features[i : i + 1])[0]
        losses.append(-log_softmax(logits)[labels[i]])
        right.append(logits.argmax() == labels[i])
    assert found.judged == len(losses)
    assert found.loss == pytest.approx(np.mean(losses), abs=1e-9)
    assert found.accuracy == pytest.approx(np.mean(right))


@each_distance
def test_the_scale_is_near_the_best_and_follows_the_unit_of_the_features(distance):
    features, labels = clouds(400, distance=0.7)
    found = nearest_mean_head(features, labels, HEAD, distance=distance)
    losses = {
        factor: nearest_mean_head(features, labels, HEAD, distance=distance, scale=factor * found.scale).loss
        for factor in (0.5, 0.8, 1.0, 1.25, 2.0)
    }
    assert min(losses, key=losses.get) == 1.0
    assert losses[2.0] > 1.02 * losses[1.0]
    fresh, truth = clouds(2000, distance=0.7, seed=1)
    surely = log_softmax(logits_of(found, fresh), 1)
    assert -surely[np.arange(2000), truth].mean() == pytest.approx(found.loss, rel=0.12)
    other = nearest_mean_head(features * 10, labels, HEAD, distance=distance)
    np.testing.assert_allclose(logits_of(other, features * 10), logits_of(found, features), atol=1e-4)


@each_distance
def test_the_scale_is_finite_where_all_is_right_and_small_where_nothing_is(distance):
    features, labels = clouds(40, distance=30.0)
    found = nearest_mean_head(features, labels, HEAD, distance=distance)
    assert found.accuracy == 1.0
    assert 0 < found.loss < 0.2
    assert np.isfinite(found.kernel).all()
    shuffled = nearest_mean_head(features, np.random.default_rng(0).permutation(labels), HEAD, distance=distance)
    assert shuffled.loss == pytest.approx(np.log(4), rel=0.1)


@each_distance
def test_one_example_of_each_class_is_enough(distance):
    features, labels = clouds(4, distance=5.0)
    found = nearest_mean_head(features, labels, HEAD, distance=distance)
    logits = logits_of(found, features)
    np.testing.assert_array_equal(logits.argmax(1), labels)
    assert 0.3 < np.exp(log_softmax(logits, 1))[np.arange(4), labels].min() < 0.999
    assert (found.judged, np.isnan(found.loss)) == (0, True)
    assert "no class has two examples" in str(found)


@each_distance
def test_a_new_class_moves_no_other(distance):
    features, labels = clouds()
    first = nearest_mean_head(
        features[labels < 3], labels[labels < 3], heads.classification(NAMES[:3]), distance=distance
    )
    options = {"centre": first.centre} if distance == "cosine" else {}
    more = nearest_mean_head(features, labels, HEAD, distance=distance, scale=first.scale, **options)
    np.testing.assert_array_equal(more.means[:3], first.means)
    np.testing.assert_array_equal(more.kernel[:, :3], first.kernel)
    np.testing.assert_array_equal(more.bias[:3], first.bias)


@each_distance
def test_a_binary_head_says_the_same_with_one_logit(distance):
    features, labels = clouds(classes=2)
    two = nearest_mean_head(features, labels, heads.classification(NAMES[:2]), distance=distance)
    one = nearest_mean_head(features, labels, heads.binary(NAMES[:2]), distance=distance)
    assert one.kernel.shape == (7, 1)
    logits = logits_of(two, features)
    np.testing.assert_allclose(logits_of(one, features)[:, 0], logits[:, 1] - logits[:, 0], atol=1e-9)


def test_it_is_transplanted_like_a_solved_head():
    features, labels = clouds()
    inputs = keras.Input((7,))
    model = keras.Model(inputs, HEAD.attach(inputs))
    model.compile("sgd", **HEAD.compile_args())
    found = tf_features.nearest_mean_head(features, labels, heads.from_model(model))
    set_head_weights(model, found)
    np.testing.assert_allclose(model.predict(features, verbose=0), logits_of(found, features), atol=1e-4)
    accuracy = model.evaluate(features, labels, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(np.mean(logits_of(found, features).argmax(1) == labels))
    assert "left out one by one, 60 examples" in str(found)


def test_half_precision_and_equal_features_leave_finite_numbers():
    features, labels = clouds()
    half = nearest_mean_head(features.astype(np.float16), labels, HEAD)
    np.testing.assert_allclose(half.means, nearest_mean_head(features, labels, HEAD).means, atol=5e-3)
    for distance in ("cosine", "euclidean"):
        same = nearest_mean_head(np.ones((8, 3), np.float32), np.arange(8) % 4, HEAD, distance=distance)
        assert np.isfinite(same.kernel).all()
        assert np.isfinite(same.loss)
        assert nearest_mean_head(np.ones((4, 3), np.float32), np.arange(4), HEAD, distance=distance).scale > 0


def test_what_has_no_mean_is_refused_with_all_reasons():
    features, labels = clouds()
    with pytest.raises(DataError, match="no example has the class Käfer, fly, so it has no mean"):
        nearest_mean_head(features[labels < 2], labels[labels < 2], HEAD)
    with pytest.raises(DataError, match="2 problems") as caught:
        nearest_mean_head(features[:, 0], np.append(labels, 9), HEAD)
    assert "features must be an array of floats [N, D]" in str(caught.value)
    assert "Received: 9 at position 60" in str(caught.value)
    with pytest.raises(DataError, match="60 rows, 59 labels"):
        nearest_mean_head(features, labels[:-1], HEAD)
    with pytest.raises(DataError, match="NaN or infinite"):
        nearest_mean_head(np.where(labels[:, None] == 1, np.nan, features), labels, HEAD)
    with pytest.raises(PlanError, match="the head is regression"):
        nearest_mean_head(features, labels, heads.regression(1))
    with pytest.raises(PlanError, match="(?s)2 problems.*Did you mean 'euclidean'.*scale must be a number above 0"):
        nearest_mean_head(features, labels, HEAD, distance="euclidian", scale=0)
    with pytest.raises(PlanError, match="centre changes nothing in Euclidean distance"):
        nearest_mean_head(features, labels, HEAD, distance="euclidean", centre=np.zeros(7))
    with pytest.raises(DataError, match="centre must be 7 finite numbers"):
        nearest_mean_head(features, labels, HEAD, centre=np.zeros(3))
