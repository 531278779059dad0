"""Assembly of backbone and head into one Keras model from raw examples to logits.

Implementation notes: the modality adds the input, the features are pooled to the level that the head takes, the layers
have fixed names that other modules rely on, and the backbone starts frozen.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfft.errors import BackboneError, PlanError, did_you_mean, join_names, require_platform

require_platform()

import keras  # noqa: E402

from tfft import registry  # noqa: E402
from tfft.backbones import load_backbone  # noqa: E402
from tfft.backbones.base import BACKBONE_LAYER, Backbone, blocks_of  # noqa: E402
from tfft.backbones.feature_pyramid import pyramid, single_map  # noqa: E402
from tfft.backbones.simple_pyramid import SingleMap, simple_pyramid  # noqa: E402
from tfft.heads import Head, ModelFeatures  # noqa: E402
from tfft.layers.pixel_checks import PixelModel  # noqa: E402
from tfft.specs import AudioSpec  # noqa: E402

POOL_LAYER = "pool"

_OPTIONS = ("modality", "image_size", "pair", "audio", "name")
_RANKS = {"sequence": 3, "spatial": 4}  # rank of the features for a head of this level


@dataclasses.dataclass(frozen=True, eq=False)
class ModelInput:
    """Input of a modality and the features of the backbone for it.

    Attributes:
        inputs: A ``keras.Input``, or a nested structure of them.
        features: Features of the backbone: a tensor, or a list with one per stride for the level ``"pyramid"``.
        word_starts: int [B, W], the start of each word in a sentence; None if the features are not those of words.
    """

    inputs: Any
    features: Any
    word_starts: keras.KerasTensor | None = None


def build(
    backbone: Backbone | keras.Model | str | os.PathLike[str],
    head: Head,
    *,
    modality: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    pair: bool = False,
    audio: AudioSpec | None = None,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """Build a model from a backbone and a head; the backbone starts frozen, the head trainable.

    The layers are ``image``, ``preprocess``, ``backbone``, ``pool`` (if features have more than one position),
    ``dropout`` and ``logits``. The backbone's layers are shared, not copied: training the model trains them, and
    building freezes them in every model of this backbone. A backbone with an unknown modality keeps its own inputs,
    with their names.

    Args:
        backbone: Backbone from :func:`tfft.load_backbone`, or what that function opens: a Keras model or a handle.
        head: Head from :mod:`tfft.heads`.
        modality: ``"image"``, ``"text"`` or ``"audio"``. Defaults to that of the backbone, or audio if ``audio`` is
            given.
        image_size: Height and width, or one number for both, for a flexible backbone. Defaults to the backbone's usual
            size.
        audio: Audio settings of a model for waveforms, float32 [B, samples]: an image backbone receives their
            spectrogram (:class:`tfft.layers.log_mel.LogMel`); a backbone for waveforms receives them directly, as a
            batch or one at a time.
        pair: Whether the model takes pairs of texts, ``{"text": ..., "text_pair": ...}``; not for token classification.
        name: Name of the model. Defaults to the backbone's.
        **options: Options of a registered modality, see :attr:`tfft.registry.Modality.build_options`.

    Returns:
        A functional ``keras.Model`` from uint8 pixels in 0 to 255, [B, any, any, channels], to
        float32 logits [B, units]. Keras casts float pixels to uint8, so they must be in 0 to 255 too; a
        :class:`tfft.layers.pixel_checks.PixelModel` refuses others.

    Raises:
        BackboneError: If the size does not fit, or the features are not one tensor of known width.
        PlanError: If the head's task does not support the modality, the modality is unknown, or it has no
            such option.

    Example:
        >>> model = build(load_backbone("efficientnet-lite0"), classification(splits.class_names))
        >>> model.compile("adam", **tfft.heads.from_model(model).compile_args())
    """
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(backbone)
    backbone = head.backbone_for(backbone)
    if image_size is not None and backbone.input_spec is None:
        raise BackboneError(f"{backbone.name} does not take images, so image_size={image_size!r} does not apply.")
    if backbone.input_spec is not None and (resize := head.resize) is not None:
        backbone = dataclasses.replace(backbone, input_spec=dataclasses.replace(backbone.input_spec, resize=resize))
    level = head.feature_level
    single: SingleMap | None = None
    if level == "pyramid":
        network, single = _pyramid_network(backbone, head, image_size)
    else:
        network = _network(backbone)
    own, options = options, {**options, "image_size": image_size, "pair": pair, "audio": audio}
    kind = _modality_of(backbone, head, modality, options)
    reader = head.reader
    kind = reader if kind is not None and reader is not None and reader.name == kind.name else kind
    _check_options(kind, own)
    if kind is None:
        attached = _own_inputs(network)
    else:
        attached = kind.attach_input(backbone, network, level, **options)
    features = _at_level(backbone, attached.features, level, head.strides, single)
    logits = head.attach(ModelFeatures(features, attached.word_starts))
    pixels = any(tensor.dtype == "uint8" for tensor in keras.tree.flatten(attached.inputs))
    kind_of_model = PixelModel if pixels else keras.Model
    model = kind_of_model(attached.inputs, logits, name=name or re.sub(r"[^\w.-]+", "_", backbone.name))
    _freeze(backbone, network)
    return model


def _modality_of(
    backbone: Backbone, head: Head, name: str | None, options: Mapping[str, Any]
) -> registry.Modality | None:
    """Return the modality of a model: the requested one, or that which fits the backbone best; None if neither."""
    if name is not None:
        if head.modalities and name not in head.modalities:
            raise PlanError(f"The task {head.task!r} is learned from {join_names(head.modalities)}, not from {name!r}.")
        return registry.modality(name)
    if len(head.modalities) == 1:
        return registry.modality(next(iter(head.modalities)))
    kinds = [registry.modality(one) for one in registry.modality_names() if one in (head.modalities or (one,))]
    scores = [kind.fits(backbone, options) for kind in kinds]
    best = max(scores, default=0)
    return kinds[scores.index(best)] if best else None


def _check_options(kind: registry.Modality | None, options: Mapping[str, Any]) -> None:
    known = sorted(kind.build_options) if kind else []
    if unknown := [name for name in options if name not in known]:
        hint = did_you_mean(unknown[0], [*known, *_OPTIONS])
        raise PlanError(
            f"Expected options of tfft.build: {join_names([*_OPTIONS, *known])}. Received: {join_names(unknown)}.{hint}"
        )


def _own_inputs(network: keras.Model) -> ModelInput:
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name), network.input
    )
    return ModelInput(inputs, network(inputs))


def _network(backbone: Backbone) -> keras.Model:
    """Return the backbone's model under its fixed name in tfft, with a single output."""
    model = backbone.model
    try:
        inputs, outputs = (model.input, model.output) if model.built else (None, None)
    except (AttributeError, ValueError):
        inputs = outputs = None
    if inputs is None:
        if backbone.input_spec is None:
            raise BackboneError(
                f"The model of {backbone.name} has no fixed inputs (a subclass of keras.Model). "
                "Wrap it: keras.Model(inputs, model(inputs))."
            )
        spec = backbone.input_spec
        sides = (None, None) if spec.flexible else spec.image_size
        inputs = keras.Input((*sides, spec.channels))
        outputs = model(inputs)
    if len(keras.tree.flatten(outputs)) != 1:
        shapes = keras.tree.map_structure(lambda t: tuple(t.shape), outputs)
        raise BackboneError(
            f"{backbone.name} gives several outputs, expected one: {shapes}. "
            "Choose one when it is opened: tfft.load_backbone(handle, output=...)."
        )
    return keras.Model(inputs, keras.tree.flatten(outputs)[0], name=BACKBONE_LAYER)


def _pyramid_network(
    backbone: Backbone, head: Head, image_size: int | tuple[int, int] | None
) -> tuple[keras.Model, SingleMap | None]:
    """Return the backbone's model with a list of feature maps, one per stride, or with its only one."""
    single = single_map(backbone, head.strides, image_size)
    maps = list(pyramid(backbone, head.strides, image_size).values()) if single is None else [single.tensor]
    return keras.Model(backbone.model.input, maps, name=BACKBONE_LAYER), single


def _at_level(
    backbone: Backbone,
    features: Any,
    level: registry.FeatureLevel,
    strides: Sequence[int],
    single: SingleMap | None,
) -> Any:
    """Return features for the level of a head: pooled, by stride, or unchanged if they have the shape."""
    if level == "pooled":
        return _pooled(backbone, features)
    if single is not None:  # its new layers are outside of the backbone, so that they train with the head
        return simple_pyramid(keras.tree.flatten(features)[0], single, strides)
    if level == "pyramid":
        return dict(zip(strides, features, strict=True))
    rank = _RANKS.get(level)
    if rank is not None and len(features.shape) != rank:
        wanted = {3: "[batch, time, width]", 4: "[batch, rows, columns, width]"}[rank]
        raise BackboneError(
            f"The features of {backbone.name} have the shape {tuple(features.shape)}, expected {wanted}. This task "
            "needs a backbone that does not pool its features: name another output with output=, or take another "
            'backbone (backbone="auto" takes one that fits).'
        )
    return features


def _pooled(backbone: Backbone, features: keras.KerasTensor) -> keras.KerasTensor:
    pools = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
    rank = len(features.shape)
    if rank == 1:  # one number for each example, such as a score
        return keras.layers.Reshape((1,), name=POOL_LAYER)(features)
    if rank not in (2, 3, 4) or features.shape[-1] is None:
        raise BackboneError(
            f"The features of {backbone.name} have the shape {tuple(features.shape)}, expected [batch, width], "
            "[batch, time, width] or [batch, rows, columns, width] with the width known."
        )
    if rank == 2:
        return features
    return pools[rank](data_format="channels_last", name=POOL_LAYER)(features)


def _freeze(backbone: Backbone, network: keras.Model) -> None:
    for block in blocks_of(network):
        for layer in block.layers:
            layer.trainable = False
    left = [variable.path for variable in network.trainable_variables]
    if left:  # layers outside of all blocks would be trained by accident
        raise BackboneError(f"{backbone.name} could not be frozen, still trainable: {', '.join(left[:5])}.")
