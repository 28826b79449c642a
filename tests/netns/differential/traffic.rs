//! What the guest sees of the world, and the world of the guest.

use super::{Case, Group};

pub(super) const NEAR: Group = Group {
    title: "Traffic to the gateway, the resolver and the guest's network",
    cases: &[
        Case::same(
            "TCP to .2: the host's loopback",
            "connected",
            r"
g = up()
with listen(7100, '127.0.0.1'):
    print(connected(g, '10.0.2.2', 7100))",
        ),
        Case::same(
            "TCP to .2 with `--disable-host-loopback`",
            "ENETUNREACH",
            r"
g = up('--disable-host-loopback')
with listen(7100, '127.0.0.1'):
    print(connected(g, '10.0.2.2', 7100))",
        ),
        Case::same(
            "TCP to a closed port of .2",
            "ECONNREFUSED",
            r"
g = up()
print(connected(g, '10.0.2.2', 7999))",
        ),
        Case::same(
            "TCP to a closed port of .2 with `--disable-host-loopback`",
            "ENETUNREACH",
            r"
g = up('--disable-host-loopback')
print(connected(g, '10.0.2.2', 7999))",
        ),
        Case::same(
            "what the host's loopback sees of the guest",
            "TCP 127.0.0.1, UDP 127.0.0.1",
            r"
g = up()
print(source_seen(g, HOST, '127.0.0.1', '10.0.2.2'))",
        ),
        Case::better(
            "UDP to a closed port of .2",
            "timeout",
            "ECONNREFUSED",
            "the refusal reaches the guest",
            r"
g = up()
print(asked(g, '10.0.2.2', 7999))",
        ),
        Case::same(
            "UDP to a closed port of .2 with `--disable-host-loopback`",
            "timeout",
            r"
g = up('--disable-host-loopback')
print(asked(g, '10.0.2.2', 7999))",
        ),
        Case::same(
            "UDP to an open port of .2 with `--disable-host-loopback`",
            "timeout timeout",
            r"
g = up('--disable-host-loopback')
s = udp('127.0.0.1', 7100, timeout=1)
with s:
    print(asked(g, '10.0.2.2', 7100), outcome(lambda: s.recv(10)))",
        ),
        Case::same(
            "ping .2",
            "1 received",
            r#"
g = up()
print(g.sh('ping -n -q -c 1 -W 3 10.0.2.2 | grep -o "1 received"'))"#,
        ),
        Case::same(
            "ping .2 with `--disable-host-loopback`",
            "1 received",
            r#"
g = up('--disable-host-loopback')
print(g.sh('ping -n -q -c 1 -W 3 10.0.2.2 | grep -o "1 received"'))"#,
        ),
        Case::same(
            "ping .3",
            "1 received",
            r#"
g = up()
print(g.sh('ping -n -q -c 1 -W 3 10.0.2.3 | grep -o ". received"'))"#,
        ),
        Case::same(
            "ping an address of the guest's network that nobody has",
            "0 received",
            r#"
g = up()
print(g.sh('ping -n -q -c 1 -W 1 10.0.2.50 | grep -o ". received"'))"#,
        ),
        Case::same(
            "ping the outside",
            "1 received",
            r#"
g = up()
print(g.sh('ping -n -q -c 1 -W 3 192.0.2.1 | grep -o ". received"'))"#,
        ),
        Case::same(
            "DNS over UDP to .3",
            "192.0.2.1",
            r"
g = up()
print(g.sh('dig +short +tries=1 +time=3 @10.0.2.3 www.example A'))",
        ),
        Case::same(
            "DNS over TCP to .3",
            "192.0.2.1",
            r"
g = up()
print(g.sh('dig +tcp +short +tries=1 +time=3 @10.0.2.3 www.example A'))",
        ),
        Case::same(
            "a name that does not exist",
            "status: NXDOMAIN",
            r#"
g = up()
print(g.sh('dig +tries=1 +time=3 @10.0.2.3 nx.example A | grep -o "status: [A-Z]*"'))"#,
        ),
        Case::same(
            "TCP to another port of .3",
            "ENETUNREACH",
            r"
g = up()
print(connected(g, '10.0.2.3', 54))",
        ),
        Case::same(
            "UDP to another port of .3",
            "timeout",
            r"
g = up()
print(asked(g, '10.0.2.3', 54))",
        ),
        Case::same(
            "TCP to port 53 of .3 with `--disable-dns`",
            "timeout",
            r"
g = up('--disable-dns')
print(connected(g, '10.0.2.3', 53, timeout=1))",
        ),
        Case::same(
            "DNS over UDP to .3 with `--disable-dns`",
            "timed out",
            r"
g = up('--disable-dns')
print(resolved(g, '10.0.2.3'))",
        ),
        Case::same(
            "TCP to an address of the guest's network that nobody has",
            "timeout",
            r"
g = up()
print(connected(g, '10.0.2.50', 7000, timeout=1))",
        ),
        Case::same(
            "TCP to .1",
            "timeout",
            r"
g = up()
print(connected(g, '10.0.2.1', 7000, timeout=1))",
        ),
    ],
};

pub(super) const OUTSIDE: Group = Group {
    title: "Traffic to the outside",
    cases: &[
        // First: kernels limit such errors to five at once and one in a second.
        Case::same(
            "UDP to an unreachable network, the guest asks for errors (`IP_RECVERR`)",
            "ENETUNREACH",
            r"
g = up()
print(asked(g, '203.0.113.1', 7000, errors=True))",
        ),
        Case::same(
            "TCP to the outside",
            "connected",
            r"
g = up()
print(connected(g, '192.0.2.1', 7000))",
        ),
        Case::same(
            "data both ways",
            "intact",
            r"
g = up()
with on(g):
    download('192.0.2.1', 7000, 1000000)
    upload('192.0.2.1', 7000, 1000000)
print('intact')",
        ),
        Case::same(
            "UDP to the outside",
            "question",
            r"
g = up()
print(asked(g, '192.0.2.1', 7001))",
        ),
        Case::same(
            "TCP to a closed port outside",
            "ECONNREFUSED",
            r"
g = up()
print(connected(g, '192.0.2.1', 7999))",
        ),
        Case::same(
            "UDP to a closed port outside",
            "ECONNREFUSED",
            r"
g = up()
print(asked(g, '192.0.2.1', 7999))",
        ),
        Case::better(
            "TCP to an unreachable network",
            "timeout",
            "ENETUNREACH",
            "the error reaches the guest",
            r"
g = up()
print(connected(g, '203.0.113.1', 7000, timeout=3))",
        ),
        Case::better(
            "TCP to an unreachable host",
            "timeout",
            "EHOSTUNREACH",
            "the error reaches the guest",
            r"
g = up()
print(connected(g, '203.0.113.2', 7000, timeout=3))",
        ),
        Case::same(
            "TCP to where nothing answers",
            "timeout",
            r"
g = up()
print(connected(g, '203.0.113.3', 7000, timeout=1))",
        ),
        Case::same(
            "TCP to an address of the host, with `--disable-host-loopback`",
            "connected",
            r"
g = up('--disable-host-loopback')
with listen(7100, '192.0.2.2'):
    print(connected(g, '192.0.2.2', 7100))",
        ),
        Case::same(
            "TCP to .2 of another network: the host's loopback",
            "connected",
            r"
g = up('--cidr=10.7.0.0/24')
with listen(7100, '127.0.0.1'):
    print(connected(g, '10.7.0.2', 7100))",
        ),
        Case::same(
            "the end of what the server sends",
            "10",
            r"
g = up()
with on(g):
    s = connect('192.0.2.1', 7000)
with s:
    s.sendall(b'get 10\n')
    print(read_all(s)[0])",
        ),
        Case::same(
            "a reset by the server",
            "ECONNRESET",
            r"
g = up()
with on(REMOTE):
    l = listen(7100)
with on(g):
    s = connect('192.0.2.1', 7100)
reset(l.accept()[0])
print(outcome(lambda: s.recv(1)))",
        ),
        Case::better(
            "a reset by the guest",
            "b''",
            "ECONNRESET",
            "a reset stays one",
            r"
g = up()
with on(REMOTE):
    l = listen(7100)
with on(g):
    s = connect('192.0.2.1', 7100)
peer = l.accept()[0]
peer.settimeout(3)
reset(s)
print(outcome(lambda: peer.recv(1)))",
        ),
        Case::same(
            "half a close by the guest",
            "5",
            r"
g = up()
with on(g):
    s = connect('192.0.2.1', 7000)
with s:
    s.sendall(b'put\n12345')
    s.shutdown(SHUT_WR)
    print(read_line(s).split()[0])",
        ),
        Case::same(
            "what the outside sees of the guest",
            "TCP 192.0.2.2, UDP 192.0.2.2",
            r"
g = up()
print(source_seen(g, REMOTE, '0.0.0.0', '192.0.2.1'))",
        ),
        Case::same(
            "`--outbound-addr=192.0.2.77`: what the outside sees",
            "TCP 192.0.2.77, UDP 192.0.2.77",
            r"
g = up('--outbound-addr=192.0.2.77')
print(source_seen(g, REMOTE, '0.0.0.0', '192.0.2.1'))",
        ),
        Case::same(
            "`--outbound-addr=veth0`: what the outside sees",
            "TCP 192.0.2.2, UDP 192.0.2.2",
            r"
g = up('--outbound-addr=veth0')
print(source_seen(g, REMOTE, '0.0.0.0', '192.0.2.1'))",
        ),
        Case::same(
            "`--outbound-addr=127.0.0.1`: what the host's loopback sees",
            "TCP 127.0.0.1, UDP 127.0.0.1",
            r"
g = up('--outbound-addr=127.0.0.1')
print(source_seen(g, HOST, '127.0.0.1', '10.0.2.2'))",
        ),
        Case::better(
            "`--outbound-addr=192.0.2.77`: what the host's loopback sees",
            "TCP 192.0.2.77, UDP 192.0.2.77",
            "TCP 127.0.0.1, UDP 127.0.0.1",
            "services that admit 127.0.0.1 only go on to do so; the option is about the outside",
            r"
g = up('--outbound-addr=192.0.2.77')
print(source_seen(g, HOST, '127.0.0.1', '10.0.2.2'))",
        ),
        Case::better(
            "`--outbound-addr=192.0.2.99`, which the host does not have",
            "b'1' ENETUNREACH",
            "b'' 1",
            "a mistake is told at once",
            r"
g, s = started('--outbound-addr=192.0.2.99', ready=False)
said = s.said_ready()
print(said, connected(g, '192.0.2.1', 7000) if said else s.wait())",
        ),
        Case::same(
            "`--mtu=65520`: data both ways",
            "intact",
            r"
g = up('--mtu=65520')
with on(g):
    download('192.0.2.1', 7000, 1000000)
    upload('192.0.2.1', 7000, 1000000)
print('intact')",
        ),
    ],
};

pub(super) const IPV6: Group = Group {
    title: "IPv6 traffic",
    cases: &[
        Case::same(
            "`--enable-ipv6`: TCP to the outside",
            "connected",
            r"
g = up6()
print(connected(g, '2001:db8::1', 7000))",
        ),
        Case::same(
            "`--enable-ipv6`: UDP to the outside",
            "question",
            r"
g = up6()
print(asked(g, '2001:db8::1', 7001))",
        ),
        Case::same(
            "`--enable-ipv6`: TCP to a closed port outside",
            "ECONNREFUSED",
            r"
g = up6()
print(connected(g, '2001:db8::1', 7999))",
        ),
        Case::better(
            "`--enable-ipv6`: TCP to an unreachable network",
            "timeout",
            "ENETUNREACH",
            "the error reaches the guest",
            r"
g = up6()
print(connected(g, '2001:db8:f::1', 7000, timeout=3))",
        ),
        Case::same(
            "`--enable-ipv6`: what the outside sees of the guest",
            "TCP 2001:db8::2, UDP 2001:db8::2",
            r"
g = up6()
print(source_seen(g, REMOTE, '::', '2001:db8::1'))",
        ),
        Case::same(
            "`--enable-ipv6`: TCP to fd00::2, the host's loopback",
            "connected",
            r"
g = up6()
with listen(7100, '::1'):
    print(connected(g, 'fd00::2', 7100))",
        ),
        Case::same(
            "`--enable-ipv6`: TCP to fd00::2 with `--disable-host-loopback`",
            "ENETUNREACH",
            r"
g = up6('--disable-host-loopback')
with listen(7100, '::1'):
    print(connected(g, 'fd00::2', 7100, timeout=1))",
        ),
        Case::same(
            "`--enable-ipv6`: ping fd00::2",
            "1 received",
            r#"
g = up6()
print(g.sh('ping -n -q -c 1 -W 3 fd00::2 | grep -o ". received"'))"#,
        ),
        Case::better(
            "`--enable-ipv6`: ping the outside",
            "0 received",
            "1 received",
            "echo over IPv6",
            r#"
g = up6()
print(g.sh('ping -n -q -c 1 -W 1 2001:db8::1 | grep -o ". received"'))"#,
        ),
        Case::better(
            "`--enable-ipv6`: DNS to fd00::3 (the host's server has IPv4)",
            "timed out",
            "192.0.2.1",
            "the resolver has both addresses, whatever the host's has",
            r"
g = up6()
print(resolved(g, 'fd00::3'))",
        ),
        Case::same(
            "`--outbound-addr6=2001:db8::77`: what the outside sees",
            "TCP 2001:db8::77, UDP 2001:db8::77",
            r"
g = up6('--outbound-addr6=2001:db8::77')
print(source_seen(g, REMOTE, '::', '2001:db8::1'))",
        ),
        Case::better(
            "`--outbound-addr6=veth0`",
            "b''",
            "b'1'",
            "the interface is looked up; slirp4netns looks up `--outbound-addr`",
            r"
g, s = started('-6', '--outbound-addr6=veth0', ready=False)
print(s.said_ready())",
        ),
        Case::same(
            "`--outbound-addr=veth0 --outbound-addr6=veth0`: what the outside sees",
            "TCP 2001:db8::77, UDP 2001:db8::77",
            r"
g = up6('--outbound-addr=veth0', '--outbound-addr6=veth0')
print(source_seen(g, REMOTE, '::', '2001:db8::1'))",
        ),
    ],
};
