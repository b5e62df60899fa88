//! Names that become parts of Kubernetes names: DNS labels (RFC 1123).

use crate::requests::Invalid;
use crate::requests::validate::is_label;

/// Longest name of an environment.
pub const MAX_ENVIRONMENT: usize = 40;
/// Longest name of an app: `-` and a hash follow it in the names of what is made for it.
pub const MAX_APP: usize = 50;
/// Longest namespace: `-edit` and `-view` follow it in the names of its identities.
pub const MAX_NAMESPACE: usize = 58;

/// Namespaces that are somebody else's, whatever is in them: of Kubernetes, of distributions, ours; and
/// names of other scripts, which nobody can read.
const RESERVED_PREFIXES: [&str; 4] = ["kube-", "openshift-", "eve-", "xn-"];
/// Endings of the names of identities, with which the identity of one namespace could be another's; and of
/// the namespaces of controllers.
const RESERVED_SUFFIXES: [&str; 3] = ["-edit", "-view", "-system"];
/// Of well-known controllers.
const RESERVED: [&str; 5] =
    ["cert-manager", "cluster-api", "external-dns", "external-secrets", "ingress-nginx"];

/// A DNS label of at most `longest` characters.
pub fn label(field: &str, name: &str, longest: usize) -> Result<(), Invalid> {
    if is_label(name, longest) {
        return Ok(());
    }
    if name.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    let shown: String = name.chars().take(63).collect();
    Err(Invalid::new(
        field,
        format_args!(
            "`{}` is not a DNS label: lower-case letters, digits and `-`, at most {longest}, no `-` at \
             either end",
            shown.escape_default()
        ),
    ))
}

/// The name of an app: it names a Service, so it begins with a letter.
pub fn app(field: &str, name: &str) -> Result<(), Invalid> {
    label(field, name, MAX_APP)?;
    match name.as_bytes()[0] {
        b'0'..=b'9' => Err(Invalid::new(
            field,
            format_args!("`{name}` must begin with a letter: it names a service"),
        )),
        _ => Ok(()),
    }
}

/// A namespace that an environment may have.
pub fn namespace(field: &str, name: &str) -> Result<(), Invalid> {
    label(field, name, MAX_NAMESPACE)?;
    let reserved = RESERVED.contains(&name)
        || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || RESERVED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    if reserved {
        return Err(Invalid::new(
            field,
            format_args!("`{name}` is a reserved namespace: choose another"),
        ));
    }
    // Pods look up google.com as google.com.svc first: the service `google` in the namespace `com`.
    if !name.contains('-') {
        return Err(Invalid::new(
            field,
            format_args!(
                "`{name}` must have a hyphen in it, as acme-dev has: it could be taken for a domain"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_refused() {
        for good in [
            "acme-dev",
            "a-b",
            "0-0",
            &format!("x-{}", "x".repeat(56)),
            "default-acme",
            "evening-1",
        ] {
            assert_eq!(namespace("namespace", good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "ä",
            "a b",
            "a\0",
            "../x",
            &"x".repeat(59),
            "default",
            "kube-system",
            "kube-public",
            "kube-",
            "eve-deployers",
            "eve-horizon",
            "eve-x",
            "openshift-x",
            "acme-edit",
            "acme-view",
            "keda",
            "istio-system",
        ] {
            assert!(namespace("namespace", bad).is_err(), "{bad}");
        }
        assert!(app("app", "2048").is_err());
        assert_eq!(app("app", "api-service"), Ok(()));
    }
}
