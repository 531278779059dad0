"""Tags of words: which pieces are whose, what counts, that it learns, and how entities are scored."""

import io
import json

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
import tagging_models
import tensorflow as tf

import tfft
from tfft import heads
from tfft.__main__ import main
from tfft.data import to_dataset
from tfft.errors import BackboneError, DataError, PlanError
from tfft.evaluation import Scores, evaluate
from tfft.evaluation.scores import f1_interval, wilson_interval
from tfft.layers.word_alignment import GatherWords, TokenizeWords
from tfft.losses import ABSENT, TagAccuracy, TagCrossentropy
from tfft.tasks.token_classification.data import TokenExamples, load_tagged
from tfft.tasks.token_classification.entities import entities

pytestmark = pytest.mark.text
slow_fixtures = ("learned",)

TAGS = ("O", "B-LOC", "B-PER")
RNG = np.random.default_rng(2)


# --- the head


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("loss", heads.LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_labelled_words(smoothing, loss):
    head = heads.token_classification(TAGS, label_smoothing=smoothing, loss=loss)
    logits = RNG.normal(size=(3, 4, 3)).astype(np.float32)
    labels = np.array([[0, 1, 2, 1], [2, -1, -1, -1], [-1, -1, -1, -1]])
    p, target = softmax(logits), np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    each = -(target * np.log(p) * (1 - p) ** (2 if loss == "focal" else 0)).sum(-1)[labels >= 0]
    assert float(head.loss()(labels, logits)) == pytest.approx(each.mean(), abs=1e-6)
    wider = np.pad(labels, ((0, 0), (0, 3)), constant_values=-1)
    assert float(head.loss()(wider, logits)) == pytest.approx(each.mean(), abs=1e-6)
    more = np.pad(logits, ((0, 0), (0, 2), (0, 0)))
    assert float(head.loss()(labels, more)) == pytest.approx(each.mean(), abs=1e-6)
    weights = np.array([0.0, 3.0, 1.0])
    assert float(head.loss()(labels, logits, weights)) == pytest.approx(3 * each[4] / 5, abs=1e-6)
    assert float(head.loss()(np.full((2, 0), -1), np.zeros((2, 0, 3), np.float32))) == 0


def unseen(logits, *places):
    logits = logits.copy()
    for place in places:
        logits[place] = [0, ABSENT, ABSENT]
    return logits


def test_words_that_were_not_seen_are_left_out_of_the_loss_and_answered_with_o():
    head, labels = heads.token_classification(TAGS), np.array([[1, 2, 0]])
    logits = tf.constant(unseen(RNG.normal(size=(1, 3, 3)).astype(np.float32), (0, 1), (0, 2)))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = head.loss()(labels, logits)
    assert float(loss) == pytest.approx(-np.log(softmax(logits.numpy())[0, 0, 1]), abs=1e-6)
    gradient = tape.gradient(loss, logits).numpy()
    assert not gradient[0, 1:].any()
    assert gradient[0, 0].any()
    [metric] = head.metrics()
    metric.update_state(labels, np.array([[[0, 9, 0], *logits.numpy()[0, 1:]]], np.float32))
    assert float(metric.result()) == pytest.approx(2 / 3)  # the last one is O, as answered


def test_accuracy_is_of_labelled_words_whatever_the_padding():
    metric = TagAccuracy(name="accuracy")
    logits = np.eye(3, dtype=np.float32)[[[0, 1, 2], [0, 0, 0]]]
    metric.update_state(np.array([[0, 1, 1, -1], [1, -1, -1, -1]]), logits)
    assert float(metric.result()) == pytest.approx(2 / 4)
    metric.update_state(np.array([[0, 1, 2, 0]]), logits[:1])  # a label without a word is never right
    assert float(metric.result()) == pytest.approx(5 / 8)


def test_answers_are_empty_where_there_is_no_word():
    logits = unseen(np.full((1, 3, 3), ABSENT, np.float32), (0, 1))
    logits[0, 0] = [0, 0, 5]
    answer = heads.token_classification(TAGS).postprocess(logits)
    assert answer["label"].numpy().tolist() == [[b"B-PER", b"O", b""]]
    np.testing.assert_allclose(answer["probabilities"][0], [softmax(logits[0, 0]), [1, 0, 0], [0, 0, 0]], atol=1e-6)


def test_the_head_and_its_loss_are_plain_values_and_come_back():
    head = heads.token_classification(TAGS, loss="focal", label_smoothing=0.1)
    assert heads.Head.from_dict(json.loads(json.dumps(head.to_dict()))) == head
    loss = TagCrossentropy.from_config(head.loss().get_config())
    assert (loss.gamma, loss.label_smoothing, loss.name) == (2.0, 0.1, "focal")
    with pytest.raises(PlanError, match="token_classification needs at least 2 names, received 1"):
        heads.token_classification(["O"])
    with pytest.raises(PlanError, match="soft=True does not apply"):
        head.compile_args(soft=True)


# --- where words are


def word_piece():
    return tagging_models.bert(8).tokenizer, "apart"


def byte_pair():
    characters = [chr(code) for code in range(33, 127)]
    merged = ["Ġ k", "a d", "Ġk ad", "h e", "l l", "he ll"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *characters, *(pair.replace(" ", "") for pair in merged)]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = keras_hub.models.RobertaTokenizer(vocabulary=numbers, merges=merged)
    preprocessor = keras_hub.models.RobertaTextClassifierPreprocessor(tokenizer, sequence_length=24)
    return tagging_models.tokenizing(preprocessor, 24, ("token_ids", "padding_mask")), "glued"


def sentence_piece():
    model = io.BytesIO()
    texts = ["mr kado saw a fox", "hello world, it is late", "in lona we jump over dogs"] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=32, minloglevel=2
    )
    tokenizer = keras_hub.models.XLMRobertaTokenizer(model.getvalue())
    preprocessor = keras_hub.models.XLMRobertaTextClassifierPreprocessor(tokenizer, sequence_length=24)
    return tagging_models.tokenizing(preprocessor, 24, ("token_ids", "padding_mask")), "apart"


@pytest.mark.nightly
@pytest.mark.parametrize("make", [word_piece, byte_pair, sentence_piece])
def test_words_are_found_and_the_pieces_are_those_of_the_whole_sentence(make):
    plain, blank = make()
    layer = TokenizeWords.of(plain, name="tokens")
    assert (layer.blank, layer.marks, layer.ids) == (blank, 1, "token_ids")
    words = ["mr kado saw mina , don't", "", "hello 世界 🙂 it's", "a-b.c kalomi " * 9]
    texts = tf.constant(["  mr\tkado saw mina  , don't ", *words[1:]])

    @tf.function
    def both(messy, clean):
        return layer(messy), plain(clean)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def count(begun):
        return plain.packer.tokenizer(begun).row_lengths()

    found, expected = both(texts, tf.constant([text.strip() for text in words]))
    starts = found.pop("word_starts").numpy()
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
    assert starts.shape == (4, 18)
    assert (starts[0] == -1).tolist() == 6 * [False] + 12 * [True]
    assert (starts[1] == -1).all()
    for row, text in enumerate(words):
        split = text.split()
        begun = [" ".join(split[:at]) for at in range(len(split))] or [""]
        for at, before in zip(range(len(split)), count(tf.constant(begun)).numpy(), strict=False):
            place = 1 + (int(before) if at else 0)  # a word begins where the pieces of the words before it end
            assert starts[row, at] == (place if place < 23 else -2)
    assert (starts[3] == -2).any()


@pytest.mark.nightly
def test_words_that_leave_no_piece_or_are_cut_off_are_not_seen_and_rare_blanks_belong_to_a_word():
    layer = TokenizeWords.of(tagging_models.bert(8, length=8).tokenizer)
    texts = tf.constant(["a \x01 b", "kado kado kado kado", "a\u00a0b c\v\fd", "\x01"])
    expected = [[1, -2, 2, -1], [1, 3, 5, -2], [1, 2, 3, -1], [-2, -1, -1, -1]]
    for call in (layer, tf.function(layer)):
        np.testing.assert_array_equal(call(texts)["word_starts"], expected)
    assert layer(tf.constant(["", " "]))["word_starts"].shape == (2, 0)


def test_features_of_words_are_those_of_their_first_piece():
    features = tf.constant(RNG.normal(size=(2, 5, 3)).astype(np.float32))
    starts = tf.constant([[1, 3, -1], [4, -2, -1]])
    with tf.GradientTape() as tape:
        tape.watch(features)
        words = GatherWords()(features, starts)
        loss = tf.reduce_sum(words)
    assert words.shape == (2, 3, 3)
    np.testing.assert_array_equal(words[0, :2], features.numpy()[0, [1, 3]])
    np.testing.assert_array_equal(words[1, 0], features.numpy()[1, 4])
    assert not words.numpy()[[0, 1, 1], [2, 1, 2]].any()
    expected = np.zeros((2, 5, 3))
    expected[[0, 0, 1], [1, 3, 4]] = 1
    np.testing.assert_array_equal(tape.gradient(loss, features), expected)


class Letters(keras.layers.Layer):
    """A packer whose tokenizer makes a piece of each letter, and one of each two with a blank between them."""

    def __init__(self, with_tokenizer=True, **kwargs):
        super().__init__(**kwargs)
        if with_tokenizer:
            self.tokenizer = lambda texts: tf.strings.unicode_decode(
                tf.strings.regex_replace(texts, ". (.)", r"\1"), "UTF-8"
            )

    def call(self, texts):
        pieces = tf.strings.unicode_decode(tf.strings.regex_replace(texts, ". (.)", r"\1"), "UTF-8").to_tensor()
        return {"token_ids": pieces, "padding_mask": tf.cast(pieces > 0, tf.int32)}


def test_what_cannot_tag_words_is_refused():
    head, tiny = heads.token_classification(TAGS), tagging_models.bert(8)
    with pytest.raises(BackboneError, match="cannot tag words: token classification takes single sentences"):
        tfft.build(tiny, head, pair=True)
    bare = tfft.backbones.Backbone("numbers", tiny.model, "tests")
    with pytest.raises(BackboneError, match="cannot tag words: it has no tokenizer"):
        tfft.build(bare, head)
    names = ("token_ids", "padding_mask")
    with pytest.raises(BackboneError, match=r"\(Letters\) does not tokenize single words"):
        TokenizeWords.of(tagging_models.tokenizing(Letters(with_tokenizer=False), 30, names))
    with pytest.raises(BackboneError, match="tokenizes words differently within a sentence"):
        TokenizeWords.of(tagging_models.tokenizing(Letters(), 30, names))


# --- learning


@pytest.fixture(scope="module")
def data():
    return load_tagged(tagging_models.planted(600))


@pytest.fixture(scope="module")
def tagger(data):
    """A compiled tiny tagger, and what sets its weights and its optimizer back to the beginning."""
    keras.utils.set_random_seed(0)
    head = heads.token_classification(data.class_names, dropout=0.0)
    model = tfft.build(tagging_models.bert(), head)
    tfft.unfreeze(model, "all")
    model.compile(keras.optimizers.Adam(3e-3), **head.compile_args())
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    first = [variable.numpy() for variable in variables]

    def learned(train):
        for variable, value in zip(variables, first, strict=True):
            variable.assign(value)
        model.fit(to_dataset(train, shuffle=True), epochs=9, verbose=0, shuffle=False)
        return model

    return learned


@pytest.fixture(scope="module")
def learned(tagger, data):
    return tagger(data.train)


@pytest.mark.nightly
def test_the_names_in_sentences_are_learned_though_their_words_are_cut_into_pieces(learned, data, tmp_path):
    scores = evaluate(learned, to_dataset(data.validation))
    assert scores.value >= 0.95
    assert scores.metric == "f1"
    assert {row.name for row in scores.per_class} == {"LOC", "PER"}
    learned.save(tmp_path / "tagger.keras")
    again = keras.saving.load_model(tmp_path / "tagger.keras")
    texts = data.validation.inputs[:9]
    logits = learned.predict(texts, verbose=0)
    np.testing.assert_array_equal(again.predict(texts, verbose=0), logits)
    assert heads.from_model(again) == heads.from_model(learned)
    answers = heads.from_model(again).postprocess(logits)["label"].numpy()
    known = np.array(("", *data.class_names))[data.validation.labels[:9] + 1]
    assert ([[tag.decode() for tag in row] for row in answers] == known[:, : answers.shape[1]]).mean() > 0.95
    assert (answers == b"").any()
    parts = learned.predict(texts, batch_size=4, verbose=0)  # batches of other widths
    assert isinstance(parts, tf.RaggedTensor)
    for row, label in zip(parts, data.validation.labels[:9], strict=True):
        assert row.shape[0] >= (label >= 0).sum()


@pytest.mark.nightly
def test_shuffled_tags_are_not_learned(learned, tagger, data):
    right = evaluate(learned, to_dataset(data.validation)).value
    generator = np.random.default_rng(0)
    labels = data.train.labels.copy()
    for row in labels:
        count = (row >= 0).sum()
        row[:count] = generator.permutation(row[:count])
    model = tagger(TokenExamples(data.train.inputs, None, labels, data.class_names))
    control = evaluate(model, to_dataset(data.validation)).value
    assert control < 0.6 < 0.95 <= right
    tagger(data.train)  # as the other tests found it


@pytest.mark.nightly
def test_a_tagger_is_sliced_and_described_like_any_model_and_learns_what_was_left_free():
    head = heads.token_classification(TAGS)
    model = tfft.build(tagging_models.bert(8), head)
    assert [layer.name for layer in model.layers] == ["text", "tokens", "backbone", "words", "dropout", "logits"]
    tfft.unfreeze(model, 1)
    text = str(tfft.describe(model))
    assert "transformer_layer_1" in text
    assert "logits" in text
    model.compile("adam", **head.compile_args())
    model.optimizer.build(model.trainable_variables)  # within a step it would have the step traced twice
    texts, labels = np.array(["mr kana", "saw", "kado kado"], object), np.full((3, 5), -1)
    labels[0, :2] = [0, 2]
    before = {variable.path: variable.numpy() for variable in model.variables}
    model.fit(texts, labels, verbose=0)  # labels may be padded further than the batch
    moved = {path for path, value in before.items() if not np.array_equal(value, _by_path(model)[path])}
    assert any("transformer_layer_1" in path for path in moved)
    assert any("logits" in path for path in moved)
    assert not any("transformer_layer_0" in path or "embedding" in path for path in moved)


def _by_path(model):
    return {variable.path: variable.numpy() for variable in model.variables}


@pytest.mark.nightly
def test_a_file_becomes_a_run_that_tags_words_on_the_command_line(tmp_path, capsys):
    sentences, tags = tagging_models.planted(600)
    file = tmp_path / "names.jsonl"
    rows = [{"words": words, "ner": own} for words, own in zip(sentences, tags, strict=True)]
    file.write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "run"
    done = tfft.finetune(
        tagging_models.bert(), file, task="token_classification", text="words", label="ner", unfreeze="all", epochs=9,
        head_epochs=1, learning_rate=3e-3, dropout=0.0, out=folder, verbose=False,
    )  # fmt: skip
    assert done.final_scores.metric == "f1"
    assert done.final_scores.value >= 0.95 > 0.6 > done.frozen_scores.value
    assert [phase.solves_head for phase in done.plan.phases] == [False, False]
    assert done.export.largest_difference < 1e-5
    capsys.readouterr()
    assert main(["predict", str(folder / "export" / "1"), "--text", "mr  kana saw lodo in mina"]) == 0
    assert capsys.readouterr().out == "mr kana/B-PER saw lodo in mina/B-LOC\n"
    assert main(["predict", str(folder), "--json", "--text", "mr kana"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["tags"] == [["mr", "O"], ["kana", "B-PER"]]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"words": ["in", "kana"], "ner": ["O", "B-LOC"]}))
    assert main(["evaluate", str(folder), str(file)]) == 0
    assert "120 sentences" in capsys.readouterr().out
    before = main(["evaluate", str(folder), str(other), "--json"]), capsys.readouterr().out
    assert before[0] == 0
    assert json.loads(before[1])["examples"] == 1
    file.unlink()  # the tags are those of the model, so other data is measured without the data of the run too
    assert (main(["evaluate", str(folder), str(other), "--json"]), capsys.readouterr().out) == before


def test_a_recipe_says_what_means_nothing_for_tags():
    data = tagging_models.planted(20)
    with pytest.raises(PlanError, match="class_weight does not apply where each word has a tag"):
        tfft.finetune(tagging_models.bert(8), data, task="token_classification", class_weight="balanced", verbose=False)
    with pytest.raises(PlanError, match="(?s)The plan 'setfit' cannot be made.*computes a head from one row"):
        tfft.finetune(tagging_models.bert(8), data, task="token_classification", plan="setfit", verbose=False)
    plan = tfft.recommend_plan(data, tagging_models.bert(8), task="token_classification")
    assert "each word has one" in plan.reasons["head"]


# --- pairs


@pytest.mark.nightly
def test_whether_two_texts_belong_together_is_learned():
    generator = np.random.default_rng(0)
    first, second = (np.array([*"abcdefgh"], object)[generator.integers(0, 8, 800)] for _ in range(2))
    second = np.where(generator.random(800) < 0.5, first, second)
    texts = (["mr " + a for a in first], [b + " saw" for b in second])
    labels = np.where(first == second, "same", "other").tolist()
    held = slice(0, 160)
    control = tfft.heads.classification(["other", "same"], dropout=0.0)
    keras.utils.set_random_seed(0)
    model = tfft.build(tagging_models.bert(), control, pair=True)
    tfft.unfreeze(model, "all")
    model.compile(keras.optimizers.Adam(2e-3), **control.compile_args())
    model.optimizer.build(model.trainable_variables)
    inputs = {"text": np.array(texts[0], object), "text_pair": np.array(texts[1], object)}
    known = np.array([label == "same" for label in labels], np.int32)
    model.fit({k: v[160:] for k, v in inputs.items()}, known[160:], epochs=25, batch_size=32, verbose=0)
    right = model.predict({k: v[held] for k, v in inputs.items()}, verbose=0).argmax(-1) == known[held]
    swapped = model.predict({k: np.roll(v[held], n) for n, (k, v) in enumerate(inputs.items())}, verbose=0).argmax(-1)
    assert right.mean() >= 0.9
    assert (swapped == known[held]).mean() < 0.75  # the label is in neither text alone


# --- entities


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-A I-A O B-B", [("A", 1, 3), ("B", 4, 5)]),
        ("I-A I-A O I-B", [("A", 0, 2), ("B", 3, 4)]),  # I- behind O begins one
        ("B-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("B-A I-B", [("A", 0, 1), ("B", 1, 2)]),  # another type inside
        ("B-A I-B I-A", [("A", 0, 1), ("B", 1, 2), ("A", 2, 3)]),
        ("I-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
        ("B-A O I-A", [("A", 0, 1), ("A", 2, 3)]),
        ("O O", []),
        ("", []),
        ("B-A I-A E-A S-A O E-B", [("A", 0, 3), ("A", 3, 4), ("B", 5, 6)]),
        ("E-A E-A I-A", [("A", 0, 1), ("A", 1, 2), ("A", 2, 3)]),
        ("U-A L-A B-A L-A", [("A", 0, 1), ("A", 1, 2), ("A", 2, 4)]),
        ("B-A-X I-A-X B-A", [("A-X", 0, 2), ("A", 2, 3)]),
        ("B I I O I", [("", 0, 3), ("", 4, 5)]),
        ("A A O B-A A", [("A", 0, 2), ("B-A", 3, 4), ("A", 4, 5)]),  # not all with prefixes: types as they are
        ("PER PER LOC O PER", [("PER", 0, 2), ("LOC", 2, 3), ("PER", 4, 5)]),
    ],
)
def test_entities_are_read_as_the_usual_evaluation_reads_them(tags, expected):
    assert entities(tags.split()) == expected


def echo(names):
    """A tagger whose logits are its inputs."""
    head = heads.token_classification(names)
    inputs = keras.Input((None, len(names)))
    model = keras.Model(inputs, head.attach(inputs))
    model.get_layer("logits").set_weights([np.eye(len(names)), np.zeros(len(names))])
    return model


def as_dataset(names, true, given, batch=2):
    """Batches of true tags and of logits that give the others; "-" is no label."""
    rows = []
    for tags, answers in zip(true, given, strict=True):
        labels = [names.index(tag) if tag != "-" else -1 for tag in tags.split()]
        logits = [np.eye(len(names))[names.index(tag)] * 5 for tag in answers.split()]
        rows.append((np.array(labels, "int32"), np.array(logits, "float32").reshape(-1, len(names))))
    dataset = tf.data.Dataset.from_generator(
        lambda: iter((logits, labels) for labels, logits in rows),
        output_signature=(tf.TensorSpec([None, len(names)]), tf.TensorSpec([None], tf.int32)),
    )
    count = tf.data.experimental.assert_cardinality(-(-len(rows) // batch))
    return dataset.padded_batch(batch, padding_values=(np.float32(0), -1)).apply(count)


@pytest.mark.slow
def test_scores_are_those_counted_by_hand():
    names = ["O", "B-A", "I-A", "B-B"]
    true = ["B-A I-A O B-B", "B-A O", "O - B-B", "O"]
    given = ["B-A I-A O B-B", "I-A O", "B-A O O", "O"]
    scores = evaluate(echo(names), as_dataset(names, true, given))
    # A: true 2, given 3 (I-A begins one too), right 2. B: true 2, given 1, right 1.
    assert scores.measures["precision"] == pytest.approx(3 / 4)
    assert scores.measures["recall"] == pytest.approx(3 / 4)
    assert scores.value == pytest.approx(3 / 4)
    assert scores.measures["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores.accuracy == pytest.approx(6 / 9)
    assert scores.measures["words"] == 9
    assert scores.measures["commonest_tag"] == pytest.approx(4 / 9)
    assert scores.examples == 4
    assert [(row.name, row.examples, row.predicted) for row in scores.per_class] == [("A", 2, 3), ("B", 2, 1)]
    assert scores.interval == f1_interval([[2, 2, 2], [1, 1, 1], [0, 1, 1], [0, 0, 0]])
    assert scores.majority_baseline is None
    assert "entity F1 0.7500 (95 % interval" in scores.summary
    assert "4 sentences), accuracy of words 0.6667" in scores.summary
    assert "per type of entity" in str(scores)
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    assert str(again) == str(scores)
    assert evaluate(echo(names), as_dataset(names, true, given, 1)).loss == pytest.approx(scores.loss, rel=1e-5)
    p = np.exp(5) / (np.exp(5) + 3)
    q = 1 / (np.exp(5) + 3)
    assert scores.loss == pytest.approx(-(6 * np.log(p) + 3 * np.log(q)) / 9, rel=1e-4)


@pytest.mark.nightly
def test_words_that_were_not_seen_are_counted_as_they_are_answered_and_reported():
    names = ("O", "B-LOC")
    model = tfft.build(tagging_models.bert(8, length=8), heads.token_classification(names))
    texts, labels = np.array(["kado kado kado kado kado"], object), np.array([[0, 0, 0, 1, 0]], "int32")
    scores = evaluate(model, tf.data.Dataset.from_tensors((texts, labels)))
    assert scores.measures["words_not_seen"] == 2
    assert scores.measures["words"] == 5
    assert scores.per_class[0].examples == 1
    assert scores.measures["recall"] == 0
    with pytest.raises(DataError, match="1 sentences .* more labels than words.*position 0: 7 labels, 5 words"):
        evaluate(model, tf.data.Dataset.from_tensors((texts, np.zeros((1, 7), "int32"))))


def test_tags_without_o_and_prefixes_are_scored_as_words():
    names = ["ADJ", "NOUN", "VERB"]
    scores = evaluate(echo(names), as_dataset(names, ["ADJ NOUN", "VERB NOUN"], ["ADJ NOUN", "NOUN NOUN"]))
    assert scores.metric == "accuracy"
    assert scores.value == scores.accuracy == 3 / 4
    assert scores.interval == wilson_interval(3, 4)
    assert scores.majority_baseline == 1 / 2
    assert scores.most_confused == [("VERB", "NOUN", 1)]
    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict()))).to_dict() == scores.to_dict()


def test_labels_that_are_no_tags_are_refused():
    names = ["O", "B-A", "I-A", "B-B"]
    logits = np.zeros((1, 2, 4), "float32")
    for labels, match in (
        (np.array([[0, 4]], "int32"), "labels 4 have no tag: the head has 4"),
        (np.array([0], "int32"), r"Expected labels \[B, W\].*Received: int32 \(1,\)"),
        (np.array([[-1, -1]], "int32"), "No word of the dataset has a label"),
    ):
        with pytest.raises(DataError, match=match):
            evaluate(echo(names), tf.data.Dataset.from_tensors((logits, labels)))


def test_the_interval_is_of_sentences_and_honest_without_a_mistake():
    low, high = f1_interval([[1, 1, 1]] * 20)
    share = wilson_interval(20, 20)[0]
    assert (low, high) == (pytest.approx(2 * share / (1 + share)), 1.0)
    together = f1_interval([[10, 10, 10]] * 5 + [[0, 10, 10]] * 5)
    apart = f1_interval([[1, 1, 1]] * 50 + [[0, 1, 1]] * 50)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])
    assert f1_interval([[0, 0, 0]]) == (0.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)

    def sentences(count):
        easy = generator.random(count) < 0.7  # the entities of a sentence are right or wrong together
        true = generator.integers(0, 4, count)
        right = generator.binomial(true, np.where(easy, 0.95, 0.5))
        return np.stack([right, true, right + generator.binomial(3, 0.1, count)], 1)

    many = sentences(200_000).sum(0)
    truth = 2 * many[0] / (many[1] + many[2])
    inside = [low <= truth <= high for low, high in (f1_interval(sentences(60), draws=400) for _ in range(300))]
    assert 0.9 <= np.mean(inside) <= 0.99


# --- data

CONLL = """-DOCSTART- -X- O O

EU NNP B-ORG
rejects VBZ O

Peter\tNNP\tB-PER
Black\u00a0white\tNNP\tI-PER

Brussels NNP I-LOC
"""


def test_conll_columns_are_read_and_broken_sequences_reported(tmp_path):
    path = tmp_path / "all.conll"
    path.write_bytes(b"\xef\xbb\xbf" + CONLL.replace("\n", "\r\n").encode())
    data = load_tagged({"train": path, "validation": path})
    assert data.class_names == ("O", "B-ORG", "B-PER", "I-LOC", "I-PER")
    assert data.train.inputs.tolist() == ["EU rejects", "Peter Black\u00a0white", "Brussels"]
    assert data.train.labels.tolist() == [[1, 0], [2, 4], [3, -1]]
    assert data.train.labels.dtype == np.int32
    assert (len(data.train), data.train.words) == (3, 5)
    assert data.train.counts == {"O": 1, "B-ORG": 1, "B-PER": 1, "I-LOC": 1, "I-PER": 1}
    assert data.report.notes[0].startswith("1 I- tag in the training sentences does not follow a word of the same type")
    assert f"{path}, line 9, word 1 ('Brussels', I-LOC)" in data.report.notes[0]


def test_json_lines_and_lists_give_the_same_and_equal_sentences_stay_together(tmp_path):
    sentences, tags = tagging_models.planted(60)
    path = tmp_path / "all.jsonl"
    rows = [{"words": words, "ner": own} for words, own in zip(sentences, tags, strict=True)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    first = load_tagged(path, words="words", tags="ner", validation=0.3)
    second = load_tagged((sentences, tags), validation=0.3)
    assert first.train.inputs.tolist() == second.train.inputs.tolist()
    np.testing.assert_array_equal(first.validation.labels, second.validation.labels)
    assert not set(first.train.inputs) & set(first.validation.inputs)
    assert abs(len(first.validation) - 18) <= 3
    assert len(first.train) + len(first.validation) == 60
    other = load_tagged((sentences, tags), validation=0.3, seed=1)
    assert set(other.validation.inputs) != set(first.validation.inputs)


def test_the_only_sentence_with_a_tag_is_not_held_out():
    sentences, tags = [[f"w{i}"] for i in range(20)], [["O"]] * 20
    for at in range(20):
        own = [["B-A"] if i == at else tag for i, tag in enumerate(tags)]
        data = load_tagged((sentences, own), validation=0.5)
        assert f"w{at}" in data.train.inputs
        assert len(data.validation) == 10


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.txt", "EU O\nrejects\n", r"a.txt, line 2: expected 2 columns as on line 1, received 1: 'rejects'"),
        ("a.txt", "EU\n", "a.txt, line 1: expected a word and its tag, received 1: 'EU'"),
        ("a.txt", "New York\tB-LOC\n", "a.txt, line 1: word 1 contains a space: 'New York'"),
        ("a.txt", "EU\tO\nx\t\n", "a.txt, line 1: the tag of word 2 is empty"),
        ("a.txt", "\tO\n", "a.txt, line 1: word 1 is empty"),
        ("a.txt", "EU O\n\nUN O\n", "All words have the tag O"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O", "B"]}', "a.jsonl, line 1: 1 word, but 2 tags"),
        ("a.jsonl", '\n{"tokens": [], "tags": []}', "a.jsonl, line 2: a sentence without words"),
        ("a.jsonl", '{"token": ["a"], "tags": ["O"]}', "line 1: no list 'tokens'; there is token, tags. Did you mean"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [1]}', r"line 1: the tags must be a list of str, received \[1\]"),
        ("a.jsonl", '{"tokens": "ab", "tags": ["O"]}', "line 1: the words must be a list of str, received 'ab'"),
        ("a.jsonl", "{", "line 1: not JSON"),
    ],
)
def test_faults_of_a_file_are_told_with_their_line(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=match):
        load_tagged(tmp_path / name)


def test_all_faults_are_told_together(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a b"], "tags": ["O"]}\n' * 12)
    with pytest.raises(DataError, match=r"(?s)12 problems.*line 1:.*line 10:.*and 2 more"):
        load_tagged(tmp_path / "a.jsonl")


def test_what_is_no_tagged_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="Received 1 sentences, but tags of 2"):
        load_tagged(([["a"]], [["O"], ["O"]]))
    with pytest.raises(DataError, match="sentence 1: 1 word, but 2 tags"):
        load_tagged(([["a"], ["b"]], [["O"], ["O", "O"]]))
    with pytest.raises(DataError, match="Expected a file.*received int"):
        load_tagged(3)
    with pytest.raises(PlanError, match="validation must be above 0"):
        load_tagged(([], []), validation=1.0)
    (tmp_path / "train.txt").write_text("a O\nb B-PER\n")
    (tmp_path / "dev.txt").write_text("c O\nd B-PRE\n")
    with pytest.raises(
        DataError, match=r"dev.txt, line 1, word 2 \('d'\): the tag 'B-PRE' is in no training sentence. Di"
    ):
        load_tagged({"train": tmp_path / "train.txt", "validation": tmp_path / "dev.txt"})
    with pytest.raises(DataError, match="'train' and 'validation', received train, valdation. Did you mean"):
        load_tagged({"train": "a", "valdation": "b"})
    with pytest.raises(DataError, match="'.*trian.txt' cannot be read.*Did you mean 'train.txt'"):
        load_tagged(tmp_path / "trian.txt")
    (tmp_path / "latin.txt").write_bytes("a O\nK\u00e4fer O\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin.txt, line 2: byte 0xe4 at position 5 is not UTF-8"):
        load_tagged(tmp_path / "latin.txt")


@pytest.mark.slow
def test_a_dataset_has_the_width_of_its_batch_and_an_order_that_repeats():
    sentences = [["a"], ["b", "c", "d"], ["e", "f"], ["g"], ["h", "i"]]
    labels = np.full((5, 3), -1, np.int32)
    for row, words in enumerate(sentences):
        labels[row, : len(words)] = row
    texts = np.array([" ".join(words) for words in sentences], object)
    packed = TokenExamples(texts, None, labels, tuple("abcde"))
    batches = list(to_dataset(packed, batch_size=2))
    assert [tuple(labels.shape) for _, labels in batches] == [(2, 3), (2, 2), (1, 2)]
    assert len(to_dataset(packed, batch_size=2)) == 3
    shuffled = to_dataset(packed, batch_size=5, shuffle=True, seed=3)
    passes = [[(texts.numpy().tolist(), labels.numpy()) for texts, labels in shuffled] for _ in range(2)]
    assert passes[0][0][0] != passes[1][0][0]
    for [(given, numbers)] in passes:
        assert [texts.tolist().index(text.decode()) for text in given] == numbers[:, 0].tolist()
    again = to_dataset(packed, batch_size=5, shuffle=True, seed=3)
    assert [text.numpy().tolist() for text, _ in again] == [passes[0][0][0]]
    with pytest.raises(PlanError, match="batch_size"):
        to_dataset(packed, batch_size=0)
