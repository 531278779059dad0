"""Masks in the size of the picture as it was given: serving, prediction and scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_semantic_segmentation import SIDE, small_backbone
from test_semantic_segmentation_data import write

import tfft
from tfft import heads
from tfft.data import BatchOptions
from tfft.exporting import predict_each, serving_functions
from tfft.specs import InputSpec
from tfft.tasks.semantic_segmentation import OUTSIDE, VOID
from tfft.tasks.semantic_segmentation.data import load_masks
from tfft.tasks.semantic_segmentation.enlarge import mask_of, masks_of
from tfft.tasks.semantic_segmentation.evaluator import SegmentationEvaluator
from tfft.tasks.semantic_segmentation.losses import subsampled

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c")


def by_loops(logits, size, box):
    """The class of each pixel, by interpolating the logits of all classes at its middle; void beyond the view."""
    mask = np.full(size, VOID, np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            places = []
            for middle, axis in ((row + 0.5, 0), (column + 0.5, 1)):
                share = (middle - box[axis]) / (box[axis + 2] - box[axis])
                if not 0 <= share <= 1:
                    break
                place = np.clip(share * logits.shape[axis] - 0.5, 0, logits.shape[axis] - 1)
                low = int(place)
                places.append((low, min(low + 1, logits.shape[axis] - 1), place - low))
            else:
                (top, bottom, down), (left, right, along) = places
                above = logits[top, left] * (1 - along) + logits[top, right] * along
                below = logits[bottom, left] * (1 - along) + logits[bottom, right] * along
                mask[row, column] = np.argmax(above * (1 - down) + below * down)
    return mask


@pytest.mark.parametrize(
    ("resize", "size", "box"),
    [
        ("stretch", (22, 9), (0, 0, 22, 9)),
        ("stretch", (3, 40), (0, 0, 3, 40)),
        ("pad", (20, 30), (-5, 0, 25, 30)),  # 8 x 12 cells of 12: two rows of padding of three pixels above
        ("crop", (20, 30), (0, 5, 20, 25)),
    ],
)
def test_masks_are_those_of_logits_at_each_pixel(resize, size, box):
    logits = RNG.normal(size=(6, 6, 3)).astype(np.float32)
    found = mask_of(tf.constant(logits), size, InputSpec(24, 24, resize=resize)).numpy()
    np.testing.assert_array_equal(found, by_loops(logits, size, box))
    if resize == "stretch":
        large = tf.image.resize(logits, size, "bilinear").numpy()
        np.testing.assert_array_equal(found, large.argmax(-1))


def test_a_batch_of_several_sizes_is_as_large_as_its_largest():
    logits = RNG.normal(size=(2, 4, 4, 3)).astype(np.float32)
    sizes = np.array([[9, 6], [5, 11]], np.int32)
    spec = InputSpec(16, 16, resize="stretch")
    masks, shares = (one.numpy() for one in masks_of(tf.constant(logits), tf.constant(sizes), spec))
    assert masks.shape == (2, 9, 11)
    for mask, share, cells, (rows, columns) in zip(masks, shares, logits, sizes, strict=True):
        wanted = mask_of(tf.constant(cells), (rows, columns), spec).numpy()
        np.testing.assert_array_equal(mask[:rows, :columns], wanted)
        assert (mask[rows:] == VOID).all()
        assert (mask[:, columns:] == VOID).all()
        np.testing.assert_allclose(share, [(wanted == c).mean() for c in range(3)], rtol=1e-6)


def pictures_of_two_sizes(folder):
    masks = [RNG.integers(0, 3, size).astype(np.uint8) for size in ((40, 64), (64, 40)) * 3]
    for mask in masks:
        mask[:3, :3] = VOID
    pictures = [RNG.integers(0, 256, (*mask.shape, 3)).astype(np.uint8) for mask in masks]
    return write(folder, masks, pictures=pictures)


@pytest.mark.nightly
def test_scores_are_those_of_masks_in_their_own_size(tmp_path):
    splits = load_masks(pictures_of_two_sizes(tmp_path / "data"), validation=0.5)
    spec = InputSpec(32, 32, resize="stretch")
    examples = splits.train
    [(pixels, masks)] = examples.evaluation_batches(spec, BatchOptions(8)).as_numpy_iterator()
    [(plain, small)] = examples.batches(spec, BatchOptions(8)).as_numpy_iterator()
    np.testing.assert_array_equal(pixels, plain)
    assert small.shape[1:] == (32, 32)
    logits = RNG.normal(size=(len(masks), 8, 8, 3)).astype(np.float32)
    evaluator = SegmentationEvaluator(heads.semantic_segmentation(splits.class_names))
    evaluator.check(masks)
    evaluator.update(masks, logits)
    table = np.zeros((3, 3), int)
    for path, mask, cells in zip(examples.paths, masks, logits, strict=True):
        true = np.asarray(Image.open(path.replace("images", "masks")))
        rows, columns = true.shape
        np.testing.assert_array_equal(mask[:rows, :columns], true)
        assert (mask[rows:] == OUTSIDE).all()
        assert (mask[:, columns:] == OUTSIDE).all()
        found = tf.image.resize(cells, true.shape, "bilinear").numpy().argmax(-1)
        for t, f in zip(true[true != VOID], found[true != VOID], strict=True):
            table[t, f] += 1
    np.testing.assert_array_equal(evaluator.result(len(masks), 0.0).confusion, table)


def test_the_loss_samples_each_mask_in_its_own_size():
    masks = np.full((2, 6, 10), OUTSIDE)
    masks[0, :4, :10] = RNG.integers(0, 3, (4, 10))
    masks[1, :6, :2] = VOID
    found = subsampled(masks, np.zeros((2, 2, 5, 3))).numpy()
    wanted = [[masks[0, 2 * row + 1, 2 * column + 1] for column in range(5)] for row in range(2)]
    np.testing.assert_array_equal(found[0], wanted)
    assert (found[1] == VOID).all()


@pytest.mark.nightly
def test_files_of_several_sizes_get_masks_of_their_sizes(tmp_path):
    keras.utils.set_random_seed(0)
    model = tfft.build(small_backbone(), heads.semantic_segmentation(NAMES, width=8))
    files = sorted((pictures_of_two_sizes(tmp_path / "data") / "images").glob("*.png"))[:3]
    pixels = [np.asarray(Image.open(file)) for file in files]
    serving = serving_functions(model)
    for one, found in zip(pixels, predict_each(serving, files), strict=True):
        logits = model.predict(one[None], verbose=0)[0]
        wanted = tf.image.resize(logits, one.shape[:2], "bilinear").numpy()
        mask = np.array(found.outputs["mask"])
        assert mask.shape == one.shape[:2]
        sure = np.sort(wanted, -1)
        sure = sure[..., -1] - sure[..., -2] > 1e-5
        np.testing.assert_array_equal(mask[sure], wanted.argmax(-1)[sure])
    answer = serving.signatures["serving_default"](images=tf.constant(pixels[0][None]))
    assert answer["mask"].shape == (1, *pixels[0].shape[:2])
    np.testing.assert_array_equal(answer["size"], [pixels[0].shape[:2]])
    assert model.output_shape[1] == SIDE // 4


@pytest.mark.nightly
@pytest.mark.process
def test_an_export_is_checked_on_files_of_several_sizes(tmp_path):
    keras.utils.set_random_seed(0)
    model = tfft.build(small_backbone(), heads.semantic_segmentation(NAMES, width=8))
    files = sorted((pictures_of_two_sizes(tmp_path / "data") / "images").glob("*.png"))
    done = tfft.export(model, tmp_path / "served" / "1", examples=[str(file) for file in files[:3]])
    assert done.largest_difference < 1e-5
