"""Low-rank updates of kernels (LoRA): pairs of small matrices, and Keras layers with an update.

Implementation notes: a layer of a model gets an update, and loses it again, in place.

Keras' own ``enable_lora`` is not used. In Keras 3.15.1 a saved layer comes back with both matrices zero, where their
gradients are zero too, so that it never trains again; ``Dense`` loses ``lora_alpha``; the bias trains; setting
``trainable`` unfreezes the kernel as well; and it cannot be removed. (tests/test_lora.py notices when this changes.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfft.keras_compat import (
    flatten_layers,
    no_autocast,
    own_non_trainable_variables,
    own_trainable_variables,
    unlocked,
    untrack_variable,
)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """Settings of one low-rank update.

    Attributes:
        rank: Number of columns of the first matrix and of rows of the second.
        alpha: Scaling: the product is multiplied by ``alpha / rank``.
        seed: Numbers that determine the initial first matrix.
        split: Number of kernel axes that become the rows of its matrix form.
    """

    rank: int
    alpha: float
    seed: tuple[int, ...]
    split: int

    def to_config(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "seed": list(self.seed)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | LowRank) -> LowRank:
        """Build the settings from the result of :meth:`to_config`."""
        return config if isinstance(config, LowRank) else cls(**{**config, "seed": tuple(config["seed"])})

    def shapes(self, kernel: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the shapes of both matrices for a kernel of this shape."""
        return (math.prod(kernel[: self.split]), self.rank), (self.rank, math.prod(kernel[self.split :]))

    def start(self, kernel: Sequence[int]) -> np.ndarray:
        """Return the initial first matrix: uniform within ``1 / sqrt(rows)``, as in the paper's code."""
        rows, rank = self.shapes(kernel)[0]
        random = np.random.default_rng(self.seed)
        return random.uniform(-1, 1, (rows, rank)).astype(np.float32) / np.float32(math.sqrt(rows))


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Both matrices of one kernel; the second is initially zero, so that nothing changes at first.

    A plain object, so that Keras does not track its variables a second time.

    Attributes:
        settings: Rank, scale and matrix form.
        kernel: Updated variable, which does not train itself.
        first: [rows, rank].
        second: [rank, columns].
    """

    settings: LowRank
    kernel: keras.Variable
    first: keras.Variable
    second: keras.Variable

    @classmethod
    def on(cls, layer: keras.layers.Layer, kernel: keras.Variable, settings: LowRank, prefix: str = "") -> Pair:
        """Add both variables to a layer, which may already be built."""
        names = (f"{prefix}lora_a", f"{prefix}lora_b")
        with unlocked(layer):
            first, second = (
                # Without autocast: small updates must not be rounded to half precision before they are added.
                layer.add_weight(shape=shape, initializer="zeros", dtype="float32", autocast=False, name=name)
                for name, shape in zip(names, settings.shapes(kernel.shape), strict=True)
            )
        pair = cls(settings, kernel, first, second)
        pair.restart()
        return pair

    def restart(self) -> None:
        """Reset both matrices to their initial values."""
        self.first.assign(self.settings.start(self.kernel.shape))
        self.second.assign(np.zeros(self.second.shape, np.float32))

    def update(self, first: Any, second: Any) -> Any:
        """Return the update of the kernel for the values of both matrices."""
        product = keras.ops.matmul(first, second) * (self.settings.alpha / self.settings.rank)
        return keras.ops.reshape(product, self.kernel.shape)

    def updated(self) -> Any:
        """Return the kernel with its update, in float32 or the kernel's own type."""
        with no_autocast():  # otherwise the kernel is rounded before it is updated
            kernel = keras.ops.convert_to_tensor(self.kernel)
            update = self.update(keras.ops.convert_to_tensor(self.first), keras.ops.convert_to_tensor(self.second))
            return kernel + keras.ops.cast(update, kernel.dtype)

    def merge_from(self, layer: keras.layers.Layer) -> None:
        """Add the update to the kernel and remove both variables from the layer."""
        self.kernel.assign(self.updated())
        self.second.assign(np.zeros(self.second.shape, np.float32))  # functions traced before add nothing twice
        for variable in (self.first, self.second):
            untrack_variable(layer, variable)


def pairs_of(layer: keras.layers.Layer) -> tuple[Pair, ...]:
    """Return the low-rank updates of a layer itself; empty if it has none."""
    return tuple(getattr(layer, "low_rank_pairs", ()))


def einsum_split(equation: str, position: int) -> int | None:
    """Return the number of leading operand axes that are all summed over, or all not; None if they are mixed.

    Args:
        equation: Equation such as ``"abc,cde->abde"``.
        position: Position of the operand; for the kernel of the example 1, and the result is 1.
    """
    terms, _, out = equation.replace(" ", "").replace("...", "").partition("->")
    kernel = terms.split(",")[position]
    kinds = [letter in out for letter in kernel]
    change = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), 0)
    return change if change and all(kind == kinds[-1] for kind in kinds[change:]) else None


if TYPE_CHECKING:
    from keras.layers import Dense as _InFront  # or another class that takes an update
else:
    _InFront = object


class _Updated(_InFront):
    """Mixin of layers with an update, before the Keras class in the base classes.

    Args:
        low_rank: Settings of the update.
    """

    _pair: Pair | None = None

    def __init__(self, *args: Any, low_rank: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = LowRank.from_config(low_rank)

    def build(self, input_shape: Any) -> None:
        """Create the layer's variables, then those of the update."""
        super().build(input_shape)
        self.attach(self._settings)

    def attach(self, settings: LowRank) -> None:
        """Add the update to a built layer."""
        self._settings = settings
        self._pair = Pair.on(self, super().kernel, settings)
        self._hold_base()

    @property
    def low_rank_pairs(self) -> tuple[Pair, ...]:
        """The update; none before the layer is built."""
        return () if self._pair is None else (self._pair,)

    @property
    def kernel(self) -> Any:
        """The kernel with its update, which ``call`` of the Keras class uses."""
        if self._pair is None:
            return super().kernel
        return keras.ops.cast(self._pair.updated(), self.compute_dtype)

    @property
    def trainable(self) -> bool:
        """Whether the update trains; kernel and bias stay fixed while there is one."""
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self._hold_base()

    def _base(self) -> list[keras.Variable]:
        mine = {id(v) for pair in self.low_rank_pairs for v in (pair.first, pair.second)}
        every = [*own_trainable_variables(self), *own_non_trainable_variables(self)]
        return [v for v in every if id(v) not in mine]

    def _hold_base(self) -> None:
        for variable in self._base() if self._pair is not None else ():
            variable.trainable = False

    def save_own_variables(self, store: Any) -> None:
        """Write the layer's variables, then those of the update."""
        keras.layers.Layer.save_own_variables(self, store)  # that of the Keras class writes the sum

    def load_own_variables(self, store: Any) -> None:
        """Load a file of this class, or of the plain layer, which resets the update."""
        base = self._base()
        if self._pair is None or len(store.keys()) != len(base):
            keras.layers.Layer.load_own_variables(self, store)
            return
        for i, variable in enumerate(base):
            variable.assign(store[str(i)])
        self._pair.restart()

    def get_config(self) -> dict[str, Any]:
        """Settings of the plain layer and of the update."""
        return {**super().get_config(), "low_rank": self._settings.to_config()}


class _Inside(_InFront):
    """Mixin of layers that are saved as the plain class with the update in its kernel.

    For layers that another layer rebuilds as plain ones when it is loaded. Keras finds variables in a file by class
    names, so such a class has the name of the plain one.
    """

    def save_own_variables(self, store: Any) -> None:
        """Write the variables of the plain layer, with the update in the kernel."""
        super(_Updated, self).save_own_variables(store)  # type: ignore[misc]  # it stands in front of _Updated

    def get_config(self) -> dict[str, Any]:
        """Settings of the plain layer."""
        return super(_Updated, self).get_config()  # type: ignore[misc]  # it stands in front of _Updated

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.layers.Layer:
        """Build a plain layer."""
        plain: Any = cls.__mro__[4]
        return plain.from_config(config)


@keras.saving.register_keras_serializable(package="tfft")
class LowRankDense(_Updated, keras.layers.Dense):
    """A Dense layer whose kernel has a low-rank update."""


@keras.saving.register_keras_serializable(package="tfft")
class LowRankEinsumDense(_Updated, keras.layers.EinsumDense):
    """An EinsumDense layer whose kernel has a low-rank update."""


@keras.saving.register_keras_serializable(package="tfft")
class LowRankConv1D(_Updated, keras.layers.Conv1D):
    """A Conv1D layer whose kernel has a low-rank update."""


@keras.saving.register_keras_serializable(package="tfft")
class LowRankConv2D(_Updated, keras.layers.Conv2D):
    """A Conv2D layer whose kernel has a low-rank update."""


@keras.saving.register_keras_serializable(package="tfft")
class LowRankConv3D(_Updated, keras.layers.Conv3D):
    """A Conv3D layer whose kernel has a low-rank update."""


_OWN: dict[type, type] = {
    cls.__mro__[2]: cls for cls in (LowRankDense, LowRankEinsumDense, LowRankConv1D, LowRankConv2D, LowRankConv3D)
}
_INSIDE = {
    plain: type(plain.__name__, (_Inside, cls), {"__module__": plain.__module__, "__doc__": _Inside.__doc__})
    for plain, cls in _OWN.items()
}
_PLAIN = {cls: plain for classes in (_OWN, _INSIDE) for plain, cls in classes.items()}


def split_of(layer: keras.layers.Layer) -> int | str:
    """Return the matrix form of a Keras layer's kernel, or the reason why the layer supports no low-rank update.

    Only the classes of Keras itself are supported: a subclass may use its kernel in any way.
    """
    if type(layer) not in _OWN:
        return f"{type(layer).__name__}"
    if layer.kernel_constraint is not None:
        return f"{type(layer).__name__} with a kernel constraint"
    if layer.lora_enabled:
        return f"{type(layer).__name__} with Keras' own LoRA"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"{type(layer).__name__}, quantized"
    rank = len(layer.kernel.shape)
    split = einsum_split(layer.equation, 1) if isinstance(layer, keras.layers.EinsumDense) else None
    return split or rank - 1


def update_layer(layer: keras.layers.Layer, settings: LowRank, *, inside: bool) -> None:
    """Add an update to a Keras layer in a model; the layer object and its variables stay the same.

    Args:
        layer: Built layer for which :func:`split_of` returns a number.
        settings: Settings of the update.
        inside: Whether another layer rebuilds this one as a plain layer when a file is loaded: files then contain the
            kernel with its update.
    """
    layer.__class__ = (_INSIDE if inside else _OWN)[type(layer)]
    layer.attach(settings)


def merge_layer(layer: keras.layers.Layer) -> None:
    """Add the update to the kernel and restore the plain layer."""
    (pair,) = pairs_of(layer)
    pair.merge_from(layer)
    for name in ("_pair", "_settings"):
        layer.__dict__.pop(name, None)
    layer.__class__ = _PLAIN[type(layer)]


def updated_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield a layer and the layers inside it that have low-rank updates."""
    return (sub for sub in flatten_layers(layer) if pairs_of(sub))
