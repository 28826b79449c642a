//! Makes everything once and looks at it with the programs that will read it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn generated() -> TempDir {
    let dir = tempfile::tempdir().expect("directory");
    let made = Command::new(env!("CARGO_BIN_EXE_gw-packaging"))
        .arg(dir.path())
        .env("SOURCE_DATE_EPOCH", "1709251200")
        .output()
        .expect("gw-packaging");
    assert!(made.status.success(), "{made:?}");
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("directory");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

/// Runs a program of which the Debian package is `package`.
#[track_caller]
fn run(package: &str, command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install the Debian package {package}, or run tests/run")
    })
}

#[test]
fn every_command_has_a_page_without_faults() {
    let dir = generated();
    let pages = files(&dir.path().join("man"));
    let commands = gw::cli::command();
    let visible = commands.get_subcommands().filter(|c| !c.is_hide_set());
    assert_eq!(pages.len(), visible.count() + 1, "{pages:?}");
    for page in pages {
        let found = run(
            "mandoc",
            Command::new("mandoc")
                .args(["-Tlint", "-Wwarning"])
                .arg(&page),
        );
        assert!(found.status.success(), "{found:?}");
        let read = run("mandoc", Command::new("mandoc").args(["-Tutf8"]).arg(&page));
        let text = String::from_utf8_lossy(&read.stdout).into_owned();
        for heading in ["N\u{8}NA\u{8}AM\u{8}ME\u{8}E", "2024-03-01"] {
            assert!(text.contains(heading), "no {heading} in {text}");
        }
    }
}

#[test]
fn the_program_page_has_what_its_help_has() {
    let dir = generated();
    let page = fs::read_to_string(dir.path().join("man/gw.1")).expect("page");
    for wanted in [
        ".TH GW 1 2024-03-01",
        ".SH EXAMPLES",
        ".SH \"EXIT STATUS\"",
        "\\-\\-netns",
        ".BR gw-run (1),",
    ] {
        assert!(page.contains(wanted), "no {wanted} in {page}");
    }
}

#[test]
fn the_page_of_slirp4netns_has_its_options() {
    let dir = generated();
    let page = fs::read_to_string(dir.path().join("man/gw-slirp4netns.1")).expect("page");
    for wanted in [
        ".TH GW-SLIRP4NETNS 1 2024-03-01",
        "\\-\\-enable\\-sandbox",
        "\\-\\-ready\\-fd",
        "PID|PATH|FD",
        ".SH \"API SOCKET\"",
        "add_hostfwd",
        ".SH \"EXIT STATUS\"",
    ] {
        assert!(page.contains(wanted), "no {wanted} in {page}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = generated();
    let script = dir.path().join("completions/gw.bash");
    let complete = |words: &[&str]| {
        let line = format!(
            "source {script}; COMP_WORDS=(gw {words}); COMP_CWORD={count}; \
             _gw gw {last:?} gw; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script = script.display(),
            words = words.join(" "),
            count = words.len(),
            last = words.last().copied().unwrap_or_default(),
        );
        let found = run("bash", Command::new("bash").args(["-c", &line]));
        assert!(found.stderr.is_empty(), "{found:?}");
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    assert_eq!(complete(&["doc"]), "doctor\n");
    assert_eq!(complete(&["run", "--map"]), "--map-root\n");
    assert_eq!(complete(&["doctor", "--js"]), "--json\n");
    assert_eq!(complete(&["slirp4netns", "--ready"]), "--ready-fd\n");
}

#[test]
fn licences_of_others_are_named_and_given() {
    let dir = generated();
    let text = fs::read_to_string(dir.path().join("THIRD-PARTY-LICENSES")).expect("licences");
    for wanted in ["  tokio 1", "  clap 4", "Tokio Contributors", ": MIT"] {
        assert!(text.contains(wanted), "no {wanted}");
    }
    for unwanted in ["  proptest ", "  gw 0", "  cc 1", "  wasi "] {
        assert!(!text.contains(unwanted), "{unwanted} is not linked into gw");
    }
}
