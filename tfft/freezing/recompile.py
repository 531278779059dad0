"""Makes a changed model take effect in Keras: compiled again, and nothing left of what was traced before."""

from __future__ import annotations

import logging

import keras

from tfft.freezing.layer_tree import flatten

_LOG = logging.getLogger("tfft")


def compile_again(model: keras.Model) -> None:
    """Compiles a compiled model again with the same settings and a fresh optimizer.

    Where that cannot be done the model is left uncompiled, so that ``fit`` asks for ``compile``.
    """
    if not model.compiled:
        return
    optimizer = model.optimizer
    settings = dict(getattr(getattr(model, "_compile_config", None), "config", None) or {})
    own_compile = type(model).compile is not keras.Model.compile
    try:
        if own_compile or not settings:
            raise TypeError("its compile is its own")
        settings["optimizer"] = type(optimizer).from_config(optimizer.get_config())
        model.compile(**settings)
    except Exception as error:  # whatever it is: an uncompiled model makes fit ask for compile, never a silent no-op
        model.compiled = False
        model.train_function = None
        _LOG.info("tfft: %s has to be compiled again before training: %s", model.name, error)
    else:
        _LOG.info("tfft: compiled %s again: its trainable variables changed, the optimizer starts afresh", model.name)


def forget_traces(model: keras.Model) -> None:
    """Makes a model and those inside of it trace their steps anew: traced ones know the old variables."""
    for layer in flatten(model):
        if isinstance(layer, keras.Model):
            layer.train_function = layer.test_function = layer.predict_function = None
