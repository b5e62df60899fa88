//! Counts the words of a text, and finds the one that comes most often.

use std::collections::BTreeMap;

use eve_sdk::prelude::*;

/// What is wanted: the request's context.
#[derive(Deserialize)]
struct Context {
    text: String,
    /// Words shorter than this are left out.
    #[serde(default = "one")]
    least: usize,
}

fn one() -> usize {
    1
}

/// What comes out: the result's data.
#[derive(Serialize)]
struct Counted {
    words: usize,
    most_frequent: Option<String>,
}

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    // A context that does not fit fails the request for good, and says which field is wrong.
    let Context { text, least } = request.context()?;
    let counted = count(&text, least);
    log::info!("counted"; words = counted.words);
    let summary = match &counted.most_frequent {
        Some(word) => format!("{} words, most often \"{word}\"", counted.words),
        None => "no words".to_owned(),
    };
    Ok(Outcome::completed(summary).data(&counted))
}

fn count(text: &str, least: usize) -> Counted {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() && word.chars().count() >= least {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let words = counts.values().sum();
    // Of several that come as often, the first in the alphabet.
    let most_frequent = counts.into_iter().rev().max_by_key(|(_, count)| *count);
    Counted { words, most_frequent: most_frequent.map(|(word, _)| word) }
}

// `cargo test` runs these natively, against a fake of the platform.
#[cfg(test)]
mod tests {
    use super::*;
    use eve_sdk::testing::Host;

    #[test]
    fn counts_words() {
        let run = Host::new().context(json!({ "text": "One fish. Two fish! Red fish" })).run(run);
        assert_eq!(run.summary(), "6 words, most often \"fish\"");
        assert_eq!(run.output::<Value>(), json!({ "words": 6, "most_frequent": "fish" }));
    }

    #[test]
    fn leaves_short_words_out() {
        let run = Host::new().context(json!({ "text": "a bee or an ant", "least": 3 })).run(run);
        assert_eq!(run.output::<Value>()["words"], 2);
    }

    #[test]
    fn says_what_is_missing() {
        let run = Host::new().context(json!({})).run(run);
        assert!(run.failure().message().contains("missing field `text`"));
    }
}
