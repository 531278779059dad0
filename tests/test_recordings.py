"""Recordings: files in every state, waves to pictures, the recipe, the export, the command line."""

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
from test_recipes import backbone

import tfft
from tfft import cli
from tfft.data import LogMel, load_recordings, read_recording
from tfft.data.sounds import log_mel
from tfft.errors import BackboneError, DataError, PlanError
from tfft.specs import AudioSpec, InputSpec

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
            write(root / name / f"{i}_speaker{i % 4}.wav", samples)
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
    assert splits.spec.sample_rate == RATE
    every = [*splits.train.paths, *splits.validation.paths]
    at = next(i for i, path in enumerate(every) if path.endswith("fast.wav"))
    found = np.concatenate(splits.waves)[at]
    strongest = np.fft.rfftfreq(len(found), 1 / RATE)[np.abs(np.fft.rfft(found)).argmax()]
    assert strongest == pytest.approx(1000, abs=3)
    assert tfft.check(root).of_kind("rate").items[0].name.endswith("fast.wav")


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


def test_from_a_folder_to_a_server(place, tmp_path, capsys):
    run = tfft.finetune(
        backbone(), place, unfreeze=1, epochs=3, learning_rate=1e-2, group=r"(speaker\d)", out=tmp_path / "run",
        export_to=tmp_path / "served" / "1", cache="memory", verbose=False,
    )  # fmt: skip
    assert run.final.accuracy > run.final.majority
    speakers = [{name.split("_")[1] for name in names} for names in run.items.values()]
    assert not speakers[0] & speakers[1]
    assert (run.plan.group, run.history.audits["fine-tune"].ok) == (r"(speaker\d)", True)
    file = str(place / "low" / "3_speaker3.wav")
    again = tfft.load_run(tmp_path / "run").model
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
    command = [sys.executable, "-c", script, str(tmp_path / "served" / "1"), file]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    capsys.readouterr()
    assert cli.main(["predict", str(tmp_path / "run"), file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] == answer
    write(tmp_path / "other.wav", tone(300, rate=16000), rate=16000)
    (tmp_path / "empty.wav").write_bytes(b"")
    for place_ in ("run", "served"):  # any rate and format is read; only the served signature wants its own
        files = [str(tmp_path / "other.wav"), str(tmp_path / "empty.wav")]
        assert cli.main(["predict", str(tmp_path / place_), *files]) == 1
        shown = capsys.readouterr()
        assert "other.wav: low" in shown.out
        assert "empty.wav: is empty (0 bytes)" in shown.err
    served = tfft.exporting.open_export(tmp_path / "served")
    assert served.audio == tfft.data.audio_of(run.model)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 8000 samples a second; resample it"):
        served.predict_bytes([(tmp_path / "other.wav").read_bytes()])
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty"):
        served.predict_bytes([b""])
    assert cli.main(["evaluate", str(tmp_path / "run"), str(place)]) == 0
    assert f"{run.final.accuracy:.4f}" in capsys.readouterr().out


def test_models_that_take_waves_are_given_them(place, tmp_path):
    x = inputs = keras.Input((None,))
    x = keras.layers.Reshape((-1, 1))(x)
    x = keras.layers.Conv1D(8, 16, strides=4, activation="relu", name="conv")(x)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    savedmodels.reusable(tmp_path / "waves", network, tf.TensorSpec([None, None], tf.float32))
    run = tfft.finetune(tmp_path / "waves", place, plan="linear_probe", cache="memory", export_to=False, verbose=False)
    assert run.model.input.name == "audio"
    assert run.final.accuracy > run.final.majority
    with pytest.raises(BackboneError, match="takes neither images nor waves"):
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
    "cut off": (_cut, "unusable", "it is cut off"),
    "text": (lambda root: (root / "low" / "x.wav").write_bytes(b"hello, no sound"), "unusable", "is no recording"),
    "no samples": (lambda root: write(root / "low" / "x.wav", np.zeros(0)), "unusable", "has no samples"),
    "silence": (lambda root: write(root / "low" / "x.wav", np.zeros(4000)), "unusable", "is silent"),
    "not a number": (
        lambda root: soundfile.write(root / "low" / "x.wav", np.full(4000, np.nan), RATE, subtype="FLOAT"),
        "unusable", "has samples that are no numbers",
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
    finding = report.of_kind(kind)
    assert finding is not None, report.findings
    assert said in " ".join(map(str, finding.items))
    assert {other.kind for other in report.findings} <= {kind, "cut"}


def test_what_cannot_be_used_is_said(place, tmp_path):
    root = pathlib.Path(tmp_path / "one")
    write(root / "a" / "x.wav", tone(300))
    with pytest.raises(DataError, match="one class folder, 'a'"):
        load_recordings(root)
    write(root / "b" / "x.wav", tone(400))
    with pytest.raises(DataError, match="the class folder 'a' has 1 recording that can be used"):
        load_recordings(root)
    with pytest.raises(DataError, match="not found in 32 of 32 names"):
        load_recordings(place, group=r"voice(\d)")
    with pytest.raises(PlanError, match=r"(?s)window and seconds.*up to half of the sample rate"):
        LogMel(AudioSpec(8000, 0.01, highest=9000), InputSpec())
    assert cli.main(["train", str(root), "--out", str(tmp_path / "run"), "--backbone", "keras:MobileNetV2:random"]) == 2
