//! Which names a name stands for, and in what order they are tried.
//!
//! Pure. The rules are those of resolv.conf's `search` and `ndots`
//! (resolv.conf(5)): a name with at least `ndots` dots is tried as given
//! first, any other name is tried as given last. An absolute name (one with a
//! trailing dot) and a literal address stand for themselves alone.

use std::net::IpAddr;

use hickory_proto::rr::Name;

/// Search domains kept of one list; the rest is ignored. glibc kept 6 until
/// 2.26; each of them costs a query per failing lookup.
pub(super) const MAX_SEARCH_DOMAINS: usize = 32;

/// The names to try for `name`, absolute, in order, without repetition.
///
/// `name` is absolute when its `is_fqdn` flag is set. Candidates longer than
/// the 255 bytes that a name has on the wire (RFC 1035 section 2.3.4), 253 as
/// text, are left out.
pub(super) fn candidates(name: &Name, domains: &[Name], ndots: u8) -> Vec<Name> {
    let mut bare = name.clone();
    bare.set_fqdn(true);
    if name.is_fqdn() || name.is_root() || is_literal(name) {
        return vec![bare];
    }
    let searched = domains
        .iter()
        .filter_map(|d| name.clone().append_domain(d).ok());
    let mut order = Vec::with_capacity(domains.len() + 1);
    if dots(name) >= usize::from(ndots) {
        order.push(bare);
        order.extend(searched);
    } else {
        order.extend(searched);
        order.push(bare);
    }
    without_repetition(order)
}

/// Dots between the labels of `name`: a trailing one does not count.
pub(super) fn dots(name: &Name) -> usize {
    name.iter().count().saturating_sub(1)
}

/// A search domain as a name; `None` when it cannot be one, or is the root,
/// which would only repeat the bare name.
pub(super) fn parse_domain(text: &str) -> Option<Name> {
    let mut domain = Name::from_str_relaxed(text).ok()?.to_lowercase();
    domain.set_fqdn(true);
    (!domain.is_root()).then_some(domain)
}

fn is_literal(name: &Name) -> bool {
    // Not the name's own text, which escapes colons.
    let text = name.iter().collect::<Vec<_>>().join(&b'.');
    str::from_utf8(&text).is_ok_and(|t| t.parse::<IpAddr>().is_ok())
}

fn without_repetition(names: Vec<Name>) -> Vec<Name> {
    let mut kept: Vec<Name> = Vec::with_capacity(names.len());
    for name in names {
        // Quadratic, for at most MAX_SEARCH_DOMAINS + 1 names.
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str, domains: &[&str], ndots: u8) -> Vec<String> {
        let name = Name::from_ascii(name).expect("name");
        let domains: Vec<_> = domains.iter().filter_map(|d| parse_domain(d)).collect();
        candidates(&name, &domains, ndots)
            .iter()
            .map(Name::to_ascii)
            .collect()
    }

    #[test]
    fn table() {
        let two = &["a.example", "b.example."][..];
        for (name, domains, ndots, expected) in [
            // No dot: the search list, then the bare name.
            ("db", two, 1, &["db.a.example.", "db.b.example.", "db."][..]),
            // A dot: the bare name first.
            (
                "db.x",
                two,
                1,
                &["db.x.", "db.x.a.example.", "db.x.b.example."],
            ),
            // ndots moves the border, both ways.
            (
                "db.x",
                two,
                2,
                &["db.x.a.example.", "db.x.b.example.", "db.x."],
            ),
            (
                "db.x.y",
                two,
                2,
                &["db.x.y.", "db.x.y.a.example.", "db.x.y.b.example."],
            ),
            ("db", two, 0, &["db.", "db.a.example.", "db.b.example."]),
            // A trailing dot makes it absolute.
            ("db.", two, 1, &["db."]),
            ("db.x.", two, 1, &["db.x."]),
            // Nothing to search.
            ("db", &[], 1, &["db."]),
            // Literals stand for themselves.
            ("192.0.2.1", two, 1, &["192.0.2.1."]),
            ("192.0.2.1", two, 4, &["192.0.2.1."]),
            // The root.
            (".", two, 1, &["."]),
            // The same domain twice, in other letters; the root as a domain.
            (
                "db",
                &["A.example", "a.EXAMPLE.", "."],
                1,
                &["db.a.example.", "db."],
            ),
            // A wildcard label counts as a label.
            ("*.x", two, 1, &["*.x.", "*.x.a.example.", "*.x.b.example."]),
        ] {
            assert_eq!(
                order(name, domains, ndots),
                expected,
                "{name} {domains:?} {ndots}"
            );
        }
    }

    #[test]
    fn an_ipv6_literal_stands_for_itself() {
        let literal = Name::from_labels([&b"2001:db8::1"[..]]).expect("name");
        let mut relative = literal.clone();
        relative.set_fqdn(false);
        let domains = [parse_domain("a.example").expect("domain")];
        assert_eq!(candidates(&relative, &domains, 1), [literal]);
    }

    #[test]
    fn candidates_too_long_for_the_wire_are_left_out() {
        let label = "x".repeat(63);
        let domain = [&*label; 3].join("."); // 3 * 64 + 1 = 193 bytes on the wire
        let fits = "y".repeat(61); // 62 more: 255
        assert_eq!(order(&fits, &[&domain], 1).len(), 2);
        let over = "y".repeat(62);
        assert_eq!(
            order(&over, &[&domain, "b.example"], 1),
            [format!("{over}.b.example."), format!("{over}.")]
        );
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for text in ["", ".", "a..b", &"x".repeat(64)] {
            assert_eq!(parse_domain(text), None, "{text}");
        }
        assert_eq!(
            parse_domain("Corp_1.Example").map(|n| n.to_ascii()),
            Some("corp_1.example.".into())
        );
    }
}
