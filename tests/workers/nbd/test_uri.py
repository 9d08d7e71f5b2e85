"""What a URI of an NBD export names."""

import pytest

from ringblk.workers.nbd.uri import BadUri, NbdUri, TlsChoice, parse_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbd://example.com", NbdUri(host="example.com")),
        ("nbd://example.com:1234/disk", NbdUri(host="example.com", port=1234, export_name=b"disk")),
        ("nbd://[::1]/a%2Fb%20c", NbdUri(host="::1", export_name=b"a/b c")),
        ("nbd://example.com//disk", NbdUri(host="example.com", export_name=b"/disk")),
        ("nbd+unix:///?socket=/run/nbd", NbdUri(socket_path="/run/nbd")),
        ("nbd+unix:///disk?socket=/a%20b", NbdUri(socket_path="/a b", export_name=b"disk")),
        ("nbds://example.com/", NbdUri(host="example.com", tls=TlsChoice(hostname="example.com"))),
        ("nbds+unix:///?socket=s", NbdUri(socket_path="s", tls=TlsChoice())),
        (
            "nbds://10.0.0.1/?tls-hostname=a.example&tls-certificates=/etc/pki&tls-type=x509&tls-verify-peer=0",
            NbdUri(
                host="10.0.0.1",
                tls=TlsChoice(hostname="a.example", certificates_dir="/etc/pki", verifies_server=False),
            ),
        ),
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
        ("nbd://example.com/?tls-certificates=/etc", "tls-certificates= is for nbds:"),
        ("nbds://example.com/?tls-psk-file=/etc/keys", "no pre-shared keys"),
        ("nbds://example.com/?tls-type=anon", "only certificates"),
        ("nbds://example.com/?tls-verify-peer=no", "neither 0 nor 1"),
        ("nbds://example.com/?tls-colour=red", "tls-colour= is not known"),
    ],
)
def test_what_names_nothing(text: str, fault: str) -> None:
    with pytest.raises(BadUri, match=fault):
        parse_uri(text)
