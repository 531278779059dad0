"""Strings of spoken digits, transcribed for speakers that training never saw: word error rate and minutes.

``python benchmarks/transcription.py FOLDER``: the Free Spoken Digit Dataset, files called ``digit_speaker_number.wav``.
Clips are strings of 3 to 7 digits of one speaker with pauses, in noise. Two speakers are left for the test; the texts
of the test are strings that training clips do not have. Training clips are also played faster and slower, by up to
15 %, which changes the pitch of a voice too.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import pathlib
import statistics
import tempfile
import time
import wave
from collections.abc import Iterable

import common
import numpy as np

import tfft
from tfft.modalities.audio import read_recording
from tfft.tasks.transcription.data import read_transcripts

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNSEEN = ("theo", "yweweler")  # the last two in alphabetical order
RATE = 8000
MOST_SPEED = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--clips", type=int, default=2000, help="to learn from")
    parser.add_argument("--test-clips", type=int, default=200, help="of each unseen speaker")
    parser.add_argument("--epochs", type=int, help="(what the plan chooses)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--beam-width", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    common.machine()
    voices = read(options.folder)
    seen = [name for name in voices if name not in UNSEEN]
    print(
        f"{options.clips} clips of {', '.join(seen)}; {options.test_clips} of each of {', '.join(UNSEEN)}", flush=True
    )
    rates = []
    with tempfile.TemporaryDirectory(prefix="tfft-transcription-") as name:
        place = pathlib.Path(name)
        random = np.random.default_rng(0)
        texts: set[str] = set()
        test = write(place / "test", voices, UNSEEN, options.test_clips, random, texts, speed=0.0)
        train = write(place / "train", voices, seen, options.clips // len(seen), random, texts, speed=MOST_SPEED)
        for seed in options.seeds:
            rates.append(measure(train, test, seed, options))
    if len(rates) > 1:
        print(f"mean of {len(rates)} seeds {statistics.mean(rates):.4f}, from {min(rates):.4f} to {max(rates):.4f}")


def measure(train: pathlib.Path, test: pathlib.Path, seed: int, options: argparse.Namespace) -> float:
    """Trains once, prints the scores of both parts, and returns the word error rate of unseen speakers."""
    settings = {} if options.epochs is None else {"epochs": options.epochs}
    start = time.perf_counter()
    quiet = contextlib.nullcontext() if options.verbose else contextlib.redirect_stdout(io.StringIO())
    with quiet:
        run = tfft.finetune(
            "speech-encoder-small", train, task="transcription", audio="file", text="sentence", validation=0.1,
            seed=seed, export_to=False, beam_width=options.beam_width, **settings,
        )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    head = tfft.heads.from_model(run.model)
    examples = read_transcripts(test, head.class_names, audio="file", text="sentence", group="speaker")
    scores = tfft.evaluate(run.model, examples)
    print(f"seed {seed}, {minutes:.1f} minutes, {len(run.history.rows)} epochs")
    print(f"  speakers of the training, held-out clips: {run.final_scores.summary}")
    print(f"  unseen speakers: {scores.summary}")
    print(f"  character error rate {scores.measures['character_error_rate']:.4f}, clips all right "
          f"{scores.measures['right']:.4f}", flush=True)  # fmt: skip
    for speaker in UNSEEN:
        at = np.array([i for i, path in enumerate(examples.paths) if speaker in pathlib.Path(path).name])
        print(f"  {speaker}: {tfft.evaluate(run.model, examples.take(at)).summary}", flush=True)
    if options.verbose:
        print(scores)
    return scores.value


def read(folder: pathlib.Path) -> dict[str, dict[int, list[np.ndarray]]]:
    """Reads all digits by speaker and digit, each without silence at its ends and with a largest value of 0.5."""
    found: dict[str, dict[int, list[np.ndarray]]] = {}
    for path in sorted(folder.glob("*_*_*.wav")):
        digit, speaker, _ = path.stem.split("_")
        _, samples = read_recording(str(path))
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        samples = samples[loud[0] : loud[-1] + 1]
        found.setdefault(speaker, {}).setdefault(int(digit), []).append(0.5 * samples / np.abs(samples).max())
    return found


def write(
    place: pathlib.Path,
    voices: dict[str, dict[int, list[np.ndarray]]],
    speakers: Iterable[str],
    count: int,
    random: np.random.Generator,
    texts: set[str],
    speed: float,
) -> pathlib.Path:
    """Writes clips and their table, ``count`` for each speaker, with texts that are not in a set; adds them to it."""
    place.mkdir()
    others = set(texts)
    rows = [("file", "sentence", "speaker")]
    for speaker in speakers:
        for number in range(count):
            text = ""
            while not text or text in others:
                digits = random.integers(0, 10, random.integers(3, 8))
                text = " ".join(WORDS[digit] for digit in digits)
            texts.add(text)
            name = f"{speaker}_{number:04d}.wav"
            save(place / name, clip([voices[speaker][digit] for digit in digits], random, speed))
            rows.append((name, text, speaker))
    table = place / "clips.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return table


def clip(choices: list[list[np.ndarray]], random: np.random.Generator, speed: float) -> np.ndarray:
    """Returns digits with pauses of 0.05 to 0.4 s, in white noise of 15 to 35 dB below their power."""
    faster = random.uniform(1 - speed, 1 + speed)
    parts = [silence(random)]
    for takes in choices:
        take = takes[random.integers(len(takes))]
        at = np.arange(0, len(take) - 1, faster)
        parts += [np.interp(at, np.arange(len(take)), take) * random.uniform(0.5, 1.0), silence(random)]
    found = np.concatenate(parts)
    level = np.sqrt(np.mean(found**2)) * 10 ** (-random.uniform(15, 35) / 20)
    return found + level * random.normal(size=len(found))


def silence(random: np.random.Generator) -> np.ndarray:
    return np.zeros(round(random.uniform(0.05, 0.4) * RATE))


def save(path: pathlib.Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "w") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
