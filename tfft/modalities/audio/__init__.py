"""Recordings: files and tables, decoding, resampling, waveform storage and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfft.modalities import lazy_names

if TYPE_CHECKING:
    from tfft.layers.log_mel import LogMel, audio_of, log_mel
    from tfft.modalities.audio.arrays import WaveArrays, load_waves
    from tfft.modalities.audio.batches import from_waves
    from tfft.modalities.audio.decode import read_recording
    from tfft.modalities.audio.examples import AudioExamples
    from tfft.modalities.audio.folder import AudioOptions, load_recordings
    from tfft.modalities.audio.modality import AUDIO
    from tfft.modalities.audio.table import load_recording_table, read_recording_table
    from tfft.modalities.audio.waveform_store import WaveformArray

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AUDIO": "modality",
        "AudioExamples": "examples",
        "AudioOptions": "folder",
        "LogMel": "tfft.layers.log_mel",
        "WaveArrays": "arrays",
        "WaveformArray": "waveform_store",
        "audio_of": "tfft.layers.log_mel",
        "from_waves": "batches",
        "load_recording_table": "table",
        "load_recordings": "folder",
        "load_waves": "arrays",
        "log_mel": "tfft.layers.log_mel",
        "read_recording": "decode",
        "read_recording_table": "table",
    },
)

__all__ = [
    "AUDIO",
    "AudioExamples",
    "AudioOptions",
    "LogMel",
    "WaveArrays",
    "WaveformArray",
    "audio_of",
    "from_waves",
    "load_recording_table",
    "load_recordings",
    "load_waves",
    "log_mel",
    "read_recording",
    "read_recording_table",
]
