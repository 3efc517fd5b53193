"""An address that a client wants fetched goes in; it is refused, or its bytes come out."""

import asyncio
import ipaddress
import socket
from typing import Final

from ocr_onnx.errors import InputError
from ocr_onnx.fetch import download
from ocr_onnx.options import InputOptions
from ocr_onnx.service.faults import bad_request
from ocr_onnx.service.settings import ServiceOptions, listed

_SCHEMES: Final = ("http://", "https://")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # stands for an IPv4 address, of whatever kind


def is_url(text: str) -> bool:
    """Tell whether a text is an http(s) address and no base64."""
    return text[:8].lower().startswith(_SCHEMES)


async def fetch(url: str, limits: InputOptions, options: ServiceOptions) -> bytes:
    """Download what a client names, if it may be.

    The host's addresses are looked up once, all of them must be public, and one of them is
    connected to; redirects go the same way. Raises RequestError (422) where the service fetches nothing,
    InputError for what is refused, dead, too large or too slow.
    """
    if not options.allow_urls:
        raise bad_request("file", "is an address, and this server fetches none", "send the file as base64")
    hosts = frozenset(host.lower() for host in listed(options.url_hosts))

    async def guard(host: str, port: int) -> str:
        if hosts and host.lower().rstrip(".") not in hosts:
            raise _refused(host, "is not a host that this server fetches from")
        return await _public_address(host, port)

    return await download(url, limits.max_bytes, limits.timeout_s, guard)


async def _public_address(host: str, port: int) -> str:
    """Look a host up. Raises InputError unless all its addresses are public."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise _refused(host, "is not a public address")
    return addresses[0]


def is_public(text: str) -> bool:
    """Tell whether an IP address belongs to the public internet, and stands for nothing that doesn't."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # one with a zone, "fe80::1%eth0", is of this link
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address.sixtofour is not None or address.teredo is not None or address in _NAT64:
            return False
    return address.is_global and not address.is_multicast


def _refused(host: str, problem: str) -> InputError:
    return InputError(host[:200], problem, "give another address, or send the file itself")
