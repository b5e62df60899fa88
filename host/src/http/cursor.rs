//! Cursors of paged lists: opaque to clients, a version and the last id on the page inside.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::problem::Problem;
use crate::ids::RequestId;

/// Of the layout below.
const VERSION: u8 = 1;

/// The cursor that continues after this request.
pub fn encode(last: RequestId) -> String {
    let mut bytes = [VERSION; 17];
    bytes[1..].copy_from_slice(last.0.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The request after which to continue.
pub fn decode(text: &str) -> Result<RequestId, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    match bytes.as_deref() {
        Some([VERSION, id @ ..]) => Uuid::from_slice(id).ok().map(RequestId),
        _ => None,
    }
    .ok_or_else(|| Problem::invalid("cursor", "is not a `next_cursor` of this list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let id = RequestId::generate();
        assert_eq!(decode(&encode(id)).unwrap(), id);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let id = encode(RequestId::generate());
        let other_version = URL_SAFE_NO_PAD.encode([2; 17]);
        for text in ["", "x", "💥", "../../etc/passwd", &id[1..], &format!("{id}A"), &other_version]
        {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
