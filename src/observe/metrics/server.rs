//! The little HTTP that it takes.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{Asker, FlowCounts, text};

/// Clients at a time; others wait to be accepted. One scraper is usual.
pub const MAX_CLIENTS: usize = 16;

/// How long a client may take for everything.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How long a client may take for its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of a request's head. Prometheus sends a few hundred.
const MAX_REQUEST: usize = 16 * 1024;

/// Until the system is asked again that had no descriptor for a client.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The text format and its version.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where clients come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// What is served, and who knows it.
#[derive(Debug)]
struct Source {
    asker: Asker,
    counts: Arc<FlowCounts>,
}

/// Serves for ever. To be called inside a `LocalSet`.
pub async fn serve(listener: Listener, asker: Asker, counts: Arc<FlowCounts>) {
    let source = Rc::new(Source { asker, counts });
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // Never closed, so there always is a place after some time.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = match &listener {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| {
                let source = Rc::clone(&source);
                tokio::task::spawn_local(async move {
                    client(stream, &source).await;
                    drop(place);
                });
            }),
            Listener::Unix(unix) => unix.accept().await.map(|(stream, _)| {
                let source = Rc::clone(&source);
                tokio::task::spawn_local(async move {
                    client(stream, &source).await;
                    drop(place);
                });
            }),
        };
        if let Err(error) = accepted {
            tracing::debug!(%error, "a client of the metrics was not accepted");
            sleep(ACCEPT_AGAIN).await;
        }
    }
}

/// One request, and its answer.
async fn client(stream: impl AsyncRead + AsyncWrite + Unpin, source: &Rc<Source>) {
    let service = service_fn(|request| {
        let source = Rc::clone(source);
        async move { Ok::<_, Infallible>(answer(&request, &source).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_DEADLINE)
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(DEADLINE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics went away"),
        Err(_) => tracing::debug!("a client of the metrics took too long"),
    }
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(
            StatusCode::NOT_FOUND,
            "There is nothing here; see /metrics.\n",
        );
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
        let methods = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, methods);
        return answer;
    }
    let Some(snapshot) = source.asker.ask().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "The gateway is ending.\n");
    };
    match text(&snapshot, &source.counts) {
        Ok(text) => {
            let mut answer = Response::new(Full::from(text));
            let headers = answer.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer
        }
        Err(error) => {
            tracing::warn!(%error, "the metrics cannot be encoded");
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The metrics cannot be encoded.\n",
            )
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
