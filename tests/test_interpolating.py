"""Points between two models and soups of several: ends bit by bit, never worse than the best, files, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from weight_models import compiled, dataset, of_keras, of_savedmodel, same, set_back

import tfft
from tfft import heads
from tfft.errors import DataError, PlanError
from tfft.freezing import refresh_batch_norm
from tfft.freezing.weight_values import movable
from tfft.weight_averaging import greedy_soup, interpolate
from tfft.weight_averaging.selection import selection_score

HELD_OUT = dataset(60, seed=9, batch=32)


def fine_tuned(model, seed=0, rate=0.02, epochs=3, data=None):
    """Trains a model on pictures of its own seed, with a new optimizer or with one that is set back."""
    if not model.compiled:
        compiled(model, rate)
    for v in model.optimizer.variables:
        v.assign(np.zeros(v.shape))
    model.optimizer.learning_rate = rate
    model.fit(dataset(seed=seed) if data is None else data, epochs=epochs, verbose=0, shuffle=False)
    return model


@pytest.fixture(params=["keras", "savedmodel"])
def model(request, tmp_path_factory):
    def make():
        made = of_keras() if request.param == "keras" else of_savedmodel(tmp_path_factory.getbasetemp())
        return compiled(tfft.unfreeze(made, 2))

    return set_back(("interpolating", request.param), make)


def measured(model, data=HELD_OUT):
    return model.evaluate(data, verbose=0, return_dict=True)


@pytest.mark.daily("keras")
def test_both_ends_are_measured_and_the_best_point_is_in_the_model(model):
    start, first = model.get_weights(), measured(model)
    end, last = fine_tuned(model).get_weights(), measured(model)
    found = interpolate(model, start, HELD_OUT, steps=5)
    assert [p.alpha for p in found.points] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.points[0].results == first
    assert found.points[-1].results == last
    assert max(selection_score(p.results) for p in found.points) == selection_score(found.best.results)
    assert measured(model) == found.best.results
    for now, a, b in zip(model.get_weights(), start, end, strict=True):
        np.testing.assert_allclose(now, (1 - found.alpha) * a + found.alpha * b, rtol=1e-6, atol=1e-7)


@pytest.mark.representative("keras")
def test_the_ends_come_back_bit_by_bit(model):
    first, value = model.get_weights(), selection_score(measured(model))
    second = fine_tuned(model, epochs=6).get_weights()
    good, bad = (second, first) if selection_score(measured(model)) > value else (first, second)
    model.set_weights(bad)
    assert interpolate(model, good, HELD_OUT, steps=2).alpha == 0.0
    assert same(model.get_weights(), good)
    assert interpolate(model, bad, HELD_OUT, steps=2).alpha == 1.0
    assert same(model.get_weights(), good)


def times_three():
    """A model of one weight, and data for which 3 is the right one."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.compile("sgd", "mse")
    x = np.linspace(-1, 1, 8, dtype="float32")[:, None]
    data = tf.data.Dataset.from_tensor_slices((x, 3 * x)).batch(4)
    return model, x, data


def test_the_middle_is_found_where_it_is_better_than_both_ends():
    model, x, data = times_three()
    model.set_weights([np.array([[5.0]], "float32")])
    found = interpolate(model, {"dense/kernel" if "dense/kernel" in paths(model) else paths(model)[0]: [[0.0]]}, data)
    assert found.alpha == pytest.approx(0.6)
    assert model.get_weights()[0] == pytest.approx(3.0)
    assert [p.loss for p in found.points] == pytest.approx(
        [float(np.mean((x * (5 * a - 3)) ** 2)) for a in np.linspace(0, 1, 11)], abs=1e-5
    )
    assert found.best.accuracy is None


def paths(model):
    return [v.path for v in model.weights]


@pytest.mark.representative("keras")
def test_of_equal_points_the_one_nearest_to_the_start_is_taken(model):
    end = model.get_weights()
    start = [w.copy() for w in end]
    start[paths(model).index("logits/bias")] -= 4.0  # the same shift of all logits: the same probabilities
    found = interpolate(model, start, HELD_OUT.map(lambda x, y: (x, y)), steps=3)
    losses = {round(p.loss, 4) for p in found.points}
    assert len(losses) == 1
    same_model = interpolate(model, model.get_weights(), HELD_OUT, steps=3)
    assert same_model.alpha == 0.0
    assert len({p.loss for p in same_model.points}) == 1


@pytest.mark.representative("keras")
def test_accuracy_comes_before_loss_and_another_metric_can_decide(model):
    assert selection_score({"loss": 9.0, "accuracy": 0.6}) > selection_score({"loss": 0.1, "accuracy": 0.5})
    assert selection_score({"loss": 0.1, "accuracy": 0.5}) > selection_score({"loss": 0.2, "accuracy": 0.5})
    assert selection_score({"loss": 7.0}) > selection_score({"loss": float("nan"), "accuracy": 1.0})
    assert selection_score({"loss": 1.0, "val_accuracy": 1.0, "val_loss": 2.0}, prefix="val_") == (1.0, -2.0)
    assert selection_score({"loss": 1.0}, prefix="val_") is None
    start = model.get_weights()
    fine_tuned(model)
    with pytest.raises(PlanError, match=r"measures no 'acuracy'. Did you mean 'accuracy'\?"):
        interpolate(model, start, HELD_OUT, metric="acuracy")
    found = interpolate(model, start, HELD_OUT, steps=3, metric="loss")  # nonsense, but it is what was asked for
    assert found.best.loss == max(p.loss for p in found.points)


@pytest.mark.representative("keras")
def test_start_may_name_a_part_of_the_variables(model):
    kept = {v.path: v.numpy() for v in model.weights}
    fine_tuned(model)
    end = {v.path: v.numpy() for v in model.weights}
    start = {"logits/bias": kept["logits/bias"] + np.array([1000.0, 0.0, 0.0], "float32")}
    assert interpolate(model, start, HELD_OUT, steps=2).alpha == 1.0
    assert all(np.array_equal(v.numpy(), end[v.path]) for v in model.weights)


@pytest.mark.nightly
def test_statistics_that_train_are_interpolated_or_recomputed():
    model = tfft.unfreeze(of_keras(), 2, batch_norm="train")
    start = model.get_weights()
    end = fine_tuned(model).get_weights()
    data = dataset(seed=0)

    def at_half(**more):
        model.set_weights(end)
        line = interpolate(model, start, HELD_OUT, steps=3, **more)
        return line.points

    plain, fresh = at_half(), at_half(refresh=data)
    assert plain[0].results == fresh[0].results
    assert plain[2].results == fresh[2].results
    assert plain[1].results != fresh[1].results
    middle = [0.5 * (a.astype("float64") + b) for a, b in zip(start, end, strict=True)]
    model.set_weights([m.astype("float32") for m in middle])
    assert plain[1].loss == pytest.approx(measured(model)["loss"], rel=1e-5)
    refresh_batch_norm(model, data)
    assert fresh[1].loss == pytest.approx(measured(model)["loss"], rel=1e-5)


@pytest.mark.daily("keras")
def test_an_interpolation_that_fails_leaves_the_end_in_the_model(model):
    start = model.get_weights()
    end = fine_tuned(model).get_weights()
    broken = HELD_OUT.map(lambda x, y: (x, y + 7))  # classes that there are not
    with pytest.raises(tf.errors.InvalidArgumentError):
        interpolate(model, start, broken, steps=3)
    assert same(model.get_weights(), end)
    bad = [np.full_like(v, np.nan) for v in end]
    found = interpolate(model, bad, HELD_OUT, steps=3)
    assert found.alpha == 1.0
    assert same(model.get_weights(), end)
    model.set_weights(bad)
    with pytest.raises(PlanError, match="not a finite number at any point"):
        interpolate(model, bad, HELD_OUT, steps=3)


def test_what_cannot_be_interpolated_is_refused_with_names(model):
    weights = model.get_weights()
    with pytest.raises(PlanError, match=r"start holds 2 arrays.*\n.*the first that differs is"):
        interpolate(model, weights[:1] + [np.zeros((7, 7))], HELD_OUT)
    with pytest.raises(
        PlanError, match=r"(?s)no variable 'logits/bais'. Did you mean 'logits/bias'.*'logits/kernel' has the shape"
    ):
        interpolate(model, {"logits/bais": weights[0], "logits/kernel": np.zeros((2, 2))}, HELD_OUT)
    with pytest.raises(PlanError, match="steps must be an int of at least 2"):
        interpolate(model, weights, HELD_OUT, steps=1)
    with pytest.raises(DataError, match="never ends"):
        interpolate(model, weights, HELD_OUT.repeat())
    with pytest.raises(DataError, match="holds no batch"):
        interpolate(model, weights, HELD_OUT.take(0))
    with pytest.raises(PlanError, match="is not compiled"):
        interpolate(of_keras(), weights, HELD_OUT)
    assert same(model.get_weights(), weights)


@pytest.mark.representative("keras")
def test_a_table_and_plain_values(model):
    start = model.get_weights()
    found = interpolate(fine_tuned(model), start, HELD_OUT, steps=3)
    lines = str(found).splitlines()
    assert f"best at alpha {found.alpha:.3g}" in lines[0]
    assert sum("best" in line for line in lines[1:]) == 1
    assert any(line.rstrip(" │").endswith(("start", "start, best")) for line in lines)
    assert found.to_dict()["points"][1]["alpha"] == 0.5


# ---------------------------------------------------------------------------------- soups


_tuned = {}


@pytest.fixture
def runs(model, request):
    """A model and the weights of four fine-tunings of it, the last of which went wrong."""
    start, kind = model.get_weights(), request.node.callspec.id
    if kind not in _tuned:
        _tuned[kind] = []
        for seed, rate in ((0, 0.02), (1, 0.02), (2, 0.01), (3, 30.0)):
            model.set_weights(start)
            _tuned[kind].append(fine_tuned(model, seed, rate).get_weights())
        model.set_weights(start)
    return model, [[values.copy() for values in one] for one in _tuned[kind]]


@pytest.mark.representative("keras")
def test_a_soup_is_at_least_as_good_as_its_best_ingredient(runs):
    model, weights = runs
    alone = []
    for values in weights:
        model.set_weights(values)
        alone.append(measured(model))
    soup = greedy_soup(model, weights, HELD_OUT)
    assert measured(model) == soup.results
    assert selection_score(soup.results) >= max(map(selection_score, alone))
    assert selection_score(soup.best) == max(map(selection_score, alone))
    order = sorted(range(4), key=lambda i: selection_score(alone[i]), reverse=True)
    assert [one.name for one in soup.ingredients] == [f"number {i + 1}" for i in order]
    assert soup.ingredients[0].taken
    assert not next(one for one in soup.ingredients if one.name == "number 4").taken
    taken = [weights[int(name.split()[-1]) - 1] for name in soup.taken]
    for k, now in enumerate(model.get_weights()):
        np.testing.assert_allclose(now, np.mean([w[k] for w in taken], axis=0, dtype="float64"), rtol=1e-6, atol=1e-7)
    # Every row says what the soup was worth with it, and only what did not make it worse was taken.
    current = selection_score(soup.best)
    for one in soup.ingredients[1:]:
        rank = (one.soup_accuracy, -one.soup_loss)
        assert one.taken == (rank >= current)
        current = rank if one.taken else current


def test_two_halves_of_a_planted_solution_are_both_taken():
    model, _, data = times_three()
    soup = greedy_soup(model, [[[[9.0]]], [[[2.0]]], [[[3.9]]]], data)
    assert soup.taken == ("number 3", "number 2")
    assert model.get_weights()[0] == pytest.approx(2.95)


@pytest.mark.representative("keras")
def test_a_soup_of_one_or_of_equals_is_that_model(runs):
    model, weights = runs
    assert greedy_soup(model, weights[:1], HELD_OUT).taken == ("number 1",)
    assert same(model.get_weights(), weights[0])
    assert len(greedy_soup(model, [weights[1]] * 3, HELD_OUT).taken) == 3
    assert same(model.get_weights(), weights[1])


@pytest.mark.nightly
def test_files_of_both_kinds_make_the_same_soup_as_arrays(runs, tmp_path):
    model, weights = runs
    files = []
    for i, values in enumerate(weights):
        model.set_weights(values)
        files.append(tmp_path / (f"{i}.keras" if i % 2 else f"{i}.weights.h5"))
        (model.save if i % 2 else model.save_weights)(files[-1])
    soup = greedy_soup(model, files, HELD_OUT)
    to_dataset = model.get_weights()
    again = greedy_soup(model, weights, HELD_OUT)
    assert same(to_dataset, model.get_weights())
    assert [files[int(name.split()[-1]) - 1].name for name in again.taken] == [
        name.split("/")[-1] for name in soup.taken
    ]
    by_path = [dict(zip(paths(model), values, strict=True)) for values in weights]
    greedy_soup(model, by_path, HELD_OUT)
    assert same(to_dataset, model.get_weights())


@pytest.mark.nightly
def test_a_soup_of_trained_statistics_gets_fresh_ones():
    model = tfft.unfreeze(of_keras(), 2, batch_norm="train")
    start, weights, data = model.get_weights(), [], dataset(seed=0)
    for seed in (0, 1):
        model.set_weights(start)
        weights.append(fine_tuned(model, seed).get_weights())
    refreshed = []
    for values in weights:
        model.set_weights(values)
        refreshed.append(measured(model))
    soup = greedy_soup(model, weights, HELD_OUT, refresh=data)
    assert measured(model) == soup.results
    assert sorted(one.loss for one in soup.ingredients) == sorted(r["loss"] for r in refreshed)  # alone: as they are
    if len(soup.taken) == 2:
        before = model.get_weights()
        refresh_batch_norm(model, data)
        assert same(model.get_weights(), before)
    statistics = len(movable(model)) - len(model.trainable_variables)
    assert statistics == 4


@pytest.mark.representative("keras")
def test_checkpoints_that_do_not_fit_are_refused_with_names(runs, tmp_path):
    model, weights = runs
    before = model.get_weights()
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    other.save(tmp_path / "other.keras")
    unsafe = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])
    unsafe.save(tmp_path / "unsafe.keras")
    (tmp_path / "broken.keras").write_bytes(b"no archive")
    (tmp_path / "run.pkl").write_bytes(b"")
    missing = dict(list(zip(paths(model), weights[0], strict=True))[1:])
    wrong = [np.zeros((2, 2), "float32"), *weights[0][1:]]
    good = tmp_path / "good.weights.h5"  # reading it changes the model for a while
    model.set_weights(weights[1])
    model.save_weights(good)
    model.set_weights(before)
    files = ["other.weights.h5", "other.keras", "unsafe.keras", "broken.keras", "run.pkl", "none.keras"]
    with pytest.raises(PlanError) as caught:
        greedy_soup(model, [*(tmp_path / f for f in files), missing, wrong, weights[0], good], HELD_OUT)
    text = str(caught.value)
    assert "8 problems" in text
    lines = {name: next(part for part in text.split("\n  - ") if name in part) for name in files}
    assert "cannot be read into" in lines["other.weights.h5"]
    assert "2 arrays" in lines["other.keras"]
    assert "cannot be read into" in lines["unsafe.keras"]
    assert "lambda" in lines["unsafe.keras"].lower()
    assert "cannot be read into" in lines["broken.keras"]
    assert "end in .weights.h5, .keras" in lines["run.pkl"]
    assert "There is no such file" in lines["none.keras"]
    assert f"no values for {paths(model)[0]}" in text
    assert f"'{paths(model)[0]}' has the shape" in text
    assert same(model.get_weights(), before)
    with pytest.raises(PlanError, match="at least one checkpoint. Received: an empty list"):
        greedy_soup(model, [], HELD_OUT)
    with pytest.raises(PlanError, match="Expected a list of checkpoints. Received: one, str"):
        greedy_soup(model, "a.keras", HELD_OUT)
    with pytest.raises(PlanError, match="is not compiled"):
        greedy_soup(of_keras(), [weights[0]], HELD_OUT)


@pytest.mark.representative("keras")
def test_a_soup_has_a_table(runs):
    model, weights = runs
    soup = greedy_soup(model, weights, HELD_OUT)
    text = str(soup)
    assert f"Soup of {len(soup.taken)} of 4 models" in text
    assert sum("number" in line and line.rstrip(" │").endswith("yes") for line in text.splitlines()) == len(soup.taken)
    assert soup.to_dict()["ingredients"][0]["taken"] is True


def test_heads_with_another_scale_or_other_classes_make_no_soup(tmp_path):
    def model(head):
        inputs = keras.Input((3,))
        built = keras.Model(inputs, head.attach(inputs))
        built.compile("sgd", **head.compile_args())
        return built

    number = heads.regression()
    small, large = number.fitted_to(np.arange(9.0)), number.fitted_to(100 * np.arange(9.0))
    data = tf.data.Dataset.from_tensors((np.ones((4, 3), "float32"), np.ones(4, "float32")))
    for name, head in (("small", small), ("large", large)):
        model(head).save(tmp_path / f"{name}.keras")
    files = [tmp_path / "small.keras", tmp_path / "large.keras"]
    with pytest.raises(PlanError, match=r"large.keras: Its head has other means, spreads, medians"):
        greedy_soup(model(small), files, data)
    assert greedy_soup(model(small), files[:1], data).taken == (str(files[0]),)
    model(heads.classification(["b", "a"])).save(tmp_path / "turned.keras")
    with pytest.raises(PlanError, match="Its head has other class_names"):
        greedy_soup(model(heads.classification(["a", "b"])), [tmp_path / "turned.keras"], data)
