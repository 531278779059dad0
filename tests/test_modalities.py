"""A kind of data that a user registers is built, exported, checked in a fresh process and asked like the others."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from extension_modality import Measurements

import tfft
from tfft import data, heads, registry
from tfft.backbones import Backbone
from tfft.errors import BackboneError, DataError, ExportError, PlanError
from tfft.exporting import export, open_export, predict_each, predict_table, serving_functions
from tfft.exporting.loader import ARRAY_SIGNATURE, BYTES_SIGNATURE
from tfft.recipes.labelled import labelled_data


@pytest.fixture
def measurements():
    remove = registry.register_modality(Measurements())
    yield "measurements"
    remove()


def sensor(name="sensor"):
    inputs = keras.Input((4,))
    return Backbone(name, keras.Model(inputs, keras.layers.Dense(6, activation="relu", name="dense")(inputs)), "test")


@pytest.mark.slow
def test_a_kind_of_data_of_ones_own_is_built_exported_and_asked(measurements, tmp_path):
    model = tfft.build(sensor(), heads.classification(["calm", "storm"]))
    assert [layer.name for layer in model.layers] == ["numbers", "halve", "backbone", "dropout", "logits"]
    done = export(model, tmp_path / "served")
    assert set(done.signatures) == {ARRAY_SIGNATURE, BYTES_SIGNATURE}
    assert done.notes == ()
    assert "## Readings" in (done.path / "assets" / "model_card.md").read_text()

    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for i, row in enumerate(rows):
        (tmp_path / f"{i}.txt").write_text(";".join(map(str, row)))
    (tmp_path / "short.txt").write_text("1;2")
    files = [str(tmp_path / name) for name in ("0.txt", "short.txt", "1.txt", "2.txt")]
    wanted = tf.nn.softmax(model.predict(rows, verbose=0)).numpy().max(axis=1)
    for served in (open_export(done.path), serving_functions(model)):
        assert (served.modality, served.input_spec) == (measurements, 4)
        found = list(predict_each(served, files))
        assert [one.error for one in found] == [None, "has 2 numbers, expected 4", None, None]
        np.testing.assert_allclose([found[i].probability for i in (0, 2, 3)], wanted, rtol=1e-5)
        contents = [(tmp_path / "0.txt").read_bytes()]
        np.testing.assert_allclose(served.predict_bytes(contents)["probabilities"].max(), wanted[0], rtol=1e-5)
    (tmp_path / "t.csv").write_text("reading\n2.txt\n0.txt\n")
    _, found = predict_table(open_export(done.path), tmp_path / "t.csv", ["reading"])
    np.testing.assert_allclose([one.probability for one in found], wanted[[2, 0]], rtol=1e-5)


@pytest.mark.nightly
def test_a_kind_of_data_of_ones_own_is_read_learned_and_measured(measurements, tmp_path):
    random = np.random.default_rng(0)
    for name, level in (("calm", 0.0), ("storm", 3.0)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            text = ";".join(f"{value:.3f}" for value in random.normal(level, 0.3, 4))
            (tmp_path / "data" / name / f"{i}.num").write_text(text)
    splits = data.load(tmp_path / "data", validation=0.25, seed=1)
    assert (splits.modality, splits.class_names, len(splits.train)) == (measurements, ("calm", "storm"), 18)
    values, labels = next(iter(data.to_dataset(splits.train, batch_size=18)))
    assert (values.shape, sorted(labels.numpy().tolist())) == ((18, 4), [0] * 9 + [1] * 9)
    with pytest.raises(DataError, match="'storm' has no usable reading"):
        data.load(tmp_path / "data", digits=1)
    with pytest.raises(DataError, match="label='x' does not apply to a folder of readings. Settings that.*digits"):
        data.load(tmp_path / "data", label="x")
    with pytest.raises(TypeError, match="load has no setting 'digit'. Did you mean 'digits'"):
        data.load(tmp_path / "data", digit=1)
    keras.utils.set_random_seed(0)
    run = tfft.finetune(sensor(), tmp_path / "data", plan="linear_probe", out=tmp_path / "run", export_to=False)
    assert run.final_scores.accuracy == 1.0
    assert (tmp_path / "run" / "split.csv").is_file()
    dataset, skipped, words = labelled_data(tfft.load_run(tmp_path / "run"), tmp_path / "data")
    assert (words[:8], skipped, sum(len(y) for _, y in dataset)) == ("held-out", [], 4)
    with pytest.raises(PlanError, match="The data holds texts, and the backbone .* does not take texts: give readings"):
        tfft.finetune(sensor(), ([f"text {i}" for i in range(12)], [0, 1] * 6), verbose=False)


def test_without_its_kind_a_model_keeps_its_own_inputs_and_is_asked_by_arrays_only(tmp_path):
    model = tfft.build(sensor("plain sensor"), heads.classification(["calm", "storm"]))
    assert model.layers[1].name == "backbone"
    serving = serving_functions(model)
    assert serving.modality is None
    with pytest.raises(ExportError, match="takes no known modality"):
        serving.predict([np.zeros(4)])
    with pytest.raises(ExportError, match="has no signature 'serve_bytes'"):
        serving.predict_bytes([b""])


def test_the_kind_of_data_can_be_named():
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv")(inputs))
    eye = Backbone("eye", keras.Model(inputs, features), "test", tfft.InputSpec(32, 32))
    head = heads.classification(["a", "b"])
    assert tfft.build(eye, head, modality="image").inputs[0].name == "image"
    heard = tfft.build(eye, head, modality="audio", audio=tfft.AudioSpec(8000, 0.5))
    assert heard.inputs[0].name == "audio"
    with pytest.raises(BackboneError, match="Expected a sample rate and a clip length. Fix: audio="):
        tfft.build(eye, head, modality="audio")
    with pytest.raises(BackboneError, match="takes no texts"):
        tfft.build(eye, head, modality="text")
    with pytest.raises(PlanError, match="Received: 'imag'. Did you mean 'image'"):
        tfft.build(eye, head, modality="imag")
    with pytest.raises(PlanError, match="The task 'token_classification' is learned from text, not"):
        tfft.build(eye, heads.token_classification(["O", "B-X"]), modality="image")


class DenseHead:
    """What tasks on feature maps look like to `tfft.build`."""

    task, modalities, class_names, strides, resize, reader = "dense", frozenset(), None, (8, 16, 32), None, None

    def __init__(self, level):
        self.feature_level = level

    def backbone_for(self, backbone):
        return backbone

    def attach(self, features):
        self.given = features.values
        maps = list(self.given.values()) if isinstance(self.given, dict) else [self.given]
        return keras.layers.Concatenate()([keras.layers.GlobalMaxPooling2D()(one) for one in maps])


@pytest.mark.slow
def test_heads_are_given_the_features_of_their_level():
    x = inputs = keras.Input((None, None, 3))
    for i, width in enumerate((2, 4, 6, 8, 10)):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", name=f"conv{i}")(x)
    spec = tfft.InputSpec(64, 96, flexible=True)
    eye = Backbone("eye", keras.Model(inputs, x), "test", spec)
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), np.uint8)
    for level, shapes in (("pyramid", {8: (8, 12, 6), 16: (4, 6, 8), 32: (2, 3, 10)}), ("spatial", (2, 3, 10))):
        head = DenseHead(level)
        model = tfft.build(eye, head)
        found = {stride: one.shape[1:] for stride, one in head.given.items()} if level == "pyramid" else (
            head.given.shape[1:]
        )  # fmt: skip
        assert found == shapes
        assert not model.trainable_variables
        assert model.predict(images, verbose=0).shape == (2, 24 if level == "pyramid" else 10)
    with pytest.raises(BackboneError, match=r"have the shape \(None, 2, 3, 10\), expected \[batch, time, width\]"):
        tfft.build(eye, DenseHead("sequence"))
    with pytest.raises(BackboneError, match="Expected a backbone that takes one image"):
        tfft.build(sensor(), DenseHead("pyramid"))


def test_what_each_kind_says_of_itself():
    for name in registry.modality_names():
        kind = registry.modality(name)
        assert kind.name == name
        assert kind.item
        assert kind.items
        assert kind.columns
        assert kind.example_arguments(("text",))
        assert kind.request_noun(("text",))


def test_the_parts_of_a_pair_go_to_the_inputs_that_they_are_for(tmp_path):
    def lengths(**values):
        return {name: tf.cast(tf.strings.length(value), tf.float32) for name, value in values.items()}

    for names in (("text", "text_pair"), ("text_pair", "text")):
        inputs = {name: tf.TensorSpec([None], tf.string, name=name) for name in names}
        function = tf.function(lengths, autograph=False).get_concrete_function(**inputs)
        folder = tmp_path / names[0]
        tf.saved_model.save(tf.Module(), str(folder), signatures={ARRAY_SIGNATURE: function})
        served = open_export(folder)
        assert (served.modality, served.input_spec) == ("text", ("text", "text_pair"))
        found = {name: values.tolist() for name, values in served.predict([("a", "four"), ("two", "")]).items()}
        assert found == {"text": [1.0, 3.0], "text_pair": [4.0, 0.0]}
