//! Addresses, leases, advertisements, and ways to name the guest.

use super::{Case, Group};

pub(super) const ADDRESSES: Group = Group {
    title: "Addresses, DHCP, router advertisements",
    cases: &[
        Case::same(
            "`-c`: address, routes, MTU; interfaces that are up",
            "10.0.2.100/24; 10.0.2.0/24 dev tap0, default via 10.0.2.2 dev tap0; 1500\ntap0 lo",
            r"
g = up()
print(addresses(g), routes(g), link(g)['mtu'], sep='; ')
print(*(name for name in ('tap0', 'lo') if 'UP' in link(g, name)['flags']))",
        ),
        Case::same(
            "`-c`: broadcast address",
            "10.0.2.255",
            r"
g = up()
print(json.loads(g.sh('ip -j -4 addr show tap0'))[0]['addr_info'][0].get('broadcast'))",
        ),
        Case::same(
            "`-c --cidr=10.7.0.0/16`",
            "10.7.0.100/16; 10.7.0.0/16 dev tap0, default via 10.7.0.2 dev tap0",
            r"
g = up('--cidr=10.7.0.0/16')
print(addresses(g), routes(g), sep='; ')",
        ),
        Case::same(
            "`-c --cidr=192.168.77.0/25`",
            "192.168.77.100/25; 192.168.77.0/25 dev tap0, default via 192.168.77.2 dev tap0",
            r"
g = up('--cidr=192.168.77.0/25')
print(addresses(g), routes(g), sep='; ')",
        ),
        Case::same(
            "`-c --cidr=172.16.0.0/12`",
            "172.16.0.100/12; 172.16.0.0/12 dev tap0, default via 172.16.0.2 dev tap0",
            r"
g = up('--cidr=172.16.0.0/12')
print(addresses(g), routes(g), sep='; ')",
        ),
        Case::same(
            "`-c --cidr=10.0.0.0/8`",
            "10.0.0.100/8; 10.0.0.0/8 dev tap0, default via 10.0.0.2 dev tap0",
            r"
g = up('--cidr=10.0.0.0/8')
print(addresses(g), routes(g), sep='; ')",
        ),
        Case::same(
            "`-c --mtu=1`",
            "b'' 1",
            r"
g, s = started('--mtu=1', ready=False)
said = s.said_ready()
print(said, link(g)['mtu'] if said else s.wait())",
        ),
        Case::same(
            "`-c --mtu=68`",
            "b'1' 68",
            r"
g, s = started('--mtu=68', ready=False)
said = s.said_ready()
print(said, link(g)['mtu'] if said else s.wait())",
        ),
        Case::same(
            "`-c --mtu=576`",
            "b'1' 576",
            r"
g, s = started('--mtu=576', ready=False)
said = s.said_ready()
print(said, link(g)['mtu'] if said else s.wait())",
        ),
        Case::same(
            "`-c --mtu=65520`",
            "b'1' 65520",
            r"
g, s = started('--mtu=65520', ready=False)
said = s.said_ready()
print(said, link(g)['mtu'] if said else s.wait())",
        ),
        Case::other(
            "`-c --mtu=65521`: ready, MTU, what standard error has of it",
            "b'1' 65521 nothing",
            "b'1' 65520 a warning",
            "65520, which Podman and Docker ask for, is the most; a warning says so",
            r"
g, s = started('--mtu=65521', ready=False)
said = s.said_ready()
warned = 'a warning' if 'the MTU is 65520 bytes' in s.err() else 'nothing'
print(said, link(g)['mtu'] if said else s.wait(), warned)",
        ),
        Case::same(
            "`-c --macaddress=02:11:22:33:44:55`",
            "02:11:22:33:44:55",
            r"
g = up('--macaddress=02:11:22:33:44:55')
print(link(g)['address'])",
        ),
        Case::same(
            "`-c --macaddress=word`",
            "b'' 1",
            r"
g, s = started('--macaddress=word', ready=False)
print(s.said_ready(), s.wait(1))",
        ),
        Case::same(
            "`-c --macaddress=01:00:5e:00:00:01`, a group's address",
            "b'' 1",
            r"
g, s = started('--macaddress=01:00:5e:00:00:01', ready=False)
print(s.said_ready(), s.wait(1))",
        ),
        Case::same(
            "without `-c`: addresses, routes, state and MTU of the TAP",
            "none, none, down, 1500",
            r"
g = Guest()
Slirp(g, 'tap0')
state = 'up' if 'UP' in link(g)['flags'] else 'down'
print(addresses(g) or 'none', routes(g) or 'none', state, link(g)['mtu'], sep=', ')",
        ),
        Case::same(
            "a TAP that was there before, configured afterwards (rootlesskit)",
            "1 received\nconnected",
            r#"
g = Guest('ip tuntap add name tap0 mode tap; ip link set tap0 up')
Slirp('--mtu', 1400, g, 'tap0')
g.sh('ip addr add 10.0.2.100/24 dev tap0; ip route add default via 10.0.2.2')
print(g.sh('ping -n -q -c 1 -W 5 10.0.2.2 | grep -o "1 received"'))
print(connected(g, '192.0.2.1', 7000))"#,
        ),
        Case::same(
            "`-c` and a TAP that was there before",
            "10.0.2.100/24",
            r"
g = Guest('ip tuntap add name tap0 mode tap')
Slirp('-c', g, 'tap0')
print(addresses(g))",
        ),
        Case::same(
            "the first leases",
            "10.0.2.15\n10.0.2.16",
            r"
g = up()
with on(g):
    e = Ether()
    print(e.dhcp(1)[1])
    e.mac = bytes.fromhex('020000000001')
    print(e.dhcp(1)[1])",
        ),
        Case::same(
            "a lease asked for and given",
            "(5, '10.0.2.15')",
            r"
g = up()
with on(g):
    e = Ether()
    offer = e.dhcp(1)
    print(e.dhcp(3, {50: inet_aton(offer[1]), 54: offer[2][54]})[:2])",
        ),
        Case::same(
            "what a lease says: netmask, router, DNS server, server",
            "255.255.255.0 10.0.2.2 10.0.2.3 10.0.2.2",
            r"
g = up()
with on(g):
    told = Ether().dhcp(1)[2]
    print(*(inet_ntoa(told[n]) for n in (1, 3, 6, 54)))",
        ),
        Case::same(
            "what a lease says: time in seconds",
            "86400",
            r"
g = up()
with on(g):
    print(int.from_bytes(Ether().dhcp(1)[2][51]))",
        ),
        Case::same(
            "a lease of an address outside of the pool",
            "6",
            r"
g = up()
with on(g):
    print(Ether().dhcp(3, {50: inet_aton('10.0.2.77')})[0])",
        ),
        Case::same(
            "a lease with `--cidr=10.7.0.0/16`",
            "10.7.0.15 255.255.0.0 10.7.0.2 10.7.0.3 10.7.0.2",
            r"
g = up('--cidr=10.7.0.0/16')
with on(g):
    _, address, told = Ether().dhcp(1)
    print(address, *(inet_ntoa(told[n]) for n in (1, 3, 6, 54)))",
        ),
        Case::better(
            "a lease's DNS servers with `--disable-dns`",
            "10.0.2.3",
            "none",
            "a server that does not answer is not offered",
            r"
g = up('--disable-dns')
with on(g):
    told = Ether().dhcp(1)[2]
    print(inet_ntoa(told[6]) if 6 in told else 'none')",
        ),
        Case::same(
            "who of .1, .2, .3, .4, .15, .50, .100 and .255 answers ARP",
            ".2 .3",
            r"
g = up()
with on(g):
    e = Ether()
    for last in 1, 2, 3, 4, 15, 50, 100, 255:
        e.arp(f'10.0.2.{last}')
        if e.arp_reply(f'10.0.2.{last}', 0.3) is not None:
            print(f'.{last}', end=' ')",
        ),
        Case::better(
            "link addresses of two gateways",
            "the same",
            "different",
            "two of them may share a network",
            r"
g = up()
with on(g):
    first = Ether().gateway_mac()
other = up()
with on(other):
    print('the same' if Ether().gateway_mac() == first else 'different')",
        ),
        Case::same(
            "without `--enable-ipv6`",
            "no IPv6 address 0",
            r"
g = up()
time.sleep(0.5)
print(addresses(g, kind='inet6') or 'no IPv6 address', routes(g, 6).count('default'))",
        ),
        Case::same(
            "`-c --enable-ipv6`: the address",
            "fd00::/64",
            r"
g = up('-6')
eventually(lambda: addresses(g, kind='inet6'))
print(networks(g))",
        ),
        Case::same(
            "`-c --enable-ipv6`, `accept_dad=0` (Podman): the address a second after it is ready",
            "there",
            r"
g = Guest('echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad')
Slirp('-c', '-6', g, 'tap0')
ready = time.monotonic()
eventually(lambda: addresses(g, kind='inet6'))
print('there' if time.monotonic() - ready < 1 else 'late')",
        ),
        Case::better(
            "`-c --enable-ipv6`: the address when it says that it is ready",
            "none",
            "fd00::100/64",
            "the first connection of a program need not wait",
            r"
g = up('-6')
print(addresses(g, kind='inet6') or 'none')",
        ),
        Case::better(
            "`-c --enable-ipv6`: lifetimes of the address in seconds",
            "86400 14400",
            "forever forever",
            "the address is configured like the one of IPv4",
            r"
g = up6('-c')
print(*lifetimes(g))",
        ),
        Case::same(
            "`--enable-ipv6` without `-c`, a TAP that was there before (rootlesskit): the address",
            "fd00::/64",
            r"
print(networks(up6()))",
        ),
        Case::same(
            "the same: its lifetimes in seconds",
            "86400 14400",
            r"
print(*lifetimes(up6()))",
        ),
        Case::same(
            "the same: the default route",
            "default via fe80::2 dev tap0",
            r"
print(*(route for route in routes(up6(), 6).split(', ') if 'default' in route))",
        ),
        Case::same(
            "what a router advertisement says",
            r"Router preference: medium
Router lifetime: 1800 seconds
Prefix: fd00::/64
On-link: Yes
Autonomous address conf.: Yes
Valid time: 86400 seconds
Pref. time: 14400 seconds",
            r"
words = 'Router preference', 'Router life', 'Prefix', 'On-link', 'Auto', 'Valid', 'Pref.'
print(*(line for line in advertised(up6()) if line.startswith(words)), sep='\n')",
        ),
        Case::better(
            "what a router advertisement says of a DNS server",
            "",
            "Recursive DNS server: fd00::3",
            "a guest with IPv6 alone finds the resolver",
            r"
print(*(line for line in advertised(up6()) if line.startswith('Recursive')))",
        ),
    ],
};

pub(super) const TARGETS: Group = Group {
    title: "Guests",
    cases: &[
        Case::same(
            "an ordinary user, the guest by its process id",
            "10.0.2.100/24 connected",
            r"
g = Guest(user=True)
Slirp('-c', g, 'tap0', user=True)
print(addresses(g), connected(g, '192.0.2.1', 7000))",
        ),
        Case::better(
            "an ordinary user, `--netns-type=path` without `--userns-path`",
            "b'' 1",
            "b'1' running",
            "the user namespace that owns the network namespace is found",
            r"
g = Guest(user=True)
s = Slirp('-c', '--netns-type=path', f'/proc/{g}/ns/net', 'tap0', user=True, ready=False)
print(s.said_ready(), s.wait(1))",
        ),
        Case::same(
            "an ordinary user, `--netns-type=path --userns-path`",
            "10.0.2.100/24 connected",
            r"
g = Guest(user=True)
users, network = f'/proc/{g}/ns/user', f'/proc/{g}/ns/net'
Slirp('-c', f'--userns-path={users}', '--netns-type=path', network, 'tap0', user=True)
print(addresses(g), connected(g, '192.0.2.1', 7000))",
        ),
        Case::same(
            "an ordinary user, `--userns-path` and a process id",
            "10.0.2.100/24",
            r"
g = Guest(user=True)
Slirp('-c', f'--userns-path=/proc/{g}/ns/user', g, 'tap0', user=True)
print(addresses(g))",
        ),
        Case::same(
            "an ordinary user, a guest of root",
            "b'' 1",
            r"
g = Guest()
s = Slirp('-c', g, 'tap0', user=True, ready=False)
print(s.said_ready(), s.wait())",
        ),
        Case::same(
            "a named namespace of `ip netns`",
            "10.0.2.100",
            r"
sh('ip netns add named')
later(sh, 'ip netns delete named')
Slirp('-c', '--netns-type=path', '/run/netns/named', 'tap0')
print(sh('ip -n named -j addr show tap0 | grep -o 10.0.2.100'))",
        ),
        Case::better(
            "`--netns-type=tapfd FD`",
            "b'' 1 timeout",
            "b'1' running connected",
            "from slirp4netns 1.3",
            r"
g = Guest()
with on(g):
    tun = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack('16sH22x', b'tap0', 0x1002))
    sh('ip link set tap0 up; ip addr add 10.0.2.100/24 dev tap0; ip route add default via 10.0.2.2')
later(os.close, tun)
s = Slirp('--netns-type=tapfd', tun, fds=[tun], ready=False)
print(s.said_ready(), s.wait(0.3), connected(g, '192.0.2.1', 7000, timeout=1))",
        ),
        Case::same(
            "`--target-type=bess PATH`",
            "ready b'1'\nARP answered\nrunning",
            r"
s = Slirp('--target-type=bess', '/run/bess.sock', ready=False)
later(lambda: os.path.exists('/run/bess.sock') and os.unlink('/run/bess.sock'))
eventually(lambda: os.path.exists('/run/bess.sock'))
u = socket(AF_UNIX, SOCK_SEQPACKET)
u.settimeout(3)
u.connect('/run/bess.sock')
print('ready', s.said_ready())
mac = bytes.fromhex('020000000001')
question = struct.pack('!HHBBH6s4s6s4s', 1, 0x800, 6, 4, 1, mac, inet_aton('10.0.2.100'),
                       bytes(6), inet_aton('10.0.2.2'))
u.send(b'\xff' * 6 + mac + b'\x08\x06' + question)
print('ARP', 'answered' if u.recv(1500)[20:22] == b'\x00\x02' else 'is something else')
u.close()
print(s.wait(1))",
        ),
    ],
};
