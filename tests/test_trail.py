"""The packed trail: what is stored, compared and written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidxmage.engine.kernels.bits import pack_bits, unpack_bits
from guidxmage.engine.trail.decisions import Decisions
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import InputError


@given(rows=st.integers(1, 3), count=st.integers(1, 40), seed=st.integers(0, 50))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_bits_survive_packing(rows: int, count: int, seed: int) -> None:
    bits = torch.rand(rows, count, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack_bits(bits)
    assert packed.shape == (rows, -(-count // 8))
    assert np.array_equal(packed.numpy(), np.packbits(bits.numpy(), axis=1))
    assert torch.equal(unpack_bits(packed, (count,)).bool(), bits)


@given(choices=st.integers(1, 1000), seed=st.integers(0, 50))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_indices_survive_and_take_as_few_bits_as_they_need(choices: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(choices, (2, 3, 5), generator=generator)
    index[0, 0, 0] = choices - 1
    stored = Decisions.from_index(index, choices)
    assert torch.equal(stored.index(), index)
    assert 2 ** len(stored.planes) >= choices
    assert len(stored.planes) == 1 or 2 ** (len(stored.planes) - 1) < choices


def _trail(*rows: list[int], index: list[int] | None = None) -> Trail:
    bits = torch.tensor(rows).bool()
    pool = torch.tensor([index or [0] * 3] * len(rows))
    decisions = {"relu": Decisions.from_bits(bits), "pool": Decisions.from_index(pool, 9)}
    return Trail(decisions, {"dtype": "float32"}, len(rows))


def test_comparison_by_hand() -> None:
    one = _trail([1, 0, 1, 1], [0, 0, 0, 0], index=[0, 4, 8])
    two = _trail([1, 1, 1, 0], [0, 0, 0, 0], index=[0, 4, 7])
    assert one.same(two).tolist() == [False, False]
    assert one.same(one).tolist() == [True, True]
    assert {site: d.tolist() for site, d in one.hamming(two).items()} == {
        "relu": [2, 0],
        "pool": [1, 1],
    }
    first, second = one.first_difference(two)
    assert (first.site, first.position) == ("relu", (1,))
    assert (second.site, second.position) == ("pool", (2,))
    assert str(second) == "pool at [2]"


def test_one_row_is_compared_with_every_row() -> None:
    one, many = _trail([1, 0]), _trail([1, 0], [1, 1], [1, 0])
    assert one.same(many).tolist() == many.same(one).tolist() == [True, False, True]
    assert one.hamming(many)["relu"].tolist() == [0, 1, 0]


def test_rows_and_concatenation() -> None:
    many = _trail([1, 0], [1, 1])
    parts = [many.image(0), many.image(1)]
    assert [part.rows for part in parts] == [1, 1]
    joined = Trail.concatenate(parts)
    assert joined.rows == 2
    assert joined.same(many).all()
    assert not parts[0].same(parts[1]).any()


def test_sizes() -> None:
    trail = _trail([1] * 9, [0] * 9)
    assert trail.count == 9 + 3
    assert trail["relu"].nbytes == 2 * 2  # nine bits in two bytes, two images
    assert trail["pool"].nbytes == 2 * 4  # three numbers below 9: four planes of one byte
    assert trail.nbytes == 12
    assert "2 call sites, 12 decisions and 6 bytes per image" in repr(trail)


def test_arrays_hold_everything() -> None:
    trail = _trail([1, 0, 1], [0, 1, 1], index=[2, 5, 8])
    arrays = trail.to_arrays()
    assert all(array.dtype == np.uint8 for array in arrays.values())
    back = Trail.from_arrays(arrays)
    assert back.header == trail.header
    assert list(back) == list(trail)
    assert back.same(trail).all()


def test_trails_of_different_networks_are_not_compared() -> None:
    one = _trail([1, 0])
    with pytest.raises(InputError, match="different networks"):
        one.same(Trail({"relu": one["relu"]}, {}, 1))
    with pytest.raises(InputError, match="different networks or image sizes"):
        one.hamming(_trail([1, 0, 1]))
    with pytest.raises(InputError, match="2 and 3 images"):
        _trail([1], [0]).same(_trail([1], [0], [1]))
