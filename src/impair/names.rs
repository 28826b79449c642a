//! Names that rules are for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::str::FromStr;

use super::series::RuleId;
use super::spec::RuleError;
use super::{NamePattern, Names};

/// Longest name and label (RFC 1035 section 2.3.4), without a trailing dot.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Addresses whose names are remembered.
const MAX_REMEMBERED: usize = 4096;

impl FromStr for NamePattern {
    type Err = RuleError;

    /// `example.com`, `*.example.com` or `*`; case and a trailing dot do not
    /// matter.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let pattern = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let name = pattern.strip_prefix("*.").unwrap_or(&pattern);
        let is_label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if pattern == "*" || (name.len() <= MAX_NAME && name.split('.').all(is_label)) {
            return Ok(Self(pattern));
        }
        Err(RuleError::new(format!(
            "'{text}' is no name; write 'example.com', '*.example.com' for what is below it, or \
             '*'; other alphabets as 'xn--...'"
        )))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Knows no names: no rule for a name is for anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn any_like(&self, _: IpAddr, _: &NamePattern) -> bool {
        false
    }

    fn version(&self) -> Option<u64> {
        Some(0)
    }
}

/// Asks [`Names`] once for an address and rule while no names are learnt.
pub(super) struct NameCache {
    names: Rc<dyn Names>,
    known: RefCell<HashMap<(RuleId, IpAddr), bool>>,
    /// Of what is known.
    version: Cell<Option<u64>>,
}

impl fmt::Debug for NameCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameCache").finish_non_exhaustive()
    }
}

impl NameCache {
    pub(super) fn new(names: Rc<dyn Names>) -> Self {
        Self {
            names,
            known: RefCell::default(),
            version: Cell::new(None),
        }
    }

    pub(super) fn any_like(&self, rule: RuleId, addr: IpAddr, pattern: &NamePattern) -> bool {
        let version = self.names.version();
        let mut known = self.known.borrow_mut();
        if version.is_none() || version != self.version.get() || known.len() >= MAX_REMEMBERED {
            known.clear();
            self.version.set(version);
        }
        *known
            .entry((rule, addr))
            .or_insert_with(|| self.names.any_like(addr, pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Told {
        version: Cell<u64>,
        asked: Cell<usize>,
    }

    impl Names for Told {
        fn any_like(&self, _: IpAddr, _: &NamePattern) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.version.get() > 0
        }

        fn version(&self) -> Option<u64> {
            Some(self.version.get())
        }
    }

    #[test]
    fn patterns_are_checked() {
        for good in ["example.com", "*.Example.COM.", "*", "_dns.x", "localhost"] {
            let pattern: NamePattern = good.parse().expect(good);
            assert!(pattern.0.bytes().all(|b| !b.is_ascii_uppercase()));
        }
        for bad in ["", ".", "a..b", "*x.com", "a.*.b", "ä.de", "a b"] {
            let refused: Result<NamePattern, _> = bad.parse();
            assert!(refused.is_err(), "{bad}");
        }
        let long: Result<NamePattern, _> = "a.".repeat(200).parse();
        assert!(long.is_err());
    }

    #[test]
    fn names_are_asked_for_once_and_again_when_more_are_known() {
        let told = Rc::new(Told::default());
        let cache = NameCache::new(Rc::clone(&told) as Rc<dyn Names>);
        let pattern: NamePattern = "example.com".parse().expect("is a name");
        let ask = || cache.any_like(RuleId(1), [192, 0, 2, 1].into(), &pattern);
        assert!(!ask() && !ask());
        assert_eq!(told.asked.get(), 1);
        told.version.set(1);
        assert!(ask() && ask());
        assert_eq!(told.asked.get(), 2);
    }
}
