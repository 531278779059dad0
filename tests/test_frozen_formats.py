"""Models without variables: SavedModels and graphs of constants, LiteRT and ONNX files."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf1_models
from PIL import Image

import tfft
from tfft.errors import BackboneError, BlockError, ExportError, SavedModelError, UnsafeModelError
from tfft.layers.litert_model import LiteRTModel, check_litert

v1 = tf.compat.v1
random = np.random.default_rng(2)
NUMBERS = {"kernel": (3, 3, 3, 4), "bias": (4,), "dense": (4, 6)}
VALUES = {name: random.normal(size=shape).astype("float32") for name, shape in NUMBERS.items()}
MEAN = np.array([0.5, 0.4, 0.3], "float32")


class Constants(tf.Module):
    """A small network whose weights are constants, behind a fixed scaling of pixels."""

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def __call__(self, x):
        x = (x - tf.constant(MEAN)) / 0.2
        x = tf.nn.relu(tf.nn.conv2d(x, tf.constant(VALUES["kernel"]), 1, "SAME") + tf.constant(VALUES["bias"]))
        return tf.reduce_mean(x, [1, 2]) @ tf.constant(VALUES["dense"])


def graph():
    """The same in a graph of TensorFlow 1, with a placeholder that tells training from inference."""
    x, training = v1.placeholder(tf.float32, [None, 8, 8, 3], "images"), v1.placeholder(tf.bool, name="phase_train")
    x = (x - tf.constant(MEAN)) / 0.2
    kernel = tf.identity(tf.constant(VALUES["kernel"], name="conv1/weights"), name="conv1/weights/read")
    x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), tf.constant(VALUES["bias"], name="conv1/biases")))
    x = v1.cond(training, lambda: v1.nn.dropout(x, rate=0.5, seed=1), lambda: x)
    x = tf.reduce_mean(x, [1, 2], name="pool")
    tf.matmul(x, tf.constant(VALUES["dense"], name="logits/weights"), name="logits/out")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("constants")
    tf.saved_model.save(Constants(), str(folder / "savedmodel"))
    tf1_models.frozen(folder / "graph.pb", graph)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "savedmodel"))
    (folder / "plain.tflite").write_bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([pixels(5)[i : i + 1]] for i in range(5))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    (folder / "bytes.tflite").write_bytes(converter.convert())
    return folder


def pixels(count):
    return np.random.default_rng(4).random((count, 8, 8, 3)).astype("float32")


EXPECTED = Constants()(pixels(5)).numpy()
FEATURES = {"savedmodel": 1e-5, "graph.pb": 1e-5, "plain.tflite": 1e-4}


@pytest.mark.parametrize("name", FEATURES)
def test_a_model_of_constants_is_a_frozen_backbone(place, name, tmp_path):
    backbone = tfft.load_backbone(str(place / name))
    assert not backbone.can_train
    assert not backbone.model.variables
    assert any("frozen, as a feature extractor" in note for note in backbone.notes)
    np.testing.assert_allclose(backbone.model.predict(pixels(5), verbose=0), EXPECTED, atol=FEATURES[name])
    backbone.model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(pixels(5), verbose=0), EXPECTED, atol=FEATURES[name])


@pytest.mark.daily("savedmodel")
@pytest.mark.parametrize("name", ["savedmodel", "graph.pb"])
def test_weights_that_are_constants_can_be_trained_saved_and_exported(place, name, tmp_path):
    backbone = tfft.load_backbone(str(place / name), constants="trainable")
    model = backbone.model
    assert [block.trainable_parameters for block in backbone.blocks] == [112, 24]  # the mean of the pixels is none
    assert any("3 constants of the graph (136 values) became variables" in note for note in backbone.notes)
    np.testing.assert_allclose(model.predict(pixels(5), verbose=0), EXPECTED, atol=1e-5)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(pixels(5), EXPECTED + 1, verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))
    trained = model.predict(pixels(5), verbose=0)
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "m.keras").predict(pixels(5), verbose=0), trained)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(pixels(5)), trained, atol=1e-5)


def test_blocks_of_a_frozen_graph_are_named_by_its_constants_and_cut_at_any_node(place):
    backbone = tfft.load_backbone(str(place / "graph.pb"), constants="trainable")
    assert [block.name for block in backbone.blocks] == ["conv1", "logits"]
    assert "Set for inference: phase_train = False." in backbone.notes
    pooled = tfft.load_backbone(str(place / "graph.pb"), output="pool")
    assert pooled.model.output.shape == (None, 4)
    with pytest.raises(BackboneError, match="no node 'pol'. Did you mean 'pool'"):
        tfft.load_backbone(str(place / "graph.pb"), output="pol")


def test_nothing_to_train_is_said(place, tmp_path):
    class Scaled(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4])])
        def __call__(self, x):
            return x * 2.0

    tf.saved_model.save(Scaled(), str(tmp_path / "scaled"))
    with pytest.raises(BackboneError, match="found no constant in the graph"):
        tfft.load_backbone(str(tmp_path / "scaled"), constants="trainable")
    with pytest.raises(BackboneError, match="Expected constants='fixed' or 'trainable'. Received: constants='all'"):
        tfft.load_backbone(str(place / "savedmodel"), constants="all")
    with pytest.raises(BlockError, match="hold no variables.*constants='trainable'"):
        tfft.unfreeze(tfft.load_backbone(str(place / "savedmodel")).model, "all")


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["savedmodel", "plain.tflite"])
def test_finetuning_a_frozen_backbone_trains_the_head(place, name, tmp_path):
    for label, low in (("a", 0), ("b", 128)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(10):
            image = random.integers(low, low + 127, (8, 8, 3)).astype("uint8")
            Image.fromarray(image).save(tmp_path / "photos" / label / f"{i}.png")
    run = tfft.finetune(str(place / name), str(tmp_path / "photos"), plan="lp_ft", epochs=1, verbose=False, cache=False)
    assert [phase.unfreeze for phase in run.plan.phases] == ["none"]
    assert "nothing in the backbone can train" in run.plan.reasons["unfreeze"]
    if name == "plain.tflite":
        with pytest.raises(ExportError, match="only LiteRT can run"):
            tfft.export(run.model, tmp_path / "served" / "1")
    else:
        assert tfft.export(run.model, tmp_path / "served" / "1").largest_difference < 1e-5


# ------------------------------------------------------------------------------------- graphs


def test_graphs_that_are_not_frozen_or_not_graphs(tmp_path):
    tf1_models.frozen(tmp_path / "open.pb", lambda: tf1_models.loop())
    with pytest.raises(SavedModelError, match=r"not frozen: the values of .*w \(VarHandleOp\)"):
        tfft.load_backbone(str(tmp_path / "open.pb"))
    (tmp_path / "none.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(SavedModelError, match="cannot be parsed as a graph"):
        tfft.load_backbone(str(tmp_path / "none.pb"))
    (tmp_path / "empty.pb").write_bytes(b"")
    with pytest.raises(SavedModelError, match="holds no graph"):
        tfft.load_backbone(str(tmp_path / "empty.pb"))


def test_a_hostile_graph_is_refused_before_it_runs(tmp_path):
    target = tmp_path / "written"

    def write():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        with tf.control_dependencies([tf.io.write_file(str(target), "x")]):
            tf.identity(x @ tf.ones([4, 2]), name="y")

    tf1_models.frozen(tmp_path / "writer.pb", write)
    with pytest.raises(UnsafeModelError, match="WriteFile.*writes files"):
        tfft.load_backbone(str(tmp_path / "writer.pb"))
    assert not target.exists()


def test_a_hostile_graph_that_no_output_needs_is_refused_too(tmp_path):
    def read():
        tf.matmul(v1.placeholder(tf.float32, [None, 4], "x"), tf.ones([4, 2]), name="y")
        tf.io.read_file("/etc/passwd")

    tf1_models.frozen(tmp_path / "reader.pb", read)
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        tfft.load_backbone(str(tmp_path / "reader.pb"), output="y")


# ------------------------------------------------------------------------------------- LiteRT


@pytest.mark.slow
def test_a_quantized_model_takes_bytes_and_gives_numbers(place):
    backbone = tfft.load_backbone(str(place / "bytes.tflite"))
    assert backbone.input_spec.value_range == (0, 255)
    found = backbone.model.predict(pixels(5) * 255, verbose=0)
    assert found.dtype == "float32"
    assert np.abs(found - EXPECTED).max() < 0.05 * np.abs(EXPECTED).max()


def test_tensors_inside_of_a_litert_model_are_features_too(place):
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(str(place / "plain.tflite")).get_tensor_details()
    inner = next(d["name"] for d in details if list(d["shape"]) == [1, 4])
    backbone = tfft.load_backbone(str(place / "plain.tflite"), output=inner)
    np.testing.assert_allclose(backbone.model(pixels(5)) @ VALUES["dense"], EXPECTED, atol=1e-4)
    with pytest.raises(SavedModelError, match="has no tensor 'pool'"):
        tfft.load_backbone(str(place / "plain.tflite"), output="pool")


def with_operation(content, name):
    """The model with one operation declared as a custom one."""
    from ai_edge_litert import schema_py_generated as schema

    return rewritten(content, lambda m: setattr_of(m.operatorCodes[0], schema.BuiltinOperator.CUSTOM, name))


def setattr_of(operator, code, name):
    operator.builtinCode = code
    operator.deprecatedBuiltinCode = min(code, 127)
    operator.customCode = name


def rewritten(content, change):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("operation", ["FlexReadFile", "FlexWriteFile", "MyOwnOp"])
def test_custom_operations_of_litert_are_refused(place, operation, tmp_path):
    content = with_operation((place / "plain.tflite").read_bytes(), operation.encode())
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(UnsafeModelError, match=operation):
        tfft.load_backbone(str(tmp_path / "bad.tflite"))


def test_a_tensor_that_no_machine_holds_is_refused(place):
    def huge(model):
        model.subgraphs[0].tensors[-1].shape = [2**20, 2**20]

    with pytest.raises(UnsafeModelError, match="with the shape"):
        check_litert(rewritten((place / "plain.tflite").read_bytes(), huge), "a model")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\0\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + b"\xff" * 64])
def test_damaged_litert_models_are_refused(tmp_path, content):
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(SavedModelError, match="is not a LiteRT model|is damaged|cannot open"):
        tfft.load_backbone(str(tmp_path / "bad.tflite"))


def test_a_keras_file_with_a_hostile_litert_model_is_refused(place, tmp_path):
    import base64

    model = tfft.load_backbone(str(place / "plain.tflite")).model
    model.save(tmp_path / "m.keras")
    bad = with_operation((place / "plain.tflite").read_bytes(), b"FlexReadFile")
    with zipfile.ZipFile(tmp_path / "m.keras") as old, zipfile.ZipFile(tmp_path / "bad.keras", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                layer = next(la for la in config["config"]["layers"] if la["class_name"] == "LiteRTModel")
                layer["config"]["content"] = base64.b64encode(bad).decode()
                data = json.dumps(config).encode()
            new.writestr(name, data)
    with pytest.raises((UnsafeModelError, TypeError), match="FlexReadFile"):
        keras.saving.load_model(tmp_path / "bad.keras")


def test_a_litert_layer_has_no_weights_and_keeps_its_config(place):
    layer = tfft.load_backbone(str(place / "plain.tflite")).model.layers[-1]
    assert isinstance(layer, LiteRTModel)
    assert not layer.weights
    again = LiteRTModel.from_config(layer.get_config())
    np.testing.assert_array_equal(again(pixels(2)), layer(pixels(2)))
