"""The folder of a SavedModel before anything of it is loaded: no links to elsewhere, no pipes, no false sizes.

Hides how TensorFlow names the parts of a checkpoint.
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from tfft.errors import SavedModelError

MOST_PROTO = 2**31 - 1  # bytes of saved_model.pb, protobuf's own limit
_MOST_FILES = 100_000
_POINTER = b"version https://git-lfs."


def findings(folder: pathlib.Path) -> Iterator[str]:
    """Yield what a SavedModel's folder should not hold, one sentence each."""
    inside, count = folder.resolve(), 0
    for root, folders, files in os.walk(folder, followlinks=False):
        for name in [*folders, *files]:
            path = pathlib.Path(root, name)
            count += 1
            shown = path.relative_to(folder)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                yield f"{shown} links to a place outside of the folder ({os.readlink(path)})"
            elif not (path.is_file() or path.is_dir()):
                yield f"{shown} is neither a file nor a folder but a pipe, a device or a broken link"
        if count > _MOST_FILES:
            yield f"more than {_MOST_FILES:,} files"
            return
    for other in ("saved_model.pbtxt", "saved_model.cpb"):
        if (folder / other).exists():
            yield f"{other} beside saved_model.pb (a loader may take either)"


def assets_of(meta: Any) -> list[Any]:
    """Return the assets of a meta graph, also in the form of the first SavedModels."""
    from tensorflow.core.protobuf import meta_graph_pb2

    assets = list(meta.asset_file_def)
    if not assets and "saved_model_assets" in meta.collection_def:
        for value in meta.collection_def["saved_model_assets"].any_list.value:
            asset = meta_graph_pb2.AssetFileDef()
            if value.Unpack(asset):
                assets.append(asset)
    return assets


def asset_findings(meta: Any, folder: pathlib.Path) -> Iterator[str]:
    """Yield the assets of a meta graph that are not files in ``assets/``."""
    for asset in assets_of(meta):
        name = asset.filename
        inside = "\0" not in name and not os.path.isabs(name) and ".." not in pathlib.PurePath(name).parts
        if not inside or "\\" in name or not (folder / "assets" / name).is_file():
            yield f"asset {name!r} leaves the folder assets/ or is missing"


def checkpoint_folder(folder: pathlib.Path) -> pathlib.Path:
    """Return where the variables are: in ``variables/``, or beside ``saved_model.pb``.

    They are beside it in many repositories, since an upload of single files through a web page loses their folder.
    """
    usual = folder / "variables"
    return folder if not usual.exists() and (folder / "variables.index").is_file() else usual


def missing_variables(folder: pathlib.Path) -> str:
    """Say which files of the checkpoint are missing, and what to do; empty if none is."""
    missing = [
        name for name in ("variables.index", "variables.data-*") if not any(checkpoint_folder(folder).glob(name))
    ]
    if not missing:
        return ""
    return (
        f"Expected its weights in {str(folder / 'variables')!r}. Received: no {' and no '.join(missing)}. A SavedModel "
        "is saved_model.pb together with the folder variables/; copy or download the whole folder."
    )


def _pointers(place: pathlib.Path) -> list[str]:
    """Files of a checkpoint that are pointers of Git LFS."""
    files = [place / "variables.index", *sorted(place.glob("variables.data-*"))]
    return [path.name for path in files if path.is_file() and _is_pointer(path)]


def _of_pointers(names: Sequence[str]) -> str:
    verb = "is a pointer" if len(names) == 1 else "are pointers"
    return (
        f"{' and '.join(names)} {verb} of Git LFS instead of the contents. Run `git lfs pull` in the clone, or "
        "download the files from the repository's web page."
    )


def _is_pointer(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def check_checkpoint(folder: pathlib.Path) -> None:
    """Refuse a checkpoint that claims more numbers than its files hold, for which memory would be set aside.

    Raises:
        SavedModelError: With both sizes, or with the pointers of Git LFS instead of files.
    """
    index = checkpoint_folder(folder) / "variables.index"
    if not index.is_file():
        return
    if pointers := _pointers(index.parent):
        raise SavedModelError(f"TensorFlow cannot load {str(folder)!r}. {_of_pointers(pointers)}")
    import tensorflow as tf

    stored = sum(path.stat().st_size for path in index.parent.glob("variables.data-*") if path.is_file())
    try:
        reader = tf.train.load_checkpoint(str(index.parent / "variables"))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except Exception:  # damaged: said when it is loaded, with TensorFlow's own words
        return
    declared = 0
    for name, shape in shapes.items():
        size = 1
        for n in shape:
            size *= max(int(n), 0)
        declared += size * max(types[name].size, 1)
    if declared > stored:
        raise SavedModelError(
            f"TensorFlow cannot load {str(folder)!r}: variables/ declares {declared:,} bytes of numbers and its files "
            f"hold {stored:,}. It is cut off or damaged; copy or download it again."
        )


def read_proto(folder: pathlib.Path) -> bytes:
    """Return the bytes of ``saved_model.pb``.

    Raises:
        SavedModelError: When there is none, or it is not a file or too large.
    """
    path = folder / "saved_model.pb"
    try:
        status = path.stat()
    except OSError:
        raise SavedModelError(f"{str(folder)!r} holds no saved_model.pb, so it is not a SavedModel.") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_PROTO:
        raise SavedModelError(
            f"{str(path)!r} is not a regular file of at most {MOST_PROTO:,} bytes (size: {status.st_size:,})."
        )
    if _is_pointer(path):
        raise SavedModelError(f"{str(folder)!r} cannot be opened: {_of_pointers([path.name])}")
    with path.open("rb") as file:
        return file.read(MOST_PROTO)
