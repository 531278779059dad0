"""Examples: from folders, tables or arrays to a ``tf.data.Dataset`` of pixels or texts that fits a backbone.

What is hidden here: which files can be used and why the others cannot, how they are split, in which
order they come, and the one way in which encoded bytes become pixels: training, evaluation,
prediction and the exported model all use it, so they cannot disagree.
"""

from tfft.errors import require_platform

require_platform()

from tfft.data.batches import from_arrays, from_files  # noqa: E402
from tfft.data.class_balance import class_weights, weighted  # noqa: E402
from tfft.data.datasets import to_dataset  # noqa: E402
from tfft.data.examples import Examples, Skipped, Splits, fold_splits  # noqa: E402
from tfft.data.labels import check_labels  # noqa: E402
from tfft.data.loader import load  # noqa: E402
from tfft.data.mixup import mixed, one_hot  # noqa: E402
from tfft.data.split import folds, groups_by, hold_out, read_split, write_split  # noqa: E402
from tfft.layers.log_mel import LogMel, audio_of, log_mel  # noqa: E402
from tfft.layers.preprocess import Preprocess, resize_pixels, scale_pixels  # noqa: E402
from tfft.modalities.audio.batches import from_waves  # noqa: E402
from tfft.modalities.audio.decode import read_recording  # noqa: E402
from tfft.modalities.audio.examples import Recordings  # noqa: E402
from tfft.modalities.audio.folder import RecordingSplits, load_recordings  # noqa: E402
from tfft.modalities.audio.table import load_recording_table, read_recording_table  # noqa: E402
from tfft.modalities.audio.waveform_store import Waves  # noqa: E402
from tfft.modalities.image.arrays import ArrayExamples, ArraySplits, load_arrays  # noqa: E402
from tfft.modalities.image.crops import find_parts  # noqa: E402
from tfft.modalities.image.decode import decode_image  # noqa: E402
from tfft.modalities.image.duplicates import Copies, Copy, find_copies  # noqa: E402
from tfft.modalities.image.file_info import FileFacts, examine  # noqa: E402
from tfft.modalities.image.folder import list_images, load_images  # noqa: E402
from tfft.modalities.image.preview import preview  # noqa: E402
from tfft.modalities.image.table import load_image_table, read_image_table  # noqa: E402
from tfft.modalities.text.examples import TextExamples, TextSplits, from_texts, load_texts, read_texts, text_lengths  # noqa: E402
from tfft.modalities.text.report import TextReport  # noqa: E402
from tfft.tasks.token_classification.data import TaggedSentences, TaggedSplits, from_tagged, load_tagged  # noqa: E402

__all__ = [
    "ArrayExamples",
    "ArraySplits",
    "Copies",
    "Copy",
    "Examples",
    "FileFacts",
    "LogMel",
    "Preprocess",
    "RecordingSplits",
    "Recordings",
    "Skipped",
    "Splits",
    "TaggedSentences",
    "TaggedSplits",
    "TextExamples",
    "TextReport",
    "TextSplits",
    "Waves",
    "audio_of",
    "check_labels",
    "class_weights",
    "decode_image",
    "examine",
    "find_copies",
    "find_parts",
    "fold_splits",
    "folds",
    "from_arrays",
    "from_files",
    "from_tagged",
    "from_texts",
    "from_waves",
    "groups_by",
    "hold_out",
    "list_images",
    "load",
    "load_arrays",
    "load_image_table",
    "load_images",
    "load_recording_table",
    "load_recordings",
    "load_tagged",
    "load_texts",
    "log_mel",
    "mixed",
    "one_hot",
    "preview",
    "read_image_table",
    "read_recording",
    "read_recording_table",
    "read_split",
    "read_texts",
    "resize_pixels",
    "scale_pixels",
    "text_lengths",
    "to_dataset",
    "weighted",
    "write_split",
]
