"""FTP's words: commands, and the addresses in PORT, EPRT and the replies to PASV and EPSV (RFC 959, RFC 2428)."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

COMMANDS: Final = frozenset(
    b"ABOR ACCT ADAT ALGS APPE AUTH AVBL CCC CDUP CLNT CONF COMB CSID CWD DELE DSIZ ENC EPRT EPSV ESTA ESTP FEAT HASH HELP HOST"
    b" LANG LIST LPRT LPSV MACB MD5 MDTM MFCT MFF MFMT MIC MKD MLSD MLST MODE NLST NOOP OPTS PASS PASV PBSZ PORT PROT PWD QUIT RANG"
    b" REIN REST RETR RMD RMDA RNFR RNTO SITE SIZE SMNT SPSV STAT STOR STOU STRU SYST THMB TYPE USER XCRC XCUP XCWD XMD5 XMKD XPWD XRMD"
    b" XSHA XSHA1 XSHA256 XSHA512 ALLO".split()  # codespell:ignore
)
"""IANA's registry, and what servers know besides. A word that is not here may be anything, a password too: it is counted, not shown."""

DOWNLOADS: Final = frozenset({"RETR"})
UPLOADS: Final = frozenset({"STOR", "STOU", "APPE"})
LISTINGS: Final = frozenset({"LIST", "NLST", "MLSD"})
TRANSFERS: Final = DOWNLOADS | UPLOADS | LISTINGS
CHANGES: Final = frozenset({"DELE", "RNTO", "MKD", "RMD", "XMKD", "XRMD"})
"""Commands besides the uploads that change what is there."""
ANONYMOUS: Final = frozenset({"anonymous", "ftp"})

_SIX = re.compile(rb"(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})")
_EXTENDED = re.compile(rb"\(?([!-~])\1\1(\d{1,5})\1\)?")

Endpoint = tuple[str, int]


def split_command(line: bytes) -> tuple[str, bytes]:
    """The command of a line in capitals (empty when it is none that is known), and its argument.

    >>> split_command(b"retr  a b.txt"), split_command(b"hunter2 x")
    (('RETR', b'a b.txt'), ('', b''))
    """
    # ABOR comes behind telnet's IAC IP and IAC DM (RFC 959 section 4.1.3).
    word, _, argument = line.lstrip(b"\xff\xf4\xf2 ").partition(b" ")
    verb = word.strip().upper()
    return (verb.decode(), argument.strip()) if verb in COMMANDS else ("", b"")


def parse_six(text: bytes) -> Endpoint | None:
    """Address and port of PORT, and of a reply to PASV, with brackets or without.

    >>> parse_six(b"Entering Passive Mode (10,0,0,2,195,80).")
    ('10.0.0.2', 50000)
    """
    match = _SIX.search(text)
    if match is None:
        return None
    numbers = [int(number) for number in match.groups()]
    if max(numbers) > 255:
        return None
    return ".".join(map(str, numbers[:4])), numbers[4] << 8 | numbers[5]


def parse_eprt(argument: bytes) -> Endpoint | None:
    """Address and port of EPRT.

    >>> parse_eprt(b"|2|2001:db8::1|50000|")
    ('2001:db8::1', 50000)
    """
    parts = argument.split(argument[:1]) if argument else []
    if len(parts) < 4 or not parts[3].isdigit() or len(parts[3]) > 5:
        return None
    try:
        address = ipaddress.ip_address(parts[2].decode("ascii", "replace").partition("%")[0])
    except ValueError:
        return None
    port = int(parts[3])
    return (str(address), port) if port < 65_536 else None


def parse_epsv(text: bytes) -> int | None:
    """The port of a reply to EPSV.

    >>> parse_epsv(b"Entering Extended Passive Mode (|||50000|)")
    50000
    """
    match = _EXTENDED.search(text)
    port = int(match[2]) if match else 0
    return port if 0 < port < 65_536 else None
