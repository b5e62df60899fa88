//! What a call is about, by its method, its path and its query.
//!
//! One way of writing a path is understood: segments of letters, digits and `-._:`, with single slashes
//! between them, none of which is `.` or `..`. Names in Kubernetes need nothing else, so nothing is ever
//! decoded, and there are no two readings of a path, ours and the API server's.

use http::uri::InvalidUri;
use http::{Method, Uri};

use super::ProxyError;

/// Longest path: a group, a version, a namespace, a resource, a name of 253 bytes and a part are shorter.
const LONGEST_PATH: usize = 1_024;
/// Longest query: selectors, and the words of a command.
const LONGEST_QUERY: usize = 16 << 10;
/// Parts of a pod that are entered: the connection is upgraded.
const SESSIONS: [&str; 3] = ["exec", "attach", "portforward"];

/// A call that may be passed on.
#[derive(Debug)]
pub struct Target {
    method: Method,
    path: String,
    query: Option<String>,
    /// What it names in the namespace, if it names anything there.
    pub resource: Option<Resource>,
}

/// Something in the environment's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The group; empty for the core.
    pub group: String,
    /// The kind, in the plural.
    pub resource: String,
    /// Its name; none for all of them.
    pub name: Option<String>,
    /// A part of it: `log`, `exec`, `status`.
    pub part: Option<String>,
}

impl Target {
    /// Reads a call. Whatever is not known to be harmless is refused.
    pub fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
        namespace: &str,
    ) -> Result<Target, ProxyError> {
        let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        if !known.contains(method) {
            return Err(ProxyError::Method(method.clone()));
        }
        let segments = segments(path)?;
        if query.is_some_and(|query| query.len() > LONGEST_QUERY) {
            return Err(malformed("the query is too long"));
        }
        let (group, rest) = match segments.as_slice() {
            ["version" | "api" | "apis"] | ["openapi", "v2" | "v3", ..] | ["api", "v1"] => {
                ("", &[][..])
            }
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", _group] | ["apis", _group, _] => ("", &[][..]),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => return Err(not_passed(path)),
        };
        let resource = match rest {
            [] => None,
            // Older ways of asking for what there are parameters for now, with another order of segments.
            ["watch" | "proxy", ..] => return Err(not_passed(path)),
            ["namespaces", other, ..] if *other != namespace => {
                return Err(ProxyError::Forbidden(format!(
                    "`{other}` is not this environment's namespace, which is `{namespace}`"
                )));
            }
            ["namespaces", _] => None,
            ["namespaces", _, resource, rest @ ..] if rest.len() <= 2 => {
                let [name, part] = [0, 1].map(|at| rest.get(at).map(|it| (*it).to_owned()));
                Some(Resource { group: group.into(), resource: (*resource).into(), name, part })
            }
            [_] | [_, _] | [_, _, _] if !rest.contains(&"namespaces") || rest.len() == 1 => None,
            _ => return Err(not_passed(path)),
        };
        if rest.iter().skip(1).any(|segment| *segment == "proxy") && is_proxied(rest) {
            return Err(ProxyError::Forbidden(
                "`proxy` would have the API server make the call: use `port-forward`".to_owned(),
            ));
        }
        let target = Target {
            method: method.clone(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            resource,
        };
        // Outside the namespace there is nothing to change, only questions that are asked with POST.
        if target.resource.is_none()
            && *method != Method::GET
            && !(*method == Method::POST && is_question(group, rest))
        {
            return Err(ProxyError::Forbidden(
                "nothing outside this environment's namespace can be changed".to_owned(),
            ));
        }
        Ok(target)
    }

    /// Where it goes.
    pub fn uri(&self) -> Result<Uri, InvalidUri> {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path).parse(),
            None => self.path.parse(),
        }
    }

    /// Whether it enters a pod: exec, attach, port-forward.
    pub fn is_session(&self) -> bool {
        self.part().is_some_and(|part| SESSIONS.contains(&part))
    }

    /// Whether it goes on until somebody ends it.
    pub fn is_long(&self) -> bool {
        let follows = self.part() == Some("log") && self.asks_for("follow");
        self.is_session() || self.is_watch() || follows
    }

    /// Whether it is a watch, which a client begins again when it ends.
    pub fn is_watch(&self) -> bool {
        self.method == Method::GET && self.asks_for("watch")
    }

    /// Whether it only asks what would be.
    pub fn is_dry_run(&self) -> bool {
        self.parameter("dryRun").is_some_and(|value| !value.is_empty())
    }

    /// What is done, in the word for it in the audit log; none if nothing is changed or entered.
    pub fn action(&self) -> Option<&'static str> {
        let resource = self.resource.as_ref()?;
        match self.part() {
            Some("exec") => return Some("kube.exec"),
            Some("attach") => return Some("kube.attach"),
            Some("portforward") => return Some("kube.port_forward"),
            _ => {}
        }
        match (&self.method, &resource.name) {
            (&Method::POST, _) => Some("kube.create"),
            (&Method::PUT, _) => Some("kube.update"),
            (&Method::PATCH, _) => Some("kube.patch"),
            (&Method::DELETE, Some(_)) => Some("kube.delete"),
            (&Method::DELETE, None) => Some("kube.delete_collection"),
            _ => None,
        }
    }

    fn part(&self) -> Option<&str> {
        self.resource.as_ref()?.part.as_deref()
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let query = self.query.as_deref().unwrap_or_default();
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// Whether a parameter is true, as Kubernetes reads it: whatever is there and does not say no.
    fn asks_for(&self, name: &str) -> bool {
        let said = self.parameter(name).map(|value| value.to_ascii_lowercase());
        said.is_some_and(|value| !["false", "0"].contains(&value.as_str()))
    }
}

fn malformed(message: &str) -> ProxyError {
    ProxyError::Malformed(message.to_owned())
}

fn not_passed(path: &str) -> ProxyError {
    let path: String = path.chars().take(200).collect();
    ProxyError::Forbidden(format!("{path} is not passed on to the cluster"))
}

fn segments(path: &str) -> Result<Vec<&str>, ProxyError> {
    if path.len() > LONGEST_PATH {
        return Err(malformed("the path is too long"));
    }
    let below = path.strip_prefix('/').ok_or_else(|| malformed("this is no path"))?;
    let segments: Vec<_> = below.split('/').collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    for segment in &segments {
        if segment.is_empty() || segment.bytes().all(|byte| byte == b'.') {
            return Err(malformed("the path has an empty segment, or one of dots only"));
        }
        if !segment.bytes().all(plain) {
            return Err(malformed(
                "the path has other characters than letters, digits and `-._:`, which no name needs",
            ));
        }
    }
    Ok(segments)
}

/// Whether the part of something is `proxy`, and not its name.
fn is_proxied(rest: &[&str]) -> bool {
    let below = match rest {
        ["namespaces", _, below @ ..] => below,
        below => below,
    };
    below.iter().skip(2).any(|segment| *segment == "proxy")
}

/// What anybody may ask about themselves.
fn is_question(group: &str, rest: &[&str]) -> bool {
    match rest {
        [what] if group == "authorization.k8s.io" => {
            ["selfsubjectaccessreviews", "selfsubjectrulesreviews"].contains(what)
        }
        [what] => group == "authentication.k8s.io" && *what == "selfsubjectreviews",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: &str = "acme-dev";

    fn parse(method: Method, path: &str) -> Result<Target, ProxyError> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, q)| (path, Some(q)));
        Target::parse(&method, path, query, NAMESPACE)
    }

    #[test]
    fn tricks_with_paths_are_malformed() {
        let long = format!("/api/v1/{}", "a".repeat(LONGEST_PATH));
        for path in [
            "",
            "api/v1",
            "/",
            "//api/v1",
            "/api//v1",
            "/api/v1/",
            "/api/v1/namespaces/acme-dev/pods/",
            "/api/v1/namespaces/acme-dev/../kube-system/secrets",
            "/api/v1/namespaces/acme-dev/./pods",
            "/api/v1/namespaces/acme-dev/.../pods",
            "/api/v1/namespaces/..",
            "/api/v1/namespaces/acme-dev/pods/..",
            "/api/v1/namespaces/acme-dev%2f..%2fkube-system/secrets",
            "/api/v1/namespaces/acme-dev/%2e%2e/kube-system/secrets",
            "/api/v1/namespaces/acme-dev/%2E%2E/kube-system/secrets",
            "/api/v1/namespaces/acme-dev/pods%00",
            "/api/v1/namespaces/acme-dev/pods%2fx",
            "/api/v1/namespaces/acme-dev/pods%252fx",
            "/api/v1/namespaces/%61cme-dev/pods",
            "/api/v1/namespaces/acme-dev/pods;x=1",
            "/api/v1/namespaces/acme-dev/pods\\x",
            "/api/v1/namespaces/acme-dev\\..\\kube-system/pods",
            "/api/v1/namespaces/acme-dev/pods\t",
            "/api/v1/namespaces/acme-dev/pods\r\nX: y",
            "/api/v1/namespaces/acme-dev/pods\0",
            "/api/v1/namespaces/acme-dev/pods#x",
            "/api/v1/namespaces/acme-dev/p\u{f6}ds",
            "/api/v1/namespaces/acme-dev/pods\u{ff0f}x",
            "/api/v1/namespaces/acme-dev/po ds",
            "/api/v1/namespaces/acme-dev/pods@evil",
            &long,
        ] {
            let refused = parse(Method::GET, path);
            assert!(matches!(refused, Err(ProxyError::Malformed(_))), "{path:?}: {refused:?}");
        }
        let query = format!("/api?{}", "a".repeat(LONGEST_QUERY + 1));
        assert!(matches!(parse(Method::GET, &query), Err(ProxyError::Malformed(_))));
    }

    #[test]
    fn what_is_elsewhere_is_forbidden() {
        for path in [
            "/metrics",
            "/healthz",
            "/livez/etcd",
            "/logs/kubelet.log",
            "/debug/pprof/profile",
            "/configz",
            "/.well-known/openid-configuration",
            "/openid/v1/jwks",
            "/ui",
            "/API/v1/pods",
            "/api/v2/pods",
            "/api/v1/namespaces/kube-system",
            "/api/v1/namespaces/kube-system/secrets",
            "/api/v1/namespaces/ACME-DEV/pods",
            "/api/v1/namespaces/acme-dev2/pods",
            "/api/v1/namespaces/acme/pods",
            "/apis/apps/v1/namespaces/default/deployments",
            "/api/v1/watch/namespaces/acme-dev/pods",
            "/api/v1/watch/namespaces/kube-system/secrets",
            "/api/v1/watch/secrets",
            "/api/v1/proxy/namespaces/acme-dev/pods/x",
            "/api/v1/proxy/nodes/node-1",
            "/api/v1/nodes/node-1/proxy",
            "/api/v1/nodes/node-1/proxy/logs/kubelet.log",
            "/api/v1/namespaces/acme-dev/pods/x/proxy",
            "/api/v1/namespaces/acme-dev/pods/x/proxy/admin",
            "/api/v1/namespaces/acme-dev/services/x:80/proxy",
            "/api/v1/namespaces/acme-dev/services/https:x:443/proxy/a/b/c",
            "/api/v1/namespaces/acme-dev/pods/x/exec/more",
            "/api/v1/pods/namespaces/kube-system",
            "/api/v1/a/b/c/d",
        ] {
            let refused = parse(Method::GET, path);
            assert!(matches!(refused, Err(ProxyError::Forbidden(_))), "{path:?}: {refused:?}");
        }
    }

    #[test]
    fn nothing_outside_the_namespace_is_changed() {
        for (method, path) in [
            (Method::POST, "/api/v1/namespaces"),
            (Method::DELETE, "/api/v1/namespaces/acme-dev"),
            (Method::PATCH, "/api/v1/namespaces/acme-dev"),
            (Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
            (Method::DELETE, "/api/v1/nodes/node-1"),
            (Method::DELETE, "/api/v1/pods"),
            (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews"),
            (Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
            (Method::POST, "/apis/evil.example/v1/selfsubjectreviews"),
            (Method::POST, "/openapi/v3"),
            (Method::POST, "/api"),
        ] {
            let refused = parse(method.clone(), path);
            assert!(
                matches!(refused, Err(ProxyError::Forbidden(_))),
                "{method} {path}: {refused:?}"
            );
        }
        for method in ["HEAD", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"] {
            let method: Method = method.parse().expect("a method");
            assert!(matches!(parse(method, "/api"), Err(ProxyError::Method(_))));
        }
    }

    #[test]
    fn what_kubectl_asks_is_passed_on_as_it_was_written() {
        for path in [
            "/version?timeout=32s",
            "/api",
            "/apis",
            "/api/v1",
            "/apis/apps/v1",
            "/apis/gateway.networking.k8s.io",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/apis/apps/v1?hash=ABC",
            "/api/v1/namespaces",
            "/api/v1/namespaces/acme-dev",
            "/api/v1/pods?limit=500",
            "/api/v1/nodes",
            "/api/v1/namespaces/acme-dev/pods?labelSelector=app%3Dx%2Cb%21%3Dc",
            "/api/v1/namespaces/acme-dev/configmaps/proxy",
            "/api/v1/namespaces/acme-dev/configmaps/kube-root-ca.crt",
            "/apis/apps/v1/namespaces/acme-dev/deployments/api/status",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        ] {
            let target = parse(Method::GET, path).unwrap_or_else(|why| panic!("{path}: {why}"));
            assert_eq!(target.uri().expect("a URI").to_string(), path);
            assert_eq!((target.action(), target.is_long()), (None, false), "{path}");
        }
        let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(parse(Method::POST, review).expect("a question").action(), None);
    }

    #[test]
    fn what_it_does_is_known() {
        let pods = "/api/v1/namespaces/acme-dev/pods";
        let of = |method: Method, rest: &str| {
            let target = parse(method, &format!("{pods}{rest}")).expect("passed on");
            (target.action(), target.is_session(), target.is_long())
        };
        assert_eq!(of(Method::GET, ""), (None, false, false));
        assert_eq!(of(Method::GET, "?watch=true"), (None, false, true));
        assert_eq!(of(Method::GET, "?watch"), (None, false, true));
        assert_eq!(of(Method::GET, "?%77atch=1"), (None, false, true));
        assert_eq!(of(Method::GET, "?watch=FALSE"), (None, false, false));
        assert_eq!(of(Method::GET, "/x/log?follow=true"), (None, false, true));
        assert_eq!(of(Method::GET, "/x/log?tailLines=1"), (None, false, false));
        assert_eq!(of(Method::GET, "/x/exec?command=sh"), (Some("kube.exec"), true, true));
        assert_eq!(of(Method::POST, "/x/attach"), (Some("kube.attach"), true, true));
        assert_eq!(of(Method::POST, "/x/portforward"), (Some("kube.port_forward"), true, true));
        assert_eq!(of(Method::POST, ""), (Some("kube.create"), false, false));
        assert_eq!(of(Method::POST, "/x/eviction"), (Some("kube.create"), false, false));
        assert_eq!(of(Method::PUT, "/x"), (Some("kube.update"), false, false));
        assert_eq!(of(Method::PATCH, "/x?fieldManager=a"), (Some("kube.patch"), false, false));
        assert_eq!(of(Method::DELETE, "/x"), (Some("kube.delete"), false, false));
        assert_eq!(of(Method::DELETE, ""), (Some("kube.delete_collection"), false, false));
        let target = parse(
            Method::PATCH,
            "/apis/apps/v1/namespaces/acme-dev/deployments/api/scale?dryRun=All",
        );
        let target = target.expect("passed on");
        assert!(target.is_dry_run());
        let resource = Resource {
            group: "apps".into(),
            resource: "deployments".into(),
            name: Some("api".into()),
            part: Some("scale".into()),
        };
        assert_eq!(target.resource, Some(resource));
    }
}
