//! Two namespaces and what is between them.

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Error, Result};
use crate::impairment::Direction;
use crate::model::{Contender, Order};

/// Where the guest is.
const CLIENT: &str = "client";
/// Where the server is, and gw.
const SERVER: &str = "server";

/// The server's address, one of nobody's link.
pub(crate) const ADDRESS: &str = "192.0.2.1";

/// Where the machine has its programs.
pub(crate) const IP: &str = "/sbin/ip";
pub(crate) const TC: &str = "/sbin/tc";
pub(crate) const GW: &str = "/sbin/gw";

/// Hardware addresses of the veth, so that nobody needs to ask for them: ARP would
/// be lost and delayed, too.
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// Namespaces with a network between them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    gw: Option<Child>,
}

/// An end of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    fn namespace(self) -> &'static str {
        match self {
            Self::Client => CLIENT,
            Self::Server => SERVER,
        }
    }

    /// Runs `work` on a thread in this end's namespace.
    pub(crate) fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        std::thread::spawn(move || {
            let path = format!("/run/netns/{}", self.namespace());
            let file = File::open(&path).context(|| format!("opening {path}"))?;
            setns(file, CloneFlags::CLONE_NEWNET).context(|| format!("entering {path}"))?;
            work()
        })
    }
}

/// The end of a thread that [`End::run`] started.
pub(crate) fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Error("a thread panicked".into())))
}

impl Lab {
    /// Makes what the order is to be carried out in.
    ///
    /// # Errors
    /// When a program fails.
    pub(crate) fn set_up(order: &Order) -> Result<Self> {
        std::fs::create_dir_all("/run").context(|| "making /run".into())?;
        for namespace in [CLIENT, SERVER] {
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        let congestion = order.congestion.clone();
        for end in [End::Client, End::Server] {
            let congestion = congestion.clone();
            join(end.run(move || tune(&congestion)))?;
        }
        ip(&format!("-n {SERVER} addr add {ADDRESS}/32 dev lo"))?;
        // From here on it is taken down again, whatever happens.
        let mut lab = Self { gw: None };
        match order.contender {
            Contender::Netem => veth(order)?,
            Contender::Gw => lab.gw = Some(start_gw(order)?),
        }
        Ok(lab)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(gw) = &mut self.gw {
            let _ = gw.kill();
            let _ = gw.wait();
        }
        for namespace in [CLIENT, SERVER] {
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

/// Settings of a namespace.
fn tune(congestion: &str) -> Result<()> {
    for (file, value) in [
        ("net/ipv4/tcp_congestion_control", congestion),
        // Nothing but what is measured is on the link.
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
        // A connection does not begin with what another has learnt.
        ("net/ipv4/tcp_no_metrics_save", "1"),
    ] {
        let path = format!("/proc/sys/{file}");
        std::fs::write(&path, value).context(|| format!("writing {value} to {path}"))?;
    }
    Ok(())
}

/// A veth with netem at each of its ends that the order is about.
fn veth(order: &Order) -> Result<()> {
    ip(&format!(
        "-n {CLIENT} link add eth0 address {} type veth peer name eth0 address {} netns {SERVER}",
        MACS[0], MACS[1]
    ))?;
    for (namespace, address, peer, mac) in [
        (CLIENT, "10.0.2.100", "10.0.2.2", MACS[1]),
        (SERVER, "10.0.2.2", "10.0.2.100", MACS[0]),
    ] {
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
        // netem loses and counts what it is given: single packets, as on a wire.
        ip(&format!("-n {namespace} link set eth0 gso_max_segs 1 up"))?;
        ip(&format!(
            "-n {namespace} neigh replace {peer} lladdr {mac} nud permanent dev eth0"
        ))?;
    }
    ip(&format!("-n {CLIENT} route add default via 10.0.2.2"))?;
    if order.impairment.is_none() {
        return Ok(());
    }
    for (direction, namespace) in [(Direction::Up, CLIENT), (Direction::Down, SERVER)] {
        if order.way.includes(direction) {
            let words = order.impairment.netem();
            run(
                TC,
                &format!("-n {namespace} qdisc add dev eth0 root {words}"),
            )?;
        }
    }
    Ok(())
}

/// gw in the server's namespace, its TAP in the client's; ready when it returns.
fn start_gw(order: &Order) -> Result<Child> {
    let mut command = Command::new(GW);
    command.args("--netns client --quiet --no-dns --no-ipv6 --ready-fd 1".split(' '));
    if !order.impairment.is_none() {
        let rule = order.impairment.rule(order.way, order.seed);
        command.args(["--impair", &rule]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = move || {
        let mut child = command.spawn().context(|| format!("starting {GW}"))?;
        let ready = child.stdout.take().map(|mut output| {
            let mut byte = [0; 1];
            output.read_exact(&mut byte)
        });
        match ready {
            Some(Ok(())) => Ok(child),
            _ => {
                let _ = child.kill();
                let status = child.wait().context(|| "waiting for gw".into())?;
                Err(Error(format!("gw is not ready: {status}")))
            }
        }
    };
    join(End::Server.run(start))
}

fn ip(arguments: &str) -> Result<()> {
    run(IP, arguments)
}

/// Runs a program that must succeed.
fn run(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .context(|| format!("running {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Error(format!("{program} {arguments}: {}", why.trim())))
}
