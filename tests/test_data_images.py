"""The one preprocessing: formats, EXIF, size guard, resize, and equality wherever it runs."""

import importlib
import io
import struct
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tfft.errors import DataError, PlanError
from tfft.layers.preprocess import Preprocess, resize_pixels, scale_pixels
from tfft.modalities.image.decode import decode_image, decode_pixels
from tfft.modalities.image.headers import read_header
from tfft.specs import InputSpec

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), np.uint8)
SPEC = InputSpec(height=16, width=12)
MODES = ["stretch", "crop", "pad"]


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation, little=True):
    order, mark = ("<", b"II") if little else (">", b"MM")
    entries = [(0x0100, 4, struct.pack(order + "I", 30)), (0x0112, 3, struct.pack(order + "HH", orientation, 0))]
    table = b"".join(struct.pack(order + "HHI", tag, kind, 1) + value for tag, kind, value in entries)
    return mark + struct.pack(order + "HIH", 42, 8, len(entries)) + table + bytes(4)


@pytest.fixture(scope="module")
def decode():
    return tf.function(decode_pixels, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.daily("jpeg-options0-MM")
@pytest.mark.parametrize("little", [True, False], ids=["II", "MM"])
@pytest.mark.parametrize(("kind", "options"), [("jpeg", {}), ("png", {}), ("webp", {"lossless": True}), ("webp", {})])
def test_exif_orientation_equals_pillow(decode, kind, options, little):
    for orientation in range(1, 9):
        encoded = encode(COLOUR, kind, exif=b"Exif\x00\x00" + exif(orientation, little), **options)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
        assert int(read_header(encoded).orientation) == orientation
        np.testing.assert_array_equal(decode(encoded), np.array(upright))


def test_damaged_exif_is_ignored(decode):
    whole = exif(6)
    for data in (whole[:12], whole[:20], b"XX" + whole[2:], whole[:4] + b"\xff\xff\xff\x7f" + whole[8:], exif(9)):
        encoded = encode(COLOUR, "jpeg", exif=b"Exif\x00\x00" + data)
        assert decode(encoded).shape == COLOUR.shape


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("jpeg", "RGB", {"quality": 80}),
        ("jpeg", "L", {}),
        ("jpeg", "CMYK", {}),
        ("jpeg", "RGB", {"progressive": True}),
        ("png", "L", {}),
        ("png", "P", {}),
        ("png", "1", {}),
        ("gif", "P", {}),
        ("bmp", "RGB", {}),
        ("bmp", "L", {}),
        ("bmp", "P", {}),
        ("webp", "RGB", {"lossless": True}),
        ("webp", "RGB", {"quality": 70}),
    ],
)
def test_decoded_pixels_equal_pillow(decode, kind, mode, options):
    encoded = encode(Image.fromarray(COLOUR).convert(mode), kind, **options)
    header = read_header(encoded)
    assert (int(header.height), int(header.width)) == (20, 30)
    np.testing.assert_array_equal(decode(encoded), np.array(Image.open(io.BytesIO(encoded)).convert("RGB")))


def test_sixteen_bit_png_is_scaled(decode):
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    decoded = decode(encode(deep, "png")).numpy()
    assert np.abs(decoded[..., 0] - deep / 257).max() <= 1
    assert decoded.min() == 0
    assert decoded.max() == 255


def raw_png(colour_type, depth, rows, **chunks):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(
        ">IIBBBBB", 8 * len(rows[0]) // depth // (2 if colour_type == 4 else 1), len(rows), depth, colour_type, 0, 0, 0
    )
    middle = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + pixels + chunk(b"IEND", b"")


PALETTE = bytes(range(30, 78))


@pytest.mark.parametrize(
    ("encoded", "row"),
    [
        (raw_png(0, 1, [b"\xf0"]), [[255] * 3] * 4 + [[0] * 3] * 4),
        (raw_png(0, 2, [b"\xe4"]), [[255] * 3, [170] * 3, [85] * 3, [0] * 3]),
        (raw_png(0, 4, [b"\x1f"]), [[17] * 3, [255] * 3]),
        (raw_png(0, 4, [b"\x1f"], tRNS=b"\0\x01"), [[255] * 3, [255] * 3]),
        (raw_png(3, 4, [b"\x1f"], PLTE=PALETTE), [[33, 34, 35], [75, 76, 77]]),
        (raw_png(3, 4, [b"\x1f"], PLTE=PALETTE, tRNS=b"\xff\x00"), [[255] * 3, [75, 76, 77]]),
        (raw_png(4, 8, [b"a\x00"]), [[255] * 3]),
    ],
)
def test_every_png_depth_keeps_its_colours(decode, encoded, row):
    np.testing.assert_array_equal(decode(encoded)[0], row)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparent_pixels_are_laid_over_white(decode, kind):
    rgba = np.dstack([COLOUR, RNG.integers(0, 256, (20, 30), np.uint8)])
    rgba[:5, :, 3], rgba[5:10, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    decoded = decode(encode(rgba, kind, **options)).numpy()
    share = rgba[..., 3:] / 255.0
    assert np.abs(decoded - (rgba[..., :3] * share + 255 * (1 - share))).max() <= 0.501
    assert (decoded[:5] == 255).all()
    np.testing.assert_array_equal(decoded[5:10], COLOUR[5:10])


def test_transparent_palette_entry_is_white(decode):
    picture = Image.new("P", (30, 20), 3)
    picture.putpalette([10, 20, 30] * 256)
    assert (decode(encode(picture, "png")).numpy() == [10, 20, 30]).all()
    assert (decode(encode(picture, "png", transparency=3)).numpy() == 255).all()


def test_animated_gif_gives_its_first_frame(decode):
    first = Image.fromarray(COLOUR).convert("P")
    more = Image.fromarray(COLOUR[::-1].copy()).convert("P")
    decoded = decode(encode(first, "gif", save_all=True, append_images=[more]))
    np.testing.assert_array_equal(decoded, np.array(first.convert("RGB")))


@pytest.mark.slow
def test_animated_webp_is_refused_before_the_decoder_that_crashes(decode):
    frames = [Image.fromarray(COLOUR[::-1].copy())]
    encoded = encode(COLOUR, "webp", save_all=True, append_images=frames, lossless=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated WebP"):
        decode(encoded)
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated WebP"):
        list(tf.data.Dataset.from_tensors(encoded).map(lambda e: decode_image(e, SPEC)))


def png_header(rows, columns):
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", columns, rows) + b"\x08\x02\x00\x00\x00" + bytes(40)
    )


def jpeg_header(rows, columns, before=b""):
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC2, 17, 8, rows, columns, 3) + bytes(9)
    return b"\xff\xd8" + before + b"\xff\xe2" + struct.pack(">H", 1002) + bytes(1000) + frame + bytes(40)


HUGE = {
    "png": png_header(20000, 20000),
    "png above 2**31": png_header(2**31 - 1, 2**31 - 1),
    "jpeg": jpeg_header(20000, 20000),
    "jpeg behind stray bytes": jpeg_header(20000, 20000, b"\xff\xfe\x00\x04hi\x00stray\xff\xff"),
    "gif": b"GIF89a" + struct.pack("<HH", 20000, 20000) + bytes(40),
    "bmp": b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 20000, -20000, 1, 24, 0) + bytes(40),
    "webp lossy": b"RIFF\x40\x00\x00\x00WEBPVP8 \x40\x00\x00\x00"
    + bytes(3)
    + b"\x9d\x01\x2a"
    + struct.pack("<HH", 16383, 16383)
    + bytes(40),
    "webp lossless": b"RIFF\x40\x00\x00\x00WEBPVP8L\x40\x00\x00\x00\x2f"
    + struct.pack("<I", 16382 | 16382 << 14)
    + bytes(40),
    "webp extended": b"RIFF\x40\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00"
    + bytes(4)
    + b"\xff\xff\x00\xff\xff\x00"
    + bytes(40),
}


@pytest.mark.daily("png")
@pytest.mark.parametrize("name", HUGE)
def test_more_than_a_hundred_megapixels_are_refused_from_the_header(decode, name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="larger than 100 megapixels"):
        decode(HUGE[name])
    with pytest.raises(tf.errors.InvalidArgumentError, match="larger than 100 megapixels"):
        list(tf.data.Dataset.from_tensors(HUGE[name]).map(lambda e: decode_image(e, SPEC)))


def test_the_size_guard_lets_the_limit_pass(monkeypatch):
    monkeypatch.setattr("tfft.modalities.image.decode.PIXELS_LIMIT", 600)
    decode = importlib.import_module("tfft.modalities.image.decode")
    assert decode._decode(tf.constant(encode(COLOUR, "png"))).shape == (20, 30, 3)  # not traced with another limit
    monkeypatch.setattr("tfft.modalities.image.decode.PIXELS_LIMIT", 599)
    with pytest.raises(tf.errors.InvalidArgumentError, match="megapixels"):
        decode._decode(tf.constant(encode(COLOUR, "png")))


@pytest.mark.slow
@pytest.mark.representative("hello, this is no image-not an image")
@pytest.mark.parametrize(
    ("encoded", "match"),
    [
        (b"", "empty"),
        (b"x", "not an image"),
        (b"hello, this is no image", "not an image"),
        (b"\xff\xd8\xff", "no usable size"),
        (encode(COLOUR, "tiff"), "not an image"),
        (encode(COLOUR, "jpeg")[:-200], "JPEG"),
        (encode(COLOUR, "png")[:-200], "PNG"),
        (encode(COLOUR, "bmp")[:30] + struct.pack("<I", 1) + encode(COLOUR, "bmp")[34:], "packed in an unusual way"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(decode, encoded, match):
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        decode(encoded)
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        decode_pixels(tf.constant(encoded))
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        list(tf.data.Dataset.from_tensors(encoded).map(lambda e: decode_image(e, SPEC)))


@pytest.mark.slow
def test_random_bytes_never_crash_the_header(decode):
    starts = [b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x00\x00\x00\x00WEBPVP8X", b""]
    read = tf.function(lambda encoded: tuple(read_header(encoded)), input_signature=[tf.TensorSpec([], tf.string)])
    for turn in range(120):
        data = starts[turn % 6] + RNG.bytes(int(RNG.integers(1, 300)))
        _, height, width, orientation, _ = read(data)
        assert int(height) >= 0
        assert int(width) >= 0
        assert 1 <= int(orientation) <= 8


@pytest.mark.daily("1-bilinear-crop")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "area"])
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_raw_pixels_give_bit_equal_inputs(mode, interpolation, channels):
    spec = InputSpec(16, 12, channels, (-1.0, 1.0), resize=mode, interpolation=interpolation)
    layer = Preprocess(spec)
    raw = layer(COLOUR[None])
    encoded = encode(COLOUR, "png")
    eager = decode_image(tf.constant(encoded), spec)
    assert eager.dtype == tf.uint8
    assert eager.shape == (16, 12, channels)
    [mapped] = tf.data.Dataset.from_tensors(encoded).map(lambda e: decode_image(e, spec)).as_numpy_iterator()
    np.testing.assert_array_equal(mapped, eager)
    np.testing.assert_array_equal(layer(eager[None]), raw)
    assert raw.shape == (1, 16, 12, channels)
    assert np.ptp(raw) > 0.5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sides", [(16, 12), (17, 12), (8, 40), (1, 1), (300, 5)])
def test_every_size_and_aspect_comes_out_right(mode, sides):
    spec = InputSpec(16, 12, resize=mode)
    batch = RNG.integers(0, 256, (2, *sides, 3), np.uint8)
    one_by_one = np.stack([resize_pixels(image, spec) for image in batch])
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
    dynamic = tf.function(lambda x: resize_pixels(x, spec), input_signature=signature)(batch)
    np.testing.assert_array_equal(dynamic, one_by_one)
    np.testing.assert_array_equal(resize_pixels(batch.astype(np.float32), spec), one_by_one)
    assert dynamic.dtype == tf.float32
    assert dynamic.shape == (2, 16, 12, 3)
    assert (one_by_one == np.round(one_by_one)).all()
    assert 0 <= one_by_one.min() <= one_by_one.max() <= 255


def test_the_right_size_passes_unchanged():
    exact = RNG.integers(0, 256, (16, 12, 3), np.uint8)
    for mode in MODES:
        np.testing.assert_array_equal(resize_pixels(exact, InputSpec(16, 12, resize=mode)), exact)


def test_crop_keeps_the_centre_and_pad_keeps_everything():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    wide[:, :10] = 100
    cropped = resize_pixels(wide, InputSpec(10, 10, resize="crop")).numpy()
    assert (cropped == 200).all()
    padded = resize_pixels(np.full((10, 30, 3), 200, np.uint8), InputSpec(30, 30, resize="pad")).numpy()
    assert (padded[10:20] == 200).all()
    assert (padded[:10] == 0).all()
    assert (padded[20:] == 0).all()


def test_shrinking_averages():
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::8] = 200  # one bright column in eight: skipping pixels would miss it
    small = resize_pixels(lines, InputSpec(8, 8)).numpy()
    assert small[:, 1:-1].min() > 0
    assert abs(small[:, 1:-1].mean() - 25) < 2
    assert (resize_pixels(lines, InputSpec(8, 8, interpolation="nearest")).numpy() == 0).all()


def test_scaling_is_the_closed_form():
    spec = InputSpec(value_range=(-1, 1), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (COLOUR / 255 * 2 - 1 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(scale_pixels(COLOUR, spec), expected, atol=1e-6)
    ends = scale_pixels(np.array([[0.0], [255.0]]), InputSpec(value_range=(0, 1)))
    np.testing.assert_array_equal(ends, [[0.0], [1.0]])


def test_grey_and_colour_convert_to_the_channels_of_the_spec():
    grey = COLOUR[..., :1]
    np.testing.assert_array_equal(resize_pixels(grey, InputSpec(20, 30, 3)), np.repeat(grey, 3, -1))
    neutral = resize_pixels(np.repeat(grey, 3, -1), InputSpec(20, 30, 1))
    np.testing.assert_array_equal(neutral, grey)
    with pytest.raises(DataError, match=r"received shape \(2, 20, 30, 4\)"):
        resize_pixels(np.zeros((2, 20, 30, 4)), SPEC)
    with pytest.raises(DataError, match="add one with"):
        Preprocess(SPEC)(keras.Input((28, 28)))


@pytest.mark.slow
def test_a_shape_that_tracing_does_not_know_is_checked_when_the_pixels_come():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, Preprocess(InputSpec(16, 12))(inputs))
    colour = COLOUR[None].astype(np.uint8)
    grey = colour[..., :1]
    expected = model.predict(colour, verbose=0)
    for wrong in (np.concatenate([colour, grey], -1), np.moveaxis(colour, -1, 1)):  # Keras traces with [..., None]
        with pytest.raises(tf.errors.InvalidArgumentError, match="with 1 or 3 channels last, received shape"):
            model.predict(wrong, verbose=0)
    np.testing.assert_array_equal(model.predict(colour, verbose=0), expected)
    np.testing.assert_array_equal(model.predict(grey, verbose=0), model.predict(np.repeat(grey, 3, -1), verbose=0))


@pytest.mark.representative("None", "shape2")
@pytest.mark.daily("shape1")
@pytest.mark.parametrize("shape", [None, [None] * 4, [None] * 3])
def test_relaxed_shapes_let_images_pass_and_nothing_else(shape):
    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    def resized(images):
        return resize_pixels(images, SPEC)

    images = (COLOUR if shape and len(shape) == 3 else COLOUR[None]).astype(np.float32)
    np.testing.assert_array_equal(resized(images), resize_pixels(images, SPEC))
    np.testing.assert_array_equal(resized(images[..., :1]), resize_pixels(images[..., :1], SPEC))
    wrong = [np.concatenate([images, images], -1), images[..., :2]]
    for other in [*wrong, images[0], images[0, 0]] if shape is None else wrong:
        with pytest.raises(tf.errors.InvalidArgumentError, match="received shape"):
            resized(other)


def test_a_wrong_spec_is_refused_with_all_its_problems():
    spec = InputSpec(0, 12, channels=4, interpolation="bilinar", resize="fit", mean=(1, 2))
    with pytest.raises(PlanError, match="5 problems") as caught:
        Preprocess(spec)
    assert "Did you mean 'bilinear'" in str(caught.value)


def test_preprocess_round_trips_and_infers_its_shape():
    spec = InputSpec(16, 12, mean=(0.1, 0.2, 0.3), std=(1, 1, 1), resize="crop", interpolation="bicubic")
    layer = Preprocess.from_config(Preprocess(spec, name="preprocess").get_config())
    assert layer.spec == spec
    symbolic = layer(keras.Input((None, None, 3), dtype="uint8"))
    assert symbolic.shape == (None, 16, 12, 3)
    assert symbolic.dtype == "float32"
    assert layer.compute_output_shape((5, None, None, 3)) == layer(np.zeros((5, 9, 9, 3), np.uint8)).shape


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_does_not_change_the_pixels(policy):
    batch = RNG.uniform(0, 255, (2, 33, 21, 3)).astype(np.float32)
    expected = Preprocess(SPEC)(batch)
    keras.config.set_dtype_policy(policy)
    try:
        result = Preprocess(SPEC)(batch)
        half = Preprocess(SPEC, dtype="float16")(batch)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(result, expected)
    assert half.dtype == tf.float16


SERVE = """
import sys, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
blobs = tf.constant([open(name, "rb").read() for name in sys.argv[3:]])
tf.io.write_file(sys.argv[2], tf.io.serialize_tensor(served.pixels(blobs)))
assert not any(name.startswith("tfft") for name in sys.modules)
"""


@pytest.mark.process
@pytest.mark.nightly
def test_a_saved_model_decodes_the_same_without_tfft(tmp_path):
    spec = InputSpec(16, 12, resize="crop")

    class Served(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def pixels(self, blobs):
            return tf.map_fn(lambda e: decode_image(e, spec), blobs, fn_output_signature=tf.uint8)

    blobs = [encode(COLOUR, kind) for kind in ("jpeg", "png", "gif", "bmp", "webp")]
    blobs.append(encode(COLOUR, "jpeg", exif=b"Exif\x00\x00" + exif(6)))
    for i, blob in enumerate(blobs):
        (tmp_path / str(i)).write_bytes(blob)
    tf.saved_model.save(Served(), str(tmp_path / "model"))
    names = [str(tmp_path / str(i)) for i in range(len(blobs))]
    subprocess.run([sys.executable, "-c", SERVE, tmp_path / "model", tmp_path / "out", *names], check=True)
    served = tf.io.parse_tensor(tf.io.read_file(str(tmp_path / "out")), tf.uint8)
    np.testing.assert_array_equal(served, np.stack([decode_image(tf.constant(b), spec) for b in blobs]))
