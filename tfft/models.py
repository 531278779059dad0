"""Backbone and head become one Keras model that takes raw pixels and gives logits.

Hides how the parts are joined: preprocessing inside the model, pooling by the rank of the features,
fixed layer names that the other modules rely on, and a backbone that starts frozen.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tfft import registry
from tfft.errors import BackboneError, require_platform

require_platform()

import keras  # noqa: E402

from tfft.backbones.base import BACKBONE_LAYER, PREPROCESS_LAYER, TOKENS_LAYER, Backbone, blocks_of  # noqa: E402
from tfft.heads import Head, ModelFeatures  # noqa: E402
from tfft.layers.log_mel import Clip, LogMel  # noqa: E402
from tfft.layers.pooling import PoolPieces  # noqa: E402
from tfft.layers.preprocess import Preprocess, check_spec  # noqa: E402
from tfft.layers.waveform import EachWave  # noqa: E402
from tfft.layers.word_alignment import WORD_STARTS, GatherWords, TokenizeWords  # noqa: E402
from tfft.specs import AudioSpec, InputSpec  # noqa: E402

IMAGE_INPUT, TEXT_INPUT, PAIR_INPUT, POOL_LAYER = "image", "text", "text_pair", "pool"
AUDIO_INPUT, AUDIO_LAYER, CLIP_LAYER = "audio", "log_mel", "clip"
WORDS_LAYER = "words"  # in the place of pooling, where words are tagged


def build(
    backbone: Backbone,
    head: Head,
    *,
    image_size: int | tuple[int, int] | None = None,
    pair: bool = False,
    audio: AudioSpec | None = None,
    name: str | None = None,
) -> keras.Model:
    """Joins a backbone and a head; the backbone starts frozen, the head trainable.

    The layers are ``image``, ``preprocess``, ``backbone``, ``pool`` (where features have more than
    one position), ``dropout`` and ``logits``. The backbone's layers are shared, not copied: training
    the model trains them, and building freezes them in every model made from this backbone. A backbone
    that does not take images keeps its own inputs, with their names.

    Args:
        backbone: from :func:`tfft.load_backbone`.
        head: from :mod:`tfft.heads`.
        image_size: rows and columns, or one number for both, in place of the backbone's usual size;
            only for backbones that are flexible.
        audio: for a model that takes sound waves, float32 [B, samples]: an image backbone is shown their spectrum
            (:class:`tfft.data.LogMel`), one that takes waves itself, a batch or one at a time, is given them.
        pair: True for a model that takes pairs of texts, ``{"text": ..., "text_pair": ...}``; not for words.
        name: name of the model; the backbone's unless given.

    Returns:
        A functional ``keras.Model`` from uint8 pixels in 0 to 255, [B, any, any, channels], to
        float32 logits [B, units]. Keras casts float pixels to uint8, so they must be in 0 to 255 too.

    Raises:
        BackboneError: when the size does not fit, or the features are not one tensor of known width.

    Example:
        >>> model = build(load_backbone("efficientnet-lite0"), classification(splits.class_names))
        >>> model.compile("adam", **tfft.heads.from_model(model).compile_args())
    """
    spec = _spec(backbone, image_size)
    nested = _nested(backbone)
    starts, level = None, registry.task(head.task).feature_level
    if level == "sequence":
        inputs, features, starts = _words(backbone, nested, pair)
    elif audio is not None:
        inputs, features = _sounds(backbone, nested, audio, spec)
    elif backbone.text_spec is not None:
        inputs, features = _texts(backbone, nested, pair)
    elif spec is None:
        inputs = keras.tree.map_structure(
            lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name), nested.input
        )
        features = nested(inputs)
    else:
        inputs = keras.Input((None, None, spec.channels), dtype="uint8", name=IMAGE_INPUT)
        pixels = Preprocess(spec, name=PREPROCESS_LAYER)(inputs)
        features = _features(backbone, nested, pixels, spec)
    features = _pooled(backbone, features) if level == "pooled" else features
    logits = head.attach(ModelFeatures(features, starts))
    model = keras.Model(inputs, logits, name=name or re.sub(r"[^\w.-]+", "_", backbone.name))
    _freeze(backbone, nested)
    return model


def _spec(backbone: Backbone, image_size: int | tuple[int, int] | None) -> InputSpec | None:
    spec = backbone.input_spec
    if spec is None:
        if image_size is not None:
            raise BackboneError(f"{backbone.name} does not take images, so image_size={image_size!r} has no meaning.")
        return None
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2:
            raise BackboneError(f"image_size must be one number or (rows, columns), received {image_size!r}.")
        if size != spec.image_size and not spec.flexible:
            raise BackboneError(
                f"{backbone.name} takes images of {spec.height} x {spec.width} pixels only, received "
                f"image_size={image_size!r}. Leave image_size out: images of any size are resized to that."
            )
        spec = dataclasses.replace(spec, height=size[0], width=size[1])
    check_spec(spec)
    return spec


def _nested(backbone: Backbone) -> keras.Model:
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
        found = keras.tree.map_structure(lambda t: tuple(t.shape), outputs)
        raise BackboneError(
            f"{backbone.name} gives several outputs, expected one: {found}. "
            "Choose one when it is opened: tfft.load_backbone(handle, output=...)."
        )
    return keras.Model(inputs, keras.tree.flatten(outputs)[0], name=BACKBONE_LAYER)


def _texts(backbone: Backbone, nested: keras.Model, pair: bool) -> tuple[Any, keras.KerasTensor]:
    """Returns the inputs for texts and the features, of one piece each or pooled."""
    inputs: Any = keras.Input((), dtype="string", name=TEXT_INPUT)
    if backbone.tokenizer is None:
        if pair:
            raise BackboneError(f"{backbone.name} takes one text, not pairs. Join the two into one.")
        return inputs, nested(keras.tree.pack_sequence_as(nested.input, [inputs]))
    if pair:
        inputs = {TEXT_INPUT: inputs, PAIR_INPUT: keras.Input((), dtype="string", name=PAIR_INPUT)}
    config = backbone.tokenizer.get_config()
    # The same packer, with its vocabulary, in a layer of the fixed name.
    tokenize = type(backbone.tokenizer)(**{**config, "packer": backbone.tokenizer.packer, "name": TOKENS_LAYER})
    pieces = tokenize(list(inputs.values()) if pair else inputs)
    features = nested(pieces)
    if len(features.shape) == 3:
        features = PoolPieces(backbone.text_spec.pooling, name=POOL_LAYER)(features, pieces[tokenize.mask])
    return inputs, features


def _sounds(
    backbone: Backbone, nested: keras.Model, audio: AudioSpec, spec: InputSpec | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the input for waves and the features."""
    inputs = keras.Input((None,), dtype="float32", name=AUDIO_INPUT)
    if spec is not None:
        return inputs, _features(backbone, nested, LogMel(audio, spec, name=AUDIO_LAYER)(inputs), spec)
    length = wave_length(nested, backbone.name)
    if length not in (None, audio.samples):
        raise BackboneError(
            f"{backbone.name} takes waves of {length} samples only, and {audio.seconds:g} s at {audio.sample_rate} "
            f"samples a second are {audio.samples}. Fix: seconds={length / audio.sample_rate:g}."
        )
    waves = Clip(audio, name=CLIP_LAYER)(inputs)
    if len(keras.tree.flatten(nested.input)[0].shape) == 2:
        return inputs, nested(keras.tree.pack_sequence_as(nested.input, [waves]))
    return inputs, keras.Model(*_batched(nested), name=BACKBONE_LAYER)(waves)


def wave_length(network: keras.Model, name: str) -> int | None:
    """Returns how many samples a network that takes waves wants; None for any number.

    Raises:
        BackboneError: when it takes something else.
    """
    takes = keras.tree.flatten(network.input)
    shape = tuple(takes[0].shape)
    if len(takes) != 1 or takes[0].dtype != "float32" or len(shape) not in (1, 2, 3) or (shape[2:] not in ((), (1,))):
        found = [(tuple(t.shape), t.dtype) for t in takes]
        raise BackboneError(
            f"{name} takes neither images nor waves in float32, [batch, samples], [batch, samples, 1] or [samples], "
            f"but {found}."
        )
    return shape[0] if len(shape) == 1 else shape[1]


def _batched(nested: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns an input [batch, samples] for a network that takes [samples] or [batch, samples, 1], and the features."""
    [takes] = keras.tree.flatten(nested.input)
    length = takes.shape[0] if len(takes.shape) == 1 else takes.shape[1]
    inputs = keras.Input((length,), dtype="float32", name="waves")
    if len(takes.shape) == 1:
        return inputs, EachWave(nested, name="each_wave")(inputs)
    waves = keras.layers.Reshape((length or -1, 1))(inputs)
    return inputs, nested(keras.tree.pack_sequence_as(nested.input, [waves]))


def _words(
    backbone: Backbone, nested: keras.Model, pair: bool
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """Returns the input for sentences, the features of each word and where the words start."""
    problem = None
    if backbone.tokenizer is None:
        problem = "it does not take texts that are cut into pieces"
    elif pair:
        problem = "its sentences are tagged one by one: leave pair=True out"
    elif len(nested.output.shape) != 3:
        problem = f"its features have the shape {tuple(nested.output.shape)}, expected [batch, pieces, width]"
    if problem:
        raise BackboneError(f"{backbone.name} cannot tag words: {problem}.")
    inputs = keras.Input((), dtype="string", name=TEXT_INPUT)
    pieces = TokenizeWords.of(backbone.tokenizer, name=TOKENS_LAYER)(inputs)
    starts = pieces.pop(WORD_STARTS)
    return inputs, GatherWords(name=WORDS_LAYER)(nested(pieces), starts), starts


def _features(backbone: Backbone, nested: keras.Model, pixels: keras.KerasTensor, spec: InputSpec) -> keras.KerasTensor:
    inputs = keras.tree.flatten(nested.input)
    if len(inputs) != 1:
        raise BackboneError(f"{backbone.name} has {len(inputs)} inputs, expected one for images. Set input_spec=None.")
    wanted = tuple(inputs[0].shape[1:])
    received = tuple(pixels.shape[1:])
    if len(wanted) != 3 or any(w is not None and w != r for w, r in zip(wanted, received, strict=True)):
        raise BackboneError(
            f"The input of {backbone.name} has the shape {wanted} (rows, columns, channels), but images are made "
            f"{received}: {spec.source}. Pass the size that it takes as image_size to tfft.load_backbone."
        )
    try:
        return nested(keras.tree.pack_sequence_as(nested.input, [pixels]))
    except (ValueError, TypeError) as error:
        raise BackboneError(
            f"{backbone.name} cannot take images of {spec.height} x {spec.width} x {spec.channels}: {error}"
        ) from error


def _pooled(backbone: Backbone, features: Any) -> keras.KerasTensor:
    pools = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
    rank = len(features.shape)
    if rank not in (2, 3, 4) or features.shape[-1] is None:
        raise BackboneError(
            f"The features of {backbone.name} have the shape {tuple(features.shape)}, expected [batch, width], "
            "[batch, time, width] or [batch, rows, columns, width] with the width known."
        )
    if rank == 2:
        return features
    return pools[rank](data_format="channels_last", name=POOL_LAYER)(features)


def _freeze(backbone: Backbone, nested: keras.Model) -> None:
    for block in blocks_of(nested):
        for layer in block.layers:
            layer.trainable = False
    left = [variable.path for variable in nested.trainable_variables]
    if left:  # layers outside of all blocks would be trained without anyone having asked for it
        raise BackboneError(f"{backbone.name} could not be frozen, still trainable: {', '.join(left[:5])}.")
