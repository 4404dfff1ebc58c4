import numpy as np
import pyarrow as pa
import pytest

from lafp.storage.columns import is_equal, mask, numbers


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.float64(), pa.uint16()])
def test_numbers_of_a_piece_of_a_column_are_those_of_pyarrow(kind):
    column = pa.chunked_array([range(9), range(4)], kind).slice(2, 9)
    np.testing.assert_array_equal(numbers(column), column.to_numpy())
    assert numbers(column).dtype == column.to_numpy().dtype
    assert numbers(column.slice(0, 0)).shape == (0,)
    with pytest.raises(ValueError, match="no number"):
        numbers(pa.array([1, None], pa.int64()))


def test_a_mask_keeps_the_rows_that_are_true():
    is_kept = np.arange(19) % 3 == 0
    assert pa.array(range(19)).filter(mask(is_kept)).to_pylist() == list(range(0, 19, 3))


@pytest.mark.parametrize("value", ["train", "a.tar", "a b", "", "^$", "\\E(", "é", "a\n"])
def test_rows_with_a_text_are_those_that_equal_it(value):
    texts = ["train", "a.tar", "axtar", "a b", "", "^$", "\\E(", "é", "a\n", "a", "trains", None]
    column = pa.array(texts)
    assert column.filter(is_equal(column, value)).to_pylist() == [value]


def test_rows_with_a_truth_are_those_that_equal_it():
    column = pa.array([True, False, None])
    assert column.filter(is_equal(column, True)).to_pylist() == [True]
    assert column.filter(is_equal(column, False)).to_pylist() == [False]
