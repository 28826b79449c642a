//! The pages in docs/guides: their scripts are run as they stand there.
//!
//! A fenced block behind a line `<!-- test: NAME -->` is a script with that name.

use std::path::Path;

use crate::harness::gw::NOBODY;
use crate::harness::{Finished, World, gw_binary, require};

/// Answers every request on port 80 with "example".
pub(crate) const PAGE_SERVER: &str = "import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'example')
server = http.server.ThreadingHTTPServer(('0.0.0.0', 80), Page)
ready()
server.serve_forever()";

/// The script `name` of the page `page`.
#[track_caller]
pub(crate) fn script(page: &str, name: &str) -> String {
    block(page, name, "sh")
}

/// The block `name` of the page `page`, of which the language is `language`.
#[track_caller]
pub(crate) fn block(page: &str, name: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/guides")
        .join(page);
    let text = std::fs::read_to_string(&path).expect("the page");
    let marked = text.split_once(&format!("<!-- test: {name} -->\n```{language}\n"));
    let (_, rest) = marked.unwrap_or_else(|| panic!("no block {name} in {}", path.display()));
    let (script, _) = rest.split_once("\n```\n").expect("the end of a block");
    format!("{script}\n")
}

/// Who runs a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// The world's root.
    Root,
    /// A user without privilege; see [`World::allow_nobody`].
    Nobody,
}

/// Puts a script of a page into the world, where it is run by [`run`].
pub(crate) fn save(world: &World, page: &str, name: &str) {
    world.outer.ok(&format!(
        "mkdir -p -m 1777 /run/guide && cat > /run/guide/{name} <<'END OF THE SCRIPT'\n{}\
         END OF THE SCRIPT\nchmod 755 /run/guide/{name}",
        script(page, name)
    ));
}

/// Runs a saved script with arguments, with `gw` in its `PATH`.
pub(crate) fn run(world: &World, who: As, line: &str) -> Finished {
    let (prefix, gw) = match who {
        As::Root => (String::new(), gw_binary()),
        As::Nobody => (NOBODY.join(" "), crate::harness::gw::NOBODY_BINARY.into()),
    };
    world.outer.sh(&format!(
        "mkdir -p /run/guide/bin && ln -sf {} /run/guide/bin/gw && cd /run/guide && \
         exec env TMPDIR=/run/guide PATH=/run/guide/bin:$PATH {prefix} sh -c '{line}'",
        gw.display()
    ))
}

fn ci(name: &str) -> Finished {
    let world = World::new();
    save(&world, "ci.md", name);
    run(&world, As::Root, &format!("./{name}"))
}

#[test]
fn ci_doctor() {
    ci("doctor").success().says("gw works here");
}

#[test]
fn ci_jobs_with_the_same_port() {
    require("curl");
    let finished = ci("ports").success();
    for job in ["one", "two"] {
        assert!(
            finished
                .stdout
                .contains(&format!("job {job} has its server")),
            "{finished:#?}"
        );
    }
}

#[test]
fn ci_services_are_reached_by_name_only() {
    require("curl");
    let finished = ci("service").success();
    assert_eq!(
        finished.stdout, "reached by name\nout of reach without\n",
        "{finished:#?}"
    );
}

#[test]
fn ci_names_are_pinned() {
    let finished = ci("names").success();
    for address in ["192.0.2.10", "2001:db8::10"] {
        assert!(finished.stdout.contains(address), "{finished:#?}");
    }
}

#[test]
fn ci_the_status_is_the_commands() {
    assert_eq!(ci("status").success().stdout, "status 3\n");
}

#[test]
fn ci_steps_share_a_gateway() {
    require("curl");
    ci("shared")
        .success()
        .says("10.0.2.100/24")
        .says("the next step sees it");
}
