//! What becomes of connections: honest ones, slow ones, ones that speak something else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::{Certificate, Listener, NOT_TLS, Plain, Stream, Tls};
use crate::dev::certificate::{Made, ensure};

/// More than anything here takes; only what hangs reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    made: Made,
    _folder: TempDir,
}

/// One that says who asks, and that speaks `echo` to whoever wants to.
async fn serve(plain: Plain, change: impl FnOnce(&mut Tls)) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let made = ensure(folder.path(), [127, 0, 0, 1].into()).expect("certificates");
    let certificate = Certificate::load(made.files.clone()).await.expect("a certificate");
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = port.local_addr().expect("an address");
    let mut listener = Listener::tls(port, &certificate, plain);
    change(listener.tls.as_mut().expect("TLS"));
    let who = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    let echo = async |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.expect("a word");
            stream.write_all(&word).await.expect("the word again");
        });
        let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "echo")];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    };
    let router = Router::new().route("/", get(who)).route("/echo", get(echo));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(Stream::without_delay);
    tokio::spawn(async move { axum::serve(listener, service).await });
    Server { address, made, _folder: folder }
}

impl Server {
    async fn get(&self, url: &str) -> Result<(u16, String), reqwest::Error> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = reqwest::Certificate::from_pem(self.made.authority.as_bytes())?;
        let client =
            reqwest::Client::builder().timeout(PATIENCE).tls_certs_only([authority]).build()?;
        let answer = client.get(url.replace("HOST", &self.address.to_string())).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    async fn shake(&self, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.made.authority.as_bytes());
        roots.add(authority.expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(self.address).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// Waits until the other side has closed it.
async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 512];
    let end = async {
        // An alert may come first.
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    tokio::time::timeout(PATIENCE, end).await.expect("it is closed");
}

#[tokio::test]
async fn tls_is_spoken_and_it_is_known_who_asks() {
    let server = serve(Plain::Refused, |_| {}).await;
    for url in ["https://HOST/", "https://localhost:PORT/"] {
        let url = url.replace("PORT", &server.address.port().to_string());
        assert_eq!(server.get(&url).await.expect("an answer"), (200, "127.0.0.1".to_owned()));
    }
    let stream = server.shake(&["h2", "http/1.1"]).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert!(server.shake(&[]).await.is_ok());
    assert!(server.shake(&["h2"]).await.is_err(), "who speaks HTTP/2 only is told so");
}

#[tokio::test]
async fn a_connection_can_be_upgraded() {
    let server = serve(Plain::Refused, |_| {}).await;
    let mut stream = server.shake(&["http/1.1"]).await.expect("TLS");
    let request = "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("a head"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"hello").await.expect("sent");
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.expect("the word again");
    assert_eq!(&word, b"hello");
}

#[tokio::test]
async fn who_speaks_http_is_told_or_served() {
    let length =
        NOT_TLS.len() - NOT_TLS.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") - 4;
    let said = String::from_utf8_lossy(NOT_TLS);
    assert!(said.contains(&format!("Content-Length: {length}\r\n")), "{length}: {said}");
    let server = serve(Plain::Refused, |_| {}).await;
    let (status, text) = server.get("http://HOST/").await.expect("an answer");
    assert_eq!((status, text.contains("https://")), (400, true), "{text}");
    let server = serve(Plain::Served, |_| {}).await;
    for url in ["http://HOST/", "https://HOST/"] {
        assert_eq!(server.get(url).await.expect("an answer"), (200, "127.0.0.1".to_owned()));
    }
}

#[tokio::test]
async fn whoever_says_nothing_loses_the_connection() {
    let server = serve(Plain::Refused, |tls| tls.time = Duration::from_millis(50)).await;
    for begin in [&b""[..], b"\x16", b"\x16\x03\x01\x40\x00", b"\x16\x03\x01\x00\x05hello"] {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(begin).await.expect("sent");
        closed(&mut stream).await;
    }
}

#[tokio::test]
async fn those_who_hold_places_lose_them_to_those_who_come() {
    let most = 4;
    let server = serve(Plain::Refused, |tls| {
        tls.most = most;
        tls.time = PATIENCE * 10;
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..most * 3 {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(b"\x16").await.expect("sent");
        slow.push(stream);
        // Nobody who is honest waits for them.
        assert_eq!(server.get("https://HOST/").await.expect("an answer").0, 200);
    }
    for stream in &mut slow[..most * 2] {
        closed(stream).await;
    }
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let server = serve(Plain::Refused, |_| {}).await;
    let long = vec![0x16; 100_000];
    for bytes in [&b"\x00\x00"[..], b"\x80\x2e\x01\x00\x02", b"GET / HTTP/1.1\r\n\r\n", &long] {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        // It may have had enough before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        closed(&mut stream).await;
    }
    assert_eq!(server.get("https://HOST/").await.expect("an answer").0, 200);
}
