"""WAV files as recorders write them, byte by byte: what training reads, an exported graph decodes to the same."""

import io
import struct

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from faulty_data import finding_of
from test_recipes import backbone

from tfft import heads, models
from tfft.exporting import export, open_export
from tfft.modalities.audio import load_recordings, read_recording
from tfft.modalities.audio.decode import fitted
from tfft.modalities.audio.serving import decode_wav
from tfft.modalities.audio.wav import UnsupportedWav, decode_wav_bytes, read_wav
from tfft.specs import AudioSpec

RATE = 8000
FLOATS = np.random.default_rng(0).uniform(-0.9, 0.9, (120, 2)).astype(np.float32)
WIDTHS = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}
GUID = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name, body, size=None):
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def body_of(kind, floats=FLOATS):
    if kind == "u8":
        return (floats * 127 + 128).astype(np.uint8).tobytes()
    if kind in ("f32", "f64"):
        return floats.astype({"f32": "<f4", "f64": "<f8"}[kind]).tobytes()
    width = WIDTHS[kind]
    whole = (floats.astype(np.float64) * (2.0 ** (8 * width - 1) - 1)).astype("<i4" if width > 2 else "<i2")
    return b"".join(v.tobytes()[:width] for v in whole.ravel())


def format_of(kind, channels=2, extensible=False, code=None):
    width, code = WIDTHS[kind], code or (3 if kind[0] == "f" else 1)
    plain = struct.pack("<HIIHH", channels, RATE, RATE * channels * width, channels * width, 8 * width)
    if not extensible:
        return chunk(b"fmt ", struct.pack("<H", code) + plain)
    return chunk(b"fmt ", struct.pack("<H", 0xFFFE) + plain + struct.pack("<HHIH", 22, 8 * width, 3, code) + GUID)


def riff(*chunks, size=None, magic=b"RIFF"):
    inside = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(inside) if size is None else size) + inside


NOTE = chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf\0")  # of odd length: a byte of padding follows
ODD = chunk(b"junk", b"odd")
FORMS = {
    **{f"{kind} {form}": riff(format_of(kind, extensible=form == "extensible"), chunk(b"data", body_of(kind)))
       for kind in WIDTHS for form in ("plain", "extensible")},
    "chunks in front": riff(NOTE, ODD, format_of("s16"), NOTE, chunk(b"data", body_of("s16"))),
    "chunks behind": riff(format_of("s16"), chunk(b"data", body_of("s16")), NOTE, chunk(b"id3 ", b"abc")),
    "ffmpeg into a pipe": riff(format_of("s16"), NOTE, chunk(b"data", body_of("s16"), 0xFFFFFFFF), size=0xFFFFFFFF),
    "sox into a pipe": riff(format_of("s16"), chunk(b"data", body_of("s16"), 0x7FFFF000), size=0x7FFFF024),
    "arecord into a pipe": riff(format_of("s16"), chunk(b"data", body_of("s16"), 0x80000000), size=0x80000024),
    "zero sizes": riff(format_of("s16"), chunk(b"data", body_of("s16"), 0), size=0),
    "sizes of an empty file": riff(format_of("s16"), chunk(b"data", body_of("s16"), 0), size=36),
    "half a frame at the end": riff(format_of("s16"), chunk(b"data", body_of("s16") + b"\1\2", 0xFFFFFFFF)),
    "RF64": riff(chunk(b"ds64", struct.pack("<QQQI", 999, 480, 120, 0)), format_of("s16"),
                 chunk(b"data", body_of("s16"), 0xFFFFFFFF), NOTE, size=0xFFFFFFFF, magic=b"RF64"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_file_is_decoded_alike_in_python_and_in_a_graph(name, tmp_path):
    (tmp_path / "x.wav").write_bytes(FORMS[name])
    facts, mono = read_recording(str(tmp_path / "x.wav"))
    assert (facts.reason, facts.rate, facts.channels, facts.form, len(mono)) == (None, RATE, 2, "WAV", 120)
    np.testing.assert_allclose(mono, FLOATS.mean(axis=1), atol=0.02 if "u8" in name else 1e-4)
    graph = tf.function(decode_wav_bytes, input_signature=[tf.TensorSpec([], tf.string)])
    samples, rate = graph(FORMS[name])
    assert int(rate) == RATE
    np.testing.assert_array_equal(samples, read_wav(FORMS[name])[0])
    wave = decode_wav(tf.constant(FORMS[name]), AudioSpec(RATE, 120 / RATE))
    np.testing.assert_allclose(wave, mono, atol=1e-7)


@pytest.mark.parametrize("subtype", ["ALAW", "ULAW", "PCM_U8", "PCM_24", "DOUBLE"])
def test_another_library_reads_the_same_samples(subtype):
    written = io.BytesIO()
    soundfile.write(written, FLOATS, RATE, subtype=subtype, format="WAV")
    wanted, _ = soundfile.read(io.BytesIO(written.getvalue()), dtype="float32")
    np.testing.assert_array_equal(read_wav(written.getvalue())[0], wanted)
    np.testing.assert_array_equal(decode_wav_bytes(tf.constant(written.getvalue()))[0], wanted)


DAMAGED = {
    "empty": (b"", "empty"),
    "no WAV": (b"OggS" + bytes(40), "not a WAV"),
    "cut off": (riff(format_of("s16"), chunk(b"data", body_of("s16")))[:-50], "truncated"),
    "no samples": (riff(format_of("s16"), NOTE), "no samples"),
    "no format": (riff(chunk(b"data", body_of("s16"))), "precede their format"),
    "no channels": (riff(format_of("s16", channels=0), chunk(b"data", b"abcd")), "is invalid"),
    "ADPCM": (riff(format_of("s16", code=2), chunk(b"data", body_of("s16"))), "code that is not decoded"),
    "a header alone": (b"RIFF\0\0\0\0WAVE", "no samples"),
    "a huge chunk": (riff(chunk(b"junk", b"", 0xFFFFFFFF), format_of("s16")), "no samples"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_decoded_is_refused_by_both(name):
    data, message = DAMAGED[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode_wav_bytes(tf.constant(data))
    with pytest.raises((ValueError, UnsupportedWav)):
        read_wav(data)


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_file_that_ends_anywhere_ends_in_an_error_of_ours(cut):
    data = FORMS["s24 extensible"][:cut]
    with pytest.raises(tf.errors.InvalidArgumentError, match="The (recording|bytes|samples|format)"):
        decode_wav_bytes(tf.constant(data))
    with pytest.raises(ValueError, match="it"):
        read_wav(data)


def test_the_check_names_what_an_export_cannot_decode(tmp_path):
    from tfft import check

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            floats = np.random.default_rng(ord(name) * 9 + i).uniform(-0.9, 0.9, (4000, 1)).astype(np.float32)
            data = riff(format_of("s16", 1), chunk(b"data", body_of("s16", floats), 0), size=0)
            (tmp_path / name / f"{i}.wav").write_bytes(data)
    assert finding_of(check(tmp_path), "served") is None
    soundfile.write(tmp_path / "a" / "x.flac", floats * 0.5, RATE)
    found = finding_of(check(tmp_path), "served")
    assert [item.name.rsplit("/", 1)[-1] for item in found.items] == ["x.flac"]
    assert "FLAC" in found.items[0].detail
    assert len(load_recordings(tmp_path).train) > 2


@pytest.mark.nightly
def test_an_export_answers_for_files_as_the_model_does_for_what_training_reads(tmp_path):
    spec = AudioSpec(RATE, 0.5)
    model = models.build(backbone(), heads.classification(["a", "b"]), audio=spec)
    export(model, tmp_path / "served" / "1")
    served = open_export(tmp_path / "served")
    waves = []
    for name, content in FORMS.items():
        (tmp_path / "x.wav").write_bytes(content)
        facts, mono = read_recording(str(tmp_path / "x.wav"))
        waves.append(fitted(mono, facts.rate, spec))
        assert facts.reason is None, name
    wanted = keras.ops.softmax(model.predict(np.stack(waves), verbose=0))
    found = served.predict_bytes(list(FORMS.values()))["probabilities"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
