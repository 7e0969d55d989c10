#!/usr/bin/env python3
"""One IMAP session of Python's imaplib for SECONDS: appends, reads back, flags, searches, moves and expunges, and never connects again.
Ends with code 0 and the number of commands when every answer was right."""
import hashlib, imaplib, sys, time

host, port, user, password, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5])


def right(answer):
    if answer[0] != "OK":
        raise SystemExit(f"refused: {answer}")
    return answer[1]


imap = imaplib.IMAP4(host, port)
right(imap.login(user, password))
right(imap.create("Long"))
right(imap.create("Moved"))
right(imap.select("Long"))
until, commands, number, last_uid = time.monotonic() + seconds, 0, 0, 0
while time.monotonic() < until:
    number += 1
    size = [300, 4_000, 60_000, 700_000][number % 4]
    body = f"Subject: number {number}\r\n\r\n" + f"{number:08d}\r\n" * (size // 10)
    body = body.encode()
    told = right(imap.append("Long", None, None, body))[-1].decode()
    uid = int(told.split("]")[0].split()[-1])
    if uid <= last_uid:
        raise SystemExit(f"UID {uid} after {last_uid}")
    last_uid = uid
    right(imap.noop())
    right(imap.uid("STORE", str(uid), "+FLAGS", "(\\Flagged)"))
    found = right(imap.uid("SEARCH", "SUBJECT", f'"number {number}"'))[0].split()
    if str(uid).encode() not in found:
        raise SystemExit(f"{uid} not in {found}")
    parts = right(imap.uid("FETCH", str(uid), "(FLAGS BODY.PEEK[])"))
    if hashlib.sha256(parts[0][1]).digest() != hashlib.sha256(body).digest():
        raise SystemExit(f"other bytes under {uid}")
    right(imap.uid("MOVE", str(uid), "Moved") if number % 2 else imap.uid("STORE", str(uid), "+FLAGS", "(\\Deleted)"))
    right(imap.expunge())
    left = right(imap.status("Long", "(MESSAGES)"))[0]
    if b"MESSAGES 0" not in left:
        raise SystemExit(f"left behind: {left}")
    commands += 8
    time.sleep(0.2)
moved = int(right(imap.select("Moved"))[0])
if moved != (number + 1) // 2:
    raise SystemExit(f"{moved} moved of {(number + 1) // 2}")
if imap.logout()[0] != "BYE":
    raise SystemExit("LOGOUT was refused")
print(commands)
