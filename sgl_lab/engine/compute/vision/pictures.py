"""From the bytes of an image file to a picture, and to its thumbnail. The bytes are untrusted.

The header is read and checked before a pixel is decoded.
"""

from __future__ import annotations

import base64
import threading
import warnings
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from ....contracts.errors import BackendUnsupported, BadArgument

if TYPE_CHECKING:
    from PIL import Image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
MAX_RATIO = 100
"""of the longer side to the shorter one: the processor scales the shorter side up to the size that
the model looks at
"""
THUMBNAIL = 64
"""pixels of the longer side of a thumbnail"""
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_QUIET = threading.Lock()


def picture_of(data: bytes) -> Image.Image:
    """The picture in a PNG, JPEG, GIF or WebP file, in RGB and upright. BadArgument for bytes that
    hold no such picture, for an animation, and for what is too large.
    """
    if len(data) > MAX_BYTES:
        raise BadArgument(f"the image has {len(data) / 2**20:.0f} MiB, at most {MAX_BYTES >> 20} are read", hint="make it smaller")
    _check_pillow()
    from PIL import Image, UnidentifiedImageError

    opened: Image.Image
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise BadArgument(f"the image has more than {MAX_PIXELS / 1e6:.0f} million pixels", hint="make it smaller") from None
    except UnidentifiedImageError:
        raise BadArgument("the bytes are no PNG, JPEG, GIF or WebP image", hint="convert it to one of them") from None
    except Exception as error:  # a parser of untrusted bytes
        raise _damaged(error) from None
    with opened:
        _check(opened)
        try:
            opened.load()
            return _upright(opened)
        except Exception as error:  # as above
            raise _damaged(error) from None


def _check(opened: Image.Image) -> None:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        millions = f"{width * height / 1e6:,.0f} million pixels, at most {MAX_PIXELS / 1e6:.0f} million are decoded"
        raise BadArgument(f"the image is {width:,} by {height:,}: {millions}", hint="make it smaller")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadArgument(f"the image is {width:,} by {height:,}: one side is more than {MAX_RATIO} times the other", hint="crop it")
    if getattr(opened, "is_animated", False):
        raise BadArgument("the image is animated", hint="show its frames with video(...)")


def _upright(opened: Image.Image) -> Image.Image:
    """In RGB, turned as a photo's EXIF data says. 16 bits of grey become 8."""
    from PIL import Image, ImageOps

    if opened.mode.startswith("I"):
        opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    return ImageOps.exif_transpose(opened).convert("RGB")


def thumbnail(picture: Image.Image) -> str:
    """A data URL of some KB that shows the picture."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kept = []
    for kind in ("PNG", "JPEG"):
        into = BytesIO()
        small.save(into, kind, optimize=True, quality=80)
        kept.append((len(into.getvalue()), kind.lower(), into.getvalue()))
    _, kind, data = min(kept)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _damaged(error: Exception) -> BadArgument:
    return BadArgument(f"the image cannot be decoded: {error!s:.200}", hint="the file may be truncated; save it again")


def _check_pillow() -> None:
    if find_spec("PIL") is None:
        raise BackendUnsupported("images are decoded by Pillow, which is not installed", hint="pip install pillow")
