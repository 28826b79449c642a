//! The resolv.conf that a command of `gw run` finds.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;

use super::summary::resolvers;
use crate::config::{Config, DnsConfig};

/// Bytes of the host's file that are looked at.
const MAX_FILE: u64 = 64 << 10;

/// Its text; `None` when the gateway has no resolver, so that the host's file
/// is the best there is.
pub(crate) fn text(config: &Config) -> Option<String> {
    let dns = config.dns.as_ref()?;
    let mut text = String::from("# Made by gw for this namespace.\n");
    for server in resolvers(&config.plan) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    let search = dns.search.clone().unwrap_or_else(|| host_search(dns));
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if dns.ndots != 1 {
        let _ = writeln!(text, "options ndots:{}", dns.ndots);
    }
    Some(text)
}

fn host_search(dns: &DnsConfig) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(&dns.resolv_conf)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    search_of(&String::from_utf8_lossy(&bytes))
}

/// The search list of a resolv.conf: the last `search` or `domain` line counts
/// (resolv.conf(5)).
fn search_of(text: &str) -> Vec<String> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("search") => list = words.map(str::to_owned).collect(),
            Some("domain") => list = words.take(1).map(str::to_owned).collect(),
            _ => {}
        }
    }
    list.retain(|domain| !domain.trim_end_matches('.').is_empty());
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use crate::cli::resolve::resolve;
    use clap::Parser;
    use proptest::prelude::*;

    fn config(line: &str) -> Config {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        resolve(cli).expect("resolves").config
    }

    #[test]
    fn the_enabled_families_are_named() {
        let text = |line| text(&config(line)).expect("there is DNS");
        assert_eq!(
            text("gw run --search a.b --search c.d --ndots 3"),
            "# Made by gw for this namespace.\nnameserver 10.0.2.3\nnameserver fd00::3\n\
             search a.b c.d\noptions ndots:3\n"
        );
        let v6 = text("gw run --no-ipv4 --search .");
        assert_eq!(v6, "# Made by gw for this namespace.\nnameserver fd00::3\n");
        assert_eq!(super::text(&config("gw run --no-dns")), None);
    }

    #[test]
    fn the_hosts_search_list() {
        assert_eq!(search_of("search a b\nnameserver 1.1.1.1\n"), ["a", "b"]);
        assert_eq!(search_of("search a b\ndomain c d\n"), ["c"]);
        assert_eq!(search_of("domain c\n search x\n#search y"), ["x"]);
        assert_eq!(search_of("search .\n"), Vec::<String>::new());
        assert_eq!(search_of("searching x"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,200}") {
            let _ = search_of(&text);
        }
    }
}
