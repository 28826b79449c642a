//! The slirp4netns personality beside Debian's slirp4netns 1.2.0.
//!
//! A case is a few lines of Python that use `scripts/slirp4netns.py`. Each runs
//! against both programs, in worlds that differ in nothing else, and what the
//! two show must be what stands here: the same, or something better with the
//! reason beside it. Both are compared with a text and not just with each other,
//! so that a case which sees nothing cannot pass.
//!
//! `docs/slirp4netns-compatibility.md` is written from these tables: after a
//! change, run `UPDATE=1 cargo nextest run --test netns differential`.

mod addresses;
mod api;
mod isolation;
mod lifecycle;
mod traffic;
mod usage;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::harness::peer::{dns_server, tcp_server, udp_echo};
use crate::harness::slirp4netns::{SCRIPTS, Slirp4netns, USER_ID};
use crate::harness::{ALT4, Finished, REMOTE4, World, require};

/// Every table, in the document's order.
const GROUPS: &[&Group] = &[
    &usage::WRONG,
    &usage::UNDERSTOOD,
    &lifecycle::LIFECYCLE,
    &lifecycle::TEXTS,
    &addresses::TARGETS,
    &addresses::ADDRESSES,
    &traffic::NEAR,
    &traffic::OUTSIDE,
    &traffic::IPV6,
    &api::API,
    &isolation::ISOLATION,
];

/// Cases of one kind, observed in one world per program.
struct Group {
    title: &'static str,
    cases: &'static [Case],
}

/// One behaviour.
struct Case {
    /// In the document's words.
    what: &'static str,
    script: Script,
    /// What slirp4netns 1.2.0 shows.
    reference: &'static str,
    promise: Promise,
}

enum Script {
    /// How the program ends with this command line, which is also what the
    /// case is called; `{pid}` stands for a guest.
    CommandLine,
    /// Prints what it sees.
    Python(&'static str),
}

/// What gw shows.
enum Promise {
    Same,
    Better {
        shows: &'static str,
        reason: &'static str,
    },
    /// Neither the same nor better.
    Other {
        shows: &'static str,
        reason: &'static str,
    },
}

impl Case {
    const fn command_line(line: &'static str, reference: &'static str) -> Self {
        Self {
            what: line,
            script: Script::CommandLine,
            reference,
            promise: Promise::Same,
        }
    }

    const fn same(what: &'static str, reference: &'static str, source: &'static str) -> Self {
        Self {
            what,
            script: Script::Python(source),
            reference,
            promise: Promise::Same,
        }
    }

    const fn better(
        what: &'static str,
        reference: &'static str,
        shows: &'static str,
        reason: &'static str,
        source: &'static str,
    ) -> Self {
        Self {
            what,
            script: Script::Python(source),
            reference,
            promise: Promise::Better { shows, reason },
        }
    }

    const fn other(
        what: &'static str,
        reference: &'static str,
        shows: &'static str,
        reason: &'static str,
        source: &'static str,
    ) -> Self {
        Self {
            what,
            script: Script::Python(source),
            reference,
            promise: Promise::Other { shows, reason },
        }
    }

    /// What gw shows and why, where that is not what slirp4netns does.
    fn difference(&self) -> Option<(&'static str, &'static str)> {
        match self.promise {
            Promise::Same => None,
            Promise::Better { shows, reason } | Promise::Other { shows, reason } => {
                Some((shows, reason))
            }
        }
    }

    fn source(&self) -> String {
        match self.script {
            Script::CommandLine => format!("print(usage({:?}))", self.what),
            Script::Python(source) => source.to_owned(),
        }
    }

    fn title(&self) -> String {
        match self.script {
            Script::CommandLine => {
                let line = format!("slirp4netns {}", self.what.replace("{pid}", "PID"));
                format!("`{}`", line.trim_end())
            }
            Script::Python(_) => self.what.to_owned(),
        }
    }

    fn expected(&self, program: Slirp4netns) -> &'static str {
        match (program, self.difference()) {
            (Slirp4netns::UnderTest, Some((shows, _))) => shows,
            _ => self.reference,
        }
    }

    /// Whether it takes somebody who is not root.
    fn takes_a_user(&self) -> bool {
        self.source().contains("user=True")
    }
}

/// Observes both programs, and panics with every deviation from the table.
#[track_caller]
fn compare(group: &Group) {
    let (reference, under_test) = std::thread::scope(|scope| {
        let reference = scope.spawn(|| deviations(group, Slirp4netns::Reference));
        let under_test = deviations(group, Slirp4netns::UnderTest);
        (reference.join().expect("an observation"), under_test)
    });
    let all = [reference, under_test].concat();
    assert!(all.is_empty(), "{all}");
}

/// Runs the cases with one program; returns what was not as the table says.
fn deviations(group: &Group, program: Slirp4netns) -> String {
    let world = World::new();
    let user = world.ordinary_user().is_some();
    let cases: Vec<&Case> = group
        .cases
        .iter()
        .filter(|case| user || !case.takes_a_user())
        .collect();
    let mut text = String::new();
    for (case, shown) in cases.iter().zip(observe(&world, &cases, program)) {
        let expected = case.expected(program);
        if shown != expected {
            let title = case.title();
            writeln!(
                text,
                "\n{program:?}: {title}\nexpected:\n{expected}\nsaw:\n{shown}"
            )
            .expect("writing to a string");
        }
    }
    text
}

/// What each case printed.
fn observe(world: &World, cases: &[&Case], program: Slirp4netns) -> Vec<String> {
    for needed in ["dig", "rdisc6"] {
        require(needed);
    }
    world.install_scripts();
    world.install_slirp4netns(program);
    world.outer.ok("ip address add 192.0.2.77/24 dev veth0
        ip address add 2001:db8::77/64 dev veth0 nodad preferred_lft 0");
    let _tcp = tcp_server(&world.remote, 7000);
    let _udp = udp_echo(&world.remote, 7001);
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _other_dns = dns_server(&world.remote, ALT4[0], ALT4[0]);
    let sources: Vec<String> = cases.iter().map(|case| case.source()).collect();
    let mut command = world.outer.command();
    // Shorter than the runner's limit, so that the cases seen by then are told.
    command.args(["timeout", "-k", "2", "50", "env"]);
    command
        .arg(format!(
            "PATH={}:/usr/sbin:/usr/bin:/sbin:/bin",
            program.path()
        ))
        .arg(format!("PYTHONPATH={SCRIPTS}"))
        .arg("PYTHONDONTWRITEBYTECODE=1")
        .arg(format!("REMOTE_PID={}", world.remote.inner_pid()))
        .arg(format!("TEST_USER={USER_ID}"))
        .args(["/usr/bin/python3", "-c"])
        .arg("from slirp4netns import *\nrun_cases(json.loads(sys.argv[1]))")
        .arg(serde_json::to_string(&sources).expect("JSON of strings"))
        .stdin(Stdio::null());
    let shown: Vec<String> = Finished::collect("the cases", command)
        .success()
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(shown.len(), cases.len());
    shown
}

#[test]
fn wrong_command_lines() {
    compare(&usage::WRONG);
}

#[test]
fn understood_command_lines() {
    compare(&usage::UNDERSTOOD);
}

#[test]
fn beginning_and_end() {
    compare(&lifecycle::LIFECYCLE);
}

#[test]
fn texts() {
    compare(&lifecycle::TEXTS);
}

#[test]
fn guests() {
    compare(&addresses::TARGETS);
}

#[test]
fn guest_addresses() {
    compare(&addresses::ADDRESSES);
}

#[test]
fn traffic_near_by() {
    compare(&traffic::NEAR);
}

#[test]
fn traffic_to_the_outside() {
    compare(&traffic::OUTSIDE);
}

#[test]
fn ipv6_traffic() {
    compare(&traffic::IPV6);
}

#[test]
fn the_api_socket() {
    compare(&api::API);
}

#[test]
fn sandbox_and_seccomp() {
    compare(&isolation::ISOLATION);
}

const DOCUMENT: &str = "docs/slirp4netns-compatibility.md";

#[test]
fn the_document_lists_what_is_compared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let right = document();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, right).expect("the document can be written");
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == right,
        "{DOCUMENT} is not what the tables say; \
         UPDATE=1 cargo nextest run --test netns differential"
    );
}

fn document() -> String {
    let count = |wanted: fn(&Promise) -> bool| {
        let all = GROUPS.iter().flat_map(|group| group.cases);
        all.filter(|case| wanted(&case.promise)).count()
    };
    let same = count(|promise| matches!(promise, Promise::Same));
    let better = count(|promise| matches!(promise, Promise::Better { .. }));
    let other = count(|promise| matches!(promise, Promise::Other { .. }));
    let mut text = format!(
        "# gw as slirp4netns: what was compared\n\n\
         Each line here was shown by Debian's slirp4netns 1.2.0 and by `gw`, one beside the\n\
         other: {same} behaviours are the same, {better} are better on purpose, {other} differs otherwise.\n\
         The page is written from the tables of `tests/netns/differential`, a test that fails\n\
         where it is not true.\n\n\
         How to read it:\n\n\
         - PID is a guest, `-c` configures it. Of its network, .2 is the gateway, which stands for\n\
         \x20 the host's loopback, .3 the resolver, .100 the guest.\n\
         - `exit 1` is the program's status; a status below zero is the signal that ended it.\n\
         - `b'1'` is what came out of the ready pipe, `b''` is an end of file without anything.\n\
         - `running` is a program that goes on; `ECONNREFUSED` and the like are errors that a guest\n\
         \x20 or a client gets; `timeout` is silence.\n\n\
         ## Where gw differs\n"
    );
    for group in GROUPS {
        write_differences(&mut text, group);
    }
    text.push_str("\n## What is the same\n");
    for group in GROUPS {
        write_same(&mut text, group);
    }
    text
}

fn write_differences(text: &mut String, group: &Group) {
    let mut head = format!(
        "\n### {}\n\n| | slirp4netns 1.2.0 | gw | why |\n|---|---|---|---|\n",
        group.title
    );
    for case in group.cases {
        if let Some((shows, reason)) = case.difference() {
            text.push_str(&std::mem::take(&mut head));
            let (title, reference) = (cell(&case.title()), code(case.reference));
            let (shown, reason) = (code(shows), cell(reason));
            writeln!(text, "| {title} | {reference} | {shown} | {reason} |")
                .expect("writing to a string");
        }
    }
}

fn write_same(text: &mut String, group: &Group) {
    let mut head = format!("\n### {}\n\n| | both |\n|---|---|\n", group.title);
    for case in group.cases {
        if case.difference().is_none() {
            text.push_str(&std::mem::take(&mut head));
            let (title, shown) = (cell(&case.title()), code(case.reference));
            writeln!(text, "| {title} | {shown} |").expect("writing to a string");
        }
    }
}

/// Text in a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', "<br>")
}

/// Program output in a table's cell.
fn code(text: &str) -> String {
    let quoted = |line: &str| match line.trim_end() {
        "" => String::new(),
        line if line.contains('`') => format!("`` {line} ``"),
        line => format!("`{line}`"),
    };
    match text {
        "" => "nothing".to_owned(),
        text => cell(&text.lines().map(quoted).collect::<Vec<_>>().join("\n")),
    }
}
