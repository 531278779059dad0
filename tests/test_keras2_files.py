"""Files that Keras 2 wrote: whole models and weights in ``.h5``, and what no Keras may do with one from a stranger."""

import json
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras2

import tfft
from tfft.backbones import digest, load_backbone
from tfft.errors import BackboneError, HandleError, SavedModelError, UnsafeModelError

L = keras2.layers


def network(operations=False):
    """A small network of Keras 2; its operations of TensorFlow are nothing that Keras 3 can load."""
    keras2.utils.set_random_seed(4)
    image = keras2.Input((16, 16, 3))
    x = L.DepthwiseConv2D(3, name="block1_depthwise")(image)
    x = L.BatchNormalization(name="block1_bn")(x)
    x = tf.nn.relu(x) * 2.0 + tf.reduce_mean(x) if operations else L.ReLU(name="block1_relu")(x)
    x = L.Conv2D(5, 3, name="block2_conv")(x)
    return keras2.Model(image, L.GlobalAveragePooling2D()(x), name="old")


def images(size=16, seed=0):
    return np.random.default_rng(seed).normal(size=(2, size, size, 3)).astype("float32")


@pytest.fixture
def h5(tmp_path):
    network().save(tmp_path / "old.h5")
    return tmp_path / "old.h5"


def edit(path, change):
    """Changes the config of the model in a file."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)


# ------------------------------------------------------------------------------------ whole models


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_h5_model_opens_with_keras3(h5):
    backbone = load_backbone(f"{h5}@sha256:{digest(h5)}", input_range=(0, 1))
    np.testing.assert_allclose(backbone.model(images()), network()(images()), atol=1e-6)
    assert [block.name for block in backbone.blocks] == ["block1", "block2"]
    assert (backbone.name, backbone.notes) == ("old", ())


@pytest.mark.daily("h5")
@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_what_keras3_does_not_know_opens_through_keras2(tmp_path, suffix):
    path = tmp_path / f"operations.{suffix}"
    network(operations=True).save(path)
    backbone = load_backbone(path, input_range=(0, 1), name="mine")
    np.testing.assert_allclose(backbone.model(images()), network(operations=True)(images()), atol=1e-6)
    assert [block.name for block in backbone.blocks] == ["block1", "block2"]
    assert (backbone.name, backbone.origin) == ("mine", str(path))
    assert "Keras 2 (tf_keras)" in backbone.notes[0]
    tfft.unfreeze(backbone.model, 1)
    assert [v.name.split(".")[-1] for v in backbone.model.trainable_weights] == ["kernel", "bias"]


@pytest.mark.nightly
@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_function_that_keras3_changed_stays_what_it_was(tmp_path, suffix):
    """``hard_sigmoid``, which old recurrent layers have by default, got another slope."""
    model = keras2.Sequential([L.LSTM(4, recurrent_activation="hard_sigmoid", input_shape=(5, 3), name="block1_lstm")])
    model.save(tmp_path / f"old.{suffix}")
    backbone = load_backbone(tmp_path / f"old.{suffix}")
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    np.testing.assert_allclose(backbone.model(x), model(x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_arguments_that_keras3_dropped_are_left_out(tmp_path):
    image = keras2.Input((8, 8, 3))
    x = L.SeparableConv2D(4, 3)(image)
    x = L.GRU(3)(L.Reshape((36, 4))(x))
    model = keras2.Model(image, x)
    model.save(tmp_path / "old.h5")
    backbone = load_backbone(tmp_path / "old.h5", input_range=(0, 1))
    assert isinstance(backbone.model.layers[1], keras.layers.SeparableConv2D)  # no tf_keras
    np.testing.assert_allclose(backbone.model(images(8)), model(images(8)), atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_without_keras2_the_way_out_is_named(tmp_path, monkeypatch):
    network(operations=True).save(tmp_path / "operations.h5")
    monkeypatch.setitem(sys.modules, "tf_keras", None)  # as if it were not installed
    with pytest.raises(BackboneError, match=r"(?s)Keras cannot load .*pip install tf_keras.*model\.export\(folder\)"):
        load_backbone(tmp_path / "operations.h5")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_custom_classes_have_to_be_exported(h5):
    edit(h5, lambda config: config["config"]["layers"][1].update(class_name="FancyConv"))
    with pytest.raises(UnsafeModelError, match=r"not Keras layers \(FancyConv\).*model\.export\(folder\)"):
        load_backbone(h5)


# ------------------------------------------------------------------------------------------ weights


def with_random_statistics(model):
    random = np.random.default_rng(5)
    model.set_weights([random.uniform(0.02, 0.08, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


@pytest.mark.nightly
@pytest.mark.parametrize("saved", ["weights", "model"])
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "ConvNeXtTiny", "InceptionV3", "ResNet50"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_weights_of_keras2_go_onto_a_network(tmp_path, name, saved):
    size = 96  # divisible by 32: with odd maps, networks for any size pad otherwise than those for one
    settings = {"weights": None, "input_shape": (size, size, 3), "include_top": saved == "model"}
    settings |= {"classes": 7} if saved == "model" else {"pooling": "avg"}
    theirs = with_random_statistics(getattr(keras2.applications, name)(**settings))
    path = tmp_path / "old.h5"
    theirs.save(path) if saved == "model" else theirs.save_weights(path)
    backbone = load_backbone(f"keras:{name}", weights=path)
    assert backbone.origin == f"keras:{name}:{path}"
    assert backbone.digest == digest(path)
    pixels = np.random.default_rng(1).uniform(0, 255, (1, size, size, 3)).astype("float32")
    if name == "ResNet50":  # a layer of the backbone makes these of RGB
        entering = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")
    else:
        entering = pixels
    if saved == "model":
        pooled = next(la for la in reversed(theirs.layers) if isinstance(la, L.GlobalAveragePooling2D))
        behind = theirs.layers[theirs.layers.index(pooled) + 1]
        features = behind.output if isinstance(behind, L.LayerNormalization) else pooled.output  # ConvNeXt's
        theirs = keras2.Model(theirs.input, L.Flatten()(features))
    expected = theirs(entering, training=False).numpy()
    np.testing.assert_allclose(backbone.model(pixels), expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.nightly
def test_a_handle_names_its_weights(tmp_path):
    keras.utils.set_random_seed(1)
    known = load_backbone("keras:MobileNetV3Small:random")
    known.model.save_weights(tmp_path / "new.weights.h5")
    again = load_backbone(f"MobileNetV3Small:{tmp_path / 'new.weights.h5'}")
    for ours, theirs in zip(again.model.weights, known.model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(HandleError, match="weights file 'nothing.h5' does not exist"):
        load_backbone("keras:MobileNetV3Small", weights="nothing.h5")
    with pytest.raises(BackboneError, match="weights= is for networks of keras.applications"):
        load_backbone(str(tmp_path), weights="x.h5")
    with pytest.raises(BackboneError, match="does not hold weights of 'mobilenet'|Expected weights of 'mobilenet'"):
        load_backbone("keras:MobileNet", weights=tmp_path / "new.weights.h5")


@pytest.mark.slow
def test_weights_of_another_network_and_weights_alone_are_refused(tmp_path):
    network().save_weights(tmp_path / "old.h5")
    with pytest.raises(BackboneError, match="Expected weights of 'vgg16', which has 13 layers with weights.*with 3"):
        load_backbone("keras:VGG16", weights=tmp_path / "old.h5")
    with pytest.raises(BackboneError, match=r'holds weights but no model.*load_backbone\("keras:ResNet50", weights='):
        load_backbone(tmp_path / "old.h5")
    other = keras2.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    other.save_weights(tmp_path / "vgg19.h5")
    with pytest.raises(BackboneError, match=r"(?s)does not hold weights of 'vgg16': its layer 'block4_conv1'"):
        load_backbone("keras:VGG16", weights=tmp_path / "vgg19.h5")


# ------------------------------------------------------------------------------------------ hostile


def with_code(path, marker):
    """A Lambda whose code writes a file when it runs."""
    x = keras2.Input((4,))
    code = eval(f"lambda t: t + __import__('pathlib').Path({str(marker)!r}).write_text('ran')")  # no source of it here
    model = keras2.Model(x, L.Lambda(code, name="surprise")(L.Dense(3)(x)))
    model.save(path)
    marker.unlink()


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_code_in_a_lambda_never_runs(tmp_path, suffix):
    with_code(tmp_path / f"lambda.{suffix}", tmp_path / "marker")
    with pytest.raises(BackboneError, match=r"Keras cannot load .*'surprise' is a Lambda.*never runs code of a file"):
        load_backbone(tmp_path / f"lambda.{suffix}")
    assert not (tmp_path / "marker").exists()


def _call(name, **keywords):
    def change(config):
        layer = {"class_name": "TFOpLambda", "name": "call", "config": {"name": "call", "function": name}}
        config["config"]["layers"].append({**layer, "inbound_nodes": [[["input_1", 0, 0, keywords]]]})

    return change


def _layer(name, inner, **more):
    def change(config):
        config["config"]["layers"].append({"class_name": name, "config": inner, "inbound_nodes": [], **more})

    return change


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_call("io.write_file", contents="x"), r"tf\.io\.write_file"),
        (_call("load_op_library"), r"tf\.load_op_library"),
        (_call("math.add.__globals__"), r"tf\.math\.add\.__globals__"),
        (_call(["math", "add"]), "not Keras layers"),
        (_layer("system", {"name": "s"}, module="os"), r"os\.system"),
        (_layer("Dense", {"name": "d", "units": 2}, module="subprocess"), r"subprocess\.Dense"),
        (_layer("Dense", {"name": "d", "units": 2}, registered_name="Evil>Dense"), "Evil>Dense"),
        (_layer("deserialize", {"name": "d"}), "deserialize"),
        (_layer("StringLookup", {"name": "d", "vocabulary": "/etc/passwd"}), r"StringLookup\.vocabulary"),
        (
            _layer("Dense", {"name": "d", "units": 2, "activation": {"class_name": "function", "config": "exec"}}),
            "exec",
        ),
    ],
)
def test_configs_that_reach_outside(h5, change, message):
    edit(h5, lambda config: config["config"]["layers"].append({"class_name": "TFOpLambda", "config": {}}))
    edit(h5, change)
    with pytest.raises(UnsafeModelError, match=message):
        load_backbone(h5)


def _external_link(file, place):
    file["model_weights"]["evil"] = h5py.ExternalLink(str(place / "secret.h5"), "/secret")


def _soft_link(file, place):
    file["model_weights"]["evil"] = h5py.SoftLink("/model_weights")


def _external_array(file, place):
    file.create_dataset("evil", (4,), "f4", external=[(str(place / "secret.bin"), 0, 16)])


def _virtual_array(file, place):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(place / "secret.h5"), "secret", (4,))
    file.create_virtual_dataset("evil", layout)


def _bomb(file, place):
    file.create_dataset("evil", (2**30,), "f4", chunks=(2**20,), compression="gzip")


def _depth(file, place):
    file.create_group("/".join(["g"] * 100))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("as_weights", [False, True])
@pytest.mark.parametrize("attack", [_external_link, _soft_link, _external_array, _virtual_array, _bomb, _depth])
def test_files_that_lead_outside_or_are_bombs(h5, tmp_path, attack, as_weights):
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["secret"] = np.ones(4, "f4")
    with h5py.File(h5, "r+") as file:
        attack(file, tmp_path)
    with pytest.raises(UnsafeModelError, match="was not loaded"):
        load_backbone("keras:VGG16", weights=h5) if as_weights else load_backbone(h5)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_damaged_files(h5, tmp_path):
    whole = h5.read_bytes()
    for name, content in {"cut.h5": whole[: len(whole) // 2], "text.h5": b"no HDF5"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BackboneError, match="cannot be read as an HDF5 file"):
            load_backbone(tmp_path / name)
    with h5py.File(h5, "r+") as file:
        file["model_weights"].attrs["layer_names"] = [b"block1_depthwise", b"gone"]
        group = file["model_weights"]["block1_depthwise"]
        group.attrs["weight_names"] = [b"nothing"]
    with pytest.raises(BackboneError, match="lacks the array .*nothing"):
        load_backbone("keras:VGG16", weights=h5)
    with h5py.File(h5, "r+") as file:
        file.attrs["model_config"] = "[" * 100_000
    with pytest.raises((BackboneError, SavedModelError), match="is damaged"):
        load_backbone(h5)
