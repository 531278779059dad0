"""Export of a trained model as a SavedModel, a LiteRT file or an ONNX file, and prediction with an export.

``tfft.export(model, "served/1")`` writes a SavedModel for serving, :func:`export_litert` a file for phones, and
:func:`export_onnx` a file for ONNX Runtime.
:func:`open_export` loads a SavedModel with TensorFlow alone, and :func:`open_served` opens runs, too.
:func:`predict_files`, :func:`predict_recordings`, :func:`predict_texts` and :func:`predict_table` predict with a model.
The package is not called ``export``, because that would hide the function of that name.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.exporting.litert import LiteRTExport, export_litert  # noqa: E402
from tfft.exporting.loader import ExportedModel, open_export  # noqa: E402
from tfft.exporting.onnx import ONNXExport, export_onnx  # noqa: E402
from tfft.exporting.opening import open_served  # noqa: E402
from tfft.exporting.prediction import Prediction, predict_files, predict_recordings, predict_texts  # noqa: E402
from tfft.exporting.savedmodel import ExportResult, export  # noqa: E402
from tfft.exporting.signatures import serving_functions  # noqa: E402
from tfft.exporting.table_prediction import predict_each, predict_table, write_predictions  # noqa: E402

__all__ = [
    "ExportResult",
    "Prediction",
    "ExportedModel",
    "LiteRTExport",
    "ONNXExport",
    "export",
    "export_litert",
    "export_onnx",
    "open_export",
    "open_served",
    "predict_each",
    "predict_files",
    "predict_recordings",
    "predict_table",
    "predict_texts",
    "serving_functions",
    "write_predictions",
]
