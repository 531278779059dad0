"""Recordings: files in every state, waves to pictures, the recipe, the export, the command line."""

import dataclasses
import json
import pathlib
import struct
import subprocess
import sys
import wave

import keras
import numpy as np
import pytest
import savedmodels
import soundfile
import tensorflow as tf
from faulty_data import finding_of
from test_recipes import backbone

import tfft
from tfft import cli
from tfft.errors import BackboneError, DataError, DependencyError, PlanError
from tfft.layers.log_mel import log_mel
from tfft.modalities.audio import LogMel, load_recordings, read_recording
from tfft.modalities.audio.batches import vary_wave
from tfft.modalities.audio.decode import fitted
from tfft.specs import AudioSpec, Augmentation, InputSpec


def waves_of(splits):
    return splits.train.waves, splits.validation.waves


process_fixtures = ("trained",)

RATE = 8000
TONES = {"low": 300, "high": 2200}


def tone(frequency, seconds=0.5, rate=RATE, seed=0):
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    found = 0.3 * np.sin(2 * np.pi * frequency * t + 6 * random.random()) + 0.01 * random.normal(size=len(t))
    return found.astype(np.float32)


def write(path, samples, rate=RATE, width=2, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "w") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        scaled = np.repeat(samples, channels) * (2 ** (8 * width - 1) - 1)
        if width == 1:
            data = (scaled + 128).astype(np.uint8).tobytes()
        elif width == 3:
            data = b"".join(struct.pack("<i", int(v))[:3] for v in scaled)
        else:
            data = scaled.astype(f"<i{width}").tobytes()
        file.writeframes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds") / "data"
    for name, frequency in TONES.items():
        for i in range(16):
            seconds = 0.35 + 0.01 * i
            samples = tone(frequency * (1 + 0.02 * (i % 5)), seconds, seed=i)
            write(root / name / f"{i}_speaker{i % 4}.wav", samples, width=3 if i == 5 else 2)
    return root


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_all_widths_are_read(width, tmp_path):
    samples = tone(440)
    write(tmp_path / "x.wav", samples, width=width, channels=2)
    facts, found = read_recording(str(tmp_path / "x.wav"))
    assert (facts.reason, facts.rate, facts.channels, facts.seconds) == (None, RATE, 2, 0.5)
    np.testing.assert_allclose(found, samples, atol=2.0 ** (2 - 8 * width) if width < 3 else 1e-6)


def test_other_formats_are_read_by_soundfile(tmp_path):
    samples = tone(440)
    soundfile.write(tmp_path / "x.flac", samples, RATE)
    soundfile.write(tmp_path / "float.wav", samples, RATE, subtype="FLOAT")
    for name, close in (("x.flac", 1e-4), ("float.wav", 0)):
        facts, found = read_recording(str(tmp_path / name))
        assert facts.reason is None
        np.testing.assert_allclose(found, samples, atol=close)


def test_a_tone_keeps_its_frequency_when_it_is_resampled(place, tmp_path):
    root = tmp_path / "data"
    for name in TONES:
        for i in range(3):
            write(root / name / f"{i}.wav", tone(TONES[name], 0.5, seed=i))
    write(root / "high" / "fast.wav", tone(1000, 0.5, rate=44100), rate=44100)
    splits = load_recordings(root, seconds=0.5)
    assert splits.train.spec.sample_rate == RATE
    every = [*splits.train.paths, *splits.validation.paths]
    at = next(i for i, path in enumerate(every) if path.endswith("fast.wav"))
    found = np.concatenate(waves_of(splits))[at]
    strongest = np.fft.rfftfreq(len(found), 1 / RATE)[np.abs(np.fft.rfft(found)).argmax()]
    assert strongest == pytest.approx(1000, abs=3)
    assert finding_of(tfft.check(root), "rate").items[0].name.endswith("fast.wav")


def test_the_picture_is_that_of_numpy():
    spec = AudioSpec(RATE, 0.5, bands=16, range=80.0)
    waves = np.stack([tone(300), tone(2200), np.zeros(4000, np.float32)])
    window, step = 200, 80
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([waves[:, s : s + window] * hann for s in range(0, 4000 - window + 1, step)], 1)
    power = np.abs(np.fft.rfft(frames, 256)) ** 2
    mel = lambda f: 1127 * np.log1p(f / 700)  # noqa: E731
    edges = np.linspace(mel(50), mel(RATE / 2), 18)
    bins = mel(np.linspace(0, RATE / 2, 129))[:, None]
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    bands = np.maximum(0, np.minimum(rising, falling))
    bands[0] = 0  # no band has the constant part
    decibels = 10 * np.log10(np.maximum(power @ bands, 1e-10))
    expected = np.maximum(0, (decibels - decibels.max(axis=(1, 2), keepdims=True)) / 80 + 1)
    np.testing.assert_allclose(log_mel(tf.constant(waves), spec), expected, atol=2e-3)
    layer = LogMel(spec, InputSpec(32, 32, value_range=(0, 255)))
    low, high = (np.asarray(layer(waves[i : i + 1]))[0, :, :, 0].mean(axis=1).argmax() for i in (0, 1))
    assert low > high  # low sounds are at the bottom
    np.testing.assert_allclose(layer(waves[:1]), layer(10 * waves[:1]), atol=1e-3)  # however loud
    np.testing.assert_array_equal(layer(waves[:1, :3000]), layer(np.pad(waves[:1, :3000], [(0, 0), (0, 2000)])))
    again = LogMel.from_config(layer.get_config())
    np.testing.assert_array_equal(again(waves), layer(waves))


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """A run on the tones, in the folder `run`, and its export in `served`."""
    root = tmp_path_factory.mktemp("trained")
    run = tfft.finetune(
        backbone(), place, unfreeze=1, epochs=3, learning_rate=1e-2, group=r"(speaker\d)", out=root / "run",
        export_to=root / "served" / "1", cache="memory", verbose=False,
    )  # fmt: skip
    return root, run


@pytest.mark.process
@pytest.mark.slow
def test_from_a_folder_to_a_server(place, trained, capsys):
    root, run = trained
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    speakers = [{name.split("_")[1] for name in names} for names in run.split_names.values()]
    assert not speakers[0] & speakers[1]
    assert (run.plan.group, run.history.audits["fine-tune"].ok) == (r"(speaker\d)", True)
    file = str(place / "low" / "3_speaker3.wav")
    again = tfft.load_run(root / "run").model
    wave_ = tone(300)[None]
    np.testing.assert_array_equal(again.predict(wave_, verbose=0), run.model.predict(wave_, verbose=0))
    script = """
import sys
for name in ("keras", "tfft", "soundfile", "soxr"):
    sys.modules[name] = None
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serve_bytes"]
print(served(audio_bytes=tf.constant([open(sys.argv[2], "rb").read()]))["label"].numpy()[0].decode())
"""
    command = [sys.executable, "-c", script, str(root / "served" / "1"), file]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    capsys.readouterr()
    assert cli.main(["predict", str(root / "run"), file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] == answer


@pytest.mark.nightly
def test_any_rate_is_read_and_a_server_wants_its_own(place, trained, tmp_path, capsys):
    root, run = trained
    write(tmp_path / "other.wav", tone(300, rate=16000), rate=16000)
    (tmp_path / "empty.wav").write_bytes(b"")
    for place_ in ("run", "served"):  # any rate and format is read; only the served signature wants its own
        files = [str(tmp_path / "other.wav"), str(tmp_path / "empty.wav")]
        assert cli.main(["predict", str(root / place_), *files]) == 1
        shown = capsys.readouterr()
        assert "other.wav: low" in shown.out
        assert "empty.wav: is empty (0 bytes)" in shown.err
    served = tfft.exporting.open_export(root / "served")
    assert served.input_spec == tfft.modalities.audio.audio_of(run.model)
    with pytest.raises(tf.errors.InvalidArgumentError, match="with 8000 samples per second; resample it"):
        served.predict_bytes([(tmp_path / "other.wav").read_bytes()])
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty"):
        served.predict_bytes([b""])
    assert cli.main(["evaluate", str(root / "run"), str(place)]) == 0
    assert f"{run.final_scores.accuracy:.4f}" in capsys.readouterr().out


@pytest.mark.nightly
def test_models_that_take_waves_are_given_them(place, tmp_path):
    x = inputs = keras.Input((None,))
    x = keras.layers.Reshape((-1, 1))(x)
    x = keras.layers.Conv1D(8, 16, strides=4, activation="relu", name="conv")(x)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    savedmodels.reusable(tmp_path / "waves", network, tf.TensorSpec([None, None], tf.float32))
    run = tfft.finetune(tmp_path / "waves", place, plan="linear_probe", cache="memory", export_to=False, verbose=False)
    assert run.model.input.name == "audio"
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    with pytest.raises(BackboneError, match="takes neither images nor float32 waveforms"):
        tfft.build(
            tfft.load_backbone(keras.Sequential([keras.Input((3, 4, 5, 6)), keras.layers.Dense(2)])),
            tfft.heads.classification(["a", "b"]),
            audio=AudioSpec(),
        )


def test_clean_recordings_give_no_finding(place):
    report = tfft.check(place)
    assert {finding.kind for finding in report.findings} <= {"cut"}
    assert report.counts["train"]["low"] + report.counts["validation"]["low"] == 16


def _cut(root):
    path = root / "low" / "x.wav"
    write(path, tone(300))
    path.write_bytes(path.read_bytes()[:-1000])


FAULTS = {
    "empty": (lambda root: (root / "low" / "x.wav").write_bytes(b""), "unusable", "x.wav is empty"),
    "cut off": (_cut, "unusable", "it is truncated"),
    "text": (lambda root: (root / "low" / "x.wav").write_bytes(b"hello, no sound"), "unusable", "not a readable"),
    "no samples": (lambda root: write(root / "low" / "x.wav", np.zeros(0)), "unusable", "has no samples"),
    "silence": (lambda root: write(root / "low" / "x.wav", np.zeros(4000)), "unusable", "is silent"),
    "not a number": (
        lambda root: soundfile.write(root / "low" / "x.wav", np.full(4000, np.nan), RATE, subtype="FLOAT"),
        "unusable", "has samples that are not finite",
    ),
    "broken link": (lambda root: (root / "low" / "x.wav").symlink_to("gone.wav"), "unusable", "which is missing"),
    "no recording": (lambda root: (root / "low" / "x.txt").write_text("notes"), "stray", "x.txt"),
    "clipped": (lambda root: write(root / "low" / "x.wav", np.clip(9 * tone(300), -1, 1)), "clipped", "at the limit"),
    "quiet": (lambda root: write(root / "low" / "x.wav", tone(300) / 100), "quiet", "x.wav reaches"),
    "offset": (lambda root: write(root / "low" / "x.wav", tone(300) + 0.3), "offset", "has a mean of +0.3"),
    "short": (lambda root: write(root / "low" / "x.wav", tone(300, 0.05)), "short", "lasts 0.050 s"),
    "long": (lambda root: write(root / "low" / "x.wav", tone(300, 3.0)), "cut", "lasts 3.00 s"),
    "two channels": (lambda root: write(root / "low" / "x.wav", tone(300), channels=2), "stereo", "has 2"),
    "another rate": (lambda root: write(root / "low" / "x.wav", tone(300, rate=16000), rate=16000), "rate", "16000"),
    "twice": (
        lambda root: (root / "low" / "x.wav").write_bytes((root / "low" / "3_speaker3.wav").read_bytes()),
        "copy", "is the same file as",
    ),
    "two classes": (
        lambda root: (root / "high" / "x.wav").write_bytes((root / "low" / "3_speaker3.wav").read_bytes()),
        "conflict", "is the same file as",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault, place, tmp_path):
    put, kind, said = FAULTS[fault]
    for path in place.rglob("*.wav"):
        target = tmp_path / "data" / path.relative_to(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    put(tmp_path / "data")
    report = tfft.check(tmp_path / "data")
    finding = finding_of(report, kind)
    assert finding is not None, report.findings
    assert said in " ".join(map(str, finding.items))
    assert {other.kind for other in report.findings} <= {kind, "cut"}


def test_what_cannot_be_used_is_said(place, tmp_path):
    root = pathlib.Path(tmp_path / "one")
    write(root / "a" / "x.wav", tone(300))
    with pytest.raises(DataError, match="one class folder, 'a'"):
        load_recordings(root)
    write(root / "b" / "x.wav", tone(400))
    with pytest.raises(DataError, match="class 'a' has one recording, too few to split"):
        load_recordings(root)
    with pytest.raises(DataError, match="does not match 32 of 32 names"):
        load_recordings(place, group=r"voice(\d)")
    with pytest.raises(PlanError, match=r"(?s)window and seconds.*up to half of the sample rate"):
        LogMel(AudioSpec(8000, 0.01, highest=9000), InputSpec())
    assert cli.main(["train", str(root), "--out", str(tmp_path / "run"), "--backbone", "keras:MobileNetV2:random"]) == 2


class OneWave(tf.Module):
    """As YAMNet: from one wave, without a batch, to scores, features and a spectrum, a row for each stretch of time."""

    def __init__(self):
        random = np.random.default_rng(2)
        self.first = tf.Variable(random.normal(0, 0.1, (129, 12)).astype("float32"), name="first")
        self.second = tf.Variable(random.normal(0, 0.3, (12, 6)).astype("float32"), name="second")
        self.variables_ = [self.first, self.second]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="waveform")])
    def __call__(self, waveform):
        spectrum = tf.abs(tf.signal.stft(waveform, 256, 128))
        features = tf.nn.relu(tf.nn.relu(spectrum @ self.first) @ self.second)
        return {"scores": tf.nn.softmax(features), "embeddings": features, "spectrum": spectrum}


@pytest.mark.nightly
def test_models_of_one_wave_at_a_time_get_a_batch(place, tmp_path, capsys):
    tf.saved_model.save(OneWave(), str(tmp_path / "yam"))
    run = tfft.finetune(
        tmp_path / "yam", place, output="embeddings", unfreeze=1, epochs=2, learning_rate=1e-2, cache="memory",
        out=tmp_path / "run",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "assumed to take 16,000 samples per second" in said
    spec = tfft.modalities.audio.audio_of(run.model)
    assert (spec.sample_rate, run.plan.sample_rate) == (16000, 16000)
    assert run.history.audits["fine-tune"].ok
    assert [block.name for block in tfft.backbones.blocks_of(run.model)] == ["dense", "dense_1"]
    network = tf.saved_model.load(str(tmp_path / "yam"))
    waves = np.stack([np.resize(tone(300, rate=16000), spec.samples), np.resize(tone(2000, rate=16000), spec.samples)])
    fresh = tfft.build(
        tfft.load_backbone(tmp_path / "yam", output="embeddings"), tfft.heads.classification(["a", "b"]), audio=spec
    )
    prefix, _ = tfft.features.split_head(fresh)
    wanted = np.stack([np.asarray(network(w)["embeddings"]).mean(axis=0) for w in waves])
    np.testing.assert_allclose(prefix(waves), wanted, atol=1e-4)
    again = tfft.load_run(tmp_path / "run").model
    np.testing.assert_array_equal(again.predict(waves, verbose=0), run.model.predict(waves, verbose=0))
    assert run.export.largest_difference < 1e-5
    file = str(place / "low" / "3_speaker3.wav")  # 8 kHz
    labels = []
    for source in (tmp_path / "run", tmp_path / "run" / "export"):
        assert cli.main(["predict", str(source), file, "--json"]) == 0
        labels.append(json.loads(capsys.readouterr().out)["predictions"][0])
    assert labels[0]["label"] == labels[1]["label"]
    assert labels[0]["probability"] == pytest.approx(labels[1]["probability"], abs=1e-5)
    assert cli.main(["evaluate", str(tmp_path / "run"), str(place)]) == 0
    assert f"{run.final_scores.accuracy:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_models_of_a_fixed_number_of_samples_and_with_a_channel(place):
    x = inputs = keras.Input((4000, 1))
    x = keras.layers.Conv1D(8, 16, strides=4, activation="relu", name="conv")(x)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    run = tfft.finetune(
        network, place, plan="linear_probe", sample_rate=RATE, cache="memory", export_to=False, verbose=False
    )
    assert tfft.modalities.audio.audio_of(run.model).seconds == 0.5
    with pytest.raises(BackboneError, match=r"expects 4000 samples.*seconds=0.5"):
        tfft.build(
            tfft.load_backbone(network), tfft.heads.classification(["a", "b"]), audio=AudioSpec(sample_rate=RATE)
        )


@pytest.mark.slow
def test_views_of_waves():
    spec, seed = AudioSpec(RATE, 0.5), tf.constant([1, 2], tf.int64)
    wave_ = tf.constant(tone(300) + tone(1500))
    both = Augmentation(shift=0.2, mask=0.4)
    np.testing.assert_array_equal(vary_wave(wave_, spec, both, seed, tf.constant(0)), wave_)
    views = [vary_wave(wave_, spec, both, seed, tf.constant(k)).numpy() for k in range(1, 40)]
    assert len({view.tobytes() for view in views}) == len(views)
    np.testing.assert_array_equal(views[4], vary_wave(wave_, spec, both, seed, tf.constant(5)))
    shifted = vary_wave(wave_, spec, Augmentation(shift=0.2), seed, tf.constant(1)).numpy()
    gaps = len(shifted) - np.count_nonzero(shifted)
    assert 0 < gaps <= 800
    inside = shifted[np.flatnonzero(shifted)]
    starts = {wave_.numpy()[: len(inside)].tobytes(), wave_.numpy()[-len(inside) :].tobytes()}
    assert inside.tobytes() in starts  # moved, not turned around
    lost = set()
    for k in range(1, 40):  # a band is silent, or some time is
        masked = vary_wave(wave_, spec, Augmentation(mask=0.4), seed, tf.constant(k)).numpy()
        heard = np.abs(np.fft.rfft(masked))
        assert np.count_nonzero(masked == 0) <= 0.4 * len(masked) + 1
        lost |= {f for f in (300, 1500) if heard[f // 2 - 3 : f // 2 + 4].max() < 0.05 * 0.3 * 2000}
    assert lost == {300, 1500}


@pytest.mark.nightly
def test_waves_are_varied_while_blocks_train_the_same_with_a_cache_and_without(place):
    splits = load_recordings(place)
    how = {"unfreeze": 1, "epochs": 2, "learning_rate": 1e-3, "augment": ["shift", "mask"], "views": 2}
    how |= {"export_to": False, "verbose": False, "dropout": 0.0, "l2": 0.0}
    kept, anew, plain = (
        tfft.finetune(backbone(), splits, **how | extra)
        for extra in ({"cache": "memory"}, {"cache": None}, {"cache": "memory", "augment": None, "views": "auto"})
    )
    assert not any("every epoch runs the whole model" in note for note in kept.history.notes)
    losses = [[row["loss"] for row in run.history.rows if row["phase"] == "fine-tune"] for run in (kept, anew, plain)]
    assert len(losses[0]) == 2
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)  # the same views in the same order
    assert not np.allclose(losses[0], losses[2], rtol=1e-2)
    assert kept.plan.augment == Augmentation(shift=0.1, mask=0.2)
    with pytest.raises(PlanError, match="flip cannot augment recordings.*shift, mask"):
        tfft.finetune(backbone(), place, augment="flip", verbose=False)
    with pytest.raises(PlanError, match="mask does not apply to images"):
        tfft.modalities.image.from_arrays(
            np.zeros((4, 16, 16, 3), np.uint8), np.zeros(4, int), InputSpec(16, 16), augment="mask"
        )


@pytest.mark.nightly
def test_features_are_another_where_the_picture_is(place, tmp_path):
    splits = load_recordings(place)
    head = tfft.heads.classification(splits.train.class_names)
    found = []
    for spec in (splits.train.spec, dataclasses.replace(splits.train.spec, bands=32), splits.train.spec):
        prefix, _ = tfft.features.split_frozen(tfft.build(backbone(), head, audio=spec))
        pair = splits.train.waves, splits.train.labels
        found.append(tfft.features.extract(prefix, pair, cache=tmp_path / "cache", verbose=False))
    assert [features.cached for features in found] == [False, False, True]
    assert not np.allclose(found[0].arrays, found[1].arrays)


def test_pictures_do_not_jump_by_a_level():
    """A tiny difference of a wave stays one: it must not become one of a whole grey level."""
    layer = LogMel(AudioSpec(RATE, 0.5), InputSpec(64, 64, value_range=(0, 255)))
    waves = np.stack([tone(200 + 100 * i, seed=i) for i in range(16)])
    near = waves + np.random.default_rng(0).normal(0, 1e-6, waves.shape).astype(np.float32)
    assert np.abs(np.asarray(layer(waves)) - np.asarray(layer(near))).max() < 0.2
    alone = np.concatenate([np.asarray(layer(w[None])) for w in waves])
    np.testing.assert_allclose(layer(waves), alone, atol=1e-3)
    with pytest.raises(DataError, match=r"Expected waves \[batch, samples\].*wave\[None\]"):
        layer(keras.Input((10, 2)))


def test_a_tone_that_the_new_rate_cannot_hold_is_filtered():
    t = np.arange(22050) / 44100
    both = (np.sin(2 * np.pi * 1000 * t) + np.sin(2 * np.pi * 5000 * t)).astype(np.float32)
    heard = np.abs(np.fft.rfft(fitted(both, 44100, AudioSpec(8000, 0.5)))) / 2000
    assert heard[500] == pytest.approx(1.0, abs=0.02)
    assert np.delete(heard, slice(480, 520)).max() < 0.02  # unfiltered, 5 kHz would fold to 3 kHz
    odd = fitted(both, 44099, AudioSpec(8000, 0.5))  # rates without a common factor
    assert np.abs(np.fft.rfft(odd))[490:510].max() / 2000 > 0.9


def test_missing_packages_are_named_with_their_command(place, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.flac", tone(300), RATE)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DependencyError, match=r'soundfile.*pip install "tfft\[audio\]"'):
        read_recording(str(tmp_path / "x.flac"))
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(DependencyError, match=r'soxr.*pip install "tfft\[audio\]"'):
        load_recordings(place, sample_rate=16000)
    assert load_recordings(place).train.spec.sample_rate == RATE  # WAV files of one rate need neither


@pytest.mark.nightly
def test_a_plan_is_made_by_voices_that_were_not_heard(place):
    """A head that does well in cross-validation and badly on the held-out voices says that the features do not fit."""
    splits = load_recordings(place)
    other = dataclasses.replace(splits.validation, labels=1 - splits.validation.labels)
    fits, fails = (
        tfft.recommend_plan(each, backbone(), cache="memory").phases[-1].unfreeze
        for each in (splits, dataclasses.replace(splits, validation=other))
    )
    assert fits != "all"
    assert fails == "all"
