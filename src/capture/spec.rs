//! Reads a [`CaptureSpec`] from text.
//!
//! ```text
//! FILE[,snaplen=N][,size=SIZE][,files=N][,segment=on|off][,filter=EXPR]
//! ```
//!
//! Commas separate; a backslash takes the meaning of a comma or backslash away.
//! `filter=` comes last and takes the rest as it is.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::filter::Filter;

/// Bytes of a packet that are kept unless told otherwise: more than any has.
/// tcpdump's.
pub const DEFAULT_SNAPLEN: u32 = 262_144;

/// Least size of a file before the next is begun, in bytes: the largest frame fits.
pub const MIN_FILE_SIZE: u64 = 128 << 10;

/// Files of a ring, at most.
pub const MAX_FILES: u32 = 100_000;

/// A capture that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaptureSpec {
    /// Where to.
    pub target: Target,
    /// Bytes of each packet that are kept.
    pub snaplen: NonZeroU32,
    /// Bytes after which the next file is begun.
    pub size: Option<u64>,
    /// Files that are kept; the oldest makes room. `None`: all.
    pub files: Option<NonZeroU32>,
    /// What becomes of super-frames.
    pub segment: Segment,
    /// Which frames; `None`: all.
    pub filter: Option<Filter>,
}

/// Where a capture goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Standard output, `-`.
    Stdout,
    /// A file or a FIFO.
    Path(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// What becomes of super-frames and unfinished checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segment {
    /// They become what is on a wire: packets that the MTU allows, with right
    /// checksums. The default.
    #[default]
    On,
    /// They are stored as they pass.
    Off,
}

/// The file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// pcapng: interfaces with names, directions, comments, counts of lost packets.
    PcapNg,
    /// Classic pcap, with nanoseconds.
    Pcap,
}

/// Not a capture; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaptureSpecError(String);

type Parsed<T> = Result<T, CaptureSpecError>;

fn bad<T>(text: impl Into<String>) -> Parsed<T> {
    Err(CaptureSpecError(text.into()))
}

impl CaptureSpec {
    /// Everything that passes, to this place.
    #[must_use]
    pub fn all_to(target: Target) -> Self {
        Self {
            target,
            snaplen: const { NonZeroU32::new(DEFAULT_SNAPLEN).expect("not 0") },
            size: None,
            files: None,
            segment: Segment::On,
            filter: None,
        }
    }

    /// Classic pcap for a name that ends in `.pcap`, pcapng for all others.
    #[must_use]
    pub fn form(&self) -> Form {
        match &self.target {
            Target::Path(path) if ends_in_pcap(path) => Form::Pcap,
            Target::Path(_) | Target::Stdout => Form::PcapNg,
        }
    }

    /// True when files are numbered from the first on, because others follow.
    #[must_use]
    pub const fn is_numbered(&self) -> bool {
        self.size.is_some() || self.files.is_some()
    }

    fn set(&mut self, name: &str, value: &str) -> Parsed<()> {
        match name {
            "snaplen" => self.snaplen = snaplen(value)?,
            "size" => self.size = Some(size(value)?),
            "files" => self.files = Some(files(value)?),
            "segment" => self.segment = segment(value)?,
            "filter" => {
                let filter = value
                    .parse()
                    .map_err(|e| CaptureSpecError(format!("{e}")))?;
                self.filter = Some(filter);
            }
            _ => {
                return bad(format!(
                    "'{name}' is no option of a capture; there are snaplen, size, files, segment, \
                     and filter as the last"
                ));
            }
        }
        Ok(())
    }
}

fn ends_in_pcap(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("pcap"))
}

fn snaplen(value: &str) -> Parsed<NonZeroU32> {
    let number: Option<u32> = value.parse().ok().filter(|&n| n <= DEFAULT_SNAPLEN);
    match number {
        // As tcpdump has it.
        Some(0) => Ok(NonZeroU32::MIN.saturating_add(DEFAULT_SNAPLEN - 1)),
        Some(number) => Ok(NonZeroU32::MIN.saturating_add(number - 1)),
        None => bad(format!(
            "'{value}' is no snaplen: give the bytes of each packet that are kept, \
             1 to {DEFAULT_SNAPLEN}, like snaplen=128"
        )),
    }
}

fn size(value: &str) -> Parsed<u64> {
    let form = "give the bytes of a file, or K, M or G of them, like size=100M";
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match value[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return bad(format!("'{value}' is no size: {form}")),
    };
    let number: Option<u64> = digits.parse().ok();
    match number.and_then(|number| number.checked_mul(1 << shift)) {
        None => bad(format!("'{value}' is no size: {form}")),
        Some(bytes) if bytes < MIN_FILE_SIZE => bad(format!(
            "'{value}' is too small a size: files have at least {}K",
            MIN_FILE_SIZE >> 10
        )),
        // File offsets are signed.
        Some(bytes) if i64::try_from(bytes).is_err() => {
            bad(format!("'{value}' is too large a size for a file: {form}"))
        }
        Some(bytes) => Ok(bytes),
    }
}

fn files(value: &str) -> Parsed<NonZeroU32> {
    let number: Option<NonZeroU32> = value.parse().ok();
    match number.filter(|n| n.get() <= MAX_FILES) {
        Some(number) => Ok(number),
        None => bad(format!(
            "'{value}' is no number of files: give how many are kept, 1 to {MAX_FILES}, like files=5"
        )),
    }
}

fn segment(value: &str) -> Parsed<Segment> {
    match value {
        "on" => Ok(Segment::On),
        "off" => Ok(Segment::Off),
        _ => bad(format!(
            "'{value}': write segment=on for packets as on a wire, segment=off for frames as they pass"
        )),
    }
}

/// Splits off what stands in front of the first comma that means one, with the
/// backslashes taken out.
fn split_field(text: &str) -> (String, Option<&str>) {
    let mut field = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ',' => return (field, Some(&text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, c @ (',' | '\\'))) => field.push(c),
                Some((_, c)) => field.extend(['\\', c]),
                None => field.push('\\'),
            },
            c => field.push(c),
        }
    }
    (field, None)
}

impl FromStr for CaptureSpec {
    type Err = CaptureSpecError;

    fn from_str(text: &str) -> Parsed<Self> {
        let (path, mut rest) = split_field(text);
        let target = match path.as_str() {
            "" => {
                return bad("say where to, like --pcap trace.pcapng; '-' is standard output");
            }
            "-" => Target::Stdout,
            path if path.contains('\0') => return bad("the name of a file has no NUL in it"),
            path => Target::Path(PathBuf::from(path)),
        };
        let mut spec = Self::all_to(target);
        let mut given = Vec::new();
        while let Some(options) = rest {
            let (option, behind) = match options.strip_prefix("filter=") {
                Some(_) => (options.to_owned(), None),
                None => split_field(options),
            };
            rest = behind;
            let Some((name, value)) = option.split_once('=') else {
                return bad(format!(
                    "'{option}' is no option of a capture: write NAME=VALUE, like snaplen=128; \
                     a comma in a file's name takes a backslash in front"
                ));
            };
            if given.iter().any(|before| before == name) {
                return bad(format!("{name}= is given twice"));
            }
            spec.set(name, value)?;
            given.push(name.to_owned());
        }
        if spec.target == Target::Stdout && spec.is_numbered() {
            return bad("standard output is one stream: size= and files= are for files");
        }
        Ok(spec)
    }
}

impl TryFrom<String> for CaptureSpec {
    type Error = CaptureSpecError;

    fn try_from(text: String) -> Parsed<Self> {
        text.parse()
    }
}

impl From<CaptureSpec> for String {
    fn from(spec: CaptureSpec) -> Self {
        spec.to_string()
    }
}

impl fmt::Display for CaptureSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.to_string();
        f.write_str(&target.replace('\\', "\\\\").replace(',', "\\,"))?;
        if self.snaplen.get() != DEFAULT_SNAPLEN {
            write!(f, ",snaplen={}", self.snaplen)?;
        }
        if let Some(size) = self.size {
            write!(f, ",size={size}")?;
        }
        if let Some(files) = self.files {
            write!(f, ",files={files}")?;
        }
        if self.segment == Segment::Off {
            f.write_str(",segment=off")?;
        }
        match &self.filter {
            Some(filter) => write!(f, ",filter={filter}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> CaptureSpec {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_name_is_enough() {
        let spec = parse("trace.pcapng");
        assert_eq!(spec.target, Target::Path("trace.pcapng".into()));
        assert_eq!(spec.snaplen.get(), DEFAULT_SNAPLEN);
        assert_eq!((spec.size, spec.files), (None, None));
        assert_eq!(spec.segment, Segment::On);
        assert_eq!(spec.filter, None);
        assert_eq!(spec.form(), Form::PcapNg);
    }

    #[test]
    fn endings_say_the_form() {
        for (name, form) in [
            ("a.pcap", Form::Pcap),
            ("/x/A.PCAP", Form::Pcap),
            ("a.pcapng", Form::PcapNg),
            ("a.cap", Form::PcapNg),
            (".pcap", Form::PcapNg),
            ("pcap", Form::PcapNg),
            ("-", Form::PcapNg),
        ] {
            assert_eq!(parse(name).form(), form, "{name}");
        }
    }

    #[test]
    fn all_options() {
        let spec =
            parse(r"a\,b\\c.pcap,snaplen=128,size=100M,files=5,segment=off,filter=tcp port 80");
        assert_eq!(spec.target, Target::Path(r"a,b\c.pcap".into()));
        assert_eq!(spec.snaplen.get(), 128);
        assert_eq!(spec.size, Some(100 << 20));
        assert_eq!(spec.files, NonZeroU32::new(5));
        assert_eq!(spec.segment, Segment::Off);
        let filter = spec.filter.as_ref().map(ToString::to_string);
        assert_eq!(filter.as_deref(), Some("tcp port 80"));
        assert_eq!(parse(&spec.to_string()), spec);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "say where to"),
            (",snaplen=1", "say where to"),
            ("a,", "NAME=VALUE"),
            ("a,b", "a comma in a file's name"),
            ("a,snaplen=x", "no snaplen"),
            ("a,snaplen=262145", "1 to 262144"),
            ("a,size=1", "at least 128K"),
            ("a,size=1T", "no size"),
            ("a,size=", "no size"),
            ("a,size=99999999999G", "no size"),
            ("a,size=9999999999G", "too large"),
            ("a,files=0", "1 to 100000"),
            ("a,segment=yes", "segment=on"),
            ("a,snaplen=1,snaplen=2", "twice"),
            ("a,colour=red", "'colour' is no option"),
            ("a,filter=tcp,snaplen=1", ","),
            ("-,size=1M", "files"),
        ] {
            let error = text.parse::<CaptureSpec>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_can_be_written(text in r"[-a.\\,]{0,6}(,(snaplen|size|files|segment)=[0-9onf]{0,6}[KMG]?){0,4}(,filter=(tcp|udp|port 1|host 10.0.0.1| |\(|\)|and|not){0,5})?") {
            super::super::fuzz_spec(&text);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            super::super::fuzz_spec(&text);
        }
    }
}
