"""Finds what can be called on a restored SavedModel, and calls it with flat tensors.

SavedModels come in several dialects: reusable ones with ``__call__(inputs, training)``, Keras exports
with ``serve``, signatures only, and TF1 Hub modules with tags. :class:`Endpoint` hides which it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph, flatten
from tfft.errors import BackboneError, SavedModelError, did_you_mean, join_names


@dataclasses.dataclass(frozen=True, eq=False)
class Endpoint:
    """One way to call a restored SavedModel.

    Attributes:
        label: How it is called, in words.
        function: The restored function.
        arguments: Its arguments by position: nests of TensorSpec for inputs, values for the rest.
        keywords: The same for keyword arguments.
        input_keys: Names of the flattened input tensors.
        specs: Their shapes and types.
        training: Place of the ``training`` argument (position or name); None where there is none.
        has_training: Whether it was also saved for training.
        single: True when the input is one bare tensor.
        outputs: Nest of the specs of its results.
        inference: What ``training`` is in inference: False, or None where it was only saved for its default None.
        note: Why it was chosen where that is not obvious, as a sentence; empty otherwise.
    """

    label: str
    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    input_keys: tuple[str, ...]
    specs: tuple[tf.TensorSpec, ...]
    training: int | str | None
    has_training: bool
    single: bool
    outputs: Any = None
    inference: bool | None = False
    note: str = ""

    def __str__(self) -> str:
        """The endpoint with its inputs and outputs, as ``serve(x: float32 (None, 4)) -> y: float32 (None, 2)``."""
        takes = join_names(f"{key}: {_spec_text(spec)}" for key, spec in zip(self.input_keys, self.specs, strict=True))
        leaves = [("/".join(path), leaf) for path, leaf in _flatten_with_paths(self.outputs)]
        gives = join_names(f"{key}: {_spec_text(leaf)}" if key else _spec_text(leaf) for key, leaf in leaves)
        return f"{self.label}({takes}) -> {gives}"

    @property
    def checked_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Shapes and types of inputs that the SavedModel itself takes, for comparing with it."""
        return self.specs

    def why_unusable(self, per_example: bool) -> str:
        """Return why this is not a model from a batch of examples to features; empty if it may be one."""
        scalars = [k for k, spec in zip(self.input_keys, self.specs, strict=True) if spec.shape.rank == 0]
        if scalars and not per_example:
            return f"takes no batch (a single value as {join_names(scalars)})"
        if self.outputs is None:
            return ""
        floats = [leaf for _, leaf in _flatten_with_paths(self.outputs) if _is_float(leaf)]
        if not floats:
            return "gives no floating-point numbers"
        if not per_example and all(leaf.shape.rank == 0 for leaf in floats):  # such as the loss of a training step
            return "gives one number for the whole batch"
        return ""

    def flat(self, variables: Sequence[tf.Variable], training: bool = False) -> FlatGraph:
        """Traces the endpoint into one flat graph whose inputs are those of the endpoint."""
        return flatten(lambda *tensors: self.call(tensors, training), self.specs, variables)

    def call(self, tensors: Sequence[tf.Tensor], training: bool = False) -> Any:
        """Call the model with its flattened inputs."""
        feed = iter(tensors)

        def fill(value: Any) -> Any:
            return next(feed) if isinstance(value, tf.TensorSpec) else value

        arguments = [tf.nest.map_structure(fill, a) for a in self.arguments]
        keywords = {k: tf.nest.map_structure(fill, v) for k, v in sorted(self.keywords.items())}
        if isinstance(self.training, int):
            arguments[self.training] = training or self.inference
        elif self.training is not None:
            keywords[self.training] = training or self.inference
        try:
            return self.function(*arguments, **keywords)
        except tf.errors.UnimplementedError as error:
            if "Fusion is not implemented" not in str(error):
                raise
            with _without_fusion():
                return self.function(*arguments, **keywords)


@contextlib.contextmanager
def _without_fusion() -> Iterator[None]:
    """Run graphs without fused operations, of which TensorFlow makes some that it has no kernel for."""
    before = tf.config.optimizer.get_experimental_options().get("remapping")
    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": before is not False})


def find_endpoint(loaded: Any, signature: str | None = None, *, per_example: bool = False) -> Endpoint:
    """Choose how a restored SavedModel is called.

    Args:
        loaded: Result of ``tf.saved_model.load``.
        signature: Name of a signature or of a saved function; None takes ``__call__``, a Keras
            export's ``serve``, or the default signature, in this order. Where that one takes no batch or gives no
            floating-point numbers, the only other that does is taken.
        per_example: Whether an endpoint that takes a single number fits.

    Raises:
        BackboneError: When ``signature`` names nothing, or several fit; the message lists what there is.
        SavedModelError: When nothing can be called.
    """
    functions = _restored_functions(loaded)
    signatures = dict(getattr(loaded, "signatures", {}) or {})
    if signature is None and not (functions or signatures) and hasattr(loaded, "structured_input_signature"):
        return _from_concrete("the saved function", loaded)
    if signature is not None:
        return _named(signature, functions, signatures)
    called = [name for name in ("__call__", "serve") if name in functions]
    usual = [name for name in (*_USUAL_SIGNATURES, *signatures) if name in signatures]
    only = [] if called or usual else [*functions] if len(functions) == 1 else []
    if not (called or usual or only):
        raise SavedModelError(
            "The SavedModel has no __call__, no serve and no signatures, so tfft does not know how to call it."
            + (f" Choose one of its functions with signature=: {join_names(functions)}." if functions else _NO_FUNCTION)
        )
    first = (called or only or usual)[0]
    if called or only:
        default = _tried(_from_function, first, functions[first])
    else:
        default = _tried(_from_signature, first, signatures[first])
    why = "takes no tensor" if default is None else default.why_unusable(per_example)
    if default is not None and not why:
        return default
    others = {name: signatures[name] for name in usual if name != first}
    fitting = _fitting(_from_signature, others, per_example)
    if not fitting:  # a signature is often a saved function too, under another name
        others = {name: function for name, function in functions.items() if name != first}
        fitting = _fitting(_from_function, others, per_example)
    if len(fitting) == 1:
        note = f"{fitting[0]} is called, since {default or first} {why} and no other fits. signature= chooses another."
        return dataclasses.replace(fitting[0], note=note)
    if fitting:
        raise BackboneError(
            f"{default or first} {why}. Choose another with signature= (on the command line: --signature). These fit: "
            f"{join_names(fitting)}."
        )
    if default is None:
        raise SavedModelError(f"The endpoint {first} takes no tensor.")
    return default


def _named(name: str, functions: Mapping[str, Any], signatures: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint of a function or a signature, by its name."""
    if name in functions:
        return _from_function(name, functions[name])
    if name in signatures:
        return _from_signature(name, signatures[name])
    names = [*functions, *signatures]
    hint = did_you_mean(name, names)
    raise BackboneError(f"The SavedModel has no signature {name!r}.{hint} It has: {join_names(names) or 'none'}.")


def _fitting(make: Callable[[str, Any], Endpoint], named: Mapping[str, Any], per_example: bool) -> list[Endpoint]:
    """Return those endpoints that take a batch of examples and give features."""
    found = [_tried(make, name, function) for name, function in named.items()]
    return [one for one in found if one is not None and not one.why_unusable(per_example)]


def _tried(make: Callable[[str, Any], Endpoint], name: str, function: Any) -> Endpoint | None:
    """An endpoint; None where it takes no tensor."""
    try:
        return make(name, function)
    except SavedModelError:
        return None


_NO_FUNCTION = (
    " It holds no function, so its computation was never saved. Save it again with one, in the code that "
    "built it: tf.saved_model.save(module, folder, signatures=tf.function(module.predict, "
    "input_signature=[tf.TensorSpec([None, ...])]))."
)
_USUAL_SIGNATURES = ("serving_default", "default", "image_feature_vector")


def _restored_functions(loaded: Any) -> dict[str, Any]:
    """The functions of the root; where it has none, those that call one of its parts (``query_model``)."""
    names = [n for n in dir(loaded) if not n.startswith("_")]
    found = {}
    for name in ["__call__", *names]:
        value = inspect.getattr_static(loaded, name, None)
        if value is None or isinstance(value, property):  # of a variable; some raise outside of graphs
            continue
        value = getattr(loaded, name, None)
        if getattr(value, "concrete_functions", None):
            found[name] = value
    if found:
        return found
    calls = {name: getattr(getattr(loaded, name, None), "__call__", None) for name in names}  # noqa: B004
    return {name: call for name, call in calls.items() if getattr(call, "concrete_functions", None)}


def _from_function(name: str, function: Any) -> Endpoint:
    parameters = list(function.function_spec.fullargspec.args)
    defaults = function.function_spec.fullargspec.defaults or ()
    default_of = dict(zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True))
    default_of.update(function.function_spec.fullargspec.kwonlydefaults or {})
    candidates = []
    for concrete in function.concrete_functions:
        arguments, keywords = concrete.structured_input_signature
        candidates.append((_bind(parameters, default_of, arguments, keywords), concrete.structured_outputs))
    trained = {c.get("training") for c, _ in candidates if "training" in c}
    usable = [c for c in candidates if c[0].get("training", False) in (False, None)] or candidates
    chosen, outputs = min(usable, key=lambda c: _fixed_dimensions(c[0]))
    # An argument that is a tensor but has a default is a hyperparameter, not an input.
    bound = {
        k: tf.constant(default_of[k], v.dtype)
        if isinstance(v, tf.TensorSpec) and default_of.get(k) is not None and k != parameters[0]
        else v
        for k, v in chosen.items()
    }
    positional = tuple(bound[p] for p in parameters if p in bound)
    keywords = {k: v for k, v in bound.items() if k not in parameters}
    place: int | str | None = None
    if "training" in bound:
        place = parameters.index("training") if "training" in parameters else "training"
    nests = {k: v for k, v in [*zip(parameters, positional, strict=False), *sorted(keywords.items())] if _has_specs(v)}
    both = True in trained and not {False, None}.isdisjoint(trained)
    endpoint = _endpoint(name, function, positional, keywords, nests, place, both, outputs)
    return endpoint if False in trained or None not in trained else dataclasses.replace(endpoint, inference=None)


def _bind(parameters: list[str], defaults: dict[str, Any], arguments: Any, keywords: Any) -> dict[str, Any]:
    bound = dict(zip(parameters, arguments, strict=False))
    bound.update(keywords)
    for name, value in defaults.items():
        bound.setdefault(name, value)
    return {name: bound[name] for name in [*parameters, *bound] if name in bound}


def _from_signature(name: str, function: Any) -> Endpoint:
    _, keywords = function.structured_input_signature
    nests = dict(sorted(keywords.items()))
    outputs = function.structured_outputs
    return _endpoint(f"signature {name!r}", function, (), nests, nests, None, False, outputs)


def _from_concrete(label: str, function: Any) -> Endpoint:
    """A function that was saved by itself, without a module around it."""
    arguments, keywords = function.structured_input_signature
    names = [getattr(argument, "name", None) or f"argument{at}" for at, argument in enumerate(arguments)]
    nests = {**dict(zip(names, arguments, strict=True)), **dict(sorted(keywords.items()))}
    return _endpoint(label, function, arguments, keywords, nests, None, False, function.structured_outputs)


def _endpoint(
    label: str,
    function: Any,
    positional: tuple[Any, ...],
    keywords: dict[str, Any],
    nests: dict[str, Any],
    training: int | str | None,
    has_training: bool,
    outputs: Any,
) -> Endpoint:
    keys: list[str] = []
    specs: list[tf.TensorSpec] = []
    for name, nest in nests.items():
        for path, spec in _flatten_with_paths(nest):
            if isinstance(spec, tf.TensorSpec):
                bare = len(nests) > 1 or not path
                keys.append("_".join([name, *path]) if bare else "_".join(path))
                # A signature of TensorFlow 1 that feeds a reference variable has its type; a value has the plain one.
                specs.append(tf.TensorSpec(spec.shape, spec.dtype.base_dtype, spec.name))
    if not specs:
        raise SavedModelError(f"The endpoint {label} takes no tensor.")
    single = len(specs) == 1 and len(nests) == 1
    return Endpoint(
        label, function, positional, keywords, tuple(keys), tuple(specs), training, has_training, single, outputs
    )


def _spec_text(spec: Any) -> str:
    if not hasattr(spec, "shape") or not hasattr(spec, "dtype"):
        return type(spec).__name__
    shape = "of any shape" if spec.shape.rank is None else str(tuple(spec.shape.as_list()))
    return f"{spec.dtype.name} {shape}"


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, (tf.TensorSpec, tf.Tensor)) and leaf.dtype.is_floating


def _has_specs(nest: Any) -> bool:
    return any(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(nest))


def _fixed_dimensions(bound: dict[str, Any]) -> int:
    leaves = [leaf for leaf in tf.nest.flatten(bound) if isinstance(leaf, tf.TensorSpec)]
    return sum(n is not None for leaf in leaves if leaf.shape.rank is not None for n in leaf.shape)


def _flatten_with_paths(nest: Any) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(nest, dict):
        return [((str(k), *path), leaf) for k in sorted(nest) for path, leaf in _flatten_with_paths(nest[k])]
    if isinstance(nest, (list, tuple)) and not isinstance(nest, tf.TensorSpec):
        return [((str(i), *path), leaf) for i, v in enumerate(nest) for path, leaf in _flatten_with_paths(v)]
    return [((), nest)]


def choose_output(
    structure: Any, output: str | None, prefer: Sequence[str] = (), names: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Return the output to use among a function's flattened results.

    Args:
        structure: Nest of tensors (or TensorSpecs) as the function returns it.
        output: Key (``"pooled_output"``, ``"encoder_outputs/3"``), or None for the only one, the
            one called ``default``, or the only one of floating-point numbers.
        prefer: Keys that come before ``default``.
        names: Names for keys that are numbers; both are taken.

    Returns:
        Its position among the tensors of the results, its key, and a note where others were passed over.

    Raises:
        BackboneError: When there are several and none is chosen, or the chosen one does not exist;
            the message lists keys with shapes.
    """
    leaves = _named_leaves(structure, names)
    keys = [key for key, _ in leaves]
    floats = [key for key, leaf in leaves if _is_float(leaf)]
    table = output_table(structure, names)

    def found(key: str, note: str = "") -> tuple[int, str, str]:
        before = [leaf for _, leaf in leaves[: keys.index(key)]]
        tensors = [t for t in tf.nest.flatten(before, expand_composites=True) if t is not None]
        return len(tensors), key, note

    if output is not None:
        output = (names or {}).get(output, output)
        if output not in keys:
            raise BackboneError(f"The model has no output {output!r}.{did_you_mean(output, keys)} It has: {table}.")
        if output not in floats:
            raise BackboneError(
                f"The output {output!r} holds no floating-point numbers, so it cannot be features. It has: {table}."
            )
        return found(output)
    for key in (*prefer, "", "default"):
        if key in floats:
            return found(key)
    if len(floats) == 1:
        return found(floats[0], "" if len(leaves) == 1 else f"Only {floats[0]!r} of its outputs ({table}) is features.")
    if len(leaves) == 1 and not isinstance(leaves[0][1], tf.TypeSpec | tf.Tensor):
        raise BackboneError(f"The model gives {_spec_text(leaves[0][1])}, and features are one tensor of numbers.")
    if len(leaves) == 1:
        return found(keys[0])
    raise BackboneError(f"The model has several outputs; choose one with output=. It has: {table}.")


def fields_of(endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields that every endpoint has, to make one of another class from it."""
    return {field.name: getattr(endpoint, field.name) for field in dataclasses.fields(Endpoint)}


def output_keys(structure: Any) -> list[str]:
    """Return the keys of a function's results; an empty one for a bare tensor."""
    return ["/".join(path) for path, _ in _flatten_with_paths(structure)]


def output_table(structure: Any, names: Mapping[str, str] | None = None) -> str:
    """Return the keys of a function's results, or the names for them, with their shapes and types, in words."""
    leaves = _named_leaves(structure, names)
    return join_names([f"{key or '(the only one)'} {_shape_first(leaf)}" for key, leaf in leaves], limit=40)


def _named_leaves(structure: Any, names: Mapping[str, str] | None) -> list[tuple[str, Any]]:
    keyed = [("/".join(path), leaf) for path, leaf in _flatten_with_paths(structure)]
    return [((names or {}).get(key, key), leaf) for key, leaf in keyed]


def _shape_first(leaf: Any) -> str:
    words = _spec_text(leaf).split(" ", 1)
    return " ".join(reversed(words))
