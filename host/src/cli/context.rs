//! Contexts: the servers that this user talks to, with a token and an organisation each.
//!
//! They live in one JSON file, readable by its owner only, replaced as a whole and never in place.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};

/// List, choose and remove the servers that eve talks to
///
/// A context is a server's address with a token and an organisation, and with the certificates that its
/// own is verified by, if those of this machine do not do. `eve login` makes one, and `eve dev` makes
/// one named `dev`. Flags and the variables EVE_URL, EVE_TOKEN, EVE_ORG and EVE_CA_FILE go before the
/// current context.
///
/// Contexts are kept in ~/.config/eve/context.json, or in the file that EVE_CONTEXT_FILE names.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the contexts
    #[command(after_help = "Example:\n  eve context list")]
    List,
    /// Make a context the current one
    #[command(after_help = "Example:\n  eve context use dev")]
    Use {
        /// The context's name
        name: String,
    },
    /// Show a context, its token masked
    #[command(after_help = "Examples:\n  eve context show\n  eve context show dev")]
    Show {
        /// The context's name [default: the current one]
        name: Option<String>,
    },
    /// Forget a context; its token stays valid until it is revoked
    #[command(after_help = "Example:\n  eve context delete dev")]
    Delete {
        /// The context's name
        name: String,
    },
}

/// A bearer token. It shows itself to nobody but the server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// The token itself, for a header or the context file.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Enough of it to tell it from another one.
    pub fn masked(&self) -> String {
        let shown = self.0.char_indices().nth(8).filter(|_| self.0.len() >= 24);
        match shown {
            Some((end, _)) => format!("{}…", &self.0[..end]),
            None => "…".to_owned(),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err("it holds characters that no token has".to_owned());
        }
        Ok(Token(text.to_owned()))
    }
}

/// A server, and as whom to talk to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its address.
    pub url: String,
    /// What its certificate is verified by, PEM; those that this machine trusts when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// The token to present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The organisation to act for, by slug or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
}

#[cfg(test)]
impl Server {
    /// One at an address, where nobody is known.
    pub fn at(url: &str) -> Server {
        Server { url: url.to_owned(), certificate_authority: None, token: None, org: None }
    }
}

/// The context file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contexts {
    /// The name of the context in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Every context by its name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Server>,
}

/// Where the context file is.
pub fn default_path() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("EVE_CONTEXT_FILE").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    match std::env::home_dir() {
        Some(home) => Ok(home.join(".config/eve/context.json")),
        None => Err(Error::usage_hint(
            "there is no home directory to keep contexts in",
            "set HOME or EVE_CONTEXT_FILE",
        )),
    }
}

impl Contexts {
    /// Reads the file; without one there are no contexts.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::File { doing: "read", path: path.into(), source }),
        };
        serde_json::from_str(&text).map_err(|error| {
            Error::usage_hint(
                format!("{}: {error}", path.display()),
                "correct the file, or remove it and log in again",
            )
        })
    }

    /// Replaces the file by rename, so that a reader sees the old one or the new one. Mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "write", path: path.into(), source };
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // Made with mode 0600 from the start: at no moment could anybody else read the tokens.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.write_all(b"\n").map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The context in use.
    pub fn current(&self) -> Option<&Server> {
        self.contexts.get(self.current.as_ref()?)
    }

    /// Any context of the same server, of this organisation first.
    pub fn of(&self, server: &Server, org: Option<&str>) -> Option<Server> {
        let same = |known: &&Server| address(&known.url).is_ok_and(|url| url == server.url);
        let mut all: Vec<_> = self.contexts.values().filter(same).collect();
        all.sort_by_key(|known| known.org.as_deref() != org);
        all.into_iter().find(|known| known.token.is_some()).cloned()
    }

    /// What the certificate of the server at an address is verified by, as far as any context knows.
    pub fn authority_of(&self, url: &str) -> Option<String> {
        let same = |known: &&Server| address(&known.url).is_ok_and(|known| known == url);
        self.contexts.values().filter(same).find_map(|known| known.certificate_authority.clone())
    }

    /// Adds or replaces a context and makes it the current one.
    pub fn choose(&mut self, name: &str, server: Server) {
        self.contexts.insert(name.to_owned(), server);
        self.current = Some(name.to_owned());
    }

    fn find(&self, name: &str) -> Result<&Server, Error> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there are none".into() } else { known.join(", ") };
            Error::usage_hint(
                format!("there is no context `{name}`"),
                format!("the contexts: {known}"),
            )
        })
    }
}

/// The server to talk to: flags and environment first, then the current context. A context's token
/// is only used with the context's own address, and its organisation only with its own token.
pub fn resolve(globals: &Globals, contexts: &Contexts) -> Result<Server, Error> {
    let current = contexts.current();
    let url = match (&globals.url, current) {
        (Some(url), _) => address(url)?,
        (None, Some(current)) => address(&current.url)?,
        (None, None) => {
            return Err(Error::usage_hint(
                "no server is known",
                "start one with `eve dev`, or log in to one with `eve login --url URL`",
            ));
        }
    };
    let same = current.filter(|current| address(&current.url).is_ok_and(|own| own == url));
    Ok(Server {
        certificate_authority: match authority_file() {
            Some(file) => Some(read_authority(&file)?),
            None => contexts.authority_of(&url),
        },
        token: globals.token.clone().or_else(|| same.and_then(|context| context.token.clone())),
        // Another token may well belong to another organisation, and says itself to which.
        org: globals.org.clone().or_else(|| match globals.token {
            Some(_) => None,
            None => same.and_then(|context| context.org.clone()),
        }),
        url,
    })
}

/// The file that EVE_CA_FILE names.
pub fn authority_file() -> Option<PathBuf> {
    std::env::var_os("EVE_CA_FILE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The certificates in a file, PEM; nothing else of it, should there be a key beside them.
pub fn read_authority(file: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::File {
        doing: "read",
        path: file.into(),
        source,
    })?;
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let mut found = String::new();
    for part in text.split_inclusive(end) {
        if let Some((_, certificate)) = part.split_once(begin)
            && certificate.ends_with(end)
        {
            found += &format!("{begin}{certificate}\n");
        }
    }
    match certificates(&found) {
        Ok(certificates) if !certificates.is_empty() => Ok(found),
        _ => Err(Error::usage_hint(
            format!("{} holds no certificate", file.display()),
            format!("it should be PEM: {begin}"),
        )),
    }
}

/// The certificates of a PEM text.
pub fn certificates(pem: &str) -> Result<Vec<reqwest::Certificate>, reqwest::Error> {
    reqwest::Certificate::from_pem_bundle(pem.as_bytes())
}

/// A server's address in the one way of writing it: http or https, no trailing slash.
pub fn address(text: &str) -> Result<String, Error> {
    let advice = "write it like https://eve.example.com or http://127.0.0.1:8080";
    let refuse = |why: String| Error::usage_hint(format!("`{text}` is no address: {why}"), advice);
    let url = Url::parse(text.trim()).map_err(|error| refuse(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(format!("`{}` is neither http nor https", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("it holds a user name; use --token".to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it has a query or a fragment".to_owned()));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Runs `eve context …`.
pub fn run(command: Command, out: &Output) -> Result<Exit, Error> {
    let path = default_path()?;
    let mut contexts = Contexts::load(&path)?;
    match command {
        Command::List => {
            let items = contexts.contexts.iter().map(|(name, server)| {
                Shown::new(name, server, contexts.current.as_ref() == Some(name))
            });
            out.show(&List { items: items.collect() })?;
        }
        Command::Use { name } => {
            contexts.find(&name)?;
            contexts.current = Some(name.clone());
            contexts.save(&path)?;
            out.show(&Shown::new(&name, contexts.find(&name)?, true))?;
        }
        Command::Show { name } => {
            let name = name.or_else(|| contexts.current.clone()).ok_or_else(|| {
                Error::usage_hint(
                    "there is no current context",
                    "start a server with `eve dev`, or log in to one with `eve login --url URL`",
                )
            })?;
            let current = contexts.current.as_ref() == Some(&name);
            out.show(&Shown::new(&name, contexts.find(&name)?, current))?;
        }
        Command::Delete { name } => {
            contexts.find(&name)?;
            contexts.contexts.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
            contexts.save(&path)?;
            out.note(&format!("forgot context `{name}`"));
        }
    }
    Ok(Exit::Ok)
}

/// A context without its secret.
#[derive(Serialize)]
struct Shown {
    name: String,
    url: String,
    /// PEM.
    certificate_authority: Option<String>,
    org: Option<String>,
    token: Option<String>,
    current: bool,
}

#[derive(Serialize)]
struct List {
    items: Vec<Shown>,
}

impl Shown {
    fn new(name: &str, server: &Server, current: bool) -> Self {
        Shown {
            name: name.to_owned(),
            url: server.url.clone(),
            certificate_authority: server.certificate_authority.clone(),
            org: server.org.clone(),
            token: server.token.as_ref().map(Token::masked),
            current,
        }
    }
}

impl Render for Shown {
    fn render(&self, view: &View) -> String {
        view.details([
            ("name", cell(&self.name)),
            ("url", cell(&self.url)),
            ("verified by", cell(verified_by(self.certificate_authority.as_ref(), &self.url))),
            ("org", optional(self.org.as_ref())),
            ("token", optional(self.token.as_ref())),
            ("current", cell(if self.current { "yes" } else { "no" })),
        ])
    }
}

fn verified_by(authority: Option<&String>, url: &str) -> &'static str {
    match authority {
        _ if url.starts_with("http://") => "nothing",
        Some(_) => "an authority of its own",
        None => "the authorities that this machine trusts",
    }
}

impl Render for List {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No contexts. `eve login --url URL` makes one.".to_owned();
        }
        let rows = self.items.iter().map(|item| {
            let mark = if item.current { "*" } else { "" };
            [cell(mark), cell(&item.name), cell(&item.url), optional(item.org.as_ref())]
        });
        view.table(["", "NAME", "URL", "ORG"], 2, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globals(url: Option<&str>, token: Option<&str>) -> Globals {
        Globals {
            url: url.map(str::to_owned),
            token: token.map(|token| token.parse().expect("a token")),
            org: None,
            output: None,
            quiet: false,
        }
    }

    fn contexts() -> Contexts {
        let mut contexts = Contexts::default();
        let server = Server {
            url: "http://127.0.0.1:8080/".into(),
            certificate_authority: None,
            token: Some("eve_abcdefghijklmnopqrstuvwxyz".parse().expect("a token")),
            org: Some("acme".into()),
        };
        contexts.choose("dev", server);
        contexts
    }

    #[test]
    fn flags_go_before_the_context() {
        let server = resolve(&globals(None, None), &contexts()).expect("resolved");
        assert_eq!(server.url, "http://127.0.0.1:8080");
        assert_eq!(server.org.as_deref(), Some("acme"));
        let server = resolve(&globals(None, Some("eve_other")), &contexts()).expect("resolved");
        assert_eq!(server.token.as_ref().map(Token::expose), Some("eve_other"));
        assert_eq!(server.org, None, "the context's organisation is not the other token's");
    }

    #[test]
    fn a_token_is_never_sent_to_another_server() {
        let other = globals(Some("https://evil.example"), None);
        let server = resolve(&other, &contexts()).expect("resolved");
        assert_eq!((server.token, server.org), (None, None));
        let same = globals(Some("http://127.0.0.1:8080"), None);
        assert!(resolve(&same, &contexts()).is_ok_and(|server| server.token.is_some()));
    }

    #[test]
    fn an_authority_is_its_servers_alone() {
        let mut contexts = contexts();
        let mut server = contexts.current().expect("a context").clone();
        server.url = "https://127.0.0.1:8080/".into();
        server.certificate_authority = Some("PEM".into());
        contexts.choose("tls", server);
        let of = |url| resolve(&globals(Some(url), None), &contexts).expect("resolved");
        let authority = |url| of(url).certificate_authority;
        assert_eq!(authority("https://127.0.0.1:8080").as_deref(), Some("PEM"));
        assert_eq!(authority("https://127.0.0.1:8081"), None);
        assert_eq!(authority("http://127.0.0.1:8080"), None);
    }

    #[test]
    fn of_a_file_only_certificates_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = crate::dev::certificate::ensure(folder.path(), [127, 0, 0, 1].into());
        let made = made.expect("certificates");
        let whole = std::fs::read_to_string(&made.files.key).expect("a file");
        assert!(whole.contains("PRIVATE KEY"));
        let kept = read_authority(&made.files.key).expect("a certificate");
        assert!(!kept.contains("PRIVATE KEY"));
        assert_eq!(read_authority(&made.authority_file).ok(), Some(made.authority));
        for text in ["", "-----BEGIN CERTIFICATE-----\nMA==", "-----END CERTIFICATE-----"] {
            std::fs::write(&made.authority_file, text).expect("written");
            assert_eq!(read_authority(&made.authority_file).expect_err(text).exit(), Exit::Usage);
        }
    }

    #[test]
    fn without_any_server_it_says_what_to_do() {
        let error = resolve(&globals(None, None), &Contexts::default()).expect_err("no server");
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.next().is_some_and(|next| next.contains("eve dev")));
    }

    #[test]
    fn addresses() {
        assert_eq!(
            address("https://x.example/eve/").ok().as_deref(),
            Some("https://x.example/eve")
        );
        for bad in ["", "x", "localhost:8080", "ftp://x", "http://u:p@x", "http://x/?a=b"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_is_private_and_comes_back_as_it_was() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deeper/context.json");
        assert_eq!(Contexts::load(&path).ok(), Some(Contexts::default()));
        contexts().save(&path).expect("saved");
        contexts().save(&path).expect("saved over itself");
        assert_eq!(Contexts::load(&path).ok(), Some(contexts()));
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "{").expect("written");
        assert_eq!(Contexts::load(&path).expect_err("broken").exit(), Exit::Usage);
    }

    #[test]
    fn tokens_stay_hidden() {
        let contexts = contexts();
        assert!(!format!("{contexts:?}").contains("ijklmnop"));
        let shown = Shown::new("dev", &contexts.contexts["dev"], true);
        insta::assert_snapshot!(shown.render(&super::super::output::tests::view()), @r"
        name:         dev
        url:          http://127.0.0.1:8080/
        verified by:  nothing
        org:          acme
        token:        eve_abcd…
        current:      yes
        ");
        assert!("eve with spaces".parse::<Token>().is_err());
        assert!("".parse::<Token>().is_err());
    }
}
