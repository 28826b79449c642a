//! `gw ctl`: asks a running gateway, through its control socket.

pub(in crate::cli) mod client;
mod show;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::client::{Answered, Client, CtlError};
use self::show::Style;
use super::Exit;
use super::messages::{print_failure, print_remedy};
use super::values;
use crate::capture::{CaptureId, CaptureSpec, Target};
use crate::control::proto::{
    Cursor, FlowDirection, FlowFilter, FlowId, FlowProtocol, ForwardRef, LogLevel, Reply, Request,
};
use crate::forward::spec::{Expose, Publish};
use crate::forward::{ForwardId, ForwardSpec};
use crate::impair::{Rule, RuleId};

/// Options of `gw ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The gateway's control socket: what it was given with --control
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// Print the gateway's answers as they are: JSON, one a line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: Verb,
}

/// What is asked.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Who the gateway is, and how it was started
    Info,
    /// Ports of the host that lead to the guest, and the reverse
    Forward {
        #[command(subcommand)]
        verb: ForwardVerb,
    },
    /// Names that the gateway answers itself
    Host {
        #[command(subcommand)]
        verb: HostVerb,
    },
    /// Open flows
    #[command(args_conflicts_with_subcommands = true)]
    Flows {
        #[command(subcommand)]
        verb: Option<FlowsVerb>,
        #[command(flatten)]
        list: FlowsArgs,
    },
    /// DHCP leases
    Leases,
    /// What the guests are plugged into
    Ports,
    /// Counts and sizes
    Stats,
    /// Rules of impairment: what becomes of the traffic
    Impair {
        #[command(subcommand)]
        verb: ImpairVerb,
    },
    /// Captures: what passes the links, written to files that Wireshark reads
    Capture {
        #[command(subcommand)]
        verb: CaptureVerb,
    },
    /// Sets how much the gateway logs
    Log {
        /// The least important that is logged
        #[arg(value_enum)]
        level: Level,
    },
    /// Ends the gateway, as SIGTERM would, and waits for that
    Shutdown,
}

#[derive(Debug, Subcommand)]
enum ForwardVerb {
    /// Adds forwards, written as with --publish; prints their ids. One that is there already stays
    Add {
        /// The specs are those of --expose-host: ports of the gateway that lead to the host
        #[arg(long)]
        expose_host: bool,
        #[arg(value_name = "SPEC", required = true)]
        specs: Vec<String>,
    },
    /// Removes forwards; connections that they have accepted live on
    Remove {
        /// The specs are those of --expose-host
        #[arg(long)]
        expose_host: bool,
        /// A number is an id, as 'list' shows them; anything else what was added
        #[arg(value_name = "ID|SPEC", required = true)]
        which: Vec<String>,
    },
    /// Lists the forwards
    List,
}

#[derive(Debug, Subcommand)]
enum HostVerb {
    /// Answers names with addresses
    Add(HostArgs),
    /// Answers them so no longer
    Remove(HostArgs),
    /// Lists them; not the gateway's own
    List,
}

#[derive(Debug, Subcommand)]
enum ImpairVerb {
    /// Replaces all rules, written as with --impair; each begins anew
    Set {
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<Rule>,
    },
    /// Puts rules behind the others; prints their ids
    Add {
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<Rule>,
    },
    /// Takes rules away; what they hold back still comes when it was to come
    Remove {
        /// As 'list' shows them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    /// Lists the rules, with their seeds and what they did
    List,
    /// Takes all rules away
    Clear,
}

#[derive(Debug, Args)]
struct HostArgs {
    #[arg(value_name = "NAME=ADDR", required = true, value_parser = values::host)]
    hosts: Vec<(String, IpAddr)>,
}

#[derive(Debug, Subcommand)]
enum FlowsVerb {
    /// Resets flows on both sides
    Close {
        /// As the list shows them
        #[arg(value_name = "ID", required = true, value_parser = flow_id)]
        ids: Vec<FlowId>,
    },
}

#[derive(Debug, Subcommand)]
enum CaptureVerb {
    /// Starts captures, written as with --pcap; prints their ids
    Start {
        #[arg(
            value_name = "FILE[,snaplen=N,size=SIZE,files=N,segment=on|off,filter=EXPR]",
            required = true
        )]
        captures: Vec<CaptureSpec>,
    },
    /// Ends captures, and waits until their files are complete
    Stop {
        /// As 'list' shows them [default: the only one there is]
        #[arg(value_name = "ID")]
        ids: Vec<NonZeroU32>,
    },
    /// Goes on with captures in other files, FILE_00002_DATE for FILE
    Rotate {
        /// As 'list' shows them [default: the only one there is]
        #[arg(value_name = "ID")]
        ids: Vec<NonZeroU32>,
    },
    /// Lists the captures that run
    List,
}

#[derive(Debug, Args)]
struct FlowsArgs {
    /// Show which process of the guest each belongs to
    #[arg(long)]
    processes: bool,

    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Only these
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Only these
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Only those with this address on any side
    #[arg(long)]
    addr: Option<IpAddr>,
    /// Only those with this port on any side
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Direction {
    /// Begun by the guest
    Outbound,
    /// Begun by a client of a forward
    Inbound,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Protocol> for FlowProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<Direction> for FlowDirection {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::Outbound,
            Direction::Inbound => Self::Inbound,
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::Off,
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }
}

fn flow_id(text: &str) -> Result<FlowId, String> {
    FlowId::try_from(text.to_owned())
}

/// What the arguments come to.
#[derive(Debug)]
enum Task {
    /// These, one after the other.
    Each(Vec<Request>),
    /// A list, page by page, up to this many entries.
    List(List, Option<u32>),
}

#[derive(Debug, Clone, Copy)]
enum List {
    Forwards,
    Hosts,
    Flows(FlowFilter, bool),
}

impl List {
    fn page(self, after: Option<Cursor>, limit: Option<u32>) -> Request {
        match self {
            Self::Forwards => Request::ForwardList { after, limit },
            Self::Hosts => Request::HostList { after, limit },
            Self::Flows(filter, processes) => Request::FlowList {
                filter,
                processes,
                after,
                limit,
            },
        }
    }
}

/// Runs `gw ctl`.
pub(super) fn run(args: &CtlArgs) -> ExitCode {
    let task = match task(&args.verb) {
        Ok(task) => task,
        Err(text) => {
            print_failure(&text);
            print_remedy("For more information, try 'gw ctl --help'.");
            return Exit::Usage.into();
        }
    };
    let mut printer = Printer {
        json: args.json,
        style: if io::stdout().is_terminal() {
            Style::Terminal
        } else {
            Style::Plain
        },
    };
    match carry_out(&args.path, task, &mut printer) {
        Ok(()) => Exit::Success.into(),
        // Who reads has enough: `gw ctl ... | head`.
        Err(CtlError::Print(e)) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Success.into(),
        Err(error) => {
            print_failure(&error.to_string());
            Exit::Failure.into()
        }
    }
}

fn task(verb: &Verb) -> Result<Task, String> {
    let one = |request| Task::Each(vec![request]);
    Ok(match verb {
        Verb::Info => one(Request::Hello {}),
        Verb::Forward { verb } => forwards(verb)?,
        Verb::Host { verb } => hosts(verb),
        Verb::Flows {
            verb: Some(FlowsVerb::Close { ids }),
            ..
        } => Task::Each(ids.iter().map(|&id| Request::FlowClose { id }).collect()),
        Verb::Flows { verb: None, list } => {
            let filter = FlowFilter {
                protocol: list.protocol.map(Into::into),
                direction: list.direction.map(Into::into),
                addr: list.addr,
                port: list.port,
            };
            Task::List(List::Flows(filter, list.processes), list.limit)
        }
        Verb::Leases => one(Request::Leases {}),
        Verb::Ports => one(Request::Ports {}),
        Verb::Stats => one(Request::Statistics {}),
        Verb::Impair { verb } => impairments(verb),
        Verb::Capture { verb } => Task::Each(captures(verb)?),
        Verb::Log { level } => one(Request::Log {
            level: (*level).into(),
        }),
        Verb::Shutdown => one(Request::Shutdown {}),
    })
}

fn forwards(verb: &ForwardVerb) -> Result<Task, String> {
    let requests: Result<Vec<Request>, String> = match verb {
        ForwardVerb::List => return Ok(Task::List(List::Forwards, None)),
        ForwardVerb::Add { expose_host, specs } => specs
            .iter()
            .map(|text| {
                let forward = if *expose_host {
                    ForwardSpec::Expose(expose(text)?)
                } else {
                    ForwardSpec::Publish(publish(text)?)
                };
                let again = crate::control::proto::Again::SameId;
                Ok(Request::ForwardAdd { forward, again })
            })
            .collect(),
        ForwardVerb::Remove { expose_host, which } => which
            .iter()
            .map(|text| {
                let forward = match text.parse::<NonZeroU32>() {
                    Ok(id) => ForwardRef::Id(ForwardId(id)),
                    Err(_) if *expose_host => ForwardRef::ExposeHost(expose(text)?),
                    Err(_) => ForwardRef::Publish(publish(text)?),
                };
                Ok(Request::ForwardRemove { forward })
            })
            .collect(),
    };
    requests.map(Task::Each)
}

fn captures(verb: &CaptureVerb) -> Result<Vec<Request>, String> {
    let each = |ids: &[NonZeroU32], request: fn(Option<CaptureId>) -> Request| match ids {
        [] => vec![request(None)],
        ids => ids.iter().map(|&id| request(Some(CaptureId(id)))).collect(),
    };
    Ok(match verb {
        CaptureVerb::Start { captures } => {
            let start = |spec: &CaptureSpec| {
                let capture = from_here(spec.clone())?;
                Ok(Request::CaptureStart { capture })
            };
            captures.iter().map(start).collect::<Result<_, String>>()?
        }
        CaptureVerb::Stop { ids } => each(ids, |id| Request::CaptureStop { id }),
        CaptureVerb::Rotate { ids } => each(ids, |id| Request::CaptureRotate { id }),
        CaptureVerb::List => vec![Request::CaptureList {}],
    })
}

/// The same with a path that the gateway understands, wherever it was started.
fn from_here(mut spec: CaptureSpec) -> Result<CaptureSpec, String> {
    match &spec.target {
        Target::Stdout => Err(
            "'-' would be the gateway's standard output; name a file or a FIFO, or give gw --pcap -"
                .to_owned(),
        ),
        Target::Path(path) => {
            let path = std::path::absolute(path)
                .map_err(|e| format!("cannot tell where '{}' is: {e}", path.display()))?;
            spec.target = Target::Path(path);
            Ok(spec)
        }
    }
}

fn publish(text: &str) -> Result<Publish, String> {
    if text.split([':', ',']).next() == Some("auto") {
        return Err("'auto' is for the start: give gw --publish auto".to_owned());
    }
    Publish::try_from(text.to_owned()).map_err(|e| e.to_string())
}

fn expose(text: &str) -> Result<Expose, String> {
    Expose::try_from(text.to_owned()).map_err(|e| e.to_string())
}

fn impairments(verb: &ImpairVerb) -> Task {
    Task::Each(match verb {
        ImpairVerb::Set { rules } => vec![Request::ImpairSet {
            rules: rules.clone(),
        }],
        ImpairVerb::Add { rules } => {
            let rules = rules.iter().cloned();
            rules
                .map(|rule| Request::ImpairAdd {
                    rule: Box::new(rule),
                })
                .collect()
        }
        ImpairVerb::Remove { ids } => {
            let ids = ids.iter().map(|&id| RuleId(id));
            ids.map(|id| Request::ImpairRemove { id }).collect()
        }
        ImpairVerb::List => vec![Request::ImpairList {}],
        ImpairVerb::Clear => vec![Request::ImpairSet { rules: Vec::new() }],
    })
}

fn hosts(verb: &HostVerb) -> Task {
    let each = |args: &HostArgs, request: fn(String, IpAddr) -> Request| {
        let hosts = args.hosts.iter().cloned();
        Task::Each(hosts.map(|(name, addr)| request(name, addr)).collect())
    };
    match verb {
        HostVerb::Add(args) => each(args, |name, addr| Request::HostAdd { name, addr }),
        HostVerb::Remove(args) => each(args, |name, addr| Request::HostRemove { name, addr }),
        HostVerb::List => Task::List(List::Hosts, None),
    }
}

fn carry_out(path: &Path, task: Task, printer: &mut Printer) -> Result<(), CtlError> {
    let mut client = Client::connect(path)?;
    match task {
        Task::Each(requests) => {
            for request in requests {
                let answered = client.ask(&request)?;
                printer.print(&answered)?;
                if request == (Request::Shutdown {}) {
                    client.wait_for_end()?;
                }
            }
            Ok(())
        }
        Task::List(list, limit) => all_pages(&mut client, list, limit, printer),
    }
}

/// Asks for page after page and shows them as one list.
fn all_pages(
    client: &mut Client,
    list: List,
    limit: Option<u32>,
    printer: &mut Printer,
) -> Result<(), CtlError> {
    let mut left = limit;
    let mut after = None;
    let mut whole: Option<Reply> = None;
    loop {
        let answered = client.ask(&list.page(after, left))?;
        if printer.json {
            printer.print(&answered)?;
        }
        let (count, next) = extent(&answered.reply);
        left = left.map(|left| left.saturating_sub(count));
        match &mut whole {
            None => whole = Some(answered.reply),
            Some(whole) => append(whole, answered.reply),
        }
        after = next;
        if after.is_none() || left == Some(0) {
            break;
        }
    }
    match whole {
        Some(reply) if !printer.json => printer.show(&reply),
        _ => Ok(()),
    }
}

/// How many entries a page has, and where it ends.
fn extent(reply: &Reply) -> (u32, Option<Cursor>) {
    let (count, next) = match reply {
        Reply::Forwards { forwards, next } => (forwards.len(), next),
        Reply::Hosts { hosts, next } => (hosts.len(), next),
        Reply::Flows { flows, next } => (flows.len(), next),
        _ => (0, &None),
    };
    (u32::try_from(count).unwrap_or(u32::MAX), next.clone())
}

/// Adds the entries of a page to those before.
fn append(whole: &mut Reply, page: Reply) {
    match (whole, page) {
        (Reply::Forwards { forwards, .. }, Reply::Forwards { forwards: more, .. }) => {
            forwards.extend(more);
        }
        (Reply::Hosts { hosts, .. }, Reply::Hosts { hosts: more, .. }) => hosts.extend(more),
        (Reply::Flows { flows, .. }, Reply::Flows { flows: more, .. }) => flows.extend(more),
        // A gateway that answers something else: shown as far as it made sense.
        _ => {}
    }
}

/// Writes answers to standard output.
#[derive(Debug)]
struct Printer {
    json: bool,
    style: Style,
}

impl Printer {
    fn print(&mut self, answered: &Answered) -> Result<(), CtlError> {
        if self.json {
            write(&answered.line)
        } else {
            self.show(&answered.reply)
        }
    }

    fn show(&mut self, reply: &Reply) -> Result<(), CtlError> {
        match show::text(reply, self.style) {
            Some(text) => write(&text),
            None => Ok(()),
        }
    }
}

fn write(text: &str) -> Result<(), CtlError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").map_err(CtlError::Print)
}
