//! DNS over streams.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::super::stream::IDLE_TIMEOUT;
use super::super::testing::{Upstream, query, resolver};
use super::super::{MAX_STREAMS, Resolver};

async fn send(stream: &mut DuplexStream, name: &str, id: u16) {
    let mut message = query(name, RecordType::A);
    message.metadata.id = id;
    let bytes = message.to_vec().expect("query");
    let len = u16::try_from(bytes.len()).expect("length");
    stream.write_all(&len.to_be_bytes()).await.expect("write");
    stream.write_all(&bytes).await.expect("write");
}

async fn receive(stream: &mut DuplexStream) -> Message {
    let len = stream.read_u16().await.expect("length");
    let mut bytes = vec![0; len.into()];
    stream.read_exact(&mut bytes).await.expect("message");
    Message::from_vec(&bytes).expect("message")
}

/// Runs `guest` against the resolver until both are done.
async fn with_stream<F: Future<Output = ()>>(
    resolver: &Resolver,
    guest: impl FnOnce(DuplexStream) -> F,
) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::join!(resolver.serve_stream(theirs), guest(ours));
}

#[tokio::test(start_paused = true)]
async fn answers_come_when_they_are_ready() {
    let upstream = Upstream::with_zone(&[
        ("slow.example.", "SILENT"),
        ("fast.example.", "A 192.0.2.1"),
    ])
    .await;
    let resolver = resolver(&[&upstream]);
    with_stream(&resolver, |mut guest| async move {
        send(&mut guest, "slow.example.", 1).await;
        send(&mut guest, "fast.example.", 2).await;
        send(&mut guest, "localhost.", 3).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(receive(&mut guest).await.id);
        }
        ids[..2].sort_unstable();
        assert_eq!(ids, [2, 3, 1]);
    })
    .await;
}

#[tokio::test]
async fn bytes_may_come_one_by_one_and_the_end_early() {
    let upstream = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let resolver = resolver(&[&upstream]);
    with_stream(&resolver, |mut guest| async move {
        let bytes = query("a.example.", RecordType::A).to_vec().expect("query");
        let framed = [&[0, u8::try_from(bytes.len()).expect("length")], &bytes[..]].concat();
        for byte in [&framed[..], &framed[..]].concat() {
            guest.write_all(&[byte]).await.expect("write");
            tokio::task::yield_now().await;
        }
        guest.shutdown().await.expect("shutdown");
        for _ in 0..2 {
            assert_eq!(
                receive(&mut guest).await.response_code,
                ResponseCode::NoError
            );
        }
        assert_eq!(guest.read(&mut [0; 1]).await.expect("end"), 0);
    })
    .await;
}

#[tokio::test]
async fn many_questions_at_once_are_all_answered() {
    let upstream = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let resolver = resolver(&[&upstream]);
    with_stream(&resolver, |guest| async move {
        let (mut reader, mut writer) = tokio::io::split(guest);
        let ask = async {
            for id in 0..300_u16 {
                let mut message = query("a.example.", RecordType::A);
                message.metadata.id = id;
                let bytes = message.to_vec().expect("query");
                writer
                    .write_u16(u16::try_from(bytes.len()).expect("length"))
                    .await
                    .expect("write");
                writer.write_all(&bytes).await.expect("write");
            }
            writer.shutdown().await.expect("shutdown");
        };
        let mut all = Vec::new();
        let listen = reader.read_to_end(&mut all);
        let ((), read) = tokio::join!(ask, listen);
        read.expect("answers");
        let mut ids = Vec::new();
        let mut rest = &all[..];
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            ids.push(Message::from_vec(&tail[..len]).expect("answer").id);
            rest = &tail[len..];
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..300).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_is_let_go() {
    let resolver = resolver(&[]);
    with_stream(&resolver, |mut guest| async move {
        send(&mut guest, "localhost.", 7).await;
        assert_eq!(receive(&mut guest).await.id, 7);
        let start = Instant::now();
        assert_eq!(guest.read(&mut [0; 1]).await.expect("end"), 0);
        assert_eq!(start.elapsed(), IDLE_TIMEOUT);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_reads_nothing_is_let_go() {
    let resolver = resolver(&[]);
    let (mut guest, theirs) = tokio::io::duplex(64);
    let start = Instant::now();
    let ask = async {
        send(&mut guest, "localhost.", 1).await;
        send(&mut guest, "localhost.", 2).await;
    };
    tokio::join!(resolver.serve_stream(theirs), ask);
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn lengths_that_no_query_has_end_the_stream() {
    let resolver = resolver(&[]);
    for length in [0_u16, 11, 4097, 65535] {
        with_stream(&resolver, |mut guest| async move {
            guest.write_all(&length.to_be_bytes()).await.expect("write");
            assert_eq!(guest.read(&mut [0; 1]).await.expect("end"), 0, "{length}");
        })
        .await;
    }
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let resolver = resolver(&[]);
    resolver.shared.streams.set(MAX_STREAMS);
    with_stream(&resolver, |mut guest| async move {
        assert_eq!(guest.read(&mut [0; 1]).await.expect("end"), 0);
    })
    .await;
    resolver.shared.streams.set(MAX_STREAMS - 1);
    with_stream(&resolver, |mut guest| async move {
        send(&mut guest, "localhost.", 1).await;
        assert_eq!(receive(&mut guest).await.id, 1);
    })
    .await;
    assert_eq!(
        resolver.shared.streams.get(),
        MAX_STREAMS - 1,
        "places are given back"
    );
}
