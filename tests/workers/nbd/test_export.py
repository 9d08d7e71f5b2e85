"""What a URI of an NBD export names."""

import socket
import struct

import pytest

from ringblk.workers.nbd.export import BadUri, NbdUri, find_addresses, parse_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbd://example.com", NbdUri(host="example.com")),
        ("nbd://example.com:1234/disk", NbdUri(host="example.com", port=1234, export_name=b"disk")),
        ("nbd://[::1]/a%2Fb%20c", NbdUri(host="::1", export_name=b"a/b c")),
        ("nbd://example.com//disk", NbdUri(host="example.com", export_name=b"/disk")),
        ("nbd+unix:///?socket=/run/nbd", NbdUri(socket_path="/run/nbd")),
        ("nbd+unix:///disk?socket=/a%20b", NbdUri(socket_path="/a b", export_name=b"disk")),
        ("nbds://example.com/", NbdUri(host="example.com", uses_tls=True)),
        ("nbds+unix:///?socket=s", NbdUri(socket_path="s", uses_tls=True)),
    ],
)
def test_what_it_names(text: str, expected: NbdUri) -> None:
    assert parse_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("http://example.com/", "is none of nbd, nbds"),
        ("nbd:///disk", "names a host"),
        ("nbd://example.com:port/", "ort could not be cast"),
        ("nbd://example.com:70000/", "ort out of range"),
        ("nbd://example.com/?socket=/run/nbd", "is for nbd[+]unix"),
        ("nbd+unix://example.com/?socket=/run/nbd", "names a unix socket"),
        ("nbd+unix:///", "names a unix socket"),
        (f"nbd+unix:///?socket={'s' * 108}", "at most 107 bytes"),
        ("nbd://example.com/?colour=red", "colour= is not known"),
        ("nbd://example.com/disk#part", "# names nothing"),
        ("nbd://example.com/%00", "NUL"),
    ],
)
def test_what_names_nothing(text: str, fault: str) -> None:
    with pytest.raises(BadUri, match=fault):
        parse_uri(text)


def test_addresses_are_what_connect_takes() -> None:
    (address,) = find_addresses(NbdUri(host="127.0.0.1", port=10809))
    assert address == struct.pack("=H", socket.AF_INET) + struct.pack(">H", 10809) + b"\x7f\0\0\1" + bytes(8)
    (address,) = find_addresses(NbdUri(host="::1", port=10809))
    family = struct.pack("=H", socket.AF_INET6)
    assert address == family + struct.pack(">HI", 10809, 0) + bytes(15) + b"\1" + bytes(4)
    (address,) = find_addresses(NbdUri(socket_path="/run/nbd"))
    assert address == struct.pack("=H", socket.AF_UNIX) + b"/run/nbd\0"
