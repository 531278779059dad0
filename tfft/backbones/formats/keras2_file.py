"""Files that Keras 2 wrote: whole models as ``.h5``, and ``.keras`` files that Keras 3 cannot load.

Most load with Keras 3. For the others there is the last version of Keras 2, ``tf_keras``: it loads the file and writes
a SavedModel, which is scanned and opened as every other. It would import and call whatever a config names, so that
the config is compared with a list first.
"""

from __future__ import annotations

import importlib.util
import json
import operator
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from tfft.backbones.formats.h5_file import opened_h5, read_config
from tfft.errors import BackboneError, TfftError, UnsafeModelError, join_names

_CALLS = {"TFOpLambda", "SlicingOpLambda"}
# Operations of TensorFlow that a functional model of Keras 2 may call by name; others read, write or load.
_OPERATIONS = re.compile(
    r"__operators__\.\w+|(math|nn|linalg|signal)\.(?!_)\w+|image\.(resize|rgb_to_grayscale|grayscale_to_rgb|"
    r"resize_with_pad|per_image_standardization)|(compat\.v1\.)?(reshape|concat|cast|expand_dims|squeeze|transpose|shape|"
    r"stack|unstack|split|tile|pad|identity|stop_gradient|clip_by_value|where|gather|ones_like|zeros_like|broadcast_to|"
    r"one_hot|slice|strided_slice|reverse|convert_to_tensor|fill|range|zeros|ones|repeat|boolean_mask|norm|tensordot|"
    r"einsum|matmul|add|subtract|multiply|divide)|convert_to_tensor"
)
_MODULES = re.compile(r"(tf_)?keras(\.\w+)*|builtins")
_BUILTINS = {"__tuple__", "__tensor__", "__numpy__", "__typespec__", "TensorShape", "function", "slice"}


def lambda_layer(config: Any) -> str:
    """Return the name of a Lambda layer in a config whose function is Python code, or an empty text."""
    for value in mappings_in(config):
        inner = value.get("config")
        if value.get("class_name") != "Lambda" or not isinstance(inner, Mapping):
            continue
        function = inner.get("function")
        named = isinstance(function, str) or (
            isinstance(function, Mapping) and function.get("class_name") == "function"
        )
        if not named or inner.get("function_type") == "lambda":
            return str(inner.get("name") or value.get("name") or "lambda")
    return ""


def refuse_lambda(path: Path, config: Any) -> None:
    """Refuse a model with Python code in a Lambda layer.

    Raises:
        BackboneError: There is one.
    """
    name = lambda_layer(config)
    if name:
        raise BackboneError(
            f"Keras cannot load {path}: its layer {name!r} is a Lambda, which is Python code inside the file, and tfft "
            "never runs code of a file. Where the model was made, export it with model.export(folder) and load that "
            "folder, which holds operations instead of code; or replace the Lambda by a layer."
        )


def refuse_changed(path: Path, config: Any) -> None:
    """Refuse a Keras 2 model for which Keras 3 would compute different results.

    Raises:
        BackboneError: There is such a function in it, with a cause, as where Keras 3 fails.
    """
    if written_by_keras2(path) and any("hard_sigmoid" in value.values() for value in mappings_in(config)):
        # 0.2 x + 0.5 in Keras 2, x / 6 + 0.5 in Keras 3, without a word.
        cause = ValueError("its activation 'hard_sigmoid' is a different function in Keras 3")
        raise BackboneError(f"Keras cannot load {path}: {cause}.") from cause


def load_h5_model(path: Path) -> keras.Model:
    """Load a whole model from an ``.h5`` file with Keras 3, in safe mode.

    Args:
        path: The file.

    Returns:
        The model.

    Raises:
        UnsafeModelError: The file leads outside of itself, declares far more than it holds, or reads files.
        BackboneError: It holds weights only or a Lambda, is damaged, or is nothing that Keras 3 knows.
    """
    with opened_h5(path) as file:
        config = read_config(file)
    if config is None:
        raise BackboneError(
            f"{path} holds weights but no model. Name the network that they belong to: "
            f'tfft.load_backbone("keras:ResNet50", weights="{path}"); or build it, call load_weights, and pass it.'
        )
    refuse_lambda(path, config)
    _refuse_paths(path, config)
    refuse_changed(path, config)
    try:
        return _with_keras3(path, config)
    except TfftError:
        raise
    except Exception as error:  # Keras raises a dozen classes for what it does not know
        raise BackboneError(
            f"Keras cannot load {path}: {_first_line(error)}. A model with custom classes needs the module that "
            "registers them to be imported first."
        ) from error


def _with_keras3(path: Path, config: dict[str, Any]) -> keras.Model:
    """Load a model as it is, or without the arguments of layers that Keras 3 dropped and that change nothing."""
    changed = _without_dropped(config)
    if changed == config:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    with tempfile.TemporaryDirectory(prefix="tfft-keras2-") as place:
        copy = Path(place, path.name)
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(changed)
        return keras.saving.load_model(copy, compile=False, safe_mode=True)


def _without_dropped(config: Any) -> Any:
    if isinstance(config, list):
        return [_without_dropped(value) for value in config]
    if not isinstance(config, dict):
        return config
    out = {key: _without_dropped(value) for key, value in config.items()}
    inner, name = out.get("config"), out.get("class_name")
    if isinstance(inner, dict) and isinstance(name, str):
        dropped = {"time_major": False, "rng_type": "stateful"}
        if re.fullmatch(r"(Depthwise|Separable)Conv\dD|Conv\dDTranspose", name):
            dropped["groups"] = 1
        if name.startswith("Separable"):  # of the convolution that it is not; only the two halves' own ones count
            dropped |= {"kernel_regularizer": None, "kernel_constraint": None}
            inner.pop("kernel_initializer", None)
        out["config"] = {k: v for k, v in inner.items() if k not in dropped or v != dropped[k]}
    return out


def written_by_keras2(path: Path) -> bool:
    """Whether a file says that Keras 2, or 1, wrote it."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            with opened_h5(path) as file:
                version = file.attrs.get("keras_version", "2")
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return False
    version = version.decode("utf-8", "replace") if isinstance(version, bytes) else str(version)
    return version.startswith(("1.", "2"))


def savedmodel_by_keras2(path: Path, folder: Path, error: BaseException) -> None:
    """Load a file with ``tf_keras`` and write a SavedModel.

    Args:
        path: ``.h5`` or ``.keras`` file.
        folder: Where the SavedModel goes.
        error: What Keras 3 raised.

    Raises:
        UnsafeModelError: The config names something that is not part of Keras 2.
        BackboneError: ``tf_keras`` is not installed, or cannot load the file either.
    """
    config, reason = _config_of(path), _first_line(error)
    refuse_lambda(path, config)
    _refuse_paths(path, config)
    if importlib.util.find_spec("tf_keras") is None:
        raise BackboneError(
            f"Keras cannot load {path}: {reason}. If Keras 2 wrote it, pip install tf_keras: tfft then loads it with "
            "that. Or load it where it was made, and save it with model.export(folder)."
        )
    import tf_keras

    _check_names(path, config, tf_keras)
    try:
        model = tf_keras.models.load_model(path, compile=False, safe_mode=True)
        model.save(folder, save_format="tf", include_optimizer=False)
    except Exception as second:  # as many classes as Keras 3 has
        raise BackboneError(
            f"Keras cannot load {path}: {reason}. Keras 2 (tf_keras) cannot load it either: {_first_line(second)}. A "
            "model with custom classes has to be saved with model.export(folder) where they are defined."
        ) from second


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _refuse_paths(path: Path, config: Any) -> None:
    """Refuse vocabularies that are paths: the layer would read a file of this machine."""
    found = {
        f"{value.get('class_name')}.{key}"
        for value in mappings_in(config)
        if isinstance(inner := value.get("config"), Mapping)
        for key in inner
        if "vocabulary" in key and isinstance(inner[key], str)
    }
    if found:
        raise UnsafeModelError(
            f"{path} was not loaded: it would read files of this machine as a vocabulary ({join_names(sorted(found))})."
        )


def _config_of(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    with opened_h5(path) as file:
        return read_config(file)


def _check_names(path: Path, config: Any, tf_keras: Any) -> None:
    """Compare what a config names with what Keras 2 consists of."""
    names = "layers initializers regularizers constraints losses metrics optimizers layers.experimental.preprocessing"
    parts = [operator.attrgetter(name)(tf_keras) for name in names.split()]
    classes = {name for part in parts for name, value in vars(part).items() if isinstance(value, type)}
    known = _BUILTINS.union(_CALLS, ["Functional", "Sequential", "Model"], classes) - {"Lambda"}
    odd: set[str] = set()
    for value in mappings_in(config):
        name, module = value.get("class_name"), value.get("module")
        if name is None:
            continue
        if name not in known or value.get("registered_name") not in (None, "", name, f"keras>{name}", f"Custom>{name}"):
            odd.add(f"{value.get('registered_name') or name}")
        if module is not None and not (isinstance(module, str) and _MODULES.fullmatch(module)):
            odd.add(f"{module}.{name}")
        if name == "function":
            odd.add(f"function {value.get('config')}")
        if name in _CALLS:
            inner = value.get("config")
            called = inner.get("function") if isinstance(inner, Mapping) else None
            if name == "TFOpLambda" and not (isinstance(called, str) and _OPERATIONS.fullmatch(called)):
                odd.add(f"tf.{called}")
    if odd:
        raise UnsafeModelError(
            f"{path} was not loaded: it names classes that are not Keras layers "
            f"({join_names(sorted(odd), limit=5)}), and "
            "Keras 2 would import or call it. Where the model was made, save it with model.export(folder), and load "
            "that folder."
        )


def mappings_in(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping in nested settings."""
    todo = [config]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            yield value
            todo += value.values()
        elif isinstance(value, list):
            todo += value
