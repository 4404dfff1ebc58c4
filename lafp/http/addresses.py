"""Connects to public addresses only, so that no list or redirect reaches into a private network.

The address that is checked is the one that is connected to. A name is resolved once: one that
answers with a public address first and a private one later gains nothing.
"""

import ipaddress
import socket

# Clouds answer here with the keys of a machine. The first looks like a public address.
_METADATA = {ipaddress.ip_address("168.63.129.16"), ipaddress.ip_address("fd00:ec2::254")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PRIVATE_NAMES = ("localhost", "internal", "local")


class PrivateAddressError(OSError):
    """The host has no public address."""


def is_public(address: str) -> bool:
    """Says whether an IP address is neither private, loopback, link-local nor one of metadata."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # IPv6 has several ways to write an IPv4 address.
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and ip not in _METADATA


def check_name(host: str) -> None:
    """Checks the name of a host as far as that goes without resolving it: a proxy does that.

    Raises:
        PrivateAddressError: It is a private address, or a name of private hosts.
    """
    try:
        is_private = not is_public(host)
    except ValueError:
        is_private = host.rstrip(".").lower().rpartition(".")[2] in _PRIVATE_NAMES
    if is_private:
        raise PrivateAddressError(f"{host} is not public")


def connect_publicly(
    address: tuple[str, int], timeout: float | None = None, source: tuple[str, int] | None = None
) -> socket.socket:
    """Works like ``socket.create_connection``, but leaves out addresses that are not public.

    Raises:
        PrivateAddressError: No address of the host is public.
        OSError: The host is unknown, or does not answer.
    """
    host, port = address
    found = {info[4][0]: None for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    public = [str(ip) for ip in found if is_public(str(ip))]
    if not public:
        raise PrivateAddressError(f"{host} has the address {', '.join(map(str, found))}")
    for number, ip in enumerate(public, start=1):
        try:
            return socket.create_connection((ip, port), timeout, source)
        except OSError:
            if number == len(public):
                raise
    raise AssertionError(host)
