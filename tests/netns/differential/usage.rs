//! What is refused and what is understood.

use super::{Case, Group};

pub(super) const WRONG: Group = Group {
    title: "Wrong command lines",
    cases: &[
        Case::command_line("", "exit 1; usage on stdout"),
        Case::command_line(
            "abc tap0",
            "exit 1; usage on stdout; PID must be a positive integer",
        ),
        Case::command_line(
            "-5 tap0",
            "exit 1; usage on stdout; slirp4netns: invalid option -- '5'",
        ),
        Case::command_line(
            "-- -5 tap0",
            "exit 1; usage on stdout; PID must be a positive integer",
        ),
        Case::command_line(
            "0 tap0",
            "exit 1; usage on stdout; PID must be a positive integer",
        ),
        Case::command_line(
            "1x tap0",
            "exit 1; usage on stdout; PID must be a positive integer",
        ),
        Case::command_line("{pid}", "exit 1; usage on stdout"),
        Case::command_line(
            "-m 0 {pid} tap0",
            "exit 1; usage on stdout; MTU must be a positive integer (< 65522)",
        ),
        Case::command_line(
            "-m 65522 {pid} tap0",
            "exit 1; usage on stdout; MTU must be a positive integer (< 65522)",
        ),
        Case::command_line(
            "-m x {pid} tap0",
            "exit 1; usage on stdout; MTU must be a positive integer (< 65522)",
        ),
        Case::command_line(
            "-m -3 {pid} tap0",
            "exit 1; usage on stdout; MTU must be a positive integer (< 65522)",
        ),
        Case::command_line(
            "--mtu=1400x {pid} tap0",
            "exit 1; usage on stdout; MTU must be a positive integer (< 65522)",
        ),
        Case::command_line(
            "--mtu",
            "exit 1; usage on stdout; slirp4netns: option '--mtu' requires an argument",
        ),
        Case::command_line(
            "-e -1 {pid} tap0",
            "exit 1; usage on stdout; exit-fd must be a non-negative integer",
        ),
        Case::command_line(
            "-e x {pid} tap0",
            "exit 1; usage on stdout; exit-fd must be a non-negative integer",
        ),
        Case::command_line(
            "-r -1 {pid} tap0",
            "exit 1; usage on stdout; ready-fd must be a non-negative integer",
        ),
        Case::command_line(
            "-r x {pid} tap0",
            "exit 1; usage on stdout; ready-fd must be a non-negative integer",
        ),
        Case::command_line("--cidr=foo {pid} tap0", "exit 1; invalid CIDR: foo"),
        Case::command_line("--cidr= {pid} tap0", "exit 1; invalid CIDR:"),
        Case::command_line(
            "--cidr=10.0.2.0 {pid} tap0",
            "exit 1; invalid CIDR: 10.0.2.0",
        ),
        Case::command_line(
            "--cidr=10.0.2.0/x {pid} tap0",
            "exit 1; invalid CIDR: 10.0.2.0/x",
        ),
        Case::command_line(
            "--cidr=10.0.2.0/0 {pid} tap0",
            "exit 1; prefix length needs to be 1-25",
        ),
        Case::command_line(
            "--cidr=10.0.2.0/26 {pid} tap0",
            "exit 1; prefix length needs to be 1-25",
        ),
        Case::command_line(
            "--cidr=10.0.2.100/26 {pid} tap0",
            "exit 1; prefix length needs to be 1-25",
        ),
        Case::command_line(
            "--cidr=10.0.2.100/24 {pid} tap0",
            "exit 1; CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
        ),
        Case::command_line(
            "--macaddress=02:00:00:00:00:01 {pid} tap0",
            "exit 1; usage on stdout; --macaddr cannot be specified when --configure or -c is not specified",
        ),
        Case::command_line(
            "--userns-path=/nonexistent {pid} tap0",
            "exit 1; usage on stdout; userns path doesn't exist: /nonexistent",
        ),
        Case::command_line(
            "--netns-type=path /nonexistent tap0",
            "exit 1; usage on stdout; existing path expected when --netns-type=path: No such file or directory",
        ),
        Case::command_line(
            "--netns-type=path /proc/{pid}/ns/net",
            "exit 1; usage on stdout",
        ),
        Case::command_line(
            "--netns-type=word /nonexistent tap0",
            "exit 1; usage on stdout; existing path expected when --netns-type=path: No such file or directory",
        ),
        Case::command_line(
            "--netns-type=pid abc tap0",
            "exit 1; usage on stdout; PID must be a positive integer",
        ),
        Case::command_line(
            "--target-type=word {pid} tap0",
            r#"exit 1; usage on stdout; --target-type must be either "netns" or "bess""#,
        ),
        Case::command_line("--target-type=bess", "exit 1; usage on stdout"),
        Case::command_line(
            "--target-type=bess /run/a /run/b",
            "exit 1; usage on stdout; too many arguments",
        ),
        Case::command_line(
            "--target-type=bess -c /run/a",
            "exit 1; usage on stdout; --configure conflicts with --target-type=bess",
        ),
        Case::command_line(
            "--target-type=bess --netns-type=path /run/a",
            "exit 1; usage on stdout; --netns-type conflicts with --target-type=bess",
        ),
        Case::command_line(
            "--target-type=bess --userns-path=/proc/1/ns/user /run/a",
            "exit 1; usage on stdout; --userns-path conflicts with --target-type=bess",
        ),
        Case::command_line(
            "--no-such-option {pid} tap0",
            "exit 1; usage on stdout; slirp4netns: unrecognized option '--no-such-option'",
        ),
        Case::command_line(
            "-Z {pid} tap0",
            "exit 1; usage on stdout; slirp4netns: invalid option -- 'Z'",
        ),
        Case::command_line(
            "--disable {pid} tap0",
            "exit 1; usage on stdout; slirp4netns: option '--disable' is ambiguous; possibilities: '--disable-host-loopback' '--disable-dns'",
        ),
        Case::command_line(
            "--enable-s {pid} tap0",
            "exit 1; usage on stdout; slirp4netns: option '--enable-s' is ambiguous; possibilities: '--enable-sandbox' '--enable-seccomp'",
        ),
        Case::command_line(
            "--disable-dns=x {pid} tap0",
            "exit 1; usage on stdout; slirp4netns: option '--disable-dns' doesn't allow an argument",
        ),
        Case::command_line(
            "--help=x",
            "exit 1; usage on stdout; slirp4netns: option '--help' doesn't allow an argument",
        ),
        Case::command_line("-h", "exit 0; usage on stdout"),
        Case::command_line("--help and more", "exit 0; usage on stdout"),
        Case::command_line("--vers", "exit 0"),
        Case::command_line("-v", "exit 0"),
        Case::better(
            "`slirp4netns 4194304 tap0`",
            "exit 1; /proc/4194304/ns/net: No such file or directory\nchild failed(1)",
            "exit 1; there is no process 4194304; give the id of a running one, or the path of a namespace\nchild failed(1)",
            "says what to do",
            "print(usage('4194304 tap0'))",
        ),
        Case::better(
            "`slirp4netns --netns-type=path /etc/hosts tap0`",
            "exit 1; setns(CLONE_NEWNET): Invalid argument\nchild failed(1)",
            "exit 1; '/etc/hosts' is not a network namespace; give a file such as /proc/PID/ns/net\nchild failed(1)",
            "says what to do",
            "print(usage('--netns-type=path /etc/hosts tap0'))",
        ),
        Case::command_line(
            "--outbound-addr=word {pid} tap0",
            "exit 1; outbound-addr has to be valid ipv4 address or interface name.",
        ),
        Case::better(
            "`slirp4netns --outbound-addr6=word PID tap0`",
            "exit 1; outbound-addr has to be valid ipv4 address or iterface name.",
            "exit 1; outbound-addr6 has to be valid ipv6 address or interface name.",
            "names the option that is meant",
            "print(usage('--outbound-addr6=word {pid} tap0'))",
        ),
        Case::same(
            "an API socket's path of 108 bytes",
            "exit 1; the specified API socket path is too long",
            r"
told = usage('-a /' + 107 * 'x' + ' {pid} tap0')
print(told.split(';')[0], *re.findall('the specified.* too long', told), sep='; ')",
        ),
        Case::same(
            "an API socket in a folder that is not there",
            "exit 1",
            r"
print(usage('-a /nonexistent/x {pid} tap0').split(';')[0])",
        ),
    ],
};

pub(super) const UNDERSTOOD: Group = Group {
    title: "Command lines that are understood: the guest's MTU or address",
    cases: &[
        Case::same(
            "`-c -m 1400 PID tap0`",
            "1400",
            r"
g = up(*['-m', '1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c -m1400 PID tap0`",
            "1400",
            r"
g = up(*['-m1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c -cm1400 PID tap0`",
            "1400",
            r"
g = up(*['-cm1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c --mtu=1400 PID tap0`",
            "1400",
            r"
g = up(*['--mtu=1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c --mtu 1400 PID tap0`",
            "1400",
            r"
g = up(*['--mtu', '1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c --mt 1400 PID tap0`",
            "1400",
            r"
g = up(*['--mt', '1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c --mt=1400 PID tap0`",
            "1400",
            r"
g = up(*['--mt=1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c -m 9000 -m 1400 PID tap0`",
            "1400",
            r"
g = up(*['-m', '9000', '-m', '1400'])
print(link(g)['mtu'])",
        ),
        Case::same(
            "`PID tap0 -c --mtu 1400`: options after the rest",
            "1400",
            "print(mtu('{pid} tap0 -c --mtu 1400'))",
        ),
        Case::same(
            "`PID -c tap0 --mtu=1400`: options in between",
            "1400",
            "print(mtu('{pid} -c tap0 --mtu=1400'))",
        ),
        Case::same(
            "`-c -m 1400 -- PID tap0`",
            "1400",
            r"
g = up('-m', 1400, '--')
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c --netns-type=pid --target-type=netns PID tap0`",
            "1500",
            r"
g = up('--netns-type=pid', '--target-type=netns')
print(link(g)['mtu'])",
        ),
        Case::same(
            "`-c --netn=path PATH tap0`",
            "10.0.2.100/24",
            r"
g = Guest()
Slirp('-c', '--netn=path', f'/proc/{g}/ns/net', 'tap0')
print(addresses(g))",
        ),
        Case::same(
            "`-c --netns-type=word PATH tap0`: every other word is `path`",
            "10.0.2.100/24",
            r"
g = Guest()
Slirp('-c', '--netns-type=word', f'/proc/{g}/ns/net', 'tap0')
print(addresses(g))",
        ),
        Case::same(
            "a third argument",
            "10.0.2.100/24\nWARNING: too many arguments",
            r"
g = Guest()
s = Slirp('-c', g, 'tap0', 'more')
print(addresses(g))
s.stop()
print(first_with('WARNING: too many arguments', s.out()))",
        ),
        Case::same(
            "`--no-host-loopback`, not in the help any more",
            "ENETUNREACH\nWARNING: --no-host-loopback is deprecated",
            r"
g, s = started('--no-host-loopback')
print(connected(g, '10.0.2.2', 7000))
s.stop()
print(first_with('WARNING: --no-host-loopback is deprecated', s.out()))",
        ),
        Case::same(
            "`--create-sandbox`, not in the help any more",
            "NoNewPrivs 1\nWARNING: --create-sandbox is deprecated",
            r"
g, s = started('--create-sandbox')
print(status(s.pid, 'NoNewPrivs'))
s.stop()
print(first_with('WARNING: --create-sandbox is deprecated', s.out()))",
        ),
        Case::same(
            "a TAP name of 15 letters",
            "10.0.2.100/24",
            r"
g = Guest()
Slirp('-c', g, 'a23456789012345')
print(addresses(g, 'a23456789012345'))",
        ),
        Case::better(
            "a TAP name of 20 letters",
            "b'1' lo\na23456789012345",
            "b'' lo",
            "a name that is too long is refused instead of cut",
            r#"
g = Guest()
s = Slirp('-c', g, 'a2345678901234567890', ready=False)
print(s.said_ready(), g.sh('ip -br link | cut -d" " -f1'))"#,
        ),
    ],
};
