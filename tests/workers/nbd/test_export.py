"""Where an NBD server is."""

import socket
import struct

from ringblk.workers.nbd.export import find_addresses
from ringblk.workers.nbd.uri import NbdUri


def test_addresses_are_what_connect_takes() -> None:
    (address,) = find_addresses(NbdUri(host="127.0.0.1", port=10809))
    assert address == struct.pack("=H", socket.AF_INET) + struct.pack(">H", 10809) + b"\x7f\0\0\1" + bytes(8)
    (address,) = find_addresses(NbdUri(host="::1", port=10809))
    family = struct.pack("=H", socket.AF_INET6)
    assert address == family + struct.pack(">HI", 10809, 0) + bytes(15) + b"\1" + bytes(4)
    (address,) = find_addresses(NbdUri(socket_path="/run/nbd"))
    assert address == struct.pack("=H", socket.AF_UNIX) + b"/run/nbd\0"
