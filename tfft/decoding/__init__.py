"""Decoding of encoder-decoders, one token after the other, as the tasks that generate text need it.

:func:`teacher_forced` makes training batches, :func:`stepper_of` runs a model token by token, :func:`beam_search` finds
texts, and a :class:`Generator` joins these with a tokenizer, in TensorFlow operations.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.decoding.generator import Answers, Generator, tokenizer_of  # noqa: E402
from tfft.decoding.search import beam_search, length_penalty  # noqa: E402
from tfft.decoding.steppers import CachedStepper, PrefixStepper, Stepper, stepper_of  # noqa: E402
from tfft.decoding.teacher_forcing import teacher_forced  # noqa: E402
from tfft.decoding.token_checks import fitting, generated_length, skipped_note, unknown_note  # noqa: E402

__all__ = [
    "Answers", "CachedStepper", "Generator", "PrefixStepper", "Stepper", "beam_search", "fitting", "generated_length",
    "length_penalty", "skipped_note", "stepper_of", "teacher_forced", "tokenizer_of", "unknown_note",
]  # fmt: skip
