"""Examples: from folders, tables or arrays to a ``tf.data.Dataset`` of pixels or texts that fits a backbone.

What is hidden here: which files can be used and why the others cannot, how they are split, in which
order they come, and the one way in which encoded bytes become pixels: training, evaluation,
prediction and the exported model all use it, so they cannot disagree.
"""

from tfft.errors import require_platform

require_platform()

from tfft.data.array_splits import ArrayExamples, ArraySplits, load_arrays  # noqa: E402
from tfft.data.balancing import class_weights, weighted  # noqa: E402
from tfft.data.copies import Copies, Copy, find_copies  # noqa: E402
from tfft.data.datasets import to_dataset  # noqa: E402
from tfft.data.examples import Examples, Skipped, Splits, fold_splits  # noqa: E402
from tfft.data.facts import FileFacts, examine  # noqa: E402
from tfft.data.folders import list_images, load_images  # noqa: E402
from tfft.data.heard import Recordings  # noqa: E402
from tfft.data.image_tables import load_image_table, read_image_table  # noqa: E402
from tfft.data.images import Preprocess, decode_image, resize_pixels, scale_pixels  # noqa: E402
from tfft.data.kept_waves import Waves  # noqa: E402
from tfft.data.labels import check_labels  # noqa: E402
from tfft.data.loading import load  # noqa: E402
from tfft.data.mixing import mixed, one_hot  # noqa: E402
from tfft.data.parts import find_parts  # noqa: E402
from tfft.data.pipeline import from_arrays, from_files  # noqa: E402
from tfft.data.previewing import preview  # noqa: E402
from tfft.data.recording_tables import load_recording_table, read_recording_table  # noqa: E402
from tfft.data.recordings import RecordingSplits, load_recordings  # noqa: E402
from tfft.data.sound_files import read_recording  # noqa: E402
from tfft.data.sounds import LogMel, audio_of, log_mel  # noqa: E402
from tfft.data.splitting import folds, groups_by, hold_out, read_split, write_split  # noqa: E402
from tfft.data.tagged import TaggedSentences, TaggedSplits, from_tagged, load_tagged  # noqa: E402
from tfft.data.text_report import TextReport  # noqa: E402
from tfft.data.texts import TextExamples, TextSplits, from_texts, load_texts, read_texts, text_lengths  # noqa: E402
from tfft.data.waves import from_waves  # noqa: E402

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
