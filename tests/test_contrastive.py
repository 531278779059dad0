"""Features tuned on pairs: the loss against NumPy, which examples meet, and phases and plans on small nets for real."""

import collections
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_resume import Fail, Power
from test_training import network, stripes

import tfft
from tfft import heads, plans
from tfft.backbones.base import Backbone
from tfft.config import Phase, Plan, RunConfig
from tfft.contrastive import PairCosine, pairs
from tfft.errors import DataError, PlanError
from tfft.layers.tokenize import Tokenize
from tfft.plans import DatasetStats, defaults, format_plan, recommend
from tfft.specs import TextSpec
from tfft.training import CheckpointConfig, FeatureSource, train
from tfft.training.phase_checks import check_phases

TUNE = Phase("contrastive", "all", 1, 1e-2, contrastive_repeats=8)
SOLVED = Phase("frozen", "none", 0, 0.0, head="linear_probe")
HEAD = dataclasses.replace(SOLVED, name="head")


def oracle(labels, features):
    """The loss of each example, pair by pair."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = []
    for i in range(len(labels)):
        errors = {True: [], False: []}
        for j in range(len(labels)):
            if i != j:
                alike = bool(labels[i] == labels[j])
                errors[alike].append((unit[i] @ unit[j] - alike) ** 2)
        found.append(sum(np.mean(e) / 2 for e in errors.values() if e))
    return np.array(found)


def test_the_loss_is_the_mean_squared_error_of_the_cosine_with_all_others_half_of_them_alike():
    random = np.random.default_rng(0)
    labels, features = np.array([0, 1, 2, 0, 1, 1, 0, 3, 1]), random.normal(size=(9, 5))  # 2 and 3 are alone
    expected = oracle(labels, features)
    loss = PairCosine()
    np.testing.assert_allclose(loss(labels, features.astype("float32")), expected.mean(), rtol=1e-5)
    each = PairCosine(reduction=None)(labels[:, None], features.astype("float32") * 1e3)  # of any length
    np.testing.assert_allclose(each, expected, rtol=1e-4)
    perfect = np.eye(4)[labels].astype("float32")
    assert float(loss(labels, perfect)) == 0
    assert isinstance(keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss)), PairCosine)


def test_gradients_pull_likes_together_and_others_to_a_right_angle_and_are_numbers_at_zero():
    before = np.array([[1.0, 0.2, 0.0], [0.3, 1.0, 0.0], [0.4, 0.4, 1.0], [0.0, 0.0, 0.0]], np.float32)
    features = tf.Variable(before)
    with tf.GradientTape() as tape:
        loss = PairCosine()([1, 1, 0, 0], features)
    gradient = tape.gradient(loss, features).numpy()
    assert np.isfinite(gradient).all()
    unit = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9) for z in (before, before - 0.3 * gradient)]
    first, second = (u @ u.T for u in unit)
    assert second[0, 1] > first[0, 1] + 0.01
    assert abs(second[0, 2]) < abs(first[0, 2]) - 0.01
    assert abs(second[1, 2]) < abs(first[1, 2]) - 0.01


def batches(dataset):
    """The numbers of the examples in each batch, of a dataset whose inputs they are."""
    return [rows.numpy().tolist() for rows, _ in dataset]


@pytest.mark.slow
def test_batches_have_as_many_of_each_class_none_twice_and_all_of_a_class_in_turn():
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 9], [12, 14, 15]))
    dataset = pairs(np.arange(41), labels, shown=5, size=13, seed=3)
    found = batches(dataset)
    assert len(dataset) == len(found) == 18  # 41 x 5 / 12, rounded up
    for rows, (_, classes) in zip(found, dataset, strict=True):
        np.testing.assert_array_equal(labels[rows], classes)
        assert len(set(rows)) == len(rows)
        assert collections.Counter(labels[rows]) == {3: 4, 5: 4, 9: 4}
    for first in range(0, 18, 3):  # 12 of a class make three parts of 4, then they are shuffled anew
        turn = [i for rows in found[first : first + 3] for i in rows]
        assert len(turn) == len(set(turn)) == 36
        assert {i for i in turn if labels[i] == 3} == set(np.flatnonzero(labels == 3))
    assert found[:3] != found[3:6]
    whole = batches(pairs(np.arange(16), np.tile([0, 1], 8), shown=3))
    assert [sorted(rows) for rows in whole] == [list(range(16))] * 3  # few examples: all of them, in each step


@pytest.mark.nightly
def test_batches_follow_from_seed_and_epoch_alone_and_go_on_over_epochs():
    labels = np.repeat([0, 1], 24)
    epoch = tf.Variable(0, dtype=tf.int64)
    first, again, other = (pairs(np.arange(48), labels, shown=1, size=12, seed=seed, epoch=epoch) for seed in (1, 1, 2))
    zero = batches(first)
    assert zero == batches(first) == batches(again)
    assert zero != batches(other)
    assert sorted(np.concatenate(zero)) == list(range(48))  # each once
    epoch.assign(3)
    three = batches(first)
    assert zero != three
    epoch.assign(0)
    assert zero == batches(first)
    counted = pairs(np.arange(48), labels, shown=1, size=12, seed=1)
    assert [batches(counted) for _ in range(4)][::3] == [zero, three]
    steps = pairs(np.arange(48), labels, shown=1, size=20, seed=1)  # 3 in an epoch; two of them are a turn
    turns = [rows for _ in range(2) for rows in batches(steps)]
    assert [len(set(turns[i]) & set(turns[i + 1])) for i in (0, 2, 4)] == [0, 0, 0]  # the second one over the end
    assert set(turns[1]) & set(turns[2])


def test_many_classes_come_in_turn_and_a_batch_has_two_of_each():
    labels = np.repeat(np.arange(20), 5)
    found = batches(pairs(np.arange(100), labels, shown=2, size=16))
    assert len(found) == 100 * 2 // 16 + 1
    seen = collections.Counter()
    for rows in found:
        counts = collections.Counter(labels[rows])
        assert len(counts) >= 7
        assert min(counts.values()) >= 2
        seen.update(counts)
    assert set(seen) == set(range(20))
    assert max(seen.values()) - min(seen.values()) <= 2  # of 10 or 11


@pytest.mark.nightly
def test_an_example_alone_in_its_class_is_shown_once_in_a_batch_and_many_are_capped():
    labels = np.array([0, 0, 0, 1])
    found = batches(pairs(np.arange(4), labels, shown=4))
    assert all(sorted(rows) == [0, 1, 2, 3] for rows in found)
    many = np.repeat([5, 7], [100, 30])
    used = np.unique(np.concatenate(batches(pairs(np.arange(130), many, most=20, seed=1, shown=2))))
    assert collections.Counter(many[used]) == {5: 20, 7: 20}
    assert used.max() > 120 > 20 > used.min()  # drawn, not the first ones
    assert len(np.unique(np.concatenate(batches(pairs(np.arange(130), many, most=None, shown=4))))) == 130
    texts = {"text": np.array(["a\0", "b", "c", "d"], object), "n": np.eye(4)}
    inputs, classes = next(iter(pairs(texts, labels, size=1000)))
    assert inputs["text"].shape == classes.shape == (4,)
    assert inputs["n"].shape == (4, 4)
    assert b"a\0" in inputs["text"].numpy().tolist()


@pytest.mark.parametrize(
    ("labels", "settings", "error", "says"),
    [
        ([0, 0, 1, 1], {"shown": 0}, PlanError, "shown: Expected an integer of at least 1. Received: 0"),
        ([0, 0, 1, 1], {"shown": 0, "size": 3, "most": 1}, PlanError, r"(?s)shown: Exp.*size: Exp.*most: Exp"),
        ([0, 0, 0, 0], {}, DataError, "at least two classes for pairs. Received: 4 examples of 0"),
        ([0, 1, 2, 3], {}, DataError, "4 classes with one example"),
        ([0, 1, 1], {}, DataError, "one label per example"),
        ([0.5, 0.1, 1.0, 1.0], {}, DataError, "Expected integer labels"),
        (np.eye(4, dtype=int), {}, DataError, "Expected integer labels"),
    ],
)
def test_pairs_that_cannot_be_made(labels, settings, error, says):
    with pytest.raises(error, match=says):
        pairs(np.arange(4), np.array(labels), **settings)


def clouds(n=12, seed=0, shuffled=False):
    """Two classes that differ in 2 of 24 numbers, under a lot of noise in the others; or labels by chance."""
    random = np.random.default_rng(seed)
    labels = np.tile([0, 1], n // 2)
    x = random.normal(size=(n, 24)) * np.r_[np.full(2, 0.4), np.full(22, 1.5)]
    x[:, :2] += np.where(labels[:, None] == 1, 1.0, -1.0)
    return x.astype("float32"), random.permutation(labels) if shuffled else labels


def embedding(seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((24,)), keras.layers.Dense(8, name="block0_dense")])


def separation(encoder):
    """How far the class means of 400 others are apart, in units of the spread within classes; and who is nearest."""
    x, y = clouds(400, seed=77)
    z = encoder.predict(x, verbose=0)
    means = np.stack([z[y == c].mean(0) for c in (0, 1)])
    spread = np.sqrt(np.mean([z[y == c].var(0).sum() for c in (0, 1)]))
    return np.linalg.norm(means[0] - means[1]) / spread


@pytest.mark.nightly
def test_plain_keras_tunes_an_embedding_on_pairs_and_labels_by_chance_do_not_help():
    results = {}
    for shuffled in (False, True):
        encoder = embedding()
        before = separation(encoder)
        encoder.compile(keras.optimizers.Adam(0.01), loss=PairCosine())
        history = encoder.fit(pairs(*clouds(48, shuffled=shuffled)), epochs=4, verbose=0, shuffle=False)
        assert history.history["loss"][-1] < history.history["loss"][0]  # learnt by heart all the same
        results[shuffled] = separation(encoder) / before
    assert results[False] > 2
    assert results[True] < 1.3


def of_arrays(x, y, batch=8):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def weights(model):
    return {v.path: v.numpy().copy() for v in model.weights}


@pytest.mark.nightly
def test_a_phase_on_pairs_changes_the_features_alone_and_then_the_head_is_solved_on_them(tmp_path):
    model, held_out, seen = network(), stripes(seed=9), []
    before, after = weights(model), {}

    def note(phase, done, part):
        after[phase.name] = weights(model)
        seen.append((phase.name, done))

    source = FeatureSource(stripes(64), held_out, batch_size=16, cache=tmp_path)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((model.compiled, logs)))
    history = train(
        model, stripes(64), held_out, [SOLVED, TUNE, HEAD], verbose=False, source=source, after_phase=note,
        callbacks=[callback],
    )  # fmt: skip
    moved = {
        n: {p for p in before if (after[n][p] != b[p]).any()}
        for n, b in zip(after, [before, *after.values()], strict=False)
    }
    head = {"logits/kernel", "logits/bias"}
    assert moved["frozen"] == moved["head"] == head
    assert moved["contrastive"] >= {"block0_conv/kernel", "block1_conv/kernel"}
    assert not moved["contrastive"] & head
    assert not any("moving" in path for path in moved["contrastive"])
    [row] = history.of("contrastive")
    assert set(row) == {"phase", "epoch", "loss", "learning_rate", "seconds"}  # no accuracy of a head that fits no more
    assert history.best == {"frozen": 1, "contrastive": 1, "head": 1}
    assert all(report.ok for report in history.audits.values())
    # Solved on the features as they are now, not on those in the cache from before.
    expected = train(network_with(after["contrastive"]), stripes(64), held_out, [HEAD], verbose=False)
    for name in ("loss", "val_loss"):
        assert history.of("head")[0][name] == pytest.approx(expected.rows[0][name], rel=1e-3)
    assert history.of("head")[0]["loss"] != pytest.approx(history.of("frozen")[0]["loss"], rel=1e-2)
    assert model.get_layer("logits").trainable
    again = model.evaluate(held_out, verbose=0, return_dict=True)
    assert again["accuracy"] == pytest.approx(history.rows[-1]["val_accuracy"])


def network_with(values):
    model = network(seed=5)
    for variable in model.weights:
        variable.assign(values[variable.path])
    return model


@pytest.mark.nightly
def test_pairs_help_where_the_classes_are_hidden_and_labels_by_chance_do_not():
    scores = {}
    for shuffled in (False, True):
        keras.utils.set_random_seed(4)
        inner = keras.Input((24,))
        x = keras.layers.Dense(2, name="block0_dense")(inner)  # so narrow that the classes are lost in noise
        inputs = keras.Input((24,))
        features = keras.Model(inner, x, name="backbone")(inputs)
        model = keras.Model(inputs, heads.classification(["a", "b"], dropout=0.0).attach(features))
        data = of_arrays(*clouds(32, shuffled=shuffled))
        history = train(
            model, data, of_arrays(*clouds(400, seed=77)), [SOLVED, dataclasses.replace(TUNE, epochs=8), HEAD],
            verbose=False, l2=1e-3,
        )  # fmt: skip
        scores[shuffled] = [history.of(name)[0]["val_accuracy"] for name in ("frozen", "head")]
        notes = " ".join(history.notes)
        assert ("They are kept anyway" in notes) == (scores[shuffled][1] < scores[shuffled][0])
    assert scores[False][1] > scores[False][0] + 0.15
    assert scores[True][1] < 0.6


@pytest.mark.nightly
def test_what_is_frozen_runs_once_and_gives_what_the_whole_model_gives(tmp_path):
    found = []
    for cache in (None, tmp_path):
        model = network()
        source = cache and FeatureSource(stripes(32), batch_size=16, cache=cache)
        phase = dataclasses.replace(TUNE, unfreeze=1)
        history = train(model, stripes(32), None, [phase, HEAD], verbose=False, source=source)
        found.append((weights(model), history))
    (plain, _), (cached, history) = found
    assert not any("whole model" in note for note in history.notes)
    for path, value in plain.items():
        np.testing.assert_allclose(cached[path], value, rtol=1e-3, atol=1e-2, err_msg=path)
    start = weights(network())
    changed = {path for path in plain if (plain[path] != start[path]).any()}
    assert changed >= {"block1_conv/kernel", "block1_conv/bias", "logits/kernel"}
    assert not any(path.startswith("block0") for path in changed)


@pytest.mark.nightly
def test_all_of_a_batch_are_compared_so_parts_make_smaller_batches():
    steps = {}
    for microbatch_size in (None, 100, 8, 1):
        count = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, size=microbatch_size: steps[size].append(1)
        )
        steps[microbatch_size] = []
        history = train(
            network(), stripes(64), None, [TUNE], verbose=False, microbatch_size=microbatch_size, callbacks=[count]
        )  # fmt: skip
        told = [note for note in history.notes if "are compared with each other" in note]
        assert len(told) == (microbatch_size in (8, 1))
    assert {size: len(found) for size, found in steps.items()} == {None: 16, 100: 16, 8: 64, 1: 128}


@pytest.mark.nightly
def test_a_stopped_phase_goes_on_to_the_same_weights(tmp_path):
    [(x, y)] = stripes(96, batch=96).as_numpy_iterator()
    x = np.clip(2 * x + 6, 0, 12)  # pixels, as the pipeline that shuffles by the epoch wants them

    def trained(folder, fail=None):
        model = network()
        with tf.device("CPU:0"):
            epoch = tf.Variable(0, dtype=tf.int64)
        data = tfft.modalities.image.from_arrays(x, y, None, batch_size=32, shuffle=True, epoch=epoch)
        tune = dataclasses.replace(TUNE, epochs=2, contrastive_repeats=2)
        history = train(
            model, data, stripes(seed=9), [Phase("first", 1, 2, 1e-2), tune, HEAD, Phase("last", 1, 1, 1e-2)],
            verbose=False, epoch=epoch, callbacks=[Fail(fail)],
            checkpoints=folder and CheckpointConfig(folder, every_steps=2),
        )  # fmt: skip
        return weights(model), history

    whole, history = trained(None)
    assert len(history.of("contrastive")) == 2
    for at in (15, 20):  # of 6 + 12 + 3: in the second epoch on pairs, and in the phase after the head
        with pytest.raises(Power):
            trained(tmp_path / "state", at)
        again, resumed = trained(tmp_path / "state")
        assert all((again[path] == value).all() for path, value in whole.items())
        assert [row["loss"] for row in resumed.rows] == [row["loss"] for row in history.rows]
        assert resumed.best == history.best


@keras.saving.register_keras_serializable(package="test_contrastive")
class Words(keras.layers.Layer):
    """A packer: the words of texts by their hash."""

    def call(self, texts):
        words = tf.strings.split(texts)
        numbers = tf.strings.to_hash_bucket_fast(words.flat_values, 60)
        ids = words.with_flat_values(numbers + 1).to_tensor(shape=[None, 12])
        return {"ids": ids, "mask": ids > 0}


def text_model(names=("bad", "good")):
    keras.utils.set_random_seed(3)
    ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("ids", "mask"))
    x = keras.layers.Embedding(61, 16, name="block0_embedding")(ids)
    x = keras.layers.Dense(16, activation="gelu", name="block1_dense")(x * keras.ops.cast(mask, "float32")[..., None])
    tokenize = Tokenize(Words(), {"ids": "ids", "mask": "mask"}, "mask", 12)
    inner = keras.Model({"ids": ids, "mask": mask}, x)
    backbone = Backbone("tiny", inner, "test", None, (), tokenize, TextSpec(12, "mean", "the test"))
    return tfft.build(backbone, heads.classification(names, dropout=0.0))


def sentences(n=16, seed=0):
    random = np.random.default_rng(seed)
    labels = np.tile([0, 1], n // 2)
    words = [["gloomy", "dull", "weak"], ["bright", "witty", "warm"]]
    noise = [f"word{i}" for i in range(12)]
    texts = [" ".join([*random.choice(noise, random.integers(2, 9)), random.choice(words[y])]) for y in labels]
    return np.array(texts, object), labels


@pytest.mark.daily("1")
@pytest.mark.parametrize("unfreeze", ["all", 1])
def test_texts_of_any_length_are_paired(unfreeze):
    model = text_model()
    data, held_out = of_arrays(*sentences()), of_arrays(*sentences(200, seed=5))
    source = FeatureSource(data, held_out, batch_size=8, cache=None)
    tune = dataclasses.replace(TUNE, unfreeze=unfreeze, epochs=6, learning_rate=3e-3)
    before = weights(model)
    history = train(model, data, held_out, [SOLVED, tune, HEAD], verbose=False, l2=1e-3, source=source)
    frozen, tuned = (history.of(name)[0]["val_accuracy"] for name in ("frozen", "head"))
    assert tuned > (max(0.8, frozen) if unfreeze == "all" else frozen)
    moved = {path for path, value in weights(model).items() if (before[path] != value).any()}
    assert any("embedding" in path for path in moved) == (unfreeze == "all")
    losses = [row["loss"] for row in history.of("contrastive")]
    assert losses[-1] < losses[0]
    whole = [note for note in history.notes if "every epoch runs the whole model" in note]
    assert len(whole) == (unfreeze == "all")
    assert all("no frozen part to precompute" in note for note in whole)


@pytest.mark.nightly
def test_what_is_frozen_of_texts_runs_once_and_gives_what_the_whole_model_gives():
    found = []
    for cached in (False, True):
        model, data = text_model(), of_arrays(*sentences(24, seed=2))
        source = FeatureSource(data, batch_size=8, cache=None) if cached else None
        tune = dataclasses.replace(TUNE, unfreeze=1, epochs=2, learning_rate=3e-3)
        history = train(model, data, None, [tune], verbose=False, source=source)
        found.append((weights(model), [row["loss"] for row in history.rows], history.notes))
    (plain, losses, _), (quick, others, notes) = found
    assert not any("whole model" in note for note in notes)
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    start = weights(text_model())
    for path, value in plain.items():
        np.testing.assert_allclose(quick[path], value, atol=2e-3, err_msg=path)
        assert np.array_equal(quick[path], start[path]) == ("block1_dense" not in path), path


@pytest.mark.slow
def test_examples_are_taken_once_and_at_most_64_of_a_class():
    x, y = clouds(24)
    x, y = np.concatenate([x, x[:8], clouds(300, seed=2)[0]]), np.concatenate([y, y[:8], np.ones(300, int)])
    keras.utils.set_random_seed(4)
    inputs = keras.Input((24,))
    inner = keras.Sequential([keras.Input((24,)), keras.layers.Dense(4, name="block0_dense")], name="backbone")
    head = heads.classification(["a", "b", "c"], dropout=0.0)
    model = keras.Model(inputs, head.attach(inner(inputs)))
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    y[-1] = 2
    history = train(model, of_arrays(x, y), None, [TUNE], verbose=False, callbacks=[count], class_weight={0: 2.0})
    assert len(steps) == -(-(12 + 64 + 1) * 8 // 30)  # 10 of each class at a time
    notes = "\n".join(history.notes)
    assert "at most 64 examples of each class are compared" in notes
    assert "1 class has one example" in notes
    assert "class weights are not used for pairs" in notes


@pytest.mark.nightly
def test_low_rank_updates_can_be_tuned_on_pairs():
    model, held_out = network(), stripes(seed=9)
    before = weights(model)
    tune = dataclasses.replace(TUNE, lora_rank=2, ema_decay=0.5, epochs=2)
    history = train(model, stripes(32), held_out, [SOLVED, tune, HEAD], verbose=False)
    moved = {path for path, value in weights(model).items() if (before[path] != value).any()}
    assert moved == {"block0_conv/kernel", "block1_conv/kernel", "logits/kernel", "logits/bias"}
    assert history.of("contrastive")[-1]["loss"] < history.of("contrastive")[0]["loss"]


def test_everything_that_does_not_go_with_pairs_is_refused_at_once():
    wrong = {
        "mixup_alpha": 0.2, "num_surgical_blocks": 1, "reinitialize": 1, "interpolate": True, "schedule": "plateau",
    }  # fmt: skip
    with pytest.raises(PlanError) as caught:
        check_phases([dataclasses.replace(TUNE, **wrong)])
    message = str(caught.value)
    for part in (
        "mixup and cutmix",
        "num_surgical_blocks chooses",
        "reinitialize",
        "loss for interpolate, plateau",
    ):
        assert part in message, part
    for setting, says in (
        ({"unfreeze": "none"}, "no block trains, so contrastive_repeats would have no effect"),
        ({"contrastive_repeats": -2}, "integer of at least 0"),
        ({"contrastive_repeats": True}, "integer of at least 0"),
        ({"head": "linear_probe", "unfreeze": "none"}, "use two phases"),
    ):
        with pytest.raises(PlanError, match=says):
            check_phases([dataclasses.replace(TUNE, **setting)])
    good = dataclasses.replace(
        TUNE, l2_sp=0.1, ema_decay=0.9, layer_decay=0.9, lora_rank=0, global_clipnorm=1.0, optimizer="adamw"
    )
    check_phases([SOLVED, good, HEAD], validation=False)


@pytest.mark.slow
def test_models_and_data_without_classes_are_refused_before_training():
    model = network(head=heads.regression(1))
    with pytest.raises(PlanError, match="or binary. Received: regression"):
        train(model, stripes(16), None, [TUNE], verbose=False)
    soft = stripes(16).map(lambda x, y: (x, tf.one_hot(y, 2)))
    with pytest.raises(DataError, match="Expected integer labels"):
        train(network(), soft, None, [TUNE], verbose=False)
    one = stripes(16).map(lambda x, y: (x, tf.zeros_like(y)))
    with pytest.raises(DataError, match="at least two classes for pairs. Received: 16 examples of plain"):
        train(network(), one, None, [TUNE], verbose=False)


FEW = DatasetStats(16, 2, 8, smallest=8, largest=8, texts=True)


def test_the_plan_probes_tunes_and_solves_again():
    plan = recommend(FEW, plan=plans.setfit())
    probe, tune, head = plan.phases
    assert probe == SOLVED
    assert head == HEAD
    assert (tune.unfreeze, tune.epochs, tune.learning_rate, tune.contrastive_repeats) == ("all", 1, 2e-5, 40)
    assert (tune.warmup, tune.schedule, tune.optimizer) == (0.1, "linear", "adamw")
    assert plan.reasons["shown"] == "40 steps of 16 examples, all compared in pairs"
    text = format_plan(plan)
    assert "all blocks, on pairs" in text
    assert "contrastive_repeats=40" in text
    assert Plan.from_dict(plan.to_dict()) == plan
    check_phases(plan.phases)


def test_numbers_of_the_plan_follow_from_the_examples_and_the_wishes():
    def tuned(stats, plan=None, **config):
        return recommend(stats, RunConfig(**config), plan=plan or plans.setfit())

    assert defaults.PAIRED == tfft.contrastive.MOST
    many = tuned(dataclasses.replace(FEW, examples=5000, classes=10, smallest=400, largest=600))
    assert many.phases[1].contrastive_repeats == 10
    assert "200 steps of 32" in many.reasons["shown"]
    assert "'lp_ft' is most likely better" in many.reasons["shown"]
    assert tuned(dataclasses.replace(FEW, examples=128, smallest=64)).phases[1].contrastive_repeats == 40
    assert tuned(dataclasses.replace(FEW, examples=90_000, classes=1000)).phases[1].contrastive_repeats == 1
    two = tuned(dataclasses.replace(FEW, examples=4, smallest=2, largest=2))
    assert [phase.head for phase in two.phases] == ["nearest_mean", "train", "nearest_mean"]
    own = tuned(FEW, plans.setfit(shown=6, lora_rank=4), unfreeze=2, epochs=3, learning_rate=1e-3).phases[1]
    assert (own.contrastive_repeats, own.lora_rank, own.unfreeze, own.epochs, own.learning_rate) == (6, 4, 2, 3, 1e-3)
    for wish, says in (
        ({"head_epochs": 2}, "head_epochs= does not apply"),
        ({"learning_rate": (1e-2, 1e-3)}, "learning_rate must be a number"),
        ({"unfreeze": "none"}, "blocks have to train"),
    ):
        with pytest.raises(PlanError, match=says):
            tuned(FEW, **wish)
    with pytest.raises(PlanError, match="'contrastive_repeats' is not a setting of a phase"):
        recommend(FEW, plan=plans.lp_ft(contrastive_repeats=4))


def test_it_is_named_for_few_texts_only_and_never_chosen():
    few = recommend(FEW)
    assert few.name == "few_shot"
    assert "plan='setfit'" in few.reasons["alternative"]
    assert "setfit" in format_plan(few)
    assert recommend(dataclasses.replace(FEW, examples=128, smallest=64)).name == "lp_ft"
    for other in ({"smallest": 65}, {"smallest": 1}, {"texts": False}):
        assert "alternative" not in recommend(dataclasses.replace(FEW, examples=130, **other)).reasons
    assert "alternative" not in recommend(FEW, plan=plans.setfit()).reasons
