//! The host's resolv.conf, read when it is needed and followed as it changes.
//!
//! The file is looked at by its path, at most once per [`CHECK_INTERVAL`], so
//! that a rename over it and a symbolic link turned elsewhere are seen too.
//! A file that cannot be read leaves what was read before in force: tools that
//! replace it by deleting and writing leave a moment without it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_proto::rr::Name;
use resolv_conf::ScopedIp;
use tokio::time::Instant;

use super::search::{MAX_SEARCH_DOMAINS, parse_domain};

/// Least time between two looks at the file.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes read of the file; a real one has a few hundred.
const MAX_FILE_LEN: u64 = 64 << 10;
/// Servers used, in file order. glibc uses 3.
pub(super) const MAX_SERVERS: usize = 16;
/// A file younger than this may change again without a new time stamp (the
/// kernel's clock ticks every few milliseconds), so it is read once more.
const UNSETTLED: Duration = Duration::from_secs(2);
/// The port of the servers in the file.
pub(super) const DNS_PORT: u16 = 53;

/// How long a server has for one answer.
pub(super) const DEFAULT_TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// What `timeout` is without being given (resolv.conf(5)); then
/// [`DEFAULT_TRY_TIMEOUT`] is used, to have found the second server before the
/// guest, with the same 5 seconds, gives up.
const GLIBC_TIMEOUT_SECS: u32 = 5;
/// Rounds through the servers that did not answer, unless given.
pub(super) const DEFAULT_ATTEMPTS: u32 = 2;

/// What the file says, as far as it is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostConfig {
    /// Never empty, at most [`MAX_SERVERS`].
    pub(super) servers: Vec<SocketAddr>,
    /// At most [`MAX_SEARCH_DOMAINS`].
    pub(super) search: Vec<Name>,
    pub(super) options: ServerOptions,
}

/// How servers are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerOptions {
    /// How long one server has for one answer.
    pub(super) try_timeout: Duration,
    /// Rounds through servers that stay silent, 1 to 5.
    pub(super) attempts: u32,
    pub(super) order: Order,
    pub(super) first: FirstTransport,
}

/// Which server is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The first in the list.
    AsListed,
    /// Each in turn (`options rotate`).
    Rotate,
}

/// How a server is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstTransport {
    /// By UDP, by TCP when the answer is cut.
    Udp,
    /// By TCP only (`options use-vc`).
    Tcp,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            try_timeout: DEFAULT_TRY_TIMEOUT,
            attempts: DEFAULT_ATTEMPTS,
            order: Order::AsListed,
            first: FirstTransport::Udp,
        }
    }
}

impl HostConfig {
    /// Reads the text of a resolv.conf, whose servers listen on `port`. Like the
    /// C library, it takes what it understands and leaves the rest.
    pub(super) fn parse(text: &[u8], port: u16) -> Self {
        let (file, errors) = resolv_conf::Config::parse_with_errors(text);
        for error in errors {
            tracing::debug!(%error, "a line of resolv.conf is not used");
        }
        let mut servers = servers(&file, port);
        if servers.is_empty() {
            // As the C library does, resolv.conf(5).
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        let search = file.get_last_search_or_domain();
        Self {
            servers,
            search: search
                .filter_map(|d| parse_domain(d))
                .take(MAX_SEARCH_DOMAINS)
                .collect(),
            options: options(&file),
        }
    }
}

/// The servers that a resolv.conf names and that can be asked, with their port;
/// at most [`MAX_SERVERS`]. None: gw asks 127.0.0.1, as the C library does
/// (resolv.conf(5)).
#[must_use]
pub fn name_servers(text: &[u8]) -> Vec<SocketAddr> {
    let (file, _) = resolv_conf::Config::parse_with_errors(text);
    servers(&file, DNS_PORT)
}

fn servers(file: &resolv_conf::Config, port: u16) -> Vec<SocketAddr> {
    let servers = file.nameservers.iter();
    servers
        .filter_map(|ip| server_addr(ip, port))
        .take(MAX_SERVERS)
        .collect()
}

fn options(file: &resolv_conf::Config) -> ServerOptions {
    let try_timeout = match file.timeout {
        GLIBC_TIMEOUT_SECS => DEFAULT_TRY_TIMEOUT,
        secs => Duration::from_secs(secs.clamp(1, 30).into()),
    };
    ServerOptions {
        try_timeout,
        attempts: file.attempts.clamp(1, 5),
        order: if file.rotate {
            Order::Rotate
        } else {
            Order::AsListed
        },
        first: if file.use_vc {
            FirstTransport::Tcp
        } else {
            FirstTransport::Udp
        },
    }
}

/// The socket address of a server; `None` when its interface does not exist.
fn server_addr(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    Some(match ip {
        ScopedIp::V4(ip) => SocketAddr::new(IpAddr::V4(*ip), port),
        ScopedIp::V6(ip, scope) => {
            let scope = match scope.as_deref() {
                None => 0,
                Some(name) => match name.parse() {
                    Ok(index) => index,
                    Err(_) => nix::net::if_::if_nametoindex(name).ok()?,
                },
            };
            SocketAddrV6::new(*ip, port, 0, scope).into()
        }
    })
}

/// A resolv.conf that is followed.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    port: u16,
    config: HostConfig,
    seen: Option<Identity>,
    checked: Option<Instant>,
}

/// Whether a look at the file found something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Everything is as before.
    Same,
    /// The configuration is another one.
    Changed,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Follower {
    /// Follows the file at `path`, whose servers listen on `port`. Does not
    /// touch it yet.
    pub(super) fn new(path: PathBuf, port: u16) -> Self {
        Self {
            path,
            port,
            config: HostConfig::parse(b"", port),
            seen: None,
            checked: None,
        }
    }

    /// What the file said at the last look.
    pub(super) fn config(&self) -> &HostConfig {
        &self.config
    }

    /// Looks at the file, if the last look is long enough ago.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        if self
            .checked
            .is_some_and(|at| now.duration_since(at) < CHECK_INTERVAL)
        {
            return Look::Same;
        }
        let first = self.checked.is_none();
        self.checked = Some(now);
        match self.read_if_changed() {
            Ok(Some(config)) if config != self.config => {
                tracing::debug!(path = %self.path.display(), ?config, "resolv.conf was read");
                self.config = config;
                Look::Changed
            }
            Ok(_) => Look::Same,
            Err(error) => {
                if first {
                    tracing::warn!(
                        path = %self.path.display(), %error,
                        "resolv.conf cannot be read and counts as empty: unless --dns names others, \
                         the name server is 127.0.0.1"
                    );
                }
                self.seen = None;
                Look::Same
            }
        }
    }

    fn read_if_changed(&mut self) -> io::Result<Option<HostConfig>> {
        let before = std::fs::metadata(&self.path)?;
        if self.seen.is_some() && self.seen == Some(Identity::of(&before)) {
            return Ok(None);
        }
        // Opening a FIFO would wait; /dev/null and the like mean an empty file.
        let text = if before.is_file() {
            read(&self.path)?
        } else {
            Vec::new()
        };
        let settled = before
            .modified()
            .is_ok_and(|at| has_settled(at, SystemTime::now()));
        self.seen = settled.then(|| Identity::of(&before));
        Ok(Some(HostConfig::parse(&text, self.port)))
    }
}

impl Identity {
    fn of(file: &std::fs::Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            len: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

fn has_settled(modified: SystemTime, now: SystemTime) -> bool {
    now.duration_since(modified)
        .is_ok_and(|age| age >= UNSETTLED)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE_LEN)
        .read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    proptest! {
        #[test]
        fn any_file_is_read(text: Vec<u8>) {
            let config = HostConfig::parse(&text, DNS_PORT);
            prop_assert!((1..=MAX_SERVERS).contains(&config.servers.len()));
        }
    }

    #[test]
    fn lines_mean_what_the_manual_says() {
        let config = HostConfig::parse(
            b"# comment\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%lo\n\
              nameserver fe80::1%nosuchinterface\nnameserver nonsense\n\
              domain old.example\nsearch A.example b.example.\n\
              options timeout:1 attempts:9 rotate use-vc edns0 unknown\n",
            DNS_PORT,
        );
        let servers: Vec<_> = config.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]
        );
        let search: Vec<_> = config.search.iter().map(Name::to_ascii).collect();
        assert_eq!(search, ["a.example.", "b.example."]);
        assert_eq!(
            config.options,
            ServerOptions {
                try_timeout: Duration::from_secs(1),
                attempts: 5,
                order: Order::Rotate,
                first: FirstTransport::Tcp,
            }
        );
    }

    #[test]
    fn an_empty_file_means_the_loopback() {
        let config = HostConfig::parse(b"", DNS_PORT);
        assert_eq!(config.servers, ["127.0.0.1:53".parse().expect("address")]);
        assert_eq!(config.options, ServerOptions::default());
    }

    fn servers(follower: &Follower) -> Vec<String> {
        follower
            .config()
            .servers
            .iter()
            .map(|s| s.ip().to_string())
            .collect()
    }

    #[test]
    fn changes_are_seen_however_they_are_made() {
        let dir = tempfile::tempdir().expect("directory");
        let at = |name: &str| dir.path().join(name);
        let conf = at("resolv.conf");
        let mut follower = Follower::new(conf.clone(), DNS_PORT);
        let mut now = Instant::now();
        let mut look = |follower: &mut Follower| {
            now += CHECK_INTERVAL;
            follower.look(now)
        };
        // There is none yet.
        assert_eq!(look(&mut follower), Look::Same);
        assert_eq!(servers(&follower), ["127.0.0.1"]);
        // It comes; the same length is written over it; it is renamed over.
        fs::write(&conf, "nameserver 192.0.2.1\n").expect("write");
        assert_eq!(look(&mut follower), Look::Changed);
        assert_eq!(look(&mut follower), Look::Same);
        fs::write(&conf, "nameserver 192.0.2.2\n").expect("write");
        assert_eq!(look(&mut follower), Look::Changed);
        fs::write(at("new"), "nameserver 192.0.2.3\n").expect("write");
        fs::rename(at("new"), &conf).expect("rename");
        assert_eq!(look(&mut follower), Look::Changed);
        assert_eq!(servers(&follower), ["192.0.2.3"]);
        // It goes for a moment: the servers stay. It comes back as a link.
        fs::remove_file(&conf).expect("remove");
        assert_eq!(look(&mut follower), Look::Same);
        assert_eq!(servers(&follower), ["192.0.2.3"]);
        fs::write(at("one"), "nameserver 192.0.2.4\n").expect("write");
        fs::write(at("two"), "nameserver 192.0.2.5\n").expect("write");
        symlink("one", &conf).expect("link");
        assert_eq!(look(&mut follower), Look::Changed);
        assert_eq!(servers(&follower), ["192.0.2.4"]);
        symlink("two", at("link")).expect("link");
        fs::rename(at("link"), &conf).expect("rename");
        assert_eq!(look(&mut follower), Look::Changed);
        assert_eq!(servers(&follower), ["192.0.2.5"]);
        // A broken link is no reason to forget either.
        fs::remove_file(at("two")).expect("remove");
        assert_eq!(look(&mut follower), Look::Same);
        assert_eq!(servers(&follower), ["192.0.2.5"]);
    }

    #[test]
    fn the_file_is_looked_at_once_a_second() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = dir.path().join("resolv.conf");
        fs::write(&conf, "nameserver 192.0.2.1\n").expect("write");
        let mut follower = Follower::new(conf.clone(), DNS_PORT);
        let start = Instant::now();
        assert_eq!(follower.look(start), Look::Changed);
        fs::write(&conf, "nameserver 192.0.2.2\n").expect("write");
        assert_eq!(follower.look(start + CHECK_INTERVAL / 2), Look::Same);
        assert_eq!(follower.look(start + CHECK_INTERVAL), Look::Changed);
    }

    #[test]
    fn what_is_no_file_counts_as_empty() {
        let dir = tempfile::tempdir().expect("directory");
        let pipe = dir.path().join("resolv.conf");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("pipe");
        let mut follower = Follower::new(pipe, DNS_PORT);
        follower.look(Instant::now());
        assert_eq!(servers(&follower), ["127.0.0.1"]);
    }

    #[test]
    fn an_old_file_is_read_once() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = dir.path().join("resolv.conf");
        fs::write(&conf, "nameserver 192.0.2.1\n").expect("write");
        let old = SystemTime::now() - 2 * UNSETTLED;
        File::options()
            .write(true)
            .open(&conf)
            .expect("open")
            .set_modified(old)
            .expect("set");
        let mut follower = Follower::new(conf, DNS_PORT);
        follower.look(Instant::now());
        assert!(follower.seen.is_some());
    }
}
