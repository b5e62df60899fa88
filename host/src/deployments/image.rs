//! References to images: `[registry/]repository[:tag][@digest]`, as the distribution specification has
//! them, but checked before a cluster is asked.

use std::fmt;
use std::str::FromStr;

/// Longest reference.
const MAX_REFERENCE: usize = 512;
const MAX_TAG: usize = 128;

/// A reference to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Image {
    /// What it is a version of: registry and repository.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that it names: its tag, else its digest, else `latest`.
    pub fn version(&self) -> &str {
        self.tag.as_deref().or(self.digest.as_deref()).unwrap_or("latest")
    }

    /// Whether it names one image for ever.
    pub fn is_pinned(&self) -> bool {
        self.digest.is_some()
    }

    /// The same, pinned to what its tag meant once.
    pub fn pinned(&self, digest: &str) -> Image {
        Image { digest: Some(digest.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err("must not be empty".into());
        }
        if text.len() > MAX_REFERENCE {
            return Err(format!("is longer than {MAX_REFERENCE} characters"));
        }
        let wrong = |what: &str| {
            let shown: String = text.chars().take(80).collect();
            format!("`{}` is not an image: {what}, as in acme/api:v1.2.3", shown.escape_default())
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(wrong("its digest must be sha256: and 64 hexadecimal digits")),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let fits = (1..=MAX_TAG).contains(&tag.len())
                && word(tag.as_bytes()[0])
                && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
            if !fits {
                return Err(wrong(
                    "its tag may have letters, digits, `_`, `.` and `-`, at most 128",
                ));
            }
        }
        let mut parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 1 && is_registry(parts[0]) {
            parts.remove(0);
        }
        if !parts.iter().all(|part| is_component(part)) {
            return Err(wrong(
                "its name is parts of lower-case letters and digits, with `.`, `_` or `-` between",
            ));
        }
        Ok(Image { name: name.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

/// Whether it is the digest of a manifest.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A host, as opposed to the first part of a repository: it has a dot or a port, or is `localhost`.
fn is_registry(part: &str) -> bool {
    let (host, port) = part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)));
    let host_fits = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    host_fits && port_fits && (host.contains('.') || port.is_some() || host == "localhost")
}

fn is_component(part: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = part.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart_and_put_together() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, name, version) in [
            ("api", "api", "latest"),
            ("api-service:v1.2.3", "api-service", "v1.2.3"),
            ("acme/api:v1.2.3", "acme/api", "v1.2.3"),
            ("registry.example.com:5000/acme/api", "registry.example.com:5000/acme/api", "latest"),
            ("localhost/x:1", "localhost/x", "1"),
            ("ghcr.io/a/b/c_d.e:_x", "ghcr.io/a/b/c_d.e", "_x"),
            (&format!("api@{digest}"), "api", &digest),
            (&format!("acme/api:v1@{digest}"), "acme/api", "v1"),
        ] {
            let image: Image = text.parse().expect(text);
            assert_eq!((image.name(), image.version()), (name, version), "{text}");
            assert_eq!(image.to_string(), text);
        }
        let image: Image = "acme/api:v1".parse().expect("an image");
        assert!(!image.is_pinned());
        assert_eq!(image.pinned(&digest).to_string(), format!("acme/api:v1@{digest}"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            " ",
            "A/b",
            "a:",
            "a:-x",
            "a b",
            "a@sha256:0",
            "a@md5:00",
            "/a",
            "a/",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "http://a/b",
            "a\n",
            "a:v1:v2",
            "ä",
            "host:0/a",
            "host:99999/a",
            "a:$(x)",
            &format!("a:{}", "x".repeat(129)),
            &"x".repeat(513),
        ] {
            assert!(bad.parse::<Image>().is_err(), "{bad:?}");
        }
    }
}
