"""One process with two logical processors, started by test_sequence_replicas.py: python sequence_replicas.py TASK.

Prints losses and scores of decoded texts of a model on one copy and on two, and the weights after an epoch.
"""

import contextlib
import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import speech_data
import tensorflow as tf

import tfft
from tfft.backbones.speech_encoder import speech_encoder
from tfft.backbones.transformer import transformer
from tfft.tasks.text_to_text.adapting import adapted_pairs
from tfft.tasks.text_to_text.data import load_pairs
from tfft.tasks.transcription.text import encode

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

TEXTS = speech_data.sentences(40, 3)


def texts_to_texts():
    """Model and batches of 8 pairs of which the second half is longer: the copies get different numbers of tokens."""
    small = {"width": 16, "blocks": 1, "heads": 2, "inner": 32, "dropout": 0.0}
    pairs = adapted_pairs(load_pairs((TEXTS, [" ".join([text] * 2) for text in TEXTS])), transformer(**small))
    found = tfft.build(pairs.backbone, tfft.heads.text_to_text(label_smoothing=0.1), modality="text")
    tokens, rows = pairs.splits.train.tokens, np.argsort([len(ids) for ids in pairs.splits.train.tokens.target])[-24:]
    padded = [tf.ragged.constant([part[i].tolist() for i in rows], tf.int32).to_tensor(-1) for part in
              (tokens.source, [ids[:-1] for ids in tokens.target], [ids[1:] for ids in tokens.target])]  # fmt: skip
    inputs = {"source": padded[0], "target": padded[1]}
    return found, tf.data.Dataset.from_tensor_slices((inputs, padded[2])).batch(8)


def waves_to_texts():
    """Model and batches of 8 clips of different lengths."""
    backbone = speech_encoder(width=8, blocks=1, heads=2, kernel_size=3, dropout=0.0)
    alphabet = " abcdef"
    head = tfft.heads.transcription(alphabet, dropout=0.0)
    found = tfft.build(backbone, head, audio=tfft.AudioSpec(speech_data.RATE, 3.0))
    waves = np.zeros((16, 3 * speech_data.RATE), np.float32)
    for row, text in zip(waves, TEXTS, strict=False):
        said = speech_data.say(text)
        row[: len(said)] = said[: len(row)]
    return found, tf.data.Dataset.from_tensor_slices((waves, encode(TEXTS[:16], alphabet))).batch(8)


made = {}
for name, scope in (("one", contextlib.nullcontext()), ("two", strategy.scope())):
    with scope:
        keras.utils.set_random_seed(0)
        model, data = (texts_to_texts if sys.argv[1] == "text_to_text" else waves_to_texts)()
        tfft.unfreeze(model, "all")
        model.compile(keras.optimizers.SGD(0.05), **tfft.heads.from_model(model).compile_args())
        history = tfft.training.fit(model, data, data, epochs=2, verbose=0).history
        scores = tfft.evaluate(model, data)
        made[name] = {"history": history, "value": scores.value, "loss": scores.loss, "measures": scores.measures}
        made[name]["weights"] = [float(np.abs(weight).sum()) for weight in model.get_weights()]
print(json.dumps(made, default=float))
