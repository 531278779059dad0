"""A kind of data from outside of tfft, whole: readings of a sensor, four numbers in a file of one folder per class."""

import collections
import dataclasses
import json
import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data import SplitOptions
from tfft.data.batches import assemble, gathering, on_cpu
from tfft.data.class_folders import FileType, list_class_folders, load_class_folders
from tfft.data.duplicates import Duplicates
from tfft.data.file_examples import FileExamples
from tfft.data.options import ReadOptions
from tfft.exporting.loader import ARRAY_SIGNATURE, EncodedInput, ServingInput
from tfft.exporting.prediction import RequestItem
from tfft.inspection import Finding, Item
from tfft.inspection.skipped import unusable
from tfft.models import ModelInput
from tfft.registry import Match

NOTE = "numbers.json"
Facts = collections.namedtuple("Facts", "path reason")


@dataclasses.dataclass(frozen=True, eq=False)
class Readings(FileExamples):
    modality = "measurements"

    @property
    def inputs(self):
        return np.stack([numbers_in(path) for path in self.paths])

    def batches(self, spec, options):
        return assemble(gathering(on_cpu(self.inputs)), self.labels, options)

    def feature_source(self, staged, batch_size, views=None):
        return self.inputs, self.labels


class Measurements(registry.Modality):
    """Four numbers of a sensor, in a file that ends in .num, with semicolons between them."""

    name, item, items = "measurements", "reading", "readings"
    columns, settings = ("reading",), frozenset({"digits"})
    build_options = frozenset({"scale"})

    def matches(self, source, settings):
        if not isinstance(source, (str, os.PathLike)) or not any(Path(source).glob("*/*.num")):
            return None
        taken = frozenset({"validation", "seed", "group", "digits"})
        return Match("a folder of readings", load, taken, 2, has_names=True)

    def read_labelled(self, source, class_names, settings):
        return list_class_folders(Readings, files(None), source, ReadOptions(), 1)

    def findings(self, splits, *, notes):
        yield from unusable(splits.skipped, self.items, (".num",))
        paths = [path for part in splits.parts.values() for path in part.paths]
        high = tuple(Item(path, "has a number over 100") for path in paths if numbers_in(path).max() > 100)
        if high:
            yield Finding("range", "warning", f"{len(high)} readings are out of range", "look at the sensor", high)

    def why_not(self, backbone):
        shapes = [tuple(tensor.shape) for tensor in backbone.model.inputs]
        return None if shapes == [(None, 4)] else f"{backbone.name} takes {shapes}"

    def model_options(self, splits):
        return {"scale": 0.5}

    def attach_input(self, backbone, network, level="pooled", *, scale=1.0, **options):
        inputs = keras.Input((4,), name="numbers")
        return ModelInput(inputs, network(keras.layers.Rescaling(scale, name="halve")(inputs)))

    def input_of(self, model):
        return 4 if "halve" in [layer.name for layer in model.layers] else None

    def serving(self, model, inputs, **options):
        if self.input_of(model) is None:
            return None
        decode = lambda one: tf.ensure_shape(tf.strings.to_number(tf.strings.split(one, ";")), [4])  # noqa: E731
        encode = lambda rows: [";".join(map(str, row)).encode() for row in rows]  # noqa: E731
        spec = tf.TensorSpec([4], tf.float32)
        encoded = EncodedInput("reading_bytes", decode, spec, lambda values: values, encode)
        about = {"assets": {NOTE: json.dumps(4)}, "card": ("Readings", "Four numbers each.")}
        return ServingInput(self.name, ARRAY_SIGNATURE, 4, encoded=encoded, **about)

    def served(self, signatures, assets):
        note = assets / NOTE
        return ServingInput(self.name, ARRAY_SIGNATURE, json.loads(note.read_text())) if note.is_file() else None

    def read_items(self, items, spec):
        for path in items:
            values = numbers_in(path)
            wrong = None if len(values) == spec else f"has {len(values)} numbers, expected {spec}"
            yield RequestItem(path, None if wrong else values, wrong)


def load(source, *, digits=None, progress=None, store=None, **split):
    return load_class_folders(Readings, files(digits), source, SplitOptions(**split), ReadOptions())


def numbers_in(path):
    return np.array(Path(path).read_text(encoding="utf-8").split(";"), np.float32)


def files(digits):
    def problem(path):
        if digits and len(Path(path).read_text()) > 8 * digits:
            return "has too many digits"
        return None if np.isfinite(numbers_in(path)).all() else "holds a number that is not finite"

    read = lambda paths, progress, store: [Facts(path, problem(path)) for path in paths]  # noqa: E731
    return FileType("reading", "readings", (".num",), read, lambda facts: Duplicates())
