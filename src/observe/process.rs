//! Which process of the guest a flow belongs to.
//!
//! # Theory of operation
//!
//! The kernel says which socket a flow's guest end is, by its inode
//! ([`SocketLookup`]); that has a number which no other socket of the system has, in
//! whatever namespace. Which process holds it is written in `/proc/PID/fd`. Those
//! that held sockets of flows before are looked at first ([`MAX_RECENT`]), then all
//! others of the guest's network namespace, the newest first: what has just begun is
//! likely to be theirs.
//!
//! A socket of several processes, such as a server's and those of its children, is
//! put down to the one that is found first. What has closed its socket, or was never
//! seen in `/proc`, has no process here: that is no error. The look comes some
//! hundred microseconds after a flow has begun, while its connection is being made;
//! a program that closes its socket at once may be too fast for it.
//!
//! # Limits
//!
//! A look at `/proc` takes [`SCAN_BUDGET`] at most, [`MAX_PROCESSES`] and for each of
//! those [`MAX_DESCRIPTORS`]; what was not found by then has none.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use procfs::process::{FDTarget, Process as ProcEntry};

use crate::policy::Protocol;

/// Time that one look at `/proc` may take.
const SCAN_BUDGET: Duration = Duration::from_millis(100);

/// Processes that one look sees.
const MAX_PROCESSES: usize = 16384;

/// Descriptors of a process that one look sees.
const MAX_DESCRIPTORS: usize = 16384;

/// Processes that are looked at first.
const MAX_RECENT: usize = 16;

/// Longest path of an executable that is told, in bytes.
const MAX_EXE: usize = 1024;

/// A process of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number, as the gateway's own namespace has it.
    pub pid: u32,
    /// Its name (`comm`), 15 bytes at most.
    pub name: String,
    /// Its executable, as the process itself would name it; `None` where that is
    /// not to be read, or longer than 1024 bytes.
    pub exe: Option<PathBuf>,
    /// The user that the socket belongs to, as the gateway's namespace has it.
    pub uid: u32,
}

/// A flow whose process is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
}

/// Finds the processes of flows. Asking takes system calls: not for the loop.
pub trait Attribution: Send {
    /// The process of each, in order; `None`: not to be known.
    fn attribute(&mut self, flows: &[Ends]) -> Vec<Option<Arc<Process>>>;
}

/// Where no process can be seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProcesses;

impl Attribution for NoProcesses {
    fn attribute(&mut self, flows: &[Ends]) -> Vec<Option<Arc<Process>>> {
        vec![None; flows.len()]
    }
}

/// One that several threads ask, one after the other.
impl<A: Attribution + ?Sized> Attribution for Arc<Mutex<A>> {
    fn attribute(&mut self, flows: &[Ends]) -> Vec<Option<Arc<Process>>> {
        // One that panicked left nothing half done that matters.
        let mut inner = self.lock().unwrap_or_else(PoisonError::into_inner);
        inner.attribute(flows)
    }
}

/// A socket, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketOwner {
    /// Its inode.
    pub inode: u64,
    /// The user that made it.
    pub uid: u32,
}

/// Finds the guest's sockets.
pub trait SocketLookup: Send {
    /// The socket of a flow's guest end; `None`: there is none (any more).
    fn find(&mut self, flow: Ends) -> Option<SocketOwner>;

    /// The inode of the guest's network namespace, where that is known.
    fn namespace(&self) -> Option<u64>;
}

/// Finds processes in `/proc`.
#[derive(Debug)]
pub struct Processes<L> {
    sockets: L,
    /// Those that were found last, the newest first.
    recent: VecDeque<i32>,
}

impl<L: SocketLookup> Processes<L> {
    /// Finds the processes of what `sockets` finds.
    pub fn new(sockets: L) -> Self {
        Self {
            sockets,
            recent: VecDeque::new(),
        }
    }

    /// The processes that hold the sockets `wanted`, by inode.
    fn holders(&mut self, mut wanted: HashMap<u64, u32>) -> HashMap<u64, Arc<Process>> {
        let mut found = HashMap::new();
        let deadline = Instant::now() + SCAN_BUDGET;
        for pid in Vec::from(self.recent.clone()) {
            self.look_at(pid, &mut wanted, &mut found);
        }
        if wanted.is_empty() {
            return found;
        }
        for pid in self.guests_processes() {
            if wanted.is_empty() || Instant::now() >= deadline {
                break;
            }
            self.look_at(pid, &mut wanted, &mut found);
        }
        found
    }

    /// Moves those of `wanted` that the process holds to `found`.
    fn look_at(
        &mut self,
        pid: i32,
        wanted: &mut HashMap<u64, u32>,
        found: &mut HashMap<u64, Arc<Process>>,
    ) {
        let Some((entry, descriptors)) = ProcEntry::new(pid)
            .ok()
            .and_then(|entry| entry.fd().ok().map(|descriptors| (entry, descriptors)))
        else {
            self.recent.retain(|recent| *recent != pid);
            return;
        };
        let mut process = None;
        for descriptor in descriptors.flatten().take(MAX_DESCRIPTORS) {
            let FDTarget::Socket(inode) = descriptor.target else {
                continue;
            };
            if let Some(uid) = wanted.remove(&inode) {
                let process = process.get_or_insert_with(|| Arc::new(describe(&entry, uid)));
                found.insert(inode, Arc::clone(process));
                if wanted.is_empty() {
                    break;
                }
            }
        }
        if process.is_some() && self.recent.front() != Some(&pid) {
            self.recent.retain(|recent| *recent != pid);
            self.recent.push_front(pid);
            self.recent.truncate(MAX_RECENT);
        }
    }

    /// Processes of the guest's namespace, the newest first; where that is not
    /// known, all that can be seen.
    fn guests_processes(&self) -> impl Iterator<Item = i32> + use<L> {
        let namespace = self.sockets.namespace();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<i32> = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .take(MAX_PROCESSES)
            .collect();
        pids.sort_unstable_by(|a, b| b.cmp(a));
        pids.into_iter().filter(move |pid| {
            namespace.is_none_or(|wanted| {
                let theirs = fs::metadata(format!("/proc/{pid}/ns/net"));
                theirs.is_ok_and(|theirs| theirs.ino() == wanted)
            })
        })
    }
}

fn describe(entry: &ProcEntry, uid: u32) -> Process {
    let exe = entry.exe().ok();
    Process {
        pid: u32::try_from(entry.pid()).unwrap_or(0),
        name: entry.stat().map(|stat| stat.comm).unwrap_or_default(),
        exe: exe.filter(|path| path.as_os_str().len() <= MAX_EXE),
        uid,
    }
}

impl<L: SocketLookup> Attribution for Processes<L> {
    fn attribute(&mut self, flows: &[Ends]) -> Vec<Option<Arc<Process>>> {
        // All sockets first: they are what is gone soonest.
        let owners: Vec<Option<SocketOwner>> =
            flows.iter().map(|flow| self.sockets.find(*flow)).collect();
        let wanted: HashMap<u64, u32> = owners
            .iter()
            .flatten()
            .map(|owner| (owner.inode, owner.uid))
            .collect();
        if wanted.is_empty() {
            return vec![None; flows.len()];
        }
        let found = self.holders(wanted);
        owners
            .iter()
            .map(|owner| found.get(&owner.as_ref()?.inode).cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    /// Knows one socket, whatever it is asked for.
    struct One(Option<SocketOwner>);

    impl SocketLookup for One {
        fn find(&mut self, _: Ends) -> Option<SocketOwner> {
            self.0
        }

        fn namespace(&self) -> Option<u64> {
            let own = fs::metadata("/proc/self/ns/net").expect("own namespace");
            Some(own.ino())
        }
    }

    fn ends() -> Ends {
        let at = "10.0.2.100:1".parse().expect("an address");
        Ends {
            protocol: Protocol::Udp,
            guest: at,
            remote: at,
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found_while_it_is_open() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let at = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let inode = fs::metadata(at).expect("a socket").ino();
        let mut processes = Processes::new(One(Some(SocketOwner { inode, uid: 7 })));
        for _ in 0..2 {
            let found = processes.attribute(&[ends(), ends()]);
            let [Some(process), Some(other)] = &found[..] else {
                panic!("{found:?}");
            };
            assert!(Arc::ptr_eq(process, other));
            assert_eq!((process.pid, process.uid), (std::process::id(), 7));
            assert_eq!(process.exe, std::env::current_exe().ok());
            let comm = fs::read_to_string("/proc/self/comm").expect("a name");
            assert_eq!(process.name, comm.trim_end());
        }
        assert_eq!(processes.recent.len(), 1);
        drop(socket);
        assert_eq!(processes.attribute(&[ends()]), [None]);
    }

    #[test]
    fn where_there_is_no_socket_there_is_no_process() {
        assert_eq!(Processes::new(One(None)).attribute(&[ends()]), [None]);
        assert_eq!(NoProcesses.attribute(&[ends()]), [None]);
    }
}
