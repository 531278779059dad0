"""Speech synthesis learned from a synthesiser: word errors of an independent recognizer, MCD, durations, minutes.

    python benchmarks/speech_synthesis.py sentences.txt --flite /usr/bin/flite --copy 30
    python benchmarks/speech_synthesis.py sentences.txt --train 300 --test 30 --minutes 10
    python benchmarks/speech_synthesis.py sentences.txt --voice rms --train 90 --backbone run-of-slt --like slt

Sentences (the first column of a text file, one per line) are spoken by flite (Debian package ``flite``); it prints the
end of each phone (``-psdur``), which are the gold durations. Copy synthesis (real log-mel frames through Griffin-Lim)
is measured first: no model with this vocoder can be better. The recognizer is pocketsphinx (``pip install pocketsphinx
jiwer``), which shares nothing with the model. It is weak, so only differences count. With ``--like`` a speaker encoder
(:mod:`speaker_encoder`) compares the clips with the voice and with another one, of which a run was the backbone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_PHONE = re.compile(r"(\S+):(\d+\.\d+)")


def sentences_of(path: Path) -> list[str]:
    """Return different sentences of letters and blanks, in small letters and without punctuation, in order."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = re.sub(r"[^a-z' ]+", " ", line.split("\t")[0].lower().replace("-", " "))
        text = " ".join(text.split())
        if 3 <= len(text.split()) <= 14:
            found.setdefault(text)
    return list(found)


def speak(flite: str, voice: str, text: str, path: Path) -> list[tuple[str, float]]:
    """Write a text as spoken by flite to a WAV file and return its phones with their durations in seconds."""
    done = subprocess.run(
        [flite, "-voice", voice, "-psdur", "-t", text, "-o", str(path)], capture_output=True, text=True, check=True
    )
    ends = [(name, float(end)) for name, end in _PHONE.findall(done.stdout)]
    starts = [0.0, *(end for _, end in ends)]
    return [(name, end - start) for (name, end), start in zip(ends, starts, strict=False)]


def corpus(flite: str, voice: str, texts: list[str], folder: Path) -> list[dict[str, str]]:
    """Write clips and ``metadata.csv`` and return a row per clip, with phones and gold durations."""
    rows_file = folder / "rows.json"
    if rows_file.is_file() and len(rows := json.loads(rows_file.read_text())) == len(texts):
        return rows
    (folder / "wavs").mkdir(parents=True, exist_ok=True)

    def one(at: int) -> dict[str, str]:
        name = f"{at:05d}"
        phones = speak(flite, voice, texts[at], folder / "wavs" / f"{name}.wav")
        return {
            "audio": f"wavs/{name}.wav", "text": texts[at], "phonemes": " ".join(phone for phone, _ in phones),
            "durations": " ".join(f"{seconds:.4f}" for _, seconds in phones),
        }  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(one, range(len(texts))))
    lines = [f"{Path(row['audio']).stem}|{row['text']}" for row in rows]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows_file.write_text(json.dumps(rows))
    return rows


class Judge:
    """Transcribes waveforms with pocketsphinx and counts word errors."""

    def __init__(self) -> None:
        import jiwer
        from pocketsphinx import Decoder

        self._jiwer, self._new = jiwer, lambda: Decoder(samprate=16000, loglevel="FATAL")
        self.decoder = self._new()

    def transcribe(self, wave: np.ndarray, rate: int) -> str:
        """Return the words of a waveform, float [n] in -1 to 1."""
        if rate != 16000:
            import soxr

            wave = soxr.resample(wave, rate, 16000)
        samples = np.clip(wave / max(1e-6, np.abs(wave).max()) * 0.5, -1, 1)
        self.decoder.start_utt()
        self.decoder.process_raw((samples * 32767).astype("<i2").tobytes(), full_utt=True)
        self.decoder.end_utt()
        found = self.decoder.hyp()
        return re.sub(r"\(\d\)", "", found.hypstr) if found is not None else ""

    def word_error_rate(self, waves: list[tuple[np.ndarray, int]], texts: list[str]) -> tuple[float, float, float]:
        """Return the word error rate and its 95 % interval, a bootstrap over sentences."""
        counts = []
        for (wave, rate), text in zip(waves, texts, strict=True):
            found = self._jiwer.process_words(text, self.transcribe(wave, rate) or "-")
            counts.append((found.substitutions + found.deletions + found.insertions, len(text.split())))
        table = np.array(counts)
        draws = np.random.default_rng(0).integers(0, len(table), (2000, len(table)))
        rates = table[draws, 0].sum(axis=1) / table[draws, 1].sum(axis=1)
        low, high = np.quantile(rates, (0.025, 0.975))
        return float(table[:, 0].sum() / table[:, 1].sum()), float(low), float(high)


def copies(clips: list[tuple[np.ndarray, int]]) -> list[tuple[np.ndarray, int]]:
    """Return clips after log-mel frames and Griffin-Lim."""
    import tensorflow as tf

    from tfft.tasks.speech_synthesis.mel import frame_count, log_mel_frames, voice_spec
    from tfft.tasks.speech_synthesis.vocoder import GriffinLim

    found = []
    for wave, rate in clips:
        spec = voice_spec(rate)
        frames = tf.constant([frame_count(len(wave), spec)])
        found.append((GriffinLim(spec)(log_mel_frames(tf.constant(wave[None]), spec), frames).numpy()[0], rate))
    return found


def read_clips(folder: Path, rows: list[dict[str, str]]) -> list[tuple[np.ndarray, int]]:
    from tfft.modalities.audio.wav import read_wav

    waves = (read_wav((folder / row["audio"]).read_bytes()) for row in rows)
    return [(wave.mean(axis=1), rate) for wave, rate in waves]


def show(name: str, found: tuple[float, float, float], count: int) -> None:
    print(f"{name:34} word error rate {found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f}, {count} sentences)", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("--flite", default=shutil.which("flite") or "flite")
    parser.add_argument("--voice", default="slt")
    parser.add_argument("--folder", type=Path, default=Path("speech_synthesis_benchmark"))
    parser.add_argument("--copy", type=int, default=30, help="sentences for copy synthesis")
    parser.add_argument("--train", type=int, default=0, help="sentences for training; 0 measures copy synthesis only")
    parser.add_argument("--test", type=int, default=30, help="unseen sentences")
    parser.add_argument("--symbols", choices=("characters", "phonemes", "gold"), default="characters")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--minutes", type=float, help="time limit of the training")
    parser.add_argument("--backbone", default="voice-small", help="or the run of another voice")
    parser.add_argument("--unfreeze", default="auto")
    parser.add_argument("--like", metavar="VOICE", help="another voice to compare with, that of the backbone")
    options = parser.parse_args()
    texts = sentences_of(options.sentences)
    texts = texts[: max(options.copy, options.train + options.test)]
    judge, folder = Judge(), options.folder / f"{options.voice}-{len(texts)}"
    rows = corpus(options.flite, options.voice, texts, folder)
    if options.copy:
        clips, said = read_clips(folder, rows[-options.copy :]), texts[-options.copy :]
        show(f"flite {options.voice}", judge.word_error_rate(clips, said), len(said))
        show("copy synthesis", judge.word_error_rate(copies(clips), said), len(said))
    if options.train:
        train_and_measure(options, judge, folder, rows, texts)


def train_and_measure(
    options: argparse.Namespace, judge: Judge, folder: Path, rows: list[dict[str, str]], texts: list[str]
) -> None:
    """Train on the first sentences and measure on the last."""
    import keras
    import pandas as pd

    import tfft
    from tfft.exporting import serving_functions

    columns = {"characters": ["audio", "text"], "phonemes": ["audio", "phonemes"]}
    table = pd.DataFrame(rows).get(columns.get(options.symbols, ["audio", "phonemes", "durations"]))
    table["audio"] = [str(folder / name) for name in table["audio"]]
    known = table[: options.train]
    start = time.perf_counter()

    class Limit(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            if options.minutes and time.perf_counter() - start > 60 * options.minutes:
                self.model.stop_training = True

    settings = {} if options.unfreeze == "auto" else {"unfreeze": options.unfreeze}
    run = tfft.finetune(
        options.backbone, known, task="speech_synthesis", epochs=options.epochs, export_to=False, validation=0.1,
        out=options.folder / f"run-{int(time.time())}", callbacks=[Limit()], **settings,
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    serving = serving_functions(run.model)
    unseen = table[-options.test :]
    asked = list(unseen["text" if options.symbols == "characters" else "phonemes"])
    made = []
    for text in asked:
        outputs = serving.predict([text])
        made.append((outputs["audio"][0][: outputs["length"][0]], int(outputs["sample_rate"][0])))
    print(f"{len(run.history.rows)} epochs, {minutes:.1f} minutes")
    print(run.final_scores)
    said = texts[-options.test :]
    show(
        "copy synthesis, unseen sentences",
        judge.word_error_rate(copies(read_clips(folder, rows[-len(said) :])), said),
        len(said),
    )
    show("synthesized, unseen sentences", judge.word_error_rate(made, said), len(said))
    if options.like:
        real = copies(read_clips(folder, rows[-len(said) :]))
        compare_speakers(options, {"synthesized": made, "copy synthesis": real}, read_clips(folder, rows[:20]), texts)


def compare_speakers(
    options: argparse.Namespace,
    made: dict[str, list[tuple[np.ndarray, int]]],
    voice: list[tuple[np.ndarray, int]],
    texts: list[str],
) -> None:
    """Print how alike clips are to the voice that was learned, and to the one that the backbone spoke with."""
    from speaker_encoder import SpeakerEncoder

    encoder, folder = SpeakerEncoder(), options.folder / f"{options.like}-20"
    other = read_clips(folder, corpus(options.flite, options.like, texts[:20], folder))
    for name, clips in {**made, f"flite {options.like}": other}.items():
        for speaker, known in ((options.voice, voice), (options.like, other)):
            found, low, high = encoder.similarity(clips, known)
            print(f"{name:20} speaker similarity to {speaker:6} {found:.3f} ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
