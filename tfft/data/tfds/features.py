"""Choice of the input and label features of a TensorFlow dataset: :func:`chosen_features`.

Implementation notes: features are nested, and only some types can be inputs or labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfft.errors import DataError, did_you_mean, join_names

KINDS = {"image": "images", "audio": "recordings", "text": "texts"}

# Single class, several classes, number, or any value, which the loader of tables interprets.
ONE, SEVERAL, NUMBER, VALUE = "classification", "multilabel", "regression", "value"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Features to read from each example.

    Attributes:
        kind: ``"image"``, ``"audio"`` or ``"text"``.
        inputs: Names of the input features, with ``/`` between the levels; two for pairs of texts.
        label: Name of the feature with the labels.
        labels: Type of the labels: ``ONE``, ``SEVERAL``, ``NUMBER`` or ``VALUE``.
        classes: Class names, by number; empty if the dataset has none.
    """

    kind: str
    inputs: tuple[str, ...]
    label: str
    labels: str
    classes: tuple[str, ...]


def leaves(features: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the leaf features of a dataset with their paths."""
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.FeaturesDict):
        for name, inner in features.items():
            yield from leaves(inner, (*above, name))
    else:
        yield above, features


def chosen_features(info: Any, *, image: Any = None, audio: Any = None, text: Any = None, label: Any = None) -> Chosen:
    """Find the inputs and the labels of a dataset.

    Args:
        info: ``builder.info``.
        image: Name of the image feature, if there are several.
        audio: Name of the audio feature.
        text: Name of the text feature; two for pairs.
        label: Name of the label feature.

    Raises:
        DataError: If the choice is ambiguous; the message lists the candidates.
    """
    # Sorted, because features read from a file have no fixed order.
    found = sorted(leaves(info.features), key=lambda leaf: leaf[0])
    known = {"/".join(path): feature for path, feature in found}
    roles = {"image": image, "audio": audio, "text": text}
    given = {role: wanted for role, wanted in roles.items() if wanted is not None}
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} each name the input: give one of them.")
    if given:
        [(kind, wanted)] = given.items()
        inputs = tuple(wanted) if isinstance(wanted, (tuple, list)) else (wanted,)
        for name in inputs:
            _check_input(info, known, kind, name)
    else:
        kind, inputs = _only_input(info, known)
    for name in inputs:
        if kind == "image" and np.dtype(known[name].np_dtype) != np.uint8:
            raise DataError(
                f"The images in {name!r} of {info.full_name} are {known[name].np_dtype}. Expected uint8: tfft writes "
                "no other pixels to files. Read them with tfds, and pass arrays."
            )
    label = _only_label(info, known, inputs) if label is None else _named(info, known, "label", label)
    return Chosen(kind, inputs, label, *_labels_of(info, label, known[label]))


def only_feature(
    info: Any,
    known: dict[str, Any],
    fitting: Sequence[str],
    role: str,
    wanted: Any,
    what: str,
    allowed: Sequence[str] | None = None,
) -> str:
    """Return the feature of a role in a task: the one that is named, or the only one that fits.

    Args:
        info: ``builder.info``.
        known: Leaf features by name.
        fitting: Names of the features that fit.
        role: Name of the setting, ``"image"`` or ``"label"``.
        wanted: Value of the setting, or None.
        what: What such features have, in words.
        allowed: Names that the setting may have. Defaults to ``fitting``.

    Raises:
        DataError: If none or several fit, or the named one does not.
    """
    if wanted is not None:
        name = _named(info, known, role, wanted)
        if name not in (fitting if allowed is None else allowed):
            raise DataError(
                f"The feature {name!r} of {info.full_name} ({type(known[name]).__name__}) has no {what} ({role}=). "
                f"Features: {_described(known)}."
            )
        return name
    if not fitting:
        raise DataError(f"{info.full_name} has no feature with {what}. Features: {_described(known)}.")
    if len(fitting) > 1:
        _refuse(info, list(fitting), role, f"features with {what}", 0)
    return fitting[0]


def rate_of(info: Any, chosen: Chosen) -> int | None:
    """Return the sample rate of recordings, if the dataset states it."""
    known = {"/".join(path): feature for path, feature in leaves(info.features)}
    return getattr(known[chosen.inputs[0]], "sample_rate", None) or None  # 0 if read from a file


def _named(info: Any, known: dict[str, Any], role: str, name: Any) -> str:
    if name in known:
        return name
    hint = did_you_mean(str(name), known)
    raise DataError(f"{info.full_name} has no feature {name!r} ({role}=).{hint} Expected one of: {_described(known)}.")


def _described(known: dict[str, Any]) -> str:
    return join_names(f"{name} ({type(feature).__name__})" for name, feature in known.items())


def _is(kind: str, feature: Any) -> bool:
    import tensorflow_datasets as tfds

    own = {"image": tfds.features.Image, "audio": tfds.features.Audio, "text": tfds.features.Text}[kind]
    return isinstance(feature, own) and not isinstance(feature, tfds.features.LabeledImage)  # the image of a mask


def _check_input(info: Any, known: dict[str, Any], kind: str, name: Any) -> None:
    feature = known[_named(info, known, kind, name)]
    if not _is(kind, feature) and not (kind == "text" and _is_scalar(feature, "OSU")):
        raise DataError(
            f"The feature {name!r} of {info.full_name} ({type(feature).__name__}) has no {KINDS[kind]} ({kind}=). "
            f"Features: {_described(known)}."
        )


def _only_input(info: Any, known: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Prefer images to recordings, and both to texts, which next to them are file names and notes."""
    for kind in KINDS:
        candidates = [name for name, feature in known.items() if _is(kind, feature)]
        if len(candidates) > 1:
            _refuse(info, candidates, kind, f"features with {KINDS[kind]}", 0)
        if candidates:
            return kind, (candidates[0],)
    raise DataError(
        f"{info.full_name} has no feature with images, recordings or texts. Features: {_described(known)}. If one of "
        "them holds texts, pass it as text=."
    )


def _only_label(info: Any, known: dict[str, Any], inputs: Sequence[str]) -> str:
    looks = (_is_class, _is_classes, lambda feature: _is_scalar(feature, "f"))
    for look in looks:
        candidates = [name for name, feature in known.items() if name not in inputs and look(feature)]
        if len(candidates) > 1:
            _refuse(info, candidates, "label", "features with labels", 1)
        if candidates:
            return candidates[0]
    raise DataError(
        f"{info.full_name} has no labels: expected one ClassLabel, a Sequence of them, or a number with a fraction. "
        f"Features: {_described(known)}. Name another one with label=."
    )


def _refuse(info: Any, candidates: Sequence[str], role: str, what: str, at: int) -> None:
    keys = info.supervised_keys
    own = keys[at] if keys and isinstance(keys[at], str) else None
    usual = f" The dataset itself uses {own!r}." if own in candidates else ""
    raise DataError(
        f"{info.full_name} has {len(candidates)} {what}: {join_names(candidates)}. Choose one, such as "
        f"{role}={(own if own in candidates else candidates[0])!r}.{usual}"
    )


def _is_class(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.ClassLabel)


def _is_classes(feature: Any) -> bool:
    return _is_class(getattr(feature, "feature", None))  # the elements of a Sequence


def _is_scalar(feature: Any, kinds: str) -> bool:
    return getattr(feature, "shape", None) == () and np.dtype(feature.np_dtype).kind in kinds


def _labels_of(info: Any, name: str, feature: Any) -> tuple[str, tuple[str, ...]]:
    if _is_class(feature):
        return ONE, _names_of(feature)
    if _is_classes(feature):
        return SEVERAL, _names_of(feature.feature)
    if _is_scalar(feature, "f"):
        return NUMBER, ()
    if _is_scalar(feature, "iubOSU"):
        return VALUE, ()
    raise DataError(
        f"The feature {name!r} of {info.full_name} ({type(feature).__name__}) has no labels (label=). Expected a "
        "ClassLabel, a Sequence of them, or a single number or text."
    )


def _names_of(label: Any) -> tuple[str, ...]:
    return () if label.num_classes is None else tuple(label.names)
