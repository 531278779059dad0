"""Recordings that know their waves: :class:`Recordings`, the parts of :class:`tfft.data.RecordingSplits`.

Hides that waves are taken from those of all recordings of a part only when they are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfft.data.examples import Examples
from tfft.modalities.audio.waveform_store import Waves
from tfft.specs import AudioSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings(Examples):
    """Files of recordings with their classes and their waves.

    Attributes:
        audio: rate and length of the waves.
        read: gives the waves of the part that these are of.
        at: positions of these in it; None for all.
    """

    audio: AudioSpec = AudioSpec()
    read: Callable[[], Any] | None = None
    at: np.ndarray | None = None

    @classmethod
    def of(cls, examples: Examples, audio: AudioSpec, read: Callable[[], Any]) -> Recordings:
        """Puts waves to files.

        Args:
            examples: all files of a part.
            audio: rate and length of their waves.
            read: gives their waves, [N, samples].
        """
        known = {field.name: getattr(examples, field.name) for field in dataclasses.fields(Examples)}
        return cls(**known, audio=audio, read=read)

    @property
    def waves(self) -> Any:
        """Of these recordings, [N, samples]."""
        found = () if self.read is None else self.read()
        if self.at is None:
            return found
        return found.take(self.at) if isinstance(found, Waves) else found[self.at]

    def take(self, positions: np.ndarray) -> Recordings:
        """Returns the recordings at some positions, with their waves."""
        at = np.arange(len(self)) if self.at is None else self.at
        return dataclasses.replace(super().take(positions), at=at[positions])
