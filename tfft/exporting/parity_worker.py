"""Runs a SavedModel's signatures in a separate process, with TensorFlow only.

This file is a script, started by :mod:`tfft.exporting.parity` while the model is still being written. It imports
nothing of tfft, and makes an import of tfft or Keras impossible before TensorFlow starts, so a SavedModel that runs
here needs neither. Then it waits for one line of JSON on its standard input: the folder of the ``model``; ``calls``, a
file with a pickled list of (signature, inputs by name); ``results``, a file for the pickled list of outputs by name;
and ``libraries`` that define operations which the model needs beside those of TensorFlow. Without that line it ends.
"""

import json
import pickle
import sys


def main() -> None:
    """Load a SavedModel, run every call and write what came out."""
    for name in ("keras", "tf_keras", "tensorflow_hub", "tfft"):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it now fails; TensorFlow itself copes
    import tensorflow as tf

    line = sys.stdin.readline()
    if not line:
        return
    job = json.loads(line)
    for library in job["libraries"]:
        tf.load_op_library(library)
    with open(job["calls"], "rb") as file:
        calls = pickle.load(file)
    model = tf.saved_model.load(job["model"])  # the signatures alone do not keep the variables alive
    results = []
    for signature, inputs in calls:
        outputs = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        results.append({name: value.numpy() for name, value in outputs.items()})
    with open(job["results"], "wb") as file:
        pickle.dump(results, file)


if __name__ == "__main__":
    main()
