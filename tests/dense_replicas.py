"""One process with two logical processors, started by test_dense_contracts.py: python dense_replicas.py TASK.

Prints the validation loss of a model on one copy and on two, and whether the copies agree after an epoch on two.
"""

import contextlib
import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import detection_models
import keras
import numpy as np
import tensorflow as tf

import tfft

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
images, labels = detection_models.pictures(16, seed=3)
labels[:6, :, 0] = -1  # the copies get parts with different numbers of objects
if sys.argv[1] == "semantic_segmentation":
    labels = (images[..., 0] > 120).astype(np.int32)

found = {}
for name, scope in (("one", contextlib.nullcontext()), ("two", strategy.scope())):
    with scope:
        keras.utils.set_random_seed(0)
        make = getattr(tfft.heads, sys.argv[1])
        head = make(("square", "ring"), width=8, dropout=0.0)
        model = tfft.build(detection_models.untrained(), head)
        tfft.unfreeze(model, "all")
        model.compile(keras.optimizers.SGD(1e-3), **head.compile_args())
        data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
        history = tfft.training.fit(model, data.take(1), data, epochs=1, verbose=0)
        found[name] = [history.history[key][0] for key in ("loss", "val_loss")]
local = [[copy.numpy() for copy in strategy.experimental_local_results(v.value)] for v in model.trainable_weights]
found["alike"] = all(np.array_equal(*copies) for copies in local)
print(json.dumps(found))
