"""Peak memory of feature extraction and training on it, for few and for many generated images."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import os, resource, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
import tfft
from tfft import features, heads
count = int(sys.argv[1])
backbone = tfft.load_backbone("efficientnet-lite0", image_size=64)
model = tfft.build(backbone, heads.classification(["a", "b"]))
tfft.unfreeze(model, 1)
def image(i):
    pixels = tf.random.stateless_uniform([64, 64, 3], [i, 0], 0, 256, tf.int32)
    return tf.cast(pixels, tf.uint8), tf.cast(i % 2, tf.int32)
dataset = tf.data.Dataset.range(count).map(image).batch(32)
prefix, suffix = features.split_frozen(model)
found = features.extract(prefix, dataset, cache=sys.argv[2], verbose=False)
suffix.compile("adam", **heads.from_model(model).compile_args())
suffix.fit(found.dataset(64, shuffle=True), verbose=0, shuffle=False)
print(found.bytes / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory(folder: object, counts: tuple[int, ...] = (1_000, 50_000)) -> None:
    print("\nPeak memory: features in front of the last block, one epoch behind it, 64 px images")
    first = None
    for count in counts:
        command = [sys.executable, "-c", _CODE, str(count), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        size, peak = (float(part) for part in done.stdout.split())
        first = first or peak
        print(
            f"  {count:6,d} images {size:9,.1f} MB of features {peak:8,.0f} MB peak {peak / first:6.2f} x", flush=True
        )
