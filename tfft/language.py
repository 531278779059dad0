"""Causal language models on small texts: a decoder of KerasHub, low-rank updates, honest perplexity.

Hides how documents become windows without padding, what is predicted and what is not, and that everything but the
low-rank updates stays as it was, to the bit. Generation, samplers and tokenizers are KerasHub's.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.backbones.hubtext import read_preset  # noqa: E402
from tfft.errors import BackboneError, DataError, PlanError, listed, raise_problems  # noqa: E402
from tfft.evaluation.scores import mean_interval  # noqa: E402
from tfft.slicing import add_lora, audit, merge_lora  # noqa: E402
from tfft.training.history import write_whole  # noqa: E402

MODEL, METRICS, SETTINGS, HISTORY = "model.keras", "metrics.json", "settings.json", "history.csv"
_USUAL = 128
_PATIENCE = 2
_WARMUP = 0.1


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """How surprised a model is by documents: e to the mean loss of a piece.

    Attributes:
        value: of all pieces together; 1 is perfect.
        interval: 95 %, over documents.
        pieces: that were predicted.
        documents: that they are in.
    """

    value: float
    interval: tuple[float, float]
    pieces: int
    documents: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        low, high = self.interval
        return f"perplexity {self.value:.2f} (95 % interval {low:.2f} to {high:.2f}, {self.documents} documents)"


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageRun:
    """The result of :func:`finetune`.

    Attributes:
        model: a KerasHub causal language model; ``model.generate("Once upon")`` writes.
        before: perplexity on the held-out documents before training.
        after: the same at the end.
        unigram: the same of a model that knows how often each piece occurs in the training documents, and no more:
            what has to be beaten.
        history: one row per epoch.
        folder: where it was written; None where nowhere.
    """

    model: keras.Model
    before: Perplexity
    after: Perplexity
    unigram: Perplexity
    history: tuple[dict[str, float], ...]
    folder: Path | None = None

    @property
    def summary(self) -> str:
        """Three lines: unigram, before, after."""
        return f"unigram  {self.unigram}\nbefore   {self.before}\nafter    {self.after}"


def causal_lm(preset: str | os.PathLike[str], *, lora: int = 8, max_length: int | None = None) -> keras.Model:
    """Opens a decoder of KerasHub as a language model that writes, with low-rank updates that train.

    Use it for your own ``fit``; :func:`finetune` does the whole.

    Args:
        preset: as ``keras_hub.models.CausalLM.from_preset`` takes it, also with ``keras_hub:`` in front, or a folder.
        lora: rank of the updates of the kernels in attention and feed-forward layers; everything else is frozen. 0
            leaves everything trainable.
        max_length: most pieces that are read or written; 128 by default, or what the model takes if that is less.

    Returns:
        A ``keras_hub.models.CausalLM``, from token ids to logits [B, L, vocabulary].

    Raises:
        BackboneError: when the preset is no decoder, or takes fewer pieces.
        DependencyError: when KerasHub is missing.

    Example:
        >>> model = causal_lm("keras_hub:gpt2_base_en", lora=8)
        >>> model.generate("Once upon", max_length=40)
    """
    name = os.fspath(preset).removeprefix("keras_hub:")
    model = read_preset(name, "language model", "CausalLM")
    limit = int(getattr(model.backbone, "max_sequence_length", None) or 512)
    length = min(_USUAL, limit) if max_length is None else max_length
    if isinstance(length, bool) or not isinstance(length, int) or not 4 <= length <= limit:
        raise BackboneError(f"max_length must be 4 to {limit}, which is what {name} takes; got {max_length!r}.")
    model.preprocessor.sequence_length = length
    if lora:
        with warnings.catch_warnings():  # updates are added to the kernels before anything is saved
            warnings.filterwarnings("ignore", message="The low-rank updates in", category=UserWarning)
            add_lora(model, "all", rank=lora)
    return model


def windows(
    texts: Sequence[str], tokenizer: Any, length: int, *, batch_size: int = 8, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Packs documents into windows of one length, one after the other, so that nothing is padding.

    Each document begins with the start mark and ends with the end mark. A window may hold the end of one and the
    beginning of the next; the piece after an end mark is never predicted, since nothing tells it.

    Args:
        texts: the documents.
        tokenizer: of KerasHub, with ``start_token_id`` and ``end_token_id``.
        length: pieces in a window.
        batch_size: windows in a batch.
        shuffle: True draws the order of the documents anew in each pass, and another cut with it.
        seed: of the orders.

    Returns:
        Dataset of ``({"token_ids", "padding_mask"} [B, length], next pieces [B, length], weights [B, length])``. The
        weights are 1 where the next piece is to be predicted.
    """
    cut = [pieces_of(text, tokenizer) for text in texts]
    passes = iter(range(2**31))

    def rows() -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        number = next(passes)
        order = np.random.default_rng([seed, number]).permutation(len(cut)) if shuffle else range(len(cut))
        stream = np.concatenate([cut[i] for i in order])
        first = np.concatenate([np.arange(len(cut[i])) == 0 for i in order])
        for start in range(0, len(stream) - 1, length):
            ids, following = stream[start : start + length], stream[start + 1 : start + 1 + length]
            ids = ids[: len(following)]
            weights = (~first[start + 1 : start + 1 + length]).astype(np.float32)
            rest = length - len(ids)
            present = np.pad(np.ones(len(ids), np.int32), (0, rest))
            inputs = {"token_ids": np.pad(ids, (0, rest)), "padding_mask": present}
            yield inputs, np.pad(following, (0, rest)), np.pad(weights, (0, rest))

    total = sum(map(len, cut))
    whole = tf.TensorSpec([length], tf.int32)
    inputs = {"token_ids": whole, "padding_mask": whole}
    spec = (inputs, whole, tf.TensorSpec([length], tf.float32))
    count = math.ceil(math.ceil((total - 1) / length) / batch_size)
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec).batch(batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)


def pieces_of(text: str, tokenizer: Any) -> np.ndarray:
    """Returns the pieces of a document between the marks of its start and end, int32 [n]."""
    pieces = np.asarray(tokenizer(tf.constant(text)), np.int32).reshape(-1)
    return np.concatenate([[tokenizer.start_token_id], pieces, [tokenizer.end_token_id]]).astype(np.int32)


def perplexity(model: keras.Model, texts: Sequence[str], *, batch_size: int = 8) -> Perplexity:
    """Measures how well a model predicts documents, each read from its start with nothing before it.

    Args:
        model: a KerasHub causal language model.
        texts: documents; what is longer than the model's ``sequence_length`` is measured in parts, each from its own
            beginning.
        batch_size: parts at a time.

    Raises:
        DataError: when there is nothing to predict.
    """
    length, tokenizer = model.preprocessor.sequence_length, model.preprocessor.tokenizer
    losses, counts = np.zeros(len(texts)), np.zeros(len(texts), int)
    parts = [
        (number, cut[start : start + length + 1])
        for number, cut in enumerate(pieces_of(text, tokenizer) for text in texts)
        for start in range(0, max(1, len(cut) - 1), length)
    ]
    network = keras.Model(model.input, model.output)
    for at in range(0, len(parts), batch_size):
        chosen = parts[at : at + batch_size]
        ids, present = np.zeros((len(chosen), length), np.int32), np.zeros((len(chosen), length), np.int32)
        following = np.zeros((len(chosen), length), np.int32)
        for row, (_, cut) in enumerate(chosen):
            ids[row, : len(cut) - 1], present[row, : len(cut) - 1] = cut[:-1], 1
            following[row, : len(cut) - 1] = cut[1:]
        logits = network({"token_ids": ids, "padding_mask": present}, training=False)
        each = keras.losses.sparse_categorical_crossentropy(following, logits, from_logits=True)
        each = keras.ops.convert_to_numpy(each) * present
        for row, (number, cut) in enumerate(chosen):
            losses[number] += float(each[row].sum())
            counts[number] += len(cut) - 1
    return _perplexity(losses, counts)


def _perplexity(losses: np.ndarray, counts: np.ndarray) -> Perplexity:
    if not counts.sum():
        raise DataError("There is nothing to predict: the documents are empty.")
    mean = losses.sum() / counts.sum()
    # The ratio of two sums over documents: its spread is that of what each adds beyond the mean (Cochran, 1977).
    beyond = (losses - mean * counts) / counts.mean()
    low, high = mean_interval(float(beyond.sum()), float((beyond**2).sum()), len(counts))
    interval = math.exp(mean + low), math.exp(mean + high)
    return Perplexity(math.exp(mean), interval, int(counts.sum()), len(counts))


def unigram(train: Sequence[str], texts: Sequence[str], tokenizer: Any) -> Perplexity:
    """Measures a model that knows only how often each piece occurs, the least that a language model has to beat.

    Args:
        train: documents to count in; one is added to each count (Laplace).
        texts: documents to measure on.
        tokenizer: of KerasHub.
    """
    seen = np.ones(tokenizer.vocabulary_size())
    for text in train:
        np.add.at(seen, pieces_of(text, tokenizer)[1:], 1)
    surprise = -np.log(seen / seen.sum())
    cut = [pieces_of(text, tokenizer)[1:] for text in texts]
    return _perplexity(np.array([surprise[one].sum() for one in cut]), np.array([len(one) for one in cut]))


def finetune(
    preset: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str],
    *,
    out: str | os.PathLike[str] | None = None,
    lora: int = 8,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 8,
    max_length: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    verbose: bool = True,
) -> LanguageRun:
    """Teaches a decoder the way some texts are written, and measures on documents that it has not seen.

    Training is AdamW with a linear rise and a cosine fall, on the low-rank updates alone (Hu et al., 2021). After each
    epoch the held-out perplexity is measured; the weights of the best one are kept, and two epochs without a better one
    end it.

    Args:
        preset: as :func:`causal_lm` takes it.
        data: a ``.txt`` file, whose documents are parted by empty lines; a folder of ``.txt`` files, one document each;
            or a list of texts.
        out: new folder for ``model.keras`` (updates added to the kernels), ``metrics.json``, ``settings.json`` and
            ``history.csv``; None writes nothing.
        lora: rank of the updates; 0 trains everything.
        epochs: at most.
        learning_rate: at the peak; some 1e-3 for updates, 5e-5 for everything.
        batch_size: windows in a step.
        max_length: pieces in a window.
        validation: share of the documents to hold out, at least one.
        seed: of the split, the order and the updates.
        verbose: print a line for each epoch.

    Returns:
        :class:`LanguageRun`.

    Raises:
        DataError: when there are fewer than two documents, or a file cannot be read; with line and byte.
        PlanError: when a setting is out of range, or ``out`` is not empty.
        BackboneError: as :func:`causal_lm`.

    Example:
        >>> run = tfft.language.finetune("keras_hub:gpt2_base_en", "poems.txt", out="runs/poems")
        >>> print(run.model.generate("The moon", max_length=60))
    """
    _check(lora, epochs, learning_rate, batch_size, validation)
    folder = _new_folder(out)
    documents = read_documents(data)
    keras.utils.set_random_seed(seed)
    train, held = _split(documents, validation, seed)
    model = causal_lm(preset, lora=lora, max_length=max_length)
    tokenizer, length = model.preprocessor.tokenizer, model.preprocessor.sequence_length
    before, least = perplexity(model, held), unigram(train, held, tokenizer)
    if verbose:
        print(f"{len(train)} documents to learn from, {len(held)} held out\nunigram  {least}\nbefore   {before}")
    dataset = windows(train, tokenizer, length, batch_size=batch_size, shuffle=True, seed=seed)
    steps = int(dataset.cardinality())
    network = keras.Model(model.input, model.output)
    rising = max(1, round(_WARMUP * steps * epochs))
    falling = max(1, steps * epochs - rising)
    rate = keras.optimizers.schedules.CosineDecay(0.0, falling, warmup_target=learning_rate, warmup_steps=rising)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    watch, rows, best = audit(network), [], before
    kept = [v.numpy() for v in network.trainable_variables]
    for epoch in range(epochs):
        loss = network.fit(dataset, verbose=0, shuffle=False).history["loss"][-1]
        now = perplexity(model, held)
        rows.append({"epoch": epoch + 1, "loss": loss, "val_perplexity": now.value})
        if verbose:
            print(f"{epoch + 1}/{epochs}  loss {loss:.4f}  held-out perplexity {now.value:.2f}", flush=True)
        if now.value < best.value:
            best, kept = now, [v.numpy() for v in network.trainable_variables]
        elif epoch >= _PATIENCE and all(r["val_perplexity"] > best.value for r in rows[-_PATIENCE:]):
            break
    watch.check()
    for variable, value in zip(network.trainable_variables, kept, strict=True):
        variable.assign(value)
    if lora:
        merge_lora(model)
    run = LanguageRun(model, before, best, least, tuple(rows), folder)
    if folder is not None:
        settings = {
            "preset": os.fspath(preset), "lora": lora, "epochs": epochs, "learning_rate": learning_rate,
            "batch_size": batch_size, "max_length": length, "validation": validation, "seed": seed,
        }  # fmt: skip
        _write(run, folder, settings)
    if verbose:
        print(run.summary)
    return run


def load(folder: str | os.PathLike[str]) -> keras.Model:
    """Reads the model of a run that :func:`finetune` wrote.

    Raises:
        DataError: when there is none.
    """
    file = Path(folder).expanduser() / MODEL
    if not file.is_file():
        raise DataError(f"{folder} holds no {MODEL}: tfft.language.finetune(..., out=folder) writes one.")
    return keras.saving.load_model(file, compile=False)


def read_documents(data: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Reads documents from a file, a folder or a list.

    Raises:
        DataError: when a file cannot be read, with line and byte; or there are fewer than two documents.
    """
    if isinstance(data, (str, os.PathLike)):
        path = Path(data).expanduser()
        if path.is_dir():
            found = [_decoded(file) for file in sorted(path.rglob("*.txt"))]
        elif path.is_file():
            lines = _decoded(path).splitlines()
            found = "\n".join(line if line.strip() else "\0" for line in lines).split("\0")
        else:
            raise DataError(f"{path} does not exist. Expected a .txt file or a folder of them.")
    else:
        wrong = [repr(one) for one in data if not isinstance(one, str)]
        if wrong:
            raise DataError(f"Documents must be texts, got {listed(wrong[:3])}.")
        found = list(data)
    documents = [text.strip("\n") for text in found if text.strip()]
    if len(documents) < 2:
        raise DataError(
            f"Found {len(documents)} documents, expected two or more: one to learn from and one to hold out. In a file "
            "empty lines part them."
        )
    return documents


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        at = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        raise DataError(
            f"{path}:{line} is not UTF-8: byte {at} of the line is 0x{data[error.start]:02x}. Save the file as UTF-8."
        ) from error


def _split(documents: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    different = sorted(set(documents))  # equal documents stay on one side
    if len(different) < 2:
        raise DataError("All documents are equal, so none can be held out.")
    order = np.random.default_rng(seed).permutation(len(different))
    count = min(len(different) - 1, max(1, round(share * len(different))))
    held = {different[i] for i in order[:count]}
    return [d for d in documents if d not in held], [d for d in different if d in held]


def _check(lora: int, epochs: int, learning_rate: float, batch_size: int, validation: float) -> None:
    problems = [
        f"{name} must be a whole number from {least} on, got {value!r}"
        for name, value, least in (("lora", lora, 0), ("epochs", epochs, 1), ("batch_size", batch_size, 1))
        if isinstance(value, bool) or not isinstance(value, int) or value < least
    ]
    if not (isinstance(learning_rate, float) and 0 < learning_rate < math.inf):
        problems.append(f"learning_rate must be a number over 0, got {learning_rate!r}")
    if not (isinstance(validation, float) and 0 < validation < 1):
        problems.append(f"validation is a share over 0 and below 1, got {validation!r}")
    raise_problems(PlanError, "These settings cannot be used", problems)


def _new_folder(out: str | os.PathLike[str] | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanError(f"out={str(out)!r} is there and not empty, and a run overwrites nothing. Give another folder.")
    return folder


def _write(run: LanguageRun, folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{os.getpid()}.{MODEL}"
    try:
        run.model.save(aside)
        os.replace(aside, folder / MODEL)
    finally:
        aside.unlink(missing_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "loss", "val_perplexity"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.history)
    write_whole(folder / HISTORY, text.getvalue())
    write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    scores = {"unigram": run.unigram.to_dict(), "before": run.before.to_dict(), "after": run.after.to_dict()}
    write_whole(folder / METRICS, json.dumps(scores, indent=2) + "\n")
