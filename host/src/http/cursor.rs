//! Cursors of paged lists: opaque to clients, a version and the last id on the page inside.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::problem::Problem;

/// Of the layout below.
const VERSION: u8 = 1;

/// The cursor that continues after the thing with this id.
pub fn encode(last: impl Into<Uuid>) -> String {
    let mut bytes = [VERSION; 17];
    bytes[1..].copy_from_slice(last.into().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The id of the thing after which to continue.
pub fn decode<Id: From<Uuid>>(text: &str) -> Result<Id, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    match bytes.as_deref() {
        Some([VERSION, id @ ..]) => Uuid::from_slice(id).ok().map(Id::from),
        _ => None,
    }
    .ok_or_else(|| Problem::invalid("cursor", "is not a `next_cursor` of this list"))
}

/// The cursor that continues after the thing with these names.
pub fn encode_names(names: &[&str]) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend(names.join("/").into_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The names of the thing after which to continue: as many as the list is ordered by.
pub fn decode_names<const N: usize>(text: &str) -> Result<[String; N], Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let names = match bytes.as_deref() {
        Some([VERSION, names @ ..]) => std::str::from_utf8(names).ok(),
        _ => None,
    };
    names
        .filter(|names| !names.contains('\0'))
        .and_then(|names| names.split('/').map(str::to_owned).collect::<Vec<_>>().try_into().ok())
        .ok_or_else(|| Problem::invalid("cursor", "is not a `next_cursor` of this list"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let id = RequestId::generate();
        assert_eq!(decode::<RequestId>(&encode(id)).unwrap(), id);
        let names = decode_names::<2>(&encode_names(&["dev", "api"])).unwrap();
        assert_eq!(names, ["dev", "api"]);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let id = encode(RequestId::generate());
        let other_version = URL_SAFE_NO_PAD.encode([2; 17]);
        for text in ["", "x", "💥", "../../etc/passwd", &id[1..], &format!("{id}A"), &other_version]
        {
            assert!(decode::<RequestId>(text).is_err(), "{text}");
            assert!(decode_names::<2>(text).is_err(), "{text}");
        }
    }
}
