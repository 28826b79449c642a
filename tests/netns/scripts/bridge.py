"""A guest's network card: a TAP in another network namespace, carried elsewhere.

Usage: bridge.py PID NAME HOW. The TAP NAME is made in the network namespace of
process PID; sockets stay in the caller's. HOW is `messages` or `len16` on standard
input and output, `udp:FROM:TO` with ports of 127.0.0.1, `unixgram:PATH`,
`seqpacket:PATH`, or `len32:PATH` for a stream. Prints "ready" to standard error.
"""
import ctypes
import fcntl
import os
import struct
import sys
import threading
from socket import *

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 2, 0x1000
CLONE_NEWNET = 0x40000000
LARGEST = 70000


def tap(pid, name):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net", "rb") as target:
        if libc.setns(target.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def exactly(fd, count):
    data = b""
    while len(data) < count:
        part = os.read(fd, count - len(data))
        if not part:
            return None
        data += part
    return data


def messages(source, target):
    def write(frame):
        try:
            os.write(target, frame)
        except (BlockingIOError, ConnectionRefusedError):
            pass

    return lambda: os.read(source, LARGEST), write


def stream(source, target, prefix):
    def read():
        header = exactly(source, struct.calcsize(prefix))
        return header and exactly(source, *struct.unpack(prefix, header))

    def write(frame):
        data = struct.pack(prefix, len(frame)) + frame
        while data:
            data = data[os.write(target, data) :]

    return read, write


def far_end(how):
    kind, *rest = how.split(":")
    if kind == "messages":
        return messages(0, 1)
    if kind == "len16":
        return stream(0, 1, "!H")
    if kind == "udp":
        s = socket(AF_INET, SOCK_DGRAM)
        s.bind(("127.0.0.1", int(rest[0])))
        s.connect(("127.0.0.1", int(rest[1])))
    elif kind == "unixgram":
        s = socket(AF_UNIX, SOCK_DGRAM)
        s.bind(f"{rest[0]}.{os.getpid()}")
        s.connect(rest[0])
    else:
        s = socket(AF_UNIX, SOCK_SEQPACKET if kind == "seqpacket" else SOCK_STREAM)
        s.connect(rest[0])
    fd = s.detach()
    return stream(fd, fd, "!I") if kind == "len32" else messages(fd, fd)


def carry(read, write):
    while True:
        try:
            frame = read()
        except ConnectionRefusedError:
            continue
        if not frame:
            os._exit(0)
        write(frame)


pid, name, how = sys.argv[1:]
read, write = far_end(how)
device = tap(pid, name)


def up(frame):
    try:
        os.write(device, frame)
    except OSError:
        # The interface is not up yet.
        pass


print("ready", file=sys.stderr, flush=True)
threading.Thread(target=carry, args=(read, up), daemon=True).start()
carry(lambda: os.read(device, LARGEST), write)
