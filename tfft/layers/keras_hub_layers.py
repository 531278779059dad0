"""Layers of KerasHub: :class:`RetinaNetPyramid`, :class:`RetinaNetPredictions`, :class:`AtrousPooling`.

Implementation notes: KerasHub exports whole models for pixels, and none of these parts. They are taken from its modules
here and nowhere else, inside layers with a config of their own, so that a ``.keras`` file names no module of KerasHub.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from tfft.errors import DependencyError, missing_package, require_platform

require_platform()

import keras  # noqa: E402

from tfft.keras_compat import flatten_layers  # noqa: E402

PYRAMID_LEVELS = (3, 7)  # of RetinaNet: strides of 8 to 128
_INSTALL = 'pip install "keras-hub>=0.32"'


def require_keras_hub(purpose: str) -> None:
    """Check that KerasHub has the layers that this module takes from it.

    Args:
        purpose: What needs them, for the message.

    Raises:
        DependencyError: If KerasHub is missing, or a version without them is installed.
    """
    try:
        importlib.import_module("keras_hub")
    except ImportError:
        missing_package("keras-hub", purpose, _INSTALL)
    _part("retinanet.feature_pyramid", "FeaturePyramid")


def _part(module: str, name: str) -> Any:
    """Return a class that KerasHub does not export."""
    try:
        return getattr(importlib.import_module(f"keras_hub.src.models.{module}"), name)
    except (ImportError, AttributeError) as error:
        received = getattr(importlib.import_module("keras_hub"), "__version__", "an unknown version")
        raise DependencyError(
            f"Expected a KerasHub with {name} in models.{module}, as 0.32 has it. Received: {received}. Install that "
            'version with: pip install "keras-hub==0.32.*"'
        ) from error


@keras.saving.register_keras_serializable(package="tfft")
class RetinaNetPyramid(keras.layers.Layer):
    """Feature pyramid of KerasHub's RetinaNet: maps at strides 8 to 128 from maps at strides 8, 16 and 32.

    Two coarser maps are convolutions of the coarsest given one (Lin et al., "Focal loss for dense object detection",
    ICCV 2017).

    Args:
        width: Channels of the maps.
        **kwargs: As for ``keras.layers.Layer``.

    Call arguments:
        maps: Three feature maps [B, h, w, channels], finest first, each with twice the rows and columns of the next.

    Output shape:
        Five maps [B, h, w, width], finest first.

    Raises:
        DependencyError: If KerasHub is missing.
    """

    def __init__(self, width: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def build(self, maps_shape: Sequence[Any]) -> None:
        """Create the layers for maps of known channels."""
        kind = _part("retinanet.feature_pyramid", "FeaturePyramid")
        first, last = PYRAMID_LEVELS
        self.pyramid = kind(
            first, last, use_p5=True, num_filters=self.width, dtype=self.dtype_policy, name="feature_pyramid"
        )
        self.pyramid.build(dict(self._named([tuple(shape) for shape in maps_shape])))

    def call(self, maps: Sequence[Any]) -> list[Any]:
        """Return the maps of all levels."""
        return list(self.pyramid(dict(self._named(maps))).values())

    def compute_output_shape(self, maps_shape: Sequence[Any]) -> list[Any]:
        """Return the shapes of all levels; a level has half the rows and columns of the finer one, rounded up."""
        shapes = [(*shape[:3], self.width) for shape in maps_shape]
        while len(shapes) <= PYRAMID_LEVELS[1] - PYRAMID_LEVELS[0]:
            batch, rows, columns, width = shapes[-1]
            shapes.append((batch, _half(rows), _half(columns), width))
        return shapes

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "width": self.width}

    @staticmethod
    def _named(values: Sequence[Any]) -> list[tuple[str, Any]]:
        return [(f"P{level}", value) for level, value in enumerate(values, PYRAMID_LEVELS[0])]


@keras.saving.register_keras_serializable(package="tfft")
class RetinaNetPredictions(keras.layers.Layer):
    """Prediction head of KerasHub's RetinaNet: four 3 x 3 convolutions with GroupNorm, and one for the outputs.

    KerasHub starts its kernels with a standard deviation of 0.05, and gives the prior probability to the boxes in
    place of the classes; here they start as in the paper (Lin et al., "Focal loss", ICCV 2017).

    Args:
        filters: Channels of the output.
        width: Channels of the convolutions, a multiple of 32.
        prior: Probability with which each output starts; None for outputs that start at 0.
        l2: L2 penalty of the kernels.
        **kwargs: As for ``keras.layers.Layer``.

    Call arguments:
        values: Map [B, h, w, channels]; all maps share the weights.

    Output shape:
        [B, h, w, filters].

    Raises:
        DependencyError: If KerasHub is missing.
    """

    def __init__(self, filters: int, width: int = 256, prior: float | None = None, l2: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters, self.width, self.prior, self.l2 = filters, width, prior, l2

    def build(self, values_shape: Any) -> None:
        """Create the layers for maps of known channels."""
        kind = _part("retinanet.prediction_head", "PredictionHead")
        self.predictions = kind(
            self.filters, self.width, 4, use_group_norm=True, use_prior_probability=self.prior is not None,
            prior_probability=self.prior or 0.5, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            kernel_regularizer=keras.regularizers.L2(self.l2) if self.l2 else None, dtype=self.dtype_policy,
            name="prediction_head",
        )  # fmt: skip
        self.predictions.build((None, None, None, values_shape[-1]))

    def call(self, values: Any) -> Any:
        """Return the outputs of each cell."""
        return self.predictions(values)

    def compute_output_shape(self, values_shape: Any) -> Any:
        """Return the shape of the map with the channels of the output."""
        return (*values_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"filters": self.filters, "width": self.width, "prior": self.prior, "l2": self.l2}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class AtrousPooling(keras.layers.Layer):
    """Atrous spatial pyramid pooling of KerasHub's DeepLabV3.

    A 1 x 1 convolution, three 3 x 3 convolutions with gaps, and the mean of the map, joined by a 1 x 1 convolution,
    each with BatchNorm and ReLU (Chen et al., "Rethinking atrous convolution", 2017).

    Args:
        width: Channels of each branch and of the output.
        rates: Gaps of the 3 x 3 convolutions in cells.
        momentum: Momentum of BatchNorm; KerasHub has 0.99, which lags behind in trainings of few steps.
        **kwargs: As for ``keras.layers.Layer``.

    Call arguments:
        values: Map [B, h, w, channels].

    Output shape:
        [B, h, w, width].

    Raises:
        DependencyError: If KerasHub is missing.
    """

    def __init__(
        self, width: int = 256, rates: Sequence[int] = (3, 6, 9), momentum: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.width, self.rates, self.momentum = width, [int(rate) for rate in rates], momentum

    def build(self, values_shape: Any) -> None:
        """Create the layers for a map of known channels."""
        kind = _part("deeplab_v3.deeplab_v3_layers", "SpatialPyramidPooling")
        self.pooling = kind(list(self.rates), num_channels=self.width, dtype=self.dtype_policy, name="pooling")
        self.pooling.build((None, None, None, values_shape[-1]))
        for layer in flatten_layers(self.pooling):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = self.momentum

    def call(self, values: Any, training: bool | None = None) -> Any:
        """Return the pooled map."""
        # Left open, a Resizing inside, whose default is training, would decide for the layers behind it.
        return self.pooling(values, training=bool(training))

    def compute_output_shape(self, values_shape: Any) -> Any:
        """Return the shape of the map with the channels of the output."""
        return (*values_shape[:-1], self.width)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"width": self.width, "rates": self.rates, "momentum": self.momentum}
        return {**super().get_config(), **own}


def _half(side: int | None) -> int | None:
    return None if side is None else -(-side // 2)
