//! DNS over a stream (RFC 7766): messages behind two bytes of length, many
//! questions under way at once, answers in the order they are ready.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::message::{HEADER_LEN, MAX_QUERY_LEN};
use super::{Resolver, Transport};

/// Queries of one stream under way; further ones wait in the stream.
const MAX_PIPELINED: usize = 16;
/// A stream with nothing under way and nothing said is closed. RFC 7766
/// section 6.2.3 wants it on the order of seconds.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a guest may leave an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the length in front of a message.
const LENGTH_LEN: usize = 2;

type Pending<'a> = Vec<Pin<Box<dyn Future<Output = Option<Vec<u8>>> + 'a>>>;

/// What happened on the stream.
enum Event {
    /// Bytes were read, or the end.
    Read(io::Result<usize>),
    /// An answer is ready; `None`: the query is not answered.
    Ready(Option<Vec<u8>>),
    Idle,
}

/// Serves a stream until the guest is done, silent or wrong.
pub(super) async fn serve<S>(resolver: &Resolver, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    // What was read and not taken yet: at most one message and a bit.
    let mut input = Vec::with_capacity(512);
    let mut pending: Pending<'_> = Vec::new();
    let mut guest_is_done = false;
    loop {
        while pending.len() < MAX_PIPELINED {
            let Some(query) = take_message(&mut input)? else {
                break;
            };
            pending.push(Box::pin(async move {
                resolver.answer(&query, Transport::Tcp).await
            }));
        }
        if guest_is_done && pending.is_empty() {
            return writer.shutdown().await;
        }
        let may_read = !guest_is_done && pending.len() < MAX_PIPELINED;
        let event = tokio::select! {
            answer = next_ready(&mut pending), if !pending.is_empty() => Event::Ready(answer),
            result = reader.read_buf(&mut input), if may_read => Event::Read(result),
            () = tokio::time::sleep(IDLE_TIMEOUT), if pending.is_empty() => Event::Idle,
        };
        match event {
            Event::Read(result) => guest_is_done = result? == 0,
            Event::Ready(Some(answer)) => {
                timeout(WRITE_TIMEOUT, write_message(&mut writer, &answer)).await??;
            }
            Event::Ready(None) => {}
            Event::Idle => return writer.shutdown().await,
        }
    }
}

/// Takes the first message out of `input`, if it is there as a whole.
fn take_message(input: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(&[high, low]) = input.first_chunk::<LENGTH_LEN>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if !(HEADER_LEN..=MAX_QUERY_LEN).contains(&len) {
        // What follows would be read for nothing.
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the length is no query's",
        ));
    }
    let end = LENGTH_LEN + len;
    if input.len() < end {
        return Ok(None);
    }
    let message = input[LENGTH_LEN..end].to_vec();
    input.drain(..end);
    Ok(Some(message))
}

async fn write_message(writer: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(LENGTH_LEN + message.len());
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(message);
    writer.write_all(&framed).await?;
    writer.flush().await
}

/// The first of `pending` that is ready, taken out. Polls all of them, at most
/// [`MAX_PIPELINED`], each time: no more machinery is worth it.
async fn next_ready(pending: &mut Pending<'_>) -> Option<Vec<u8>> {
    poll_fn(|cx| {
        for i in 0..pending.len() {
            if let Poll::Ready(answer) = pending[i].as_mut().poll(cx) {
                drop(pending.swap_remove(i));
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    })
    .await
}
