//! Who may import whom, and where `unsafe` may stand.
//!
//! The table is the one of ARCHITECTURE.md. A change here is a change of the
//! design: make it there first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each room under `src/` and the rooms it may name as `crate::ROOM`.
const RULES: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("wire", &["net"]),
    ("policy", &["net"]),
    ("sandbox", &["net"]),
    ("forward", &["net", "policy"]),
    ("impair", &["net", "wire", "policy"]),
    ("capture", &["net", "wire", "policy"]),
    ("observe", &["net", "policy"]),
    (
        "config",
        &["net", "policy", "forward", "impair", "capture", "observe"],
    ),
    (
        "control",
        &[
            "net", "policy", "forward", "impair", "capture", "observe", "config",
        ],
    ),
    ("tap", &["net", "wire", "config"]),
    ("slirp", &["net", "wire", "policy", "impair", "config"]),
    ("services", &["net", "wire", "impair", "config"]),
    (
        "gateway",
        &[
            "net", "wire", "policy", "sandbox", "forward", "impair", "capture", "observe",
            "config", "control", "tap", "slirp", "services",
        ],
    ),
    (
        "cli",
        &[
            "net", "policy", "sandbox", "forward", "impair", "capture", "observe", "config",
            "control", "tap", "services", "gateway",
        ],
    ),
];

/// Rooms that compute and do nothing else.
const PURE: &[&str] = &["net", "wire", "policy", "impair"];

/// What a pure room does not name.
const IMPURE: &[&str] = &["tokio", "nix", "libc", "socket2", "std::fs", "std::process"];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["slirp/lwip", "tap", "sandbox"];

/// A source file under `src/`, without comments and string literals.
struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    code: String,
}

impl Source {
    /// The first folder, or the file's name without its ending.
    fn room(&self) -> String {
        let first = self.path.components().next().expect("a path");
        Path::new(first.as_os_str())
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    }

    /// The crate's root files, which see everything.
    fn is_root(&self) -> bool {
        matches!(self.room().as_str(), "lib" | "main")
    }
}

#[test]
fn rooms_import_only_what_they_may() {
    let rules: BTreeMap<&str, &[&str]> = RULES.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_root()) {
        let room = source.room();
        let Some(allowed) = rules.get(room.as_str()) else {
            wrong.push(format!(
                "src/{}: the room {room} has no rule",
                source.path.display()
            ));
            continue;
        };
        for named in named_rooms(&source.code) {
            if named != room && !allowed.contains(&named.as_str()) {
                wrong.push(format!(
                    "src/{}: {room} names {named}",
                    source.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_do_no_input_or_output() {
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| PURE.contains(&source.room().as_str()))
    {
        for name in IMPURE {
            if words(&source.code).any(|word| word == format!("{name}::")) {
                wrong.push(format!("src/{}: names {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lwip_is_named_only_by_its_wrapper() {
    for source in sources() {
        assert!(
            source.path.starts_with("slirp/lwip") || !source.code.contains("lwip_sys"),
            "src/{} names lwip_sys: only src/slirp/lwip may",
            source.path.display()
        );
    }
}

#[test]
fn unsafe_stands_only_where_system_calls_and_lwip_are() {
    for source in sources() {
        let allowed = UNSAFE.iter().any(|room| source.path.starts_with(room));
        let has = source
            .code
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .any(|word| word == "unsafe");
        assert!(allowed || !has, "src/{} has unsafe", source.path.display());
    }
}

/// Rooms named as `crate::ROOM`, also inside `use crate::{...}`.
fn named_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => rooms.push(identifier(rest)),
            Some(list) => rooms.extend(top_level_items(list).iter().map(|item| identifier(item))),
        }
    }
    rooms
}

/// The items of a braced list, up to its closing brace, nested lists whole.
fn top_level_items(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().expect("never empty").push(c);
            }
        }
    }
    items.retain(|item| !item.trim().is_empty());
    items
}

fn identifier(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Paths as written, each with its trailing `::`, at every length.
fn words(code: &str) -> impl Iterator<Item = String> + '_ {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .flat_map(|path| {
            path.match_indices("::")
                .map(|(at, _)| path[..at + 2].to_owned())
                .collect::<Vec<_>>()
        })
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(&root).expect("below src").to_owned();
                found.push(Source {
                    path,
                    code: without_comments_and_strings(&text),
                });
            }
        }
    }
    assert!(found.len() > 5, "the sources are not where they should be");
    found
}

/// Blanks out comments and string literals, so that words in them do not count.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if c == '"' {
            string_length(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest.find("\"'").map_or(rest.len(), |end| end + 2)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// Bytes of the literal that `text` starts with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn the_reader_sees_what_it_should() {
    let code = without_comments_and_strings(
        "use crate::{net::{Cidr, Mtu}, wire}; // crate::no\nlet s = \"crate::no \\\" unsafe\"; crate::tap::x",
    );
    assert_eq!(named_rooms(&code), ["net", "wire", "tap"]);
    assert!(!code.contains("unsafe"));
    assert!(words("std::fs::read(tokio::net)").any(|word| word == "std::fs::"));
}
