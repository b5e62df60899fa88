//! What a cluster needs before environments can be made in it, to be applied by an administrator of it.

/// All of it, as documents of YAML; with a token of the account, if the control plane is elsewhere.
pub fn all(token: bool) -> String {
    let _ = token;
    String::new()
}
