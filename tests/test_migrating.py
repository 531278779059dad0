"""The pages for users of other libraries: their code runs, and where both sides compute the same, so do the numbers."""

import ast
import csv
import shutil

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf
import weight_models
from migration_pages import DOCS, Page
from text_models import reviews, tiny_bert_folder

import tfft

CLASSES = {"bird": 60, "cat": 110, "dog": 160}
PAGES = sorted(path.name for path in (DOCS / "migrating").glob("*.md"))
MOBILENET = {  # the first version has 86 layers, the second 154
    "160": "32",
    "MobileNetV2": "MobileNet",
    "mobilenet_v2": "mobilenet",
    'weights="imagenet"': 'weights="net.weights.h5"',
    "keras:MobileNet": "keras:MobileNet:net.weights.h5",
    "batch_size=32": "batch_size=8",
}
THREE_BLOCKS = {
    'keras.applications.MobileNetV2(input_shape=(160, 160, 3), include_top=False, weights="imagenet")\n'
    "base.trainable": 'keras.saving.load_model("tiny.keras")\nbase.trainable',
    'tfft.load_backbone("keras:MobileNetV2", image_size=160)': 'tfft.load_backbone("tiny.keras", input_range=(-1, 1))',
    "160": "32",
    "number >= 116": "number >= 7",
    "unfreeze(model, 5)": "unfreeze(model, 1)",
    "batch_size=32": "batch_size=8",
    "epochs=10": "epochs=1",
    "Dropout(0.2)": "Dropout(0.0)",
    "dropout=0.2": "dropout=0.0",
    "Adam(1e-5)": "Adam(1e-3)",  # a change that float32 shows
}
HUB = {
    "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5": "module",
    "224": "32",
    "epochs=5": "epochs=1",
    "Dropout(0.2)": "Dropout(0.0)",
    "dropout=0.2": "dropout=0.0",
}
TINY = {"efficientnet-lite0": "tiny.keras"}


def write_photos(folder, per_class=10):
    random = np.random.default_rng(0)
    for name, level in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.clip(random.normal(level, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
            (folder / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos of the size of the networks, and weights of a MobileNet that has seen nothing."""
    root = tmp_path_factory.mktemp("migrating")
    write_photos(root / "photos")
    keras.utils.set_random_seed(1)
    network = keras.applications.MobileNet(input_shape=(32, 32, 3), include_top=False, weights=None)
    images = all_images(root / "photos")[1] / 127.5 - 1
    for layer in network.layers:  # statistics of these photos: others let no signal through so many layers
        layer.momentum = 0.0
    network(images, training=True)
    network.save_weights(root / "net.weights.h5")
    weight_models.three_blocks().model.save(root / "tiny.keras")
    return root


def all_images(folder):
    """Paths, pixels and classes of all photos, by Keras."""
    dataset = keras.utils.image_dataset_from_directory(folder, image_size=(32, 32), shuffle=False, verbose=False)
    return dataset.file_paths, *(np.concatenate(each) for each in zip(*dataset.as_numpy_iterator(), strict=True))


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_python(name):
    for label, block in Page(f"migrating/{name}", {}).blocks:
        ast.parse(block, label)


@pytest.mark.nightly
def test_keras_by_hand_and_tfft_have_the_same_pixels_features_and_logits(place, monkeypatch):
    monkeypatch.chdir(place)
    page = Page("migrating/keras_by_hand.md", MOBILENET)
    there, here = page.run("keras data", "keras model"), page.run("tfft data", "tfft model")
    assert tuple(there["class_names"]) == here["splits"].class_names == tuple(CLASSES)
    files, images, labels = all_images("photos")
    for part in here["splits"].train, here["splits"].validation:
        read, classes = next(iter(tfft.data.to_dataset(part, here["backbone"].input_spec, batch_size=99)))
        rows = [files.index(path) for path in part.paths]
        np.testing.assert_array_equal(read, images[rows])
        np.testing.assert_array_equal(classes, labels[rows])
    features = np.asarray(there["base"](images[:8] / 127.5 - 1, training=False)).mean((1, 2))
    assert np.ptp(features, axis=0).max() > 0.1  # not those of nothing
    found = here["backbone"].model(images[:8] / 127.5 - 1, training=False)
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5)
    logits = np.asarray(with_head_of(there, here)(images[:8].astype(np.uint8), training=False))
    assert np.ptp(logits, axis=0).max() > 0.1
    np.testing.assert_allclose(logits, there["model"](images[:8], training=False), rtol=1e-4, atol=1e-4)


def with_head_of(there, here):
    """The model of tfft, with the head of the other one."""
    logits = here["model"].get_layer("logits")
    for to, value in zip(logits.weights, there["model"].layers[-1].get_weights(), strict=True):
        to.assign(value)
    return here["model"]


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")  # as Keras' own examples call fit
@pytest.mark.nightly
def test_keras_by_hand_and_tfft_train_to_the_same_weights(place, monkeypatch):
    monkeypatch.chdir(place)
    page = Page("migrating/keras_by_hand.md", THREE_BLOCKS)
    there, here = page.run("keras data", "keras model"), page.run("tfft data", "tfft model")
    model = with_head_of(there, here)
    before = [w.copy() for w in there["base"].get_weights()]
    _, images, labels = all_images("photos")
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)  # the order is the only choice left
    page.run("keras training", namespace={**there, "train": batches, "validation": batches})
    batches = batches.map(lambda x, y: (tf.cast(x, tf.uint8), y))
    page.run("tfft training", namespace={**here, "train": batches, "validation": batches})
    ours, theirs = model.get_layer("backbone").layers, there["base"].layers
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=False) if one.weights]
    assert [one.name for one, _ in pairs] == [other.name for _, other in pairs]
    assert [one.trainable for one, _ in pairs] == [other.trainable for _, other in pairs]
    for one, other in [*pairs, (model.get_layer("logits"), there["model"].layers[-1])]:
        for value, expected in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=one.name)
    moved = [not np.array_equal(w, value) for w, value in zip(there["base"].get_weights(), before, strict=True)]
    assert sum(moved) == 1  # the kernel of the last block; nothing of BatchNorm


@pytest.mark.nightly
def test_the_rest_of_the_page_about_keras_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    changes = {'weights="imagenet"': "weights=None", "keras:MobileNetV2": "tiny.keras", "unfreeze=5": "unfreeze=1"}
    page = Page("migrating/keras_by_hand.md", {"160": "32", "epochs=10": "epochs=1", **changes})
    space = page.run("tfft all", "tfft own", namespace={"tfft": tfft, "keras": keras})
    assert space["run"].plan.image_size == (32, 32)
    assert space["run"].plan.phases[-1].unfreeze == 1
    backbone, layers = space["backbone"], space["base"].layers
    assert backbone.input_spec.value_range == (-1, 1)
    assert layers[115].name.startswith("block_12")
    assert layers[116].name.startswith("block_13")
    assert [block.name for block in backbone.blocks][-5:] == [f"block_{i}" for i in range(13, 17)] + ["Conv_1"]
    assert tfft.load_backbone(space["base"]).input_spec.value_range == (-1, 1)
    mine = keras.Model(space["base"].input, space["base"].output, name="mine")
    assert any("assumed: [0, 1]" in note for note in tfft.load_backbone(mine).notes)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::UserWarning:tf_keras")
def test_hub_keras_layer_and_tfft_give_the_same_features_and_logits(tmp_path, monkeypatch):
    tf_keras, hub = pytest.importorskip("tf_keras"), pytest.importorskip("tensorflow_hub")
    monkeypatch.chdir(tmp_path)
    savedmodels.residual(tmp_path / "module")
    images, labels = weight_models.examples(8)
    train = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    given = {"class_names": ["a", "b", "c"], "train": train}
    page = Page("migrating/hub_keras_layer.md", HUB)
    there, here = page.run("hub", namespace=dict(given)), dict(given)
    page.run("tfft model", "tfft export", namespace=here)
    # What they were trained to differs: BatchNorm follows the data there. A fresh module is the same on both sides.
    layer, scaled = hub.KerasLayer("module"), images.astype("float32") / 255
    backbone = tfft.load_backbone("module")
    expected = layer(scaled).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(backbone.model.predict(scaled, verbose=0), expected, rtol=1e-5, atol=1e-6)
    model = tfft.build(backbone, tfft.heads.classification(given["class_names"]))
    dense = there["old"].layers[-1]
    for to, value in zip(model.get_layer("logits").weights, dense.get_weights(), strict=True):
        to.assign(value)
    logits = model.predict(images, verbose=0)
    np.testing.assert_allclose(logits, dense(layer(scaled)).numpy(), rtol=1e-4, atol=1e-5)
    moved = [w for w in there["old"].weights if "moving_mean" in w.name]
    assert any(not np.allclose(w, v) for w, v in zip(moved, statistics(layer), strict=True))
    kept = statistics(here["model"])
    assert kept
    for one, other in zip(kept, statistics(model), strict=True):
        np.testing.assert_array_equal(one, other)
    # The trained old model, exported, opens with its weights.
    again = here["backbone"].model.predict(scaled, verbose=0)
    np.testing.assert_allclose(again, there["old"].predict(scaled, verbose=0), rtol=1e-4, atol=1e-5)
    # The errors in the table.
    with pytest.raises(ValueError, match="A KerasTensor is symbolic: it's a placeholder for a shape an a dtype"):
        hub.KerasLayer("module")(keras.Input((32, 32, 3)))
    with pytest.raises(ValueError, match="Only instances of `keras.Layer` can be added to a Sequential model"):
        keras.Sequential([hub.KerasLayer("module")])
    assert issubclass(hub.KerasLayer, tf_keras.layers.Layer)


@pytest.mark.nightly
def test_a_module_is_fine_tuned_in_one_call(place, tmp_path, monkeypatch):
    shutil.copytree(place / "photos", tmp_path / "photos")
    savedmodels.residual(tmp_path / "module")
    monkeypatch.chdir(tmp_path)
    run = Page("migrating/hub_keras_layer.md", HUB).run("tfft finetune", namespace={"tfft": tfft})["run"]
    assert run.final_scores.examples == 6


def statistics(layer):
    """Means of all BatchNorms, in order."""
    return [np.asarray(w) for w in layer.weights if "moving_mean" in getattr(w, "path", w.name)]


@pytest.mark.nightly
def test_the_page_about_model_maker_runs(place, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    shutil.copytree(place / "photos", tmp_path / "photos")
    shutil.copy(place / "tiny.keras", tmp_path)
    monkeypatch.chdir(tmp_path)
    space = Page("migrating/model_maker.md", {**TINY, "epochs=5": "epochs=1"}).run("tfft")
    exported = space["exported"]
    assert exported.quantize == "int8"
    assert exported.examples == len(space["splits"].train)
    assert exported.agreement > 0.8
    assert (tmp_path / "runs" / "photos" / "labels.txt").read_text().split() == list(CLASSES)
    [probabilities] = space["answer"](images=all_images("photos")[1][:1].astype(np.uint8))["probabilities"]
    assert probabilities.sum() == pytest.approx(1, abs=0.05)


@pytest.mark.nightly
@pytest.mark.process
def test_the_page_about_fastai_runs(place, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    shutil.copytree(place / "photos", tmp_path / "photos")
    shutil.copy(place / "tiny.keras", tmp_path)
    shutil.copy(place / "photos" / "dog" / "0.png", tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    space = Page("migrating/fastai.md", {**TINY, "epochs=4": "epochs=1"}).run("tfft")
    assert space["grid"].shape[0] > space["backbone"].input_spec.height * 4
    assert [phase.name for phase in space["run"].plan.phases] == list(space["run"].history.best)
    assert space["run"].plan.phases[-1].learning_rate == pytest.approx(space["rates"].suggestion / 2)
    assert (tmp_path / "rates.png").stat().st_size > 1000
    assert "<html" in (tmp_path / "runs" / "photos" / "report.html").read_text()
    assert space["prediction"].label in CLASSES


@pytest.mark.text
@pytest.mark.nightly
@pytest.mark.process
def test_the_page_about_the_trainer_runs(tmp_path, monkeypatch):
    pytest.importorskip("keras_hub")
    monkeypatch.chdir(tmp_path)
    tiny_bert_folder(tmp_path / "bert_folder", width=8, layers=1)
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("review", "stars"), *zip(*reviews(40), strict=True)])
    changes = {"max_length=128": "max_length=16", "epochs=3": "epochs=1", '    out="runs/reviews",\n': ""}
    page = Page("migrating/hugging_face_trainer.md", changes)
    space = page.run("tfft")
    assert page.run("tfft full", namespace={})["run"].plan.pooling == "pooled_output"
    assert tuple(space["splits"].class_names) == ("bad", "good")
    assert space["run"].final_scores.examples == len(space["splits"].validation)
    assert all(
        variable.trainable for variable in space["model"].get_layer("backbone").variables if "seed" not in variable.path
    )
