"""Runs a SavedModel's signatures in a process of its own, with TensorFlow and nothing else.

This file is a script, started by :mod:`tfft.exporting.parity`: ``parity_worker.py MODEL CALLS RESULTS LIBRARY...``.
It imports nothing of tfft, and makes an import of tfft or Keras impossible before TensorFlow starts, so
a SavedModel that runs here needs neither. ``CALLS`` is a pickled list of (signature, inputs by name);
``RESULTS`` receives the pickled list of outputs by name. Each ``LIBRARY`` defines operations that the model needs
beside those of TensorFlow.
"""

import pickle
import sys


def main(model_path: str, calls_path: str, results_path: str, *libraries: str) -> None:
    """Load a SavedModel, run every call and write what came out."""
    for name in ("keras", "tf_keras", "tensorflow_hub", "tfft"):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it now fails; TensorFlow itself copes
    import tensorflow as tf

    for library in libraries:
        tf.load_op_library(library)
    with open(calls_path, "rb") as file:
        calls = pickle.load(file)
    model = tf.saved_model.load(model_path)  # the signatures alone do not keep the variables alive
    results = []
    for signature, inputs in calls:
        outputs = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        results.append({name: value.numpy() for name, value in outputs.items()})
    with open(results_path, "wb") as file:
        pickle.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
