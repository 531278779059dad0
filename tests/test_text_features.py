"""Features of texts: rows of differing length, computed by length, kept without padding, and exact in training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft import features, heads, tools
from tfft.arrays import spill
from tfft.arrays import store as cache
from tfft.arrays.ragged import Ragged
from tfft.backbones.base import Backbone
from tfft.config import Phase
from tfft.data.batches import BatchOptions, assemble
from tfft.errors import BackboneError, DataError, PlanError
from tfft.features import batching
from tfft.features.engines import stage
from tfft.freezing import unfreeze
from tfft.layers.tokenize import Tokenize
from tfft.specs import TextSpec
from tfft.training import FeatureSource, train
from tfft.training.suffix import build_suffix, solve

pytestmark = pytest.mark.text

L = keras.layers
WIDTH, PAD = 8, 1
RNG = np.random.default_rng(7)
WORDS = ["good", "bad", "film", "a", "very", "long", "short", "plot", "wörld", "你好", "🎬"]
COUNTS = [1, 12, 3, 0, 7, 2, 9, 5, 1, 4, 11, 6, 2, 8, 3, 10, 1, 5, 7, 2, 9, 4, 3, 6]
TEXTS = np.array([" ".join(RNG.choice(WORDS, n)) for n in COUNTS], object)
LABELS = np.array([len(t) % 2 for t in TEXTS], np.int32)
LENGTHS = np.array(COUNTS) + 2  # what marks the ends included


class Words(keras.layers.Layer):
    """A packer: one piece for each word, by its hash; 2 begins a text, 3 ends it, 1 is padding."""

    def __init__(self, sequence_length=16, salt=0, **kwargs):
        super().__init__(**kwargs)
        self.sequence_length, self.salt = sequence_length, salt

    def call(self, texts):
        parts = [texts] if isinstance(texts, tf.Tensor) else list(texts)
        rows = None
        for text in parts:
            words = tf.strings.split(text)
            ids = tf.strings.to_hash_bucket_fast(words, 35) + 4 + self.salt
            ends = [tf.fill([tf.shape(text)[0], 1], tf.constant(n, tf.int64)) for n in (2, 3)]
            row = tf.concat([ids[:, : self.sequence_length - 2], ends[1]], axis=1)
            rows = tf.concat([ends[0], row], axis=1) if rows is None else tf.concat([rows, row], axis=1)
        ids = rows.to_tensor(PAD, shape=(None, self.sequence_length))
        return {"ids": ids, "mask": ids != PAD}

    def get_config(self):
        return {**super().get_config(), "sequence_length": self.sequence_length, "salt": self.salt}


def backbone(dropout=0.0, norm=None, see_padding=False, salt=0, seed=4):
    """Three blocks: an embedding and two of attention, with a mask that is made once."""
    keras.utils.set_random_seed(seed)
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = keras.Input((None,), dtype="int32", name="mask")
    x = L.Embedding(40, WIDTH, name="embedding")(ids)
    seen = keras.ops.cast(keras.ops.expand_dims(mask, 1), "bool")
    for k in range(2):
        if dropout:
            x = L.Dropout(dropout, name=f"layer_{k}_dropout")(x)
        if see_padding:
            x = L.Conv1D(WIDTH, 3, padding="same", name=f"layer_{k}_conv")(x)
        # Without biases: that of the keys has no gradient but rounding, which Adam makes steps of.
        attention = L.MultiHeadAttention(2, 4, use_bias=False, name=f"layer_{k}_attention")
        a = attention(x, x, attention_mask=seen)
        x = L.LayerNormalization(name=f"layer_{k}_norm")(L.Add(name=f"layer_{k}_add")([x, a]))
        if norm == k:
            x = L.BatchNormalization(name=f"layer_{k}_statistics")(x)
        x = L.Dense(WIDTH, "tanh", name=f"layer_{k}_dense")(x)
    tokens = Tokenize(Words(16, salt), {"ids": "ids", "mask": "mask"}, "mask", 16)
    return Backbone("words", keras.Model([ids, mask], x), "test", None, (), tokens, TextSpec(16, "mean", "the test"))


def made(last=1, pair=False, **options):
    model = tfft.build(backbone(**options), heads.classification(["no", "yes"], dropout=0.0), pair=pair)
    return unfreeze(model, last) or model


def get(prefix, data=(TEXTS, LABELS), **options):
    return features.extract(prefix, data, **{"cache": None, "verbose": False, **options})


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def parts(model):
    return features.split_frozen(model)


@pytest.fixture
def narrow(monkeypatch):
    """Windows of 8 texts, computed 16 pieces at a time, read three at a time."""
    monkeypatch.setattr(batching, "WINDOW", 4)
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 16)
    monkeypatch.setattr("tfft.features.sources._TEXTS", 3)


def check_rows(found, prefix, texts=TEXTS):
    """Each text's features are what the prefix gives for it alone, and nothing else is kept."""
    hidden, mask = sorted(found.parts, key=lambda a: -len(a.shape))
    assert hidden.values.shape == (LENGTHS.sum(), WIDTH)
    np.testing.assert_array_equal(hidden.lengths, LENGTHS)
    np.testing.assert_array_equal(mask.values, np.ones(LENGTHS.sum(), np.int32))
    for i, text in enumerate(texts):
        alone = max(prefix(tf.constant([text])), key=lambda a: len(a.shape))
        np.testing.assert_allclose(hidden.rows([i]), alone, atol=2e-6)


# --- rows that differ in length ----------------------------------------------------------------------------------


def test_rows_come_padded_to_the_longest_of_those_asked_for():
    values, offsets = np.arange(12.0).reshape(6, 2), np.array([0, 1, 1, 4, 6])
    rows = Ragged(values, offsets, fill=-1)
    assert (len(rows), rows.shape, rows.lengths.tolist()) == (4, (4, None, 2), [1, 0, 3, 2])
    np.testing.assert_array_equal(rows.rows([3, 0]), [[values[4], values[5]], [values[0], [-1, -1]]])
    assert rows.rows([1]).shape == (1, 0, 2)
    assert rows.rows([]).shape == (0, 0, 2)
    padded = rows.rows(range(4))
    np.testing.assert_array_equal(Ragged.of(padded, rows.lengths).values, values)
    with pytest.raises(TypeError, match=r"rows\(positions\)"):
        np.asarray(rows)


# --- a model in two ----------------------------------------------------------------------------------------------


@pytest.mark.representative("False-none", "False-1")
@pytest.mark.daily("False-2")
@pytest.mark.parametrize("last", ["none", 1, 2])
@pytest.mark.parametrize("pair", [False, True])
def test_the_suffix_goes_on_where_the_prefix_ends(last, pair):
    model = made(last, pair)
    prefix, suffix = features.split_frozen(model)
    texts = tf.constant(TEXTS[:7])
    inputs = {"text": texts, "text_pair": texts[::-1]} if pair else texts
    np.testing.assert_allclose(suffix(prefix(inputs)), model(inputs), atol=1e-6)
    shapes = {t.shape for t in prefix.outputs}
    assert shapes == ({(None, WIDTH)} if last == "none" else {(None, None, WIDTH), (None, None)})


def test_masks_are_made_again_behind_the_cut(parts):
    prefix, suffix = parts
    assert sorted(t.dtype for t in prefix.outputs) == ["float32", "int32"]  # no bool [B, 1, L] beside them
    assert any(len(t.shape) == 3 and t.dtype == "bool" for op in suffix.operations for t in _given(op))


def _given(operation):
    return keras.tree.flatten(operation.output) if operation._inbound_nodes else []


def test_texts_are_cut_in_the_input_pipeline(parts):
    staged = stage(parts[0])
    assert any(isinstance(layer, Tokenize) for layer in staged.front.layers)
    assert not any(isinstance(layer, Tokenize) for layer in staged.net.layers)
    assert staged.net.inputs[staged.mask].dtype == "int32"
    assert sorted(batching.paddings(staged)) == [0, PAD]


def test_dropout_in_what_is_frozen_is_refused_by_split(model):
    with pytest.raises(BackboneError, match=r"'layer_0_dropout' draws random numbers.*ignore_dropout=True"):
        features.split_frozen(made(dropout=0.5))


# --- computed by length, kept without padding --------------------------------------------------------------------


@pytest.mark.daily("array", "dataset")
@pytest.mark.parametrize("data", ["array", "list", "dataset", "no labels"])
def test_each_text_has_its_own_features(data, parts, narrow):
    dataset = tf.data.Dataset.from_tensor_slices((TEXTS.astype(str), LABELS)).batch(5)
    given = {"array": (TEXTS, LABELS), "list": (list(TEXTS), list(LABELS)), "dataset": dataset, "no labels": TEXTS}
    found = get(parts[0], given[data], batch_size=2)
    check_rows(found, parts[0])
    if data != "no labels":
        np.testing.assert_array_equal(found.labels, LABELS)


def test_texts_of_similar_length_are_computed_together(parts, narrow):
    staged, shapes = stage(parts[0]), []

    class Watch:
        def submit(self, arrays):
            shapes.append(arrays[0].shape)
            assert all(a.shape == arrays[0].shape for a in arrays)
            results = [np.asarray(t) for t in staged.net([tf.constant(a) for a in arrays])]
            return lambda: results

    class Opener:
        def open(self, first):
            return Watch(), ""

    ids = staged.enter(TEXTS)
    batches = [[t.numpy()[i : i + 6] for t in ids] for i in range(0, 24, 6)]
    done = [a for a, _ in zip(batching.compute(staged, Opener(), batches, 2), range(9), strict=False)]
    assert len(done) == 2  # windows of at least 8, whole batches
    assert sum(rows for rows, _ in shapes) == 24
    computed = sum(rows * length for rows, length in shapes)
    assert computed < 1.25 * LENGTHS.sum() < 0.7 * 24 * LENGTHS.max()
    first = [length for _, length in shapes[: len(shapes) // 2]]
    assert first == sorted(first, reverse=True)


@pytest.mark.nightly
def test_pairs_of_texts(narrow):
    model = made(pair=True)
    prefix, suffix = features.split_frozen(model)
    both = {"text_pair": TEXTS[::-1], "text": list(TEXTS)}
    found = get(prefix, (both, LABELS))
    x, y = next(iter(found.dataset(24)))
    inputs = {"text": tf.constant(TEXTS), "text_pair": tf.constant(TEXTS[::-1])}
    np.testing.assert_allclose(suffix(x), model(inputs), atol=1e-6)
    other = get(prefix, ({"text": TEXTS[::-1], "text_pair": TEXTS}, LABELS))
    assert not np.array_equal(found.parts[1].values, other.parts[1].values)


@pytest.mark.nightly
def test_litert_gives_the_same(parts, narrow):
    pytest.importorskip("ai_edge_litert")
    found = get(parts[0], engine="litert", batch_size=2)
    assert found.engine == "litert"
    check_rows(found, parts[0])
    assert get(parts[0]).notes == ("TensorFlow computed the features: text encoders are no faster with LiteRT.",)


@pytest.mark.slow
def test_a_plan_is_for_texts_of_mean_length(model):
    plan = tools.plan_cut(model, (TEXTS, LABELS), 3, batch_size=8, measure=1e9)
    assert (plan.choice, plan.cuts[0].block, plan.cuts[0].refused) == ("layer_0", "(tokens)", "only tokens")
    mean = round(LENGTHS[:8].mean())
    assert ((mean, WIDTH), "float32") in plan.cuts[2].crossing
    assert f"texts of {mean} tokens, the mean of the first 8" in plan.notes[0]


def test_half_precision(parts):
    found = get(parts[0], dtype="float16")
    hidden = next(a for a in found.parts if a.dtype == np.float16)
    exact = next(a for a in get(parts[0]).parts if a.dtype == np.float32)
    np.testing.assert_allclose(hidden.values, exact.values, atol=2e-3)
    (x, _), *_ = found.dataset(4)
    assert all(t.dtype in (tf.float32, tf.int32) for t in x)


@pytest.mark.slow
def test_beyond_memory_they_are_in_a_file(parts, narrow, monkeypatch):
    monkeypatch.setattr(spill, "LIMIT", 500)
    found = get(parts[0], batch_size=2)
    assert all(isinstance(a.values, np.memmap) for a in found.parts)
    check_rows(found, parts[0])


@pytest.mark.slow
def test_a_solved_head_takes_one_row_per_text():
    model = made("none")
    prefix, _ = features.split_head(model)
    found = get(prefix, batch_size=4)
    np.testing.assert_allclose(found.arrays, prefix.predict(TEXTS, verbose=0), atol=2e-6)
    phases = [Phase("frozen", "none", 0, 0.0, head="linear_probe")]
    dataset = tf.data.Dataset.from_tensor_slices((TEXTS.astype(str), LABELS)).batch(8)
    history = train(model, dataset, None, phases, source=FeatureSource((TEXTS, LABELS), cache=None), verbose=False)
    assert history.rows[0]["accuracy"] > 0.5


# --- on disk -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_found_again_on_disk(parts, narrow, tmp_path):
    first = get(parts[0], cache=tmp_path, batch_size=2)
    again = get(features.split_frozen(made())[0], cache=tmp_path)  # opened again: other names, the same values
    assert (first.cached, again.cached) == (False, True)
    for found in (first, again):
        check_rows(found, parts[0])
        assert all(isinstance(a.values, np.memmap) for a in found.parts)
    [entry] = features.list_caches(tmp_path)
    assert (entry.examples, entry.bytes < 24 * 16 * (WIDTH + 1) * 4) == (24, True)
    assert {s[0] for s in entry.shapes} == {LENGTHS.sum()}


def test_kept_in_memory(parts):
    assert [get(parts[0], cache="memory").cached for _ in range(2)] == [False, True]
    features.clear_caches()


@pytest.mark.daily("lengths.bin")
@pytest.mark.parametrize("name", ["lengths.bin", "features_0.bin", "features_1.bin"])
def test_a_damaged_file_is_made_again(name, parts, tmp_path):
    get(parts[0], cache=tmp_path)
    path = features.list_caches(tmp_path)[0].folder / name
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    again = get(parts[0], cache=tmp_path)
    assert f"{name} has different content than when written" in again.notes[0]
    check_rows(again, parts[0])


def test_a_full_disk_is_noticed_before(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SPARE", 2**60)
    with pytest.raises(cache.CacheFullError, match="no room for the features"):
        get(parts[0], cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_texts_pairs_and_tokenizers_are_others(parts, tmp_path):
    def found(prefix=parts[0], data=(TEXTS, LABELS)):
        return get(prefix, data, cache=tmp_path).cached

    assert [found(), found()] == [False, True]
    changed = TEXTS.copy()
    changed[3] = "x"
    assert not found(data=(changed, LABELS))
    assert not found(data=(TEXTS[::-1], LABELS[::-1]))
    assert not found(features.split_frozen(made(salt=1))[0])
    prefix, _ = features.split_frozen(made(pair=True))
    both = {"text": TEXTS, "text_pair": TEXTS[::-1]}
    assert [found(prefix, both), found(prefix, dict(reversed(both.items())))] == [False, True]
    assert not found(prefix, {"text": TEXTS[::-1], "text_pair": TEXTS})


@pytest.mark.nightly
def test_another_vocabulary_is_another_tokenizer(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")

    def prefix(words):
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        tokenizer = keras_hub.tokenizers.BertTokenizer(vocabulary, lowercase=True)
        packer = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=16)
        own = backbone()
        tokens = Tokenize(packer, {"ids": "token_ids", "mask": "padding_mask"}, "mask", 16)
        own = Backbone("words", own.model, "test", None, (), tokens, own.text_spec)
        return features.split_frozen(unfreeze(model := tfft.build(own, heads.classification(["a", "b"])), 1) or model)[
            0
        ]

    words = ["good", "bad", "film", "very", "long"]
    texts = ["good film", "bad", "a very very long film"]
    first = get(prefix(words), texts, cache=tmp_path)
    assert first.parts[0].lengths.tolist() == [4, 3, 7]
    assert get(prefix(words), texts, cache=tmp_path).cached
    assert not get(prefix(words[::-1]), texts, cache=tmp_path).cached


# --- training ----------------------------------------------------------------------------------------------------

PHASES = (Phase("frozen", "none", 1, 1e-2), Phase("fine-tune", 1, 2, 1e-2))
SOURCE = FeatureSource((TEXTS, LABELS), cache=None)


def batches(seed, epoch, shuffle=True):
    texts = tf.constant(TEXTS)
    return assemble(lambda at: tf.gather(texts, at), LABELS, BatchOptions(5, shuffle, seed, epoch))


def run(model, phases=PHASES, *, cached, seed=3, **options):
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64)
    held_out = batches(0, None, shuffle=False)
    given = (TEXTS, LABELS)
    source = FeatureSource(given, given, 5, seed=3, **{"cache": None, **options}) if cached else None
    return train(model, batches(seed, epoch), held_out, phases, source=source, epoch=epoch, verbose=False)


def weights_after(cached, seed=3):
    model = made()
    before = model.get_weights()
    history = run(model, cached=cached, seed=seed)
    assert not history.notes
    after = model.get_weights()
    assert sum(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)) > 8
    return after, history


@pytest.fixture(scope="module")
def uncached():
    return weights_after(cached=False)


@pytest.mark.nightly
def test_cached_and_uncached_training_give_the_same_weights(uncached, narrow):
    (one, first), (two, second) = weights_after(cached=True), uncached
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(first.rows, second.rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-5)


@pytest.mark.slow
def test_batches_of_texts_of_similar_length_are_the_same_ones(parts):
    found, lengths = get(parts[0]), np.array([len(t.encode()) for t in TEXTS])
    texts = tf.constant(TEXTS)
    of_texts = assemble(lambda at: tf.gather(texts, at), LABELS, BatchOptions(4, True, 3), lengths=lengths)
    of_features = found.dataset(4, shuffle=True, seed=3, lengths=lengths)
    for _ in range(2):
        for (x, y), (some, labels) in zip(of_features, of_texts, strict=True):
            np.testing.assert_array_equal(y, labels)
            for a, b in zip(x, parts[0](some), strict=True):
                here = a.numpy() != 0
                np.testing.assert_allclose(a.numpy()[here], b.numpy()[here], atol=2e-6)


@pytest.mark.nightly
def test_the_comparison_can_fail(uncached):
    """Another order, all else equal."""
    other, _ = weights_after(cached=False, seed=4)
    assert max(np.abs(a - b).max() for a, b in zip(other, uncached[0], strict=True)) > 1e-3


@pytest.mark.nightly
def test_what_is_frozen_runs_without_its_dropout_and_it_is_said():
    history = run(made(dropout=0.5), [Phase("fine-tune", 1, 1, 1e-2)], cached=True)
    assert history.notes == (
        "phase 'fine-tune': frozen layers run in inference mode, without dropout (layer_0_dropout, layer_1_dropout)",
    )


@pytest.mark.slow
def test_statistics_that_move_are_not_cached():
    model = made(norm=0)
    statistics = next(layer for layer in model._flatten_layers() if layer.name == "layer_0_statistics")
    assert not isinstance(build_suffix(model, SOURCE, None, verbose=False), str)
    statistics.trainable = True
    for variable in (statistics.gamma, statistics.beta):
        variable.trainable = False
    assert "statistics move" in build_suffix(model, SOURCE, None, verbose=False)


@pytest.mark.slow
def test_a_model_that_looks_at_padding_is_trained_whole():
    why = build_suffix(made(see_padding=True), SOURCE, None, verbose=False)
    assert "looks at the padding behind the end of a text" in why


@pytest.mark.slow
def test_features_that_would_fill_the_disk_are_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("tfft.training.suffix._SHARE_OF_DISK", 1e-12)
    why = build_suffix(made(), FeatureSource((TEXTS, LABELS), cache=tmp_path), None, verbose=False)
    assert "shorter texts" in why
    assert list(tmp_path.iterdir()) == []


# --- what does not fit -------------------------------------------------------------------------------------------


def test_what_is_no_text_is_named(parts):
    with pytest.raises(DataError, match=r"Texts must be strings.*\n.*example 1 is None.*\n.*example 2 is 3"):
        get(parts[0], np.array(["a", None, 3], object))
    with pytest.raises(DataError, match="text must be string, received int64"):
        get(parts[0], np.arange(3))
    with pytest.raises(DataError, match="takes 2 inputs"):
        get(features.split_frozen(made(pair=True))[0], TEXTS)


def test_a_result_that_is_as_wide_as_it_is_long_is_refused(model):
    tokens = model.get_layer("tokens")
    pieces = tokens(model.input)
    x = L.Embedding(40, 4)(pieces["ids"])
    with pytest.raises(DataError, match="only axis 1 may differ"):
        get(keras.Model(model.input, [L.Dot(-1)([x, x]), pieces["mask"]]))


@pytest.mark.slow
def test_a_head_for_each_piece_is_not_solved():
    model = made("none")
    hidden = model.get_layer("backbone")(model.get_layer("tokens")(model.input))
    whole = keras.Model(model.input, heads.classification(["no", "yes"]).attach(hidden))
    with pytest.raises(PlanError, match="predicts for every token"):
        solve(whole, SOURCE, l2=1.0, seed=0, verbose=False)
