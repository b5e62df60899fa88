//! The certificate of `eve dev`: clients of Kubernetes send no token over plain HTTP.
//!
//! An authority is made once for a data directory, and certificates of this machine's own names with it. The
//! authority outlives them, because kubeconfigs and contexts carry it.
//!
//! Each key is in one file with its certificate, which is replaced by rename: whoever dies on the way leaves
//! the old ones or the new ones.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, DAY};
use crate::http::listener::Files;

/// What authorities are called, before a name of their own.
const NAME: &str = "Eve Horizon dev";
/// How long an authority is good for.
const AUTHORITY: Duration = DAY.saturating_mul(3650);
/// How long a certificate is: some systems take none that is longer than 398 days.
const CERTIFICATE: Duration = DAY.saturating_mul(365);
/// How long before its end each is made anew. The authority's is longer than a certificate lasts.
const AUTHORITY_LEFT: Duration = DAY.saturating_mul(400);
const CERTIFICATE_LEFT: Duration = DAY.saturating_mul(30);
/// How often it is looked whether one is due, in a process that runs for months.
const LOOK: Duration = DAY;

/// What there is in a data directory.
#[derive(Clone, Debug)]
pub struct Made {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// A file with it.
    pub authority_file: PathBuf,
    /// The server's certificate and key.
    pub files: Files,
}

/// The certificates of a data directory, for this machine and an address of it; made when there are none,
/// or when they run out.
pub fn ensure(data_dir: &Path, address: IpAddr) -> anyhow::Result<Made> {
    ensure_at(data_dir, address, SystemTime::now())
}

fn ensure_at(data_dir: &Path, address: IpAddr, now: SystemTime) -> anyhow::Result<Made> {
    let folder = data_dir.join("tls");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let (authority_pem, server_pem) = (folder.join("authority.pem"), folder.join("server.pem"));
    let authority = match read(&authority_pem)? {
        Some(known) if known.lasts(now + AUTHORITY_LEFT) => known,
        _ => {
            let new = Authority::new(NAME, AUTHORITY, now)?;
            write(&authority_pem, new.text())?;
            new
        }
    };
    let authority_file = folder.join("ca.crt");
    if std::fs::read_to_string(&authority_file).ok().as_deref() != Some(authority.certificate()) {
        write(&authority_file, authority.certificate())?;
    }
    let names = names(address);
    let known = std::fs::read(&server_pem).unwrap_or_default();
    if !authority.vouches(&known, &names, now + CERTIFICATE_LEFT) {
        let signed = authority.sign(&names, CERTIFICATE, now)?;
        write(&server_pem, &format!("{}{}", signed.certificate, signed.key))?;
    }
    let files = Files { certificate: server_pem.clone(), key: server_pem };
    Ok(Made { authority: authority.certificate().to_owned(), authority_file, files })
}

/// Makes certificates anew before they run out, until `stop`. Whoever shows them reads the files.
pub async fn renew(data_dir: PathBuf, address: IpAddr, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if let Err(error) = ensure(&data_dir, address) {
            tracing::error!(error = format!("{error:#}"), "the certificate cannot be made anew");
        }
    }
}

/// What the server may be called.
fn names(address: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let address = address.to_string();
    if !names.contains(&address) {
        names.push(address);
    }
    names
}

/// What was written; none if there is nothing. What is no authority is somebody's doing, and an error.
fn read(file: &Path) -> anyhow::Result<Option<Authority>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Authority::parse(NAME, &text)
            .with_context(|| {
                format!("{}: remove it, and another authority is made", file.display())
            })
            .map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Replaces a file by rename, readable by its owner only.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let written = || -> std::io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        // Made with mode 0600: at no moment could anybody else read a key.
        let mut draft = tempfile::NamedTempFile::new_in(folder)?;
        draft.write_all(text.as_bytes())?;
        draft.as_file().sync_all()?;
        draft.persist(file)?;
        Ok(())
    };
    written().with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn certificates_are_made_once_and_again_before_they_run_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = SystemTime::now();
        let at = |days: u32| ensure_at(folder.path(), LOOPBACK, now + DAY * days).expect("made");
        let first = at(0);
        let server = text(&first.files.certificate);
        assert_eq!(text(&first.authority_file), first.authority);
        assert!(!first.authority.contains("PRIVATE"));
        for file in [&first.files.key, &folder.path().join("tls/authority.pem")] {
            let mode = std::fs::metadata(file).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        let later = at(300);
        assert_eq!(
            (later.authority, text(&later.files.certificate)),
            (first.authority.clone(), server.clone())
        );
        let renewed = at(340);
        assert_eq!(renewed.authority, first.authority, "what was written down stays good");
        assert_ne!(text(&renewed.files.certificate), server);
        let anew = at(3650 - 399);
        assert_ne!(anew.authority, first.authority);
        assert_eq!(text(&anew.authority_file), anew.authority);
    }

    #[test]
    fn another_address_is_another_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = ensure(folder.path(), LOOPBACK).expect("made");
        let server = text(&first.files.certificate);
        let elsewhere = ensure(folder.path(), "192.0.2.7".parse().expect("an address"));
        let elsewhere = elsewhere.expect("made");
        assert_eq!(elsewhere.authority, first.authority);
        assert_ne!(text(&elsewhere.files.certificate), server);
    }

    #[test]
    fn what_is_broken_is_made_anew_or_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = ensure(folder.path(), LOOPBACK).expect("made");
        std::fs::write(&first.files.certificate, "half").expect("written");
        ensure(folder.path(), LOOPBACK).expect("made");
        assert!(text(&first.files.certificate).contains("PRIVATE KEY"));
        let authority = folder.path().join("tls/authority.pem");
        std::fs::write(&authority, "nothing").expect("written");
        let error = ensure(folder.path(), LOOPBACK).expect_err("broken");
        assert!(error.to_string().contains("remove it"), "{error:#}");
    }
}
