"""Which pictures of a request are taken: data URIs that decode, within bounds."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image

from vlmgym.serving.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


def read_image(url: str, max_px: int, param: str) -> bytes:
    """The PNG file of a data URI. A PNG stays as it is; another format is converted, its first frame.

    Errors: RequestError 400 for any other URL, and for a picture that is broken or has more than `max_px` pixels.
    """
    head = _DATA_URI.match(url)
    if head is None:
        shown = url[:40] + ("..." if len(url) > 40 else "")
        raise _refused(f"image_url must be a data URI, as data:image/png;base64,..., got {shown!r}", param)
    try:
        content = base64.b64decode(url[head.end() :], validate=True)
    except binascii.Error as error:
        raise _refused(f"image_url is no valid base64: {error}", param) from error
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _refused(f"a picture must have at most {max_px} pixels", param) from error
    except Exception as error:
        raise _refused(f"the picture must be a file of {', '.join(FORMATS)} that can be read", param) from error
    if image.width * image.height > max_px:
        raise _refused(f"a picture must have at most {max_px} pixels, got {image.width} x {image.height}", param)
    try:
        image.load()
        return content if image.format == "PNG" else _png(image)
    except Exception as error:  # decoders raise what they like
        raise _refused(f"the picture is broken: {error}", param) from error


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return file.getvalue()


def _refused(message: str, param: str) -> RequestError:
    return RequestError(400, message, code="invalid_image", param=param)
