//! Stations, programs, and waiting for what they do.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use gw::net::{MAX_FRAME_LEN, MacAddr, Offload};
use gw::tap::fd::{Ends, StreamLink};
use gw::tap::framing::Prefix;
use gw::tap::switch::{NewPort, PortSource, Switch};
use gw::tap::{Link, Medium};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub(crate) const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

/// Something that sends and gets frames.
pub(crate) trait Station {
    fn link(&mut self) -> &mut dyn Link;
}

impl Station for Switch {
    fn link(&mut self) -> &mut dyn Link {
        self
    }
}

/// An Ethernet frame, filled up to a length that everybody takes.
pub(crate) fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &[0x88, 0xb5], text.as_bytes()].concat();
    if frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// The text of a frame, without what fills it up.
fn text(frame: &[u8]) -> Option<String> {
    let payload = frame.get(14..)?;
    if frame[12..14] != [0x88, 0xb5] {
        return None;
    }
    let text = String::from_utf8_lossy(payload);
    Some(text.trim_end_matches('\0').to_owned())
}

pub(crate) fn send(station: &mut dyn Station, frame: &[u8]) {
    station
        .link()
        .send(&Offload::default(), &[IoSlice::new(frame)])
        .expect("taken");
}

/// The text of the next frame of a test's, if there is one now.
pub(crate) fn take(station: &mut dyn Station) -> Option<String> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    loop {
        match station.link().recv(&mut buf) {
            Ok(received) => {
                // Others speak too: spanning trees, neighbour discovery.
                if let Some(text) = text(&buf[..received.len]) {
                    return Some(text);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Waits for something, looking again and again.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a frame again and again until it arrives; `between` carries it.
pub(crate) fn reaches(
    from: &mut dyn Station,
    to: &mut dyn Station,
    frame: &[u8],
    mut between: Option<&mut Switch>,
) {
    let expected = text(frame).expect("a test's frame");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        send(from, frame);
        for _ in 0..20 {
            if let Some(switch) = between.as_deref_mut() {
                while take(switch).is_some() {}
            }
            // Whoever sends may have a stream to push on, or ports to make.
            take(from);
            while let Some(seen) = take(to) {
                if seen == expected {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    panic!("{expected:.40} did not arrive");
}

/// A switch of ours with one source of ports.
pub(crate) fn switch(gateway: MacAddr, source: impl PortSource + 'static) -> Switch {
    let mut switch = Switch::new(gateway).expect("switch");
    switch.add_source(Box::new(source)).expect("room");
    switch
}

/// A switch of ours with one link.
pub(crate) fn single(gateway: MacAddr, link: impl Link + 'static) -> Switch {
    let mut switch = Switch::new(gateway).expect("switch");
    let port = NewPort {
        link: Box::new(link),
        name: "the link".to_owned(),
    };
    switch.plug(port).expect("room");
    switch
}

pub(crate) fn until_ports(switch: &mut Switch, count: usize) {
    until(&format!("{count} ports"), || {
        take(switch);
        (switch.ports().count() == count).then_some(())
    });
}

/// A program that ends with the test.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// With pipes for its standard input and output.
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}; tests/run installs it"));
        Self(child)
    }

    pub(crate) fn input(&mut self) -> &mut ChildStdin {
        self.0.stdin.as_mut().expect("not taken")
    }

    pub(crate) fn output(&mut self) -> &mut ChildStdout {
        self.0.stdout.as_mut().expect("not taken")
    }

    /// Its standard input and output, as one would hand them to `fd:`.
    pub(crate) fn stdio(&mut self) -> (OwnedFd, OwnedFd) {
        let output = self.0.stdout.take().expect("not taken");
        let input = self.0.stdin.take().expect("not taken");
        (output.into(), input.into())
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }

    /// At once, so that it cleans nothing up.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's switch, listening.
pub(crate) fn vde_switch(path: &Path) -> Program {
    let program = Program::start("vde_switch", &["-s", &path.display().to_string()]);
    until("vde_switch", || {
        std::os::unix::net::UnixStream::connect(path.join("ctl")).ok()
    });
    program
}

/// A station behind vde_plug, which speaks frames behind 16 bits of length on
/// its standard input and output.
#[derive(Debug)]
pub(crate) struct Plug {
    link: StreamLink,
    _program: Program,
}

impl Plug {
    pub(crate) fn into(switch: &Path) -> Self {
        let url = format!("vde://{}", switch.display());
        let mut program = Program::start("vde_plug", &[&url]);
        let (output, input) = program.stdio();
        let ends = Ends::two(output, input).expect("descriptors");
        Self {
            link: StreamLink::new(ends, Prefix::Len16, Medium::Ethernet).expect("link"),
            _program: program,
        }
    }
}

impl Station for Plug {
    fn link(&mut self) -> &mut dyn Link {
        &mut self.link
    }
}

/// An empty directory, and a path in it.
pub(crate) fn place(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join(name);
    (dir, path)
}
