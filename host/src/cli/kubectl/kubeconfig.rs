//! Files that tell clients of Kubernetes where an environment is.
//!
//! They are written in YAML with every text in double quotes, as JSON has it: both read it the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// For the forwarder of one command: its address is all that is needed.
pub fn local(server: &str, env: &str, namespace: &str) -> String {
    whole(server, None, env, namespace, "{}")
}

/// For other tools: they ask this program for the caller's token whenever they need it. `authority` is what
/// the server's certificate is verified by, PEM, if not by what the machine trusts.
pub fn direct(url: &str, authority: Option<&str>, org: &str, env: &str, namespace: &str) -> String {
    let user = format!(
        "
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: eve
      args: [\"--url\", {url}, \"--org\", {org}, \"env\", \"credential\"]
      installHint: \"eve is the command line of Eve Horizon: install it, then `eve login --url URL`\"
      interactiveMode: Never
      provideClusterInfo: false",
        url = quoted(url),
        org = quoted(org),
    );
    let server = format!("{url}/v1/orgs/{org}/envs/{env}/kube");
    whole(&server, authority, &format!("{org}-{env}"), namespace, &user)
}

fn whole(server: &str, authority: Option<&str>, name: &str, namespace: &str, user: &str) -> String {
    let name = quoted(&format!("eve-{name}"));
    let authority = authority
        .map(|pem| format!("\n    certificate-authority-data: {}", quoted(&STANDARD.encode(pem))));
    format!(
        "\
apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster:
    server: {server}{authority}
contexts:
- name: {name}
  context:
    cluster: {name}
    namespace: {namespace}
    user: {name}
users:
- name: {name}
  user: {user}
",
        server = quoted(server),
        authority = authority.unwrap_or_default(),
        namespace = quoted(namespace),
        user = user.trim_end(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        serde_saphyr::from_str(text).expect("YAML")
    }

    #[test]
    fn other_tools_find_everything_but_a_token() {
        let url = "https://eve.example.com/x";
        let config = read(&direct(url, None, "acme", "prod", "acme-prod"));
        let cluster = &config["clusters"][0]["cluster"];
        assert_eq!(cluster.as_object().map(serde_json::Map::len), Some(1));
        let trusting = read(&direct(url, Some("PEM\n"), "acme", "prod", "acme-prod"));
        let authority = &trusting["clusters"][0]["cluster"]["certificate-authority-data"];
        assert_eq!(authority, "UEVNCg==");
        assert_eq!(cluster["server"], "https://eve.example.com/x/v1/orgs/acme/envs/prod/kube");
        assert_eq!(config["contexts"][0]["context"]["namespace"], "acme-prod");
        assert_eq!(config["current-context"], "eve-acme-prod");
        let user = &config["users"][0]["user"];
        assert_eq!(user["exec"]["args"][1], "https://eve.example.com/x");
        assert_eq!(user.as_object().map(serde_json::Map::len), Some(1));
    }

    #[test]
    fn kubectl_finds_the_forwarder() {
        let config = read(&local("http://127.0.0.1:1/s", "dev", "acme-dev"));
        assert_eq!(config["clusters"][0]["cluster"]["server"], "http://127.0.0.1:1/s");
        assert_eq!(config["users"][0]["user"], serde_json::json!({}));
    }

    #[test]
    fn nothing_breaks_out_of_its_quotes() {
        let config = read(&local("http://a\"\nusers: x", "d\"ev", "n: {}"));
        assert_eq!(config["clusters"][0]["cluster"]["server"], "http://a\"\nusers: x");
        assert_eq!(config["contexts"][0]["context"]["namespace"], "n: {}");
    }
}
