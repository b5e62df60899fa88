//! What a cluster's refusals mean.

use kube::core::Status;

/// Why something was not done in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be asked, or cannot do it now: trying again helps.
    #[error("{0}")]
    Away(String),
    /// It knows us, and does not let us: something is not set up.
    #[error("{0}")]
    Denied(String),
    /// Somebody else changed the same thing meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// A later revision is there: somebody else leads by now.
    #[error("{0}")]
    Behind(String),
    /// It does not exist.
    #[error("{0}")]
    Gone(String),
    /// It will not have it as it is.
    #[error("{message}")]
    Refused {
        /// `quota`, `admission` or `invalid`.
        reason: &'static str,
        /// What it said.
        message: String,
    },
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => of_status(status),
            // What the layers that only pass it on are called helps nobody.
            kube::Error::Service(error) => {
                let said = in_words(error.as_ref());
                Failure::Away(said.replace("client error (Connect)", "cannot connect"))
            }
            _ => Failure::Away(in_words(&error)),
        }
    }
}

fn of_status(status: &Status) -> Failure {
    let message = match status.message.is_empty() {
        true => format!("the API server answered {}", status.code),
        false => shown(&status.message, 1_000),
    };
    match status.code {
        401 => Failure::Denied(format!(
            "the API server does not accept the credential (expired, or of another cluster?): {message}"
        )),
        // A quota that was just made has not been counted yet.
        403 if message.contains("status unknown for quota") => Failure::Away(message),
        403 if message.contains("exceeded quota") || message.contains("maximum ") => {
            Failure::Refused { reason: "quota", message }
        }
        403 if is_admission(&message) => Failure::Refused { reason: "admission", message },
        // A namespace that is on its way out takes nothing any more.
        403 if message.contains("being terminated") => Failure::Away(message),
        403 => Failure::Denied(message),
        404 => Failure::Gone(message),
        409 => Failure::Conflict(message),
        // Policies choose their own code.
        400 | 422 if is_admission(&message) => Failure::Refused { reason: "admission", message },
        400 | 405 | 406 | 413 | 415 | 422 => Failure::Refused { reason: "invalid", message },
        _ => Failure::Away(message),
    }
}

/// Whether an admission policy or a webhook said it.
pub fn is_admission(message: &str) -> bool {
    message.contains("ValidatingAdmissionPolicy")
        || message.contains("violates PodSecurity")
        || message.contains("denied the request")
}

/// A text that others wrote, as it can be stored and shown: Postgres keeps no U+0000.
pub fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|c| *c != '\0').take(most).collect()
}

/// An error with all that is behind it, in one line.
pub fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = error.source();
    }
    shown(&text, 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, message: &str) -> Failure {
        of_status(&Status { code, message: message.into(), ..Status::default() })
    }

    #[test]
    fn refusals_are_told_apart() {
        let quota =
            "pods \"a\" is forbidden: exceeded quota: eve-quota, requested: pods=1, used: pods=5";
        assert!(matches!(of(403, quota), Failure::Refused { reason: "quota", .. }));
        let fresh =
            "pods \"a\" is forbidden: status unknown for quota: environment, resources: pods";
        assert!(matches!(of(403, fresh), Failure::Away(_)));
        let policy =
            "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'eve-tenant-pods' …";
        assert!(matches!(of(403, policy), Failure::Refused { reason: "admission", .. }));
        assert!(matches!(of(422, policy), Failure::Refused { reason: "admission", .. }));
        let security = "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": …";
        assert!(matches!(of(403, security), Failure::Refused { reason: "admission", .. }));
        let rbac = "deployments.apps is forbidden: User \"x\" cannot patch resource";
        assert!(matches!(of(403, rbac), Failure::Denied(_)));
        let ending = "… is forbidden: unable to create new content in namespace a because it is being terminated";
        assert!(matches!(of(403, ending), Failure::Away(_)));
        assert!(matches!(of(401, "Unauthorized"), Failure::Denied(_)));
        assert!(matches!(of(404, "x not found"), Failure::Gone(_)));
        assert!(matches!(of(409, "x"), Failure::Conflict(_)));
        assert!(matches!(of(422, "x is invalid"), Failure::Refused { reason: "invalid", .. }));
        for code in [429, 500, 502, 503, 504] {
            assert!(matches!(of(code, ""), Failure::Away(_)), "{code}");
        }
    }
}
