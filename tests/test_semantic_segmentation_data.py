"""Pictures with masks: every form of a mask gives the same classes, masks move with pixels, and bad files are named."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfft
from tfft import heads, registry
from tfft.data import BatchOptions, load, to_dataset
from tfft.errors import DataError, PlanError
from tfft.specs import Augmentation, InputSpec
from tfft.tasks.semantic_segmentation import VOID
from tfft.tasks.semantic_segmentation.class_table import read_class_table
from tfft.tasks.semantic_segmentation.data import load_masks, read_masks
from tfft.tasks.semantic_segmentation.drawing import legend, overlay, palette

HEIGHT, WIDTH, COUNT = 12, 16, 6
COLOURS = {"ground": (10, 10, 10), "tree": (0, 130, 0), "water": (0, 0, 200)}
VOID_COLOUR = (224, 224, 192)
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, (COUNT, HEIGHT // 2, WIDTH // 2)).repeat(2, 1).repeat(2, 2).astype(np.uint8)
CLASSES[:, 0, :3] = VOID


def picture(classes):
    """A picture that shows its classes: their numbers in the red channel, void as 255."""
    rest = RNG.integers(0, 256, (*classes.shape, 2), dtype=np.uint8)
    return np.concatenate([classes[..., None], rest], axis=-1)


def coloured(classes):
    table = np.zeros((256, 3), np.uint8)
    table[:3], table[VOID] = list(COLOURS.values()), VOID_COLOUR
    return table[classes]


def with_palette(classes, table, **options):
    image = Image.fromarray(classes, "P") if not options else Image.fromarray(classes).convert("P")
    image.putpalette(table.reshape(-1).tolist())
    return image


def as_values(classes):
    return Image.fromarray(classes)


def as_deep_values(classes):
    return Image.fromarray(classes.astype(np.uint16))


def as_values_in_colour(classes):
    return Image.fromarray(np.repeat(classes[..., None], 3, axis=-1))


def as_palette(classes):
    table = np.zeros((256, 3), np.uint8)  # classes 1 and 2 have the same colour as all that are not used
    return with_palette(classes, table)


def as_colours(classes):
    return Image.fromarray(coloured(classes))


def as_transparent_colours(classes):
    return Image.fromarray(np.concatenate([coloured(classes), np.full((*classes.shape, 1), 255, np.uint8)], axis=-1))


def as_palette_of_colours(classes):
    """Numbers of colours as an optimizer of PNG files gives them, which are not those of the classes."""
    values, numbers = np.unique(255 - classes, return_inverse=True)
    return with_palette(numbers.reshape(classes.shape).astype(np.uint8), coloured(255 - values))


def write(folder, masks, form=as_values, pictures=None, names=None):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    for i, classes in enumerate(masks):
        name = f"p{i}" if names is None else names[i]
        given = picture(classes) if pictures is None else pictures[i]
        Image.fromarray(given).save(folder / "images" / f"{name}.png")
        form(classes).save(folder / "masks" / f"{name}.png")
    return folder


def name_classes(folder, *, colours=False):
    rows = [f"{name} {' '.join(map(str, colour)) if colours else ''}".strip() for name, colour in COLOURS.items()]
    (folder / "classes.txt").write_text("\n".join(rows) + "\n")
    return folder


def spec(height=HEIGHT, width=WIDTH):
    return InputSpec(height, width, resize="stretch")


def batch(examples, size=None, **options):
    return [np.asarray(part) for part in next(iter(to_dataset(examples, size or spec(), batch_size=64, **options)))]


# --- forms


@pytest.mark.daily("as_palette-False", "as_colours-True")
@pytest.mark.parametrize(
    ("form", "colours"),
    [
        (as_values, False),
        (as_deep_values, False),
        (as_values_in_colour, False),
        (as_palette, False),
        (as_values, True),
        (as_colours, True),
        (as_transparent_colours, True),
        (as_palette_of_colours, True),
    ],
)
def test_every_form_of_a_mask_gives_the_same_classes(tmp_path, form, colours):
    folder = name_classes(write(tmp_path, CLASSES, form), colours=colours)
    splits = load_masks(folder, ignore=None if form in (as_values,) or not colours else "224 224 192")
    assert splits.class_names == tuple(COLOURS)
    for part in splits.parts.values():
        pixels, masks = batch(part)
        assert masks.dtype == np.int32
        np.testing.assert_array_equal(masks, pixels[..., 0])  # the red channel of a picture holds its classes
        counts = [[(one == c).sum() for c in range(3)] for one in masks]
        np.testing.assert_array_equal(part.labels[:, 1:], counts)


@pytest.mark.nightly
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_palettes_of_few_bits_keep_their_values(tmp_path, depth):
    classes = (RNG.integers(0, min(2**depth, 9), (4, 8, 9))).astype(np.uint8)
    write(tmp_path, classes, pictures=[picture(one) for one in classes])
    for i, one in enumerate(classes):
        image = with_palette(one, np.arange(3 * 2**depth, dtype=np.uint8) // 6)
        image.save(tmp_path / "masks" / f"p{i}.png", bits=depth)
    splits = load_masks(tmp_path, validation=0.25)
    assert splits.class_names == tuple(f"class {value}" for value in np.unique(classes))
    for part in splits.parts.values():
        pixels, masks = batch(part, spec(8, 9))
        np.testing.assert_array_equal(masks, pixels[..., 0])


@pytest.mark.slow
def test_black_and_white_masks_have_two_classes_unless_white_is_ignored(tmp_path):
    classes = RNG.integers(0, 2, (4, 8, 8)).astype(np.uint8) * 255
    write(tmp_path, classes)
    splits = load_masks(tmp_path)
    assert splits.class_names == ("class 0", "class 255")
    assert "these are two classes" in str(splits.report)
    _, masks = batch(splits.train)
    assert set(np.unique(masks)) == {0, 1}
    with pytest.raises(DataError, match="all masks have the value 0 alone"):
        load_masks(tmp_path, ignore=255)
    (tmp_path / "classes.txt").write_text("background\ncell\n")
    assert load_masks(tmp_path).class_names == ("background", "cell")


@pytest.mark.nightly
def test_classes_that_are_left_out_are_void_and_the_others_move_up(tmp_path):
    folder = write(tmp_path, np.where(CLASSES == VOID, 3, CLASSES))
    (folder / "classes.txt").write_text("ground\ntree\nwater\nunlabelled\n")
    splits = load_masks(folder)
    assert splits.class_names == ("ground", "tree", "water")
    assert "'unlabelled' counts as no label" in str(splits.report)
    assert VOID in batch(splits.train)[1]
    without = load_masks(folder, ignore=("tree", 3))
    assert without.class_names == ("ground", "water")
    pixels, masks = batch(without.train)
    np.testing.assert_array_equal(masks, np.array([0, VOID, 1, VOID])[pixels[..., 0].clip(0, 3)])
    with pytest.raises(DataError, match=r"ignore: Expected a value or a class of .*classes.txt. Received: 'watr'. Did"):
        load_masks(folder, ignore="watr")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "ground\ntree\nwater\n"),
        ("classes.csv", "name,r,g,b\nground,10,10,10\ntree,0,130,0\nwater,0,0,200\n"),
        ("class_dict.csv", "ground, 10, 10, 10\ntree, 0, 130, 0\nwater, 0, 0, 200\n"),
        ("label_colors.txt", "# red green blue name\n10 10 10\tground\n0 130 0\ttree\n0 0 200\twater\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nground:10,10,10::\ntree:0,130,0::\nwater:0,0,200::\n"),
        ("classes.json", json.dumps({name: list(colour) for name, colour in COLOURS.items()})),
        ("classes.json", json.dumps([{"name": name, "color": list(colour)} for name, colour in COLOURS.items()])),
        ("classes.json", json.dumps(list(COLOURS))),
    ],
)
def test_class_tables_of_all_kinds_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_class_table(tmp_path / name)
    assert table.names == tuple(COLOURS)
    if table.colours is not None:
        assert table.colours == tuple(65536 * r + 256 * g + b for r, g, b in COLOURS.values())
    assert (table.colours is None) == (text in ("ground\ntree\nwater\n", json.dumps(list(COLOURS))))


def test_bad_class_tables_are_refused_with_all_lines(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("a 1 2 3\nb 1 2 3\nc\nd 1 2 300\na 9 9 9\n")
    with pytest.raises(DataError) as error:
        read_class_table(path)
    for said in ("line 3 (c)", "line 4 (d): colours go from 0 to 255", "the same name: a", "the same colour"):
        assert said in str(error.value)


# --- folders


@pytest.mark.nightly
def test_parts_of_a_folder_are_kept_and_stay_apart(tmp_path):
    names = [f"p{i}" for i in range(COUNT)]
    write(tmp_path / "train", CLASSES[:4], names=names[:4])
    write(tmp_path / "val", CLASSES[4:], names=names[4:])
    name_classes(tmp_path)
    splits = load(tmp_path, task="semantic_segmentation")
    assert [part.names for part in splits.parts.values()] == [
        tuple(f"train/images/p{i}.png" for i in range(4)), tuple(f"val/images/p{i}.png" for i in (4, 5)),
    ]  # fmt: skip
    assert splits.task == "semantic_segmentation"
    assert splits.split_from.startswith("the folders ")
    for part in splits.parts.values():
        pixels, masks = batch(part)
        np.testing.assert_array_equal(masks, pixels[..., 0])
    reader = registry.task("semantic_segmentation").reader
    assert reader.is_split(tmp_path)
    assert not reader.is_split(tmp_path / "train")


@pytest.mark.slow
def test_folders_with_parts_inside_and_lists_of_voc_are_read(tmp_path):
    for part, rows in (("train", CLASSES[:4]), ("val", CLASSES[4:])):
        write(tmp_path / part, rows)
        for kind in ("images", "masks"):
            (tmp_path / "ade" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / kind).rename(tmp_path / "ade" / kind / part)
    name_classes(tmp_path / "ade")
    assert [len(part) for part in load_masks(tmp_path / "ade").parts.values()] == [4, 2]

    voc = name_classes(write(tmp_path / "voc", CLASSES))
    (voc / "images").rename(voc / "JPEGImages")
    (voc / "masks").rename(voc / "SegmentationClass")
    (voc / "SegmentationClass" / "p5.png").unlink()  # most pictures of VOC have no mask
    assert sum(len(part) for part in load_masks(voc).parts.values()) == 5
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("p0\np2\np3\n")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("p1\n")
    splits = load_masks(voc)
    assert [part.names for part in splits.parts.values()] == [
        ("JPEGImages/p0.png", "JPEGImages/p2.png", "JPEGImages/p3.png"), ("JPEGImages/p1.png",),
    ]  # fmt: skip


def test_masks_may_lie_elsewhere_and_a_missing_folder_is_named(tmp_path):
    folder = name_classes(write(tmp_path / "data", CLASSES))
    (folder / "masks").rename(folder / "truth")
    with pytest.raises(DataError, match=r"which holds images/, truth/. Expected images and masks with the same"):
        load_masks(folder)
    assert len(load_masks(folder, masks="truth").train) == 5
    assert len(load(folder, task="semantic_segmentation", masks=folder / "truth").train) == 5
    with pytest.raises(DataError, match=r"with masks='truht'. Did you mean 'truth'\?"):
        load_masks(folder, masks="truht")
    with pytest.raises(DataError, match=r"Pass task='semantic_segmentation' .*it holds mask annotations"):
        load(name_classes(write(tmp_path / "usual", CLASSES)))
    with pytest.raises(DataError, match="label='x' does not apply to images with masks"):
        load(folder, task="semantic_segmentation", label="x")


def test_the_split_keeps_duplicates_together_and_every_class_in_training(tmp_path):
    photos = [RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(10)]
    photos[7] = photos[2]
    masks = RNG.integers(0, 2, (10, HEIGHT, WIDTH)).astype(np.uint8)
    folder = write(tmp_path, masks, pictures=photos)
    for seed in range(6):
        splits = load_masks(folder, validation=0.3, seed=seed)
        assert len(splits.duplicates) == 1
        assert not len(splits.leaked)
    held = set(splits.validation.names)
    for name in held:  # a class that only pictures of the validation part would show
        mask = np.asarray(Image.open(folder / "masks" / name.rpartition("/")[2])).copy()
        mask[0, 0] = 2
        Image.fromarray(mask).save(folder / "masks" / name.rpartition("/")[2])
    again = load_masks(folder, validation=0.3, seed=5)
    assert again.train.counts["class 2"] >= 1
    assert 0 < len(again.validation) < len(held)


# --- moving


@pytest.mark.daily("changes1-crop")
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("changes", [None, Augmentation(flip=True), Augmentation(flip=True, crop=0.4)])
def test_masks_move_with_their_pixels(tmp_path, resize, changes):
    # Blocks of 8 pixels: their middles have one value in a resized picture and in its mask.
    classes = RNG.integers(0, 4, (3, 6, 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    folder = write(tmp_path, classes, pictures=[np.repeat(40 * one[..., None] + 30, 3, -1) for one in classes])
    splits = load_masks(folder)
    size = InputSpec(44, 60, resize=resize, interpolation="nearest")
    with tf.device("CPU:0"):
        epoch = tf.Variable(3, dtype=tf.int64)
    options = {} if changes is None else {"augment": changes, "views": 5, "epoch": epoch}
    pixels, masks = batch(splits.train, size, **options)
    expected = np.where(pixels[..., 0] == 0, VOID, (pixels[..., 0].astype(int) - 30) // 40)
    if resize == "pad" and changes is None:
        assert (expected == VOID).any()
    agree = masks == expected
    assert agree.mean() > 0.97  # nearest pixels of two implementations differ along edges
    inner = np.ones(masks.shape, bool)  # away from edges all agree
    for axis in (1, 2):
        for step in (-1, 1):
            inner &= np.roll(expected, step, axis) == expected
    assert agree[inner].all()


@pytest.mark.nightly
def test_a_flip_is_exact(tmp_path):
    splits = load_masks(name_classes(write(tmp_path, CLASSES)))
    seen = []
    for view in range(1, 6):
        with tf.device("CPU:0"):
            epoch = tf.Variable(view, dtype=tf.int64)
        pixels, masks = batch(splits.train, augment="flip", views=6, epoch=epoch)
        np.testing.assert_array_equal(masks, pixels[..., 0])
        seen.append(masks)
    plain = batch(splits.train)[1]
    flipped = [(row == plain[i, :, ::-1]).all() for masks in seen for i, row in enumerate(masks)]
    assert 0 < sum(flipped) < len(flipped)


def test_kept_features_get_masks_at_the_stride_of_the_logits(tmp_path):
    splits = load_masks(name_classes(write(tmp_path, CLASSES)))
    from tfft.modalities.image.transform import fitting

    examples = splits.train
    for i, label in enumerate(examples.labels):
        small = examples.masks.follow_in(4, tf.constant(label), fitting(tf.constant([12.0, 16.0]), spec()))
        whole = np.asarray(Image.open(examples.masks.paths[label[0]]))
        np.testing.assert_array_equal(small, whole[2::4, 2::4], err_msg=str(i))
    odd = examples.masks.follow_in(4, tf.constant(examples.labels[0]), fitting(tf.constant([12.0, 16.0]), spec(13, 15)))
    assert odd.shape == (4, 4)  # as convolutions with "same" padding


def test_rand_is_refused(tmp_path):
    splits = load_masks(name_classes(write(tmp_path, CLASSES)))
    with pytest.raises(PlanError, match="augment='rand' cannot move labels"):
        batch(splits.train, augment="rand")
    for changes in ("rand", ["flip", "rand=0.3"], Augmentation(rand=0.5)):
        config = tfft.RunConfig(augment=changes, class_weight="balanced", sampling="balanced")
        told = " ".join(registry.task("semantic_segmentation").unsupported(config))
        assert all(word in told for word in ("augment='rand'", "class_weight", "sampling"))


# --- examples


@pytest.mark.slow
def test_parts_fingerprints_and_labels(tmp_path):
    folder = name_classes(write(tmp_path, CLASSES))
    splits = load_masks(folder)
    before = splits.fingerprint()
    assert load_masks(folder).fingerprint() == before
    joined = splits.train.join(splits.validation)
    assert len(joined) == COUNT
    np.testing.assert_array_equal(joined.take(np.array([5])).labels, splits.validation.labels)
    assert splits.train.counts == dict.fromkeys(COLOURS, 5)
    head = heads.semantic_segmentation(splits.class_names).fitted_to(splits.train.labels)
    shares = splits.train.pixels / splits.train.pixels.sum()
    np.testing.assert_allclose(head.class_weights, 1 / np.log(1.1 + shares))
    _, masks = batch(splits.train)
    assert heads.semantic_segmentation(splits.class_names).fitted_to(masks) == head
    mask = np.asarray(Image.open(folder / "masks" / "p0.png")).copy()
    mask[5, 5] = (mask[5, 5] + 1) % 3
    Image.fromarray(mask).save(folder / "masks" / "p0.png")
    assert load_masks(folder).fingerprint() != before
    with pytest.raises(DataError, match="Only parts of one dataset"):
        splits.train.join(load_masks(folder).train)


@pytest.mark.nightly
def test_data_for_a_known_model_takes_its_numbers(tmp_path):
    folder = name_classes(write(tmp_path, CLASSES))
    examples = read_masks(folder, ["sky", "water", "tree", "ground"])
    assert len(examples) == COUNT
    pixels, masks = batch(examples)
    numbers = np.full(256, VOID)
    numbers[:3] = 3, 2, 1
    np.testing.assert_array_equal(masks, numbers[pixels[..., 0]])
    assert list(examples.counts) == ["sky", "water", "tree", "ground"]
    again = load_masks(folder).train.renumbered(np.array([3, 2, 1]), ("sky", "water", "tree", "ground"))
    pixels, masks = batch(again)
    np.testing.assert_array_equal(masks, numbers[pixels[..., 0]])
    assert again.pixels.tolist() == [0, *load_masks(folder).train.pixels[::-1].tolist()]
    with pytest.raises(DataError, match="has classes that the model does not know: water"):
        read_masks(folder, ["ground", "tree"])


@pytest.mark.slow
def test_data_without_a_class_table_is_read_for_a_model(tmp_path):
    folder = write(tmp_path / "a", RNG.integers(0, 2, (3, 8, 8)).astype(np.uint8) * 7)
    model = load_masks(folder).class_names
    assert model == ("class 0", "class 7")
    examples = read_masks(write(tmp_path / "b", np.full((2, 8, 8), 7, np.uint8)), model)  # of one class alone
    assert np.unique(batch(examples, spec(8, 8))[1]).tolist() == [1]
    assert read_masks(tmp_path / "a", ["ground"] + [f"c{i}" for i in range(7)]).counts["c6"] == 3
    with pytest.raises(DataError, match="values that no class has: 7"):
        read_masks(tmp_path / "b", ["class 0", "class 5"])
    name_classes(write(tmp_path / "c" / "test", CLASSES, as_colours).parent, colours=True)
    assert len(read_masks(tmp_path / "c" / "test", list(COLOURS), ignore="224 224 192")) == COUNT


def test_the_report_and_the_check_work_on_masks(tmp_path):
    from tfft.inspection import check_splits

    splits = load_masks(name_classes(write(tmp_path, CLASSES)))
    assert str(splits.report).startswith("pixels: ")
    assert "have no label" in str(splits.report)
    assert "ground" in str(check_splits(splits))
    assert "ground" in str(tfft.check(tmp_path, task="semantic_segmentation", store=None))
    change(tmp_path, CLASSES[1] + 3)
    report = tfft.check(tmp_path, task="semantic_segmentation", store=None)
    assert "values that no class has" in str(report)


# --- bad inputs


def spoiled(tmp_path, colours=False):
    return name_classes(write(tmp_path, CLASSES, as_colours if colours else as_values), colours=colours)


def change(folder, classes, name="p1", **options):
    Image.fromarray(classes).save(folder / "masks" / f"{name}.png", **options)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: change(f, CLASSES[1][:, :10]), r"p1.png has 10 x 12 pixels, its image 16 x 12. Make masks in"),
        (lambda f: change(f, CLASSES[1].T), r"p1.png has 12 x 16 pixels, its image 16 x 12. Save both upright"),
        (lambda f: change(f, CLASSES[1] + 3), r"values that no class has: 5 in 80 pixels, 4 .*Expected 0, 1, 2, 255"),
        (
            lambda f: (f / "masks" / "p1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)),
            r"p1.png is a damaged PNG",
        ),
        (lambda f: change(f, CLASSES[1] * 0 + 255), r"p1.png has no label in any pixel: label it, or remove it"),
        (lambda f: (f / "masks" / "p1.png").unlink(), r"images/p1.png has no mask .*masks/p1.png"),
        (
            lambda f: (f / "masks" / "p1.png").rename(f / "masks" / "p1_mask.png"),
            r"p1.png has no mask .*p1.png. Did you mean 'p1_mask.png'\?",
        ),
        (lambda f: (f / "images" / "p1.png").unlink(), r"masks/p1.png has no image in .*images"),
        (lambda f: (f / "masks" / "p1.png").write_bytes(b"text"), r"p1.png is not a PNG"),
        (lambda f: (f / "masks" / "p1.png").write_bytes(b""), r"p1.png is not a PNG"),
        (
            lambda f: Image.fromarray(CLASSES[1]).save(f / "masks" / "p1.png", format="jpeg"),
            r"p1.png is a JPEG, whose compression invents classes",
        ),
        (
            lambda f: (f / "classes.txt").write_text("ground\ntree\nwater\nrock\n"),
            r"no training mask shows the class 'rock'",
        ),
        (lambda f: (f / "classes.txt").write_text("ground\n"), r"there must be at least 2 classes, received 1"),
        (lambda f: (f / "masks" / "p1.jpg").write_bytes(b"x"), r"have the same name without their endings"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, spoil, said):
    folder = spoiled(tmp_path)
    spoil(folder)
    with pytest.raises(DataError, match=said):
        load_masks(folder)


def test_all_problems_are_told_together(tmp_path):
    folder = spoiled(tmp_path)
    change(folder, CLASSES[0][:, :10], "p0")
    (folder / "masks" / "p1.png").unlink()
    change(folder, CLASSES[2] + 3, "p2")
    with pytest.raises(DataError, match=r"(?s)images/p1.png has no mask.*p0.png has 10 x 12.*p2.png has values"):
        load_masks(folder)


def test_colours_need_a_table_that_knows_them(tmp_path):
    folder = spoiled(tmp_path, colours=True)
    with pytest.raises(
        DataError, match=r"p0.png has colours that no class has: \(224, 224, 192\) in 3 pixels. Expected"
    ):
        load_masks(folder)
    assert load_masks(folder, ignore="224 224 192").class_names == tuple(COLOURS)
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"6 masks hold colours, the first .*in 18 pixels.*name red green blue"):
        load_masks(folder)


def test_soft_edges_are_recognized(tmp_path):
    ramp = np.zeros((64, 64), np.uint8)
    ramp[:, 32:] = 255
    ramp[0, :20] = np.arange(20) * 12 + 5  # blurred
    folder = write(tmp_path, np.stack([ramp, ramp.T, ramp[::-1]]))
    with pytest.raises(DataError, match="their edges look anti-aliased. Draw masks without"):
        load_masks(folder)
    (folder / "classes.txt").write_text("background\ncell\n")
    with pytest.raises(
        DataError, match=r"p0.png has 20 values that no class has, in 0.5 % of its pixels: its edges look"
    ):
        load_masks(folder)


@pytest.mark.slow
def test_unusable_pictures_are_skipped_with_their_masks_or_refused(tmp_path):
    folder = spoiled(tmp_path)
    (folder / "images" / "p1.png").write_bytes(b"no picture")
    splits = load_masks(folder)
    assert [one.path.rpartition("/")[2] for one in splits.skipped] == ["p1.png"]
    for part in splits.parts.values():
        pixels, masks = batch(part)
        np.testing.assert_array_equal(masks, pixels[..., 0])
    with pytest.raises(DataError, match=r"images/p1.png is no image|images/p1.png"):
        load_masks(folder, strict=True)


def test_pictures_turned_by_exif_belong_to_upright_masks(tmp_path):
    folder = spoiled(tmp_path)
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(picture(CLASSES[1])).save(folder / "images" / "p1.jpg", exif=exif)
    (folder / "images" / "p1.png").unlink()
    with pytest.raises(DataError, match=r"p1.png has 16 x 12 pixels, its image 12 x 16. Save both upright"):
        load_masks(folder)
    change(folder, np.rot90(CLASSES[1], -1))
    assert len(load_masks(folder).train) == 5


# --- drawing


def test_overlays_show_the_classes_and_leave_void_as_it_is():
    photo, mask = picture(CLASSES[0]), CLASSES[0]
    drawn = overlay(photo, mask, 3, opacity=1.0)
    np.testing.assert_array_equal(drawn[mask == VOID], photo[mask == VOID])
    for c in range(3):
        assert (drawn[mask == c] == palette(3)[c]).all()
    half = overlay(photo, mask, 3)
    mean = (photo[mask == 1].astype(float) + palette(3)[1]) / 2
    np.testing.assert_allclose(half[mask == 1], mean, atol=0.5)
    assert len(np.unique(palette(60), axis=0)) == 60
    colours = palette(16).astype(float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert apart[np.triu_indices(16, 1)].min() > 45  # of 442 between black and white
    assert legend(["road", "car"]) == {"road": "#4477aa", "car": "#ee6677"}


@pytest.mark.nightly
def test_previews_and_answers_are_drawn(tmp_path):
    splits = load_masks(name_classes(write(tmp_path, CLASSES)))
    reader = registry.task("semantic_segmentation").reader
    png, height, width = reader.preview(splits.train, spec(), augment=None, rows=2, columns=3, seed=0)
    assert (height, width) == (2 * HEIGHT, 3 * WIDTH)
    assert tf.io.decode_png(png).shape == (height, width, 3)
    answer = {"mask": np.zeros((6, 8), np.uint8), "shares": np.array([1.0, 0.0, 0.0])}
    task = registry.task("semantic_segmentation")
    png = task.draw(splits.train.paths[0], task.plain_outputs(answer))
    shown = tf.io.decode_png(png).numpy()
    np.testing.assert_array_equal(shown, overlay(np.asarray(Image.open(splits.train.paths[0])), CLASSES[0] * 0, 3))
    grid = reader.preview(splits.train, spec(), augment="flip", rows=2, columns=3, seed=0)
    assert grid[1:] == (2 * HEIGHT, 3 * WIDTH)


def test_options_without_meaning_are_refused(tmp_path):
    splits = load_masks(name_classes(write(tmp_path, CLASSES)))
    with pytest.raises(DataError, match="Expected a spec, to resize image files"):
        splits.train.batches(None, BatchOptions())
    with pytest.raises(PlanError, match=r"Expected masks \[N, H, W\] or the labels of masked images"):
        heads.semantic_segmentation(["a", "b"]).fitted_to(np.zeros(3, int))
