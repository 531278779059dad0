"""Opens a SavedModel into a Keras functional model made of named layers."""

from tfft.backbones.savedmodel.opener import Opened, open_savedmodel
from tfft.backbones.savedmodel.preprocessor import open_preprocessor

__all__ = ["Opened", "open_preprocessor", "open_savedmodel"]
