"""Packed arrays come back as they were, whatever their dtype, shape and order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from tilekit.packing import pack, read_arrays, unpack

DTYPES = st.sampled_from(["u1", "i2", "u4", "i8", "u8", "f4", "f8", "?"])


@given(st.lists(arrays(DTYPES, array_shapes(min_dims=0, min_side=0)), max_size=4))
def test_arrays_come_back(given: list[NDArray[Any]]) -> None:
    named = {str(i): a for i, a in enumerate(given)}
    found = unpack(pack(named))
    assert list(found) == list(named)
    for name, array in named.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_small_numbers_take_few_bytes_and_may_be_written_to(tmp_path: Path) -> None:
    ids = np.arange(1000, dtype=np.int64)
    (tmp_path / "a").write_bytes(pack({"ids": ids[::-1]}))
    assert (tmp_path / "a").stat().st_size < 2100
    held = read_arrays(tmp_path / "a")["ids"]
    held += 1
    np.testing.assert_array_equal(held, ids[::-1] + 1)
