"""The common form of all backbones: a Keras model, its input contract and its blocks.

The rest of tfft sees only :class:`Backbone` and :func:`blocks_of`; whether a block is one layer over
a piece of a SavedModel's graph or a handful of Keras layers is hidden here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from tfft import register_layers
from tfft.backbones import blocks as block_cuts
from tfft.errors import BackboneError
from tfft.keras_compat import flatten_layers, inbound_nodes, own_trainable_variables, producer
from tfft.layers.pair_tokenizer import PairTokenizer, TargetTokenizer
from tfft.layers.tokenize import Tokenize
from tfft.layers.waveform import EachWave
from tfft.specs import InputSpec, TextSpec

# The names under which `tfft.build` puts these layers into a model.
BACKBONE_LAYER, PREPROCESS_LAYER, TOKENS_LAYER = "backbone", "preprocess", "tokens"


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A part of a backbone that is frozen or trained as a unit.

    Attributes:
        name: Unique within the backbone, in the order of computation.
        layers: The Keras layers it consists of, in order.
        note: Why it is not cut further, where that was tried; otherwise empty.
        ends: Operations and layers in it that the whole computation passes through (in networks of cells: that later
            cells read), in order; the next block reads the output of the last. Empty where it is not known.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]
    note: str = ""
    ends: tuple[Any, ...] = ()

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables of the block, without the state of random generators."""
        return [v for layer in self.layers for v in layer.weights]

    @property
    def parameters(self) -> int:
        """Number of values in the block's variables."""
        return count_values(self.variables)

    @property
    def trainable_parameters(self) -> int:
        """Number of values that training would change now."""
        return count_values([v for layer in self.layers for v in layer.trainable_weights])


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderDecoder:
    """Network of an encoder with its pretrained decoder, which gives logits of the next token.

    Attributes:
        model: Functional Keras model from the input of the encoder and tokens to logits; it shares its variables with
            the encoder.
        tokenizer: Makes the tokens of the target.
        notes: What was assumed when it was opened, one sentence each.
    """

    model: keras.Model
    tokenizer: TargetTokenizer
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A pretrained network without a task: pixels, texts or token ids in, features out.

    Attributes:
        name: Short name.
        model: Functional Keras model; images enter it scaled as ``input_spec`` says.
        origin: The handle it was made from.
        input_spec: The pixels it expects; None where the input is not one image.
        notes: What was assumed or left out when it was opened, one sentence each.
        tokenizer: Makes the model's inputs of texts; None where the model takes no text, or takes it as it is.
        text_spec: What it does with text; None where the input is not text.
        digest: Digest of the files it was opened from, see :func:`tfft.backbones.digest`; None where there are none.
        endpoint: What of a SavedModel is called, with its inputs and outputs, in words; empty for other formats.
        pretrained: Whether the weights were trained before; False for an architecture with random weights, which plans
            train as a whole from the start.
        pair_tokenizer: For an encoder-decoder, whose outputs are logits of the next token: makes tokens of source and
            target; None for other models.
        target_tokenizer: For an encoder-decoder that takes another input than texts, and whose outputs are logits of
            the next token: makes tokens of the target; None for other models.
        encoder_decoder: For an encoder that was opened with its pretrained decoder: the whole network; None for others.
        encoder: For the whole network of such an encoder: the encoder; None for others.
            :meth:`with_decoder` opens it.
    """

    name: str
    model: keras.Model
    origin: str
    input_spec: InputSpec | None = None
    notes: tuple[str, ...] = ()
    tokenizer: Tokenize | None = None
    text_spec: TextSpec | None = None
    digest: str | None = None
    endpoint: str = ""
    pretrained: bool = True
    pair_tokenizer: PairTokenizer | None = None
    target_tokenizer: TargetTokenizer | None = None
    encoder_decoder: EncoderDecoder | None = None
    encoder: keras.Model | None = None

    @property
    def blocks(self) -> list[Block]:
        """The blocks in the order of computation; they hold every variable of the model."""
        return _blocks_within(self.model)

    def with_decoder(self) -> Backbone:
        """Return the whole network of an encoder that was opened with its decoder; itself if it has one already.

        Raises:
            BackboneError: If it has none.
        """
        if self.target_tokenizer is not None:
            return self
        whole = self.encoder_decoder
        if whole is None:
            raise BackboneError(
                f"Expected a backbone with a pretrained decoder and its vocabulary, such as a KerasHub preset of "
                f"Moonshine. Received: {self.name}, which has none."
            )
        return dataclasses.replace(
            self, model=whole.model, target_tokenizer=whole.tokenizer, notes=whole.notes, encoder_decoder=None,
            encoder=self.model,
        )  # fmt: skip

    @property
    def can_train(self) -> bool:
        """Whether there is a variable that could be unfrozen; not so for graphs of constants and LiteRT models."""
        layers = [layer for block in self.blocks for layer in block.layers]
        return any(getattr(layer, "can_train", bool(layer.weights)) for layer in layers)


def count_values(variables: Sequence[keras.Variable]) -> int:
    """Return the number of values in variables, each variable counted once."""
    return sum(math.prod(variable.shape) for variable in {id(v): v for v in variables}.values())


def find_backbone(model: keras.Model) -> keras.Model:
    """Return the backbone inside a model.

    That is its layer ``"backbone"`` (what :func:`tfft.build` makes), or the one nested model it has
    (how Keras users put a network under a head), or the model itself.
    """
    if model.name == BACKBONE_LAYER:
        return model
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    named = [layer for layer in nested if layer.name == BACKBONE_LAYER]
    if named:
        return named[0]
    return find_backbone(nested[0]) if len(nested) == 1 and nested[0].weights else model


def head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers outside of the backbone that have variables."""
    backbone = find_backbone(model)
    if backbone is model:
        return []

    def outside(parent: keras.Model) -> list[keras.layers.Layer]:
        found: list[keras.layers.Layer] = []
        for layer in parent.layers:
            if layer is backbone:
                continue
            found += outside(layer) if isinstance(layer, keras.Model) else [layer] if layer.weights else []
        return found

    return outside(model)


def blocks_of(model: keras.Model) -> list[Block]:
    """Return the blocks of any Keras model, in the order of computation.

    A layer that tfft made from a piece of a SavedModel is a block. The layers of other functional
    models are grouped: cut where the whole computation passes through one layer, and named by the
    layers' common prefix. A model that Keras cannot look into is one block.

    Args:
        model: Any built Keras model; the backbone inside it is found by :func:`find_backbone`.
    """
    return _blocks_within(find_backbone(model))


def _blocks_within(network: keras.Model) -> list[Block]:
    """The blocks of a network taken whole: every layer with variables is in exactly one."""
    if not isinstance(network, keras.Sequential) and not hasattr(network, "operations"):
        note = "not cut: a subclassed model has no graph to look into"
        return [Block(network.name, tuple(network.layers), note, (network,))]
    weighted = [layer for layer in network.layers if layer.weights]
    composite = [layer for layer in weighted if isinstance(layer, (keras.Model, EachWave)) or is_opened(layer)]
    if not composite or _are_details(composite, len(weighted)):
        return _group_layers(network)
    blocks: list[Block] = []
    for layer in weighted:
        inner = layer.network if isinstance(layer, EachWave) else layer
        if isinstance(inner, keras.Model):
            blocks += _blocks_within(inner)
        else:
            blocks.append(Block(layer.name, (layer,), getattr(layer, "note", ""), (layer,)))
    return _uniquely_named(blocks)


def _are_details(composite: Sequence[keras.layers.Layer], count: int) -> bool:
    """Whether nested models are layers among others (the downsampling of ConvNeXt), not networks to look into."""
    if not all(isinstance(layer, keras.Sequential) for layer in composite):
        return False
    inside = [layer for network in composite for layer in network.layers if layer.weights]
    return len(inside) <= count - len(composite)


def is_opened(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a block that tfft cut out of a SavedModel."""
    return bool(getattr(layer, "is_tfft_block", False))


def _uniquely_named(blocks: list[Block]) -> list[Block]:
    used: set[str] = set()
    out = []
    for block in blocks:
        name, n = block.name, 2
        while name in used:
            name, n = f"{block.name}_{n}", n + 1
        used.add(name)
        out.append(dataclasses.replace(block, name=name))
    return out


def _group_layers(model: keras.Model) -> list[Block]:
    # Operations, not layers: `x + y` on Keras tensors is a node of the graph but no layer.
    every = model.layers if isinstance(model, keras.Sequential) else model.operations
    layers = [layer for layer in every if not isinstance(layer, keras.layers.InputLayer)]
    by_name = {layer.name: layer for layer in layers}
    order = [layer.name for layer in layers]
    reads = {name: _inputs_of(layer, by_name) for name, layer in by_name.items()}
    if isinstance(model, keras.Sequential):
        reads = {name: [order[i - 1]] if i else [] for i, name in enumerate(order)}
    tainted: dict[str, bool] = {}
    for name in order:
        tainted[name] = bool(_weights(by_name[name])) or any(tainted.get(p) for p in reads[name])
    heavy = [name for name in order if tainted[name]]
    if not heavy:
        return [Block(model.name, tuple(model.layers), "")] if layers else []
    outputs = {producer(t).name for t in keras.tree.flatten(model.outputs)}
    sinks = _last([name for name in heavy if name in outputs] or [heavy[-1]], reads)
    if len(sinks) > 1:
        note = "not cut: the model has several outputs"
        return [Block(model.name, tuple(model.layers), note)]
    cuts = block_cuts.dominator_chain(heavy, reads, sinks[0])
    cuts, level, cells = block_cuts.cell_cuts(heavy, reads, cuts)
    paths: list[list[str]] = [[] for _ in cuts]
    members: list[list[keras.layers.Layer]] = [[] for _ in cuts]
    fixed: set[str] = set()
    for name in order:
        at = min(level.get(name, 0), len(cuts) - 1)
        if isinstance(by_name[name], keras.layers.Layer):
            members[at].append(by_name[name])
        own = [f"{cells.get(name, name)}/{v.path.split('/')[-1]}" for v in _weights(by_name[name])]
        paths[at] += own
        fixed |= set() if _can_train(by_name[name]) else set(own)
    groups = block_cuts.group_segments(paths, cuts, fixed)
    return [
        Block(
            g.name,
            tuple(la for m in members[g.start : g.stop] for la in m),
            g.note,
            tuple(by_name[cut] for cut in cuts[g.start : g.stop]),
        )
        for g in groups
    ]


def _last(outputs: list[str], reads: dict[str, list[str]]) -> list[str]:
    """Return the outputs that no other output is computed from: of a feature pyramid, the coarsest map alone."""
    before: set[str] = set()
    for name in outputs:
        waiting = list(reads[name])
        while waiting:
            one = waiting.pop()
            if one not in before:
                before.add(one)
                waiting += reads.get(one, ())
    return [name for name in outputs if name not in before]


def _weights(operation: Any) -> list[keras.Variable]:
    return operation.weights if isinstance(operation, keras.layers.Layer) else []


def _can_train(operation: Any) -> bool:
    """Whether a layer has variables that train unless they are frozen, as Normalization has not."""
    return any(own_trainable_variables(part) for part in flatten_layers(operation)) if _weights(operation) else True


def _inputs_of(layer: Any, known: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for node in inbound_nodes(layer):
        for tensor in node.input_tensors:
            source = producer(tensor).name
            if source in known and source != layer.name:
                found[source] = None
    return list(found)


def names_of(blocks: Sequence[Block]) -> list[str]:
    """Return the names of blocks, in order."""
    return [block.name for block in blocks]


COMPLETE = True
"""Marks the end of this module: only now can the registered layers, which import it, be imported."""
register_layers(keras)
