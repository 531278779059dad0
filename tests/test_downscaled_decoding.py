"""JPEG files that are much larger than needed are decoded at a fraction of their size, everywhere alike."""

from __future__ import annotations

import dataclasses
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfft
from tfft.data.batches import BatchOptions
from tfft.layers.preprocess import resize_pixels
from tfft.modalities.image.batches import file_batches, file_views
from tfft.modalities.image.decode import decode_image
from tfft.recipes.preparing import open_backbone
from tfft.specs import Augmentation, InputSpec

FULL = InputSpec(32, 24)
SPEC = dataclasses.replace(FULL, downscaled_decoding=True)
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module", autouse=True)
def _traced():
    """Tracing the decoders, once for all, belongs to no test."""
    for spec in (FULL, SPEC):
        decode_image(photo(40, 40), spec)


def photo(height: int, width: int, kind: str = "jpeg", orientation: int = 1) -> bytes:
    """A smooth picture with noise, in a file."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 / height, columns * 255 / width, 128 + 100 * np.sin(rows * 6 / height)], -1)
    pixels = np.clip(pixels + RNG.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind, **({"exif": exif, "quality": 95} if kind == "jpeg" else {}))
    return held.getvalue()


@pytest.mark.parametrize(
    ("size", "ratio"),
    [((191, 143), 1), ((192, 144), 2), ((383, 1000), 2), ((384, 288), 4), ((768, 576), 8), ((3000, 700), 8)],
)
def test_both_sides_stay_three_times_as_large_as_needed(size, ratio):
    encoded = photo(*size)
    wanted = tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(decode_image(encoded, SPEC), tf.cast(resize_pixels(wanted, FULL), tf.uint8))
    gap = np.abs(decode_image(encoded, SPEC).numpy().astype(int) - decode_image(encoded, FULL).numpy())
    assert gap.mean() < 0.5
    assert (gap.max() == 0) == (ratio == 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_sides_of_a_turned_photo_are_those_of_the_upright_one(orientation):
    encoded = photo(384, 290, orientation=orientation)  # on its side, the height is too small for a quarter
    lies = orientation > 4
    pixels = tf.io.decode_jpeg(encoded, channels=3, ratio=2 if lies else 4, dct_method="INTEGER_ACCURATE")
    again = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels.numpy()).save(again, "png", exif=exif)
    upright = np.asarray(Image.open(io.BytesIO(again.getvalue())))
    steps = {2: (1, 0), 3: (1, 1), 4: (0, 1), 5: "t", 6: "tm", 7: "tmv", 8: "tv"}.get(orientation, (0, 0))
    if isinstance(steps, str):
        upright = upright.transpose(1, 0, 2)
        steps = ("m" in steps, "v" in steps)
    upright = upright[:: -1 if steps[1] else 1, :: -1 if steps[0] else 1]
    np.testing.assert_array_equal(decode_image(encoded, SPEC), tf.cast(resize_pixels(upright, FULL), tf.uint8))


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "webp"])
def test_other_formats_are_as_before(kind):
    encoded = photo(400, 300, kind)
    np.testing.assert_array_equal(decode_image(encoded, SPEC), decode_image(encoded, FULL))


def test_damaged_files_are_named():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not an image that can be read.*here\.jpg"):
        decode_image(tf.constant(b"no picture"), SPEC, path=tf.constant("here.jpg"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(tf.constant(photo(400, 300)[:2000]), SPEC)


@pytest.fixture
def photos(tmp_path):
    for at in range(8):
        path = tmp_path / "photos" / "ab"[at % 2] / f"{at}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(400 + at, 300 + 40 * (at % 2)))
    return tmp_path / "photos"


@pytest.mark.slow
def test_the_first_view_is_the_image_itself(photos):
    examples = tfft.modalities.image.list_images(photos)
    [(plain, _)] = file_batches(examples.paths, examples.labels, SPEC, BatchOptions(8))
    views = file_views(examples.paths, examples.labels, SPEC, Augmentation(flip=True), 2, BatchOptions(8))
    first, second = (pixels.numpy() for pixels, _ in views)
    np.testing.assert_array_equal(first, plain)
    mirrored = [np.array_equal(b, a[:, ::-1]) for a, b in zip(first, second, strict=True)]
    assert any(mirrored)
    assert all(m or np.array_equal(a, b) for m, a, b in zip(mirrored, first, second, strict=True))


def backbone() -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, name="block0_conv")(keras.layers.Rescaling(1 / 127.5, -1)(image))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="small")


@pytest.mark.daily("classification-False-True", "object_detection-False-False")
@pytest.mark.parametrize(("task", "full", "wanted"), [
    ("classification", False, True), ("classification", True, False), ("object_detection", False, False),
    ("semantic_segmentation", False, False),
])  # fmt: skip
def test_labels_that_are_places_need_full_size(task, full, wanted):
    opened = open_backbone("efficientnet-lite0", tfft.RunConfig(full_decoding=full), task)
    assert opened.input_spec.downscaled_decoding == wanted


@pytest.mark.slow
def test_training_file_and_export_decode_alike(photos, tmp_path):
    run = tfft.finetune(
        backbone(), photos, plan="linear_probe", image_size=32, input_range=(0, 255),
        export_to=tmp_path / "served" / "1", out=tmp_path / "run", cache=None, verbose=False,
    )  # fmt: skip
    spec = run.model.get_layer("preprocess").spec
    assert spec.downscaled_decoding
    assert tfft.load_run(tmp_path / "run").model.get_layer("preprocess").spec == spec
    files = sorted(photos.glob("*/*.jpg"))
    pixels, whole = (
        np.stack([decode_image(file.read_bytes(), each) for file in files])
        for each in (spec, dataclasses.replace(spec, downscaled_decoding=False))
    )
    assert not np.array_equal(whole, pixels)
    served = tf.saved_model.load(str(tmp_path / "served" / "1"))
    answer = served.signatures["serve_bytes"](image_bytes=tf.constant([file.read_bytes() for file in files]))
    np.testing.assert_allclose(answer["logits"], run.model.predict(pixels, verbose=0), atol=1e-5)
