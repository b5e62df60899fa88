//! Secrets at rest: credentials of clusters, environment variables and secrets of apps.
//!
//! An envelope is authenticated encryption (XChaCha20-Poly1305) of a secret under a key from the
//! environment. It names its key, and is bound to its place: an envelope that is copied to another row
//! does not open there.
//!
//! Rotation: the new key seals, old ones open. What is written anew is sealed with the new key.

use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretBox, SecretSlice};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why an envelope was not opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// It was sealed with a key that is not here.
    #[error(
        "sealed with the key `{0}`, which is not here: add it to EVE_OLD_SEALING_KEYS, or set the secret again"
    )]
    UnknownKey(String),
    /// It is damaged, or of another place.
    #[error("what is sealed does not open: it is damaged, or was sealed for another place")]
    Broken,
}

/// A sealed secret, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Which key: the beginning of its hash.
    key: String,
    /// 24 random bytes, base64.
    nonce: String,
    /// The secret, encrypted and authenticated, base64.
    sealed: String,
}

/// A key to seal with: 32 bytes.
#[derive(Clone)]
pub struct SealingKey {
    id: String,
    bytes: Arc<SecretBox<[u8; 32]>>,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

impl FromStr for SealingKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| "must be base64".to_owned())?;
        let bytes: [u8; 32] =
            bytes.try_into().map_err(|_| "must be the base64 of 32 bytes".to_owned())?;
        let id =
            hex::encode(&Sha256::digest([b"eve sealing key ".as_slice(), &bytes].concat())[..6]);
        Ok(SealingKey { id, bytes: Arc::new(SecretBox::new(Box::new(bytes))) })
    }
}

/// Seals and opens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sealer {
    current: SealingKey,
    old: Arc<[SealingKey]>,
}

impl Sealer {
    /// Seals with `current`; opens what `old` have sealed as well.
    pub fn new(current: SealingKey, old: Vec<SealingKey>) -> Sealer {
        Sealer { current, old: old.into() }
    }

    /// Seals a secret for a place, such as `cluster/eks-prod`.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Envelope {
        let nonce: [u8; 24] = rand::random();
        let cipher = XChaCha20Poly1305::new(self.current.bytes.expose_secret().into());
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: place.as_bytes() })
            .expect("what we seal is far smaller than the cipher's limit");
        Envelope {
            key: self.current.id.clone(),
            nonce: BASE64.encode(nonce),
            sealed: BASE64.encode(sealed),
        }
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: &str, envelope: &Envelope) -> Result<SecretSlice<u8>, SealingError> {
        let key = self.key(envelope)?;
        let nonce = BASE64.decode(&envelope.nonce).ok().and_then(|nonce| nonce.try_into().ok());
        let nonce: [u8; 24] = nonce.ok_or(SealingError::Broken)?;
        let sealed = BASE64.decode(&envelope.sealed).map_err(|_| SealingError::Broken)?;
        XChaCha20Poly1305::new(key.bytes.expose_secret().into())
            .decrypt(&XNonce::from(nonce), Payload { msg: &sealed, aad: place.as_bytes() })
            .map(SecretSlice::from)
            .map_err(|_| SealingError::Broken)
    }

    /// A name for the content of an envelope that tells nobody what it is: a hash under the key that sealed
    /// it, 16 hexadecimal digits. So it stays the same when another key takes over.
    pub fn fingerprint(&self, envelope: &Envelope, content: &[u8]) -> Result<String, SealingError> {
        let key = self.key(envelope)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes.expose_secret())
            .expect("HMAC takes keys of any length");
        mac.update(b"eve fingerprint ");
        mac.update(content);
        Ok(hex::encode(&mac.finalize().into_bytes()[..8]))
    }

    /// The key of an envelope.
    fn key(&self, envelope: &Envelope) -> Result<&SealingKey, SealingError> {
        std::iter::once(&self.current)
            .chain(self.old.iter())
            .find(|key| key.id == envelope.key)
            .ok_or_else(|| SealingError::UnknownKey(envelope.key.chars().take(16).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealingKey {
        BASE64.encode([byte; 32]).parse().expect("a key")
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let sealer = Sealer::new(key(1), Vec::new());
        let envelope = sealer.seal("cluster/a", b"token");
        let opened = sealer.open("cluster/a", &envelope).expect("it opens");
        assert_eq!(opened.expose_secret(), b"token");
        assert!(matches!(sealer.open("cluster/b", &envelope), Err(SealingError::Broken)));
        let again = sealer.seal("cluster/a", b"token");
        assert_ne!(
            envelope.sealed, again.sealed,
            "the same secret twice shows that it is the same"
        );
        let mut flipped = BASE64.decode(&envelope.sealed).expect("base64");
        flipped[0] ^= 1;
        let flipped = Envelope { sealed: BASE64.encode(flipped), ..envelope };
        assert!(matches!(sealer.open("cluster/a", &flipped), Err(SealingError::Broken)));
    }

    #[test]
    fn keys_are_rotated() {
        let before = Sealer::new(key(1), Vec::new());
        let envelope = before.seal("x", b"secret");
        let between = Sealer::new(key(2), vec![key(1)]);
        assert_eq!(between.open("x", &envelope).expect("it opens").expose_secret(), b"secret");
        assert_eq!(between.seal("x", b"secret").key, key(2).id);
        let named = |sealer: &Sealer| sealer.fingerprint(&envelope, b"secret").expect("a name");
        assert_eq!(named(&before), named(&between), "a name outlives the key's turn");
        let after = Sealer::new(key(2), Vec::new());
        let refused = after.open("x", &envelope).expect_err("the key is gone");
        assert!(refused.to_string().contains(&key(1).id), "{refused}");
    }

    #[test]
    fn nothing_of_a_key_or_an_envelope_is_printed() {
        let sealer = Sealer::new(key(7), Vec::new());
        let shown = format!("{sealer:?}");
        assert!(!shown.contains("BwcH"), "{shown}");
        assert!("AAAA".parse::<SealingKey>().is_err_and(|why| why.contains("32 bytes")));
    }
}
