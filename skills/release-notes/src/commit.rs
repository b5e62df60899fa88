//! A commit as it comes in: whatever `git log` gave, of any length, with any characters.

use eve_sdk::prelude::*;

/// Kept of a subject: longer ones are not subjects.
const SUBJECT_BYTES: usize = 500;
/// Kept of a body: its end, where the footers are.
const BODY_BYTES: usize = 2_000;
/// Kept of a hash and a date, and of a name.
const HASH_BYTES: usize = 64;
const NAME_BYTES: usize = 100;

/// Fields that are not known are ignored, and those that are missing are empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    pub hash: String,
    pub author: String,
    pub date: String,
    pub subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Commit {
    /// Without what is too long and what cannot be shown.
    pub fn trimmed(self) -> Self {
        Self {
            hash: head(&one_line(&self.hash), HASH_BYTES),
            author: head(&one_line(&self.author), NAME_BYTES),
            date: head(&one_line(&self.date), HASH_BYTES),
            subject: head(&one_line(&self.subject), SUBJECT_BYTES),
            body: self
                .body
                .map(|body| tail(&lines(&body), BODY_BYTES))
                .filter(|body| !body.is_empty()),
        }
    }

    /// About what it takes as JSON.
    pub fn bytes(&self) -> usize {
        // A character that has to be escaped takes up to six times its place.
        let text = |text: &str| {
            text.bytes()
                .map(|byte| match byte {
                    b'"' | b'\\' => 2,
                    0..0x20 => 6,
                    _ => 1,
                })
                .sum::<usize>()
        };
        let body = self.body.as_deref().map_or(0, text);
        text(&self.hash) + text(&self.author) + text(&self.date) + text(&self.subject) + body + 80
    }
}

/// Words with single spaces between them: no control characters, no line ends.
pub fn one_line(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text whose only control characters are line ends.
fn lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// The first bytes, at the border of a character, with a mark where something is missing.
pub fn head(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text[..end].trim_end())
}

fn tail(text: &str, bytes: usize) -> String {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}
