#!/usr/bin/env python3
"""Real mail through a running cluster, and back byte for byte.

    parliament demo --users 20 --ready-file ready.json &
    real_mail.py --ready-file ready.json --mails FOLDER [--accounts 20] [--limit N] [--workers 4]

FOLDER holds mails, one a file, at any depth (files whose names end in .json are passed over). An mbox `From ` line at a file's
beginning is taken off and line ends become CRLF. Mails that nobody writes by hand are added: NUL bytes, bare CR and LF, lines of
10 KB, dots, no end of line, none of a header, 300 KB and 3 MB. The mails are dealt out to the accounts `user0`, `user1` …; of each
account's mails every other one is delivered to the first node by LMTP (by turns with DATA and BDAT), the rest is given to the
second node by APPEND, in order. Then the last node is asked for everything.

It passes, and exits 0, when
  * every mail was acknowledged, and each APPENDUID is the next UID;
  * the last node lists exactly the UIDs 1 … UIDNEXT - 1 (the accounts may hold mail already, but none was ever removed);
  * SHA-256 and size of every mail are those of what was sent (Return-Path and Received taken off where LMTP is set to add them);
  * STATUS says the same.

Prints one JSON document of figures. Needs Python 3.9 and nothing else; changes nothing but the accounts' INBOXes.
"""

import argparse
import hashlib
import json
import pathlib
import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

TRACE = re.compile(rb"Return-Path: <[^\r\n]*>\r\nReceived: from [^\r\n]*\r\n(?:\t[^\r\n]*\r\n)+")
TIMEOUT_SECONDS = 60


class Wire:
    """A socket read by lines and by counts."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def send(self, *pieces):
        self.socket.sendall(b"".join(pieces))

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(f"connection ended after {line!r}")
        return line[:-2]


class Imap(Wire):
    """As much of an IMAP client as this needs."""

    def __init__(self, address, user, password):
        super().__init__(address)
        self.tags = 0
        self.line()
        self.command(f"LOGIN {user} {password}")

    def command(self, *parts):
        """Sends text and literals (bytes); returns untagged responses as [text, literal, text …] and the tagged one."""
        self.tags += 1
        tag = f"t{self.tags}"
        pieces = [tag.encode(), b" "]
        for part in parts:
            if isinstance(part, str):
                pieces.append(part.encode())
            else:
                # Only a literal8 may hold NUL (RFC 9051 section 4.3).
                pieces += [b"~" if b"\0" in part else b"", b"{%d+}\r\n" % len(part), part]
        self.send(*pieces, b"\r\n")
        untagged = []
        while True:
            response = self.response()
            if response[0].startswith(tag.encode() + b" "):
                if not response[0].startswith(tag.encode() + b" OK"):
                    raise RuntimeError(f"{str(parts[0])[:60]}: {response[0].decode(errors='replace')}")
                return untagged, response[0].decode()
            untagged.append(response)

    def response(self):
        pieces = [self.line()]
        while found := re.search(rb"\{(\d+)\}$", pieces[-1]):
            pieces += [self.file.read(int(found[1])), self.line()]
        return pieces


class Lmtp(Wire):
    """An LMTP client for one recipient at a time."""

    def __init__(self, address):
        super().__init__(address)
        self.expect(b"220")
        self.send(b"LHLO real.test\r\n")
        self.expect(b"250")

    def expect(self, code):
        while True:
            line = self.line()
            if not line.startswith(code):
                raise RuntimeError(f"LMTP: {line.decode(errors='replace')}")
            if line[3:4] == b" ":
                return

    def deliver(self, sender, user, mail, chunks):
        # Only BDAT can carry a mail that does not end with CRLF.
        chunks = chunks or not mail.endswith(b"\r\n")
        self.send(f"MAIL FROM:<{sender}> BODY=8BITMIME\r\nRCPT TO:<{user}@demo.test>\r\n".encode(), b"" if chunks else b"DATA\r\n")
        self.expect(b"250")
        self.expect(b"250")
        if chunks:
            half = len(mail) // 2
            self.send(b"BDAT %d\r\n" % half, mail[:half], b"BDAT %d LAST\r\n" % (len(mail) - half), mail[half:])
            self.expect(b"250")
        else:
            self.expect(b"354")
            stuffed = mail.replace(b"\r\n.", b"\r\n..")
            self.send(b"." if mail.startswith(b".") else b"", stuffed, b".\r\n")
        self.expect(b"250")


def real_mails(folder, limit):
    """Mails of a folder as they would travel."""
    files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file() and path.suffix != ".json")
    for path in files[:limit]:
        mail = path.read_bytes()
        if mail.startswith(b"From "):
            mail = mail.partition(b"\n")[2]
        mail = re.sub(rb"(?<!\r)\n", b"\r\n", mail)
        yield mail if mail.endswith(b"\r\n") else mail + b"\r\n"


def odd_mails():
    """Mails that nobody writes by hand."""
    head = b"From: odd <odd@real.test>\r\nSubject: odd\r\n\r\n"
    yield head + b"nul \0 and \0\0 more\r\n\0\r\n"
    yield b"Subject: nul \0 in a header\r\n\r\n\0"
    yield head + b"bare\rreturns\r\r and\r\n\rone\r"
    yield b"From: x@real.test\rSubject: no line\r\n\r\nbody\r\n"
    yield head + b"bare\nfeeds\n\n.\nand a dot\n.\r.\r\n..\r\n.\t\r\n"
    yield head + b"\r\n".join([b"y" * 10_000, b"." * 10_000, b"\xff" * 10_000, b""])
    yield b"X-Long: " + b"z" * 10_000 + b"\r\n" + head
    yield b"Subject: \xe9\xff raw \xf0\x9f\x93\xac\r\n\r\n" + bytes(range(1, 256)) * 4 + b"\r\n"
    yield b".\r\n..\r\n...\r\n"
    yield b"no header at all"
    yield b"\r\n"
    yield b"\r\n\r\n\r\nheaderless, begins with empty lines\r\n"
    yield head + b"no end of line"
    yield head + bytes(n * 7 % 251 + 1 for n in range(300_000)).replace(b"\n", b"n")
    yield head + (b"0123456789" * 7 + b"\r\n") * 43_000


def first_uid(node, user, password):
    imap = Imap(node["imap"], user, password)
    untagged, _ = imap.command("STATUS INBOX (UIDNEXT)")
    return int(re.search(rb"UIDNEXT (\d+)", untagged[0][0])[1])


def send(ready, user, mails, first):
    """Gives one account its mails; returns what went wrong."""
    faults, password = [], ready["password"]
    lmtp, imap = Lmtp(ready["nodes"][0]["lmtp"]), Imap(ready["nodes"][min(1, len(ready["nodes"]) - 1)]["imap"], user, password)
    for number, mail in enumerate(mails):
        uid = first + number
        if number % 2 == 0:
            # A sender of its own: the same bytes from the same sender count as one delivery.
            lmtp.deliver(f"{user}-{uid}@real.test", user, mail, chunks=number % 4 == 2)
        else:
            _, tagged = imap.command("APPEND INBOX (\\Flagged) ", mail)
            told = re.search(r"\[APPENDUID \d+ (\d+)\]", tagged)
            if not told or int(told[1]) != uid:
                faults.append(f"{user}: expected UID {uid}: {tagged}")
    return faults


def check(ready, user, mails, first):
    """Reads one account from the last node; returns what is not as it was sent."""
    faults, imap = [], Imap(ready["nodes"][-1]["imap"], user, ready["password"])
    end = first + len(mails)
    untagged, _ = imap.command("STATUS INBOX (MESSAGES UIDNEXT)")
    if f"MESSAGES {end - 1} UIDNEXT {end}".encode() not in untagged[0][0]:
        faults.append(f"{user}: {untagged[0][0].decode()}, expected {end - 1} messages")
    imap.command("EXAMINE INBOX")
    untagged, _ = imap.command("UID SEARCH ALL")
    uids = [int(uid) for uid in untagged[0][0].split()[2:]]
    if uids != list(range(1, end)):
        faults.append(f"{user}: UIDs are not 1 to {end - 1}: {uids[:20]} …")
    untagged, _ = imap.command(f"UID FETCH {first}:* (RFC822.SIZE BODY.PEEK[])")
    seen = set()
    for response in untagged:
        if len(response) != 3:
            continue
        uid, size = (int(re.search(rb"%s (\d+)" % name, response[0])[1]) for name in (b"UID", b"RFC822.SIZE"))
        seen.add(uid)
        stored, sent = response[1], mails[uid - first]
        if size != len(stored):
            faults.append(f"{user} UID {uid}: RFC822.SIZE {size}, but {len(stored)} bytes")
        if (uid - first) % 2 == 0 and len(stored) != len(sent) and (trace := TRACE.match(stored)):
            stored = stored[trace.end() :]
        if hashlib.sha256(stored).digest() != hashlib.sha256(sent).digest():
            faults.append(f"{user} UID {uid}: {len(stored)} bytes differ from the {len(sent)} sent")
    if seen != set(range(first, end)):
        faults.append(f"{user}: FETCH lacks {sorted(set(range(first, end)) - seen)[:20]}")
    return faults


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--ready-file", required=True, help="what `parliament demo --ready-file` wrote")
    options.add_argument("--mails", required=True, help="folder of mails, one a file")
    options.add_argument("--accounts", type=int, default=20, help="accounts user0, user1 … to use")
    options.add_argument("--limit", type=int, help="take so many files at most")
    options.add_argument("--workers", type=int, default=4, help="accounts served at once")
    options = options.parse_args()
    ready = json.loads(pathlib.Path(options.ready_file).read_text())
    mails = list(real_mails(options.mails, options.limit)) + list(odd_mails())
    users = [f"user{n}" for n in range(options.accounts)]
    shares = [mails[n :: options.accounts] for n in range(options.accounts)]
    firsts = [first_uid(ready["nodes"][-1], user, ready["password"]) for user in users]
    timings, faults = {}, []
    with ThreadPoolExecutor(options.workers) as pool:
        for name, step in (("send", send), ("read_back", check)):
            begun = time.monotonic()
            for found in pool.map(lambda n: step(ready, users[n], shares[n], firsts[n]), range(options.accounts)):
                faults += found
            timings[name] = time.monotonic() - begun
    figures = {
        "mails": len(mails),
        "bytes": sum(map(len, mails)),
        "accounts": options.accounts,
        "send_seconds": round(timings["send"], 2),
        "sent_per_second": round(len(mails) / timings["send"]),
        "read_back_seconds": round(timings["read_back"], 2),
        "faults": len(faults),
    }
    print(json.dumps(figures | ({"first_faults": faults[:20]} if faults else {}), ensure_ascii=False, indent=2))
    return 1 if faults or not mails else 0


if __name__ == "__main__":
    sys.exit(main())
