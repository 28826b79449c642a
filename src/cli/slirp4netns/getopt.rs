//! `getopt_long` as glibc has it, by behaviour and messages: options anywhere
//! among the operands, clusters of short ones, values attached or apart, and
//! long names shortened as far as they stay unambiguous.
//!
//! Written here because no package has both the shortened names and glibc's
//! messages, which callers see and match.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// An option as it can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec<T> {
    /// Without the two dashes.
    pub(super) long: &'static str,
    /// One ASCII character.
    pub(super) short: Option<u8>,
    pub(super) takes: Takes,
    /// What it stands for.
    pub(super) id: T,
}

/// Whether an option has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value,
}

/// What is found on a command line, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item<T> {
    /// An option without a value.
    Flag(T),
    /// An option with its value.
    Value(T, OsString),
    /// Anything else.
    Operand(OsString),
}

/// What glibc says about a command line, less the program's name in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GetoptError {
    #[error("unrecognized option '--{0}'")]
    Unrecognized(String),
    #[error("option '--{text}' is ambiguous; possibilities:{possibilities}")]
    Ambiguous { text: String, possibilities: String },
    #[error("option '--{0}' doesn't allow an argument")]
    NoValueAllowed(&'static str),
    #[error("option '--{0}' requires an argument")]
    ValueMissing(&'static str),
    #[error("invalid option -- '{0}'")]
    InvalidShort(char),
    #[error("option requires an argument -- '{0}'")]
    ShortValueMissing(char),
}

/// Reads a command line, the program's name not among it.
#[derive(Debug)]
pub(super) struct Getopt<'s, I, T> {
    specs: &'s [Spec<T>],
    rest: I,
    /// What is left of a cluster of short options.
    cluster: Vec<u8>,
    only_operands: bool,
}

impl<'s, I: Iterator<Item = OsString>, T: Copy> Getopt<'s, I, T> {
    pub(super) fn new(specs: &'s [Spec<T>], args: I) -> Self {
        Self {
            specs,
            rest: args,
            cluster: Vec::new(),
            only_operands: false,
        }
    }

    fn word(&mut self, word: OsString) -> Result<Item<T>, GetoptError> {
        match word.as_bytes() {
            [b'-', b'-', long @ ..] => self.long(long),
            [b'-', first, more @ ..] => {
                self.cluster = more.to_vec();
                self.short(*first)
            }
            _ => Ok(Item::Operand(word)),
        }
    }

    fn long(&mut self, text: &[u8]) -> Result<Item<T>, GetoptError> {
        let equals = text.iter().position(|b| *b == b'=');
        let (name, value) = match equals {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let spec = self.named(name, text)?;
        match (spec.takes, value) {
            (Takes::Nothing, None) => Ok(Item::Flag(spec.id)),
            (Takes::Nothing, Some(_)) => Err(GetoptError::NoValueAllowed(spec.long)),
            (Takes::Value, Some(value)) => {
                Ok(Item::Value(spec.id, OsStr::from_bytes(value).to_owned()))
            }
            (Takes::Value, None) => match self.rest.next() {
                Some(value) => Ok(Item::Value(spec.id, value)),
                None => Err(GetoptError::ValueMissing(spec.long)),
            },
        }
    }

    /// The option of that name, or the only one that begins so. `text`: the name
    /// with what follows it, for messages.
    fn named(&self, name: &[u8], text: &[u8]) -> Result<Spec<T>, GetoptError> {
        if let Some(spec) = self.specs.iter().find(|s| s.long.as_bytes() == name) {
            return Ok(*spec);
        }
        let begin_so: Vec<&Spec<T>> = self
            .specs
            .iter()
            .filter(|s| s.long.as_bytes().starts_with(name))
            .collect();
        let text = || String::from_utf8_lossy(text).into_owned();
        match begin_so[..] {
            [] => Err(GetoptError::Unrecognized(text())),
            [spec] => Ok(*spec),
            _ => Err(GetoptError::Ambiguous {
                text: text(),
                possibilities: begin_so
                    .iter()
                    .map(|s| format!(" '--{}'", s.long))
                    .collect(),
            }),
        }
    }

    fn short(&mut self, letter: u8) -> Result<Item<T>, GetoptError> {
        let Some(spec) = self.specs.iter().find(|s| s.short == Some(letter)) else {
            return Err(GetoptError::InvalidShort(char::from(letter)));
        };
        match spec.takes {
            Takes::Nothing => Ok(Item::Flag(spec.id)),
            Takes::Value if !self.cluster.is_empty() => {
                let value = std::mem::take(&mut self.cluster);
                Ok(Item::Value(spec.id, OsString::from_vec(value)))
            }
            Takes::Value => match self.rest.next() {
                Some(value) => Ok(Item::Value(spec.id, value)),
                None => Err(GetoptError::ShortValueMissing(char::from(letter))),
            },
        }
    }
}

impl<I: Iterator<Item = OsString>, T: Copy> Iterator for Getopt<'_, I, T> {
    type Item = Result<Item<T>, GetoptError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.cluster.is_empty() {
            let letter = self.cluster.remove(0);
            return Some(self.short(letter));
        }
        let word = self.rest.next()?;
        if self.only_operands {
            return Some(Ok(Item::Operand(word)));
        }
        if word == "--" {
            self.only_operands = true;
            return self.next();
        }
        Some(self.word(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPECS: &[Spec<char>] = &[
        spec("configure", Some(b'c'), Takes::Nothing, 'c'),
        spec("mtu", Some(b'm'), Takes::Value, 'm'),
        spec("macaddress", None, Takes::Value, 'M'),
        spec("outbound-addr", None, Takes::Value, 'o'),
        spec("outbound-addr6", None, Takes::Value, 'O'),
    ];

    const fn spec(long: &'static str, short: Option<u8>, takes: Takes, id: char) -> Spec<char> {
        Spec {
            long,
            short,
            takes,
            id,
        }
    }

    fn read(line: &str) -> Result<String, String> {
        let args = line.split(' ').map(OsString::from);
        let mut text = Vec::new();
        for item in Getopt::new(SPECS, args) {
            text.push(match item.map_err(|e| e.to_string())? {
                Item::Flag(id) => id.to_string(),
                Item::Value(id, value) => format!("{id}={}", value.to_string_lossy()),
                Item::Operand(word) => format!("[{}]", word.to_string_lossy()),
            });
        }
        Ok(text.join(" "))
    }

    #[test]
    fn what_glibc_accepts() {
        for (line, items) in [
            ("-c 1 tap0", "c [1] [tap0]"),
            ("1 -c tap0 -m 9", "[1] c [tap0] m=9"),
            ("-m1500", "m=1500"),
            ("-cm1500", "c m=1500"),
            ("-cm 1500", "c m=1500"),
            ("-mc", "m=c"),
            ("--mtu 7", "m=7"),
            ("--mtu=7", "m=7"),
            ("--mtu=", "m="),
            ("--mt=7=8", "m=7=8"),
            ("--con", "c"),
            ("--outbound-addr=a", "o=a"),
            ("--outbound-addr6=a", "O=a"),
            ("--mtu --configure", "m=--configure"),
            ("- x", "[-] [x]"),
            ("-c -- -c --mtu", "c [-c] [--mtu]"),
            ("-m -- -c", "m=-- c"),
        ] {
            assert_eq!(read(line).as_deref(), Ok(items), "{line}");
        }
    }

    #[test]
    fn what_glibc_says() {
        for (line, said) in [
            ("--bogus=3", "unrecognized option '--bogus=3'"),
            (
                "--m=3",
                "option '--m=3' is ambiguous; possibilities: '--mtu' '--macaddress'",
            ),
            (
                "--outbound",
                "option '--outbound' is ambiguous; possibilities: '--outbound-addr' \
                 '--outbound-addr6'",
            ),
            ("--conf=1", "option '--configure' doesn't allow an argument"),
            ("--mt", "option '--mtu' requires an argument"),
            ("-x", "invalid option -- 'x'"),
            ("-cx", "invalid option -- 'x'"),
            ("-cm", "option requires an argument -- 'm'"),
        ] {
            assert_eq!(read(line), Err(said.to_owned()), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_read_to_the_end(
            words in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![
                    Just(b'-'), Just(b'='), Just(b'c'), Just(b'm'), any::<u8>(),
                ], 0..8),
                0..8,
            ),
        ) {
            let args = words.into_iter().map(OsString::from_vec);
            prop_assert!(Getopt::new(SPECS, args).take(100).count() < 100);
        }
    }
}
