"""The blocks of every network of ``keras.applications``, in order, as `load_backbone` gives them."""


def _counted(name, count, start=1):
    return [f"{name}{i}" for i in range(start, start + count)]


def _convnext(depths):
    found = ["stem"]
    for stage, depth in enumerate(depths):
        found += [f"downsampling_block_{stage - 1}"] if stage else []
        found += _counted(f"stage_{stage}_block_", depth, 0)
    return found


def _resnet(depths):
    return ["conv1", *(name for i, depth in enumerate(depths) for name in _counted(f"conv{i + 2}_block", depth))]


def _densenet(depths):
    found = ["conv1"]
    for i, depth in enumerate(depths):
        found += [*([f"pool{i + 1}"] if i else []), *_counted(f"conv{i + 2}_block", depth)]
    return found


def _efficientnet(depths):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["stem", *(f"block{i + 1}{letters[k]}" for i, depth in enumerate(depths) for k in range(depth)), "top"]


def _nasnet(repeats):
    found = ["stem_conv1", "stem_1", "stem_2", *_counted("normal_", repeats, 0)]
    for i in (1, 2):
        found += [f"reduction_{i * repeats}", *_counted("normal_", repeats, i * repeats + 1)]
    return found


_MOBILENET_V3 = ["conv", "expanded_conv"]

BLOCKS = {
    "ConvNeXtTiny": _convnext([3, 3, 9, 3]),
    "ConvNeXtSmall": _convnext([3, 3, 27, 3]),
    "ConvNeXtBase": _convnext([3, 3, 27, 3]),
    "ConvNeXtLarge": _convnext([3, 3, 27, 3]),
    "ConvNeXtXLarge": _convnext([3, 3, 27, 3]),
    "DenseNet121": _densenet([6, 12, 24, 16]),
    "DenseNet169": _densenet([6, 12, 32, 32]),
    "DenseNet201": _densenet([6, 12, 48, 32]),
    "EfficientNetB0": _efficientnet([1, 2, 2, 3, 3, 4, 1]),
    "EfficientNetB1": _efficientnet([2, 3, 3, 4, 4, 5, 2]),
    "EfficientNetB2": _efficientnet([2, 3, 3, 4, 4, 5, 2]),
    "EfficientNetB3": _efficientnet([2, 3, 3, 5, 5, 6, 2]),
    "EfficientNetB4": _efficientnet([2, 4, 4, 6, 6, 8, 2]),
    "EfficientNetB5": _efficientnet([3, 5, 5, 7, 7, 9, 3]),
    "EfficientNetB6": _efficientnet([3, 6, 6, 8, 8, 11, 3]),
    "EfficientNetB7": _efficientnet([4, 7, 7, 10, 10, 13, 4]),
    "EfficientNetV2B0": _efficientnet([1, 2, 2, 3, 5, 8]),
    "EfficientNetV2B1": _efficientnet([2, 3, 3, 4, 6, 9]),
    "EfficientNetV2B2": _efficientnet([2, 3, 3, 4, 6, 10]),
    "EfficientNetV2B3": _efficientnet([2, 3, 3, 5, 7, 12]),
    "EfficientNetV2S": _efficientnet([2, 4, 4, 6, 9, 15]),
    "EfficientNetV2M": _efficientnet([3, 5, 5, 7, 14, 18, 5]),
    "EfficientNetV2L": _efficientnet([4, 7, 7, 10, 19, 25, 7]),
    "InceptionResNetV2": [
        *["stem", "mixed_5b", *_counted("block35_", 10), "mixed_6a", *_counted("block17_", 20)],
        *["mixed_7a", *_counted("block8_", 10), "conv_7b"],
    ],
    "InceptionV3": ["stem", *_counted("mixed", 11, 0)],
    "MobileNet": ["conv1", *(f"conv_{kind}_{i}" for i in range(1, 14) for kind in ("dw", "pw"))],
    "MobileNetV2": ["Conv1", "expanded_conv", *_counted("block_", 16), "Conv_1"],
    "MobileNetV3Large": [*_MOBILENET_V3, *_counted("expanded_conv_", 14), "conv_1"],
    "MobileNetV3Small": [*_MOBILENET_V3, *_counted("expanded_conv_", 10), "conv_1"],
    "NASNetLarge": _nasnet(6),
    "NASNetMobile": _nasnet(4),
    "ResNet50": _resnet([3, 4, 6, 3]),
    "ResNet101": _resnet([3, 4, 23, 3]),
    "ResNet152": _resnet([3, 8, 36, 3]),
    "ResNet50V2": _resnet([3, 4, 6, 3]),
    "ResNet101V2": _resnet([3, 4, 23, 3]),
    "ResNet152V2": _resnet([3, 8, 36, 3]),
    "VGG16": _counted("block", 5),
    "VGG19": _counted("block", 5),
    "Xception": _counted("block", 14),
}
