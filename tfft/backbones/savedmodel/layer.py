"""A Keras layer over one piece of a SavedModel's graph.

The layer owns its weights as Keras variables and carries its graph, compressed, in its config. So a
model made of such layers is an ordinary Keras model: it trains with any optimizer, freezes by
``layer.trainable``, clones, and a ``.keras`` file of it needs neither the original SavedModel nor the
network. Hidden here: which variables may train, and that a graph from a file is scanned before it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.backbones.savedmodel.block_graph import BlockGraph, ImportedGraph, count_multiply_adds
from tfft.backbones.savedmodel.graph import tensor_name
from tfft.backbones.savedmodel.lora_targets import Uses
from tfft.backbones.savedmodel.resources import make_resource
from tfft.backbones.savedmodel.scan import check_graph
from tfft.backbones.savedmodel.training_rewrites import rewrite_for_training
from tfft.backbones.savedmodel.variables import VariableSpec, check_size, kind_of
from tfft.backbones.text_ops import load_text_ops, ops_of_graph
from tfft.errors import BlockError, SavedModelError, TfftError, join_names, reason_of
from tfft.keras_compat import in_safe_mode
from tfft.layers.fast_gradients import use_fast_gradients
from tfft.layers.lora import LowRank, Pair


class _Runtime:
    """Functions and handles of a layer; a plain object, so that neither Keras nor TensorFlow tracks them."""

    slots: list[keras.Variable]
    tables: list[Any]
    inference: Callable[..., Any]
    training: Callable[..., Any] | None
    rewritten: Callable[..., Any] | None
    regularizers: list[Callable[[], tf.Tensor]]
    input_dtypes: dict[int, tf.DType]
    symbolic: dict[Any, Any]
    pairs: dict[int, Pair]
    flops: int | None = None


@keras.saving.register_keras_serializable(package="tfft")
class SavedModelBlock(keras.layers.Layer):
    """One block of an opened SavedModel.

    Made by :func:`tfft.load_backbone`; there is no reason to construct one by hand.

    Args:
        inference: Graph that runs in inference, and in training too unless ``training`` is given.
        variables: The block's variables, in order of first use.
        training: Graph that runs in training while the layer is trainable, or None.
        regularizers: Graphs that give the publisher's regularization losses of these variables.
        tables: Contents of lookup tables and SentencePiece models.
        selected: Which variables may train: ``"all"``, ``"none"``, ``"norm"``, ``"bias"``, or names.
        batch_norm: ``"train"`` where ``training`` moves statistics, else ``"fixed"``.
        note: Why the block is not cut further.
        output_shape: Shape of the result where the graph alone does not tell it, or None.
        trusted: True where the graph was let through in spite of what the scan found.
        low_rank: Settings of the low-rank updates, by name of the kernel; see :meth:`add_low_rank`.
        source_digest: Digest of the files that the block came from, see :func:`tfft.backbones.digest`; None if unknown.
        name: Name of the block.

    Call arguments:
        inputs: The tensor the previous block gave, followed by the model inputs that this block
            reads itself; one tensor, or a list of them.
        training: True inside ``fit``.

    Output shape:
        That of the tensor at the end of the piece.
    """

    is_tfft_block = True

    def __init__(
        self,
        inference: BlockGraph,
        variables: Sequence[VariableSpec],
        *,
        training: BlockGraph | None = None,
        regularizers: Sequence[BlockGraph] = (),
        tables: Sequence[Mapping[str, str]] = (),
        selected: str | Sequence[str] = "all",
        batch_norm: str = "fixed",
        note: str = "",
        output_shape: Sequence[int | None] | None = None,
        trusted: bool = False,
        low_rank: Mapping[str, Any] | None = None,
        source_digest: str | None = None,
        **kwargs: Any,
    ) -> None:
        trainable = kwargs.pop("trainable", True)
        kwargs["dtype"] = "float32"  # the graph's types are what the publisher saved
        super().__init__(autocast=False, **kwargs)
        self.batch_norm, self.note, self.trusted = batch_norm, note, trusted
        self.source_digest = source_digest
        self._known_shape = _Frozen(None if output_shape is None else tuple(output_shape))
        self._graphs = _Frozen((inference, training, tuple(regularizers)))
        self._specs = _Frozen(tuple(variables))
        self._table_contents = _Frozen(tuple(dict(t) for t in tables))
        self._selected = selected if isinstance(selected, str) else tuple(selected)
        load_text_ops(ops_of_graph(inference.graph_def), f"The block {kwargs.get('name')!r}")
        self.supports_jit = not (tables or inference.graph_def.library.function)
        self._runtime = _Runtime()
        self._runtime.symbolic = {}
        self._runtime.input_dtypes = inference.input_dtypes
        self._runtime.slots = [self._add_variable(spec) for spec in variables]
        self._runtime.tables = [self._add_table(i, table) for i, table in enumerate(tables)]
        self._runtime.pairs = {}
        self.built = True
        self.add_low_rank(low_rank or {})
        self.trainable = trainable
        self._apply_selection()  # Keras skips a setter that would not change the value

    # ------------------------------------------------------------------ variables

    def _add_variable(self, spec: VariableSpec) -> keras.Variable:
        return self.add_weight(
            shape=spec.shape,
            dtype=spec.dtype,
            initializer="zeros",
            trainable=spec.trainable,
            autocast=False,
            name=spec.name.replace("/", "."),
        )

    def _add_table(self, index: int, table: Mapping[str, str]) -> Any:
        made = make_resource(table)
        setattr(self, f"_table_{index}", made)  # tracked, so that an export takes it along
        return made

    @property
    def graph_variables(self) -> list[keras.Variable]:
        """The variables of the SavedModel, in the order the layer was made with, without low-rank updates."""
        return list(self._runtime.slots)

    @property
    def variable_names(self) -> tuple[str, ...]:
        """Names of the variables in the SavedModel, in the order of ``weights``."""
        names = {id(v): spec.name for v, spec in zip(self._runtime.slots, self._specs.value, strict=True)}
        for i, pair in self._runtime.pairs.items():
            name = self._specs.value[i].name
            names |= {id(pair.first): f"{name}/lora_a", id(pair.second): f"{name}/lora_b"}
        return tuple(names[id(v)] for v in self.weights)

    @property
    def can_train(self) -> bool:
        """Whether the publisher trains any of the variables."""
        return any(spec.trainable for spec in self._specs.value)

    @property
    def selected(self) -> str | tuple[str, ...]:
        """Which variables train while the layer is trainable."""
        return self._selected

    def set_trainable_variables(self, selected: str | Sequence[str]) -> None:
        """Choose which of the block's variables train; kept in ``.keras`` files.

        Args:
            selected: ``"all"``, ``"none"``, ``"norm"``, ``"bias"``, or names as in
                :attr:`variable_names`. What the publisher keeps fixed stays fixed.

        Raises:
            BlockError: For a name the block has no variable of, or when the block has low-rank updates, which
                are then all that trains.
        """
        if self._runtime.pairs and selected not in ("all", "none"):
            raise BlockError(
                f"Block {self.name!r} has low-rank updates, of which all or none train. Received: {selected!r}. "
                "Call tfft.freezing.merge_lora(model) first."
            )
        if not isinstance(selected, str):
            selected = tuple(selected)
            unknown = [name for name in selected if name not in self.variable_names]
            if unknown:
                raise BlockError(
                    f"Block {self.name!r} has no variable {join_names(unknown)}. It has: "
                    f"{join_names(self.variable_names)}."
                )
        elif selected not in ("all", "none", "norm", "bias"):
            raise BlockError(f"Expected 'all', 'none', 'norm', 'bias' or a list of names. Received: {selected!r}.")
        self._selected = selected
        self._apply_selection()

    @property
    def trainable(self) -> bool:
        """Whether the block trains; setting it never unfreezes what the slice or the publisher keeps fixed."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self._apply_selection()

    def _apply_selection(self) -> None:
        pairs = self._runtime.pairs.values()
        for variable, spec in zip(self._runtime.slots, self._specs.value, strict=True):
            variable.trainable = self._trainable and spec.trainable and not pairs and self._is_selected(spec)
        for pair in pairs:
            pair.first.trainable = pair.second.trainable = self._trainable and self._selected == "all"

    def _is_selected(self, spec: VariableSpec) -> bool:
        if isinstance(self._selected, tuple):
            return spec.name in self._selected
        return self._selected in ("all", kind_of(spec.name))

    # ----------------------------------------------------------- low-rank updates

    @property
    def low_rank_pairs(self) -> tuple[Pair, ...]:
        """The low-rank updates that the block has."""
        return tuple(self._runtime.pairs.values())

    def kernels(self) -> dict[str, int]:
        """Return the kernels that a low-rank update fits, with the number of their axes that are rows.

        A kernel is a variable that the publisher trains, that is only ever read as a whole, and that enters a
        matrix product or a convolution (not a depthwise one).
        """
        inference, training, regularizers = self._graphs.value
        rest = [(graph, Uses(graph.graph_def)) for graph in (training, *regularizers) if graph is not None]
        uses, found = Uses(inference.graph_def), {}
        for handle, i in inference.variables.items():
            spec = self._specs.value[i]
            split = uses.split(handle, spec.shape) if spec.trainable else None
            others = [u.reads(h) for graph, u in rest for h, j in graph.variables.items() if j == i]
            if split is not None and None not in others:
                found[spec.name] = split
        return found

    def add_low_rank(self, settings: Mapping[str, Any]) -> None:
        """Add low-rank updates to kernels; as long as there are any, they are all that trains in the block.

        Args:
            settings: By name of the kernel; names and splits as :meth:`kernels` gives them.
        """
        positions = {spec.name: i for i, spec in enumerate(self._specs.value)}
        for name, one in settings.items():
            i = positions[name]
            pair = Pair.on(self, self._runtime.slots[i], LowRank.from_config(one), f"{name.replace('/', '.')}.")
            self._runtime.pairs[i] = pair
        self._make_functions()
        self._apply_selection()

    def merge_low_rank(self) -> None:
        """Add the updates to their kernels and take them away."""
        for pair in self._runtime.pairs.values():
            pair.merge_from(self)
        self._runtime.pairs = {}
        self._make_functions()
        self._apply_selection()

    def assign_values(self, values: Sequence[Any]) -> None:
        """Set the variables, in the order the layer was made with."""
        for variable, value in zip(self._runtime.slots, values, strict=True):
            variable.assign(value)

    # ---------------------------------------------------------------- computation

    @property
    def runs_training_graph(self) -> bool:
        """Whether training computes something else than inference: the publisher's training graph."""
        return bool(self.trainable and self._runtime.training is not None)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the piece on the previous block's tensor and the model inputs it reads itself."""
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        tensors = [self._cast(i, t) for i, t in enumerate(tensors)]
        function = self._runtime.inference
        if training and self.runs_training_graph and self._runtime.training is not None:
            function = self._runtime.training
        elif training and use_fast_gradients():
            function = self._rewritten(tensors)
        if self.trainable:
            for regularizer in self._runtime.regularizers:
                self.add_loss(regularizer())
        return function(*tensors)

    def _rewritten(self, tensors: Sequence[Any]) -> Callable[..., Any]:
        """Return the inference graph with quicker gradients; made when it is first needed."""
        if self._runtime.rewritten is None:
            (inference, _, _), shape = self._graphs.value, self._known_shape.value
            rewritten = rewrite_for_training(inference, [spec.shape for spec in self._specs.value])
            self._runtime.rewritten = self._runtime.inference
            if rewritten is not inference and self._fits(rewritten, tensors):
                self._runtime.rewritten = self._function(rewritten, shape)
        return self._runtime.rewritten

    def _fits(self, graph: BlockGraph, tensors: Sequence[Any]) -> bool:
        """Whether the shapes of a graph fit each other: a convolution of groups of channels is not a matrix product."""
        try:
            self._infer(graph, tensors)
        except ValueError:
            return False
        return True

    def _cast(self, position: int, tensor: Any) -> Any:
        wanted = self._runtime.input_dtypes.get(position)
        return tensor if wanted is None or tensor.dtype == wanted else tf.cast(tensor, wanted)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        """Shape and type of the result for symbolic inputs."""
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        key = tuple((t.shape, t.dtype) for t in tensors)
        if key not in self._runtime.symbolic:
            self._runtime.symbolic[key] = self._infer(self._graphs.value[0], tensors)
        out, self._runtime.flops = self._runtime.symbolic[key]
        return keras.KerasTensor(tuple(out.shape.as_list()), out.dtype.name)

    def _infer(self, graph: BlockGraph, tensors: Sequence[Any]) -> tuple[tf.TensorSpec, int]:
        """Shape of the result and multiply-adds, from importing a graph once for these input shapes."""
        dtypes = self._runtime.input_dtypes
        with tf.Graph().as_default() as scratch:
            entering = [
                tf.compat.v1.placeholder(dtypes.get(i, tf.as_dtype(t.dtype)), t.shape) for i, t in enumerate(tensors)
            ]
            feeds = {f"{name}:0": entering[i] for name, i in graph.feeds.items()}
            for name, i in graph.variables.items():
                spec = self._specs.value[i]
                feeds[f"{name}:0"] = tf.raw_ops.VarHandleOp(dtype=tf.as_dtype(spec.dtype), shape=spec.shape)
            (out,) = tf.graph_util.import_graph_def(
                graph.graph_def, input_map=feeds, return_elements=[tensor_name(graph.end)], name=""
            )
            if self._known_shape.value is not None:
                out.set_shape(self._known_shape.value)
            return tf.TensorSpec(out.shape, out.dtype), count_multiply_adds(scratch)

    @property
    def flops(self) -> int | None:
        """Multiply-adds of the matrix products and convolutions for one example, at the shape last built for."""
        return self._runtime.flops

    def _make_functions(self) -> None:
        (inference, training, regularizers), shape = self._graphs.value, self._known_shape.value
        self._runtime.inference, self._runtime.rewritten = self._function(inference, shape), None
        self._runtime.training = None if training is None else self._function(training, shape)
        self._runtime.regularizers = [self._function(graph) for graph in regularizers]

    def _function(self, graph: BlockGraph, shape: Sequence[int | None] | None = None) -> Callable[..., Any]:
        imported = ImportedGraph(graph, self._runtime.slots, self._runtime.tables, shape, self._runtime.pairs)
        return tf.function(imported, autograph=False, reduce_retracing=True)

    # -------------------------------------------------------------- serialization

    def get_config(self) -> dict[str, Any]:
        """Everything that makes the layer again but the values of its variables."""
        inference, training, regularizers = self._graphs.value
        config = super().get_config()
        config.pop("dtype", None)
        if self._runtime.pairs:  # absent otherwise: the config of a plain block is what it always was
            names = [spec.name for spec in self._specs.value]
            config["low_rank"] = {names[i]: pair.settings.to_config() for i, pair in self._runtime.pairs.items()}
        if self.source_digest:
            config["source_digest"] = self.source_digest
        return {
            **config,
            "inference": inference.to_config(),
            "training": None if training is None else training.to_config(),
            "regularizers": [graph.to_config() for graph in regularizers],
            "variables": [dataclasses.asdict(spec) for spec in self._specs.value],
            "tables": [dict(t) for t in self._table_contents.value],
            "selected": self._selected if isinstance(self._selected, str) else list(self._selected),
            "batch_norm": self.batch_norm,
            "note": self.note,
            "output_shape": self._known_shape.value,
            "trusted": self.trusted,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SavedModelBlock:
        """Make a layer from :meth:`get_config`'s result; refuse graphs that fail the scan unless safe mode is off."""
        try:
            return cls._from_config(dict(config))
        except TfftError:
            raise
        except Exception as error:  # a config from a stranger can hold anything
            raise SavedModelError(
                f"The block {config.get('name')!r} in the file is damaged: {type(error).__name__}: {reason_of(error)}"
            ) from error

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> SavedModelBlock:
        # The config's own word that it is trusted counts for nothing: only the user can switch safe mode off.
        return cls.from_scanned_config(config, scan=in_safe_mode() is not False)

    @classmethod
    def from_scanned_config(cls, config: dict[str, Any], *, scan: bool = False) -> SavedModelBlock:
        """Make a layer from a config whose graphs were scanned before, or are scanned here.

        Args:
            config: As :meth:`get_config` gives it, of this process unless ``scan`` is True.
            scan: Whether graphs that may reach outside of themselves are refused.
        """
        config = dict(config)
        graphs = {
            "inference": BlockGraph.from_config(config.pop("inference")),
            "training": config.pop("training"),
            "regularizers": [BlockGraph.from_config(g) for g in config.pop("regularizers")],
        }
        if graphs["training"] is not None:
            graphs["training"] = BlockGraph.from_config(graphs["training"])
        specs = [VariableSpec(**{**v, "shape": tuple(v["shape"])}) for v in config.pop("variables")]
        if scan:
            name = f"block {config.get('name')!r}"
            for graph in [graphs["inference"], graphs["training"], *graphs["regularizers"]]:
                if graph is not None:
                    check_graph(graph.graph_def, name, "safe_mode=False")
            check_size(specs, name)
        return cls(variables=specs, **graphs, **config)


@dataclasses.dataclass(frozen=True, eq=False)
class _Frozen:
    """Keeps Keras from wrapping and tracking what a layer merely remembers."""

    value: Any
