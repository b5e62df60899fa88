//! A control plane with a certificate: who trusts it, and what becomes of its files.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eve_host::dev::certificate::{self, Made};
use eve_tests::{Platform, Process, free_address, wait_for};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connection, after the first answer on it.
struct Connection(TlsStream<TcpStream>);

impl Connection {
    async fn open(address: &str, made: &Made) -> Result<Connection> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.authority.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let mut connection = Connection(stream);
        connection.ask().await?;
        Ok(connection)
    }

    async fn ask(&mut self) -> Result<()> {
        self.0.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(self.0.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&answer).to_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.context("a length")?.parse()?];
        self.0.read_exact(&mut body).await?;
        Ok(())
    }

    fn certificate(&self) -> Option<Vec<u8>> {
        Some(self.0.get_ref().1.peer_certificates()?.first()?.to_vec())
    }
}

/// A control plane of the platform with a certificate of a folder; where it listens.
async fn serve(platform: &Platform, folder: &Path, made: &Made) -> Result<(Process, String)> {
    let text = std::fs::read_to_string(&made.files.key)?;
    let key = text.find("-----BEGIN PRIVATE KEY").context("a key")?;
    std::fs::write(folder.join("tls.crt"), &text[..key])?;
    std::fs::write(folder.join("tls.key"), &text[key..])?;
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
    for _ in 0..5 {
        let address = free_address()?;
        let arguments =
            ["serve", "--listen", &address, "--tls-cert", &certificate, "--tls-key", &key];
        let mut process = platform.eve().start(arguments)?;
        let begun = wait_for("eve serve to serve", async || {
            if process.ended().ok().flatten().is_some() {
                return Some(false);
            }
            Connection::open(&address, made).await.is_ok().then_some(true)
        })
        .await;
        if begun {
            return Ok((process, address));
        }
        ensure!(process.log().contains("in use"), "{}", process.log());
    }
    anyhow::bail!("there was no port for eve serve")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_shown_trusted_and_renewed() -> Result<()> {
    let platform = Platform::start(&[]).await?;
    let folder = tempfile::tempdir()?;
    let made = certificate::ensure(folder.path(), [127, 0, 0, 1].into())?;
    let (mut process, address) = serve(&platform, folder.path(), &made).await?;
    let authority = made.authority_file.to_string_lossy().into_owned();
    let eve = platform.eve();

    // Nobody trusts it who was not told to.
    let url = format!("https://{address}");
    let stranger = eve.run(["--url", &url, "whoami"]).await?;
    assert_eq!(stranger.code(), Some(5), "{stranger}");
    assert!(stranger.stderr.contains("cannot be verified"), "{stranger}");
    assert!(stranger.stderr.contains("--ca-file"), "{stranger}");
    let script = format!(
        "unset EVE_URL
         EVE_CA_FILE='{authority}' eve --url {url} whoami >/dev/null
         eve --url {url} login --name tls --ca-file '{authority}' >/dev/null
         unset EVE_TOKEN
         eve whoami >/dev/null
         eve context show"
    );
    let shown = eve.bash(&script).await?.json()?;
    assert_eq!(shown["url"], url.as_str(), "{shown}");
    assert_eq!(shown["certificate_authority"], made.authority.as_str(), "{shown}");
    // Logging in again needs no file, and a file that is none is said.
    let again = eve.bash(&format!("unset EVE_URL; eve --url {url} login --name tls")).await?;
    assert!(again.status.success(), "{again}");
    let none = eve.run(["--url", &url, "login", "--ca-file", "/dev/null"]).await?;
    assert_eq!(none.code(), Some(2), "{none}");
    // Plain HTTP is told what is spoken here.
    let plain = eve.run(["--url", &format!("http://{address}"), "whoami"]).await?;
    assert!(!plain.status.success() && plain.stderr.contains("https://"), "{plain}");

    // Another certificate: those who are there go on, those who come see it.
    let mut open = Connection::open(&address, &made).await?;
    let before = open.certificate();
    std::fs::remove_file(&made.files.certificate)?;
    let renewed = certificate::ensure(folder.path(), [127, 0, 0, 1].into())?;
    let text = std::fs::read_to_string(&renewed.files.key)?;
    let key = text.find("-----BEGIN PRIVATE KEY").context("a key")?;
    std::fs::write(folder.path().join("tls.crt"), &text[..key])?;
    std::fs::write(folder.path().join("tls.key"), &text[key..])?;
    let after = wait_for("the new certificate", async || {
        let found = Connection::open(&address, &made).await.ok()?.certificate();
        (found != before).then_some(found)
    })
    .await;
    assert!(
        process.log().contains("the certificate has changed: the new one"),
        "{}",
        process.log()
    );
    open.ask().await.context("on a connection of before")?;

    // One that cannot be used: it is said, and the one of before stays.
    std::fs::write(folder.path().join("tls.key"), "half")?;
    wait_for("a complaint", async || {
        process.log().contains("cannot be used: the one of before stays in use").then_some(())
    })
    .await;
    let still = Connection::open(&address, &made).await?;
    assert_eq!(still.certificate(), after);

    // It ends in order, whoever is connected.
    process.terminate();
    let status = process.wait().await;
    assert!(status.success(), "{status}: {}", process.log());

    // And does not start with what cannot be used.
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
    let serve = ["serve", "--listen", "127.0.0.1:0", "--tls-cert", &certificate];
    let half = eve.run(serve.iter().copied().chain(["--tls-key", &key])).await?;
    assert_eq!(half.code(), Some(1), "{half}");
    assert!(half.stderr.contains("tls.key holds no private key"), "{half}");
    let without = eve.run(serve).await?;
    assert_eq!(without.code(), Some(2), "{without}");
    assert!(without.stderr.contains("--tls-key"), "{without}");
    Ok(())
}
