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

/// A page of at most `limit` things out of one more than that, which tells whether there is another page:
/// what is on it, and the cursor of the next.
pub fn page<T>(
    mut items: Vec<T>,
    limit: u32,
    last: impl FnOnce(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(last);
    (items, next)
}

/// How many things are on a page, when the client says so or does not.
pub fn limit(said: Option<u32>, usual: u32, most: u32) -> Result<u32, Problem> {
    match said.unwrap_or(usual) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Problem::invalid("limit", format!("must be 1 to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;

    #[test]
    fn a_page_is_as_long_as_it_may_be_and_the_last_has_no_next() {
        let last = |n: &u32| n.to_string();
        assert_eq!(page(vec![1, 2, 3], 2, last), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(page(vec![1, 2], 2, last), (vec![1, 2], None));
        assert_eq!(page(vec![], 2, last), (vec![], None));
        assert_eq!(limit(None, 20, 100).unwrap(), 20);
        assert_eq!(limit(Some(100), 20, 100).unwrap(), 100);
        assert!(limit(Some(0), 20, 100).is_err() && limit(Some(101), 20, 100).is_err());
    }

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
