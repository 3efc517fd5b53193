"""An http(s) address goes in, the bytes behind it come out: bounded in size, in time and in redirects."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx

from ocr_onnx.errors import InputError

MAX_REDIRECTS = 5
SCHEMES = ("http", "https")

# A body that unpacks itself could outgrow the bound within one chunk, so none is asked for.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "ocr-onnx"}


def fetch(url: str, max_bytes: int, timeout_s: float) -> bytes:
    """Download `url`.

    `timeout_s` bounds the whole: connecting, every redirect and a body that drips. Redirects are
    followed to http and https only, at most `MAX_REDIRECTS` of them.

    Raises
    ------
    InputError
        The address is dead, answers with an error, redirects to what is not http(s), is larger
        than `max_bytes` or slower than `timeout_s`.
    """
    # httpx bounds each read but not their sum; asyncio bounds the sum. A thread of its own, because
    # the caller may be inside an event loop already (a notebook, a web service).
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, _download(url, max_bytes, timeout_s)).result()


async def _download(url: str, max_bytes: int, timeout_s: float) -> bytes:
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(headers=_HEADERS, timeout=timeout_s) as client,
        ):
            return await _follow(client, url, max_bytes)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise InputError(
            url, f"did not arrive within {timeout_s:g} s", "try again or raise input.timeout_s"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(
            url,
            f"could not be fetched ({str(error) or type(error).__name__})",
            "check the address and the network",
        ) from error


async def _follow(client: httpx.AsyncClient, url: str, max_bytes: int) -> bytes:
    address = httpx.URL(url)
    for _ in range(MAX_REDIRECTS + 1):
        if address.scheme not in SCHEMES:
            raise InputError(
                url, f"redirects to {address}, which is not http(s)", "give the address of the file itself"
            )
        async with client.stream("GET", address) as response:
            if not response.has_redirect_location:
                return await _body(response, url, max_bytes)
            address = address.join(response.headers["location"])
    raise InputError(url, f"redirects more than {MAX_REDIRECTS} times", "give the address of the file itself")


async def _body(response: httpx.Response, url: str, max_bytes: int) -> bytes:
    if not response.is_success:
        raise InputError(
            url, f"answered {response.status_code} {response.reason_phrase}".rstrip(), "check the address"
        )
    too_large = InputError(
        url, f"is larger than the limit of {max_bytes} bytes", "raise input.max_bytes or give a smaller file"
    )
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
