//! Headers, copied by name: what is not in these lists is not passed on in either direction.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};

use super::ProxyError;

/// Longest value that is passed on. kubectl's longest is an `Accept` of 200 bytes.
const LONGEST_VALUE: usize = 4 << 10;
/// Values of one name.
const MOST_VALUES: usize = 16;

/// From clients to API servers.
const TO_CLUSTER: [HeaderName; 8] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    // `managedFields` names who changed something by its first word.
    header::USER_AGENT,
    HeaderName::from_static("kubectl-command"),
];

/// From API servers to clients. Lengths are made by whoever sends.
const FROM_CLUSTER: [HeaderName; 9] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CACHE_CONTROL,
    header::ETAG,
    header::LAST_MODIFIED,
    header::VARY,
    header::RETRY_AFTER,
    header::WARNING,
    HeaderName::from_static("audit-id"),
];

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What may be spoken inside an upgraded connection. Not `base64url.bearer.authorization.k8s.io.…`, which
/// is a credential.
const PROTOCOLS: [&str; 10] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
    "portforward.k8s.io",
    "SPDY/3.1+portforward.k8s.io",
    "v4.portforward.k8s.io",
];

/// What of a client's headers an API server sees. Whoever wants to be somebody else hears that it is not
/// passed on: to go on as oneself would be to do something else than was asked for.
pub fn to_cluster(from: &HeaderMap) -> Result<HeaderMap, ProxyError> {
    let impersonates = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    if from.keys().any(impersonates) {
        return Err(ProxyError::Forbidden("nobody can act as somebody else here".to_owned()));
    }
    let mut copied = HeaderMap::new();
    for name in TO_CLUSTER {
        copy(from, &name, &mut copied)?;
    }
    Ok(copied)
}

/// What of an API server's headers a client sees.
pub fn from_cluster(from: &HeaderMap) -> HeaderMap {
    let mut copied = HeaderMap::new();
    for name in FROM_CLUSTER {
        for value in from.get_all(&name) {
            copied.append(name.clone(), value.clone());
        }
    }
    copied
}

fn copy(from: &HeaderMap, name: &HeaderName, to: &mut HeaderMap) -> Result<(), ProxyError> {
    for (index, value) in from.get_all(name).iter().enumerate() {
        if value.len() > LONGEST_VALUE || index >= MOST_VALUES {
            return Err(ProxyError::Malformed(format!("there is too much in the header `{name}`")));
        }
        to.append(name.clone(), value.clone());
    }
    Ok(())
}

/// Another protocol that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    WebSocket,
    Spdy,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Protocol::WebSocket => "websocket",
            Protocol::Spdy => "SPDY/3.1",
        }
    }
}

/// A wish to speak another protocol on the same connection.
#[derive(Debug)]
pub struct Upgrade {
    protocol: Protocol,
    headers: HeaderMap,
}

impl Upgrade {
    /// What a client wishes for, if it is one of the two that kubectl knows.
    pub fn parse(
        method: &Method,
        headers: &HeaderMap,
        has_no_body: bool,
    ) -> Result<Option<Upgrade>, ProxyError> {
        let refuse = |why: &str| ProxyError::Malformed(why.to_owned());
        let wishes = tokens(headers, &header::CONNECTION)
            .is_some_and(|words| words.iter().any(|word| word.eq_ignore_ascii_case("upgrade")));
        let mut named = headers.get_all(header::UPGRADE).iter();
        let protocol = match (wishes, named.next(), named.next()) {
            (false, None, _) => return Ok(None),
            (true, Some(one), None) => one,
            _ => return Err(refuse("`Connection` and `Upgrade` do not agree")),
        };
        let protocol = [Protocol::WebSocket, Protocol::Spdy]
            .into_iter()
            .find(|known| protocol.as_bytes().eq_ignore_ascii_case(known.as_str().as_bytes()))
            .ok_or_else(|| refuse("connections are upgraded to websocket or SPDY/3.1 only"))?;
        let empty = headers.get_all(header::CONTENT_LENGTH).iter().all(|it| it.as_bytes() == b"0");
        if !empty || headers.contains_key(header::TRANSFER_ENCODING) || !has_no_body {
            return Err(refuse("a request that upgrades the connection has no body"));
        }
        let mut copied = HeaderMap::new();
        copied.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        copied.insert(header::UPGRADE, HeaderValue::from_static(protocol.as_str()));
        let inner = match protocol {
            Protocol::WebSocket if *method != Method::GET => {
                return Err(refuse("a WebSocket begins with GET"));
            }
            Protocol::WebSocket => {
                copy(headers, &header::SEC_WEBSOCKET_KEY, &mut copied)?;
                copy(headers, &header::SEC_WEBSOCKET_VERSION, &mut copied)?;
                header::SEC_WEBSOCKET_PROTOCOL
            }
            Protocol::Spdy => STREAM_PROTOCOL,
        };
        let spoken = tokens(headers, &inner).ok_or_else(|| refuse("a protocol is not in ASCII"))?;
        if let Some(other) = spoken.iter().find(|word| !PROTOCOLS.contains(&word.as_str())) {
            // It may be a credential: no word of it comes back.
            let length = other.len();
            return Err(refuse(&format!("a protocol of {length} bytes is not passed on")));
        }
        copy(headers, &inner, &mut copied)?;
        Ok(Some(Upgrade { protocol, headers: copied }))
    }

    /// How an API server is asked for it.
    pub fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// What the client hears if an API server has agreed to the same.
    pub fn agreed(&self, answer: &HeaderMap) -> Option<HeaderMap> {
        let said = answer.get(header::UPGRADE)?.as_bytes();
        if !said.eq_ignore_ascii_case(self.protocol.as_str().as_bytes()) {
            return None;
        }
        let mut passed = HeaderMap::new();
        passed.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        passed.insert(header::UPGRADE, HeaderValue::from_static(self.protocol.as_str()));
        for name in [header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL, STREAM_PROTOCOL]
        {
            if let Some(value) = answer.get(&name) {
                passed.insert(name, value.clone());
            }
        }
        Some(passed)
    }
}

/// The words of a header that is a list; none if it is not in ASCII.
fn tokens(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for value in headers.get_all(name) {
        let value = value.to_str().ok()?;
        words.extend(value.split(',').map(|word| word.trim().to_owned()));
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(all: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            let name: HeaderName = name.parse().expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn only_what_is_listed_is_copied() {
        let sent = map(&[
            ("Accept", "application/json"),
            ("Content-Type", "application/apply-patch+yaml"),
            ("User-Agent", "kubectl/v1.36"),
            ("Authorization", "Bearer eve_x"),
            ("Cookie", "a=b"),
            ("Host", "kubernetes"),
            ("Content-Length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close, X-Remote-User"),
            ("Upgrade", "h2c"),
            ("Forwarded", "for=10.0.0.1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-Uri", "/api"),
            ("X-Original-Url", "/api"),
            ("X-Http-Method-Override", "DELETE"),
            ("X-Remote-User", "system:admin"),
            ("X-Remote-Group", "system:masters"),
            ("X-Remote-Extra-Scopes", "all"),
            ("Proxy-Authorization", "Basic eDp5"),
            ("Eve-Org", "acme"),
            ("Te", "trailers"),
        ]);
        let copied = to_cluster(&sent).expect("nothing is refused");
        let mut names: Vec<_> = copied.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "content-type", "user-agent"]);

        let answered = map(&[
            ("Content-Type", "application/json"),
            ("Warning", "299 - \"old\""),
            ("Warning", "299 - \"older\""),
            ("Set-Cookie", "a=b"),
            ("Connection", "close"),
            ("Upgrade", "h2c"),
            ("Location", "https://elsewhere"),
            ("Content-Length", "3"),
            ("X-Kubernetes-Pf-Flowschema-Uid", "x"),
            ("Www-Authenticate", "Basic"),
            ("Access-Control-Allow-Origin", "*"),
        ]);
        let passed = from_cluster(&answered);
        assert_eq!(passed.len(), 3);
        assert_eq!(passed.get_all(header::WARNING).iter().count(), 2);
    }

    #[test]
    fn nobody_is_somebody_else() {
        for name in
            ["Impersonate-User", "impersonate-group", "Impersonate-Uid", "Impersonate-Extra-A"]
        {
            let refused = to_cluster(&map(&[(name, "system:masters")]));
            assert!(matches!(refused, Err(ProxyError::Forbidden(_))), "{name}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let long = "a".repeat(LONGEST_VALUE + 1);
        assert!(to_cluster(&map(&[("Accept", &long)])).is_err());
        assert!(to_cluster(&map(&[("Accept", "a"); MOST_VALUES + 1])).is_err());
        assert!(to_cluster(&map(&[("X-Whatever", &long)])).is_ok(), "it is not copied");
    }

    const SOCKET: [(&str, &str); 4] = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with(more: &[(&str, &str)]) -> HeaderMap {
        map(&[&SOCKET[..], more].concat())
    }

    fn upgrade(method: Method, headers: &HeaderMap) -> Result<Option<Upgrade>, ProxyError> {
        Upgrade::parse(&method, headers, true)
    }

    #[test]
    fn kubectl_s_protocols_are_passed_on() {
        for protocol in ["v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"] {
            let headers = with(&[("Sec-WebSocket-Protocol", protocol), ("Cookie", "a=b")]);
            let upgrade = upgrade(Method::GET, &headers).expect("fine").expect("an upgrade");
            let sent = upgrade.headers();
            assert_eq!(
                (sent.len(), &sent["sec-websocket-protocol"]),
                (5, &headers["sec-websocket-protocol"])
            );
        }
        let spdy = map(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v5.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
            ("Content-Length", "0"),
        ]);
        let upgrade = upgrade(Method::POST, &spdy).expect("fine").expect("an upgrade");
        assert_eq!(upgrade.headers().get_all(STREAM_PROTOCOL).iter().count(), 2);
    }

    #[test]
    fn other_protocols_are_not() {
        let bearer = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
        let both = format!("v5.channel.k8s.io, {bearer}");
        for headers in [
            with(&[("Sec-WebSocket-Protocol", bearer)]),
            with(&[("Sec-WebSocket-Protocol", &both)]),
            with(&[
                ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
                ("Sec-WebSocket-Protocol", bearer),
            ]),
            with(&[("Sec-WebSocket-Protocol", "chat")]),
            with(&[("Upgrade", "h2c")]),
            with(&[("Content-Length", "5")]),
            with(&[("Transfer-Encoding", "chunked")]),
            map(&[("Connection", "Upgrade"), ("Upgrade", "h2c")]),
            map(&[("Connection", "Upgrade"), ("Upgrade", "TLS/1.0")]),
            map(&[("Connection", "Upgrade")]),
            map(&[("Upgrade", "websocket")]),
        ] {
            let refused = upgrade(Method::GET, &headers).expect_err("refused").to_string();
            assert!(!refused.contains("c2VjcmV0"), "{refused}");
        }
        assert!(upgrade(Method::POST, &with(&[])).is_err());
        assert!(Upgrade::parse(&Method::GET, &with(&[]), false).is_err());
        assert!(
            upgrade(Method::GET, &map(&[("Connection", "keep-alive")])).expect("fine").is_none()
        );
    }

    #[test]
    fn another_answer_than_was_asked_for_is_no_agreement() {
        let upgrade = upgrade(Method::GET, &with(&[])).expect("fine").expect("an upgrade");
        assert!(upgrade.agreed(&map(&[("Upgrade", "h2c")])).is_none());
        assert!(upgrade.agreed(&map(&[])).is_none());
        let passed = upgrade.agreed(&map(&[("Upgrade", "WebSocket"), ("Set-Cookie", "a=b")]));
        assert_eq!(passed.expect("agreed").len(), 2);
    }
}
