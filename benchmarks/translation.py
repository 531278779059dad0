"""Measure translation by a transformer from scratch: BLEU, chrF and the curve of the score over minutes.

    python benchmarks/translation.py multi30k/ [--minutes 40] [--bf16] [--out runs/en-de]

The folder holds ``train.tsv``, ``val.tsv`` and ``test.tsv`` with the columns ``en`` and ``de``, such as Multi30k
(Elliott et al., "Multi30K: Multilingual English-German image descriptions", 2016). ``val.tsv`` chooses the epoch, and
``test.tsv`` (the 2016 Flickr test set) is not used for selection. Scores are those of sacrebleu on texts as they are in
the file, with their case and punctuation. ``--minutes`` bounds the training: the number of epochs follows from the time
of some steps, and training stops at the bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

import tfft
from tfft.data.batches import BatchOptions
from tfft.decoding import tokenizer_of
from tfft.tasks.text_to_text.data import PairExamples, read_pairs
from tfft.tasks.text_to_text.decoding import TextGenerator
from tfft.tasks.text_to_text.evaluator import text_scores
from tfft.tasks.text_to_text.floors import nearest_targets
from tfft.tasks.text_to_text.head import TextToTextHead

CURVE = 200  # held-out pairs that are decoded after each epoch


class Curve(keras.callbacks.Callback):
    """BLEU of some held-out pairs after each epoch, and the end of the training after some minutes.

    Args:
        pairs: Held-out pairs.
        minutes: Bound for the training.
    """

    def __init__(self, pairs: PairExamples, minutes: float) -> None:
        super().__init__()
        self.pairs, self.minutes, self.rows, self.aside = pairs, minutes, [], 0.0
        self.began = time.perf_counter()

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Decode the held-out pairs, and stop if another epoch would not fit."""
        stopped = time.perf_counter()
        minutes = (stopped - self.began - self.aside) / 60
        written = translated(self.model, self.pairs)
        self.rows.append((epoch + 1, minutes, text_scores(written, list(self.pairs.labels), draws=0)["bleu"]))
        print(f"epoch {epoch + 1}: {minutes:.1f} minutes, BLEU {self.rows[-1][2]:.1f} of {len(written)} held-out pairs")
        self.aside += time.perf_counter() - stopped  # decoding is not training
        if minutes * (1 + 1 / (epoch + 1)) > self.minutes:
            self.model.stop_training = True


def translated(model: keras.Model, pairs: PairExamples, beam_size: int = 1) -> list[str]:
    """Return the translations of sources, 64 at a time."""
    import tensorflow as tf

    head = dataclasses.replace(cast(TextToTextHead, tfft.heads.from_model(model)), beam_size=beam_size)
    generator, tokenizer = TextGenerator.of(model, head), tokenizer_of(model)
    key = ("decode", beam_size)
    known = model.__dict__.setdefault("_benchmark_decoders", {})
    if key not in known:
        spec = [tf.TensorSpec([None, None], tf.int32)]
        known[key] = tf.function(lambda source: generator.tokens(source)[0], input_signature=spec, autograph=False)
    tokens = pairs.tokenized(tokenizer).tokens
    order = np.argsort([len(ids) for ids in tokens.source], kind="stable")  # type: ignore[union-attr]
    found = [""] * len(pairs)
    for at in range(0, len(order), 64):
        rows = order[at : at + 64]
        source = tf.ragged.constant([tokens.source[i].tolist() for i in rows]).to_tensor(-1)  # type: ignore[union-attr]
        for row, text in zip(rows, tokenizer.read(known[key](tf.cast(source, tf.int32)).numpy()), strict=True):
            found[row] = text
    return found


def line(name: str, written: list[str], targets: list[str]) -> dict[str, Any]:
    """Print the scores of texts."""
    s = text_scores(written, targets)
    print(
        f"{name:32} BLEU {s['bleu']:5.2f} ({s['bleu_low']:.2f} to {s['bleu_high']:.2f})  "
        f"chrF {s['chrf']:5.2f} ({s['chrf_low']:.2f} to {s['chrf_high']:.2f})",
        flush=True,
    )
    return s


def epochs_for(train: Path, held: Path, minutes: float, batch_size: int) -> int:
    """Return the epochs that fit into some minutes, from the time of steps on this machine."""
    from tfft.tasks.text_to_text.adapting import adapted_pairs
    from tfft.tasks.text_to_text.data import load_pairs

    adapted = adapted_pairs(load_pairs({"train": train, "validation": held}), tfft.load_backbone("transformer-small"))
    model = tfft.build(adapted.backbone, tfft.heads.text_to_text(label_smoothing=0.1), modality="text")
    tfft.unfreeze(model, "all")
    model.compile("adamw", **tfft.heads.from_model(model).compile_args())
    data = adapted.splits.train.batches(None, BatchOptions(batch_size, True, 0))
    steps = int(data.cardinality())
    model.fit(data.take(8), verbose=0, shuffle=False)
    began = time.perf_counter()
    model.fit(data.take(12), verbose=0, shuffle=False)
    each = (time.perf_counter() - began) / 12
    epochs = int(np.clip(60 * minutes / (each * steps), 2, 30))
    print(f"{each:.2f} s a step, {steps} steps an epoch: {epochs} epochs in {minutes:g} minutes", flush=True)
    return epochs


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16 (Keras' policy mixed_bfloat16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.bf16:
        keras.config.set_dtype_policy("mixed_bfloat16")
    files = [options.folder / f"{name}.tsv" for name in ("train", "val", "test")]
    train, held, test = (read_pairs(file, text="en", target="de") for file in files)
    targets = list(test.labels)
    print(f"{len(train):,} training pairs, {len(held):,} held out, {len(test):,} for the test", flush=True)
    signature = line("copying the source", list(test.sources), targets)["signature"]
    nearest = nearest_targets(list(train.sources), list(train.labels), list(test.sources))
    line("target of the nearest source", nearest, targets)
    epochs = options.epochs or epochs_for(files[0], files[1], options.minutes, options.batch_size)
    curve = Curve(held.take(np.linspace(0, len(held) - 1, CURVE).astype(int)), options.minutes)
    run = tfft.finetune(
        "transformer-small", {"train": files[0], "validation": files[1]}, task="text_to_text", text="en", target="de",
        epochs=epochs, batch_size=options.batch_size, callbacks=[curve], seed=options.seed, out=options.out,
        export_to=False,
    )  # fmt: skip
    print("epoch minutes BLEU")
    for row in curve.rows:
        print(f"{row[0]:5} {row[1]:7.1f} {row[2]:5.1f}")
    print(signature)
    line("greedy decoding", translated(run.model, test), targets)
    line("beam search, 4 hypotheses", translated(run.model, test, 4), targets)
    for at in range(0, len(test), len(test) // 5):
        [written] = translated(run.model, test.take(np.array([at])))
        print(f"  {test.sources[at]}\n    expected: {targets[at]}\n    written:  {written}")


if __name__ == "__main__":
    main()
