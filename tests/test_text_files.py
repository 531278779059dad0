"""Text models in LiteRT and ONNX files: tokens in, the answers of the text model out, and the vocabulary inside."""

import base64
import json
import zipfile

import keras
import numpy as np
import pytest
import savedmodels
from text_models import WORDS, reviews, tiny_bert_folder

import tfft
from tfft import cli
from tfft.errors import ExportError
from tfft.exporting import export_litert, export_onnx
from tfft.exporting.tokens import SETTINGS_FILE, without_tokenizer

pytestmark = [pytest.mark.text, pytest.mark.slow]
NAMES = ("bad", "good")
TEXTS = ["The film is good .", "", "你 好 poor", "bad " * 40]
PAIRS = np.array([("good", "the film is bad"), ("a film", ""), ("very " * 30, "poor " * 30)], object)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tfft.load_backbone(tiny_bert_folder(tmp_path_factory.mktemp("bert")), max_length=12)


@pytest.fixture(scope="module")
def model(backbone):
    keras.utils.set_random_seed(0)
    return tfft.build(backbone, tfft.heads.classification(NAMES))


def answers(path, tokens):
    """The logits of a LiteRT file for tokens, row by row."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    run = interpreter.Interpreter(str(path)).get_signature_runner("serving_default")
    rows = len(next(iter(tokens.values())))
    return np.concatenate([run(**{k: v[i : i + 1] for k, v in tokens.items()})["logits"] for i in range(rows)])


def test_a_file_answers_tokens_as_the_model_answers_texts(model, tmp_path):
    made = export_litert(model, tmp_path / "texts.tflite", examples=TEXTS)
    assert made.inputs == dict.fromkeys(("padding_mask", "segment_ids", "token_ids"), "int32 [1, 12]")
    assert made.examples == len(TEXTS)
    assert made.largest_difference < 1e-5
    tokens = without_tokenizer(model).tokens(TEXTS)
    assert tokens["token_ids"].shape == (4, 12)
    expected = model.predict(np.array(TEXTS, object), verbose=0)
    np.testing.assert_allclose(answers(made.path, tokens), expected, atol=1e-5)


def test_vocabulary_and_settings_are_in_the_file(model, tmp_path):
    made = export_litert(model, tmp_path / "texts.tflite")
    with zipfile.ZipFile(made.path) as archive:
        assert archive.read("vocabulary.txt").decode().splitlines() == WORDS
        assert archive.read("labels.txt").decode().split() == list(NAMES)
        settings = json.loads(archive.read(SETTINGS_FILE))
    assert settings["tokenizer"] == "BertTokenizer"
    assert (settings["length"], settings["lowercase"]) == (12, True)
    marks = [WORDS.index(word) for word in ("[PAD]", "[CLS]", "[SEP]")]
    assert [settings[f"{name}_token_id"] for name in ("pad", "start", "end")] == marks


def test_pairs_of_texts_and_8_bits(backbone, tmp_path):
    keras.utils.set_random_seed(1)
    model = tfft.build(backbone, tfft.heads.classification(NAMES), pair=True)
    made = export_litert(model, tmp_path / "pairs.tflite", quantize="dynamic", examples=PAIRS)
    assert made.examples == len(PAIRS)
    expected = model.predict({"text": PAIRS[:, 0], "text_pair": PAIRS[:, 1]}, verbose=0)
    found = answers(made.path, without_tokenizer(model).tokens(PAIRS))
    assert 0 < np.abs(found - expected).max() < 0.2


def test_onnx_takes_batches_of_tokens(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    made = export_onnx(model, tmp_path / "texts.onnx", examples=TEXTS)
    assert made.inputs["token_ids"] == "int32 [?, 12]"
    assert made.largest_difference < 1e-5
    held = {entry.key: entry.value for entry in onnx.load(str(made.path)).metadata_props}
    assert held["vocabulary.txt"].splitlines() == WORDS
    assert json.loads(held[SETTINGS_FILE])["length"] == 12


@pytest.mark.nightly
def test_a_vocabulary_of_sentencepiece(tmp_path):
    keras_hub, onnx = pytest.importorskip("keras_hub"), pytest.importorskip("onnx")
    from test_text_presets import albert

    network, tokenizer = albert()
    network.save_to_preset(str(tmp_path / "albert"))
    tokenizer.save_to_preset(str(tmp_path / "albert"))
    assert keras_hub.__version__
    model = tfft.build(tfft.load_backbone(f"keras_hub:{tmp_path / 'albert'}"), tfft.heads.classification(NAMES))
    made = export_litert(model, tmp_path / "texts.tflite")
    with zipfile.ZipFile(made.path) as archive:
        assert archive.read("vocabulary.spm") == tokenizer.proto
    held = onnx.load(str(export_onnx(model, tmp_path / "texts.onnx").path)).metadata_props
    [stored] = [entry.value for entry in held if entry.key == "vocabulary.spm.base64"]
    assert base64.b64decode(stored) == tokenizer.proto


@pytest.mark.nightly
def test_an_encoder_of_tf_hub_with_its_preprocessor(tmp_path):
    savedmodels.transformer(tmp_path / "encoder")
    savedmodels.preprocessor(tmp_path / "preprocess")
    opened = tfft.load_backbone(tmp_path / "encoder", preprocessor=tmp_path / "preprocess", max_length=16)
    keras.utils.set_random_seed(0)
    model = tfft.build(opened, tfft.heads.classification(NAMES))
    made = export_litert(model, tmp_path / "texts.tflite", examples=TEXTS)
    assert made.inputs == dict.fromkeys(("input_mask", "input_word_ids"), "int32 [1, 16]")
    expected = model.predict(np.array(TEXTS, object), verbose=0)
    np.testing.assert_allclose(answers(made.path, without_tokenizer(model).tokens(TEXTS)), expected, atol=1e-5)


@pytest.mark.nightly
def test_the_command_compares_the_held_out_texts_of_a_run(tmp_path, capsys):
    texts, labels = reviews(80)
    table = tmp_path / "reviews.csv"
    table.write_text("\n".join(["text,label", *(f'"{t}",{y}' for t, y in zip(texts, labels, strict=True))]))
    bert = tiny_bert_folder(tmp_path / "bert")
    tfft.finetune(str(bert), table, plan="linear_probe", out=tmp_path / "run", cache="memory", verbose=False)
    capsys.readouterr()
    assert (
        cli.main(["export", str(tmp_path / "run"), str(tmp_path / "t.tflite"), "--quantize", "dynamic", "--json"]) == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert made["agreement"] >= 0.75
    assert made["examples"] >= 5


def test_what_has_no_single_tokenizer_is_refused_with_the_way_out(backbone, tmp_path):
    tagger = tfft.build(backbone, tfft.heads.token_classification(["O", "B-film"]))
    with pytest.raises(ExportError, match="LiteRT has no tokenizer. Export a SavedModel"):
        export_litert(tagger, tmp_path / "tags.tflite")
    model = tfft.build(backbone, tfft.heads.classification(NAMES))
    for wrong in (PAIRS, np.zeros((2, 12), np.int32)):
        with pytest.raises(ExportError, match=r"Expected texts as examples, such as \['a text'\]. Received: .*, "):
            export_litert(model, tmp_path / "texts.tflite", examples=wrong)
    assert list(tmp_path.iterdir()) == []
