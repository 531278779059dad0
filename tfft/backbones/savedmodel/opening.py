"""From a folder with a SavedModel to a functional Keras model of blocks.

The steps: scan, load, trace for inference (and training where asked), flatten, cut, one Keras layer
for each piece, and a self-check against the SavedModel on a small random batch.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel import tf1
from tfft.backbones.savedmodel.endpoint import Endpoint, choose_output, find_endpoint
from tfft.backbones.savedmodel.graph import FlatGraph, flatten
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.backbones.savedmodel.making import Maker
from tfft.backbones.savedmodel.pieces import Analysis, NoMatch, find_pieces, match_pieces, random_ops, whole
from tfft.backbones.savedmodel.scan import check_savedmodel
from tfft.errors import BackboneError, SavedModelError

BatchNorm = Literal["fixed", "train"]


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """An opened SavedModel.

    Attributes:
        model: functional Keras model; each layer but the inputs is a block.
        notes: what was left out or could not be done, one sentence each.
        endpoint: how the SavedModel is called, in words.
        output: key of the chosen output; empty where there is only one.
        largest_difference: between the opened model and the SavedModel in the self-check.
    """

    model: keras.Model
    notes: tuple[str, ...]
    endpoint: str
    output: str
    largest_difference: float


def open_savedmodel(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    output: str | None = None,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    batch_norm: BatchNorm = "fixed",
    backbone_dropout: bool = False,
    trust: bool = False,
) -> Opened:
    """Opens a SavedModel: same numbers, but made of Keras layers that can be frozen one by one.

    Args:
        path: the folder.
        name: of the Keras model; the folder's name by default.
        output: which output to use where there are several.
        signature: which signature or saved function to call; chosen automatically by default.
        tags: of the meta graph, for SavedModels with several.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics in training; ``"train"`` runs the
            publisher's training graph in trainable blocks.
        backbone_dropout: True keeps the publisher's dropout in training, which also needs that graph.
        trust: True loads a model in spite of what the scan found.

    Returns:
        The opened model.

    Raises:
        SavedModelError: when it is no SavedModel or cannot be opened.
        UnsafeModelError: when it may reach outside of itself.
        BackboneError: when the training graph was asked for and cannot be used.

    Example:
        >>> opened = open_savedmodel("efficientnet_lite0_feature_vector")
        >>> [layer.name for layer in opened.model.layers][:3]
        ['inputs', 'stem', 'block0']
    """
    folder = pathlib.Path(path)
    name = _keras_name(name or folder.name)
    loaded = load(folder, tags, trust)
    endpoint = find_endpoint(loaded, signature)
    opener = _Opener(loaded, endpoint, output, trust)
    training = opener.training_graph(batch_norm, backbone_dropout)
    return opener.open(name, training, batch_norm)


def load(folder: pathlib.Path, tags: Sequence[str] | None, trust: bool) -> Any:
    """Scans and loads a SavedModel."""
    if trust:
        from tfft.backbones.savedmodel.scan import read_meta_graphs

        meta_graphs = read_meta_graphs(folder)
    else:
        meta_graphs = check_savedmodel(folder)
    known = [sorted(meta.meta_info_def.tags) for meta in meta_graphs]
    if tags is None and len(known) > 1:
        tags = [] if [] in known else next((t for t in known if t == ["serve"]), known[0])
    elif tags is None and known[0] != ["serve"]:
        tags = known[0]
    if tags is not None and sorted(tags) not in known:
        raise SavedModelError(f"{str(folder)!r} has no meta graph with tags {list(tags)}. It has: {known}.")
    quiet = tf.get_logger()  # it warns twice of every reference variable, which are dealt with in tf1.py
    level = quiet.level
    quiet.setLevel("ERROR")
    try:
        # The strategy stack is per thread: what is created here must be plain, also inside a strategy scope.
        return _outside_strategy(lambda: tf.saved_model.load(str(folder), tags=tags))
    except Exception as error:  # TensorFlow raises a dozen classes for a damaged model
        raise SavedModelError(f"TensorFlow cannot load {str(folder)!r}: {_first_line(error)}") from error
    finally:
        quiet.setLevel(level)


def _outside_strategy(function: Any) -> Any:
    if not tf.distribute.has_strategy():
        return function()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _keras_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") or "backbone"


class _Opener:
    """Carries what the steps of one opening share."""

    def __init__(self, loaded: Any, endpoint: Endpoint, output: str | None, trust: bool) -> None:
        self.loaded, self.endpoint, self.trust = loaded, endpoint, trust
        self.notes: list[str] = []
        self.variables = list(getattr(loaded, "variables", None) or [])
        probe = self._flat(False)
        position, self.output = choose_output(probe.structure, output)
        self.position = position
        declared = tf.nest.flatten(probe.structure)[position].shape
        self.output_shape = None if declared.rank is None else tuple(declared.as_list())
        self.inference = Analysis(tf1.with_resource_variables(probe, loaded), probe.outputs[position])

    def _flat(self, training: bool) -> FlatGraph:
        endpoint = self.endpoint
        return _outside_strategy(
            lambda: flatten(lambda *tensors: endpoint.call(tensors, training), endpoint.specs, self.variables)
        )

    # ------------------------------------------------------------------ training graph

    def training_graph(self, batch_norm: BatchNorm, dropout: bool) -> Analysis | None:
        """Returns the training graph when it was asked for; refuses where it would do more than that."""
        if batch_norm not in ("fixed", "train"):
            raise BackboneError(f"Expected batch_norm='fixed' or 'train'. Received: batch_norm={batch_norm!r}.")
        if batch_norm == "fixed" and not dropout:
            return None
        asked = " and ".join(
            what for what, on in (("batch_norm='train'", batch_norm == "train"), ("backbone_dropout=True", dropout)) if on
        )
        if not self.endpoint.has_training:
            raise BackboneError(
                f"{asked} needs the graph for training=True, which this SavedModel was saved without "
                f"(called as {self.endpoint.label}). Open it without, and its statistics stay fixed."
            )
        flat = self._flat(True)
        analysis = Analysis(flat, flat.outputs[self.position])
        statistics = [u for u in flat.updates if _updates_statistics(flat, u)]
        random = random_ops(flat, analysis.order)
        if dropout and statistics and batch_norm == "fixed":
            raise BackboneError(
                "backbone_dropout=True alone is not possible: the training graph of this SavedModel also moves "
                f"{len(statistics)} BatchNorm statistics. Add batch_norm='train', or leave the dropout off."
            )
        if batch_norm == "train" and random and not dropout:
            raise BackboneError(
                "batch_norm='train' alone is not possible: the training graph of this SavedModel also draws random "
                "numbers (dropout). Add backbone_dropout=True, or keep the statistics fixed."
            )
        if batch_norm == "train" and not statistics:
            self.notes.append("The training graph moves no BatchNorm statistics, so batch_norm='train' changes nothing.")
        return analysis

    # ------------------------------------------------------------------------ assembly

    def open(self, name: str, training: Analysis | None, batch_norm: BatchNorm) -> Opened:
        pieces = find_pieces(self.inference)
        matched = None
        if training is not None:
            try:
                matched = match_pieces(self.inference, pieces, training)
            except NoMatch as error:
                raise BackboneError(f"The training graph cannot be used block by block: {error}.") from error
        model, difference = self._build_and_check(name, pieces, training, matched, batch_norm)
        limit = self._limit
        if difference > limit and len(pieces) > 1:
            note = f"not cut: cut into {len(pieces)} blocks, its output differed by {difference:.1g}"
            one = [whole(self.inference, "model", note)]
            model, difference = self._build_and_check(name, one, None, None, "fixed")
            self.notes.append(f"The model stays one block ({note}).")
        if difference > limit:
            raise SavedModelError(
                f"The opened model differs from the SavedModel by {difference:.3g} (at most {limit:.3g} is accepted), "
                "so it is not used. Does the model draw random numbers or change its state in inference?"
            )
        self._note_unused(model)
        return Opened(model, tuple(self.notes), self.endpoint.label, self.output, difference)

    def _build_and_check(
        self, name: str, pieces: Any, training: Analysis | None, matched: Any, batch_norm: str
    ) -> tuple[keras.Model, float]:
        maker = Maker(self.loaded, self.inference, training, self.trust, self.output_shape)
        layers = maker.layers(pieces, matched, batch_norm)
        model = self._connect(name, pieces, matched, layers)
        sample = self._sample()
        reference = self._reference(sample)
        tensors = [tf.constant(s) for s in sample]
        entering = tensors[0] if self.endpoint.single else dict(zip(self.endpoint.input_keys, tensors, strict=True))
        ours = keras.ops.convert_to_numpy(model(entering, training=False))
        self._limit = 1e-5 * max(1.0, float(np.max(np.abs(reference), initial=0.0)))
        difference = float(np.max(np.abs(ours - reference), initial=0.0))
        if not np.all(np.isfinite(ours) == np.isfinite(reference)) or not np.isfinite(difference):
            difference = float("inf")
        self._check_gradients(maker, layers, sample)
        return model, difference

    def _connect(self, name: str, pieces: Any, matched: Any, layers: list[SavedModelBlock]) -> keras.Model:
        inputs = {}
        for placeholder, key, spec in zip(
            self.inference.flat.inputs, self.endpoint.input_keys, self.endpoint.specs, strict=True
        ):
            inputs[placeholder] = _keras_input(spec, _keras_name(key), layers)
        tensor = None
        for index, layer in enumerate(layers):
            wanted = Maker.raw_inputs(pieces, matched, index, self.inference, list(inputs))
            tensors = [*([] if tensor is None else [tensor]), *(inputs[p] for p in wanted)]
            tensor = layer(tensors if len(tensors) > 1 else tensors[0])
        if self.endpoint.single:
            return keras.Model(next(iter(inputs.values())), tensor, name=name)
        keys = dict(zip(self.endpoint.input_keys, inputs.values(), strict=True))
        return keras.Model(keys, tensor, name=name)

    # ---------------------------------------------------------------------- self-check

    def _sample(self) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        sizes = (64, 32)
        out = []
        for spec in self.endpoint.specs:
            rank = spec.shape.rank
            if rank is None:
                raise SavedModelError("An input of the model has no rank, so it cannot become a Keras input.")
            unknown = 2 if rank == 0 or spec.shape[0] is None else int(spec.shape[0])
            shape = [unknown, *(n if n is not None else sizes[0] if rank == 4 else 8 for n in spec.shape[1:])][:rank]
            if spec.dtype == tf.string:
                out.append(np.resize(np.array([b"a", b"two words"], dtype=object), shape))
            elif spec.dtype.is_floating:
                out.append(random.random(shape).astype(spec.dtype.as_numpy_dtype))
            else:
                out.append(random.integers(0, 2, shape).astype(spec.dtype.as_numpy_dtype))
        return out

    def _reference(self, sample: Sequence[np.ndarray]) -> np.ndarray:
        result = self.endpoint.call([tf.constant(s) for s in sample], False)
        return tf.nest.flatten(result)[self.position].numpy()

    def _check_gradients(self, maker: Maker, layers: list[SavedModelBlock], sample: Sequence[np.ndarray]) -> None:
        """Compares the last block's gradients with the uncut model's where custom gradients were dropped.

        A gradient that differs on purpose (straight-through, reversal) would be wrong without its
        Python function; then the model is frozen for good rather than trained wrongly.
        """
        if not any("_gradient_op_type" in n.attr for n in self.inference.flat.graph_def.node):
            return
        pairs = [(v, k) for layer in layers for v, k in maker.pairs(layer) if k.trainable]
        if not pairs:
            return
        tensors = [tf.constant(s) for s in sample]

        def gradients(run: Any, variables: list[Any]) -> list[Any]:
            with tf.GradientTape() as tape:
                tape.watch(variables)
                value = tf.reduce_sum(tf.math.square(tf.cast(run(), tf.float32)) + tf.cast(run(), tf.float32))
            return tape.gradient(value, variables)

        try:
            theirs = gradients(
                lambda: tf.nest.flatten(self.endpoint.call(tensors, False))[self.position], [v for v, _ in pairs]
            )
        except (LookupError, ValueError, tf.errors.OpError):
            self.notes.append("Saved without its custom gradients; the plain derivatives are used.")
            return

        def chained() -> Any:
            return maker.run(layers, tensors)

        ours = gradients(chained, [k.value for _, k in pairs])
        worst = max(
            (float(tf.norm(_dense(a) - _dense(b)) / (tf.norm(_dense(a)) + 1e-6)) for a, b in zip(theirs, ours, strict=True)
             if a is not None and b is not None),
            default=0.0,
        )  # fmt: skip
        if worst > 1e-2:
            for layer in layers:
                layer.set_trainable_variables("none")
            self.notes.append(
                f"The model has custom gradients that differ from the plain ones (by {worst:.0%}), and a SavedModel does "
                "not carry them in a usable form: it can be used frozen only."
            )

    def _note_unused(self, model: keras.Model) -> None:
        used = {n for layer in model.layers if isinstance(layer, SavedModelBlock) for n in layer.variable_names}
        unused = [v.name.split(":")[0] for v in self.variables if v.name.split(":")[0] not in used]
        if unused:
            shown = ", ".join(unused[:4]) + (" and more" if len(unused) > 4 else "")
            where = f"output {self.output!r}" if self.output else "the output"
            self.notes.append(f"{len(unused)} variables do not contribute to {where} and are left out ({shown}).")


def _dense(gradient: Any) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def _updates_statistics(flat: FlatGraph, update: str) -> bool:
    from tfft.backbones.savedmodel.pieces import _updated

    changed = _updated(flat, update)
    return any(id(v) == changed and v.dtype.is_floating for v in flat.variables.values())


def _keras_input(spec: tf.TensorSpec, key: str, layers: Sequence[SavedModelBlock]) -> Any:
    taken = {layer.name for layer in layers}
    name = f"input_{key}" if key in taken else key
    shape = spec.shape.as_list()
    if not shape:
        raise SavedModelError(f"The input {key!r} is a scalar; a model needs a batch dimension.")
    if shape[0] is None:
        return keras.Input(shape=shape[1:], dtype=spec.dtype.name, name=name)
    return keras.Input(batch_shape=shape, dtype=spec.dtype.name, name=name)
