"""Text models in the form of TF Hub: encoder and preprocessor, and models that take strings."""

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf
from text_models import reviews

import tfft
from tfft import cli
from tfft.backbones.savedmodel import open_preprocessor
from tfft.errors import BackboneError, PlanError, SavedModelError

QUICK = {"verbose": False, "batch_size": 8}
TEXTS = ["The film is good .", "", "🎬 电影 poor", "bad " * 40]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    savedmodels.transformer(root / "encoder")
    savedmodels.preprocessor(root / "preprocess")
    savedmodels.lookup(root / "strings")
    texts, labels = reviews(120)
    lines = [json.dumps({"review": t, "label": y}) for t, y in zip(texts, labels, strict=True)]
    (root / "reviews.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def backbone(place):
    return tfft.load_backbone(place / "encoder", preprocessor=place / "preprocess", max_length=16)


@pytest.mark.slow
def test_texts_become_what_the_publisher_gives(place, backbone):
    theirs = tf.saved_model.load(str(place / "preprocess"))
    cut = theirs.tokenize(tf.constant(TEXTS))
    expected = theirs.bert_pack_inputs([cut], seq_length=tf.constant(16))
    found = backbone.tokenizer(tf.constant(TEXTS))
    assert set(found) == {"input_word_ids", "input_mask"}
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key])
    short = backbone.tokenizer(tf.constant(["good film", "bad"]))
    assert short["input_mask"].numpy().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]  # no longer than the longest
    pair = backbone.tokenizer([tf.constant(["good", "the film"]), tf.constant(["bad", "a"])])
    assert pair["input_word_ids"].numpy()[1].tolist() == [2, 4, 5, 3, 7, 3]


@pytest.mark.nightly
def test_the_mean_of_all_pieces_is_what_the_head_sees_unless_asked_otherwise(place, backbone):
    head = tfft.heads.classification(["bad", "good"])
    model = tfft.build(backbone, head)
    ids = backbone.tokenizer(tf.constant(TEXTS[:2]))
    theirs = tf.saved_model.load(str(place / "encoder"))(ids, training=False)
    mask = tf.cast(ids["input_mask"], tf.float32)[:, :, None]
    expected = tf.reduce_sum(theirs["sequence_output"] * mask, 1) / tf.reduce_sum(mask, 1)
    found = keras.Model(model.input, model.get_layer("pool").output)(tf.constant(TEXTS[:2]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert backbone.text_spec.max_length == 16  # rows of its table of positions
    asked = tfft.load_backbone(
        place / "encoder", preprocessor=place / "preprocess", max_length=16, pooling="pooled_output"
    )
    np.testing.assert_allclose(asked.model(ids), theirs["pooled_output"], atol=1e-5)
    assert asked.text_spec.pooling == "none"


@pytest.mark.nightly
@pytest.mark.process
def test_from_a_file_to_a_server_with_kept_features(place):
    run = tfft.finetune(
        place / "encoder", place / "reviews.jsonl", text="review", label="label", max_length=16, unfreeze=1, epochs=6,
        learning_rate=1e-2, preprocessor=str(place / "preprocess"), out=place / "run", cache=place / "kept",
        export_to=place / "served" / "1", **QUICK,
    )  # fmt: skip
    frozen, tuned = (run.history.audits[name] for name in ("frozen", "fine-tune"))
    assert frozen.ok
    assert tuned.ok
    assert tuned.trainable > 2
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    assert run.plan.preprocessor == str(place / "preprocess")
    assert list((place / "kept").iterdir())  # of the layers below the last
    again = tfft.load_run(place / "run")  # a .keras file: neither of the two folders is read
    expected = run.model.predict(np.array(TEXTS, object), verbose=0)
    np.testing.assert_array_equal(again.model.predict(np.array(TEXTS, object), verbose=0), expected)
    script = """
import sys
for name in ("keras", "tfft", "tensorflow_text"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
np.save(sys.argv[2], served(text=tf.constant(sys.argv[3:]))["probabilities"].numpy())
"""
    place_of = place / "probabilities.npy"
    subprocess.run([sys.executable, "-c", script, str(place / "served" / "1"), str(place_of), *TEXTS], check=True)
    np.testing.assert_allclose(np.load(place_of), keras.ops.softmax(expected), atol=1e-5)


@pytest.mark.nightly
def test_models_that_take_strings(place):
    backbone = tfft.load_backbone(place / "strings")
    assert backbone.tokenizer is None
    assert backbone.text_spec.pooling == "none"
    texts = [f"{'good' if i % 2 else 'bad'} {'words two a'.split()[i % 3]} {'a ' * (i // 6)}" for i in range(60)]
    run = tfft.finetune(
        backbone, (texts, [("bad", "good")[i % 2] for i in range(60)]), out=place / "run_strings", epochs=4,
        export_to=place / "served_strings" / "1", cache="memory", **QUICK,
    )  # fmt: skip
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    assert tfft.load_run(place / "run_strings").model.input.name == "text"
    served = tf.saved_model.load(str(place / "served_strings" / "1")).signatures["serving_default"]
    np.testing.assert_allclose(
        served(text=tf.constant(texts))["logits"], run.model.predict(np.array(texts, object), verbose=0), atol=1e-5
    )
    with pytest.raises(BackboneError, match="takes one text, not pairs"):
        tfft.build(backbone, tfft.heads.classification(["a", "b"]), pair=True)


class _Pieces(tf.Module):
    """The tokenizers of tensorflow-text in the form of TF Hub."""

    def __init__(self, kind, vocabulary):
        super().__init__()
        import tensorflow_text as text

        words = vocabulary.read_text().split("\n")
        if kind == "wordpiece":  # its vocabulary is a table outside of the graph
            table = tf.lookup.StaticVocabularyTable(
                tf.lookup.TextFileInitializer(
                    str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
                    tf.lookup.TextFileIndex.LINE_NUMBER,
                ),
                1,
            )  # fmt: skip
            self.cut = text.BertTokenizer(table, token_out_type=tf.int32, lower_case=True)
        elif kind == "fast":  # a buffer inside of the graph
            self.cut = text.FastBertTokenizer(words, token_out_type=tf.int32, lower_case_nfd_strip_accents=True)
        else:
            self.cut = text.SentencepieceTokenizer(_sentencepiece(), out_type=tf.int32)
        self.pack = lambda parts, length: text.pad_model_inputs(
            text.combine_segments(
                text.RoundRobinTrimmer(length - len(parts) - 1).trim(parts), start_of_sequence_id=2, end_of_segment_id=3
            )[0],
            length,
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def tokenize(self, texts):
        pieces = self.cut.tokenize(texts)
        return pieces if pieces.ragged_rank == 1 else pieces.merge_dims(-2, -1)

    @tf.function
    def bert_pack_inputs(self, inputs, seq_length):
        ids, mask = self.pack(inputs, seq_length)
        return {"input_word_ids": ids, "input_mask": mask}


def _sentencepiece():
    import sentencepiece

    model = io.BytesIO()
    sentences = [*reviews(60)[0], "the cat sat on the mat", "dogs ran in parks"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=36, minloglevel=2
    )
    return model.getvalue()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["wordpiece", "fast", "sentencepiece"])
def test_tokenizers_of_tensorflow_text_travel_in_the_model(kind, place, tmp_path):
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("\n".join([*savedmodels.TOKENS, "##s", "##ly"]))
    root = _Pieces(kind, vocabulary)
    pieces = tf.RaggedTensorSpec([None, None], tf.int32)
    for count in (1, 2):
        root.bert_pack_inputs.get_concrete_function([pieces] * count, seq_length=tf.TensorSpec([], tf.int32))
    tf.saved_model.save(root, str(tmp_path / "preprocess"))
    vocabulary.unlink()
    expected = root.bert_pack_inputs([root.tokenize(tf.constant(TEXTS))], tf.constant(16))
    opened = tfft.load_backbone(place / "encoder", preprocessor=tmp_path / "preprocess", max_length=16)
    for key, value in opened.tokenizer(tf.constant(TEXTS)).items():
        np.testing.assert_array_equal(value, expected[key])
    model = tfft.build(opened, tfft.heads.classification(["bad", "good"]))
    model.save(tmp_path / "model.keras")
    for path in sorted((tmp_path / "preprocess").rglob("*"), reverse=True):  # what is loaded needs none of it
        path.rmdir() if path.is_dir() else path.unlink()
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(tf.constant(TEXTS)), model(tf.constant(TEXTS)))
    tfft.export(again, tmp_path / "served")  # compares the two in a process of its own


@pytest.mark.nightly
def test_what_does_not_fit_is_said(place, backbone):
    with pytest.raises(SavedModelError, match="does not fit the encoder, which takes input_mask: it gives no dict"):
        open_preprocessor(place / "strings", ["input_mask"])
    with pytest.raises(BackboneError, match="cannot be set to 16 tokens: it has no tokenize"):
        tfft.load_backbone(place / "encoder", preprocessor=place / "strings")
    with pytest.raises(BackboneError, match="at most 16 tokens of a text, received max_length=17"):
        tfft.load_backbone(place / "encoder", preprocessor=place / "preprocess", max_length=17)
    with pytest.raises(BackboneError, match="encoders with an input 'input_mask'"):
        tfft.load_backbone(place / "strings", preprocessor=place / "preprocess")
    with pytest.raises(BackboneError, match="pooling must be one of .* received 'last'"):
        tfft.load_backbone(place / "encoder", preprocessor=place / "preprocess", pooling="last")
    with pytest.raises(BackboneError, match="needs the features of all tokens"):
        tfft.load_backbone(place / "encoder", preprocessor=place / "preprocess", output="pooled_output", pooling="mean")
    with pytest.raises(BackboneError, match=r"preprocessor= is for SavedModels"):
        tfft.load_backbone("keras:MobileNetV2:random", preprocessor=place / "preprocess")
    with pytest.raises(PlanError, match="preprocessor apply to unopened backbones"):
        tfft.finetune(backbone, place / "reviews.jsonl", text="review", label="label", preprocessor="x", verbose=False)


@pytest.mark.nightly
def test_the_command_line(place, capsys):
    command = [
        "train", str(place / "reviews.jsonl"), "--text", "review", "--label", "label", "--backbone",
        str(place / "encoder"), "--preprocessor", str(place / "preprocess"), "--max-length", "16", "--epochs", "1",
        "--out", str(place / "run_cli"), "--no-export",
    ]  # fmt: skip
    assert cli.main(command) == 0
    assert "Pooling: mean" in capsys.readouterr().out
