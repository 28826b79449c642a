//! Taking a specification apart: characters with a meaning, those that a
//! backslash has taken it from, and options.

use super::error::LinkSpecError;

/// The characters that mean something, and where they are.
pub(super) fn significant(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut is_literal = false;
    text.char_indices().filter(move |(_, c)| {
        let was_literal = is_literal;
        is_literal = *c == '\\' && !was_literal;
        !was_literal && !is_literal
    })
}

/// Splits at each `separator` that means something.
pub(super) fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, _) in significant(text).filter(|(_, c)| *c == separator) {
        parts.push(&text[begin..at]);
        begin = at + separator.len_utf8();
    }
    parts.push(&text[begin..]);
    parts
}

/// Takes the backslashes away that take meanings away; `None` for one in front
/// of nothing.
pub(super) fn plain(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(out)
}

/// What stands between kind and options, and the options.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    kind: &'a str,
    options: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Fields<'a> {
    /// Options in `parts`, as `KEY` or `KEY=VALUE`.
    pub(super) fn new(kind: &'a str, parts: &[&'a str]) -> Result<Self, LinkSpecError> {
        let mut options: Vec<(&str, Option<&str>)> = Vec::new();
        for part in parts {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (*part, None),
            };
            if options.iter().any(|(given, _)| *given == key) {
                let what = format!("'{key}' is given twice");
                return Err(LinkSpecError::of(kind, what));
            }
            options.push((key, value));
        }
        Ok(Self { kind, options })
    }

    pub(super) fn error(&self, what: impl Into<String>) -> LinkSpecError {
        LinkSpecError::of(self.kind, what)
    }

    /// The text, without backslashes; never empty.
    pub(super) fn text(&self, what: &str, raw: &str) -> Result<String, LinkSpecError> {
        match plain(raw) {
            Some(text) if text.is_empty() => Err(self.error(format!("{what} is missing"))),
            Some(text) if text.contains('\0') => {
                Err(self.error(format!("{what} has a zero byte in it")))
            }
            Some(text) => Ok(text),
            None => Err(self.error(format!("there is nothing behind the last '\\' of '{raw}'"))),
        }
    }

    /// The value of an option, if it is given.
    pub(super) fn value(&mut self, key: &str) -> Result<Option<String>, LinkSpecError> {
        match self.take(key) {
            None => Ok(None),
            Some(Some(raw)) => self.text(&format!("the value of '{key}'"), raw).map(Some),
            Some(None) => Err(self.error(format!("'{key}' needs a value, {key}=..."))),
        }
    }

    /// Whether an option without a value is given.
    pub(super) fn flag(&mut self, key: &str) -> Result<bool, LinkSpecError> {
        match self.take(key) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(self.error(format!("'{key}' takes no value"))),
        }
    }

    /// One of several words, if the option is given.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, LinkSpecError> {
        let Some(word) = self.value(key)? else {
            return Ok(None);
        };
        match words.iter().find(|(name, _)| *name == word) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
                let names = names.join(" or ");
                Err(self.error(format!("'{key}' is {names}, not '{word}'")))
            }
        }
    }

    /// All options must have been taken.
    pub(super) fn finish(self) -> Result<(), LinkSpecError> {
        match self.options.first() {
            None => Ok(()),
            Some((key, _)) => Err(self.error(format!("'{}:' has no option '{key}'", self.kind))),
        }
    }

    #[expect(
        clippy::option_option,
        reason = "an option that is there without a value"
    )]
    fn take(&mut self, key: &str) -> Option<Option<&'a str>> {
        let at = self.options.iter().position(|(given, _)| *given == key)?;
        Some(self.options.remove(at).1)
    }
}
