"""Every form that people hold pictures and labels in, through every function that takes some: the same result."""

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft import heads
from tfft.backbones.base import Backbone
from tfft.data.forms import label_column, labels_for, pixel_array
from tfft.data.label_parsing import values_of
from tfft.errors import DataError, PlanError, TfftError
from tfft.features import extract, fit_linear_probe
from tfft.models import build
from tfft.optimizers import lr_find
from tfft.recipes import cross_validate, finetune, recommend_plan
from tfft.specs import InputSpec

pandas = pytest.importorskip("pandas")

COUNT, CLASSES = 24, 3
QUICK = {"plan": "linear_probe", "l2": 1e-2, "batch_size": 8, "verbose": False, "cache": None}
RANDOM = np.random.default_rng(0)
LABELS = np.arange(COUNT) % CLASSES
PIXELS = np.clip(RANDOM.normal(60 + 60 * LABELS[:, None, None, None], 8, (COUNT, 8, 8, 3)), 0, 255).astype(np.uint8)
OPAQUE = np.concatenate([PIXELS, np.full((COUNT, 8, 8, 1), 255, np.uint8)], axis=-1)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]
FIXED = keras.initializers.GlorotUniform(seed=2)  # some other weights need more steps than the tests make
BACKBONE = keras.Sequential(
    [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, strides=2, kernel_initializer=FIXED, name="block0_conv")],
    name="tiny",
)


def dataset(pixels, labels, batch=8):
    made = tf.data.Dataset.from_tensor_slices((pixels, labels))
    return made.batch(batch) if batch else made


class Batches(keras.utils.PyDataset):
    """Batches as Keras' own sequences give them."""

    def __len__(self):
        return COUNT // 8

    def __getitem__(self, at):
        return PIXELS[8 * at : 8 * at + 8].astype(np.float32), ONE_HOT[8 * at : 8 * at + 8]


PICTURES = {
    "uint8": PIXELS,
    "float32 0..255": PIXELS.astype(np.float32),
    "float64 0..255": PIXELS.astype(np.float64),
    "int64": PIXELS.astype(np.int64),
    "RGBA": OPAQUE,
    "list": list(PIXELS),
    "tensor": tf.constant(PIXELS),
    "grey": PIXELS[..., 0],
    "grey, one channel": PIXELS[..., :1],
}
LABELINGS = {
    "int": LABELS,
    "[N, 1]": LABELS[:, None],
    "one-hot": ONE_HOT,
    "one-hot ints": ONE_HOT.astype(np.int64),
    "floats": LABELS.astype(np.float32),
    "list": LABELS.tolist(),
    "Series": pandas.Series(LABELS),
    "names": np.array(["0", "1", "2"])[LABELS],
    "one-hot columns": pandas.DataFrame(ONE_HOT, columns=["0", "1", "2"]),
}
FORMS = {
    **{f"pictures: {name}": (pixels, LABELS) for name, pixels in PICTURES.items()},
    **{f"labels: {name}": (PIXELS, labels) for name, labels in LABELINGS.items()},
    "dataset: batches": dataset(PIXELS, LABELS),
    "dataset: single": dataset(PIXELS, LABELS, None),
    "dataset: floats, one-hot": dataset(PIXELS.astype(np.float32), ONE_HOT),
    "dataset: floats, single, one-hot": dataset(PIXELS.astype(np.float32), ONE_HOT, None),
    "dataset: [B, 1]": dataset(PIXELS, LABELS[:, None]),
    "dataset: names": dataset(PIXELS, np.array(["0", "1", "2"])[LABELS]),
    "dataset: RGBA": dataset(OPAQUE, LABELS),
    "dataset: Keras sequence": Batches(),
    "dataset: dictionaries": dataset(PIXELS, LABELS).map(lambda x, y: {"image": x, "label": y}),
}


def backbone():
    return Backbone("tiny", BACKBONE, "test", InputSpec(8, 8, source="the test"))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build(backbone(), heads.classification(["0", "1", "2"], dropout=0.0))


def _datasets(form):
    return (form, form) if isinstance(form, (tf.data.Dataset, keras.utils.PyDataset)) else form


def by_load(form, model):
    splits = tfft.data.load(_datasets(form), seed=1)
    assert (splits.task, splits.class_names) == ("classification", ("0", "1", "2"))
    return len(splits.train.labels)


def by_finetune(form, model):
    return finetune(backbone(), _datasets(form), **QUICK).final_scores.accuracy


def by_recommend(form, model):
    return recommend_plan(_datasets(form), backbone(), cache=None, batch_size=8).task


def by_evaluate(form, model):
    return tfft.evaluate(model, form).accuracy


def by_extract(form, model):
    features = extract(backbone(), form, cache=None, verbose=False, engine="tensorflow")
    if features.labels.dtype.kind in "OUS":  # names, which no head has been asked about
        return float(np.sum(features.arrays))
    rows = np.asarray(features.arrays).reshape(COUNT, -1)
    return round(fit_linear_probe(rows, features.labels, heads.from_model(model), l2=1.0).loss, 4)


def by_lr_find(form, model):
    return len(lr_find(model, form, steps=20, start=1e-5, end=10.0, batch_size=8, stop=1e9).losses)


def by_check(form, model):
    return {part: dict(counts) for part, counts in tfft.check(form).counts.items()}


DOORS = {
    "load": by_load, "finetune": by_finetune, "recommend_plan": by_recommend, "evaluate": by_evaluate,
    "extract": by_extract, "lr_find": by_lr_find, "check": by_check,
}  # fmt: skip
SLOW = {"recommend_plan", "extract"}
TRAINING = {"finetune", "lr_find"}  # in every run these take only the forms that differ most
DAILY = {
    "pictures: uint8",
    "labels: names",
    "labels: one-hot",
    "dataset: dictionaries",
    "dataset: Keras sequence",
    "dataset: floats, single, one-hot",
}


def marks_of(form, door):
    if door in TRAINING and form not in DAILY:
        return [pytest.mark.nightly]
    return [pytest.mark.slow] if door in SLOW | TRAINING else []


CELLS = [pytest.param(form, door, marks=marks_of(form, door), id=f"{door}-{form}") for door in DOORS for form in FORMS]


@pytest.fixture(scope="module")
def answer_to(model):
    """What a door gives for a form, asked once."""
    return functools.cache(lambda form, door: DOORS[door](FORMS[form], model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("form", "door"), CELLS)
def test_every_form_goes_through_every_door(form, door, model, answer_to):
    found = DOORS[door](FORMS[form], model)
    if "grey" in form:  # other pixels, so other numbers
        return
    wanted = answer_to("dataset: batches" if form.startswith("dataset") else "pictures: uint8", door)
    if door == "evaluate":
        assert found == wanted == answer_to("pictures: uint8", door)
    elif door != "extract" or "names" not in form:
        assert found == pytest.approx(wanted) if isinstance(found, float) else found == wanted


WRONG = {
    "pixels 0 to 1": ((PIXELS / 255.0).astype(np.float32), r"pixels must be in 0 to 255, received .*multiply by 255"),
    "pixels -1 to 1": (PIXELS / 127.5 - 1, r"pixels must be in 0 to 255, received .*: \(images \+ 1\) \* 127.5"),
    "channels first": (np.moveaxis(PIXELS, -1, 1), r"channels come last: np.moveaxis\(images, 1, -1\)"),
    "NaN": (np.full(PIXELS.shape, np.nan, np.float32), "images must be finite"),
}


@pytest.mark.parametrize("door", ["load", "evaluate", "extract", "lr_find"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused_is_refused_with_one_sentence(wrong, door, model):
    pixels, sentence = WRONG[wrong]
    with pytest.raises(DataError, match=sentence):
        DOORS[door]((pixels, LABELS), model)


@pytest.mark.parametrize("door", ["load", "evaluate", "lr_find", "check", "extract"])
@pytest.mark.parametrize("given", [3, None, "nowhere", object(), (PIXELS,), {}, [], (PIXELS, LABELS[:3])])
def test_an_unusual_argument_is_answered_with_a_sentence(given, door, model):
    if door == "check" and isinstance(given, (str, tuple)):
        return  # what stops a training is a finding there
    with pytest.raises(TfftError):
        DOORS[door](given, model)


def test_evaluate_asks_for_a_model():
    with pytest.raises(PlanError, match=r"Expected a keras.Model. Received: tuple"):
        tfft.evaluate((PIXELS, LABELS), (PIXELS, LABELS))


def test_the_two_parts_of_keras_datasets():
    splits = tfft.data.load(((PIXELS, LABELS[:, None]), (PIXELS[:6], LABELS[:6, None])))
    assert (len(splits.train), len(splits.validation), splits.split_from) == (24, 6, "the two parts given")


def test_numbers_with_a_fraction_are_a_regression():
    assert tfft.data.load((PIXELS, LABELS + 0.5)).task == "regression"
    several = tfft.data.load((PIXELS, np.stack([LABELS + 0.5, LABELS * 2.5], axis=1)))
    assert (several.task, several.train.labels.shape[1]) == ("regression", 2)
    assert tfft.data.load((PIXELS, LABELS), task="regression").train.labels.dtype == np.float32


def test_columns_of_several_labels():
    values, names = label_column(pandas.DataFrame({"red": [1, 0], "round": [1, 1]}))
    assert (values, names) == ([["red", "round"], ["round"]], ("red", "round"))
    with pytest.raises(DataError, match="soft labels"):
        label_column(np.full((4, 2), 0.5))


def test_white_lies_under_transparent_pictures():
    clear = np.zeros((1, 2, 2, 4), np.uint8)
    assert np.array_equal(pixel_array(clear), np.full((1, 2, 2, 3), 255))
    assert pixel_array(np.eye(4, dtype=bool)[None]).max() == 255


def test_names_that_the_head_does_not_know():
    with pytest.raises(DataError, match="Received: kat"):
        labels_for(heads.classification(["cat", "dog"]), ["kat", "dog"])


@pytest.mark.parametrize("column", [[1, 2, 1], [1.0, 2.0, 1.0], ["1", "2", "1"], ["1.0", "2.0", "1.0"], [1, "2.0", 1]])
def test_one_label_has_one_spelling(column):
    assert values_of(column, None) == ["1", "2", "1"]


def test_names_that_look_like_numbers_stay():
    assert values_of(["1.0", "v2"], None) == ["1.0", "v2"]
    assert values_of(["007", "1e3", "1.50"], None) == ["007", "1e3", "1.50"]


@pytest.mark.slow
def test_arrays_are_cross_validated():
    runs = cross_validate(backbone(), (PIXELS.astype(np.float32), ONE_HOT), folds=2, **QUICK)
    assert len(runs.rows) == 2
    assert runs.mean > 0.8


@pytest.mark.daily("linear_probe")
@pytest.mark.parametrize("plan", ["linear_probe", "full"])
def test_sample_weights_count_in_the_loss(plan):
    wrong = (LABELS + 1) % CLASSES  # every example a second time, with a wrong label that weighs nothing
    twice = np.concatenate([PIXELS, PIXELS]), np.concatenate([LABELS, wrong]), np.repeat([1.0, 0.0], COUNT)
    train = tf.data.Dataset.from_tensor_slices(twice).batch(48)
    settings = {**QUICK, "plan": plan}
    if plan == "full":
        settings |= {"epochs": 60, "learning_rate": (0.03, 0.03)}
    run = finetune(backbone(), (train, dataset(PIXELS, LABELS), ["a", "b", "c"]), **settings)
    assert run.final_scores.accuracy > 0.9


def test_missing_labels_are_named():
    with pytest.raises(DataError, match="none at the positions 1, 3"):
        label_column([1.0, None, 2.0, float("nan")])
    with pytest.raises(DataError, match="none at the positions 1"):
        label_column(["cat", float("nan"), "dog"])


def test_labels_of_texts_have_the_same_forms():
    texts = [f"a text {i}" for i in range(COUNT)]
    for labels in (ONE_HOT, LABELS[:, None], pandas.DataFrame(ONE_HOT), LABELS):
        splits = tfft.data.load((texts, labels))
        assert (splits.task, splits.class_names) == ("classification", ("0", "1", "2"))


def test_a_table_and_its_csv_have_the_same_classes(tmp_path):
    frame = pandas.DataFrame({"text": [f"a text {i}" for i in range(12)], "label": [1, 2, None] * 4})
    frame.to_csv(tmp_path / "table.csv", index=False)
    for source in (frame, tmp_path / "table.csv"):
        assert tfft.data.load(source).class_names == ("1", "2")


def test_several_columns_of_labels_get_the_way_out():
    frame = pandas.DataFrame({"text": ["w", "x", "y", "z"], "a": [1, 0, 1, 0], "b": [0, 1, 0, 1]})
    with pytest.raises(DataError, match=r"Expected one column for label=.*idxmax\(axis=1\).*values.tolist\(\)"):
        tfft.data.load(frame, label=["a", "b"])
    frame["label"] = frame[["a", "b"]].idxmax(axis=1)
    assert tfft.data.load(frame).class_names == ("a", "b")
    frame["label"] = [[1.5, 2.0], [2.5, 3.0], [0.5, 1.0], [3.5, 9.0]]
    assert tfft.data.load(frame).task == "regression"


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ((PIXELS, LABELS, PIXELS, LABELS), r"Write \(\(x_train, y_train\), \(x_validation, y_validation\)\)"),
        ((PIXELS, LABELS, np.ones(COUNT)), r"Sample weights need two datasets: .*from_tensor_slices\(\(x, y, weights"),
        (list(zip(PIXELS, LABELS, strict=True)), r"Write \(inputs, labels\): tuple\(zip\(\*source\)\)"),
        ({"train": (PIXELS, LABELS), "val": (PIXELS, LABELS)}, r"Write \(source\['train'\], source\['val'\]\)"),
        ({"image": PIXELS, "label": LABELS}, r"Write \(source\['image'\], source\['label'\]\)"),
        (iter([(PIXELS, LABELS)]), "A generator gives its examples once: make a tf.data.Dataset.from_generator"),
        (
            (["a/1.PNG", "a/2.jpg"], [0, 1]),
            r"a list of paths such as 'a/1.PNG'. Write pandas.DataFrame\(\{'image':",
        ),
        (([pathlib.Path("1.wav")], [0]), r"DataFrame\(\{'audio': paths, 'label': labels\}\), and audio='audio'"),
    ],
)
def test_the_likely_meaning_of_other_forms_is_named(source, fix):
    with pytest.raises(DataError, match=fix):
        tfft.data.load(source)


@pytest.mark.parametrize("values", [(3, 7, 100), (-1, 0, 1), (1, 2, 3)])
def test_integers_with_gaps_are_names_of_classes_in_datasets_as_in_arrays(values, capsys):
    labels = np.array(values)[LABELS]
    form = dataset(PIXELS, labels)
    splits = tfft.data.load((form, form))
    assert splits.class_names == tfft.data.load((PIXELS, labels)).class_names == tuple(map(str, values))
    np.testing.assert_array_equal(np.concatenate([y for _, y in splits.train.dataset]), LABELS)
    assert tfft.data.load((form, form), task="regression").class_names == ()
    amounts = dataset(PIXELS, 1000 + 7 * np.arange(len(PIXELS)))
    tfft.data.load((amounts, amounts))
    assert "integers that are amounts, such as ages or prices, need task='regression'" in capsys.readouterr().err
    with pytest.raises(DataError, match="validation example 1.*'12345'"):
        tfft.data.load((form, dataset(PIXELS, np.full(len(PIXELS), 12345))))


def renamed(names, keep=(0, 1, 2)):
    """A part of loaded examples, and a dataset like that of `keras.utils`: the classes are in the order of names."""
    kept = np.isin(LABELS, keep)
    made = tfft.data.load(((PIXELS[kept], np.array(names)[LABELS[kept]]),) * 2).train
    data = dataset(PIXELS[kept], np.searchsorted(keep, LABELS[kept]))
    data.class_names = [names[at] for at in keep]
    return made, data


@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "b", "a")])
def test_classes_of_data_are_those_of_the_same_name_in_a_model(names):
    keras.utils.set_random_seed(0)
    model = build(backbone(), heads.classification(names, dropout=0.0))
    for examples, data in (renamed(("a", "b", "c")), renamed(("a", "b", "c"), (0, 2))):
        kept = np.isin(LABELS, (0, 1, 2) if len(data.class_names) == 3 else (0, 2))
        wanted = tfft.evaluate(model, (PIXELS[kept], np.array(["a", "b", "c"])[LABELS[kept]]))
        for form in (examples, data):
            assert tfft.evaluate(model, form).loss == pytest.approx(wanted.loss, rel=1e-5)
    for form in renamed(("a", "b", "d")):
        with pytest.raises(DataError, match=r"has unknown classes: d\.* Expected: "):
            tfft.evaluate(model, form)


def test_a_validation_dataset_that_lacks_a_class_keeps_the_numbers_of_the_training():
    names = ("a", "b", "c")
    splits = tfft.data.load((renamed(names)[1], renamed(names, (0, 2))[1]))
    np.testing.assert_array_equal(splits.validation.labels, np.sort(LABELS[LABELS != 1]))
    np.testing.assert_array_equal(np.concatenate([y for _, y in splits.validation.dataset]), LABELS[LABELS != 1])
