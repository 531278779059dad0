"""Checks of recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tfft import registry
from tfft.data import Splits
from tfft.inspection.classes import class_findings, label_text
from tfft.inspection.duplicates import copy_findings
from tfft.inspection.findings import Finding, Item, Level, counted
from tfft.inspection.skipped import unusable
from tfft.modalities.audio.decode import FOREIGN_SUFFIXES, SUFFIXES, WAV_FORM, RecordingFacts
from tfft.modalities.audio.examples import AudioExamples
from tfft.specs import AudioSpec

# Short name, level, message, remedy, condition, and message for one recording.
_Look = tuple[str, Level, str, str, Callable[[RecordingFacts], bool], Callable[[RecordingFacts], str]]

_CLIPPED = 0.01  # of the samples
_OFFSET = 0.02  # of the loudest that a file can hold
_QUIET = 0.01
_SHORT = 0.1  # seconds


def recording_findings(splits: Splits[AudioExamples]) -> Iterator[Finding]:
    """Yield findings about recordings from :func:`load_recordings`, without reading files again.

    Args:
        splits: Recordings with the statistics of their files.
    """
    parts, facts = splits.parts, splits.train.facts + splits.validation.facts
    labels = [label_text(own.class_names, label) for own in parts.values() for label in own.labels]
    where = [part for part, own in parts.items() for _ in own.paths]
    yield from unusable(splits.skipped, "recordings", SUFFIXES + FOREIGN_SUFFIXES)
    yield from _findings(facts, splits.train.spec)
    if registry.task(splits.task).exclusive_classes:
        yield from class_findings({part: own.counts for part, own in parts.items()})
    yield from copy_findings(splits.duplicates, [one.path for one in facts], labels, where)


def _findings(facts: Sequence[RecordingFacts], spec: AudioSpec) -> Iterator[Finding]:
    looks: tuple[_Look, ...] = (
        ("clipped", "warning", "are clipped", "record them again at a lower level",
         lambda f: f.clipped > _CLIPPED, lambda f: f"has {f.clipped:.0%} of its samples at the limit"),
        ("quiet", "warning", "are very quiet", "check that they are not silent",
         lambda f: f.peak < _QUIET, lambda f: f"reaches {f.peak:.4f} of 1"),
        ("offset", "warning", "have a DC offset", "check the recording device",
         lambda f: abs(f.offset) > _OFFSET, lambda f: f"has a mean of {f.offset:+.3f}"),
        ("short", "warning", f"are shorter than {_SHORT} s", "check them",
         lambda f: f.seconds < _SHORT, lambda f: f"lasts {f.seconds:.3f} s"),
        ("cut", "note", f"are longer than the {spec.seconds:g} s clip", "increase seconds= to use more",
         lambda f: f.seconds > spec.seconds + 1e-3, lambda f: f"lasts {f.seconds:.2f} s"),
        ("stereo", "note", "have several channels", "the model receives their mean",
         lambda f: f.channels > 1, lambda f: f"has {f.channels}"),
        ("rate", "warning", f"do not have {spec.sample_rate} samples per second, as most do",
         "they are resampled; make sure that the rate does not reveal the class; serve_bytes of an export takes "
         "this rate",
         lambda f: f.rate != spec.sample_rate, lambda f: f"has {f.rate}"),
        ("served", "note", "cannot be sent to an exported model as files", "serve_bytes decodes WAV files; "
         "send others as waves, or use tfft predict, which reads all of them",
         lambda f: f.form != WAV_FORM, lambda f: f"is {f.form}"),
    )  # fmt: skip
    for kind, level, words, remedy, odd, said in looks:
        found = [Item(one.path, said(one)) for one in facts if odd(one)]
        yield from counted(found, kind, level, f"recordings {words}", remedy)
