"""Keras models as backbones, and the embedded EfficientNet-Lite0: right pixels, right numbers."""

import importlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from tfft.backbones import applications, keras_hub_preset, load_backbone, resolve
from tfft.backbones.applications import from_applications
from tfft.backbones.catalog import APPLICATIONS
from tfft.backbones.formats import efficientnet_lite0
from tfft.backbones.formats.checkpoints import read_pth
from tfft.backbones.keras_model import from_keras_model
from tfft.errors import BackboneError, DependencyError, HandleError, SavedModelError
from tfft.layers.caffe_pixels import CaffePixels
from tfft.specs import InputSpec


def scaled(pixels, spec):
    """The formula in InputSpec's docstring."""
    low, high = spec.value_range
    values = low + pixels / 255 * (high - low)
    if spec.mean is not None:
        values = (values - np.array(spec.mean)) / np.array(spec.std)
    return values.astype(np.float32)


# ------------------------------------------------------------------------------ keras.applications


@pytest.mark.parametrize("app", APPLICATIONS, ids=lambda app: app.name)
def test_pixels_are_scaled_as_each_family_does_it(app):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 4, 3)).astype(np.float32)
    module = importlib.import_module(getattr(keras.applications, app.name).__module__)
    theirs = module.preprocess_input(pixels.copy())
    ours = scaled(pixels, applications.application_spec(app))
    if app.scaling == "means":
        ours = np.asarray(CaffePixels()(ours))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.daily("keras:MobileNet-V2:random")
@pytest.mark.parametrize("name", ["mobilenet_v2:random", "keras:MobileNet-V2:random", "keras:mobilenetv2:RANDOM"])
def test_a_network_by_any_spelling(name):
    backbone = load_backbone(name)
    assert backbone.origin == "keras:MobileNetV2:random"
    assert backbone.input_spec.value_range == (-1.0, 1.0)
    assert "random" in backbone.notes[0]
    assert [block.name for block in backbone.blocks][2:4] == ["block_1", "block_2"]
    assert backbone.model(np.zeros((2, 40, 33, 3), np.float32)).shape == (2, 1280)


@pytest.mark.slow
def test_a_network_in_memory_is_recognized_by_its_name_and_first_layers():
    mobile = keras.applications.MobileNet(include_top=False, weights=None, alpha=0.25, input_shape=(32, 32, 3))
    backbone = load_backbone(mobile)
    assert backbone.input_spec.value_range == (-1, 1)
    assert backbone.input_spec.image_size == (32, 32)
    assert "that of keras.applications, MobileNet, by the name and the first layers" in backbone.notes[0]
    given = load_backbone(mobile, input_range=(0, 1))
    assert given.input_spec.value_range == (0, 1)
    assert not given.notes
    image = keras.Input((32, 32, 3))
    scaled_inside = keras.applications.MobileNet(
        include_top=False, weights=None, alpha=0.25, input_tensor=keras.layers.Rescaling(1 / 127.5, -1)(image)
    )
    assert load_backbone(scaled_inside).input_spec.value_range == (0, 255)
    vgg = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert any(
        note.startswith("WARNING: The model is VGG16 of keras.applications") for note in load_backbone(vgg).notes
    )
    own = keras.Model(mobile.input, mobile.output, name="mine")
    assert load_backbone(own).input_spec.value_range == (0, 1)


@pytest.mark.slow
def test_a_caffe_network_takes_rgb_and_survives_saving(tmp_path):
    backbone = from_applications("VGG16", weights=None)
    assert backbone.input_spec.value_range == (0.0, 255.0)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    ours = np.asarray(backbone.model(pixels))
    plain = keras.applications.VGG16(include_top=False, weights=None, input_shape=(None, None, 3), pooling="avg")
    plain.set_weights(backbone.model.get_weights())
    theirs = np.asarray(plain(keras.applications.vgg16.preprocess_input(pixels.copy())))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not np.allclose(ours, np.asarray(plain(pixels)), rtol=1e-2)  # the layer matters
    small = keras.Sequential([keras.Input((8, 8, 3)), CaffePixels(means=(1, 2, 3))])
    small.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(np.ones((1, 8, 8, 3)))[0, 0, 0], [0, -1, -2])


@pytest.mark.nightly
def test_layers_in_files_are_found_by_their_registered_names_alone():
    names = ["CaffePixels", "SavedModelBlock", "StartEndPieces", "Tokenize"]
    code = "import tfft, keras, sys\nfor name in sys.argv[1:]: print(keras.saving.get_registered_object(name).__name__)"
    command = [sys.executable, "-c", code, *(f"tfft>{name}" for name in names)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == names


def test_unknown_networks_and_misplaced_arguments(monkeypatch):
    with pytest.raises(HandleError, match="Did you mean 'MobileNetV2'|Did you mean 'MobileNet'"):
        load_backbone("keras:MobilNet")
    with pytest.raises(BackboneError, match="signature= is for SavedModels"):
        load_backbone("mobilenet_v2:random", signature="serving_default")
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # an import of it now fails
    with pytest.raises(DependencyError, match="pip install keras-hub"):
        load_backbone("keras_hub:resnet_50_imagenet")


@pytest.mark.nightly
@pytest.mark.process
def test_imagenet_weights_out_of_reach_fail_at_once(tmp_path):
    """In a fresh process, with an empty Keras folder and a server that is not there."""
    code = """
import time
from tfft.backbones import applications
applications._WEIGHTS_HOST = "tfft-no-such-host.invalid"
start = time.monotonic()
try:
    applications.from_applications("MobileNetV2")
except Exception as error:
    print(type(error).__name__, time.monotonic() - start < 15, str(error))
"""
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment["KERAS_HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("HandleError True The ImageNet weights of MobileNetV2 could not be downloaded")
    assert "keras:MobileNetV2:random" in done.stdout


# -------------------------------------------------------------------------------------- any model


def convnet(*first, shape=(32, 24, 3), outputs=1, **last):
    image = x = keras.Input(shape)
    for layer in first:
        x = layer(x)
    x = keras.layers.Conv2D(4, 3, name="block0_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    ends = [keras.layers.Dense(3, name=f"end{i}", **last)(x) for i in range(outputs)]
    return keras.Model(image, ends[0] if outputs == 1 else ends, name="mine")


def test_a_functional_model_is_used_as_it_is():
    model = convnet()
    backbone = load_backbone(model)
    assert backbone.model is model
    assert backbone.name == "mine"
    assert backbone.input_spec.image_size == (32, 24)
    assert backbone.input_spec.value_range == (0.0, 1.0)
    assert "assumed" in backbone.input_spec.source
    assert "input_range=" in backbone.notes[0]
    given = load_backbone(model, input_range=(-1, 1), name="other")
    assert (given.name, given.input_spec.value_range, given.notes) == ("other", (-1.0, 1.0), ())


def test_rescaling_inside_is_noticed():
    backbone = load_backbone(convnet(keras.layers.Rescaling(1 / 255, name="to_unit")))
    assert backbone.input_spec.value_range == (0.0, 255.0)
    assert "'to_unit'" in backbone.input_spec.source
    nested = convnet(keras.Sequential([keras.layers.Rescaling(1 / 255, name="deep")]))
    assert "'deep'" in load_backbone(nested).input_spec.source


def test_a_classifier_at_the_end_is_noticed():
    assert "classifier 'end0'" in load_backbone(convnet(activation="softmax")).notes[-1]


def test_one_of_several_outputs_is_chosen():
    model = convnet(outputs=2)
    with pytest.raises(BackboneError, match=r"2 outputs: choose one with output=\. It has .*\(None, 3\)"):
        load_backbone(model)
    second = model.output_names[1]
    chosen = load_backbone(model, output=second)
    x = np.random.default_rng(0).random((1, 32, 24, 3), np.float32)
    np.testing.assert_array_equal(chosen.model(x), model(x)[1])
    with pytest.raises(BackboneError, match="has no output 'x'"):
        load_backbone(model, output="x")


def test_sequential_and_subclassed_models():
    sequential = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    backbone = from_keras_model(sequential)
    assert backbone.input_spec.image_size == (16, 16)
    x = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    np.testing.assert_array_equal(backbone.model(x), sequential(x))

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Conv2D(4, 3)

        def call(self, x):
            return keras.ops.mean(self.conv(x), axis=(1, 2))

    own = Own()
    with pytest.raises(BackboneError, match="not built"):
        from_keras_model(own)
    with pytest.raises(BackboneError, match="not built"):
        from_keras_model(keras.Sequential([keras.layers.Dense(3)]))
    own(x)
    backbone = from_keras_model(own)
    np.testing.assert_allclose(backbone.model(x), own(x), atol=1e-6)
    assert backbone.input_spec.image_size == (16, 16)
    assert sum(block.parameters for block in backbone.blocks) == 3 * 3 * 3 * 4 + 4


def test_what_is_no_backbone_is_refused():
    with pytest.raises(
        BackboneError, match=r"Expected a handle .*or a keras\.Model of Keras 3.*received builtins\.int"
    ):
        load_backbone(3)
    with pytest.raises(BackboneError, match="no weights"):
        load_backbone(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()]))
    tf_keras = pytest.importorskip("tf_keras")
    with pytest.raises(BackboneError, match=r"Keras 2 model: save it with model\.export"):
        load_backbone(tf_keras.Sequential([tf_keras.layers.Dense(1)]))


def test_a_model_that_takes_no_image_has_no_input_spec():
    tokens = keras.Input((8,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4)(tokens))
    backbone = load_backbone(keras.Model(tokens, x, name="text"))
    assert backbone.input_spec is None
    assert backbone.notes == ()
    with pytest.raises(BackboneError, match="take one image"):
        load_backbone(backbone.model, image_size=32)


def test_a_keras_file(tmp_path):
    model = convnet()
    model.save(tmp_path / "mine.keras")
    backbone = load_backbone(tmp_path / "mine.keras")
    x = np.random.default_rng(0).random((1, 32, 24, 3), np.float32)
    np.testing.assert_array_equal(backbone.model(x), model(x))
    (tmp_path / "bad.keras").write_bytes(b"PK")
    with pytest.raises(BackboneError, match=r"Keras cannot load .*bad\.keras"):
        load_backbone(tmp_path / "bad.keras")


def test_the_scaling_of_a_keras_hub_converter():
    class Converter:
        image_size, scale, offset = (96, 64), 1 / 127.5, -1.0

    spec = keras_hub_preset._converted(InputSpec(flexible=True), Converter)
    assert (spec.image_size, spec.value_range) == ((96, 64), (-1.0, 1.0))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 2, 3)).astype(np.float32)
    Converter.scale, Converter.offset = [0.01, 0.02, 0.03], [-1, 0.5, 2]
    spec = keras_hub_preset._converted(InputSpec(), Converter)
    np.testing.assert_allclose(scaled(pixels, spec), pixels * Converter.scale + Converter.offset, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------ EfficientNet-Lite0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFFT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield resolve("efficientnet-lite0")


@pytest.fixture(scope="module")
def loaded(folder):
    return tf.saved_model.load(str(folder))


@pytest.mark.slow
def test_lite0_is_a_reusable_savedmodel(loaded):
    assert len(loaded.variables) == 245
    assert len(loaded.trainable_variables) == 147
    assert list(loaded.regularization_losses) == []
    names = [variable.name for variable in loaded.variables]
    assert names[0] == "stem_conv/kernel:0"
    assert "block3_expand_conv/kernel:0" in names
    assert {name.split("_")[0] for name in names} == {"stem", "head", *(f"block{i}" for i in range(16))}
    assert loaded(tf.zeros([1, 64, 96, 3])).shape == (1, 1280)
    served = loaded.signatures["serving_default"](tf.zeros([2, 32, 32, 3]))
    assert list(served) == ["feature_vector"]


def test_lite0_holds_the_published_weights(loaded):
    state = read_pth(efficientnet_lite0.weights_path())
    ours = {variable.name.removesuffix(":0"): variable.numpy() for variable in loaded.variables}
    kernel = state["_blocks.3._expand_conv.weight"]
    np.testing.assert_array_equal(ours["block3_expand_conv/kernel"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(ours["head_bn/moving_variance"], state["_bn1.running_var"])
    published = [v for key, v in state.items() if not key.startswith("_fc") and not key.endswith("num_batches_tracked")]
    assert sum(v.size for v in ours.values()) == sum(v.size for v in published)
    assert np.isclose(
        sum(v.sum(dtype=np.float64) for v in ours.values()), sum(v.sum(dtype=np.float64) for v in published)
    )


def test_lite0_tells_a_palace_from_a_daisy(loaded):
    """The classifier that comes with the weights, put on top, names scikit-learn's two photographs."""
    state = read_pth(efficientnet_lite0.weights_path())
    photos = [load_sample_image(name)[:, 107:534] for name in ("china.jpg", "flower.jpg")]
    batch = tf.stack([tf.image.resize(photo, (224, 224), antialias=True) for photo in photos]) / 255
    logits = loaded(batch).numpy() @ state["_fc.weight"].T + state["_fc.bias"]
    assert logits.argmax(1).tolist() == [698, 985]  # ImageNet's palace and daisy
    blue_first = loaded(batch[..., ::-1] * 0.5).numpy() @ state["_fc.weight"].T + state["_fc.bias"]
    assert not np.allclose(blue_first, logits, atol=0.5)


@pytest.mark.nightly
def test_lite0_learns_in_training_mode_only(folder):
    model = tf.saved_model.load(str(folder))
    images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
    before = [variable.numpy() for variable in model.variables]
    model(images)
    assert all((a == b.numpy()).all() for a, b in zip(before, model.variables, strict=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True))
    moved = [v.name for a, v in zip(before, model.variables, strict=True) if (a != v.numpy()).any()]
    assert len(moved) == 98
    assert all("/moving_" in name for name in moved)
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_variables))


@pytest.mark.slow
def test_lite0_opens_into_its_blocks(folder, loaded):
    backbone = load_backbone(folder)
    assert [block.name for block in backbone.blocks] == ["stem", *(f"block{i}" for i in range(16)), "head"]
    images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
    np.testing.assert_allclose(backbone.model(images), loaded(images), atol=1e-4)


def test_another_network_is_no_lite0(tmp_path):
    with pytest.raises(SavedModelError, match=r"does not hold EfficientNet-Lite0: 245 of its 245 tensors are missing"):
        efficientnet_lite0._named_weights({"conv1.weight": np.zeros(1)}, tmp_path / "resnet.pth")
