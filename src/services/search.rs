//! The domain search list told to guests.

use dhcproto::Name;

/// Most domains announced. glibc before 2.26 read six; nobody needs more than this.
pub(super) const MAX_DOMAINS: usize = 32;

/// Most bytes of the list in uncompressed wire form: with it, a router
/// advertisement stays under IPv6's least MTU of 1280 bytes.
pub(super) const MAX_WIRE_LEN: usize = 960;

/// Longest name in its text form (RFC 1035 section 2.3.4, less the root).
const MAX_NAME_LEN: usize = 253;
/// Longest label (RFC 1035 section 2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// Checked search domains: lower case, no trailing dot, in order, without
/// duplicates, at most [`MAX_DOMAINS`] and [`MAX_WIRE_LEN`] bytes.
///
/// Clients put these names into shell scripts and configuration files, so what
/// is not letters, digits, hyphens and underscores is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SearchList(Vec<String>);

impl SearchList {
    /// Keeps of `domains` what can be announced.
    pub(super) fn new(domains: &[String]) -> Self {
        let mut kept: Vec<String> = Vec::new();
        let mut wire_len = 0;
        for domain in domains {
            let name = domain.trim_end_matches('.').to_ascii_lowercase();
            if !is_announceable(&name) || kept.contains(&name) {
                continue;
            }
            // Each label has a length byte in place of its dot; the root adds one.
            wire_len += name.len() + 2;
            if kept.len() == MAX_DOMAINS || wire_len > MAX_WIRE_LEN {
                break;
            }
            kept.push(name);
        }
        Self(kept)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first domain, which serves as the guest's own.
    pub(super) fn first(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// The domains as names; one that the library refuses is left out.
    pub(super) fn names(&self) -> Vec<Name> {
        self.0
            .iter()
            .filter_map(|domain| Name::from_ascii(format!("{domain}.")).ok())
            .collect()
    }

    /// The list in uncompressed wire form (RFC 1035 section 3.1), as DNSSL (RFC
    /// 8106 section 5.2) and DHCPv6 (RFC 8415 section 10) demand.
    pub(super) fn uncompressed(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        for domain in &self.0 {
            for label in domain.split('.') {
                // Checked when the list was made.
                let len = u8::try_from(label.len()).expect("a label has at most 63 bytes");
                wire.push(len);
                wire.extend_from_slice(label.as_bytes());
            }
            wire.push(0);
        }
        wire
    }

    /// The domains of this list that are not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|d| !other.0.contains(d))
                .cloned()
                .collect(),
        )
    }
}

/// Host name labels (RFC 1123 section 2.1), underscores allowed, which the
/// library takes too.
fn is_announceable(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL_LEN).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_NAME_LEN && name.split('.').all(is_label) && Name::from_ascii(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(domains: &[&str]) -> SearchList {
        SearchList::new(&domains.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn keeps_order_and_drops_what_cannot_be_announced() {
        let label = "a".repeat(64);
        let kept = list(&[
            "Corp.Example.",
            "",
            ".",
            "a..b",
            "-",
            "-a.b",
            "x;reboot",
            "two words",
            &label,
            "corp.example",
            "_tcp.lab",
        ]);
        assert_eq!(kept.0, ["corp.example", "_tcp.lab"]);
        assert_eq!(kept.first(), Some("corp.example"));
        assert_eq!(
            kept.uncompressed(),
            b"\x04corp\x07example\x00\x04_tcp\x03lab\x00"
        );
        assert_eq!(kept.without(&list(&["_tcp.lab"])).0, ["corp.example"]);
    }

    #[test]
    fn is_bounded_in_number_and_length() {
        let many: Vec<String> = (0..100).map(|i| format!("d{i}")).collect();
        assert_eq!(SearchList::new(&many).0.len(), MAX_DOMAINS);
        let long: Vec<String> = (0..100)
            .map(|i| format!("d{i}.{}.{}", "x".repeat(63), "y".repeat(63)))
            .collect();
        let kept = SearchList::new(&long);
        assert!(!kept.is_empty() && kept.uncompressed().len() <= MAX_WIRE_LEN);
    }

    proptest! {
        #[test]
        fn any_text_is_dropped_or_encodes(domains in proptest::collection::vec("\\PC{0,80}|[a-z0-9.-]{0,300}", 0..40)) {
            let kept = SearchList::new(&domains);
            prop_assert!(kept.uncompressed().len() <= MAX_WIRE_LEN);
            prop_assert_eq!(kept.names().len(), kept.0.len());
        }
    }
}
