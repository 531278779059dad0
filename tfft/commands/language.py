"""``tfft language``: fine-tunes a causal language model on texts."""

from __future__ import annotations

import argparse
import shlex

from tfft.console.output import SUCCESS, PrintResult, start_tensorflow
from tfft.settings import parse_whole

SUMMARY = "fine-tune a language model on texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("data", metavar="DATA", help=".txt file with empty lines between documents; or a folder of such files")
    add("--backbone", required=True, metavar="PRESET", help="decoder from KerasHub, such as gpt2_base_en")
    add("--out", required=True, metavar="RUN", help="new folder for the model and its records")
    add("--lora-rank", type=int, metavar="RANK", help="rank of the low-rank updates; 0 trains all weights (8)")
    add("--epochs", type=parse_whole, metavar="N", help="maximum number of epochs (10)")
    add("--learning-rate", type=float, metavar="RATE", help="peak learning rate (1e-3)")
    add("--batch-size", type=parse_whole, metavar="N", help="windows per step (8)")
    add("--max-length", type=parse_whole, metavar="N", help="tokens in a window (at most 128)")
    add("--validation", type=float, metavar="SHARE", help="share of the documents to hold out (0.1)")
    add("--seed", type=int, metavar="S", help="seed for the split, the order and new weights (0)")
    add("--export", metavar="OUT", help="write a SavedModel from texts to texts, such as served/1")


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Fine-tune a causal language model on texts and write a run."""
    start_tensorflow()
    from tfft.tasks import causal_lm as models

    names = ("lora_rank", "epochs", "learning_rate", "batch_size", "max_length", "validation", "seed")
    settings = {name: value for name in names if (value := getattr(options, name)) is not None}
    done = models.finetune(options.backbone, options.data, out=options.out, **settings)
    if options.export:
        print(f"Exported to {models.export(done.model, options.export).path}")
    print(f'Saved to {options.out}. Next: tfft predict {shlex.quote(options.out)} --text "Once upon"')
    return SUCCESS
