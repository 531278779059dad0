"""Text to text: pairs, tokens, loss, decoding, scores, and a planted language learned the whole way."""

from __future__ import annotations

import dataclasses
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.backbones.transformer import END, START, transformer
from tfft.data.batches import BatchOptions
from tfft.decoding import PrefixStepper, beam_search, length_penalty
from tfft.errors import DataError, PlanError
from tfft.exporting import serving_functions
from tfft.inspection import check_splits
from tfft.losses import TokenAccuracy, TokenCrossentropy
from tfft.tasks.text_to_text.adapting import adapted_pairs
from tfft.tasks.text_to_text.batching import cuts
from tfft.tasks.text_to_text.checks import swapped
from tfft.tasks.text_to_text.data import load_pairs, read_pairs
from tfft.tasks.text_to_text.decoding import TextGenerator
from tfft.tasks.text_to_text.evaluator import text_scores
from tfft.tasks.text_to_text.floors import nearest_targets
from tfft.tasks.text_to_text.formats import read_pairs_of

pytest.importorskip("keras_hub")
pytest.importorskip("sentencepiece")
pytest.importorskip("sacrebleu")

WORDS = {
    "one": "eins", "two": "zwei", "three": "drei", "red": "rot", "blue": "blau", "dog": "hund", "cat": "katze",
    "sees": "sieht", "and": "und", "house": "haus", "small": "klein", "über": "öde",
}  # fmt: skip


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences of a planted language: each word has one translation, and the order of the words is reversed."""
    draw = random.Random(seed)
    rows = [[draw.choice(list(WORDS)) for _ in range(draw.randint(2, 6))] for _ in range(count)]
    return [" ".join(row) for row in rows], [" ".join(WORDS[word] for word in reversed(row)) for row in rows]


@pytest.fixture(scope="module")
def adapted():
    keras.utils.set_random_seed(0)
    splits = load_pairs(sentences(300))
    return adapted_pairs(splits, transformer(width=32, blocks=2, heads=2, inner=64, dropout=0.0))


@pytest.fixture(scope="module")
def model(adapted) -> keras.Model:
    """An encoder-decoder with random weights that are large enough for varied texts."""
    model = tfft.build(adapted.backbone, tfft.heads.text_to_text(label_smoothing=0.1), modality="text")
    draw = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(variable + draw.normal(0, 0.15, variable.shape))
    return model


@pytest.fixture(scope="module")
def batch(adapted):
    return next(iter(adapted.splits.validation.batches(None, BatchOptions(8))))


# --- pairs


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "en\tde\na dog\tein Hund\nthe cat\tdie Katze\n"),
        ("a.csv", 'en,de\n"a dog",ein Hund\nthe cat,die Katze\n'),
        ("a.jsonl", '{"en": "a dog", "de": "ein Hund"}\n{"en": "the cat", "de": "die Katze"}\n'),
        (
            "a.tmx",
            '<?xml version="1.0"?><tmx version="1.4"><body><tu><tuv xml:lang="en-GB"><seg>a <bpt i="1"/>dog</seg></tuv>'
            '<tuv xml:lang="DE"><seg>ein Hund</seg></tuv></tu><tu><tuv xml:lang="en-GB"><seg>the cat</seg></tuv>'
            '<tuv xml:lang="de"><seg>die Katze</seg></tuv></tu></body></tmx>',
        ),
    ],
)
def test_pairs_from_files(tmp_path, name, text):
    found = read_pairs(write(tmp_path / name, text), text="en", target="de")
    assert list(found.sources) == ["a dog", "the cat"]
    assert list(found.labels) == ["ein Hund", "die Katze"]


def test_pairs_from_parallel_files_keep_lines(tmp_path):
    files = write(tmp_path / "x.en", "a\nb\nc\n"), write(tmp_path / "x.de", "A\nB\nC")
    found = read_pairs_of(files)
    assert list(found.targets) == ["A", "B", "C"]
    assert found.places[2] == f"{files[0]}:3"
    assert found.columns == ("en", "de")


def test_tab_in_a_quoted_field_of_a_tsv(tmp_path):
    found = read_pairs(write(tmp_path / "a.tsv", 'en\tde\nfountain\t"im \tBrunnen"\n"a"\tb\n'), text="en", target="de")
    assert list(found.labels) == ["im \tBrunnen", "b"]


def test_bad_pairs_are_named(tmp_path):
    table = write(tmp_path / "a.tsv", "en\tde\tfr\na\tb\tc\n")
    with pytest.raises(DataError, match=r"Name the one to read with text= and .* Missing: target"):
        read_pairs(table, text="en")
    with pytest.raises(DataError, match=r"no column 'dee' \(target=\).*Did you mean 'de'"):
        read_pairs(table, text="en", target="dee")
    with pytest.raises(DataError, match="both name the column 'en'"):
        read_pairs(table, text="en", target="en")
    plain = write(tmp_path / "a.txt", "a")
    with pytest.raises(DataError, match="not a table of pairs"):
        read_pairs(plain)
    units = '<tu><tuv xml:lang="en"><seg>a</seg></tuv><tuv xml:lang="de"><seg>b</seg></tuv></tu>'
    tmx = write(tmp_path / "a.tmx", f'<tmx version="1.4"><body>{units}</body></tmx>')
    with pytest.raises(DataError, match="'xx' .*text=.*It has: en, de"):
        read_pairs(tmx, text="xx", target="de")
    with pytest.raises(DataError, match="as many targets as sources. Received: 2 sources, 1 targets"):
        read_pairs((["a", "b"], ["c"]))


def test_entities_in_tmx_are_refused(tmp_path):
    bomb = (
        '<!DOCTYPE tmx [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><tmx version="1.4"><body><tu><tuv xml:lang="en">'
        '<seg>&b;</seg></tuv><tuv xml:lang="de"><seg>x</seg></tuv></tu></body></tmx>'
    )
    with pytest.raises(DataError, match="without entities"):
        read_pairs(write(tmp_path / "a.tmx", bomb), text="en", target="de")


def test_parallel_files_of_different_length_name_the_place(tmp_path):
    draw = random.Random(0)
    lines = ["x" * draw.randint(5, 90) for _ in range(60)]
    other = [line.upper() for at, line in enumerate(lines) if at != 40]
    files = write(tmp_path / "x.en", "\n".join(lines)), write(tmp_path / "x.de", "\n".join(other))
    with pytest.raises(DataError, match=r"has 60 lines and .* has 59, .* diverge near line 41\."):
        read_pairs(files)


def test_empty_sides_are_skipped_or_an_error():
    sources, targets = sentences(40)
    targets[3] = " "
    assert str(read_pairs((sources, targets)).skipped[0]) == "pair 3 has an empty side (target)"
    with pytest.raises(DataError, match="1 pair of the lists cannot be used: .*pair 3 has an empty side"):
        read_pairs((sources, targets), strict=True)
    with pytest.raises(DataError, match="21 pairs of the lists"):
        read_pairs((sources, [""] * 21 + targets[21:]))


def test_equal_sides():
    sources, targets = sentences(40)
    splits = load_pairs((sources, [sources[0], *targets[1:]]))
    assert "1 pair has equal sides, which teaches the model to copy" in str(check_splits(splits))
    with pytest.raises(DataError, match="Both sides are equal in 40 of 40 pairs"):
        load_pairs((sources, sources))


def test_swapped_pairs_are_found_by_their_words():
    sources, targets = sentences(200)
    sources[7], targets[7] = "eins zwei hund katze", "cat dog two one"
    assert swapped(sources, targets) == [7]


def test_pairs_that_teach_the_wrong_thing_are_found_with_their_places():
    sources, targets = sentences(200)
    assert [each.kind for each in check_splits(load_pairs((sources, targets))).findings] == ["copy"]
    sources[7], targets[7] = "eins zwei hund katze", "cat dog two one"
    sources[20] = " ".join(["dog"] * 10_000)
    targets[30] = " ".join(["hund"] * 40)
    targets[40] = "MÃ¤nner"
    targets[50:80] = ["TODO"] * 30
    sources[90], targets[90] = sources[91], targets[91]
    found = {each.kind: each for each in check_splits(load_pairs((sources, targets))).findings}
    places = {kind: {item.name for item in each.items} for kind, each in found.items()}
    assert "pair 91" in places.pop("copy")
    assert places.pop("filler") == {f"pair {at}" for at in range(50, 80)}
    assert places == {
        "swapped": {"pair 7"}, "longer": {"pair 20"}, "uneven": {"pair 30"}, "mojibake": {"pair 40"},
    }  # fmt: skip
    assert "pairs have the target 'TODO'" in found["filler"].message


def test_summaries_of_texts_of_any_length_are_not_uneven():
    draw = np.random.default_rng(0)
    sources = [" ".join(draw.choice(list(WORDS), size)) for size in np.geomspace(20, 1500, 200).astype(int)]
    targets = [" ".join(draw.choice(list(WORDS.values()), 12)) for _ in range(200)]
    assert "uneven" not in {each.kind for each in check_splits(load_pairs((sources, targets))).findings}


def test_texts_without_spaces_are_scored_by_their_characters():
    targets = ["这是一个测试句子。", "今天天气很好。", "我喜欢学习语言。"]
    written = ["这是一个测试的句子。", "今天天气好。", "我喜欢学语言。"]
    found = text_scores(written, targets)
    assert found["bleu"] > 40
    assert "tok:zh" in found["signature"]
    assert (
        "tok:char"
        in text_scores(written, ["これはペンです。", "今日はいい天気です。", "私は語学が好きです。"])["signature"]
    )
    assert "tok:13a" in text_scores(["a dog"], ["a dog, 犬"])["signature"]


def test_a_script_of_many_characters_gets_a_vocabulary():
    draw = random.Random(0)
    targets = ["".join(chr(draw.randint(0x4E00, 0x4E00 + 900)) for _ in range(8)) for _ in range(200)]
    sources, _ = sentences(200)
    found = adapted_pairs(load_pairs((sources, targets)), transformer(width=32, blocks=1, heads=2, inner=64))
    assert "unknown" not in " ".join(found.notes)
    tokens = found.splits.train.tokens.target
    assert np.median([len(row) for row in tokens]) <= 11  # of eight characters, which are 24 bytes


def test_equal_sources_stay_on_one_side_and_given_parts_report_copies():
    sources, targets = sentences(50)
    splits = load_pairs((sources * 2, targets * 2), validation=0.3)
    assert not set(splits.train.sources) & set(splits.validation.sources)
    both = load_pairs({"train": (sources, targets), "validation": (sources[:2], targets[:2])})
    assert both.leaked.tolist() == [0, 1]
    assert "2 held-out sources are also training sources" in str(check_splits(both))


def test_long_pairs_are_skipped_with_their_place(adapted):
    sources, targets = sentences(60)
    targets[5] = " ".join(["hund"] * 10_000)
    splits = load_pairs((sources, targets))
    found = adapted_pairs(splits, transformer(width=16, blocks=1, heads=2, inner=16))
    assert "pair 5 has a target of 10,0" in str(found.splits.skipped[0])
    assert len(found.splits.train) + len(found.splits.validation) == 59
    short = transformer(width=16, blocks=1, heads=2, inner=16, max_length=3)
    with pytest.raises(DataError, match="are longer than the model takes: .* pass a larger max_length="):
        adapted_pairs(splits, short)


# --- tokens and batches


@pytest.mark.slow
def test_texts_survive_the_vocabulary(adapted):
    tokenizer = adapted.backbone.pair_tokenizer
    texts = ["über öde", "你好，世界", "emoji 😀", "one two"]
    ids = tokenizer.ragged(texts)
    padded = tf.ragged.constant([row.tolist() for row in ids]).to_tensor(-1)
    assert tokenizer.read(padded.numpy()) == texts
    tokenizer.prepare()
    assert [t.decode() for t in tf.function(tokenizer.texts)(tf.cast(padded, tf.int32)).numpy()] == texts


def test_labels_are_the_next_tokens(batch):
    inputs, labels = batch
    target, labels = inputs["target"].numpy(), labels.numpy()
    for row, expected in zip(target, labels, strict=True):
        count = int((expected >= 0).sum())
        assert row[0] == START
        assert expected[count - 1] == END
        np.testing.assert_array_equal(row[1:count], expected[: count - 1])
        assert (row[count:] == -1).all()


def test_batches_show_each_pair_once_and_fill_by_tokens(adapted):
    train = adapted.splits.train
    epoch = tf.Variable(0, dtype=tf.int64)
    data = train.batches(None, BatchOptions(16, True, 3, epoch))
    seen = [tuple(row[row >= 0]) for inputs, _ in data for row in inputs["source"].numpy()]
    assert sorted(seen) == sorted(tuple(ids) for ids in train.tokens.source)
    again = [tuple(row[row >= 0]) for inputs, _ in data for row in inputs["source"].numpy()]
    assert seen == again  # a pure function of the epoch
    epoch.assign(1)
    assert seen != [tuple(row[row >= 0]) for inputs, _ in data for row in inputs["source"].numpy()]
    starts, rounded = cuts(np.array([4] * 30 + [40] * 30), 10)
    sizes = np.diff(starts)
    assert sizes.max() >= 30
    assert sizes.min() <= 5
    assert sizes.sum() == 60
    assert (
        max(n * rounded[a:b].max() for n, a, b in zip(sizes, starts, starts[1:], strict=False)) <= 10 * rounded.mean()
    )


# --- loss


def test_loss_and_accuracy_against_loops():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(3, 4, 5)).astype("float32"), draw.integers(0, 5, (3, 4))
    labels[0, 2:], labels[2, 1:] = -1, -1
    terms, right = [], []
    for row in range(3):
        for at in range(4):
            if labels[row, at] >= 0:
                log_p = logits[row, at] - np.log(np.exp(logits[row, at]).sum())
                goal = np.full(5, 0.1 / 5)
                goal[labels[row, at]] += 0.9
                terms.append(-(goal * log_p).sum())
                right.append(logits[row, at].argmax() == labels[row, at])
    assert float(TokenCrossentropy(0.1)(labels, logits)) == pytest.approx(np.mean(terms), rel=1e-5)
    metric = TokenAccuracy()
    metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(np.mean(right))


def test_soft_labels_and_other_losses_are_refused():
    head = tfft.heads.text_to_text()
    with pytest.raises(PlanError, match="soft=True does not apply"):
        head.loss(soft=True)
    with pytest.raises(PlanError, match="beam_size must be an integer of at least 1"):
        tfft.heads.text_to_text(beam_size=0)


# --- decoding


def test_padding_changes_nothing(model, batch):
    inputs, labels = batch
    wide = {name: tf.pad(ids, [[0, 0], [0, 5]], constant_values=-1) for name, ids in inputs.items()}
    logits = model(inputs, training=False).numpy()
    padded = model(wide, training=False).numpy()[:, : logits.shape[1]]
    there = labels.numpy() >= 0
    np.testing.assert_allclose(padded[there], logits[there], atol=2e-4)


def search(model, source, beams=1, penalty=0.6, stepper=None, most=12):
    generator = TextGenerator.of(model, tfft.heads.from_model(model))

    @tf.function(autograph=False)
    def run(source):
        return beam_search(stepper or generator.stepper, source, (START,), END, most, beams=beams, penalty=penalty)

    tokens, scores = run(source)
    return tokens.numpy(), scores.numpy()


@pytest.mark.nightly
def test_cached_decoding_equals_recomputing(model, batch):
    source = batch[0]["source"]
    for beams in (1, 3):
        cached, scores = search(model, source, beams)
        whole, expected = search(model, source, beams, stepper=PrefixStepper(tfft.backbones.base.find_backbone(model)))
        np.testing.assert_array_equal(cached, whole)
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.nightly
def test_greedy_decoding_against_a_loop(model, batch):
    source = batch[0]["source"][:3]
    tokens, scores = search(model, source)
    whole = tf.function(
        lambda source, target: model({"source": source, "target": target}, training=False), reduce_retracing=True
    )
    for row in range(3):
        written, total = [START], 0.0
        while len(written) <= 12 and written[-1] != END:
            logits = whole(source[row : row + 1], tf.constant([written]))
            log_p = tf.nn.log_softmax(logits[0, -1]).numpy()
            written.append(int(log_p.argmax()))
            total += float(log_p.max())
        assert written[1:] == [t for t in tokens[row].tolist() if t >= 0]
        assert scores[row] == pytest.approx(total, rel=1e-4)


@pytest.mark.nightly
def test_beams_find_more_probable_texts(model, batch):
    source = batch[0]["source"]
    _, greedy = search(model, source, 1, 0.0)
    _, wide = search(model, source, 6, 0.0)
    assert wide.mean() >= greedy.mean() - 1e-5
    assert float(length_penalty(7, 0.6)) == pytest.approx(2**0.6)


@pytest.mark.nightly
def test_the_served_model_decodes(model):
    texts = tf.constant(sentences(3, seed=5)[0])
    serving = serving_functions(model)
    assert set(serving.signatures) == {"serving_default"}
    served = serving.signatures["serving_default"](text=texts)
    written, score = tf.function(TextGenerator.of(model, tfft.heads.from_model(model)).texts)(texts)
    assert served["generated_text"].numpy().tolist() == written.numpy().tolist()
    np.testing.assert_allclose(served["log_probability"], score, rtol=1e-4)
    reference = serving.reference({"text": texts.numpy()})
    assert reference["generated_text"].tolist() == written.numpy().tolist()
    np.testing.assert_allclose(reference["log_probability"], score, rtol=1e-4)


def test_beam_search_against_all_texts():
    """A decoder of three tokens, whose every text of at most four tokens can be listed."""
    table = np.log(
        np.random.default_rng(3).dirichlet(np.ones(3), size=(5, 3)).astype("float32")
    )  # by place, last token

    class Tiny:
        def begin(self, source, rows):
            return None, []

        def step(self, fixed, carried, tokens):
            return tf.gather(tf.constant(table[:, :])[tf.shape(tokens)[1] - 1], tokens[:, -1]), carried

    def every(prefix, total):
        if len(prefix) > 1 and (prefix[-1] == 2 or len(prefix) == 5):
            yield prefix[1:], total
            return
        for token in range(3):
            yield from every([*prefix, token], total + table[len(prefix) - 1, prefix[-1], token])

    tokens, score = beam_search(Tiny(), tf.zeros([1, 1], tf.int32), (0,), 2, 4, beams=40, penalty=0.6)
    best = max(every([0], 0.0), key=lambda one: one[1] / ((5 + len(one[0])) / 6) ** 0.6)
    assert [t for t in tokens.numpy()[0].tolist() if t >= 0] == best[0]
    assert float(score[0]) == pytest.approx(best[1], abs=1e-5)


# --- scores


def test_scores_and_floors():
    targets = [f"a b c d e {at}" for at in range(30)]
    found = text_scores(targets, targets)
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)
    assert "version:" in found["signature"]
    half = text_scores(targets[:15] + ["x y z"] * 15, targets)
    assert half["bleu_low"] < half["bleu"] < half["bleu_high"]
    assert text_scores([""] * 30, targets)["bleu"] == 0
    assert nearest_targets(["a red car", "a dog"], ["Auto", "Hund"], ["the DOG", "red"]) == ["Hund", "Auto"]


@pytest.mark.nightly
def test_task_contract():
    print(tfft.testing.check_task("text_to_text", units=3))


# --- BART


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A tiny BART of KerasHub with random weights, as a preset in a folder."""
    import keras_hub

    keras.utils.set_random_seed(0)
    letters = sorted({letter for word in [*WORDS, *WORDS.values()] for letter in word if letter.isascii()})
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*marks, *letters, "Ġ", "Ã", "¼", "¶", "o n", "e i"][: len(marks) + len(letters) + 4]
    vocabulary = {piece: at for at, piece in enumerate([*pieces, "on", "ei"])}
    tokenizer = keras_hub.models.BartTokenizer(vocabulary=vocabulary, merges=["o n", "e i"])
    network = keras_hub.models.BartBackbone(
        vocabulary_size=len(vocabulary), num_layers=2, num_heads=2, hidden_dim=32, intermediate_dim=64,
        max_sequence_length=80, dropout=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bart")
    network.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    return folder, network


@pytest.mark.slow
def test_bart_is_a_chain_with_the_outputs_of_keras_hub(bart):
    import keras_hub

    folder, network = bart
    backbone = tfft.load_backbone(f"keras_hub:{folder}")
    assert [b.name for b in backbone.blocks] == ["embeddings", "encoder1", "encoder2", "decoder1", "decoder2"]
    draw = np.random.default_rng(0)
    ids = {"encoder_token_ids": draw.integers(4, 20, (2, 7)), "decoder_token_ids": draw.integers(4, 20, (2, 5))}
    whole = {f"{part}_padding_mask": np.ones_like(ids[f"{part}_token_ids"]) for part in ("encoder", "decoder")}
    whole["encoder_padding_mask"][1, 4:] = 0
    whole |= ids
    expected = keras_hub.models.BartSeq2SeqLM(network)(whole, training=False)
    found = backbone.model({name: whole[name] for name in backbone.model.input}, training=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(PlanError, match="is an encoder-decoder, which writes texts"):
        tfft.finetune(backbone, ([f"text {at}" for at in range(20)], ["x", "y"] * 10), verbose=False)


def test_other_backbones_cannot_write():
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(
        PlanError, match="is not an encoder-decoder, so it cannot generate text: use 'transformer-small'"
    ):
        tfft.finetune(other, sentences(20), task="text_to_text", verbose=False)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:The low-rank updates in")  # KerasHub's layers do not describe theirs
def test_bart_with_low_rank_updates_goes_the_whole_way(bart, tmp_path):
    folder, _ = bart
    plan = tfft.plans.lp_ft(lora_rank=4)
    run = tfft.finetune(
        f"keras_hub:{folder}", sentences(60), task="text_to_text", plan=plan, epochs=1, unfreeze=2,
        learning_rate=1e-3, max_length=60, export_to=tmp_path / "served" / "1", verbose=False,
    )  # fmt: skip
    [phase] = run.plan.phases
    audit = run.history.audits[phase.name]
    assert not audit.frozen_moved
    assert audit.summary
    assert run.export.largest_difference < 1e-4
    texts = ["red dog", "blue cat"]
    generator = TextGenerator.of(run.model, tfft.heads.from_model(run.model))
    generator.tokenizer.prepare()
    live = [t.decode() for t in tf.function(generator.texts)(tf.constant(texts))[0].numpy()]
    served = tfft.exporting.open_export(tmp_path / "served").predict(texts)["generated_text"]
    assert [t.decode() for t in served] == live


# --- the whole way


@pytest.mark.nightly
def test_a_planted_language_is_learned(tmp_path):
    sources, targets = sentences(1_500)
    run = tfft.finetune(
        transformer(width=64, blocks=2, inner=128, dropout=0.0), (sources, targets), task="text_to_text",
        batch_size=64, epochs=14, learning_rate=3e-3, out=tmp_path / "run", export_to=tmp_path / "served" / "1",
        verbose=False,
    )  # fmt: skip
    scores = run.final_scores
    assert scores.measures["exact_match"] >= 0.9
    assert scores.interval[0] > scores.majority_baseline
    assert "written:" in str(scores)
    assert run.export.largest_difference < 1e-4  # checked in a fresh process, also on texts in several scripts
    served = tfft.exporting.open_export(tmp_path / "served")
    answer = served.predict(["red dog sees cat"])["generated_text"][0].decode()
    assert answer == "katze sieht hund rot"
    again = tfft.load_run(tmp_path / "run")
    beams = dataclasses.replace(tfft.heads.from_model(again.model), beam_size=3)
    texts, _ = TextGenerator.of(again.model, beams).texts(tf.constant(["red dog sees cat"]))
    assert texts.numpy()[0].decode() == answer


class _Stop(keras.callbacks.Callback):
    stops = False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1 and self.stops:
            raise KeyboardInterrupt


@pytest.mark.nightly
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path):
    def train(out, stops=False):
        stop = _Stop()
        stop.stops = stops
        small = transformer(width=16, blocks=1, heads=2, inner=16)
        return tfft.finetune(
            small, sentences(120), task="text_to_text", batch_size=16, epochs=2, out=out, export_to=False,
            deterministic=True, verbose=False, callbacks=[stop],
        )  # fmt: skip

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stops=True)
    resumed = train(tmp_path / "stopped")
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.nightly
def test_commands_train_evaluate_and_predict(tmp_path, capsys):
    from tfft.cli import main

    sources, targets = sentences(60)
    rows = "".join(f"{a}\t{b}\n" for a, b in zip(sources, targets, strict=True))
    table = write(tmp_path / "pairs.tsv", f"en\tde\n{rows}")
    out = str(tmp_path / "run")
    train = ["train", str(table), "--task", "text_to_text", "--backbone", "transformer-small", "--text", "en"]
    assert main([*train, "--target", "de", "--epochs", "1", "--out", out, "--no-export"]) == 0
    assert main(["evaluate", out, str(table)]) == 0
    assert "bleu" in capsys.readouterr().out
    assert main(["predict", out, "--text", "red dog"]) == 0
    assert "red dog →" in capsys.readouterr().out
