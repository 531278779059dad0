"""Opens a SavedModel into a Keras functional model made of named layers."""

from tfft.backbones.savedmodel.opening import Opened, open_savedmodel

__all__ = ["Opened", "open_savedmodel"]
