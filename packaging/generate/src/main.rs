//! Makes what packages of gw contain beside the program, from the same definitions
//! that the program is made from, so that the two cannot differ:
//!
//! ```text
//! DIR/man/gw.1, gw-run.1, ...                  manual pages
//! DIR/completions/gw.bash, _gw, gw.fish        for bash, zsh, fish
//! DIR/THIRD-PARTY-LICENSES                     of the packages linked into gw
//! ```
//!
//! Usage: `gw-packaging DIR`. It calls `cargo metadata` for the licences. The pages'
//! date is that of `SOURCE_DATE_EPOCH` (seconds since 1970), and left out without.

mod licences;
mod man;

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;

/// Shells whose completions are made.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("say where to put the files: gw-packaging DIR")]
    NoDirectory,
    #[error("SOURCE_DATE_EPOCH is '{0}', which is no number of seconds; correct or unset it")]
    Epoch(String),
    #[error("cannot write '{path}': {source}; choose another directory", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}; run this from a checkout of gw with cargo in PATH")]
    Metadata(#[from] cargo_metadata::Error),
    #[error("cargo says nothing of the package '{0}'; run this from a checkout of gw")]
    NoPackage(String),
}

fn main() -> ExitCode {
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gw-packaging: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), Error> {
    let dir = PathBuf::from(env::args_os().nth(1).ok_or(Error::NoDirectory)?);
    man_pages(&make(&dir.join("man"))?)?;
    completions(&make(&dir.join("completions"))?)?;
    write(&dir.join("THIRD-PARTY-LICENSES"), &licences::text()?)
}

fn man_pages(dir: &Path) -> Result<(), Error> {
    let date = man::date()?;
    for page in man::pages(gw::cli::command(), &date) {
        write(&dir.join(page.file), &page.text)?;
    }
    Ok(())
}

fn completions(dir: &Path) -> Result<(), Error> {
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut gw::cli::command(), "gw", dir).map_err(
            |source| Error::Write {
                path: dir.to_owned(),
                source,
            },
        )?;
    }
    Ok(())
}

/// Makes a directory and returns it.
fn make(dir: &Path) -> Result<PathBuf, Error> {
    match fs::create_dir_all(dir) {
        Ok(()) => Ok(dir.to_owned()),
        Err(source) => Err(Error::Write {
            path: dir.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}
