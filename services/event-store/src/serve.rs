//! One port for gRPC, gRPC-Web, HTTP and server-sent events, told apart by their paths (`/package.Service/Method` never meets
//! `/events`), and its orderly end: no new connection, streams end, requests that were begun are finished.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::Response;
use causeway_proto::{FILE_DESCRIPTOR_SET, Kind, Problem};
use futures::FutureExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_web::GrpcWebLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};

use crate::gateway::{Gateway, semaphore};
use crate::http::Wire;
use crate::seldom::Seldom;
use crate::{Config, Error, grpc, http};

/// How long a client may take to send the head of an HTTP/1 request.
const HEADERS_MAX: Duration = Duration::from_secs(30);
/// An HTTP/2 client that says nothing is asked after this long whether it is there ...
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// ... and has so long to answer: its word may stand behind much that a slow link still has to carry.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(60);
/// A client to whom nothing can be written for this long is gone, or reads nothing any more: its place is given to others.
const UNWRITTEN_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a client may still send behind the last answer.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// What a client may have sent of one call before it is read, and of all calls of a connection: so much more that a few calls which are
/// not read, since too much of them is in hand, keep no other one back.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls that one HTTP/2 connection may make beyond all the streams and appends that the gateway takes on: a client waits without a
/// word for a place on its connection, while what the gateway's own limits turn away is told so.
const READS_MAX: usize = 1024;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log about those.
const ACCEPT_TOLD: Duration = Duration::from_secs(10);
/// Of the files that the process may have open, those that clients do not get: the log's connections, the read model's files.
const FILES_KEPT: u64 = 64;

/// What clients of gRPC-Web read of an answer that is an error without a body, and those of HTTP beside one.
const RESPONSE_HEADERS: [&str; 6] =
    ["grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after", "location", "causeway-last-position"];
/// How long a browser may remember what it is allowed.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

/// All that is served.
pub(crate) fn router(gateway: Arc<Gateway>, health: HealthServer<impl Health>) -> Result<Router, Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreadable = |error: tonic_reflection::server::Error| Error::Config(format!("gRPC reflection: {error}"));
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(grpc::service(gateway.clone()))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(unreadable)?)
        .add_service(reflection().build_v1alpha().map_err(unreadable)?);
    // Both halves have a fallback, and only one can stay: HTTP's also answers for gRPC.
    let grpc = routes.routes().into_axum_router().reset_fallback().layer(GrpcWebLayer::new());
    Ok(http::router(gateway).merge(grpc).layer(middleware::from_fn(catch_panic)))
}

/// The same to pages of the web origins that are allowed.
pub(crate) fn with_cors(router: Router, origins: &[String]) -> Result<Router, Error> {
    Ok(match cors(origins)? {
        Some(cors) => router.layer(cors),
        None => router,
    })
}

/// A defect costs the request that met it, not its connection, and is told like any other problem.
async fn catch_panic(request: axum::extract::Request, next: Next) -> Response {
    let wire = Wire::of(request.headers());
    match std::panic::AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(error = words(panic.as_ref()), "a request panicked");
            wire.tell(Problem::new(Kind::Internal, "the gateway has a defect; its log says more"))
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

fn cors(origins: &[String]) -> Result<Option<CorsLayer>, Error> {
    if origins.is_empty() {
        return Ok(None);
    }
    let origin = |origin: &String| {
        HeaderValue::from_str(origin).map_err(|_| Error::Config(format!("cors_origins: {origin:?} is not an origin")))
    };
    let layer = CorsLayer::new()
        .allow_origin(origins.iter().map(origin).collect::<Result<Vec<_>, _>>()?)
        .allow_methods([Method::GET, Method::POST])
        // Those of a CloudEvent are any that begin with `ce-`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
        .max_age(PREFLIGHT_MAX_AGE);
    Ok(Some(layer))
}

/// Serves until it is stopped, and then for as long as what was begun takes, within the limit.
///
/// Our own loop around hyper, since `axum::serve` bounds neither the connections nor how long one may take to say what it
/// wants, and does not notice an HTTP/2 client that has vanished.
pub(crate) async fn serve(router: Router, listener: TcpListener, config: Config, stop: CancellationToken) -> io::Result<()> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
    let limits = &config.limits;
    let calls_max = [limits.streams_max, limits.appends_max, limits.appends_waiting_max, READS_MAX];
    let calls_max = calls_max.into_iter().fold(0, usize::saturating_add);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(u32::try_from(calls_max).unwrap_or(u32::MAX));
    let mut door = Door::new(listener, connections_max(limits.connections_max, causeway_runtime::files_max()));
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    loop {
        // Further connections wait in the listener's queue until one ends.
        let (stream, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = door.accept() => accepted?,
            Some(_) = connections.join_next() => continue,
        };
        let service = TowerToHyperService::new(router.clone());
        let (read, write) = stream.into_split();
        let (back, returned) = oneshot::channel();
        let io = TokioIo::new(tokio::io::join(Lent(Some((read, back))), write));
        let connection = graceful.watch(builder.serve_connection(io, service).into_owned());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection broke off");
            }
            if let Ok(read) = returned.await {
                linger(read).await;
            }
        });
    }
    drop(door);
    let limit = tokio::time::Instant::now() + config.drain_timeout;
    if timeout_at(limit, graceful.shutdown()).await.is_err() {
        tracing::warn!(unfinished = connections.len(), "requests were still under way and are cut off");
        return Ok(());
    }
    // All is answered; some may still send.
    let _ = timeout_at(limit, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// What is read from, and comes back when the connection has been served.
struct Lent(Option<(OwnedReadHalf, oneshot::Sender<OwnedReadHalf>)>);

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some((read, _)) => Pin::new(read).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some((read, back)) = self.0.take() {
            // Nobody may wait for it, when what is under way is cut off.
            let _ = back.send(read);
        }
    }
}

/// Reads what the client still sends, once it was told that nothing more is answered: closed before that was read, the connection would be
/// reset, and answers on their way be lost.
async fn linger(mut read: OwnedReadHalf) {
    let _ = timeout(LINGER_MAX, tokio::io::copy(&mut read, &mut tokio::io::sink())).await;
}

/// How many connections there may be: all files to clients would leave none for the way to the log.
fn connections_max(wanted: usize, files_max: Option<u64>) -> usize {
    let Some(files_max) = files_max else { return wanted };
    let possible = usize::try_from(files_max - FILES_KEPT.min(files_max / 2)).unwrap_or(usize::MAX);
    if possible < wanted {
        tracing::warn!(
            files_max,
            "event_store.limits.connections_max is {wanted}, and only {possible} are let in: the process may not open more files; \
             raise `ulimit -n`, or lower it"
        );
    }
    wanted.min(possible)
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    failed: Seldom,
    /// None is accepted before. Kept here, since whoever waits for the next connection may break off and begin anew.
    closed_until: tokio::time::Instant,
}

impl Door {
    fn new(listener: TcpListener, places: usize) -> Self {
        let closed_until = tokio::time::Instant::now();
        Self { listener, places: semaphore(places), failed: Seldom::new(ACCEPT_TOLD), closed_until }
    }

    /// The next connection, once there is a place for it.
    async fn accept(&mut self) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        loop {
            sleep_until(self.closed_until).await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Small answers must not wait for more to send.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection stays without TCP_NODELAY");
                    }
                    #[cfg(target_os = "linux")]
                    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNWRITTEN_MAX)) {
                        tracing::debug!(%error, "a connection stays without TCP_USER_TIMEOUT");
                    }
                    return Ok((stream, place));
                }
                // A client that was gone before it was served, or no file handle left: neither ends the service.
                Err(error) => {
                    if let Some(times) = self.failed.add(1, Instant::now()) {
                        tracing::warn!(
                            %error,
                            times,
                            "a connection was not accepted; if files have run out, raise `ulimit -n`, or lower \
                             event_store.limits.connections_max"
                        );
                    }
                    self.closed_until = tokio::time::Instant::now() + ACCEPT_PAUSE;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode, header};
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_like_any_other_problem() {
        async fn broken() -> &'static str {
            panic!("out of order")
        }
        let router = Router::new().route("/", get(broken)).layer(middleware::from_fn(catch_panic));
        let response = router.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        for content_type in ["application/grpc", "application/grpc-web+proto", "application/grpc-web-text+proto"] {
            let request = Request::get("/").header(header::CONTENT_TYPE, content_type).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.headers()["grpc-status"], "13");
            assert_eq!(response.headers()[header::CONTENT_TYPE], content_type);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_to_which_nothing_can_be_written_does_not_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _place) = Door::new(listener, 1).accept().await.unwrap();
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNWRITTEN_MAX));
    }

    #[tokio::test]
    async fn an_answer_on_its_way_arrives_though_the_client_still_sends_at_the_stop() {
        const LONG: usize = 256 << 10;
        let (begun, mut has_begun) = tokio::sync::mpsc::channel(1);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // Answers at the stop and reads nothing.
        let answer = move |_body: Body| async move {
            begun.send(()).await.unwrap();
            stopped.cancelled().await;
            vec![b'a'; LONG]
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // Most of the answer has to wait in the server's socket.
        socket.set_recv_buffer_size(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(Router::new().route("/", post(answer)), listener, Config::default(), stop.clone()));
        let mut client = socket.connect(address).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", 1 << 30);
        client.write_all(head.as_bytes()).await.unwrap();
        has_begun.recv().await.unwrap();
        // As much as goes.
        while timeout(ACCEPT_PAUSE, client.write_all(&[b'b'; 4096])).await.is_ok() {}
        stop.cancel();
        tokio::time::sleep(LINGER_MAX / 4).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(&vec![b'a'; LONG]), "{} bytes of the answer", answer.len());
        drop(client);
        timeout(LINGER_MAX * 5, serving).await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn clients_do_not_get_all_files() {
        assert_eq!(connections_max(8192, None), 8192);
        assert_eq!(connections_max(8192, Some(20_000)), 8192);
        assert_eq!(connections_max(8192, Some(1024)), 960);
        assert_eq!(connections_max(8192, Some(96)), 48);
        assert_eq!(connections_max(8192, Some(1)), 1);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn after_a_failed_accept_the_door_stays_closed_also_to_who_asks_anew() {
        let mut door = Door::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), 1);
        // Accepting fails from now on.
        SockRef::from(&door.listener).shutdown(std::net::Shutdown::Both).unwrap();
        let (begun, moment) = (Instant::now(), ACCEPT_PAUSE / 20);
        for _ in 0..40 {
            assert!(timeout(moment, door.accept()).await.is_err());
        }
        let pauses = (begun.elapsed().as_millis() / ACCEPT_PAUSE.as_millis()) as u64;
        let untold = door.failed.add(0, Instant::now() + ACCEPT_TOLD).unwrap_or(0);
        assert!((1..=pauses).contains(&untold), "{untold} more in {pauses} pauses");
    }

    #[test]
    fn no_origin_is_allowed_unless_it_is_named() {
        assert!(cors(&[]).unwrap().is_none());
        assert!(cors(&["https://example.com".into()]).unwrap().is_some());
        assert!(cors(&["\n".into()]).is_err());
    }
}
