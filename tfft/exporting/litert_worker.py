"""Runs a LiteRT file in a separate process, with LiteRT and NumPy only.

This file is a script, started by :mod:`tfft.exporting.litert`: ``litert_worker.py MODEL INPUTS RESULTS``. ``INPUTS`` is
an npz file of arrays by input name, with one row per example; ``RESULTS`` receives the outputs in the same form, and
the median milliseconds of an example as ``_milliseconds``.
"""

import sys
import time


def main(model: str, inputs: str, results: str) -> None:
    """Run every example and write what came out."""
    for name in ("tensorflow", "keras", "tfft"):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it now fails
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=model, num_threads=1).get_signature_runner("serving_default")
    with np.load(inputs, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    rows, seconds = [], []
    for row in range(len(next(iter(arrays.values())))):
        values = {name: value[row : row + 1] for name, value in arrays.items()}
        began = time.perf_counter()
        rows.append({name: np.array(value) for name, value in run(**values).items()})
        seconds.append(time.perf_counter() - began)
    outputs = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
    milliseconds = np.float64(1000 * np.median(seconds))
    np.savez(results, allow_pickle=False, _milliseconds=milliseconds, **outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
