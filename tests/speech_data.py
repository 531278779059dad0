"""Recordings with transcripts, made for tests: a language of tones, and files in the forms of known corpora."""

from __future__ import annotations

import json
import pathlib
import wave

import numpy as np

RATE = 8000
LETTERS = {"a": 400, "b": 620, "c": 900, "d": 1300, "e": 1800, "f": 2500}  # Hz


def write_wav(path: pathlib.Path, samples: np.ndarray, rate: int = RATE) -> pathlib.Path:
    """Write samples in -1 to 1 as a 16-bit file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "w") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def say(text: str, seed: int = 0, speed: float = 1.0) -> np.ndarray:
    """Return a wave that says a text: a tone for each letter, silence for a blank, with noise throughout."""
    random = np.random.default_rng(seed)
    parts = [np.zeros(round(0.05 * RATE))]
    for letter in text:
        seconds = speed * random.uniform(0.1, 0.16)
        t = np.arange(round(seconds * RATE)) / RATE
        tone = 0.4 * np.sin(2 * np.pi * LETTERS[letter] * t) if letter != " " else np.zeros(len(t))
        parts += [tone * np.hanning(len(t)) ** 0.3, np.zeros(round(0.04 * RATE))]
    found = np.concatenate(parts)
    return (found + 0.01 * random.normal(size=len(found))).astype(np.float32)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return texts of one to three words of one to three letters."""
    random, letters = np.random.default_rng(seed), list(LETTERS)
    return [
        " ".join("".join(random.choice(letters, random.integers(1, 4))) for _ in range(random.integers(1, 4)))
        for _ in range(count)
    ]


def write_table(folder: pathlib.Path, count: int = 40, seed: int = 0) -> pathlib.Path:
    """Write a table ``file,sentence,speaker`` with its recordings and return its path."""
    lines = ["file,sentence,speaker"]
    for at, text in enumerate(sentences(count, seed)):
        write_wav(folder / "wavs" / f"{at:03d}.wav", say(text, seed=seed * 1000 + at))
        lines.append(f"wavs/{at:03d}.wav,{text},s{at % 4}")
    table = folder / "clips.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def write_manifest(folder: pathlib.Path, rows: list[dict[str, object]]) -> pathlib.Path:
    """Write a NeMo manifest and return its path."""
    path = folder / "manifest.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
