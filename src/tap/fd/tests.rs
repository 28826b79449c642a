use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, setsockopt, socketpair};

use super::*;
use crate::net::{Checksum, MAX_FRAME_LEN};

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_NONBLOCK).expect("pair")
}

fn datagrams(kind: SockType) -> (DatagramLink, DatagramLink) {
    let (a, b) = pair(kind);
    let link = |fd| {
        let ends = Ends::one(fd).expect("descriptor");
        DatagramLink::new(ends, Medium::Ethernet).expect("link")
    };
    (link(a), link(b))
}

fn streams(prefix: Prefix) -> (StreamLink, StreamLink) {
    let (a, b) = UnixStream::pair().expect("pair");
    let link = |fd: UnixStream| {
        let ends = Ends::one(fd.into()).expect("descriptor");
        StreamLink::new(ends, prefix, Medium::Ethernet).expect("link")
    };
    (link(a), link(b))
}

fn send(link: &mut dyn Link, bytes: &[u8]) -> io::Result<()> {
    let (a, b) = bytes.split_at(bytes.len() / 2);
    link.send(&Offload::default(), &[IoSlice::new(a), IoSlice::new(b)])
}

fn recv(link: &mut dyn Link) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    let received = link.recv(&mut buf)?;
    Ok(buf[..received.len].to_vec())
}

fn is_ready(link: &dyn Link) -> bool {
    let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("poll") == 1
}

fn kind(result: io::Result<Vec<u8>>) -> io::ErrorKind {
    result.expect_err("no frame").kind()
}

#[test]
fn messages_are_frames_and_the_end_is_seen() {
    let (mut a, mut b) = datagrams(SockType::SeqPacket);
    assert_eq!(kind(recv(&mut b)), io::ErrorKind::WouldBlock);
    send(&mut a, b"first frame").expect("room");
    send(&mut a, b"second").expect("room");
    assert_eq!(recv(&mut b).expect("frame"), b"first frame");
    assert_eq!(recv(&mut b).expect("frame"), b"second");
    drop(a);
    assert_eq!(kind(recv(&mut b)), io::ErrorKind::UnexpectedEof);
}

/// A small buffer, and a reader that is slow: frames wait, in order.
#[test]
fn messages_wait_for_room() {
    for kind_of_socket in [SockType::SeqPacket, SockType::Datagram] {
        let (mut a, mut b) = datagrams(kind_of_socket);
        setsockopt(&a.input(), sockopt::SndBuf, &10_000).expect("set");
        let frames: Vec<_> = (0..250u8).map(|n| vec![n; 1400]).collect();
        for frame in &frames {
            send(&mut a, frame).expect("taken");
        }
        assert!(!is_ready(&a), "no room to wait for");
        let mut seen = Vec::new();
        while seen.len() < frames.len() {
            match recv(&mut b) {
                Ok(frame) => seen.push(frame),
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    assert!(is_ready(&a), "there is room");
                    assert_eq!(kind(recv(&mut a)), io::ErrorKind::WouldBlock);
                }
            }
        }
        assert_eq!(seen, frames);
        assert!(!is_ready(&a), "nothing waits");
    }
}

#[test]
fn an_empty_datagram_is_nothing() {
    let (mut a, mut b) = datagrams(SockType::Datagram);
    // Not by writev(2), which sends nothing then.
    let socket = a.input().as_raw_fd();
    nix::sys::socket::send(socket, b"", MsgFlags::empty()).expect("room");
    send(&mut a, b"frame").expect("room");
    assert_eq!(kind(recv(&mut b)), io::ErrorKind::Interrupted);
    assert_eq!(recv(&mut b).expect("frame"), b"frame");
}

#[test]
fn a_checksum_left_open_is_completed() {
    let (mut a, mut b) = datagrams(SockType::SeqPacket);
    let frame = [0u8; 60];
    let offload = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 6,
        },
        ..Offload::default()
    };
    a.send(&offload, &[IoSlice::new(&frame)]).expect("room");
    let seen = recv(&mut b).expect("frame");
    assert_eq!(seen[40..42], [0xff, 0xff], "the sum of nothing, inverted");
}

#[test]
fn streams_keep_frames_apart() {
    for prefix in [Prefix::Len16, Prefix::Len32] {
        let (mut a, mut b) = streams(prefix);
        let frames: Vec<Vec<u8>> = (1..100u8).map(|n| vec![n; usize::from(n) * 13]).collect();
        for frame in &frames {
            send(&mut a, frame).expect("room");
        }
        for frame in &frames {
            assert_eq!(&recv(&mut b).expect("frame"), frame);
        }
        assert_eq!(kind(recv(&mut b)), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(kind(recv(&mut b)), io::ErrorKind::UnexpectedEof);
    }
}

/// The reader is slow: frames are lost, none is cut.
#[test]
fn a_full_stream_loses_whole_frames() {
    let (mut a, mut b) = streams(Prefix::Len32);
    let mut sent = Vec::new();
    for n in 0..200u8 {
        if send(&mut a, &vec![n; 30_000]).is_ok() {
            sent.push(n);
        }
    }
    assert!((1..200).contains(&sent.len()), "{} of 200", sent.len());
    assert!(!is_ready(&a), "no room to wait for");
    let mut seen = Vec::new();
    loop {
        match recv(&mut b) {
            Ok(frame) => {
                assert_eq!(frame, vec![frame[0]; 30_000]);
                seen.push(frame[0]);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !is_ready(&a) {
                    break;
                }
                // There is room: the rest of the last frame goes out.
                assert_eq!(kind(recv(&mut a)), io::ErrorKind::WouldBlock);
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(seen, sent);
    send(&mut a, b"after").expect("room again");
    assert_eq!(recv(&mut b).expect("frame"), b"after");
}

/// Input and output as two pipes, of which only one hangs up.
#[test]
fn either_end_of_a_pair_of_pipes_ends_the_stream() {
    for closed in ["input", "output"] {
        let (input, to_input) = nix::unistd::pipe().expect("pipe");
        let (from_output, output) = nix::unistd::pipe().expect("pipe");
        let ends = Ends::two(input, output).expect("descriptors");
        let mut link = StreamLink::new(ends, Prefix::Len16, Medium::Ethernet).expect("link");
        assert_eq!(kind(recv(&mut link)), io::ErrorKind::WouldBlock);
        assert!(!is_ready(&link));
        let kept = if closed == "input" {
            drop(to_input);
            from_output
        } else {
            drop(from_output);
            to_input
        };
        assert!(is_ready(&link));
        assert_eq!(
            kind(recv(&mut link)),
            io::ErrorKind::UnexpectedEof,
            "{closed}"
        );
        drop(kept);
    }
}

#[test]
fn a_stream_out_of_step_ends() {
    let (a, b) = UnixStream::pair().expect("pair");
    let ends = Ends::one(b.into()).expect("descriptor");
    let mut link = StreamLink::new(ends, Prefix::Len32, Medium::Ethernet).expect("link");
    nix::unistd::write(&a, b"GET / HTTP/1.0").expect("room");
    assert_eq!(kind(recv(&mut link)), io::ErrorKind::InvalidData);
}
