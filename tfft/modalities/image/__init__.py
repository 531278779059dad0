"""Images: files, tables and arrays, decoding, augmentation and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfft.modalities import lazy_names

if TYPE_CHECKING:
    from tfft.layers.preprocess import Preprocess, resize_pixels, scale_pixels
    from tfft.modalities.image.arrays import load_arrays
    from tfft.modalities.image.batches import from_arrays
    from tfft.modalities.image.crops import find_cropped_duplicates
    from tfft.modalities.image.decode import decode_image
    from tfft.modalities.image.duplicates import find_duplicates
    from tfft.modalities.image.examples import ImageArrays, ImageFiles
    from tfft.modalities.image.file_info import ImageFileInfo, examine
    from tfft.modalities.image.folder import list_images, load_images
    from tfft.modalities.image.modality import IMAGE
    from tfft.modalities.image.table import load_image_table, read_image_table

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ImageFileInfo": "file_info",
        "IMAGE": "modality",
        "ImageArrays": "examples",
        "ImageFiles": "examples",
        "Preprocess": "tfft.layers.preprocess",
        "decode_image": "decode",
        "examine": "file_info",
        "find_duplicates": "duplicates",
        "find_cropped_duplicates": "crops",
        "from_arrays": "batches",
        "list_images": "folder",
        "load_arrays": "arrays",
        "load_image_table": "table",
        "load_images": "folder",
        "read_image_table": "table",
        "resize_pixels": "tfft.layers.preprocess",
        "scale_pixels": "tfft.layers.preprocess",
    },
)

__all__ = [
    "ImageFileInfo",
    "IMAGE",
    "ImageArrays",
    "ImageFiles",
    "Preprocess",
    "decode_image",
    "examine",
    "find_duplicates",
    "find_cropped_duplicates",
    "from_arrays",
    "list_images",
    "load_arrays",
    "load_image_table",
    "load_images",
    "read_image_table",
    "resize_pixels",
    "scale_pixels",
]
