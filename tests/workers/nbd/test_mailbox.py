"""Sockets that are left for another process."""

import os
import socket

from ringblk.workers.nbd.mailbox import Mailbox


def test_the_last_socket_is_taken_and_no_other_left_open() -> None:
    mailbox = Mailbox()
    assert mailbox.take() is None
    first, first_peer = socket.socketpair()
    second, second_peer = socket.socketpair()
    mailbox.put(1, first.fileno())
    first.close()
    mailbox.put(2, second.fileno())
    second.close()
    assert first_peer.recv(1) == b"", "the former socket is closed"
    taken = mailbox.take()
    assert taken is not None
    generation, fd = taken
    assert generation == 2
    os.write(fd, b"x")
    assert second_peer.recv(1) == b"x"
    os.close(fd)
    assert mailbox.take() is None
    for end in (first_peer, second_peer):
        end.close()
    mailbox.close()


def test_what_lies_there_is_another_process_s_as_well() -> None:
    mailbox = Mailbox()
    own, peer = socket.socketpair()
    same = Mailbox([os.dup(fd) for fd in mailbox.fds])
    mailbox.put(7, own.fileno())
    mailbox.close()
    own.close()
    taken = same.take()
    assert taken is not None
    assert taken[0] == 7
    os.close(taken[1])
    assert peer.recv(1) == b""
    peer.close()
    same.close()
