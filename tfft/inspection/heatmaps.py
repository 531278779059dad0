"""Heat maps over images: :func:`grad_cam`.

Implementation notes:
    The usual recipe, ``keras.Model(model.inputs, [model.get_layer(name).output, model.output])``, fails where the
    network is a model inside of the model: its tensors belong to another graph. Here the model is made flat and divided
    behind its last feature map. The gradient is taken with respect to that map, so uint8 pixels, which have no
    gradient, do not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.errors import BackboneError, DataError, PlanError, did_you_mean, join_names
from tfft.features.functional_graph import Step, ancestors, divide, flatten, steps_of
from tfft.keras_compat import producer
from tfft.layers.pixel_checks import check_pixels
from tfft.layers.preprocess import preprocess_of
from tfft.specs import InputSpec

_BATCH = 32


def grad_cam(
    model: keras.Model,
    images: np.ndarray | tf.Tensor,
    class_name: str | int | None = None,
    *,
    layer: str | None = None,
) -> np.ndarray:
    """Compute Grad-CAM heat maps: which regions of an image support a class (Selvaraju et al. 2017).

    Each channel of the last feature map is weighted by the mean gradient of the class score; what is positive in the
    weighted sum, resized to the image, is the map.

    Args:
        model: A functional model of images: from :func:`tfft.build` or :func:`tfft.finetune`, an opened SavedModel or
            one of ``keras.applications``.
        images: Images as the model takes them, [B, H, W, C].
        class_name: Class to explain, a name or the number of an output. Defaults to the predicted class of each image.
        layer: Name of the layer whose feature map is used. Defaults to the last one that gives a map with positions.

    Returns:
        float32 [B, H, W] from 0 to 1, the largest value of each map being 1; all 0 if nothing supports the class.

    Raises:
        BackboneError: When the model has no feature map with positions, or no such layer.
        DataError: When these are not images that the model takes.
        PlanError: When there is no such class.

    Example:
        >>> maps = tfft.inspection.grad_cam(run.model, photos, "cat")
        >>> plt.imshow(photos[0]); plt.imshow(maps[0], alpha=0.5, cmap="jet")
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise DataError(f"Expected images [B, H, W, C]. Received: shape {images.shape}. For one image: image[None].")
    flat = flatten(model)
    preprocess = preprocess_of(flat)
    if preprocess is not None:
        check_pixels(images, "grad_cam")
    steps = steps_of(flat)
    chosen = _feature_map(model, steps, layer)
    front, back = divide(flat, ancestors(steps, [chosen]), ("front", "back"))
    column = _column(model, class_name)
    maps = []
    with _without_activation(flat):
        for start in range(0, len(images), _BATCH):
            batch = tf.cast(images[start : start + _BATCH], flat.inputs[0].dtype)
            heat = _weighted(front, back, batch, column)
            maps.append(_on_image(heat, images.shape[1:3], None if preprocess is None else preprocess.spec))
    return np.concatenate(maps)


def _feature_map(model: keras.Model, steps: Sequence[Step], layer: str | None) -> Step:
    """Return the call that gives the map: the last one with positions, or that of a named layer."""
    maps = [step for step in steps if len(step.outputs) == 1 and _has_positions(step.outputs[0])]
    learned = [step for step in maps if any(s.variables for s in steps if s.key in ancestors(steps, [step]))]
    if layer is not None:
        named = [step for step in maps if step.name == layer]
        if not named:
            names = list(dict.fromkeys(step.name for step in maps))
            raise BackboneError(
                f"{model.name!r} has no layer {layer!r} that gives a feature map.{did_you_mean(layer, names)} "
                f"It has: {join_names(names, limit=12)}."
            )
        return named[-1]
    if not learned:
        raise BackboneError(
            f"{model.name!r} has no feature map [batch, rows, columns, channels], which Grad-CAM needs. "
            "A SavedModel whose only output is pooled features may have another output with feature maps: "
            "tfft.load_backbone(handle, output=...)."
        )
    return learned[-1]


def _has_positions(tensor: keras.KerasTensor) -> bool:
    return (
        len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1) and tensor.dtype.startswith(("float", "bfloat"))
    )


def _column(model: keras.Model, class_name: str | int | None) -> int | None:
    """Return the number of the output of a class; -1 for the first class of a single logit, None for the predicted."""
    try:
        names = tuple(heads.from_model(model).class_names or ())
    except PlanError:
        names = ()
    units = int(model.output_shape[-1])
    if class_name is None:
        return None
    if isinstance(class_name, str):
        if class_name not in names:
            known = f"Its classes: {join_names(names)}." if names else "It has no class names: pass a class number."
            raise PlanError(f"{model.name!r} has no class {class_name!r}.{did_you_mean(class_name, names)} {known}")
        class_name = names.index(class_name)
    if not 0 <= class_name < max(units, len(names)):
        raise PlanError(f"Expected a class from 0 to {max(units, len(names)) - 1}. Received: {class_name}.")
    if units == 1:
        return 0 if class_name == 1 or not names else -1
    return int(class_name)


def _weighted(front: keras.Model, back: keras.Model, images: tf.Tensor, column: int | None) -> tf.Tensor:
    """Return the positive part of the map, weighted for a class, float32 [B, rows, columns]."""
    crossing = keras.tree.flatten(front(images, training=False))
    at = next(i for i, tensor in enumerate(crossing) if _has_positions(back.inputs[i]))
    with tf.GradientTape() as tape:
        tape.watch(crossing[at])
        scores = tf.cast(back(crossing if len(crossing) > 1 else crossing[0], training=False), tf.float32)
        if column is None:
            score = tf.reduce_max(scores, axis=-1) if scores.shape[-1] > 1 else tf.abs(scores[..., 0])
        else:
            score = -scores[..., 0] if column < 0 else scores[..., column]
    gradient = tf.cast(tape.gradient(score, crossing[at]), tf.float32)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * tf.cast(crossing[at], tf.float32), axis=-1))


@contextlib.contextmanager
def _without_activation(flat: keras.Model) -> Iterator[None]:
    """Let a last layer with softmax or sigmoid give logits meanwhile: a sure probability has hardly any gradient."""
    last = producer(flat.outputs[0])
    own = getattr(last, "activation", None)
    if own not in (keras.activations.softmax, keras.activations.sigmoid):
        yield
        return
    last.activation = keras.activations.linear
    try:
        yield
    finally:
        last.activation = own


def _on_image(heat: tf.Tensor, size: tuple[int, int], spec: InputSpec | None) -> np.ndarray:
    """Return maps from 0 to 1 in the size of the images, where the model saw them: it may crop or pad."""
    largest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
    heat = tf.math.divide_no_nan(heat, largest)[..., None]
    if spec is None or spec.resize == "stretch":
        return tf.image.resize(heat, size)[..., 0].numpy()
    given, wanted = np.array(size, float), np.array(spec.image_size, float)
    if spec.resize == "pad":
        inner = np.clip(np.round(given * (wanted / given).min()), 1, wanted).astype(int)
        top, left = (spec.image_size - inner) // 2
        whole = tf.image.resize(heat, spec.image_size)[:, top : top + inner[0], left : left + inner[1]]
        return tf.image.resize(whole, size)[..., 0].numpy()
    part = np.clip(np.round(wanted * (given / wanted).min()), 1, given).astype(int)
    top, left = (np.array(size) - part) // 2
    return tf.image.pad_to_bounding_box(tf.image.resize(heat, part), top, left, *size)[..., 0].numpy()
