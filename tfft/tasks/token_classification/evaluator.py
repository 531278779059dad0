"""Scores for the tags of words and for entities."""

from __future__ import annotations

import collections

import numpy as np

from tfft.errors import DataError, join_names
from tfft.evaluation.scores import Scores, class_score, f1_interval, wilson_interval
from tfft.heads import Head
from tfft.losses import ABSENT
from tfft.registry import Evaluator
from tfft.tasks.token_classification.entities import OUTSIDE, are_prefixed, entities


class TagEvaluator(Evaluator):
    """Counts of words and of entities; one for each evaluation.

    Entities are counted where tags have prefixes, or where there is the tag ``"O"``. Without either (parts of speech)
    only words are.

    Args:
        head: Head whose classes are the tags.
    """

    def __init__(self, head: Head) -> None:
        self.names = list(head.class_names or ())
        self.prefixed = are_prefixed(self.names)
        self.has_entities = self.prefixed or OUTSIDE in self.names
        self.confusion = np.zeros((len(self.names), len(self.names) + 1), np.int64)  # last column: not answered
        self.unseen = 0
        self.by_type: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(3, np.int64))
        self.sentences: collections.Counter[tuple[int, int, int]] = collections.Counter()
        for tag in self.names if self.has_entities else ():
            for entity in entities([tag], prefixed=self.prefixed):
                self.by_type[entity.type] += 0

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels that are not the tags of words."""
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise DataError(
                f"Expected labels [B, W], an integer for each word and -1 for padding. Received: {labels.dtype} "
                f"{labels.shape}."
            )
        strange = np.unique(labels[labels >= len(self.names)]).tolist()
        if strange:
            raise DataError(
                f"The labels {join_names(strange)} have no tag: the head has {len(self.names)}, so labels go from 0 to "
                f"{len(self.names) - 1}, and -1 for padding."
            )

    def weight(self, labels: np.ndarray, logits: np.ndarray) -> int:
        """Return the number of words in the mean loss of a batch."""
        width = min(labels.shape[1], logits.shape[1])
        return int(((labels[:, :width] >= 0) & _is_seen(logits[:, :width])).sum())

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch of labels [B, V] and logits [B, W, C]."""
        width = max(labels.shape[1], logits.shape[1])
        true = np.pad(labels, ((0, 0), (0, width - labels.shape[1])), constant_values=-1)
        logits = np.pad(logits, ((0, 0), (0, width - logits.shape[1]), (0, 0)), constant_values=ABSENT)
        given = np.where(logits.max(axis=-1) > ABSENT / 2, logits.argmax(axis=-1), -1)
        labelled = true >= 0
        self._refuse_other_words(labelled, given)
        np.add.at(self.confusion, (true[labelled], given[labelled]), 1)
        self.unseen += int((labelled & ~_is_seen(logits)).sum())
        if self.has_entities:
            for row, tags in enumerate(true):
                self._add_sentence(tags[labelled[row]], given[row][labelled[row]])

    def _refuse_other_words(self, labelled: np.ndarray, given: np.ndarray) -> None:
        """Without the tag "O" a word that could not be seen looks like none, so nothing can be said."""
        wrong = np.flatnonzero((labelled & (given < 0)).any(axis=1))
        if len(wrong) and OUTSIDE in self.names:
            row = int(wrong[0])
            raise DataError(
                f"{len(wrong)} sentences of a batch have more labels than words, the first at position {row}: "
                f"{int(np.flatnonzero(labelled[row]).max()) + 1} labels, {int((given[row] >= 0).sum())} words. Words "
                "are separated by spaces, and each needs one label."
            )

    def _add_sentence(self, true: np.ndarray, given: np.ndarray) -> None:
        names = [*self.names, ""]
        there, found = (set(entities([names[i] for i in tags], prefixed=self.prefixed)) for tags in (true, given))
        for column, group in enumerate((there & found, there, found)):
            for entity in group:
                self.by_type[entity.type][column] += 1
        self.sentences[len(there & found), len(there), len(found)] += 1

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of ``count`` sentences."""
        words = int(self.confusion.sum())
        if not words:
            raise DataError("No word of the dataset has a label, so there is nothing to evaluate.")
        right = self.confusion[:, :-1].diagonal()
        common = int(self.confusion.sum(axis=1).max()) / words
        counted = {"words": words, "words_not_seen": self.unseen}
        if not self.has_entities:
            columns = (right, self.confusion.sum(axis=1), self.confusion[:, :-1].sum(axis=0))
            rows = [class_score(n, *map(int, row)) for n, *row in zip(self.names, *columns, strict=True)]
            return Scores(
                task="token_classification",
                examples=count,
                items="sentences",
                loss=loss,
                accuracy=int(right.sum()) / words,
                interval=wilson_interval(int(right.sum()), words),
                majority_baseline=common,
                per_class=tuple(rows),
                confusion=self.confusion[:, :-1],
                measures=counted,
            )
        rows = [class_score(name, *map(int, self.by_type[name])) for name in sorted(self.by_type)]
        found, true, given = (int(n) for n in np.sum(list(self.by_type.values()), axis=0))
        measures = {
            "f1": 2 * found / (true + given) if true + given else 0.0,
            "precision": found / given if given else 0.0,
            "recall": found / true if true else 0.0,
            "macro_f1": float(np.mean([row.f1 or 0.0 for row in rows if row.examples or row.predicted] or [0.0])),
            "commonest_tag": common,
        }
        return Scores(
            task="token_classification",
            examples=count,
            items="sentences",
            loss=loss,
            accuracy=int(right.sum()) / words,
            interval=f1_interval(np.array(list(self.sentences.elements()))),
            metric="f1",
            per_class=tuple(rows),
            measures={**measures, **counted},
        )


def _is_seen(logits: np.ndarray) -> np.ndarray:
    return logits.min(axis=-1, initial=0.0) > ABSENT / 2
