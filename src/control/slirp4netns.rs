//! slirp4netns's API: what Podman and rootlesskit publish ports with.
//!
//! # Theory of operation
//!
//! One request per connection, one answer without end of line, then the end.
//! slirp4netns reads once and takes what that gave; here a request is complete
//! when its JSON value is, or when the client says no more. So neither a client
//! that writes in pieces nor one that never closes its side is misunderstood.
//! slirp4netns serves one client at a time; here they are served side by side,
//! up to [`MAX_CLIENTS`], and the rest wait to be accepted.
//!
//! The answers are byte for byte those that clients know, and arguments are
//! checked in the same order. More than there:
//!
//! - IPv6 host addresses, and guest addresses, are taken.
//! - An `add_hostfwd` without `proto` is an error; there it is the end.
//! - A port that is none (65536, 8.5), or a `host_addr` that is no string, is an
//!   error; there it becomes another port, or all addresses.
//! - `list_hostfwd` answers in both forms, the documented and the real one.
//!
//! `list_hostfwd` shows every TCP and UDP port that is forwarded, however that
//! came about: one entry per port. Ports that were published as a range have one
//! id, and go away together. Forwards of unix sockets, and those from the guest
//! to the host, have no form here and are left out.
//!
//! Who may ask is whom the file of the socket lets connect, as there: its mode is
//! 0755 less the umask, and connecting takes the right to write.

mod request;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

pub use self::request::Guests;
use self::request::{Execute, Problem, parse, value};
use super::proto::{Again, ForwardRef, MAX_PAGE, Reply, Request, RequestError};
use super::{Asker, finish, write};
use crate::forward::{ForwardId, ForwardSpec, Publish, PublishAt};
use crate::policy::Protocol;

/// Bytes that a request must stay below.
const MAX_REQUEST: usize = 4096;

/// Clients at a time. Each takes a descriptor.
const MAX_CLIENTS: usize = 64;

/// How long a client may take to ask.
const DEADLINE: Duration = Duration::from_secs(10);

/// Until the system is asked again that had no descriptor for a client.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Entries of `list_hostfwd`. What is beyond is left out, and logged.
const MAX_ENTRIES: usize = 4096;

/// Accepts clients for ever.
pub(super) async fn serve(listener: UnixListener, asker: Asker, guests: Rc<Guests>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // Nobody closes it.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (asker, guests) = (asker.clone(), Rc::clone(&guests));
                tokio::task::spawn_local(async move {
                    if let Err(error) = client(stream, &asker, &guests).await {
                        tracing::debug!(%error, "a client of the slirp4netns API went away");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a client of the slirp4netns API was not accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, asker: &Asker, guests: &Guests) -> io::Result<()> {
    let answer = match read(&mut stream).await? {
        Ok(request) => answer(&request, asker, guests).await,
        Err(problem) => Err(problem),
    };
    let text = match answer {
        Ok(text) => text,
        Err(problem) => {
            tracing::debug!(%problem, "slirp4netns API: refused");
            to_json(&Failure::from(problem))
        }
    };
    write(&mut stream, text.as_bytes()).await?;
    finish(stream).await;
    Ok(())
}

/// Reads a request. `Ok(Err(_))`: there is none.
async fn read(stream: &mut UnixStream) -> io::Result<Result<Value, Problem>> {
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = [0; MAX_REQUEST];
    let mut filled = 0;
    loop {
        let read = match timeout_at(deadline, stream.read(&mut buffer[filled..])).await {
            Ok(read) => read?,
            Err(_) => 0,
        };
        filled += read;
        if filled == MAX_REQUEST {
            return Ok(Err(Problem::TooLarge));
        }
        if let Some(result) = value(&buffer[..filled]) {
            return Ok(result);
        }
        if read == 0 {
            return Ok(Err(Problem::NotJson));
        }
    }
}

async fn answer(request: &Value, asker: &Asker, guests: &Guests) -> Result<String, Problem> {
    tracing::debug!(%request, "slirp4netns API");
    match parse(request, guests)? {
        Execute::Add(publish) => {
            let forward = ForwardSpec::Publish(publish);
            let again = Again::Refuse;
            match asker.ask(Request::ForwardAdd { forward, again }).await {
                Ok(Reply::Forward { id }) => Ok(to_json(&Return { value: Id { id } })),
                result => Err(not_done(result, Problem::NotAdded)),
            }
        }
        Execute::List => {
            let entries = entries(asker, guests).await;
            let value = Entries { entries: &entries };
            Ok(to_json(&Listed {
                value,
                entries: &entries,
            }))
        }
        Execute::Remove(id) => {
            let forward = ForwardRef::Id(id);
            match asker.ask(Request::ForwardRemove { forward }).await {
                Ok(_) => Ok(to_json(&Return { value: Nothing {} })),
                result => Err(not_done(result, Problem::BadId)),
            }
        }
    }
}

/// The API has one text for every reason; the log has the reason.
fn not_done(result: Result<Reply, RequestError>, problem: Problem) -> Problem {
    match (result, problem) {
        (Err(why), Problem::NotAdded) => tracing::warn!("a port was not published: {why}"),
        (Err(why), _) => tracing::debug!(%why, "slirp4netns API: refused"),
        (Ok(reply), _) => tracing::error!(?reply, "the gateway's answer makes no sense"),
    }
    problem
}

/// Every port that is forwarded.
async fn entries(asker: &Asker, guests: &Guests) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut after = None;
    loop {
        let limit = u32::try_from(MAX_PAGE).ok();
        let Ok(Reply::Forwards { forwards, next }) =
            asker.ask(Request::ForwardList { after, limit }).await
        else {
            return entries;
        };
        for listed in &forwards {
            if let ForwardSpec::Publish(publish) = &listed.forward {
                entries.extend(ports_of(listed.id, publish, guests));
            }
            if entries.len() > MAX_ENTRIES {
                entries.truncate(MAX_ENTRIES);
                tracing::warn!(MAX_ENTRIES, "list_hostfwd leaves forwards out");
                return entries;
            }
        }
        if next.is_none() {
            return entries;
        }
        after = next;
    }
}

/// The ports of one forward.
fn ports_of(id: ForwardId, publish: &Publish, guests: &Guests) -> Vec<Entry> {
    let PublishAt::Ports { addr, ports, .. } = &publish.host else {
        return Vec::new();
    };
    let proto = match publish.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Echo => return Vec::new(),
    };
    let host_addr = addr.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let Some(guest_addr) = publish.guest.or(guests.default_addr()) else {
        return Vec::new();
    };
    let host_ports = ports.first..=ports.last;
    let guest_ports = publish.guest_ports.first..=publish.guest_ports.last;
    host_ports
        .zip(guest_ports)
        .map(|(host_port, guest_port)| Entry {
            id,
            proto,
            host_addr,
            host_port,
            guest_addr,
            guest_port,
        })
        .collect()
}

#[derive(Debug, Serialize)]
struct Return<T> {
    #[serde(rename = "return")]
    value: T,
}

#[derive(Debug, Serialize)]
struct Id {
    id: ForwardId,
}

#[derive(Debug, Serialize)]
struct Nothing {}

#[derive(Debug, Serialize)]
struct Entries<'a> {
    entries: &'a [Entry],
}

/// The documented form and the real one.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    #[serde(rename = "return")]
    value: Entries<'a>,
    entries: &'a [Entry],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    id: ForwardId,
    proto: &'static str,
    host_addr: IpAddr,
    host_port: u16,
    guest_addr: IpAddr,
    guest_port: u16,
}

#[derive(Debug, Serialize)]
struct Failure {
    error: Description,
}

#[derive(Debug, Serialize)]
struct Description {
    desc: String,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let desc = problem.to_string();
        Self {
            error: Description { desc },
        }
    }
}

fn to_json(value: &impl Serialize) -> String {
    // Structures of strings and numbers: there is nothing that JSON has not.
    serde_json::to_string(value).unwrap_or_default()
}

/// A door for the fuzz targets: reads `bytes` as a request.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let guests = Guests {
        v4: Some(Ipv4Addr::new(10, 0, 2, 100)),
        v6: None,
    };
    if let Some(Ok(request)) = value(bytes) {
        let _ = parse(&request, &guests);
    }
}

#[cfg(test)]
#[path = "slirp4netns_tests.rs"]
mod tests;
