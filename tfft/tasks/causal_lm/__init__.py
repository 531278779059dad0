"""Causal language models on small texts: decoders of KerasHub with low-rank updates, perplexity, and export.

:func:`finetune` runs everything; :func:`causal_lm`, :func:`windows` and :func:`perplexity` are its parts, for your own
``fit``. Generation, samplers and tokenizers are KerasHub's.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.tasks.causal_lm.data import read_documents, windows  # noqa: E402
from tfft.tasks.causal_lm.export_model import export  # noqa: E402
from tfft.tasks.causal_lm.perplexity_scores import Perplexity, perplexity, unigram  # noqa: E402
from tfft.tasks.causal_lm.training import LanguageRun, causal_lm, finetune, load  # noqa: E402

__all__ = [
    "LanguageRun",
    "Perplexity",
    "causal_lm",
    "export",
    "finetune",
    "load",
    "perplexity",
    "read_documents",
    "unigram",
    "windows",
]
