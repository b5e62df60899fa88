//! The keys of a data directory: what the passwords of skills' roles are derived from, and what secrets are
//! sealed with.

use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;

/// A key of this data directory, made when there is none.
pub fn key<K: FromStr<Err = String>>(file: &Path) -> anyhow::Result<K> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if !file.exists() {
        let key: [u8; 32] = rand::random();
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
        // Under another name first: half a key would lock everybody out for ever.
        let draft = file.with_extension("key.new");
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut draft| draft.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&draft, file))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    text.parse().map_err(|why: String| anyhow::anyhow!("{}: {why}", file.display()))
}
