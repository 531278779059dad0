"""What is wrong with the clips and texts of a voice, one sentence each with its place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from tfft.errors import join_names
from tfft.modalities.audio.decode import RecordingFacts
from tfft.tasks.speech_synthesis.mel import LONGEST, frame_count, voice_spec
from tfft.tasks.speech_synthesis.sources import Row, Rows

_RARE = 3  # clips
_OFF = 0.1  # seconds between the sum of durations and the length of a clip


def text_problems(found: Rows, symbols: Sequence[Sequence[str]], class_names: Sequence[str] | None) -> list[str]:
    """Return the problems of texts, durations and speakers.

    Args:
        found: Rows.
        symbols: Symbols of each text.
        class_names: Symbols of a model that the texts are for; None for a new one.
    """
    problems = []
    given = [row.durations is not None for row in found.rows]
    for row, text in zip(found.rows, symbols, strict=True):
        if not row.text:
            what = "no phonemes" if found.separator else "no text"
            problems.append(f"{row.place}: {what} for {os.path.basename(row.audio)}: write it, or remove the row")
        elif any(given) and row.durations is None:
            problems.append(f"{row.place}: no durations, which other rows have: give them for all rows, or for none")
        elif row.durations is not None and len(row.durations) != len(text):
            problems.append(f"{row.place}: {len(text)} symbols and {len(row.durations)} durations: one for each symbol")
    speakers = Counter(row.speaker for row in found.rows if row.speaker is not None)
    if len(speakers) > 1:
        counts = ", ".join(f"{name!r} ({count})" for name, count in speakers.most_common(5))
        problems.append(
            f"a voice has one speaker, and {found.name} names {len(speakers)}: {counts}. Keep the rows of one of them"
        )
    folders = Counter(os.path.dirname(os.path.relpath(row.audio, found.root)) for row in found.rows)
    if len(folders) > 1 and not speakers and all(name and os.sep not in name for name in folders):
        problems.append(
            f"the clips are in {len(folders)} folders, such as {join_names(sorted(folders)[:3])}, and no column "
            "'speaker' exists. If each folder is a speaker, keep one; else add a column 'speaker' with one name"
        )
    if class_names is not None:
        known = set(class_names)
        unknown = Counter(one for text in symbols for one in set(text) if one not in known)
        if unknown:
            shown = ", ".join(f"{name!r} ({count} texts)" for name, count in unknown.most_common(5))
            problems.append(
                f"the voice does not know {len(unknown)} symbols of the texts: {shown}. Spell them with known symbols"
            )
    return problems


def clip_problems(
    rows: Sequence[Row], facts: Sequence[RecordingFacts], symbols: Sequence[Sequence[str]], sample_rate: int | None
) -> list[str]:
    """Return the problems of clips.

    Args:
        rows: Rows.
        facts: Statistics of each clip.
        symbols: Symbols of each text.
        sample_rate: Rate of the voice; None for that of the clips.
    """
    problems = []
    for row, one, text in zip(rows, facts, symbols, strict=True):
        if one.reason is not None:
            hint = "" if os.path.exists(row.audio) else ": does the id match the file name? Otherwise remove the row"
            problems.append(f"{row.place}: {row.audio} {one.reason}{hint}")
            continue
        if one.seconds > LONGEST:
            problems.append(
                f"{row.place}: {row.audio} has {one.seconds:.1f} s. Expected at most {LONGEST:g} s: cut it at a pause"
            )
        rate = sample_rate or one.rate
        frames = frame_count(round(one.seconds * rate), voice_spec(rate))
        if len(text) > frames:
            problems.append(
                f"{row.place}: {len(text)} symbols in {one.seconds:.2f} s, which has {frames} frames: is it the text "
                "of this clip?"
            )
        if row.durations is not None and abs(sum(row.durations) - one.seconds) > _OFF:
            problems.append(
                f"{row.place}: the durations add up to {sum(row.durations):.2f} s, and the clip has {one.seconds:.2f} "
                "s. Are they in seconds, with the silences?"
            )
    rates = Counter(one.rate for one in facts if one.reason is None)
    if len(rates) > 1 and sample_rate is None:
        shown = ", ".join(f"{rate:,} Hz ({count})" for rate, count in rates.most_common())
        other = next(row for row, one in zip(rows, facts, strict=True) if one.rate == rates.most_common()[-1][0])
        problems.append(
            f"the clips have several sample rates: {shown}, such as {other.place}. Name the one of the voice: "
            f"sample_rate={rates.most_common(1)[0][0]}; the others are resampled"
        )
    return problems


def symbol_notes(trained: Mapping[str, int], held_out: Mapping[str, int]) -> list[str]:
    """Return remarks about symbols that the voice can hardly learn.

    Args:
        trained: Number of times each symbol occurs in the training texts.
        held_out: In the held-out texts.
    """
    notes = []
    rare = {name: count for name, count in trained.items() if 0 < count < _RARE}
    if rare:
        shown = ", ".join(f"{name!r} ({count})" for name, count in list(rare.items())[:10])
        notes.append(
            f"{len(rare)} symbols are rare in the training texts: {shown}; spell them with other symbols if you can"
        )
    unseen = [name for name, count in held_out.items() if count and not trained.get(name)]
    if unseen:
        notes.append(f"no training text has {join_names(map(repr, unseen[:10]))}, which held-out texts have")
    return notes
