//! The server against clients of all kinds; the loop behind it is a few lines.

use super::*;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::control::Command;
use crate::control::proto::LogLevel;

/// Runs `test` beside a server, whose loop does everything but shutting down.
fn with_server<F: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let (asker, commands) = Asker::new();
        let listener = UnixListener::bind(&path).expect("binds");
        tokio::task::spawn_local(serve(listener, asker));
        tokio::task::spawn_local(answer_all(commands));
        test(path).await;
    });
}

async fn answer_all(mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        let _ = command.reply.send(Ok(Reply::Done {}));
        if command.request == (Request::Shutdown {}) {
            return;
        }
    }
}

/// What the server says until it closes the connection.
async fn rest(stream: &mut UnixStream) -> Vec<Value> {
    let mut text = String::new();
    // A reset behind the last line does not take the line.
    let _ = stream.read_to_string(&mut text).await;
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn codes(answers: &[Value]) -> Vec<String> {
    let code = |answer: &Value| match answer.get("error") {
        Some(error) => error["code"].as_str().expect("a code").to_owned(),
        None => answer["reply"].as_str().expect("a reply").to_owned(),
    };
    answers.iter().map(code).collect()
}

#[test]
fn a_connection_takes_many_requests() {
    with_server(async |path| {
        let mut client = UnixStream::connect(&path).await.expect("connects");
        let sent = b"{\"verb\":\"hello\"}\n\n  \r\nnonsense\n\xff\n{\"verb\":\"leases\"}";
        client.write_all(sent).await.expect("writes");
        client.shutdown().await.expect("half a close");
        let answers = rest(&mut client).await;
        assert_eq!(codes(&answers), ["done", "not_json", "not_json", "done"]);
    });
}

#[test]
fn a_line_may_come_in_pieces() {
    with_server(async |path| {
        let mut client = UnixStream::connect(&path).await.expect("connects");
        let line = serde_json::to_string(&Request::Log {
            level: LogLevel::Debug,
        });
        for byte in (line.expect("encodes") + "\n").bytes() {
            client.write_all(&[byte]).await.expect("writes");
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 100];
        let n = client.read(&mut answer).await.expect("an answer");
        assert_eq!(&answer[..n], b"{\"reply\":\"done\"}\n");
    });
}

#[test]
fn a_line_without_end_is_told_so() {
    with_server(async |path| {
        for (len, ending, expected) in [
            (MAX_LINE + 1, "", "too_long"),
            (MAX_LINE + 1, "\n", "too_long"),
            (10 * MAX_LINE, "\n", "too_long"),
            (MAX_LINE, "\n", "not_json"),
        ] {
            let client = UnixStream::connect(&path).await.expect("connects");
            let (mut reader, mut writer) = client.into_split();
            let sender = tokio::task::spawn_local(async move {
                let line = "x".repeat(len) + ending;
                let _ = writer.write_all(line.as_bytes()).await;
                writer
            });
            let mut answer = [0; 300];
            let n = reader.read(&mut answer).await.expect("an answer");
            let text = String::from_utf8_lossy(&answer[..n]).into_owned();
            assert!(text.contains(&format!("\"{expected}\"")), "{text}");
            sender.await.expect("sent");
        }
    });
}

#[test]
fn who_does_not_go_on_is_told_so() {
    with_server(async |path| {
        let mut silent = UnixStream::connect(&path).await.expect("connects");
        let mut slow = UnixStream::connect(&path).await.expect("connects");
        let started = Instant::now();
        slow.write_all(b"{\"verb\":").await.expect("writes");
        assert_eq!(codes(&rest(&mut slow).await), ["too_slow"]);
        assert!(started.elapsed() <= LINE_DEADLINE + super::super::LINGER);
        assert_eq!(codes(&rest(&mut silent).await), ["too_slow"]);
        assert!(started.elapsed() >= IDLE);
    });
}

#[test]
fn places_are_bounded_and_given_back() {
    with_server(async |path| {
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            clients.push(UnixStream::connect(&path).await.expect("connects"));
        }
        for _ in 0..3 {
            let mut late = UnixStream::connect(&path).await.expect("connects");
            late.write_all(b"{\"verb\":\"hello\"}\n")
                .await
                .expect("writes");
            assert_eq!(codes(&rest(&mut late).await), ["too_many_clients"]);
        }
        // One leaves in the middle of a request, one without reading.
        let mut rude = clients.pop().expect("a client");
        rude.write_all(b"{\"verb\":\"hello\"}\n{\"ve")
            .await
            .expect("writes");
        drop(rude);
        drop(clients.pop());
        sleep(Duration::from_secs(1)).await;
        let mut next = UnixStream::connect(&path).await.expect("connects");
        next.write_all(b"{\"verb\":\"hello\"}")
            .await
            .expect("writes");
        next.shutdown().await.expect("half a close");
        assert_eq!(codes(&rest(&mut next).await), ["done"]);
    });
}

#[test]
fn who_does_not_read_is_given_up() {
    with_server(async |path| {
        let mut deaf = UnixStream::connect(&path).await.expect("connects");
        // Until both directions are full, and the server waits for this client.
        let lines = "{\"verb\":\"hello\"}\n".repeat(1000);
        let flood = async {
            loop {
                deaf.write_all(lines.as_bytes()).await?;
            }
            #[expect(unreachable_code, reason = "the type of the block")]
            io::Result::Ok(())
        };
        let error = flood.await.expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_shutdown_is_answered_first() {
    with_server(async |path| {
        let mut client = UnixStream::connect(&path).await.expect("connects");
        let sent = b"{\"verb\":\"shutdown\"}\n{\"verb\":\"hello\"}\n";
        client.write_all(sent).await.expect("writes");
        client.shutdown().await.expect("half a close");
        let answers = rest(&mut client).await;
        assert_eq!(codes(&answers), ["done", "stopping"]);
    });
}
