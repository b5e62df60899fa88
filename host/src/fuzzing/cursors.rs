//! Cursors of paged lists: `http/cursor.rs`.

use uuid::Uuid;

use super::Seen;
use super::cursor_source::{decode, encode};
use crate::ids::RequestId;

/// A cursor; or sixteen bytes of an id, which become one.
pub fn cursor(data: &[u8]) -> Seen {
    if let Ok(id) = Uuid::from_slice(data) {
        let id = RequestId(id);
        assert_eq!(decode::<RequestId>(&encode(id)).ok(), Some(id));
        return Seen::Accepted;
    }
    let Ok(text) = std::str::from_utf8(data) else { return Seen::Refused };
    match decode::<RequestId>(text) {
        Ok(id) => {
            assert_eq!(encode(id), text, "a place in a list has one cursor");
            Seen::Accepted
        }
        Err(_) => Seen::Refused,
    }
}
