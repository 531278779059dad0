"""The useful line of an error of Keras or TensorFlow."""

import keras
import pytest
import tensorflow as tf

from tfft.errors import DataError, raise_problems, reason_of


class _Failing(keras.layers.Layer):
    def call(self, x):
        raise ValueError("The table is empty.\nDetails follow.")


def raised(run):
    with pytest.raises((ValueError, tf.errors.OpError)) as caught:
        run()
    return reason_of(caught.value)


def test_the_reason_follows_the_preamble_of_keras():
    assert raised(lambda: _Failing()(tf.ones([1, 2]))) == "The table is empty."


def test_the_reason_of_a_shape_error_inside_a_layer():
    class Product(keras.layers.Layer):
        def call(self, x):
            return tf.matmul(x, tf.ones([3, 2]))

    said = raised(lambda: Product()(tf.ones([1, 2])))
    assert "Exception encountered" not in said
    assert "[1,2]" in said.replace(" ", "")


def test_the_reason_at_the_end_of_a_graph_error():
    @tf.function
    def looked_up(i):
        return tf.gather(tf.ones([1, 2]), i)

    said = raised(lambda: looked_up(tf.constant([5])))
    assert said.endswith("indices[0] = 5 is not in [0, 1)")


def test_the_reason_below_lines_of_code():
    @tf.function
    def traced(x):
        raise ValueError("Odd shapes.")

    assert raised(lambda: traced(tf.ones([1]))) in ("Odd shapes.", "ValueError: Odd shapes.")


def test_an_error_without_words_and_a_very_long_one():
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(ValueError("a" * 999 + " the end")).endswith("a the end")
    assert len(reason_of(ValueError("b" * 999))) < 510


@pytest.mark.parametrize(("count", "more"), [(2, []), (4, ["  - and 2 more"])], ids=["all fit", "too many"])
def test_problems_beyond_the_limit_are_counted(count, more):
    with pytest.raises(DataError) as caught:
        raise_problems(DataError, "No", list("abcd"[:count]), limit=2)
    assert str(caught.value).splitlines() == [f"No ({count} problems):", "  - a", "  - b", *more]
