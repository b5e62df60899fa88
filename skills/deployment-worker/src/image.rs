//! References to images, taken apart: `[registry/]repository[:tag][@digest]`.
//!
//! Whether one can be pulled, and whether it is well formed to the last rule, the platform says.

/// A reference to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Registry and repository, in small letters: others are no names of images.
    pub name: String,
    /// The tag and the digest, with their marks: `:v1`, `@sha256:…`; empty if it has neither.
    pub rest: String,
}

impl Image {
    /// Reads a reference; none if it cannot be one.
    pub fn read(text: &str) -> Option<Image> {
        if text.len() > 512 || text.contains("://") {
            return None;
        }
        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match tagged.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (tagged, None),
        };
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
        let fits = name.bytes().all(letter)
            // `10:30` is a time.
            && name.bytes().any(|b| b.is_ascii_alphabetic())
            && name.split('/').all(|part| part.starts_with(|c: char| c.is_ascii_alphanumeric()))
            && tag.is_none_or(is_tag)
            && digest.is_none_or(|digest| digest.starts_with("sha256:") && digest.len() == 71);
        let rest = &text[name.len()..];
        fits.then(|| Image { name: name.to_ascii_lowercase(), rest: rest.to_owned() })
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        let tagged = self.rest.split('@').next()?;
        tagged.strip_prefix(':')
    }

    /// The last part of the name: what an app is called whose image it is.
    pub fn last_part(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The same name with another tag.
    pub fn tagged(&self, tag: &str) -> Image {
        Image { name: self.name.clone(), rest: format!(":{tag}") }
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.name, self.rest)
    }
}

/// Whether an image can have this tag.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Whether a word that stands alone can only be a version: `v1.2.3`, `2026.11`, `v7`, `latest`.
pub fn is_version(text: &str) -> bool {
    let bare = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let numbered = bare.starts_with(|c: char| c.is_ascii_digit());
    let marked = bare.len() < text.len() || bare.contains('.');
    text == "latest" || (numbered && marked && is_tag(text))
}

/// Whether an app can have this name.
pub fn is_app(text: &str) -> bool {
    (1..=50).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        let digest = format!("@sha256:{}", "0a".repeat(32));
        for (text, name, rest, last) in [
            ("api-service:v1.2.3", "api-service", ":v1.2.3", "api-service"),
            ("acme/api", "acme/api", "", "api"),
            ("r.example.com:5000/acme/Api:V1", "r.example.com:5000/acme/api", ":V1", "api"),
            (&format!("a/b:c{digest}"), "a/b", &format!(":c{digest}"), "b"),
        ] {
            let image = Image::read(text).expect(text);
            let found = (image.name.as_str(), image.rest.as_str(), image.last_part());
            assert_eq!(found, (name, rest, last));
        }
        for text in
            ["", ":", "10:30", "1.2.3.4:80", "https://a/b:c", "a:", "a:b c", "/a:b", "ä:b", "a@b"]
        {
            assert_eq!(Image::read(text), None, "{text}");
        }
    }

    #[test]
    fn versions_are_told_from_other_words() {
        for text in ["v1", "V2", "1.2", "v1.2.3-rc.1", "2026.11.30", "latest"] {
            assert!(is_version(text), "{text}");
        }
        for text in ["1", "v", "vault", "api", "", "1.2+x", "v1/2"] {
            assert!(!is_version(text), "{text}");
        }
    }
}
