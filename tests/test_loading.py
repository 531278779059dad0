"""One way in for every source, and one way from parts of it to batches."""

import inspect
import json

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from faulty_data import finding_of
from test_recipes import backbone
from test_recordings import TONES, tone, write

import tfft
from tfft.config import RunConfig
from tfft.data import fold_splits, load, to_dataset
from tfft.data.loader import reader_of
from tfft.errors import DataError, PlanError
from tfft.modalities.audio import AudioExamples, load_recordings
from tfft.modalities.image import ImageArrays, ImageFiles, load_images
from tfft.modalities.text import TextExamples, load_texts
from tfft.recipes.run_data import load_run_data
from tfft.tasks.token_classification.data import TokenExamples

SENTENCES = ([["a", "b"], ["c"], ["a", "c"], ["b"], ["c", "b"]], [["O", "X"], ["X"], ["O", "X"], ["O"], ["X", "O"]])
TEXT_PAIR = ([f"text {i}" for i in range(10)], [i % 2 for i in range(10)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One small source of every kind."""
    root = tmp_path_factory.mktemp("sources")
    random, rows = np.random.default_rng(0), []
    for number, (name, colour) in enumerate({"blue": (30, 60, 200), "red": (210, 40, 40)}.items()):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(random.normal(0, 20, (18, 24, 3)) + colour, 0, 255).astype(np.uint8)
            path = root / "photos" / name / f"{i}.png"
            path.write_bytes(tf.io.encode_png(pixels).numpy())
            rows.append({"file": str(path), "label": name, "level": number + i / 7})
    (root / "photos" / "red" / "about.txt").write_text("taken in spring")
    (root / "photos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = []
    for name, frequency in TONES.items():
        for i in range(6):
            path = root / "sounds" / name / f"{i}.wav"
            write(path, tone(frequency, 0.1, seed=i))
            rows.append({"clip": str(path), "label": name})
            (root / "texts" / name).mkdir(parents=True, exist_ok=True)
            (root / "texts" / name / f"{i}.txt").write_text(f"{name} {i}")
    (root / "sounds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "texts.csv").write_text("text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(10)))
    (root / "train.conll").write_text("".join(f"w{i} O\nx B-A\n\n" for i in range(6)))
    return root


def arrays(count=12):
    labels = np.arange(count) % 3
    return (40 + 80 * labels[:, None, None, None] * np.ones((1, 12, 10, 3))).astype(np.uint8), labels


def sources(place):
    """Source, settings, kind, and what the parts are."""
    frame = pandas.DataFrame({"text": TEXT_PAIR[0], "label": TEXT_PAIR[1]})
    return [
        (place / "photos", {}, "a folder of images", ImageFiles),
        (place / "photos.jsonl", {"image": "file"}, "a table of images", ImageFiles),
        (place / "photos.jsonl", {"image": "file", "label": "level"}, "a table of images", ImageFiles),
        (place / "sounds", {"seconds": 0.1}, "a folder of recordings", AudioExamples),
        (place / "sounds.jsonl", {"audio": "clip"}, "a table of recordings", AudioExamples),
        (place / "texts", {}, "texts", TextExamples),
        (place / "texts.csv", {"task": "classification"}, "texts", TextExamples),
        (frame, {"text": "text"}, "texts", TextExamples),
        (TEXT_PAIR, {}, "texts", TextExamples),
        (SENTENCES, {"task": "token_classification"}, "tagged words", TokenExamples),
        (place / "train.conll", {"task": "token_classification"}, "tagged words", TokenExamples),
        (arrays(), {}, "arrays", ImageArrays),
    ]


@pytest.mark.nightly
def test_each_source_is_known_read_and_made_batches_of(place):
    spec = backbone().input_spec
    for source, settings, kind, part in sources(place):
        told = {k: v for k, v in settings.items() if k != "seconds"}
        assert reader_of(source, told).matches(source, told).form == kind
        splits = load(source, **settings, validation=0.4, seed=1)
        assert type(splits.train) is type(splits.validation) is part
        assert splits.split_from
        for examples in (splits.train, splits.validation):
            batches = list(to_dataset(examples, spec, batch_size=4))
            assert sum(len(labels) for _, labels in batches) == len(examples) > 0
        first = next(iter(to_dataset(splits.train, spec, batch_size=2, shuffle=True, seed=3)))[0]
        kinds = {"texts": tf.string, "tagged words": tf.string, "arrays": tf.uint8}
        wanted = kinds.get(kind, tf.uint8 if "images" in kind else tf.float32)
        assert first.dtype == wanted


@pytest.mark.slow
def test_it_gives_what_the_loaders_give(place):
    one, other = load(place / "photos", seed=2), load_images(place / "photos", seed=2)
    assert (one.train.paths, one.split_from) == (other.train.paths, other.split_from)
    one, other = load(place / "texts.csv", seed=2), load_texts(place / "texts.csv", seed=2)
    assert one.train.fingerprint() == other.train.fingerprint()
    one, other = load(place / "sounds", group=r"(\d)"), load_recordings(place / "sounds", group=r"(\d)")
    assert np.array_equal(one.train.waves, other.train.waves)
    pair = {"train": place / "train.conll", "validation": place / "train.conll"}
    words = {"task": "token_classification"}
    assert load(list(pair.values()), **words).split_from == load(pair, **words).split_from
    written = place / "other.jsonl"
    written.write_text("".join(json.dumps({"w": ["a", f"b{i}"], "t": ["O", "X"]}) + "\n" for i in range(5)))
    assert load(written, task="token_classification", text="w", label="t").class_names == ("O", "X")


def test_every_setting_of_a_form_can_be_given(place):
    known = set(inspect.signature(load).parameters)
    for source, settings, _, _ in sources(place):
        assert reader_of(source, settings).matches(source, settings).settings <= known


@pytest.mark.parametrize(
    ("source", "settings", "sentence"),
    [
        ("photos", {"label": "x"}, "label='x' does not apply to a folder of images"),
        ("photos", {"separator": "|", "seconds": 1.0}, "separator='|', seconds=1.0 do not apply to a folder"),
        ("photos", {"task": "regression"}, "task='regression' does not apply to a folder of images. .* Folders and"),
        ("photos", {"root": "/x"}, "root='/x' does not apply to a folder of images. Settings that apply: check, gr"),
        ("sounds", {"label": "x"}, "label='x' does not apply to a folder of recordings"),
        ("sounds.jsonl", {"audio": "clip", "text": "t"}, "audio and text each name the input"),
        ("photos.jsonl", {"image": "file", "sample_rate": 8000}, "sample_rate=8000 does not apply to a table"),
        ("texts.csv", {"root": "/x", "sample_rate": 8000}, "root='/x', sample_rate=8000 do not apply to texts"),
        ("texts.csv", {"validation": "split.csv"}, "validation='split.csv' does not apply to texts"),
        ("train.conll", {"task": "token_classification", "group": "x"}, "group='x' does not apply to tagged words"),
        ("train.conll", {"task": "token_classification", "encoding": "x"}, "encoding='x' does not apply to tagged"),
        ("nothing", {}, "The data folder .*nothing' does not exist"),
        ("nothing", {"text": "t"}, "nothing does not exist. Expected a table"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(place, source, settings, sentence):
    escaped = sentence.replace("|", r"\|").replace("(", r"\(")
    with pytest.raises(DataError, match=escaped):
        load(place / source, **settings)


def test_forms_that_are_none():
    with pytest.raises(DataError, match="Expected a folder .* 'tfds:NAME'.* Received: int"):
        load(3)
    with pytest.raises(DataError, match="Received: tuple of 1"):
        load((np.zeros(3),))
    with pytest.raises(DataError, match="group=1 does not apply to arrays. Settings that apply: seed, task, val"):
        load(arrays(), group=1)
    ready = to_dataset(load(arrays()).train)
    for settings, sentence in (({"label": "y"}, "label='y' does not apply to tf.data datasets"),):
        with pytest.raises(DataError, match=sentence):
            load_run_data((ready, ready, ["a", "b", "c"]), RunConfig(**settings))


def test_arrays_are_divided_without_copies():
    images, labels = arrays(30)
    names = np.array(["c", "a", "b"])[labels]
    splits = load((images, names), validation=0.2, seed=5)
    assert splits.class_names == ("a", "b", "c")
    assert splits.train.source is images
    assert splits.train.counts == {"a": 8, "b": 8, "c": 8}
    assert splits.split_from == "20 % of each class, drawn with seed 5"
    both = np.concatenate([splits.train.positions, splits.validation.positions])
    assert sorted(both) == list(range(30))
    for part in (splits.train, splits.validation, splits.train.take(np.array([4, 1]))):
        assert np.array_equal(part.images, images[part.positions])
        assert [splits.class_names[i] for i in part.labels] == names[part.positions].tolist()
    with pytest.raises(DataError, match="each class needs at least 2 examples"):
        load((images[:4], [0, 0, 0, 1]))


def test_parts_of_recordings_know_their_waves(place):
    splits = load(place / "sounds", validation=0.4)
    assert np.array_equal(splits.train.waves, splits.train.waves)
    some = splits.validation.take(np.array([2, 0])).take(np.array([1]))
    assert np.array_equal(some.waves, splits.validation.waves[:1])
    assert some.paths == splits.validation.paths[:1]
    for fold in fold_splits(splits, 2):
        assert np.array_equal(fold.train.waves, fold.train.waves)
    shifted = to_dataset(splits.train, augment="shift", views=2, batch_size=2)
    assert next(iter(shifted))[0].shape == (2, splits.train.waves.shape[1])


def test_batches_of_what_they_cannot_be_made_of(place):
    texts, tagged = load(TEXT_PAIR).train, load(SENTENCES, task="token_classification").train
    with pytest.raises(PlanError, match="do not apply to texts; leave them out: augment='flip'"):
        to_dataset(texts, augment="flip")
    with pytest.raises(PlanError, match="do not apply to tagged words; leave them out: sampling='balanced'"):
        to_dataset(tagged, sampling="balanced")
    photos = load(place / "photos")
    with pytest.raises(DataError, match=r"Received: Splits\. Give one of its parts, such as splits\.train"):
        to_dataset(photos, backbone().input_spec)
    with pytest.raises(DataError, match="pass the backbone's input_spec"):
        to_dataset(photos.train)
    with pytest.raises(DataError, match="an AudioSpec"):
        to_dataset(load(arrays()).train, tfft.AudioSpec())
    with pytest.raises(DataError, match=r"for arrays, use tfft.modalities.image.from_arrays; .* Received: tuple\."):
        to_dataset(arrays())


@pytest.mark.nightly
def test_the_recipe_takes_what_load_gives(place):
    for source, settings, kind, _ in sources(place):
        read = load(source, **settings)
        task = {"task": "token_classification"} if kind == "tagged words" else {}
        given, own = load_run_data(read, RunConfig(**task)), load_run_data(source, RunConfig(**settings))
        assert (len(given.splits.train), given.task, given.class_names) == (
            len(own.splits.train),
            own.task,
            own.class_names,
        )
        assert given.splits.fingerprint() == own.splits.fingerprint()
        assert given.splits.split_from == own.splits.split_from


@pytest.mark.nightly
def test_step_by_step_is_the_same_for_every_kind(place):
    tiny = backbone()
    for source in (place / "photos", arrays()):
        splits = load(source)
        model = tfft.build(tiny, tfft.heads.classification(splits.class_names))
        train = to_dataset(splits.train, tiny.input_spec, shuffle=True, batch_size=4)
        model.compile(keras.optimizers.Adam(1e-2), **tfft.heads.from_model(model).compile_args())
        model.fit(train, epochs=1, shuffle=False, verbose=0)
        assert tfft.evaluate(model, to_dataset(splits.validation, tiny.input_spec)).examples == len(splits.validation)
        prefix, _ = tfft.features.split_frozen(model)
        assert len(tfft.features.extract(prefix, splits.train, cache="memory", verbose=False)) == len(splits.train)
    splits = load(place / "sounds")
    model = tfft.build(tiny, tfft.heads.classification(splits.class_names), audio=splits.train.spec)
    model.compile("adam", **tfft.heads.from_model(model).compile_args())
    model.fit(to_dataset(splits.train, shuffle=True, batch_size=4), epochs=1, shuffle=False, verbose=0)
    prefix, _ = tfft.features.split_frozen(model)
    assert len(tfft.features.extract(prefix, splits.train, cache="memory", verbose=False)) == len(splits.train)


@pytest.mark.slow
def test_check_asks_the_same_place(place, tmp_path):
    for source, settings, _, _ in sources(place)[:9]:
        told = {k: v for k, v in settings.items() if k in ("image", "audio", "text", "label")}
        assert finding_of(tfft.check(source, **told, store=tmp_path / "facts"), "unreadable") is None
    with pytest.raises(DataError, match="label='x' does not apply to a folder of images"):
        tfft.check(place / "photos", label="x")
