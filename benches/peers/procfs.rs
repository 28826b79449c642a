//! What a process used, from `/proc`.

use std::fs;

use crate::error::{Context, Error, Result};

/// Clock ticks per second of `/proc/PID/stat`: fixed for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds, user and system, of a process with all its threads and of the
/// processes it has started.
///
/// # Errors
/// When the process is gone.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .context(|| format!("the gateway (process {pid}) has ended"))?;
    let own = ticks(&text).ok_or_else(|| Error(format!("/proc/{pid}/stat is not readable")))?;
    let children: f64 = children(pid)
        .into_iter()
        .filter_map(|pid| cpu_seconds(pid).ok())
        .sum();
    Ok(own / TICKS_PER_SECOND + children)
}

/// `utime + stime` of a `/proc/PID/stat` line.
fn ticks(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything; the third field follows it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Processes started by `pid` that still run.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// A field of `/proc/PID/status` that is given in KiB, such as `VmHWM`, in bytes.
///
/// # Errors
/// When the process is gone or there is no such field.
pub(crate) fn status_bytes(pid: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .context(|| format!("the gateway (process {pid}) has ended"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
        .map(|kib| kib * 1024.0)
        .ok_or_else(|| Error(format!("/proc/{pid}/status has no {field}")))
}
