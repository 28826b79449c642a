//! The licence texts of the packages that are linked into gw: their licences ask
//! that these go with a binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::Error;

const INTRODUCTION: &str = "\
gw is linked with the packages below, each under the licence named with it. Their
licence texts follow; equal ones are given once. What else is in the program stands in
THIRD-PARTY-NOTICES.
";

/// How the names of files with licences begin, in capitals.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

/// Files longer than this are no licences, in bytes.
const MAX_LICENCE: u64 = 128 << 10;

/// The list and the texts.
pub(crate) fn text() -> Result<String, Error> {
    let metadata = MetadataCommand::new()
        .other_options([
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            target(),
        ])
        .exec()?;
    let packages = linked(&metadata, "gw")?;
    let mut text = INTRODUCTION.to_owned();
    text.push('\n');
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("see its text");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name}: {licence}");
        for found in texts_of(package) {
            texts.entry(found).or_default().insert(name.clone());
        }
    }
    for (licence, users) in texts {
        let users: Vec<String> = users.into_iter().collect();
        let line = "-".repeat(72);
        let _ = write!(text, "\n{line}\n{}:\n\n{licence}", users.join(", "));
    }
    Ok(text)
}

/// The target whose dependencies are listed; they are the same for every processor
/// that gw is built for.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Packages of others that are linked into `root`, directly or not.
fn linked<'a>(metadata: &'a Metadata, root: &str) -> Result<Vec<&'a Package>, Error> {
    let start = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == root)
        .ok_or_else(|| Error::NoPackage(root.to_owned()))?;
    let nodes: BTreeMap<&PackageId, _> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (&node.id, node))
        .collect();
    let mut seen = BTreeSet::from([&start.id]);
    let mut waiting = vec![&start.id];
    while let Some(id) = waiting.pop() {
        let deps = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let is_linked = |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
        for dep in deps.filter(|dep| dep.dep_kinds.iter().any(is_linked)) {
            if seen.insert(&dep.pkg) {
                waiting.push(&dep.pkg);
            }
        }
    }
    let mut packages: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|package| seen.contains(&package.id) && package.source.is_some())
        .collect();
    packages.sort_by_key(|package| (package.name.to_string(), package.version.clone()));
    Ok(packages)
}

/// The licence texts in a package's folder, with one form of line ends.
fn texts_of(package: &Package) -> BTreeSet<String> {
    let dir = package.manifest_path.parent();
    let entries = dir.and_then(|dir| fs::read_dir(dir).ok());
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            NAMES.iter().any(|wanted| name.starts_with(wanted))
        })
        .filter_map(|entry| read(&entry.path()))
        .collect()
}

fn read(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_LICENCE {
        return None;
    }
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    Some(format!("{}\n", lines.join("\n").trim_matches('\n')))
}
