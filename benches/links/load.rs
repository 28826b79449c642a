//! The load: Debian's iperf3 in the guest, and its server beyond the network.
//!
//! The end that receives counts. So the guest's client says what came down, and
//! the server what came up. What a client says at the end of sending is not asked
//! for: slirpvde ends with iperf3's second connection, and with it the client's
//! word.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::guest::Machine;
use crate::image::{self, Extra};
use crate::namespace::CONGESTION_CONTROL;
use crate::report::Direction;
use crate::{PATIENCE, Program};

/// Where guests find the server; an address of nobody's.
pub(crate) const SERVER: &str = "192.0.2.1";

/// Where Debian has what runs in the guest.
const IPERF3: &str = "/usr/bin/iperf3";

/// A socket in /proc that listens on iperf3's port.
const LISTENING: &str = ":1451 00000000:0000 0A ";

/// Seconds that are not counted, for windows to open.
const OMITTED: u16 = 1;

/// How much longer than it should a measurement may take.
const EXTRA_TIME: Duration = Duration::from_secs(20);

/// The other end of one measurement.
#[derive(Debug)]
pub(crate) struct Server {
    program: Program,
    /// What it says.
    said: PathBuf,
}

impl Server {
    /// Starts it, with a file in `place`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn start(place: &Path) -> Result<Self> {
        let said = place.join("server.json");
        let output = File::create(&said).context(|| format!("making {}", said.display()))?;
        let mut command = Command::new(IPERF3);
        command
            .args(["--server", "--one-off", "--json", "--bind", SERVER])
            .stdout(output);
        let program = Program::start(&mut command, "iperf3")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let table = std::fs::read_to_string("/proc/thread-self/net/tcp");
            if table
                .context(|| "looking for iperf3's socket".into())?
                .contains(LISTENING)
            {
                return Ok(Self { program, said });
            }
            if Instant::now() > deadline {
                return Err(Error(format!("iperf3 does not listen after {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, and returns what it said.
    fn result(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while !self.program.has_ended() {
            if Instant::now() > deadline {
                return Err(Error(format!("nothing came up within {limit:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::read_to_string(&self.said).context(|| "reading what iperf3 said".into())
    }
}

/// Bits per second of one TCP stream, as its receiver counts them.
///
/// # Errors
/// When iperf3 fails.
pub(crate) fn measure(
    machine: &mut Machine,
    server: Server,
    direction: Direction,
    seconds: u16,
) -> Result<f64> {
    let client = format!(
        "iperf3 --client {SERVER} --json --interval 0 --omit {OMITTED} --time {seconds} \
         --congestion {CONGESTION_CONTROL}"
    );
    let limit = Duration::from_secs((seconds + OMITTED).into()) + EXTRA_TIME;
    let said = match direction {
        Direction::Down => machine.run(&format!("{client} --reverse"), limit)?,
        Direction::Up => {
            machine.run(&format!("{client} >/tmp/client 2>&1 &"), limit)?;
            server.result(limit)?
        }
    };
    rate(&said, seconds).ok_or_else(|| Error(format!("iperf3 measured nothing: {said}")))
}

/// The rate that a receiver of iperf3's saw, if it did so for long enough.
fn rate(said: &str, seconds: u16) -> Option<f64> {
    let said: Value = serde_json::from_str(said).ok()?;
    let sum = &said["end"]["sum_received"];
    let enough = sum["seconds"].as_f64()? > f64::from(seconds) * 0.9;
    let rate = sum["bits_per_second"].as_f64()?;
    (enough && rate > 0.0).then_some(rate)
}

/// Debian's iperf3 and the libraries that it is linked with, for a guest.
///
/// # Errors
/// When it is not there.
pub(crate) fn program() -> Result<Vec<Extra>> {
    image::program(Path::new(IPERF3), "/bin/iperf3", "iperf3").map_err(Error)
}
