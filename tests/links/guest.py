"""A guest with a kernel: a TAP in a network namespace, and a program to carry it.

Usage: unshare -n python3 guest.py UPLOAD DOWNLOAD RESULT [URL]. Without a URL,
frames go through standard input and output, or, if the environment says so, bare
IP packets of a TUN; with one, vde_plug carries the TAP. The addresses are those
that the environment tells. The result is what iperf3 says
when it uploads to one port of the gateway and downloads from the other, as a
JSON list.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys
import threading
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000

UPLOAD, DOWNLOAD, RESULT, *URL = sys.argv[1:]
ENVIRONMENT = os.environ
IS_TUN = ENVIRONMENT.get("GW_MEDIUM") == "ip"


def carry(source, target):
    while frame := os.read(source, 70000):
        os.write(target, frame)


def carry_by_ourselves():
    assert ENVIRONMENT["GW_FD"] == "0"
    kind = IFF_TUN if IS_TUN else IFF_TAP
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"tap0", kind | IFF_NO_PI))
    threading.Thread(target=carry, args=(0, tap), daemon=True).start()
    threading.Thread(target=carry, args=(tap, 1), daemon=True).start()


def carry_by_vde_plug(url):
    plug = subprocess.Popen(["vde_plug", url, "tap://tap0"], stdin=subprocess.DEVNULL)
    while subprocess.run(["ip", "link", "show", "tap0"], capture_output=True).returncode != 0:
        assert plug.poll() is None, "vde_plug has ended"
        time.sleep(0.01)
    return plug


def set_up():
    prefix = ENVIRONMENT["GW_NET4"].split("/")[1]
    way = "dev tap0" if IS_TUN else f"via {ENVIRONMENT['GW_GATEWAY4']}"
    for line in (
        "link set lo up",
        f"link set tap0 mtu {ENVIRONMENT['GW_MTU']} up",
        f"addr add {ENVIRONMENT['GW_GUEST4']}/{prefix} dev tap0",
        f"route add default {way}",
    ):
        subprocess.run(["ip", *line.split()], check=True, stdin=subprocess.DEVNULL)


def measure(port, direction):
    gateway = ENVIRONMENT["GW_GATEWAY4"]
    command = ["iperf3", "-J", "-c", gateway, "-p", port, "-n", "32M", *direction]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    return json.loads(done.stdout)


plug = carry_by_vde_plug(*URL) if URL else carry_by_ourselves()
set_up()
results = [measure(UPLOAD, []), measure(DOWNLOAD, ["-R"])]
if plug:
    plug.kill()
with open(RESULT + ".new", "w") as result:
    json.dump(results, result)
os.rename(RESULT + ".new", RESULT)
