"""ExportResult models: the numbers are right wherever they are loaded, and nothing is left where they are not."""

from __future__ import annotations

import json
import pathlib
import pickle
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import heads
from tfft.errors import ExportError, SavedModelError
from tfft.exporting import ExportResult, export, open_export, serving_functions
from tfft.specs import InputSpec

process_fixtures = ("served",)

SIZES = ((20, 33), (32, 32), (75, 40))


def pictures(count=4):
    """Random images of several sizes, as arrays; noise shows any difference in resizing."""
    generator = np.random.default_rng(7)
    return [generator.integers(0, 256, (*SIZES[i % len(SIZES)], 3), np.uint8) for i in range(count)]


def png(image):
    return tf.io.encode_png(image).numpy()


def expected(model, images):
    """What the Keras model says, one image at a time."""
    rows = [heads.from_model(model).postprocess(model.predict(image[None], verbose=0)) for image in images]
    return {key: np.concatenate([np.asarray(row[key]) for row in rows]) for key in rows[0]}


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        if value.dtype == object:
            assert list(found[key]) == list(value)
        else:
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def tiny(build_tiny_model):
    """One model for the tests that only read it."""
    return build_tiny_model()


@pytest.fixture(scope="module")
def served(tiny, tmp_path_factory) -> ExportResult:
    return export(tiny, tmp_path_factory.mktemp("export") / "served" / "1", card={"Scores": {"accuracy": 0.75}})


# --- what is written ---------------------------------------------------------------------------------------------


def test_layout_signatures_labels_and_card(served):
    assert served.path.parts[-2:] == ("served", "1")
    assert (served.path / "saved_model.pb").is_file()
    assert set(served.signatures) == {"serving_default", "serve_bytes"}
    assert served.largest_difference <= 1e-5
    assert (served.path / "assets" / "labels.txt").read_text() == "blue\ngreen\nred\n"
    card = (served.path / "assets" / "model_card.md").read_text()
    for part in (
        "tiny",
        "classification",
        "accuracy: 0.7500",
        "32 x 32 x 3",
        "-1 to 1",
        "image_bytes string [?]",
        "green",
    ):
        assert part in card
    assert not list(served.path.parent.glob(".tmp*"))
    assert served.path.stat().st_mode & 0o055 == served.path.parent.stat().st_mode & 0o055


def test_every_input_and_output_has_a_free_batch_and_a_stable_name(served):
    loaded = tf.saved_model.load(str(served.path))
    for name, key in (("serving_default", "images"), ("serve_bytes", "image_bytes")):
        signature = loaded.signatures[name]
        assert list(signature.structured_input_signature[1]) == [key]
        assert signature.structured_input_signature[1][key].shape[0] is None
        assert set(signature.structured_outputs) == {"probabilities", "label", "logits"}
        assert all(tensor.shape[0] is None for tensor in signature.structured_outputs.values())
    assert loaded.signatures["serving_default"].structured_input_signature[1]["images"].dtype == tf.uint8


@pytest.mark.slow
def test_arrays_and_bytes_agree_with_predict(tiny, served):
    images = pictures()
    wanted = expected(tiny, images)
    opened = open_export(served.path)
    assert opened.class_names == ("blue", "green", "red")
    assert_same(opened.predict_bytes([png(image) for image in images]), wanted)
    for i, image in enumerate(images):
        row = opened.signatures["serving_default"](images=tf.constant(image[None]))
        assert_same({k: v.numpy() for k, v in row.items()}, {k: v[i : i + 1] for k, v in wanted.items()})


@pytest.mark.slow
def test_files_are_named_by_their_paths(served, tmp_path):
    opened, images = open_export(served.path), pictures(2)
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(png(image))
    wanted = opened.predict_bytes([png(image) for image in images])
    assert_same(opened.predict([str(paths[0]), paths[1]]), wanted)
    with pytest.raises(
        ExportError, match=r"(?s)Expected paths of files, or their contents .*2 problems.*no\.png.*null"
    ):
        opened.predict([tmp_path / "no.png", "a\0b", paths[0]])


@pytest.mark.nightly
def test_optimizer_state_is_not_exported(tiny_model, tmp_path):
    plain = export(tiny_model, tmp_path / "plain" / "1").path
    tiny_model.compile("adam", **heads.from_model(tiny_model).compile_args())
    tiny_model.fit(np.stack([pictures(2)[1]] * 4), np.zeros(4, np.int32), verbose=0)
    fitted = export(tiny_model, tmp_path / "fitted" / "1").path
    names = [name for name, _ in tf.train.list_variables(str(fitted / "variables" / "variables"))]
    assert len(names) == len(tf.train.list_variables(str(plain / "variables" / "variables")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression"])
def test_other_heads_answer_what_their_postprocess_says(kind, tmp_path):
    head = {
        "binary": heads.binary(("no", "yes")),
        "multilabel": heads.multilabel(("a", "b", "c")),
        "regression": heads.regression(2),
    }[kind]
    inputs = keras.Input((5,), name="features")
    model = keras.Model(inputs, head.attach(keras.layers.Dense(4, activation="relu")(inputs)))
    exported = export(model, tmp_path / "1")
    values = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    outputs = open_export(exported.path).signatures["serving_default"](features=tf.constant(values))
    wanted = head.postprocess(model.predict(values, verbose=0))
    assert_same({k: v.numpy() for k, v in outputs.items()}, {k: v.numpy() for k, v in wanted.items()})
    assert exported.notes == ("serve_bytes left out: the model's input is not one image.",)


# --- models that tfft did not build ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", None])
def test_class_names_make_a_classifier_of_any_model(activation, tmp_path):
    model = keras.Sequential([keras.Input((8,), name="x"), keras.layers.Dense(3, activation=activation)])
    values = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    exported = export(model, tmp_path / "model", class_names=["a", "b", "c"], examples=values)
    assert exported.path == tmp_path / "model" / "1"
    found = open_export(tmp_path / "model").signatures["serving_default"](x=tf.constant(values))
    raw = model.predict(values, verbose=0)
    wanted = raw if activation else keras.ops.convert_to_numpy(keras.ops.softmax(raw))
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-6)  # softmax once, not twice
    assert [label.decode() for label in found["label"].numpy()] == ["abc"[i] for i in wanted.argmax(axis=1)]


@pytest.mark.nightly
def test_without_class_names_the_outputs_pass_through(tmp_path):
    text = keras.Input((), dtype="string", name="text")
    vectorize = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    vectorize.adapt(["a short example", "another one"])
    features = keras.layers.Flatten()(keras.layers.Embedding(20, 3)(vectorize(text)))
    model = keras.Model({"text": text}, {"score": keras.layers.Dense(2)(features), "twice": features * 2})
    exported = export(model, tmp_path / "1", examples={"text": np.array(["a short one", "example"])})
    outputs = open_export(exported.path).signatures["serving_default"](text=tf.constant(["a short one"]))
    wanted = model.predict({"text": tf.constant(["a short one"])}, verbose=0)
    assert_same({k: v.numpy() for k, v in outputs.items()}, wanted)


@pytest.mark.slow
def test_several_inputs_keep_their_names_and_order(tmp_path):
    mask, ids = (keras.Input((None,), dtype="int32", name=name) for name in ("a_mask", "z_ids"))
    tokens = keras.layers.Embedding(9, 4)(ids) * keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    output = keras.layers.Dense(2)(keras.ops.sum(tokens, axis=1))
    model = keras.Model({"z_ids": ids, "a_mask": mask}, output)  # a dict in another order than Keras sorts it
    exported = export(model, tmp_path / "1")
    values = {"z_ids": np.array([[1, 2, 8]], np.int32), "a_mask": np.array([[1, 1, 0]], np.int32)}
    outputs = open_export(exported.path).signatures["serving_default"](**{k: tf.constant(v) for k, v in values.items()})
    np.testing.assert_allclose(outputs["outputs"], model.predict(values, verbose=0), rtol=1e-5)


def image_model(*layers):
    return keras.Sequential(
        [keras.Input((16, 16, 3), name="pixels"), *layers, keras.layers.Flatten(), keras.layers.Dense(2)]
    )


@pytest.mark.nightly
def test_bytes_for_a_foreign_image_model_need_a_known_pixel_range(tmp_path):
    names = ["a", "b"]
    unknown = export(image_model(), tmp_path / "unknown", class_names=names)
    assert set(unknown.signatures) == {"serving_default"}
    assert "pixel range of the model" in unknown.notes[0]
    scaling = export(image_model(keras.layers.Rescaling(1 / 255)), tmp_path / "scaling", class_names=names)
    assert set(scaling.signatures) == {"serving_default", "serve_bytes"}

    model, image = image_model(), pictures(2)[1][:16, :16]
    told = export(model, tmp_path / "told", class_names=names, input_spec=InputSpec(value_range=(-1.0, 1.0)))
    found = open_export(told.path).predict_bytes([png(image)])["logits"]
    np.testing.assert_allclose(found, model.predict(image[None] / 127.5 - 1, verbose=0), rtol=1e-5, atol=1e-5)


# --- the same numbers everywhere ---------------------------------------------------------------------------------

FRESH = """
import sys, json, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
out = model.signatures["serve_bytes"](image_bytes=tf.constant([open(f, "rb").read() for f in sys.argv[2:]]))
assert "tfft" not in sys.modules
labels = [v.decode() for v in out["label"].numpy()]
print(json.dumps({"label": labels, "probabilities": out["probabilities"].numpy().tolist()}))
"""


@pytest.mark.process
@pytest.mark.slow
def test_fresh_process_with_tensorflow_alone(tiny, served, tmp_path):
    images, files = pictures(), []
    for i, image in enumerate(images):
        files.append(tmp_path / f"{i}.png")
        files[-1].write_bytes(png(image))
    command = [sys.executable, "-P", "-c", FRESH, str(served.path), *map(str, files)]
    found = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    wanted = expected(tiny, images)
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], rtol=1e-5, atol=1e-5)
    assert found["label"] == [label.decode() for label in wanted["label"]]


INTERRUPTED = """
import sys
import numpy as np
from tfft.exporting.parity import FreshProcess

if __name__ == "__main__":
    with FreshProcess() as process:
        process._process.kill()
        process._process.wait()
        calls = [("serving_default", {"images": np.zeros((2, 32, 32, 3), np.uint8)})]
        (outputs,) = process.run(sys.argv[1], [], calls)
    print(outputs["label"][0].decode())
"""


@pytest.mark.nightly
@pytest.mark.process
def test_a_process_that_was_interrupted_while_it_waited_is_started_again(tiny, served):
    command = [sys.executable, "-P", "-c", INTERRUPTED, str(served.path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == expected(tiny, [np.zeros((32, 32, 3), np.uint8)])["label"][0].decode()


def library():
    found = sorted(pathlib.Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*"))
    assert found, f"no libtensorflow_cc beside {tf.sysconfig.get_lib()}"
    return found[0]


@pytest.mark.process
@pytest.mark.daily("serving_default")
@pytest.mark.parametrize("signature", ["serve_bytes", "serving_default"])
def test_c_api(signature, tiny, served, tmp_path):
    images = pictures() if signature == "serve_bytes" else [pictures(2)[1]] * 2
    value = np.array([png(image) for image in images], object) if signature == "serve_bytes" else np.stack(images)
    definition = _signature_def(served.path, signature)
    feeds = {next(iter(definition.inputs.values())).name: value}
    names = {key: tensor.name for key, tensor in definition.outputs.items()}
    (tmp_path / "call").write_bytes(pickle.dumps((str(served.path), feeds, list(names.values()))))
    script = pathlib.Path(__file__).with_name("c_api.py")
    command = [sys.executable, str(script), str(library()), str(tmp_path / "call"), str(tmp_path / "result")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = pickle.loads((tmp_path / "result").read_bytes())
    assert_same({key: results[name] for key, name in names.items()}, expected(tiny, images))


def _signature_def(folder, name):
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return message.meta_graphs[0].signature_def[name]


# --- nothing half-written, nothing overwritten -------------------------------------------------------------------


@pytest.fixture
def first(served, tmp_path):
    """A copy of the export, for tests that write beside it."""
    return pathlib.Path(shutil.copytree(served.path, tmp_path / "served" / "1"))


@pytest.mark.nightly
def test_existing_version_is_refused_untouched_and_the_next_one_is_named(tiny, first):
    before = tree(first)
    with pytest.raises(ExportError, match=r"Version 1 already exists.*served/2"):
        export(tiny, first)
    assert tree(first.parent) == {f"1/{name}": content for name, content in before.items()}
    assert export(tiny, first.parent).path.name == "2"
    assert tree(first) == before
    assert open_export(first.parent).path.name == "2"


class Noise(keras.layers.Layer):
    """Adds noise also when the model serves; a fault that only a comparison finds."""

    def call(self, x):
        return x + tf.random.uniform(tf.shape(x))


class Neighbours(keras.layers.Layer):
    """Lets a row depend on the others of its batch."""

    def call(self, x):
        return x - tf.reduce_mean(x, axis=0, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "what"),
    [(Noise, r"output 'outputs' differs by"), (Neighbours, r"the last row alone: output 'outputs' differs")],
)
def test_a_model_that_answers_otherwise_is_not_exported(layer, what, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), layer()])
    with pytest.raises(ExportError, match=what):
        export(model, tmp_path / "deep" / "served" / "1")
    assert not list(tmp_path.iterdir())  # the folders on the way are gone too


@pytest.mark.nightly
def test_a_model_that_gives_nan_is_not_exported(tiny_model, tmp_path):
    logits = tiny_model.get_layer("logits")
    logits.set_weights([np.full_like(w, np.nan) for w in logits.get_weights()])
    with pytest.raises(ExportError, match="is not finite"):
        export(tiny_model, tmp_path / "served" / "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_failure_keeps_older_versions(tiny, first):
    before = tree(first.parent)
    with pytest.raises(ExportError, match="tolerance -1"):
        export(tiny, first.parent / "5", tolerance=-1)
    assert tree(first.parent) == before
    assert [p.name for p in first.parent.iterdir()] == ["1"]


def test_interrupt_leaves_nothing(tiny, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        assert [p.name.startswith(".tmp-1-") for p in (tmp_path / "served").iterdir()] == [True]
        raise KeyboardInterrupt

    monkeypatch.setattr("tfft.exporting.savedmodel.check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path / "served" / "1")
    assert not list(tmp_path.iterdir())


# --- wrong use ---------------------------------------------------------------------------------------------------


def test_wrong_paths(tiny, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="is a file"):
        export(tiny, tmp_path / "file" / "1")
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ExportError, match="is itself a SavedModel"):
        export(tiny, tmp_path / "lone")
    with pytest.raises(SavedModelError, match="not an exported model"):
        open_export(tmp_path / "nowhere")


@pytest.mark.slow
def test_wrong_class_names_and_models(tiny, tmp_path):
    with pytest.raises(ExportError, match=r"2 names, the model's head has 3 classes: blue, green, red"):
        export(tiny, tmp_path / "1", class_names=["a", "b"])
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ExportError, match="2 names, the model's output has 3 columns"):
        export(plain, tmp_path / "1", class_names=["a", "b"])
    fixed = keras.Sequential([keras.Input(batch_shape=(2, 4), name="x"), keras.layers.Dense(3)])
    with pytest.raises(ExportError, match="'x' has a fixed batch of 2"):
        export(fixed, tmp_path / "1")
    summed = keras.Input((4,))
    with pytest.raises(ExportError, match="first dimension has to be the batch"):
        export(keras.Model(summed, keras.ops.sum(summed)), tmp_path / "1")

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ExportError, match="has no known inputs"):
        export(Subclassed(), tmp_path / "1")
    with pytest.raises(ExportError, match=r"example for the check cannot be read.*missing.png"):
        export(tiny, tmp_path / "1", examples=[tmp_path / "missing.png"])
    assert not list(tmp_path.iterdir())


def test_the_function_is_not_hidden_by_its_package():
    import tfft
    import tfft.exporting.savedmodel

    assert tfft.export is tfft.exporting.savedmodel.export


@pytest.mark.slow
def test_a_head_may_serve_another_model_and_further_signatures(tiny):
    class Doubled(type(heads.from_model(tiny))):
        def served(self, model):
            image = keras.Input(model.input_shape[1:], dtype="float32", name="pixels")
            asked = keras.Model(image, model(keras.ops.cast(image * 2, "uint8")))
            return heads.ServedModel(asked, self.postprocess, {"raw": lambda logits: {"logits": logits}})

    image = np.full((2, 32, 32, 3), 40.0, np.float32)
    model = keras.models.clone_model(tiny)
    model.set_weights(tiny.get_weights())
    model.layers[-1].head = Doubled(**vars(model.layers[-1].head))
    serving = serving_functions(model)
    logits = tiny.predict((image * 2).astype(np.uint8), verbose=0)
    np.testing.assert_allclose(serving.signatures["raw"](pixels=tf.constant(image))["logits"], logits, atol=1e-5)
    wanted = {key: value.numpy() for key, value in heads.from_model(tiny).postprocess(logits).items()}
    served = serving.signatures["serving_default"](pixels=tf.constant(image))
    assert_same({key: value.numpy() for key, value in served.items()}, wanted)
    assert_same(serving.reference({"pixels": image}), wanted)


def test_inputs_whose_names_begin_with_a_digit_get_names_that_python_takes(tmp_path):
    """As in policies of reinforcement learning; TensorFlow would give them other names while tracing."""
    inputs = {name: keras.Input((2,), name=name) for name in ("0_reward", "step")}
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(list(inputs.values()))))
    served = open_export(export(model, tmp_path / "served" / "1").path)
    signature = served.signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"input_0_reward", "step"}
