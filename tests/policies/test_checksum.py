"""One checksum per set of named tensors: the same wherever they lie and in whatever order, another for any change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_policies import checksum
from vlmgym_policies.checksum import WeightsChecksum, weights_checksum

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]


@pytest.fixture
def short_rows(monkeypatch):
    """Rows of 4 words and blocks of 2 rows, so that small tensors have many."""
    monkeypatch.setattr(checksum, "_ROW_BYTES", 32)
    monkeypatch.setattr(checksum, "_BLOCK_BYTES", 64)


def drawn(shape, dtype, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 200).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (7,), (3, 5), (5, 13, 7)])
def test_any_dtype_and_shape_whatever_the_memory_layout(dtype, shape, short_rows):
    tensor = drawn(shape, dtype)
    whole = weights_checksum({"a": tensor})
    assert 0 <= whole < 2**64
    assert whole == weights_checksum({"a": tensor.clone().requires_grad_(dtype.is_floating_point)})
    shifted = torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(shape)  # at an odd address
    assert whole == weights_checksum({"a": shifted})
    if tensor.dim() >= 2:
        transposed = tensor.transpose(0, 1).contiguous().transpose(0, 1)
        assert whole == weights_checksum({"a": transposed})


def test_order_does_not_matter_and_names_dtypes_shapes_do():
    one, two = torch.arange(6.0).reshape(2, 3), torch.tensor(1.0)
    total = weights_checksum({"a": one, "b": two})
    assert total == weights_checksum({"b": two, "a": one})
    others = [
        {"a": two, "b": one},
        {"a": one, "c": two},
        {"a": one},
        {"a": one, "b": two, "c": torch.zeros(0)},
        {"a": one.reshape(3, 2), "b": two},
        {"a": one.view(torch.int32), "b": two},
        {},
    ]
    assert len({total, *map(weights_checksum, others)}) == 1 + len(others)


def test_tensors_may_come_one_by_one():
    weights = {"a": torch.arange(6.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    running = WeightsChecksum()
    for name in ("b", "a"):
        running.add(name, weights[name])
    assert running.value() == weights_checksum(weights)


@settings(deadline=None)
@given(st.data(), st.sampled_from([1, 63, 4096, 2**17 + 3]), st.integers(0, 15))
def test_a_single_flipped_bit_is_found(data, size, bit):
    tensor = drawn(size, torch.bfloat16)
    before = weights_checksum({"a": tensor})
    tensor.view(torch.int16)[data.draw(st.integers(0, size - 1))] ^= 1 << bit if bit < 15 else -(2**15)
    assert weights_checksum({"a": tensor}) != before


@settings(deadline=None)
@given(st.data(), st.sampled_from([2, 63, 4096, 2**17 + 3]), st.sampled_from([torch.bfloat16, torch.float32]))
def test_two_swapped_elements_are_found(data, size, dtype):
    tensor = torch.arange(size).to(torch.int16 if dtype == torch.bfloat16 else torch.int32).view(dtype)
    before = weights_checksum({"a": tensor})
    one, two = data.draw(st.lists(st.integers(0, min(size, 2**16) - 1), min_size=2, max_size=2, unique=True))
    tensor[[one, two]] = tensor[[two, one]].clone()
    assert weights_checksum({"a": tensor}) != before


def test_swapped_rows_and_zeros_in_other_places_are_found(short_rows):
    tensor = drawn((64, 64), torch.bfloat16)
    changed = [tensor.roll(shift, 0) for shift in range(64)]
    changed += [torch.zeros(64, 64, dtype=torch.bfloat16).index_fill(0, torch.tensor([row]), 1) for row in range(64)]
    assert len({weights_checksum({"a": tensor}) for tensor in changed}) == len(changed)


def test_stays_the_number_it_is():
    """Both ends of a push may run other versions of PyTorch."""
    assert weights_checksum({"a": torch.arange(1000, dtype=torch.int32)}) == 8001036792640549924


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_on_a_gpu(dtype):
    weights = {str(shape): drawn(shape, dtype) for shape in [(9999, 1001), (3, 5), (), (0,)]}
    assert weights_checksum({name: tensor.cuda() for name, tensor in weights.items()}) == weights_checksum(weights)
