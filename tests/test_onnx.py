"""ONNX models, through the converter onnx2keras (an optional package)."""

import importlib.util

import keras
import numpy as np
import pytest

import tfft
from tfft.errors import DependencyError, SavedModelError, UnsafeModelError

HAS_CONVERTER = importlib.util.find_spec("onnx2keras") is not None
needs_converter = pytest.mark.skipif(not HAS_CONVERTER, reason="onnx2keras is not installed")


def network(epsilon=1e-5, opset=13):
    """A convolution with batch normalization, a shortcut and a classifier, channels first."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, weights = np.random.default_rng(0), []

    def weight(name, *shape):
        weights.append(numpy_helper.from_array((random.random(shape) * 0.5 + 0.1).astype("float32"), name))
        return name

    def norm(source, name):
        parts = [weight(f"{name}.{part}", 8) for part in ("scale", "shift", "mean", "variance")]
        return helper.make_node("BatchNormalization", [source, *parts], [name], epsilon=epsilon)

    nodes = [
        helper.make_node(
            "Conv", ["x", weight("k1", 8, 3, 3, 3), weight("b1", 8)], ["conv1"], pads=[1] * 4, strides=[2] * 2
        ),
        norm("conv1", "bn1"),
        helper.make_node("Relu", ["bn1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", weight("k2", 8, 8, 3, 3)], ["conv2"], pads=[1] * 4),
        norm("conv2", "bn2"),
        helper.make_node("Add", ["bn2", "relu1"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", weight("k3", 6, 8), weight("b3", 6)], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 6])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.onnx"


def load(path, model):
    path.write_bytes(model.SerializeToString())
    return tfft.load_backbone(str(path))


@needs_converter
def test_an_onnx_model_is_opened_trained_and_saved(path, tmp_path):
    backbone = load(path, network())
    model = backbone.model
    assert backbone.input_spec.image_size == (16, 16)  # channels last, whatever the file has
    assert backbone.can_train
    assert sum(v.trainable for v in model.variables) == 9
    images = np.random.default_rng(1).random((4, 16, 16, 3)).astype("float32")
    features, before = model.predict(images, verbose=0), model.get_weights()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(images, features + 1, verbose=0)
    moved = [np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [v.trainable for v in model.variables]
    model.save(tmp_path / "m.keras")  # in safe mode: none of the converter's Lambda layers is in it
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-6)


@needs_converter
def test_a_conversion_that_computes_something_else_is_refused(path, monkeypatch):
    import onnx2keras

    def wrong(proto, *args, **kwargs):
        return right(network(epsilon=0.5), *args, **kwargs)

    right = onnx2keras.onnx_to_keras
    monkeypatch.setattr(onnx2keras, "onnx_to_keras", wrong)
    with pytest.raises(SavedModelError, match="incorrectly: the result differs .* by .*onnx2tf"):
        load(path, network())


@needs_converter
def test_what_reaches_outside_of_the_file_is_refused(path, tmp_path):
    import onnx

    (tmp_path / "secret").write_bytes(b"\0" * 4096)
    model = network()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "secret", length=4096)
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(UnsafeModelError, match=r"weights in other files \(k1\)"):
        load(path, model)
    model = network()
    constant = onnx.helper.make_node(
        "Constant", [], ["unused"], value=onnx.numpy_helper.from_array(np.ones(3), "inner")
    )
    onnx.external_data_helper.set_external_data(constant.attribute[0].t, "secret", length=24)
    model.graph.node.append(constant)
    with pytest.raises(UnsafeModelError, match=r"weights in other files \(inner\)"):
        load(path, model)
    model = network()
    model.graph.node[2].domain = "com.example"
    with pytest.raises(UnsafeModelError, match=r"outside of the standard: Relu \(com.example\)"):
        load(path, model)


@needs_converter
def test_damaged_files_and_operations_that_are_not_converted(path):
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(SavedModelError, match="cannot be converted by onnx2keras: DecodeError"):
        tfft.load_backbone(str(path))
    model = network()
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(SavedModelError, match="one input and one output. Received: 1 and 2"):
        load(path, model)


@pytest.mark.skipif(HAS_CONVERTER, reason="onnx2keras is installed")
def test_the_converter_is_named_where_it_is_missing(path):
    path.write_bytes(b"")
    with pytest.raises(DependencyError, match="pip install onnx2keras"):
        tfft.load_backbone(str(path))
