//! Readiness, the end, and what other programs read.

use super::{Case, Group};

pub(super) const LIFECYCLE: Group = Group {
    title: "Beginning and end",
    cases: &[
        Case::same(
            "the ready pipe: everything in it",
            "b'1'",
            r"
g = Guest()
print(Slirp('-c', g, 'tap0', ready=False).said_ready())",
        ),
        Case::same(
            "the ready pipe without a guest",
            "b'' 1",
            r"
s = Slirp('-c', 4194304, 'tap0', ready=False)
print(s.said_ready(), s.wait())",
        ),
        Case::same(
            "ready: the address is there, the API listens",
            "10.0.2.100/24, 0 forwards",
            r"
a = Api()
print(f'{addresses(a.guest)}, {len(entries(a.list()))} forwards')",
        ),
        Case::same(
            "`--ready-fd` that is not open",
            "running 10.0.2.100/24",
            r"
g, s = started('-r', 77, ready=False)
print(s.wait(1), addresses(g))",
        ),
        Case::same(
            "data in the exit pipe",
            "running\n0",
            r"
g, s = started()
os.write(s.exit, b'data')
print(s.wait(0.5))
print(s.stop())",
        ),
        Case::same(
            "the end of the exit pipe: status, messages, the API's socket",
            r"0
sent tapfd=N for tap0
received tapfd=N
exitfd event
do_slirp is exiting
gone",
            r"
a = Api()
print(a.slirp.stop(), a.slirp.err(), there(a.path), sep='\n')",
        ),
        Case::same(
            "the end of the exit pipe before it is ready",
            "0",
            r"
g, s = started(ready=False)
s.hang_up()
print(s.wait())",
        ),
        Case::same(
            "`--exit-fd` that is not open",
            "0",
            r"
g, s = started('-e', 77, exit=False, ready=False)
print(s.wait())",
        ),
        Case::same(
            "`--exit-fd` that is a file",
            "running",
            r"
g = Guest()
file = os.open('/etc/hosts', os.O_RDONLY)
s = Slirp('-c', '-e', file, g, 'tap0', exit=False, fds=[file])
print(s.wait(0.5))",
        ),
        Case::same(
            "SIGTERM: status, the API's socket",
            "-15 there",
            r"
a = Api()
print(a.slirp.kill(signal.SIGTERM), there(a.path))",
        ),
        Case::same(
            "SIGINT: status, the API's socket",
            "-2 there",
            r"
a = Api()
print(a.slirp.kill(signal.SIGINT), there(a.path))",
        ),
        Case::same(
            "SIGHUP: status, the API's socket",
            "-1 there",
            r"
a = Api()
print(a.slirp.kill(signal.SIGHUP), there(a.path))",
        ),
        Case::same(
            "SIGQUIT: status, the API's socket",
            "-3 there",
            r"
a = Api()
print(a.slirp.kill(signal.SIGQUIT), there(a.path))",
        ),
        Case::same(
            "SIGUSR1: status",
            "-10",
            r"
g, s = started()
print(s.kill(signal.SIGUSR1))",
        ),
        Case::same(
            "SIGPIPE",
            "running",
            r"
g, s = started()
s.process.send_signal(signal.SIGPIPE)
print(s.wait(0.3))",
        ),
        Case::same(
            "messages while it runs",
            "sent tapfd=N for tap0\nreceived tapfd=N",
            r"
g, s = started()
print(s.err())",
        ),
        Case::same(
            "a file where the API's socket should be",
            r#"{"error":{"desc":"bad request: no execute found"}}"#,
            r"
open('/run/api', 'w').close()
later(os.unlink, '/run/api')
g = Guest()
Slirp('-a', '/run/api', g, 'tap0')
print(api('/run/api', '{}'))",
        ),
        Case::same(
            "a descriptor that the parent left open",
            "there",
            r"
g = Guest()
left, other = os.pipe()
s = Slirp('-c', g, 'tap0', fds=[left])
print(there(f'/proc/{s.pid}/fd/{left}'))",
        ),
        Case::same(
            "the guest's end",
            "running",
            r"
g, s = started()
g.end()
print(s.wait(1))",
        ),
        Case::same(
            "the guest's end, the namespace given by path",
            "running",
            r"
g = Guest()
s = Slirp('-c', '--netns-type=path', f'/proc/{g}/ns/net', 'tap0')
g.end()
print(s.wait(1))",
        ),
        Case::same(
            "a second one for the same TAP",
            "b'' 1",
            r"
g = up()
s = Slirp('-c', g, 'tap0', ready=False)
print(s.said_ready(), s.wait())",
        ),
        Case::same(
            "its end takes the TAP away",
            "lo",
            r#"
g = Guest()
Slirp('-c', g, 'tap0').stop()
print(g.sh('ip -br link | cut -d" " -f1'))"#,
        ),
        Case::same(
            "which of process group and session are its starter's",
            "group session",
            r"
g, s = started()
print(*(name for name, of in (('group', os.getpgid), ('session', os.getsid))
        if of(s.pid) == of(0)))",
        ),
        Case::same(
            "children while it runs",
            "0",
            r"
g, s = started()
print(len(open(f'/proc/{s.pid}/task/{s.pid}/children').read().split()))",
        ),
    ],
};

pub(super) const TEXTS: Group = Group {
    title: "Texts that others read",
    cases: &[
        Case::same(
            "`--help`: status, standard error, options of slirp4netns's that are not in it",
            "0 '' []",
            r"
told = subprocess.run(['slirp4netns', '--help'], capture_output=True, text=True)
shown = set(re.findall(r'(?<![-\w])--?[a-z0-9][a-z0-9-]*', told.stdout))
options = '''-6 -a -c -e -h -m -r -v --api-socket --cidr --configure --disable-dns
--disable-host-loopback --enable-ipv6 --enable-sandbox --enable-seccomp --exit-fd --help
--macaddress --mtu --netns-type --outbound-addr --outbound-addr6 --ready-fd --target-type
--userns-path --version'''.split()
print(told.returncode, repr(told.stderr), [option for option in options if option not in shown])",
        ),
        Case::same(
            "`--help`: what dockerd-rootless.sh looks for",
            "found",
            "print(sh('slirp4netns --help | grep -qw -- --netns-type && echo found'))",
        ),
        Case::same(
            "`--version`: status, stream, keys",
            "0 ''\nslirp4netns version  commit libslirp SLIRP_CONFIG_VERSION_MAX libseccomp",
            r"
told = subprocess.run(['slirp4netns', '--version'], capture_output=True, text=True)
print(told.returncode, repr(told.stderr))
words = re.compile('slirp4netns version (?=[0-9])|[a-zA-Z_]+(?=: )')
print(*(words.match(line)[0] for line in told.stdout.splitlines()))",
        ),
        Case::better(
            "`--version`: SLIRP_CONFIG_VERSION_MAX",
            "4",
            "6",
            "programs derive from it which options there are",
            r#"print(sh("slirp4netns --version | sed -n 's/^SLIRP_CONFIG_VERSION_MAX: //p'"))"#,
        ),
        Case::better(
            "what is printed while it runs: the first line",
            "",
            "Starting slirp",
            "it is shown at once, also in a log file",
            r"
g, s = started()
print(*s.out().splitlines()[:1])",
        ),
        Case::same(
            "what was printed, at its end",
            r"Starting slirp
* MTU:             1400
* Network:         10.7.0.0
* Netmask:         255.255.0.0
* Gateway:         10.7.0.2
* DNS:             10.7.0.3
* DHCP begin:      10.7.0.15
* DHCP end:        10.7.0.30
* Recommended IP:  10.7.0.100
* API Socket:      /run/banner.sock
WARNING: 127.0.0.1:* on the host is accessible as 10.7.0.2 (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)",
            r"
g, s = started('-a', '/run/banner.sock', '--cidr=10.7.0.0/16', '--mtu=1400')
s.stop()
print(s.out())",
        ),
        Case::same(
            "what was printed with `--disable-host-loopback`",
            r"Starting slirp
* MTU:             1500
* Network:         10.0.2.0
* Netmask:         255.255.255.0
* Gateway:         10.0.2.2
* DNS:             10.0.2.3
* DHCP begin:      10.0.2.15
* DHCP end:        10.0.2.30
* Recommended IP:  10.0.2.100",
            r"
g, s = started('--disable-host-loopback')
s.stop()
print(s.out())",
        ),
    ],
};
