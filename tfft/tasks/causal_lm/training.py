"""Fine-tuning of causal language models: :func:`finetune`.

Implementation notes: everything except the low-rank updates stays bit-equal, and the best epoch is kept.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfft.backbones.keras_hub_text import read_preset
from tfft.errors import BackboneError, DataError, PlanError, raise_problems
from tfft.freezing import add_lora, audit, merge_lora
from tfft.io.atomic import whole, write_whole
from tfft.tasks.causal_lm.data import read_documents, split_documents, windows
from tfft.tasks.causal_lm.perplexity_scores import Perplexity, perplexity, unigram

MODEL, METRICS, SETTINGS, HISTORY = "model.keras", "metrics.json", "settings.json", "history.csv"
_USUAL = 128
_PATIENCE = 2
_WARMUP = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageRun:
    """Result of :func:`finetune`.

    Attributes:
        model: KerasHub causal language model; ``model.generate("Once upon")`` continues a text.
        before: Perplexity on the held-out documents before training.
        after: Perplexity at the end. It also selected the best epoch, so it is slightly optimistic for few documents.
        unigram: Perplexity of a unigram model of the training documents, as a baseline.
        history: One row per epoch.
        folder: Folder of the run; None if nothing was written.
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


def causal_lm(preset: str | os.PathLike[str], *, lora_rank: int = 8, max_length: int | None = None) -> keras.Model:
    """Open a decoder of KerasHub as a language model for generation, with trainable low-rank updates.

    Use it for your own ``fit``; :func:`finetune` runs everything.

    Args:
        preset: Preset for ``keras_hub.models.CausalLM.from_preset``, also with the prefix ``keras_hub:``, or a folder.
        lora_rank: Rank of the updates of the kernels in attention and feed-forward layers; everything else is frozen. 0
            leaves everything trainable.
        max_length: Maximum number of tokens to read or write. Defaults to 128, or the model's limit if that is lower.

    Returns:
        A ``keras_hub.models.CausalLM``, from token ids to logits [B, L, vocabulary].

    Raises:
        BackboneError: If the preset is not a decoder, or has a lower limit.
        DependencyError: If KerasHub is missing.

    Example:
        >>> model = causal_lm("keras_hub:gpt2_base_en", lora_rank=8)
        >>> model.generate("Once upon", max_length=40)
    """
    name = os.fspath(preset).removeprefix("keras_hub:")
    model = read_preset(name, "language model", "CausalLM")
    limit = int(getattr(model.backbone, "max_sequence_length", None) or 512)
    length = min(_USUAL, limit) if max_length is None else max_length
    if isinstance(length, bool) or not isinstance(length, int) or not 4 <= length <= limit:
        raise BackboneError(f"max_length must be 4 to {limit}, which is what {name} takes. Received: {max_length!r}.")
    model.preprocessor.sequence_length = length
    if lora_rank:
        with warnings.catch_warnings():  # updates are added to the kernels before anything is saved
            warnings.filterwarnings("ignore", message="The low-rank updates in", category=UserWarning)
            add_lora(model, "all", rank=lora_rank)
    return model


def finetune(
    preset: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str],
    *,
    out: str | os.PathLike[str] | None = None,
    lora_rank: int = 8,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 8,
    max_length: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    verbose: bool = True,
) -> LanguageRun:
    """Fine-tune a decoder on documents, and measure its perplexity on held-out ones.

    Training uses AdamW with a linear warmup and cosine decay, on the low-rank updates alone (Hu et al., 2021). After
    each epoch the held-out perplexity is measured; the weights of the best epoch are kept, those from before training
    if none is better, and two epochs without improvement end the training.

    Args:
        preset: As in :func:`causal_lm`.
        data: A ``.txt`` file, whose documents are separated by empty lines; a folder of ``.txt`` files, one document
            each; or a list of texts.
        out: New folder for ``model.keras`` (updates added to the kernels), ``metrics.json``, ``settings.json`` and
            ``history.csv``; None writes nothing.
        lora_rank: Rank of the updates; 0 trains everything.
        epochs: Maximum number of epochs.
        learning_rate: Peak learning rate; about 1e-3 for updates, 5e-5 for everything.
        batch_size: Windows per step.
        max_length: Tokens per window.
        validation: Share of the documents to hold out, at least one.
        seed: Seed for the split, the order and the updates.
        verbose: Print a line for each epoch.

    Returns:
        :class:`LanguageRun`.

    Raises:
        DataError: If there are fewer than two documents, or a file cannot be read; with line and byte.
        PlanError: If a setting is out of range, or ``out`` is not empty.
        BackboneError: As in :func:`causal_lm`.

    Example:
        >>> run = tfft.tasks.causal_lm.finetune("keras_hub:gpt2_base_en", "poems.txt", out="runs/poems")
        >>> print(run.model.generate("The moon", max_length=60))
    """
    _check(lora_rank, epochs, learning_rate, batch_size, validation)
    folder = _new_folder(out)
    keras.utils.set_random_seed(seed)
    train, held = split_documents(read_documents(data), validation, seed)
    model = causal_lm(preset, lora_rank=lora_rank, max_length=max_length)
    tokenizer, length = model.preprocessor.tokenizer, model.preprocessor.sequence_length
    before, least = perplexity(model, held), unigram(train, held, tokenizer)
    say = print if verbose else (lambda _: None)
    say(f"{len(train)} documents for training, {len(held)} held out\nunigram  {least}\nbefore   {before}")
    dataset = windows(train, tokenizer, length, batch_size=batch_size, shuffle=True, seed=seed)
    after, rows = _fit(model, dataset, held, before, epochs, learning_rate, say)
    if lora_rank:
        merge_lora(model)
    run = LanguageRun(model, before, after, least, tuple(rows), folder)
    if folder is not None:
        settings = {
            "preset": os.fspath(preset), "lora_rank": lora_rank, "epochs": epochs, "learning_rate": learning_rate,
            "batch_size": batch_size, "max_length": length, "validation": validation, "seed": seed,
        }  # fmt: skip
        _write(run, folder, settings)
    say(run.summary.splitlines()[-1])
    return run


def _fit(
    model: keras.Model,
    dataset: tf.data.Dataset,
    held: Sequence[str],
    best: Perplexity,
    epochs: int,
    learning_rate: float,
    say: Callable[[str], None],
) -> tuple[Perplexity, list[dict[str, float]]]:
    """Train, restore the best weights, and return their perplexity and a row for each epoch."""
    steps = int(dataset.cardinality())
    rising = max(1, round(_WARMUP * steps * epochs))
    falling = max(1, steps * epochs - rising)
    rate = keras.optimizers.schedules.CosineDecay(0.0, falling, warmup_target=learning_rate, warmup_steps=rising)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
    # A model of the same layers: the task's own fit would tokenize, and its settings for writing stay as they are.
    network = keras.Model(model.input, model.output)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    watch, rows = audit(network), []
    kept = [variable.numpy() for variable in network.trainable_variables]
    for epoch in range(1, epochs + 1):
        loss = network.fit(dataset, verbose=0, shuffle=False).history["loss"][-1]
        now = perplexity(model, held)
        rows.append({"epoch": epoch, "loss": loss, "val_perplexity": now.value})
        say(f"{epoch}/{epochs}  loss {loss:.4f}  held-out perplexity {now.value:.2f}")
        if now.value < best.value:
            best, kept = now, [variable.numpy() for variable in network.trainable_variables]
        elif epoch > _PATIENCE and all(row["val_perplexity"] > best.value for row in rows[-_PATIENCE:]):
            break
    watch.check()
    for variable, value in zip(network.trainable_variables, kept, strict=True):
        variable.assign(value)
    return best, rows


def load(folder: str | os.PathLike[str]) -> keras.Model:
    """Load the model of a run from :func:`finetune`.

    Raises:
        DataError: If there is none.
    """
    file = Path(folder).expanduser() / MODEL
    if not file.is_file():
        raise DataError(f"{folder} holds no {MODEL}: tfft.tasks.causal_lm.finetune(..., out=folder) writes one.")
    return keras.saving.load_model(file, compile=False)


def _check(lora_rank: int, epochs: int, learning_rate: float, batch_size: int, validation: float) -> None:
    problems = [
        f"{name} must be an integer of at least {least}, received {value!r}"
        for name, value, least in (("lora_rank", lora_rank, 0), ("epochs", epochs, 1), ("batch_size", batch_size, 1))
        if isinstance(value, bool) or not isinstance(value, int) or value < least
    ]
    if not (isinstance(learning_rate, float) and 0 < learning_rate < math.inf):
        problems.append(f"learning_rate must be a number above 0, received {learning_rate!r}")
    if not (isinstance(validation, float) and 0 < validation < 1):
        problems.append(f"validation must be a share above 0 and below 1, received {validation!r}")
    raise_problems(PlanError, "These settings cannot be used", problems)


def _new_folder(out: str | os.PathLike[str] | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanError(f"out={str(out)!r} is not empty, and tfft never overwrites files. Use another folder.")
    return folder


def _write(run: LanguageRun, folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / MODEL) as aside:
        run.model.save(aside)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "loss", "val_perplexity"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.history)
    write_whole(folder / HISTORY, text.getvalue())
    write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    scores = {"unigram": run.unigram.to_dict(), "before": run.before.to_dict(), "after": run.after.to_dict()}
    write_whole(folder / METRICS, json.dumps(scores, indent=2) + "\n")
