//! Where things are told, from text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes of a unix socket's path that bind(2) takes.
const MAX_SOCKET_PATH: usize = 107;

/// Stands in messages.
const EXAMPLE_PORT: u16 = 9500;

/// Not a place; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ObserveSpecError(String);

/// Where the flow log goes: a path, `-` or `fd:N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// An inherited descriptor.
    Fd(RawFd),
    /// A file, appended to; or a pipe.
    Path(PathBuf),
}

impl FromStr for LogTarget {
    type Err = ObserveSpecError;

    fn from_str(text: &str) -> Result<Self, ObserveSpecError> {
        let refuse = |why: &str| Err(ObserveSpecError(why.to_owned()));
        if let Some(number) = text.strip_prefix("fd:") {
            return match number.parse::<RawFd>() {
                Ok(0) => refuse("descriptor 0 is standard input; open another, like fd:3 3>FILE"),
                Ok(fd @ 1..) => Ok(Self::Fd(fd)),
                _ => refuse("write the number of an open file descriptor behind it, like fd:3"),
            };
        }
        match text {
            "" => refuse("write a file's name, '-' for standard output, or fd:N"),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::Path(path.into())),
        }
    }
}

/// Where metrics are served: `ADDR:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAt {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket, made there.
    Unix(PathBuf),
}

impl FromStr for MetricsAt {
    type Err = ObserveSpecError;

    fn from_str(text: &str) -> Result<Self, ObserveSpecError> {
        let refuse = |why: String| Err(ObserveSpecError(why));
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => refuse("the path is missing; write unix:PATH".to_owned()),
                1..=MAX_SOCKET_PATH => Ok(Self::Unix(path.into())),
                _ => refuse(format!(
                    "'{path}' is too long: unix sockets take {MAX_SOCKET_PATH} bytes; choose a \
                     shorter path"
                )),
            };
        }
        let Ok(addr) = text.parse::<SocketAddr>() else {
            return refuse(not_an_address(text));
        };
        if addr.port() == 0 {
            return refuse(format!(
                "port 0 is one that nobody could find; choose one, like {}",
                SocketAddr::new(addr.ip(), EXAMPLE_PORT)
            ));
        }
        if addr.ip().is_multicast() || addr.ip() == Ipv4Addr::BROADCAST {
            return refuse(format!(
                "nobody listens at {}; give an address of this host, or 127.0.0.1",
                addr.ip()
            ));
        }
        Ok(Self::Tcp(addr))
    }
}

/// What to write instead of `text`.
fn not_an_address(text: &str) -> String {
    match text.rsplit_once(':') {
        Some(("" | "*", port)) => format!(
            "'{text}' has no address; write 127.0.0.1:{port} for this host only, 0.0.0.0:{port} \
             or [::]:{port} for everybody"
        ),
        Some(("localhost", port)) => {
            format!("a name is no address; write 127.0.0.1:{port} or [::1]:{port}")
        }
        _ if text.parse::<u16>().is_ok() => format!(
            "'{text}' has no address; write 127.0.0.1:{text} for this host only, 0.0.0.0:{text} \
             or [::]:{text} for everybody"
        ),
        _ if text.parse::<Ipv4Addr>().is_ok() => {
            format!("'{text}' has no port; write {text}:{EXAMPLE_PORT}")
        }
        _ if text.parse::<Ipv6Addr>().is_ok() => {
            format!("'{text}' has no port; write [{text}]:{EXAMPLE_PORT}")
        }
        _ => format!("'{text}' is no place; write ADDR:PORT, [ADDR6]:PORT or unix:PATH"),
    }
}

#[cfg(test)]
mod log_tests {
    use super::*;

    #[test]
    fn places_for_logs() {
        for (text, expected) in [
            ("-", Ok(LogTarget::Stdout)),
            ("fd:3", Ok(LogTarget::Fd(3))),
            ("fd:1", Ok(LogTarget::Fd(1))),
            ("flows.jsonl", Ok(LogTarget::Path("flows.jsonl".into()))),
            ("./fd:3", Ok(LogTarget::Path("./fd:3".into()))),
            ("fd:0", Err("fd:3")),
            ("fd:-1", Err("fd:3")),
            ("fd:x", Err("fd:3")),
            ("fd:99999999999", Err("fd:3")),
            ("", Err("'-'")),
        ] {
            match (text.parse::<LogTarget>(), expected) {
                (Ok(target), Ok(expected)) => assert_eq!(target, expected, "{text}"),
                (Err(error), Err(remedy)) => {
                    assert!(error.to_string().contains(remedy), "{text}: {error}");
                }
                (target, expected) => panic!("{text}: {target:?}, not {expected:?}"),
            }
        }
    }
}

#[cfg(test)]
mod metrics_tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_for_metrics() {
        let tcp = |text: &str| MetricsAt::Tcp(text.parse().expect("an address"));
        for (text, expected) in [
            ("127.0.0.1:9500", tcp("127.0.0.1:9500")),
            ("0.0.0.0:80", tcp("0.0.0.0:80")),
            ("[::1]:9500", tcp("[::1]:9500")),
            ("unix:/run/gw", MetricsAt::Unix("/run/gw".into())),
            ("unix:m.sock", MetricsAt::Unix("m.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_a_remedy() {
        let long = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH));
        for (text, remedy) in [
            (":9500", "127.0.0.1:9500"),
            ("9500", "127.0.0.1:9500"),
            ("127.0.0.1", "write 127.0.0.1:9500"),
            ("::1", "write [::1]:9500"),
            ("fd00::5:80", "write [fd00::5:80]:9500"),
            ("localhost:9500", "write 127.0.0.1:9500"),
            ("127.0.0.1:0", "like 127.0.0.1:9500"),
            ("224.0.0.1:9500", "nobody listens at 224.0.0.1"),
            ("host.example:9500", "write ADDR:PORT"),
            ("unix:", "write unix:PATH"),
            ("/run/gw.sock", "unix:PATH"),
            (&long, "too long"),
            ("", "write ADDR:PORT"),
        ] {
            let error = text.parse::<MetricsAt>().expect_err(text).to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_refused(text in "(unix:|\\[)?\\PC{0,20}(:[0-9]{0,6})?") {
            if let Err(error) = text.parse::<MetricsAt>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
