"""The latest pictures that fit are kept, and no others."""

import torch

from vlmgym_policies.pixel_cache import PixelCache


def test_pictures_that_were_used_last_are_kept_as_far_as_they_fit():
    processed = []

    def process(image: bytes) -> dict[str, torch.Tensor]:
        processed.append(image)
        return {"pixels": torch.zeros(len(image), dtype=torch.uint8), "grid": torch.zeros(2, dtype=torch.uint8)}

    cache = PixelCache(process, max_bytes=12)
    first = cache(b"aaa")  # 5 bytes
    cache(b"bbb")  # 10
    assert cache(b"aaa") is first
    cache(b"cc")  # 14, so that b, used before a, has to go: 9
    assert cache.num_bytes == 9 and processed == [b"aaa", b"bbb", b"cc"]
    cache(b"aaa")
    cache(b"bbb")
    assert processed == [b"aaa", b"bbb", b"cc", b"bbb"] and cache.num_bytes == 10
    assert len(cache(b"x" * 20)["pixels"]) == 20 and cache.num_bytes == 0, "one that does not fit is not kept"
