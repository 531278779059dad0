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
import tensorflow as tf

from tfft.backbones.savedmodel import parity, tf1
from tfft.backbones.savedmodel.constants import find_kernels, with_trainable_kernels
from tfft.backbones.savedmodel.endpoint import Endpoint, choose_output, find_endpoint
from tfft.backbones.savedmodel.graph import FlatGraph, flatten
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.backbones.savedmodel.layer_builder import Maker
from tfft.backbones.savedmodel.partition import (
    Analysis,
    NoMatch,
    Piece,
    find_pieces,
    match_pieces,
    random_ops,
    updated_variable,
    whole,
)
from tfft.backbones.savedmodel.scan import check_savedmodel, read_meta_graphs
from tfft.backbones.text_ops import load_text_ops, ops_in
from tfft.errors import BackboneError, SavedModelError, TfftError

BatchNorm = Literal["fixed", "train"]
Constants = Literal["fixed", "trainable"]


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
    prefer: Sequence[str] = (),
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    batch_norm: BatchNorm = "fixed",
    backbone_dropout: bool = False,
    constants: Constants = "fixed",
    trust: bool = False,
) -> Opened:
    """Opens a SavedModel: same numbers, but made of Keras layers that can be frozen one by one.

    Args:
        path: the folder.
        name: of the Keras model; the folder's name by default.
        output: which output to use where there are several.
        prefer: outputs that are taken, where there are, before the one that the publisher calls default.
        signature: which signature or saved function to call; chosen automatically by default.
        tags: of the meta graph, for SavedModels with several.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics in training; ``"train"`` runs the
            publisher's training graph in trainable blocks.
        backbone_dropout: True keeps the publisher's dropout in training, which also needs that graph.
        constants: ``"trainable"`` makes variables of the weights that the graph holds as constants.
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
    try:
        endpoint = find_endpoint(loaded, signature)
        opener = Opener(loaded, endpoint, output, prefer, trust, constants)
        training = opener.training_graph(batch_norm, backbone_dropout)
        return opener.open(name, training, batch_norm)
    except TfftError:
        raise
    except Exception as error:  # a damaged graph fails wherever TensorFlow comes to need what is missing
        raise SavedModelError(
            f"{str(folder)!r} was loaded and cannot be opened: {type(error).__name__}: {_first_line(error)[:500]}"
        ) from error


def load(folder: pathlib.Path, tags: Sequence[str] | None, trust: bool) -> Any:
    """Scans and loads a SavedModel."""
    meta_graphs = read_meta_graphs(folder) if trust else check_savedmodel(folder)
    known = [sorted(meta.meta_info_def.tags) for meta in meta_graphs]
    if tags is None and len(known) > 1:
        tags = [] if [] in known else next((t for t in known if t == ["serve"]), known[0])
    elif tags is None and known[0] != ["serve"]:
        tags = known[0]
    load_text_ops(ops_in(folder), f"The SavedModel {str(folder)!r}")
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


class Opener:
    """Carries what the steps of one opening share."""

    def __init__(
        self,
        loaded: Any,
        endpoint: Endpoint,
        output: str | None,
        prefer: Sequence[str] = (),
        trust: bool = False,
        constants: Constants = "fixed",
    ) -> None:
        self.loaded, self.endpoint, self.trust = loaded, endpoint, trust
        self.notes: list[str] = []
        self.variables = list(getattr(loaded, "variables", None) or [])
        probe = self._flat(False)
        position, self.output = choose_output(probe.structure, output, prefer)
        self.position = position
        declared = tf.nest.flatten(probe.structure)[position].shape
        self.output_shape = None if declared.rank is None else tuple(declared.as_list())
        flat = tf1.modernized(probe, loaded)
        self.converted = flat is not probe
        self.inference = Analysis(self._with_constants(flat, constants), flat.outputs[position])

    def _flat(self, training: bool) -> FlatGraph:
        endpoint = self.endpoint
        return _outside_strategy(
            lambda: flatten(lambda *tensors: endpoint.call(tensors, training), endpoint.specs, self.variables)
        )

    def _with_constants(self, flat: FlatGraph, constants: Constants) -> FlatGraph:
        """Makes weights that are constants trainable where that was asked for, and says how where it was not."""
        if constants not in ("fixed", "trainable"):
            raise BackboneError(f"Expected constants='fixed' or 'trainable'. Received: constants={constants!r}.")
        if constants == "fixed" and flat.variables:
            return flat
        kernels = find_kernels(flat)
        told = f"{len(kernels)} constants of the graph ({sum(kernels.values()):,} values)"
        if constants == "fixed":
            way = f' constants="trainable" makes variables of {told}.' if kernels else ""
            self.notes.append(f"The graph holds no variables, so it is used frozen, as a feature extractor.{way}")
            return flat
        if not kernels:
            raise BackboneError(
                'constants="trainable" found no constant in the graph that a matrix product, a convolution, a bias or '
                "a normalisation reads. Leave it out: the variables that the graph holds are trained without it."
            )
        self.notes.append(f"{told} became variables that are trained.")
        return with_trainable_kernels(flat)

    # ------------------------------------------------------------------ training graph

    def training_graph(self, batch_norm: BatchNorm, dropout: bool) -> Analysis | None:
        """Returns the training graph when it was asked for; refuses where it would do more than that."""
        if batch_norm not in ("fixed", "train"):
            raise BackboneError(f"Expected batch_norm='fixed' or 'train'. Received: batch_norm={batch_norm!r}.")
        if batch_norm == "fixed" and not dropout:
            return None
        asked = " and ".join(
            what
            for what, on in (("batch_norm='train'", batch_norm == "train"), ("backbone_dropout=True", dropout))
            if on
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
            self.notes.append(
                "The training graph moves no BatchNorm statistics, so batch_norm='train' changes nothing."
            )
        return analysis

    # ------------------------------------------------------------------------ assembly

    def open(self, name: str, training: Analysis | None, batch_norm: BatchNorm) -> Opened:
        """Builds the model, checks it, and falls back to one block where cutting changed the numbers."""
        pieces = find_pieces(self.inference)
        matched = None
        if training is not None:
            try:
                matched = match_pieces(self.inference, pieces, training)
            except NoMatch as error:
                raise BackboneError(f"The training graph cannot be used block by block: {error}.") from error
        model, difference, limit = self._build(name, pieces, training, matched, batch_norm)
        if difference > limit and len(pieces) > 1:
            note = f"not cut: cut into {len(pieces)} blocks, its output differed by {difference:.1g}"
            one = [whole(self.inference, "model", note)]
            model, difference, limit = self._build(name, one, None, None, "fixed")
            self.notes.append(f"The model stays one block ({note}).")
        if difference > limit:
            raise SavedModelError(
                f"The opened model differs from the SavedModel by {difference:.3g} (at most {limit:.3g} is accepted), "
                "so it is not used. Does the model draw random numbers or change its state in inference?"
            )
        self._note_unused()
        return Opened(model, tuple(self.notes), self.endpoint.label, self.output, difference)

    def _build(
        self,
        name: str,
        pieces: Sequence[Piece],
        training: Analysis | None,
        matched: Sequence[Piece] | None,
        batch_norm: str,
        trainable: bool = True,
    ) -> tuple[keras.Model, float, float]:
        maker = Maker(self.loaded, self.inference, training, self.trust, self.output_shape, trainable)
        layers = maker.layers(pieces, matched, batch_norm)
        sample = parity.sample_batch(self.endpoint.specs)
        if trainable and not self._gradients_agree(maker, layers, sample):
            return self._build(name, pieces, training, matched, batch_norm, trainable=False)
        self.used = {id(v) for layer in layers for v, _ in maker.pairs(layer)}
        model = self._connect(name, maker, layers)
        entering = sample[0] if self.endpoint.single else dict(zip(self.endpoint.input_keys, sample, strict=True))
        difference, limit = parity.largest_difference(model(entering, training=False), self._original(sample))
        return model, difference, limit

    def _original(self, sample: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.nest.flatten(self.endpoint.call(sample, False))[self.position]

    def _gradients_agree(self, maker: Maker, layers: Sequence[SavedModelBlock], sample: Sequence[tf.Tensor]) -> bool:
        """Tells whether dropping the custom gradients did no harm.

        A gradient that differs on purpose (straight-through, reversal) would be wrong without its
        Python function; such a model is frozen for good rather than trained wrongly.
        """
        pairs = [(v, k.value) for layer in layers for v, k in maker.pairs(layer) if k.trainable]
        if not pairs:
            return True
        theirs, ours = zip(*pairs, strict=True)
        if self.converted and not parity.differentiable(lambda: maker.chain(layers, sample), ours):
            self.notes.append(
                "TensorFlow cannot differentiate the loops of this graph, which are in the form of TF1, so the model "
                "can be used frozen only."
            )
            return False
        if not any("_gradient_op_type" in node.attr for node in self.inference.flat.graph_def.node):
            return True
        difference = parity.gradient_difference(
            lambda: self._original(sample), theirs, lambda: maker.chain(layers, sample), ours
        )
        if difference is None:
            self.notes.append("Saved without its custom gradients; the plain derivatives are used.")
        elif not parity.gradients_agree(difference):
            self.notes.append(
                f"The model has custom gradients that differ from the plain ones (by {difference:.0%}), and a "
                "SavedModel does not carry them in a usable form: it can be used frozen only."
            )
        return parity.gradients_agree(difference)

    def _connect(self, name: str, maker: Maker, layers: list[SavedModelBlock]) -> keras.Model:
        inputs = [
            _keras_input(spec, _keras_name(key), layers)
            for key, spec in zip(self.endpoint.input_keys, self.endpoint.specs, strict=True)
        ]
        output = maker.chain(layers, inputs)
        if self.endpoint.single:
            return keras.Model(inputs[0], output, name=name)
        return keras.Model(dict(zip(self.endpoint.input_keys, inputs, strict=True)), output, name=name)

    def _note_unused(self) -> None:
        unused = [v.name.split(":")[0] for v in self.variables if id(v) not in self.used]
        if unused:
            shown = ", ".join(unused[:4]) + (" and more" if len(unused) > 4 else "")
            where = f"output {self.output!r}" if self.output else "the output"
            self.notes.append(f"{len(unused)} variables do not contribute to {where} and are left out ({shown}).")


def _updates_statistics(flat: FlatGraph, update: str) -> bool:
    changed = updated_variable(flat, update)
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
