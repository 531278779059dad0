"""From a folder with a SavedModel to a functional Keras model of blocks.

The steps: scan, load, trace for inference (and training where asked), flatten, cut, one Keras layer
for each piece, and a self-check against the SavedModel on a small random batch.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfft.backbones.savedmodel import parity
from tfft.backbones.savedmodel.adapting import Adapted, adapt, for_each_example
from tfft.backbones.savedmodel.constants import find_kernels, with_trainable_kernels
from tfft.backbones.savedmodel.endpoint import find_endpoint, output_keys
from tfft.backbones.savedmodel.features import choose_features
from tfft.backbones.savedmodel.graph import FlatGraph
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.backbones.savedmodel.layer_builder import Maker
from tfft.backbones.savedmodel.loading import load, outside_strategy
from tfft.backbones.savedmodel.noise import differs, noted, without_noise
from tfft.backbones.savedmodel.packages import needs
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
from tfft.backbones.savedmodel.pixel_range import PixelRange, find_pixel_range
from tfft.backbones.savedmodel.resources import known_keys
from tfft.backbones.savedmodel.scan import read_meta_graphs
from tfft.backbones.savedmodel.signature_names import output_names, with_input_names
from tfft.errors import (
    BackboneError,
    DependencyError,
    SavedModelError,
    TfftError,
    UnsafeModelError,
    join_names,
    reason_of,
)

BatchNorm = Literal["fixed", "train"]
Constants = Literal["fixed", "trainable"]
_DRAWS = 5  # comparisons of a model that draws random numbers: two calls may happen to draw the same


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """An opened SavedModel.

    Attributes:
        model: Functional Keras model; each layer but the inputs is a block.
        notes: What was left out or could not be done, one sentence each.
        endpoint: What of the SavedModel is called, with its inputs and outputs, in words.
        output: Key of the chosen output; empty where there is only one.
        largest_difference: Largest difference between the opened model and the SavedModel in the self-check.
        pixels: The range of pixels it takes, where its only input is images in floating-point numbers.
    """

    model: keras.Model
    notes: tuple[str, ...]
    endpoint: str
    output: str
    largest_difference: float
    pixels: PixelRange | None = None


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
    per_example: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Opened:
    """Open a SavedModel: same numbers, but made of Keras layers that can be frozen one by one.

    Args:
        path: The folder.
        name: Name of the Keras model; the folder's name by default.
        output: Which output to use where there are several.
        prefer: Outputs that are taken, where there are, before the one that the publisher calls default.
        signature: Which signature or saved function to call; chosen automatically by default.
        tags: Tags of the meta graph, for SavedModels with several.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics in training; ``"train"`` runs the
            publisher's training graph in trainable blocks.
        backbone_dropout: True keeps the publisher's dropout in training, which also needs that graph.
        constants: ``"trainable"`` makes variables of the weights that the graph holds as constants.
        trust: True loads a model in spite of what the scan found.
        per_example: True for a SavedModel whose inputs have no batch axis: it is called once for each example.
        image_size: Height and width in pixels of the images that it shall take, where it was saved for others.

    Returns:
        The opened model.

    Raises:
        SavedModelError: When it is not a SavedModel or cannot be opened.
        UnsafeModelError: When it may reach outside of itself.
        BackboneError: When the training graph was asked for and cannot be used, or the graph cannot take this size.

    Example:
        >>> opened = open_savedmodel("efficientnet_lite0_feature_vector")
        >>> [layer.name for layer in opened.model.layers][:3]
        ['inputs', 'stem', 'block0']
    """
    folder = pathlib.Path(path)
    name = _keras_name(name or folder.name)
    try:
        loaded, left_out = load(folder, tags, trust, signature)
        endpoint = with_input_names(loaded, find_endpoint(loaded, signature, per_example=per_example))
        adapted = outside_strategy(lambda: adapt(endpoint, loaded, per_example, image_size))
        opener = Opener(loaded, adapted, output, prefer, trust, constants)
        opener.notes += left_out
        training = opener.training_graph(batch_norm, backbone_dropout)
        return opener.open(name, training, batch_norm)
    except SavedModelError as error:
        known = [] if isinstance(error, UnsafeModelError) else read_meta_graphs(folder)
        if missing := " ".join(filter(None, map(needs, known))):
            raise DependencyError(f"{str(folder)!r} cannot be opened. {missing}") from error
        raise
    except TfftError:
        raise
    except Exception as error:  # a damaged graph fails wherever TensorFlow comes to need what is missing
        raise SavedModelError(
            f"{str(folder)!r} was loaded and cannot be opened: {type(error).__name__}: {reason_of(error)}"
        ) from error


def _keras_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") or "backbone"


class Opener:
    """Carries what the steps of one opening share."""

    def __init__(
        self,
        loaded: Any,
        adapted: Adapted,
        output: str | None,
        prefer: Sequence[str] = (),
        trust: bool = False,
        constants: Constants = "fixed",
    ) -> None:
        self.loaded, self.endpoint, self.trust = loaded, adapted.endpoint, trust
        self.batch_axis, self.rows = adapted.batch_axis, adapted.rows
        self.notes = list(adapted.notes)
        self.variables = [v for v in getattr(loaded, "variables", None) or () if v is not None]
        self.frozen: list[str] = []
        self.converted = adapted.converted
        flat = self._with_constants(adapted.flat, constants)
        flat, self.noise = without_noise(flat)
        names = output_names(loaded, flat, output_keys(flat.structure))
        self.choice = choose_features(flat, output, prefer, names)
        self.notes += [*self.choice.notes, *noted(self.choice, self.noise)]
        self.output, self.inference = self.choice.name, self.choice.analysis

    def _with_constants(self, flat: FlatGraph, constants: Constants) -> FlatGraph:
        """Make weights that are constants trainable where that was asked for, and say how where it was not."""
        if constants not in ("fixed", "trainable"):
            raise BackboneError(f"Expected constants='fixed' or 'trainable'. Received: constants={constants!r}.")
        if constants == "fixed" and flat.variables:
            return flat
        kernels = find_kernels(flat)
        described = (
            f"{len(kernels)} constant{'s' * (len(kernels) != 1)} of the graph ({sum(kernels.values()):,} values)"
        )
        if constants == "fixed":
            way = f' constants="trainable" makes {described} trainable.' if kernels else ""
            self.notes.append(f"The graph holds no variables, so it is used frozen, as a feature extractor.{way}")
            return flat
        if not kernels:
            raise BackboneError(
                'constants="trainable" found no constant in the graph that a matrix product, a convolution, a bias or '
                "a normalization reads. Leave it out: the variables that the graph holds are trained without it."
            )
        became = "became a variable that is trained" if len(kernels) == 1 else "became variables that are trained"
        self.notes.append(f"{described} {became}.")
        return with_trainable_kernels(flat)

    # ------------------------------------------------------------------ training graph

    def training_graph(self, batch_norm: BatchNorm, dropout: bool) -> Analysis | None:
        """Return the training graph when it was asked for; refuse where it would do more than that."""
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
        flat = outside_strategy(lambda: self.endpoint.flat(self.variables, training=True))
        try:
            analysis = self.choice.in_training(flat)
        except NoMatch as error:
            raise BackboneError(f"The training graph cannot be used up to this tensor: {error}.") from error
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
        """Build the model, check it, and fall back to one block where cutting changed the numbers."""
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
            raise differs(difference, limit, self.choice)
        self._note_unused()
        if self.frozen:
            self.notes.append(
                f"Frozen when the model was saved, and kept frozen: {join_names(self.frozen)}. tfft.unfreeze trains "
                "them."
            )
        if self.batch_axis is not None:
            model = for_each_example(model, self.batch_axis, self.rows)
        taken = self.endpoint.specs[0] if self.endpoint.single else None
        pixels = None if taken is None else find_pixel_range(self.inference, taken, self.choice.whole)
        return Opened(model, tuple(self.notes), str(self.endpoint), self.output, difference, pixels)

    def _build(
        self,
        name: str,
        pieces: Sequence[Piece],
        training: Analysis | None,
        matched: Sequence[Piece] | None,
        batch_norm: str,
        trainable: bool = True,
    ) -> tuple[keras.Model, float, float]:
        maker = Maker(self.loaded, self.inference, training, self.trust, self.choice.shape, trainable)
        layers = maker.layers(pieces, matched, batch_norm)
        sample, reference = self._checked_on
        if trainable and not self._gradients_agree(maker, layers, sample):
            return self._build(name, pieces, training, matched, batch_norm, trainable=False)
        self.frozen = maker.freeze_as_saved(layers)
        self.used = {id(v) for layer in layers for v, _ in maker.pairs(layer)}
        model = self._connect(name, maker, layers)
        entering = sample[0] if self.endpoint.single else dict(zip(self.endpoint.input_keys, sample, strict=True))
        draws = _DRAWS if random_ops(self.inference.flat, self.inference.order) else 1
        found = [parity.largest_difference(model(entering, training=False), reference) for _ in range(draws)]
        return model, *max(found)

    @functools.cached_property
    def _checked_on(self) -> tuple[list[tf.Tensor], tf.Tensor]:
        """A batch that the SavedModel takes, and what the opened model must give for it."""
        sample, reference, only_known = parity.accepted_batch(
            self.endpoint.checked_specs, self._reference, lambda: known_keys(self.inference.flat)
        )
        if only_known:
            self.notes.append(
                "WARNING: The model takes only words and numbers that its tables know and fails on all others, since "
                "its embedding has no row for the unknown (num_oov_indices=0). Leave examples with others out."
            )
        return sample, reference

    def _original(self, sample: Sequence[tf.Tensor]) -> tf.Tensor:
        """The output of the SavedModel itself."""
        results = tf.nest.flatten(self.endpoint.call(sample, False), expand_composites=True)
        return [result for result in results if result is not None][self.choice.position]

    def _reference(self, sample: Sequence[tf.Tensor]) -> tf.Tensor:
        """What the opened model must give: the output, or another tensor of a graph that gives the same output."""
        original = self._original(sample)
        if not self.noise.keys().isdisjoint(self.choice.whole.order):  # its output changes with every call
            return self.choice.run(sample)[0]
        if not self.choice.inside:
            return original
        features, end = self.choice.run(sample)
        difference, limit = parity.largest_difference(end, original)
        if difference > limit:
            raise differs(difference, limit, self.choice)
        return features

    def _gradients_agree(self, maker: Maker, layers: Sequence[SavedModelBlock], sample: Sequence[tf.Tensor]) -> bool:
        """Whether dropping the custom gradients did no harm.

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
                "can only be used frozen."
            )
            return False
        if not any("_gradient_op_type" in node.attr for node in self.inference.flat.graph_def.node):
            return True
        if self.choice.inside:  # the SavedModel gives its own output only; both sides are its graph with its variables
            difference = parity.gradient_difference(
                lambda: self._original(sample), theirs, lambda: self.choice.run(sample)[1], theirs
            )
        else:
            difference = parity.gradient_difference(
                lambda: self._original(sample), theirs, lambda: maker.chain(layers, sample), ours
            )
        if difference is None:
            self.notes.append("Saved without its custom gradients; the plain derivatives are used.")
        elif not parity.gradients_agree(difference):
            self.notes.append(
                f"The model has custom gradients that differ from the plain ones (by {difference:.0%}), and a "
                "SavedModel does not carry them in a usable form: it can only be used frozen."
            )
        return parity.gradients_agree(difference)

    def _connect(self, name: str, maker: Maker, layers: list[SavedModelBlock]) -> keras.Model:
        inputs = [
            _keras_input(spec, _keras_name(key), layers, self.batch_axis is not None)
            for key, spec in zip(self.endpoint.input_keys, self.endpoint.specs, strict=True)
        ]
        output = maker.chain(layers, inputs)
        if self.endpoint.single:
            return keras.Model(inputs[0], output, name=name)
        return keras.Model(dict(zip(self.endpoint.input_keys, inputs, strict=True)), output, name=name)

    def _note_unused(self) -> None:
        unused = [v.name.split(":")[0] for v in self.variables if id(v) not in self.used]
        if unused:
            verbs = "variable does not contribute" if len(unused) == 1 else "variables do not contribute"
            shown = ", ".join(unused[:4]) + (" and more" if len(unused) > 4 else "")
            where = f"output {self.output!r}" if self.output else "the output"
            self.notes.append(
                f"{len(unused)} {verbs} to {where} and {'is' if len(unused) == 1 else 'are'} left out ({shown})."
            )


def _updates_statistics(flat: FlatGraph, update: str) -> bool:
    changed = updated_variable(flat, update)
    return any(id(v) == changed and v.dtype.is_floating for v in flat.variables.values())


def _keras_input(spec: tf.TensorSpec, key: str, layers: Sequence[SavedModelBlock], per_example: bool) -> Any:
    taken = {layer.name for layer in layers}
    name = f"input_{key}" if key in taken else key
    shape = spec.shape.as_list()
    if not shape and not per_example:
        raise SavedModelError(
            f"The input {key!r} is a single value, and a model needs a batch dimension. per_example=True calls the "
            "model once for each example."
        )
    if shape and shape[0] is None:
        return keras.Input(shape=shape[1:], dtype=spec.dtype.name, name=name)
    return keras.Input(batch_shape=shape, dtype=spec.dtype.name, name=name)
