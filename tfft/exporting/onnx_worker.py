"""Runs an ONNX file in a separate process, with ONNX Runtime and NumPy only.

This file is a script, started by :mod:`tfft.exporting.portable`: ``onnx_worker.py MODEL INPUTS RESULTS``. ``INPUTS`` is
an npz file of arrays by input name, with one row per example; ``RESULTS`` receives the outputs of all rows in one call
in the same form, and the median milliseconds of a call with one example as ``_milliseconds``.
"""

import sys
import time


def main(model: str, inputs: str, results: str) -> None:
    """Run all examples at once and each alone, and write what came out."""
    for name in ("tensorflow", "keras", "tfft"):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it now fails
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    with np.load(inputs, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    outputs, seconds = dict(zip(names, session.run(names, arrays), strict=True)), []
    for row in range(len(next(iter(arrays.values())))):
        values = {name: value[row : row + 1] for name, value in arrays.items()}
        began = time.perf_counter()
        session.run(names, values)
        seconds.append(time.perf_counter() - began)
    milliseconds = np.float64(1000 * np.median(seconds))
    np.savez(results, allow_pickle=False, _milliseconds=milliseconds, **outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
