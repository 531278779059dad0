"""Recordings: files and tables, decoding, resampling, waveform storage and checks."""
