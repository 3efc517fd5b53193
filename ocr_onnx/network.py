"""Network settings that httpx refuses go in, an error that names them as the cause comes out."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from ocr_onnx.errors import OcrError


@contextmanager
def checked_settings(subject: str, error: type[OcrError]) -> Iterator[None]:
    """Raise `error` about `subject` where the environment keeps httpx from building a client.

    Proxy variables of an unknown form, a proxy that needs a package that is missing and a
    certificate file that isn't there or holds none are each refused in another way.
    """
    try:
        yield
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as cause:
        raise error(
            subject,
            f"can't be reached with these network settings ({cause})",
            "correct HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE or SSL_CERT_DIR",
        ) from cause
