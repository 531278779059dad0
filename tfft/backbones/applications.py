"""Networks of ``keras.applications`` as backbones: :func:`from_applications`.

Implementation notes: each family scales pixels in its own way. A :class:`~tfft.specs.InputSpec` cannot express "blue
first, minus the means", so the networks that want it get a small layer that does it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from pathlib import Path

from tfft.backbones.catalog import APPLICATIONS, Application, find_application, plain
from tfft.errors import HandleError, did_you_mean, join_names, require_platform
from tfft.specs import InputSpec

require_platform()
import keras  # noqa: E402  (the check above gives a better message than the import)

from tfft.backbones.base import Backbone  # noqa: E402
from tfft.backbones.fetch.remote import short_timeout  # noqa: E402
from tfft.backbones.formats.h5_weights import assign_weights  # noqa: E402
from tfft.layers.caffe_pixels import CaffePixels  # noqa: E402

RANDOM = ":random"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Width and size in the name of a MobileNet, and the number that Keras adds to the name of a second model.
_SIZES = re.compile(r"(_\d\.\d+_\d+)?(_\d+)?$")
_WEIGHTS_HOST = "storage.googleapis.com"


def from_applications(name: str, weights: str | None = "imagenet", *, backbone_name: str | None = None) -> Backbone:
    """Open a network of ``keras.applications`` as a backbone: without its classifier, features averaged.

    Args:
        name: As ``"MobileNetV2"``, ``"mobilenet_v2"`` or ``"keras:mobilenet-v2"``; with ``":random"``
            at its end the weights are random, which needs no network, with ``":<path>"`` those of a file.
        weights: ``"imagenet"`` (downloaded once into ``~/.keras``), None for random ones, or the path of a
            ``.h5`` file of Keras 2 or a ``.weights.h5`` file; a classifier in it is left out.
        backbone_name: Name of the backbone; the network's own name by default.

    Returns:
        A backbone whose model maps ``[batch, height, width, 3]`` to ``[batch, features]``, for any
        image size (NASNet: for its own only), with the InputSpec of the network's family.

    Raises:
        HandleError: There is no such network, or its weights are out of reach.

    Example:
        >>> from_applications("MobileNetV2").input_spec.value_range
        (-1.0, 1.0)
    """
    short, _, given = name.removeprefix("keras:").partition(":")
    if given:
        weights = None if given.lower() == RANDOM.removeprefix(":") else given
    app = find_application(short)
    if app is None:
        names = [app.name for app in APPLICATIONS]
        raise HandleError(
            f"keras.applications has no network {short!r}.{did_you_mean(short, names)} "
            f"It has: {join_names(names, limit=50)}."
        )
    file = None if weights in (None, "imagenet") else _existing(weights)
    model = _build(app, None if file else weights, backbone_name or app.name.lower())
    if file:
        assign_weights(model, file)
    notes = () if weights else ("The weights are random, not pretrained.",)
    suffix = f":{file}" if file else "" if weights else RANDOM
    return Backbone(model.name, model, f"keras:{app.name}{suffix}", application_spec(app), notes)


def recognized(model: keras.Model) -> Application | None:
    """Return the network of ``keras.applications`` that a model is, by its name and its first layers.

    Args:
        model: Any functional model.

    Returns:
        The network; None for other models, and where a layer in front of the first convolution prepares pixels.
    """
    app = find_application(_SIZES.sub("", model.name))
    if app is None or tuple(model.inputs[0].shape)[-1] != 3:
        return None
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            return app
        if not isinstance(layer, (keras.layers.InputLayer, keras.layers.ZeroPadding2D)):
            return None
    return None


def note_on_means(app: Application) -> str:
    """Return the warning for a network in memory whose pixels no range can describe."""
    return (
        f"WARNING: The model is {app.name} of keras.applications, which takes BGR pixels minus the means of "
        f"ImageNet. No input_range= expresses that. Open 'keras:{app.name}', or put "
        "tfft.layers.caffe_pixels.CaffePixels() "
        "in front of the model."
    )


def _existing(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise HandleError(
            f"The weights file {weights!r} does not exist. Expected an .h5 file, 'random' for random weights, or "
            "nothing for the ImageNet weights."
        )
    return path


def _build(app: Application, weights: str | None, name: str) -> keras.Model:
    side = app.size if _fixed_size(app) else None
    image = keras.Input((side, side, 3), name="image")
    first = CaffePixels(name="caffe_pixels")(image) if app.scaling == "means" else image
    make = getattr(keras.applications, app.name)
    how = {"include_top": False, "weights": weights, "input_tensor": first, "pooling": "avg"}
    with warnings.catch_warnings():
        # MobileNets say which size's weights they take where the input has none.
        warnings.filterwarnings("ignore", message=".*input_shape. is undefined")
        if weights != "imagenet" or _weights_cached(app):
            return _named(make(**how), name)
        try:
            with short_timeout(_WEIGHTS_HOST):
                return _named(make(**how), name)
        except Exception as error:
            if not isinstance(error, OSError) and "URL fetch failure" not in str(error):
                raise
            raise HandleError(
                f"The ImageNet weights of {app.name} could not be downloaded from {_WEIGHTS_HOST}: {error}. "
                "Without a network: copy ~/.keras/models from a machine where this worked (KERAS_HOME names another "
                f"folder), take random weights with 'keras:{app.name}{RANDOM}', or take 'efficientnet-lite0', "
                "which needs no network."
            ) from error


def _fixed_size(app: Application) -> bool:
    """Whether the layers of a network depend on the size of its images: NASNet's cells do not fit else."""
    return app.name.startswith("NASNet")


def _named(model: keras.Model, name: str) -> keras.Model:
    """The network under another name: given to Keras, it would decide about weights and names of layers too."""
    return keras.Model(model.inputs[0], model.outputs[0], name=name)


def _weights_cached(app: Application) -> bool:
    """Whether Keras has a weight file that looks like this network's; then it needs no server."""
    home = os.environ.get("KERAS_HOME")
    folder = (Path(home) if home else Path.home() / ".keras") / "models"
    return folder.is_dir() and any(plain(app.name) in plain(p.name) for p in folder.glob("*.h5"))


def application_spec(app: Application) -> InputSpec:
    """Return size and pixels of a network, in its usual size."""
    spec = InputSpec(
        height=app.size, width=app.size, flexible=not _fixed_size(app), source=f"keras.applications, {app.name}"
    )
    if app.scaling == "symmetric":
        return dataclasses.replace(spec, value_range=(-1, 1))
    if app.scaling == "standardized":
        return dataclasses.replace(spec, value_range=(0, 1), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    what = "it rescales pixels itself" if app.scaling == "inside" else "a layer in the model subtracts the means"
    return dataclasses.replace(spec, value_range=(0, 255), source=f"{spec.source}: {what}")
