"""A trained model as one SavedModel that serves; hides how it is built, checked and put in place.

``tfft.export(model, "served/1")`` writes; :func:`open_export` reads one back with TensorFlow alone, and
:func:`predict_files` asks it about image files. This package has the name of its main function, so the
package itself can be called: ``tfft.export(...)`` means the same whether or not the package was
imported before.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from tfft.errors import require_platform

require_platform()

from tfft.export.predicting import FilePrediction, predict_files  # noqa: E402
from tfft.export.reading import OpenExport, open_export  # noqa: E402
from tfft.export.savedmodel import Exported, export  # noqa: E402
from tfft.export.signatures import serving_functions  # noqa: E402

__all__ = [
    "Exported",
    "FilePrediction",
    "OpenExport",
    "export",
    "open_export",
    "predict_files",
    "serving_functions",
]


class _CallableModule(types.ModuleType):
    # Python binds the submodule to `tfft.export` once anything imports it: calling it has to keep working.
    def __call__(self, *args: Any, **kwargs: Any) -> Exported:
        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
