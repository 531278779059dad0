"""Operations of tensorflow-text in exported models: which ones there are, and how they become known to TensorFlow.

Hides that importing the package needs Keras, and its operations do not: only their libraries are loaded.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfft.errors import DependencyError, join_names

_TEXT_OPS = frozenset(  # by name, not by how a name begins: an operation that nobody knows is not one of them
    """
    BertNormalize CaseFoldUTF8 ConstrainedSequence FastBertNormalize FastWordpieceTokenizeWithOffsets FindSourceOffsets
    MaxSpanningTree NormalizeUTF8 NormalizeUTF8WithOffsetsMap PhraseTokenize RegexSplitWithOffsets SentenceFragments
    SentenceFragmentsV2 SentencepieceDetokenizeOp SentencepieceIdToStringOp SentencepieceOp SentencepieceStringToIdOp
    SentencepieceTokenizeOp SentencepieceTokenizeWithOffsetsOp SentencepieceVocabSizeOp SplitMergeTokenizeWithOffsets
    TFText>BoiseTagsToOffsets TFText>ByteSplitByOffsets TFText>ByteSplitWithOffsets TFText>FastSentencepieceDetokenize
    TFText>FastSentencepieceTokenize TFText>FastWordpieceDetokenize TFText>FastWordpieceTokenizeWithOffsets
    TFText>NgramsStringJoin TFText>OffsetsToBoiseTags TFText>PhraseDetokenize TFText>RoundRobinGenerateMasks
    TFText>RoundRobinTrim TFText>Utf8Binarize TFText>WhitespaceTokenizeWithOffsetsV2 TokenizerFromLogits
    UnicodeScriptTokenizeWithOffsets WhitespaceTokenizeWithOffsets WordpieceTokenizeWithOffsets
    """.split()
)
_loaded: set[str] = set()


def is_text_op(op: str) -> bool:
    """Whether an operation is one of tensorflow-text; all of them only compute."""
    return op in _TEXT_OPS


def ops_of(functions: Mapping[str, tf.types.experimental.ConcreteFunction]) -> set[str]:
    """Return the names of all operations in functions, and in the functions that they call."""
    return {op for function in functions.values() for op in ops_of_graph(function.graph.as_graph_def())}


def ops_of_graph(graph: Any) -> set[str]:
    """Return the names of all operations in a GraphDef and its functions, without the names of those functions."""
    found = {node.op for node in graph.node}
    found |= {node.op for inner in graph.library.function for node in inner.node_def}
    return found - {inner.signature.name for inner in graph.library.function}


def ops_in(folder: pathlib.Path) -> set[str]:
    """Return the names of all operations in a SavedModel that is not loaded yet."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return {op for meta in model.meta_graphs for op in ops_of_graph(meta.graph_def)}


def foreign(ops: Iterable[str]) -> list[str]:
    """Return the operations that belong to tensorflow-text, sorted."""
    return sorted(op for op in set(ops) if is_text_op(op))


def note_on(ops: Iterable[str]) -> str:
    """Describe what a server needs for operations; empty where TensorFlow suffices."""
    needed = foreign(ops)
    if not needed:
        return ""
    return (
        f"The tokenizer uses operations of tensorflow-text ({join_names(needed, limit=4)}). TensorFlow Serving "
        "has them; "
        f"in Python install {_requirement()} and import tensorflow_text before the model is loaded."
    )


def text_libraries(ops: Iterable[str], what: str) -> list[str]:
    """Return the files of tensorflow-text that define operations; none where TensorFlow suffices.

    Raises:
        DependencyError: When they are needed and the package is not installed.
    """
    needed = foreign(ops)
    if not needed:
        return []
    spec = importlib.util.find_spec("tensorflow_text")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(
            f"{what} uses the operations {join_names(needed, limit=4)} of tensorflow-text, which is not installed. "
            f"Install it with: pip install '{_requirement()}'"
        )
    root = pathlib.Path(spec.submodule_search_locations[0])
    return sorted(str(path) for path in (root / "python" / "ops").glob("*.so"))


def load_text_ops(ops: Iterable[str], what: str) -> None:
    """Make the operations of tensorflow-text known to this process, where some are needed.

    Raises:
        DependencyError: When the package is missing or does not fit TensorFlow.
    """
    for path in text_libraries(ops, what):
        if path in _loaded:
            continue
        try:
            tf.load_op_library(path)
        except tf.errors.AlreadyExistsError:  # the package itself was imported
            pass
        except tf.errors.OpError as error:
            raise DependencyError(
                f"{what} needs tensorflow-text, and the one that is installed does not fit TensorFlow "
                f"{tf.__version__}: {str(error).splitlines()[0]}. Install it with: pip install '{_requirement()}'"
            ) from error
        _loaded.add(path)


def _requirement() -> str:
    major, minor, *_ = tf.__version__.split(".")
    return f"tensorflow-text=={major}.{minor}.*"
