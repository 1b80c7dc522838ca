"""Mirror arithmetic against numpy's own reflect, for any distance."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilekit.box import Box
from tilekit.mirror import mirror_index, read_mirrored

counts = st.integers(0, 60)


@given(st.integers(1, 20), counts, counts)
def test_mirror_index_is_numpys_reflect(n, before, after):
    wanted = np.pad(np.arange(n), (before, after), mode="reflect")
    assert (mirror_index(-before, n + after, n) == wanted).all()


@given(st.integers(1, 20), st.integers(-(10**9), 10**9), st.integers(0, 50))
def test_mirror_index_stays_inside_and_steps_by_one(n, start, length):
    found = mirror_index(start, start + length, n)
    assert found.shape == (length,)
    assert ((found >= 0) & (found < n)).all()
    assert (np.abs(np.diff(found)) == (n > 1)).all()


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(counts, counts), st.data())
def test_any_box_of_a_mirrored_image_is_a_part_of_numpys(shape, before, data):
    """Also where the box lies wholly outside; the image is read once, inside its bounds and nowhere else."""
    image = np.arange(2 * shape[0] * shape[1]).reshape(2, *shape)
    padded = np.pad(image, [(0, 0), *((b, 60) for b in before)], mode="reflect")
    start = tuple(data.draw(st.integers(-b, n + 50)) for b, n in zip(before, shape, strict=True))
    sides = [data.draw(st.integers(1, n + 60 - a)) for a, n in zip(start, shape, strict=True)]
    box = Box(start, tuple(a + m for a, m in zip(start, sides, strict=True)))
    reads = []

    def read(inner: Box) -> np.ndarray:
        assert Box.whole(shape).contains(inner)
        reads.append(inner)
        return image[(slice(None), *inner.slices)]

    found = read_mirrored(read, box, shape)
    place = box.shift(before)
    assert (found == padded[(slice(None), *place.slices)]).all()
    assert len(reads) == 1
