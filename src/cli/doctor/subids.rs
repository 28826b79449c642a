//! Subordinate user ids: gw does without, but the container engines that start it
//! as a user (Podman, rootlesskit) need them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use nix::unistd::{Uid, User, geteuid};

use super::Check;

const NAME: &str = "subordinate ids";

/// Bytes of `/etc/subuid` that are looked at: some thousand users.
const MAX_FILE: u64 = 1 << 20;

/// What was found.
#[derive(Debug)]
pub(super) struct Facts {
    uid: Uid,
    /// `None`: the user has no name.
    user: Option<String>,
    /// Programs of the package uidmap that are not there.
    missing: Vec<&'static str>,
    /// Files in which the user has no range.
    without: Vec<&'static str>,
}

impl Facts {
    /// Looks at the machine.
    pub(super) fn collect() -> Self {
        let uid = geteuid();
        let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
        let missing = ["newuidmap", "newgidmap"].into_iter();
        let without = ["/etc/subuid", "/etc/subgid"].into_iter();
        Self {
            missing: missing.filter(|program| !installed(program)).collect(),
            without: without
                .filter(|path| !has_range(&read(path), user.as_deref(), uid))
                .collect(),
            uid,
            user,
        }
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}

fn read(path: &str) -> String {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether there is a line `USER:FIRST:COUNT` (subuid(5)) of the user's, by name or
/// number.
fn has_range(text: &str, user: Option<&str>, uid: Uid) -> bool {
    text.lines().any(|line| {
        let mut fields = line.trim().split(':');
        let (Some(who), Some(first), Some(count)) = (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let theirs = Some(who) == user || who.parse() == Ok(uid.as_raw());
        theirs && first.parse::<u32>().is_ok() && count.parse::<u32>().is_ok_and(|n| n > 0)
    })
}

/// `None` for root, who needs none.
pub(super) fn check(facts: &Facts) -> Option<Check> {
    if facts.uid.is_root() {
        return None;
    }
    let needed = "; gw does without, but rootless Podman and Docker need them";
    let user = facts.user.clone().unwrap_or_else(|| facts.uid.to_string());
    Some(match (&facts.missing[..], &facts.without[..]) {
        ([], []) => Check::pass(NAME, format!("{user} has a range, for container engines")),
        ([], without) => Check::warning(
            NAME,
            format!("{user} has no range in {}", without.join(" and ")),
            format!(
                "'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}'{needed}"
            ),
        ),
        (missing, _) => Check::warning(
            NAME,
            format!("{} not installed", missing.join(" and ")),
            format!("install the package uidmap{needed}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts {
            uid: Uid::from_raw(1000),
            user: Some("ada".into()),
            missing: Vec::new(),
            without: Vec::new(),
        }
    }

    #[test]
    fn each_outcome() {
        let status = |facts: &Facts| check(facts).map(|check| check.status);
        assert_eq!(status(&facts()), Some(Status::Pass));
        let no_range = Facts {
            without: vec!["/etc/subgid"],
            ..facts()
        };
        let check = check(&no_range).expect("one");
        assert!(check.detail.contains("/etc/subgid"), "{check:?}");
        assert!(check.remedy.is_some_and(|r| r.contains("165535 ada'")));
        let no_program = Facts {
            missing: vec!["newuidmap"],
            ..facts()
        };
        assert_eq!(status(&no_program), Some(Status::Warning));
        let root = Facts {
            uid: Uid::from_raw(0),
            ..no_program
        };
        assert_eq!(status(&root), None);
    }

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let uid = Uid::from_raw(1000);
        let has = |text| has_range(text, Some("ada"), uid);
        assert!(has("bob:1:2\nada:100000:65536\n"));
        assert!(has("1000:100000:65536"));
        for text in [
            "",
            "adam:100000:65536",
            "ada:100000",
            "ada:100000:0",
            "ada:x:1",
        ] {
            assert!(!has(text), "{text:?}");
        }
        assert!(!has_range("ada:1:1", None, uid));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,100}") {
            let _ = has_range(&text, Some("ada"), Uid::from_raw(1));
        }
    }
}
