"""Parts of splits to a ``tf.data.Dataset``, whatever they hold: :func:`to_dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from tfft.data.batches import from_arrays, from_files
from tfft.data.examples import Examples
from tfft.errors import DataError, PlanError, raise_problems
from tfft.modalities.audio.batches import from_waves
from tfft.modalities.audio.examples import Recordings
from tfft.modalities.image.arrays import ArrayExamples
from tfft.modalities.text.examples import TextExamples, from_texts
from tfft.specs import AudioSpec, Augmentation, InputSpec
from tfft.tasks.token_classification.data import TaggedSentences, from_tagged


def to_dataset(
    examples: Examples | Recordings | TextExamples | TaggedSentences | ArrayExamples,
    spec: InputSpec | AudioSpec | None = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    cache: bool | Literal["auto"] = "auto",
    epoch: tf.Variable | None = None,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int | None = None,
    sampling: str | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of inputs and labels that fits a backbone, for ``model.fit`` and ``evaluate``.

    Args:
        examples: a part of what :func:`tfft.data.load` gives, such as ``splits.train``; also from
            :func:`tfft.data.list_images` or :func:`tfft.data.read_texts`.
        spec: the backbone's ``input_spec``; needed for files of images. Texts and recordings do without: a model of
            texts takes strings, and recordings know their rate.
        batch_size: examples per batch; the last one of a pass may be smaller.
        shuffle: True gives another order in each pass, a pure function of seed and epoch.
        seed: picks another series of orders.
        cache: True decodes every image file once, now, and keeps the pixels in memory; False decodes in
            each pass; ``"auto"`` is True where the pixels take less than 512 MB.
        epoch: an int64 variable on the CPU that tells the epoch at the start of each pass, for
            programs that resume. Unless given, the dataset counts its passes from 0; every start
            of a pass counts, also one that is not finished.
        augment: of images ``"flip"``, ``"crop"``, ``"rand"``, of recordings ``"shift"``, ``"mask"``, several in a list,
            or an :class:`~tfft.specs.Augmentation`: each showing is another view, a pure function of seed, position and
            number; the first one is the example as it is. Files of images are then decoded in each pass.
        views: how many views there are, used in turn; None for another one each time. Of no effect
            without ``augment``.
        sampling: ``"balanced"`` draws every class equally often, in passes of unchanged length: examples of
            small classes come several times, those of large ones in some of the passes. None shows each
            example once in a pass.

    Returns:
        Dataset of (inputs, labels), its length known: uint8 [B, H, W, C] for images, strings [B] for texts (for pairs a
        dict of two), float32 [B, samples] for recordings.

    Raises:
        DataError: when there are no examples, or a file cannot be decoded while the pixels are cached; the
            file is named. Where they are not, a file that broke after it was listed stops the pass that
            reads it with a ``tf.errors.OpError``, which names the file when it is missing, empty or no
            image; damage inside of a picture is told without its name: list the folder again to find it.
        PlanError: when arguments are out of range, or mean nothing for such examples.

    Example:
        >>> train = to_dataset(splits.train, backbone.input_spec, shuffle=True)
        >>> model.fit(train, epochs=3, shuffle=False)  # the dataset has shuffled; Keras would warn
    """
    order: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "seed": seed, "epoch": epoch}
    varied = {"augment": augment, "views": views, "sampling": sampling}
    if isinstance(examples, TextExamples):
        _refuse(examples, {"augment": augment, "views": views})
        return from_texts(examples, **order, sampling=sampling)
    if isinstance(examples, TaggedSentences):
        _refuse(examples, varied)
        return from_tagged(examples, **order)
    if isinstance(examples, Recordings):
        return from_waves(examples.waves, examples.labels, examples.audio, **order, **varied)
    if isinstance(examples, ArrayExamples):
        return from_arrays(examples.images, examples.labels, _of_images(spec), **order, **varied, cache=cache)
    if isinstance(examples, Examples):
        if spec is None:
            raise DataError("Files of images are brought to one size: give the backbone's input_spec.")
        return from_files(examples, spec, **order, **varied, cache=cache)
    fix = " Give one of its parts, such as splits.train." if hasattr(examples, "train") else ""
    raise DataError(
        "Expected a part of what tfft.data.load gives (for arrays there is from_arrays, for waves from_waves), got a "
        f"{type(examples).__name__}.{fix}"
    )


def _of_images(spec: InputSpec | AudioSpec | None) -> InputSpec | None:
    if isinstance(spec, AudioSpec):
        raise DataError("These are images, and an AudioSpec is for recordings: give the backbone's input_spec.")
    return spec


def _refuse(examples: Any, settings: dict[str, Any]) -> None:
    given = [f"{name}={value!r}" for name, value in settings.items() if value is not None]
    what = "texts" if isinstance(examples, TextExamples) else "tagged words"
    raise_problems(PlanError, f"These mean nothing for {what}; leave them out", given)
