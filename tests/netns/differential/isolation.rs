//! Sandbox and seccomp.

use super::{Case, Group};

pub(super) const ISOLATION: Group = Group {
    title: "Sandbox and seccomp",
    cases: &[
        Case::same(
            "root, no option: privileges",
            "NoNewPrivs 0, Seccomp 0, capabilities its starter's",
            r"
g, s = started()
print(privileges(s.pid))",
        ),
        Case::same(
            "an ordinary user, no option: privileges",
            "NoNewPrivs 0, Seccomp 0, effective none, permitted none, bounding its starter's",
            r"
g, s = started(user=True)
print(privileges(s.pid))",
        ),
        Case::same(
            "root, `--enable-sandbox`: privileges",
            "NoNewPrivs 1, Seccomp 0, capabilities NET_BIND_SERVICE",
            r"
g, s = started('--enable-sandbox')
print(privileges(s.pid))",
        ),
        Case::same(
            "an ordinary user, `--enable-sandbox`: privileges",
            "NoNewPrivs 1, Seccomp 0, capabilities NET_BIND_SERVICE",
            r"
g, s = started('--enable-sandbox', user=True)
print(privileges(s.pid))",
        ),
        Case::same(
            "root, `--enable-seccomp`: privileges",
            "NoNewPrivs 1, Seccomp 2, capabilities its starter's",
            r"
g, s = started('--enable-seccomp')
print(privileges(s.pid))",
        ),
        Case::same(
            "an ordinary user, `--enable-seccomp`: privileges",
            "NoNewPrivs 1, Seccomp 2, effective none, permitted none, bounding its starter's",
            r"
g, s = started('--enable-seccomp', user=True)
print(privileges(s.pid))",
        ),
        Case::same(
            "root, `--enable-sandbox --enable-seccomp`: privileges",
            "NoNewPrivs 1, Seccomp 2, capabilities NET_BIND_SERVICE",
            r"
g, s = started('--enable-sandbox', '--enable-seccomp')
print(privileges(s.pid))",
        ),
        Case::same(
            "an ordinary user, `--enable-sandbox --enable-seccomp`: privileges",
            "NoNewPrivs 1, Seccomp 2, capabilities NET_BIND_SERVICE",
            r"
g, s = started('--enable-sandbox', '--enable-seccomp', user=True)
print(privileges(s.pid))",
        ),
        Case::same(
            "an ordinary user: ids",
            "Uid 54711	54711	54711	54711, Gid 54711	54711	54711	54711",
            r"
g, s = started('--enable-sandbox', user=True)
print(status(s.pid, 'Uid', 'Gid'))",
        ),
        Case::same(
            "root, `--enable-sandbox`: the root folder",
            "etc run",
            r"
g, s = started('--enable-sandbox')
print(*sorted(os.listdir(f'/proc/{s.pid}/root')))",
        ),
        Case::same(
            "an ordinary user, `--enable-sandbox`: the root folder",
            "etc run",
            r"
g, s = started('--enable-sandbox', user=True)
print(*sorted(os.listdir(f'/proc/{s.pid}/root')))",
        ),
        Case::same(
            "`--enable-sandbox`: working folder",
            "/",
            r"
g, s = started('--enable-sandbox', user=True)
print(os.readlink(f'/proc/{s.pid}/cwd'))",
        ),
        Case::same(
            "`--enable-sandbox`: mounts",
            "/ ro\n/etc ro\n/run ro",
            r"
g, s = started('--enable-sandbox', user=True)
for line in sorted(open(f'/proc/{s.pid}/mountinfo'), key=lambda line: line.split()[4]):
    words = line.split()
    if words[4].count('/') == 1:
        print(words[4], words[5].split(',')[0])",
        ),
        Case::same(
            "`--enable-sandbox`: the host's mounts afterwards",
            "as before",
            r"
before = open('/proc/self/mountinfo').read()
g, s = started('--enable-sandbox', user=True)
s.stop()
print('as before' if open('/proc/self/mountinfo').read() == before else 'others')",
        ),
        Case::better(
            "`--enable-sandbox`: namespaces that are the host's",
            "cgroup ipc net pid pid_for_children time time_for_children uts",
            "cgroup net pid pid_for_children time time_for_children uts",
            "the host's System V and POSIX queues are out of reach",
            r"
g, s = started('--enable-sandbox', user=True)
print(*namespaces_of_the_host(s.pid))",
        ),
        Case::same(
            "no sandbox: namespaces that are the host's",
            "cgroup ipc mnt net pid pid_for_children time time_for_children user uts",
            r"
g, s = started(user=True)
print(*namespaces_of_the_host(s.pid))",
        ),
        Case::same(
            "`--enable-sandbox --enable-seccomp`: TCP, UDP, DNS, ping",
            "connected question\n192.0.2.1\n1 received",
            r#"
g = up('--enable-sandbox', '--enable-seccomp', user=True)
print(connected(g, '192.0.2.1', 7000), asked(g, '192.0.2.1', 7001))
print(g.sh('dig +short +tries=1 +time=3 @10.0.2.3 www.example A'))
print(g.sh('ping -n -q -c 1 -W 3 192.0.2.1 | grep -o ". received"'))"#,
        ),
        Case::same(
            "`--enable-sandbox`: the host's new resolv.conf, two questions later",
            "192.0.2.1\n198.51.100.1",
            r"
g = up('--enable-sandbox', user=True)
print(resolved(g, '10.0.2.3'))
old = open('/etc/resolv.conf').read()
later(lambda: open('/etc/resolv.conf', 'w').write(old))
with open('/etc/resolv.conf', 'w') as file:
    file.write('nameserver 198.51.100.1\n')
# It may look at the file once in a second, and after it has answered.
time.sleep(1.2)
resolved(g, '10.0.2.3')
time.sleep(1.2)
print(resolved(g, '10.0.2.3'))",
        ),
        Case::same(
            "root, `--enable-sandbox`: a forward of a port below 1024",
            r#"{"return":{"id":1}}"#,
            r"
print(Api('--enable-sandbox').add(host_port=81))",
        ),
        Case::same(
            "an ordinary user, `--enable-sandbox`: a forward of a port below 1024",
            r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#,
            r"
print(Api('--enable-sandbox', user=True).add(host_port=81))",
        ),
        Case::same(
            "an ordinary user, `--enable-sandbox --enable-seccomp`: a forward",
            "{\"return\":{\"id\":1}}\nhello",
            r"
a = Api('--enable-sandbox', '--enable-seccomp', user=True)
with on(a.guest):
    l = listen(80, '0.0.0.0')
    l.settimeout(5)
print(a.add())
with connect('127.0.0.1', 8080) as s:
    with l.accept()[0] as peer:
        peer.sendall(b'hello')
        print(read_exactly(s, 5).decode())",
        ),
        Case::same(
            "what is said of `--enable-sandbox --enable-seccomp`",
            "WARNING: Support for seccomp is experimental",
            r"
g, s = started('--enable-sandbox', '--enable-seccomp', user=True)
s.stop()
print(first_with('WARNING: Support for seccomp is experimental', s.out()))",
        ),
        Case::better(
            "`--enable-sandbox`: the API's socket at the end",
            "0 there",
            "0 gone",
            "it is removed from inside the sandbox, too",
            r"
a = Api('--enable-sandbox', user=True)
print(a.slirp.stop(), there(a.path))",
        ),
    ],
};
