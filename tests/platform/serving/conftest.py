import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmgym.serving.settings import ServeSettings


def picture(width: int = 4, height: int = 3, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def data_uri() -> Callable[..., str]:
    """A data URI of a picture that is made on the spot, or of other content."""

    def make(content: bytes | None = None, **options: Any) -> str:
        return f"data:image/png;base64,{base64.b64encode(content or picture(**options)).decode()}"

    return make


@pytest.fixture
def settings() -> ServeSettings:
    return ServeSettings(
        model="m",
        max_tokens=24,
        max_batch_size=8,
        max_choices=4,
        max_images=2,
        max_image_px=10_000,
        max_body_bytes=50_000,
    )


@pytest.fixture
def body(data_uri: Callable[..., str]) -> Callable[..., bytes]:
    """A valid request with a picture, some of its parameters changed."""

    def make(**changes: Any) -> bytes:
        content = [
            {"type": "image_url", "image_url": {"url": data_uri()}},
            {"type": "text", "text": "What is this?"},
        ]
        request = {"model": "m", "messages": [{"role": "user", "content": content}], "seed": 3, **changes}
        return json.dumps(request).encode()

    return make
