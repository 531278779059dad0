"""What a foreign graph may do: it is held against an allow list before anything of it is loaded.

A SavedModel is a program; one can write files already while it is being loaded. Whatever only
computes is allowed; operations that read or write files, open sockets, call Python, or carry a whole
program as bytes are refused, and so is every operation the list does not know. A model that passes
is *scanned*, not safe: kernels have faults of their own.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from tfft.errors import SavedModelError, UnsafeModelError, listed
from tfft.text_ops import is_text_op

_ALLOWED = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 All AnonymousHashTable AnonymousMutableHashTable Any ArgMax ArgMin AsString Asin
    Asinh Assert Assign AssignAdd AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp Atan Atan2
    Atanh AudioSpectrogram AvgPool AvgPool3D AvgPoolGrad BatchMatMul BatchMatMulV2 BatchMatMulV3
    BatchNormWithGlobalNormalization BatchToSpaceND BesselI0e BesselI1e Betainc BiasAdd BiasAddGrad Bincount Bitcast
    BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize Case Cast Ceil
    CheckNumerics Cholesky ClipByValue Complex ComplexAbs Concat ConcatOffset ConcatV2 Conj Const Conv2D
    Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 Cos Cosh CropAndResize Cross Cumprod
    Cumsum CumulativeLogsumexp DataFormatDimMap DataFormatVecPermute DecodeAndCropJpeg DecodeBase64 DecodeBmp
    DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw DecodeWav DecodeWebP DenseBincount DepthToSpace
    DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Dequantize Diag
    DiagPart Digamma Dilation2D DisableCopyOnRead Div DivNoNan DynamicPartition DynamicStitch EditDistance Einsum
    Elu EluGrad Empty EmptyTensorList EmptyTensorMap EncodeBase64 EncodeJpeg EncodePng EnsureShape Enter Equal Erf
    Erfc Erfinv Exit Exp ExpandDims Expm1 ExtractGlimpse ExtractImagePatches ExtractJpegShape FFT FFT2D FakeParam
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod
    FusedBatchNorm FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater
    GreaterEqual HSVToRGB HashTable HashTableV2 IFFT IRFFT Identity IdentityN If Igamma Imag
    ImageProjectiveTransformV3 InTopK InTopKV2 InitializeTable InitializeTableFromTextFile
    InitializeTableFromTextFileV2 InitializeTableV2 InplaceAdd InplaceUpdate Inv InvertPermutation IsFinite IsInf
    IsNan IsVariableInitialized L2Loss LRN LeakyRelu LeftShift Less LessEqual Lgamma LinSpace Log Log1p
    LogMatrixDeterminant LogSoftmax LogicalAnd LogicalNot LogicalOr LookupTableExportV2 LookupTableFind
    LookupTableFindV2 LookupTableImportV2 LookupTableInsertV2 LookupTableSizeV2 LoopCond LowerBound MatMul
    MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV3 MatrixDiagV3 MatrixInverse MatrixSetDiagV3
    MatrixTranspose Max MaxPool MaxPool3D MaxPoolGrad MaxPoolV2 MaxPoolWithArgmax Maximum Mean Merge Mfcc Min
    Minimum MirrorPad Mod Mul MulNoNan Multinomial MutableHashTable MutableHashTableV2 Neg NextIteration NoOp
    NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual NthElement OneHot
    OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch ParseExampleV2 ParseTensor PartitionedCall
    Placeholder PlaceholderWithDefault Polygamma Pow PreventGradient Prod Qr QuantizeAndDequantizeV2
    QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 RFFT RFFT2D RGBToHSV RaggedBincount RaggedCross RaggedGather
    RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant RandomGamma
    RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt Range Rank ReadVariableOp Real RealDiv
    Reciprocal ReciprocalGrad RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch RegexFullMatch
    RegexReplace Relu Relu6 Relu6Grad ReluGrad Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor
    ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterUpdate Reverse ReverseSequence ReverseV2
    RightShift Rint Roll Round Rsqrt RsqrtGrad SampleDistortedBoundingBoxV2 ScaleAndTranslate ScatterNd
    ScatterNdUpdate SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Select SelectV2 Selu Shape ShapeN
    Sigmoid SigmoidGrad Sign Sin Sinh Size Slice Snapshot Softmax Softplus Softsign SpaceToBatchND SpaceToDepth
    SparseConcat SparseFillEmptyRows SparseReduceSum SparseReorder SparseReshape SparseSegmentMean
    SparseSegmentSqrtN SparseSegmentSum SparseSlice SparseSoftmax SparseSoftmaxCrossEntropyWithLogits
    SparseTensorDenseMatMul SparseToDense Split SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze StackPopV2
    StackPushV2 StackV2 StatefulPartitionedCall StatefulRandomBinomial StatefulStandardNormalV2
    StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt StatelessCase StatelessIf
    StatelessMultinomial StatelessRandomBinomial StatelessRandomGetAlg StatelessRandomGetCounter
    StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessTruncatedNormal StatelessTruncatedNormalV2
    StatelessWhile StaticRegexFullMatch StaticRegexReplace StopGradient StridedSlice StridedSliceGrad StringFormat
    StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket
    StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Sub Substr Sum Svd Switch TableExport
    Tan Tanh TanhGrad TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
    TensorArraySizeV3 TensorArrayV3 TensorArrayWriteV3 TensorListConcatV2 TensorListElementShape
    TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListReserve TensorListResize TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem
    TensorListSplit TensorListStack TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub
    TensorScatterUpdate TensorStridedSliceUpdate Tile TopK TopKV2 Transpose TridiagonalSolve TruncateDiv TruncateMod
    TruncatedNormal UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode Unique
    UniqueV2 UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
    UnsortedSegmentSum UpperBound VarHandleOp VarIsInitializedOp Variable VariableShape VariableV2 Where While Xdivy
    Xlog1py Xlogy ZerosLike Zeta _Arg _Retval
    """.split()
)
_SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename", "Save", "Restore", "RestoreSlice"})
_FILE_INITIALIZERS = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})


def allowed(op: str) -> bool:
    """Returns whether an operation only computes."""
    return op in _ALLOWED or is_text_op(op)


def check_graph(graph_def: Any, where: str, remedy: str) -> None:
    """Refuses a graph with operations that reach outside of it.

    Args:
        graph_def: the graph, with its library.
        where: what it belongs to, for the message.
        remedy: what the user writes to run it all the same.

    Raises:
        UnsafeModelError: with every such operation and its place.
    """
    library = {f.signature.name for f in graph_def.library.function}
    found = []
    for place, nodes in [("", graph_def.node), *((f.signature.name, f.node_def) for f in graph_def.library.function)]:
        for node in nodes:
            if node.op in _FILE_INITIALIZERS or not (allowed(node.op) or node.op in library):
                found.append(f"{node.op} ({'/'.join(filter(None, [place, node.name]))})")
    if found:
        raise UnsafeModelError(
            f"The graph of {where} holds operations that may reach outside of it: {listed(found)}. "
            f"If you trust where it comes from, pass {remedy}."
        )


def check_savedmodel(path: str | os.PathLike[str]) -> list[Any]:
    """Parses a SavedModel and refuses one that does more than compute; nothing of it is loaded.

    Args:
        path: the folder.

    Returns:
        Its meta graphs.

    Raises:
        SavedModelError: when the folder holds no readable ``saved_model.pb``.
        UnsafeModelError: with everything that was found.
    """
    folder = pathlib.Path(path)
    meta_graphs = read_meta_graphs(folder)
    found = list(_container_findings(folder))
    for meta in meta_graphs:
        found += list(_meta_graph_findings(meta, folder))
    if found:
        raise UnsafeModelError(
            f"The SavedModel {str(folder)!r} may reach outside of itself, so it was not loaded: {listed(found)}. "
            "If you trust where it comes from, pass trust=True (on the command line: --trust)."
        )
    return meta_graphs


def read_meta_graphs(folder: pathlib.Path) -> list[Any]:
    """Parses ``saved_model.pb`` without loading the model."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except FileNotFoundError:
        raise SavedModelError(f"{str(folder)!r} holds no saved_model.pb, so it is not a SavedModel.") from None
    except Exception as error:
        raise SavedModelError(f"{str(folder / 'saved_model.pb')!r} cannot be parsed: {error}") from error
    if not proto.meta_graphs:
        raise SavedModelError(f"{str(folder / 'saved_model.pb')!r} holds no model (no meta graph).")
    return list(proto.meta_graphs)


def _container_findings(folder: pathlib.Path) -> Iterator[str]:
    for root, _, files in os.walk(folder, followlinks=False):
        for name in files:
            path = pathlib.Path(root, name)
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                yield f"{path.relative_to(folder)} links to a file outside of the folder"
    for other in ("saved_model.pbtxt", "saved_model.cpb"):
        if (folder / other).exists():
            yield f"{other} beside saved_model.pb (a loader may take either)"


def _meta_graph_findings(meta: Any, folder: pathlib.Path) -> Iterator[str]:
    graph = meta.graph_def
    library = {f.signature.name: f for f in graph.library.function}
    nodes = {n.name: n for n in graph.node}
    for asset in meta.asset_file_def:
        inside = not os.path.isabs(asset.filename) and ".." not in pathlib.PurePath(asset.filename).parts
        if not inside or not (folder / "assets" / asset.filename).is_file():
            yield f"asset {asset.filename!r} leaves the folder assets/ or is missing"
    saver_nodes = _upstream(nodes, [meta.saver_def.save_tensor_name, meta.saver_def.restore_op_name])
    saver = _closure(library, (f for n in saver_nodes for f in function_names(nodes[n])))
    others = _closure(library, _entry_points(meta, saver_nodes, nodes))
    run = _upstream(nodes, _signature_tensors(meta))
    constants = _constants(graph.node)
    for node in graph.node:
        # TF1 graphs may hold the savers of several meta graphs; what no signature reaches is not run.
        in_saver = node.name in saver_nodes or (node.op in _SAVER and node.name not in run)
        yield from _finding(node, "graph", in_saver, library, constants)
    for name, function in library.items():
        in_saver = name in saver and name not in others
        local = {node.name for node in function.node_def}
        for node in function.node_def:
            yield from _finding(node, name, in_saver, library, local)


def _finding(node: Any, place: str, in_saver: bool, library: Any, local: set[str]) -> Iterator[str]:
    if node.op in _SAVER and in_saver:
        return
    if node.op in _FILE_INITIALIZERS and len(node.input) > 1 and node.input[1].split(":")[0].lstrip("^") in local:
        yield f"{node.op} ({place}/{node.name}) reads a path that is not an asset"
    elif not (allowed(node.op) or node.op in library):
        yield f"{node.op} ({place}/{node.name})"


def _constants(nodes: Iterable[Any]) -> set[str]:
    # A vocabulary's path is an asset: a Const that the loader overwrites, called asset_path...
    return {n.name for n in nodes if n.op == "Const" and "asset" not in n.name}


def function_names(node: Any) -> Iterator[str]:
    """Yields the names of the functions a node refers to through its attributes: calls, branches, loop bodies."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (f.name for f in value.list.func)


def _closure(library: Any, start: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name in library and name not in seen:
            seen.add(name)
            todo += [f for node in library[name].node_def for f in [*function_names(node), node.op]]
    return seen


def _upstream(nodes: Any, names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    todo = [n.split(":")[0] for n in names if n]
    while todo:
        name = todo.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            todo += list(nodes[name].input)
    return seen


def _signature_tensors(meta: Any) -> Iterator[str]:
    for signature in meta.signature_def.values():
        yield from (info.name for info in signature.outputs.values())
    for key in ("saved_model_main_op", "legacy_init_op"):
        yield from meta.collection_def[key].node_list.value if key in meta.collection_def else ()


def _entry_points(meta: Any, saver_nodes: set[str], nodes: Any) -> Iterator[str]:
    for node in nodes.values():
        if node.name not in saver_nodes:
            yield from function_names(node)
    for node in meta.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind == "function":
            yield from node.function.concrete_functions
        elif kind == "bare_concrete_function":
            yield node.bare_concrete_function.concrete_function_name
