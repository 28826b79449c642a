//! The files that reports go to.
//!
//! A report is written when the command has ended, which may be hours later: so
//! that it can be written is made sure of before the command starts. A file that
//! was there keeps what it holds until then; one that was made for the purpose goes
//! away should there be no report.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{Report, html};

/// A report cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Its ending says nothing.
    #[error(
        "'{0}' does not say which form the report has; end its name in .json for programs, in \
         .html for people"
    )]
    Ending(PathBuf),
    /// The same file twice.
    #[error("'{0}' is given twice; give each report a file of its own")]
    Twice(PathBuf),
    /// It is a folder, a pipe or a device.
    #[error("'{0}' is no ordinary file; give --report another name")]
    NotAFile(PathBuf),
    /// Anything else.
    #[error("cannot write the report '{path}': {source}; give --report another name")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who reads a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Programs.
    Json,
    /// People.
    Html,
}

impl Form {
    /// By the ending of a file's name.
    ///
    /// # Errors
    /// [`ReportError::Ending`].
    pub fn of(path: &Path) -> Result<Self, ReportError> {
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        match ending.as_deref().and_then(|ending| ending.to_str()) {
            Some("json") => Ok(Self::Json),
            Some("html" | "htm") => Ok(Self::Html),
            _ => Err(ReportError::Ending(path.to_owned())),
        }
    }
}

/// Checks names of reports without looking at the disk.
///
/// # Errors
/// [`ReportError::Ending`], [`ReportError::Twice`].
pub fn check(paths: &[PathBuf]) -> Result<(), ReportError> {
    for (at, path) in paths.iter().enumerate() {
        Form::of(path)?;
        if paths[..at].contains(path) {
            return Err(ReportError::Twice(path.clone()));
        }
    }
    Ok(())
}

/// An open file that waits for its report.
#[derive(Debug)]
pub struct ReportFile {
    /// Absolute, should the process change its folder.
    path: PathBuf,
    form: Form,
    file: File,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Made by us, and nothing in it yet.
    Made,
    /// Somebody's, or holds a report.
    Keep,
}

impl ReportFile {
    /// Makes sure that a report can be written to `path`.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn open(path: &Path) -> Result<Self, ReportError> {
        let form = Form::of(path)?;
        let at = |source| ReportError::Io {
            path: path.to_owned(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(at)?;
        let mut options = OpenOptions::new();
        // A pipe that nobody reads would keep us waiting.
        options.write(true).custom_flags(libc::O_NONBLOCK);
        let (file, state) = match options.clone().create_new(true).open(&absolute) {
            Ok(file) => (file, State::Made),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let kind = fs::metadata(&absolute).map_err(at)?;
                if !kind.is_file() {
                    return Err(ReportError::NotAFile(path.to_owned()));
                }
                (options.open(&absolute).map_err(at)?, State::Keep)
            }
            Err(e) => return Err(at(e)),
        };
        Ok(Self {
            path: absolute,
            form,
            file,
            state,
        })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(mut self, report: &Report) -> Result<(), ReportError> {
        let text = match self.form {
            Form::Json => json(report),
            Form::Html => Ok(html::page(report)),
        };
        let written = text.and_then(|text| {
            self.file.set_len(0)?;
            self.state = State::Keep;
            self.file.write_all(text.as_bytes())
        });
        written.map_err(|source| ReportError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.state == State::Made {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn json(report: &Report) -> io::Result<String> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_by_ending() {
        let form = |name: &str| Form::of(Path::new(name)).ok();
        assert_eq!(form("a.json"), Some(Form::Json));
        assert_eq!(form("/x/a.b.HTML"), Some(Form::Html));
        assert_eq!(form("a.htm"), Some(Form::Html));
        for name in ["a", "a.txt", ".json", "json", "a.json/", "-"] {
            let expected = (name == "a.json/").then_some(Form::Json);
            assert_eq!(form(name), expected, "{name}");
        }
        let twice = check(&["a.json".into(), "b.html".into(), "a.json".into()]);
        let text = twice.expect_err("twice").to_string();
        assert!(text.contains("'a.json' is given twice"), "{text}");
    }

    #[test]
    fn a_file_that_was_made_goes_unless_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.json");
        let file = ReportFile::open(&path).expect("opens");
        assert!(path.exists());
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "of yesterday").expect("writes");
        drop(ReportFile::open(&path).expect("opens"));
        assert_eq!(fs::read_to_string(&path).expect("there"), "of yesterday");
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = |name: &str| {
            let path = folder.path().join(name);
            ReportFile::open(&path).expect_err("refused").to_string()
        };
        assert!(refused("no/such.json").contains("No such file or directory"));
        assert!(refused("x.txt").contains(".html for people"));
        fs::create_dir(folder.path().join("d.html")).expect("makes");
        assert!(refused("d.html").contains("no ordinary file"));
        let pipe = folder.path().join("p.json");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes");
        assert!(refused("p.json").contains("no ordinary file"));
    }
}
