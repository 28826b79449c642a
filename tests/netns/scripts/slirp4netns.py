"""Drives a slirp4netns, so that two of them can be compared.

Everything runs in the host of a test's world. A case is a few lines that use
what stands here and print what they see, without anything that differs from run
to run. `run_cases` gives each what it needs and takes it away again.
"""
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import traceback

from prelude import *

# Who takes part, by process id.
REMOTE = int(os.environ["REMOTE_PID"])
HOST = os.getpid()
# The ordinary user; empty where the tests cannot become one.
USER = os.environ.get("TEST_USER")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
# What the current case started, ended in reverse order.
_scope = contextlib.ExitStack()


@contextlib.contextmanager
def on(where):
    """Sockets and programs made inside belong to that network namespace."""
    pid = where.pid if isinstance(where, Guest) else where
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _setns(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)
        os.close(there)


def _setns(fd):
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def sh(command):
    """What a shell command prints, both streams, trimmed."""
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=20)
    return done.stdout.strip()


def later(action, *args):
    """Has `action` done at the end of the case."""
    _scope.callback(action, *args)


def eventually(probe, seconds=PATIENCE):
    """What `probe` returns, as soon as that is something."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)


def _identity(user):
    return {"user": int(USER), "group": int(USER), "extra_groups": []} if user else {}


class Guest:
    """A network namespace in a user namespace of its own."""

    def __init__(self, setup="", user=False):
        self.process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--net", "sh", "-c",
             setup + "\necho ready; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **_identity(user))
        later(self.end)
        assert self.process.stdout.readline() == b"ready\n", "no guest"
        self.pid = self.process.pid

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def sh(self, command):
        with on(self):
            return sh(command)

    def __str__(self):
        return str(self.pid)


class Slirp:
    """A running slirp4netns with a ready pipe and an exit pipe."""

    def __init__(self, *args, ready=True, exit=True, user=False, fds=(), before=None):
        self.folder = tempfile.mkdtemp(dir="/run")
        self.ready, theirs = os.pipe()
        hang_up, self.exit = os.pipe()
        options = ["-r", str(theirs)] + (["-e", str(hang_up)] if exit else [])
        with open(f"{self.folder}/out", "wb") as out, open(f"{self.folder}/err", "wb") as err:
            self.process = subprocess.Popen(
                ["slirp4netns", *options, *map(str, args)], stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, pass_fds=[theirs, hang_up, *fds],
                preexec_fn=before, **_identity(user))
        later(self.end)
        os.close(theirs)
        os.close(hang_up)
        self.pid = self.process.pid
        if ready:
            said = self.said_ready()
            if said != b"1":
                raise RuntimeError(f"not ready: {said} {self.wait()} {self.err()}")

    def said_ready(self):
        """Everything in the ready pipe, up to its end."""
        said = b""
        while select.select([self.ready], [], [], PATIENCE)[0]:
            more = os.read(self.ready, 100)
            if not more:
                return said
            said += more
        return said + b" and no end"

    def hang_up(self):
        if self.exit is not None:
            os.close(self.exit)
            self.exit = None

    def wait(self, seconds=PATIENCE):
        """The exit status; negative for a signal."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "running"

    def kill(self, number):
        """Sends a signal; returns the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def stop(self):
        """Ends it by the exit pipe; returns the exit status."""
        self.hang_up()
        return self.wait()

    def out(self):
        with open(f"{self.folder}/out") as file:
            return file.read().strip()

    def err(self):
        with open(f"{self.folder}/err") as file:
            return re.sub(r"tapfd=\d+", "tapfd=N", file.read().strip())

    def end(self):
        self.process.kill()
        self.process.wait()
        self.hang_up()
        os.close(self.ready)
        shutil.rmtree(self.folder)


def there(path):
    """Whether a file is there, in a word."""
    return "there" if os.path.exists(path) else "gone"


def first_with(words, text):
    """These words, if a line of the text begins with them."""
    return words if any(line.startswith(words) for line in text.splitlines()) else "nothing"


def started(*options, user=False, **more):
    """A guest and its gateway, with these options and `-c`."""
    guest = Guest(user=user)
    return guest, Slirp("-c", *options, guest, "tap0", user=user, **more)


def up(*options, **more):
    """A guest that has a gateway with these options."""
    return started(*options, **more)[0]


def up6(*options):
    """A guest with IPv6, whose address was there before the case begins.

    Without `-c` its TAP and its other address are made as rootlesskit makes them.
    """
    quick = ("cd /proc/sys/net/ipv6/conf/default; echo 0 > accept_dad; "
             "echo 0 > router_solicitation_delay; ")
    tap = ("ip tuntap add name tap0 mode tap; ip link set tap0 up; "
           "ip address add 10.0.2.100/24 dev tap0; ip route add default via 10.0.2.2")
    guest = Guest(quick if "-c" in options else quick + tap)
    Slirp("-6", *options, guest, "tap0")
    eventually(lambda: addresses(guest, kind="inet6"))
    return guest


def usage(line):
    """How it ends with this command line; `{pid}` stands for a guest."""
    guest = Guest() if "{pid}" in line else None
    args = [word.replace("{pid}", str(guest)) for word in shlex.split(line)]
    done = subprocess.run(["slirp4netns", *args], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=5)
    said = [f"exit {done.returncode}"]
    if "Usage:" in done.stdout:
        said.append("usage on stdout")
    if "Usage:" in done.stderr:
        said.append("usage on stderr")
    if done.stderr.strip():
        said.append(re.sub(r"tapfd=\d+", "tapfd=N", done.stderr.strip()))
    return "; ".join(said)


def mtu(line):
    """The TAP's MTU with this command line; `{pid}` stands for a guest."""
    guest = Guest()
    Slirp(*(word.format(pid=guest) for word in shlex.split(line)))
    return link(guest)["mtu"]


def link(guest, name="tap0"):
    """The interface as `ip` tells it."""
    return json.loads(guest.sh(f"ip -j link show {name}"))[0]


def addresses(guest, name="tap0", kind="inet"):
    """`address/prefix scope` of each global address."""
    found = json.loads(guest.sh(f"ip -j addr show {name}"))[0]["addr_info"]
    return " ".join(f"{a['local']}/{a['prefixlen']}" for a in found
                    if a["family"] == kind and a["scope"] == "global")


def networks(guest):
    """The networks of its global IPv6 addresses."""
    return " ".join(re.sub(r"[^/]*/64", "fd00::/64", told) if told.startswith("fd00::") else told
                    for told in addresses(guest, kind="inet6").split())


def lifetimes(guest):
    """Lifetimes of its IPv6 address, valid and preferred, as they began."""
    info = json.loads(guest.sh("ip -j -6 addr show tap0"))[0]["addr_info"]
    told = next(a for a in info if a["scope"] == "global")
    for name in "valid_life_time", "preferred_life_time":
        left = told[name]
        yield "forever" if left == 0xFFFFFFFF else -(-left // 100) * 100


def routes(guest, family=4):
    """Each route as destination, gateway and device."""
    found = json.loads(guest.sh(f"ip -j -{family} route"))
    told = (" via ".join(filter(None, [r["dst"], r.get("gateway")])) + " dev " + r["dev"]
            for r in found)
    return ", ".join(sorted(told))


def connected(guest, address, port, **options):
    """What becomes of a connection attempt in the guest."""
    with on(guest):
        result = outcome(lambda: connect(address, port, **options))
    if isinstance(result, str):
        return result
    result.close()
    return "connected"


def asked(guest, address, port, seconds=1, errors=False):
    """What becomes of a datagram from the guest: the answer, or the error."""
    with on(guest):
        s = socket(family(address), SOCK_DGRAM)
        s.settimeout(seconds)
        if errors:
            s.setsockopt(IPPROTO_IP, IP_RECVERR, 1)
        s.connect((address, port))
    with s:
        s.send(b"question")
        answer = outcome(lambda: s.recv(1000))
    return answer if isinstance(answer, str) else answer.decode()


def source_seen(guest, where, listen_at, address, port=7100):
    """The guest's address as the peer sees it: TCP, then UDP."""
    seen = []
    with on(where):
        stream = listen(port, listen_at)
        datagrams = socket(family(listen_at), SOCK_DGRAM)
        datagrams.bind((listen_at, port))
    with stream, datagrams:
        stream.settimeout(5)
        datagrams.settimeout(5)
        with on(guest):
            client = outcome(lambda: connect(address, port, timeout=5))
            if isinstance(client, str):
                return client
            question = socket(family(address), SOCK_DGRAM)
        with client, question:
            accepted, peer = stream.accept()
            accepted.close()
            seen.append(peer[0])
            question.sendto(b"x", (address, port))
            seen.append(datagrams.recvfrom(10)[1][0])
    return "TCP {}, UDP {}".format(*seen)


def api(path, request, end=True):
    """One request to the API: the reply, up to its end."""
    s = socket(AF_UNIX, SOCK_STREAM)
    s.settimeout(5)
    with s:
        s.connect(path)
        s.sendall(request.encode() if isinstance(request, str) else request)
        if end:
            s.shutdown(SHUT_WR)
        reply = b""
        while True:
            more = outcome(lambda: s.recv(65536))
            if isinstance(more, str):
                return f"{reply.decode()} and {more}"
            if not more:
                return reply.decode()
            reply += more


def entries(reply):
    """The forwards in the answer to `list_hostfwd`; any other answer as it is."""
    try:
        return json.loads(reply)["entries"]
    except (ValueError, KeyError):
        return reply


def advertised(guest):
    """What a router advertisement says, line by line, as rdisc6 tells it."""
    told = guest.sh("rdisc6 -1 -w 3000 tap0").splitlines()[2:]
    words = (re.sub(r"\(.*?\)", "", line).split(":", 1) for line in told)
    return [": ".join(" ".join(part.split()) for part in line) for line in words]


class Api:
    """A gateway with an API socket, and its guest."""

    def __init__(self, *options, user=False):
        folder = tempfile.mkdtemp(dir="/run")
        later(shutil.rmtree, folder)
        if user:
            os.chown(folder, int(USER), int(USER))
        self.path = f"{folder}/api.sock"
        self.guest, self.slirp = started("-a", self.path, *options, user=user)

    def ask(self, request, **options):
        if isinstance(request, dict):
            request = json.dumps(request)
        return api(self.path, request, **options)

    def add(self, **arguments):
        """Asks for a forward; what is None is left out."""
        full = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": 8080,
                "guest_addr": "10.0.2.100", "guest_port": 80, **arguments}
        full = {key: value for key, value in full.items() if value is not None}
        return self.ask({"execute": "add_hostfwd", "arguments": full})

    def remove(self, id):
        return self.ask({"execute": "remove_hostfwd", "arguments": {"id": id}})

    def list(self):
        return self.ask({"execute": "list_hostfwd"})


def resolved(guest, server):
    """What the resolver at `server` says of a name."""
    told = guest.sh(f"dig +short +tries=1 +time=1 @{server} www.example A")
    return "timed out" if "timed out" in told else told


def status(pid, *names):
    """Lines of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return ", ".join(f"{name} {lines[name]}" for name in names)


def _capabilities(pid):
    with open(f"/proc/{pid}/status") as file:
        return {key: int(value, 16) for key, value in re.findall(r"(Cap\w+):\s(\w+)", file.read())}


def privileges(pid):
    """What a process may do, in words that fit every machine."""
    mine, its = _capabilities(HOST), _capabilities(pid)
    names = {0: "none", 1 << 10: "NET_BIND_SERVICE"}

    def told(name):
        return "its starter's" if its[name] == mine[name] != 0 else names.get(its[name], its[name])

    sets = {"effective": told("CapEff"), "permitted": told("CapPrm"), "bounding": told("CapBnd")}
    if len(set(sets.values())) == 1:
        sets = {"capabilities": sets["bounding"]}
    words = ", ".join(f"{name} {those}" for name, those in sets.items())
    return f"{status(pid, 'NoNewPrivs', 'Seccomp')}, {words}"


def namespaces_of_the_host(pid):
    """Kinds of namespaces that a process shares with the host."""
    for kind in sorted(os.listdir("/proc/self/ns")):
        if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}"):
            yield kind


def run_cases(cases):
    """Runs each source; prints a line of JSON with what each printed."""
    global _scope
    for source in cases:
        printed = io.StringIO()
        _scope = contextlib.ExitStack()
        try:
            with _scope, contextlib.redirect_stdout(printed):
                exec(compile(source, "case", "exec"), dict(globals()))
        except BaseException:
            printed.write("\n" + traceback.format_exc())
        print(json.dumps(printed.getvalue().strip()), flush=True)
