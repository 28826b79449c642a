"""Bridges standard input and output to a TAP, and measures through it.

Usage: unshare -n python3 bridge.py UPLOAD DOWNLOAD RESULT. The TAP is a guest with
the addresses that the environment tells; the result is what iperf3 says when it
uploads to one port and downloads from the other, as a JSON list.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys
import threading

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 2, 0x1000

tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI))


def carry(source, target):
    while frame := os.read(source, 70000):
        os.write(target, frame)


threading.Thread(target=carry, args=(0, tap), daemon=True).start()
threading.Thread(target=carry, args=(tap, 1), daemon=True).start()

environment = os.environ
assert environment["GW_FD"] == "0"
prefix = environment["GW_NET4"].split("/")[1]
for line in (
    "link set lo up",
    f"link set tap0 mtu {environment['GW_MTU']} up",
    f"addr add {environment['GW_GUEST4']}/{prefix} dev tap0",
    f"route add default via {environment['GW_GATEWAY4']}",
):
    subprocess.run(["ip", *line.split()], check=True, stdin=subprocess.DEVNULL)

results = []
for port, direction in ((sys.argv[1], []), (sys.argv[2], ["-R"])):
    command = ["iperf3", "-J", "-c", environment["GW_GATEWAY4"], "-p", port, "-n", "32M"]
    done = subprocess.run(
        command + direction, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    results.append(json.loads(done.stdout))
with open(sys.argv[3] + ".new", "w") as result:
    json.dump(results, result)
os.rename(sys.argv[3] + ".new", sys.argv[3])
