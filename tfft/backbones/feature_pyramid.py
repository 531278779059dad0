"""Feature maps of a backbone at several strides, for dense tasks: :func:`feature_maps` and :func:`pyramid`.

Implementation notes: maps are found by their shapes, never by names, so opened SavedModels, ``keras.applications`` and
other functional models are treated alike. Shapes come from tracing; no image is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.backbones.simple_pyramid import SingleMap, simple_pyramid
from tfft.errors import BackboneError, join_names
from tfft.specs import InputSpec

STRIDES = (1, 2, 4, 8, 16, 32, 64, 128)
_SINGLE = (8, 16, 32)  # strides of Vision Transformers
_FIRST_TOKENS = 8  # class, distillation and register tokens, at most


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMap:
    """Output of a block that still has height and width.

    Attributes:
        block: Name of the block.
        stride: Pixels of the image per cell of the map, along each side.
        shape: Height, width and channels at the image size that was asked for.
        tensor: Symbolic output, for ``keras.Model(backbone.model.input, tensor)``.
    """

    block: str
    stride: int
    shape: tuple[int, int, int]
    tensor: keras.KerasTensor


def feature_maps(backbone: Backbone, image_size: int | tuple[int, int] | None = None) -> dict[int, FeatureMap]:
    """Return the deepest feature map of a backbone at each stride.

    For each power of two, that is the output of the last block whose map has this stride; a block that ends in pooling
    counts with its last map before it, where the model can be opened up there. A map that is smaller than
    the image divided by its stride (rounded up or down) does not lie over the image cell by cell, as after convolutions
    without padding in InceptionV3, and is left out. Where a KerasHub backbone publishes its own ``pyramid_outputs``,
    those are taken.

    Args:
        backbone: Backbone that takes one image, with feature maps [batch, height, width, channels].
        image_size: Image size in pixels, one number or ``(height, width)``. Defaults to the backbone's own.

    Returns:
        Feature maps by stride, in ascending order.

    Raises:
        BackboneError: The backbone takes no image or not this size, or no block has such a map; with all shapes.

    Example:
        >>> maps = feature_maps(tfft.load_backbone("efficientnet-lite0"), (288, 384))
        >>> {stride: (found.block, found.shape) for stride, found in maps.items() if stride >= 8}
        {8: ('block4', (36, 48, 40)), 16: ('block10', (18, 24, 112)), 32: ('block15', (9, 12, 320))}
    """
    size = _checked_size(backbone, image_size)
    tensors = _block_outputs(backbone)
    asked = _shapes(backbone, tensors, size)
    # At a large size no two strides give the same shape, and a map that was pooled to 1 x 1 has none of them.
    flexible = backbone.input_spec is not None and backbone.input_spec.flexible
    reference = (_rounded_up(size[0]), _rounded_up(size[1])) if flexible else size
    shapes = asked if reference == size else _shapes(backbone, tensors, reference)
    found: dict[int, FeatureMap] = {}
    for name, tensor in tensors.items():
        stride, shape = _stride(reference, shapes[name]), asked[name]
        if stride is not None and len(shape) == 3:
            found[stride] = FeatureMap(name, stride, (shape[0], shape[1], shape[2]), tensor)
    if not found:
        raise BackboneError(
            f"Expected a backbone with feature maps [batch, height, width, channels]. Received: {backbone.name!r}, "
            f"which gives {_shown(asked)} at {size[0]} x {size[1]} pixels. Choose a convolutional network with "
            "\"same\" padding, such as 'efficientnet-lite0'."
        )
    return dict(sorted(found.items()))


def pyramid(
    backbone: Backbone, strides: Sequence[int] = (8, 16, 32), image_size: int | tuple[int, int] | None = None
) -> dict[int, keras.KerasTensor]:
    """Return the feature maps of a backbone at the strides that a detector or segmenter needs.

    Of a backbone with one stride, such as a Vision Transformer, the last map is enlarged and pooled to the other
    strides by new layers with random weights (:func:`tfft.backbones.simple_pyramid.simple_pyramid`).

    Args:
        backbone: As for :func:`feature_maps`.
        strides: Strides in pixels, powers of two. Defaults to 8, 16 and 32.
        image_size: As for :func:`feature_maps`.

    Returns:
        Symbolic outputs by stride. A model from them shares all layers and weights with the backbone; layers whose
        names begin with ``pyramid`` are new.

    Raises:
        BackboneError: As for :func:`feature_maps`, a stride is missing (with all that there are), or a side of the
            image is shorter than the largest stride.

    Example:
        >>> backbone = tfft.load_backbone("efficientnet-lite0")
        >>> neck = keras.Model(backbone.model.input, list(tfft.backbones.pyramid(backbone).values()))
    """
    single = single_map(backbone, strides, image_size)
    if single is not None:
        return simple_pyramid(single.tensor, single, strides)
    maps = feature_maps(backbone, image_size)
    height, width = _checked_size(backbone, image_size)
    if min(height, width) < max(strides):
        least = 2 * max(strides)
        raise BackboneError(
            f"Expected images with sides of at least {max(strides)} pixels, one cell of the coarsest feature map. "
            f"Received: image_size=({height}, {width}). Use a larger one, such as image_size=({least}, {least}); "
            "objects and thin regions need several cells."
        )
    missing = [stride for stride in strides if stride not in maps]
    if missing:
        known = _shown({f"{stride} ({found.block})": found.shape for stride, found in maps.items()})
        raise BackboneError(
            f"{backbone.name!r} has no feature map at stride {join_names(missing)}. It has, by stride and "
            f"block: {known}. "
            "Ask for those, or choose another backbone."
        )
    return {stride: maps[stride].tensor for stride in strides}


def single_map(
    backbone: Backbone, strides: Sequence[int], image_size: int | tuple[int, int] | None = None
) -> SingleMap | None:
    """Return the last map of a backbone with one stride, such as a Vision Transformer; None for other backbones.

    Args:
        backbone: As for :func:`feature_maps`. Maps may be sequences of tokens, row by row, behind up to 8 others.
        strides: Strides that are needed; None is returned if the backbone has them.
        image_size: As for :func:`feature_maps`.

    Raises:
        BackboneError: The backbone takes no image or not this size.
    """
    size = _checked_size(backbone, image_size)
    tensors = _block_outputs(backbone)
    found: list[SingleMap] = []
    for name, shape in _shapes(backbone, tensors, size).items():
        one = _single(name, shape, size, tensors[name])
        if one is not None:
            found.append(one)
        elif len(shape) == 3 and _stride(size, shape) is not None:
            return None  # a map of another stride: a convolutional network
    if not found or {one.stride for one in found} != {found[0].stride} or set(strides) <= {found[0].stride}:
        return None
    return found[-1]


def _single(name: str, shape: tuple[int, ...], size: tuple[int, int], tensor: keras.KerasTensor) -> SingleMap | None:
    """Return an output as a map at a stride of Vision Transformers; None if it is none."""
    for stride in _SINGLE:
        rows, columns = size[0] // stride, size[1] // stride
        if shape[:-1] == (rows, columns):
            return SingleMap(name, stride, (rows, columns, shape[-1]), 0, tensor)
        if len(shape) == 2 and tensor.shape[1] is not None and 0 <= shape[0] - rows * columns <= _FIRST_TOKENS:
            return SingleMap(name, stride, (rows, columns, shape[-1]), shape[0] - rows * columns, tensor)
    return None


def _checked_size(backbone: Backbone, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    spec = backbone.input_spec
    if spec is None or len(backbone.model.inputs) != 1:
        inputs = join_names(f"{t.name} {tuple(t.shape)}" for t in backbone.model.inputs)
        raise BackboneError(f"Expected a backbone that takes one image. Received: {backbone.name!r}, with {inputs}.")
    if image_size is None:
        return spec.image_size
    height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if (height, width) != spec.image_size and not spec.flexible:
        raise BackboneError(
            f"{backbone.name!r} takes images of {spec.height} x {spec.width} pixels only. Received: "
            f"image_size={image_size!r}. Leave image_size= out, or choose a backbone for images of any size."
        )
    return int(height), int(width)


def _block_outputs(backbone: Backbone) -> dict[str, keras.KerasTensor]:
    """The symbolic output of each block, by name, in order; of a block that ends in pooling, its last map."""
    published = getattr(backbone.model, "pyramid_outputs", None)
    if isinstance(published, dict) and published:  # of KerasHub: "P3" for stride 8
        return dict(published)
    tensors = _outputs_within(backbone.model, {id(end) for block in backbone.blocks for end in block.ends})
    found: dict[str, keras.KerasTensor] = {}
    for block in backbone.blocks:
        outputs = [tensors[id(end)] for end in block.ends if id(end) in tensors]
        if outputs:
            maps = [out for out in outputs if _is_map(out, backbone.input_spec)]
            found[block.name] = (maps or outputs)[-1]
    return found


def _is_map(tensor: keras.KerasTensor, spec: InputSpec | None) -> bool:
    """Whether a tensor has height and width; 1 x 1 for images of any size was pooled."""
    pooled = spec is not None and spec.flexible and 1 in tensor.shape[1:3]
    return len(tensor.shape) == 4 and not pooled


def _outputs_within(network: keras.Model, ends: set[int]) -> dict[int, keras.KerasTensor]:
    """The outputs of operations, by their ids; those of a nested model as outputs of the model that holds it."""
    found: dict[int, keras.KerasTensor] = {}
    for operation in network.layers if isinstance(network, keras.Sequential) else network.operations:
        if id(operation) in ends:
            output: Any = keras.Operation.output.fget(operation)  # of its call in `network`, if it is a model itself
            if isinstance(output, keras.KerasTensor):
                found[id(operation)] = output
        elif isinstance(operation, keras.Sequential) or hasattr(operation, "operations"):
            inner = _outputs_within(operation, ends)
            if inner:
                inputs = operation.inputs[0] if len(operation.inputs) == 1 else operation.input
                part = keras.Model(inputs, list(inner.values()))
                entering: Any = keras.Operation.input.fget(operation)  # of its call in `network`, not its own inputs
                found |= dict(zip(inner, tf.nest.flatten(part(entering)), strict=True))
    return found


def _shapes(
    backbone: Backbone, tensors: dict[str, keras.KerasTensor], size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch, for one image of a size."""
    if all(None not in tensor.shape[1:] for tensor in tensors.values()):
        return {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
    entering = backbone.model.inputs[0]
    spec = tf.TensorSpec((1, *size, entering.shape[-1]), entering.dtype)
    try:
        probe = keras.Model(backbone.model.inputs[0], list(tensors.values()))
        # Not compute_output_spec: blocks of SavedModels note its shapes for their cost estimates.
        traced = tf.function(lambda image: probe(image, training=False)).get_concrete_function(spec)
    except ValueError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise BackboneError(
            f"{backbone.name!r} gives no feature maps for images of {size[0]} x {size[1]} pixels: {reason}"
        ) from error
    outputs = tf.nest.flatten(traced.structured_outputs)
    return {name: tuple(out.shape[1:]) for name, out in zip(tensors, outputs, strict=True)}


def _stride(size: Iterable[int], shape: Sequence[int]) -> int | None:
    """The power of two by which a map is smaller than the image; "same" padding rounds up, others may round down."""
    if len(shape) != 3 or None in shape:
        return None
    sides = list(zip(size, shape, strict=False))
    for fits in (lambda pixels, cells, s: -(-pixels // s) == cells, lambda pixels, cells, s: pixels // s == cells):
        for stride in STRIDES:
            if all(fits(pixels, cells, stride) for pixels, cells in sides):
                return stride
    return None


def _rounded_up(pixels: int) -> int:
    return max(256, -(-pixels // 128) * 128)


def _shown(shapes: dict[str, Any]) -> str:
    return (
        join_names((f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items()), limit=40) or "no block"
    )
