"""Recordings with transcripts: the forms of corpora, the split, faults with their lines, batches and views."""

from __future__ import annotations

import numpy as np
import pytest
import speech_data
import tensorflow as tf
from speech_data import RATE, say, write_wav

import tfft
from tfft.data import to_dataset
from tfft.errors import DataError, PlanError
from tfft.inspection import check_splits
from tfft.layers.log_mel import used_samples
from tfft.specs import AudioSpec, Augmentation
from tfft.tasks.transcription.adapting import adapted_recordings
from tfft.tasks.transcription.batches import vary_clip
from tfft.tasks.transcription.data import load_transcripts, read_transcripts
from tfft.tasks.transcription.text import decode


def texts_of(splits):
    return sorted(splits.train.texts + splits.validation.texts)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return speech_data.write_table(tmp_path_factory.mktemp("clips"), 24)


@pytest.fixture(scope="module")
def splits(table):
    return load_transcripts(table, audio="file", text="sentence", group="speaker")


def test_table_is_split_by_speaker_and_encoded_with_the_alphabet_of_training(splits):
    assert len(splits.train) == 18
    assert len(splits.validation) == 6
    assert splits.task == "transcription"
    assert splits.class_names == tuple(sorted(set("".join(splits.train.texts))))
    for part in splits.parts.values():
        for row, text in zip(part.labels, part.texts, strict=True):
            assert decode(row, splits.class_names) == text
    groups = {int(row.min()) for row in splits.train.labels}
    assert len(groups) == 3
    assert max(groups) <= -2
    assert not groups & {int(row.min()) for row in splits.validation.labels}
    assert splits.train.spec.sample_rate == RATE
    assert splits.train.spec.seconds >= max(fact.seconds for fact in splits.train.facts)
    assert "0.00 hours" in str(splits.report)
    assert "lowercase, without punctuation" in str(splits.report)


def test_other_characters_of_held_out_transcripts_are_errors_not_classes(tmp_path):
    names = [write_wav(tmp_path / f"{at}.wav", say("abc", at)).name for at in range(6)]
    rows = "".join(f"{name},{'abz' if at == 5 else 'abc'}\n" for at, name in enumerate(names))
    (tmp_path / "t.csv").write_text("file,text\n" + rows)
    for seed in range(40):
        splits = load_transcripts(tmp_path / "t.csv", seed=seed)
        if "abz" in splits.validation.texts:
            break
    assert splits.class_names == ("a", "b", "c")
    assert decode(splits.validation.labels[splits.validation.texts.index("abz")], "abc") == "ab\ufffd"
    assert "'z' (1)" in str(splits.report)
    assert any(one.kind == "alphabet" and one.level == "warning" for one in check_splits(splits).findings)


def test_recordings_take_the_alphabet_of_a_model(splits):
    alphabet = tuple(reversed(splits.class_names))[:-1]  # without the blank between words
    part = splits.train.for_classes(alphabet, "The data")
    assert part.class_names == alphabet
    for row, text in zip(part.labels, part.texts, strict=True):
        assert decode(row, alphabet) == text.replace(" ", "\ufffd")
    assert len(set(zip(splits.train.labels.min(1), part.labels.min(1), strict=True))) == 3  # the groups are the same
    back = part.for_classes(splits.class_names, "The data")
    assert [decode(row, back.class_names) for row in back.labels] == list(part.texts)
    assert splits.train.for_classes((), "The data") is splits.train


def test_forms_of_corpora(tmp_path):
    waves = {text: say(text, at) for at, text in enumerate(["ab", "cd e", "fa", "bb"])}
    wanted = sorted(waves)
    lj = tmp_path / "lj"
    lines = []
    for at, (text, wave) in enumerate(waves.items()):
        write_wav(lj / "wavs" / f"LJ-{at}.wav", wave)
        lines.append(f'LJ-{at}|He said "{at}"|{text.upper()}')
    (lj / "metadata.csv").write_text("\n".join(lines))
    assert texts_of(load_transcripts(lj)) == texts_of(load_transcripts(lj / "metadata.csv")) == wanted
    voice = tmp_path / "voice"
    rows = ["client_id\tpath\tsentence"]
    for at, (text, wave) in enumerate(waves.items()):
        write_wav(voice / "clips" / f"{at}.wav", wave)
        rows.append(f"p{at % 2}\t{at}.wav\t{text}!")
    (voice / "validated.tsv").write_text("\n".join(rows))
    found = load_transcripts(voice / "validated.tsv", group="client_id", validation=0.4)
    assert texts_of(found) == wanted
    assert len(set(found.groups)) == 2
    libri = tmp_path / "libri"
    for at, (text, wave) in enumerate(waves.items()):
        folder = libri / f"{at % 2}" / "7"
        write_wav(folder / f"{at % 2}-7-{at}.wav", wave)
        with open(folder / f"{at % 2}-7.trans.txt", "a") as file:
            file.write(f"{at % 2}-7-{at} {text.upper()}\n")
    found = load_transcripts(libri, group="speaker", validation=0.4)
    assert texts_of(found) == wanted
    assert set(found.groups) == {"0", "1"}
    beside = tmp_path / "beside"
    for at, (text, wave) in enumerate(waves.items()):
        write_wav(beside / f"s{at % 2}" / f"{at}.wav", wave)
        (beside / f"s{at % 2}" / f"{at}.txt").write_text(text + "\n")
    found = load_transcripts(beside, group="folder", validation=0.4)
    assert texts_of(found) == wanted
    assert len(set(found.groups)) == 2
    rows = [{"audio_filepath": f"wavs/LJ-{at}.wav", "text": text} for at, text in enumerate(waves)]
    assert texts_of(load_transcripts(speech_data.write_manifest(lj, rows))) == wanted


def test_files_without_a_counterpart_are_named(tmp_path):
    for at in range(4):
        write_wav(tmp_path / f"{at}.wav", say("ab", at))
        (tmp_path / f"{at}.txt").write_text("ab")
    write_wav(tmp_path / "more.wav", say("a"))
    (tmp_path / "left.txt").write_text("a")
    skipped = "\n".join(map(str, load_transcripts(tmp_path).skipped))
    assert "more.wav has no transcript: expected more.txt beside it" in skipped
    assert "left.txt has a transcript, but no recording of its name beside it" in skipped
    (tmp_path / "t.csv").write_text("file,text\n" + "".join(f"{at}.wav,ab\n" for at in range(4)) + "gone.wav,ab\n")
    skipped = "\n".join(map(str, load_transcripts(tmp_path / "t.csv").skipped))
    assert "more.wav has no transcript in" in skipped
    assert "t.csv:6 names" in skipped
    assert "gone.wav" in skipped


def test_unusable_rows_are_named_with_their_lines(tmp_path):
    for at in range(4):
        write_wav(tmp_path / f"{at}.wav", say("ab", at))
    write_wav(tmp_path / "silent.wav", np.zeros(RATE))
    write_wav(tmp_path / "long.wav", say("abcdef" * 40))
    rows = [*(f"{at}.wav,ab" for at in range(4)), "silent.wav,ab", "0.wav,", "1.wav,?!", "long.wav,a", ",ab"]
    (tmp_path / "t.csv").write_text("file,text\n" + "\n".join(rows))
    skipped = "\n".join(map(str, load_transcripts(tmp_path / "t.csv").skipped))
    assert "t.csv:6 names" in skipped
    assert "is silent from start to end" in skipped
    assert "t.csv:7 has an empty transcript" in skipped
    assert "t.csv:8 has an empty transcript: '?!' is all punctuation (punctuation='keep' keeps it)" in skipped
    assert "more than 30: cut it into clips, or set seconds=" in skipped
    assert "t.csv:10 has no recording" in skipped
    with pytest.raises(DataError, match="(?s)Unusable rows.*silent.wav"):
        load_transcripts(tmp_path / "t.csv", strict=True)


def test_columns_that_are_missing_or_swapped_and_lost_characters(table, tmp_path):
    with pytest.raises(DataError, match="(?s)no column 'fil' .audio=.. Did you mean 'file'.*no column 'words'"):
        load_transcripts(table, audio="fil", text="words")
    with pytest.raises(
        DataError, match="seem to be swapped: 24 of 24 transcripts are names of recordings.*Swap audio="
    ):
        load_transcripts(table, audio="sentence", text="file")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column with a usual name for audio=. Name it. It has: 'a', 'b'"):
        load_transcripts(tmp_path / "t.csv")
    (tmp_path / "lost.csv").write_text("file,text\n1.wav,caf\ufffd\n", encoding="utf-8")
    with pytest.raises(DataError, match="lost.csv:2 has a character that was lost in another encoding"):
        load_transcripts(tmp_path / "lost.csv")
    with pytest.raises(DataError, match="offset 3.0.: cut the recordings into clips first"):
        load_transcripts(speech_data.write_manifest(tmp_path, [{"audio_filepath": "a", "text": "b", "offset": 3.0}]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="(?s)Expected one of: a table.*with 0 recordings and 0 .txt files"):
        load_transcripts(tmp_path / "empty")


def test_transcripts_in_another_encoding_are_read(tmp_path, capsys):
    text = "\u00fcber b\u00e4ume h\u00f6ren wir sch\u00f6ne stra\u00dfen und gr\u00fc\u00dfe"
    for at in range(3):
        write_wav(tmp_path / f"{at}.wav", say("abcdef" * 4, at))
    rows = "file,text\n" + "".join(f"{at}.wav,{text}\n" for at in range(3))
    (tmp_path / "t.csv").write_bytes(rows.encode("cp1252"))
    assert texts_of(load_transcripts(tmp_path / "t.csv")) == [text] * 3
    assert "is read with the encoding cp1252" in capsys.readouterr().err


def test_recordings_without_sound_and_of_other_rates_are_named_with_their_lines(tmp_path):
    pytest.importorskip("soxr")
    for at in range(6):
        wave = say("ab", at)
        write_wav(tmp_path / f"{at}.wav", 0.01 * wave if at == 2 else wave, 2 * RATE if at > 3 else RATE)
    (tmp_path / "t.csv").write_text("file,text\n" + "".join(f"{at}.wav,ab\n" for at in range(6)))
    report = str(load_transcripts(tmp_path / "t.csv").report)
    assert "1 recording is almost silent" in report
    assert "t.csv:4. Listen to them, and remove these rows" in report
    assert "other sample rates than 8,000 are resampled: 2 with 16,000, such as" in report
    assert "t.csv:6" in report
    assert "sample_rate= chooses another rate" in report


def test_alphabet_of_thousands_is_refused_by_ctc(tmp_path):
    for at in range(4):
        write_wav(tmp_path / f"{at}.wav", say("abcdef" * 8, at))
    texts = ["".join(chr(0x4E00 + 1000 * at + i) for i in range(1000)) for at in range(4)]
    (tmp_path / "t.csv").write_text("file,text\n" + "".join(f"{i}.wav,{t}\n" for i, t in enumerate(texts)), "utf-8")
    splits = load_transcripts(tmp_path / "t.csv")
    with pytest.raises(DataError, match="3,000 different characters, and CTC needs a small alphabet, at most 400"):
        adapted_recordings(splits, tfft.load_backbone("speech-encoder-small"), {})


def test_text_that_does_not_fit_the_frames_is_named_before_training(tmp_path):
    for at in range(5):
        write_wav(tmp_path / f"{at}.wav", say("ab", at))
    rows = [*(f"{at}.wav,ab" for at in range(4)), f"4.wav,{'ab ' * 20}"]
    (tmp_path / "t.csv").write_text("file,text\n" + "\n".join(rows))
    with pytest.raises(DataError, match="t.csv:6: .*4.wav lasts 0.[0-9]+ s, which is [0-9]+ frames, and its 59 char"):
        tfft.finetune("speech-encoder-small", tmp_path / "t.csv", task="transcription", verbose=False)


def test_settings_without_meaning_are_named(table):
    settings = {"task": "transcription", "label": "sentence", "label_smoothing": 0.1, "architecture": "ctc"}
    with pytest.raises(
        PlanError, match="(?s)label does not apply to transcription, since text= names.*label_smoothing"
    ):
        tfft.finetune("x", table, **settings)
    with pytest.raises(PlanError, match="text and audio each name the input column"):
        tfft.finetune("x", table, audio="file", text="sentence")


def test_batches_hold_clips_of_similar_length_and_no_more_padding_than_needed(splits):
    lengths = []
    for waves, labels in to_dataset(splits.train, batch_size=5):
        used = used_samples(waves).numpy()
        assert waves.shape[1] == used.max()
        assert (labels.numpy() != -1).any(axis=0)[-1]
        lengths += [int(used.min()), int(used.max())]
    assert lengths == sorted(lengths)


def test_views_keep_all_that_is_said():
    spec = AudioSpec(RATE, 1.0)
    wave = np.zeros(RATE, np.float32)
    wave[:6000] = np.random.default_rng(0).normal(size=6000)
    changes = Augmentation(shift=0.3, mask=0.2)
    seed = tf.constant([1, 2], tf.int64)
    views = [vary_clip(tf.constant(wave), spec, changes, seed, tf.constant(at)).numpy() for at in range(6)]
    np.testing.assert_array_equal(views[0], wave)
    starts = []
    for view in views[1:]:
        used = int(used_samples(view[None])[0])
        assert 6000 <= used <= 7800
        assert len(view) == RATE
        starts.append(used - 6000)
        inside = view[used - 6000 : used]
        assert 0 < (inside == 0).mean() < 0.21 * RATE / 6000
        assert not view[: used - 6000].any()
        assert view[used - 1] != 0
    assert len(set(starts)) > 3


def test_reading_for_a_model_with_an_alphabet(table):
    examples = read_transcripts(table, (" ", "a", "b"), audio="file", text="sentence")
    assert len(examples) == 24
    assert examples.labels.max() == 3
