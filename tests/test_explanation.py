"""Explanations: planted words, places and moments are found, for models in memory, runs and exports."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from speech_data import write_wav

import tfft
from tfft.cli import main
from tfft.errors import DataError, PlanError
from tfft.exporting import serving_functions
from tfft.modalities.audio.spans import wave_parts
from tfft.modalities.text.words import text_parts

L = keras.layers
RATE = 8000


def sentiment(pair=False, units=2):
    """A model that counts "good" and "bad"; of a pair only in the second text."""
    words = L.TextVectorization(vocabulary=["good", "bad"], output_mode="count")
    names = ("text", "text_pair") if pair else ("text",)
    inputs = {name: keras.Input((), dtype="string", name=name) for name in names}
    counted = words(inputs[names[-1]])
    outputs = L.Dense(units, name="scores")(counted)
    model = keras.Model(inputs if pair else inputs["text"], outputs)
    kernel = [[0, 0], [-1, 1], [1, -1]] if units == 2 else [[0], [2], [-3]]
    model.get_layer("scores").set_weights([np.array(kernel, np.float32), np.zeros(units, np.float32)])
    return model


def test_the_words_that_decide():
    served = serving_functions(sentiment(), class_names=["bad", "good"])
    plain, both, nothing = tfft.explain(served, ["a good film", "good plot , bad actor .", ""])
    assert (plain.class_name, plain.parts, plain.method) == ("good", ("a", "good", "film"), "occlusion")
    np.testing.assert_allclose(plain.relevance, [0, 2, 0], atol=1e-6)  # log-odds: twice the logit
    assert plain.score == pytest.approx(2)
    assert plain.probability == pytest.approx(1 / (1 + np.exp(-2)))
    assert str(plain) == "a good film: good 0.881  (good +2.00)"
    [good] = tfft.explain(served, ["good plot , bad actor ."], "good")
    assert [part for part, _ in good.ranked(1)] == ["good", "bad"]
    assert good.relevance.tolist() == pytest.approx([2, 0, 0, -2, 0, 0])
    assert both.probability == pytest.approx(0.5)
    assert nothing.parts == ()


def test_the_scores_of_sure_models_do_not_saturate():
    model = sentiment()
    model.get_layer("scores").set_weights([w * 50 for w in model.get_layer("scores").get_weights()])
    [sure] = tfft.explain(serving_functions(model, class_names=["bad", "good"]), ["good and good"])
    assert sure.probability == 1.0
    np.testing.assert_allclose(sure.relevance, [100, 0, 100])


def test_pairs_of_texts_and_numbers():
    served = serving_functions(sentiment(pair=True), class_names=["bad", "good"])
    [found] = tfft.explain(served, [("good", "a bad one")])
    assert found.parts == ("good", "a", "bad", "one")
    np.testing.assert_allclose(found.relevance, [0, 0, 2, 0], atol=1e-6)
    assert found.class_name == "bad"


def test_parts_of_texts():
    parts = text_parts("so, 好 电影 and  fine")
    assert parts.names == ("so,", "好", "电", "影", "and", "fine")
    assert parts.without[0] == " 好 电影 and  fine"
    assert parts.without[2] == "so, 好 影 and  fine"
    long = text_parts(" ".join(map(str, range(1000))))
    assert len(long.names) == 128
    assert " ".join(long.names).split() == list(map(str, range(1000)))
    assert text_parts((" ", "x")).without == ((" ", ""),)


@pytest.mark.slow
def test_the_moment_that_decides(tmp_path):
    inputs = keras.Input((None, None, 3))
    backbone = keras.Model(inputs, L.GlobalAveragePooling2D()(L.DepthwiseConv2D(1)(inputs)), name="mean")
    backbone.layers[1].set_weights([np.ones((1, 1, 3, 1), np.float32), np.zeros(3, np.float32)])
    audio = tfft.AudioSpec(RATE, 0.8, bands=16)
    model = tfft.build(backbone, tfft.heads.binary(["quiet", "loud"], dropout=0.0), modality="audio", audio=audio)
    # The spectrogram is relative to its loudest part: with a click, all other moments are dark.
    model.get_layer("logits").set_weights([np.full((3, 1), -1, np.float32), np.zeros(1, np.float32)])
    random = np.random.default_rng(0)
    wave = random.normal(0, 0.001, int(0.7 * RATE)).astype(np.float32)
    wave[int(0.4 * RATE) : int(0.41 * RATE)] = random.normal(0, 0.3, int(0.01 * RATE))
    file = write_wav(tmp_path / "click.wav", wave, RATE)
    [found] = tfft.explain(model, [str(file)], "loud")
    [(moment, value), *_] = found.ranked(1)
    start, end = (float(part) for part in moment.removesuffix(" s").split("-"))
    assert start <= 0.405 <= end
    assert value > 0.9 * found.relevance.clip(0).sum()
    page = tfft.reporting.write_explanations([found], tmp_path / "page.html").read_text()
    assert moment in page


def test_silence_and_short_recordings_have_parts():
    spec = tfft.AudioSpec(RATE, 0.5)
    assert len(wave_parts(np.zeros(spec.samples, np.float32), spec).names) == 24
    short = np.zeros(spec.samples, np.float32)
    short[: RATE // 20] = 1
    parts = wave_parts(short, spec)
    assert parts.names == ("0.00-0.03 s", "0.03-0.05 s")
    assert abs(parts.without[0][: RATE // 50]).max() == 0
    assert parts.without[0][RATE // 40 + 50 : RATE // 20 - 50].min() == 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A model that looks for red, its file and its export, and a picture that is red in one corner."""
    folder = tmp_path_factory.mktemp("pictures")
    inputs = keras.Input((None, None, 3))
    maps = L.Conv2D(3, 1, use_bias=False, name="colours")(L.AveragePooling2D(4)(inputs))
    network = keras.Model(inputs, maps, name="colours")
    network.get_layer("colours").set_weights([np.eye(3, dtype=np.float32)[None, None]])
    spec = tfft.InputSpec(32, 32, value_range=(0.0, 1.0), source="the test")
    backbone = tfft.backbones.Backbone("colours", network, "test", spec)
    model = tfft.build(backbone, tfft.heads.classification(["red", "blue"], dropout=0.0))
    model.get_layer("logits").set_weights([np.array([[9, -9], [0, 0], [-9, 9]], np.float32), np.zeros(2, np.float32)])
    model.save(folder / "model.keras")
    tfft.export(model, folder / "served" / "1")
    image = np.full((40, 60, 3), 20, np.uint8)
    image[:10, 45:, 0] = 250
    (folder / "corner.png").write_bytes(tf.io.encode_png(image).numpy())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method"), [("model.keras", "Grad-CAM"), ("served", "occlusion")])
def test_the_place_that_decides(pictures, model, method):
    [found] = tfft.explain(pictures / model, [str(pictures / "corner.png")])
    assert (found.class_name, found.method) == ("red", method)
    assert found.relevance.shape == found.picture.shape[:2] == (40, 60)
    assert found.relevance.max() == pytest.approx(1, abs=0.1)
    assert found.relevance[:12, 43:].sum() > 0.6 * found.relevance.sum()
    assert str(found).endswith("(mostly top right)")


@pytest.mark.slow
def test_the_command(pictures, capsys):
    out = pictures / "why.html"
    arguments = ["explain", str(pictures / "model.keras"), str(pictures / "corner.png"), "--out", str(out), "--json"]
    assert main(arguments) == 0
    [one] = json.loads(capsys.readouterr().out)["explanations"]
    assert one["class"] == "red"
    row, column = one["highest"]
    assert row < 0.4
    assert column > 0.6
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "corner.png: red" in page


@pytest.mark.slow
def test_what_cannot_be_explained(pictures, tmp_path):
    image = str(pictures / "corner.png")
    with pytest.raises(PlanError, match="has no class 'rad'. Did you mean 'red'"):
        tfft.explain(pictures / "model.keras", [image], "rad")
    with pytest.raises(PlanError, match="Expected a class from 0 to 1. Received: 2"):
        tfft.explain(pictures / "served", [image], 2)
    with pytest.raises(DataError, match=r"1 item cannot be explained: .*nothing.png: No such file"):
        tfft.explain(pictures / "model.keras", [image, str(tmp_path / "nothing.png")])
    (tmp_path / "no.png").write_bytes(b"no image")
    for model in ("model.keras", "served"):
        with pytest.raises(DataError, match=r"no.png cannot be explained: .*image"):
            tfft.explain(pictures / model, [str(tmp_path / "no.png")])
    with pytest.raises(DataError, match="task 'outputs' cannot be explained. Expected a model for classification"):
        tfft.explain(sentiment(), ["good"])


def test_the_command_names_what_is_missing(pictures, capsys):
    assert main(["explain", str(pictures / "model.keras")]) == 2
    assert "Expected image or audio FILEs, or texts with --text" in capsys.readouterr().err
    assert main(["explain", str(pictures / "model.keras"), "a.png", "--out", "folder"]) == 2
    assert "such as explanation.html. Received: folder" in capsys.readouterr().err
