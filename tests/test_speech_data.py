"""Data of a voice: clips with texts, durations, and faults by name."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
from planted_voice import LENGTH, LETTERS, QUICK, RATE, SPEC, STEP, ljspeech, small, texts, tones
from v0_cases import _determinism_ends  # noqa: F401

import tfft
from tfft.errors import DataError, PlanError
from tfft.modalities.audio.wav import read_wav, write_wav
from tfft.tasks.speech_synthesis.data import load_voice, read_voice
from tfft.tasks.speech_synthesis.mel import log_mel_frames


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ljspeech(tmp_path_factory.mktemp("voice") / "tones", texts(64))


@pytest.fixture(scope="module")
def splits(data, tmp_path_factory):
    return load_voice(data, store=tmp_path_factory.mktemp("store") / "files.sqlite")


@pytest.mark.slow
def test_splits_of_a_folder(splits, data):
    assert splits.class_names == ("<begin>", "<end>", *LETTERS)
    assert set(splits.train.texts).isdisjoint(splits.validation.texts)
    examples = splits.train
    durations, labels = examples.store.batch(examples.positions[:3])
    for row, at in enumerate(examples.positions[:3]):
        ends = np.cumsum([3, *[LENGTH] * len(examples.texts[row])])
        assert np.abs(np.cumsum(durations[row])[: len(ends)] - ends).max() <= 4  # a window: it spans two tones
        assert durations[row].sum() == examples.store.frame_counts[at] == (labels[row, :, -2] > 0).sum()
        wave = read_wav((data / "wavs" / examples.names[row]).read_bytes())[0][:, 0]
        mel = log_mel_frames(tf.constant(wave[None]), SPEC).numpy()[0]
        np.testing.assert_allclose(labels[row, : len(mel), :80], mel, atol=1e-5)
    assert "64 clips" in str(splits.report)
    assert "durations found by an aligner" in str(splits.report)


@pytest.mark.slow
def test_batches_are_padded_and_repeatable(splits):
    first, again = (list(tfft.data.to_dataset(splits.train, batch_size=8, shuffle=True, seed=3)) for _ in range(2))
    assert sum(len(labels) for _, labels in first) == len(splits.train)
    for (inputs, labels), (same, equal) in zip(first, again, strict=True):
        np.testing.assert_array_equal(labels, equal)
        np.testing.assert_array_equal(inputs["text"], same["text"])
        assert inputs["durations"].numpy().sum() == (labels.numpy()[..., -2] > 0).sum()


def test_statistics_are_those_of_all_frames(splits):
    facts = splits.train.head_facts
    frames = np.concatenate([splits.train.store.mel(at) for at in splits.train.positions]).astype(np.float64)
    np.testing.assert_allclose(facts.means, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(facts.spreads, frames.std(axis=0), rtol=1e-3)
    logs = {at: [] for at in range(7)}
    for at in splits.train.positions:
        for symbol, count in zip(splits.train.store.symbols[at], splits.train.store.durations[at], strict=True):
            logs[symbol].append(np.log(count))
    np.testing.assert_allclose(facts.log_durations, [np.mean(one) for one in logs.values()], rtol=1e-6)


def table(folder, rows, name="table.csv"):
    folder.mkdir(exist_ok=True)
    for row in rows:
        if row.get("audio") and not (folder / row["audio"]).exists():
            (folder / row["audio"]).write_bytes(write_wav(tones("abc"), row.pop("rate", RATE)))
    names = list(dict.fromkeys(name for row in rows for name in row if name != "rate"))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_given_durations_and_phonemes(tmp_path):
    seconds = LENGTH * STEP / RATE
    given = " ".join(map(str, [3 * STEP / RATE, seconds, seconds, seconds, 3 * STEP / RATE]))
    rows = [{"audio": f"{i}.wav", "phonemes": "pau aa bb cc pau", "durations": given, "speaker": "x"} for i in range(2)]
    rows[1]["phonemes"] = "pau aa bb cc sil"
    found = load_voice(table(tmp_path, rows))
    assert found.class_names == ("aa", "bb", "cc", "pau", "sil")
    assert found.train.store.durations[0].tolist() == [3, LENGTH, LENGTH, LENGTH, 3]
    assert "durations given" in str(found.report)
    assert found.train.store.separator == " "
    (tmp_path / "1.dur").write_text("pau 0.1\naa 0.2\n")  # of no effect: the column is there
    assert found.train.store.key == load_voice(tmp_path / "table.csv").train.store.key


def test_columns_are_named_together(tmp_path):
    path = table(tmp_path, [{"audio": f"{i}.wav", "words": "abcb"[i:], "other": "x"} for i in range(2)])
    found = tfft.data.load(path, task="speech_synthesis", audio="audio", text="words")
    assert {*found.train.texts, *found.validation.texts} == {"abcb", "bcb"}
    assert load_voice(path, text=("words",)).train.texts == found.train.texts  # as the command line gives it
    tfft.RunConfig(task="speech_synthesis", audio="audio", text="words").check()
    same = table(tmp_path, [{"audio": f"{i}.wav", "text": "abc"} for i in range(3)], "same.csv")
    with pytest.raises(DataError, match="at least 2 different texts in .*same.csv.*Received: 3 clips of 'abc'"):
        load_voice(same)
    with pytest.raises(DataError, match="The columns seem to be swapped.*Give audio='audio' and text='words'"):
        load_voice(path, audio="words", text="audio")


def test_faults_are_named_together(tmp_path):
    rows = [{"audio": f"{i}.wav", "text": "abc", "speaker": "anna"} for i in range(8)]
    path = table(tmp_path, rows)
    (tmp_path / "1.wav").write_bytes(write_wav(np.zeros(4000, np.float32), RATE))
    (tmp_path / "2.wav").unlink()
    (tmp_path / "3.wav").write_bytes(write_wav(np.tile(tones("abcde"), 20), RATE))
    (tmp_path / "4.wav").write_bytes(write_wav(tones("abc"), 16000))
    text = path.read_text().replace("5.wav,abc,anna", "5.wav,,anna").replace("6.wav,abc,anna", "6.wav,abc,bert")
    path.write_text(text.replace("7.wav,abc", f"7.wav,{'abc' * 40}"))
    with pytest.raises(DataError) as error:
        load_voice(path)
    said = str(error.value)
    for part in (
        "table.csv:3: .*1.wav is silent from start to end",
        "table.csv:4: .*2.wav cannot be read: No such file or directory: does the id match the file name",
        "table.csv:5: .*3.wav has .* s. Expected at most 20 s: cut it at a pause",
        "table.csv:7: no text for 5.wav",
        "names 2: 'anna' .7., 'bert' .1.",
        "table.csv:9: 122 symbols in .* is it the text of this clip",
        "several sample rates: 8,000 Hz .*, such as .*table.csv:6. .*sample_rate=8000",
    ):
        assert re.search(part, said), (part, said)
    with pytest.raises(PlanError, match="augment does not apply to speech synthesis"):
        tfft.finetune(small(), path, augment="shift", **QUICK)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([{"audio": "0.wav", "text": "abc", "durations": "0.1 0.2"}] * 2, "3 symbols and 2 durations"),
        (
            [{"audio": "0.wav", "text": "abc", "durations": "9 9 9"}] * 2,
            "durations add up to 27.00 s, and the clip has",
        ),
        ([{"audio": "0.wav", "text": "abc", "durations": "x y z"}] * 2, "expected durations in seconds"),
        ([{"audio": "0.wav", "phonemes": "", "text": "abc"}] * 2, "no phonemes for 0.wav"),
        ([{"audio": "0.wav", "words": "abc"}] * 2, "has no column 'normalized'.*It has: 'audio', 'words'"),
    ],
)
def test_faults_of_rows(tmp_path, rows, match):
    with pytest.raises(DataError, match=match):
        load_voice(table(tmp_path, rows))


def test_faults_of_folders(tmp_path, data):
    with pytest.raises(DataError, match="Missing: metadata.csv, wavs/"):
        load_voice(tmp_path)
    folder = ljspeech(tmp_path / "one", ["abc", "cab", "abc"])
    (folder / "metadata.csv").write_bytes(b"000|abc|abc\n000|abc\n001|caf\xe9\n")
    with pytest.raises(DataError, match="metadata.csv:3: the byte 0xe9 is not UTF-8"):
        load_voice(folder)
    with pytest.raises(DataError, match=r"metadata.csv:2: the id '000' is that of line 1 too"):
        load_voice(folder, encoding="latin-1")
    (folder / "metadata.csv").write_text("000|abc\n001|cab\n")
    assert "1 clips in" in str(load_voice(folder).report)
    with pytest.raises(DataError, match="does not know 2 symbols of the texts: '[de]' .*'[de]'"):
        read_voice(data, ("<begin>", "<end>", "a", "b", "c"))


def test_other_rates_are_resampled_when_asked(tmp_path):
    rows = [{"audio": f"{i}.wav", "text": "abc", "rate": RATE * (i + 1)} for i in range(2)]
    examples = read_voice(table(tmp_path, rows), ("<begin>", "<end>", "a", "b", "c"), sample_rate=RATE)
    assert examples.store.frame_counts.tolist() == [3 * LENGTH + 6, math.ceil((3 * LENGTH + 6) / 2)]
    examples.read()
    assert len(examples.store.mel(1)) == math.ceil((3 * LENGTH + 6) / 2)
