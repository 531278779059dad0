"""Where graphs are cut and what the pieces are called, on names alone."""

from __future__ import annotations

import pytest

from tfft.backbones import blocks


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("stem_conv/kernel", "stem"),
        ("block3_expand_conv/kernel", "block3"),
        ("block3a_se_reduce/bias", "block3a"),
        ("block_1_expand/kernel", "block_1"),
        ("expanded_conv_11/expand/BatchNorm/gamma", "expanded_conv_11"),
        ("conv2_block1_1_conv/kernel", "conv2_block1"),
        ("block1/unit_1/bottleneck_v2/conv1/weights", "block1_unit_1"),
        ("encoder/layer_11/attention/self/query/kernel", "encoder_layer_11"),
        ("blocks_7/se/conv2d/kernel", "blocks_7"),
        ("conv2d_5/kernel", "conv2d_5"),
        ("depthwise_conv2d/kernel", "depthwise_conv2d"),
        ("batch_normalization/gamma", "batch_normalization"),
        ("dense/kernel", "dense"),
        ("res2a_branch2a/kernel", "res2a"),
    ],
)
def test_unit_key(path, key):
    assert blocks.unit_key(path) == key


def test_dominators_of_a_diamond():
    order = ["a", "b", "left", "right", "join", "end"]
    reads = {"b": ["a"], "left": ["b"], "right": ["b"], "join": ["left", "right"], "end": ["join"]}
    assert blocks.dominator_chain(order, reads, "end") == ["a", "b", "join", "end"]


def test_a_second_source_removes_what_it_bypasses():
    order = ["a", "b", "other", "join", "end"]
    reads = {"b": ["a"], "join": ["b", "other"], "end": ["join"]}
    assert blocks.dominator_chain(order, reads, "end") == ["join", "end"]


def test_neighbours_of_one_unit_merge_and_norms_follow():
    segments = [
        ["stem_conv/kernel"],
        ["stem_bn/gamma"],
        ["conv2d_1/kernel"],
        ["batch_normalization_1/beta"],
        ["dense/kernel"],
    ]
    groups = blocks.group_segments(segments, [""] * 5)
    assert [(g.name, g.start, g.stop) for g in groups] == [("stem", 0, 2), ("conv2d_1", 2, 4), ("dense", 4, 5)]


def test_layers_are_ordered_by_use_not_by_name():
    segments = [[f"m/layer_{i}/kernel"] for i in range(12)]
    assert [g.name for g in blocks.group_segments(segments, [""] * 12)] == [f"layer_{i}" for i in range(12)]


def test_a_shared_variable_ties_everything_between():
    segments = [["embeddings/table"], ["layer_0/kernel"], ["out/kernel", "embeddings/table"], ["head/kernel"]]
    groups = blocks.group_segments(segments, [""] * 4)
    assert [(g.start, g.stop) for g in groups] == [(0, 3), (3, 4)]
    assert "embeddings/table is used in more than one place" in groups[0].note


def test_names_are_unique():
    segments = [["block1/kernel"], ["block2/kernel"], ["block1/other"]]
    assert [g.name for g in blocks.group_segments(segments, [""] * 3)] == ["block1", "block2", "block1_2"]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (["expanded_conv_depthwise", "expanded_conv_project", "block_1_expand"], ["expanded_conv", "block_1"]),
        (["time_distributed", "time_distributed_1"], ["time_distributed", "time_distributed_1"]),
        (["hidden1", "z_mean"], ["hidden1", "z_mean"]),
        (["dense_hidden", "dense_out"], ["dense_hidden", "dense_out"]),
        (["my_first_conv", "my_second_conv", "my_dense"], ["my_first_conv", "my_second_conv", "my_dense"]),
        (["stem_conv", "block0_conv"], ["stem", "block0"]),
        (["conv2d", "conv2d_1", "mixed0_conv", "mixed1_conv"], ["stem", "mixed0", "mixed1"]),
        (["conv2d_7", "conv2d_8", "dense"], ["conv2d_7", "conv2d_8", "dense"]),
    ],
)
def test_names_keep_their_words(layers, names):
    segments = [[f"{layer}/kernel", f"{layer}/bias"] for layer in layers]
    assert [g.name for g in blocks.group_segments(segments, [""] * len(segments))] == names


def test_a_segment_that_cannot_train_joins_its_neighbour():
    segments = [["scale/mean"], ["block0_conv/kernel"], ["block1_conv/kernel"], ["post_activation_max"]]
    groups = blocks.group_segments(segments, [""] * 4, {"scale/mean", "post_activation_max"})
    assert [(g.name, g.start, g.stop) for g in groups] == [("block0", 0, 2), ("block1", 2, 4)]
    everything = blocks.group_segments([["a/table"], ["b/table"]], [""] * 2, {"a/table", "b/table"})
    assert [g.name for g in everything] == ["a", "b"]


def test_a_block_that_is_not_cut_says_why():
    (group,) = blocks.group_segments([["left/kernel", "right/kernel", "join/kernel"]], [""])
    assert "no single tensor" in group.note
