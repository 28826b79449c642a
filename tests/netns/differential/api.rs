//! The API socket.

use super::{Case, Group};

pub(super) const API: Group = Group {
    title: "The API socket",
    cases: &[
        Case::same(
            "a forward to the guest: its address by default, empty, given",
            r#"{"return":{"id":1}}
hello
{"return":{"id":2}}
hello
{"return":{"id":3}}
hello"#,
            r"
a = Api()
with on(a.guest):
    l = listen(80, '0.0.0.0')
for port, guest in (8080, None), (8081, ''), (8082, '10.0.2.100'):
    print(a.add(host_port=port, guest_addr=guest))
    with connect('127.0.0.1', port) as s:
        l.settimeout(5)
        with l.accept()[0] as peer:
            peer.sendall(b'hello')
            print(read_exactly(s, 5).decode())",
        ),
        Case::same(
            "the forward's address by default and empty",
            r#"{"return":{"id":1}} {"return":{"id":2}}
0.0.0.0:8080
0.0.0.0:8081"#,
            r#"
a = Api()
print(a.add(host_addr=None), a.add(host_addr='', host_port=8081))
print(sh('ss -Hltn | grep -o "[0-9.]*:808[01]" | sort'))"#,
        ),
        Case::same(
            "TCP from the outside: what the guest sees",
            "192.0.2.1",
            r"
a = Api()
with on(a.guest):
    l = listen(80, '0.0.0.0')
a.add(host_addr='0.0.0.0')
with on(REMOTE):
    s = connect('192.0.2.2', 8080)
l.settimeout(5)
print(l.accept()[1][0])",
        ),
        Case::same(
            "TCP from the host's loopback: what the guest sees",
            "10.0.2.2",
            r"
a = Api()
with on(a.guest):
    l = listen(80, '0.0.0.0')
a.add()
s = connect('127.0.0.1', 8080)
l.settimeout(5)
print(l.accept()[1][0])",
        ),
        Case::same(
            "UDP from the outside: what the guest sees, and the answer",
            "{\"return\":{\"id\":1}}\n192.0.2.1 answer to question",
            r"
a = Api()
with on(a.guest):
    u = udp('0.0.0.0', 80)
print(a.add(proto='udp', host_addr='0.0.0.0'))
with on(REMOTE):
    s = udp()
s.sendto(b'question', ('192.0.2.2', 8080))
data, peer = u.recvfrom(100)
u.sendto(b'answer to ' + data, peer)
print(peer[0], s.recv(100).decode())",
        ),
        Case::same(
            "UDP from the host's loopback: what the guest sees, and the answer",
            "{\"return\":{\"id\":1}}\n10.0.2.2 answer to question",
            r"
a = Api()
with on(a.guest):
    u = udp('0.0.0.0', 80)
print(a.add(proto='udp', host_addr='0.0.0.0'))
with on(HOST):
    s = udp()
s.sendto(b'question', ('127.0.0.1', 8080))
data, peer = u.recvfrom(100)
u.sendto(b'answer to ' + data, peer)
print(peer[0], s.recv(100).decode())",
        ),
        Case::better(
            "a closed port of the guest",
            "b''",
            "ECONNRESET",
            "the guest's refusal reaches the client",
            r"
a = Api()
a.add()
s = connect('127.0.0.1', 8080, timeout=3)
print(outcome(lambda: s.recv(1)))",
        ),
        Case::better(
            "the answer to `list_hostfwd`",
            r#"{"entries":[]}
{"entries":[{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}]}"#,
            r#"{"return":{"entries":[]},"entries":[]}
{"return":{"entries":[{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}]},"entries":[{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}]}"#,
            "slirp4netns's manual promises `return`, and its program answers without: here are both",
            r"
a = Api()
print(a.list())
a.add()
print(a.list())",
        ),
        Case::same(
            "the list after an addition, another, and a removal",
            "[1]\n[1, 2]\n[2]",
            r"
a = Api()
def ids():
    return [entry['id'] for entry in entries(a.list())]
a.add()
print(ids())
a.add(proto='udp', host_addr='0.0.0.0', host_port=8053, guest_port=53)
print(ids())
a.remove(1)
print(ids())",
        ),
        Case::same(
            "numbers are not used again",
            r#"{"return":{"id":1}} {"return":{}} {"return":{"id":2}} {"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
            r"
a = Api()
print(a.add(), a.remove(1), a.add(), a.remove(1))",
        ),
        Case::same(
            "after its removal a forward is closed",
            "ECONNREFUSED",
            r"
a = Api()
a.add()
a.remove(1)
print(outcome(lambda: connect('127.0.0.1', 8080)))",
        ),
        Case::same(
            "TCP and UDP with the same port",
            r#"{"return":{"id":1}} {"return":{"id":2}}"#,
            r"
a = Api()
print(a.add(), a.add(proto='udp'))",
        ),
        Case::same(
            "the same port twice",
            r#"{"return":{"id":1}} {"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#,
            r"
a = Api()
print(a.add(), a.add())",
        ),
        Case::same(
            "a port in use",
            r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#,
            r"
a = Api()
with listen(8080, '127.0.0.1'):
    print(a.add())",
        ),
        Case::same(
            "an address that the host does not have",
            r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#,
            r"
a = Api()
print(a.add(host_addr='203.0.113.77'))",
        ),
        Case::better(
            "without `proto`",
            "-11",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            "a bad request is answered; slirp4netns crashes",
            r"
a = Api()
print(a.add(proto=None) or a.slirp.wait())",
        ),
        Case::same(
            r#"`proto`: `""`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            r"
a = Api()
print(a.add(proto='') or a.slirp.wait())",
        ),
        Case::same(
            r#"`proto`: `"sctp"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            r"
a = Api()
print(a.add(proto='sctp') or a.slirp.wait())",
        ),
        Case::same(
            r#"`proto`: `"tcp6"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            r"
a = Api()
print(a.add(proto='tcp6') or a.slirp.wait())",
        ),
        Case::same(
            r#"`proto`: `"TCP"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            r"
a = Api()
print(a.add(proto='TCP') or a.slirp.wait())",
        ),
        Case::better(
            "`proto`: `5`",
            "-11",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            "a bad request is answered; slirp4netns crashes",
            r"
a = Api()
print(a.add(proto=5) or a.slirp.wait())",
        ),
        Case::same(
            r#"`host_addr`: `"word"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_addr"}}"#,
            r"
a = Api()
print(a.add(host_addr='word') or a.slirp.wait())",
        ),
        Case::better(
            r#"`host_addr`: `"::1"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_addr"}}"#,
            r#"{"return":{"id":1}}"#,
            "forwards over IPv6 can be had",
            r"
a = Api()
print(a.add(host_addr='::1') or a.slirp.wait())",
        ),
        Case::same(
            r#"`host_addr`: `"10.0.2.300"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_addr"}}"#,
            r"
a = Api()
print(a.add(host_addr='10.0.2.300') or a.slirp.wait())",
        ),
        Case::better(
            "`host_addr`: `5`",
            r#"{"return":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_addr"}}"#,
            "what is no address is refused; slirp4netns opens the port on all of them",
            r"
a = Api()
print(a.add(host_addr=5) or a.slirp.wait())",
        ),
        Case::same(
            "without `host_port`",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_port"}}"#,
            r"
a = Api()
print(a.add(host_port=None) or a.slirp.wait())",
        ),
        Case::same(
            "`host_port`: `0`",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_port"}}"#,
            r"
a = Api()
print(a.add(host_port=0) or a.slirp.wait())",
        ),
        Case::better(
            "`host_port`: `-1`",
            r#"{"return":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_port"}}"#,
            "what is no port is refused; slirp4netns forwards another one",
            r"
a = Api()
print(a.add(host_port=-1) or a.slirp.wait())",
        ),
        Case::better(
            "`host_port`: `65536`",
            r#"{"return":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_port"}}"#,
            "what is no port is refused; slirp4netns forwards another one",
            r"
a = Api()
print(a.add(host_port=65536) or a.slirp.wait())",
        ),
        Case::same(
            r#"`host_port`: `"80"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_port"}}"#,
            r"
a = Api()
print(a.add(host_port='80') or a.slirp.wait())",
        ),
        Case::better(
            "`host_port`: `80.5`",
            r#"{"return":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.host_port"}}"#,
            "what is no port is refused; slirp4netns forwards another one",
            r"
a = Api()
print(a.add(host_port=80.5) or a.slirp.wait())",
        ),
        Case::same(
            r#"`guest_addr`: `"word"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_addr"}}"#,
            r"
a = Api()
print(a.add(guest_addr='word') or a.slirp.wait())",
        ),
        Case::same(
            r#"`guest_addr`: `"::1"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_addr"}}"#,
            r"
a = Api()
print(a.add(guest_addr='::1') or a.slirp.wait())",
        ),
        Case::better(
            "`guest_addr`: `5`",
            r#"{"return":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_addr"}}"#,
            "what is no address is refused; slirp4netns takes the guest's",
            r"
a = Api()
print(a.add(guest_addr=5) or a.slirp.wait())",
        ),
        Case::same(
            "without `guest_port`",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_port"}}"#,
            r"
a = Api()
print(a.add(guest_port=None) or a.slirp.wait())",
        ),
        Case::same(
            "`guest_port`: `0`",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_port"}}"#,
            r"
a = Api()
print(a.add(guest_port=0) or a.slirp.wait())",
        ),
        Case::better(
            "`guest_port`: `65536`",
            r#"{"return":{"id":1}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_port"}}"#,
            "what is no port is refused; slirp4netns forwards to another one",
            r"
a = Api()
print(a.add(guest_port=65536) or a.slirp.wait())",
        ),
        Case::same(
            r#"`guest_port`: `"80"`"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.guest_port"}}"#,
            r"
a = Api()
print(a.add(guest_port='80') or a.slirp.wait())",
        ),
        Case::same(
            "all wrong at once",
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}"#,
            r"
a = Api()
print(a.add(proto='x', host_addr='x', host_port=0, guest_addr='x', guest_port=0))",
        ),
        Case::better(
            "without `arguments`",
            r#"-11
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
            "a bad request is answered; slirp4netns crashes",
            r"
for name in 'add_hostfwd', 'remove_hostfwd':
    a = Api()
    print(a.ask({'execute': name}) or a.slirp.wait())",
        ),
        Case::better(
            "`arguments` that are no object",
            r#"-11
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
            r#"{"error":{"desc":"bad request: add_hostfwd: bad arguments.proto"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
            "a bad request is answered; slirp4netns crashes",
            r"
for name in 'add_hostfwd', 'remove_hostfwd':
    a = Api()
    print(a.ask({'execute': name, 'arguments': 5}) or a.slirp.wait())",
        ),
        Case::same(
            r#"removal of what there is not: 0, 1, -1, "1", 1.5, null"#,
            r#"{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}
{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#,
            r"
a = Api()
for id in 0, 1, -1, '1', 1.5, None:
    print(a.remove(id))",
        ),
        Case::same(
            r#"the request """#,
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            r"
a = Api()
print(entries(a.ask('')))",
        ),
        Case::same(
            r#"the request "\n""#,
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            r"
a = Api()
print(entries(a.ask('\n')))",
        ),
        Case::same(
            "the request `hello`",
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            r"
a = Api()
print(entries(a.ask('hello')))",
        ),
        Case::same(
            "the request `{`",
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            r"
a = Api()
print(entries(a.ask('{')))",
        ),
        Case::same(
            "the request `[]`",
            r#"{"error":{"desc":"bad request: json_object() failed"}}"#,
            r"
a = Api()
print(entries(a.ask('[]')))",
        ),
        Case::same(
            r#"the request `"text"`"#,
            r#"{"error":{"desc":"bad request: json_object() failed"}}"#,
            r#"
a = Api()
print(entries(a.ask('"text"')))"#,
        ),
        Case::same(
            "the request `5`",
            r#"{"error":{"desc":"bad request: json_object() failed"}}"#,
            r"
a = Api()
print(entries(a.ask('5')))",
        ),
        Case::same(
            "the request `null`",
            r#"{"error":{"desc":"bad request: json_object() failed"}}"#,
            r"
a = Api()
print(entries(a.ask('null')))",
        ),
        Case::same(
            "the request `{}`",
            r#"{"error":{"desc":"bad request: no execute found"}}"#,
            r"
a = Api()
print(entries(a.ask('{}')))",
        ),
        Case::same(
            r#"the request `{"execute":5}`"#,
            r#"{"error":{"desc":"bad request: no execute found"}}"#,
            r#"
a = Api()
print(entries(a.ask('{"execute":5}')))"#,
        ),
        Case::same(
            r#"the request `{"execute":"word"}`"#,
            r#"{"error":{"desc":"bad request: unknown execute"}}"#,
            r#"
a = Api()
print(entries(a.ask('{"execute":"word"}')))"#,
        ),
        Case::same(
            r#"the request `{"execute":"LIST_HOSTFWD"}`"#,
            r#"{"error":{"desc":"bad request: unknown execute"}}"#,
            r#"
a = Api()
print(entries(a.ask('{"execute":"LIST_HOSTFWD"}')))"#,
        ),
        Case::same(
            r#"the request `{"execute":"list_hostfwd"} more`"#,
            "[]",
            r#"
a = Api()
print(entries(a.ask('{"execute":"list_hostfwd"} more')))"#,
        ),
        Case::same(
            r#"the request `{"execute":"list_hostfwd"}{"execute":"list_hostfwd"}`"#,
            "[]",
            r#"
a = Api()
print(entries(a.ask('{"execute":"list_hostfwd"}{"execute":"list_hostfwd"}')))"#,
        ),
        Case::same(
            r#"the request " {"execute": "list_hostfwd"} \n\n""#,
            "[]",
            r#"
a = Api()
print(entries(a.ask(' {"execute": "list_hostfwd"} \n\n')))"#,
        ),
        Case::same(
            r#"the request `{"execute":"list_hostfwd","more":1}`"#,
            "[]",
            r#"
a = Api()
print(entries(a.ask('{"execute":"list_hostfwd","more":1}')))"#,
        ),
        Case::same(
            r#"the request `{"execute":"list_hostfwd","execute":"word"}`"#,
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            r#"
a = Api()
print(entries(a.ask('{"execute":"list_hostfwd","execute":"word"}')))"#,
        ),
        Case::same(
            r#"the request `{"arguments":{}}`"#,
            r#"{"error":{"desc":"bad request: no execute found"}}"#,
            r#"
a = Api()
print(entries(a.ask('{"arguments":{}}')))"#,
        ),
        Case::same(
            "a request of 4095 bytes, of 4096",
            "[]\n{\"error\":{\"desc\":\"bad request: too large message\"}}",
            r#"
a = Api()
for length in 4095, 4096:
    print(entries(a.ask('{"execute":"list_hostfwd"}'.ljust(length))))"#,
        ),
        Case::same(
            "a request without an end of file",
            "[]",
            r#"
a = Api()
print(entries(a.ask('{"execute":"list_hostfwd"}', end=False)))"#,
        ),
        Case::better(
            "a request in two parts",
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            "[]",
            "a request may come in pieces, as every stream may",
            r#"
a = Api()
s = socket(AF_UNIX, SOCK_STREAM)
s.settimeout(5)
s.connect(a.path)
s.sendall(b'{"execute":')
time.sleep(0.2)
outcome(lambda: s.sendall(b'"list_hostfwd"}') or s.shutdown(SHUT_WR))
print(entries(s.recv(1000).decode()))"#,
        ),
        Case::better(
            "three clients at once, the first says nothing: what the third gets",
            "EAGAIN",
            "[]",
            "a client that says nothing does not keep others waiting",
            r#"
a = Api()
silent, second, third = (socket(AF_UNIX, SOCK_STREAM) for _ in range(3))
with silent, second, third:
    for s in silent, second, third:
        s.settimeout(1)
    def asked_by_third():
        silent.connect(a.path)
        second.connect(a.path)
        third.connect(a.path)
        third.sendall(b'{"execute":"list_hostfwd"}')
        return entries(third.recv(1000).decode())
    print(outcome(asked_by_third))"#,
        ),
        Case::same(
            "clients that leave without their answers",
            "running []",
            r#"
a = Api()
for _ in range(5):
    with socket(AF_UNIX, SOCK_STREAM) as s:
        s.connect(a.path)
        s.sendall(b'{"execute":"list_hostfwd"}')
print(a.slirp.wait(0.2), entries(a.list()))"#,
        ),
        Case::same(
            "bytes that are no text",
            r#"{"error":{"desc":"bad request: cannot parse JSON"}}"#,
            r"
a = Api()
print(a.ask(b'\xff\xfe\x00{}'))",
        ),
        Case::better(
            "what is told on standard error",
            "every request",
            "why one failed",
            "what fails is told, with its reason and remedy",
            r"
a = Api()
a.list()
with listen(8080, '127.0.0.1'):
    a.add()
told = {'list_hostfwd': 'every request', 'in use': 'why one failed'}
print(*(what for words, what in told.items() if words in a.slirp.err()))",
        ),
        Case::same(
            "a forward in the guest's network of `--cidr=10.7.0.0/24`: its guest by default",
            r#"{"return":{"id":1}}
[{'id': 1, 'proto': 'tcp', 'host_addr': '127.0.0.1', 'host_port': 8080, 'guest_addr': '10.7.0.100', 'guest_port': 80}]"#,
            r"
a = Api('--cidr=10.7.0.0/24')
print(a.add(guest_addr=None))
print(entries(a.list()))",
        ),
        Case::same(
            "forwards with `--disable-host-loopback`",
            "{\"return\":{\"id\":1}}\n10.0.2.2",
            r"
a = Api('--disable-host-loopback')
with on(a.guest):
    l = listen(80, '0.0.0.0')
print(a.add())
with connect('127.0.0.1', 8080):
    l.settimeout(5)
    print(l.accept()[1][0])",
        ),
        Case::same(
            "the socket's mode",
            "0o140755",
            r"
a = Api()
print(oct(os.stat(a.path).st_mode))",
        ),
    ],
};
