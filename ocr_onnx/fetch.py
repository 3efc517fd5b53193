"""An http(s) address goes in, the bytes behind it come out: bounded in size, in time and in redirects."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any, TypeAlias
from urllib.request import getproxies, proxy_bypass

import httpx

from ocr_onnx.errors import InputError, TooLargeError
from ocr_onnx.network import checked_settings

Guard: TypeAlias = Callable[[str, int], Awaitable[str]]
"""Takes a host and a port, and returns the IP address to connect to; raises InputError to refuse them."""

MAX_REDIRECTS = 5
SCHEMES = ("http", "https")

# A body that unpacks itself could outgrow the bound within one chunk, so none is asked for.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "ocr-onnx"}
_CHECK_PROXY = "check the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names, or list the host in NO_PROXY"


def fetch(url: str, max_bytes: int, timeout_s: float) -> bytes:
    """Download `url`.

    `timeout_s` bounds the whole: looking the name up, connecting, every redirect and a body that
    drips. Redirects are followed to http and https only, at most `MAX_REDIRECTS` of them.

    Raises
    ------
    InputError
        The address is dead, answers with an error, redirects to what is not http(s), is larger
        than `max_bytes` or slower than `timeout_s`; or the proxy or the certificates that the
        environment names can't be used.
    """
    # httpx bounds each read but not their sum; asyncio bounds the sum. A thread of its own, because
    # the caller may be inside an event loop already (a notebook, a web service).
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(_run, download(url, max_bytes, timeout_s)).result()


def _run(download: Coroutine[None, None, bytes]) -> bytes:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(download)


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in a daemon thread, which nobody waits for.

    The standard loop has them in a pool, whose threads hold up the end of the loop and of the process.
    """

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name of the base class
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        found: Future[list[Any]] = Future()
        found.set_running_or_notify_cancel()  # from here on, a late answer is simply dropped

        def look_up() -> None:
            try:
                found.set_result(socket.getaddrinfo(host, port, family, type, proto, flags))
            except (OSError, ValueError, OverflowError) as error:
                found.set_exception(error)

        Thread(target=look_up, daemon=True).start()
        return await asyncio.wrap_future(found, loop=self)


async def download(url: str, max_bytes: int, timeout_s: float, guard: Guard | None = None) -> bytes:
    """Do what `fetch` does, for callers inside an event loop.

    With `guard`, it is asked before every connection, of redirects too, and what it answers is connected
    to; the environment's proxies are left out, as they would look the name up again.
    """
    with checked_settings(url, InputError):
        client = httpx.AsyncClient(headers=_HEADERS, timeout=timeout_s, trust_env=guard is None)
    try:
        async with asyncio.timeout(timeout_s), client:
            return await _follow(client, url, max_bytes, guard)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise InputError(
            url, f"did not arrive within {timeout_s:g} s", "try again or raise input.timeout_s"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError) as error:
        raise _unreachable(url, error) from error
    except ExceptionGroup as group:  # what the attempts to connect raised, an impossible port for one
        raise _unreachable(url, group.exceptions[0]) from group


def _unreachable(url: str, error: Exception) -> InputError:
    """Tell faults of the proxy and of certificates from those of the address."""
    cause = str(error) or type(error).__name__
    remedy = "check the address and the network"
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        remedy = "name the certificate of the authority that signed it with SSL_CERT_FILE"
    elif _is_proxied(url):
        remedy = _CHECK_PROXY
    return InputError(url, f"could not be fetched ({cause})", remedy)


def _is_proxied(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    proxies = getproxies()
    return bool(proxies.get(address.scheme) or proxies.get("all")) and not proxy_bypass(address.host)


async def _follow(client: httpx.AsyncClient, url: str, max_bytes: int, guard: Guard | None) -> bytes:
    address = httpx.URL(url)
    for _ in range(MAX_REDIRECTS + 1):
        if address.scheme not in SCHEMES:
            raise InputError(
                url, f"redirects to {address}, which is not http(s)", "give the address of the file itself"
            )
        request = await _request(client, address, guard)
        response = await client.send(request, stream=True)
        try:
            if not response.has_redirect_location:
                return await _body(response, url, max_bytes)
            address = address.join(response.headers["location"])
        finally:
            await response.aclose()
    raise InputError(url, f"redirects more than {MAX_REDIRECTS} times", "give the address of the file itself")


async def _request(client: httpx.AsyncClient, address: httpx.URL, guard: Guard | None) -> httpx.Request:
    """Ask for `address` at the very IP address that `guard` looked at; TLS still checks the host's name."""
    if guard is None:
        return client.build_request("GET", address)
    checked = await guard(address.host, address.port or (443 if address.scheme == "https" else 80))
    name = address.raw_host.decode("ascii")
    return client.build_request(
        "GET",
        address.copy_with(host=checked),
        headers={"Host": address.netloc.decode("ascii")},
        extensions={"sni_hostname": name},
    )


async def _body(response: httpx.Response, url: str, max_bytes: int) -> bytes:
    if not response.is_success:
        refused = response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
        raise InputError(
            url,
            f"answered {response.status_code} {response.reason_phrase}".rstrip(),
            _CHECK_PROXY if refused else "check the address",
        )
    too_large = TooLargeError(
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
